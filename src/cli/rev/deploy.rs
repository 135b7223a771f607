use serde_json::json;

use super::roll::{self, Scene};
use crate::cli::Context;
use crate::cli::context::Work;
use crate::failure::Failure;
use crate::history::Revision;
use crate::plan;

/// Put a revision on the machines
///
/// Asks all machines what runs, plans the difference, shows it, and performs it
/// step by step; on a failure what was done is taken back. Deploying what runs
/// already changes nothing.
///
///   nsd rev deploy head
///   nsd rev deploy previous       # back to the one before
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(in crate::cli) struct Args {
    /// `head`, `previous`, `deployed`, or the first digits of an id
    revision: String,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let work = context.work()?;
    let revision = work.revision(&args.revision)?;
    deploy(context, &work, revision).await
}

pub(in crate::cli) async fn deploy(
    context: &Context,
    work: &Work,
    revision: Revision,
) -> Result<(), Failure> {
    let began = std::time::Instant::now();
    let scene = Scene::survey(context, work, revision).await?;
    let plan = scene.plan()?;
    if plan.stages.is_empty() {
        let said = scene.nothing_to_do(&plan, began.elapsed());
        let json = json!({ "revision": scene.revision.id, "changed": false, "plan": plan });
        context.screen.show(&json, || said);
        // A deploy that finds all in place is what makes its revision the deployed one, if another was before.
        return scene.settle(began.elapsed());
    }
    if !context.screen.json {
        context.reporter.end();
        context.screen.say(&format!("\n{}", plan::text(&plan)));
    }
    scene.preflight(&plan).await?;
    if let Some(question) = roll::question(&plan) {
        context.confirm(&question).await?;
    }
    let outcome = scene.perform("deploy", &plan).await?;
    let json = json!({ "revision": scene.revision.id, "changed": true, "plan": plan, "outcome": outcome });
    let failure = outcome.failure("deploy");
    context.screen.show(&json, || match &failure {
        None => roll::summary(&scene, &plan, began.elapsed()),
        Some(_) => String::new(),
    });
    failure.map_or(Ok(()), Err)
}
