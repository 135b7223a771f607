use super::Context;
use crate::failure::Failure;
use crate::history::{Entry, short};
use crate::report::Table;

/// What was done to this system: every attempt, by whom, and what became of it
#[derive(clap::Subcommand)]
pub(super) enum Command {
    List(ListArgs),
}

/// List attempts, newest first
#[derive(clap::Args)]
pub(super) struct ListArgs {
    /// At most so many
    #[arg(short = 'n', long, default_value_t = 30)]
    limit: usize,
}

pub(super) fn run(context: &Context, command: Command) -> Result<(), Failure> {
    let Command::List(args) = command;
    let entries = context.work()?.repo.timeline_list(args.limit)?;
    context.screen.show(&entries, || text(context, &entries));
    Ok(())
}

fn text(context: &Context, entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "nothing was done yet; `nsd up` does all of it".to_owned();
    }
    let mut table = Table::new(["TIME", "WHO", "ACTION", "REVISION", "RESULT", "SUMMARY"]);
    for entry in entries {
        let result = entry.result.words();
        let painted = match entry.result {
            crate::history::Outcome::Done => context.screen.palette.green(result),
            _ => context.screen.palette.red(result),
        };
        table.row([
            super::context::local_time(&entry.time),
            entry.who.clone(),
            format!("{} {}", entry.action, entry.topology),
            entry.revision.as_deref().map(short).unwrap_or("-").to_owned(),
            painted,
            entry.summary.clone(),
        ]);
    }
    table.text(|header| context.screen.palette.bold(header))
}
