//! `[access]`: who may come in, and who may say and hear what. The files named here are read here, so that `--check`
//! finds what is wrong in them.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nsd_edge::config::Table;

use crate::access::token::{ListClaims, TokenField, TokenKeys, TokenRules};
use crate::access::{Acl, CertificateUse, Passwords, Policy, Sources, TopicRule};
use crate::door::service::{self, ServiceSettings};
use crate::live_file::{self, LiveFile};

/// An admission as a whole has five seconds.
const DEADLINES: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_millis(4500);
const MEMORIES: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(86_400);
const LEEWAYS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);

/// Everything that the door goes by.
#[derive(Debug, Clone)]
pub struct Access {
    pub policy: Policy,
    pub certificate: CertificateUse,
    pub passwords: Option<Arc<LiveFile<Passwords>>>,
    pub acl: Option<Arc<LiveFile<Acl>>>,
    pub tokens: Option<Tokens>,
    pub service: Option<ServiceSettings>,
}

#[derive(Debug, Clone)]
pub struct Tokens {
    pub keys: Arc<LiveFile<TokenKeys>>,
    pub rules: Arc<TokenRules>,
}

impl Access {
    /// The defaults are the safe ones: devices only, each in its own topics, unless anonymous clients were asked for.
    pub fn new(allow_anonymous: bool) -> Self {
        Self {
            policy: policy(allow_anonymous, None, None),
            certificate: CertificateUse::Nothing,
            passwords: None,
            acl: None,
            tokens: None,
            service: None,
        }
    }

    pub fn sources(&self) -> Sources {
        Sources {
            certificate: self.certificate,
            passwords: self.passwords.is_some(),
            tokens: self.tokens.as_ref().map(|tokens| tokens.rules.field),
            service: self.service.is_some(),
        }
    }
}

pub(super) fn read(table: Option<Table<'_, '_>>, allow_anonymous: bool) -> Access {
    let Some(mut table) = table else { return Access::new(allow_anonymous) };
    let devices = table.boolean("devices");
    let rules = [("second-level-is-device", TopicRule::SecondLevelIsDevice), ("open", TopicRule::Open)];
    let rule = table.choice("topic_rule", &rules);
    let uses = [("user", CertificateUse::User), ("also", CertificateUse::Also)];
    let certificate = table.choice("certificate", &uses).unwrap_or_default();
    let passwords = file(&mut table, "password_file", |path| live_file::lines(path, Passwords::parse));
    let acl = file(&mut table, "acl_file", |path| live_file::lines(path, Acl::parse));
    let jwt = table.table("jwt").map(tokens);
    let http = table.table("http").map(http);
    table.finish();
    // A source of names takes the place of the default; a file that was asked for is the rule.
    let names = passwords.is_some() || jwt.is_some() || http.is_some() || certificate == CertificateUse::User;
    let devices = devices.or(names.then_some(false));
    let rule = rule.or(match (&acl, names) {
        (Some(_), _) => Some(TopicRule::Open),
        (None, true) => Some(TopicRule::SecondLevelIsDevice),
        (None, false) => None,
    });
    Access {
        policy: policy(allow_anonymous, devices, rule),
        certificate,
        passwords,
        acl,
        tokens: jwt.flatten(),
        service: http.flatten(),
    }
}

/// Devices where nobody else knows names, and each in its own topics.
pub fn policy(allow_anonymous: bool, devices: Option<bool>, rule: Option<TopicRule>) -> Policy {
    let devices = devices.unwrap_or(!allow_anonymous);
    let default = if devices { TopicRule::SecondLevelIsDevice } else { TopicRule::Open };
    Policy { allow_anonymous, devices, topic_rule: rule.unwrap_or(default) }
}

fn file<T: Send + Sync + 'static>(
    table: &mut Table<'_, '_>,
    key: &'static str,
    understand: impl Fn(&Path) -> Result<T, Vec<String>> + Send + Sync + 'static,
) -> Option<Arc<LiveFile<T>>> {
    let path = PathBuf::from(table.string(key)?);
    let understand_first = move |paths: &[PathBuf]| match paths {
        [path] => understand(path),
        _ => Err(vec!["one file was expected".to_owned()]),
    };
    told(table, key, LiveFile::load(vec![path], understand_first)).map(Arc::new)
}

fn told<T>(table: &Table<'_, '_>, key: &str, outcome: Result<T, Vec<String>>) -> Option<T> {
    outcome.map_err(|problems| problems.iter().for_each(|problem| table.problem(key, problem))).ok()
}

fn tokens(mut table: Table<'_, '_>) -> Option<Tokens> {
    let secret = table.string("secret_file").map(PathBuf::from);
    let keys: Vec<PathBuf> = table.strings("keys").into_iter().map(PathBuf::from).collect();
    let fields = [("password", TokenField::Password), ("user", TokenField::UserName)];
    let field = table.choice("field", &fields).unwrap_or(TokenField::Password);
    let user_claim = table.string("user_claim").unwrap_or_else(|| "sub".to_owned());
    let issuer = table.string("issuer");
    let audience = table.strings("audience");
    let leeway = table.duration("leeway", &LEEWAYS).unwrap_or(Duration::from_secs(30));
    let (publish, subscribe) = (table.string("publish_claim"), table.string("subscribe_claim"));
    table.finish();
    let lists = match (publish, subscribe) {
        (Some(publish), Some(subscribe)) => Some(ListClaims { publish, subscribe }),
        (None, None) => None,
        _ => {
            table.problem("publish_claim", "goes together with `subscribe_claim`: name both or none");
            None
        }
    };
    let keys = match (secret, keys.is_empty()) {
        (Some(path), true) => told(&table, "secret_file", LiveFile::load(vec![path], shared_secret)),
        (None, false) => told(&table, "keys", LiveFile::load(keys, public_keys)),
        _ => {
            table.problem("keys", "name either `secret_file` (HS256) or `keys` (RS256, ES256, EdDSA)");
            None
        }
    };
    let rules = TokenRules { field, user_claim, issuer, audience, leeway, lists };
    Some(Tokens { keys: Arc::new(keys?), rules: Arc::new(rules) })
}

/// The file's bytes, but for the newline that editors add.
fn shared_secret(paths: &[PathBuf]) -> Result<TokenKeys, Vec<String>> {
    let [path] = paths else { return Err(vec!["one file was expected".to_owned()]) };
    let content = live_file::bytes(path).map_err(|problem| vec![problem])?;
    let end = content.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |at| at + 1);
    TokenKeys::of_secret(&content[..end]).map_err(|what| vec![format!("{}: {what}", path.display())])
}

fn public_keys(paths: &[PathBuf]) -> Result<TokenKeys, Vec<String>> {
    let (mut keys, mut problems) = (TokenKeys::default(), Vec::new());
    for path in paths {
        let content = live_file::bytes(path);
        let added = content.and_then(|content| {
            keys.add_public(&content).map_err(|what| format!("{}: {what}", path.display()))
        });
        problems.extend(added.err());
    }
    if problems.is_empty() { Ok(keys) } else { Err(problems) }
}

fn http(mut table: Table<'_, '_>) -> Option<ServiceSettings> {
    table.require("url");
    let url = table.string("url");
    let ca = table.string("ca").map(PathBuf::from);
    let deadline = table.duration("deadline", &DEADLINES).unwrap_or(Duration::from_secs(2));
    let calls = table.number("calls", 1, 10_000).and_then(|calls| usize::try_from(calls).ok()).unwrap_or(32);
    let remember = table.duration("remember", &MEMORIES).unwrap_or(Duration::from_secs(60));
    let remember_refusals = table.duration("remember_refusals", &MEMORIES).unwrap_or(Duration::from_secs(5));
    table.finish();
    let url = service::parse_url(&url?).map_err(|what| table.problem("url", what)).ok()?;
    let tls = service::tls(&url, ca.as_deref()).map_err(|what| table.problem("ca", what)).ok()?;
    Some(ServiceSettings { url, tls, deadline, calls, remember, remember_refusals })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::parse;

    const LISTEN: &str = "[[listen]]\naddress = \"0.0.0.0:1\"\n";

    fn access(text: &str) -> Access {
        parse(&format!("{LISTEN}{text}")).unwrap().access
    }

    fn problems(text: &str) -> Vec<String> {
        parse(&format!("{LISTEN}{text}")).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn defaults_follow_from_what_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let (passwords, acl) = (file("passwords", "# none yet\n"), file("acl", "topic read #\n"));
        let second = TopicRule::SecondLevelIsDevice;
        for (text, devices, rule) in [
            (String::new(), true, second),
            ("[access]\n".to_owned(), true, second),
            (format!("[access]\npassword_file = \"{passwords}\""), false, second),
            (format!("[access]\npassword_file = \"{passwords}\"\ndevices = true"), true, second),
            (
                format!("[access]\npassword_file = \"{passwords}\"\nacl_file = \"{acl}\""),
                false,
                TopicRule::Open,
            ),
            (format!("[access]\nacl_file = \"{acl}\""), true, TopicRule::Open),
            (
                format!("[access]\nacl_file = \"{acl}\"\ntopic_rule = \"second-level-is-device\""),
                true,
                second,
            ),
            ("[access]\ncertificate = \"user\"".to_owned(), false, second),
            ("[access.http]\nurl = \"http://127.0.0.1:1/x\"".to_owned(), false, second),
        ] {
            let access = access(&text);
            assert_eq!((access.policy.devices, access.policy.topic_rule), (devices, rule), "{text}");
        }
    }

    #[test]
    fn problems_name_the_file_and_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        std::fs::write(at("passwords"), "anna:hush\n").unwrap();
        std::fs::write(at("acl"), "topic read a/#/b\n\npatern x\n").unwrap();
        std::fs::write(at("key"), "short\n").unwrap();
        let found = problems(&format!(
            "[access]\npassword_file = \"{}\"\nacl_file = \"{}\"\ncertificate = \"no\"\n\
             [access.jwt]\nsecret_file = \"{}\"\npublish_claim = \"p\"\n\
             [access.http]\nurl = \"ftp://x\"\nca = \"y\"",
            at("passwords"),
            at("acl"),
            at("key")
        ));
        let passwords = at("passwords");
        assert_eq!(
            found,
            [
                format!(
                    "4: access.password_file: {passwords}:1: the secret is in no known form (a plain password? \
                     make lines with `nsd-broker passwd`)"
                ),
                format!("5: access.acl_file: {}:1: `a/#/b` is no valid topic filter", at("acl")),
                format!("5: access.acl_file: {}:3: `patern` is none of topic, user, pattern", at("acl")),
                "6: access.certificate: `no` is none of user, also".to_owned(),
                format!("8: access.jwt.secret_file: {}: the secret is shorter than 32 bytes", at("key")),
                "9: access.jwt.publish_claim: goes together with `subscribe_claim`: name both or none"
                    .to_owned(),
                "11: access.http.url: is no `http://HOST[:PORT]/PATH` or `https://…`".to_owned(),
            ]
        );
        for (text, what) in [
            ("[access]\npassword_file = \"/nowhere/x\"", "No such file"),
            ("[access]\npassword_file = \"/dev/null\"", "is no file"),
            ("[access]\nacl_file = \"/\"", "is no file"),
            ("[access.jwt]\n", "name either `secret_file`"),
            ("[access.jwt]\nkeys = [\"/nowhere/x\"]", "No such file"),
            ("[access.http]\n", "access.http.url: is missing"),
            ("[access.http]\nurl = \"http://u:hush@h/\"", "without a user"),
            ("[access.http]\nurl = \"http://h/\"\nca = \"/x\"", "means nothing without https"),
            ("[access.http]\nurl = \"https://h/\"\nca = \"/nowhere\"", "/nowhere"),
            ("[access.http]\nurl = \"http://h/\"\ndeadline = \"5s\"", "access.http.deadline"),
        ] {
            let found = problems(text).join("\n");
            assert!(found.contains(what) && !found.contains("hush"), "{found}");
        }
    }
}
