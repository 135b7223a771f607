//! The tree of a pinned commit, exported clean: as the tar that a build gets, or as a folder for a script.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use git2::{ObjectType, Oid, Repository, TreeWalkMode, TreeWalkResult};

use super::Work;
use crate::failure::Failure;
use crate::host::{Chunks, produced};

/// A file of the tree.
struct Entry {
    /// Relative to the exported folder.
    path: String,
    oid: Oid,
    kind: EntryKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum EntryKind {
    File,
    Program,
    Link,
}

impl EntryKind {
    const fn mode(self) -> u32 {
        match self {
            Self::File => 0o644,
            Self::Program | Self::Link => 0o755,
        }
    }
}

impl Work<'_> {
    /// The build context of the pinned commit.
    pub(super) fn export(&self, clone: &Path) -> Result<Chunks, Failure> {
        let entries = self.entries(clone, &self.build.folder)?;
        let dockerfile = &self.build.dockerfile;
        if !entries.iter().any(|entry| &entry.path == dockerfile) {
            return Err(self.no_dockerfile(entries.iter().map(|entry| entry.path.as_str())));
        }
        let clone = clone.to_owned();
        Ok(produced(move |output| pack(&clone, &entries, output)))
    }

    /// Writes the whole tree into a folder.
    pub(super) fn check_out(&self, clone: &Path, folder: &Path) -> Result<(), Failure> {
        let entries = self.entries(clone, "")?;
        let write = || -> std::io::Result<()> {
            let repository = Repository::open_bare(clone).map_err(std::io::Error::other)?;
            for entry in &entries {
                let path = folder.join(&entry.path);
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent)?;
                }
                let blob = repository.find_blob(entry.oid).map_err(std::io::Error::other)?;
                if entry.kind == EntryKind::Link {
                    std::os::unix::fs::symlink(link_target(blob.content())?, path)?;
                } else {
                    // A file that exists was reached through a link of the same tree.
                    let mut file = std::fs::OpenOptions::new()
                        .write(true)
                        .create_new(true)
                        .mode(entry.kind.mode())
                        .open(path)?;
                    file.write_all(blob.content())?;
                }
            }
            Ok(())
        };
        write().map_err(|error| {
            Failure::error(format!("cannot export the sources of {}", self.who)).because(&error)
        })
    }

    /// All files below `folder` of the pinned commit.
    fn entries(&self, clone: &Path, folder: &str) -> Result<Vec<Entry>, Failure> {
        let cannot = |error: git2::Error| {
            Failure::error(format!("cannot read the sources of {}", self.who)).because(&error)
        };
        let repository = Repository::open_bare(clone).map_err(cannot)?;
        let commit =
            repository.find_commit(Oid::from_str(&self.build.commit).map_err(cannot)?).map_err(cannot)?;
        let mut tree = commit.tree().map_err(cannot)?;
        let folder = folder.trim_matches('/');
        if !folder.is_empty() && folder != "." {
            let entry = tree.get_path(Path::new(folder)).map_err(|_| {
                Failure::error(format!(
                    "{}: the folder `{folder}` is not in {}",
                    self.who, self.build.repository
                ))
            })?;
            tree = repository.find_tree(entry.id()).map_err(cannot)?;
        }
        let mut entries = Vec::new();
        let mut trouble = None;
        let walked = tree.walk(TreeWalkMode::PreOrder, |parent, entry| {
            let name = String::from_utf8_lossy(entry.name_bytes());
            let path = format!("{parent}{name}");
            // git refuses to make such names; a hostile repository may have them all the same.
            if matches!(name.as_ref(), "." | "..") || name.contains('/') || name.eq_ignore_ascii_case(".git")
            {
                trouble = Some(format!("{}: `{path}` is no name for a file", self.build.repository));
                return TreeWalkResult::Abort;
            }
            let kind = match (entry.kind(), entry.filemode()) {
                (Some(ObjectType::Tree), _) => return TreeWalkResult::Ok,
                (Some(ObjectType::Commit), _) => {
                    trouble = Some(format!(
                        "{}: `{path}` is a submodule, which nsd does not fetch",
                        self.build.repository
                    ));
                    return TreeWalkResult::Abort;
                }
                (_, 0o120_000) => EntryKind::Link,
                (_, 0o100_755) => EntryKind::Program,
                _ => EntryKind::File,
            };
            entries.push(Entry { path, oid: entry.id(), kind });
            TreeWalkResult::Ok
        });
        match (trouble, walked) {
            (Some(what), _) => Err(Failure::error(what)),
            (None, Err(error)) => Err(cannot(error)),
            (None, Ok(())) => Ok(entries),
        }
    }

    pub(super) fn no_dockerfile<'p>(&self, paths: impl Iterator<Item = &'p str>) -> Failure {
        let build = self.build;
        let place = if build.folder.is_empty() {
            "its top folder".to_owned()
        } else {
            format!("its folder `{}`", build.folder)
        };
        let failure = Failure::error(format!(
            "{}: {} has no `{}` in {place}",
            self.who, build.repository, build.dockerfile
        ));
        let others: Vec<_> =
            paths.filter(|path| path.to_ascii_lowercase().contains("dockerfile")).take(5).collect();
        if others.is_empty() { failure } else { failure.hint(format!("there is {}", others.join(", "))) }
    }
}

fn link_target(content: &[u8]) -> std::io::Result<&Path> {
    std::str::from_utf8(content).map(Path::new).map_err(std::io::Error::other)
}

/// No times and no owners of ours: the same commit gives the same bytes, so the engine's own cache holds.
fn header(kind: EntryKind, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(kind.mode());
    header.set_size(size);
    header.set_mtime(0);
    header
}

fn pack(clone: &Path, entries: &[Entry], output: &mut dyn Write) -> std::io::Result<()> {
    let repository = Repository::open_bare(clone).map_err(std::io::Error::other)?;
    let mut archive = tar::Builder::new(output);
    for entry in entries {
        let blob = repository.find_blob(entry.oid).map_err(std::io::Error::other)?;
        if entry.kind == EntryKind::Link {
            let mut header = header(entry.kind, 0);
            header.set_entry_type(tar::EntryType::Symlink);
            archive.append_link(&mut header, &entry.path, link_target(blob.content())?)?;
        } else {
            archive.append_data(
                &mut header(entry.kind, blob.content().len() as u64),
                &entry.path,
                blob.content(),
            )?;
        }
    }
    archive.finish()
}

/// A folder as it stands, after a script.
pub(super) fn pack_folder(folder: PathBuf) -> Chunks {
    produced(move |output| {
        let mut archive = tar::Builder::new(output);
        archive.follow_symlinks(false);
        archive.mode(tar::HeaderMode::Deterministic);
        archive.append_dir_all("", &folder)?;
        archive.finish()
    })
}
