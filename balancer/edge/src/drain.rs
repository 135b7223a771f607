//! Graceful end, in one handle: accepting stops, everyone is told, they get a deadline, then they are aborted.
//!
//! Whoever must be waited for holds a [`Watch`]; dropping it is how it says "I am done". Works across runtimes.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    Draining,
    Aborting,
}

/// How long the aborted may take to drop their `Watch` before nobody waits for them any longer.
const ABORT_GRACE: Duration = Duration::from_secs(1);

/// The one who ends everything.
#[derive(Debug)]
pub struct Drain {
    phase: watch::Sender<Phase>,
}

/// Held by a listener, a connection, a task: told of the end, and waited for until dropped.
#[derive(Debug, Clone)]
pub struct Watch {
    phase: watch::Receiver<Phase>,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// How many were still there at the deadline and had to be aborted.
    pub aborted: usize,
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    pub fn new() -> Self {
        Self { phase: watch::Sender::new(Phase::Running) }
    }

    pub fn watch(&self) -> Watch {
        Watch { phase: self.phase.subscribe() }
    }

    /// How many are waited for now.
    pub fn live(&self) -> usize {
        self.phase.receiver_count()
    }

    /// Tells everyone to finish, without waiting.
    pub fn begin(&self) {
        self.raise(Phase::Draining);
    }

    /// Tells everyone to finish, waits until all are done or `deadline` has passed, then aborts the rest.
    pub async fn finish(&self, deadline: Duration) -> Drained {
        self.begin();
        if timeout(deadline, self.phase.closed()).await.is_ok() {
            return Drained { aborted: 0 };
        }
        let aborted = self.live();
        self.raise(Phase::Aborting);
        let _ = timeout(ABORT_GRACE, self.phase.closed()).await;
        Drained { aborted }
    }

    /// Phases only go forward: an abort is not undone by a second `begin`.
    fn raise(&self, to: Phase) {
        self.phase.send_if_modified(|now| {
            let forward = *now < to;
            if forward {
                *now = to;
            }
            forward
        });
    }
}

impl Watch {
    /// Resolves once the end has begun: take nothing new, finish what you have. Cancel safe.
    pub async fn draining(&mut self) {
        self.reached(Phase::Draining).await;
    }

    /// Resolves when the deadline has passed: leave now. Cancel safe.
    pub async fn aborted(&mut self) {
        self.reached(Phase::Aborting).await;
    }

    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() >= Phase::Draining
    }

    /// A dropped `Drain` counts as an abort: whoever owned the end is gone.
    async fn reached(&mut self, phase: Phase) {
        let _ = self.phase.wait_for(|now| *now >= phase).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_for_those_who_finish_in_time() {
        let drain = Drain::new();
        let mut watch = drain.watch();
        let task = tokio::spawn(async move {
            watch.draining().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        });
        assert_eq!(drain.finish(Duration::from_secs(20)).await, Drained { aborted: 0 });
        assert!(task.is_finished() || task.await.is_ok());
    }

    #[tokio::test]
    async fn aborts_those_who_do_not() {
        let drain = Drain::new();
        let mut watch = drain.watch();
        assert!(!watch.is_draining());
        let task = tokio::spawn(async move {
            watch.aborted().await;
        });
        assert_eq!(drain.finish(Duration::from_millis(20)).await, Drained { aborted: 1 });
        task.await.unwrap();
        assert_eq!(drain.live(), 0);
    }

    #[tokio::test]
    async fn a_late_watch_learns_of_the_end_at_once() {
        let drain = Drain::new();
        drain.begin();
        let mut watch = drain.watch();
        watch.draining().await;
        assert!(watch.is_draining());
    }

    #[tokio::test]
    async fn nobody_there_ends_at_once() {
        assert_eq!(Drain::new().finish(Duration::from_secs(60)).await, Drained { aborted: 0 });
    }
}
