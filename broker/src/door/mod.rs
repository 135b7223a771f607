//! The door: everything that is looked up and computed before a client is let in. Decisions are `access`'s.
//!
//! Sources of identity are asked in this order, and the first that knows the client decides: its certificate, a token,
//! the password file, the devices of the store, the service. Who is known and shows a wrong secret is out; nobody after
//! is asked.

mod memory;
pub(crate) mod service;
mod slow;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nsd_edge::drain::Drain;
use nsd_wire::ReasonCode;
use tracing::{debug, warn};
use zeroize::Zeroizing;

use crate::access::scram::{self, ClientFirst, Exchange};
use crate::access::{Check, Claim, Cost, Credentials, Grant, Refusal, StoredSecret, is_device_id};
use crate::connection::Peer;
use crate::session::Opening;
use crate::settings::{Access, Tokens};
use crate::store::Store;
use memory::Namer;
use service::{Question, Service, Verdict};
use slow::SlowChecks;

#[derive(Debug)]
pub struct Door {
    access: Access,
    store: Arc<Store>,
    slow: SlowChecks,
    service: Option<Service>,
    namer: Namer,
    /// Of SCRAM records that were seen, or zero: what an imitation has to look like.
    iterations: AtomicU32,
}

impl Door {
    pub fn new(access: Access, store: Arc<Store>) -> Self {
        let namer = Namer::new();
        let service = access.service.clone().map(|settings| Service::new(settings, namer.clone()));
        let slow = SlowChecks::new(namer.clone());
        Self { access, store, slow, service, namer, iterations: AtomicU32::new(0) }
    }

    /// Files that change are read again, until the drain begins.
    pub fn follow_files(&self, drain: &Drain) {
        if let Some(passwords) = &self.access.passwords {
            tokio::spawn(Arc::clone(passwords).follow(drain.watch()));
        }
        if let Some(acl) = &self.access.acl {
            tokio::spawn(Arc::clone(acl).follow(drain.watch()));
        }
        if let Some(tokens) = &self.access.tokens {
            tokio::spawn(Arc::clone(&tokens.keys).follow(drain.watch()));
        }
    }

    /// Who this is and what it may do; the error is what its CONNACK says.
    pub async fn admit(&self, opening: &Opening, peer: &Peer) -> Result<Grant, ReasonCode> {
        let shown = Credentials {
            user: opening.user_name.as_deref(),
            password: opening.password.as_ref().map(|password| password.as_slice()),
            certified: peer.certified.as_deref(),
        };
        let client = &*opening.client_id;
        let grant = match &opening.proven {
            Some(user) => self.grant(Some(user), client),
            None => self.by_claim(&shown, client, peer).await?,
        };
        if !self.access.certificate.agrees(shown.certified, grant.device()) {
            return Err(ReasonCode::BadUserNameOrPassword);
        }
        match &opening.will {
            Some(will) if !grant.may_publish(will.message.publish().topic) => Err(ReasonCode::NotAuthorized),
            _ => Ok(grant),
        }
    }

    /// Begins SCRAM-SHA-256 with a client's first message. Who is not known is asked to prove itself like everybody.
    pub async fn challenge(&self, first: &[u8]) -> Result<Exchange, ReasonCode> {
        if !self.access.policy.devices && self.access.passwords.is_none() {
            return Err(ReasonCode::BadAuthenticationMethod);
        }
        let first = ClientFirst::parse(first).map_err(|error| {
            debug!(%error, "authentication refused");
            ReasonCode::NotAuthorized
        })?;
        let stored = self.stored_secret(first.user()).await?.flatten();
        let known = stored.and_then(|stored| scram::Record::parse(&stored));
        if let Some(record) = &known {
            self.iterations.store(record.iterations().get(), Ordering::Relaxed);
        }
        let record = known.unwrap_or_else(|| {
            let seen = NonZeroU32::new(self.iterations.load(Ordering::Relaxed));
            let listed = self.access.passwords.as_ref().and_then(|file| file.current().scram_iterations());
            let iterations = listed.or(seen).unwrap_or(scram::USUAL_ITERATIONS);
            scram::Record::imitation(self.namer.key(), first.user(), iterations)
        });
        Ok(first.challenge(record, &uuid::Uuid::new_v4().simple().to_string()))
    }

    async fn by_claim(
        &self,
        shown: &Credentials<'_>,
        client: &str,
        peer: &Peer,
    ) -> Result<Grant, ReasonCode> {
        let claim = self.access.policy.claim(self.access.sources(), shown).map_err(told)?;
        Ok(match claim {
            Claim::Anonymous => self.grant(None, client),
            Claim::Certified(name) => self.grant(Some(name), client),
            Claim::Token(token) => self.by_token(token, client)?,
            Claim::Password { user, secret } => match self.stored_secret(user).await? {
                Some(stored) => {
                    let stored = stored.as_ref().map(|stored| stored.as_str());
                    self.check(user, stored, secret).await?;
                    self.grant(Some(user), client)
                }
                None if self.service.is_some() => self.by_service(shown, client, peer).await?,
                None => return Err(self.refuse(Cost::Nothing, secret).await),
            },
            Claim::Service => self.by_service(shown, client, peer).await?,
        })
    }

    /// What the operator's rule and file give this user.
    fn grant(&self, user: Option<&str>, client_id: &str) -> Grant {
        let grant = self.access.policy.grant(user);
        match &self.access.acl {
            None => grant,
            Some(acl) => grant.within(acl.shared(), client_id),
        }
    }

    /// The secret that belongs to a name: `None` where nobody knows it, `Some(None)` for one that nobody can match. It
    /// is looked up each time, so a removed or changed user is out at once; only slow checks are remembered.
    async fn stored_secret(&self, user: &str) -> Result<Option<Option<Zeroizing<String>>>, ReasonCode> {
        if let Some(passwords) = &self.access.passwords
            && let Some(secret) = passwords.current().secret(user)
        {
            return Ok(Some(Some(Zeroizing::new(secret.to_owned()))));
        }
        if !self.access.policy.devices || !is_device_id(user) {
            return Ok(None);
        }
        let record = self.store.device(user).await.map_err(|error| {
            warn!(device = user, %error, "cannot look a device up");
            ReasonCode::ServerUnavailable
        })?;
        let usable = |disabled: bool, secret: String| (!disabled).then(|| Zeroizing::new(secret));
        Ok(record.map(|record| usable(record.disabled, record.secret)))
    }

    async fn check(&self, user: &str, stored: Option<&str>, secret: &[u8]) -> Result<(), ReasonCode> {
        let parsed = stored.and_then(|text| StoredSecret::parse(text).map(|parsed| (text, parsed)));
        if stored.is_some() && parsed.is_none() {
            warn!(user, "its record's secret is in no known form");
        }
        let Some((stored, parsed)) = parsed else { return Err(self.refuse(Cost::Nothing, secret).await) };
        self.slow.learn(parsed.cost(), stored);
        let right = match parsed.check(secret) {
            Check::Right => true,
            Check::Wrong => false,
            Check::Slow => self.slow.is_right(stored, secret).await,
        };
        if right { Ok(()) } else { Err(self.refuse(parsed.cost(), secret).await) }
    }

    /// All refusals take about the same time: `spent` is what this one has cost so far.
    async fn refuse(&self, spent: Cost, secret: &[u8]) -> ReasonCode {
        let passwords = self.access.passwords.as_ref().map(|passwords| passwords.current());
        let listed = passwords.as_ref().map_or((Cost::Nothing, ""), |passwords| passwords.costliest());
        self.slow.even_out(spent, listed, secret).await;
        ReasonCode::BadUserNameOrPassword
    }

    fn by_token(&self, token: &str, client_id: &str) -> Result<Grant, ReasonCode> {
        let Some(Tokens { keys, rules }) = &self.access.tokens else {
            return Err(ReasonCode::BadUserNameOrPassword);
        };
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let identity = keys.current().verify(rules, token, since_1970).map_err(|error| {
            debug!(client = client_id, %error, "token refused");
            ReasonCode::BadUserNameOrPassword
        })?;
        let grant = self.grant(Some(&identity.user), client_id);
        let grant = match identity.lists {
            None => grant,
            Some(lists) => grant.with_lists(lists),
        };
        // A time that no clock can say is never.
        let left = Duration::from_secs(identity.ends.saturating_sub(since_1970));
        Ok(grant.until(Instant::now().checked_add(left)))
    }

    async fn by_service(
        &self,
        shown: &Credentials<'_>,
        client_id: &str,
        peer: &Peer,
    ) -> Result<Grant, ReasonCode> {
        let Some(service) = &self.service else { return Err(ReasonCode::BadUserNameOrPassword) };
        let password = shown.password.map(std::str::from_utf8).transpose().map_err(|_| {
            debug!(client = client_id, "its password is no text, so the service cannot be asked");
            ReasonCode::BadUserNameOrPassword
        })?;
        let question = Question {
            client_id,
            username: shown.user,
            password,
            address: peer.address.ip(),
            certificate: shown.certified,
        };
        match service.ask(&question).await {
            Err(()) => Err(ReasonCode::ServerUnavailable),
            Ok(Verdict::Refused) => Err(ReasonCode::BadUserNameOrPassword),
            Ok(Verdict::Allowed { superuser, lists }) => {
                let grant = self.grant(shown.user.or(shown.certified), client_id);
                Ok(match lists {
                    _ if superuser => grant.of_superuser(),
                    Some(lists) => grant.with_lists(lists),
                    None => grant,
                })
            }
        }
    }
}

fn told(refusal: Refusal) -> ReasonCode {
    match refusal {
        Refusal::BadCredentials => ReasonCode::BadUserNameOrPassword,
        Refusal::NotAuthorized => ReasonCode::NotAuthorized,
    }
}
