//! Taking a run back: the one place where undos are performed.

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::perform::Kept;
use super::{Entry, Journal, Runner};
use crate::plan::{Step, Undo};
use crate::report::Event;

impl Runner<'_> {
    /// Undoes everything in the journal: stages newest first, their lanes side by side, each lane newest first. Goes on
    /// when an undo fails. Returns what is left.
    pub(super) async fn unwind(&self, journal: Journal) -> Vec<String> {
        if journal.stages.iter().flatten().all(Vec::is_empty) {
            return Vec::new();
        }
        self.reporter.send(Event::Phase { title: "take back".into() });
        let mut left = Vec::new();
        for lanes in journal.stages.into_iter().rev() {
            let lanes = join_all(lanes.into_iter().map(|lane| self.unwind_lane(lane))).await;
            left.extend(lanes.into_iter().flatten());
        }
        left
    }

    async fn unwind_lane(&self, lane: Vec<Entry>) -> Vec<String> {
        let mut left = Vec::new();
        for entry in lane.into_iter().rev() {
            if let Err(why) = self.undo(&entry).await {
                left.push(format!("{}: {} ({why})", entry.step.machine, entry.step.action));
            }
        }
        left
    }

    async fn undo(&self, entry: &Entry) -> Result<(), String> {
        match entry.step.undo() {
            Undo::Nothing => Ok(()),
            Undo::Impossible(why) => Err(why.to_owned()),
            Undo::Actions(actions) => {
                for action in actions {
                    let step = Step { machine: entry.step.machine.clone(), action };
                    let what = step.action.to_string();
                    self.told(&step, what, self.perform(&step, &CancellationToken::new(), |_| {})).await?;
                }
                Ok(())
            }
            Undo::RestoreFiles { container, .. } => {
                let Kept::Files(before) = &entry.kept else { return Ok(()) };
                let host = self.hosts.get(&entry.step.machine).map_err(|failure| failure.message)?;
                let what = format!("restore the files of {container}");
                self.told(&entry.step, what, host.engine.put_files(&container, before)).await
            }
        }
    }

    /// Performs `work` with its events.
    async fn told(
        &self,
        step: &Step,
        what: String,
        work: impl Future<Output = Result<(), crate::failure::Failure>>,
    ) -> Result<(), String> {
        let who = step.machine.to_string();
        let started = std::time::Instant::now();
        self.reporter.send(Event::Started { who: who.clone(), what: what.clone() });
        match work.await {
            Ok(()) => {
                self.reporter.send(Event::Done { who, what, took: started.elapsed() });
                Ok(())
            }
            Err(failure) => {
                self.reporter.send(Event::Failed { who, what, why: failure.message.clone() });
                Err(failure.message)
            }
        }
    }
}
