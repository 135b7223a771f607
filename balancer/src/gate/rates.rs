//! PURE. How often somebody may come: token buckets in a table of fixed size. Who is forgotten when it is full is who
//! had come least, so that a flood of strangers costs memory nowhere and lets nobody in sooner who came too often.

use std::hash::{BuildHasher, Hash, RandomState};
use std::time::Duration;

/// Buckets that a key can be in.
const WAYS: usize = 8;
/// Sets of them: 16 bytes a bucket make 1 MiB.
const SETS: usize = 8192;

/// So many CONNECTs a minute, and so many at once after a rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub per_minute: u32,
    pub burst: u32,
}

/// Buckets by key. Keyed by secret random numbers: nobody can choose whose bucket theirs shares.
#[derive(Debug)]
pub struct Rates {
    /// Between two tokens, in nanoseconds.
    interval: u64,
    /// A bucket that is full at this time ahead of now is empty.
    tolerance: u64,
    buckets: Box<[[Bucket; WAYS]]>,
    keys: RandomState,
}

/// When the bucket will be full again, in nanoseconds; before that it lacks tokens.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    key: u64,
    full_at: u64,
}

impl Rates {
    pub fn new(rate: Rate) -> Self {
        Self::sized(rate, SETS)
    }

    /// With so many `sets` of buckets, at least one.
    pub fn sized(rate: Rate, sets: usize) -> Self {
        let interval = 60_000_000_000 / u64::from(rate.per_minute.max(1));
        let tolerance = interval * u64::from(rate.burst.max(1) - 1);
        let buckets = vec![[Bucket::default(); WAYS]; sets.max(1)].into_boxed_slice();
        Self { interval, tolerance, buckets, keys: RandomState::new() }
    }

    /// Takes a token of `key`, if it has one. `now` counts from any fixed moment.
    pub fn admit(&mut self, key: impl Hash, now: Duration) -> bool {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let key = self.keys.hash_one(key);
        // The low bits choose the set, all of them the bucket in it.
        let at = usize::try_from(key % self.buckets.len() as u64).unwrap_or(0);
        let set = &mut self.buckets[at];
        let known = set.iter().position(|bucket| bucket.key == key);
        let fullest = || (0..WAYS).min_by_key(|at| set[*at].full_at).unwrap_or(0);
        let found = known.unwrap_or_else(fullest);
        let bucket = &mut set[found];
        let full_at = if known.is_some() { bucket.full_at.max(now) } else { now };
        if full_at - now > self.tolerance {
            return false;
        }
        *bucket = Bucket { key, full_at: full_at.saturating_add(self.interval) };
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn admitted(rates: &mut Rates, key: u32, millis: u64) -> bool {
        rates.admit(key, Duration::from_millis(millis))
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let mut rates = Rates::new(Rate { per_minute: 60, burst: 3 });
        assert_eq!(
            [0, 0, 0, 0, 999, 1000, 1000].map(|at| admitted(&mut rates, 1, at)),
            [true, true, true, false, false, true, false]
        );
        assert!(admitted(&mut rates, 2, 1000), "another one is not concerned");
        assert_eq!(
            [9000; 4].map(|at| admitted(&mut rates, 1, at)),
            [true, true, true, false],
            "after a rest"
        );
    }

    #[test]
    fn a_flood_of_strangers_does_not_let_in_who_came_too_often() {
        let mut rates = Rates::new(Rate { per_minute: 1, burst: 100 });
        while admitted(&mut rates, 0, 0) {}
        for stranger in 1..400_000 {
            admitted(&mut rates, stranger, 1);
        }
        assert!(!admitted(&mut rates, 0, 2));
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_rate_and_burst(
            per_minute in 1..10_000u32, burst in 1..50u32, waits in prop::collection::vec(0..5000u64, 0..200),
        ) {
            let mut rates = Rates::new(Rate { per_minute, burst });
            let (mut now, mut got) = (0, 0);
            for wait in waits {
                now += wait;
                got += u64::from(admitted(&mut rates, 7, now));
                let most = u64::from(burst) + 1 + now * u64::from(per_minute) / 60_000 + now / 1000;
                prop_assert!(got <= most, "{got} of {most} at {now}");
            }
        }
    }
}
