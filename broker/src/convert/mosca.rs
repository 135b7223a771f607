//! Mosca's credentials JSON → a password file and an ACL file of ours.
//!
//! Mosca hashes with PBKDF2-HMAC-SHA1, 10 000 rounds, a salt of 64 random bytes and 128 bytes of output, both in base64
//! (package `pbkdf2-password`, its defaults). PBKDF2 makes its output in blocks that do not depend on each other, and a
//! check of the first one is a check: twenty bytes are kept, and the server saves six sevenths of the work.

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use nsd_edge::password::check_name;
use serde_json::{Map, Value};

use super::Note;
use super::glob::{self, Side};

const ROUNDS: u32 = 10_000;
/// One block of SHA-1.
const KEPT: usize = 20;
/// What Mosca takes where nothing is said: everything.
const EVERYTHING: &str = "**";

/// The text of both files.
#[derive(Debug, Default)]
pub struct Credentials {
    pub passwords: String,
    pub acl: String,
    pub notes: Vec<Note>,
}

/// The error is about the file as a whole: it is no JSON object.
pub fn mosca(json: &str) -> Result<Credentials, String> {
    // The parser's error has line and column, never the text.
    let users: Map<String, Value> =
        serde_json::from_str(json).map_err(|error| format!("no credentials file: {error}"))?;
    let mut made = Credentials {
        acl: "# From Mosca's credentials. Rules for a user count for that user alone.\n".to_owned(),
        ..Credentials::default()
    };
    for (user, record) in &users {
        if let Err(what) = made.add(user, record) {
            made.note(user, &format!("{what}; this user is left out"));
        }
    }
    Ok(made)
}

impl Credentials {
    fn add(&mut self, user: &str, record: &Value) -> Result<(), String> {
        check_name(user)?;
        let hash = hash(record)?;
        let publish = self.rule(user, record, "authorizePublish", Side::Publish)?;
        let subscribe = self.rule(user, record, "authorizeSubscribe", Side::Subscribe)?;
        let _ = writeln!(self.passwords, "{user}:{hash}");
        let _ = writeln!(self.acl, "\nuser {user}");
        let rules = match (publish, subscribe) {
            (Some(publish), Some(subscribe)) if publish == subscribe => vec![("readwrite", publish)],
            (publish, subscribe) => {
                let rules =
                    [publish.map(|filter| ("write", filter)), subscribe.map(|filter| ("read", filter))];
                rules.into_iter().flatten().collect()
            }
        };
        for (access, filter) in rules {
            let _ = writeln!(self.acl, "topic {access} {filter}");
        }
        Ok(())
    }

    /// The filter of one direction; none where there is no counterpart: then the user may do nothing there.
    fn rule(&mut self, user: &str, record: &Value, key: &str, side: Side) -> Result<Option<String>, String> {
        let glob = match record.get(key) {
            None | Some(Value::Null) => EVERYTHING,
            Some(Value::String(glob)) if glob.is_empty() => EVERYTHING,
            Some(Value::String(glob)) => glob,
            Some(_) => return Err(format!("{key} is no text")),
        };
        match glob::filter(glob, side) {
            Ok(filter) => Ok(Some(filter)),
            Err(what) => {
                self.note(
                    user,
                    &format!(
                        "{key} `{}` {what}: no rule is made, so nothing is allowed there",
                        glob.escape_debug()
                    ),
                );
                Ok(None)
            }
        }
    }

    fn note(&mut self, user: &str, what: &str) {
        self.notes.push(Note { at: format!("user `{}`", user.escape_debug()), what: what.to_owned() });
    }
}

/// As `$pbkdf2-sha1$ROUNDS$SALT$HASH`. Some versions keep both in a table `auth` of their own.
fn hash(record: &Value) -> Result<String, String> {
    let auth = record.get("auth").unwrap_or(record);
    let bytes = |key: &str| {
        let text = auth.get(key).and_then(Value::as_str).ok_or_else(|| format!("no `{key}`"))?;
        BASE64.decode(text).map_err(|_| format!("`{key}` is no base64"))
    };
    let (salt, hash) = (bytes("salt")?, bytes("hash")?);
    if salt.is_empty() || hash.len() < KEPT {
        return Err("salt or hash is too short".to_owned());
    }
    Ok(format!("$pbkdf2-sha1${ROUNDS}${}${}", BASE64.encode(salt), BASE64.encode(&hash[..KEPT])))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `mosca adduser`, version 2.8.3: password `secret`.
    const SALT: &str =
        "NjLy6gdQTjG/gZPpfz1/+n5GqxgPGznFPqysWLjeGv94liuP7lIjiWBXkgrVhpu+l755LJHT9sjelfSqyCeufA==";
    const HASH: &str = "eqbFxnVTehrVesO+GLCdIh5XO0mgcfKbBIMF+4L8urlvRhFfoqFma/PugzgeKEVoxIPGxk4LpgzPPy2b8o1R+WdM+G8uucAB6mDUL9N+t4fmMwBkEPhu/CC+Atn18DTBYW3Q8qSEubV+jYHERc87wlkHcX9sEm5XhNvH+alebMM=";

    fn record(rules: &str) -> String {
        format!(r#"{{"salt":"{SALT}","hash":"{HASH}"{rules}}}"#)
    }

    #[test]
    fn users_with_their_rules() {
        let json = format!(
            r#"{{"all":{},"lamp":{},"eye":{}}}"#,
            record(""),
            record(r#","authorizePublish":"lamps/lamp/**","authorizeSubscribe":"lamps/*/set""#),
            record(r#","authorizePublish":"{a,b}","authorizeSubscribe":"eyes/+""#),
        );
        let made = mosca(&json).unwrap();
        let passwords: Vec<_> = made.passwords.lines().collect();
        assert_eq!(passwords.len(), 3);
        assert!(
            passwords.iter().all(|line| line.contains(&format!(":$pbkdf2-sha1$10000${SALT}$"))),
            "{passwords:?}"
        );
        let acl = made.acl.split_once("\n\n").unwrap().1;
        assert_eq!(
            acl,
            "user all\ntopic readwrite #\n\nuser eye\ntopic read eyes/+\n\nuser lamp\ntopic write lamps/lamp/#\ntopic read lamps/+/set\n"
        );
        assert_eq!(made.notes.len(), 1);
        assert!(made.notes[0].to_string().starts_with("user `eye`: authorizePublish `{a,b}` has a wildcard"));
    }

    #[test]
    fn the_form_with_a_table_of_its_own() {
        let made = mosca(&format!(r#"{{"a":{{"auth":{}}}}}"#, record(""))).unwrap();
        assert!(made.passwords.starts_with("a:$pbkdf2-sha1$"), "{made:?}");
        assert!(made.notes.is_empty());
    }

    #[test]
    fn what_is_kept_of_the_hash_is_what_the_password_gives() {
        let made = mosca(&format!(r#"{{"a":{}}}"#, record(""))).unwrap();
        let kept = BASE64.decode(made.passwords.trim().rsplit_once('$').unwrap().1).unwrap();
        assert_eq!(kept, BASE64.decode(HASH).unwrap()[..KEPT]);
    }

    #[test]
    fn odd_users_are_named_and_left_out_and_no_secret_is_told() {
        let json = format!(
            r#"{{"a:b":{0},"":{0},"c\nd":{0},"no hash":{{"salt":"{SALT}"}},"bad":{{"salt":"%hush%","hash":"%hush%"}},"list":[],"short":{{"salt":"aa==","hash":"aGk="}},"glob":{1}}}"#,
            record(""),
            record(r#","authorizePublish":7"#)
        );
        let made = mosca(&json).unwrap();
        assert_eq!(made.notes.len(), 8, "{:?}", made.notes);
        assert!(made.notes.iter().all(|note| !note.to_string().contains("hush")));
        assert!(!made.acl.contains("topic"), "{}", made.acl);
        for odd in ["", "[]", "7", "{"] {
            assert!(mosca(odd).is_err(), "{odd}");
        }
    }
}
