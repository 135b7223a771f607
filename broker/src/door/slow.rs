//! Password checks that are slow by intent: few at once, on threads that may block; right ones are remembered for a
//! while, so that a fleet that comes back does not pay again.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::memory::{Memory, Namer};
use crate::access::{Cost, StoredSecret};
use crate::limits;

#[derive(Debug)]
pub(super) struct SlowChecks {
    permits: Arc<Semaphore>,
    known: Memory<()>,
    namer: Namer,
    /// The costliest record that was seen.
    sample: Mutex<(Cost, Zeroizing<String>)>,
}

impl SlowChecks {
    pub(super) fn new(namer: Namer) -> Self {
        let permits = Arc::new(Semaphore::new(limits::PASSWORD_CHECKS));
        Self { permits, known: Memory::new(limits::PASSWORDS_REMEMBERED), namer, sample: Mutex::default() }
    }

    /// Whether `secret` is what was stored.
    pub(super) async fn is_right(&self, stored: &str, secret: &[u8]) -> bool {
        let name = self.namer.name(&[Some(stored.as_bytes()), Some(secret)]);
        let now = Instant::now();
        if self.known.recall(&name, now).is_some() {
            return true;
        }
        let right = self.run(stored, secret).await;
        if right {
            self.known.keep(name, (), now, limits::PASSWORD_MEMORY);
        }
        right
    }

    /// Remembers what records of this store cost, for [`Self::even_out`].
    pub(super) fn learn(&self, cost: Cost, stored: &str) {
        let mut sample = self.sample.lock();
        if cost > sample.0 {
            *sample = (cost, Zeroizing::new(stored.to_owned()));
        }
    }

    /// Makes a refusal cost what the costliest check costs, for nothing: else its time would tell which names exist, and
    /// of what kind their secrets are. `spent` is what the refusal has cost so far.
    pub(super) async fn even_out(&self, spent: Cost, listed: (Cost, &str), secret: &[u8]) {
        let seen = self.sample.lock().clone();
        let costliest = if listed.0 > seen.0 { (listed.0, listed.1) } else { (seen.0, seen.1.as_str()) };
        if costliest.0 > spent {
            self.run(costliest.1, secret).await;
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const CHEAP: &str = "$7$101$eyg7X1+0GhPQc9ZJ$SIlC5Dlntm7GNzHHIeooYip2TaZQaALYvp8mtqRl7nljUgvrQNUnlKqZOxmrIxiF+aThMi0oy0ErrDgbD6rA1g==";
    const COSTLY: &str = "$7$102$eyg7X1+0GhPQc9ZJ$SIlC5Dlntm7GNzHHIeooYip2TaZQaALYvp8mtqRl7nljUgvrQNUnlKqZOxmrIxiF+aThMi0oy0ErrDgbD6rA1g==";

    async fn is_done(work: impl Future<Output = impl Sized>) -> bool {
        tokio::time::timeout(Duration::from_millis(20), work).await.is_ok()
    }

    /// With all permits taken, what needs a check waits, and what does not is done.
    #[tokio::test]
    async fn a_refusal_pays_what_the_costliest_record_costs_and_nothing_where_all_are_quick() {
        let checks = SlowChecks::new(Namer::new());
        let all = u32::try_from(limits::PASSWORD_CHECKS).unwrap();
        let _taken = checks.permits.acquire_many(all).await.unwrap();
        let (none, cheap) = ((Cost::Nothing, ""), (Cost::Iterations(101), CHEAP));
        assert!(is_done(checks.even_out(Cost::Nothing, none, b"x")).await);
        assert!(!is_done(checks.even_out(Cost::Nothing, cheap, b"x")).await);
        assert!(is_done(checks.even_out(cheap.0, cheap, b"x")).await);
        checks.learn(Cost::Iterations(102), COSTLY);
        assert!(!is_done(checks.even_out(Cost::Nothing, none, b"x")).await);
        assert!(!is_done(checks.even_out(cheap.0, cheap, b"x")).await);
        assert!(is_done(checks.even_out(Cost::Iterations(102), cheap, b"x")).await);
    }

    #[tokio::test]
    async fn right_passwords_are_remembered_and_wrong_ones_are_not() {
        let checks = SlowChecks::new(Namer::new());
        assert!(checks.is_right(CHEAP, b"secret").await);
        assert!(!checks.is_right(CHEAP, b"wrong").await);
        assert!(!checks.is_right(COSTLY, b"secret").await);
        let all = u32::try_from(limits::PASSWORD_CHECKS).unwrap();
        let _taken = checks.permits.acquire_many(all).await.unwrap();
        assert!(checks.is_right(CHEAP, b"secret").await);
        assert!(!is_done(checks.is_right(CHEAP, b"wrong")).await);
        assert!(!is_done(checks.is_right(COSTLY, b"secret")).await, "another record, another check");
    }
}
