//! Revisions and the timeline, in git refs of the repository that holds `system.toml`: `refs/nsd/<system>/<topology>` and
//! `refs/nsd/<system>/timeline`. The working tree, the index and the user's branches are never touched; a ref moves
//! only under git's own lock on it, so that two `nsd` at once never lose what one of them wrote.

mod difference;
mod timeline;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use git2::{ErrorCode, Oid, Repository, Signature};
use serde::{Deserialize, Serialize};

pub use difference::difference;
pub use timeline::{Entry, MachineEntry, Outcome};

use crate::failure::{Failure, Kind};
use crate::login::Person;
use crate::system::{ProcessName, System, SystemName, TopologyName};

/// Last part of the timeline's ref; no topology may have this name.
const TIMELINE: &str = "timeline";

/// Tries to lock a ref that another `nsd` holds: ten seconds, far longer than a commit takes.
const LOCK_TRIES: u32 = 500;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Shortest prefix of an id that is looked up.
const MIN_PREFIX: usize = 4;

/// What was looked up when a revision was compiled; beside `system.json` in its tree as `lock.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Lock {
    /// Commit of each repository, by process.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pins: BTreeMap<ProcessName, String>,
    /// Digest of each bundled program, by its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bundled: BTreeMap<String, String>,
}

/// One compiled system in git.
#[derive(Debug, Clone, Serialize)]
pub struct Revision {
    /// The commit, 40 hex digits.
    pub id: String,
    pub topology: TopologyName,
    pub author: String,
    /// RFC 3339.
    pub time: String,
    pub message: String,
}

impl Revision {
    pub fn short(&self) -> &str {
        short(&self.id)
    }
}

/// Enough of an id to tell it from others, as people see it.
pub fn short(id: &str) -> &str {
    id.get(..10).unwrap_or(id)
}

/// What became of [`Repo::record`].
pub struct Recorded {
    pub revision: Revision,
    /// `false`: head holds the same already, and nothing was written.
    pub new: bool,
    /// The system before, when there was one.
    pub before: Option<System>,
}

/// The git repository that keeps one system's history.
pub struct Repo {
    git: Repository,
    system: SystemName,
}

impl Repo {
    /// The repository around `dir`; without one, a bare repository `history.git` in `state` of its own.
    pub fn open(dir: &Path, state: &Path, system: &SystemName) -> Result<Self, Failure> {
        let git = match Repository::discover(dir) {
            Ok(git) => git,
            Err(error) if error.code() == ErrorCode::NotFound => own(state)?,
            Err(error) => return Err(failed("open the git repository", dir)(error)),
        };
        Ok(Self { git, system: system.clone() })
    }

    /// Where it is kept.
    pub fn path(&self) -> PathBuf {
        self.git.path().to_owned()
    }

    /// Writes a revision, unless head holds the very same.
    pub fn record(&self, system: &System, lock: &Lock, who: &Person) -> Result<Recorded, Failure> {
        if system.topology.as_str() == TIMELINE {
            return Err(Failure::new(
                Kind::System,
                format!("no topology may be named `{TIMELINE}`: the timeline has this place"),
            )
            .hint("choose another name for the topology in system.toml"));
        }
        let name = self.head_ref(&system.topology);
        let tree = self.tree(&[("system.json", &pretty(system)?), ("lock.json", &pretty(lock)?)])?;
        let message = format!("compile {} for {}", system.name, system.topology);
        let mut found = None;
        let moved = self.advance(&name, who, &message, |head| {
            found = head.as_ref().map(git2::Commit::id);
            Ok(head.is_none_or(|head| head.tree_id() != tree).then_some(tree))
        })?;
        let before = found.map(|id| self.load_at(id)).transpose()?;
        let id = moved
            .or(found)
            .ok_or_else(|| Failure::error(format!("{name} has no commit after writing one")))?;
        Ok(Recorded { revision: self.revision(id, &system.topology)?, new: moved.is_some(), before })
    }

    /// Newest first.
    pub fn list(&self, topology: &TopologyName) -> Result<Vec<Revision>, Failure> {
        let Some(mut commit) = self.head(&self.head_ref(topology))? else { return Ok(Vec::new()) };
        let mut revisions = vec![describe(&commit, topology)];
        while let Ok(parent) = commit.parent(0) {
            revisions.push(describe(&parent, topology));
            commit = parent;
        }
        Ok(revisions)
    }

    /// Every topology that has a revision.
    pub fn topologies(&self) -> Result<Vec<TopologyName>, Failure> {
        let pattern = format!("refs/nsd/{}/*", self.system);
        let refs = self.git.references_glob(&pattern).map_err(self.failed("list revisions"))?;
        let mut names: Vec<TopologyName> = refs
            .filter_map(Result::ok)
            .filter_map(|found| found.name().ok().and_then(|name| name.rsplit('/').next()?.parse().ok()))
            .filter(|name: &TopologyName| name.as_str() != TIMELINE)
            .collect();
        names.sort();
        Ok(names)
    }

    /// `head`, `previous` (before head), `deployed` (the last one that was deployed wholly), or the first digits of an id.
    pub fn resolve(&self, topology: &TopologyName, wanted: &str) -> Result<Revision, Failure> {
        let revisions = self.list(topology)?;
        if revisions.is_empty() {
            return Err(Failure::error(format!(
                "topology {topology} of {} has no revision yet",
                self.system
            ))
            .hint(format!("compile it first: `nsd sys compile {topology}`")));
        }
        let found = match wanted {
            "head" => revisions.first().cloned(),
            "previous" => revisions.get(1).cloned(),
            "deployed" => {
                self.deployed(topology)?.and_then(|id| revisions.iter().find(|one| one.id == id).cloned())
            }
            prefix => return by_prefix(&revisions, prefix),
        };
        found.ok_or_else(|| {
            Failure::error(format!("topology {topology} has no revision `{wanted}`"))
                .hint("see `nsd rev list` and `nsd timeline list`")
        })
    }

    pub fn load(&self, id: &str) -> Result<System, Failure> {
        self.load_at(Oid::from_str(id).map_err(self.failed("read a revision's id"))?)
    }

    pub fn lock(&self, id: &str) -> Result<Lock, Failure> {
        let id = Oid::from_str(id).map_err(self.failed("read a revision's id"))?;
        self.json(&self.git.find_commit(id).map_err(self.failed("find the revision"))?, "lock.json")
    }

    fn load_at(&self, id: Oid) -> Result<System, Failure> {
        self.json(&self.git.find_commit(id).map_err(self.failed("find the revision"))?, "system.json")
    }

    fn head_ref(&self, topology: &TopologyName) -> String {
        format!("refs/nsd/{}/{topology}", self.system)
    }

    fn head(&self, name: &str) -> Result<Option<git2::Commit<'_>>, Failure> {
        match self.git.find_reference(name) {
            Ok(found) => found.peel_to_commit().map(Some).map_err(self.failed("read the history")),
            Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(self.failed("read the history")(error)),
        }
    }

    fn revision(&self, id: Oid, topology: &TopologyName) -> Result<Revision, Failure> {
        self.git
            .find_commit(id)
            .map(|commit| describe(&commit, topology))
            .map_err(self.failed("read the revision"))
    }

    fn tree(&self, files: &[(&str, &[u8])]) -> Result<Oid, Failure> {
        let write = || {
            let mut builder = self.git.treebuilder(None)?;
            for (name, content) in files {
                builder.insert(name, self.git.blob(content)?, 0o100_644)?;
            }
            builder.write()
        };
        write().map_err(self.failed("write the history"))
    }

    /// Puts a commit on top of a ref while git's own lock on it is held, so that nobody's commit is lost. `tree` decides
    /// from the present head, `None` for nothing to write. The commit's id, if one was written.
    fn advance(
        &self,
        name: &str,
        who: &Person,
        message: &str,
        tree: impl FnOnce(Option<git2::Commit<'_>>) -> Result<Option<Oid>, Failure>,
    ) -> Result<Option<Oid>, Failure> {
        let written = self.failed("write the history");
        let signature = Signature::now(&who.name, &who.email).map_err(&written)?;
        let mut transaction = self.locked(name)?;
        let head = self.head(name)?;
        let Some(tree) = tree(head.clone())? else { return Ok(None) };
        let tree = self.git.find_tree(tree).map_err(&written)?;
        let parents: Vec<&git2::Commit<'_>> = head.iter().collect();
        let id = self.git.commit(None, &signature, &signature, message, &tree, &parents).map_err(&written)?;
        transaction.set_target(name, id, Some(&signature), message).map_err(&written)?;
        transaction.commit().map_err(&written)?;
        Ok(Some(id))
    }

    /// Waits for whoever holds the ref's lock; it is held for as long as one commit takes.
    fn locked(&self, name: &str) -> Result<git2::Transaction<'_>, Failure> {
        for _ in 0..LOCK_TRIES {
            let mut transaction = self.git.transaction().map_err(self.failed("write the history"))?;
            match transaction.lock_ref(name) {
                Ok(()) => return Ok(transaction),
                Err(error) if error.code() == ErrorCode::Locked => std::thread::sleep(LOCK_PAUSE),
                Err(error) => return Err(self.failed("write the history")(error)),
            }
        }
        Err(Failure::new(Kind::Locked, format!("{name} is locked by somebody else")).hint(format!(
            "if no other `nsd` runs, one was killed here; remove {}",
            self.git.commondir().join(format!("{name}.lock")).display()
        )))
    }

    fn json<T: serde::de::DeserializeOwned>(
        &self,
        commit: &git2::Commit<'_>,
        file: &str,
    ) -> Result<T, Failure> {
        let read = || -> Result<Vec<u8>, git2::Error> {
            let entry = commit.tree()?.get_path(Path::new(file))?;
            Ok(self.git.find_blob(entry.id())?.content().to_vec())
        };
        let content = read().map_err(self.failed(&format!("read {file} of {}", commit.id())))?;
        serde_json::from_slice(&content).map_err(|error| {
            Failure::error(format!("{file} of {} cannot be understood", commit.id()))
                .because(&error)
                .hint("it was written by another version of nsd; compile again with this one: `nsd sys compile TOPOLOGY`")
        })
    }

    fn failed(&self, what: &str) -> impl Fn(git2::Error) -> Failure + use<> {
        failed(what, self.git.path())
    }
}

/// Makes a git repository of a folder, unless it stands in one already.
pub fn put_in_git(dir: &Path) -> Result<(), Failure> {
    match Repository::discover(dir) {
        Ok(_) => Ok(()),
        Err(_) => Repository::init(dir).map(drop).map_err(failed("make a git repository", dir)),
    }
}

/// The bare repository beside a system that stands in none.
fn own(state: &Path) -> Result<Repository, Failure> {
    let path = state.join("history.git");
    // Opening first keeps two `nsd` that both find nothing from disturbing each other: init keeps what exists.
    Repository::open_bare(&path)
        .or_else(|_| Repository::init_bare(&path))
        .map_err(failed("make a repository for the history", &path))
}

fn by_prefix(revisions: &[Revision], prefix: &str) -> Result<Revision, Failure> {
    let lower = prefix.to_ascii_lowercase();
    if lower.len() < MIN_PREFIX || !lower.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Failure::new(Kind::Usage, format!("`{prefix}` names no revision")).hint(format!(
            "say `head`, `previous`, `deployed`, or at least {MIN_PREFIX} digits of an id from `nsd rev list`"
        )));
    }
    let mut fitting = revisions.iter().filter(|one| one.id.starts_with(&lower));
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one.clone()),
        (None, _) => {
            Err(Failure::error(format!("no revision begins with {prefix}")).hint("see `nsd rev list`"))
        }
        (Some(one), Some(other)) => Err(Failure::new(Kind::Usage, format!("{prefix} is ambiguous"))
            .cause(format!("{} and {} both begin so", short(&one.id), short(&other.id)))
            .hint("give more digits of the id")),
    }
}

fn describe(commit: &git2::Commit<'_>, topology: &TopologyName) -> Revision {
    Revision {
        id: commit.id().to_string(),
        topology: topology.clone(),
        author: String::from_utf8_lossy(commit.author().name_bytes()).into_owned(),
        time: jiff::Timestamp::from_second(commit.time().seconds())
            .map_or_else(|_| String::new(), |time| time.to_string()),
        message: String::from_utf8_lossy(commit.summary_bytes().unwrap_or_default()).into_owned(),
    }
}

fn pretty<T: Serialize>(value: &T) -> Result<Vec<u8>, Failure> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|error| Failure::error("what was compiled cannot be written as JSON").because(&error))?;
    text.push(b'\n');
    Ok(text)
}

fn failed(what: &str, path: &Path) -> impl Fn(git2::Error) -> Failure + use<> {
    let message = format!("cannot {what} in {}", path.display());
    move |error| {
        let failure = Failure::error(message.clone()).cause(error.message());
        match error.code() {
            ErrorCode::Owner => failure.hint("the folder belongs to another user; as git would have it: `git config --global --add safe.directory DIR`"),
            _ => failure,
        }
    }
}

#[cfg(test)]
mod tests;
