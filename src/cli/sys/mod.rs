//! `nsd sys …`: systems and what is compiled from them.

pub(super) mod analyze;
pub(super) mod compile;
mod create;
mod list;
mod show;
mod stop;

use super::Context;
use crate::failure::Failure;

/// Systems: create, compile, show, stop
#[derive(clap::Subcommand)]
pub(super) enum Command {
    Create(create::Args),
    List(list::ListArgs),
    Link(list::LinkArgs),
    Unlink(list::UnlinkArgs),
    Show(show::Args),
    Compile(compile::Args),
    Analyze(analyze::Args),
    Stop(stop::Args),
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(args) => create::run(context, args),
        Command::List(args) => list::list(context, args),
        Command::Link(args) => list::link(context, args),
        Command::Unlink(args) => list::unlink(context, args),
        Command::Show(args) => show::run(context, args),
        Command::Compile(args) => compile::run(context, args).await,
        Command::Analyze(args) => analyze::run(context, args).await,
        Command::Stop(args) => stop::run(context, args).await,
    }
}
