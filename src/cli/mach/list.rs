use serde::Serialize;

use super::topologies;
use crate::cli::Context;
use crate::failure::Failure;
use crate::manifest::Place;
use crate::report::Table;
use crate::system::{MachineName, ProcessName, TopologyName};

/// List the machines of every topology, or of one with --topology
#[derive(clap::Args)]
pub(in crate::cli) struct Args {}

#[derive(Serialize)]
struct Row {
    topology: TopologyName,
    machine: MachineName,
    address: String,
    reached: String,
    contains: Vec<ProcessName>,
}

pub(super) fn run(context: &Context, _args: Args) -> Result<(), Failure> {
    let work = context.work()?;
    let mut rows = Vec::new();
    for (topology, one) in topologies(&work) {
        for (name, machine) in &one.machines {
            rows.push(Row {
                topology: topology.clone(),
                machine: name.clone(),
                address: machine.address.clone(),
                reached: reached(&machine.place),
                contains: machine.contains.clone(),
            });
        }
    }
    context.screen.show(&rows, || {
        let mut table = Table::new(["TOPOLOGY", "MACHINE", "ADDRESS", "REACHED BY", "CONTAINS"]);
        for row in &rows {
            let contains = row.contains.iter().map(ProcessName::as_str).collect::<Vec<_>>().join(", ");
            table.row([
                row.topology.to_string(),
                row.machine.to_string(),
                row.address.clone(),
                row.reached.clone(),
                contains,
            ]);
        }
        table.text(|header| context.screen.palette.bold(header))
    });
    Ok(())
}

/// As one would type it.
fn reached(place: &Place) -> String {
    let Place::Ssh { host, port, user, .. } = place else { return "this machine".to_owned() };
    let user = user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
    let port = port.map(|port| format!(" -p {port}")).unwrap_or_default();
    format!("ssh {user}{host}{port}")
}
