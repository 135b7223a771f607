//! The file of a unix socket: nobody but its owner may open it, and one process follows another in its place without a
//! moment in which nothing is there.

use std::fs::{Permissions, metadata, remove_file, rename, set_permissions, symlink_metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Made aside with mode 0600, until [`Self::put`]. Removed when dropped, unless another process has put its own there.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    aside: PathBuf,
    /// Device and number of the file.
    own: (u64, u64),
}

impl SocketFile {
    /// `bind` makes a socket's file at the path it is given. At its final name the socket was never open to others.
    pub fn aside<T>(path: &Path, bind: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<(T, Self)> {
        let aside = aside_of(path, std::process::id());
        let _ = remove_file(&aside);
        let socket = bind(&aside)?;
        set_permissions(&aside, Permissions::from_mode(0o600))?;
        let own = identity(&aside)?;
        Ok((socket, Self { path: path.to_owned(), aside, own }))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves it to its place, over what is there; unless another process has done so ([`put_for`]).
    pub fn put(&self) -> io::Result<()> {
        match rename(&self.aside, &self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            moved => moved,
        }
    }
}

/// Moves the file that process `pid` has made aside to its place. Who was there until now does it: so it knows that it has
/// been done, and can be certain that it is not done later.
pub fn put_for(path: &Path, pid: u32) -> io::Result<()> {
    rename(aside_of(path, pid), path)
}

fn aside_of(path: &Path, pid: u32) -> PathBuf {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{pid}"));
    aside.into()
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    metadata(path).map(|file| (file.dev(), file.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        for path in [&self.aside, &self.path] {
            let found = symlink_metadata(path).map(|file| (file.dev(), file.ino()));
            if found.is_ok_and(|found| found == self.own) {
                let _ = remove_file(path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn made(path: &Path) -> (UnixListener, SocketFile) {
        SocketFile::aside(path, |path| UnixListener::bind(path)).unwrap()
    }

    #[test]
    fn one_follows_another_and_is_not_removed_by_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let (_before, file_before) = made(&path);
        file_before.put().unwrap();
        UnixStream::connect(&path).unwrap();
        assert_eq!(metadata(&path).unwrap().mode() & 0o777, 0o600);
        // As another process would: this one's name aside is free again.
        let (after, file_after) = made(&path);
        file_after.put().unwrap();
        drop(file_before);
        UnixStream::connect(&path).unwrap();
        after.accept().unwrap();
        drop(file_after);
        assert!(!path.exists());
    }

    #[test]
    fn who_was_there_puts_the_next_in_its_place_and_itself_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let (_next, file) = made(&path);
        put_for(&path, std::process::id()).unwrap();
        let (ours, own) = made(&path);
        own.put().unwrap();
        // The other one wakes up late.
        file.put().unwrap();
        drop(file);
        UnixStream::connect(&path).unwrap();
        ours.accept().unwrap();
    }

    #[test]
    fn what_was_never_put_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        drop(made(&directory.path().join("socket")));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
