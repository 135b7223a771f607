//! The hidden command under which plain processes live.

use std::path::PathBuf;
use std::process::ExitCode;

/// Keep one plain process running (started by nsd itself)
#[derive(clap::Args)]
pub(super) struct Args {
    /// Folder of the instance
    dir: PathBuf,
}

/// It has a process of its own, without our runtime and our signals.
pub(super) fn run(args: &Args) -> ExitCode {
    crate::supervise::main(&args.dir)
}
