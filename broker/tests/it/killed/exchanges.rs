//! Messages on their way: QoS 1 comes at least once, QoS 2 exactly once and in order.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;

use nsd_wire::{Ack, Connect, Packet, PacketId, Publish, Qos, Version};

use super::{Role, enter, keeping, number, resume};
use crate::support::{Client, Gone, SOON};

const AT_ONCE: usize = 10;
const SUBSCRIBER: &str = "subscriber";
const RECEIVER: &str = "receiver";
const SENDER: &str = "sender";

/// Sends numbers at QoS 1, and forgets what was not acknowledged when the broker died.
#[derive(Default)]
pub(super) struct Publisher {
    next: u32,
    acknowledged: BTreeSet<u32>,
}

impl Publisher {
    pub(super) fn acknowledged(&self) -> &BTreeSet<u32> {
        &self.acknowledged
    }
}

impl Role for Publisher {
    fn act(&mut self, address: SocketAddr) {
        let Some((mut client, _)) = enter(address, &Connect::new(Version::V5, "publisher")) else { return };
        let mut open = HashMap::new();
        loop {
            while open.len() < AT_ONCE {
                let id = client.id();
                open.insert(id, self.next);
                let payload = self.next.to_be_bytes();
                let publish = Publish::new("at-least-once", &payload);
                self.next += 1;
                client.try_send(&Packet::Publish(Publish {
                    qos: Qos::AtLeastOnce,
                    packet_id: Some(id),
                    ..publish
                }));
            }
            let acknowledged = client.next(SOON * 2, |packet| match packet {
                Packet::PubAck(ack) if !ack.reason.is_failure() => ack.packet_id,
                other => panic!("no PUBACK: {other:?}"),
            });
            match acknowledged {
                Ok(id) => {
                    self.acknowledged.insert(open.remove(&id).unwrap());
                }
                Err(Gone::Closed) => return,
                Err(Gone::Silent) => panic!("nothing is acknowledged"),
            }
        }
    }
}

/// Gets what the publisher sends.
pub(super) struct Subscriber {
    got: Vec<u32>,
}

impl Subscriber {
    pub(super) fn begin(address: SocketAddr) -> Self {
        let mut client = Client::connect(address, &keeping(SUBSCRIBER));
        client.subscribe("at-least-once", Qos::AtLeastOnce);
        client.disconnect();
        Self { got: Vec::new() }
    }

    /// Reads until all of these are there; returns how many came more than once.
    pub(super) fn finish(&mut self, address: SocketAddr, acknowledged: &BTreeSet<u32>) -> usize {
        let got: BTreeSet<u32> = self.got.iter().copied().collect();
        let mut missing = acknowledged - &got;
        let mut client = resume(address, SUBSCRIBER).unwrap();
        while !missing.is_empty() {
            let Some(got) = client.message_within(SOON) else { panic!("acknowledged and lost: {missing:?}") };
            self.got.push(number(&got.payload));
            missing.remove(&number(&got.payload));
        }
        self.got.len() - self.got.iter().collect::<HashSet<_>>().len()
    }
}

impl Role for Subscriber {
    fn act(&mut self, address: SocketAddr) {
        let Some(mut client) = resume(address, SUBSCRIBER) else { return };
        loop {
            let came = client.next(SOON, |packet| match packet {
                Packet::Publish(publish) => (publish.packet_id.unwrap(), number(publish.payload)),
                other => panic!("not a message: {other:?}"),
            });
            match came {
                Ok((id, number)) => {
                    self.got.push(number);
                    client.try_send(&Packet::PubAck(Ack::new(id)));
                }
                Err(Gone::Silent) => {}
                Err(Gone::Closed) => return,
            }
        }
    }
}

/// Sends numbers at QoS 2, and goes on after each kill with every exchange that is not over.
#[derive(Default)]
pub(super) struct Sender {
    next: u32,
    last_id: u16,
    /// In the order of their beginning.
    open: VecDeque<Exchange>,
    has_session: bool,
}

struct Exchange {
    id: PacketId,
    number: u32,
    /// PUBREC came.
    is_received: bool,
}

impl Exchange {
    /// What is sent for it, now and again.
    fn send(&self, client: &mut Client, dup: bool) -> bool {
        let payload = self.number.to_be_bytes();
        let publish = Publish::new("exactly-once", &payload);
        let publish = Publish { qos: Qos::ExactlyOnce, packet_id: Some(self.id), dup, ..publish };
        let release = Packet::PubRel(Ack::new(self.id));
        client.try_send(&if self.is_received { release } else { Packet::Publish(publish) })
    }
}

impl Sender {
    pub(super) fn sent(&self) -> u32 {
        self.next
    }

    /// Brings all exchanges to their end.
    pub(super) fn finish(&mut self, address: SocketAddr) {
        self.go_on(address, 0);
        assert!(self.open.is_empty());
    }

    /// With at most so many exchanges; with none, until all are over.
    fn go_on(&mut self, address: SocketAddr, at_once: usize) {
        let Some((mut client, present)) = enter(address, &keeping(SENDER)) else { return };
        assert!(present || !self.has_session, "the session of {SENDER} is lost");
        self.has_session = true;
        for exchange in &self.open {
            exchange.send(&mut client, true);
        }
        loop {
            while self.open.len() < at_once {
                self.last_id = self.last_id % u16::MAX + 1;
                let id = PacketId::new(self.last_id).unwrap();
                let exchange = Exchange { id, number: self.next, is_received: false };
                exchange.send(&mut client, false);
                self.open.push_back(exchange);
                self.next += 1;
            }
            if self.open.is_empty() {
                return;
            }
            let answer = client.next(SOON * 2, |packet| match packet {
                Packet::PubRec(ack) if !ack.reason.is_failure() => (ack.packet_id, true),
                Packet::PubComp(ack) => (ack.packet_id, false),
                other => panic!("not an answer: {other:?}"),
            });
            match answer {
                Ok((id, true)) => {
                    let exchange = self.open.iter_mut().find(|exchange| exchange.id == id).unwrap();
                    exchange.is_received = true;
                    exchange.send(&mut client, false);
                }
                Ok((id, false)) => self.open.retain(|exchange| exchange.id != id),
                Err(Gone::Closed) => return,
                Err(Gone::Silent) => panic!("nothing is acknowledged"),
            }
        }
    }
}

impl Role for Sender {
    fn act(&mut self, address: SocketAddr) {
        self.go_on(address, AT_ONCE);
    }
}

/// Gets what the sender sends: the same identifier before its PUBREL is the same message.
pub(super) struct Receiver {
    got: Vec<u32>,
    held: HashSet<PacketId>,
}

impl Receiver {
    pub(super) fn begin(address: SocketAddr) -> Self {
        let mut client = Client::connect(address, &keeping(RECEIVER));
        client.subscribe("exactly-once", Qos::ExactlyOnce);
        client.disconnect();
        Self { got: Vec::new(), held: HashSet::new() }
    }

    /// Reads the rest: all that was sent, each once, in order.
    pub(super) fn finish(&mut self, address: SocketAddr, sent: u32) {
        let mut client = resume(address, RECEIVER).unwrap();
        let is_complete = |receiver: &Self| receiver.got.len() >= sent as usize && receiver.held.is_empty();
        while !is_complete(self) {
            let got = self.got.len();
            assert_eq!(self.take(&mut client), Ok(()), "{got} of {sent} came");
        }
        let wrong = self.got.iter().zip(0..).find(|(got, expected)| **got != *expected);
        assert_eq!((wrong, self.got.len()), (None, sent as usize), "lost, doubled or out of order");
    }

    fn take(&mut self, client: &mut Client) -> Result<(), Gone> {
        let (id, message) = client.next(SOON, |packet| match packet {
            Packet::Publish(publish) => (publish.packet_id.unwrap(), Some(number(publish.payload))),
            Packet::PubRel(release) => (release.packet_id, None),
            other => panic!("not of an exchange: {other:?}"),
        })?;
        if let Some(number) = message {
            if self.held.insert(id) {
                self.got.push(number);
            }
            client.try_send(&Packet::PubRec(Ack::new(id)));
        } else {
            self.held.remove(&id);
            client.try_send(&Packet::PubComp(Ack::new(id)));
        }
        Ok(())
    }
}

impl Role for Receiver {
    fn act(&mut self, address: SocketAddr) {
        let Some(mut client) = resume(address, RECEIVER) else { return };
        while self.take(&mut client) != Err(Gone::Closed) {}
    }
}
