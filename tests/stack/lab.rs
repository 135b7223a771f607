//! The lab of machines that `tests/lab/up.sh` made, as these tests use it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde::Deserialize;

#[derive(Deserialize)]
pub(crate) struct Lab {
    pub(crate) dir: PathBuf,
    pub(crate) scripts: PathBuf,
    pub(crate) identity: PathBuf,
    pub(crate) registry: Registry,
    pub(crate) git: GitHost,
    pub(crate) machines: Vec<Machine>,
    /// One test at a time owns the machines.
    #[serde(skip)]
    _lock: Option<File>,
}

#[derive(Deserialize)]
pub(crate) struct Registry {
    pub(crate) address: String,
}

#[derive(Deserialize)]
pub(crate) struct GitHost {
    pub(crate) url: String,
}

#[derive(Deserialize)]
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) address: String,
}

impl Lab {
    /// Takes the lab for this test: all machines up, linked and empty.
    pub(crate) fn take(machines: usize) -> Self {
        let path = std::env::var("NSD_LAB_JSON").expect(
            "these tests need a lab of machines: run ./tests/run.sh, or tests/lab/up.sh 6 and set NSD_LAB_JSON to its lab.json",
        );
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let described: Self = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
        let lock =
            File::create(described.dir.join("tests.lock")).expect("the lab's folder takes a lock file");
        lock.lock().expect("the lab's lock can be waited for");
        // Another test may have restarted machines since: read again what they are now.
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut lab: Self = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
        lab._lock = Some(lock);
        assert!(
            lab.machines.len() >= machines,
            "this test needs a lab of {machines} machines, this one has {}: tests/lab/up.sh {machines}",
            lab.machines.len()
        );
        lab.machines.truncate(machines);
        for machine in &lab.machines {
            lab.exec(
                &machine.name,
                "docker ps -aq | xargs -r docker rm -f >/dev/null; docker volume ls -q | xargs -r docker volume rm -f >/dev/null",
            );
        }
        lab
    }

    pub(crate) fn address(&self, machine: &str) -> &str {
        let found = self.machines.iter().find(|candidate| candidate.name == machine);
        &found.unwrap_or_else(|| panic!("the lab has no {machine}")).address
    }

    /// `tests/lab/machine.sh VERB MACHINE …`, which must succeed.
    pub(crate) fn machine(&self, words: &[&str]) -> String {
        let output = self.try_machine(words);
        assert!(output.status.success(), "machine.sh {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(crate) fn try_machine(&self, words: &[&str]) -> Output {
        let name = self.dir.file_name().expect("a lab's folder has the lab's name");
        Command::new(self.scripts.join("machine.sh"))
            .args(words)
            .env("NSD_LAB", name)
            .env("NSD_LAB_DIR", self.dir.parent().unwrap_or(Path::new("/")))
            .output()
            .expect("machine.sh can be run")
    }

    /// A shell line on a machine.
    pub(crate) fn exec(&self, machine: &str, line: &str) -> String {
        self.machine(&["exec", machine, "sh", "-c", line])
    }
}
