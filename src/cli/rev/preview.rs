use crate::cli::Context;
use crate::failure::{Failure, Kind};
use crate::plan;

/// Show the very steps that `rev deploy` would perform; changes nothing
///
///   nsd rev preview                  # head
///   nsd rev preview --exit-code head # exit 2 when there is something to do
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(in crate::cli) struct Args {
    /// `head`, `previous`, `deployed`, or the first digits of an id
    #[arg(default_value = "head")]
    revision: String,
    /// Exit with 2 when there is something to do
    #[arg(long)]
    exit_code: bool,
    /// Show unchanged instances too
    #[arg(long)]
    long: bool,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let work = context.work()?;
    let revision = work.revision(&args.revision)?;
    let scene = super::roll::Scene::survey(context, &work, revision).await?;
    let plan = scene.plan()?;
    context.reporter.end();
    context.screen.show(&plan, || if args.long { plan::text_long(&plan) } else { plan::text(&plan) });
    scene.preflight(&plan).await?;
    match args.exit_code && !plan.stages.is_empty() {
        true => {
            Err(Failure::new(Kind::Changes, "there is something to do").hint("do it: `nsd rev deploy head`"))
        }
        false => Ok(()),
    }
}
