//! One SSH connection to a machine: the user's own `ssh` with its config, agent and jump hosts, multiplexed.
//!
//! Everything goes over this connection: the forwarded Docker socket, streams to ports, the lock's shell. Errors name
//! the machine, the stage that failed and the fix.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openssh::{ControlPersist, ForwardType, KnownHosts, Session, SessionBuilder, Stdio};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::known_hosts::{self, HostKey};
use crate::failure::{Failure, Kind};
use crate::system::{Machine, MachineName, Reach};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A dead link is noticed after three of these.
const ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// The lock is taken or refused at once; a shell that says nothing for so long is stuck.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the master outlives a killed `nsd`; while `nsd` runs, `anchor` keeps it.
const PERSIST_SECONDS: usize = 5;

/// A connection to one machine. Dropped, the connection and the files that belong to it are gone.
pub(crate) struct Link {
    name: MachineName,
    session: Arc<Session>,
    /// An open client of the master: it stays for as long as we live, and no longer.
    _anchor: UnixStream,
    /// Local sockets by port of the machine.
    forwards: Mutex<BTreeMap<(String, u16), PathBuf>>,
    /// 0700; holds the control socket and the forwarded ones.
    folder: TempDir,
}

/// Where a machine is and who we are there.
struct Target<'m> {
    host: &'m str,
    port: Option<u16>,
    user: Option<&'m str>,
    identity: Option<PathBuf>,
}

impl<'m> Target<'m> {
    /// `name` is what the host is called in messages.
    fn of(dir: &Path, name: &dyn Display, reach: &'m Reach) -> Result<Self, Failure> {
        let Reach::Ssh { host, port, user, identity } = reach else {
            return Err(Failure::error(format!("{name} is this machine; it is not reached by SSH")));
        };
        // A name that starts with a dash would be taken for an option.
        if host.is_empty() || host.starts_with('-') || user.as_ref().is_some_and(|user| user.starts_with('-'))
        {
            return Err(Failure::new(Kind::System, format!("{name}: `{host}` is not the name of a host")));
        }
        let identity = identity.as_ref().map(|identity| dir.join(identity));
        Ok(Self { host, port: *port, user: user.as_deref(), identity })
    }

    /// The options that every `ssh` of ours gets for this machine.
    fn options(&self) -> Vec<String> {
        let mut options = Vec::new();
        if let Some(config) = std::env::var_os("NSD_SSH_CONFIG") {
            options.extend(["-F".into(), config.to_string_lossy().into_owned()]);
        }
        if let Some(port) = self.port {
            options.extend(["-p".into(), port.to_string()]);
        }
        if let Some(user) = self.user {
            options.extend(["-l".into(), user.to_owned()]);
        }
        options
    }
}

/// What `ssh` itself makes of a host: its config files are read by nobody but `ssh`.
pub(crate) struct Settings {
    pub(crate) hostname: String,
    pub(crate) port: u16,
    pub(crate) user: String,
    alias: Option<String>,
    proxied: bool,
    known_hosts: Vec<PathBuf>,
    pub(crate) identities: Vec<PathBuf>,
}

impl Settings {
    /// Those of a host that is reached by SSH, called `name` in messages. `dir` is the folder of `system.toml`, whose
    /// `known_hosts` comes first.
    pub(crate) fn of(dir: &Path, name: &dyn Display, reach: &Reach) -> Result<Self, Failure> {
        let target = Target::of(dir, name, reach)?;
        Self::ask(dir, &target.options(), target.host)
    }

    /// Asks `ssh -G`.
    fn ask(dir: &Path, options: &[String], host: &str) -> Result<Self, Failure> {
        let output = std::process::Command::new("ssh").arg("-G").args(options).arg(host).output().map_err(
            |error| {
                Failure::error("cannot run `ssh`")
                    .because(&error)
                    .hint("install the OpenSSH client: `apt-get install openssh-client`")
            },
        )?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Failure::error(format!("`ssh` does not accept the settings for {host}: {why}")));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.split_once(' ').filter(|(name, _)| *name == key))
                .map(|(_, value)| value)
        };
        let home = std::env::home_dir().unwrap_or_default();
        let path = |text: &str| match text.strip_prefix("~/") {
            Some(rest) => home.join(rest),
            None => PathBuf::from(text),
        };
        let mut known_hosts = vec![dir.join("known_hosts")];
        for key in ["userknownhostsfile", "globalknownhostsfile"] {
            known_hosts.extend(value(key).unwrap_or_default().split_ascii_whitespace().map(path));
        }
        let set = |key| value(key).filter(|value| *value != "none").is_some();
        Ok(Self {
            hostname: value("hostname").unwrap_or(host).to_owned(),
            port: value("port").and_then(|port| port.parse().ok()).unwrap_or(22),
            user: value("user").unwrap_or_default().to_owned(),
            alias: value("hostkeyalias").filter(|alias| *alias != "none").map(str::to_owned),
            proxied: set("proxyjump") || set("proxycommand"),
            known_hosts,
            identities: text
                .lines()
                .filter_map(|line| line.strip_prefix("identityfile "))
                .map(path)
                .collect(),
        })
    }

    /// The name under which the host's keys are kept.
    fn lookup_name(&self) -> String {
        match &self.alias {
            Some(alias) => alias.clone(),
            None => known_hosts::lookup_name(&self.hostname, self.port),
        }
    }

    pub(crate) fn known_keys(&self) -> Vec<HostKey> {
        known_hosts::find(&self.known_hosts, &self.lookup_name())
    }

    /// As the value of `UserKnownHostsFile`.
    fn known_hosts_option(&self) -> String {
        let quoted = self.known_hosts.iter().map(|file| format!("\"{}\"", file.display()));
        quoted.collect::<Vec<_>>().join(" ")
    }
}

impl Link {
    pub(super) async fn connect(dir: &Path, name: &MachineName, reach: &Reach) -> Result<Self, Failure> {
        let target = Target::of(dir, name, reach)?;
        if let Some(identity) = target.identity.as_ref().filter(|identity| !identity.exists()) {
            return Err(unreachable(name, "auth", format!("the key {} does not exist", identity.display()))
                .hint(format!("make it and install it there: `nsd mach key --install {name}`")));
        }
        let settings = Settings::ask(dir, &target.options(), target.host)?;
        let folder = short_folder()
            .map_err(|error| Failure::error("cannot make a temporary folder").because(&error))?;
        let mut builder = SessionBuilder::default();
        builder
            .known_hosts_check(KnownHosts::Strict)
            .user_known_hosts_file(settings.known_hosts_option())
            .control_directory(folder.path())
            .control_persist(persist())
            .connect_timeout(CONNECT_TIMEOUT)
            .server_alive_interval(ALIVE_INTERVAL);
        if let Some(user) = target.user {
            builder.user(user.to_owned());
        }
        if let Some(port) = target.port {
            builder.port(port);
        }
        if let Some(identity) = &target.identity {
            builder.keyfile(identity);
        }
        if let Some(config) = std::env::var_os("NSD_SSH_CONFIG") {
            builder.config_file(PathBuf::from(config));
        }
        let session = connect_patiently(&builder, target.host)
            .await
            .map_err(|error| diagnose(name, &target, &settings, &error))?;
        let anchor = UnixStream::connect(session.control_socket()).await.map_err(|error| {
            unreachable(name, "ssh", "the connection ended at once".into()).because(&error)
        })?;
        let forwards = Mutex::new(BTreeMap::new());
        Ok(Self { name: name.clone(), session: Arc::new(session), _anchor: anchor, forwards, folder })
    }

    pub(crate) fn name(&self) -> &MachineName {
        &self.name
    }

    /// A local socket that leads to a Unix socket of the machine.
    pub(super) async fn forward_socket(&self, there: &str) -> Result<PathBuf, Failure> {
        let here = self.folder.path().join("docker");
        let listen = openssh::Socket::UnixSocket { path: here.clone().into() };
        let connect = openssh::Socket::UnixSocket { path: Path::new(there).into() };
        self.session.request_port_forward(ForwardType::Local, listen, connect).await.map_err(|error| {
            unreachable(&self.name, "docker", format!("cannot forward {there}")).because(&error)
        })?;
        Ok(here)
    }

    /// A stream to a port of the machine. A port that nothing listens on shows as an early end of the stream.
    pub(crate) async fn stream(&self, host: &str, port: u16) -> Result<UnixStream, Failure> {
        let failed = |error: &dyn std::error::Error| {
            unreachable(&self.name, "ssh", format!("cannot reach {host}:{port} there")).because(error)
        };
        let key = (host.to_owned(), port);
        let mut forwards = self.forwards.lock().await;
        if !forwards.contains_key(&key) {
            let here = self.folder.path().join(format!("p{}", forwards.len()));
            let listen = openssh::Socket::UnixSocket { path: here.clone().into() };
            let connect = openssh::Socket::new(host, port);
            self.session
                .request_port_forward(ForwardType::Local, listen, connect)
                .await
                .map_err(|error| failed(&error))?;
            forwards.insert(key.clone(), here);
        }
        let here = forwards[&key].clone();
        drop(forwards);
        UnixStream::connect(&here).await.map_err(|error| failed(&error))
    }

    /// Runs a script by `sh` and returns its output. `input` is what it reads.
    pub(crate) async fn script(&self, script: &str, input: &str) -> Result<String, Failure> {
        let failed = |error: &dyn std::error::Error| {
            Failure::error(format!("{}: cannot run a command over SSH", self.name)).because(error)
        };
        let mut shell = self.session.shell(script);
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = shell.spawn().await.map_err(|error| failed(&error))?;
        if let Some(mut stdin) = child.stdin().take() {
            stdin.write_all(input.as_bytes()).await.map_err(|error| failed(&error))?;
        }
        let output = child.wait_with_output().await.map_err(|error| failed(&error))?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Failure::error(format!("{}: a command over SSH failed: {why}", self.name)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Takes the lock of the system `id` on this machine. See [`crate::apply::lock`].
    pub(crate) async fn lock(&self, id: Uuid, note: &str) -> Result<RemoteLock, Failure> {
        let failed = |error: &dyn std::error::Error| {
            Failure::error(format!("cannot lock {}", self.name)).because(error)
        };
        let mut shell = Arc::clone(&self.session).arc_command("sh");
        shell.arg("-c").arg(LOCK_SCRIPT).arg("nsd-lock").arg(id.to_string()).arg(note);
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = shell.spawn().await.map_err(|error| failed(&error))?;
        let stdout = child.stdout().take().ok_or_else(|| Failure::error("the lock has no output"))?;
        let mut answer = BufReader::new(stdout);
        let mut first = String::new();
        let line = tokio::time::timeout(LOCK_TIMEOUT, answer.read_line(&mut first)).await;
        line.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(|error| failed(&error))?;
        match first.trim() {
            "locked" => Ok(RemoteLock { name: self.name.clone(), child }),
            "held" => {
                let mut holder = String::new();
                answer.read_to_string(&mut holder).await.map_err(|error| failed(&error))?;
                Err(crate::apply::locked(self.name.as_str(), &holder))
            }
            _ => {
                let output = child.wait_with_output().await.map_err(|error| failed(&error))?;
                let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                Err(Failure::error(format!("cannot lock {}: {why}", self.name))
                    .hint("the machine needs `flock` (package util-linux) and a writable /run/lock or /tmp"))
            }
        }
    }

    /// Why the machine's Docker socket does not answer.
    pub(super) async fn why_no_docker(&self) -> Failure {
        let name = &self.name;
        let word = self.script(DOCKER_SCRIPT, "").await.unwrap_or_default();
        match word.trim() {
            "denied" => unreachable(name, "docker", "the user may not use Docker there".into())
                .hint(format!("on {name}, as root: `usermod -aG docker USER`, or reach it as another user")),
            "stopped" => unreachable(name, "docker", "Docker is installed there but does not run".into())
                .hint(format!("on {name}: `systemctl enable --now docker`")),
            "absent" => unreachable(name, "docker", "there is no Docker".into())
                .hint(format!("on {name}: `apt-get install docker.io` (or https://docs.docker.com/engine/install/)")),
            _ => unreachable(name, "docker", "the Docker socket is there but does not answer through SSH".into())
                .hint(format!("on {name}: sshd must allow it (`AllowStreamLocalForwarding yes`), and `docker info` must work")),
        }
    }
}

/// `$1` is the system's id, `$2` says who we are. Afterwards it reads lines for the audit log until its input ends.
const LOCK_SCRIPT: &str = r#"
d=/run/lock; { [ -d "$d" ] && [ -w "$d" ]; } || d=/tmp
f="$d/nsd-$1.lock"
umask 077
exec 9<>"$f" || exit 1
if ! flock -n 9; then
  [ $? -eq 127 ] && exit 1
  command -v flock >/dev/null || exit 1
  echo held; cat "$f"; exit 75
fi
printf '%s\n' "$2" >"$f"
echo locked
l=/var/log/nsd.log; [ -w /var/log ] || l="$HOME/.nsd.log"
cat >>"$l"
: >"$f"
"#;

const DOCKER_SCRIPT: &str = "s=/var/run/docker.sock
if [ -S $s ]; then if [ -w $s ]; then echo silent; else echo denied; fi
elif command -v dockerd >/dev/null || [ -x /usr/sbin/dockerd ] || [ -x /usr/bin/dockerd ]; then echo stopped
else echo absent; fi";

/// A lock on one machine: held while its shell has our channel as input.
pub(crate) struct RemoteLock {
    name: MachineName,
    child: openssh::Child<Arc<Session>>,
}

impl RemoteLock {
    /// Writes the line into the machine's audit log and frees the lock.
    pub(crate) async fn finish(mut self, line: &str) -> Result<(), Failure> {
        let failed = |error: &dyn std::error::Error| {
            Failure::error(format!("{}: cannot write the audit log", self.name)).because(error)
        };
        if let Some(mut stdin) = self.child.stdin().take() {
            stdin.write_all(line.as_bytes()).await.map_err(|error| failed(&error))?;
        }
        let status = self.child.wait().await.map_err(|error| failed(&error))?;
        if status.success() {
            Ok(())
        } else {
            Err(Failure::error(format!("{}: cannot write the audit log", self.name)))
        }
    }
}

/// Fetches the keys that a host, called `name` in messages, shows now. They are trusted by nobody before [`remember`].
pub async fn trust(dir: &Path, name: &dyn Display, reach: &Reach) -> Result<Vec<HostKey>, Failure> {
    let target = Target::of(dir, name, reach)?;
    let settings = Settings::ask(dir, &target.options(), target.host)?;
    if settings.proxied {
        return Err(Failure::error(format!(
            "{name} stands behind a jump host, where its keys cannot be fetched from here"
        ))
        .hint(format!("connect once by hand and check the fingerprint: `ssh {}`", target.host)));
    }
    let output = tokio::process::Command::new("ssh-keyscan")
        .args(["-T", "10", "-p", &settings.port.to_string(), "--", &settings.hostname])
        .output()
        .await
        .map_err(|error| {
            Failure::error("cannot run `ssh-keyscan`").because(&error).hint("install the OpenSSH client")
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut keys: Vec<_> = text.lines().filter_map(HostKey::parse).collect();
    for key in &mut keys {
        key.host = settings.lookup_name();
    }
    keys.sort_by(|a, b| a.kind.cmp(&b.kind));
    if keys.is_empty() {
        let why = String::from_utf8_lossy(&output.stderr)
            .lines()
            .filter(|line| !line.starts_with('#'))
            .collect::<Vec<_>>()
            .join("; ");
        return Err(unreachable(
            name,
            "tcp",
            format!("no SSH server answers at {}:{}", settings.hostname, settings.port),
        )
        .hint(if why.is_empty() { "is it up, and the port right?".to_owned() } else { why }));
    }
    Ok(keys)
}

/// Which of a host's keys are known already, to say whether they are new or changed.
pub fn known(dir: &Path, name: &dyn Display, reach: &Reach) -> Result<Vec<HostKey>, Failure> {
    Ok(Settings::of(dir, name, reach)?.known_keys())
}

/// Writes keys that a person has accepted into `known_hosts` beside `system.toml`.
pub fn remember(dir: &Path, keys: &[HostKey]) -> Result<(), Failure> {
    let file = dir.join("known_hosts");
    known_hosts::replace(&file, keys)
        .map_err(|error| Failure::error(format!("cannot write {}", file.display())).because(&error))
}

/// Appends a public key to the machine's `authorized_keys`, once. It connects as the user would (agent, config, a
/// password asked on the terminal), for the key itself does not open the door yet. True: it was not there before.
pub async fn install_key(
    dir: &Path,
    name: &MachineName,
    machine: &Machine,
    public: &str,
) -> Result<bool, Failure> {
    let target = Target::of(dir, name, &machine.reach)?;
    let settings = Settings::ask(dir, &target.options(), target.host)?;
    let failed = |error: &dyn std::error::Error| {
        Failure::error(format!("cannot install the key on {name}")).because(error)
    };
    let mut ssh = tokio::process::Command::new("ssh");
    ssh.args(target.options())
        .args([
            "-o",
            "StrictHostKeyChecking=yes",
            "-o",
            &format!("UserKnownHostsFile={}", settings.known_hosts_option()),
        ])
        .args(["-o", &format!("ConnectTimeout={}", CONNECT_TIMEOUT.as_secs())]);
    if let Some(identity) = target.identity.as_ref().filter(|identity| identity.exists()) {
        ssh.arg("-i").arg(identity);
    }
    ssh.arg("--").arg(target.host).arg(INSTALL_SCRIPT);
    ssh.stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut child = ssh.spawn().map_err(|error| failed(&error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // When ssh has given up already, its error text tells more than this one.
        let _ = stdin.write_all(format!("{}\n", public.trim()).as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(|error| failed(&error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim() == "added");
    }
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(diagnose_text(name, &target, &settings, &why))
}

const INSTALL_SCRIPT: &str = r#"umask 077; mkdir -p ~/.ssh && IFS= read -r k && f=~/.ssh/authorized_keys && touch "$f" || exit 1
if grep -qxF -e "$k" "$f"; then echo there; else
  [ -z "$(tail -c 1 "$f")" ] || echo >>"$f"
  printf '%s\n' "$k" >>"$f" && echo added
fi"#;

/// A server that gets more connections at once than its `MaxStartups` hangs up on some before they say a word; those
/// come again, not all in the same moment.
async fn connect_patiently(builder: &SessionBuilder, host: &str) -> Result<Session, openssh::Error> {
    const TRIES: u64 = 4;
    for turn in 1..TRIES {
        match builder.connect_mux(host).await {
            Err(openssh::Error::Connect(error))
                if error.to_string().contains("kex_exchange_identification") =>
            {
                let (spread, _) = Uuid::new_v4().as_u64_pair();
                tokio::time::sleep(Duration::from_millis(turn * 200 + spread % 400)).await;
            }
            other => return other,
        }
    }
    builder.connect_mux(host).await
}

fn unreachable(name: &dyn Display, stage: &str, what: String) -> Failure {
    Failure::new(Kind::Unreachable, format!("{name} ({stage}): {what}"))
}

fn diagnose(name: &MachineName, target: &Target<'_>, settings: &Settings, error: &openssh::Error) -> Failure {
    match error {
        openssh::Error::Connect(io) if io.kind() == std::io::ErrorKind::NotFound => {
            Failure::error("cannot run `ssh`")
                .because(io)
                .hint("install the OpenSSH client: `apt-get install openssh-client`")
        }
        openssh::Error::Connect(io) => diagnose_text(name, target, settings, &io.to_string()),
        other => unreachable(name, "ssh", "the connection failed".into()).because(other),
    }
}

/// From what `ssh` printed to the stage that failed and the fix.
fn diagnose_text(name: &MachineName, target: &Target<'_>, settings: &Settings, text: &str) -> Failure {
    let place = format!("{}:{}", settings.hostname, settings.port);
    let last =
        text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("no reason given").to_owned();
    if text.contains("Could not resolve hostname") {
        unreachable(name, "dns", format!("the name `{}` is not known", settings.hostname))
            .hint(format!("check the address of {name} in system.toml, and the network here"))
    } else if text.contains("IDENTIFICATION HAS CHANGED") || text.contains("REVOKED") {
        let shown = text
            .split_ascii_whitespace()
            .find(|word| word.starts_with("SHA256:"))
            .unwrap_or("unknown")
            .trim_end_matches('.');
        let known: Vec<_> = settings.known_keys().iter().map(HostKey::fingerprint).collect();
        unreachable(
            name,
            "hostkey",
            format!("the host key of {place} has CHANGED: it shows {shown}, known is {}", known.join(", ")),
        )
        .hint("somebody may be between you and the machine; ask who runs it whether it was made anew")
        .hint(format!("if it was: `nsd mach trust {name}`"))
    } else if text.contains("Host key verification failed") || text.contains("host key is known") {
        unreachable(name, "hostkey", format!("the host key of {place} is not known here"))
            .hint(format!("look at it and trust it: `nsd mach trust {name}`"))
    } else if text.contains("Permission denied") || text.contains("Too many authentication failures") {
        let user = target.user.map_or_else(String::new, |user| format!(" for {user}"));
        let key = target
            .identity
            .as_ref()
            .map_or_else(|| "no key of yours".into(), |key| format!("{} not", key.display()));
        unreachable(name, "auth", format!("{place} accepts {key}{user}"))
            .hint(format!("install the system's key there: `nsd mach key --install {name}`"))
    } else if ["refused", "timed out", "No route", "unreachable"].iter().any(|sign| text.contains(sign)) {
        unreachable(name, "tcp", format!("{place} does not answer: {last}"))
            .hint("is the machine up, its address right, and SSH open in its firewall?")
    } else {
        unreachable(name, "ssh", format!("{place}: {last}"))
            .hint(format!("try by hand: `ssh -v {}`", target.host))
    }
}

fn persist() -> ControlPersist {
    std::num::NonZeroUsize::new(PERSIST_SECONDS)
        .map_or(ControlPersist::ClosedAfterInitialConnection, ControlPersist::IdleFor)
}

/// A folder of our own, with a path short enough for the sockets in it (the limit is 108 bytes).
fn short_folder() -> std::io::Result<TempDir> {
    let mut folder = tempfile::Builder::new();
    folder.prefix("nsd-");
    let usual = std::env::temp_dir();
    if usual.as_os_str().len() <= 40 { folder.tempdir_in(usual) } else { folder.tempdir_in("/tmp") }
}
