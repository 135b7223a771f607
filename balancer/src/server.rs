//! The balancer as a whole: start, wait for signals and changed files, reload, stop gracefully.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nsd_edge::admin::{AdminBindError, AdminSocket};
use nsd_edge::drain::Drain;
use nsd_edge::listen;
use nsd_edge::signal::{Signal, Signals};
use nsd_edge::tls;
use nsd_edge::watch::FileWatch;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use crate::backend::State;
use crate::credentials::Credentials;
use crate::dashboard;
use crate::pool::Entry;
use crate::relay::Order;
use crate::running::{Running, Shared};
use crate::settings::{self, Settings, SettingsError};
use crate::workers::Workers;
use crate::{admin, limits, member::Member, moving, reload};

#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Addresses that cannot be bound, certificates that cannot be used.
    #[error("{}", .0.join("\n"))]
    Resources(Vec<String>),
    #[error(transparent)]
    Admin(#[from] AdminBindError),
    #[error("cannot start: {0}")]
    Io(#[from] std::io::Error),
}

pub(crate) struct Balancer {
    path: PathBuf,
    pub(crate) shared: Arc<Shared>,
    pub(crate) running: Mutex<Running>,
    /// The settings in use.
    settings: Mutex<Settings>,
    pub(crate) last_reload: Mutex<Result<(), String>>,
    pub(crate) drain: Drain,
    ready: watch::Sender<bool>,
    pub(crate) since: Instant,
    pub(crate) reloads: Reloads,
    /// For what answers in its name, and may outlive it.
    me: Weak<Self>,
}

/// Settings that were read again, by what became of them.
#[derive(Debug, Default)]
pub(crate) struct Reloads {
    pub(crate) taken: AtomicU64,
    pub(crate) refused: AtomicU64,
}

/// Checks a settings file and the certificates it names, without starting anything.
pub fn check(path: &Path) -> Result<(), StartError> {
    let settings = settings::load(path)?;
    let tls = settings.frontends.iter().filter_map(|frontend| frontend.tls.as_ref()).map(|tls| &tls.tls);
    let tls = tls.chain(settings.dashboard.iter().filter_map(|dashboard| dashboard.tls.as_ref()));
    let mut problems: Vec<String> = tls.flat_map(tls::problems).map(|error| error.to_string()).collect();
    problems.extend(settings.dashboard.iter().filter_map(|dashboard| dashboard::check(dashboard).err()));
    let backends = settings.backends.iter();
    problems.extend(backends.filter_map(|backend| Credentials::load(&backend.policy).err()));
    problems.dedup();
    if problems.is_empty() { Ok(()) } else { Err(StartError::Resources(problems)) }
}

/// Runs until SIGTERM or SIGINT. `settings` were loaded from `path`, and are loaded again whenever it changes.
pub async fn run(path: &Path, settings: Settings) -> Result<(), StartError> {
    let mut signals = Signals::listen()?;
    let mut file = FileWatch::new(&[path.to_owned()]);
    let balancer = Balancer::start(path, settings)?;
    let socket = AdminSocket::bind(&balancer.settings.lock().admin_socket)?;
    let router = Arc::new(admin::router(Arc::clone(&balancer)));
    // The admin socket answers as long as there is something to be asked about, also while draining.
    let admin_end = Drain::new();
    tokio::spawn(socket.serve(router, admin_end.watch()));
    tokio::spawn(Arc::clone(&balancer).open_after_first_checks());
    tokio::spawn(moving::by_themselves(Arc::clone(&balancer)));
    info!("started");
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Reload => drop(balancer.reload()),
                Signal::Stop => break,
            },
            () = file.changed() => drop(balancer.reload()),
        }
    }
    tokio::select! {
        () = balancer.stop() => {}
        () = stopped_again(&mut signals) => info!("stopping at once"),
    }
    admin_end.finish(Duration::from_secs(1)).await;
    Ok(())
}

async fn stopped_again(signals: &mut Signals) {
    while signals.next().await != Signal::Stop {}
}

impl Balancer {
    fn start(path: &Path, settings: Settings) -> Result<Arc<Self>, StartError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let sessions = limits::sessions(listen::raise_open_files());
        let shared = Arc::new(Shared {
            workers: Workers::start(settings.threads.unwrap_or(cores))?,
            sessions: Arc::new(Semaphore::new(sessions)),
            registry: Arc::default(),
            moving: Arc::default(),
            access_log: AtomicBool::new(settings.access_log),
            log_user_names: AtomicBool::new(settings.log_user_names),
        });
        tokio::spawn(Arc::clone(&shared.registry).look_after());
        info!(sessions, "room for this many sessions at once (from the limit of open files)");
        let balancer = Arc::new_cyclic(|me| Self {
            path: path.to_owned(),
            shared,
            running: Mutex::default(),
            settings: Mutex::new(settings.clone()),
            last_reload: Mutex::new(Ok(())),
            drain: Drain::new(),
            ready: watch::Sender::new(false),
            since: Instant::now(),
            reloads: Reloads::default(),
            me: Weak::clone(me),
        });
        balancer.apply(&settings).map_err(StartError::Resources)?;
        Ok(balancer)
    }

    /// Reads the file again. On any problem nothing has changed.
    pub(crate) fn reload(&self) -> Result<Vec<String>, Vec<String>> {
        let loaded = settings::load(&self.path).map_err(|error| vec![error.to_string()]);
        let outcome = loaded.and_then(|wanted| {
            let mut plan = self.apply(&wanted)?;
            let mut current = self.settings.lock();
            plan.extend(only_at_start(&current, &wanted));
            *current = wanted;
            Ok(plan)
        });
        match &outcome {
            Ok(plan) if plan.is_empty() => info!("reloaded: nothing changed"),
            Ok(plan) => info!("reloaded: {}", plan.join(", ")),
            Err(problems) => error!("not reloaded, the old settings stay in use:\n{}", problems.join("\n")),
        }
        let Reloads { taken, refused } = &self.reloads;
        if outcome.is_ok() { taken } else { refused }.fetch_add(1, Relaxed);
        *self.last_reload.lock() = outcome.as_ref().map(drop).map_err(|problems| problems.join("\n"));
        outcome
    }

    fn apply(&self, wanted: &Settings) -> Result<Vec<String>, Vec<String>> {
        if self.drain.watch().is_draining() {
            return Err(vec!["the balancer is stopping".to_owned()]);
        }
        let mut running = self.running.lock();
        let prepared = reload::prepare(&running, wanted)?;
        let ready = self.ready.subscribe();
        let context =
            reload::Context { shared: &self.shared, drain: &self.drain, balancer: &self.me, ready: &ready };
        Ok(reload::commit(&mut running, wanted, prepared, &context))
    }

    /// Until the first checks have told which servers there are, clients wait in the kernel's queue.
    async fn open_after_first_checks(self: Arc<Self>) {
        let undecided = || self.members().iter().any(|entry| entry.member.state() == State::Joining);
        let decided = async {
            while undecided() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(limits::FIRST_CHECKS, decided).await.is_err() {
            warn!("some servers were not checked yet, accepting clients now");
        }
        self.ready.send_replace(true);
    }

    /// All servers, the leaving ones included.
    pub(crate) fn members(&self) -> Vec<Entry<Member>> {
        let running = self.running.lock();
        let pools = running.backends.iter().map(|backend| backend.pool.load_full());
        pools.flat_map(|pool| pool.members.iter().chain(&pool.leaving).cloned().collect::<Vec<_>>()).collect()
    }

    /// Accepts no more, lets sessions end by themselves for the grace time, then closes them.
    async fn stop(&self) {
        let grace = self.settings.lock().stop_grace;
        self.drain.begin();
        self.running.lock().bound.clear();
        info!(sessions = self.shared.workers.sessions(), "stopping, sessions have {grace:?}");
        self.wait_for_sessions(grace).await;
        let left = self.shared.workers.sessions();
        if left > 0 {
            info!(sessions = left, "closing the sessions that are left");
            self.members().iter().for_each(|entry| entry.member.close_connecting(Order::Stop));
            self.shared.registry.each(|live| {
                live.handle.tell(Order::Stop);
            });
            self.wait_for_sessions(limits::LEAVE + Duration::from_secs(1)).await;
        }
        info!("stopped");
    }

    async fn wait_for_sessions(&self, at_most: Duration) {
        let deadline = Instant::now() + at_most;
        while self.shared.workers.sessions() > 0 && Instant::now() < deadline {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// What differs and waits for a restart.
fn only_at_start(current: &Settings, wanted: &Settings) -> Vec<String> {
    let mut waiting = Vec::new();
    let mut compare = |same: bool, key: &str| {
        if !same {
            waiting.push(format!("{key} is taken at the next start"));
        }
    };
    compare(current.admin_socket == wanted.admin_socket, "admin.socket");
    compare(current.threads == wanted.threads, "threads");
    compare(current.log_format == wanted.log_format, "log.format");
    waiting
}
