//! What runs: backends with their pools, frontends, bound addresses, certificates. [`crate::reload`] changes it, the
//! sessions use it. Everything a session looks at is behind a swap, so that a change never waits for a session.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use nsd_edge::listen::Listener;
use nsd_edge::metrics::MetricsPort;
use nsd_edge::tls::{TlsServer, TlsSettings};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::error;

use crate::credentials::Credentials;
use crate::dashboard::Dashboard;
use crate::frontend::Frontend;
use crate::handover::Succession;
use crate::member::{Member, Seat};
use crate::moving::Moving;
use crate::pick;
use crate::pool::{Entry, Pool};
use crate::queue::Queue;
use crate::registry::{Live, Registry};
use crate::session;
use crate::settings::{Arrivals, Balance, Policy};
use crate::workers::Workers;

/// What all sessions share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) workers: Workers,
    /// See [`crate::limits::sessions`].
    pub(crate) sessions: Arc<Semaphore>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) moving: Arc<Moving>,
    pub(crate) succession: Arc<Succession>,
    pub(crate) access_log: AtomicBool,
    pub(crate) log_user_names: AtomicBool,
}

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

    /// Whether the server that the client is at now is its own, to which it would come back if it were sent away. Where
    /// that depends on more of its identifier than is kept, it may be.
    pub(crate) fn would_return(&self, live: &Live) -> bool {
        let policy = self.policy.load();
        match policy.balance {
            Balance::Source => {}
            Balance::ClientId if !policy.is_affine(live.clean) => return false,
            Balance::ClientId if live.names.id_is_whole() => {}
            Balance::ClientId => return true,
            _ => return false,
        }
        let (pool, now) = (self.pool.load(), Instant::now());
        // As it will be when all servers have their share.
        let settled = |entry: &Entry<Member>| {
            let load = entry.member.load(&entry.settings, true, &policy, now);
            let usable = load.usable && (load.active < load.most || load.id == live.member.id);
            pick::Load { usable, active: 0, share: pick::WHOLE, throttled: false, ..load }
        };
        let mut loads: Vec<pick::Load> = pool.members.iter().map(settled).collect();
        let id = live.names.id();
        let hint = pick::Hint {
            turn: 0,
            random: 0,
            source: pick::key(&live.peer.ip()),
            client: (!id.is_empty()).then(|| pick::key(id)),
        };
        pick::choose(policy.balance, &mut loads, &hint)
            .is_some_and(|at| pool.members[at].member.id == live.member.id)
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

/// Where the clients of one bound address go.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) frontend: Arc<Frontend>,
    pub(crate) tls: Option<Arc<Handshakes>>,
}

/// The TLS handshakes of a frontend.
#[derive(Debug)]
pub(crate) struct Handshakes {
    pub(crate) server: Arc<TlsServer>,
    /// From the connection on.
    pub(crate) deadline: Duration,
    /// One for each that is being computed.
    pub(crate) turns: Semaphore,
}

/// A bound address. Its socket lives as long as the address is in the settings; only its route changes.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) route: Arc<ArcSwap<Route>>,
    /// `None`: it could not be copied, for want of files.
    socket: Option<std::net::TcpListener>,
    acceptor: AbortOnDropHandle<()>,
    /// Which worker accepts.
    number: usize,
}

/// Certificates in use, and the task that follows their files.
#[derive(Debug)]
pub(crate) struct Certificates {
    pub(crate) server: Arc<TlsServer>,
    pub(crate) follower: AbortHandle,
}

#[derive(Debug, Default)]
pub(crate) struct Running {
    pub(crate) backends: Vec<Arc<Backend>>,
    pub(crate) frontends: Vec<Arc<Frontend>>,
    pub(crate) bound: HashMap<SocketAddr, Bound>,
    pub(crate) certificates: HashMap<TlsSettings, Certificates>,
    pub(crate) dashboard: Option<Dashboard>,
    pub(crate) metrics: MetricsPort,
}

impl Bound {
    /// Accepts on one of the workers, from `ready` on.
    pub(crate) fn start(
        socket: std::net::TcpListener,
        route: Route,
        shared: &Arc<Shared>,
        number: usize,
        ready: tokio::sync::watch::Receiver<bool>,
    ) -> Self {
        let route = Arc::new(ArcSwap::from_pointee(route));
        let copy = socket.try_clone().ok();
        let acceptor = accept(socket, Arc::clone(&route), Arc::clone(shared), ready);
        let acceptor = AbortOnDropHandle::new(shared.workers.nth(number).handle.spawn(acceptor));
        Self { route, socket: copy, acceptor, number }
    }

    /// The same socket, for another process.
    pub(crate) fn copy(&self) -> Option<std::net::TcpListener> {
        self.socket.as_ref()?.try_clone().ok()
    }

    /// Whoever comes waits in the kernel's queue, unless another process has the socket too.
    pub(crate) fn pause(&self) {
        self.acceptor.abort();
    }

    /// Who accepts here. Nothing listens any more once that has ended, unless another process has the socket.
    pub(crate) fn into_acceptor(self) -> AbortOnDropHandle<()> {
        self.acceptor
    }

    pub(crate) fn resume(&mut self, shared: &Arc<Shared>, ready: tokio::sync::watch::Receiver<bool>) {
        let Some(socket) = self.copy() else { return error!("cannot accept on a bound address again") };
        let acceptor = accept(socket, Arc::clone(&self.route), Arc::clone(shared), ready);
        self.acceptor = AbortOnDropHandle::new(shared.workers.nth(self.number).handle.spawn(acceptor));
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

async fn accept(
    socket: std::net::TcpListener,
    route: Arc<ArcSwap<Route>>,
    shared: Arc<Shared>,
    mut ready: tokio::sync::watch::Receiver<bool>,
) {
    // A dropped sender means that nobody will say more: then accept.
    let _ = ready.wait_for(|ready| *ready).await;
    let listener = match Listener::new(socket, Arc::clone(&shared.sessions)) {
        Ok(listener) => listener,
        Err(error) => return error!(%error, "cannot accept on a bound address"),
    };
    loop {
        let accepted = listener.accept().await;
        let Route { frontend, tls } = &**route.load();
        let (worker, place) = shared.workers.least_loaded();
        let begun = session::begin(accepted, tls.clone(), Arc::clone(frontend), Arc::clone(&shared), place);
        worker.handle.spawn(begun);
    }
}
