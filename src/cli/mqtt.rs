use super::Context;
use crate::failure::Failure;
/// A small MQTT client
#[derive(clap::Subcommand)]
pub(super) enum Command {
    Pub,
    Sub,
}
pub(super) async fn run(_context: &Context, _command: Command) -> Result<(), Failure> {
    Err(Failure::error("later"))
}
