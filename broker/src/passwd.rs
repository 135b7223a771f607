//! `nsd-broker passwd`: one user of a password file is written, or removed.

use std::num::NonZeroU32;
use std::path::Path;

use nsd_edge::password::{self, argon2id};
use zeroize::Zeroizing;

use crate::access::Passwords;
use crate::access::passwords::scram_secret;

pub use nsd_edge::password::PasswdError;

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

/// Performs the task; the password is asked for at the terminal, or is all of stdin but the newline at its end.
pub fn run(path: &Path, user: &str, task: Task) -> Result<(), PasswdError> {
    let check = |text: &str| Passwords::parse(text).map(drop);
    match task {
        Task::Delete => password::remove(path, user, check),
        Task::Set => password::set(path, user, check, hash),
        Task::SetScram { iterations } => {
            password::set(path, user, check, |password| scram(password, iterations))
        }
    }
}

fn hash(password: &[u8]) -> Result<Zeroizing<String>, PasswdError> {
    argon2id(password).map(Zeroizing::new).map_err(|error| PasswdError::Hash(error.to_string()))
}

fn scram(password: &[u8], iterations: NonZeroU32) -> Result<Zeroizing<String>, PasswdError> {
    let mut salt = [0; 16];
    aws_lc_rs::rand::fill(&mut salt).map_err(|error| PasswdError::Hash(error.to_string()))?;
    Ok(scram_secret(password, &salt, iterations))
}
