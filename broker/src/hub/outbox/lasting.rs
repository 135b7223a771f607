//! The outbox of a session that outlives its connections: what it keeps, and its queue, from which it is filled.

use nsd_wire::PacketId;

use super::{Outbox, Put, State};
use crate::hub::persistent::Persistent;
use crate::limits::Limits;
use crate::message::Message;
use crate::queue::{Displaced, Place};
use crate::store::change::{Entry, Seq, SessionId};

impl Outbox {
    /// What its persistent session knows of itself, if it is one and not over.
    pub fn with_persistent<T>(&self, look: impl FnOnce(&mut Persistent) -> T) -> Option<T> {
        let mut state = self.state.lock();
        if state.closed {
            return None;
        }
        let found = state.persistent.as_deref_mut().map(look);
        state.account();
        found
    }

    /// A QoS 2 message of the client's begins. `false`: another connection has taken over, to which it is unknown.
    pub fn hold(&self, attachment: u64, id: PacketId) -> bool {
        let mut state = self.state.lock();
        let is_there = state.attachment == attachment && !state.closed;
        let Some(persistent) = state.persistent.as_deref_mut().filter(|_| is_there) else { return false };
        persistent.taking = true;
        persistent.held.insert(id);
        true
    }

    /// What was held last is on its way to all who want it.
    pub fn has_taken(&self) {
        self.with_persistent(|persistent| persistent.taking = false);
    }

    pub fn is_taking(&self) -> bool {
        self.with_persistent(|persistent| persistent.taking) == Some(true)
    }

    /// A place in the queue of a persistent session; `None`: the session is over. A client that is there and keeps up
    /// is given more than its limit: its publishers are slowed down before anything is dropped.
    pub fn place(&self, message: &Message, limits: &Limits) -> Option<(SessionId, Place)> {
        let mut state = self.state.lock();
        if self.is_overrun() {
            return None;
        }
        state.place(message, self.is_attached(), limits)
    }

    /// A message whose place was given is safe: it may be sent. It comes back where the session is over.
    pub(in crate::hub) fn enqueue(&self, entry: Entry) -> Result<Put, Entry> {
        self.state.lock().enqueue(entry, self.is_attached())
    }

    /// A message that was given its place by the store that all nodes share.
    pub fn arrive(&self, entry: Entry, limits: &Limits) {
        self.with_queue(|persistent| persistent.arrive(entry, limits));
    }

    /// All that this store has below `next` and this node was not told of.
    pub fn catch_up(&self, entries: Vec<Entry>, next: Seq, limits: &Limits) {
        self.with_queue(|persistent| persistent.catch_up(entries, next, limits));
    }

    fn with_queue(&self, change: impl FnOnce(&mut Persistent)) {
        let mut state = self.state.lock();
        let Some(persistent) = state.persistent.as_deref_mut() else { return };
        change(persistent);
        state.crowded |= state.persistent.as_ref().is_some_and(|persistent| persistent.queue.is_crowded());
        // To nobody nothing is sent: it would be repeated as if it had been.
        if self.is_attached() {
            state.fill();
        }
        let _ = state.put();
    }

    /// The place after all that have come; `None`: the session is over.
    pub fn next_place(&self) -> Option<Seq> {
        self.with_persistent(|persistent| persistent.queue.next_place())
    }

    /// Both, for a message that has no place yet and needs no store.
    pub fn place_and_enqueue(&self, entry: Entry, limits: &Limits) -> Option<(Place, Put)> {
        let mut state = self.state.lock();
        if self.is_overrun() {
            return None;
        }
        let (_, place) = state.place(&entry.message, self.is_attached(), limits)?;
        let put = match place {
            Place::Taken { seq, .. } => state.enqueue(Entry { seq, ..entry }, self.is_attached()).ok()?,
            Place::Full | Place::Overrun => Put::Lost,
        };
        Some((place, put))
    }

    /// A message whose place was given could not be made safe.
    pub fn give_back(&self, message: &Message) {
        let mut state = self.state.lock();
        let Some(persistent) = state.persistent.as_deref_mut() else { return };
        persistent.queue.give_back(message);
        state.relax();
        state.account();
    }

    /// A message that had to go for one that could not be made safe.
    pub fn put_back(&self, displaced: Displaced) {
        self.with_persistent(|persistent| persistent.queue.put_back(displaced));
    }
}

impl State {
    fn place(&mut self, message: &Message, attached: bool, limits: &Limits) -> Option<(SessionId, Place)> {
        let generous = attached && !self.lagging;
        let persistent = self.persistent.as_deref_mut()?;
        let place = persistent.queue.place(message, generous, limits);
        let (session, crowded) = (persistent.session, persistent.queue.is_crowded());
        self.crowded = crowded;
        self.account();
        Some((session, place))
    }

    fn enqueue(&mut self, entry: Entry, attached: bool) -> Result<Put, Entry> {
        match self.persistent.as_deref_mut() {
            Some(persistent) if !self.closed => persistent.queue.push(entry),
            _ => return Err(entry),
        }
        if !attached {
            return Ok(Put::Taken);
        }
        self.fill();
        Ok(self.put())
    }
}
