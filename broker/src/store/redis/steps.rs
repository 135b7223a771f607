//! What nodes write to sessions, as the scripts take it: batches with numbers, so that one that comes again changes
//! nothing, and under epochs, so that nothing comes of what a former owner of a session writes.

use nsd_wire::PacketId;
use redis::{Cmd, Script, Value, from_redis_value_ref};

use super::codec;
use crate::hub::Ending;
use crate::limits::{Limits, QueuePolicy};
use crate::message::Message;
use crate::store::change::{Change, Seq, SessionId};
use crate::store::keys::{Keys, node_name, shard};
use crate::store::scripts;

/// Messages for queues.
#[derive(Debug)]
pub struct Messages {
    pub command: Cmd,
    /// Answers that it will get: one a message, one a receiver.
    pub answers: usize,
    pub bytes: usize,
}

/// The sender of a message whose identifier is held, so that it is known when it comes again.
#[derive(Debug, Clone, Copy)]
pub struct Sender {
    pub session: SessionId,
    pub epoch: u64,
    /// `None`: another part of the same message holds it.
    pub id: Option<PacketId>,
}

/// What became of a message for one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Its client is connected to this node.
    Here(Seq),
    /// Its client is elsewhere or away.
    Elsewhere,
    /// There is no such session any more.
    Nowhere,
    /// There was no room.
    Dropped,
    /// There was no room, and the session ends for that.
    Overrun,
}

/// What is done with, and what sessions are now.
#[derive(Debug)]
pub struct Steps {
    pub command: Cmd,
    pub steps: usize,
}

/// What came of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Fine,
    /// The session has another owner by now.
    Fenced,
    /// This will is due: it is this node's to publish.
    Owed(Owed),
}

/// A will that a node is to publish: it is written that it owes it until the batch that has the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    pub name: String,
    pub message: Message,
}

fn begin(script: &Script, keys: &Keys, node: u64, number: u64) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(script.get_hash()).arg(0).arg(keys.prefix()).arg(node_name(node)).arg(number);
    command
}

impl Messages {
    pub fn new(keys: &Keys, node: u64, number: u64, limits: &Limits) -> Self {
        let mut command = begin(&scripts::MESSAGES, keys, node, number);
        let policy = match limits.queue_policy {
            QueuePolicy::DropOldest => "drop-oldest",
            QueuePolicy::DropNewest => "drop-newest",
            QueuePolicy::Disconnect => "disconnect",
        };
        command.arg(limits.queue_messages).arg(limits.queue_bytes).arg(policy);
        Self { command, answers: 0, bytes: 0 }
    }

    /// `receivers`: sessions, each with the head of its entry. `owed`: the name of the will that this is.
    pub fn add<'r>(
        &mut self,
        message: &[u8],
        receivers: impl ExactSizeIterator<Item = (SessionId, &'r [u8])>,
        sender: Option<Sender>,
        owed: Option<&str>,
    ) {
        self.answers += 1 + receivers.len();
        self.bytes += message.len() * (1 + receivers.len());
        let command = self.command.arg(message).arg(receivers.len());
        match sender {
            Some(Sender { session, epoch, id }) => {
                command.arg(session).arg(epoch).arg(id.map_or(0, PacketId::get));
            }
            None => drop(command.arg("").arg("").arg("")),
        }
        command.arg(owed.unwrap_or_default());
        for (session, head) in receivers {
            command.arg(session).arg(head);
        }
    }

    /// How many messages gave way, and the answers; `None`: the batch had come before.
    pub fn read(reply: &Value) -> Option<(u64, Vec<i64>)> {
        match reply {
            Value::Array(parts) => {
                Some((from_redis_value_ref(parts.get(1)?).ok()?, from_redis_value_ref(parts.get(2)?).ok()?))
            }
            _ => None,
        }
    }
}

impl Taken {
    pub fn of(answer: i64) -> Self {
        match answer {
            0 => Self::Elsewhere,
            -1 => Self::Nowhere,
            -2 => Self::Dropped,
            -3 => Self::Overrun,
            place => u64::try_from(place).map_or(Self::Nowhere, Self::Here),
        }
    }
}

impl Steps {
    /// `number`: of the batch, 0 if it has none.
    pub fn new(keys: &Keys, node: u64, number: u64) -> Self {
        Self { command: begin(&scripts::STEPS, keys, node, number), steps: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.steps == 0
    }

    fn step(&mut self, letter: &str) -> &mut Cmd {
        self.steps += 1;
        self.command.arg(letter)
    }

    fn of(&mut self, letter: &str, session: SessionId, epoch: u64) -> &mut Cmd {
        self.step(letter).arg(session).arg(epoch)
    }

    /// A connection has ended.
    pub fn part(&mut self, keys: &Keys, client_id: &str, epoch: u64, ending: Ending) {
        let client = keys.client(client_id);
        self.step("P").arg(client).arg(shard(client_id)).arg(client_id).arg(epoch);
        self.command.arg(ending.expiry).arg(u8::from(ending.keep_will)).arg(ending.sent);
    }

    /// A claim of which nothing came: nobody is connected, on the terms that were stored with it.
    pub fn abandon(&mut self, keys: &Keys, client_id: &str, epoch: u64) {
        let client = keys.client(client_id);
        self.step("P").arg(client).arg(shard(client_id)).arg(client_id).arg(epoch).arg("").arg(1).arg("");
    }

    /// A change of a session under this epoch; `false`: it is said in another way.
    pub fn change(&mut self, change: &Change, epoch: u64) -> bool {
        match change {
            Change::Open { session, client_id, expiry } => {
                self.of("O", *session, epoch).arg(&**client_id).arg(*expiry)
            }
            Change::Subscribe { session, filter, options, id } => {
                let terms = codec::write_terms(*options, *id);
                self.of("F", *session, epoch).arg(&**filter).arg(&terms[..])
            }
            Change::Unsubscribe { session, filter } => self.of("F", *session, epoch).arg(&**filter).arg(""),
            Change::Enqueue { session, entry } => {
                let mut bytes = Vec::new();
                codec::write_head(entry.qos, entry.retain, entry.since, &entry.ids, &mut bytes);
                bytes.extend_from_slice(entry.message.bytes());
                self.of("E", *session, epoch).arg(entry.seq).arg(bytes)
            }
            Change::Received { session, seq } => self.of("R", *session, epoch).arg(*seq),
            Change::Done { session, seq } => self.of("D", *session, epoch).arg(*seq),
            Change::Hold { session, id } => self.of("H", *session, epoch).arg(id.get()),
            Change::Release { session, id } => self.of("L", *session, epoch).arg(id.get()),
            // Claims and ends of connections say these.
            Change::Part { .. }
            | Change::Close { .. }
            | Change::Will { .. }
            | Change::WillDone { .. }
            // No step is for these.
            | Change::Retain { .. }
            | Change::Forget { .. }
            | Change::Device { .. }
            | Change::NoDevice { .. } => return false,
        };
        true
    }

    /// What came of each step; `None`: the batch had come before.
    pub fn read(reply: &Value) -> Option<Vec<Outcome>> {
        let Value::Array(parts) = reply else { return None };
        let Value::Array(outcomes) = parts.get(1)? else { return None };
        Some(outcomes.iter().map(Outcome::of).collect())
    }
}

impl Outcome {
    fn of(answer: &Value) -> Self {
        match answer {
            Value::Int(0) => Self::Fenced,
            answer => Owed::of(answer).map_or(Self::Fine, Self::Owed),
        }
    }
}

impl Owed {
    /// As a script answers it.
    pub fn of(answer: &Value) -> Option<Self> {
        let (name, message): (String, Vec<u8>) = from_redis_value_ref(answer).ok()?;
        Some(Self { name, message: Message::from_bytes(&message)? })
    }
}
