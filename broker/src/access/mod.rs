//! Who may connect, publish and subscribe: decisions over records that somebody else looked up. Pure.

mod acl;
mod filter;
mod grant;
pub mod passwords;
pub mod scram;
mod secret;
pub mod token;

pub use acl::{Acl, Wish};
pub use filter::{Name, Names};
pub use grant::{Grant, Lists};
pub use passwords::Passwords;
pub use secret::{Check, Cost, StoredSecret};

use token::TokenField;

/// What the operator asked for.
#[derive(Debug, Clone)]
pub struct Policy {
    pub allow_anonymous: bool,
    /// Devices are authenticated against their records in the store.
    pub devices: bool,
    pub topic_rule: TopicRule,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicRule {
    Open,
    /// The second level of a topic or filter must be the device's id (`devices/<id>/…`).
    SecondLevelIsDevice,
}

/// The sources of identity beside the store's devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sources {
    pub certificate: CertificateUse,
    pub passwords: bool,
    /// Where tokens are carried, if any are taken.
    pub tokens: Option<TokenField>,
    pub service: bool,
}

/// What a client certificate that the entry has verified is good for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CertificateUse {
    #[default]
    Nothing,
    /// It alone says who the client is.
    User,
    /// It must be there, and name whom the other credentials prove.
    Also,
}

/// A device's record as the store keeps it.
#[derive(Debug, Clone)]
pub struct DeviceRecord {
    pub secret: String,
    pub disabled: bool,
}

/// What a client shows.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'c> {
    pub user: Option<&'c str>,
    pub password: Option<&'c [u8]>,
    /// Whom its certificate names.
    pub certified: Option<&'c str>,
}

/// What a client claims to be, before anything was looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim<'c> {
    Anonymous,
    /// Its certificate has proven it.
    Certified(&'c str),
    Token(&'c str),
    Password {
        user: &'c str,
        secret: &'c [u8],
    },
    /// Only the service can know what to think of it.
    Service,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Unknown, disabled or wrong: one answer for all, so that nobody can probe which devices exist.
    BadCredentials,
    /// Fine as such, but not allowed here.
    NotAuthorized,
}

impl Policy {
    /// Decides what must be looked up for these credentials.
    pub fn claim<'c>(&self, sources: Sources, shown: &Credentials<'c>) -> Result<Claim<'c>, Refusal> {
        use Refusal::{BadCredentials, NotAuthorized};
        match (sources.certificate, shown.certified) {
            (CertificateUse::User, Some(name)) => {
                let same = shown.user.is_none_or(|user| user == name);
                return if same { Ok(Claim::Certified(name)) } else { Err(BadCredentials) };
            }
            (CertificateUse::Also, None) => return Err(NotAuthorized),
            _ => {}
        }
        if let Some(token) = sources.tokens.and_then(|field| field.token_of(shown)) {
            return Ok(Claim::Token(token));
        }
        let named = self.devices || sources.passwords || sources.service || sources.tokens.is_some();
        match (shown.user, shown.password) {
            (None, _) if self.may_be_nobody(sources) => Ok(Claim::Anonymous),
            // Nobody checks names here: a name means no more than none.
            (Some(_), _) if !named && self.may_be_nobody(sources) => Ok(Claim::Anonymous),
            (None, _) | (Some(_), None) if sources.service => Ok(Claim::Service),
            (None, _) => Err(NotAuthorized),
            (Some(_), _) if !named => Err(NotAuthorized),
            (Some(_), None) => Err(BadCredentials),
            (Some(user), Some(secret)) => Ok(Claim::Password { user, secret }),
        }
    }

    fn may_be_nobody(&self, sources: Sources) -> bool {
        self.allow_anonymous && sources.certificate != CertificateUse::Also
    }
}

impl CertificateUse {
    /// Whether the certificate agrees with what the other credentials have proven.
    pub fn agrees(self, certified: Option<&str>, user: Option<&str>) -> bool {
        match self {
            Self::Nothing => true,
            Self::User => certified.is_none() || certified == user,
            Self::Also => user.is_some() && certified == user,
        }
    }
}

/// 1–64 characters of `[A-Za-z0-9._-]`: safe in a key's name, in a topic level and in a log line.
pub fn is_device_id(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9.AAAA";

    fn claim<'c>(
        (anonymous, devices): (bool, bool),
        sources: Sources,
        (user, password, certified): (Option<&'c str>, Option<&'c str>, Option<&'c str>),
    ) -> Result<Claim<'c>, Refusal> {
        let policy =
            Policy { allow_anonymous: anonymous, devices, topic_rule: TopicRule::SecondLevelIsDevice };
        policy.claim(sources, &Credentials { user, password: password.map(str::as_bytes), certified })
    }

    #[test]
    fn names_and_passwords() {
        use Refusal::{BadCredentials, NotAuthorized};
        let none = Sources::default();
        let file = Sources { passwords: true, ..none };
        let service = Sources { service: true, ..none };
        let password = Ok(Claim::Password { user: "d1", secret: b"s" });
        for (policy, sources, user, secret, expected) in [
            ((false, true), none, None, None, Err(NotAuthorized)),
            ((true, true), none, None, None, Ok(Claim::Anonymous)),
            ((false, true), none, Some("d1"), Some("s"), password),
            ((true, true), none, Some("d1"), Some("s"), password),
            ((false, true), none, Some("d1"), None, Err(BadCredentials)),
            ((false, false), none, Some("d1"), Some("s"), Err(NotAuthorized)),
            ((true, false), none, Some("d1"), Some("s"), Ok(Claim::Anonymous)),
            ((false, false), file, Some("d1"), Some("s"), password),
            ((true, false), file, Some("d1"), Some("s"), password),
            ((true, false), file, Some("d1"), None, Err(BadCredentials)),
            ((false, false), service, None, None, Ok(Claim::Service)),
            ((true, false), service, None, None, Ok(Claim::Anonymous)),
            ((false, false), service, Some("d1"), None, Ok(Claim::Service)),
            ((false, false), service, Some("d1"), Some("s"), password),
        ] {
            let found = claim(policy, sources, (user, secret, None));
            assert_eq!(found, expected, "{policy:?} {sources:?} {user:?} {secret:?}");
        }
    }

    #[test]
    fn certificates() {
        use Refusal::{BadCredentials, NotAuthorized};
        let user = Sources { certificate: CertificateUse::User, ..Sources::default() };
        let also = Sources { certificate: CertificateUse::Also, passwords: true, ..Sources::default() };
        let password = Ok(Claim::Password { user: "d1", secret: b"s" });
        for (sources, shown, expected) in [
            (user, (None, None, Some("d1")), Ok(Claim::Certified("d1"))),
            (user, (Some("d1"), Some("s"), Some("d1")), Ok(Claim::Certified("d1"))),
            (user, (Some("d2"), Some("s"), Some("d1")), Err(BadCredentials)),
            (user, (None, None, None), Ok(Claim::Anonymous)),
            (also, (Some("d1"), Some("s"), None), Err(NotAuthorized)),
            (also, (None, None, None), Err(NotAuthorized)),
            (also, (None, None, Some("d1")), Err(NotAuthorized)),
            (also, (Some("d1"), Some("s"), Some("d1")), password),
            (also, (Some("d1"), Some("s"), Some("d2")), password),
            (Sources::default(), (None, None, Some("d1")), Ok(Claim::Anonymous)),
        ] {
            assert_eq!(claim((true, false), sources, shown), expected, "{sources:?} {shown:?}");
        }
        for (certified, user, with_user, with_also) in [
            (Some("d1"), Some("d1"), true, true),
            (Some("d1"), Some("d2"), false, false),
            (None, Some("d1"), true, false),
            (Some("d1"), None, false, false),
            (None, None, true, false),
        ] {
            assert_eq!(CertificateUse::User.agrees(certified, user), with_user, "{certified:?} {user:?}");
            assert_eq!(CertificateUse::Also.agrees(certified, user), with_also, "{certified:?} {user:?}");
            assert!(CertificateUse::Nothing.agrees(certified, user));
        }
    }

    #[test]
    fn tokens() {
        let password = Sources { tokens: Some(TokenField::Password), ..Sources::default() };
        let user = Sources { tokens: Some(TokenField::UserName), ..Sources::default() };
        for (sources, shown, expected) in [
            (password, (Some("x"), Some(TOKEN), None), Ok(Claim::Token(TOKEN))),
            (password, (None, Some(TOKEN), None), Ok(Claim::Token(TOKEN))),
            (password, (Some(TOKEN), Some("s"), None), Ok(Claim::Password { user: TOKEN, secret: b"s" })),
            (user, (Some(TOKEN), None, None), Ok(Claim::Token(TOKEN))),
            (user, (Some("x"), None, None), Err(Refusal::BadCredentials)),
        ] {
            assert_eq!(claim((false, false), sources, shown), expected, "{sources:?} {shown:?}");
        }
    }

    #[test]
    fn device_ids() {
        for (id, fine) in
            [("a", true), ("A.b-c_9", true), ("", false), ("a/b", false), ("a b", false), ("é", false)]
        {
            assert_eq!(is_device_id(id), fine, "{id}");
        }
        assert!(!is_device_id(&"x".repeat(65)));
    }
}
