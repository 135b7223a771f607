//! Toward this node's own store: what must be safe before somebody is answered.
//!
//! Clients' threads say what has changed, in a lane of their own; one writer takes everything there is, stores it as a
//! whole, then hands messages to the queues and answers those who wait. Of state that is in memory too, a lane only says
//! *that* it changed, and the writer looks up what it is by then: so memory and store agree, whichever thread was first.
//!
//! The writer of a node's own store is the thread here; that of a store which all nodes share is the flusher of the bus.

mod writer;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::SystemTime;

use nsd_wire::{PacketId, ReasonCode};
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, oneshot};

pub use writer::Writer;

use crate::hub::{Ending, Event, Lasting, Outbox, Wanted};
use crate::lanes::{Caller, Lanes, Receipts};
use crate::limits;
use crate::message::Message;
use crate::session::Receipt;
use crate::store::change::Seq;

#[derive(Debug)]
pub struct Journal {
    lanes: Lanes<Load>,
    waiters: Mutex<Vec<Waiter>>,
    bell: Mutex<Bell>,
    rung: Condvar,
    /// Rung instead, where the writer is no thread of its own.
    work: Option<Arc<Notify>>,
    working: AtomicBool,
    /// Why nothing will be stored any more.
    broken: OnceLock<String>,
}

/// What wakes the writer.
#[derive(Debug, Default)]
struct Bell {
    rung: bool,
    over: bool,
}

/// What one thread has for the writer.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) work: Vec<Work>,
    /// For messages: refused when they cannot be stored.
    pub(crate) messages: Receipts,
    /// For steps of an exchange that is under way: they are answered as soon as it can be stored, however late.
    pub(crate) steps: Receipts,
}

#[derive(Debug)]
pub(crate) enum Work {
    Message(Box<ToStore>),
    /// A session began, went on, was parted from or ended.
    Session(Arc<Outbox>),
    /// The connection of a client has ended, which a store that all nodes share must know.
    Part(Arc<Outbox>, Ending),
    /// A persistent session has, or has not any more, a subscription.
    Filter(Arc<Outbox>, Box<str>, Option<Wanted>),
    /// A client's own QoS 2 message has had its PUBREL.
    Released(Arc<Outbox>, PacketId),
    /// A client has a QoS 2 message.
    Received(Arc<Outbox>, Seq),
    /// A message in a session's queue needs nothing more.
    Done(Arc<Outbox>, Seq),
    /// The retained message of a topic changed. Owed: nobody can be told that it is refused.
    Retained {
        topic: Box<str>,
        owed: bool,
    },
    /// A client's will changed.
    Will(Box<str>),
    /// A device came, changed or went.
    Device(Box<str>),
}

/// What a piece of work is about: the same again adds nothing.
#[derive(PartialEq, Eq, Hash)]
enum Subject<'w> {
    Session(u64),
    Part(u64),
    Filter(u64, &'w str),
    Released(u64, PacketId),
    Received(u64, Seq),
    Done(u64, Seq),
    Will(&'w str),
    Device(&'w str),
}

/// A message for persistent sessions.
#[derive(Debug)]
pub struct ToStore {
    pub message: Arc<Message>,
    /// When the broker got it.
    pub since: SystemTime,
    pub lasting: Lasting,
    /// It was retained, and goes to a new subscription.
    pub retained: bool,
    /// QoS 2 from a persistent session: the same identifier again is a repetition.
    pub hold: Option<(Arc<Outbox>, PacketId)>,
    /// Somebody is told if it is refused. If not, as of a will, it is lost then, counted.
    pub answered: bool,
}

/// Who wants to know when all that was said before is stored.
#[derive(Debug)]
pub(crate) enum Waiter {
    Client { caller: Caller, token: u32 },
    Call(oneshot::Sender<ReasonCode>),
}

impl Journal {
    pub fn new(lanes: usize) -> Self {
        Self {
            lanes: Lanes::new(lanes),
            waiters: Mutex::default(),
            bell: Mutex::default(),
            rung: Condvar::new(),
            work: None,
            working: AtomicBool::new(true),
            broken: OnceLock::new(),
        }
    }

    /// Whose writer is rung by this.
    pub fn shared(lanes: usize, work: Arc<Notify>) -> Self {
        Self { work: Some(work), ..Self::new(lanes) }
    }

    /// Whether the last batch could be stored.
    pub fn is_working(&self) -> bool {
        self.working.load(Ordering::Acquire)
    }

    /// Why nothing will be stored any more until the broker is started again.
    pub fn broken(&self) -> Option<&str> {
        self.broken.get().map(String::as_str)
    }

    pub(crate) fn set_working(&self, working: bool) -> bool {
        self.working.swap(working, Ordering::AcqRel)
    }

    /// Everything that was said. The waiters first: what they wait for was said before them.
    pub(crate) fn take(&self) -> (Vec<Waiter>, Vec<Load>) {
        let waiters = std::mem::take(&mut *self.waiters.lock());
        (waiters, self.lanes.take())
    }

    /// Takes a message for the queues of persistent sessions; with a receipt, it is answered once that is safe.
    /// `false`: wait for room.
    pub fn send(&self, to_store: ToStore, receipt: Option<(Caller, Receipt)>) -> bool {
        let weight = to_store.message.bytes().len() + 64 * (1 + to_store.lasting.len());
        let before = self.lanes.put(|load| {
            load.work.push(Work::Message(Box::new(to_store)));
            if let Some((caller, receipt)) = receipt {
                load.messages.push(caller, receipt);
            }
            weight
        });
        before < limits::LANE_MARK
    }

    /// A retained message was set or removed in memory.
    pub fn retained(&self, topic: &str, receipt: Option<(Caller, Receipt)>) -> bool {
        let before = self.lanes.put(|load| {
            load.work.push(Work::Retained { topic: topic.into(), owed: false });
            if let Some((caller, receipt)) = receipt {
                load.messages.push(caller, receipt);
            }
            topic.len() + 64
        });
        before < limits::LANE_MARK
    }

    /// The same because of a will: it is stored as soon as that can be.
    pub fn owe_retained(&self, topic: &str) {
        self.note(Work::Retained { topic: topic.into(), owed: true });
    }

    pub fn session_changed(&self, outbox: &Arc<Outbox>) {
        self.note(Work::Session(Arc::clone(outbox)));
    }

    pub fn part(&self, outbox: &Arc<Outbox>, ending: Ending) {
        self.note(Work::Part(Arc::clone(outbox), ending));
    }

    /// `wanted`: how, as of now.
    pub fn filter_changed(&self, outbox: &Arc<Outbox>, filter: &str, wanted: Option<Wanted>) {
        self.note(Work::Filter(Arc::clone(outbox), filter.into(), wanted));
    }

    /// The will of this client is another one now, or none.
    pub fn will_changed(&self, client_id: &str) {
        self.note(Work::Will(client_id.into()));
    }

    pub fn device_changed(&self, id: &str) {
        self.note(Work::Device(id.into()));
    }

    pub fn done(&self, outbox: &Arc<Outbox>, seq: Seq) {
        self.note(Work::Done(Arc::clone(outbox), seq));
    }

    pub fn received(&self, caller: Caller, seq: Seq, receipt: Receipt) {
        self.step(Work::Received(Arc::clone(&caller.outbox), seq), caller, receipt);
    }

    pub fn released(&self, caller: Caller, receipt: Receipt) {
        self.step(Work::Released(Arc::clone(&caller.outbox), receipt.id), caller, receipt);
    }

    fn step(&self, work: Work, caller: Caller, receipt: Receipt) {
        self.lanes.put(|load| {
            load.work.push(work);
            load.steps.push(caller, receipt);
            64
        });
    }

    fn note(&self, work: Work) {
        self.lanes.put(|load| {
            load.work.push(work);
            64
        });
    }

    /// Tells the connection once everything said so far is stored, or could not be.
    pub fn when_stored(&self, caller: Caller, token: u32) {
        self.waiters.lock().push(Waiter::Client { caller, token });
    }

    /// Waits until everything said so far is stored, or why it could not be.
    pub async fn stored(&self) -> ReasonCode {
        let (call, answer) = oneshot::channel();
        self.waiters.lock().push(Waiter::Call(call));
        self.flush();
        answer.await.unwrap_or(ReasonCode::ServerShuttingDown)
    }

    /// Something was put in: the writer may start.
    pub fn flush(&self) {
        if let Some(work) = &self.work {
            return work.notify_one();
        }
        let mut bell = self.bell.lock();
        if !std::mem::replace(&mut bell.rung, true) {
            self.rung.notify_one();
        }
    }

    /// Stores what there is, then the writer ends.
    pub fn finish(&self) {
        let mut bell = self.bell.lock();
        bell.over = true;
        self.rung.notify_one();
    }

    /// Ready once this thread's lane has room.
    pub fn poll_room(&self, context: &Context<'_>) -> Poll<()> {
        self.lanes.poll_room(limits::LANE_MARK, context)
    }
}

impl Work {
    /// Of what is about the same, only the last stays, in its place: for a writer that is told how it is.
    pub(crate) fn keep_last(work: &mut Vec<Self>) {
        let mut last = Self::new_subjects(work.iter().rev()).into_iter().rev();
        work.retain(|_| last.next() == Some(true));
    }

    /// Only the first stays: for a writer that looks up how it is by now.
    pub(crate) fn keep_first(work: &mut Vec<Self>) {
        let mut first = Self::new_subjects(work.iter()).into_iter();
        work.retain(|_| first.next() == Some(true));
    }

    fn new_subjects<'w>(work: impl Iterator<Item = &'w Self>) -> Vec<bool> {
        let mut known = HashSet::new();
        work.map(|work| work.subject().is_none_or(|subject| known.insert(subject))).collect()
    }

    /// It needs no room, and is over once it is stored.
    pub(crate) fn is_step(&self) -> bool {
        matches!(self, Self::Released(..) | Self::Received(..) | Self::Done(..))
    }

    /// `None`: each is answered, also where it is about the same.
    fn subject(&self) -> Option<Subject<'_>> {
        Some(match self {
            Self::Message(_) | Self::Retained { .. } => return None,
            Self::Session(outbox) => Subject::Session(outbox.id),
            Self::Part(outbox, _) => Subject::Part(outbox.id),
            Self::Filter(outbox, filter, _) => Subject::Filter(outbox.id, filter),
            Self::Released(outbox, id) => Subject::Released(outbox.id, *id),
            Self::Received(outbox, seq) => Subject::Received(outbox.id, *seq),
            Self::Done(outbox, seq) => Subject::Done(outbox.id, *seq),
            Self::Will(client_id) => Subject::Will(client_id),
            Self::Device(id) => Subject::Device(id),
        })
    }
}

impl Waiter {
    pub(crate) fn answer(self, reason: ReasonCode) {
        match self {
            Self::Client { caller, token } => caller.notify(Event::Known { token, reason }),
            Self::Call(call) => drop(call.send(reason)),
        }
    }
}

#[cfg(test)]
mod tests;
