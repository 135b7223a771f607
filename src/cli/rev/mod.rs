//! `nsd rev …`: revisions, and putting one of them on the machines.

pub(super) mod deploy;
mod get;
mod list;
mod preflight;
mod preview;
pub(super) mod roll;

use super::Context;
use crate::failure::Failure;

/// Revisions: list, preview, deploy
#[derive(clap::Subcommand)]
pub(super) enum Command {
    List(list::Args),
    Get(get::Args),
    Preview(preview::Args),
    Deploy(deploy::Args),
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::List(args) => list::run(context, args),
        Command::Get(args) => get::run(context, args),
        Command::Preview(args) => preview::run(context, args).await,
        Command::Deploy(args) => deploy::run(context, args).await,
    }
}
