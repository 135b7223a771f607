//! Load averages as `$SYS/broker/load/…` has them: events a minute, smoothed over 1, 5 and 15 minutes. Pure.

use std::time::Duration;

/// The minutes that are averaged over, as their topics name them.
pub const SPANS: [(f64, &str); 3] = [(1.0, "1min"), (5.0, "5min"), (15.0, "15min")];

/// The averages of several counters; which is which is the caller's affair.
#[derive(Debug, Clone)]
pub struct Rates<const N: usize> {
    last: [u64; N],
    averages: [[f64; SPANS.len()]; N],
}

impl<const N: usize> Default for Rates<N> {
    fn default() -> Self {
        Self { last: [0; N], averages: [[0.0; SPANS.len()]; N] }
    }
}

impl<const N: usize> Rates<N> {
    /// The counters as they are now, `elapsed` after the last time.
    pub fn update(&mut self, now: [u64; N], elapsed: Duration) {
        let minutes = elapsed.as_secs_f64() / 60.0;
        if minutes <= 0.0 {
            return;
        }
        for ((last, now), averages) in self.last.iter_mut().zip(now).zip(&mut self.averages) {
            #[expect(clippy::cast_precision_loss, reason = "nobody sees the 53rd bit of a rate")]
            let rate = now.saturating_sub(*last) as f64 / minutes;
            for (average, (span, _)) in averages.iter_mut().zip(SPANS) {
                let kept = (-minutes / span).exp();
                *average = rate + kept * (*average - rate);
            }
            *last = now;
        }
    }

    /// The averages of one counter, in the order of [`SPANS`].
    pub fn of(&self, index: usize) -> [f64; SPANS.len()] {
        self.averages.get(index).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_rate_is_reached_sooner_by_the_shorter_span() {
        let mut rates = Rates::<1>::default();
        for step in 1..=6 {
            rates.update([step * 100], Duration::from_secs(10));
        }
        let [one, five, fifteen] = rates.of(0);
        assert!(one > five && five > fifteen && fifteen > 0.0, "{one} {five} {fifteen}");
        // 600 a minute for one minute: 1 - 1/e of it.
        assert!((one - 600.0 * (1.0 - (-1.0_f64).exp())).abs() < 0.1, "{one}");
        (7..1000).for_each(|step| rates.update([step * 100], Duration::from_secs(10)));
        assert!(rates.of(0).iter().all(|average| (average - 600.0).abs() < 1.0));
        (0..1000).for_each(|_| rates.update([99_900], Duration::from_secs(10)));
        assert!(rates.of(0).iter().all(|average| *average < 1.0), "and it is forgotten");
    }

    #[test]
    fn no_time_and_a_counter_that_falls_change_nothing() {
        let mut rates = Rates::<1>::default();
        rates.update([100], Duration::ZERO);
        assert_eq!(rates.of(0), [0.0; 3]);
        rates.update([100], Duration::from_secs(60));
        let before = rates.of(0)[0];
        rates.update([0], Duration::from_secs(60));
        assert!(rates.of(0)[0] < before);
        assert_eq!(rates.of(7), [0.0; 3]);
    }
}
