//! `cont build`, `cont buildall`.

use std::time::Instant;

use serde_json::json;

use crate::builder;
use crate::cli::Context;
use crate::cli::context::Work;
use crate::failure::{Failure, Kind};
use crate::history::{Entry, Outcome, Revision};
use crate::host::Hosts;
use crate::login;
use crate::report::{Event, seconds};
use crate::system::{Machine, MachineName, ProcessName, System};

/// Build the image of one process of the newest revision
///
/// A build that exists is not repeated: what goes in (commit, folder, Dockerfile, arguments) decides its tag.
#[derive(clap::Args)]
pub(in crate::cli) struct BuildArgs {
    /// Name of the process
    process: String,
}

/// Build every image that the newest revision needs
///
/// A build that exists is not repeated. The builder's output is shown as it comes.
#[derive(clap::Args)]
pub(in crate::cli) struct BuildallArgs {}

pub(super) async fn build(context: &Context, args: BuildArgs) -> Result<(), Failure> {
    let work = context.work()?;
    let revision = work.revision("head")?;
    let system = work.repo.load(&revision.id)?;
    let process = system
        .builds
        .keys()
        .find(|name| name.as_str() == args.process)
        .ok_or_else(|| not_built(&system, &args.process))?;
    build_all(context, &work, &revision, &system, vec![process]).await
}

pub(super) async fn buildall(context: &Context, _args: BuildallArgs) -> Result<(), Failure> {
    let work = context.work()?;
    let revision = work.revision("head")?;
    let system = work.repo.load(&revision.id)?;
    build_all(context, &work, &revision, &system, system.builds.keys().collect()).await
}

/// Builds one after another, for their output is read by people. Ends at the first that fails. What was built or failed
/// goes into the timeline.
pub(in crate::cli) async fn build_all(
    context: &Context,
    work: &Work,
    revision: &Revision,
    system: &System,
    wanted: Vec<&ProcessName>,
) -> Result<(), Failure> {
    if wanted.is_empty() {
        context.screen.show(&json!([]), || {
            "nothing to build: every process comes as an image, a bundled server or a program".to_owned()
        });
        return Ok(());
    }
    context.reporter.send(Event::Phase { title: "build".to_owned() });
    let machines: std::collections::BTreeMap<MachineName, Machine> = builders(system, &wanted);
    let hosts = Hosts::connect(&work.project.dir, &machines, system, &context.reporter).await;
    work.project.prepare()?;
    let cache = work.project.state.join("sources");
    let began = Instant::now();
    let mut told = Vec::new();
    let mut made = Vec::new();
    let record = |result, summary| {
        let who = login::who()?;
        let about = (&system.topology, revision.id.as_str());
        let entry = Entry::new("build", &who, about, (result, summary), began.elapsed());
        work.repo.timeline_append(&entry, &who)
    };
    for process in wanted {
        let built = match builder::build(system, process, &hosts, &cache, &context.reporter).await {
            Ok(built) => built,
            Err(failure) => {
                if let Err(unwritten) = record(Outcome::Failed, failure.message.clone()) {
                    context.warn(format!("{unwritten}"));
                }
                return Err(failure);
            }
        };
        if !built.reused {
            made.push(process.as_str());
        }
        let took = built.took;
        context.reporter.send(Event::Done { who: process.to_string(), what: "image".to_owned(), took });
        let how = if built.reused {
            "is there already".to_owned()
        } else {
            format!("built in {}", seconds(built.took))
        };
        if !context.screen.json {
            context.screen.say(&format!("{process}: {} {how}", built.tag));
        }
        told.push(json!({ "process": process, "tag": built.tag, "reused": built.reused, "took": built.took.as_secs_f64() }));
    }
    if context.screen.json {
        context.screen.show(&told, String::new);
    }
    if made.is_empty() { Ok(()) } else { record(Outcome::Done, format!("built {}", made.join(", "))) }
}

/// The machines that may be asked to build: those named, and those that run what is built.
fn builders(system: &System, wanted: &[&ProcessName]) -> std::collections::BTreeMap<MachineName, Machine> {
    let named = wanted.iter().filter_map(|process| system.builds.get(*process)?.on.as_ref());
    let running = system
        .instances
        .iter()
        .filter(|instance| wanted.contains(&&instance.name.process))
        .map(|instance| &instance.name.machine);
    named.chain(running).filter_map(|name| Some((name.clone(), system.machines.get(name)?.clone()))).collect()
}

fn not_built(system: &System, name: &str) -> Failure {
    let known = system.builds.keys().map(ProcessName::as_str).collect::<Vec<_>>().join(", ");
    let failure =
        Failure::new(Kind::Usage, format!("`{name}` is not a process that is built from a repository"));
    if known.is_empty() {
        failure.hint("no process of this revision is; there is nothing to build")
    } else {
        failure.hint(format!("these are: {known}"))
    }
}
