//! How fast one server may get clients: slowly after it came, and never faster than its rate.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::bucket::Bucket;
use crate::pick;
use crate::settings::Policy;

#[derive(Debug)]
pub(super) struct Admission {
    created: Instant,
    bucket: Bucket,
    /// When it began to take sessions, where it has to start slowly.
    since: Mutex<Option<Instant>>,
    /// Mirrors that it has, for those who choose among many servers.
    starting: AtomicBool,
    /// Starts slowly when it begins to take sessions next.
    cold: AtomicBool,
}

impl Admission {
    /// `cold`: it comes to others that are there already. Where all are new, none has to be spared.
    pub(super) fn new(cold: bool) -> Self {
        Self {
            created: Instant::now(),
            bucket: Bucket::default(),
            since: Mutex::new(None),
            starting: AtomicBool::new(false),
            cold: AtomicBool::new(cold),
        }
    }

    /// From now on it takes sessions: it is new, or back.
    pub(super) fn began(&self) {
        if self.cold.swap(true, Relaxed) {
            *self.since.lock() = Some(Instant::now());
            self.starting.store(true, Relaxed);
        }
    }

    /// It has taken sessions before, from another process: when it returns, it starts slowly.
    pub(super) fn continues(&self) {
        self.cold.store(true, Relaxed);
    }

    /// See [`pick::share`].
    pub(super) fn share(&self, slow_start: Duration, now: Instant) -> u32 {
        if !self.starting.load(Relaxed) {
            return pick::WHOLE;
        }
        let mut since = self.since.lock();
        let share = since.map_or(pick::WHOLE, |since| pick::share(now - since, slow_start));
        if share == pick::WHOLE {
            *since = None;
            self.starting.store(false, Relaxed);
        }
        share
    }

    /// Until the next client may be sent to it.
    pub(super) fn wait(&self, policy: &Policy, now: Instant) -> Duration {
        policy.arrivals.connect_rate.map_or(Duration::ZERO, |rate| self.bucket.wait(rate, now - self.created))
    }

    /// Whether a client may be sent to it; then it is counted.
    pub(super) fn take(&self, policy: &Policy, now: Instant) -> bool {
        policy.arrivals.connect_rate.is_none_or(|rate| self.bucket.take(rate, now - self.created))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_returns_starts_slowly_and_who_was_there_from_the_start_did_not() {
        let long = Duration::from_secs(10);
        for (cold, first) in [(false, pick::WHOLE), (true, 50)] {
            let admission = Admission::new(cold);
            admission.began();
            assert_eq!(admission.share(long, Instant::now()), first);
            assert_eq!(admission.share(long, Instant::now() + long), pick::WHOLE);
            assert_eq!(admission.share(long, Instant::now()), pick::WHOLE, "once whole, it stays");
            admission.began();
            assert_eq!(admission.share(long, Instant::now()), 50);
        }
    }
}
