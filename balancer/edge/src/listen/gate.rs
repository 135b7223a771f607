//! Who may come through a listener, and how many at once: rules about sources, counts in all and by source.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use thiserror::Error;

use super::network::{Network, any_contains, household};

/// What an operator says about a listener's clients. By default everybody may come, in any number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GateRules {
    /// At most so many connections at once; one more is closed as soon as it is accepted.
    pub connections: Option<usize>,
    /// The same for one source: an IPv4 address, or the /64 network of an IPv6 one, which is what one household gets.
    pub connections_per_address: Option<u32>,
    /// Nobody else may come. Empty: all may.
    pub allow: Vec<Network>,
    /// These may not, even if they are allowed.
    pub deny: Vec<Network>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("the listener has as many connections as it may")]
    Full,
    #[error("this source has as many connections as it may")]
    SourceFull,
    #[error("this source may not come")]
    Source,
}

#[derive(Debug, Default)]
pub struct Gate {
    rules: ArcSwap<GateRules>,
    inside: AtomicUsize,
    /// Only where there is a limit by source.
    by_source: Mutex<HashMap<IpAddr, u32>>,
    refused: AtomicU64,
}

/// One connection's place inside, until dropped.
#[derive(Debug)]
pub struct Place {
    gate: Arc<Gate>,
    source: Option<IpAddr>,
}

impl Gate {
    pub fn new(rules: GateRules) -> Self {
        Self { rules: ArcSwap::from_pointee(rules), ..Self::default() }
    }

    /// Counts for who comes from now on; who is inside stays, and stays counted. By source only those are counted who came
    /// while there was a limit by source.
    pub fn set_rules(&self, rules: GateRules) {
        self.rules.store(Arc::new(rules));
    }

    /// Connections that are inside.
    pub fn inside(&self) -> usize {
        self.inside.load(Relaxed)
    }

    /// Connections that were refused since the start.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// A place for a connection whose source is not told yet, behind a proxy for instance.
    pub fn enter(self: &Arc<Self>) -> Result<Place, Refusal> {
        let most = self.rules.load().connections.unwrap_or(usize::MAX);
        let room = |inside: usize| (inside < most).then_some(inside + 1);
        if self.inside.fetch_update(Relaxed, Relaxed, room).is_err() {
            return Err(self.refuse(Refusal::Full));
        }
        Ok(Place { gate: Arc::clone(self), source: None })
    }

    /// A place for a connection from `source`.
    pub fn admit(self: &Arc<Self>, source: IpAddr) -> Result<Place, Refusal> {
        let mut place = self.enter()?;
        place.settle(source)?;
        Ok(place)
    }

    fn refuse(&self, refusal: Refusal) -> Refusal {
        self.refused.fetch_add(1, Relaxed);
        refusal
    }
}

impl Place {
    /// Whether the place's owner may stay, now that its source is known. To be asked once; on an error, drop the place.
    pub fn settle(&mut self, source: IpAddr) -> Result<(), Refusal> {
        let rules = self.gate.rules.load();
        let allowed = rules.allow.is_empty() || any_contains(&rules.allow, source);
        if !allowed || any_contains(&rules.deny, source) {
            return Err(self.gate.refuse(Refusal::Source));
        }
        let Some(most) = rules.connections_per_address else { return Ok(()) };
        let source = household(source);
        let mut by_source = self.gate.by_source.lock();
        let count = by_source.entry(source).or_default();
        if *count >= most {
            return Err(self.gate.refuse(Refusal::SourceFull));
        }
        *count += 1;
        self.source = Some(source);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.inside.fetch_sub(1, Relaxed);
        let Some(source) = self.source else { return };
        let mut by_source = self.gate.by_source.lock();
        let Some(count) = by_source.get_mut(&source) else { return };
        *count -= 1;
        if *count == 0 {
            by_source.remove(&source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(rules: GateRules) -> Arc<Gate> {
        Arc::new(Gate::new(rules))
    }

    fn settled(gate: &Arc<Gate>, source: &str) -> Result<Place, Refusal> {
        gate.admit(source.parse().unwrap())
    }

    #[test]
    fn a_full_listener_refuses_until_one_leaves() {
        let gate = gate(GateRules { connections: Some(2), ..GateRules::default() });
        let first = gate.enter().unwrap();
        let _second = gate.enter().unwrap();
        assert_eq!(gate.enter().unwrap_err(), Refusal::Full);
        drop(first);
        assert!(gate.enter().is_ok());
        assert_eq!((gate.inside(), gate.refused()), (1, 1));
    }

    #[test]
    fn one_source_cannot_take_all_and_leaves_no_trace() {
        let gate = gate(GateRules { connections_per_address: Some(1), ..GateRules::default() });
        let first = settled(&gate, "192.0.2.1").unwrap();
        assert_eq!(settled(&gate, "::ffff:192.0.2.1").unwrap_err(), Refusal::SourceFull);
        let _other = settled(&gate, "192.0.2.2").unwrap();
        let wide = settled(&gate, "2001:db8::1").unwrap();
        assert_eq!(settled(&gate, "2001:db8::ffff:1").unwrap_err(), Refusal::SourceFull);
        drop((first, wide));
        drop(settled(&gate, "192.0.2.1").unwrap());
        assert_eq!((gate.by_source.lock().len(), gate.inside()), (1, 1), "only `other` is inside");
    }

    #[test]
    fn new_rules_are_for_who_comes_from_then_on() {
        let gate = gate(GateRules { connections_per_address: Some(2), ..GateRules::default() });
        let _first = settled(&gate, "192.0.2.1").unwrap();
        gate.set_rules(GateRules { connections_per_address: Some(1), ..GateRules::default() });
        assert_eq!(settled(&gate, "192.0.2.1").unwrap_err(), Refusal::SourceFull, "who was inside counts");
        gate.set_rules(GateRules { deny: vec!["192.0.2.0/24".parse().unwrap()], ..GateRules::default() });
        assert_eq!(settled(&gate, "192.0.2.1").unwrap_err(), Refusal::Source);
        assert_eq!(gate.inside(), 1);
    }

    #[test]
    fn denied_wins_over_allowed() {
        let networks = |all: &[&str]| all.iter().map(|text| text.parse().unwrap()).collect();
        let gate = gate(GateRules {
            allow: networks(&["10.0.0.0/8", "::1"]),
            deny: networks(&["10.9.0.0/16"]),
            ..GateRules::default()
        });
        for (source, outcome) in [
            ("10.1.2.3", Ok(())),
            ("::ffff:10.1.2.3", Ok(())),
            ("::1", Ok(())),
            ("10.9.0.1", Err(Refusal::Source)),
            ("192.0.2.1", Err(Refusal::Source)),
        ] {
            assert_eq!(settled(&gate, source).map(drop), outcome, "{source}");
        }
        assert_eq!(gate.inside(), 0);
        assert!("10.0.0.0/33".parse::<Network>().is_err() && "host".parse::<Network>().is_err());
    }
}
