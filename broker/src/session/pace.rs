//! How fast one client may be: what it sends is paid for with time. Pure.

use std::time::{Duration, Instant};

use crate::limits::Limits;

/// How far a client may be ahead of its rate: a burst after silence is what devices do.
const AHEAD: Duration = Duration::from_secs(1);
const SECOND: u64 = 1_000_000_000;

#[derive(Debug)]
pub(super) struct Pace {
    /// Up to when everything that was taken is paid for, if it came evenly.
    messages: Instant,
    bytes: Instant,
}

impl Pace {
    /// Whether there is one to keep.
    pub(super) fn is_set(limits: &Limits) -> bool {
        limits.messages_per_second > 0 || limits.bytes_per_second > 0
    }

    pub(super) fn new(now: Instant) -> Self {
        Self { messages: now, bytes: now }
    }

    pub(super) fn pay(&mut self, messages: u32, bytes: usize, limits: &Limits, now: Instant) {
        if limits.messages_per_second > 0 {
            let price = SECOND * u64::from(messages) / u64::from(limits.messages_per_second);
            self.messages = self.messages.max(now) + Duration::from_nanos(price);
        }
        if limits.bytes_per_second > 0 {
            let price = SECOND.saturating_mul(bytes as u64) / limits.bytes_per_second as u64;
            self.bytes = self.bytes.max(now) + Duration::from_nanos(price);
        }
    }

    /// Until when nothing more is taken; `None`: not at all.
    pub(super) fn rests_until(&self, now: Instant) -> Option<Instant> {
        let paid = self.messages.max(self.bytes);
        paid.checked_sub(AHEAD).filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_a_second_and_then_the_rate_holds() {
        let limits = Limits { messages_per_second: 10, ..Limits::default() };
        let start = Instant::now();
        let (mut now, mut taken) = (start, 0);
        let mut pace = Pace::new(now);
        while now < start + Duration::from_secs(20) {
            while pace.rests_until(now).is_none() {
                pace.pay(1, 100, &limits, now);
                taken += 1;
            }
            now = pace.rests_until(now).unwrap();
        }
        assert!((205..=215).contains(&taken), "{taken}");
        now += Duration::from_secs(3600);
        (0..10).for_each(|_| pace.pay(1, 100, &limits, now));
        assert_eq!(pace.rests_until(now), None, "an hour of silence is worth a second, too");
        pace.pay(2, 100, &limits, now);
        assert!(pace.rests_until(now).is_some());
    }

    #[test]
    fn a_packet_larger_than_a_second_is_paid_for_in_the_end() {
        let limits = Limits { bytes_per_second: 1000, ..Limits::default() };
        let now = Instant::now();
        let mut pace = Pace::new(now);
        pace.pay(1, 5000, &limits, now);
        assert_eq!(pace.rests_until(now), Some(now + Duration::from_secs(4)));
        assert_eq!(pace.rests_until(now + Duration::from_secs(4)), None);
    }

    #[test]
    fn without_a_limit_nobody_rests() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        (0..1000).for_each(|_| pace.pay(1, usize::MAX, &Limits::default(), now));
        assert_eq!(pace.rests_until(now), None);
    }
}
