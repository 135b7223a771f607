//! The QoS 1 and 2 messages of one persistent session on their way to its client, whether it is there or not. Pure.
//!
//! A message's packet identifier follows from its place in the queue, so it stays the same over connections and
//! restarts, and sending stores nothing. Messages are sent in order; what was sent on an earlier connection and not
//! acknowledged is sent again first.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use nsd_wire::{PacketId, Qos, ReasonCode};

use crate::limits::{Limits, QueuePolicy};
use crate::message::Message;
use crate::session::Settled;
use crate::store::change::{Entry, Seq};

/// Packet identifiers go round after so many places.
const IDENTIFIERS: u64 = u16::MAX as u64;

#[derive(Debug, Default)]
pub struct Queue {
    slots: VecDeque<Slot>,
    /// Slots from the front that were sent on the connection of now.
    sent: usize,
    /// Slots from the front that were sent on any connection.
    begun: usize,
    /// Sent on the connection of now, and not finished.
    open: usize,
    /// Waiting and reserved, in number and in bytes of the messages and what keeps them.
    messages: usize,
    bytes: usize,
    next: Seq,
    /// Above this number of messages or bytes, publishers are asked to wait.
    crowd: (usize, usize),
}

#[derive(Debug, PartialEq, Eq)]
struct Slot {
    seq: Seq,
    state: State,
    /// `None`: nothing needs to be sent any more.
    entry: Option<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fresh,
    /// Of an earlier process, which may have sent it.
    Restored,
    Sent,
    /// QoS 2: the client has it, and waits for PUBREL.
    Received,
    /// Behind one that is not.
    Done,
}

/// The answer to a message that wants in.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// Its place; these had to go for it.
    Taken { seq: Seq, instead_of: Vec<Displaced> },
    /// There is none: the message is dropped.
    Full,
    /// There is none, and the policy is to end the session.
    Overrun,
}

/// A message that had to go for another one.
#[derive(Debug, PartialEq, Eq)]
pub struct Displaced(Slot);

impl Displaced {
    pub fn seq(&self) -> Seq {
        self.0.seq
    }
}

/// What to send next.
#[derive(Debug)]
pub enum Next<'q> {
    Publish {
        id: PacketId,
        dup: bool,
        entry: &'q Entry,
        /// Seconds since the broker got the message.
        waited: u32,
    },
    Release(PacketId),
    /// Nothing: this one has expired.
    Expired(Seq),
}

impl Queue {
    /// What a store gave back, in order. `sent`: what has a place below this one was sent, the rest was not; `None`: nobody
    /// knows.
    pub fn restored(entries: Vec<Entry>, next: Seq, sent: Option<Seq>) -> Self {
        let mut queue = Self { next, ..Self::default() };
        queue.begun = entries.iter().take_while(|entry| sent.is_some_and(|sent| entry.seq < sent)).count();
        for entry in entries {
            let state = match sent {
                _ if entry.received => State::Received,
                None => State::Restored,
                Some(sent) if entry.seq < sent => State::Sent,
                Some(_) => State::Fresh,
            };
            queue.messages += 1;
            queue.bytes += weight(&entry.message);
            queue.slots.push_back(Slot { seq: entry.seq, state, entry: Some(entry) });
        }
        queue
    }

    /// Messages that wait or are not acknowledged.
    pub fn len(&self) -> usize {
        self.messages
    }

    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sent and not acknowledged.
    pub fn in_flight(&self) -> usize {
        self.open
    }

    /// A place for a message, to be filled by [`Self::push`] or given back by [`Self::give_back`].
    /// Generously: for a client that keeps up, whose publishers are asked to wait, four times the bytes are the limit.
    pub fn place(&mut self, message: &Message, generous: bool, limits: &Limits) -> Place {
        let bytes = weight(message);
        let mut instead_of = Vec::new();
        self.crowd = (limits.queue_messages / 2, limits.queue_bytes / 2);
        let (most, most_bytes) = match generous {
            true => (usize::MAX, limits.queue_bytes.saturating_mul(4)),
            false => (limits.queue_messages, limits.queue_bytes),
        };
        while self.messages >= most || self.bytes + bytes > most_bytes {
            match limits.queue_policy {
                QueuePolicy::Disconnect => return Place::Overrun,
                QueuePolicy::DropNewest => return Place::Full,
                QueuePolicy::DropOldest if bytes > most_bytes => return Place::Full,
                QueuePolicy::DropOldest => match self.drop_oldest() {
                    Some(displaced) => instead_of.push(displaced),
                    None if instead_of.is_empty() => return Place::Full,
                    None => break,
                },
            }
        }
        self.messages += 1;
        self.bytes += bytes;
        self.next += 1;
        Place::Taken { seq: self.next - 1, instead_of }
    }

    /// Fills a place, in the order of places.
    pub fn push(&mut self, entry: Entry) {
        self.slots.push_back(Slot { seq: entry.seq, state: State::Fresh, entry: Some(entry) });
    }

    /// What has a place below this one was sent, on any connection; the rest was not.
    pub fn sent_below(&self) -> Seq {
        match self.begun.checked_sub(1).and_then(|last| self.slots.get(last)) {
            Some(last) => last.seq + 1,
            None => self.slots.front().map_or(self.next, |first| first.seq),
        }
    }

    /// The place that comes next.
    pub fn next_place(&self) -> Seq {
        self.next
    }

    /// Takes a message that was given its place elsewhere; one behind places that were never seen leaves them empty, one
    /// that is known already changes nothing.
    pub fn arrive(&mut self, entry: Entry, limits: &Limits) {
        if entry.seq < self.next {
            return;
        }
        self.crowd = (limits.queue_messages / 2, limits.queue_bytes / 2);
        self.messages += 1;
        self.bytes += weight(&entry.message);
        self.next = entry.seq + 1;
        self.push(entry);
    }

    /// All places below this one are known.
    pub fn know(&mut self, next: Seq) {
        self.next = self.next.max(next);
    }

    pub fn is_crowded(&self) -> bool {
        self.messages > self.crowd.0 || self.bytes > self.crowd.1
    }

    /// Far above what crowds it, and halfway to what even a client that keeps up is not given.
    pub fn is_brimming(&self) -> bool {
        self.messages / 4 > self.crowd.0 || self.bytes / 4 > self.crowd.1
    }

    /// Well below what crowds it.
    pub fn is_relaxed(&self) -> bool {
        self.messages <= self.crowd.0 / 2 && self.bytes <= self.crowd.1 / 2
    }

    /// A place that is not needed after all; it stays empty.
    pub fn give_back(&mut self, message: &Message) {
        self.messages -= 1;
        self.bytes -= weight(message);
    }

    /// What had to go for a message that was given back has its old place. If others behind it were sent meanwhile, it comes
    /// when the client is connected anew.
    pub fn put_back(&mut self, Displaced(slot): Displaced) {
        let Some(entry) = &slot.entry else { return };
        self.messages += 1;
        self.bytes += weight(&entry.message);
        let at = self.slots.partition_point(|other| other.seq < slot.seq);
        self.sent += usize::from(at < self.sent);
        self.begun += usize::from(at < self.begun);
        self.slots.insert(at, slot);
    }

    /// The client is connected anew: what it has not acknowledged is sent again.
    pub fn rewind(&mut self) {
        self.sent = 0;
        self.open = 0;
    }

    /// Whether [`Self::next`] may have something.
    pub fn has_more(&self) -> bool {
        self.sent < self.slots.len()
    }

    /// The next packet for a client that takes `window` messages at a time.
    pub fn next(&mut self, window: u16, now: SystemTime) -> Option<Next<'_>> {
        while self.slots.get(self.sent)?.state == State::Done {
            self.sent += 1;
        }
        let first = self.slots.front()?.seq;
        let slot = &self.slots[self.sent];
        let (seq, id) = (slot.seq, identifier(slot.seq));
        if slot.state == State::Received {
            self.step();
            return Some(Next::Release(id));
        }
        let crowded = self.open >= usize::from(window) || seq - first >= IDENTIFIERS;
        if crowded {
            return None;
        }
        let entry = slot.entry.as_ref()?;
        let age = now.duration_since(entry.since).unwrap_or_default();
        let expiry = entry.message.publish().properties.message_expiry;
        let expired = expiry.is_some_and(|seconds| age >= Duration::from_secs(seconds.into()));
        // A delivery that has begun is finished, however long it takes.
        if expired && slot.state != State::Sent {
            self.finish(self.sent);
            return Some(Next::Expired(seq));
        }
        let dup = slot.state != State::Fresh;
        self.slots[self.sent].state = State::Sent;
        let at = self.sent;
        self.step();
        let entry = self.slots[at].entry.as_ref()?;
        let waited = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        Some(Next::Publish { id, dup, entry, waited })
    }

    fn step(&mut self) {
        self.sent += 1;
        self.open += 1;
        self.begun = self.begun.max(self.sent);
    }

    /// The place whose packet could not be written for this client: as if it had been delivered [MQTT-3.1.2-25].
    pub fn skip(&mut self, id: PacketId) -> Option<Seq> {
        let at = self.find(id)?;
        self.end(at)
    }

    pub fn on_puback(&mut self, id: PacketId) -> (Settled, Option<Seq>) {
        match self.find(id).filter(|&at| self.is(at, State::Sent, Qos::AtLeastOnce)) {
            Some(at) => (Settled::Done, self.end(at)),
            None => (Settled::Unknown, None),
        }
    }

    /// With the place that must be stored as received before PUBREL is sent, or that is over.
    pub fn on_pubrec(&mut self, id: PacketId, reason: ReasonCode) -> (Settled, Option<Seq>) {
        let Some(at) = self.find(id) else {
            return (unknown_release(reason), None);
        };
        if self.is(at, State::Sent, Qos::ExactlyOnce) {
            if reason.is_failure() {
                return (Settled::Done, self.end(at));
            }
            self.slots[at].state = State::Received;
            if let Some(entry) = &mut self.slots[at].entry {
                entry.received = true;
            }
            return (Settled::Release(ReasonCode::Success), Some(self.slots[at].seq));
        }
        // Once more: our PUBREL was lost.
        let again = self.slots[at].state == State::Received && !reason.is_failure();
        (if again { Settled::Release(ReasonCode::Success) } else { unknown_release(reason) }, None)
    }

    pub fn on_pubcomp(&mut self, id: PacketId) -> (Settled, Option<Seq>) {
        match self.find(id).filter(|&at| self.slots[at].state == State::Received) {
            Some(at) => (Settled::Done, self.end(at)),
            None => (Settled::Unknown, None),
        }
    }

    fn is(&self, at: usize, state: State, qos: Qos) -> bool {
        let slot = &self.slots[at];
        slot.state == state && slot.entry.as_ref().is_some_and(|entry| entry.qos == qos)
    }

    /// Of what was sent on the connection of now.
    fn find(&self, id: PacketId) -> Option<usize> {
        let first = self.slots.front()?.seq;
        let ahead = (u64::from(id.get() - 1) + IDENTIFIERS - first % IDENTIFIERS) % IDENTIFIERS;
        let at = self.slots.partition_point(|slot| slot.seq < first + ahead);
        let found = at < self.sent && self.slots[at].seq == first + ahead;
        found.then_some(at)
    }

    fn end(&mut self, at: usize) -> Option<Seq> {
        let seq = self.slots[at].seq;
        self.open -= 1;
        self.finish(at);
        Some(seq)
    }

    fn finish(&mut self, at: usize) {
        self.slots[at].state = State::Done;
        self.forget(at);
        while self.slots.front().is_some_and(|slot| slot.state == State::Done) {
            self.slots.pop_front();
            self.sent = self.sent.saturating_sub(1);
            self.begun = self.begun.saturating_sub(1);
        }
    }

    fn forget(&mut self, at: usize) {
        if let Some(entry) = self.slots[at].entry.take() {
            self.messages -= 1;
            self.bytes -= weight(&entry.message);
        }
    }

    fn drop_oldest(&mut self) -> Option<Displaced> {
        let at = (self.begun..self.slots.len())
            .find(|&at| self.slots[at].entry.as_ref().is_some_and(|entry| !entry.received))?;
        let slot = self.slots.remove(at)?;
        if let Some(entry) = &slot.entry {
            self.messages -= 1;
            self.bytes -= weight(&entry.message);
        }
        Some(Displaced(slot))
    }

    /// What somebody else may get instead of this client: of QoS 2, only what was never sent [MQTT5-4.8.2].
    pub fn unfinished(&self) -> impl Iterator<Item = &Entry> {
        let slots = self.slots.iter().filter_map(|slot| Some((slot.state, slot.entry.as_ref()?)));
        slots
            .filter(|(state, entry)| entry.qos == Qos::AtLeastOnce || *state == State::Fresh)
            .map(|(_, entry)| entry)
    }

    /// What waits or is not acknowledged, in order.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.slots.iter().filter_map(|slot| slot.entry.as_ref())
    }
}

/// What a waiting message takes: a million of empty ones is not nothing.
fn weight(message: &Message) -> usize {
    message.bytes().len() + size_of::<Slot>()
}

/// What a client is told of a PUBREC that nothing waits for.
fn unknown_release(reason: ReasonCode) -> Settled {
    if reason.is_failure() {
        Settled::Unknown
    } else {
        Settled::Release(ReasonCode::PacketIdentifierNotFound)
    }
}

fn identifier(seq: Seq) -> PacketId {
    let number = u16::try_from(seq % IDENTIFIERS + 1).unwrap_or(1);
    PacketId::new(number).unwrap_or(PacketId::MIN)
}

#[cfg(test)]
mod tests;
