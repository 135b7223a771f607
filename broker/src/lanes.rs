//! What the threads of clients gather for one thread that stores or sends it: a lane each, so that they do not wait for
//! one another, taken out all at once. One batch at a time: what arrives meanwhile forms the next, so batches grow with
//! the load and need no timer.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use nsd_wire::ReasonCode;
use parking_lot::Mutex;

use crate::hub::{Event, Outbox};
use crate::session::Receipt;

/// One lane for each thread.
#[derive(Debug)]
pub struct Lanes<L> {
    lanes: Vec<Mutex<Lane<L>>>,
}

#[derive(Debug, Default)]
struct Lane<L> {
    load: L,
    /// What the load weighs.
    bytes: usize,
    /// Who waits for room.
    blocked: Vec<Waker>,
}

/// A client's connection that waits for an answer.
#[derive(Debug, Clone)]
pub struct Caller {
    pub outbox: Arc<Outbox>,
    /// Of its connections, which one: another has nothing to do with what this one asked.
    pub attachment: u64,
}

/// Answers that are owed, in order.
#[derive(Debug, Default)]
pub struct Receipts(Vec<(Caller, Receipt)>);

thread_local! {
    static LANE: Cell<Option<usize>> = const { Cell::new(None) };
}
static THREADS: AtomicUsize = AtomicUsize::new(0);

impl<L: Default> Lanes<L> {
    pub fn new(lanes: usize) -> Self {
        Self { lanes: (0..lanes.max(1)).map(|_| Mutex::default()).collect() }
    }

    /// Puts something into this thread's lane; `put` tells how much heavier it made the load. The answer is the weight
    /// that was there before.
    pub fn put(&self, put: impl FnOnce(&mut L) -> usize) -> usize {
        let mut lane = self.lane().lock();
        let before = lane.bytes;
        let added = put(&mut lane.load);
        lane.bytes = before + added;
        before
    }

    /// What this thread's lane weighs.
    pub fn bytes(&self) -> usize {
        self.lane().lock().bytes
    }

    /// Everything that is there; whoever waits for room may go on.
    pub fn take(&self) -> Vec<L> {
        let each = self.lanes.iter().map(|lane| {
            let mut lane = std::mem::take(&mut *lane.lock());
            lane.blocked.drain(..).for_each(Waker::wake);
            lane.load
        });
        each.collect()
    }

    /// Ready once this thread's lane weighs less than `mark`.
    pub fn poll_room(&self, mark: usize, context: &Context<'_>) -> Poll<()> {
        let mut lane = self.lane().lock();
        if lane.bytes < mark {
            return Poll::Ready(());
        }
        if !lane.blocked.iter().any(|waker| waker.will_wake(context.waker())) {
            lane.blocked.push(context.waker().clone());
        }
        Poll::Pending
    }

    /// Whoever waits for room looks again.
    pub fn wake_blocked(&self) {
        for lane in &self.lanes {
            lane.lock().blocked.drain(..).for_each(Waker::wake);
        }
    }

    fn lane(&self) -> &Mutex<Lane<L>> {
        let index = LANE.get().unwrap_or_else(|| {
            let index = THREADS.fetch_add(1, Ordering::Relaxed);
            LANE.set(Some(index));
            index
        });
        &self.lanes[index % self.lanes.len()]
    }
}

impl Receipts {
    pub fn push(&mut self, caller: Caller, receipt: Receipt) {
        self.0.push((caller, receipt));
    }

    pub fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// Ends the connections of all of them.
    pub fn send_away(self, reason: ReasonCode) {
        self.0.into_iter().for_each(|(caller, _)| caller.notify(Event::Leave(reason)));
    }

    /// Answers all of them; a connection with many is woken once.
    pub fn answer(self, reason: ReasonCode) {
        let mut receipts = self.0.into_iter().peekable();
        while let Some((caller, receipt)) = receipts.next() {
            let mut events = vec![Event::Stored(receipt, reason)];
            let same =
                |next: &Caller| next.outbox.id == caller.outbox.id && next.attachment == caller.attachment;
            while let Some((_, receipt)) = receipts.next_if(|(next, _)| same(next)) {
                events.push(Event::Stored(receipt, reason));
            }
            caller.notify_all(events);
        }
    }
}

impl Caller {
    pub fn notify(&self, event: Event) {
        self.outbox.notify_one(self.attachment, event);
    }

    pub fn notify_all(&self, events: impl IntoIterator<Item = Event>) {
        self.outbox.notify_all(self.attachment, events);
    }
}
