//! PURE. How many sessions each server has above its fair share, where a server joined, returned or got another weight.

use std::fmt;

/// What counts of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub sessions: u32,
    /// 0: no sessions of its own.
    pub weight: u32,
    /// At most so many.
    pub most: u32,
    /// Takes sessions, or will as soon as it was checked, and is no backup. Of others nothing is taken: where they would go
    /// is not known.
    pub counts: bool,
}

/// Sessions to move away, of each server in turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub from: Vec<u32>,
    /// Sessions that were looked at.
    pub sessions: u32,
    /// The largest of the shares that are too large, in per cent above the fair one.
    pub percent: u32,
}

impl Share {
    fn is_counted(&self) -> bool {
        self.counts && self.weight > 0
    }
}

/// Takes from those who have more than their share, as many as the others have room for up to theirs. A share is in
/// proportion to the weight, and never more than a server takes: then the others share the rest.
pub fn plan(shares: &[Share]) -> Plan {
    let sessions = shares.iter().filter(|share| share.is_counted()).map(|share| share.sessions).sum();
    let fair = fair(shares, sessions);
    let room: u32 =
        shares.iter().zip(&fair).map(|(share, fair)| fair.above.saturating_sub(share.sessions)).sum();
    let excess = |(share, fair): (&Share, &Fair)| {
        let too_large = share.is_counted() && share.sessions > fair.above;
        if too_large { share.sessions - fair.below } else { 0 }
    };
    let mut from: Vec<u32> = shares.iter().zip(&fair).map(excess).collect();
    let percent = |(excess, fair): (&u32, &Fair)| match fair.below {
        0 => {
            if *excess > 0 {
                u32::MAX
            } else {
                0
            }
        }
        below => u32::try_from(u64::from(*excess) * 100 / u64::from(below)).unwrap_or(u32::MAX),
    };
    let percent = from.iter().zip(&fair).map(percent).max().unwrap_or(0);
    let mut too_many = from.iter().sum::<u32>().saturating_sub(room);
    while too_many > 0 {
        let Some(largest) = from.iter_mut().max() else { break };
        *largest -= 1;
        too_many -= 1;
    }
    Plan { from, sessions, percent }
}

/// A share, rounded to whole sessions both ways.
#[derive(Debug, Clone, Copy, Default)]
struct Fair {
    below: u32,
    above: u32,
}

fn fair(shares: &[Share], sessions: u32) -> Vec<Fair> {
    let mut fair: Vec<Option<Fair>> =
        shares.iter().map(|share| (!share.is_counted()).then(Fair::default)).collect();
    let mut left = u64::from(sessions);
    loop {
        let open = || shares.iter().zip(&fair).filter(|(_, fair)| fair.is_none()).map(|(share, _)| share);
        let weight: u64 = open().map(|share| u64::from(share.weight)).sum();
        let full = |share: &Share| u64::from(share.most) * weight < left * u64::from(share.weight);
        let next: Vec<usize> =
            (0..shares.len()).filter(|&at| fair[at].is_none() && full(&shares[at])).collect();
        if next.is_empty() {
            let of = |share: &Share| {
                let exact = left * u64::from(share.weight);
                let whole = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
                Fair { below: whole(exact / weight.max(1)), above: whole(exact.div_ceil(weight.max(1))) }
            };
            return shares.iter().zip(fair).map(|(share, fair)| fair.unwrap_or_else(|| of(share))).collect();
        }
        for at in next {
            let most = shares[at].most;
            fair[at] = Some(Fair { below: most, above: most });
            left = left.saturating_sub(u64::from(most));
        }
    }
}

impl Plan {
    pub fn total(&self) -> u32 {
        self.from.iter().sum()
    }
}

/// `334 of 1000 sessions above fair share`.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} sessions above fair share", self.total(), self.sessions)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn share(sessions: u32, weight: u32) -> Share {
        Share { sessions, weight, most: u32::MAX, counts: true }
    }

    fn planned(shares: &[Share]) -> Vec<u32> {
        plan(shares).from
    }

    #[test]
    fn a_server_that_joined_gets_its_share_and_no_more() {
        let plan = plan(&[share(500, 1), share(500, 1), share(0, 1)]);
        assert_eq!(plan.from, [167, 167, 0]);
        assert_eq!(plan.to_string(), "334 of 1000 sessions above fair share");
        assert_eq!(plan.percent, 50);
        assert_eq!(planned(&[share(600, 1), share(0, 1)]), [300, 0]);
        assert_eq!(planned(&[share(600, 1), share(0, 2)]), [400, 0]);
    }

    #[test]
    fn what_is_even_stays() {
        assert_eq!(planned(&[share(334, 1), share(333, 1), share(333, 1)]), [0, 0, 0]);
        assert_eq!(planned(&[share(1, 1), share(0, 1)]), [0, 0]);
        assert_eq!(planned(&[]), [0; 0]);
    }

    #[test]
    fn nothing_is_taken_where_nobody_can_take_it() {
        let down = Share { counts: false, ..share(0, 1) };
        assert_eq!(planned(&[share(900, 1), down]), [0, 0]);
        let small = Share { most: 10, ..share(4, 1) };
        assert_eq!(planned(&[share(900, 1), small]), [6, 0]);
        let full = Share { most: 10, ..share(10, 1) };
        assert_eq!(planned(&[share(900, 1), full]), [0, 0]);
        assert_eq!(planned(&[share(900, 1), full, share(0, 1)]), [450, 0, 0]);
    }

    fn any_shares() -> impl Strategy<Value = Vec<Share>> {
        let share = (0..500_u32, 0..4_u32, prop_oneof![Just(u32::MAX), 0..400_u32], any::<bool>());
        let share =
            share.prop_map(|(sessions, weight, most, counts)| Share { sessions, weight, most, counts });
        prop::collection::vec(share, 0..8)
    }

    proptest! {
        #[test]
        fn a_plan_never_takes_more_than_there_is_or_than_others_take(shares in any_shares()) {
            let plan = plan(&shares);
            let mut room = 0_u64;
            for (share, from) in shares.iter().zip(&plan.from) {
                prop_assert!(*from <= share.sessions && (share.counts || *from == 0));
                if *from == 0 && share.is_counted() {
                    room += u64::from(share.most.saturating_sub(share.sessions));
                }
            }
            prop_assert!(u64::from(plan.total()) <= room);
        }

        #[test]
        fn when_all_has_moved_there_is_nothing_left_to_move(sessions in prop::collection::vec((0..500_u32, 1..4_u32), 1..6)) {
            let mut shares: Vec<Share> = sessions.iter().map(|(sessions, weight)| share(*sessions, *weight)).collect();
            let first = plan(&shares);
            let mut waiting = first.total();
            for (share, from) in shares.iter_mut().zip(&first.from) {
                share.sessions -= from;
            }
            // They come back to where one more weighs least.
            while waiting > 0 {
                let lightest = shares.iter_mut().min_by(|one, other| {
                    let weigh = |share: &Share, by: &Share| (u64::from(share.sessions) + 1) * u64::from(by.weight);
                    weigh(one, other).cmp(&weigh(other, one))
                });
                lightest.unwrap().sessions += 1;
                waiting -= 1;
            }
            let again = plan(&shares).total();
            prop_assert!(again <= u32::try_from(shares.len()).unwrap(), "{again} of {shares:?}");
        }
    }
}
