//! What is so until it is changed: retained messages, subscriptions, sessions.

use std::fmt::Debug;
use std::net::SocketAddr;

use nsd_wire::{Connect, Packet, Publish, Qos, Subscribe, SubscribeFilter, Unsubscribe, Version};

use super::{Role, ask, enter, keeping, number, publish, resume};
use crate::support::Client;

const THINGS: usize = 8;

/// How one thing is as its client was told, and how it may be, too, because the broker died before it answered.
#[derive(Default, Clone)]
struct Told<T> {
    is: T,
    may_be: Option<T>,
}

impl<T: PartialEq + Debug> Told<T> {
    fn ask(&mut self, for_this: T) {
        self.may_be = Some(for_this);
    }

    fn acknowledged(&mut self) {
        self.is = self.may_be.take().unwrap();
    }

    fn check(&mut self, what: &str, found: T) {
        let is_right = found == self.is || Some(&found) == self.may_be.as_ref();
        assert!(
            is_right,
            "{what} is {found:?}, but was told {:?}, then asked for {:?}",
            self.is, self.may_be
        );
        *self = Self { is: found, may_be: None };
    }
}

/// Sets and removes retained messages.
#[derive(Default)]
pub(super) struct Retainer {
    next: u32,
    topics: [Told<Option<u32>>; THINGS],
    pub(super) acknowledged: usize,
}

/// Behind all others: who has got it has got what was before it.
const LAST: &str = "state/last";

impl Retainer {
    pub(super) fn begin(address: SocketAddr) -> Self {
        let (mut client, _) = enter(address, &Connect::new(Version::V5, "retainer")).unwrap();
        assert!(publish(&mut client, Publish { retain: true, ..Publish::new(LAST, b"last") }));
        Self::default()
    }
}

impl Role for Retainer {
    fn act(&mut self, address: SocketAddr) {
        let Some((mut client, _)) = enter(address, &Connect::new(Version::V5, "retainer")) else { return };
        loop {
            let which = fastrand::usize(..THINGS);
            self.next += 1;
            let value = (fastrand::u8(..3) > 0).then_some(self.next);
            self.topics[which].ask(value);
            let payload = value.map_or(Vec::new(), |value| value.to_be_bytes().into());
            let topic = format!("state/{which}");
            if !publish(&mut client, Publish { retain: true, ..Publish::new(&topic, &payload) }) {
                return;
            }
            self.topics[which].acknowledged();
            self.acknowledged += 1;
        }
    }

    fn check(&mut self, address: SocketAddr) {
        let mut client = Client::connect(address, &Connect::new(Version::V5, "retained"));
        client.subscribe("state/#", Qos::AtMostOnce);
        let mut found = [None; THINGS];
        loop {
            let message = client.message();
            if message.topic == LAST {
                break;
            }
            let which: usize = message.topic.strip_prefix("state/").unwrap().parse().unwrap();
            found[which] = Some(number(&message.payload));
        }
        for ((which, told), found) in self.topics.iter_mut().enumerate().zip(found) {
            told.check(&format!("the message retained under state/{which}"), found);
        }
    }
}

/// Subscribes and unsubscribes.
#[derive(Default)]
pub(super) struct Filters {
    filters: [Told<bool>; THINGS],
    checks: u32,
    pub(super) acknowledged: usize,
}

const FILTERS: &str = "filters";
/// Always subscribed to.
const END: &str = "filter/end";

impl Filters {
    pub(super) fn begin(address: SocketAddr) -> Self {
        let mut client = Client::connect(address, &keeping(FILTERS));
        client.subscribe(END, Qos::AtLeastOnce);
        client.disconnect();
        Self::default()
    }
}

fn filter(which: usize) -> String {
    format!("filter/{which}")
}

impl Role for Filters {
    fn act(&mut self, address: SocketAddr) {
        let Some(mut client) = resume(address, FILTERS) else { return };
        loop {
            let (which, wants) = (fastrand::usize(..THINGS), fastrand::bool());
            self.filters[which].ask(wants);
            let (filter, id) = (filter(which), client.id());
            let answer = |packet: Packet<'_>| match packet {
                Packet::SubAck(ack) if ack.packet_id == id => ack.codes.iter().next(),
                Packet::UnsubAck(ack) if ack.packet_id == id => ack.codes.iter().next(),
                _ => None,
            };
            let (filters, names) =
                ([SubscribeFilter { filter: &filter, options: Qos::AtLeastOnce.into() }], [&*filter]);
            let packet = if wants {
                Packet::Subscribe(Subscribe::new(id, &filters))
            } else {
                Packet::Unsubscribe(Unsubscribe::new(id, &names))
            };
            let Some(reason) = ask(&mut client, &packet, answer) else { return };
            assert!(!reason.is_failure(), "{reason:?}");
            self.filters[which].acknowledged();
            self.acknowledged += 1;
        }
    }

    /// One message under each, then one that comes for certain.
    fn check(&mut self, address: SocketAddr) {
        self.checks += 1;
        let check = self.checks.to_be_bytes();
        let (mut publisher, _) = enter(address, &Connect::new(Version::V5, "checks filters")).unwrap();
        let topics = (0..THINGS).map(filter).chain([END.to_owned()]);
        for topic in topics {
            assert!(publish(&mut publisher, Publish::new(&topic, &check)));
        }
        let mut client = resume(address, FILTERS).unwrap();
        let mut found = [false; THINGS];
        loop {
            let message = client.message();
            if message.payload != check {
                continue;
            }
            if message.topic == END {
                break;
            }
            let which: usize = message.topic.strip_prefix("filter/").unwrap().parse().unwrap();
            found[which] = true;
        }
        for ((which, told), found) in self.filters.iter_mut().enumerate().zip(found) {
            told.check(&format!("the subscription to {}", filter(which)), found);
        }
        // The broker has all acknowledgements, too.
        client.disconnect();
    }
}

/// Begins sessions that are kept or end with their connections, goes on with them, and ends them.
#[derive(Default)]
pub(super) struct Sessions {
    is_kept: [Told<bool>; THINGS],
    pub(super) acknowledged: usize,
}

fn client_id(which: usize) -> String {
    format!("session {which}")
}

impl Role for Sessions {
    fn act(&mut self, address: SocketAddr) {
        loop {
            let (which, keeps) = (fastrand::usize(..THINGS), fastrand::bool());
            self.is_kept[which].ask(keeps);
            let id = client_id(which);
            let mut connect = Connect { clean_start: fastrand::bool(), ..keeping(&id) };
            connect.properties.session_expiry = keeps.then_some(600);
            let Some((client, _)) = enter(address, &connect) else { return };
            self.is_kept[which].acknowledged();
            self.acknowledged += 1;
            client.vanish();
        }
    }

    fn check(&mut self, address: SocketAddr) {
        for (which, told) in self.is_kept.iter_mut().enumerate() {
            let id = client_id(which);
            let (client, present) = enter(address, &keeping(&id)).unwrap();
            told.check(&format!("whether {id} is there"), present);
            told.is = true;
            client.disconnect();
        }
    }
}
