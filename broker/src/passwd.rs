//! `nsd-broker passwd`: one user of a password file is written, or removed. The file is replaced as a whole, readable by
//! its owner only, so that a running broker sees the old one or the new one and never a half.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::num::NonZeroU32;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use thiserror::Error;
use zeroize::Zeroizing;

use crate::access::passwords::{check_name, edited, scram_secret};
use crate::access::{LineProblem, Passwords, argon2id};
use crate::live_file;

/// The longest password that MQTT can carry.
const LONGEST_PASSWORD: usize = 65_535;

/// What becomes of the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// A password that the client sends.
    Set,
    /// A password that the client only proves to know (SCRAM-SHA-256).
    SetScram {
        iterations: NonZeroU32,
    },
    Delete,
}

#[derive(Debug, Error)]
pub enum PasswdError {
    #[error("{0}")]
    Name(&'static str),
    #[error("the password {0}")]
    Password(&'static str),
    #[error("the password cannot be read: {0}")]
    NoPassword(io::Error),
    #[error("{0}")]
    Unreadable(String),
    #[error("{}", list(.path, .problems))]
    Wrong { path: PathBuf, problems: Vec<LineProblem> },
    #[error("{}: there is no user `{user}`", path.display())]
    NoUser { path: PathBuf, user: String },
    #[error("no hash can be made: {0}")]
    Hash(String),
    #[error("cannot write {}: {source}", path.display())]
    Unwritable { path: PathBuf, source: io::Error },
}

fn list(path: &Path, problems: &[LineProblem]) -> String {
    let line = |problem: &LineProblem| format!("{}:{problem}", path.display());
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Performs the task; the password is asked for at the terminal, or is all of stdin but the newline at its end.
pub fn run(path: &Path, user: &str, task: Task) -> Result<(), PasswdError> {
    let user = check_name(user).map_err(PasswdError::Name)?;
    let file = Target::open(path, task)?;
    let secret = match task {
        Task::Delete => None,
        Task::Set => Some(hash(&password()?)?),
        Task::SetScram { iterations } => {
            let salt: [u8; 16] = random()?;
            Some(scram_secret(&password()?, &salt, iterations))
        }
    };
    let no_user = || PasswdError::NoUser { path: path.to_owned(), user: user.to_owned() };
    let text = edited(&file.text, user, secret.as_ref().map(|secret| secret.as_str())).ok_or_else(no_user)?;
    file.replace(&text)
}

/// The file as it is, and where it really is.
struct Target {
    path: PathBuf,
    text: Zeroizing<String>,
}

impl Target {
    /// A file that is wrong is refused before a password is asked for. One that is not there is begun, unless somebody
    /// is to be removed from it.
    fn open(path: &Path, task: Task) -> Result<Self, PasswdError> {
        // Behind a symbolic link, the file is replaced and not the link.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let missing = fs::symlink_metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        if missing && task != Task::Delete {
            return Ok(Self { path, text: Zeroizing::default() });
        }
        let content = live_file::bytes(&path).map_err(PasswdError::Unreadable)?;
        let text = std::str::from_utf8(&content)
            .map_err(|_| PasswdError::Unreadable(format!("{}: no UTF-8", path.display())))?;
        if let Err(problems) = Passwords::parse(text) {
            return Err(PasswdError::Wrong { path, problems });
        }
        Ok(Self { text: Zeroizing::new(text.to_owned()), path })
    }

    /// A new file beside the old one takes its name, and its owner.
    fn replace(&self, text: &str) -> Result<(), PasswdError> {
        let write = || -> io::Result<()> {
            let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let directory = directory.unwrap_or(Path::new("."));
            let mut fresh = tempfile::NamedTempFile::with_prefix_in(".nsd-passwd-", directory)?;
            fresh.as_file().set_permissions(fs::Permissions::from_mode(0o600))?;
            if let Ok(old) = fs::metadata(&self.path) {
                let now = fresh.as_file().metadata()?;
                if (old.uid(), old.gid()) != (now.uid(), now.gid()) {
                    fchown(fresh.as_file(), Some(old.uid()), Some(old.gid()))?;
                }
            }
            fresh.write_all(text.as_bytes())?;
            fresh.as_file().sync_all()?;
            fresh.persist(&self.path)?;
            File::open(directory)?.sync_all()
        };
        write().map_err(|source| PasswdError::Unwritable { path: self.path.clone(), source })
    }
}

fn hash(password: &[u8]) -> Result<Zeroizing<String>, PasswdError> {
    argon2id(password).map(Zeroizing::new).map_err(|error| PasswdError::Hash(error.to_string()))
}

fn random<const N: usize>() -> Result<[u8; N], PasswdError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|error| PasswdError::Hash(error.to_string()))?;
    Ok(bytes)
}

fn password() -> Result<Zeroizing<Vec<u8>>, PasswdError> {
    let password = if io::stdin().is_terminal() {
        let ask = |prompt| rpassword::prompt_password(prompt).map(Zeroizing::new);
        let first = ask("Password: ").map_err(PasswdError::NoPassword)?;
        let second = ask("Again: ").map_err(PasswdError::NoPassword)?;
        if first != second {
            return Err(PasswdError::Password("was not the same the second time"));
        }
        Zeroizing::new(first.as_bytes().to_vec())
    } else {
        let mut given = Zeroizing::new(Vec::with_capacity(LONGEST_PASSWORD + 2));
        let mut stdin = io::stdin().take(LONGEST_PASSWORD as u64 + 2);
        stdin.read_to_end(&mut given).map_err(PasswdError::NoPassword)?;
        let end = given.strip_suffix(b"\n").map_or(given.len(), <[u8]>::len);
        let end = given[..end].strip_suffix(b"\r").map_or(end, <[u8]>::len);
        given.truncate(end);
        given
    };
    match password.len() {
        0 => Err(PasswdError::Password("is empty")),
        length if length > LONGEST_PASSWORD => Err(PasswdError::Password("is too long")),
        _ => Ok(password),
    }
}
