//! A home of its own for each test: nothing of the user's is read, nothing outside is written.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

pub(crate) struct Home {
    root: TempDir,
    /// Takes the place of [`crate::history::ID`]: the lock of a system is this machine's, not this home's.
    id: String,
    env: BTreeMap<String, String>,
}

/// What a run of `nsd` left.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Home {
    pub(crate) fn new() -> Self {
        // Outside of any git repository, so that histories of tests stay in them.
        let root = TempDir::new().unwrap();
        let home = Self { root, id: uuid::Uuid::new_v4().to_string(), env: BTreeMap::new() };
        std::fs::create_dir_all(home.path(".config")).unwrap();
        std::fs::write(home.path(".gitconfig"), "[user]\n\tname = Ada\n\temail = ada@example.org\n").unwrap();
        home
    }

    /// With the servers that come with nsd beside it.
    pub(crate) fn with_servers() -> Self {
        let mut home = Self::new();
        home.set("NSD_BUNDLED_DIR", &servers().display().to_string());
        home
    }

    pub(crate) fn set(&mut self, variable: &str, value: &str) {
        self.env.insert(variable.to_owned(), value.to_owned());
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    pub(crate) fn write(&self, below: &str, text: &str) {
        let path = self.path(below);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A folder `sample` with this system file, in a git repository.
    pub(crate) fn sample(&self, text: &str) {
        self.write("sample/system.toml", &text.replace(crate::history::ID, &self.id));
        if !self.path("sample/.git").exists() {
            git2::Repository::init(self.path("sample")).unwrap();
        }
    }

    pub(crate) fn command(&self, dir: &str, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nsd"));
        command
            .args(shlex::split(line).unwrap())
            .current_dir(self.path(dir))
            .env_clear()
            .env("HOME", self.root.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("USER", "ada")
            .env("TZ", "UTC")
            .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
            .envs(&self.env)
            .stdin(Stdio::null());
        command
    }

    /// Runs `nsd` in a folder of this home.
    pub(crate) fn nsd(&self, dir: &str, line: &str) -> Ran {
        self.command(dir, line).output().unwrap().into()
    }

    /// As [`Self::nsd`], and it must succeed.
    pub(crate) fn ok(&self, dir: &str, line: &str) -> Ran {
        let ran = self.nsd(dir, line);
        assert_eq!(ran.code, 0, "nsd {line}\n{}", ran.all());
        ran
    }

    pub(crate) fn start(&self, dir: &str, line: &str) -> Child {
        self.command(dir, line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// A whole run as text: exit code, stdout, stderr; with ids, times and paths made the same for every run.
    pub(crate) fn shown(&self, dir: &str, line: &str) -> String {
        self.normal(&self.nsd(dir, line).all())
    }

    /// Several runs one after another, each under its command line.
    pub(crate) fn all_shown(&self, dir: &str, lines: &[&str]) -> String {
        lines.iter().map(|line| format!("$ nsd {line}\n{}\n", self.shown(dir, line))).collect()
    }

    pub(crate) fn normal(&self, text: &str) -> String {
        let real = std::fs::canonicalize(self.root.path()).unwrap();
        text.replace(&real.display().to_string(), "HOME")
            .replace(&self.root.path().display().to_string(), "HOME")
    }
}

impl Ran {
    pub(crate) fn all(&self) -> String {
        let mut text = format!("exit {}\n", self.code);
        for (name, stream) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !stream.is_empty() {
                let _ = write!(text, "-- {name}\n{stream}");
            }
        }
        text
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.all()))
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Compares a text with the one kept under this name; what differs from run to run is filtered out.
macro_rules! same {
    ($name:expr, $text:expr) => {
        insta::with_settings!({ filters => crate::support::filters(), omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!($name, $text)
        })
    };
}
pub(crate) use same;

pub(crate) fn filters() -> Vec<(&'static str, &'static str)> {
    vec![
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UUID"),
        (r"\b[0-9a-f]{40}\b", "COMMIT"),
        (r"\b[0-9a-f]{10}\b", "SHORT"),
        (r"\.[0-9a-f]{8}\b", ".SPEC"),
        (r"\b\d+\.\d GB\b", "SPACE"),
        (r"\b(amd64|arm64)\b", "ARCH"),
        (r"AAAA[A-Za-z0-9+/=]+", "KEY"),
        (r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?Z?", "TIME"),
        (r"\b\d+\.\d s\b", "SECONDS"),
        (r"(?m)^ *\d+\.\d\d ", "AT "),
    ]
}

/// The folder with `nsd-broker` and `nsd-balancer`, built as this test was and as new as their sources.
pub(crate) fn servers() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_BIN_EXE_nsd")).parent().unwrap();
        let target = folder.ancestors().nth(2).unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["build", "--quiet", "-p", "nsd-broker", "-p", "nsd-balancer", "--bins"])
            .env("CARGO_TARGET_DIR", target);
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
        assert!(built.success(), "the servers must build");
        folder.to_owned()
    })
}

/// Waits until `done` says so; fails after `seconds` with `what`.
pub(crate) fn eventually<T>(seconds: u64, what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    loop {
        if let Some(answer) = done() {
            return answer;
        }
        assert!(std::time::Instant::now() < end, "not within {seconds} s: {what}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
