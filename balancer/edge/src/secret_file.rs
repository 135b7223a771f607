//! Files that hold secrets: what is read of them is wiped when it is let go.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use thiserror::Error;
use zeroize::Zeroizing;

/// Who may read such a file. What more people than these can read is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// What others may do is the operator's own business.
    Any,
    /// Not every user of the machine.
    Group,
    Owner,
}

/// Without the file's name, and without what it holds.
#[derive(Debug, Error)]
pub enum SecretFileError {
    #[error("cannot read: {0}")]
    Io(#[from] io::Error),
    #[error("is no file")]
    NoFile,
    #[error("larger than {0} bytes")]
    TooLarge(u64),
    #[error("others may read it (mode {0:o}), and it holds secrets: `chmod o-rwx` it")]
    OpenToAll(u32),
    #[error("others than its owner may use it (mode {0:o}): `chmod 600` it")]
    OpenToOthers(u32),
    #[error("no UTF-8")]
    NoText,
}

/// All of the file, where it has at most so many bytes.
pub fn read(path: &Path, most: u64, readers: Readers) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    // A pipe would keep us waiting for ever.
    if !std::fs::metadata(path)?.is_file() {
        return Err(SecretFileError::NoFile);
    }
    let file = File::open(path)?;
    let found = file.metadata()?;
    let mode = found.permissions().mode() & 0o777;
    match readers {
        Readers::Group if mode & 0o007 != 0 => return Err(SecretFileError::OpenToAll(mode)),
        Readers::Owner if mode & 0o077 != 0 => return Err(SecretFileError::OpenToOthers(mode)),
        Readers::Any | Readers::Group | Readers::Owner => {}
    }
    let length = found.len();
    if length > most {
        return Err(SecretFileError::TooLarge(most));
    }
    // Room for all of it, so that no half-grown copies are left behind.
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1));
    file.take(most).read_to_end(&mut content)?;
    Ok(content)
}

/// [`read`], as text.
pub fn read_text(path: &Path, most: u64, readers: Readers) -> Result<Zeroizing<String>, SecretFileError> {
    let mut content = read(path, most, readers)?;
    match String::from_utf8(std::mem::take(&mut *content)) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) => {
            drop(Zeroizing::new(error.into_bytes()));
            Err(SecretFileError::NoText)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};

    use super::*;

    #[test]
    fn what_too_many_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        write(&path, "hush").unwrap();
        for (mode, group, owner) in [(0o600, true, true), (0o640, true, false), (0o644, false, false)] {
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let taken = |readers| match read_text(&path, 4, readers) {
                Ok(text) => {
                    assert_eq!(*text, "hush");
                    true
                }
                Err(error) => {
                    let told = error.to_string();
                    assert!(told.contains(&format!("mode {mode:o}")) && !told.contains("hush"), "{told}");
                    false
                }
            };
            assert_eq!(
                [Readers::Any, Readers::Group, Readers::Owner].map(taken),
                [true, group, owner],
                "{mode:o}"
            );
        }
    }

    #[test]
    fn what_is_no_file_too_large_or_no_text_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let told = |path: &Path| read_text(path, 4, Readers::Any).unwrap_err().to_string();
        assert!(told(&path).contains("No such file"));
        assert_eq!(told(directory.path()), "is no file");
        assert_eq!(told(Path::new("/dev/zero")), "is no file");
        write(&path, "12345").unwrap();
        assert_eq!(told(&path), "larger than 4 bytes");
        write(&path, b"\xff").unwrap();
        assert_eq!(told(&path), "no UTF-8");
    }
}
