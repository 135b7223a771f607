use serde_json::json;

use crate::cli::Context;
use crate::cli::rev::roll::{Scene, plural};
use crate::failure::Failure;
use crate::plan;
use crate::report::seconds;

/// Stop the system: every container of it is stopped and removed; data in volumes stays
#[derive(clap::Args)]
pub(in crate::cli) struct Args {}

pub(super) async fn run(context: &Context, _args: Args) -> Result<(), Failure> {
    let began = std::time::Instant::now();
    let work = context.work()?;
    // What was deployed says best in which order to stop; a system that never was still may have left something.
    let revision = work.revision("deployed").or_else(|_| work.revision("head"))?;
    let scene = Scene::look(context, &work, revision).await?;
    let plan = scene.plan_stop()?;
    if plan.stages.is_empty() {
        let json = json!({ "changed": false, "plan": plan });
        context.screen.show(&json, || {
            format!("nothing to stop: nothing of {} runs ({})", scene.system.name, seconds(began.elapsed()))
        });
        return Ok(());
    }
    if !context.screen.json {
        context.screen.say(&format!("\n{}", plan::text(&plan)));
    }
    let count = plan.changes.len();
    context
        .confirm(&format!("{count} {} will be stopped and removed. Go on?", plural(count, "instance")))
        .await?;
    let outcome = scene.perform("stop", &plan).await?;
    let json = json!({ "changed": true, "plan": plan, "outcome": outcome });
    context.screen.show(&json, || match outcome.failure("stop") {
        None => format!(
            "stopped {}: {count} {} in {}; its data stays",
            scene.system.name,
            plural(count, "instance"),
            seconds(began.elapsed())
        ),
        Some(_) => String::new(),
    });
    outcome.failure("stop").map_or(Ok(()), Err)
}
