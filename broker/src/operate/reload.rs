//! Settings that are read again while the broker runs: parse → validate → compare → apply. A file that is wrong anywhere
//! changes nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nsd_edge::logs;
use nsd_edge::metrics::MetricsPort;
use nsd_edge::watch::FileWatch;
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use super::desk::Reloaded;
use super::diff::{self, Change, Takes};
use super::metrics;
use crate::server::Server;
use crate::settings::{self, Settings, SettingsError};

/// A settings file, as it was read; changes since then are noticed.
pub struct SettingsFile {
    path: PathBuf,
    text: Zeroizing<String>,
    watch: FileWatch,
}

impl SettingsFile {
    pub fn read(path: PathBuf) -> Result<(Settings, Self), SettingsError> {
        let watch = FileWatch::new(std::slice::from_ref(&path));
        let (settings, text) = settings::read_file(&path)?;
        Ok((settings, Self { path, text, watch }))
    }
}

/// What is in effect, to compare with.
pub(super) struct Reload {
    file: SettingsFile,
    started: Zeroizing<String>,
    settings: Settings,
}

impl Reload {
    pub(super) fn new(file: SettingsFile, settings: Settings) -> Self {
        Self { started: file.text.clone(), file, settings }
    }

    pub(super) fn path(&self) -> &Path {
        &self.file.path
    }

    /// Resolves when the file differs from when it was last reported. Cancel safe.
    pub(super) async fn changed(&mut self) {
        self.file.watch.changed().await;
    }

    pub(super) async fn run(&mut self, server: &mut Server, port: &mut MetricsPort) -> Reloaded {
        match self.attempt(server, port).await {
            Ok(reloaded) => {
                tell(&reloaded);
                reloaded
            }
            Err(problems) => {
                for problem in &problems {
                    error!(problem, "the settings are not changed");
                }
                Reloaded::failed(problems)
            }
        }
    }

    async fn attempt(
        &mut self,
        server: &mut Server,
        port: &mut MetricsPort,
    ) -> Result<Reloaded, Vec<String>> {
        let lines = |error: SettingsError| error.to_string().lines().map(str::to_owned).collect::<Vec<_>>();
        let (settings, text) = settings::read_file(&self.file.path).map_err(lines)?;
        let changes = diff::changes(&self.file.text, &text);
        let touches = |section: &str| changes.iter().any(|change| change.key.starts_with(section));
        // What can fail comes first, and what fails leaves everything as it was.
        if touches("metrics") {
            port.change(settings.telemetry.metrics, metrics::pages(&server.node))
                .await
                .map_err(|error| vec![error.to_string()])?;
        }
        // Limits are told to clients by their listeners.
        if touches("listen") || touches("limits") {
            let changed = server.change_listeners(&settings.listen).await;
            changed.map_err(|error| vec![error.to_string()])?;
        }
        self.apply(server, &settings, &changes);
        self.settings = settings;
        self.file.text = text;
        let applied = changes.into_iter().filter(|change| change.takes != Takes::Restart).collect();
        Ok(Reloaded::done(applied, diff::changes(&self.started, &self.file.text)))
    }

    fn apply(&self, server: &mut Server, settings: &Settings, changes: &[Change]) {
        let node = Arc::clone(&server.node);
        let (was, is) = (&self.settings.telemetry, &settings.telemetry);
        if was.log_level != is.log_level {
            if logs::is_set_by_environment() {
                warn!("log.level has no effect while RUST_LOG is set");
            } else if let Err(error) = logs::change(&is.log_level) {
                warn!(error, "the log's level is not changed");
            }
        }
        if (was.sys_interval, was.sys_events) != (is.sys_interval, is.sys_events) {
            node.sys.change(is.sys_interval, is.sys_events);
        }
        if self.settings.limits != settings.limits {
            node.limits.store(Arc::clone(&settings.limits));
            if node.hub.bus.is_none() {
                node.hub.retained.write().allow(settings.limits.retained, settings.limits.retained_bytes);
            }
        }
        if changes.iter().any(|change| change.key.starts_with("access") || change.key == "allow_anonymous") {
            server.change_access(&settings.access);
        }
    }
}

fn tell(reloaded: &Reloaded) {
    for change in &reloaded.applied {
        match change.takes {
            Takes::NewClients => info!(%change, "changed, for clients that connect from now on"),
            _ => info!(%change, "changed"),
        }
    }
    for change in &reloaded.needs_restart {
        warn!(%change, "needs a restart");
    }
    if reloaded.applied.is_empty() && reloaded.needs_restart.is_empty() {
        info!("the settings are the same");
    }
}
