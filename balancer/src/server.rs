//! The server: start, wait for signals and changed files, reload, hand over, stop gracefully.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;

use nsd_edge::admin::{AdminBindError, Router};
use nsd_edge::signal::{Signal, Signals};
use nsd_edge::tls;
use nsd_edge::watch::FileWatch;
use nsd_edge::{listen, notify};
use thiserror::Error;
use tokio::sync::Semaphore;
use tracing::{error, info, warn};

use crate::balancer::Balancer;
use crate::credentials::Credentials;
use crate::doors::Doors;
use crate::handover::servers::Inherited;
use crate::handover::{TakeOverError, door_beside, take};
use crate::settings::{self, Settings, SettingsError};
use crate::shared::Shared;
use crate::shown::{Shown, Totals};
use crate::workers::Workers;
use crate::{admin, dashboard, limits, moving, telemetry};

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
    let balancer = if take_over { succeed(path, settings).await? } else { begin(path, settings)? };
    rebalance_by_itself(&balancer);
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
            () = succession.returned() => go_on(&balancer).await,
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

fn begin(path: &Path, settings: Settings) -> Result<Arc<Balancer>, StartError> {
    let balancer = start(path, settings, Inherited::default())?;
    let doors = Doors::bind(&balancer.admin_socket())?;
    doors.open(&balancer);
    tokio::spawn(open_after_first_checks(Arc::clone(&balancer)));
    Ok(balancer)
}

async fn open_after_first_checks(balancer: Arc<Balancer>) {
    balancer.first_checks().await;
    balancer.open();
}

/// Until the other process has been told that this one is ready, whatever fails changes nothing there.
async fn succeed(path: &Path, settings: Settings) -> Result<Arc<Balancer>, StartError> {
    let door = door_beside(&settings.admin_socket);
    let Some((taking, inherited)) = take::ask(&door).await? else {
        info!(door = %door.display(), "nothing runs that could be taken over from");
        return begin(path, settings);
    };
    let terms = settings.take_over;
    let balancer = start(path, settings, inherited)?;
    let doors = Doors::aside(&balancer.admin_socket())?;
    balancer.first_checks().await;
    taking.take(&balancer, terms).await?;
    balancer.open();
    doors.put()?;
    doors.open(&balancer);
    tokio::spawn(taking.follow(Arc::clone(&balancer)));
    Ok(balancer)
}

fn start(path: &Path, settings: Settings, inherited: Inherited) -> Result<Arc<Balancer>, StartError> {
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
    let shown = |me: &Weak<Balancer>| Arc::new(Weak::clone(me));
    let balancer = Arc::new_cyclic(|me| Balancer::new(path, &settings, shared, shown(me)));
    balancer.apply(&settings, inherited).map_err(StartError::Resources)?;
    Ok(balancer)
}

impl Shown for Weak<Balancer> {
    fn router(&self) -> Option<Router> {
        self.upgrade().map(admin::router)
    }

    fn totals(&self) -> Option<Totals> {
        self.upgrade().map(|balancer| telemetry::totals(&balancer))
    }

    fn page(&self) -> Option<String> {
        self.upgrade().map(|balancer| telemetry::page(&balancer))
    }
}

fn rebalance_by_itself(balancer: &Arc<Balancer>) {
    let Shared { moving, registry, .. } = &*balancer.shared;
    let (moving, registry, balancer) = (Arc::clone(moving), Arc::clone(registry), Arc::clone(balancer));
    tokio::spawn(moving::by_themselves(moving, registry, move || {
        // Whoever has taken over sees all sessions.
        if balancer.shared.succession.is_succeeded() { Vec::new() } else { balancer.backends() }
    }));
}

/// That this process is the service.
fn tell_manager() {
    if let Err(error) = notify::ready() {
        warn!(%error, "the service manager is not told");
    }
}

/// In place of a process that took over and is lost.
async fn go_on(balancer: &Arc<Balancer>) {
    balancer.resume_accepting();
    // Whoever is there: it hangs, or is gone.
    let doors = Doors::aside(&balancer.admin_socket());
    match doors.and_then(|doors| doors.put().map(|()| doors)) {
        Ok(doors) => doors.open(balancer),
        Err(error) => error!(%error, "the admin socket is lost"),
    }
    tell_manager();
    // For addresses that were let go, and for changes meanwhile.
    let _ = balancer.reload().await;
}

async fn stopped_again(signals: &mut Signals) {
    while signals.next().await != Signal::Stop {}
}
