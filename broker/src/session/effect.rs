//! Everything a session can ask for. The connection is the only one that carries these out, in the given order:
//! what stores comes before what acknowledges, what acknowledges before what delivers to this client.

use std::sync::Arc;

use nsd_wire::{AckKind, PacketId, Publish, ReasonCode, SubscribeOptions, SubscriptionId, Version};
use zeroize::Zeroizing;

use crate::access::Grant;
use crate::limits::Limits;
use crate::message::Will;

#[derive(Debug)]
pub enum Effect<'p> {
    /// Find out whether this client may come in, then call `Session::on_admitted`.
    Admit(Box<Opening>),
    /// Find out how this client can prove itself, whose first message this is, then call `Session::on_challenge`.
    Challenge(Box<[u8]>),
    /// Deliver, keep for who is away, retain and hand to other nodes; with a receipt, call `Session::on_stored` once that
    /// is safe. `topic` is its name, also where the packet has an alias in place of it.
    Route {
        publish: &'p Publish<'p>,
        topic: &'p str,
        receipt: Option<Receipt>,
    },
    /// Subscribe, make it known, then send the SUBACK and after it what is retained.
    Subscribe(Subscribing),
    Unsubscribe(Unsubscribing),
    /// A QoS 2 message of the client is over; call `Session::on_stored` once nobody can take its identifier for it.
    Release(Receipt),
    /// The client tells how far it is with a message that it got.
    Settle {
        kind: AckKind,
        id: PacketId,
        reason: ReasonCode,
    },
    Send(Reply),
    /// The connection is over, and with it the session unless that was to be kept.
    Leave {
        keep_will: bool,
        /// Seconds that the session is kept, if the client has asked for others at the end.
        expiry: Option<u32>,
        filters: Vec<Box<str>>,
    },
    /// Send what is waiting, then close.
    Close,
}

/// An answer that is owed as soon as something is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    pub id: PacketId,
    pub kind: AckKind,
}

/// A CONNECT within the limits, kept while it is being decided.
#[derive(Debug)]
pub struct Opening {
    pub version: Version,
    /// Never empty: an id was made up where none was given.
    pub client_id: Box<str>,
    pub assigned_id: bool,
    pub clean_start: bool,
    /// Seconds that the session survives its connection.
    pub expiry: u32,
    pub keep_alive: u16,
    /// How many messages above QoS 0 it is sent at a time.
    pub receive_maximum: u16,
    pub maximum_packet_size: usize,
    /// How many are used toward it.
    pub topic_aliases: u16,
    pub user_name: Option<Box<str>>,
    pub password: Option<Zeroizing<Vec<u8>>>,
    /// Who the client has proven to be, in an exchange of AUTH packets.
    pub proven: Option<Box<str>>,
    pub will: Option<Will>,
}

#[cfg(test)]
impl Opening {
    /// Of a client that asks for little.
    pub(crate) fn of(client_id: &str, expiry: u32) -> Self {
        Self {
            version: Version::V5,
            client_id: client_id.into(),
            assigned_id: false,
            clean_start: false,
            expiry,
            keep_alive: 0,
            receive_maximum: 10,
            maximum_packet_size: usize::MAX,
            topic_aliases: 0,
            user_name: None,
            password: None,
            proven: None,
            will: None,
        }
    }
}

/// A client that may come in.
#[derive(Debug)]
pub struct Admitted {
    pub grant: Grant,
    /// What the client has of a session that goes on.
    pub resumed: Option<Resumed>,
    /// Whether members of a group can share a subscription here.
    pub shares: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resumed {
    pub filters: Vec<Box<str>>,
    /// Identifiers of its own QoS 2 messages that wait for their PUBREL.
    pub held: Vec<PacketId>,
}

#[derive(Debug)]
pub struct Subscribing {
    pub packet_id: PacketId,
    pub wishes: Vec<Wish>,
}

/// One filter of a SUBSCRIBE; a failed `code` means that it is only answered.
#[derive(Debug)]
pub struct Wish {
    pub filter: Box<str>,
    pub options: SubscribeOptions,
    pub id: Option<SubscriptionId>,
    pub code: ReasonCode,
    /// The client did not have this filter before.
    pub new: bool,
}

#[derive(Debug)]
pub struct Unsubscribing {
    pub packet_id: PacketId,
    /// What the client had, and is taken from it now.
    pub filters: Vec<Box<str>>,
    pub codes: Vec<ReasonCode>,
}

/// A packet to this client that is no message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Accepted {
        assigned_id: Option<Box<str>>,
        session_present: bool,
        /// Other than what was asked for: seconds that the session is kept, seconds of silence that are suffered.
        expiry: Option<u32>,
        keep_alive: Option<u16>,
        shares: bool,
        /// What holds for the client: a v5 client is told.
        limits: Arc<Limits>,
        /// Proves us to a client that has proven itself.
        authentication: Option<Box<str>>,
    },
    /// v5 only: the next message of an exchange.
    Auth {
        reason: ReasonCode,
        data: Box<str>,
    },
    /// In the client's own version: nothing else is known of it yet.
    Refused {
        version: Version,
        reason: ReasonCode,
    },
    UnsupportedVersion {
        level: u8,
    },
    Ack {
        kind: AckKind,
        id: PacketId,
        reason: ReasonCode,
    },
    PingResp,
    /// v5 only: v3 has no such packet from a server, and is closed without a word.
    Disconnect(ReasonCode),
}

/// Effects in order. The usual one is held in place: a PUBLISH costs no allocation.
#[derive(Debug, Default)]
pub struct Effects<'p> {
    first: Option<Effect<'p>>,
    rest: Vec<Effect<'p>>,
}

impl<'p> Effects<'p> {
    pub fn none() -> Self {
        Self::default()
    }

    pub fn one(effect: Effect<'p>) -> Self {
        Self { first: Some(effect), rest: Vec::new() }
    }

    #[must_use]
    pub fn and(mut self, effect: Effect<'p>) -> Self {
        if self.first.is_none() {
            self.first = Some(effect);
        } else {
            self.rest.push(effect);
        }
        self
    }

    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// In order. An iterator would move each of them twice.
    pub fn each(self, mut carry_out: impl FnMut(Effect<'p>)) {
        let Self { first, rest } = self;
        if let Some(first) = first {
            carry_out(first);
            rest.into_iter().for_each(carry_out);
        }
    }
}

impl<'p> IntoIterator for Effects<'p> {
    type Item = Effect<'p>;
    type IntoIter = std::iter::Chain<std::option::IntoIter<Effect<'p>>, std::vec::IntoIter<Effect<'p>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.rest)
    }
}
