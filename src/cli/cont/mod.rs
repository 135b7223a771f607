//! `nsd cont …`: containers and the images they are made of.

pub(super) mod build;
mod list;

use super::Context;
use crate::failure::Failure;

/// Containers: list, build
#[derive(clap::Subcommand)]
pub(super) enum Command {
    List(list::Args),
    Build(build::BuildArgs),
    Buildall(build::BuildallArgs),
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::List(args) => list::run(context, args),
        Command::Build(args) => build::build(context, args).await,
        Command::Buildall(args) => build::buildall(context, args).await,
    }
}
