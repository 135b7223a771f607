//! The dashboard: a web page that shows what the balancer does, and lets who is logged in drain servers. It speaks for the
//! admin socket: what it shows and does is what that answers. It runs beside the worker threads, on the main one; what is
//! slow about a login runs beside that.

mod answers;
mod history;
mod logins;
mod refusals;
mod users;

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use nsd_edge::http::{self, Bounds};
use nsd_edge::listen::{self, Accepted, Gate, GateRules, Listener};
use nsd_edge::tls::TlsServer;
use nsd_edge::watch::FileWatch;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error, info, warn};

use crate::bound::Closing;
use crate::gate::rates::Rates;
use crate::limits;
use crate::settings::DashboardSettings;
use crate::shown::Shown;
use history::History;
use logins::Logins;
use refusals::Refusals;
use users::Users;

pub use users::passwd;

/// A form, or the name of a server, and nothing larger.
const BOUNDS: Bounds = Bounds {
    body: 4096,
    header: Duration::from_secs(5),
    connection: Duration::from_secs(60),
    keep_alive: true,
};

/// The dashboard while it is switched on.
#[derive(Debug)]
pub(crate) struct Dashboard {
    settings: DashboardSettings,
    site: Arc<ArcSwap<Site>>,
    /// `None`: it could not be copied, for want of files.
    socket: Option<TcpListener>,
    acceptor: AbortOnDropHandle<()>,
}

/// What was made for new settings, not in use yet.
pub(crate) struct Prepared {
    /// `None`: the address is bound already.
    socket: Option<TcpListener>,
    users: Users,
}

/// What its connections need.
#[derive(Debug)]
struct Site {
    shown: Arc<dyn Shown>,
    tls: Option<Arc<TlsServer>>,
    users: Arc<ArcSwap<Users>>,
    memory: Arc<Memory>,
    _follower: AbortOnDropHandle<()>,
}

/// What outlives a change of settings.
#[derive(Debug)]
struct Memory {
    since: Instant,
    logins: Mutex<Logins>,
    history: Arc<Mutex<History>>,
    /// How often passwords are tried: by each source, and by all together.
    by_source: Mutex<Rates>,
    in_all: Mutex<Rates>,
    refusals: Mutex<Refusals>,
    _sampler: AbortOnDropHandle<()>,
}

/// What is wrong with the files that the settings name.
pub(crate) fn check(settings: &DashboardSettings) -> Result<(), String> {
    Users::load(&settings.password_file).map(drop)
}

impl Dashboard {
    /// Does what can fail about the new settings; or tells all that is wrong.
    pub(crate) fn prepare(
        running: Option<&Self>,
        wanted: Option<&DashboardSettings>,
        inherited: &mut HashMap<SocketAddr, TcpListener>,
    ) -> Result<Option<Prepared>, Vec<String>> {
        let Some(wanted) = wanted else { return Ok(None) };
        let is_bound = running.is_some_and(|running| running.settings.bind == wanted.bind);
        let mut bind = || inherited.remove(&wanted.bind).map_or_else(|| listen::bind(wanted.bind), Ok);
        let socket = (!is_bound).then(&mut bind).transpose();
        match (socket, Users::load(&wanted.password_file)) {
            (Ok(socket), Ok(users)) => Ok(Some(Prepared { socket, users })),
            (socket, users) => {
                let socket = socket.err().map(|error| error.to_string());
                Err(socket.into_iter().chain(users.err()).collect())
            }
        }
    }

    /// Its socket, for another process.
    pub(crate) fn copy(&self) -> Option<(SocketAddr, TcpListener)> {
        Some((self.settings.bind, self.socket.as_ref()?.try_clone().ok()?))
    }

    /// Takes new settings into use, and says what changed. Who is logged in stays so, where the password is the same.
    pub(crate) fn commit(
        running: &mut Option<Self>,
        wanted: Option<(&DashboardSettings, Prepared)>,
        tls: Option<Arc<TlsServer>>,
        shown: &Arc<dyn Shown>,
        closing: &mut Closing,
    ) -> Option<String> {
        let Some((wanted, Prepared { socket, users })) = wanted else {
            let was = running.take()?;
            closing.add(was.acceptor);
            return Some(format!("-dashboard {}", was.settings.bind));
        };
        let memory = match &running {
            Some(running) => Arc::clone(&running.site.load().memory),
            None => Arc::new(Memory::new(wanted, shown)),
        };
        memory.logins.lock().set_times(wanted.idle_timeout, wanted.login_lifetime);
        let users = match &running {
            Some(running) => {
                let kept = Arc::clone(&running.site.load().users);
                memory.exchange(&kept, users);
                kept
            }
            None => Arc::new(ArcSwap::from_pointee(users)),
        };
        let follower = follow(Arc::downgrade(&memory), Arc::downgrade(&users), wanted.password_file.clone());
        let follower = AbortOnDropHandle::new(tokio::spawn(follower));
        let site = Site { shown: Arc::clone(shown), tls, users, memory, _follower: follower };
        match (socket, running.as_mut()) {
            (None, Some(running)) => {
                running.site.store(Arc::new(site));
                let changed = running.settings != *wanted;
                running.settings = wanted.clone();
                changed.then(|| "~dashboard".to_owned())
            }
            (socket, _) => {
                let site = Arc::new(ArcSwap::from_pointee(site));
                let socket = socket?;
                let copy = socket.try_clone().ok();
                let acceptor = tokio::spawn(accept(socket, Arc::clone(&site)));
                let acceptor = AbortOnDropHandle::new(acceptor);
                let was = running.replace(Self { settings: wanted.clone(), site, socket: copy, acceptor });
                was.into_iter().for_each(|was| closing.add(was.acceptor));
                Some(format!("+dashboard {}", wanted.bind))
            }
        }
    }
}

impl Memory {
    fn new(settings: &DashboardSettings, shown: &Arc<dyn Shown>) -> Self {
        let (since, history) = (Instant::now(), Arc::<Mutex<History>>::default());
        let sampler = sample(Arc::clone(shown), Arc::clone(&history), since);
        Self {
            since,
            logins: Mutex::new(Logins::new(settings.idle_timeout, settings.login_lifetime)),
            history,
            by_source: Mutex::new(Rates::sized(limits::LOGINS_BY_SOURCE, limits::LOGIN_SOURCES)),
            in_all: Mutex::new(Rates::sized(limits::LOGINS_IN_ALL, 1)),
            refusals: Mutex::new(Refusals::new()),
            _sampler: AbortOnDropHandle::new(tokio::spawn(sampler)),
        }
    }

    /// Who has another password now, or is no user any more, is logged out.
    fn exchange(&self, users: &ArcSwap<Users>, new: Users) {
        let before = users.load_full();
        self.logins.lock().retain(|user| before.agree(&new, user));
        users.store(Arc::new(new));
    }
}

async fn sample(shown: Arc<dyn Shown>, history: Arc<Mutex<History>>, since: Instant) {
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        seconds.tick().await;
        let Some(totals) = shown.totals() else { return };
        history.lock().take(since.elapsed(), totals);
    }
}

/// Reads the password file again whenever it changes; a bad one changes nothing.
async fn follow(memory: Weak<Memory>, users: Weak<ArcSwap<Users>>, path: PathBuf) {
    let mut file = FileWatch::new(std::slice::from_ref(&path));
    loop {
        file.changed().await;
        let (Some(memory), Some(users)) = (memory.upgrade(), users.upgrade()) else { return };
        match Users::load(&path) {
            Ok(new) => {
                memory.exchange(&users, new);
                info!(file = %path.display(), "dashboard: users changed");
            }
            Err(problem) => warn!(problem, "dashboard: users not changed, those of before may log in"),
        }
    }
}

async fn accept(socket: TcpListener, site: Arc<ArcSwap<Site>>) {
    let permits = Arc::new(Semaphore::new(limits::DASHBOARD_CONNECTIONS));
    let listener = match Listener::new(socket, permits) {
        Ok(listener) => listener,
        Err(error) => return error!(%error, "cannot accept on the dashboard's address"),
    };
    let by_source = Some(limits::DASHBOARD_CONNECTIONS_BY_SOURCE);
    let gate = Arc::new(Gate::new(GateRules { connections_per_address: by_source, ..GateRules::default() }));
    // They end with this task.
    let mut connections = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        while connections.try_join_next().is_some() {}
        let Ok(place) = gate.admit(accepted.peer.ip()) else { continue };
        let site = Arc::clone(&site);
        connections.spawn(async move {
            serve(accepted, site).await;
            drop(place);
        });
    }
}

async fn serve(accepted: Accepted, site: Arc<ArcSwap<Site>>) {
    let Accepted { socket, peer, permit } = accepted;
    let Ok(socket) = TcpStream::from_std(socket) else { return };
    let tls = site.load().tls.clone();
    let answer = |request| {
        let site = site.load_full();
        async move { answers::answer(&site, peer.ip(), request).await }
    };
    match tls {
        None => http::serve(socket, BOUNDS, answer).await,
        Some(tls) => match tls.handshake(socket, BOUNDS.header).await {
            Ok(stream) => http::serve(stream, BOUNDS, answer).await,
            Err(error) => debug!(%peer, %error, "dashboard: handshake"),
        },
    }
    drop(permit);
}
