//! The broker as a process that somebody looks after: signals, the admin socket, the metrics port, settings that change,
//! clients that are sent away at a rate. `server` is what serves clients; this is what serves the operator.

mod desk;
pub mod diff;
pub mod drain;
mod metrics;
mod reload;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nsd_edge::admin::AdminSocket;
use nsd_edge::drain::Drain;
use nsd_edge::metrics::MetricsPort;
use nsd_edge::signal::{Signal, Signals};
use tokio::sync::mpsc;
use tracing::{info, warn};

pub use desk::{Desk, Order, Reloaded};
pub(crate) use metrics::page as metrics_page;

use crate::admin;
use crate::server::{self, Server};
use crate::settings::Settings;
use crate::telemetry::Sys;
use reload::Reload;
pub use reload::SettingsFile;

/// Orders that wait for the one that is being carried out.
const ORDERS: usize = 16;

/// Serves until told to stop. `file` is where the settings come from, if they come from a file.
///
/// Signals are caught before anything else: as PID 1 they would have no effect, and a stop during the start is a stop.
pub async fn run(settings: Settings, file: Option<SettingsFile>) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let socket = settings.admin_socket.as_deref().map(AdminSocket::bind).transpose()?;
    let metrics = MetricsPort::bind(settings.telemetry.metrics)?;
    let server = tokio::select! {
        server = server::start(&settings) => server?,
        () = stop_asked(&mut signals) => return Ok(()),
    };
    let (orders, inbox) = mpsc::channel(ORDERS);
    let desk = Arc::new(Desk::new(Arc::clone(&server.node), orders));
    let end = Drain::new();
    if let Some(socket) = socket {
        tokio::spawn(socket.serve(Arc::new(admin::router(&desk)), end.watch()));
    }
    let sys = tokio::spawn(Sys::publish(Arc::clone(&server.node)));
    let reload = file.map(|file| Reload::new(file, settings));
    let mut office = Office { server, desk, metrics, reload };
    office.metrics.serve(metrics::pages(&office.desk.node));
    office.work(&mut signals, inbox).await;
    info!("stopping");
    sys.abort();
    office.metrics = MetricsPort::default();
    tokio::select! {
        () = office.server.stop() => {}
        // Asked twice: now.
        () = stop_asked(&mut signals) => {}
    }
    end.finish(Duration::from_secs(1)).await;
    Ok(())
}

async fn stop_asked(signals: &mut Signals) {
    while signals.next().await != Signal::Stop {}
}

/// Who carries out what is asked for, one thing after another.
struct Office {
    server: Server,
    desk: Arc<Desk>,
    metrics: MetricsPort,
    reload: Option<Reload>,
}

impl Office {
    /// Until it is time to stop.
    async fn work(&mut self, signals: &mut Signals, mut inbox: mpsc::Receiver<Order>) {
        loop {
            let changed = async {
                match &mut self.reload {
                    Some(reload) => reload.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::Stop => return,
                    Signal::Reload => self.reload("SIGHUP").await,
                },
                () = changed => self.reload("the file has changed").await,
                order = inbox.recv() => match order {
                    Some(Order::Stop) | None => return,
                    Some(Order::Reload { done }) => {
                        self.reload("asked for").await;
                        // Who asked may have gone.
                        let _ = done.send(self.desk.last_reload());
                    }
                    Some(Order::Drain { order, done }) => {
                        self.drain(order).await;
                        let _ = done.send(());
                    }
                    Some(Order::CancelDrain { done }) => drop(done.send(self.cancel_drain().await)),
                },
            }
        }
    }

    async fn reload(&mut self, why: &str) {
        let Some(reload) = &mut self.reload else {
            warn!("nothing to reload: the broker was started without a settings file");
            return;
        };
        info!(why, file = %reload.path().display(), "reading the settings");
        let outcome = reload.run(&mut self.server, &mut self.metrics).await;
        self.desk.reloaded(outcome);
    }

    async fn drain(&mut self, order: drain::Order) {
        self.server.close_listeners().await;
        drain::start(&self.desk, order);
    }

    async fn cancel_drain(&mut self) -> Result<bool, String> {
        if !drain::cancel(&self.desk) {
            return Ok(false);
        }
        self.server.open_listeners().await.map_err(|error| error.to_string())?;
        self.desk.node.set_ready(true);
        info!("drain cancelled, clients may come again");
        Ok(true)
    }
}
