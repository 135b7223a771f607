//! The timeline: one commit for every attempt, whatever became of it, on an append-only chain.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Repo, TIMELINE, pretty};
use crate::failure::Failure;
use crate::login::Person;
use crate::system::{MachineName, TopologyName};

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Done,
    /// Failed, and what it had done was taken back.
    RolledBack,
    Failed,
    Interrupted,
}

impl Outcome {
    pub const fn words(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::RolledBack => "rolled back",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When it ended, in RFC 3339.
    pub time: String,
    pub who: String,
    /// `deploy`, `stop`, `build`.
    pub action: String,
    pub topology: TopologyName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    pub result: Outcome,
    /// In a few words: counts, or what failed.
    pub summary: String,
    /// Seconds it took.
    pub took: f64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub machines: Vec<MachineEntry>,
}

impl Entry {
    /// An attempt that ends now and `took` so long.
    pub fn new(
        action: &str,
        who: &Person,
        (topology, revision): (&TopologyName, &str),
        (result, summary): (Outcome, String),
        took: Duration,
    ) -> Self {
        Self {
            time: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            who: who.name.clone(),
            action: action.to_owned(),
            topology: topology.clone(),
            revision: Some(revision.to_owned()),
            result,
            summary,
            took: took.as_secs_f64(),
            machines: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineEntry {
    pub machine: MachineName,
    /// Steps performed on it.
    pub steps: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

impl Repo {
    pub fn timeline_append(&self, entry: &Entry, who: &Person) -> Result<(), Failure> {
        let tree = self.tree(&[("entry.json", &pretty(entry)?)])?;
        let message = format!("{} {}: {}", entry.action, entry.topology, entry.result.words());
        self.advance(&self.timeline_ref(), who, &message, |_| Ok(Some(tree)))?;
        Ok(())
    }

    /// At most `limit` entries, newest first.
    pub fn timeline_list(&self, limit: usize) -> Result<Vec<Entry>, Failure> {
        let mut next = self.head(&self.timeline_ref())?;
        let mut entries = Vec::new();
        while let Some(commit) = next.take_if(|_| entries.len() < limit) {
            entries.push(self.json(&commit, "entry.json")?);
            next = commit.parent(0).ok();
        }
        Ok(entries)
    }

    /// The revision that was last deployed wholly and not stopped since.
    pub fn deployed(&self, topology: &TopologyName) -> Result<Option<String>, Failure> {
        let last = self.timeline_list(usize::MAX)?.into_iter().find(|entry| {
            entry.topology == *topology
                && entry.result == Outcome::Done
                && matches!(entry.action.as_str(), "deploy" | "stop")
        });
        Ok(last.filter(|entry| entry.action == "deploy").and_then(|entry| entry.revision))
    }

    fn timeline_ref(&self) -> String {
        format!("refs/nsd/{}/{TIMELINE}", self.system)
    }
}
