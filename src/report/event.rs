//! What happened, to whom. Work sends events; a listener shows them (bars, plain lines, JSON).

use std::time::Duration;

use serde::Serialize;

/// `who` names a machine, a process or an image: whatever the line is about.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A phase of the command starts: `observe`, `ship images`, `roll mqtt`.
    Phase {
        title: String,
    },
    Started {
        who: String,
        what: String,
    },
    Done {
        who: String,
        what: String,
        #[serde(with = "crate::system::seconds")]
        took: Duration,
    },
    Failed {
        who: String,
        what: String,
        why: String,
    },
    /// Bytes or layers of a long step; `total` 0 means unknown.
    Progress {
        who: String,
        what: String,
        done: u64,
        total: u64,
    },
    /// A line that a build or a script printed.
    Output {
        who: String,
        line: String,
    },
    /// Worth telling, and nothing failed.
    Note {
        who: String,
        what: String,
    },
    /// Worth a look by a person.
    Warning {
        who: String,
        what: String,
    },
}
