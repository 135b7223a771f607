//! PURE. The last quarter of an hour, a sample a second: what the dashboard's graphs show.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

use crate::shown::Totals;

/// A quarter of an hour; a sample takes 40 bytes.
pub(super) const SAMPLES: usize = 900;

/// One second: when it ended, sessions then, and what happened by the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Sample {
    /// Seconds since the first.
    pub(crate) at: u64,
    pub(crate) sessions: u64,
    pub(crate) connections: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

#[derive(Debug, Default)]
pub(super) struct History {
    samples: VecDeque<Sample>,
    last: Option<(Duration, Totals)>,
}

impl History {
    /// To be told about once a second. A later call makes one sample with the rates of the longer time.
    pub(super) fn take(&mut self, now: Duration, totals: Totals) {
        let Some((then, before)) = self.last.replace((now, totals)) else { return };
        let millis = now.saturating_sub(then).as_millis().max(1);
        let rate = |now: u64, before: u64| {
            let grown = u128::from(now.saturating_sub(before));
            u64::try_from((grown * 1000 + millis / 2) / millis).unwrap_or(u64::MAX)
        };
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample {
            at: now.as_secs(),
            sessions: totals.sessions,
            connections: rate(totals.connections, before.connections),
            bytes_in: rate(totals.bytes_in, before.bytes_in),
            bytes_out: rate(totals.bytes_out, before.bytes_out),
        });
    }

    /// The samples after that second, the oldest first.
    pub(super) fn since(&self, after: Option<u64>) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| after.is_none_or(|after| sample.at > after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(all: u64) -> Totals {
        Totals { sessions: 7, connections: all, bytes_in: 10 * all, bytes_out: 100 * all }
    }

    #[test]
    fn totals_become_rates() {
        let mut history = History::default();
        for (millis, all) in [(0, 5), (1000, 15), (3000, 35), (4000, 3)] {
            history.take(Duration::from_millis(millis), totals(all));
        }
        let rates: Vec<_> = history.since(None).map(|s| (s.at, s.connections, s.bytes_out)).collect();
        assert_eq!(rates, [(1, 10, 1000), (3, 10, 1000), (4, 0, 0)], "never less than none");
        assert_eq!(history.since(Some(1)).count(), 2);
        assert_eq!(history.since(Some(4)).count(), 0);
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let mut history = History::default();
        (0..2000).for_each(|second| history.take(Duration::from_secs(second), totals(second)));
        assert_eq!(history.since(None).count(), SAMPLES);
        assert_eq!(history.since(None).next().unwrap().at, 1100);
    }
}
