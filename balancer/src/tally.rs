//! Counts at run time. Their locks are taken a few times in the life of a connection, never for a message.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::relay::Moved;

mod counts;

pub(crate) use counts::{Counts, Times};

/// Of one frontend. A reload keeps it.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counts: Mutex<Counts>,
    pub(crate) traffic: Traffic,
}

impl Tally {
    pub(crate) fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.counts.lock());
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts.lock().clone()
    }
}

/// What ended connections have moved; those of the running ones are in their sessions.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    up: Total,
    down: Total,
    messages_up: Total,
    messages_down: Total,
}

#[derive(Debug, Default)]
struct Total {
    ended: AtomicU64,
    /// What sessions had moved before they came here from another process.
    before: AtomicU64,
    /// The most that was ever told.
    told: AtomicU64,
}

impl Traffic {
    /// Of a connection that is not among the running ones any more.
    pub(crate) fn add(&self, moved: Moved) {
        self.up.ended.fetch_add(moved.up, Relaxed);
        self.down.ended.fetch_add(moved.down, Relaxed);
        self.messages_up.ended.fetch_add(moved.messages_up, Relaxed);
        self.messages_down.ended.fetch_add(moved.messages_down, Relaxed);
    }

    /// Of a session that comes here from another process: there it was counted.
    pub(crate) fn except(&self, moved: Moved) {
        self.up.before.fetch_add(moved.up, Relaxed);
        self.down.before.fetch_add(moved.down, Relaxed);
        self.messages_up.before.fetch_add(moved.messages_up, Relaxed);
        self.messages_down.before.fetch_add(moved.messages_down, Relaxed);
    }

    /// By those that have ended. To be asked before the running ones are looked at: one that ends meanwhile would be counted
    /// twice.
    pub(crate) fn ended(&self) -> Moved {
        Moved {
            up: self.up.ended.load(Relaxed),
            down: self.down.ended.load(Relaxed),
            messages_up: self.messages_up.ended.load(Relaxed),
            messages_down: self.messages_down.ended.load(Relaxed),
        }
    }

    /// What of `all`, by ended and running ones, was moved here.
    pub(crate) fn here(&self, all: Moved) -> Moved {
        Moved {
            up: self.up.here(all.up),
            down: self.down.here(all.down),
            messages_up: self.messages_up.here(all.messages_up),
            messages_down: self.messages_down.here(all.messages_down),
        }
    }
}

impl Total {
    /// A session that ends meanwhile may be missing for a moment: a counter that fell would be taken for a restart.
    fn here(&self, all: u64) -> u64 {
        let now = all.saturating_sub(self.before.load(Relaxed));
        self.told.fetch_max(now, Relaxed).max(now)
    }
}

/// How often each of a few things happened: the verdicts of a server's checks, the codes of its CONNACKs.
#[derive(Debug)]
pub(crate) struct Counted<K>(Mutex<Times<K>>);

impl<K> Default for Counted<K> {
    fn default() -> Self {
        Self(Mutex::new(Times::new()))
    }
}

impl<K: Ord + Clone> Counted<K> {
    pub(crate) fn count(&self, what: K) {
        *self.0.lock().entry(what).or_default() += 1;
    }

    pub(crate) fn all(&self) -> Times<K> {
        self.0.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_never_falls() {
        let moved = |up, down| Moved { up, down, messages_up: up, messages_down: down };
        let traffic = Traffic::default();
        assert_eq!(traffic.here(moved(10, 1)), moved(10, 1));
        assert_eq!(traffic.here(Moved::default()), moved(10, 1), "between its end and its count");
        traffic.add(moved(12, 1));
        assert_eq!(traffic.ended(), moved(12, 1));
        assert_eq!(traffic.here(moved(12, 6)), moved(12, 6));
        traffic.except(moved(100, 1));
        assert_eq!(traffic.here(moved(117, 7)), moved(17, 6));
    }
}
