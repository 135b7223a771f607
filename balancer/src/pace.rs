//! PURE. How fast many sessions are told to end: so many a second or a minute, with jitter, so that their clients do not
//! come back in step.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// At most so many in the unit: a pace above that is none.
const MOST: u32 = 1_000_000;

/// Until sessions must have left: a later one is a slip of the unit, or beyond what a clock can tell.
const LONGEST_DEADLINE: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a deadline is at most 7 days away")]
pub struct TooLate;

/// A deadline that can be met.
pub fn deadline(deadline: Duration) -> Result<Duration, TooLate> {
    if deadline > LONGEST_DEADLINE { Err(TooLate) } else { Ok(deadline) }
}

/// `50/s`, `30/min`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    count: u32,
    per: Per,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Per {
    Second,
    Minute,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write a pace like `50/s` or `30/min`, from 1 to {MOST}")]
pub struct NoPace;

impl Pace {
    pub const fn per_second(count: u32) -> Self {
        Self { count, per: Per::Second }
    }

    /// From one to the next; half to one and a half of the mean, by a random number from 0 to 1.
    pub fn gap(self, random: f64) -> Duration {
        let unit = Duration::from_secs(if self.per == Per::Second { 1 } else { 60 });
        unit.mul_f64((0.5 + random.clamp(0.0, 1.0)) / f64::from(self.count.max(1)))
    }
}

/// At least so long between two of so many, for no more than some per cent of them to go within any minute; one always may.
pub fn gap_for_share(sessions: u32, percent: u32) -> Duration {
    let most = (u64::from(sessions) * u64::from(percent) / 100).max(1);
    Duration::from_nanos(
        Duration::from_secs(60).as_nanos().div_ceil(most.into()).try_into().unwrap_or(u64::MAX),
    )
}

impl FromStr for Pace {
    type Err = NoPace;

    fn from_str(text: &str) -> Result<Self, NoPace> {
        let (count, unit) = text.split_once('/').ok_or(NoPace)?;
        let per = match unit.trim() {
            "s" => Per::Second,
            "min" => Per::Minute,
            _ => return Err(NoPace),
        };
        let count = count.trim().parse().ok().filter(|count| (1..=MOST).contains(count)).ok_or(NoPace)?;
        Ok(Self { count, per })
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, if self.per == Per::Second { "s" } else { "min" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_as_people_say_it() {
        for text in ["1/s", "1000/s", "30/min"] {
            assert_eq!(text.parse::<Pace>().unwrap().to_string(), text);
        }
        for wrong in ["", "50", "0/s", "-1/s", "5/h", "1.5/s", "1000001/s", "/s"] {
            assert_eq!(wrong.parse::<Pace>(), Err(NoPace), "{wrong}");
        }
    }

    #[test]
    fn within_a_minute_no_more_go_than_their_share() {
        for (sessions, percent, most) in [(1000, 10, 100), (1000, 1, 10), (334, 5, 16), (7, 1, 1), (0, 5, 1)]
        {
            let gap = gap_for_share(sessions, percent);
            // The first at once, and one more after each gap.
            assert!(gap * most >= Duration::from_secs(60), "{sessions} {percent} {gap:?}");
            assert!(gap * (most - 1) < Duration::from_secs(60), "{sessions} {percent} {gap:?}");
        }
    }

    #[test]
    fn gaps_lie_around_their_mean() {
        let pace: Pace = "50/s".parse().unwrap();
        assert_eq!([0.0, 0.5, 1.0].map(|random| pace.gap(random).as_millis()), [10, 20, 30]);
        let slow: Pace = "30/min".parse().unwrap();
        assert_eq!(slow.gap(0.5), Duration::from_secs(2));
    }
}
