//! What this process may have: open files.

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For the runtimes, standard streams and the like.
const SPARE: u64 = 100;

/// Raises the soft limit of open files as far as `wanted` connections need, or tells why it cannot be done.
pub fn allow_files(wanted: usize) -> Result<()> {
    let wanted = wanted as u64 + SPARE;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    if let Some(maximum) = limit.maximum.filter(|maximum| *maximum < wanted) {
        bail!(
            "{wanted} open files are needed and the hard limit is {maximum}: ask for fewer clients, or raise it (ulimit -Hn)"
        );
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })
        .context("raising the limit of open files")
}
