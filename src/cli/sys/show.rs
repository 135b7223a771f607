use crate::cli::Context;
use crate::failure::Failure;
use crate::report::Table;
use crate::system::System;

/// Show a compiled system: what will run where
///
/// With --json the whole compiled system, exactly as the revision holds it; secrets are references there too.
#[derive(clap::Args)]
pub(in crate::cli) struct Args {
    /// `head`, `previous`, `deployed`, or the first digits of an id
    #[arg(default_value = "head")]
    revision: String,
}

pub(super) fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let work = context.work()?;
    let revision = work.revision(&args.revision)?;
    let system = work.repo.load(&revision.id)?;
    context.screen.show(&system, || {
        let palette = context.screen.palette;
        format!(
            "{} {}  {}\ntopology {}  revision {}\n\n{}",
            palette.bold(system.name.as_str()),
            system.namespace,
            system.id,
            system.topology,
            revision.short(),
            instances(&system).text(|header| palette.bold(header))
        )
    });
    Ok(())
}

fn instances(system: &System) -> Table {
    let mut table = Table::new(["INSTANCE", "ADDRESS", "IMAGE", "NEEDS"]);
    for instance in &system.instances {
        let needs: Vec<&str> = instance.needs.iter().map(crate::system::ProcessName::as_str).collect();
        table.row([
            instance.name.to_string(),
            crate::cli::context::address(system, instance),
            instance.container.image.reference().unwrap_or_else(|| "(plain process)".to_owned()),
            if needs.is_empty() { "-".to_owned() } else { needs.join(", ") },
        ]);
    }
    table
}
