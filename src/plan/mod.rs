//! Wanted + observed → steps. Pure: the list that `rev preview` prints is the very list that `rev deploy` performs.

mod decide;
mod difference;
mod observed;
mod spec;
mod stages;
mod step;
mod text;

#[cfg(test)]
mod tests;

pub use observed::{MachineState, Observed, RunState, Running, Surveyed};
pub use spec::spec;
pub use step::{Action, ContainerName, Lane, Spec, Stage, Step, Undo};
pub use text::{text, text_long};

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::secret::Secrets;
use crate::system::{InstanceName, MachineName, SecretName, System, SystemName, TopologyName};

/// What one deploy will do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    pub system: SystemName,
    pub topology: TopologyName,
    pub revision: String,
    /// What becomes of each instance, in the order of the system; removed ones last.
    pub changes: Vec<Change>,
    /// One after another; empty when nothing is to be done.
    pub stages: Vec<Stage>,
}

/// What becomes of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    pub instance: InstanceName,
    #[serde(flatten)]
    pub kind: ChangeKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum ChangeKind {
    /// It runs as wanted.
    Keep,
    /// Nothing of it is there.
    Create,
    /// It is there as wanted but does not run.
    Start,
    /// Live files change in place; the program takes them over.
    Update { files: Vec<String> },
    /// Stop-first: something that matters differs, named in `why`.
    Replace { why: Vec<String> },
    /// No longer wanted.
    Remove { why: String },
}

/// Why there can be no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Machines that did not answer, each with its reason.
    #[error("cannot ask {}", .0.keys().map(MachineName::as_str).collect::<Vec<_>>().join(", "))]
    Unreachable(BTreeMap<MachineName, String>),
    #[error("secrets without a value: {}", .0.iter().map(SecretName::as_str).collect::<Vec<_>>().join(", "))]
    MissingSecrets(BTreeSet<SecretName>),
}

/// What must be done so that the machines run `wanted` and nothing else of this system. What runs on a machine that did not
/// answer is unknown, so there is no plan; a machine that the system no longer has may be gone for good.
pub fn plan(
    wanted: &System,
    revision: &str,
    observed: &Observed,
    secrets: &Secrets,
) -> Result<Plan, PlanError> {
    let missing: BTreeSet<SecretName> =
        wanted.secrets().into_iter().filter(|name| secrets.get(name).is_none()).collect();
    if !missing.is_empty() {
        return Err(PlanError::MissingSecrets(missing));
    }
    let surveyed = answered(wanted, observed)?;
    let decisions = decide::decide(wanted, &surveyed, secrets);
    Ok(Plan {
        system: wanted.name.clone(),
        topology: wanted.topology.clone(),
        revision: revision.to_owned(),
        stages: stages::stages(wanted, &surveyed, &decisions),
        changes: decisions.changes(),
    })
}

/// Stops and removes every container of the system; data in volumes stays. `wanted` gives the order.
pub fn stop(wanted: &System, revision: &str, observed: &Observed) -> Result<Plan, PlanError> {
    let surveyed = answered(wanted, observed)?;
    let decisions = decide::decide_to_stop(&surveyed);
    Ok(Plan {
        system: wanted.name.clone(),
        topology: wanted.topology.clone(),
        revision: revision.to_owned(),
        stages: stages::stages(wanted, &surveyed, &decisions),
        changes: decisions.changes(),
    })
}

/// What the machines told; refused if one that matters told nothing.
fn answered<'o>(
    wanted: &System,
    observed: &'o Observed,
) -> Result<BTreeMap<&'o MachineName, &'o Surveyed>, PlanError> {
    let mut unreachable = BTreeMap::new();
    let mut surveyed = BTreeMap::new();
    for (name, state) in &observed.machines {
        match state {
            MachineState::Answered(told) => drop(surveyed.insert(name, told)),
            MachineState::Unreachable { why } => drop(unreachable.insert(name.clone(), why.clone())),
        }
    }
    unreachable.retain(|name, _| wanted.machines.contains_key(name));
    for name in wanted.machines.keys().filter(|name| !observed.machines.contains_key(*name)) {
        unreachable.insert(name.clone(), "it was not asked".to_owned());
    }
    if unreachable.is_empty() { Ok(surveyed) } else { Err(PlanError::Unreachable(unreachable)) }
}
