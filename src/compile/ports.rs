//! The ports of each machine: those asked for are reserved first, then one is chosen for every port that leaves it to nsd.
//! The choice follows from the system's id and the machine's, process's and instance's own names, so it stays when others
//! come and go, and two systems on one machine hardly ever choose the same.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::manifest::WantedPort;
use crate::system::{InstanceName, Protocol};

/// Ports are chosen here: above the well-known ones, below Linux' ephemeral range (32768).
const FIRST: u16 = 20_000;
/// Every choice is a pair: an even port now, its odd neighbour left free so that a successor can stand beside it.
const PAIRS: u16 = 5_000;

/// Ports of one machine that are taken.
#[derive(Debug, Default)]
pub(super) struct Taken(BTreeSet<(u16, bool)>);

impl Taken {
    fn key(port: u16, protocol: Protocol) -> (u16, bool) {
        (port, protocol == Protocol::Udp)
    }

    pub(super) fn has(&self, port: u16, protocol: Protocol) -> bool {
        self.0.contains(&Self::key(port, protocol))
    }

    pub(super) fn reserve(&mut self, port: u16, protocol: Protocol) {
        self.0.insert(Self::key(port, protocol));
    }

    /// `None`: five thousand instances are more than one machine gets.
    pub(super) fn choose(
        &mut self,
        system: Uuid,
        instance: &InstanceName,
        wanted: &WantedPort,
    ) -> Option<u16> {
        let text = format!("{system}/{instance}/{}/{:?}", wanted.container, wanted.protocol);
        let hash: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        let start = u16::from_be_bytes([hash[0], hash[1]]) % PAIRS;
        let pairs = (0..PAIRS).map(|step| FIRST + 2 * ((start + step) % PAIRS));
        let free = |port: &u16| {
            [*port, port + 1].iter().all(|&port| !self.0.contains(&Self::key(port, wanted.protocol)))
        };
        let port = { pairs }.find(free)?;
        self.reserve(port, wanted.protocol);
        Some(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(text: &str) -> InstanceName {
        InstanceName::try_from(text.to_owned()).unwrap()
    }

    const WANTED: WantedPort = WantedPort { ip: None, host: None, container: 1883, protocol: Protocol::Tcp };

    #[test]
    fn a_choice_is_stable_and_never_taken() {
        let first = Taken::default().choose(Uuid::nil(), &instance("m.mqtt.1"), &WANTED).unwrap();
        assert_eq!(Taken::default().choose(Uuid::nil(), &instance("m.mqtt.1"), &WANTED), Some(first));
        assert_ne!(Taken::default().choose(Uuid::max(), &instance("m.mqtt.1"), &WANTED), Some(first));
        assert!((20_000..30_000).contains(&first) && first.is_multiple_of(2));
        let mut taken = Taken::default();
        taken.reserve(first + 1, Protocol::Tcp);
        let next = taken.choose(Uuid::nil(), &instance("m.mqtt.1"), &WANTED).unwrap();
        assert!(next != first && next.is_multiple_of(2));
    }

    #[test]
    fn all_pairs_can_be_used_and_no_more() {
        let mut taken = Taken::default();
        let chosen: BTreeSet<u16> = (0..PAIRS)
            .filter_map(|n| taken.choose(Uuid::nil(), &instance(&format!("m.x.{n}")), &WANTED))
            .collect();
        assert_eq!(chosen.len(), usize::from(PAIRS));
        assert_eq!(taken.choose(Uuid::nil(), &instance("m.y.1"), &WANTED), None);
    }
}
