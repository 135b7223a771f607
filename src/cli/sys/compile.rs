use std::collections::BTreeMap;

use futures_util::future::join_all;

use crate::bundled;
use crate::cli::Context;
use crate::cli::context::Work;
use crate::compile::{self, Inputs};
use crate::failure::{Failure, Kind};
use crate::history::{Lock, Recorded, difference};
use crate::manifest::{Place, Runtime, Source, Topology};
use crate::system::{Bundled, ProcessName, TopologyName};
use crate::{builder, host, login, render};

/// Compile system.toml for a topology and record it as a revision
///
/// Looks up the commit of each repository and writes a revision into git, beside
/// your branches and without touching them. The same input gives the same revision.
/// The topology is remembered for the next commands.
///
///   nsd sys compile direct
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(in crate::cli) struct Args {
    /// Name of the topology; by default the one compiled last, or the only one
    topology: Option<String>,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let work = context.work()?;
    let topology = match &args.topology {
        Some(name) => work.named_topology(name)?,
        None => work.topology()?,
    };
    let recorded = compile(context, &work, &topology).await?;
    let changes = if recorded.new { describe(&work, &recorded)? } else { Vec::new() };
    let json = serde_json::json!({ "revision": recorded.revision, "new": recorded.new, "changes": changes });
    context.screen.show(&json, || text(&work, &recorded, &changes));
    Ok(())
}

/// Manifest → revision, with everything that must be looked up outside.
pub(in crate::cli) async fn compile(
    context: &Context,
    work: &Work,
    topology: &TopologyName,
) -> Result<Recorded, Failure> {
    let wanted = work.manifest.topologies().get(topology).ok_or_else(|| {
        Failure::new(Kind::Usage, format!("{} has no topology `{topology}`", work.manifest.name))
    })?;
    let inputs = Inputs {
        templates: templates(work)?,
        pins: pins(context, work, topology, wanted).await?,
        bundled: digests(wanted)?,
        local_docker: needs_to_know_docker(wanted) && host::local_docker().await,
    };
    let system =
        compile::compile(&work.manifest, topology, &inputs).map_err(|problems| work.invalid(problems))?;
    let lock = Lock {
        pins: inputs.pins,
        bundled: inputs
            .bundled
            .iter()
            .map(|(program, digest)| (program.name().to_owned(), digest.clone()))
            .collect(),
    };
    work.project.prepare()?;
    let recorded = work.repo.record(&system, &lock, &login::who()?)?;
    work.project.set_current(topology)?;
    for warning in work.manifest.warnings() {
        let hint = warning.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
        let place = format!("{}:{}", work.project.shown(), warning.line);
        context.warn(format!("{place}: {}: {}{hint}", warning.at, warning.what));
    }
    Ok(recorded)
}

/// A template beside `system.toml` stands before the embedded one of the same name. One that is nowhere is left out:
/// the compiler tells, with the line that wants it.
fn templates(work: &Work) -> Result<BTreeMap<String, String>, Failure> {
    let mut found = BTreeMap::new();
    for name in work.manifest.templates() {
        let path = work.project.dir.join("templates").join(&name);
        match std::fs::read_to_string(&path) {
            Ok(text) => drop(found.insert(name, text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                found.extend(render::embedded(&name).map(|text| (name, text.to_owned())));
            }
            Err(error) => {
                return Err(Failure::new(
                    Kind::System,
                    format!("cannot read the template {}", path.display()),
                )
                .because(&error));
            }
        }
    }
    Ok(found)
}

/// The commit of every repository, looked up side by side; all that fail are told at once.
async fn pins(
    context: &Context,
    work: &Work,
    topology: &TopologyName,
    wanted: &Topology,
) -> Result<BTreeMap<ProcessName, String>, Failure> {
    let identity = wanted.machines.values().find_map(|machine| match &machine.place {
        Place::Ssh { identity, .. } => identity.clone(),
        Place::Here => None,
    });
    let repositories = work.manifest.repositories(topology);
    let lookups = repositories.into_iter().map(|(process, url, reference)| {
        let (dir, identity) = (&work.project.dir, identity.as_deref());
        async move {
            let began = std::time::Instant::now();
            let commit = builder::pin(dir, &url, reference.as_deref(), identity).await;
            if let Ok(commit) = &commit {
                let what = format!("{url} is at {}", crate::history::short(commit));
                context.reporter.send(crate::report::Event::Done {
                    who: process.to_string(),
                    what,
                    took: began.elapsed(),
                });
            }
            (process, commit)
        }
    });
    let mut pins = BTreeMap::new();
    let mut failures = Vec::new();
    for (process, commit) in join_all(lookups).await {
        match commit {
            Ok(commit) => drop(pins.insert(process, commit)),
            Err(failure) => failures.push((process, failure)),
        }
    }
    crate::cli::context::together(failures, "repositories cannot be looked up").map_or(Ok(pins), Err)
}

/// Digests of the bundled programs that the topology wants.
fn digests(wanted: &Topology) -> Result<BTreeMap<Bundled, String>, Failure> {
    let mut digests = BTreeMap::new();
    for (_, process) in &wanted.processes {
        if let Source::Bundled(program) = process.source {
            digests.insert(program, bundled::digest(program)?);
        }
    }
    Ok(digests)
}

fn needs_to_know_docker(wanted: &Topology) -> bool {
    wanted.runtime == Runtime::Auto && wanted.machines.values().any(|machine| machine.place == Place::Here)
}

/// What a new revision changes against the one before, one line each.
pub(in crate::cli) fn describe(work: &Work, recorded: &Recorded) -> Result<Vec<String>, Failure> {
    Ok(difference(recorded.before.as_ref(), &work.repo.load(&recorded.revision.id)?))
}

pub(in crate::cli) fn text(work: &Work, recorded: &Recorded, changes: &[String]) -> String {
    let revision = &recorded.revision;
    let named = format!("{} for {}", work.manifest.name, revision.topology);
    if !recorded.new {
        return format!("nothing changed: {named} is still revision {}", revision.short());
    }
    let mut text = format!("compiled {named}: revision {}", revision.short());
    for change in changes {
        text.push_str("\n  ");
        text.push_str(change);
    }
    text
}
