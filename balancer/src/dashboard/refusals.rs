//! PURE. Which refused tries to log in have a line in the log. Strangers try as often as they like, and do not fill the disk.

use std::net::IpAddr;
use std::time::Duration;

use nsd_edge::listen::household;

use crate::gate::rates::Rates;
use crate::limits;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Refused {
    /// The name or the password is wrong.
    Wrong,
    /// Not even looked at.
    TooMany,
}

/// `now` counts from any fixed moment.
#[derive(Debug)]
pub(super) struct Refusals {
    by_source: Rates,
    in_all: Rates,
    untold: u64,
}

impl Refusals {
    pub(super) fn new() -> Self {
        Self {
            by_source: Rates::sized(limits::REFUSALS_BY_SOURCE, limits::LOGIN_SOURCES),
            in_all: Rates::sized(limits::REFUSALS_IN_ALL, 1),
            untold: 0,
        }
    }

    /// How many had no line since the last one; `None`: nor has this.
    pub(super) fn tell(&mut self, source: IpAddr, refused: Refused, now: Duration) -> Option<u64> {
        let key = (household(source), refused);
        if self.by_source.admit(key, now) && self.in_all.admit((), now) {
            return Some(std::mem::take(&mut self.untold));
        }
        self.untold += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_source_has_a_line_a_minute_and_the_others_are_counted() {
        let mut refusals = Refusals::new();
        let mut at = |second, source: [u8; 4], refused| {
            refusals.tell(Ipv4Addr::from(source).into(), refused, Duration::from_secs(second))
        };
        let (one, other) = ([192, 0, 2, 1], [192, 0, 2, 2]);
        assert_eq!(at(0, one, Refused::Wrong), Some(0));
        assert_eq!([1, 2, 59].map(|second| at(second, one, Refused::Wrong)), [None; 3]);
        assert_eq!(at(59, one, Refused::TooMany), Some(3), "something else happens");
        assert_eq!(at(59, other, Refused::Wrong), Some(0), "to somebody else");
        assert_eq!(at(59, one, Refused::TooMany), None);
        assert_eq!(at(60, one, Refused::Wrong), Some(1));
    }

    #[test]
    fn many_sources_have_no_more_lines_than_a_few() {
        let mut refusals = Refusals::new();
        let (mut lines, mut untold) = (0, 0);
        for number in 0..60_000_u32 {
            let now = Duration::from_millis(u64::from(number));
            if let Some(before) = refusals.tell(Ipv4Addr::from(number).into(), Refused::Wrong, now) {
                lines += 1;
                untold += before;
            }
        }
        assert!((10..=40).contains(&lines), "{lines} lines in a minute");
        assert_eq!(lines + untold + refusals.untold, 60_000, "each is told, or counted");
    }
}
