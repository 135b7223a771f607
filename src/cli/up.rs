use super::Context;
use super::cont;
use super::rev::deploy;
use super::sys::compile;
use crate::failure::Failure;

/// Compile, build and deploy: all of it
///
///   nsd up                # the topology used last, else the only one, else `local`
///   nsd up direct
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// Name of the topology
    topology: Option<String>,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let work = context.work()?;
    let topology = match &args.topology {
        Some(name) => work.named_topology(name)?,
        None => work.topology_or_local()?,
    };
    let recorded = compile::compile(context, &work, &topology).await?;
    if !context.screen.json {
        let changes = if recorded.new { compile::describe(&work, &recorded)? } else { Vec::new() };
        context.reporter.end();
        context.screen.say(&compile::text(&work, &recorded, &changes));
    }
    let system = work.repo.load(&recorded.revision.id)?;
    if !system.builds.is_empty() {
        let wanted = system.builds.keys().collect();
        cont::build::build_all(context, &work, &recorded.revision, &system, wanted).await?;
    }
    deploy::deploy(context, &work, recorded.revision).await
}
