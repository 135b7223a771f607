use crate::cli::Context;
use crate::cli::context::local_time;
use crate::failure::Failure;
use crate::report::Table;

/// List the revisions of the topology, newest first
#[derive(clap::Args)]
pub(in crate::cli) struct Args {}

pub(super) fn run(context: &Context, _args: Args) -> Result<(), Failure> {
    let work = context.work()?;
    let topology = work.topology()?;
    let revisions = work.repo.list(&topology)?;
    let deployed = work.repo.deployed(&topology)?;
    context.screen.show(&serde_json::json!({ "revisions": revisions, "deployed": deployed }), || {
        if revisions.is_empty() {
            return format!(
                "topology {topology} has no revision yet; compile it: `nsd sys compile {topology}`"
            );
        }
        let mut table = Table::new(["REVISION", "TIME", "AUTHOR", "", "WHAT"]);
        for (at, revision) in revisions.iter().enumerate() {
            let mut marks = Vec::new();
            marks.extend((at == 0).then_some("head"));
            marks.extend((deployed.as_ref() == Some(&revision.id)).then_some("deployed"));
            table.row([
                revision.short().to_owned(),
                local_time(&revision.time),
                revision.author.clone(),
                marks.join(", "),
                revision.message.clone(),
            ]);
        }
        table.text(|header| context.screen.palette.bold(header))
    });
    Ok(())
}
