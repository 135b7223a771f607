//! The balancer as a whole: start, wait for signals and changed files, reload, stop gracefully.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nsd_edge::admin::AdminBindError;
use nsd_edge::drain::Drain;
use nsd_edge::metrics::MetricsPort;
use nsd_edge::signal::{Signal, Signals};
use nsd_edge::tls;
use nsd_edge::watch::FileWatch;
use nsd_edge::{listen, notify};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use crate::backend::State;
use crate::credentials::Credentials;
use crate::dashboard::{self, Dashboard};
use crate::doors::{self, Doors};
use crate::handover::{self, Inherited, TakeOverError};
use crate::pool::Entry;
use crate::relay::Order;
use crate::reload::{self, Closing};
use crate::running::{Bound, Running, Shared};
use crate::settings::{self, Settings, SettingsError};
use crate::workers::Workers;
use crate::{limits, member::Member, moving};

#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Addresses that cannot be bound, certificates that cannot be used.
    #[error("{}", .0.join("\n"))]
    Resources(Vec<String>),
    #[error(transparent)]
    Admin(#[from] AdminBindError),
    #[error(transparent)]
    TakeOver(#[from] TakeOverError),
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
    /// The admin socket answers as long as there is something to be asked about, also while draining.
    pub(crate) admin_end: Drain,
    ready: watch::Sender<bool>,
    pub(crate) since: Instant,
    pub(crate) reloads: Reloads,
    reloading: tokio::sync::Mutex<()>,
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

/// Runs until SIGTERM or SIGINT, or until another process has taken over. `settings` were loaded from `path`, and are loaded
/// again whenever `changes` tells that it changed. With `take_over` it takes over from the process that answers beside the admin socket, if any.
pub async fn run(
    path: &Path,
    settings: Settings,
    mut changes: FileWatch,
    take_over: bool,
) -> Result<(), StartError> {
    let mut signals = Signals::listen()?;
    let balancer =
        if take_over { Balancer::succeed(path, settings).await? } else { Balancer::begin(path, settings)? };
    tokio::spawn(moving::by_themselves(Arc::clone(&balancer)));
    info!("started");
    tell_manager();
    let succession = &balancer.shared.succession;
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Reload => drop(balancer.reload().await),
                Signal::Stop => break,
            },
            () = changes.changed() => drop(balancer.reload().await),
            () = succession.over() => break,
        }
    }
    succession.stopping().await;
    tokio::select! {
        () = balancer.stop() => {}
        () = stopped_again(&mut signals) => info!("stopping at once"),
    }
    balancer.admin_end.finish(Duration::from_secs(1)).await;
    Ok(())
}

/// That this process is the service.
fn tell_manager() {
    if let Err(error) = notify::ready() {
        warn!(%error, "the service manager is not told");
    }
}

async fn stopped_again(signals: &mut Signals) {
    while signals.next().await != Signal::Stop {}
}

impl Balancer {
    fn begin(path: &Path, settings: Settings) -> Result<Arc<Self>, StartError> {
        let balancer = Self::start(path, settings, Inherited::default())?;
        let doors = Doors::bind(&balancer.settings.lock().admin_socket)?;
        doors.open(&balancer);
        tokio::spawn(Arc::clone(&balancer).open_after_first_checks());
        Ok(balancer)
    }

    /// Until the other process has been told that this one is ready, whatever fails changes nothing there.
    async fn succeed(path: &Path, settings: Settings) -> Result<Arc<Self>, StartError> {
        let door = handover::door_beside(&settings.admin_socket);
        let Some((taking, inherited)) = handover::ask(&door).await? else {
            info!(door = %door.display(), "nothing runs that could be taken over from");
            return Self::begin(path, settings);
        };
        let terms = settings.take_over;
        let balancer = Self::start(path, settings, inherited)?;
        let doors = Doors::aside(&balancer.settings.lock().admin_socket)?;
        balancer.first_checks().await;
        taking.take(&balancer, terms).await?;
        balancer.ready.send_replace(true);
        doors.put()?;
        doors.open(&balancer);
        tokio::spawn(taking.follow(Arc::clone(&balancer)));
        Ok(balancer)
    }

    fn start(path: &Path, settings: Settings, inherited: Inherited) -> Result<Arc<Self>, StartError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let sessions = limits::sessions(listen::raise_open_files());
        let shared = Arc::new(Shared {
            workers: Workers::start(settings.threads.unwrap_or(cores))?,
            sessions: Arc::new(Semaphore::new(sessions)),
            registry: Arc::default(),
            moving: Arc::default(),
            succession: Arc::default(),
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
            admin_end: Drain::new(),
            ready: watch::Sender::new(false),
            since: Instant::now(),
            reloads: Reloads::default(),
            reloading: tokio::sync::Mutex::default(),
            me: Weak::clone(me),
        });
        balancer.apply(&settings, inherited).map_err(StartError::Resources)?;
        Ok(balancer)
    }

    /// Reads the file again. On any problem nothing has changed. When it returns, nothing listens where nothing is to.
    pub(crate) async fn reload(&self) -> Result<Vec<String>, Vec<String>> {
        let _one_after_another = self.reloading.lock().await;
        let loaded = settings::load(&self.path).map_err(|error| vec![error.to_string()]);
        let outcome = loaded.and_then(|wanted| {
            let (mut plan, closing) = self.apply(&wanted, Inherited::default())?;
            let mut current = self.settings.lock();
            plan.extend(settings::changes(&current, &wanted));
            *current = wanted;
            Ok((plan, closing))
        });
        let outcome = match outcome {
            Ok((plan, closing)) => {
                closing.done().await;
                Ok(plan)
            }
            Err(problems) => Err(problems),
        };
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

    fn apply(
        &self,
        wanted: &Settings,
        mut inherited: Inherited,
    ) -> Result<(Vec<String>, Closing), Vec<String>> {
        if self.drain.watch().is_draining() {
            return Err(vec!["the balancer is stopping".to_owned()]);
        }
        if self.shared.succession.is_succeeded() {
            return Err(vec!["another process has taken over".to_owned()]);
        }
        let mut running = self.running.lock();
        let prepared = reload::prepare(&running, wanted, &mut inherited.sockets)?;
        let ready = self.ready.subscribe();
        let context =
            reload::Context { shared: &self.shared, drain: &self.drain, balancer: &self.me, ready: &ready };
        let committed = reload::commit(&mut running, wanted, prepared, &context);
        handover::continue_with(&running, &inherited.servers, &self.shared.registry);
        Ok(committed)
    }

    /// Until the first checks have told which servers there are, clients wait in the kernel's queue.
    async fn open_after_first_checks(self: Arc<Self>) {
        self.first_checks().await;
        self.ready.send_replace(true);
    }

    async fn first_checks(&self) {
        let undecided = || self.members().iter().any(|entry| entry.member.state() == State::Joining);
        let decided = async {
            while undecided() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(limits::FIRST_CHECKS, decided).await.is_err() {
            warn!("some servers were not checked yet, accepting clients now");
        }
    }

    /// All that is listened on, for another process.
    pub(crate) fn listeners(&self) -> Vec<(SocketAddr, TcpListener)> {
        let running = self.running.lock();
        let of_clients = running.bound.iter().filter_map(|(address, bound)| Some((*address, bound.copy()?)));
        let others = running.dashboard.iter().filter_map(Dashboard::copy).chain(running.metrics.copy());
        of_clients.chain(others).collect()
    }

    /// Another process accepts at these addresses; at others nobody does.
    pub(crate) fn stop_accepting(&self, elsewhere: &[SocketAddr]) {
        let mut running = self.running.lock();
        running.bound.retain(|address, _| elsewhere.contains(address));
        running.bound.values().for_each(Bound::pause);
        (running.dashboard, running.metrics) = (None, MetricsPort::default());
    }

    /// From now on the other process is asked.
    pub(crate) fn give_doors(&self, pid: u32) {
        doors::put_for(&self.settings.lock().admin_socket, pid);
    }

    /// The other process is gone.
    pub(crate) async fn accept_again(self: &Arc<Self>) {
        for bound in self.running.lock().bound.values_mut() {
            bound.resume(&self.shared, self.ready.subscribe());
        }
        // Whoever is there: it hangs, or is gone.
        let doors = Doors::aside(&self.settings.lock().admin_socket);
        match doors.and_then(|doors| doors.put().map(|()| doors)) {
            Ok(doors) => doors.open(self),
            Err(error) => error!(%error, "the admin socket is lost"),
        }
        tell_manager();
        // For addresses that were let go, and for changes meanwhile.
        let _ = self.reload().await;
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
