//! Who works here: the name that stands beside every revision and every line of the timeline. Kept in the user's
//! configuration folder; without a login, git's own `user.name` and `user.email`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::project::{config_folder, write_atomically};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Person {
    pub name: String,
    pub email: String,
}

impl std::fmt::Display for Person {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} <{}>", self.name, self.email)
    }
}

impl Person {
    /// Checked, because a git signature has no room for angle brackets and line ends.
    pub fn new(name: &str, email: &str) -> Result<Self, Failure> {
        let (name, email) = (name.trim(), email.trim());
        let wrong = |text: &str| text.is_empty() || text.contains(['<', '>', '\n', '\0']);
        if wrong(name) {
            return Err(usage("the name must not be empty and must not contain `<` or `>`"));
        }
        if wrong(email) || !email.contains('@') {
            return Err(usage("the email address needs an `@` and must not contain `<` or `>`"));
        }
        Ok(Self { name: name.to_owned(), email: email.to_owned() })
    }
}

/// Who logged in, if anyone did.
pub fn kept() -> Result<Option<Person>, Failure> {
    let path = path();
    match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| {
            Failure::error(format!("{} cannot be understood", path.display()))
                .because(&error)
                .hint("log in again: `nsd login`")
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::error(format!("cannot read {}", path.display())).because(&error)),
    }
}

pub fn keep(person: &Person) -> Result<(), Failure> {
    let text = serde_json::to_vec_pretty(person)
        .map_err(|error| Failure::error("cannot write the login").because(&error))?;
    write_atomically(&path(), &text, 0o600)
}

/// Whether there was a login to forget.
pub fn forget() -> Result<bool, Failure> {
    let path = path();
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Failure::error(format!("cannot remove {}", path.display())).because(&error)),
    }
}

/// As git has it: `user.name` and `user.email`, of this repository or of the user.
pub fn from_git() -> Option<Person> {
    let here = std::env::current_dir().ok().and_then(|dir| git2::Repository::discover(dir).ok());
    let config = match here {
        Some(repository) => repository.config().ok()?,
        None => git2::Config::open_default().ok()?,
    };
    Person::new(&config.get_string("user.name").ok()?, &config.get_string("user.email").ok()?).ok()
}

/// The login, else git's, else the user of this machine.
pub fn who() -> Result<Person, Failure> {
    if let Some(person) = kept()?.or_else(from_git) {
        return Ok(person);
    }
    let user = std::env::var("USER")
        .ok()
        .filter(|user| Person::new(user, "a@b").is_ok())
        .unwrap_or_else(|| "unknown".to_owned());
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Person::new(&user, &format!("{user}@{host}"))
}

fn path() -> PathBuf {
    config_folder().join("login.json")
}

fn usage(message: &str) -> Failure {
    Failure::new(crate::failure::Kind::Usage, message)
        .hint("for example `nsd login --name \"Ada Lovelace\" --email ada@example.org`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_fits_a_git_signature() {
        assert_eq!(Person::new(" Ada ", "ada@example.org").unwrap().to_string(), "Ada <ada@example.org>");
        for (name, email) in [("", "a@b"), ("Ada <x>", "a@b"), ("Ada", "ab"), ("Ada", "a@b>\n")] {
            assert!(Person::new(name, email).is_err(), "{name} {email}");
        }
    }
}
