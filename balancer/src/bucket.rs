//! PURE. How many clients a server may get a second: a token bucket that all threads share without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectRate {
    pub per_second: u32,
    /// At once, after a rest.
    pub burst: u32,
}

/// When the bucket will be full again, in nanoseconds; before that it lacks tokens.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    full_at: AtomicU64,
}

impl ConnectRate {
    /// Between two tokens.
    fn interval(self) -> u64 {
        1_000_000_000 / u64::from(self.per_second.max(1))
    }

    /// A bucket that is full this far ahead of now is empty.
    fn tolerance(self) -> u64 {
        self.interval() * u64::from(self.burst.max(1) - 1)
    }
}

impl Bucket {
    /// Until there is a token; zero: there is one. `now` counts from any fixed moment.
    pub(crate) fn wait(&self, rate: ConnectRate, now: Duration) -> Duration {
        let lacking = self.full_at.load(Relaxed).saturating_sub(nanoseconds(now));
        Duration::from_nanos(lacking.saturating_sub(rate.tolerance()))
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&self, rate: ConnectRate, now: Duration) -> bool {
        let now = nanoseconds(now);
        let fill = |full_at: u64| {
            let full_at = full_at.max(now);
            (full_at - now <= rate.tolerance()).then(|| full_at + rate.interval())
        };
        self.full_at.fetch_update(Relaxed, Relaxed, fill).is_ok()
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let (bucket, rate) = (Bucket::default(), ConnectRate { per_second: 100, burst: 5 });
        let at = |ms: u64| Duration::from_millis(1000 + ms);
        let taken = |ms: u64| (0..20).filter(|_| bucket.take(rate, at(ms))).count();
        assert_eq!(taken(0), 5);
        assert_eq!(bucket.wait(rate, at(0)), Duration::from_millis(10));
        assert_eq!(taken(9), 0);
        assert_eq!(bucket.wait(rate, at(10)), Duration::ZERO);
        assert_eq!((taken(10), taken(35), taken(40)), (1, 2, 1));
        assert_eq!(taken(60_000), 5, "a rest saves up a burst, no more");
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_what_the_time_gives(
            per_second in 1..10_000_u32, burst in 1..100_u32,
            steps in prop::collection::vec(0..50_000_u64, 1..300),
        ) {
            let (bucket, rate) = (Bucket::default(), ConnectRate { per_second, burst });
            let (mut now, mut taken) = (0_u64, 0_u64);
            for step in steps {
                now += step;
                let at = Duration::from_micros(now);
                let there_is = bucket.wait(rate, at).is_zero();
                prop_assert_eq!(bucket.take(rate, at), there_is);
                taken += u64::from(there_is);
                let most = u64::from(burst) + now * u64::from(per_second) / 1_000_000 + 1;
                prop_assert!(taken <= most, "{} of {}", taken, most);
            }
        }
    }
}
