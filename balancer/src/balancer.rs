//! The balancer as a whole: what runs under the settings in use, reloaded, handed on and stopped.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use nsd_edge::drain::Drain;
use nsd_edge::metrics::MetricsPort;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use crate::backend::Backend;
use crate::bound::{Bound, Closing};
use crate::dashboard::Dashboard;
use crate::handover::servers::{self, Inherited};
use crate::health::State;
use crate::limits;
use crate::member::Member;
use crate::pool::Entry;
use crate::relay::Order;
use crate::reload;
use crate::running::Running;
use crate::settings::{self, Settings};
use crate::shared::Shared;
use crate::shown::Shown;

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
    shown: Arc<dyn Shown>,
}

/// Settings that were read again, by what became of them.
#[derive(Debug, Default)]
pub(crate) struct Reloads {
    pub(crate) taken: AtomicU64,
    pub(crate) refused: AtomicU64,
}

impl Balancer {
    /// Nothing runs yet: see [`Self::apply`].
    pub(crate) fn new(path: &Path, settings: &Settings, shared: Arc<Shared>, shown: Arc<dyn Shown>) -> Self {
        Self {
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
            shown,
        }
    }

    /// Where it is asked.
    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.settings.lock().admin_socket.clone()
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

    pub(crate) fn apply(
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
            reload::Context { shared: &self.shared, drain: &self.drain, shown: &self.shown, ready: &ready };
        let committed = reload::commit(&mut running, wanted, prepared, &context);
        servers::continue_with(&running, &inherited.servers);
        Ok(committed)
    }

    /// Until it is known which servers there are.
    pub(crate) async fn first_checks(&self) {
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

    /// From now on clients are accepted: before, they wait in the kernel's queue.
    pub(crate) fn open(&self) {
        self.ready.send_replace(true);
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

    /// The process that accepted in its place is gone.
    pub(crate) fn resume_accepting(&self) {
        for bound in self.running.lock().bound.values_mut() {
            bound.resume(&self.shared, self.ready.subscribe());
        }
    }

    pub(crate) fn backends(&self) -> Vec<Arc<Backend>> {
        self.running.lock().backends.clone()
    }

    /// All servers, the leaving ones included.
    pub(crate) fn members(&self) -> Vec<Entry<Member>> {
        let running = self.running.lock();
        let pools = running.backends.iter().map(|backend| backend.pool.load_full());
        pools.flat_map(|pool| pool.members.iter().chain(&pool.leaving).cloned().collect::<Vec<_>>()).collect()
    }

    /// Accepts no more, lets sessions end by themselves for the grace time, then closes them.
    pub(crate) async fn stop(&self) {
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
