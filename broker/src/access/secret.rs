//! Stored secrets: what a record says, and whether a password fits it.
//!
//! | begins with | is | made by |
//! | --- | --- | --- |
//! | `$argon2id$` | a PHC string, for what people choose | `nsd-broker passwd` |
//! | `$scram-sha-256$` | keys of SCRAM-SHA-256, for passwords that are not sent | `nsd-broker passwd --scram` |
//! | `$sha256$` | salted SHA-256 in hex, for generated secrets of high entropy | device registries |
//! | `$7$` | PBKDF2-HMAC-SHA512 in base64 | `mosquitto_passwd` |
//! | `$pbkdf2-sha1$` | PBKDF2-HMAC-SHA1 in base64 | `nsd-broker convert mosca` |
//! | `$6$` | SHA-512 of password and salt in base64 | `mosquitto_passwd -H sha512` |

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::pbkdf2;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use nsd_edge::password::{fits, is_argon2id};
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;

use super::scram;

/// What one check may cost at most: a record is no way to take a minute of the server's time.
const MOST_ITERATIONS: u32 = 10_000_000;

/// A record's secret, understood.
pub enum StoredSecret<'s> {
    Argon2(&'s str),
    Scram(scram::Record),
    Pbkdf2 { algorithm: pbkdf2::Algorithm, iterations: NonZeroU32, salt: Vec<u8>, hash: Vec<u8> },
    Sha512 { salt: Vec<u8>, digest: Vec<u8> },
    Sha256 { salt: Vec<u8>, digest: Vec<u8> },
}

/// The outcome of comparing what can be compared at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    Right,
    Wrong,
    /// Only [`StoredSecret::is_of`] can tell, on a thread that may block.
    Slow,
}

/// What a check takes, from nothing worth mentioning to most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cost {
    #[default]
    Nothing,
    Iterations(u32),
    Argon2,
}

impl<'s> StoredSecret<'s> {
    /// `None` for a record that nobody can match.
    pub fn parse(stored: &'s str) -> Option<Self> {
        let (kind, rest) = stored.strip_prefix('$')?.split_once('$')?;
        match kind {
            "argon2id" => is_argon2id(stored).then_some(Self::Argon2(stored)),
            "scram-sha-256" => scram::Record::parse(stored).map(Self::Scram),
            "sha256" => {
                let (salt, digest) = rest.split_once('$')?;
                let (salt, digest) = (hex::decode(salt).ok()?, hex::decode(digest).ok()?);
                (digest.len() == 32).then_some(Self::Sha256 { salt, digest })
            }
            "6" => {
                let (salt, digest) = both(rest, 64)?;
                Some(Self::Sha512 { salt, digest })
            }
            "7" | "pbkdf2-sha1" => {
                let is_sha1 = kind == "pbkdf2-sha1";
                let (algorithm, length) =
                    if is_sha1 { (pbkdf2::PBKDF2_HMAC_SHA1, 20) } else { (pbkdf2::PBKDF2_HMAC_SHA512, 64) };
                let (iterations, rest) = rest.split_once('$')?;
                let iterations: NonZeroU32 = iterations.parse().ok()?;
                let (salt, hash) = both(rest, length)?;
                (iterations.get() <= MOST_ITERATIONS).then_some(Self::Pbkdf2 {
                    algorithm,
                    iterations,
                    salt,
                    hash,
                })
            }
            _ => None,
        }
    }

    pub fn is_slow(&self) -> bool {
        self.cost() > Cost::default()
    }

    /// What a check takes.
    pub fn cost(&self) -> Cost {
        match self {
            Self::Sha256 { .. } | Self::Sha512 { .. } => Cost::Nothing,
            Self::Pbkdf2 { iterations, .. } => Cost::Iterations(iterations.get()),
            Self::Scram(record) => Cost::Iterations(record.iterations().get()),
            Self::Argon2(_) => Cost::Argon2,
        }
    }

    pub fn check(&self, secret: &[u8]) -> Check {
        match self {
            slow if slow.is_slow() => Check::Slow,
            quick if quick.is_of(secret) => Check::Right,
            _ => Check::Wrong,
        }
    }

    /// Whether this is the secret; takes its time where that is the point.
    pub fn is_of(&self, secret: &[u8]) -> bool {
        match self {
            Self::Argon2(stored) => fits(secret, stored),
            Self::Scram(record) => record.is_of(secret),
            Self::Pbkdf2 { algorithm, iterations, salt, hash } => {
                pbkdf2::verify(*algorithm, *iterations, salt, secret, hash).is_ok()
            }
            Self::Sha512 { salt, digest } => {
                let given = Sha512::new().chain_update(secret).chain_update(salt).finalize();
                given.as_slice().ct_eq(digest).into()
            }
            Self::Sha256 { salt, digest } => {
                let given = Sha256::new().chain_update(salt).chain_update(secret).finalize();
                given.as_slice().ct_eq(digest).into()
            }
        }
    }
}

/// The kind alone: the rest would help who guesses.
impl fmt::Debug for StoredSecret<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Argon2(_) => "Argon2",
            Self::Scram(_) => "Scram",
            Self::Pbkdf2 { .. } => "Pbkdf2",
            Self::Sha512 { .. } => "Sha512",
            Self::Sha256 { .. } => "Sha256",
        })
    }
}

/// Salt and 64 bytes of hash, as Mosquitto writes them.
fn both(text: &str, length: usize) -> Option<(Vec<u8>, Vec<u8>)> {
    let (salt, hash) = text.split_once('$')?;
    let (salt, hash) = (BASE64.decode(salt).ok()?, BASE64.decode(hash).ok()?);
    (hash.len() == length && !salt.is_empty()).then_some((salt, hash))
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

    /// Written by `mosquitto_passwd` 2.0.11 for the password `secret`.
    #[test]
    fn mosquittos_records() {
        let slow = "$7$101$eyg7X1+0GhPQc9ZJ$SIlC5Dlntm7GNzHHIeooYip2TaZQaALYvp8mtqRl7nljUgvrQNUnlKqZOxmrIxiF+aThMi0oy0ErrDgbD6rA1g==";
        let quick = "$6$pgrM1FO9ffoeUI8a$BVldPuseGjhXVjdjLGBXSD85uW+z5NrD19ZPGLbc6XwVcuuwCYEX+4IRtV+h5A+kkdzmpKDoz7hyixs2lDvUqw==";
        for (stored, check) in [(slow, Check::Slow), (quick, Check::Right)] {
            let stored = StoredSecret::parse(stored).unwrap();
            assert_eq!(stored.check(b"secret"), check);
            assert!(stored.is_of(b"secret") && !stored.is_of(b"secreT") && !stored.is_of(b""));
        }
    }

    #[test]
    fn records_for_people_take_time() {
        let stored = nsd_edge::password::argon2id(b"secret").unwrap();
        let stored = StoredSecret::parse(&stored).unwrap();
        assert_eq!(stored.check(b"secret"), Check::Slow);
        assert!(stored.is_of(b"secret") && !stored.is_of(b"secreT"));
        let record = scram::Record::derive(b"secret", b"salt", NonZeroU32::new(4096).unwrap());
        let written = scram::written(&record);
        let stored = StoredSecret::parse(&written).unwrap();
        assert!(stored.is_slow() && stored.is_of(b"secret") && !stored.is_of(b"secreT"));
        assert_eq!(format!("{stored:?}"), "Scram");
    }

    #[test]
    fn odd_and_ruinous_records_match_nobody() {
        for odd in [
            "",
            "plain",
            "$sha256$",
            "$sha256$zz$00",
            "$sha256$ab$00",
            "$argon2i$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2g",
            "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ",
            "$argon2id$v=19$m=4294967295,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
            "$argon2id$v=19$m=64,t=1000000,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
            "$7$0$c2FsdA==$aGFzaA==",
            "$7$101$c2FsdA==$aGFzaA==",
            "$7$4294967295$eyg7X1+0GhPQc9ZJ$SIlC5Dlntm7GNzHHIeooYip2TaZQaALYvp8mtqRl7nljUgvrQNUnlKqZOxmrIxiF+aThMi0oy0ErrDgbD6rA1g==",
            "$6$c2FsdA==",
            "$6$$",
            "$5$c2FsdA==$aGFzaA==",
        ] {
            assert!(StoredSecret::parse(odd).is_none(), "{odd}");
        }
    }
}
