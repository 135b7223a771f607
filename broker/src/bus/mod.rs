//! Toward the other nodes: what this node wants them to have, gathered while the last batch is on its way.
//!
//! Publishers' threads append to a lane of their own; one flusher takes everything there is, writes it to Redis in one
//! pipeline, and answers those who wait for it. One batch at a time: what arrives meanwhile forms the next, so batches
//! grow with the load and need no timer.

pub mod codec;
mod flusher;
mod inbox;
mod membership;
mod mirror;
mod packets;
mod writes;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use foldhash::{HashMap, HashMapExt};
use nsd_wire::{PacketId, Publish, Qos};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

pub use flusher::Flusher;
pub use inbox::listen;

use crate::hub::{Addressee, Outbox, Routed, Wanted};
use crate::lanes::{Caller, Lanes, Receipts};
use crate::limits;
use crate::message::Message;
use crate::session::Receipt;
use crate::store::change::SessionId;
use crate::topic::Tree;

/// This node's side of the cluster.
#[derive(Debug)]
pub struct Bus {
    /// Random at every start: a restarted node is another node, and nothing of the old one is mistaken for its own.
    pub node: u64,
    lanes: Lanes<Load>,
    changes: Mutex<Vec<RouteChange>>,
    waiters: Mutex<Vec<Waiter>>,
    /// Rings the flusher.
    pub work: Arc<Notify>,
    /// Which other node wants which filter.
    routes: RwLock<Tree<u64, ()>>,
    /// Which session that outlives its connections wants which filter, wherever its client is.
    sessions: RwLock<Tree<SessionId, Wanted>>,
    /// Sessions here whose queues are to be looked at: something may have come that nobody told of.
    stale: Mutex<Stale>,
    /// Of the hints that were sent to this node, the last one that it heard.
    heard: AtomicU64,
    /// Clients may have been claimed elsewhere and nobody told.
    asserts: AtomicBool,
    /// This node may owe wills that it does not know of.
    collects: AtomicBool,
    connected: AtomicBool,
    pub counters: Counters,
}

#[derive(Debug, Default)]
pub struct Counters {
    pub batches: AtomicU64,
    pub commands: AtomicU64,
    pub sent: AtomicU64,
    pub received: AtomicU64,
    /// QoS 0 that did not leave this node: Redis was away, or did not keep up.
    pub dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Stale {
    some: Vec<Arc<Outbox>>,
    all: bool,
}

/// Where a message comes from, as far as that must be known to keep it.
#[derive(Debug, Default)]
pub struct Origin {
    /// The client's own outbox.
    pub sender: Option<Arc<Outbox>>,
    /// QoS 2 from a session that outlives its connection: the same identifier again is a repetition.
    pub hold: Option<PacketId>,
    /// The will that it is, by its name: with the message it is written that it is published.
    pub owed: Option<Box<str>>,
}

/// A filter got its first subscriber here, or lost its last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteChange {
    pub filter: Box<str>,
    pub added: bool,
}

/// A connection that wants to know when all that was announced before is known to every node.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) caller: Caller,
    pub(crate) token: u32,
}

/// What one thread has for the others.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// Messages, one after another, as `message` writes them.
    pub(crate) bytes: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) receipts: Receipts,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) length: usize,
    pub(crate) nodes: Option<Arc<[u64]>>,
    /// Under which the nodes were found.
    pub(crate) generation: u64,
    pub(crate) retain: bool,
    pub(crate) durable: bool,
    pub(crate) addressees: Option<Arc<[Addressee]>>,
    pub(crate) origin: Origin,
}

impl Bus {
    pub fn new(lanes: usize) -> Self {
        Self {
            node: fastrand::u64(1..),
            lanes: Lanes::new(lanes),
            changes: Mutex::default(),
            waiters: Mutex::default(),
            work: Arc::default(),
            routes: RwLock::default(),
            sessions: RwLock::default(),
            stale: Mutex::default(),
            heard: AtomicU64::new(0),
            asserts: AtomicBool::new(false),
            collects: AtomicBool::new(false),
            connected: AtomicBool::new(true),
            counters: Counters::default(),
        }
    }

    /// Whether Redis answers; while it does not, QoS 0 stays local and the rest waits.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    /// Other nodes that want this topic, each once.
    pub fn interested(&self, topic: &str) -> Vec<u64> {
        let mut nodes = Vec::new();
        self.routes.read().visit(topic, &mut |node, ()| nodes.push(*node));
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Sessions that want this topic above QoS 0, each once.
    pub fn addressees(&self, topic: &str) -> Vec<Addressee> {
        let (mut at, mut found) = (HashMap::new(), Vec::new());
        self.sessions.read().visit(topic, &mut |session, (options, id)| {
            let index = *at.entry(*session).or_insert(found.len());
            if index == found.len() {
                found.push(Addressee::new(*session));
            }
            found[index].add(*options, *id);
        });
        found.retain(Addressee::is_lasting);
        found
    }

    /// How many subscriptions there are of all sessions that outlive their connections.
    pub fn durable_subscriptions(&self) -> usize {
        self.sessions.read().len()
    }

    /// Something may have come to this session's queue that nobody told of.
    pub fn look_at(&self, outbox: &Arc<Outbox>) {
        self.stale.lock().some.push(Arc::clone(outbox));
        self.work.notify_one();
    }

    /// The same, to any of them.
    pub fn look_at_all(&self) {
        self.doubt_all();
        self.work.notify_one();
    }

    /// They are looked at when there is something to do, or after a while.
    fn doubt_all(&self) {
        self.stale.lock().all = true;
    }

    fn take_stale(&self) -> Stale {
        std::mem::take(&mut *self.stale.lock())
    }

    /// The last hint that was heard.
    fn heard(&self) -> u64 {
        self.heard.load(Ordering::Acquire)
    }

    fn hear(&self, number: u64) {
        self.heard.store(number, Ordering::Release);
    }

    /// The inbox was cut off: whatever was sent to it may be lost.
    fn doubt_inbox(&self) {
        self.asserts.store(true, Ordering::Release);
        self.look_at_all();
    }

    /// Looks for wills that this node owes: all that it publishes go this way, so each is published once.
    pub fn collect(&self) {
        self.doubt_wills();
        self.work.notify_one();
    }

    /// They are looked for when there is something to do, or after a while.
    fn doubt_wills(&self) {
        self.collects.store(true, Ordering::Release);
    }

    /// Changes that were not taken: they come before all others.
    fn put_back(&self, mut changes: Vec<RouteChange>) {
        let mut now = self.changes.lock();
        changes.append(&mut now);
        *now = changes;
    }

    /// Must be called under the lock that decides what is first and last, so that the order is kept.
    pub fn announce(&self, filter: &str, added: bool) {
        self.changes.lock().push(RouteChange { filter: filter.into(), added });
    }

    /// What was announced is said in another way: as a whole. Called under the same lock as `announce`.
    pub fn take_back(&self) {
        self.changes.lock().clear();
    }

    /// Tells the connection once everything announced so far is known.
    pub fn when_known(&self, caller: Caller, token: u32) {
        self.waiters.lock().push(Waiter { caller, token });
    }

    /// Takes a message for the next batch. Each goes along, wanted elsewhere or not: only the batch learns whether
    /// another node's subscription is older than the message but newer than our mirror. `false`: wait for room.
    pub fn send(
        &self,
        publish: &Publish<'_>,
        routed: &Routed,
        origin: Origin,
        receipt: Option<(Caller, Receipt)>,
    ) -> bool {
        let lasting = publish.qos != Qos::AtMostOnce || origin.owed.is_some();
        let durable = lasting || publish.retain;
        let waiting = self.lanes.bytes();
        if !durable && (waiting > 2 * limits::LANE_MARK || !self.is_connected()) {
            if routed.nodes.is_some() {
                self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            }
            return true;
        }
        self.lanes.put(|load| {
            let before = load.bytes.len();
            if Message::write(publish, &mut load.bytes) {
                let length = load.bytes.len() - before;
                let (nodes, generation) = (routed.nodes.clone(), routed.generation);
                load.entries.push(Entry {
                    length,
                    nodes,
                    generation,
                    retain: publish.retain,
                    durable: lasting,
                    addressees: routed.addressees.clone(),
                    origin,
                });
            }
            if let Some((caller, receipt)) = receipt {
                load.receipts.push(caller, receipt);
            }
            load.bytes.len() - before
        });
        waiting < limits::LANE_MARK || publish.qos == Qos::AtMostOnce && !self.is_connected()
    }

    /// Whoever waits for room looks again.
    fn wake_blocked(&self) {
        self.lanes.wake_blocked();
    }

    /// Something was put in: the flusher may start.
    pub fn flush(&self) {
        self.work.notify_one();
    }

    /// Ready once this thread's lane has room; without Redis, QoS 0 does not wait for it.
    pub fn poll_room(&self, durable: bool, context: &Context<'_>) -> Poll<()> {
        if !durable && !self.is_connected() {
            return Poll::Ready(());
        }
        self.lanes.poll_room(limits::LANE_MARK, context)
    }
}
