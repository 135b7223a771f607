//! later
use std::path::Path;
use std::process::ExitCode;

/// Runs as the hidden command `nsd supervise DIR`. Call it before any runtime is started: it has its own.
pub fn main(_instance: &Path) -> ExitCode { ExitCode::FAILURE }
