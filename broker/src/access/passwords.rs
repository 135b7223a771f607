//! The password file: lines of `user:secret`, with the secrets of [`super::StoredSecret`]. Pure; reading and writing the
//! file are others' work.

use std::fmt;
use std::num::NonZeroU32;

use foldhash::HashMap;
use nsd_edge::config::Problem;
use nsd_edge::password::{check_name, numbered};
use zeroize::Zeroizing;

use super::{Cost, StoredSecret, scram};

/// Users and their secrets.
#[derive(Default, PartialEq, Eq)]
pub struct Passwords {
    users: HashMap<Box<str>, Zeroizing<String>>,
    costliest: (Cost, Zeroizing<String>),
    iterations: Option<NonZeroU32>,
}

impl Passwords {
    /// All lines that are wrong are told at once, without what they hold.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let (mut passwords, mut problems) = (Self::default(), Vec::new());
        for (line, content) in numbered(text) {
            if let Err(what) = passwords.add(content) {
                problems.push(Problem { line, what: what.to_owned() });
            }
        }
        if problems.is_empty() { Ok(passwords) } else { Err(problems) }
    }

    pub fn secret(&self, user: &str) -> Option<&str> {
        self.users.get(user).map(|secret| secret.as_str())
    }

    /// The secret whose check takes longest: what every refusal must cost so that it tells nothing.
    pub fn costliest(&self) -> (Cost, &str) {
        (self.costliest.0, &self.costliest.1)
    }

    /// What a SCRAM record of this file looks like from outside, if there is one.
    pub fn scram_iterations(&self) -> Option<NonZeroU32> {
        self.iterations
    }

    pub fn len(&self) -> usize {
        self.users.len()
    }

    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    fn add(&mut self, line: &str) -> Result<(), &'static str> {
        let (user, secret) = line.split_once(':').ok_or("is no `user:secret`")?;
        let (user, secret) = (check_name(user)?, secret.trim());
        let parsed = StoredSecret::parse(secret).ok_or(
            "the secret is in no known form (a plain password? make lines with `nsd-broker passwd`)",
        )?;
        if let StoredSecret::Scram(record) = &parsed {
            self.iterations.get_or_insert(record.iterations());
        }
        if parsed.cost() > self.costliest.0 {
            self.costliest = (parsed.cost(), Zeroizing::new(secret.to_owned()));
        }
        match self.users.insert(user.into(), Zeroizing::new(secret.to_owned())) {
            None => Ok(()),
            Some(_) => Err("the user is there twice"),
        }
    }
}

/// Counts only.
impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passwords").field("users", &self.users.len()).finish_non_exhaustive()
    }
}

/// A new SCRAM secret for a password.
pub fn scram_secret(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Zeroizing<String> {
    scram::written(&scram::Record::derive(password, salt, iterations))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA256: &str = "$sha256$ab$0000000000000000000000000000000000000000000000000000000000000000";

    #[test]
    fn lines_give_users() {
        let file = format!("# people\n\nanna:{SHA256}\n  with space:{SHA256}  \r\n");
        let passwords = Passwords::parse(&file).unwrap();
        assert_eq!(passwords.len(), 2);
        assert_eq!(passwords.secret("anna"), Some(SHA256));
        assert_eq!(passwords.secret("with space"), Some(SHA256));
        assert_eq!(passwords.secret("Anna"), None);
        assert_eq!(passwords.costliest(), (Cost::Nothing, ""));
        assert_eq!(format!("{passwords:?}"), "Passwords { users: 2, .. }");
    }

    #[test]
    fn the_costliest_secret_is_known() {
        const ARGON2: &str = "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA";
        let hash = "SIlC5Dlntm7GNzHHIeooYip2TaZQaALYvp8mtqRl7nljUgvrQNUnlKqZOxmrIxiF+aThMi0oy0ErrDgbD6rA1g==";
        let file = format!("a:{SHA256}\nb:{ARGON2}\nc:$7$101$eyg7X1+0GhPQc9ZJ${hash}\n");
        assert_eq!(Passwords::parse(&file).unwrap().costliest(), (Cost::Argon2, ARGON2));
    }

    #[test]
    fn wrong_lines_are_told_by_number_and_never_repeated() {
        let file = format!("anna\nbert:hush\n:{SHA256}\ncarl:{SHA256}\ncarl:{SHA256}\na\tb:{SHA256}\n");
        let told: Vec<_> = Passwords::parse(&file).unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "1: is no `user:secret`",
                "2: the secret is in no known form (a plain password? make lines with `nsd-broker passwd`)",
                "3: the user's name is empty",
                "5: the user is there twice",
                "6: the user's name has a colon or a control character",
            ]
        );
    }
}
