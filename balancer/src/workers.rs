//! One thread a core, each with a runtime of its own: a session stays on the thread it was given to, so nothing of it is
//! ever shared or stolen. Sessions last for days, so what counts is to give each new one to the thread with the fewest.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::Notify;
use tokio::time::sleep;

/// For each timer that is due before all others the runtime wakes itself with a system call. Nearly all of ours guard what
/// takes a moment, and are longer than this: with one that is always due before them, they cost none.
const TICK: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Workers {
    all: Vec<Worker>,
}

#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) handle: Handle,
    sessions: Arc<AtomicUsize>,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

/// A session's place on a worker; counted until dropped.
#[derive(Debug)]
pub(crate) struct Place {
    sessions: Arc<AtomicUsize>,
}

impl Workers {
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        let all = (0..count.max(1)).map(Worker::start).collect::<io::Result<_>>()?;
        Ok(Self { all })
    }

    /// The worker with the fewest sessions, and a place on it.
    pub(crate) fn least_loaded(&self) -> (&Worker, Place) {
        let sessions = |worker: &&Worker| worker.sessions.load(Relaxed);
        let worker = self.all.iter().min_by_key(sessions).expect("there is at least one worker");
        worker.sessions.fetch_add(1, Relaxed);
        (worker, Place { sessions: Arc::clone(&worker.sessions) })
    }

    /// For what is not a session: spread by number.
    pub(crate) fn nth(&self, number: usize) -> &Worker {
        &self.all[number % self.all.len()]
    }

    pub(crate) fn sessions(&self) -> usize {
        self.all.iter().map(|worker| worker.sessions.load(Relaxed)).sum()
    }
}

impl Worker {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        runtime.spawn(async {
            loop {
                sleep(TICK).await;
            }
        });
        let run = move || runtime.block_on(stopped.notified());
        let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(run)?;
        Ok(Self { handle, sessions: Arc::default(), stop, thread: Some(thread) })
    }
}

/// Ends the thread; what still runs on it is dropped.
impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sessions.fetch_sub(1, Relaxed);
    }
}
