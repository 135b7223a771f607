//! Repositories by git2: look-ups and clones, with the user's keys and strict host keys.
//!
//! libgit2 does not read `~/.ssh/config`, so what `ssh` itself would make of the host (name, port, user, keys, known
//! hosts) is asked of `ssh -G` and handed on.

use std::cell::RefCell;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use git2::{
    AutotagOption, CertificateCheckStatus, Cred, CredentialType, Direction, ErrorClass, ErrorCode,
    FetchOptions, Oid, RemoteCallbacks, Repository,
};

use crate::failure::Failure;
use crate::host::{Settings, Verdict, fingerprint, judge, sha256};
use crate::system::Reach;

/// A repository as the system names it.
pub(super) struct Remote {
    dir: PathBuf,
    url: String,
    identities: Vec<PathBuf>,
}

/// The parts of a URL that goes over SSH.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SshUrl<'u> {
    user: Option<&'u str>,
    pub(super) host: &'u str,
    pub(super) port: Option<u16>,
    path: &'u str,
    /// `host:path`: relative to the user's home there.
    short: bool,
}

impl<'u> SshUrl<'u> {
    pub(super) fn parse(url: &'u str) -> Option<Self> {
        if let Some(rest) = url.strip_prefix("ssh://").or_else(|| url.strip_prefix("git+ssh://")) {
            let (place, path) = rest.split_at(rest.find('/')?);
            let (user, host) =
                place.rsplit_once('@').map_or((None, place), |(user, host)| (Some(user), host));
            let (host, port) = match host.rsplit_once(':') {
                Some((host, port)) => (host, Some(port.parse().ok()?)),
                None => (host, None),
            };
            return Some(Self { user, host, port, path, short: false });
        }
        if url.contains("://") || url.starts_with(['/', '.']) {
            return None;
        }
        let (place, path) = url.split_once(':')?;
        let (user, host) = place.rsplit_once('@').map_or((None, place), |(user, host)| (Some(user), host));
        Some(Self { user, host, port: None, path, short: true })
    }

    /// How its host is reached, as a machine is.
    pub(super) fn reach(&self) -> Reach {
        let (host, user) = (self.host.to_owned(), self.user.map(str::to_owned));
        Reach::Ssh { host, port: self.port, user, identity: None }
    }

    /// As `ssh` would reach it.
    fn resolved(&self, settings: &Settings) -> String {
        let user = self.user.unwrap_or(&settings.user);
        match (self.short, settings.port) {
            (true, 22) => format!("{user}@{}:{}", settings.hostname, self.path),
            (true, port) if self.path.starts_with('/') => {
                format!("ssh://{user}@{}:{port}{}", settings.hostname, self.path)
            }
            (true, port) => format!("ssh://{user}@{}:{port}/~/{}", settings.hostname, self.path),
            (false, port) => format!("ssh://{user}@{}:{port}{}", settings.hostname, self.path),
        }
    }
}

/// How one connection is made, and what went wrong in a callback, which libgit2 would only blur.
struct Connection<'r> {
    remote: &'r Remote,
    url: String,
    ssh: Option<Settings>,
    refused: RefCell<Option<Failure>>,
    tried: RefCell<usize>,
}

impl Remote {
    pub(super) fn new(dir: &Path, url: &str, identities: Vec<PathBuf>) -> Self {
        Self { dir: dir.to_owned(), url: url.to_owned(), identities }
    }

    /// The commit that `reference` stands for now.
    pub(super) fn pin(&self, reference: Option<&str>) -> Result<String, Failure> {
        if let Some(commit) =
            reference.filter(|reference| Oid::from_str(reference).is_ok() && reference.len() == 40)
        {
            return Ok(commit.to_ascii_lowercase());
        }
        let connection = self.connection()?;
        let mut remote = git2::Remote::create_detached(connection.url.as_str())
            .map_err(|error| connection.failed(error))?;
        let mut no_progress = |_, _| {};
        let callbacks = connection.callbacks(&mut no_progress);
        let connected = remote.connect_auth(Direction::Fetch, Some(callbacks), None);
        let connected = connected.map_err(|error| connection.failed(error))?;
        let heads = connected.list().map_err(|error| connection.failed(error))?;
        let heads: Vec<_> =
            heads.iter().map(|head| (head.name().to_owned(), head.oid().to_string())).collect();
        choose(&self.url, &heads, reference)
    }

    /// Makes sure that the clone under `cache` has the commit; returns the clone.
    pub(super) fn fetch(
        &self,
        cache: &Path,
        commit: &str,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<PathBuf, Failure> {
        let path = cache.join(format!("{}.git", &sha256(self.url.as_bytes())[..16]));
        let cannot = |error: &dyn std::error::Error| {
            Failure::error(format!("cannot keep sources in {}", cache.display())).because(error)
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(cache)
            .map_err(|error| cannot(&error))?;
        // Two builds may come from one repository.
        let lock = std::fs::File::create(path.with_extension("lock")).map_err(|error| cannot(&error))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|error| cannot(&error))?;
        let repository = Repository::open_bare(&path)
            .or_else(|_| Repository::init_bare(&path))
            .map_err(|error| cannot(&error))?;
        let oid = Oid::from_str(commit).map_err(|error| cannot(&error))?;
        if repository.find_commit(oid).is_ok() {
            return Ok(path);
        }
        let connection = self.connection()?;
        let everything = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"];
        connection.fetch(&repository, &everything, progress)?;
        if repository.find_commit(oid).is_err() {
            // On no branch any more; many hosts still give it when asked by name.
            let exact = format!("{commit}:refs/nsd/{commit}");
            let asked = connection.fetch(&repository, &[&exact], progress);
            if asked.is_err() || repository.find_commit(oid).is_err() {
                return Err(Failure::error(format!(
                    "{} does not have the commit {commit} any more",
                    self.url
                ))
                .hint("compile the system again, so that it is pinned anew: `nsd sys compile TOPOLOGY`"));
            }
        }
        Ok(path)
    }

    fn connection(&self) -> Result<Connection<'_>, Failure> {
        // Paths count from the folder of system.toml, wherever nsd is called.
        let mut url = match self.url.starts_with('.') {
            true => self.dir.join(&self.url).display().to_string(),
            false => self.url.clone(),
        };
        let mut ssh = None;
        if let Some(parts) = SshUrl::parse(&self.url) {
            let settings = Settings::of(&self.dir, &self.url, &parts.reach())?;
            url = parts.resolved(&settings);
            ssh = Some(settings);
        }
        Ok(Connection { remote: self, url, ssh, refused: RefCell::new(None), tried: RefCell::new(0) })
    }
}

impl Connection<'_> {
    fn fetch(
        &self,
        repository: &Repository,
        refspecs: &[&str],
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), Failure> {
        self.tried.replace(0);
        let mut options = FetchOptions::new();
        options.remote_callbacks(self.callbacks(progress)).download_tags(AutotagOption::None);
        let mut remote = repository.remote_anonymous(&self.url).map_err(|error| self.failed(error))?;
        remote.fetch(refspecs, Some(&mut options), None).map_err(|error| self.failed(error))
    }

    fn callbacks<'c>(&'c self, progress: &'c mut dyn FnMut(u64, u64)) -> RemoteCallbacks<'c> {
        let mut callbacks = RemoteCallbacks::new();
        callbacks.credentials(|url, user, allowed| self.credentials(url, user, allowed));
        callbacks.certificate_check(|certificate, _host| {
            let Some(ssh) = &self.ssh else { return Ok(CertificateCheckStatus::CertificatePassthrough) };
            let key = certificate.as_hostkey().and_then(|hostkey| hostkey.hostkey());
            self.check_host_key(ssh, key.unwrap_or_default())
        });
        callbacks.transfer_progress(move |stats| {
            progress(stats.received_objects() as u64, stats.total_objects() as u64);
            true
        });
        callbacks
    }

    fn check_host_key(&self, ssh: &Settings, key: &[u8]) -> Result<CertificateCheckStatus, git2::Error> {
        let place = format!("{}:{}", ssh.hostname, ssh.port);
        let shown = fingerprint(key);
        let failure = match judge(&ssh.known_keys(), key) {
            Verdict::Known => return Ok(CertificateCheckStatus::CertificateOk),
            Verdict::Unknown => Failure::error(format!(
                "{}: the host key of {place} is not known here: {shown}",
                self.remote.url
            ))
            .hint("compare it with what the host publishes, and trust it: `nsd mach trust`"),
            Verdict::Changed { known } => Failure::error(format!(
                "{}: the host key of {place} has CHANGED: it shows {shown}, known is {}",
                self.remote.url,
                known.join(", ")
            ))
            .hint("somebody may be between you and the host; ask who runs it whether it was made anew")
            .hint("if it was: `nsd mach trust`"),
        };
        self.refused.replace(Some(failure));
        Err(git2::Error::new(ErrorCode::Certificate, ErrorClass::Ssh, "the host key is not trusted"))
    }

    /// libgit2 asks again after each refusal; each time it gets the next that we have.
    fn credentials(
        &self,
        url: &str,
        user: Option<&str>,
        allowed: CredentialType,
    ) -> Result<Cred, git2::Error> {
        let user = user.or(self.ssh.as_ref().map(|ssh| ssh.user.as_str())).unwrap_or("git");
        if allowed.contains(CredentialType::USERNAME) {
            return Cred::username(user);
        }
        let turn = self.tried.replace_with(|turn| *turn + 1);
        if allowed.contains(CredentialType::SSH_KEY) {
            let Some(key) = self.keys().into_iter().nth(turn) else { return Err(self.no_more()) };
            return match key {
                None => Cred::ssh_key_from_agent(user),
                Some(path) => Cred::ssh_key(user, None, &path, None),
            };
        }
        if allowed.contains(CredentialType::USER_PASS_PLAINTEXT) && turn == 0 {
            return Cred::credential_helper(&git2::Config::open_default()?, url, Some(user))
                .map_err(|_| self.no_more());
        }
        Err(self.no_more())
    }

    /// The system's keys, then the agent (`None`), then those of `ssh`'s configuration.
    fn keys(&self) -> Vec<Option<PathBuf>> {
        let agent = std::env::var_os("SSH_AUTH_SOCK").map(|_| None);
        let configured = self.ssh.iter().flat_map(|ssh| &ssh.identities).filter(|path| path.exists());
        let own = self.remote.identities.iter().filter(|path| path.exists());
        own.cloned().map(Some).chain(agent).chain(configured.cloned().map(Some)).collect()
    }

    fn no_more(&self) -> git2::Error {
        git2::Error::new(ErrorCode::Auth, ErrorClass::Callback, "no more keys to try")
    }

    fn failed(&self, error: git2::Error) -> Failure {
        if let Some(failure) = self.refused.take() {
            return failure;
        }
        let url = &self.remote.url;
        let text = error.message();
        let missing = [
            "not found",
            "does not appear to be a git repository",
            "does not exist",
            "early EOF",
            "Could not find repository",
        ];
        if error.code() == ErrorCode::Auth {
            let tried = self.keys().len();
            let failure = Failure::error(format!("{url}: no access: {tried} keys were tried"));
            return match &self.ssh {
                Some(ssh) => failure
                    .hint(format!("try by hand: `ssh -p {} {}@{}`", ssh.port, ssh.user, ssh.hostname))
                    .hint("add the system's public key, or a key of your agent, to the repository's host"),
                None => failure.hint("set up a git credential helper for this host, or use its SSH address"),
            };
        }
        if error.code() == ErrorCode::NotFound || missing.iter().any(|sign| text.contains(sign)) {
            return Failure::error(format!("{url}: there is no such repository, or it is hidden from you"))
                .because(&error);
        }
        Failure::error(format!("cannot ask {url}: {text}"))
            .hint("is the host's name right, and does it answer?")
    }
}

/// Finds a reference among what a remote has.
fn choose(url: &str, heads: &[(String, String)], reference: Option<&str>) -> Result<String, Failure> {
    let find = |name: &str| heads.iter().find(|(head, _)| head == name).map(|(_, oid)| oid.clone());
    let Some(reference) = reference else {
        return find("HEAD").ok_or_else(|| {
            Failure::error(format!("{url} has no HEAD"))
                .hint("it may be empty; or name a branch: `URL#BRANCH`")
        });
    };
    // An annotated tag is followed to its commit.
    let candidates = [
        format!("refs/heads/{reference}"),
        format!("refs/tags/{reference}^{{}}"),
        format!("refs/tags/{reference}"),
        reference.to_owned(),
    ];
    candidates.iter().find_map(|name| find(name)).ok_or_else(|| {
        let failure = Failure::error(format!("{url} has no branch or tag `{reference}`"));
        let near = near(heads, reference);
        if near.is_empty() { failure } else { failure.hint(format!("it has {}", near.join(", "))) }
    })
}

/// Names that may have been meant, the likeliest first.
fn near(heads: &[(String, String)], reference: &str) -> Vec<String> {
    const SHOWN: usize = 5;
    let short = |name: &str| {
        name.strip_prefix("refs/heads/").or_else(|| name.strip_prefix("refs/tags/")).map(str::to_owned)
    };
    let mut names: Vec<_> =
        heads.iter().filter_map(|(name, _)| short(name)).filter(|name| !name.ends_with("^{}")).collect();
    names.sort_by(|a, b| strsim::jaro(b, reference).total_cmp(&strsim::jaro(a, reference)));
    names.truncate(SHOWN);
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_addresses_are_taken_apart() {
        let parse = |url| SshUrl::parse(url).map(|u| (u.user, u.host, u.port, u.path, u.short));
        assert_eq!(parse("git@github.com:a/b.git"), Some((Some("git"), "github.com", None, "a/b.git", true)));
        assert_eq!(
            parse("ssh://git@h:2222/a/b.git"),
            Some((Some("git"), "h", Some(2222), "/a/b.git", false))
        );
        assert_eq!(parse("ssh://h/a"), Some((None, "h", None, "/a", false)));
        assert_eq!(parse("https://github.com/a/b.git"), None);
        assert_eq!(parse("/srv/git/a.git"), None);
        assert_eq!(parse("./a.git"), None);
    }

    #[test]
    fn references_are_chosen_or_near_names_are_told() {
        let heads: Vec<_> = [
            ("HEAD", "1"),
            ("refs/heads/master", "1"),
            ("refs/heads/feature", "2"),
            ("refs/tags/v1", "3"),
            ("refs/tags/v1^{}", "4"),
        ]
        .map(|(name, oid)| (name.to_owned(), oid.to_owned()))
        .to_vec();
        let choose = |reference| choose("url", &heads, reference);
        assert_eq!(choose(None).unwrap(), "1");
        assert_eq!(choose(Some("feature")).unwrap(), "2");
        assert_eq!(choose(Some("v1")).unwrap(), "4");
        let failure = choose(Some("mastr")).unwrap_err();
        assert_eq!(failure.message, "url has no branch or tag `mastr`");
        assert!(failure.hints[0].starts_with("it has master"), "{failure:?}");
    }
}
