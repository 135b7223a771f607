//! Shared subscriptions: of all members, one gets each message.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use foldhash::{HashMap, HashMapExt};
use std::time::SystemTime;

use nsd_wire::{Qos, topic};
use parking_lot::Mutex;

use super::persistent::Persistent;
use super::route::{Lasting, Placed, Receiver};
use super::{Hub, Keepsake, Outbox};
use crate::journal::ToStore;
use crate::message::Message;
use crate::telemetry::{Cause, Count, count};
use crate::topic::Tree;

/// One shared subscription: a group's name and a filter.
#[derive(Debug, Default)]
pub(crate) struct Share {
    turn: AtomicUsize,
}

/// The shared subscriptions that somebody is a member of, by their whole text.
#[derive(Debug)]
pub(super) struct Shares {
    known: Mutex<HashMap<Box<str>, Weak<Share>>>,
}

/// A message of a group that one member has to itself: should its session end first, it is another member's
/// [MQTT5-4.8.2].
#[derive(Debug, Clone)]
pub(super) struct Dealt {
    pub(super) share: Arc<Share>,
    pub(super) message: Arc<Message>,
    pub(super) since: SystemTime,
}

impl Dealt {
    /// Bytes that it holds.
    pub(super) fn weight(&self) -> usize {
        size_of::<Self>() + self.message.bytes().len()
    }
}

/// At so many names, those that nobody uses any more are looked for.
const MANY: usize = 64;

impl Default for Shares {
    fn default() -> Self {
        Self { known: Mutex::new(HashMap::new()) }
    }
}

impl Shares {
    pub(super) fn get(&self, text: &str) -> Arc<Share> {
        let mut known = self.known.lock();
        if let Some(share) = known.get(text).and_then(Weak::upgrade) {
            return share;
        }
        if known.len() >= MANY && known.len().is_power_of_two() {
            known.retain(|_, share| share.strong_count() > 0);
        }
        let share = Arc::new(Share::default());
        known.insert(text.into(), Arc::downgrade(&share));
        share
    }

    /// As its members have subscribed.
    pub(super) fn text_of(&self, share: &Arc<Share>) -> Option<String> {
        let known = self.known.lock();
        let found = known.iter().find(|(_, known)| std::ptr::eq(known.as_ptr(), Arc::as_ptr(share)));
        found.map(|(text, _)| text.to_string())
    }
}

impl Share {
    /// In turn: a member that takes a message now, else the one of those that keep up which fewest wait for, else one that
    /// is there, else one whose session keeps the message until it is back.
    pub(super) fn choose<'m>(&self, members: &'m [Receiver], qos: Qos) -> Option<&'m Receiver> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % members.len().max(1);
        let in_turn = || members[first..].iter().chain(&members[..first]);
        // Each is asked once: what it says may change at any time.
        let mut least = None;
        for member in in_turn() {
            match member.burden(qos) {
                Some(0) => return Some(member),
                Some(burden) if least.is_none_or(|(least, _)| burden < least) => {
                    least = Some((burden, member));
                }
                _ => {}
            }
        }
        least
            .map(|(_, member)| member)
            .or_else(|| in_turn().find(|member| member.outbox.is_attached()))
            .or_else(|| in_turn().find(|member| member.is_lasting(qos)))
    }
}

impl Hub {
    /// What a session that is over had of groups, and nothing else could be why it had it.
    pub(super) fn dealt(&self, persistent: &Persistent) -> Vec<Dealt> {
        let (mut filters, mut any_shared) = (Tree::default(), false);
        for text in persistent.filters.keys() {
            let shared = topic::Shared::parse(text);
            any_shared |= shared.is_some();
            filters.insert(shared.as_ref().map_or(text, |shared| shared.filter), text, shared.is_some());
        }
        if !any_shared {
            return Vec::new();
        }
        let unfinished = persistent.queue.unfinished();
        let dealt = unfinished.filter_map(|entry| {
            let mut matching = Vec::new();
            filters.visit(entry.message.publish().topic, &mut |text, shared| matching.push((text, *shared)));
            let [(text, true)] = matching[..] else { return None };
            let (share, message) = (self.shares.get(text), Arc::clone(&entry.message));
            Some(Dealt { share, message, since: entry.since })
        });
        dealt.collect()
    }

    /// A message whose place was given is safe: it may be sent. If the session has ended meanwhile, one of a group is another
    /// member's.
    pub fn enqueue(&self, outbox: &Outbox, placed: Placed) {
        let Err(entry) = outbox.enqueue(placed.entry) else { return };
        let dealt = |share| Dealt { share, message: entry.message, since: entry.since };
        self.deal_again(placed.share.map(dealt).into_iter().collect());
    }

    /// Messages whose member is gone go to other members, if there are any.
    pub(super) fn deal_again(&self, dealt: Vec<Dealt>) {
        for Dealt { share, message, since } in dealt {
            let publish = message.publish();
            let age = SystemTime::now().duration_since(since).unwrap_or_default().as_secs();
            if publish.properties.message_expiry.is_some_and(|seconds| age >= seconds.into()) {
                count(Count::Dropped(Cause::Expired));
                continue;
            }
            let members = self.members(&share, publish.topic);
            let lasts = members.iter().any(|member| member.is_lasting(publish.qos));
            let lasting = Lasting::of(share, members);
            match self.journal.as_ref().filter(|_| lasts) {
                Some(journal) => {
                    let message = Arc::clone(&message);
                    let (retained, hold, answered) = (false, None, false);
                    journal.send(ToStore { message, since, lasting, retained, hold, answered }, None);
                    journal.flush();
                }
                None => {
                    let kept = Keepsake { message: &message, since, retained: false };
                    lasting.enqueue(&kept, &self.limits.load());
                }
            }
        }
    }

    fn members(&self, share: &Arc<Share>, topic: &str) -> Arc<[Receiver]> {
        let mut members = Vec::new();
        self.subscriptions.read().visit(topic, &mut |key, subscription| {
            if key.share.as_ref().is_some_and(|other| Arc::ptr_eq(other, share)) {
                members.push(Receiver::member(&key.outbox, subscription));
            }
        });
        members.into()
    }
}
