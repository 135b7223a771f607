//! The clients living on this node: who they are, what they subscribe to, and how a message reaches them.
//!
//! A publisher's thread writes straight into each receiver's [`Outbox`]. Topic → receivers is remembered by each
//! thread and forgotten when the generation moves on.

mod aliases;
mod backlog;
mod buffers;
mod card;
mod clients;
mod memory;
mod outbox;
mod parcel;
mod patience;
mod pending;
mod persistent;
mod retained;
mod route;
mod sessions;
mod share;
mod shared;
mod waits;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use nsd_wire::{Publish, ReasonCode, SubscribeOptions, SubscriptionId, topic};
use parking_lot::{Mutex, RwLock};

use clients::Clients;

pub(crate) use buffers::{give as give_buffer, take as take_buffer};
pub use card::Card;
pub(crate) use memory::Held;
pub use outbox::{Capacity, Event, Load, Outbox, Put, Settlement, Taken, Terms};
pub use parcel::Parcel;
pub use persistent::{Away, Persistent, Wanted, is_fit};
pub use retained::{Kept, Retained};
pub use route::{Addressee, Keepsake, Lasting, Placed, Routed, route, wake_receivers};
pub use sessions::{Entered, Newcomer, Parting};
pub use shared::Ending;
pub use writer::Writer;

use crate::bus::Bus;
use crate::journal::Journal;
use crate::limits::{self, Limits};
use crate::message::{Message, Will};
use crate::store::change::SessionId;
use crate::topic::{Inserted, Tree};

/// How a filter is subscribed to.
#[derive(Debug, Clone, Copy)]
pub struct Subscription {
    pub options: SubscribeOptions,
    pub id: Option<SubscriptionId>,
}

/// Whose subscription it is. One client may have a filter for itself and as a member of any number of groups.
#[derive(Debug, Clone)]
struct Subscriber {
    outbox: Arc<Outbox>,
    share: Option<Arc<share::Share>>,
}

impl Ord for Subscriber {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let name = |one: &Self| (one.outbox.id, one.share.as_ref().map(|share| Arc::as_ptr(share).addr()));
        name(self).cmp(&name(other))
    }
}

impl PartialOrd for Subscriber {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Subscriber {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Subscriber {}

#[derive(Debug)]
pub struct Hub {
    subscriptions: RwLock<Tree<Subscriber, Subscription>>,
    /// How many of them are shared.
    shared: AtomicUsize,
    shares: share::Shares,
    /// The session of each client id, connected or not.
    clients: Mutex<Clients>,
    /// Of a store that all nodes share: the sessions whose clients are connected here.
    here: RwLock<HashMap<SessionId, Arc<Outbox>>>,
    /// Client ids whose connection has ended, which the store is yet to be told.
    leaving: Mutex<HashSet<Box<str>>>,
    /// How many clients are connected.
    attached: AtomicUsize,
    agenda: sessions::Agenda,
    pub retained: RwLock<Retained>,
    /// The other nodes; `None` where there can be none.
    pub bus: Option<Arc<Bus>>,
    /// Toward the store, of this node or of all; `None` where what outlives a connection does not outlive the process.
    pub journal: Option<Arc<Journal>>,
    /// Of all queues.
    limits: Arc<ArcSwap<Limits>>,
    /// Raised by every change of who gets what, here or on other nodes.
    generation: AtomicU64,
    next_id: AtomicU64,
    pressed: AtomicBool,
    /// For persistent sessions; above all that the store knows.
    pub next_session: AtomicU64,
}

impl Hub {
    pub fn new(bus: Option<Arc<Bus>>, journal: Option<Arc<Journal>>, limits: Arc<ArcSwap<Limits>>) -> Self {
        let now = limits.load();
        // In a cluster this mirrors what Redis has accepted.
        let (most, bytes) =
            if bus.is_some() { (usize::MAX, usize::MAX) } else { (now.retained, now.retained_bytes) };
        Self {
            subscriptions: RwLock::default(),
            shared: AtomicUsize::new(0),
            shares: share::Shares::default(),
            clients: Mutex::default(),
            here: RwLock::new(HashMap::new()),
            leaving: Mutex::new(HashSet::new()),
            attached: AtomicUsize::new(0),
            agenda: sessions::Agenda::default(),
            retained: RwLock::new(Retained::new(most, bytes)),
            bus,
            journal,
            limits: Arc::clone(&limits),
            generation: AtomicU64::new(1),
            next_id: AtomicU64::new(1),
            pressed: AtomicBool::new(false),
            next_session: AtomicU64::new(1),
        }
    }

    pub fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Retains a message, or removes what is retained for its topic. With a store it is not sure before the journal was
    /// told of it and has stored it. `false`: there is no room.
    pub fn retain(&self, message: Arc<Message>, since: SystemTime) -> bool {
        self.keep(&mut self.retained.write(), message, since)
    }

    fn keep(&self, retained: &mut Retained, message: Arc<Message>, since: SystemTime) -> bool {
        match &self.journal {
            Some(_) => retained.set_unsure(message, since),
            None => retained.set(message, since),
        }
    }

    /// Looks behind this topic for retained messages that have expired, and removes them: nobody gets them any more, and
    /// nobody is told. The topic to go on behind; `None`: that was all.
    pub fn clear_expired(&self, after: Option<&str>) -> Option<Box<str>> {
        let now = SystemTime::now();
        let (mut found, next) = self.retained.read().slice("#", after, limits::EXPIRED_SLICE);
        found.retain(|kept| kept.waited(now).is_none() && self.clear(kept, now));
        if let Some(journal) = self.journal.as_ref().filter(|_| !found.is_empty()) {
            found.iter().for_each(|kept| journal.owe_retained(kept.message.publish().topic));
            journal.flush();
        }
        next
    }

    /// `false`: another one has taken its place.
    fn clear(&self, kept: &Arc<Kept>, now: SystemTime) -> bool {
        let topic = kept.message.publish().topic;
        let nothing = Message::new(&Publish { retain: true, ..Publish::new(topic, b"") });
        let mut retained = self.retained.write();
        let is_there = retained.get(topic).is_some_and(|there| Arc::ptr_eq(there, kept));
        nothing.filter(|_| is_there).is_some_and(|nothing| self.keep(&mut retained, Arc::new(nothing), now))
    }

    pub fn routes_changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    pub fn connected(&self) -> usize {
        self.attached.load(Ordering::Relaxed)
    }

    /// Sessions, whether their clients are connected or not.
    pub fn sessions(&self) -> usize {
        self.clients.lock().len()
    }

    /// Whether there is a session under this client id.
    pub fn knows(&self, client_id: &str) -> bool {
        self.clients.lock().get(client_id).is_some()
    }

    /// Sessions whose client is away.
    pub fn away(&self) -> usize {
        self.clients.lock().len().saturating_sub(self.connected())
    }

    pub fn subscribed(&self) -> usize {
        self.subscriptions.read().len()
    }

    /// Of these, those to shared subscriptions.
    pub fn subscribed_shared(&self) -> usize {
        self.shared.load(Ordering::Relaxed)
    }

    pub fn forget_subscriptions<'f>(&self, outbox: &Arc<Outbox>, filters: impl IntoIterator<Item = &'f str>) {
        let mut filters = filters.into_iter().peekable();
        if filters.peek().is_some() {
            self.unsubscribe(outbox, filters);
        }
    }

    /// Of a persistent session, what it has must say so before: whoever ends the session meanwhile takes out what it has,
    /// and after that nothing is put in.
    pub fn subscribe<'f>(
        &self,
        outbox: &Arc<Outbox>,
        wishes: impl IntoIterator<Item = (&'f str, SubscribeOptions, Option<SubscriptionId>)>,
    ) {
        let mut tree = self.subscriptions.write();
        if outbox.session.is_some() && outbox.is_closed() {
            return;
        }
        for (text, options, id) in wishes {
            let (filter, key) = self.place_of(text, outbox);
            let is_shared = key.share.is_some();
            let Inserted { first, replaced } = tree.insert(filter, key, Subscription { options, id });
            self.shared.fetch_add(usize::from(is_shared && replaced.is_none()), Ordering::Relaxed);
            // Under the tree's lock, so that the others hear of first and last in the order in which they were.
            if let Some(bus) = self.bus.as_ref().filter(|_| first) {
                bus.announce(filter, true);
            }
        }
        self.routes_changed();
    }

    pub fn unsubscribe<'f>(&self, outbox: &Arc<Outbox>, filters: impl IntoIterator<Item = &'f str>) {
        let mut tree = self.subscriptions.write();
        for text in filters {
            let (filter, key) = self.place_of(text, outbox);
            let Some(removed) = tree.remove(filter, &key) else { continue };
            self.shared.fetch_sub(usize::from(key.share.is_some()), Ordering::Relaxed);
            let last = removed.last;
            if let Some(bus) = self.bus.as_ref().filter(|_| last) {
                bus.announce(filter, false);
            }
        }
        self.routes_changed();
    }

    /// Where in the tree a subscription stands, and as whose.
    fn place_of<'f>(&self, text: &'f str, outbox: &Arc<Outbox>) -> (&'f str, Subscriber) {
        let shared = topic::Shared::parse(text);
        let share = shared.as_ref().map(|_| self.shares.get(text));
        (shared.map_or(text, |shared| shared.filter), Subscriber { outbox: Arc::clone(outbox), share })
    }

    /// Everything subscribed to here. Changes announced before are part of it, so they are taken back.
    pub fn filters(&self) -> Vec<String> {
        let tree = self.subscriptions.read();
        if let Some(bus) = &self.bus {
            bus.take_back();
        }
        tree.filters()
    }

    /// What is to be published should this client be gone for good.
    pub fn will_of(&self, client_id: &str) -> Option<Will> {
        let outbox = self.clients.lock().get(client_id).cloned()?;
        let waiting = || {
            let will = |persistent: &mut Persistent| {
                let away = persistent.away.as_ref()?;
                away.will.as_ref().map(|(_, will)| will.clone())
            };
            outbox.with_persistent(will)?
        };
        outbox.will().or_else(waiting)
    }

    /// The session of a client id, connected or not.
    pub fn session(&self, client_id: &str) -> Option<Arc<Outbox>> {
        self.clients.lock().get(client_id).cloned()
    }

    /// All sessions, connected or not.
    pub fn all_sessions(&self) -> Vec<Arc<Outbox>> {
        self.clients.lock().iter().cloned().collect()
    }

    /// What a session is subscribed to. Looks at every subscription, so it is for people who ask.
    pub fn filters_of(&self, outbox: &Outbox) -> Vec<(String, SubscribeOptions)> {
        let mut found = Vec::new();
        self.subscriptions.read().each(&mut |filter, key, subscription| {
            if key.outbox.id == outbox.id {
                let whole = key.share.as_ref().and_then(|share| self.shares.text_of(share));
                found.push((whole.unwrap_or_else(|| filter.to_owned()), subscription.options));
            }
        });
        found
    }

    /// Those who are connected.
    pub fn clients(&self) -> Vec<Arc<Outbox>> {
        self.clients.lock().iter().filter(|outbox| outbox.is_attached()).cloned().collect()
    }

    /// All that are connected, for a stop.
    pub fn send_away(&self, reason: ReasonCode) {
        self.clients().iter().for_each(|outbox| outbox.notify(Event::Leave(reason)));
    }
}
