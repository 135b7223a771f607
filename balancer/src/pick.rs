//! PURE. Which server gets the next session.

/// What counts when choosing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Sessions it has, those being connected included.
    pub active: u32,
    /// 0: never chosen.
    pub weight: u32,
    /// Takes sessions, and was not tried for this client already.
    pub usable: bool,
}

impl Load {
    fn eligible(&self) -> bool {
        self.usable && self.weight > 0
    }

    /// Whether one more session would weigh less here. Compared as fractions of whole numbers: no rounding.
    fn lighter_than(&self, other: &Self) -> bool {
        let one_more = |load: &Self| u64::from(load.active) + 1;
        one_more(self) * u64::from(other.weight) < one_more(other) * u64::from(self.weight)
    }
}

/// The server where one more session weighs least. Among equals the first at or after `turn`, so that a fleet of idle
/// servers is filled evenly.
pub fn least_connections(loads: &[Load], turn: usize) -> Option<usize> {
    let mut best: Option<usize> = None;
    for step in 0..loads.len() {
        let at = (turn % loads.len() + step) % loads.len();
        if loads[at].eligible() && best.is_none_or(|best| loads[at].lighter_than(&loads[best])) {
            best = Some(at);
        }
    }
    best
}

/// By turns, each server as often as its weight says.
pub fn round_robin(loads: &[Load], turn: usize) -> Option<usize> {
    let weight = |load: &Load| if load.eligible() { u64::from(load.weight) } else { 0 };
    let total: u64 = loads.iter().map(weight).sum();
    let mut left = u64::try_from(turn).unwrap_or(u64::MAX).checked_rem(total)?;
    loads.iter().position(|load| {
        let here = left < weight(load);
        left = left.saturating_sub(weight(load));
        here
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn loads(active: &[u32]) -> Vec<Load> {
        active.iter().map(|&active| Load { active, weight: 1, usable: true }).collect()
    }

    /// Gives `count` sessions, one after the other; how many each server got.
    fn given(mut loads: Vec<Load>, count: usize, pick: fn(&[Load], usize) -> Option<usize>) -> Vec<u32> {
        let before: Vec<u32> = loads.iter().map(|load| load.active).collect();
        for turn in 0..count {
            let at = pick(&loads, turn).unwrap();
            loads[at].active += 1;
        }
        loads.iter().zip(before).map(|(load, before)| load.active - before).collect()
    }

    #[test]
    fn a_server_that_joins_gets_the_next_sessions() {
        assert_eq!(given(loads(&[500, 500, 0]), 300, least_connections), [0, 0, 300]);
        assert_eq!(given(loads(&[500, 500, 0]), 800, least_connections), [100, 100, 600]);
    }

    #[test]
    fn equals_are_filled_evenly_and_weights_are_ratios() {
        assert_eq!(given(loads(&[0; 4]), 40, least_connections), [10; 4]);
        let mut weighted = loads(&[0, 0]);
        weighted[1].weight = 3;
        assert_eq!(given(weighted.clone(), 40, least_connections), [10, 30]);
        assert_eq!(given(weighted, 40, round_robin), [10, 30]);
        assert_eq!(given(loads(&[9, 0, 0]), 30, round_robin), [10; 3]);
    }

    #[test]
    fn nobody_usable_means_nobody() {
        for pick in [least_connections, round_robin] {
            assert_eq!(pick(&[], 3), None);
            assert_eq!(pick(&[Load { active: 0, weight: 0, usable: true }], 3), None);
            assert_eq!(pick(&[Load { active: 0, weight: 1, usable: false }], 3), None);
        }
    }

    fn any_loads() -> impl Strategy<Value = Vec<Load>> {
        let load = (0..2000u32, 0..5u32, any::<bool>());
        prop::collection::vec(
            load.prop_map(|(active, weight, usable)| Load { active, weight, usable }),
            0..12,
        )
    }

    proptest! {
        #[test]
        fn the_chosen_is_eligible_and_none_is_lighter(loads in any_loads(), turn: usize) {
            let chosen = least_connections(&loads, turn);
            prop_assert_eq!(chosen.is_some(), loads.iter().any(Load::eligible));
            if let Some(chosen) = chosen {
                prop_assert!(loads[chosen].eligible());
                let lighter = |load: &&Load| load.eligible() && load.lighter_than(&loads[chosen]);
                prop_assert!(loads.iter().find(lighter).is_none());
            }
        }

        #[test]
        fn a_round_gives_each_its_weight(loads in any_loads(), start in 0..1000usize) {
            let total: u32 = loads.iter().filter(|load| load.eligible()).map(|load| load.weight).sum();
            let mut got = vec![0; loads.len()];
            for turn in start..start + total as usize {
                got[round_robin(&loads, turn).unwrap()] += 1;
            }
            for (load, got) in loads.iter().zip(got) {
                prop_assert_eq!(got, if load.eligible() { load.weight } else { 0 });
            }
        }
    }
}
