//! A double of an engine for tests of the runner: containers in memory, and a failure at the call that is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::engine::{ExecIo, LogLine, LogOptions, Order, PutFile, Status};
use crate::failure::Failure;
use crate::plan::{ContainerName, RunState, Surveyed};
use crate::report::Reporter;
use crate::system::System;

#[derive(Default)]
pub(crate) struct Scripted {
    world: Mutex<World>,
}

#[derive(Default)]
struct World {
    containers: BTreeMap<String, Made>,
    calls: usize,
    /// The calls with these numbers fail; calls count from 0.
    fail_at: BTreeSet<usize>,
    failed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) runs: bool,
    pub(crate) files: BTreeMap<String, String>,
}

impl Scripted {
    pub(crate) fn fail_at(&self, call: Option<usize>) {
        let mut world = self.world.lock();
        (world.calls, world.fail_at, world.failed) = (0, call.into_iter().collect(), false);
    }

    pub(crate) fn fail_also_at(&self, call: usize) {
        self.world.lock().fail_at.insert(call);
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.world.lock().failed
    }

    pub(crate) fn containers(&self) -> BTreeMap<String, Made> {
        self.world.lock().containers.clone()
    }

    pub(crate) fn put(&self, name: &str, made: Made) {
        self.world.lock().containers.insert(name.to_owned(), made);
    }

    /// Counts the call. A call that fails may have had its effect (`half`), as in real life.
    fn call(&self, half: bool, effect: impl FnOnce(&mut BTreeMap<String, Made>)) -> Result<(), Failure> {
        let mut world = self.world.lock();
        let fails = world.fail_at.contains(&world.calls);
        world.calls += 1;
        if !fails || half {
            effect(&mut world.containers);
        }
        if fails {
            world.failed = true;
            return Err(Failure::error("scripted to fail"));
        }
        Ok(())
    }

    pub(crate) async fn survey(&self, _: &System) -> Result<Surveyed, Failure> {
        Ok(Surveyed::default())
    }

    pub(crate) fn state_of(&self, _: &ContainerName) -> String {
        String::new()
    }

    pub(crate) async fn pull(&self, _: &str, _: &str, _: &Reporter) -> Result<(), Failure> {
        self.call(false, |_| {})
    }

    pub(crate) async fn create(&self, order: &Order<'_>) -> Result<(), Failure> {
        let files =
            order.files.iter().map(|file| (file.to.clone(), file.content.reveal().to_owned())).collect();
        self.call(false, |all| {
            assert!(!all.contains_key(&order.name.0), "{} is made twice", order.name);
            all.insert(order.name.0.clone(), Made { runs: false, files });
        })
    }

    pub(crate) async fn start(&self, container: &ContainerName) -> Result<(), Failure> {
        self.call(true, |all| {
            all.get_mut(&container.0)
                .unwrap_or_else(|| panic!("{container} is started but not there"))
                .runs = true;
        })
    }

    pub(crate) async fn stop(&self, container: &ContainerName, _: Duration) -> Result<(), Failure> {
        self.call(true, |all| {
            if let Some(made) = all.get_mut(&container.0) {
                made.runs = false;
            }
        })
    }

    pub(crate) async fn remove(&self, container: &ContainerName) -> Result<(), Failure> {
        self.call(false, |all| {
            let gone = all.remove(&container.0);
            assert!(gone.is_none_or(|made| !made.runs), "{container} is removed while it runs");
        })
    }

    pub(crate) async fn put_files(
        &self,
        container: &ContainerName,
        files: &[PutFile],
    ) -> Result<(), Failure> {
        self.call(true, |all| {
            let made = all
                .get_mut(&container.0)
                .unwrap_or_else(|| panic!("{container} gets files but is not there"));
            made.files.extend(files.iter().map(|file| (file.to.clone(), file.content.reveal().to_owned())));
        })
    }

    pub(crate) async fn read_files(
        &self,
        container: &ContainerName,
        paths: &[String],
    ) -> Result<Vec<PutFile>, Failure> {
        self.call(false, |_| {})?;
        let world = self.world.lock();
        let files = world.containers.get(&container.0).into_iter().flat_map(|made| &made.files);
        let wanted = files.filter(|(to, _)| paths.contains(to));
        Ok(wanted
            .map(|(to, text)| PutFile {
                to: to.clone(),
                content: crate::secret::Secret::new(text.clone()),
                mode: 0o600,
            })
            .collect())
    }

    pub(crate) async fn status(&self, container: &ContainerName) -> Result<Status, Failure> {
        self.call(false, |_| {})?;
        let runs = self.world.lock().containers.get(&container.0).is_some_and(|made| made.runs);
        let state =
            if runs { RunState::Running { since: String::new() } } else { RunState::Exited { code: 1 } };
        Ok(Status { state, restarts: 0, health: None, ports: Vec::new(), out_of_memory: false })
    }

    pub(crate) async fn logs(
        &self,
        _: &ContainerName,
        _: &LogOptions,
        lines: mpsc::Sender<LogLine>,
    ) -> Result<(), Failure> {
        drop(lines);
        Ok(())
    }

    pub(crate) async fn exec(&self, _: &ContainerName, _: &[String], _: ExecIo) -> Result<i64, Failure> {
        Err(Failure::error("a scripted engine runs no commands"))
    }
}
