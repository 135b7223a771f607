//! What a session that outlives its connections is besides an outbox.

use std::time::{Duration, Instant, SystemTime};

use foldhash::{HashMap, HashSet};
use nsd_wire::{AckKind, PacketId, ReasonCode, SubscribeOptions, SubscriptionId};

use super::outbox::Settlement;
use crate::access::Grant;
use crate::message::Will;
use crate::queue::Queue;
use crate::session::Settled;
use crate::store::change::{Seq, SessionId};

/// How a client wants one filter.
pub type Wanted = (SubscribeOptions, Option<SubscriptionId>);

#[derive(Debug, Default)]
pub struct Persistent {
    pub session: SessionId,
    pub queue: Queue,
    pub filters: HashMap<Box<str>, Wanted>,
    /// Identifiers of the client's own QoS 2 messages that wait for their PUBREL.
    pub held: HashSet<PacketId>,
    /// Seconds that the session outlives its connection.
    pub expiry: u32,
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
    /// A will whose delay is longer than the session lives is published at its end [MQTT5-3.1.3-9].
    pub fn from((now, since): (Instant, SystemTime), expiry: u32, will: Option<Will>) -> Self {
        let ends = now + seconds(expiry);
        Self { since, ends, will: will.map(|will| ((now + seconds(will.delay)).min(ends), will)) }
    }

    pub fn next(&self) -> Instant {
        self.will.as_ref().map_or(self.ends, |(due, _)| *due)
    }
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}

impl Persistent {
    /// Whether a client with these rights may hear all that the session wants, and has waiting.
    pub(super) fn is_fit_for(&self, grant: &Grant) -> bool {
        let mut topics = self.queue.entries().map(|entry| entry.message.publish().topic);
        self.filters.keys().all(|filter| grant.may_subscribe(filter))
            && topics.all(|topic| grant.may_subscribe(topic))
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
