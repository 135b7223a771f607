//! What must outlive this process: each change of it as a value, and all of it as a store gives it back. Pure.

use std::sync::Arc;
use std::time::SystemTime;

use nsd_wire::{PacketId, Qos, SubscribeOptions, SubscriptionId};

use crate::message::{Message, Will};

/// The number of a durable session: never given twice by one store.
pub type SessionId = u64;
/// The place of a message in its session's queue: only goes up, may have gaps.
pub type Seq = u64;

/// One change. A batch of them is stored as a whole or not at all, in its order.
#[derive(Debug, Clone)]
pub enum Change {
    /// A session begins, or goes on under other terms; its client is connected from now on.
    Open {
        session: SessionId,
        client_id: Box<str>,
        expiry: u32,
    },
    /// Its connection has ended: the expiry counts from here. What was open when the process died counts from the start.
    Part {
        session: SessionId,
        at: SystemTime,
    },
    /// The session is over: its subscriptions, queue and identifiers go with it.
    Close {
        session: SessionId,
    },
    Subscribe {
        session: SessionId,
        filter: Box<str>,
        options: SubscribeOptions,
        id: Option<SubscriptionId>,
    },
    Unsubscribe {
        session: SessionId,
        filter: Box<str>,
    },
    Enqueue {
        session: SessionId,
        entry: Entry,
    },
    /// QoS 2 toward the client: it has the message (PUBREC), so from now on only PUBREL is sent.
    Received {
        session: SessionId,
        seq: Seq,
    },
    /// The message needs nothing more: acknowledged, expired or dropped.
    Done {
        session: SessionId,
        seq: Seq,
    },
    /// QoS 2 from the client: the message with this identifier is stored; the same again is a repetition.
    Hold {
        session: SessionId,
        id: PacketId,
    },
    /// PUBREL came: the identifier is free.
    Release {
        session: SessionId,
        id: PacketId,
    },
    /// The newest message of its topic.
    Retain {
        message: Arc<Message>,
        since: SystemTime,
    },
    /// Nothing is retained under this topic any more.
    Forget {
        topic: Box<str>,
    },
    /// What to publish should this client's connection end without a word; replaces the one before.
    Will {
        client_id: Box<str>,
        will: Will,
    },
    /// The will was published, or is not wanted any more.
    WillDone {
        client_id: Box<str>,
    },
    /// A device may come in; replaces the record before.
    Device {
        id: Box<str>,
        secret: Box<str>,
        disabled: bool,
    },
    NoDevice {
        id: Box<str>,
    },
}

impl Change {
    /// What can be stored only if there is room; all else makes some, or takes next to nothing.
    pub fn needs_room(&self) -> bool {
        match self {
            Self::Open { .. }
            | Self::Subscribe { .. }
            | Self::Enqueue { .. }
            | Self::Hold { .. }
            | Self::Retain { .. }
            | Self::Will { .. }
            | Self::Device { .. } => true,
            Self::Part { .. }
            | Self::Close { .. }
            | Self::Unsubscribe { .. }
            | Self::Received { .. }
            | Self::Done { .. }
            | Self::Release { .. }
            | Self::Forget { .. }
            | Self::WillDone { .. }
            | Self::NoDevice { .. } => false,
        }
    }
}

/// A message in a session's queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub seq: Seq,
    /// Toward this client; above 0.
    pub qos: Qos,
    pub retain: bool,
    pub ids: Box<[SubscriptionId]>,
    /// When the broker got the message: its expiry counts from here.
    pub since: SystemTime,
    /// One for all sessions that have it.
    pub message: Arc<Message>,
    /// QoS 2: the client has it.
    pub received: bool,
}

/// Everything that was stored, as it is read at the start.
#[derive(Debug, Default)]
pub struct Stored {
    pub sessions: Vec<StoredSession>,
    pub retained: Vec<(Arc<Message>, SystemTime)>,
    /// Of clients that were connected when the process ended, or whose delay was running.
    pub wills: Vec<(Box<str>, Will)>,
    pub devices: Vec<(Box<str>, Box<str>, bool)>,
    /// Above every session's number.
    pub next_session: SessionId,
}

#[derive(Debug)]
pub struct StoredSession {
    pub session: SessionId,
    pub client_id: Box<str>,
    pub expiry: u32,
    /// `None`: it was connected when the process ended.
    pub parted: Option<SystemTime>,
    pub subscriptions: Vec<(Box<str>, SubscribeOptions, Option<SubscriptionId>)>,
    /// In order.
    pub queue: Vec<Entry>,
    /// Places below this one were sent, others were not; `None`: nobody knows.
    pub sent: Option<Seq>,
    /// Above every place that was ever given in this queue.
    pub next_seq: Seq,
    /// Identifiers of the client's own QoS 2 messages that wait for their PUBREL.
    pub held: Vec<PacketId>,
}
