use std::collections::BTreeMap;

use serde::Serialize;

use crate::cli::Context;
use crate::failure::Failure;
use crate::history::short;
use crate::report::Table;
use crate::system::{Image, ProcessName, System};

/// List the processes of the newest revision: where their images come from, and how many run
#[derive(clap::Args)]
pub(in crate::cli) struct Args {}

#[derive(Serialize)]
struct Row {
    process: ProcessName,
    source: String,
    image: Option<String>,
    instances: usize,
}

pub(super) fn run(context: &Context, _args: Args) -> Result<(), Failure> {
    let work = context.work()?;
    let rows = rows(&work.repo.load(&work.revision("head")?.id)?);
    context.screen.show(&rows, || {
        let mut table = Table::new(["PROCESS", "SOURCE", "IMAGE", "INSTANCES"]);
        for row in &rows {
            let image = row.image.clone().unwrap_or_else(|| "-".to_owned());
            table.row([row.process.to_string(), row.source.clone(), image, row.instances.to_string()]);
        }
        table.text(|header| context.screen.palette.bold(header))
    });
    Ok(())
}

fn rows(system: &System) -> Vec<Row> {
    let mut rows: BTreeMap<&ProcessName, Row> = BTreeMap::new();
    for instance in &system.instances {
        let process = &instance.name.process;
        let row = rows.entry(process).or_insert_with(|| Row {
            process: process.clone(),
            source: source(system, process, &instance.container.image),
            image: instance.container.image.reference(),
            instances: 0,
        });
        row.instances += 1;
    }
    rows.into_values().collect()
}

fn source(system: &System, process: &ProcessName, image: &Image) -> String {
    match (image, system.builds.get(process)) {
        (_, Some(build)) => format!("{} at {}", build.repository, short(&build.commit)),
        (Image::Bundled { program, .. }, _) => format!("bundled {}", program.name()),
        (Image::Registry { .. }, _) => "registry".to_owned(),
        (Image::Built { .. } | Image::None, _) => "program".to_owned(),
    }
}
