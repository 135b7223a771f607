//! Shared subscriptions: of all members, one gets each message.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use foldhash::{HashMap, HashMapExt};
use nsd_wire::Qos;
use parking_lot::Mutex;

use super::route::Receiver;

/// One shared subscription: a group's name and a filter.
#[derive(Debug, Default)]
pub(super) struct Share {
    turn: AtomicUsize,
}

/// The shared subscriptions that somebody is a member of, by their whole text.
#[derive(Debug)]
pub(super) struct Shares {
    known: Mutex<HashMap<Box<str>, Weak<Share>>>,
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
    /// In turn: a member that is there and keeps up, else one that is there, else one whose session keeps the message
    /// until it is back.
    pub(super) fn choose<'m>(&self, members: &'m [Receiver], qos: Qos) -> Option<&'m Receiver> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % members.len().max(1);
        let in_turn = || members[first..].iter().chain(&members[..first]);
        in_turn()
            .find(|member| member.outbox.is_attached() && !member.outbox.should_wait())
            .or_else(|| in_turn().find(|member| member.outbox.is_attached()))
            .or_else(|| in_turn().find(|member| member.is_lasting(qos)))
    }
}
