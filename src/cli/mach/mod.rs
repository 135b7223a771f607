//! `nsd mach …`: the machines of a system, and the trust between them and us.

mod key;
mod list;
mod trust;

use std::collections::BTreeMap;

use super::Context;
use super::context::Work;
use crate::failure::{Failure, Kind};
use crate::manifest::{self, Place};
use crate::system::{Machine, MachineName, Reach, TopologyName};

/// Machines: list, make a key for them, trust their host keys
#[derive(clap::Subcommand)]
pub(super) enum Command {
    List(list::Args),
    Key(key::Args),
    Trust(trust::Args),
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::List(args) => list::run(context, args),
        Command::Key(args) => key::run(context, args).await,
        Command::Trust(args) => trust::run(context, args).await,
    }
}

/// Machines reached by SSH, of the topologies at hand: the one asked for, else all. They are taken from system.toml, for
/// keys and trust come before the first compile.
fn remote(work: &Work) -> BTreeMap<MachineName, Machine> {
    topologies(work)
        .into_iter()
        .flat_map(|(_, topology)| &topology.machines)
        .filter_map(|(name, machine)| Some((name.clone(), by_ssh(machine)?)))
        .collect()
}

fn topologies(work: &Work) -> Vec<(&TopologyName, &manifest::Topology)> {
    let asked = work.asked_topology();
    work.manifest.topologies().iter().filter(|(name, _)| asked.is_none_or(|asked| asked == *name)).collect()
}

fn by_ssh(machine: &manifest::Machine) -> Option<Machine> {
    let Place::Ssh { host, port, user, identity } = &machine.place else { return None };
    let reach =
        Reach::Ssh { host: host.clone(), port: *port, user: user.clone(), identity: identity.clone() };
    Some(Machine { reach, address: machine.address.clone() })
}

/// The machines asked for by name, or all.
fn chosen(work: &Work, names: &[String]) -> Result<BTreeMap<MachineName, Machine>, Failure> {
    let known = remote(work);
    if let Some(unknown) = names.iter().find(|name| !known.keys().any(|known| known.as_str() == **name)) {
        let list = known.keys().map(MachineName::as_str).collect::<Vec<_>>().join(", ");
        return Err(Failure::new(Kind::Usage, format!("no machine `{unknown}` is reached by SSH"))
            .hint(format!("these are: {list}")));
    }
    if known.is_empty() {
        return Err(none_by_ssh(work));
    }
    Ok(known
        .into_iter()
        .filter(|(name, _)| names.is_empty() || names.iter().any(|wanted| wanted == name.as_str()))
        .collect())
}

fn none_by_ssh(work: &Work) -> Failure {
    Failure::new(Kind::Usage, format!("no machine of {} is reached by SSH", work.manifest.name))
        .hint("a topology with machines elsewhere looks like this: `[topology.direct.machines]`")
}
