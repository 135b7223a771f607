//! The only interpreter of steps: stages in order, lanes side by side, a journal, and one way back.
//!
//! A run ends all-new or all-old. On a failure or Ctrl-C no further step starts, what runs is finished, and the journal
//! is unwound newest first. Removing an old container cannot be taken back, so removals stand last in a plan; once they
//! have begun, a run only goes forward.

mod lock;
mod perform;
#[cfg(test)]
mod tests;
mod unwind;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::Mutex;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, Kind};
use crate::host::Hosts;
use crate::plan::{Action, Lane, Plan, Step};
use crate::report::{Event, Reporter};
use crate::secret::Secrets;
use crate::system::{MachineName, System};

pub(crate) use lock::locked;
pub use lock::{Lock, lock};
use perform::Kept;

/// Performs the steps of a plan.
pub struct Runner<'h> {
    pub hosts: &'h Hosts,
    /// The system that the plan leads to.
    pub system: Arc<System>,
    pub secrets: Arc<Secrets>,
    pub reporter: Reporter,
    /// Goes into the label `nsd.revision` of what is made.
    pub revision: String,
}

/// What became of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    pub result: Ended,
    #[serde(with = "crate::system::seconds")]
    pub took: Duration,
    pub machines: Vec<MachineResult>,
    /// Steps performed, those taken back included.
    pub steps: usize,
}

#[derive(Debug, Clone, Serialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Ended {
    /// All-new.
    Completed,
    /// All-new, but some of the old could not be cleared away.
    Partly { failed: Vec<StepFailure> },
    /// All-old again; `left` names what could not be taken back, and is empty when all was.
    RolledBack { failed: StepFailure, left: Vec<String> },
    /// Ctrl-C; like `RolledBack`.
    Interrupted { left: Vec<String> },
}

#[derive(Debug, Clone, Serialize)]
pub struct StepFailure {
    pub machine: MachineName,
    pub step: String,
    pub why: String,
    pub causes: Vec<String>,
    pub hints: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct MachineResult {
    pub machine: MachineName,
    pub steps: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

impl Outcome {
    /// The run as a failure with its exit code; `None` when it completed. `action` is what people call the run: `deploy`.
    pub fn failure(&self, action: &str) -> Option<Failure> {
        let (kind, message, failed, left) = match &self.result {
            Ended::Completed => return None,
            Ended::Partly { failed } => (
                Kind::Partly,
                format!("the {action} went through, but not all of the old could be removed"),
                failed.first(),
                &[][..],
            ),
            Ended::RolledBack { failed, left } if left.is_empty() => (
                Kind::RolledBack,
                format!("the {action} failed; everything is as it was before"),
                Some(failed),
                &left[..],
            ),
            Ended::RolledBack { failed, left } => (
                Kind::Partly,
                format!("the {action} failed, and not all of it could be taken back"),
                Some(failed),
                &left[..],
            ),
            Ended::Interrupted { left } => {
                let state = if left.is_empty() {
                    "interrupted; everything is as it was before"
                } else {
                    "interrupted, and not all of it could be taken back"
                };
                (Kind::Interrupted, state.to_owned(), None, &left[..])
            }
        };
        let mut failure = Failure::new(kind, message);
        if let Some(failed) = failed {
            failure.causes.push(format!("{}: {}: {}", failed.machine, failed.step, failed.why));
            failure.causes.extend(failed.causes.iter().cloned());
            failure.hints.extend(failed.hints.iter().cloned());
        }
        failure.causes.extend(left.iter().map(|what| format!("left behind: {what}")));
        Some(failure)
    }
}

/// What a run has done so far, for unwinding and for the outcome.
struct Journal {
    /// Per stage, per lane, in order.
    stages: Vec<Vec<Vec<Entry>>>,
    failed: Vec<StepFailure>,
    steps: BTreeMap<MachineName, usize>,
}

/// A step that has had an effect or may have had one.
struct Entry {
    step: Step,
    kept: Kept,
}

/// One run in progress.
struct Run<'r, 'h> {
    runner: &'r Runner<'h>,
    journal: Mutex<Journal>,
    /// No further step starts: a step failed, or Ctrl-C.
    halt: CancellationToken,
    /// A removal has begun: only forward from here.
    removing: AtomicBool,
}

impl Runner<'_> {
    /// Performs the plan. Ends early when `cancel` is cancelled, with everything taken back.
    pub async fn run(&self, plan: &Plan, cancel: CancellationToken) -> Outcome {
        let started = Instant::now();
        let stages =
            plan.stages.iter().map(|stage| stage.lanes.iter().map(|_| Vec::new()).collect()).collect();
        let run = Run {
            runner: self,
            journal: Mutex::new(Journal { stages, failed: Vec::new(), steps: BTreeMap::new() }),
            halt: cancel.child_token(),
            removing: AtomicBool::new(false),
        };
        for (at, stage) in plan.stages.iter().enumerate() {
            if run.halt.is_cancelled() {
                break;
            }
            self.reporter.send(Event::Phase { title: stage.title.clone() });
            join_all(stage.lanes.iter().enumerate().map(|(lane_at, lane)| run.lane(lane, at, lane_at))).await;
        }
        let forward_only = run.removing.load(Ordering::Acquire);
        let halted = run.halt.is_cancelled();
        let mut journal = run.journal.into_inner();
        let machines = machine_results(&journal);
        let steps = journal.steps.values().sum();
        let failed = std::mem::take(&mut journal.failed);
        let result = match failed.first().cloned() {
            None if !halted => Ended::Completed,
            Some(_) if forward_only => Ended::Partly { failed },
            None if forward_only => {
                Ended::Interrupted { left: vec!["old containers that were still to be removed".into()] }
            }
            Some(failed) => Ended::RolledBack { failed, left: self.unwind(journal).await },
            None => Ended::Interrupted { left: self.unwind(journal).await },
        };
        Outcome { result, took: started.elapsed(), machines, steps }
    }
}

impl Run<'_, '_> {
    async fn lane(&self, lane: &Lane, stage_at: usize, lane_at: usize) {
        for step in &lane.steps {
            if self.halt.is_cancelled() {
                return;
            }
            let removal = matches!(step.action, Action::Remove { .. });
            if removal {
                self.removing.store(true, Ordering::Release);
            }
            let note = |kept: Kept| {
                let entry = Entry { step: step.clone(), kept };
                self.journal.lock().stages[stage_at][lane_at].push(entry);
            };
            match self.step(step, note).await {
                Ok(()) => *self.journal.lock().steps.entry(step.machine.clone()).or_default() += 1,
                // Interrupted while it had no effect yet.
                Err(failure) if failure.kind == Kind::Interrupted => return,
                Err(failure) => {
                    self.journal.lock().failed.push(StepFailure::new(step, failure));
                    // What can be removed is removed, whatever became of the other removals.
                    if !removal {
                        self.halt.cancel();
                        return;
                    }
                }
            }
        }
    }

    /// One step with its events. `note` enters it into the journal.
    async fn step(&self, step: &Step, note: impl Fn(Kept) + Send + Sync) -> Result<(), Failure> {
        let who = step.machine.to_string();
        let what = step.action.to_string();
        let reporter = &self.runner.reporter;
        reporter.send(Event::Started { who: who.clone(), what: what.clone() });
        let started = Instant::now();
        let result = self.runner.perform(step, &self.halt, note).await;
        reporter.send(match &result {
            Ok(()) => Event::Done { who, what, took: started.elapsed() },
            Err(failure) => Event::Failed { who, what, why: failure.message.clone() },
        });
        result
    }
}

impl StepFailure {
    fn new(step: &Step, failure: Failure) -> Self {
        Self {
            machine: step.machine.clone(),
            step: step.action.to_string(),
            why: failure.message,
            causes: failure.causes,
            hints: failure.hints,
        }
    }
}

fn machine_results(journal: &Journal) -> Vec<MachineResult> {
    let mut machines: BTreeMap<&MachineName, MachineResult> = BTreeMap::new();
    let blank = |machine: &MachineName| MachineResult { machine: machine.clone(), steps: 0, failed: None };
    for (machine, steps) in &journal.steps {
        machines.entry(machine).or_insert_with(|| blank(machine)).steps = *steps;
    }
    for failed in &journal.failed {
        let result = machines.entry(&failed.machine).or_insert_with(|| blank(&failed.machine));
        result.failed.get_or_insert_with(|| format!("{}: {}", failed.step, failed.why));
    }
    machines.into_values().collect()
}
