//! What one connection does, for those who count and those who ask.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use nsd_wire::{AckKind, PacketType, Publish, ReasonCode, Version};

use crate::hub::Card;
use crate::session::Reply;
use crate::telemetry::{Cause, Count, Early, Ended, count, count_all, count_many};

#[derive(Debug, Default)]
pub(super) struct Tally {
    card: Option<Arc<Card>>,
    ended: Option<Ended>,
    answered: bool,
}

impl Tally {
    /// The client is known from now on.
    pub(super) fn know(&mut self, card: Arc<Card>) {
        self.card = Some(card);
    }

    /// Where a client that is known is.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.card.as_ref().map(|card| card.address())
    }

    pub(super) fn received(&self, bytes: usize, now: Instant) {
        count_many(Count::BytesIn, bytes as u64);
        if let Some(card) = &self.card {
            card.received(bytes, now);
        }
    }

    pub(super) fn sent(&self, bytes: usize) {
        count_many(Count::BytesOut, bytes as u64);
        if let Some(card) = &self.card {
            card.sent(bytes);
        }
    }

    pub(super) fn packet(&mut self, kind: PacketType) {
        match kind {
            PacketType::Publish => return,
            PacketType::Disconnect => self.ends(Ended::ByClient),
            _ => {}
        }
        count(Count::PacketIn(kind));
    }

    pub(super) fn publish(publish: &Publish<'_>) {
        count_all([(Count::Received(publish.qos), 1), (Count::PayloadIn, publish.payload.len() as u64)]);
    }

    pub(super) fn subscribed(&self, filters: usize, new: usize) {
        count_many(Count::Subscribed, filters as u64);
        count(Count::PacketOut(PacketType::SubAck));
        if let Some(card) = &self.card {
            card.subscribed(new);
        }
    }

    pub(super) fn unsubscribed(&self, filters: usize) {
        count_many(Count::Unsubscribed, filters as u64);
        count(Count::PacketOut(PacketType::UnsubAck));
        if let Some(card) = &self.card {
            card.unsubscribed(filters);
        }
    }

    pub(super) fn replied(&mut self, reply: &Reply, version: Version) {
        let kind = match reply {
            Reply::Accepted { .. } => {
                count(Count::Connected(version));
                self.connack(ReasonCode::Success)
            }
            Reply::Refused { reason, .. } => self.connack(*reason),
            Reply::UnsupportedVersion { .. } => self.connack(ReasonCode::UnsupportedProtocolVersion),
            Reply::Ack { kind, reason, .. } => {
                if *reason == ReasonCode::NotAuthorized {
                    count(Count::Dropped(Cause::NotAuthorized));
                }
                match kind {
                    AckKind::PubAck => PacketType::PubAck,
                    AckKind::PubRec => PacketType::PubRec,
                    AckKind::PubRel => PacketType::PubRel,
                    AckKind::PubComp => PacketType::PubComp,
                }
            }
            Reply::PingResp => PacketType::PingResp,
            Reply::Auth { .. } => PacketType::Auth,
            Reply::Disconnect(reason) => {
                self.ends(Ended::ByServer(*reason));
                PacketType::Disconnect
            }
        };
        count(Count::PacketOut(kind));
    }

    fn connack(&mut self, reason: ReasonCode) -> PacketType {
        self.answered = true;
        count(Count::ConnAck(reason));
        PacketType::ConnAck
    }

    /// Why the connection ends; the first reason is the one.
    pub(super) fn ends(&mut self, why: Ended) {
        self.ended.get_or_insert(why);
    }
}

/// A connection is counted out when it is gone, however it went.
impl Drop for Tally {
    fn drop(&mut self) {
        if self.card.is_some() {
            // Only v3 is sent away without a reason: what it did was against the protocol.
            count(Count::Ended(self.ended.unwrap_or(Ended::ByServer(ReasonCode::ProtocolError))));
        } else if !self.answered {
            count(Count::Closed(Early::NoConnect));
        }
    }
}
