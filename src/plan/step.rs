//! Everything `nsd` can do to a machine, as values, each with its undo. The first file to read.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::system::{Image, InstanceName, MachineName, SystemName};

/// Hash over everything that matters to a container, in hex; carried as its label `nsd.spec`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Spec(pub String);

/// `SYSTEM.MACHINE.PROCESS.NUMBER.SPEC`: old and new of one instance can stand side by side.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContainerName(pub String);

impl ContainerName {
    pub fn new(system: &SystemName, instance: &InstanceName, spec: &Spec) -> Self {
        let short = spec.0.get(..8).unwrap_or(&spec.0);
        Self(format!("{system}.{instance}.{short}"))
    }
}

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Stages run one after another, the lanes of a stage side by side, the steps of a lane in order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stage {
    pub title: String,
    pub lanes: Vec<Lane>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lane {
    pub steps: Vec<Step>,
}

/// One action on one machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    pub machine: MachineName,
    #[serde(flatten)]
    pub action: Action,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Action {
    /// The machine's engine pulls a registry's image.
    Pull {
        reference: String,
    },
    /// An image that `nsd` assembled or built is sent to the machine: only what it lacks.
    Ship {
        image: Image,
        reference: String,
    },
    /// The container is made and its files are put in; it does not run yet.
    Create {
        container: ContainerName,
        instance: InstanceName,
        spec: Spec,
    },
    Start {
        container: ContainerName,
        instance: InstanceName,
    },
    /// Wait until the instance's health says so; fails at its deadline, or when the container ends.
    AwaitHealthy {
        container: ContainerName,
        instance: InstanceName,
    },
    /// SIGTERM, grace, then SIGKILL. The container stays, so that an undo can start it again.
    Stop {
        container: ContainerName,
        instance: InstanceName,
        #[serde(with = "crate::system::seconds")]
        grace: Duration,
    },
    Remove {
        container: ContainerName,
        instance: InstanceName,
    },
    /// Live files of a running container are changed in place.
    PutFiles {
        container: ContainerName,
        instance: InstanceName,
        files: Vec<String>,
    },
}

/// How a performed step is taken back.
#[derive(Debug, Clone, PartialEq)]
pub enum Undo {
    /// By these actions on the same machine, in order.
    Actions(Vec<Action>),
    /// The earlier contents of live files are put back; the runner kept them.
    RestoreFiles { container: ContainerName, instance: InstanceName },
    /// It left nothing that matters, such as an image on a disk.
    Nothing,
    /// It cannot be taken back; the plan says so before anyone agrees to it.
    Impossible(&'static str),
}

impl Step {
    pub fn undo(&self) -> Undo {
        match &self.action {
            Action::Pull { .. } | Action::Ship { .. } | Action::AwaitHealthy { .. } => Undo::Nothing,
            Action::Create { container, instance, .. } => Undo::Actions(vec![Action::Remove {
                container: container.clone(),
                instance: instance.clone(),
            }]),
            Action::Start { container, instance } => Undo::Actions(vec![Action::Stop {
                container: container.clone(),
                instance: instance.clone(),
                grace: UNDO_GRACE,
            }]),
            Action::Stop { container, instance, .. } => Undo::Actions(vec![
                Action::Start { container: container.clone(), instance: instance.clone() },
                Action::AwaitHealthy { container: container.clone(), instance: instance.clone() },
            ]),
            Action::Remove { .. } => {
                Undo::Impossible("a removed container is gone; removals stand last, after all that can fail")
            }
            Action::PutFiles { container, instance, .. } => {
                Undo::RestoreFiles { container: container.clone(), instance: instance.clone() }
            }
        }
    }
}

/// What did not come up has no sessions worth a long goodbye.
const UNDO_GRACE: Duration = Duration::from_secs(5);

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pull { reference } => write!(f, "pull {reference}"),
            Self::Ship { reference, .. } => write!(f, "ship {reference}"),
            Self::Create { container, .. } => write!(f, "create {container}"),
            Self::Start { container, .. } => write!(f, "start {container}"),
            Self::AwaitHealthy { container, .. } => write!(f, "await health of {container}"),
            Self::Stop { container, .. } => write!(f, "stop {container}"),
            Self::Remove { container, .. } => write!(f, "remove {container}"),
            Self::PutFiles { container, files, .. } => write!(f, "put {} into {container}", files.join(", ")),
        }
    }
}
