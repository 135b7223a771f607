use crate::cli::Context;
use crate::cli::context::local_time;
use crate::cli::rev::roll::Scene;
use crate::failure::Failure;
use crate::plan::{MachineState, Observed, RunState};
use crate::report::Table;

/// Ask every machine what it is and what of this system it runs
///
/// Tells what is there, not what should be: for that see `nsd rev preview`.
#[derive(clap::Args)]
pub(in crate::cli) struct Args {}

pub(super) async fn run(context: &Context, _args: Args) -> Result<(), Failure> {
    let work = context.work()?;
    let revision = work.revision("head")?;
    let scene = Scene::look(context, &work, revision).await?;
    context.reporter.end();
    let bold = |header: &str| context.screen.palette.bold(header);
    context.screen.show(&scene.observed, || {
        format!("{}\n\n{}", machines(&scene.observed).text(bold), containers(&scene.observed).text(bold))
    });
    scene.all_answered()
}

fn machines(observed: &Observed) -> Table {
    let mut table = Table::new(["MACHINE", "ENGINE", "ARCH", "FREE", "CONTAINERS"]);
    for (name, state) in &observed.machines {
        table.row(match state {
            MachineState::Answered(told) => [
                name.to_string(),
                told.engine.clone(),
                if told.architecture.is_empty() { "-".to_owned() } else { told.architecture.clone() },
                told.disk_free
                    .map_or_else(|| "-".to_owned(), |bytes| format!("{:.1} GB", bytes as f64 / 1e9)),
                told.instances.len().to_string(),
            ],
            MachineState::Unreachable { .. } => {
                [name.to_string(), "does not answer".into(), "-".into(), "-".into(), "?".into()]
            }
        });
    }
    table
}

fn containers(observed: &Observed) -> Table {
    let mut table = Table::new(["CONTAINER", "STATE", "SINCE", "REVISION"]);
    for state in observed.machines.values() {
        let MachineState::Answered(told) = state else { continue };
        for running in &told.instances {
            let (state, since) = words(&running.state);
            table.row([
                running.container.to_string(),
                state,
                since,
                crate::history::short(&running.revision).to_owned(),
            ]);
        }
    }
    table
}

/// State and since when, as people say it.
pub(in crate::cli) fn words(state: &RunState) -> (String, String) {
    let none = || "-".to_owned();
    match state {
        RunState::Running { since } => ("running".to_owned(), local_time(since)),
        RunState::Created => ("created".to_owned(), none()),
        RunState::Restarting => ("restarting".to_owned(), none()),
        RunState::Paused => ("paused".to_owned(), none()),
        RunState::Exited { code } => (format!("exited ({code})"), none()),
    }
}
