//! One backend at run time: its servers, how one of them is chosen for a client, and who waits for one.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::credentials::Credentials;
use crate::member::{Member, Seat};
use crate::pick;
use crate::pool::{Entry, Pool};
use crate::queue::Queue;
use crate::settings::{Arrivals, Policy};

/// Whom a server is chosen for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Who {
    pub(crate) source: IpAddr,
    /// [`pick::key`] of the client's identifier, where it is known.
    pub(crate) client: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) name: String,
    pub(crate) policy: Arc<ArcSwap<Policy>>,
    pub(crate) pool: ArcSwap<Pool<Member>>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) credentials: ArcSwap<Credentials>,
    turn: AtomicUsize,
}

impl Backend {
    pub(crate) fn new(name: &str, policy: Policy) -> Self {
        Self {
            name: name.to_owned(),
            policy: Arc::new(ArcSwap::from_pointee(policy)),
            pool: ArcSwap::default(),
            queue: Arc::default(),
            credentials: ArcSwap::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// A seat at the server that should get the client, leaving out those already tried. Where all are full a client that
    /// has tried none may wait for one; where it is not their turn, any client may.
    pub(crate) async fn seat(&self, policy: &Policy, who: Who, tried: &[u64]) -> Option<Seat> {
        let (Arrivals { queue, queue_timeout, .. }, first) = (&policy.arrivals, tried.is_empty());
        // Who has tried a server in vain was in line before.
        if *queue == 0 || !first || self.queue.waiting() == 0 {
            match self.choose(policy, who, tried) {
                Ok(seat) => return Some(seat),
                Err(turn) if *queue == 0 || !(first || turn.is_some()) => return None,
                Err(_) => {}
            }
        }
        if !self.is_usable() {
            return None;
        }
        self.queue.wait(*queue, *queue_timeout, || self.choose(policy, who, tried)).await
    }

    /// A seat now; or, where servers have had their clients for now, how long until one has not.
    fn choose(&self, policy: &Policy, who: Who, tried: &[u64]) -> Result<Seat, Option<Duration>> {
        let pool = self.pool.load();
        let now = Instant::now();
        let load = |entry: &Entry<Member>| {
            let untried = !tried.contains(&entry.member.id);
            entry.member.load(&entry.settings, untried, policy, now)
        };
        let hint = pick::Hint {
            turn: self.turn.fetch_add(1, Relaxed),
            random: fastrand::u64(..),
            source: pick::key(&who.source),
            client: who.client,
        };
        loop {
            let mut loads: Vec<pick::Load> = pool.members.iter().map(load).collect();
            let Some(chosen) = pick::choose(policy.balance, &mut loads, &hint) else {
                let throttled = loads.iter().zip(&pool.members).filter(|(load, _)| load.throttled);
                return Err(throttled.map(|(_, entry)| entry.member.next_turn(policy, now)).min());
            };
            let Entry { settings, member } = &pool.members[chosen];
            // Another thread may have taken the last seat; then it shows in the loads.
            if let Some(seat) = member.sit(settings.max_sessions, policy, now) {
                return Ok(seat);
            }
        }
    }

    /// To let `clients` in at the rate that its servers allow; `None`: there is no such rate, or no server.
    pub(crate) fn takes(&self, clients: u64) -> Option<Duration> {
        let rate = u64::from(self.policy.load().arrivals.connect_rate?.per_second);
        let pool = self.pool.load();
        let servers = pool.members.iter().filter(|entry| entry.member.takes_sessions()).count() as u64;
        Some(Duration::from_millis((clients * 1000).checked_div(rate * servers)?))
    }

    /// Whether another server can take a client of this one.
    pub(crate) fn takes_besides(&self, member: &Member, backups: bool) -> bool {
        self.pool.load().members.iter().any(|Entry { settings, member: other }| {
            other.takes_sessions()
                && other.id != member.id
                && settings.weight > 0
                && (backups || !settings.backup)
                && other.active() < settings.max_sessions
        })
    }

    pub(crate) fn is_usable(&self) -> bool {
        self.pool.load().members.iter().any(|entry| entry.member.takes_sessions())
    }
}
