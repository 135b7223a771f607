//! Logs for operators: tracing to stderr, as text or JSON lines, filtered by `RUST_LOG`. The filter may be changed while
//! the process runs.

use std::io::IsTerminal;
use std::sync::OnceLock;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    #[default]
    Text,
    Json,
}

type Change = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// How to change the filter of the process's one subscriber.
static CHANGE: OnceLock<Change> = OnceLock::new();

/// Starts logging for the whole process; `default_filter` (for example `"info"`) holds where `RUST_LOG` is unset.
/// A second call changes nothing, so that tests may call it freely.
pub fn start(format: Format, default_filter: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default_filter));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let changed = |error: tracing_subscriber::reload::Error| error.to_string();
    let (begun, change): (_, Change) = match format {
        Format::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            (builder.try_init(), Box::new(move |filter| handle.reload(filter).map_err(changed)))
        }
        Format::Text => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let builder = builder.with_ansi(colour).with_target(false).with_filter_reloading();
            let handle = builder.reload_handle();
            (builder.try_init(), Box::new(move |filter| handle.reload(filter).map_err(changed)))
        }
    };
    if begun.is_ok() {
        let _ = CHANGE.set(change);
    }
}

/// Whether a filter can be understood.
pub fn check(filter: &str) -> Result<(), String> {
    EnvFilter::try_new(filter).map(drop).map_err(|error| error.to_string())
}

/// Another filter from now on, whatever `RUST_LOG` said at the start.
pub fn change(filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
    CHANGE.get().map_or(Ok(()), |change| change(filter))
}

/// Whether `RUST_LOG` says what is logged, so that the settings do not.
pub fn is_set_by_environment() -> bool {
    EnvFilter::try_from_default_env().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        assert!(check("info").is_ok() && check("warn,nsd_broker::door=debug").is_ok());
        assert!(check("nsd_broker=loud").is_err());
        assert!(change("nsd_broker=loud").is_err());
    }
}
