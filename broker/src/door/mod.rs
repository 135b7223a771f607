//! The door: everything that is looked up and computed before a client is let in. Decisions are `access`'s.

use std::sync::Arc;
use std::time::Instant;

use argon2::{Argon2, PasswordVerifier};
use foldhash::{HashMap, HashMapExt};
use nsd_wire::ReasonCode;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tracing::warn;

use crate::access::{Check, Claim, Grant, Policy, Refusal, StoredSecret};
use crate::connection::Peer;
use crate::limits;
use crate::session::Opening;
use crate::store::Store;

#[derive(Debug)]
pub struct Door {
    policy: Policy,
    store: Arc<Store>,
    /// Right passwords of the last minute, as hashes under a key of this process: useless in a memory dump.
    known: Mutex<HashMap<[u8; 32], Instant>>,
    key: [u8; 32],
    slow_checks: Arc<Semaphore>,
}

impl Door {
    pub fn new(policy: Policy, store: Arc<Store>) -> Self {
        let mut key = [0; 32];
        key[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        key[16..].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        let slow_checks = Arc::new(Semaphore::new(limits::PASSWORD_CHECKS));
        Self { policy, store, known: Mutex::new(HashMap::new()), key, slow_checks }
    }

    /// Who this is and what it may do; the error is what its CONNACK says.
    pub async fn admit(&self, opening: &Opening, _peer: &Peer) -> Result<Grant, ReasonCode> {
        let password = opening.password.as_ref().map(|password| password.as_slice());
        let claim = self.policy.claim(opening.user_name.as_deref(), password).map_err(told)?;
        let grant = match claim {
            Claim::Anonymous => self.policy.grant(None),
            Claim::Device { id, secret } => {
                self.authenticate(id, secret).await?;
                self.policy.grant(Some(id))
            }
        };
        match &opening.will {
            Some(will) if !grant.may_publish(will.message.publish().topic) => Err(ReasonCode::NotAuthorized),
            _ => Ok(grant),
        }
    }

    /// The record is read each time, so a removed or changed device is out at once; only argon2 is remembered.
    async fn authenticate(&self, id: &str, secret: &[u8]) -> Result<(), ReasonCode> {
        let record = self.store.device(id).await.map_err(|error| {
            warn!(device = id, %error, "cannot look a device up");
            ReasonCode::ServerUnavailable
        })?;
        let record = record.filter(|record| !record.disabled).ok_or(ReasonCode::BadUserNameOrPassword)?;
        let stored = StoredSecret::parse(&record.secret).ok_or_else(|| {
            warn!(device = id, "its record's secret is in no known form");
            ReasonCode::BadUserNameOrPassword
        })?;
        let right = match stored.check(secret) {
            Check::Right => true,
            Check::Wrong => false,
            Check::Slow => self.check_slowly(&record.secret, secret).await,
        };
        if right { Ok(()) } else { Err(ReasonCode::BadUserNameOrPassword) }
    }

    async fn check_slowly(&self, stored: &str, secret: &[u8]) -> bool {
        let name = self.name(stored, secret);
        let now = Instant::now();
        if self.known.lock().get(&name).is_some_and(|until| now < *until) {
            return true;
        }
        // A closed semaphore cannot be: nobody closes it.
        let Ok(permit) = Arc::clone(&self.slow_checks).acquire_owned().await else { return false };
        let (stored, secret) = (stored.to_owned(), zeroize::Zeroizing::new(secret.to_vec()));
        let check = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            PasswordVerifier::<str>::verify_password(&Argon2::default(), &secret, &stored).is_ok()
        });
        let right = check.await.unwrap_or(false);
        if right {
            let mut known = self.known.lock();
            if known.len() >= limits::PASSWORDS_REMEMBERED {
                known.clear();
            }
            known.insert(name, now + limits::PASSWORD_MEMORY);
        }
        right
    }

    fn name(&self, stored: &str, secret: &[u8]) -> [u8; 32] {
        let length = (stored.len() as u64).to_be_bytes();
        let hash = Sha256::new().chain_update(self.key).chain_update(length).chain_update(stored);
        hash.chain_update(secret).finalize().into()
    }
}

fn told(refusal: Refusal) -> ReasonCode {
    match refusal {
        Refusal::BadCredentials => ReasonCode::BadUserNameOrPassword,
        Refusal::NotAuthorized => ReasonCode::NotAuthorized,
    }
}
