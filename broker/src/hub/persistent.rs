//! What a session that outlives its connections is besides an outbox.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use foldhash::{HashMap, HashSet};
use nsd_wire::{AckKind, PacketId, ReasonCode, SubscribeOptions, SubscriptionId};

use super::outbox::Settlement;
use crate::access::Grant;
use crate::limits::Limits;
use crate::message::Will;
use crate::queue::Queue;
use crate::session::Settled;
use crate::store::change::{Entry, Seq, SessionId, StoredSession};

/// How a client wants one filter.
pub type Wanted = (SubscribeOptions, Option<SubscriptionId>);

#[derive(Debug, Default)]
pub struct Persistent {
    pub session: SessionId,
    pub queue: Queue,
    pub filters: HashMap<Box<str>, Wanted>,
    /// Identifiers of the client's own QoS 2 messages that wait for their PUBREL.
    pub held: HashSet<PacketId>,
    /// One of these is being passed on at this moment.
    pub taking: bool,
    /// Seconds that the session outlives its connection.
    pub expiry: u32,
    /// Messages that came before those of the places before them, as they do from other nodes.
    pub early: Option<Box<BTreeMap<Seq, Entry>>>,
    /// Messages that turned out to need nothing more; the connection tells the store.
    pub done: Vec<Seq>,
    /// While no client is connected.
    pub away: Option<Away>,
}

/// What is due while the client is away.
#[derive(Debug)]
pub struct Away {
    pub since: SystemTime,
    /// The session ends.
    pub ends: Instant,
    /// The will is published.
    pub will: Option<(Instant, Will)>,
}

impl Away {
    /// Of a client that went away at `since`, which was so long ago by now. A will whose delay is longer than the session
    /// lives is published at its end [MQTT5-3.1.3-9].
    pub fn from(since: SystemTime, (now, ago): (Instant, Duration), expiry: u32, will: Option<Will>) -> Self {
        let after = |seconds: u32| now + Duration::from_secs(seconds.into()).saturating_sub(ago);
        let ends = after(expiry);
        Self { since, ends, will: will.map(|will| (after(will.delay).min(ends), will)) }
    }

    pub fn next(&self) -> Instant {
        self.will.as_ref().map_or(self.ends, |(due, _)| *due)
    }
}

/// Whether a client with these rights may hear all that a stored session wants, and has waiting.
pub fn is_fit(stored: &StoredSession, grant: &Grant) -> bool {
    fits(grant, stored.subscriptions.iter().map(|(filter, ..)| filter), &stored.queue)
}

fn fits<'s>(
    grant: &Grant,
    filters: impl IntoIterator<Item = &'s Box<str>>,
    entries: impl IntoIterator<Item = &'s Entry>,
) -> bool {
    let mut topics = entries.into_iter().map(|entry| entry.message.publish().topic);
    filters.into_iter().all(|filter| grant.may_subscribe(filter))
        && topics.all(|topic| grant.may_subscribe(topic))
}

impl Persistent {
    /// Whether a client with these rights may hear all that the session wants, and has waiting.
    pub(super) fn is_fit_for(&self, grant: &Grant) -> bool {
        fits(grant, self.filters.keys(), self.queue.entries())
    }

    /// Its client has been away for too long.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.away.as_ref().is_some_and(|away| away.ends <= now)
    }

    /// What a store gave back; nobody is connected yet.
    pub fn restored(stored: StoredSession) -> Self {
        let StoredSession { session, expiry, subscriptions, queue, sent, next_seq, held, .. } = stored;
        let filters = subscriptions.into_iter().map(|(filter, options, id)| (filter, (options, id)));
        Self {
            session,
            queue: Queue::restored(queue, next_seq, sent),
            filters: filters.collect(),
            held: held.into_iter().collect(),
            expiry,
            ..Self::default()
        }
    }

    /// A message that has its place; it waits for those before it.
    pub(super) fn arrive(&mut self, entry: Entry, limits: &Limits) {
        if entry.seq != self.queue.next_place() {
            if entry.seq > self.queue.next_place() {
                self.early.get_or_insert_default().insert(entry.seq, entry);
            }
            return;
        }
        self.queue.arrive(entry, limits);
        self.take_early(limits);
    }

    /// All that the store has below `next` and was not known.
    pub(super) fn catch_up(&mut self, entries: Vec<Entry>, next: Seq, limits: &Limits) {
        for entry in entries {
            self.queue.arrive(entry, limits);
        }
        self.queue.know(next);
        self.take_early(limits);
    }

    fn take_early(&mut self, limits: &Limits) {
        let Some(early) = &mut self.early else { return };
        while let Some(first) = early.first_entry() {
            if *first.key() > self.queue.next_place() {
                return;
            }
            self.queue.arrive(first.remove(), limits);
        }
        self.early = None;
    }

    pub(super) fn settle(&mut self, kind: AckKind, id: PacketId, reason: ReasonCode) -> Settlement {
        let (settled, seq) = match kind {
            AckKind::PubAck => self.queue.on_puback(id),
            AckKind::PubRec => self.queue.on_pubrec(id, reason),
            AckKind::PubComp => self.queue.on_pubcomp(id),
            AckKind::PubRel => return Settlement::Nothing,
        };
        match (settled, seq) {
            (Settled::Done, Some(seq)) => Settlement::Done(seq),
            (Settled::Release(_), Some(seq)) => Settlement::ReleaseStored(seq),
            (Settled::Release(reason), None) => Settlement::Release(reason),
            (Settled::Unknown | Settled::Done, _) => Settlement::Nothing,
        }
    }
}
