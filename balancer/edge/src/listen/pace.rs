//! A token bucket: so many a second in the long run, and as many at once after a silent second. Pure.

use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct Pace {
    /// Between two, in the long run.
    step: Duration,
    /// When the next one would be due if the bucket were empty: never more than a second ago.
    due: Instant,
}

const BURST: Duration = Duration::from_secs(1);

impl Pace {
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        Self { step: BURST / per_second.max(1), due: now.checked_sub(BURST).unwrap_or(now) }
    }

    /// How long the next one must still wait.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.due.saturating_duration_since(now)
    }

    /// One has come.
    pub(super) fn count(&mut self, now: Instant) {
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        self.due = self.due.max(earliest) + self.step;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_one_second_and_then_the_rate() {
        let start = Instant::now() + Duration::from_secs(60);
        let mut pace = Pace::new(10, start);
        let mut come = |at: Duration| {
            let now = start + at;
            let free = pace.wait(now).is_zero();
            if free {
                pace.count(now);
            }
            free
        };
        let at_once = (0..50).filter(|_| come(Duration::ZERO)).count();
        assert_eq!(at_once, 11, "what a second gives, and the one that is due now");
        let in_three_seconds = (0..3000).filter(|ms| come(Duration::from_millis(*ms))).count();
        assert_eq!(in_three_seconds, 29);
        let after_a_pause = (0..50).filter(|_| come(Duration::from_secs(600))).count();
        assert_eq!(after_a_pause, 11, "a pause saves up no more than a second's worth");
    }
}
