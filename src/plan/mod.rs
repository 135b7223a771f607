//! Wanted + observed → steps. Pure: the list that `rev preview` prints is the very list that `rev deploy` performs.

mod observed;
mod step;

pub use observed::{MachineState, Observed, RunState, Running, Surveyed};
pub use step::{Action, ContainerName, Lane, Spec, Stage, Step, Undo};

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::secret::Secrets;
use crate::system::{Container, InstanceName, MachineName, SecretName, System, SystemName, TopologyName};

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

/// What must be done so that the machines run `wanted` and nothing else of this system.
pub fn plan(wanted: &System, revision: &str, observed: &Observed, secrets: &Secrets) -> Result<Plan, PlanError> {
    let _ = (observed, secrets);
    Ok(Plan {
        system: wanted.name.clone(),
        topology: wanted.topology.clone(),
        revision: revision.to_owned(),
        changes: Vec::new(),
        stages: Vec::new(),
    })
}

/// Stops and removes every container of the system; data in volumes stays. `wanted` gives the order.
pub fn stop(wanted: &System, revision: &str, observed: &Observed) -> Result<Plan, PlanError> {
    plan(wanted, revision, observed, &Secrets::default())
}

/// Hash over everything that matters to a container but the contents of live files; secrets count with their values.
pub fn spec(container: &Container, secrets: &Secrets) -> Spec {
    let _ = (container, secrets);
    Spec(String::new())
}

/// A plan as people see it: what becomes of each instance, then the very steps that a deploy performs. Unchanged instances
/// are counted only.
pub fn text(plan: &Plan) -> String {
    let _ = plan;
    String::new()
}

/// [`text`] with the unchanged instances too.
pub fn text_long(plan: &Plan) -> String {
    text(plan)
}
