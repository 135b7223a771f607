//! When each client of a thread is to have a turn at the latest. A timer of its own would be a tenth of an idle client's
//! memory, and what clients wait for is seconds away and rarely comes: a list that is gone through now and then does.
//! Pure.

use std::time::{Duration, Instant};

/// The list is not gone through more often than this, so a turn may be late by as much.
const PAUSE: Duration = Duration::from_millis(100);
/// Milliseconds that never come.
const NEVER: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct Deadlines {
    began: Instant,
    /// By slot, in milliseconds since the beginning.
    list: Vec<u64>,
    /// Nothing is due before.
    soonest: u64,
    /// When the list may be gone through again.
    rested: u64,
}

impl Deadlines {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, list: Vec::new(), soonest: NEVER, rested: 0 }
    }

    /// A turn is wanted at `at`, unless there is one before: whoever has it too early wants another.
    pub(super) fn set(&mut self, slot: u32, at: Instant) {
        let (slot, at) = (slot as usize, self.millis(at));
        if slot >= self.list.len() {
            self.list.resize(slot + 1, NEVER);
        }
        if at < self.list[slot] {
            self.list[slot] = at;
            self.soonest = self.soonest.min(at);
        }
    }

    pub(super) fn unset(&mut self, slot: u32) {
        self.list.get_mut(slot as usize).into_iter().for_each(|at| *at = NEVER);
    }

    /// When to ring next.
    pub(super) fn next(&self) -> Option<Instant> {
        let soonest = self.soonest.max(self.rested);
        (self.soonest != NEVER).then(|| self.began + Duration::from_millis(soonest))
    }

    /// Unsets what is due, and calls `due` for it.
    pub(super) fn ring(&mut self, now: Instant, mut due: impl FnMut(u32)) {
        let now = self.millis(now);
        self.soonest = NEVER;
        for (slot, at) in (0..).zip(&mut self.list) {
            if *at <= now {
                *at = NEVER;
                due(slot);
            }
            self.soonest = self.soonest.min(*at);
        }
        self.rested = now.saturating_add(PAUSE.as_millis() as u64);
    }

    /// Rounded up: a turn does not come too early.
    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.began) + Duration::from_nanos(999_999);
        u64::try_from(since.as_millis()).unwrap_or(NEVER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_due_when_it_wants_and_once() {
        let began = Instant::now();
        let after = |millis| began + Duration::from_millis(millis);
        let mut deadlines = Deadlines::new(began);
        assert_eq!(deadlines.next(), None);
        for (slot, at) in (0..).zip([300, 100, 200]) {
            deadlines.set(slot, after(at));
        }
        assert_eq!(deadlines.next(), Some(after(100)));
        let ring = |deadlines: &mut Deadlines, now| {
            let mut due = Vec::new();
            deadlines.ring(after(now), |slot| due.push(slot));
            due
        };
        assert_eq!(ring(&mut deadlines, 99), [0; 0]);
        assert_eq!(deadlines.next(), Some(after(199)), "not gone through again at once");
        assert_eq!(ring(&mut deadlines, 100), [1]);
        // Later than it is to have a turn anyway.
        deadlines.set(2, after(900));
        assert_eq!(ring(&mut deadlines, 250), [2]);
        deadlines.set(2, after(900));
        deadlines.set(1, after(260));
        assert_eq!(ring(&mut deadlines, 400), [0, 1]);
        assert_eq!(deadlines.next(), Some(after(900)));
        deadlines.unset(2);
        assert_eq!(ring(&mut deadlines, 1000), [0; 0]);
        assert_eq!(deadlines.next(), None);
    }
}
