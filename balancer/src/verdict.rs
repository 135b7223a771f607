//! PURE. What a health check has found about a server.

use std::io;

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Ok,
    /// Answered, but late.
    Slow,
    /// Nothing takes connections there.
    Dead,
    /// Its name has no address yet.
    Unresolved,
    /// Takes connections and then says nothing.
    Frozen,
    /// Says that it is unavailable, or ends the connection.
    Refusing,
    /// Speaks, but not what it should, or is not whom it should be.
    Garbled,
}

impl Verdict {
    pub(crate) fn is_alive(self) -> bool {
        matches!(self, Self::Ok | Self::Slow)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Slow => "slow",
            Self::Dead => "dead",
            Self::Unresolved => "unresolved",
            Self::Frozen => "frozen",
            Self::Refusing => "refusing",
            Self::Garbled => "garbled",
        }
    }
}

/// What a check has found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct CheckResult {
    pub(crate) verdict: Verdict,
    pub(crate) milliseconds: u64,
    /// Of a failure, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
}

/// Why a server is not well.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) verdict: Verdict,
    pub(crate) detail: String,
}

impl Failed {
    pub(crate) fn new(verdict: Verdict, detail: String) -> Self {
        Self { verdict, detail }
    }

    /// Of a connection that had been made.
    pub(crate) fn broken(error: &io::Error) -> Self {
        let garbled = error.kind() == io::ErrorKind::InvalidData;
        let verdict = if garbled { Verdict::Garbled } else { Verdict::Refusing };
        Self::new(verdict, error.to_string())
    }
}
