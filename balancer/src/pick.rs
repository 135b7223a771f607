//! PURE. Which server gets the next session.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::settings::Balance;

/// A server with affine clients takes so many quarters of its fair share, and no more: 1.25 times.
const BOUND_QUARTERS: u64 = 5;

/// What counts when choosing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Names the server where clients are spread by a hash; see [`key`].
    pub id: u64,
    /// Sessions it has, those being connected included.
    pub active: u32,
    /// At most so many.
    pub most: u32,
    /// 0: never chosen.
    pub weight: u32,
    /// How much of its weight counts now; see [`share`].
    pub share: u32,
    /// Only where no other server can take the session.
    pub backup: bool,
    /// Takes sessions, and was not tried for this client already.
    pub usable: bool,
    /// Has had as many clients as it may get for now.
    pub throttled: bool,
}

/// [`Load::share`] of a server that gets all of its weight.
pub const WHOLE: u32 = 1000;
/// Less would be nothing: a server must see some clients to get ready for more.
const LEAST_SHARE: u32 = 50;

/// The part of its weight that a server gets, so long after it began to take sessions: grows evenly from a twentieth to the
/// whole within `slow_start`.
pub fn share(since: Duration, slow_start: Duration) -> u32 {
    if since >= slow_start {
        return WHOLE;
    }
    let part = since.as_nanos() * u128::from(WHOLE) / slow_start.as_nanos().max(1);
    u32::try_from(part).unwrap_or(WHOLE).clamp(LEAST_SHARE, WHOLE)
}

/// What the choice may depend on besides the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint {
    /// Counts the choices.
    pub turn: usize,
    pub random: u64,
    /// Of the client's address.
    pub source: u64,
    /// Of its identifier, where it is known and not empty.
    pub client: Option<u64>,
}

impl Load {
    /// Would get sessions, if not now then soon.
    fn wanted(&self) -> bool {
        self.usable && self.weight > 0 && self.active < self.most
    }

    fn eligible(&self) -> bool {
        self.wanted() && !self.throttled
    }

    /// What counts now, in thousandths.
    fn weight(&self) -> u32 {
        self.weight.saturating_mul(self.share)
    }

    /// Whether one more session would weigh less here. Compared as fractions of whole numbers: no rounding.
    fn lighter_than(&self, other: &Self) -> bool {
        let one_more = |load: &Self| u64::from(load.active) + 1;
        one_more(self) * u64::from(other.weight()) < one_more(other) * u64::from(self.weight())
    }
}

/// The number that a name, an identifier or an address is spread by. The same in every process of one build, so that
/// twins agree and a restart moves nobody.
pub fn key(of: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// The server for the next session. Backup servers count only where no other one is wanted: a storm is waited for, not
/// passed on to them.
pub fn choose(balance: Balance, loads: &mut [Load], hint: &Hint) -> Option<usize> {
    if loads.iter().any(|load| load.wanted() && !load.backup) {
        loads.iter_mut().for_each(|load| load.usable &= !load.backup);
    }
    match (balance, hint.client) {
        (Balance::LeastConnections, _) | (Balance::ClientId, None) => least_connections(loads, hint.turn),
        (Balance::RoundRobin, _) => round_robin(loads, hint.turn),
        (Balance::Random, _) => random_two(loads, hint.random),
        (Balance::Source, _) => rendezvous(loads, hint.source, |_| true),
        (Balance::ClientId, Some(client)) => bounded(loads, client),
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

/// By turns, each server as often as its weight says; who has only a part of its weight takes that part of its turns.
pub fn round_robin(loads: &[Load], turn: usize) -> Option<usize> {
    let point = u64::try_from(turn).unwrap_or(u64::MAX);
    let takes_turn = |load: &Load| key(&(load.id, turn)) % u64::from(WHOLE) < u64::from(load.share);
    let all = |load: &Load| load.weight;
    let now = |load: &Load| if takes_turn(load) { load.weight } else { 0 };
    at_point(loads, point, now).or_else(|| at_point(loads, point, all))
}

/// Two servers by chance, each as likely as its weight says, and of the two the one where a session weighs less.
fn random_two(loads: &[Load], random: u64) -> Option<usize> {
    let (one, other) = (random >> 32, random & u64::from(u32::MAX));
    let first = at_point(loads, one, Load::weight)?;
    let but_first = |load: &Load| if std::ptr::eq(load, &loads[first]) { 0 } else { load.weight() };
    let second = at_point(loads, other, but_first).unwrap_or(first);
    Some(if loads[second].lighter_than(&loads[first]) { second } else { first })
}

/// Weights laid out as a ring: the eligible server at a point of it.
fn at_point(loads: &[Load], point: u64, weight: impl Fn(&Load) -> u32) -> Option<usize> {
    let weight = |at: usize| if loads[at].eligible() { u64::from(weight(&loads[at])) } else { 0 };
    let total: u64 = (0..loads.len()).map(weight).sum();
    let mut left = point.checked_rem(total)?;
    (0..loads.len()).find(|&at| {
        let here = left < weight(at);
        left = left.saturating_sub(weight(at));
        here
    })
}

/// The client's own server, as long as that is not over its bound; else the next in the client's order. When a server
/// joins or leaves, only the clients move that it gains or loses.
fn bounded(loads: &[Load], client: u64) -> Option<usize> {
    let sum = |of: fn(&Load) -> u32| -> u64 {
        loads.iter().filter(|load| load.eligible()).map(|load| u64::from(of(load))).sum()
    };
    let (active, weight) = (sum(|load| load.active) + 1, sum(Load::weight));
    // active < 1.25 × fair share, rounded up: at least one server is always below.
    let below = |load: &Load| {
        4 * weight * u64::from(load.active) < BOUND_QUARTERS * active * u64::from(load.weight())
    };
    rendezvous(loads, client, below)
}

/// Each server draws a number for the key, in proportion to its weight; the best draw wins.
fn rendezvous(loads: &[Load], key: u64, takes: impl Fn(&Load) -> bool) -> Option<usize> {
    let draws = loads.iter().enumerate().filter(|(_, load)| load.eligible() && takes(load));
    let draws = draws.map(|(at, load)| (at, draw(load, key)));
    draws.min_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(at, _)| at)
}

/// Exponentially distributed with the weight as its rate: the least of all is a server's with the probability of its
/// share of the weights, and does not change when others come or go.
#[expect(clippy::cast_precision_loss, reason = "53 bits of a hash are kept, and they are enough")]
fn draw(load: &Load, key: u64) -> f64 {
    let hash = self::key(&(load.id, key));
    let uniform = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -uniform.ln() / f64::from(load.weight())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn loads(active: &[u32]) -> Vec<Load> {
        let server = |(id, &active)| Load { active, ..server(id) };
        active.iter().enumerate().map(server).collect()
    }

    fn server(number: usize) -> Load {
        Load {
            id: key(&number),
            active: 0,
            most: u32::MAX,
            weight: 1,
            share: WHOLE,
            backup: false,
            usable: true,
            throttled: false,
        }
    }

    const HINT: Hint = Hint { turn: 0, random: 0, source: 0, client: None };

    /// Gives a session to each of `count` clients, each with an identifier, address and chance of its own; where each went.
    fn spread(balance: Balance, loads: &mut [Load], count: usize) -> Vec<usize> {
        let give = |turn| {
            let id = key(&format!("factory-line-7/gateway-0001/device-{turn:04}"));
            let hint = Hint { turn, random: key(&(turn, "chance")), source: key(&turn), client: Some(id) };
            let at = choose(balance, &mut loads.to_vec(), &hint).unwrap();
            loads[at].active += 1;
            at
        };
        (0..count).map(give).collect()
    }

    const ALL: [Balance; 5] =
        [Balance::LeastConnections, Balance::RoundRobin, Balance::Random, Balance::Source, Balance::ClientId];

    #[test]
    fn every_way_spreads_by_weight() {
        for balance in ALL {
            let mut loads = loads(&[0; 3]);
            loads[2].weight = 2;
            spread(balance, &mut loads, 4000);
            for (load, fair) in loads.iter().zip([1000, 1000, 2000]) {
                let off = load.active.abs_diff(fair);
                assert!(off < fair / 8, "{balance:?}: {} of {fair}", load.active);
            }
        }
    }

    #[test]
    fn the_better_of_two_by_chance_levels_what_was_uneven() {
        let mut loads = loads(&[900, 0, 0, 0]);
        spread(Balance::Random, &mut loads, 900);
        assert_eq!(loads[0].active, 900, "it never is the better one");
        assert!(loads[1..].iter().all(|load| load.active.abs_diff(300) < 30), "{loads:?}");
    }

    #[test]
    fn a_client_comes_back_to_its_server_and_only_those_of_a_new_one_move() {
        for balance in [Balance::Source, Balance::ClientId] {
            let mut three = loads(&[0; 3]);
            let before = spread(balance, &mut three, 3000);
            // They leave and come back one by one, in the same order.
            let again = spread(balance, &mut loads(&[0; 3]), 3000);
            assert_eq!(before, again);
            let mut four = loads(&[0; 4]);
            let after = spread(balance, &mut four, 3000);
            let moved = before.iter().zip(&after).filter(|(one, other)| one != other).count();
            let to_the_new = after.iter().filter(|at| **at == 3).count();
            assert!(to_the_new.abs_diff(750) < 90, "{to_the_new}");
            assert!(moved <= to_the_new + 90, "{balance:?}: {moved} moved, {to_the_new} to the new one");
        }
    }

    #[test]
    fn long_common_prefixes_do_not_put_clients_together() {
        let mut loads = loads(&[0; 2]);
        spread(Balance::ClientId, &mut loads, 40);
        assert!(loads.iter().all(|load| load.active >= 12), "{loads:?}");
    }

    #[test]
    fn a_server_gets_no_more_than_its_bound_however_ids_are_chosen() {
        let mut loads = loads(&[0; 4]);
        let hint = Hint { client: Some(7), ..HINT };
        for given in 1..=400_u32 {
            let at = choose(Balance::ClientId, &mut loads.clone(), &hint).unwrap();
            loads[at].active += 1;
            let most = loads.iter().map(|load| load.active).max().unwrap();
            assert!(f64::from(most) < 1.25 * f64::from(given) / 4.0 + 1.0, "{most} of {given}");
        }
    }

    #[test]
    fn a_client_without_an_identifier_goes_where_there_are_fewest() {
        assert_eq!(choose(Balance::ClientId, &mut loads(&[5, 2, 9]), &HINT), Some(1));
    }

    #[test]
    fn a_full_server_falls_through_and_backups_come_last() {
        for balance in ALL {
            let mut loads = loads(&[0; 3]);
            loads[0].most = 5;
            loads[1].most = 10;
            loads[2].backup = true;
            spread(balance, &mut loads, 15);
            assert_eq!([5, 10, 0], [0, 1, 2].map(|at| loads[at].active), "{balance:?}");
            spread(balance, &mut loads, 3);
            assert_eq!(loads[2].active, 3, "{balance:?}: the others are full");
            loads[0].most = 6;
            assert_eq!(spread(balance, &mut loads, 1), [0], "{balance:?}: there is room again");
            loads[2].most = 0;
            assert_eq!(choose(balance, &mut loads, &HINT), None, "{balance:?}");
        }
    }

    #[test]
    fn a_share_grows_evenly_from_a_twentieth_to_the_whole() {
        let long = Duration::from_secs(30);
        let at = |seconds| share(Duration::from_secs(seconds), long);
        assert_eq!([0, 1, 3, 15, 29, 30, 1000].map(at), [50, 50, 100, 500, 966, 1000, 1000]);
        assert_eq!(share(Duration::ZERO, Duration::ZERO), WHOLE);
    }

    #[test]
    fn every_way_gives_a_slow_starter_its_part() {
        for balance in ALL {
            let mut loads = loads(&[0; 3]);
            loads[2].share = WHOLE / 4;
            spread(balance, &mut loads, 9000);
            // 4 : 4 : 1; the better of two is a little less than that.
            for (load, fair) in loads.iter().zip([4000, 4000, 1000_u32]) {
                let off = load.active.abs_diff(fair);
                assert!(off < 300, "{balance:?}: {} of {fair}", load.active);
            }
        }
    }

    #[test]
    fn where_all_start_slowly_none_is_held_back() {
        for balance in ALL {
            let mut loads = loads(&[0; 3]);
            loads.iter_mut().for_each(|load| load.share = LEAST_SHARE);
            spread(balance, &mut loads, 3000);
            assert!(loads.iter().all(|load| load.active.abs_diff(1000) < 130), "{balance:?}: {loads:?}");
        }
    }

    #[test]
    fn who_starts_slowly_gets_only_its_own_clients_and_no_other_moves() {
        let mut whole = loads(&[0; 3]);
        let after = spread(Balance::Source, &mut whole, 3000);
        let mut slow = loads(&[0; 3]);
        slow[2].share = WHOLE / 4;
        let during = spread(Balance::Source, &mut slow, 3000);
        for (during, after) in during.iter().zip(&after) {
            assert!(during == after || *after == 2, "{during} {after}");
        }
    }

    #[test]
    fn throttled_servers_are_waited_for_rather_than_backups_used() {
        for balance in ALL {
            let mut loads = loads(&[0; 3]);
            loads[0].throttled = true;
            loads[2].backup = true;
            assert_eq!(choose(balance, &mut loads.clone(), &HINT), Some(1), "{balance:?}");
            loads[1].throttled = true;
            assert_eq!(choose(balance, &mut loads.clone(), &HINT), None, "{balance:?}");
            (loads[0].usable, loads[1].usable) = (false, false);
            assert_eq!(choose(balance, &mut loads, &HINT), Some(2), "{balance:?}");
        }
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
            assert_eq!(pick(&[Load { weight: 0, ..server(0) }], 3), None);
            assert_eq!(pick(&[Load { usable: false, ..server(0) }], 3), None);
        }
    }

    fn any_loads() -> impl Strategy<Value = Vec<Load>> {
        let load = (0..2000u32, 0..5u32, any::<bool>(), LEAST_SHARE..=WHOLE);
        prop::collection::vec(
            load.prop_map(|(active, weight, usable, share)| Load {
                active,
                weight,
                usable,
                share,
                ..server(0)
            }),
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
        fn whoever_is_eligible_is_found(
            loads in any_loads(), backups: u16, most in 0..2000u32, turn: usize, random: u64, client: Option<u64>,
        ) {
            let hint = Hint { turn, random, source: random, client };
            let number = |(at, load): (usize, Load)| Load { id: key(&at), most, backup: backups >> at & 1 == 1, ..load };
            let loads: Vec<Load> = loads.into_iter().enumerate().map(number).collect();
            for balance in ALL {
                let chosen = choose(balance, &mut loads.clone(), &hint);
                prop_assert_eq!(chosen.is_some(), loads.iter().any(Load::eligible));
                if let Some(chosen) = chosen {
                    prop_assert!(loads[chosen].eligible());
                    let needless = loads.iter().any(|load| load.eligible() && !load.backup);
                    prop_assert!(!(loads[chosen].backup && needless));
                }
            }
        }

        #[test]
        fn a_round_gives_each_its_weight(mut loads in any_loads(), start in 0..1000usize) {
            loads.iter_mut().for_each(|load| load.share = WHOLE);
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
