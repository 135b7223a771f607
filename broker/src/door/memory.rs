//! What the door remembers of credentials: outcomes for a while, under names that are useless in a memory dump.

use std::time::{Duration, Instant};

use foldhash::{HashMap, HashMapExt};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

/// A hash under a key of this process.
pub(super) type Name = [u8; 32];

/// Makes names; the key is random and dies with the process.
#[derive(Clone)]
pub(super) struct Namer {
    key: [u8; 32],
}

impl Namer {
    pub(super) fn new() -> Self {
        let mut key = [0; 32];
        key[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        key[16..].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        Self { key }
    }

    /// Parts cannot run into each other: each is led by its length, and `None` is no empty part.
    pub(super) fn name(&self, parts: &[Option<&[u8]>]) -> Name {
        let mut hash = Sha256::new().chain_update(self.key);
        for part in parts {
            let length = part.map_or(u64::MAX, |part| part.len() as u64);
            hash = hash.chain_update(length.to_be_bytes()).chain_update(part.unwrap_or_default());
        }
        hash.finalize().into()
    }

    /// For what must look random outside, and be the same each time.
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }
}

impl std::fmt::Debug for Namer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Namer")
    }
}

/// Bounded: when it is full it forgets what is over, and if nothing is, everything.
#[derive(Debug)]
pub(super) struct Memory<V> {
    most: usize,
    known: Mutex<HashMap<Name, (Instant, V)>>,
}

impl<V: Clone> Memory<V> {
    pub(super) fn new(most: usize) -> Self {
        Self { most, known: Mutex::new(HashMap::new()) }
    }

    pub(super) fn recall(&self, name: &Name, now: Instant) -> Option<V> {
        self.known.lock().get(name).filter(|(until, _)| now < *until).map(|(_, value)| value.clone())
    }

    pub(super) fn keep(&self, name: Name, value: V, now: Instant, lasts: Duration) {
        if lasts.is_zero() {
            return;
        }
        let mut known = self.known.lock();
        if known.len() >= self.most {
            known.retain(|_, (until, _)| now < *until);
        }
        if known.len() >= self.most {
            known.clear();
        }
        known.insert(name, (now + lasts, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_depend_on_every_part_and_on_the_key() {
        let namer = Namer::new();
        let names = [
            namer.name(&[Some(b"ab"), Some(b"c")]),
            namer.name(&[Some(b"a"), Some(b"bc")]),
            namer.name(&[Some(b"abc"), None]),
            namer.name(&[Some(b"abc"), Some(b"")]),
            Namer::new().name(&[Some(b"ab"), Some(b"c")]),
        ];
        for (at, name) in names.iter().enumerate() {
            assert!(!names[at + 1..].contains(name), "{at}");
        }
        assert_eq!(namer.name(&[Some(b"a"), None]), namer.name(&[Some(b"a"), None]));
    }

    #[test]
    fn memory_ends_with_time_and_is_bounded() {
        let (memory, now, second) = (Memory::new(3), Instant::now(), Duration::from_secs(1));
        let name = |number: u8| [number; 32];
        memory.keep(name(1), 'a', now, second);
        memory.keep(name(2), 'b', now, second * 10);
        memory.keep(name(9), 'z', now, Duration::ZERO);
        assert_eq!(memory.recall(&name(1), now), Some('a'));
        assert_eq!(memory.recall(&name(1), now + second), None);
        assert_eq!(memory.recall(&name(9), now), None);
        memory.keep(name(3), 'c', now, second * 10);
        memory.keep(name(4), 'd', now + second * 2, second);
        assert_eq!(memory.recall(&name(2), now + second * 2), Some('b'));
        memory.keep(name(5), 'e', now, second);
        assert_eq!(memory.recall(&name(2), now), None);
        assert_eq!(memory.recall(&name(5), now), Some('e'));
    }
}
