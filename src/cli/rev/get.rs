use crate::cli::Context;
use crate::failure::Failure;

/// Print a revision: the compiled system as it was recorded, and what was looked up for it
///
///   nsd rev get head
///   nsd rev get 3f2a19 | less
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(in crate::cli) struct Args {
    /// `head`, `previous`, `deployed`, or the first digits of an id
    revision: String,
}

pub(super) fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let work = context.work()?;
    let revision = work.revision(&args.revision)?;
    let (system, lock) = (work.repo.load(&revision.id)?, work.repo.lock(&revision.id)?);
    let json = serde_json::json!({ "revision": revision, "lock": lock, "system": system });
    context.screen.show(&json, || {
        let document = serde_json::to_string_pretty(&serde_json::json!({ "lock": lock, "system": system }))
            .unwrap_or_default();
        let time = super::super::context::local_time(&revision.time);
        format!(
            "revision {}\nauthor   {}\ntime     {time}\nwhat     {}\n\n{document}",
            revision.id, revision.author, revision.message
        )
    });
    Ok(())
}
