//! This checkout: where `system.toml` is, what `nsd` keeps beside it in `.nsd/`, and the user's own folders.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::failure::{Failure, Kind};
use crate::system::{SystemName, TopologyName};

pub const FILE: &str = "system.toml";

/// A larger file is no system, but a mistake such as a disk image.
const MAX_FILE: u64 = 4 << 20;

/// A checkout of a system.
#[derive(Debug, Clone)]
pub struct Project {
    /// The file itself, by whatever name.
    pub file: PathBuf,
    /// Its folder.
    pub dir: PathBuf,
    /// `.nsd/` in it.
    pub state: PathBuf,
}

impl Project {
    /// `file` as given; else `system.toml` in `start` or the nearest folder above.
    pub fn find(start: &Path, file: Option<&Path>) -> Result<Self, Failure> {
        let start = std::path::absolute(start).map_err(|error| cannot("find", start, &error))?;
        if let Some(file) = file {
            let file = start.join(file);
            if !file.is_file() {
                return Err(Failure::new(Kind::System, format!("there is no file {}", file.display()))
                    .hint("`--system` takes the path of a system.toml"));
            }
            return Ok(Self::at(file));
        }
        let found = start.ancestors().map(|dir| dir.join(FILE)).find(|file| file.is_file());
        found.map(Self::at).ok_or_else(|| {
            Failure::new(Kind::System, format!("there is no {FILE} in {} or above", start.display()))
                .hint("go to the folder of your system, or name it: `nsd -C DIR …`")
                .hint("start a new one: `nsd sys create NAME`")
        })
    }

    fn at(file: PathBuf) -> Self {
        let dir = file.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned);
        Self { state: dir.join(".nsd"), dir, file }
    }

    /// The text of the system file.
    pub fn text(&self) -> Result<String, Failure> {
        let size = std::fs::metadata(&self.file).map_err(|error| cannot("read", &self.file, &error))?.len();
        if size > MAX_FILE {
            return Err(Failure::new(
                Kind::System,
                format!("{} has {size} bytes; a system has at most {MAX_FILE}", self.file.display()),
            ));
        }
        std::fs::read_to_string(&self.file).map_err(|error| {
            let mut failure = cannot("read", &self.file, &error);
            failure.kind = Kind::System;
            failure
        })
    }

    /// Makes `.nsd/` with a `.gitignore` of its own: nothing in it belongs into a commit.
    pub fn prepare(&self) -> Result<(), Failure> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.state)
            .map_err(|error| cannot("make", &self.state, &error))?;
        let ignore = self.state.join(".gitignore");
        if ignore.exists() { Ok(()) } else { write_atomically(&ignore, b"*\n", 0o644) }
    }

    /// The topology compiled last, kept so that the next commands need no argument.
    pub fn current(&self) -> Option<TopologyName> {
        std::fs::read_to_string(self.state.join("current")).ok()?.trim().parse().ok()
    }

    pub fn set_current(&self, topology: &TopologyName) -> Result<(), Failure> {
        self.prepare()?;
        write_atomically(&self.state.join("current"), format!("{topology}\n").as_bytes(), 0o644)
    }

    /// The file as people would write it from where they stand.
    pub fn shown(&self) -> String {
        let here = std::env::current_dir().unwrap_or_default();
        self.file.strip_prefix(here).unwrap_or(&self.file).display().to_string()
    }
}

/// A system that `nsd sys list` shows wherever it is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linked {
    pub name: SystemName,
    pub dir: PathBuf,
}

/// The user's register of systems, by id.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Register(pub BTreeMap<Uuid, Linked>);

impl Register {
    pub fn read() -> Result<Self, Failure> {
        let path = Self::path();
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| {
                Failure::error(format!("{} cannot be understood", path.display()))
                    .because(&error)
                    .hint("remove it, and link your systems again: `nsd sys link DIR`")
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(cannot("read", &path, &error)),
        }
    }

    /// Reads, changes and writes the register while no other `nsd` does.
    pub fn change<T>(change: impl FnOnce(&mut Self) -> T) -> Result<T, Failure> {
        let folder = config_folder();
        make_private(&folder)?;
        let lock = folder.join("systems.lock");
        let file = std::fs::File::create(&lock).map_err(|error| cannot("lock", &lock, &error))?;
        file.lock().map_err(|error| cannot("lock", &lock, &error))?;
        let mut register = Self::read()?;
        let answer = change(&mut register);
        let text = serde_json::to_vec_pretty(&register)
            .map_err(|error| Failure::error("cannot write the register").because(&error))?;
        write_atomically(&Self::path(), &text, 0o600)?;
        Ok(answer)
    }

    fn path() -> PathBuf {
        config_folder().join("systems.json")
    }
}

/// `$XDG_CONFIG_HOME/nsd`, by default `~/.config/nsd`.
pub fn config_folder() -> PathBuf {
    user_folder("XDG_CONFIG_HOME", ".config")
}

/// `$XDG_CACHE_HOME/nsd`, by default `~/.cache/nsd`.
pub fn cache_folder() -> PathBuf {
    user_folder("XDG_CACHE_HOME", ".cache")
}

fn user_folder(variable: &str, below_home: &str) -> PathBuf {
    let named = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::home_dir().unwrap_or_else(|| PathBuf::from("/")).join(below_home);
    named.unwrap_or_else(home).join("nsd")
}

/// A folder that only its owner may look into.
pub fn make_private(folder: &Path) -> Result<(), Failure> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| cannot("make", folder, &error))
}

/// The whole content or the old one, never half: written beside, made durable, renamed.
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> Result<(), Failure> {
    let folder = path.parent().unwrap_or(Path::new("."));
    if !folder.is_dir() {
        make_private(folder)?;
    }
    let write = || -> std::io::Result<()> {
        let beside = folder.join(format!(".{}.{}", Uuid::new_v4().simple(), std::process::id()));
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        let written = file
            .write_all(content)
            .and_then(|()| file.sync_all())
            .and_then(|()| std::fs::rename(&beside, path));
        if written.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
        written
    };
    write().map_err(|error| cannot("write", path, &error))
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    let failure = Failure::error(format!("cannot {what} {}", path.display())).because(error);
    match error.kind() {
        std::io::ErrorKind::StorageFull => failure.hint("the disk is full: free some space and try again"),
        std::io::ErrorKind::PermissionDenied => failure.hint("check who owns this path"),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_nearest_file_above_is_found() {
        let root = tempfile::TempDir::new().unwrap();
        let deep = root.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        assert_eq!(Project::find(&deep, None).unwrap_err().kind, Kind::System);
        std::fs::write(root.path().join("a").join(FILE), "").unwrap();
        let project = Project::find(&deep, None).unwrap();
        assert_eq!(project.dir, root.path().join("a"));
        assert_eq!(project.state, root.path().join("a/.nsd"));
        assert!(Project::find(&deep, Some(Path::new("no.toml"))).is_err());
    }

    #[test]
    fn the_current_topology_is_kept_out_of_git() {
        let root = tempfile::TempDir::new().unwrap();
        std::fs::write(root.path().join(FILE), "").unwrap();
        let project = Project::find(root.path(), None).unwrap();
        assert_eq!(project.current(), None);
        project.set_current(&"direct".parse().unwrap()).unwrap();
        assert_eq!(project.current(), Some("direct".parse().unwrap()));
        assert_eq!(std::fs::read_to_string(project.state.join(".gitignore")).unwrap(), "*\n");
    }

    #[test]
    fn a_file_is_replaced_whole_with_its_mode() {
        let root = tempfile::TempDir::new().unwrap();
        let path = root.path().join("kept");
        for content in [b"one".as_slice(), b"two"] {
            write_atomically(&path, content, 0o600).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), content);
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
