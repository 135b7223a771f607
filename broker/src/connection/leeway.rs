//! How much a publisher may put into receivers that are full already, before it waits for them like those who fill them.
//! Pure.

use std::time::{Duration, Instant};

use crate::limits;

/// What a message counts beside its bytes.
const HEAD: usize = 64;
/// How far a publisher may be ahead of [`limits::LITTLE`].
const AHEAD: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Leeway {
    /// Up to when everything that was put in was little, had it come evenly.
    even: Instant,
}

impl Leeway {
    pub(super) fn new(now: Instant) -> Self {
        Self { even: now }
    }

    /// Whether one more message is little.
    pub(super) fn covers(&mut self, bytes: usize, now: Instant) -> bool {
        let bytes = u32::try_from(bytes.saturating_add(HEAD)).unwrap_or(u32::MAX);
        let most = now + AHEAD;
        let even = self.even.max(now) + Duration::from_secs(bytes.into()) / limits::LITTLE;
        self.even = even.min(most);
        even <= most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_not_little_and_a_message_a_second_is() {
        let start = Instant::now();
        let (mut flood, mut slow) = (Leeway::new(start), Leeway::new(start));
        let covered = (0..10_000).filter(|_| flood.covers(1000, start)).count();
        assert!((1..20).contains(&covered), "{covered}");
        for second in 0..3600 {
            assert!(slow.covers(10_000, start + Duration::from_secs(second)));
        }
        assert!(!slow.covers(usize::MAX, start + Duration::from_secs(4000)));
    }
}
