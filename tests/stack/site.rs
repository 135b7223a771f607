//! A management machine in a folder: a home of its own, a system, and the real `nsd`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::lab::Lab;

pub(crate) struct Site {
    /// `nsd` runs here; holds `system.toml`.
    pub(crate) folder: PathBuf,
    home: PathBuf,
    _root: TempDir,
}

/// What one `nsd` said and how it ended.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Site {
    /// An empty folder with the lab's identity as `lab-key` in it.
    pub(crate) fn new(lab: &Lab) -> Self {
        let site = Self::without_key();
        fs::copy(&lab.identity, site.folder.join("lab-key")).expect("the lab's key can be copied");
        site
    }

    /// An empty folder, and a person who has logged in.
    pub(crate) fn without_key() -> Self {
        let root = TempDir::new().expect("a temporary folder can be made");
        let (folder, home) = (root.path().join("system"), root.path().join("home"));
        fs::create_dir_all(&folder).expect("the folder can be made");
        fs::create_dir_all(&home).expect("the home can be made");
        let site = Self { folder, home, _root: root };
        site.ok(&["login", "--name", "Ada Tester", "--email", "ada@example.org"]);
        site
    }

    pub(crate) fn write(&self, system: &str) {
        fs::write(self.folder.join("system.toml"), system).expect("system.toml can be written");
    }

    pub(crate) fn read(&self) -> String {
        fs::read_to_string(self.folder.join("system.toml")).expect("system.toml can be read")
    }

    /// One edit of `system.toml`; what is replaced must be there.
    pub(crate) fn edit(&self, from: &str, to: &str) {
        let text = self.read();
        assert!(text.contains(from), "system.toml does not contain {from:?}:\n{text}");
        self.write(&text.replace(from, to));
    }

    pub(crate) fn nsd(&self, words: &[&str]) -> Said {
        Self::hear(words, self.command(words))
    }

    /// As somebody whose SSH settings know another key, which opens the machines already.
    pub(crate) fn ok_with_key(&self, identity: &Path, words: &[&str]) {
        let settings = self.home.join("ssh_config");
        let text = format!("IdentityFile {}\nIdentitiesOnly yes\n", identity.display());
        fs::write(&settings, text).expect("SSH settings can be written");
        let mut command = self.command(words);
        command.env("NSD_SSH_CONFIG", settings);
        let said = Self::hear(words, command);
        assert_eq!(said.code, 0, "nsd {words:?} failed:\n{}{}", said.stdout, said.stderr);
    }

    fn hear(words: &[&str], mut command: Command) -> Said {
        let started = Instant::now();
        let output = command.output().expect("nsd can be run");
        let said = Said {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: started.elapsed(),
        };
        println!(
            "$ nsd {}   [{} in {:.2?}]\n{}{}",
            words.join(" "),
            said.code,
            said.took,
            said.stdout,
            said.stderr
        );
        said
    }

    /// Must end with 0.
    pub(crate) fn ok(&self, words: &[&str]) -> Said {
        let said = self.nsd(words);
        assert_eq!(said.code, 0, "nsd {words:?} failed:\n{}{}", said.stdout, said.stderr);
        said
    }

    /// Must end with this code, and say this on stderr.
    pub(crate) fn fails(&self, words: &[&str], code: i32, expected: &[&str]) -> Said {
        let said = self.nsd(words);
        assert_eq!(said.code, code, "nsd {words:?}:\n{}{}", said.stdout, said.stderr);
        for text in expected {
            assert!(said.stderr.contains(text), "nsd {words:?} should say {text:?}:\n{}", said.stderr);
        }
        said
    }

    pub(crate) fn json(&self, words: &[&str]) -> serde_json::Value {
        let said = self.ok(words);
        serde_json::from_str(&said.stdout)
            .unwrap_or_else(|error| panic!("nsd {words:?} printed no JSON: {error}\n{}", said.stdout))
    }

    /// Runs on while the test goes on.
    pub(crate) fn start(&self, words: &[&str]) -> Child {
        self.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("nsd can be started")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nsd"));
        command.args(words).current_dir(&self.folder).env_clear().stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", &self.home);
        command.env("NSD_BUNDLED_DIR", bundled());
        command
    }
}

/// Folder of `nsd-broker` and `nsd-balancer`: beside our own binary. `cargo test` of one package does not build the others.
pub(crate) fn bundled() -> PathBuf {
    let folder =
        Path::new(env!("CARGO_BIN_EXE_nsd")).parent().expect("a binary stands in a folder").to_owned();
    for program in ["nsd-broker", "nsd-balancer"] {
        assert!(folder.join(program).exists(), "{program} is not built: run `cargo build --workspace` first");
    }
    folder
}
