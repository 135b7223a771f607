//! How long publishers wait for one receiver. Pure.
//!
//! A receiver that takes something again and again, however little, makes its publishers as slow as itself and loses
//! nothing: each such wait is short. One that takes nothing for longer spends its patience, also when it reads now and
//! then in between, and patience comes back slowly: otherwise a client that reads for a moment every few seconds would
//! hold everybody who writes to it, for ever.

use std::time::{Duration, Instant};

use crate::limits;

#[derive(Debug)]
pub(super) struct Patience {
    /// Of [`limits::PATIENCE`], at `as_of`.
    spent: Duration,
    as_of: Instant,
    /// Publishers wait since.
    since: Option<Instant>,
}

impl Patience {
    pub(super) fn new(now: Instant) -> Self {
        Self { spent: Duration::ZERO, as_of: now, since: None }
    }

    /// Publishers wait: until when at most.
    pub(super) fn wait(&mut self, now: Instant) -> Instant {
        let since = *self.since.get_or_insert_with(|| {
            let back = now.saturating_duration_since(self.as_of) / limits::PATIENCE_RETURNS;
            (self.spent, self.as_of) = (self.spent.saturating_sub(back), now);
            now
        });
        since + limits::SHORT_WAIT + (limits::PATIENCE - self.spent)
    }

    /// Publishers go on.
    pub(super) fn go_on(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            let long = now.saturating_duration_since(since).saturating_sub(limits::SHORT_WAIT);
            (self.spent, self.as_of) = ((self.spent + long).min(limits::PATIENCE), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long publishers waited in these seconds, for a receiver that takes something every `pause`.
    fn waited(pause: Duration, seconds: u64) -> Duration {
        let start = Instant::now();
        let (mut now, mut waited) = (start, Duration::ZERO);
        let mut patience = Patience::new(start);
        while now < start + Duration::from_secs(seconds) {
            let room = now + pause;
            let until = patience.wait(now).min(room);
            waited += until - now;
            patience.go_on(until);
            now = room;
        }
        waited
    }

    #[test]
    fn short_waits_cost_nothing() {
        assert_eq!(waited(limits::SHORT_WAIT, 600), Duration::from_secs(600));
    }

    #[test]
    fn a_reader_in_bursts_is_waited_for_as_long_as_patience_lasts_and_returns() {
        let pause = Duration::from_millis(4700);
        let bursts = 600_000 / 4700 + 1;
        let most = limits::PATIENCE + limits::SHORT_WAIT * bursts + Duration::from_secs(600) / 12;
        let waited = waited(pause, 600);
        assert!(waited <= most && waited > limits::PATIENCE, "{waited:?} of {most:?}");
    }

    #[test]
    fn after_a_minute_patience_is_whole_again() {
        let start = Instant::now();
        let mut patience = Patience::new(start);
        let end = patience.wait(start);
        assert_eq!(end - start, limits::SHORT_WAIT + limits::PATIENCE);
        patience.go_on(end);
        assert_eq!(patience.wait(end), end + limits::SHORT_WAIT);
        patience.go_on(end);
        let later = end + limits::PATIENCE * limits::PATIENCE_RETURNS;
        assert_eq!(patience.wait(later) - later, limits::SHORT_WAIT + limits::PATIENCE);
    }
}
