//! The work of `passwd` commands: one user of a password file is written, or removed. The file is replaced as a whole,
//! readable by its owner only, so that a running server sees the old one or the new one and never a half.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use thiserror::Error;
use zeroize::Zeroizing;

use super::{check_name, edited};
use crate::config::Problem;
use crate::secret_file::{self, Readers, SecretFileError};

/// The longest password that MQTT can carry.
const LONGEST_PASSWORD: usize = 65_535;
/// A file larger than this is something else.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

#[derive(Debug, Error)]
pub enum PasswdError {
    #[error("{0}")]
    Name(&'static str),
    #[error("the password {0}")]
    Password(&'static str),
    #[error("the password cannot be read: {0}")]
    NoPassword(io::Error),
    #[error("{}: {source}", path.display())]
    Unreadable { path: PathBuf, source: SecretFileError },
    #[error("{}", list(.path, .problems))]
    Wrong { path: PathBuf, problems: Vec<Problem> },
    #[error("{}: there is no user `{user}`", path.display())]
    NoUser { path: PathBuf, user: String },
    #[error("no hash can be made: {0}")]
    Hash(String),
    #[error("cannot write {}: {source}", path.display())]
    Unwritable { path: PathBuf, source: io::Error },
}

fn list(path: &Path, problems: &[Problem]) -> String {
    let line = |problem: &Problem| format!("{}:{problem}", path.display());
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Gives the user a password: asked for at the terminal, or all of stdin but the newline at its end. `record` makes what
/// is written of it. A file that `check` finds wrong is refused before; one that is not there is begun.
pub fn set(
    path: &Path,
    user: &str,
    check: impl Fn(&str) -> Result<(), Vec<Problem>>,
    record: impl FnOnce(&[u8]) -> Result<Zeroizing<String>, PasswdError>,
) -> Result<(), PasswdError> {
    let user = check_name(user).map_err(PasswdError::Name)?;
    let file = Target::open(path, true, check)?;
    let record = record(&password()?)?;
    file.edit(user, Some(&record))
}

/// Takes the user out of the file.
pub fn remove(
    path: &Path,
    user: &str,
    check: impl Fn(&str) -> Result<(), Vec<Problem>>,
) -> Result<(), PasswdError> {
    let user = check_name(user).map_err(PasswdError::Name)?;
    Target::open(path, false, check)?.edit(user, None)
}

/// The file as it is, and where it really is.
struct Target {
    path: PathBuf,
    text: Zeroizing<String>,
}

impl Target {
    fn open(
        path: &Path,
        may_begin: bool,
        check: impl Fn(&str) -> Result<(), Vec<Problem>>,
    ) -> Result<Self, PasswdError> {
        // Behind a symbolic link, the file is replaced and not the link.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let missing = fs::symlink_metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        if missing && may_begin {
            return Ok(Self { path, text: Zeroizing::default() });
        }
        let text = match secret_file::read_text(&path, MOST_BYTES, Readers::Any) {
            Ok(text) => text,
            Err(source) => return Err(PasswdError::Unreadable { path, source }),
        };
        match check(&text) {
            Ok(()) => Ok(Self { path, text }),
            Err(problems) => Err(PasswdError::Wrong { path, problems }),
        }
    }

    fn edit(&self, user: &str, record: Option<&str>) -> Result<(), PasswdError> {
        let no_user = || PasswdError::NoUser { path: self.path.clone(), user: user.to_owned() };
        let text = edited(&self.text, user, record).ok_or_else(no_user)?;
        self.replace(&text).map_err(|source| PasswdError::Unwritable { path: self.path.clone(), source })
    }

    /// A new file beside the old one takes its name, and its owner.
    fn replace(&self, text: &str) -> io::Result<()> {
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
    }
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
