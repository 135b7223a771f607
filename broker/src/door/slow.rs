//! Password checks that are slow by intent: few at once, on threads that may block; right ones are remembered for a
//! while, so that a fleet that comes back does not pay again.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::memory::{Memory, Namer};
use crate::access::StoredSecret;
use crate::limits;

#[derive(Debug)]
pub(super) struct SlowChecks {
    permits: Arc<Semaphore>,
    known: Memory<()>,
    namer: Namer,
    /// A slow record that was seen: what a refusal must cost so that it does not tell which names exist.
    sample: Mutex<Option<Zeroizing<String>>>,
}

impl SlowChecks {
    pub(super) fn new(namer: Namer) -> Self {
        let permits = Arc::new(Semaphore::new(limits::PASSWORD_CHECKS));
        Self { permits, known: Memory::new(limits::PASSWORDS_REMEMBERED), namer, sample: Mutex::new(None) }
    }

    /// Whether `secret` is what was stored.
    pub(super) async fn is_right(&self, stored: &str, secret: &[u8]) -> bool {
        let name = self.namer.name(&[Some(stored.as_bytes()), Some(secret)]);
        let now = Instant::now();
        if self.known.recall(&name, now).is_some() {
            return true;
        }
        self.sample.lock().get_or_insert_with(|| Zeroizing::new(stored.to_owned()));
        let right = self.run(stored, secret).await;
        if right {
            self.known.keep(name, (), now, limits::PASSWORD_MEMORY);
        }
        right
    }

    /// Takes as long as a check, for nothing. `sample` is the record to imitate, if the caller knows one.
    pub(super) async fn spend(&self, sample: Option<&str>, secret: &[u8]) {
        let seen = sample.map(|sample| Zeroizing::new(sample.to_owned()));
        let seen = seen.or_else(|| self.sample.lock().clone());
        if let Some(sample) = seen {
            self.run(&sample, secret).await;
        }
    }

    async fn run(&self, stored: &str, secret: &[u8]) -> bool {
        // A closed semaphore cannot be: nobody closes it.
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { return false };
        let (stored, secret) = (Zeroizing::new(stored.to_owned()), Zeroizing::new(secret.to_vec()));
        let check = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            StoredSecret::parse(&stored).is_some_and(|stored| stored.is_of(&secret))
        });
        check.await.unwrap_or(false)
    }
}
