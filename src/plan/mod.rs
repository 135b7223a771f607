//! Wanted + observed → steps. Pure: the list that `rev preview` prints is the very list that `rev deploy` performs.

mod observed;
mod step;

pub use observed::{MachineState, Observed, RunState, Running, Surveyed};
pub use step::{Action, ContainerName, Lane, Spec, Stage, Step, Undo};

use serde::Serialize;

use crate::system::{InstanceName, SystemName, TopologyName};

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
