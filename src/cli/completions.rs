use clap::CommandFactory;

use super::{Cli, Context};
use crate::failure::Failure;

/// Print completions for a shell
///
///   nsd completions bash > ~/.local/share/bash-completion/completions/nsd
///   nsd completions zsh > ~/.zfunc/_nsd
///   nsd completions fish > ~/.config/fish/completions/nsd.fish
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    shell: clap_complete::Shell,
}

pub(super) fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "nsd", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    context
        .screen
        .show(&serde_json::json!({ "shell": args.shell.to_string(), "script": script }), || script.clone());
    Ok(())
}
