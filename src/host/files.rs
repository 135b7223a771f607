//! Files as tar streams, in and out of containers, and whose they are.

use std::io::Read;

use sha2::{Digest, Sha256};

use super::engine::PutFile;
use crate::secret::Secret;

/// In hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// User and group by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: u64,
    pub(super) gid: u64,
}

pub(super) const ROOT: Owner = Owner { uid: 0, gid: 0 };

impl Owner {
    /// From a container's `User` when it is told in numbers: empty, `10001`, `10001:10001`.
    pub(super) fn from_numbers(user: &str) -> Option<Self> {
        if user.is_empty() {
            return Some(ROOT);
        }
        let (uid, gid) = match user.split_once(':') {
            Some((uid, gid)) => (uid.parse().ok()?, gid.parse().ok()?),
            // Docker gives the group of the user's passwd entry, else 0; readable by the user is what matters.
            None => (user.parse().ok()?, 0),
        };
        Some(Self { uid, gid })
    }

    /// From a name and the container's `/etc/passwd`; a group's name is not looked up, the user's own is taken.
    pub(super) fn from_passwd(user: &str, passwd: &str) -> Option<Self> {
        let name = user.split_once(':').map_or(user, |(name, _)| name);
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some(Self { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    }
}

/// The files as one tar, to be unpacked at `/`. Folders that are missing are made by the engine, root's and readable.
pub(super) fn pack(files: &[PutFile], owner: Owner) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for file in files {
        let content = file.content.reveal().as_bytes();
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(file.mode);
        header.set_uid(owner.uid);
        header.set_gid(owner.gid);
        header.set_size(content.len() as u64);
        header.set_mtime(jiff::Timestamp::now().as_second().try_into().unwrap_or(0));
        archive.append_data(&mut header, file.to.trim_start_matches('/'), content)?;
    }
    archive.into_inner()
}

/// The one file in a tar as the engine sends it: its bytes and mode.
pub(super) fn unpack_one(archive: &[u8]) -> std::io::Result<Option<(Vec<u8>, u32)>> {
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_file() {
            let mode = entry.header().mode()?;
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            return Ok(Some((bytes, mode & 0o7777)));
        }
    }
    Ok(None)
}

/// A file read from a container, so that it can be put back; what we put is text.
pub(super) fn as_put_file(to: &str, bytes: Vec<u8>, mode: u32) -> std::io::Result<PutFile> {
    let text = String::from_utf8(bytes).map_err(std::io::Error::other)?;
    Ok(PutFile { to: to.to_owned(), content: Secret::new(text), mode })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_out_as_they_went_in() {
        let long = format!("/etc/{}/x.conf", "deep/".repeat(30));
        for to in ["/etc/nsd/broker.toml", long.as_str()] {
            let file = PutFile { to: to.into(), content: Secret::new("a = 1\n"), mode: 0o640 };
            let packed = pack(&[file], Owner { uid: 10001, gid: 10002 }).unwrap();
            assert_eq!(unpack_one(&packed).unwrap(), Some((b"a = 1\n".to_vec(), 0o640)));
            let mut archive = tar::Archive::new(packed.as_slice());
            let entry = archive.entries().unwrap().next().unwrap().unwrap();
            assert_eq!(entry.path().unwrap().to_str().unwrap(), to.trim_start_matches('/'));
            assert_eq!((entry.header().uid().unwrap(), entry.header().gid().unwrap()), (10001, 10002));
        }
    }

    #[test]
    fn owners_are_found_by_number_and_by_name() {
        assert_eq!(Owner::from_numbers(""), Some(ROOT));
        assert_eq!(Owner::from_numbers("10001"), Some(Owner { uid: 10001, gid: 0 }));
        assert_eq!(Owner::from_numbers("1:2"), Some(Owner { uid: 1, gid: 2 }));
        assert_eq!(Owner::from_numbers("redis"), None);
        let passwd = "root:x:0:0:root:/root:/bin/sh\nredis2:x:1:1::/:\nredis:x:999:1000::/data:/bin/false\n";
        assert_eq!(Owner::from_passwd("redis", passwd), Some(Owner { uid: 999, gid: 1000 }));
        assert_eq!(Owner::from_passwd("redis:redis", passwd), Some(Owner { uid: 999, gid: 1000 }));
        assert_eq!(Owner::from_passwd("nobody", passwd), None);
    }
}
