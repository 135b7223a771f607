//! Host keys: which are known for a machine, and how they are shown to people.
//!
//! Looking a host up is `ssh-keygen -F`'s work: it knows hashed names, patterns and ports as `ssh` itself does.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::{Digest, Sha256};

/// One public key of a host, as a line of `known_hosts` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    /// The name under which `ssh` looks it up: `host`, or `[host]:port`.
    pub host: String,
    /// Such as `ssh-ed25519`.
    pub kind: String,
    /// Base64, as in the file.
    pub key: String,
}

impl HostKey {
    /// `SHA256:…`, as `ssh` prints it.
    pub fn fingerprint(&self) -> String {
        STANDARD.decode(&self.key).map_or_else(|_| "not a key".into(), |raw| fingerprint(&raw))
    }

    /// From a line such as `host ssh-ed25519 AAAA… comment`; comments, markers and broken lines are no keys.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let host = words.next().filter(|word| !word.starts_with(['#', '@']))?;
        let (kind, key) = (words.next()?, words.next()?);
        Some(Self { host: host.to_owned(), kind: kind.to_owned(), key: key.to_owned() })
    }
}

/// The SHA-256 fingerprint of a public key in its wire form.
pub fn fingerprint(raw: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(raw)))
}

/// Under which name `ssh` keeps the keys of a host.
pub(crate) fn lookup_name(host: &str, port: u16) -> String {
    if port == 22 { host.to_owned() } else { format!("[{host}]:{port}") }
}

/// What the files say about a key that a host shows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Known,
    Unknown,
    /// Other keys of the same kind are known.
    Changed {
        known: Vec<String>,
    },
}

pub(crate) fn judge(known: &[HostKey], shown: &[u8]) -> Verdict {
    let shown_key = STANDARD.encode(shown);
    if known.iter().any(|key| key.key == shown_key) {
        return Verdict::Known;
    }
    let same_kind = known.iter().filter(|key| Some(key.kind.as_bytes()) == kind_of(shown));
    let known: Vec<_> = same_kind.map(HostKey::fingerprint).collect();
    if known.is_empty() { Verdict::Unknown } else { Verdict::Changed { known } }
}

/// A key in its wire form starts with the length and name of its kind.
fn kind_of(raw: &[u8]) -> Option<&[u8]> {
    let (length, rest) = raw.split_first_chunk::<4>()?;
    rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

/// All keys that `files` hold for a host. A file that is missing holds none.
pub(crate) fn find(files: &[PathBuf], name: &str) -> Vec<HostKey> {
    let mut keys = Vec::new();
    for file in files.iter().filter(|file| file.exists()) {
        let Ok(output) = Command::new("ssh-keygen").arg("-F").arg(name).arg("-f").arg(file).output() else {
            continue;
        };
        let text = String::from_utf8_lossy(&output.stdout);
        keys.extend(text.lines().filter_map(HostKey::parse));
    }
    keys
}

/// Puts `keys` into the file in place of all that it had for their hosts.
pub(super) fn replace(file: &Path, keys: &[HostKey]) -> std::io::Result<()> {
    let old = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let replaced =
        |line: &&str| HostKey::parse(line).is_some_and(|old| keys.iter().any(|key| key.host == old.host));
    let mut text: String = old.lines().filter(|line| !replaced(line)).flat_map(|line| [line, "\n"]).collect();
    for key in keys {
        text.push_str(&format!("{} {} {}\n", key.host, key.kind, key.key));
    }
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    new.write_all(text.as_bytes())?;
    // Public, and may be committed: readable like any other file of the project.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    new.as_file().set_permissions(mode)?;
    new.persist(file).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIGSL9Ax3KkZEVKrqPzhfcDbZ2XLJyzP6wB0fCqVBV0Gb";
    const OTHER: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIAnR0LkMUVhLhnQbPVKfX1QB/YXZVnsN4CVVFmwO0rYk";

    fn key(host: &str, key: &str) -> HostKey {
        HostKey { host: host.into(), kind: "ssh-ed25519".into(), key: key.into() }
    }

    #[test]
    fn keys_are_found_also_under_hashed_names_and_ports() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("known_hosts");
        replace(&file, &[key("[10.0.0.1]:2222", KEY), key("example.org", OTHER)]).unwrap();
        let hashed = Command::new("ssh-keygen").arg("-H").arg("-f").arg(&file).output().unwrap();
        assert!(hashed.status.success());
        assert!(std::fs::read_to_string(&file).unwrap().starts_with("|1|"));
        let found = find(std::slice::from_ref(&file), &lookup_name("10.0.0.1", 2222));
        assert_eq!(found.iter().map(|key| key.key.as_str()).collect::<Vec<_>>(), [KEY]);
        assert_eq!(find(std::slice::from_ref(&file), &lookup_name("example.org", 22)).len(), 1);
        assert!(find(&[file], &lookup_name("10.0.0.1", 22)).is_empty());
    }

    #[test]
    fn a_changed_key_is_told_from_an_unknown_one() {
        let shown = STANDARD.decode(KEY).unwrap();
        assert_eq!(judge(&[], &shown), Verdict::Unknown);
        assert_eq!(judge(&[key("h", OTHER), key("h", KEY)], &shown), Verdict::Known);
        let other = key("h", OTHER);
        let rsa = HostKey { kind: "ssh-rsa".into(), ..other.clone() };
        assert_eq!(
            judge(&[rsa], &shown),
            Verdict::Unknown,
            "a key of another kind says nothing about this one"
        );
        assert_eq!(
            judge(std::slice::from_ref(&other), &shown),
            Verdict::Changed { known: vec![other.fingerprint()] }
        );
    }

    #[test]
    fn trusting_again_replaces_only_that_host() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("known_hosts");
        std::fs::write(&file, format!("# kept\na ssh-ed25519 {OTHER}\nb ssh-ed25519 {OTHER}\n")).unwrap();
        replace(&file, &[key("a", KEY)]).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text, format!("# kept\nb ssh-ed25519 {OTHER}\na ssh-ed25519 {KEY}\n"));
    }
}
