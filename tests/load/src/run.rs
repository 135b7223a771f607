//! The course of every run: clients get ready, all start together, stop, what is under way arrives, readings are taken.
//!
//! Clients are tasks on threads with a runtime each; the caller's thread directs them by a phase that all watch, and sees
//! them only through counters. No wait is without an end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;
use tokio::sync::{Semaphore, watch};
use tokio::task::LocalSet;

use crate::clock;
use crate::link::{LinkError, SCRATCH};
use crate::report::Failures;
use crate::sequence::Arrivals;
use crate::usage::Usage;

/// Connections that a thread opens at the same time: a storm of thousands would measure the backlog.
const CONNECTING: usize = 64;
/// Until then all clients must be ready.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// Without any progress for so long, what has not arrived is lost.
const STALL: Duration = Duration::from_secs(2);
/// And with progress for so long.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);
/// How often the director looks.
const LOOK: Duration = Duration::from_millis(2);
/// Longest latency told apart; above it counts as this.
const HIGHEST: u64 = 60_000_000_000;

/// Where the run stands; it only ever moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Connecting,
    /// Since this time of [`clock`].
    Running(u64),
    /// Nothing new is begun.
    Stopping,
    Ending,
}

/// What the director needs to know about a run.
#[derive(Debug, Clone)]
pub struct Setup {
    pub threads: usize,
    /// How many of the clients do work that ends; see [`Desk::working`].
    pub workers: usize,
    pub duration: Duration,
    /// How often each published message is to be delivered.
    pub copies: u64,
    /// Quiet time before each reading of the server's memory.
    pub settle: Duration,
    pub pids: Vec<u32>,
}

/// What came out.
#[derive(Debug)]
pub struct Outcome {
    /// From the start to the last delivery.
    pub seconds: f64,
    pub published: u64,
    pub delivered: u64,
    pub arrivals: Arrivals,
    pub histogram: Histogram<u64>,
    pub before: Usage,
    pub after: Usage,
    pub own_cpu_seconds: f64,
    pub failures: Failures,
}

/// What all threads share.
#[derive(Debug)]
pub struct Board {
    phase: watch::Sender<Phase>,
    ready: AtomicUsize,
    done: AtomicUsize,
    failures: Mutex<Failures>,
    threads: Vec<Counters>,
}

/// One thread's counters, on a cache line of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counters {
    published: AtomicU64,
    delivered: AtomicU64,
    last: AtomicU64,
}

/// What the clients of one thread share.
#[derive(Debug)]
pub struct Desk {
    board: Arc<Board>,
    thread: usize,
    /// Every read of the thread goes here.
    pub scratch: RefCell<Vec<u8>>,
    pub connecting: Semaphore,
    histogram: RefCell<Histogram<u64>>,
    arrivals: Cell<Arrivals>,
}

impl Desk {
    fn new(board: Arc<Board>, thread: usize) -> Result<Self> {
        Ok(Self {
            board,
            thread,
            scratch: RefCell::new(vec![0; SCRATCH]),
            connecting: Semaphore::new(CONNECTING),
            histogram: RefCell::new(histogram()?),
            arrivals: Cell::default(),
        })
    }

    /// Tells that a client is ready, and gives it the phase to watch.
    pub fn ready(&self) -> watch::Receiver<Phase> {
        self.board.ready.fetch_add(1, Relaxed);
        self.board.phase.subscribe()
    }

    /// Held by a client while it has work; the run is done when the last one lets go.
    pub fn working(&self) -> Working {
        Working(Arc::clone(&self.board))
    }

    pub fn published(&self, count: u64) {
        self.board.threads[self.thread].published.fetch_add(count, Relaxed);
    }

    /// Counts messages that arrived at time `now`.
    pub fn delivered(&self, count: u64, now: u64) {
        let counters = &self.board.threads[self.thread];
        counters.delivered.fetch_add(count, Relaxed);
        counters.last.store(now, Relaxed);
    }

    pub fn latency(&self, nanoseconds: u64) {
        self.histogram.borrow_mut().saturating_record(nanoseconds);
    }

    /// Adds what a subscriber got, at its end.
    pub fn arrivals(&self, of_one: Arrivals) {
        let mut sum = self.arrivals.get();
        sum += of_one;
        self.arrivals.set(sum);
    }
}

/// See [`Desk::working`].
#[derive(Debug)]
pub struct Working(Arc<Board>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.done.fetch_add(1, Relaxed);
    }
}

impl Board {
    fn new(threads: usize) -> Self {
        Self {
            phase: watch::Sender::new(Phase::Connecting),
            ready: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            failures: Mutex::default(),
            threads: (0..threads).map(|_| Counters::default()).collect(),
        }
    }

    fn failed(&self, error: &LinkError) {
        if *self.phase.borrow() == Phase::Ending {
            return; // Servers may hang up on clients that leave.
        }
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.count += 1;
        failures.first.get_or_insert_with(|| error.to_string());
    }

    fn failures(&self) -> Failures {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn published(&self) -> u64 {
        self.threads.iter().map(|thread| thread.published.load(Relaxed)).sum()
    }

    fn delivered(&self) -> u64 {
        self.threads.iter().map(|thread| thread.delivered.load(Relaxed)).sum()
    }

    fn last_delivery(&self) -> u64 {
        self.threads.iter().map(|thread| thread.last.load(Relaxed)).max().unwrap_or(0)
    }

    fn is_worked_off(&self, setup: &Setup) -> bool {
        self.done.load(Relaxed) >= setup.workers
    }

    fn is_all_there(&self, setup: &Setup) -> bool {
        self.is_worked_off(setup) && self.delivered() >= self.published() * setup.copies
    }
}

/// Runs `clients` to the end of the run: each becomes the task that `play` makes of it.
pub fn run<C, P, F>(setup: &Setup, clients: Vec<C>, play: P) -> Result<Outcome>
where
    C: Send + 'static,
    P: Fn(C, Rc<Desk>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<(), LinkError>> + 'static,
{
    let board = Arc::new(Board::new(setup.threads));
    let total = clients.len();
    let mut shares: Vec<Vec<C>> = (0..setup.threads).map(|_| Vec::new()).collect();
    for (index, client) in clients.into_iter().enumerate() {
        shares[index % setup.threads].push(client);
    }
    let threads: Vec<_> = shares
        .into_iter()
        .enumerate()
        .map(|(index, share)| {
            let (board, play) = (Arc::clone(&board), play.clone());
            std::thread::spawn(move || stage(board, index, share, play))
        })
        .collect();

    let directed = direct(&board, setup, total);
    board.phase.send_replace(Phase::Ending);
    let mut arrivals = Arrivals::default();
    let mut histogram = histogram()?;
    for thread in threads {
        let Ok(finished) = thread.join() else { bail!("a thread of the load tool has panicked") };
        let (of_thread, latencies) = finished?;
        arrivals += of_thread;
        histogram.add(latencies).context("adding up latencies")?;
    }
    let course = directed?;
    Ok(Outcome {
        seconds: course.seconds,
        published: board.published(),
        delivered: board.delivered(),
        arrivals,
        histogram,
        before: course.before,
        after: course.after,
        own_cpu_seconds: course.own_cpu_seconds,
        failures: board.failures(),
    })
}

fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, HIGHEST, 3).context("making a histogram")
}

/// One thread: its clients as tasks of one runtime.
fn stage<C, P, F>(
    board: Arc<Board>,
    index: usize,
    clients: Vec<C>,
    play: P,
) -> Result<(Arrivals, Histogram<u64>)>
where
    P: Fn(C, Rc<Desk>) -> F,
    F: Future<Output = Result<(), LinkError>> + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let desk = Rc::new(Desk::new(Arc::clone(&board), index)?);
    let local = LocalSet::new();
    for client in clients {
        let (board, playing) = (Arc::clone(&board), play(client, Rc::clone(&desk)));
        local.spawn_local(async move {
            let mut phase = board.phase.subscribe();
            let ended = phase.wait_for(|phase| *phase == Phase::Ending);
            tokio::pin!(playing);
            tokio::select! {
                result = &mut playing => result.unwrap_or_else(|error| board.failed(&error)),
                // Clients see the end by themselves and leave in order; a stuck one is left behind.
                _ = ended => drop(tokio::time::timeout(STALL, &mut playing).await),
            }
        });
    }
    runtime.block_on(local);
    let histogram = desk.histogram.borrow().clone();
    Ok((desk.arrivals.get(), histogram))
}

struct Course {
    seconds: f64,
    before: Usage,
    after: Usage,
    own_cpu_seconds: f64,
}

fn direct(board: &Board, setup: &Setup, clients: usize) -> Result<Course> {
    await_ready(board, clients)?;
    std::thread::sleep(setup.settle);
    let (before, own_before) = (Usage::of(&setup.pids)?, Usage::own()?);
    let start = clock::now();
    board.phase.send_replace(Phase::Running(start));
    let end = Instant::now() + setup.duration;
    while Instant::now() < end && !board.is_worked_off(setup) {
        std::thread::sleep(LOOK);
    }
    board.phase.send_replace(Phase::Stopping);
    drain(board, setup);
    std::thread::sleep(setup.settle);
    let (after, own_after) = (Usage::of(&setup.pids)?, Usage::own()?);
    let last = board.last_delivery().max(start);
    Ok(Course {
        seconds: (last - start) as f64 / 1e9,
        before,
        after,
        own_cpu_seconds: own_after.cpu_seconds - own_before.cpu_seconds,
    })
}

fn await_ready(board: &Board, clients: usize) -> Result<()> {
    let end = Instant::now() + READY_LIMIT;
    loop {
        let ready = board.ready.load(Relaxed);
        let failures = board.failures();
        if let Some(first) = failures.first {
            bail!("{} of {clients} clients could not connect; the first: {first}", failures.count);
        }
        if ready >= clients {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("only {ready} of {clients} clients were ready after {} s", READY_LIMIT.as_secs());
        }
        std::thread::sleep(LOOK);
    }
}

/// Waits until all is there, or nothing moves any more.
fn drain(board: &Board, setup: &Setup) {
    let end = Instant::now() + DRAIN_LIMIT;
    // Counted, so that a machine which stood still was not looked at meanwhile.
    let mut looks = 0;
    let mut seen = (0, 0, 0);
    while !board.is_all_there(setup) && Instant::now() < end {
        let now = (board.done.load(Relaxed), board.published(), board.delivered());
        if now != seen {
            (seen, looks) = (now, 0);
        } else if LOOK * looks > STALL {
            return;
        }
        looks += 1;
        std::thread::sleep(LOOK);
    }
}
