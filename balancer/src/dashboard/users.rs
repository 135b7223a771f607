//! Who may log in: the password file, and the slow comparison with it. The file is followed; a bad one changes nothing.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use nsd_edge::config::Problem;
use nsd_edge::password::{self, PasswdError, argon2id, check_name, is_argon2id, numbered};
use nsd_edge::secret_file::{self, Readers};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// A larger file is something else.
const MOST_BYTES: u64 = 1024 * 1024;
/// A comparison takes a core and 19 MiB for tens of milliseconds: one at a time.
static TURN: Semaphore = Semaphore::const_new(1);

/// Users with their records.
#[derive(Default, PartialEq, Eq)]
pub(crate) struct Users(HashMap<String, Zeroizing<String>>);

impl Users {
    /// The file's users, or all that is wrong with it, without what it holds.
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        let wrong = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
        let text = secret_file::read_text(path, MOST_BYTES, Readers::Owner).map_err(|error| wrong(&error))?;
        let users = Self::parse(&text).map_err(|problems| {
            let lines = problems.iter().map(|problem| format!("{}:{problem}", path.display()));
            lines.collect::<Vec<_>>().join("\n")
        })?;
        if users.0.is_empty() {
            return Err(wrong(&"has no user: make one with `nsd-balancer passwd`"));
        }
        Ok(users)
    }

    pub(crate) fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let (mut users, mut problems) = (HashMap::new(), Vec::new());
        for (line, content) in numbered(text) {
            let mut add = || {
                let (user, record) = content.split_once(':').ok_or("is no `user:record`")?;
                let (user, record) = (check_name(user)?, record.trim());
                if !is_argon2id(record) {
                    return Err("is no argon2id record: make lines with `nsd-balancer passwd`");
                }
                match users.insert(user.to_owned(), Zeroizing::new(record.to_owned())) {
                    None => Ok(()),
                    Some(_) => Err("the user is there twice"),
                }
            };
            if let Err(what) = add() {
                problems.push(Problem { line, what: what.to_owned() });
            }
        }
        if problems.is_empty() { Ok(Self(users)) } else { Err(problems) }
    }

    /// Whether the user has the same password in both.
    pub(crate) fn agree(&self, other: &Self, user: &str) -> bool {
        self.0.get(user).is_some_and(|record| other.0.get(user) == Some(record))
    }

    /// Whether this is the user's password. Takes as long for users that there are not.
    pub(crate) async fn know(self: Arc<Self>, user: &str, password: Zeroizing<Vec<u8>>) -> bool {
        let _turn = TURN.acquire().await;
        let user = user.to_owned();
        let compare = move || {
            let known = self.0.get(&user);
            let fits = |record: &Zeroizing<String>| password::fits(&password, record);
            // With somebody's, so that the time it takes does not tell that there is no such user.
            let fits = known.or_else(|| self.0.values().next()).is_some_and(fits);
            fits && known.is_some()
        };
        tokio::task::spawn_blocking(compare).await.unwrap_or(false)
    }
}

/// Without names and records.
impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Users").field(&self.0.len()).finish()
    }
}

/// `nsd-balancer passwd`: gives a user of the file a password, or takes the user out.
pub fn passwd(path: &Path, user: &str, delete: bool) -> Result<(), PasswdError> {
    let check = |text: &str| Users::parse(text).map(drop);
    let record = |password: &[u8]| {
        argon2id(password).map(Zeroizing::new).map_err(|error| PasswdError::Hash(error.to_string()))
    };
    if delete { password::remove(path, user, check) } else { password::set(path, user, check, record) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn passwords_are_known_by_user() {
        let record = argon2id(b"secret").unwrap();
        let users = Arc::new(Users::parse(&format!("# operators\n anna:{record}\n")).unwrap());
        for (user, password, known) in
            [("anna", "secret", true), ("anna", "Secret", false), ("bert", "secret", false), ("", "", false)]
        {
            let password = Zeroizing::new(password.as_bytes().to_vec());
            assert_eq!(Arc::clone(&users).know(user, password).await, known, "{user}");
        }
    }

    #[test]
    fn wrong_lines_are_told_by_number_and_never_repeated() {
        let record = argon2id(b"secret").unwrap();
        let text = format!("anna:hush\nbert\ncarl:{record}\ncarl:{record}\n");
        let problems: Vec<_> = Users::parse(&text).unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(problems.len(), 3);
        assert!(problems[0].starts_with("1: is no argon2id record") && problems[2].starts_with("4: "));
        assert!(!problems.concat().contains("hush"));
    }

    #[test]
    fn another_password_is_noticed() {
        let [one, other] = [b"one", b"two"].map(|password| argon2id(password).unwrap());
        let before = Users::parse(&format!("anna:{one}\nbert:{one}\n")).unwrap();
        let now = Users::parse(&format!("anna:{other}\nbert:{one}\n")).unwrap();
        assert!(!before.agree(&now, "anna") && before.agree(&now, "bert") && !before.agree(&now, "carl"));
    }
}
