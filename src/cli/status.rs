use std::collections::BTreeMap;

use serde::Serialize;

use super::Context;
use super::context::address;
use super::rev::roll::Scene;
use super::sys::analyze::words;
use crate::failure::Failure;
use crate::history::short;
use crate::plan::{MachineState, Observed, Running};
use crate::report::Table;
use crate::system::{InstanceName, MachineName, System};

/// One screen: what should run, and what does
#[derive(clap::Args)]
pub(super) struct Args {}

#[derive(Serialize)]
struct Row {
    machine: MachineName,
    instance: InstanceName,
    /// `running`, `missing`, `not wanted: running`, …
    state: String,
    since: String,
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
}

pub(super) async fn run(context: &Context, _args: Args) -> Result<(), Failure> {
    let work = context.work()?;
    let revision = work.revision("deployed").or_else(|_| work.revision("head"))?;
    let scene = Scene::look(context, &work, revision).await?;
    context.reporter.end();
    let rows = rows(&scene.system, &scene.observed);
    let json = serde_json::json!({
        "system": scene.system.name, "topology": scene.system.topology, "revision": scene.revision.id, "instances": rows,
    });
    context.screen.show(&json, || text(context, &scene, &rows));
    scene.all_answered()
}

fn text(context: &Context, scene: &Scene<'_>, rows: &[Row]) -> String {
    let palette = context.screen.palette;
    let running = rows.iter().filter(|row| row.state == "running").count();
    let mut table = Table::new(["INSTANCE", "STATE", "SINCE", "ADDRESS", "REVISION"]);
    for row in rows {
        let painted =
            if row.state == "running" { palette.green(&row.state) } else { palette.red(&row.state) };
        table.row([
            row.instance.to_string(),
            painted,
            row.since.clone(),
            row.address.clone(),
            row.revision.as_deref().map_or("-", short).to_owned(),
        ]);
    }
    format!(
        "{} {}, revision {}: {running} of {} running\n\n{}",
        palette.bold(scene.system.name.as_str()),
        scene.system.topology,
        scene.revision.short(),
        scene.system.instances.len(),
        table.text(|header| palette.bold(header))
    )
}

/// Wanted instances in the order of the system, then what runs and is not wanted.
fn rows(system: &System, observed: &Observed) -> Vec<Row> {
    let mut found: BTreeMap<&InstanceName, Vec<&Running>> = BTreeMap::new();
    for state in observed.machines.values() {
        let MachineState::Answered(told) = state else { continue };
        for running in &told.instances {
            found.entry(&running.instance).or_default().push(running);
        }
    }
    let mut rows = Vec::new();
    for instance in &system.instances {
        let machine = instance.name.machine.clone();
        let mut row = Row {
            machine,
            instance: instance.name.clone(),
            state: String::new(),
            since: "-".into(),
            address: address(system, instance),
            revision: None,
        };
        // Of several, the one that runs speaks for the instance; a leftover of a replacement is told beside it.
        let mut here = found.remove(&instance.name).unwrap_or_default();
        here.sort_by_key(|running| !running.state.runs());
        match here.first() {
            Some(running) => {
                (row.state, row.since) = words(&running.state);
                row.revision = Some(running.revision.clone());
            }
            None if answered(observed, &instance.name.machine) => row.state = "missing".to_owned(),
            None => row.state = "unknown".to_owned(),
        }
        rows.push(row);
        rows.extend(here.into_iter().skip(1).map(unwanted));
    }
    rows.extend(found.into_values().flatten().map(unwanted));
    rows
}

fn unwanted(running: &Running) -> Row {
    let (state, since) = words(&running.state);
    Row {
        machine: running.instance.machine.clone(),
        instance: running.instance.clone(),
        state: format!("not wanted: {state}"),
        since,
        address: "-".into(),
        revision: Some(running.revision.clone()),
    }
}

fn answered(observed: &Observed, machine: &MachineName) -> bool {
    matches!(observed.machines.get(machine), Some(MachineState::Answered(_)))
}
