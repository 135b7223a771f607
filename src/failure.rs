//! What a command ends with when it does not end well: a kind (which decides the exit code), a message, its causes, hints.

use std::fmt;

use serde::Serialize;

/// Who or what is to blame; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Something went wrong and nothing more special is known.
    Error,
    /// Changes to come (`rev preview --exit-code`).
    Changes,
    /// Some machines are done, others are not.
    Partly,
    /// It failed, and what was done has been taken back.
    RolledBack,
    /// Somebody else deploys.
    Locked,
    /// A machine cannot be reached; nothing was changed.
    Unreachable,
    /// The machines changed since the plan was made.
    Stale,
    /// The command line cannot be meant like this.
    Usage,
    /// `system.toml` or a file it names is wrong.
    System,
    /// Ctrl-C, after cleaning up.
    Interrupted,
}

impl Kind {
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Error => 1,
            Self::Changes => 2,
            Self::Partly => 3,
            Self::RolledBack => 4,
            Self::Locked => 5,
            Self::Unreachable => 6,
            Self::Stale => 7,
            Self::Usage => 64,
            Self::System => 65,
            Self::Interrupted => 130,
        }
    }
}

/// One wrong place in a file that the user wrote, with what is needed to point at it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// As the user would write it.
    pub file: String,
    /// Both count from 1; 0 when the place is the file as a whole.
    pub line: usize,
    pub column: usize,
    /// The line itself, to be shown with a caret below.
    pub source: String,
    /// Path inside the file, such as `process.mqtt.ports[0]`.
    pub at: String,
    pub what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The one error type of the edge: modules convert their own errors into it where the hint is known.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    pub kind: Kind,
    /// What failed and where, in one line.
    pub message: String,
    /// Every wrong place at once, when files of the user are to blame.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
    /// Why, outermost first.
    pub causes: Vec<String>,
    /// What to do, one line each; commands in backticks.
    pub hints: Vec<String>,
}

impl Failure {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), faults: Vec::new(), causes: Vec::new(), hints: Vec::new() }
    }

    pub fn error(message: impl Into<String>) -> Self {
        Self::new(Kind::Error, message)
    }

    /// Adds an error and all its sources as causes.
    #[must_use]
    pub fn because(mut self, error: &dyn std::error::Error) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }

    /// Adds one cause in words.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
