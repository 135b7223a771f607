//! What a batch writes to sessions of the store that all nodes share, and what becomes of it here when it is answered.

use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use nsd_wire::{PacketId, Qos};
use redis::{Pipeline, Value};

use super::Origin;
use crate::hub::{Addressee, Hub, Keepsake, Outbox, Parcel, Terms, Wanted};
use crate::journal::{ToStore, Work};
use crate::limits::Limits;
use crate::message::Message;
use crate::store::change::{Change, SessionId};
use crate::store::keys::Keys;
use crate::store::redis::{Messages, Outcome, Owed, Sender, Steps, Taken, codec};
use crate::telemetry::{Cause, Count, count, count_many};

/// Redis does nothing else while it runs a script: no part of a batch is longer, in receivers, in bytes and in steps.
const RECEIVERS: usize = 1000;
const BYTES: usize = 512 * 1024;
const STEPS: usize = 2000;

/// Whose batches these are.
#[derive(Debug)]
pub(super) struct Author {
    pub(super) keys: Keys,
    pub(super) node: u64,
    /// Of the last call with messages, and of the last one with steps.
    pub(super) number: u64,
    pub(super) steps: u64,
}

#[derive(Debug, Default)]
pub(super) struct Writes {
    planned: Vec<Planned>,
    heads: Vec<u8>,
    /// Of each call with messages, its messages and which of their receivers.
    calls: Vec<Vec<(usize, Range<usize>)>>,
    messages: Vec<Messages>,
    steps: Vec<Steps>,
    /// Whom the steps are about, in order, and whether it is that their connection has ended.
    subjects: Vec<(Arc<Outbox>, bool)>,
    /// Its steps have no number: they are sent while a batch may be under way, whose number theirs must not be beyond.
    aside: bool,
}

#[derive(Debug)]
struct Planned {
    message: Arc<Message>,
    /// Sessions, each with the place of its entry's head.
    receivers: Vec<(SessionId, Range<usize>)>,
    sender: Option<(Arc<Outbox>, Sender)>,
    owed: Option<Box<str>>,
}

/// What is written with a message besides: the identifier of its sender's that is held, and that a will is published.
type Marks = (Option<(Arc<Outbox>, Sender)>, Option<Box<str>>);

/// What a batch has led to.
#[derive(Debug, Default)]
pub(super) struct Answered {
    /// It had come before: its answers are lost.
    pub(super) again: bool,
    pub(super) owed: Vec<Owed>,
}

impl Writes {
    /// Steps that may be taken twice, and are not sent again as they were.
    pub(super) fn aside() -> Self {
        Self { aside: true, ..Self::default() }
    }

    /// A message of a client for all who want it. Without a receiver, an identifier or a will to write down it needs no
    /// place here.
    pub(super) fn message(
        &mut self,
        bytes: &[u8],
        addressees: &[Addressee],
        origin: &Origin,
        now: SystemTime,
    ) {
        let sender = origin.hold.and_then(|id| sender(origin.sender.as_ref()?, id));
        self.plan(bytes, addressees, origin, now, (sender, origin.owed.clone()));
    }

    /// The same message, for those who were not known to want it.
    pub(super) fn more(&mut self, bytes: &[u8], addressees: &[Addressee], origin: &Origin, now: SystemTime) {
        self.plan(bytes, addressees, origin, now, (None, None));
    }

    fn plan(
        &mut self,
        bytes: &[u8],
        addressees: &[Addressee],
        origin: &Origin,
        now: SystemTime,
        (sender, owed): Marks,
    ) {
        if addressees.is_empty() && sender.is_none() && owed.is_none() {
            return;
        }
        let Some(message) = Message::from_bytes(bytes).map(Arc::new) else { return };
        let publish = message.publish();
        let session = origin.sender.as_ref().and_then(|outbox| outbox.session);
        let mut receivers = Vec::with_capacity(addressees.len());
        for addressee in addressees {
            let Some(terms) = addressee.terms(session) else { continue };
            let qos = publish.qos.min(terms.qos);
            if qos == Qos::AtMostOnce {
                // Only what a client sends to itself can come to this: it is here.
                if let Some(own) = &origin.sender {
                    own.deliver(&Parcel::live(&publish, None), terms);
                    own.wake();
                }
                continue;
            }
            let retain = terms.retain_as_published && publish.retain;
            receivers.push((addressee.session, self.head(qos, retain, now, terms)));
        }
        if !receivers.is_empty() || sender.is_some() || owed.is_some() {
            self.planned.push(Planned { message, receivers, sender, owed });
        }
    }

    fn head(&mut self, qos: Qos, retain: bool, since: SystemTime, terms: &Terms) -> Range<usize> {
        let from = self.heads.len();
        codec::write_head(qos, retain, since, &terms.ids, &mut self.heads);
        from..self.heads.len()
    }

    /// What was retained, for a session that has just subscribed.
    pub(super) fn retained(&mut self, to_store: &ToStore) {
        let mut receivers = Vec::new();
        let kept = Keepsake { message: &to_store.message, since: to_store.since, retained: true };
        to_store.lasting.each(&kept, |outbox, terms, qos, _| {
            let session = outbox.session.filter(|_| !outbox.is_closed());
            receivers.extend(session.map(|session| (session, self.head(qos, true, to_store.since, terms))));
            session.is_some()
        });
        let message = Arc::clone(&to_store.message);
        self.planned.push(Planned { message, receivers, sender: None, owed: None });
    }

    pub(super) fn has_messages(&self) -> bool {
        !self.planned.is_empty()
    }

    /// Anything but a message.
    pub(super) fn step(&mut self, work: &Work, author: &mut Author) {
        let (outbox, change) = match work {
            Work::Part(outbox, ending) => {
                let epoch = outbox.ownership();
                let (steps, keys) = self.steps(author);
                steps.part(keys, &outbox.client_id, epoch, *ending);
                return self.subjects.push((Arc::clone(outbox), true));
            }
            Work::Filter(outbox, filter, wanted) => (outbox, filter_change(outbox, filter, *wanted)),
            Work::Released(outbox, id) => {
                (outbox, change(outbox, |session| Change::Release { session, id: *id }))
            }
            Work::Received(outbox, seq) => {
                (outbox, change(outbox, |session| Change::Received { session, seq: *seq }))
            }
            Work::Done(outbox, seq) => {
                (outbox, change(outbox, |session| Change::Done { session, seq: *seq }))
            }
            // Said by claims, by the bus and by `nsd`.
            Work::Message(_) | Work::Session(_) | Work::Retained { .. } | Work::Will(_) | Work::Device(_) => {
                return;
            }
        };
        change.into_iter().for_each(|change| self.change(&change, outbox, author));
    }

    /// A claim of this node of which nothing came.
    pub(super) fn abandon(&mut self, client_id: &str, epoch: u64, author: &mut Author) {
        let (steps, keys) = self.steps(author);
        steps.abandon(keys, client_id, epoch);
        self.subjects.push((Arc::new(Outbox::new(0, client_id.into(), None)), true));
    }

    pub(super) fn change(&mut self, change: &Change, outbox: &Arc<Outbox>, author: &mut Author) {
        let epoch = outbox.ownership();
        let (steps, _) = self.steps(author);
        if steps.change(change, epoch) {
            self.subjects.push((Arc::clone(outbox), false));
        }
    }

    fn steps<'s, 'a>(&'s mut self, author: &'a mut Author) -> (&'s mut Steps, &'a Keys) {
        if self.steps.last().is_none_or(|last| last.steps >= STEPS) {
            author.steps += u64::from(!self.aside);
            let number = if self.aside { 0 } else { author.steps };
            self.steps.push(Steps::new(&author.keys, author.node, number));
        }
        let last = self.steps.len() - 1;
        (&mut self.steps[last], &author.keys)
    }

    /// Adds what has been planned to a pipeline. Messages first: a will before the end of its session, and what makes room
    /// behind what a full Redis refuses.
    pub(super) fn write(&mut self, author: &mut Author, limits: &Limits, pipeline: &mut Pipeline) -> usize {
        self.pack(author, limits);
        let commands = self.messages.len() + self.steps.len();
        for call in &mut self.messages {
            pipeline.add_command(std::mem::take(&mut call.command));
        }
        for call in &mut self.steps {
            pipeline.add_command(std::mem::take(&mut call.command));
        }
        commands
    }

    fn pack(&mut self, author: &mut Author, limits: &Limits) {
        for (index, planned) in self.planned.iter().enumerate() {
            let all = planned.receivers.len();
            let mut from = 0;
            loop {
                let to = all.min(from + RECEIVERS);
                let is_full = |call: &Messages| call.answers >= RECEIVERS || call.bytes >= BYTES;
                if self.messages.last().is_none_or(is_full) {
                    author.number += 1;
                    self.messages.push(Messages::new(&author.keys, author.node, author.number, limits));
                    self.calls.push(Vec::new());
                }
                let part = planned.receivers[from..to].iter();
                let part = part.map(|(session, head)| (*session, &self.heads[head.clone()]));
                // What is to be held counts once all receivers have the message.
                let sender = planned.sender.as_ref().map(|(_, sender)| *sender);
                let sender = sender.map(|sender| Sender { id: sender.id.filter(|_| to == all), ..sender });
                let owed = planned.owed.as_deref().filter(|_| to == all);
                if let (Some(call), Some(parts)) = (self.messages.last_mut(), self.calls.last_mut()) {
                    call.add(planned.message.bytes(), part, sender, owed);
                    parts.push((index, from..to));
                }
                if to == all {
                    break;
                }
                from = to;
            }
        }
    }

    /// What Redis has answered to the commands of [`Self::write`].
    pub(super) fn read(&self, replies: &[Value], hub: &Hub, limits: &Limits) -> Answered {
        let mut answered = Answered::default();
        let (messages, steps) = replies.split_at(self.messages.len().min(replies.len()));
        let mut woken: Vec<Arc<Outbox>> = Vec::new();
        for (parts, reply) in self.calls.iter().zip(messages) {
            match Messages::read(reply) {
                Some((dropped, answers)) => {
                    count_many(Count::Dropped(Cause::QueueFull), dropped);
                    self.hand_over(parts, answers, (hub, limits), &mut woken);
                }
                None => answered.again = true,
            }
        }
        woken.iter().for_each(|outbox| outbox.wake());
        let mut subjects = self.subjects.iter();
        for (reply, call) in steps.iter().zip(&self.steps) {
            let subjects = subjects.by_ref().take(call.steps);
            let Some(outcomes) = Steps::read(reply) else {
                answered.again = true;
                subjects.filter(|(_, has_left)| *has_left).for_each(|(outbox, _)| hub.has_left(outbox));
                continue;
            };
            for ((outbox, has_left), outcome) in subjects.zip(outcomes) {
                if *has_left {
                    hub.has_left(outbox);
                }
                match outcome {
                    Outcome::Fine => {}
                    Outcome::Fenced => hub.supersede(outbox),
                    Outcome::Owed(owed) => answered.owed.push(owed),
                }
            }
        }
        answered
    }

    /// Entries whose clients are here come into their queues at once.
    fn hand_over(
        &self,
        parts: &[(usize, Range<usize>)],
        answers: Vec<i64>,
        (hub, limits): (&Hub, &Limits),
        woken: &mut Vec<Arc<Outbox>>,
    ) {
        let mut answers = answers.into_iter();
        for (index, receivers) in parts {
            let planned = &self.planned[*index];
            if let (Some(0), Some((outbox, _))) = (answers.next(), &planned.sender) {
                hub.supersede(outbox);
            }
            for ((session, head), answer) in planned.receivers[receivers.clone()].iter().zip(answers.by_ref())
            {
                let taken = Taken::of(answer);
                if matches!(taken, Taken::Dropped | Taken::Overrun) {
                    count(Count::Dropped(Cause::QueueFull));
                }
                match (taken, hub.here(*session)) {
                    (Taken::Overrun, Some(outbox)) => outbox.overrun(),
                    (Taken::Here(place), Some(outbox)) => {
                        let head = &self.heads[head.clone()];
                        let entry = codec::entry(place, head, Arc::clone(&planned.message));
                        entry.into_iter().for_each(|entry| outbox.arrive(entry, limits));
                        add(woken, outbox);
                    }
                    _ => {}
                }
            }
        }
    }
}

/// One that comes several times in a row is added once.
fn add(outboxes: &mut Vec<Arc<Outbox>>, outbox: Arc<Outbox>) {
    if outboxes.last().is_none_or(|last| last.id != outbox.id) {
        outboxes.push(outbox);
    }
}

fn sender(outbox: &Arc<Outbox>, id: PacketId) -> Option<(Arc<Outbox>, Sender)> {
    let sender = Sender { session: outbox.session?, epoch: outbox.ownership(), id: Some(id) };
    Some((Arc::clone(outbox), sender))
}

/// Also of a session that is not here any more: what its client has said counts, unless it has another owner.
fn change(outbox: &Outbox, change: impl FnOnce(SessionId) -> Change) -> Option<Change> {
    outbox.session.map(change)
}

fn filter_change(outbox: &Outbox, filter: &str, wanted: Option<Wanted>) -> Option<Change> {
    let session = outbox.session?;
    Some(match wanted {
        Some((options, id)) => Change::Subscribe { session, filter: filter.into(), options, id },
        None => Change::Unsubscribe { session, filter: filter.into() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Parting;

    /// Its answers are lost, but it was taken.
    #[test]
    fn who_leaves_has_left_also_when_the_batch_comes_again() {
        let (hub, limits) = (Hub::new(None, None, Arc::default()), Limits::default());
        let outbox = Arc::new(Outbox::new(1, "c".into(), None));
        let ending = hub.see_off(&outbox, 1, &Parting { filters: &[], expiry: None, keep_will: false });
        let mut author = Author { keys: Keys::new("nsd:"), node: 1, number: 0, steps: 0 };
        let mut writes = Writes::default();
        writes.step(&Work::Part(Arc::clone(&outbox), ending.unwrap()), &mut author);
        assert_eq!(writes.write(&mut author, &limits, &mut redis::pipe()), 1);
        assert!(hub.is_leaving("c"));
        let again = Value::Array(vec![Value::BulkString(b"again".to_vec())]);
        assert!(writes.read(&[again], &hub, &limits).again);
        assert!(!hub.is_leaving("c"));
    }
}
