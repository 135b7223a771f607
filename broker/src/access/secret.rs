//! Stored device secrets: `$argon2id$…` for what people choose, salted SHA-256 for generated secrets of high entropy.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// A record's `secret` field, understood.
#[derive(Debug)]
pub enum StoredSecret<'s> {
    /// A PHC string. Checking it is slow by intent, so it belongs on a thread that may block.
    Argon2(&'s str),
    Sha256 {
        salt: Vec<u8>,
        digest: Vec<u8>,
    },
}

/// The outcome of comparing what can be compared at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    Right,
    Wrong,
    /// Only an argon2 run can tell.
    Slow,
}

impl<'s> StoredSecret<'s> {
    /// `None` for a record that nobody can match.
    pub fn parse(stored: &'s str) -> Option<Self> {
        if stored.starts_with("$argon2id$") {
            return Some(Self::Argon2(stored));
        }
        let (salt, digest) = stored.strip_prefix("$sha256$")?.split_once('$')?;
        let (salt, digest) = (hex::decode(salt).ok()?, hex::decode(digest).ok()?);
        (digest.len() == 32).then_some(Self::Sha256 { salt, digest })
    }

    pub fn check(&self, secret: &[u8]) -> Check {
        match self {
            Self::Argon2(_) => Check::Slow,
            Self::Sha256 { salt, digest } => {
                let given = Sha256::new().chain_update(salt).chain_update(secret).finalize();
                if bool::from(given.as_slice().ct_eq(digest)) { Check::Right } else { Check::Wrong }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_records() {
        let digest = Sha256::new().chain_update([0xab, 0xcd]).chain_update(b"secret").finalize();
        let stored = format!("$sha256$abcd${}", hex::encode(digest));
        let stored = StoredSecret::parse(&stored).unwrap();
        assert_eq!(stored.check(b"secret"), Check::Right);
        assert_eq!(stored.check(b"secreT"), Check::Wrong);
        assert_eq!(stored.check(b""), Check::Wrong);
    }

    #[test]
    fn argon2_records_take_time_and_odd_ones_match_nobody() {
        assert_eq!(
            StoredSecret::parse("$argon2id$v=19$m=8,t=1,p=1$c2FsdA$aGFzaA").unwrap().check(b"x"),
            Check::Slow
        );
        for odd in ["", "plain", "$sha256$", "$sha256$zz$00", "$sha256$ab$00", "$argon2i$v=19$x"] {
            assert!(StoredSecret::parse(odd).is_none(), "{odd}");
        }
    }
}
