//! Text of a compiled system in which some values are bound late: secrets (never in a revision) and the directory of an
//! instance that runs as a plain process (known only where it runs).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::SecretName;
use crate::secret::Secret;

/// Marks `{{ state }}`: the directory that a plain process has for its files and data.
pub const STATE: &str = "${state}";

const SECRET_OPEN: &str = "${secret.";

/// Compiled text: everything is resolved but the late values, which stand in it as `${secret.NAME}` and `${state}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Text(String);

impl Text {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// As it stands in a revision, late values unbound: safe to show.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The reference to a secret that templates print.
    pub fn secret_reference(name: &SecretName) -> String {
        format!("{SECRET_OPEN}{name}}}")
    }

    /// Names of the secrets that the text needs.
    pub fn secrets(&self) -> BTreeSet<SecretName> {
        self.references().filter_map(|(_, _, name)| name.parse().ok()).collect()
    }

    /// The whole text with its late values put in. `Err` names a secret that `lookup` does not know.
    pub fn bind<'s>(
        &self,
        state: &str,
        lookup: impl Fn(&SecretName) -> Option<&'s Secret>,
    ) -> Result<Secret, SecretName> {
        let mut bound = String::with_capacity(self.0.len());
        let mut rest = 0;
        for (from, to, name) in self.references() {
            // What is not a secret's name is not a reference; it stays as it is.
            let Ok(name) = name.parse::<SecretName>() else { continue };
            let Some(secret) = lookup(&name) else { return Err(name) };
            bound.push_str(&self.0[rest..from].replace(STATE, state));
            bound.push_str(secret.reveal());
            rest = to;
        }
        bound.push_str(&self.0[rest..].replace(STATE, state));
        Ok(Secret::new(bound))
    }

    /// Each `${secret.NAME}`: where it starts, where it ends, NAME.
    fn references(&self) -> impl Iterator<Item = (usize, usize, &str)> {
        self.0.match_indices(SECRET_OPEN).filter_map(|(from, open)| {
            let name = &self.0[from + open.len()..];
            let length = name.find('}')?;
            Some((from, from + open.len() + length + 1, &name[..length]))
        })
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_values_are_bound() {
        let text = Text::new("dir ${state}/data\nrequirepass ${secret.redis}\n");
        let secret = Secret::new("s3cret-${state}");
        let bound = text.bind("/x", |name| (name.as_str() == "redis").then_some(&secret)).unwrap();
        // A secret's own characters are never taken for a reference.
        assert_eq!(bound.reveal(), "dir /x/data\nrequirepass s3cret-${state}\n");
        assert_eq!(text.secrets().len(), 1);
    }

    #[test]
    fn an_unknown_secret_is_named() {
        let missing = Text::new("${secret.other}").bind("", |_| None).unwrap_err();
        assert_eq!(missing.as_str(), "other");
    }

    #[test]
    fn what_only_looks_like_a_reference_stays() {
        let bound = Text::new("${secret.} ${secret.a b} ${secret.open").bind("", |_| None).unwrap();
        assert_eq!(bound.reveal(), "${secret.} ${secret.a b} ${secret.open");
    }
}
