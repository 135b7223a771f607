//! Sessions that are moved by closing them: what was begun, and what became of the clients, seen from their next CONNACK.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::info;

use crate::limits;
use crate::member::Member;
use crate::pace::Pace;
use crate::registry::Live;
use crate::relay::Order;

mod drain;
mod rebalance;

pub(crate) use drain::Drain;
pub(crate) use rebalance::{Rebalance, by_themselves, planned};

/// All that is under way, and the last that are over.
#[derive(Debug, Default)]
pub(crate) struct Moving {
    jobs: Mutex<Vec<Arc<Job>>>,
    /// Of the jobs, those that follow clients: usually none, and then nobody looks.
    following: AtomicUsize,
}

/// One drain, or one rebalance.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) what: What,
    pace: Pace,
    since: Instant,
    progress: Mutex<Progress>,
    stop: Notify,
    /// Somebody came back, or the stage changed.
    news: Notify,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub(crate) enum What {
    /// A server, by its name, of a backend.
    Drain {
        server: String,
        backend: String,
    },
    Rebalance {
        backend: String,
    },
}

#[derive(Debug)]
struct Progress {
    stage: Stage,
    /// To be closed, as far as it is known.
    planned: usize,
    closed: usize,
    /// Of these, those without an identifier: nobody can tell when they return.
    unfollowed: usize,
    clients: HashMap<u64, Closed>,
    ended: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stage {
    Closing,
    /// Nobody is closed while no other server takes clients.
    Waiting,
    /// All were closed; some have not come back yet.
    Following,
    Done,
    Stopped,
}

/// A client whose session was closed.
#[derive(Debug)]
struct Closed {
    from: Arc<Member>,
    fate: Fate,
}

/// What became of it.
#[derive(Debug)]
enum Fate {
    Away,
    /// It came and was not let in.
    Failed,
    /// It is at this server now.
    At(Arc<Member>),
}

impl Job {
    fn new(what: What, pace: Pace, planned: usize) -> Arc<Self> {
        let progress = Progress {
            stage: Stage::Closing,
            planned,
            closed: 0,
            unfollowed: 0,
            clients: HashMap::new(),
            ended: None,
        };
        let (stop, news) = (Notify::new(), Notify::new());
        Arc::new(Self { what, pace, since: Instant::now(), progress: Mutex::new(progress), stop, news })
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.progress.lock().stage, Stage::Done | Stage::Stopped)
    }

    /// Closes no more; those who were closed are not followed any longer.
    pub(crate) fn stop(&self) {
        self.stop.notify_one();
    }

    /// Tells a session to leave, and remembers its client. Remembered first: it may be back at once.
    fn close(&self, live: &Live, order: Order) -> bool {
        let key = (!live.names.id().is_empty()).then_some(live.names.key);
        let before = key.and_then(|key| {
            let closed = Closed { from: Arc::clone(&live.member), fate: Fate::Away };
            self.progress.lock().clients.insert(key, closed)
        });
        let told = live.handle.tell(order);
        let mut progress = self.progress.lock();
        if told {
            progress.closed += 1;
            progress.unfollowed += usize::from(key.is_none());
        } else if let Some(key) = key {
            // On its way out already, or ended by itself meanwhile.
            match before {
                Some(before) => drop(progress.clients.insert(key, before)),
                None => drop(progress.clients.remove(&key)),
            }
        }
        told
    }

    fn learn(&self, key: u64, fate: impl FnOnce() -> Fate) {
        if let Some(client) = self.progress.lock().clients.get_mut(&key) {
            client.fate = fate();
            self.news.notify_one();
        }
    }

    fn set(&self, stage: Stage) {
        self.progress.lock().stage = stage;
    }

    /// Closes nobody until somebody can take the clients.
    async fn wait_until(&self, can_be_taken: impl Fn() -> bool) {
        while !can_be_taken() {
            self.set(Stage::Waiting);
            sleep(GLANCE).await;
        }
        self.set(Stage::Closing);
    }

    fn away(&self) -> usize {
        let progress = self.progress.lock();
        progress.clients.values().filter(|client| !matches!(client.fate, Fate::At(_))).count()
    }

    /// Until all are back, or for so long.
    async fn follow(&self) {
        let all_back = async {
            while self.away() > 0 {
                self.news.notified().await;
            }
        };
        let _ = timeout(limits::FOLLOW, all_back).await;
    }

    pub(crate) fn report(&self) -> Report {
        let progress = self.progress.lock();
        let mut moved = BTreeMap::new();
        let (mut failed, mut not_returned, mut stayed) = (0, 0, 0);
        for Closed { from, fate } in progress.clients.values() {
            match fate {
                Fate::Away => not_returned += 1,
                Fate::Failed => failed += 1,
                Fate::At(member) if Arc::ptr_eq(member, from) => stayed += 1,
                Fate::At(member) => *moved.entry(member.name.clone()).or_default() += 1,
            }
        }
        let total = moved.values().sum();
        let seconds = progress.ended.unwrap_or_else(Instant::now).duration_since(self.since).as_secs();
        Report {
            what: self.what.clone(),
            stage: progress.stage,
            rate: self.pace.to_string(),
            seconds,
            planned: progress.planned,
            closed: progress.closed,
            moved: total,
            moved_to: moved,
            returned_to_it: stayed,
            not_returned,
            failed,
            unfollowed: progress.unfollowed,
        }
    }
}

/// How a job goes, or went.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    what: What,
    stage: Stage,
    rate: String,
    seconds: u64,
    planned: usize,
    closed: usize,
    /// Are at another server now.
    moved: usize,
    moved_to: BTreeMap<String, usize>,
    /// Are where they were.
    returned_to_it: usize,
    /// Were not seen since.
    not_returned: usize,
    /// Came, and were not let in.
    failed: usize,
    unfollowed: usize,
}

impl Moving {
    /// A client was let in.
    pub(crate) fn came(&self, live: &Live) {
        self.learn(live.names.key, || Fate::At(Arc::clone(&live.member)));
    }

    /// A client came and was not let in.
    pub(crate) fn failed(&self, key: u64) {
        self.learn(key, || Fate::Failed);
    }

    fn learn(&self, key: u64, fate: impl Fn() -> Fate) {
        if self.following.load(Relaxed) > 0 {
            self.jobs.lock().iter().filter(|job| !job.is_over()).for_each(|job| job.learn(key, &fate));
        }
    }

    pub(crate) fn reports(&self) -> Vec<Report> {
        self.jobs.lock().iter().map(|job| job.report()).collect()
    }

    /// Under way, of those that are meant.
    pub(crate) fn running(&self, meant: impl Fn(&What) -> bool) -> Vec<Arc<Job>> {
        let jobs = self.jobs.lock();
        jobs.iter().filter(|job| !job.is_over() && meant(&job.what)).cloned().collect()
    }

    /// Begins a job; `closing` tells the sessions, one after the other.
    fn start(self: &Arc<Self>, job: &Arc<Job>, closing: impl Future<Output = ()> + Send + 'static) {
        self.add(job);
        let (moving, job) = (Arc::clone(self), Arc::clone(job));
        tokio::spawn(async move { moving.run(&job, closing).await });
    }

    async fn run(&self, job: &Job, closing: impl Future<Output = ()>) {
        let all = async {
            closing.await;
            job.set(Stage::Following);
            job.follow().await;
        };
        let stage = tokio::select! {
            () = all => Stage::Done,
            () = job.stop.notified() => Stage::Stopped,
        };
        let mut progress = job.progress.lock();
        (progress.stage, progress.ended) = (stage, Some(Instant::now()));
        drop(progress);
        self.following.fetch_sub(1, Relaxed);
        let report = job.report();
        let Report { closed, moved, not_returned, failed, .. } = report;
        info!(what = ?job.what, ?stage, closed, moved, not_returned, failed, "moving sessions is over");
    }

    fn add(&self, job: &Arc<Job>) {
        self.following.fetch_add(1, Relaxed);
        let mut jobs = self.jobs.lock();
        jobs.push(Arc::clone(job));
        while jobs.len() > limits::MOVES
            && let Some(oldest) = jobs.iter().position(|job| job.is_over())
        {
            jobs.remove(oldest);
        }
    }
}

/// For who waits a little until there may be news.
const GLANCE: Duration = Duration::from_millis(200);
