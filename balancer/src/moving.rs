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
    /// Empty once all is over: then there is a report.
    clients: HashMap<u64, Closed>,
    /// Of these, those that are not at a server now.
    away: usize,
    last: Option<Report>,
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

impl Fate {
    fn is_away(&self) -> bool {
        !matches!(self, Self::At(_))
    }
}

impl Progress {
    /// Gives back what was known of the client before.
    fn remember(&mut self, key: u64, client: Closed) -> Option<Closed> {
        self.away += usize::from(client.fate.is_away());
        let before = self.clients.insert(key, client);
        self.away -= before.iter().filter(|before| before.fate.is_away()).count();
        before
    }

    fn forget(&mut self, key: u64) {
        let client = self.clients.remove(&key);
        self.away -= client.iter().filter(|client| client.fate.is_away()).count();
    }

    /// Whether the client is one of these.
    fn learn(&mut self, key: u64, fate: impl FnOnce() -> Fate) -> bool {
        let Some(client) = self.clients.get_mut(&key) else { return false };
        let before = std::mem::replace(&mut client.fate, fate());
        self.away += usize::from(client.fate.is_away());
        self.away -= usize::from(before.is_away());
        true
    }
}

impl Job {
    fn new(what: What, pace: Pace, planned: usize) -> Arc<Self> {
        let progress = Progress {
            stage: Stage::Closing,
            planned,
            closed: 0,
            unfollowed: 0,
            clients: HashMap::new(),
            away: 0,
            last: None,
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
        let known = live.let_in && !live.names.id().is_empty();
        let key = known.then_some(live.names.key);
        let before = key.and_then(|key| {
            let closed = Closed { from: Arc::clone(&live.member), fate: Fate::Away };
            self.progress.lock().remember(key, closed)
        });
        let told = live.handle.tell(order);
        let mut progress = self.progress.lock();
        if told {
            progress.closed += 1;
            progress.unfollowed += usize::from(key.is_none());
        } else if let Some(key) = key {
            // On its way out already, or ended by itself meanwhile.
            match before {
                Some(before) => drop(progress.remember(key, before)),
                None => progress.forget(key),
            }
        }
        told
    }

    fn learn(&self, key: u64, fate: impl FnOnce() -> Fate) {
        if self.progress.lock().learn(key, fate) {
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
        self.progress.lock().away
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
        progress.last.clone().unwrap_or_else(|| self.count(&progress))
    }

    /// Nobody is followed any more, and what became of them is kept.
    fn end(&self, stage: Stage) -> Report {
        let mut progress = self.progress.lock();
        progress.stage = stage;
        let report = self.count(&progress);
        progress.last = Some(report.clone());
        progress.clients = HashMap::new();
        report
    }

    fn count(&self, progress: &Progress) -> Report {
        let mut at: HashMap<*const Member, (&Arc<Member>, usize)> = HashMap::new();
        let (mut failed, mut not_returned, mut stayed) = (0, 0, 0);
        for Closed { from, fate } in progress.clients.values() {
            match fate {
                Fate::Away => not_returned += 1,
                Fate::Failed => failed += 1,
                Fate::At(member) if Arc::ptr_eq(member, from) => stayed += 1,
                Fate::At(member) => at.entry(Arc::as_ptr(member)).or_insert((member, 0)).1 += 1,
            }
        }
        let mut moved = BTreeMap::new();
        for (member, clients) in at.into_values() {
            *moved.entry(member.name.clone()).or_default() += clients;
        }
        let total = moved.values().sum();
        Report {
            what: self.what.clone(),
            stage: progress.stage,
            rate: self.pace.to_string(),
            seconds: self.since.elapsed().as_secs(),
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
#[derive(Debug, Clone, Serialize)]
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
        let report = job.end(stage);
        self.following.fetch_sub(1, Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Rules;
    use crate::member::Context;
    use crate::settings::ServerSettings;

    fn member(name: &str) -> Arc<Member> {
        let address = "10.0.0.1:1883".parse().unwrap();
        let settings =
            ServerSettings { name: name.into(), address, weight: 1, max_sessions: u32::MAX, backup: false };
        let context = Context { backend: "mqtt".into(), queue: Arc::default() };
        Arc::new(Member::new(&settings, Rules { checked: true, rise: 1, fall: 1 }, false, context))
    }

    fn closed(from: &Arc<Member>) -> Closed {
        Closed { from: Arc::clone(from), fate: Fate::Away }
    }

    fn job() -> Arc<Job> {
        Job::new(What::Rebalance { backend: "mqtt".into() }, Pace::per_second(1), 4)
    }

    #[test]
    fn who_is_away_is_counted_as_it_goes_and_comes() {
        let (job, b1, b2) = (job(), member("b1"), member("b2"));
        for key in 0..4 {
            assert!(job.progress.lock().remember(key, closed(&b1)).is_none());
        }
        assert_eq!(job.away(), 4);
        job.learn(0, || Fate::At(Arc::clone(&b2)));
        job.learn(1, || Fate::At(Arc::clone(&b1)));
        job.learn(2, || Fate::Failed);
        job.learn(9, || Fate::Failed);
        assert_eq!(job.away(), 2);
        // Sent away again, and not: it was on its way out already.
        let before = job.progress.lock().remember(0, closed(&b2));
        assert_eq!(job.away(), 3);
        job.progress.lock().remember(0, before.unwrap());
        job.progress.lock().forget(3);
        job.progress.lock().forget(3);
        assert_eq!(job.away(), 1);
    }

    #[test]
    fn what_is_over_keeps_its_report_and_no_clients() {
        // Of the same name, as where a server got another address.
        let (job, b1, here, there) = (job(), member("b1"), member("b2"), member("b2"));
        for (key, at) in [&here, &there, &there, &b1].into_iter().enumerate() {
            let key = key as u64;
            job.progress.lock().remember(key, closed(&b1));
            job.learn(key, || Fate::At(Arc::clone(at)));
        }
        job.progress.lock().remember(4, closed(&b1));
        let before = job.report();
        job.end(Stage::Done);
        assert!(job.progress.lock().clients.is_empty() && job.is_over());
        let report = job.report();
        assert_eq!(report.moved_to, BTreeMap::from([("b2".to_owned(), 3)]));
        assert_eq!((report.moved, report.returned_to_it, report.not_returned), (3, 1, 1));
        assert_eq!(report.moved_to, before.moved_to);
    }
}
