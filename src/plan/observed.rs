//! What the machines answered when asked, in our nouns. "Cannot ask the machine" is never "nothing runs there".

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{ContainerName, Spec};
use crate::system::{InstanceName, MachineName};

#[derive(Debug, Clone, Default, Serialize)]
pub struct Observed {
    pub machines: BTreeMap<MachineName, MachineState>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum MachineState {
    Answered(Surveyed),
    /// Why it could not be asked.
    Unreachable {
        why: String,
    },
}

/// What one machine told.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Surveyed {
    /// Such as `Docker 28.2.2` or `processes`.
    pub engine: String,
    /// In Docker's words: `amd64`, `arm64`; empty where it was not told.
    pub architecture: String,
    /// Every container with our labels for this system, running or not.
    pub instances: Vec<Running>,
    /// References of the images that the machine has, of those that the system wants.
    pub images: BTreeSet<String>,
    /// Bytes free where the engine keeps its data, if it tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_free: Option<u64>,
}

/// A container that carries our labels.
#[derive(Debug, Clone, Serialize)]
pub struct Running {
    pub container: ContainerName,
    pub instance: InstanceName,
    pub revision: String,
    pub spec: Spec,
    /// The compiled container it was made from, kept in a label with late values unbound, so that a plan can say which
    /// field differs; `None` where the label cannot be read.
    #[serde(skip)]
    pub made_from: Option<crate::system::Container>,
    #[serde(flatten)]
    pub state: RunState,
    /// What `${state}` stands for there: the directory of a plain process; empty in a container.
    #[serde(skip)]
    pub state_dir: String,
    /// SHA-256 in hex of each live file as it stands in the container now, by path.
    #[serde(skip)]
    pub live_files: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum RunState {
    /// `since` in RFC 3339.
    Running {
        since: String,
    },
    /// Made, never started.
    Created,
    Restarting,
    Paused,
    Exited {
        code: i64,
    },
}

impl RunState {
    pub const fn runs(&self) -> bool {
        matches!(self, Self::Running { .. })
    }

    /// Whether there is something to stop.
    pub const fn is_up(&self) -> bool {
        !matches!(self, Self::Created | Self::Exited { .. })
    }
}
