//! What the store must know to turn changes into writes without reading the disk: where each queued entry stands, and
//! how many entries still need a shared body. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::time::SystemTime;

use foldhash::HashMap;

use super::codec::{self, SessionRecord};
use super::{BodyId, Place};
use crate::message::Message;
use crate::store::change::{Change, Entry, Seq, SessionId};

/// A session's record is written again each time that its queue has taken this many entries: for each one, the record's
/// page would be the dearest of the batch.
const SEQ_STEP: u64 = 1024;
/// A message that several entries have is cheaper beside each of them up to this size.
const SHARED_INLINE: usize = 64;
/// A message that one entry has stands beside it up to this size; a larger one is better cut into parts.
const ALONE_INLINE: usize = 16_000;

#[derive(Debug, Default)]
pub(super) struct Index {
    sessions: HashMap<SessionId, Session>,
    /// How many entries need the body. One that nobody needs is not there.
    bodies: HashMap<BodyId, u64>,
    next_session: SessionId,
    next_place: Place,
}

#[derive(Debug)]
struct Session {
    record: SessionRecord,
    queue: BTreeMap<Seq, Slot>,
}

/// Where an entry stands.
#[derive(Debug, Clone, Copy)]
struct Slot {
    place: Place,
    body: Option<NonZeroU64>,
    received: bool,
}

/// What one batch asks of the tables. `None` removes. Keys are in order: neighbours share a page.
#[derive(Debug, Default)]
pub(super) struct Writes<'c> {
    pub(super) next_session: Option<SessionId>,
    pub(super) sessions: BTreeMap<SessionId, Option<Vec<u8>>>,
    /// All that these have in other tables goes, before anything is put there.
    pub(super) closed: Vec<SessionId>,
    pub(super) subscriptions: BTreeMap<(SessionId, &'c str), Option<Vec<u8>>>,
    pub(super) held: BTreeMap<(SessionId, u16), bool>,
    /// In the order of their places, the first of which is `first`; `None` was done with in the same batch.
    pub(super) fresh: Vec<Option<Fresh<'c>>>,
    pub(super) first: Place,
    pub(super) done: Vec<Place>,
    pub(super) received: BTreeMap<Place, bool>,
    pub(super) bodies: Vec<(BodyId, &'c Message)>,
    pub(super) unneeded: Vec<BodyId>,
    pub(super) retained: BTreeMap<&'c str, Option<(&'c Message, SystemTime)>>,
    pub(super) wills: BTreeMap<&'c str, Option<Vec<u8>>>,
    pub(super) devices: BTreeMap<&'c str, Option<Vec<u8>>>,
}

/// An entry that is not on the disk yet.
#[derive(Debug)]
pub(super) struct Fresh<'c> {
    pub(super) session: SessionId,
    pub(super) entry: &'c Entry,
    pub(super) received: bool,
    pub(super) body: Option<BodyId>,
}

impl Writes<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.next_session.is_none()
            && self.sessions.is_empty()
            && self.closed.is_empty()
            && self.subscriptions.is_empty()
            && self.held.is_empty()
            && self.fresh.iter().all(Option::is_none)
            && self.done.is_empty()
            && self.received.is_empty()
            && self.unneeded.is_empty()
            && self.retained.is_empty()
            && self.wills.is_empty()
            && self.devices.is_empty()
    }
}

impl Index {
    pub(super) fn new(next_session: SessionId) -> Self {
        Self { next_session, next_place: 1, ..Self::default() }
    }

    /// A session as it was read.
    pub(super) fn add_session(&mut self, session: SessionId, record: SessionRecord) {
        self.next_session = self.next_session.max(session.saturating_add(1));
        self.sessions.insert(session, Session { record, queue: BTreeMap::new() });
    }

    /// An entry as it was read; `false` if its session is not there or has one at the same place of its queue.
    pub(super) fn add_entry(
        &mut self,
        (session, seq): (SessionId, Seq),
        place: Place,
        body: Option<BodyId>,
        received: bool,
    ) -> bool {
        self.next_place = self.next_place.max(place.saturating_add(1));
        if let Some(body) = body {
            *self.bodies.entry(body).or_insert(0) += 1;
        }
        let slot = Slot { place, body: body.and_then(NonZeroU64::new), received };
        self.sessions.get_mut(&session).is_some_and(|session| session.queue.insert(seq, slot).is_none())
    }

    /// How many entries need this body.
    pub(super) fn needed(&self, body: BodyId) -> u64 {
        self.bodies.get(&body).copied().unwrap_or(0)
    }

    pub(super) fn next_session(&self) -> SessionId {
        self.next_session
    }

    pub(super) fn next_seq(&self, session: SessionId) -> Seq {
        self.sessions.get(&session).map_or(0, |session| {
            let last = session.queue.keys().next_back().map_or(0, |seq| seq.saturating_add(1));
            session.record.bound.max(last)
        })
    }

    /// Takes the changes in, and says what must be written for them.
    pub(super) fn plan<'c>(&mut self, changes: &'c [Change]) -> Writes<'c> {
        let first = self.next_place;
        let mut plan =
            Plan { index: self, writes: Writes { first, ..Writes::default() }, dirty: BTreeSet::new() };
        for change in changes {
            plan.take(change);
        }
        plan.finish()
    }
}

struct Plan<'i, 'c> {
    index: &'i mut Index,
    writes: Writes<'c>,
    /// Sessions whose records have changed.
    dirty: BTreeSet<SessionId>,
}

impl<'c> Plan<'_, 'c> {
    /// What is said of a session that is over, or never was, is void: its end may have overtaken a message to it.
    fn take(&mut self, change: &'c Change) {
        match change {
            Change::Open { session, client_id, expiry } => self.open(*session, client_id, *expiry),
            Change::Part { session, at } => {
                if let Some(known) = self.index.sessions.get_mut(session) {
                    known.record.parted = Some(*at);
                    self.dirty.insert(*session);
                }
            }
            Change::Close { session } => self.close(*session),
            Change::Subscribe { session, filter, options, id } => {
                let value = encoded(|out| codec::write_subscription(*options, *id, out));
                self.subscription(*session, filter, Some(value));
            }
            Change::Unsubscribe { session, filter } => self.subscription(*session, filter, None),
            Change::Enqueue { session, entry } => self.enqueue(*session, entry),
            Change::Received { session, seq } => self.received(*session, *seq),
            Change::Done { session, seq } => {
                let slot = self.index.sessions.get_mut(session).and_then(|known| known.queue.remove(seq));
                if let Some(slot) = slot {
                    self.drop_entry(slot);
                }
            }
            Change::Hold { session, id } => self.hold(*session, id.get(), true),
            Change::Release { session, id } => self.hold(*session, id.get(), false),
            Change::Retain { message, since } => {
                self.writes.retained.insert(message.publish().topic, Some((message, *since)));
            }
            Change::Forget { topic } => {
                self.writes.retained.insert(topic, None);
            }
            Change::Will { client_id, will } => {
                self.writes.wills.insert(client_id, Some(encoded(|out| codec::write_will(will, out))));
            }
            Change::WillDone { client_id } => {
                self.writes.wills.insert(client_id, None);
            }
            Change::Device { id, secret, disabled } => {
                let value = encoded(|out| codec::write_device(secret, *disabled, out));
                self.writes.devices.insert(id, Some(value));
            }
            Change::NoDevice { id } => {
                self.writes.devices.insert(id, None);
            }
        }
    }

    fn open(&mut self, session: SessionId, client_id: &str, expiry: u32) {
        if session >= self.index.next_session {
            self.index.next_session = session.saturating_add(1);
            self.writes.next_session = Some(self.index.next_session);
        }
        let fresh = || Session {
            record: SessionRecord { client_id: client_id.into(), expiry, parted: None, bound: SEQ_STEP },
            queue: BTreeMap::new(),
        };
        let record = &mut self.index.sessions.entry(session).or_insert_with(fresh).record;
        let bound = record.bound;
        *record = SessionRecord { client_id: client_id.into(), expiry, parted: None, bound };
        self.dirty.insert(session);
    }

    fn close(&mut self, session: SessionId) {
        let Some(known) = self.index.sessions.remove(&session) else { return };
        for slot in known.queue.into_values() {
            self.drop_entry(slot);
        }
        self.dirty.remove(&session);
        self.writes.subscriptions.retain(|(of, _), _| *of != session);
        self.writes.held.retain(|(of, _), _| *of != session);
        self.writes.sessions.insert(session, None);
        self.writes.closed.push(session);
    }

    fn subscription(&mut self, session: SessionId, filter: &'c str, value: Option<Vec<u8>>) {
        if self.index.sessions.contains_key(&session) {
            self.writes.subscriptions.insert((session, filter), value);
        }
    }

    fn hold(&mut self, session: SessionId, id: u16, held: bool) {
        if self.index.sessions.contains_key(&session) {
            self.writes.held.insert((session, id), held);
        }
    }

    fn enqueue(&mut self, session: SessionId, entry: &'c Entry) {
        let Some(known) = self.index.sessions.get_mut(&session) else { return };
        if entry.seq >= known.record.bound {
            known.record.bound = entry.seq.saturating_add(SEQ_STEP);
            self.dirty.insert(session);
        }
        let place = self.index.next_place;
        self.index.next_place += 1;
        let before = known.queue.insert(entry.seq, Slot { place, body: None, received: entry.received });
        self.writes.fresh.push(Some(Fresh { session, entry, received: entry.received, body: None }));
        if let Some(slot) = before {
            self.drop_entry(slot);
        }
    }

    fn received(&mut self, session: SessionId, seq: Seq) {
        let slot = self.index.sessions.get_mut(&session).and_then(|known| known.queue.get_mut(&seq));
        let Some(slot) = slot.filter(|slot| !slot.received) else { return };
        slot.received = true;
        match fresh(&mut self.writes, slot.place) {
            Some(Some(fresh)) => fresh.received = true,
            _ => {
                self.writes.received.insert(slot.place, true);
            }
        }
    }

    fn drop_entry(&mut self, slot: Slot) {
        if let Some(fresh) = fresh(&mut self.writes, slot.place) {
            *fresh = None;
            return;
        }
        self.writes.done.push(slot.place);
        if slot.received {
            self.writes.received.insert(slot.place, false);
        }
        let Some(body) = slot.body.map(NonZeroU64::get) else { return };
        if let Some(count) = self.index.bodies.get_mut(&body) {
            *count -= 1;
            if *count == 0 {
                self.index.bodies.remove(&body);
                self.writes.unneeded.push(body);
            }
        }
    }

    fn finish(mut self) -> Writes<'c> {
        self.share();
        for session in self.dirty {
            if let Some(known) = self.index.sessions.get(&session) {
                self.writes.sessions.insert(session, Some(encoded(|out| known.record.write(out))));
            }
        }
        self.writes.done.sort_unstable();
        self.writes.unneeded.sort_unstable();
        self.writes
    }

    /// Fresh neighbours with one message get one body, under the place of the first of them; so does a large message.
    fn share(&mut self) {
        let first = self.writes.first;
        let mut fresh: Vec<_> = (first..)
            .zip(&mut self.writes.fresh)
            .filter_map(|(place, fresh)| Some((place, fresh.as_mut()?)))
            .collect();
        for group in fresh.chunk_by_mut(|(_, a), (_, b)| std::ptr::eq(&*a.entry.message, &*b.entry.message)) {
            let [(body, one), others @ ..] = group else { continue };
            let (body, message) = (*body, &*one.entry.message);
            let inline = if others.is_empty() { ALONE_INLINE } else { SHARED_INLINE };
            if message.bytes().len() <= inline {
                continue;
            }
            self.index.bodies.insert(body, group.len() as u64);
            self.writes.bodies.push((body, message));
            for (_, fresh) in group {
                fresh.body = Some(body);
                let slot = self.index.sessions.get_mut(&fresh.session);
                if let Some(slot) = slot.and_then(|known| known.queue.get_mut(&fresh.entry.seq)) {
                    slot.body = NonZeroU64::new(body);
                }
            }
        }
    }
}

/// The entry at this place, if it came in this batch.
fn fresh<'w, 'c>(writes: &'w mut Writes<'c>, place: Place) -> Option<&'w mut Option<Fresh<'c>>> {
    let index = usize::try_from(place.checked_sub(writes.first)?).ok()?;
    writes.fresh.get_mut(index)
}

fn encoded(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}
