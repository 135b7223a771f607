//! The session's state while its client is connected, and what each packet means to it.

use std::collections::hash_map::Entry;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use foldhash::HashMap;
use nsd_wire::{
    Ack, AckKind, Disconnect, Packet, PacketId, Publish, Qos, ReasonCode, Subscribe, Unsubscribe, Version,
    suback, topic,
};

use super::authenticating::Again;
use super::effect::{Admitted, Effect, Effects, Receipt, Reply, Resumed, Subscribing, Unsubscribing, Wish};
use super::pace::Pace;
use super::topics;
use crate::access::Grant;
use crate::busy::{Busy, Idle};
use crate::limits::{Limits, SHARES_PER_CLIENT};
use crate::topic::ByName;

#[derive(Debug)]
pub(super) struct Connected {
    pub(super) grant: Grant,
    /// Seconds; zero: it may be silent as long as it likes.
    keep_alive: u16,
    /// The largest packet that it takes.
    packet_bytes: u32,
    pub(super) heard: Instant,
    /// Seconds that the session is kept after the connection.
    expiry: u32,
    shares: bool,
    pub(super) filters: ByName<()>,
    filter_bytes: u32,
    /// How many of them are shared.
    shared: u32,
    /// Of a client that there is a pace for.
    pub(super) pace: Option<Box<Pace>>,
    /// QoS 1 messages that are not acknowledged yet.
    pub(super) unacknowledged: u16,
    /// QoS 1 and 2 messages that are not safe yet.
    pub(super) unsafe_yet: u16,
    /// It has proven itself by AUTH packets, and may do so again.
    pub(super) proven: bool,
    pub(super) seldom: Busy<Seldom>,
}

/// What most clients never need; who has needed it keeps it.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    aliases: Vec<Option<Box<str>>>,
    /// QoS 2 messages between their PUBLISH and their PUBREL.
    pub(super) receiving: HashMap<PacketId, Receiving>,
    pub(super) again: Again,
}

impl Idle for Seldom {
    fn idle() -> &'static Self {
        static NOTHING: LazyLock<Seldom> = LazyLock::new(Seldom::default);
        &NOTHING
    }

    fn is_idle(&self) -> bool {
        self.aliases.is_empty() && self.receiving.is_empty() && matches!(self.again, Again::No)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Receiving {
    AwaitingStored,
    AwaitingReleased,
}

/// Why a connected client goes.
pub(super) enum Done {
    Left { keep_will: bool, expiry: Option<u32> },
    Wrong(ReasonCode),
}

/// What becomes of a PUBLISH.
pub(super) enum Verdict {
    Route(Option<Receipt>),
    Answer(Reply),
    Ignore,
    End(ReasonCode),
}

impl Connected {
    pub(super) fn new(
        admitted: Admitted,
        expiry: u32,
        keep_alive: u16,
        packet_bytes: u32,
        proven: bool,
        heard: Instant,
    ) -> Self {
        let Admitted { grant, resumed, shares } = admitted;
        let Resumed { filters, held } = resumed.unwrap_or_default();
        let mut seldom = Busy::<Seldom>::default();
        if !held.is_empty() {
            seldom.receiving = held.into_iter().map(|id| (id, Receiving::AwaitingReleased)).collect();
        }
        Self {
            grant,
            keep_alive,
            packet_bytes,
            heard,
            expiry,
            shares,
            filter_bytes: filters.iter().map(|filter| length(filter)).sum(),
            shared: filters.iter().map(|filter| u32::from(topic::Shared::is_shared(filter))).sum(),
            filters: filters.into_iter().collect(),
            pace: None,
            unacknowledged: 0,
            unsafe_yet: 0,
            proven,
            seldom,
        }
    }

    /// When silence has lasted too long, or its right to be here ends.
    pub(super) fn deadline(&self) -> Option<Instant> {
        // Keep alive × 1.5 (MQTT-3.1.2-22).
        let silence = || self.heard + Duration::from_secs(self.keep_alive.into()) * 3 / 2;
        let silence = (self.keep_alive > 0).then(silence);
        [silence, self.grant.expires(), self.seldom.again.deadline()].into_iter().flatten().min()
    }

    /// Why a client goes whose deadline has come.
    pub(super) fn overdue(&self, now: Instant) -> ReasonCode {
        let ended =
            [self.grant.expires(), self.seldom.again.deadline()].into_iter().flatten().any(|end| end <= now);
        if ended { ReasonCode::NotAuthorized } else { ReasonCode::KeepAliveTimeout }
    }

    pub(super) fn unfinished(&self) -> usize {
        usize::from(self.unacknowledged) + self.seldom.receiving.len()
    }

    /// What becomes of a message: a topic that cannot be and an alias never set end the connection, a topic that is
    /// not the client's is refused as far as its version allows, one sent twice is routed once.
    pub(super) fn judge_publish(
        &mut self,
        version: Version,
        publish: &Publish<'_>,
        limits: &Limits,
    ) -> Verdict {
        if publish.qos != Qos::AtMostOnce
            && version.is_v5()
            && self.unfinished() >= usize::from(limits.receive_maximum)
            && !self.is_sent_again(publish)
        {
            return Verdict::End(ReasonCode::ReceiveMaximumExceeded);
        }
        if !topics(limits).allow(publish.topic) {
            return Verdict::End(ReasonCode::TopicNameInvalid);
        }
        if publish.retain && !limits.retains() {
            return Verdict::End(ReasonCode::RetainNotSupported);
        }
        if let Err(reason) = self.learn_alias(publish, limits.topic_aliases) {
            return Verdict::End(reason);
        }
        if !self.grant.may_publish(self.topic_of(publish)) {
            return match (version, publish.packet_id) {
                (Version::V5, Some(id)) => {
                    let kind =
                        if publish.qos == Qos::ExactlyOnce { AckKind::PubRec } else { AckKind::PubAck };
                    Verdict::Answer(Reply::Ack { kind, id, reason: ReasonCode::NotAuthorized })
                }
                // Neither v3 nor QoS 0 can be told no, so the connection ends, as the article's broker did.
                _ => Verdict::End(ReasonCode::NotAuthorized),
            };
        }
        let Some(id) = publish.packet_id else { return Verdict::Route(None) };
        if publish.qos == Qos::AtLeastOnce {
            self.unacknowledged += 1;
            self.unsafe_yet += 1;
            return Verdict::Route(Some(Receipt { id, kind: AckKind::PubAck }));
        }
        match self.seldom.receiving.entry(id) {
            // Sent again: it is on its way, or only its PUBREC was lost.
            Entry::Occupied(known) if *known.get() == Receiving::AwaitingStored => Verdict::Ignore,
            Entry::Occupied(_) => {
                Verdict::Answer(Reply::Ack { kind: AckKind::PubRec, id, reason: ReasonCode::Success })
            }
            Entry::Vacant(place) => {
                place.insert(Receiving::AwaitingStored);
                self.unsafe_yet += 1;
                Verdict::Route(Some(Receipt { id, kind: AckKind::PubRec }))
            }
        }
    }

    /// One that is counted already.
    fn is_sent_again(&self, publish: &Publish<'_>) -> bool {
        let id = publish.packet_id.filter(|_| publish.qos == Qos::ExactlyOnce);
        id.is_some_and(|id| self.seldom.receiving.contains_key(&id))
    }

    fn learn_alias(&mut self, publish: &Publish<'_>, most: u16) -> Result<(), ReasonCode> {
        let Some(alias) = publish.properties.topic_alias else { return Ok(()) };
        let at = usize::from(alias.get()) - 1;
        if at >= usize::from(most) {
            return Err(ReasonCode::TopicAliasInvalid);
        }
        if publish.topic.is_empty() {
            let known = self.seldom.aliases.get(at).is_some_and(Option::is_some);
            return if known { Ok(()) } else { Err(ReasonCode::ProtocolError) };
        }
        if self.seldom.aliases.len() <= at {
            self.seldom.aliases.resize(at + 1, None);
        }
        self.seldom.aliases[at] = Some(publish.topic.into());
        Ok(())
    }

    pub(super) fn topic_of<'p>(&'p self, publish: &Publish<'p>) -> &'p str {
        match publish.properties.topic_alias {
            Some(alias) if publish.topic.is_empty() => self
                .seldom
                .aliases
                .get(usize::from(alias.get()) - 1)
                .and_then(Option::as_deref)
                .unwrap_or_default(),
            _ => publish.topic,
        }
    }

    /// Every packet but PUBLISH.
    pub(super) fn on_other(
        &mut self,
        packet: &Packet<'_>,
        limits: &Limits,
        now: Instant,
    ) -> Result<Effects<'static>, Done> {
        self.heard = now;
        match packet {
            // Its answer has a code for each filter, and cannot leave any out [MQTT5-3.1.2-24].
            Packet::Subscribe(Subscribe { filters, .. }) if !self.takes_codes(filters.len()) => {
                Err(Done::Wrong(ReasonCode::PacketTooLarge))
            }
            Packet::Unsubscribe(Unsubscribe { filters, .. }) if !self.takes_codes(filters.len()) => {
                Err(Done::Wrong(ReasonCode::PacketTooLarge))
            }
            Packet::Subscribe(subscribe) => {
                Ok(Effects::one(Effect::Subscribe(self.on_subscribe(subscribe, limits))))
            }
            Packet::Unsubscribe(wish) => Ok(Effects::one(Effect::Unsubscribe(self.on_unsubscribe(wish)))),
            Packet::PubAck(ack) => Ok(settle(AckKind::PubAck, ack)),
            Packet::PubRec(ack) => Ok(settle(AckKind::PubRec, ack)),
            Packet::PubComp(ack) => Ok(settle(AckKind::PubComp, ack)),
            Packet::PubRel(ack) => Ok(self.on_release(ack.packet_id)),
            Packet::Auth(auth) => self.on_auth(auth, limits, now),
            Packet::PingReq => Ok(Effects::one(Effect::Send(Reply::PingResp))),
            Packet::Disconnect(disconnect) => Err(self.on_disconnect(disconnect)),
            // A second CONNECT (MQTT-3.1.0-2), what only a server sends.
            _ => Err(Done::Wrong(ReasonCode::ProtocolError)),
        }
    }

    fn takes_codes(&self, count: usize) -> bool {
        suback::bare_length(count).is_ok_and(|length| length <= self.packet_bytes as usize)
    }

    /// The identifier is free before PUBCOMP says so: else its next message would be taken for this one again.
    fn on_release(&mut self, id: PacketId) -> Effects<'static> {
        let kind = AckKind::PubComp;
        Effects::one(match self.seldom.receiving.entry(id) {
            // Released before we said that we have it: PUBCOMP would be a lie, and the PUBREC is on its way.
            Entry::Occupied(known) if *known.get() == Receiving::AwaitingStored => return Effects::none(),
            Entry::Occupied(known) => {
                known.remove();
                Effect::Release(Receipt { id, kind })
            }
            Entry::Vacant(_) => {
                Effect::Send(Reply::Ack { kind, id, reason: ReasonCode::PacketIdentifierNotFound })
            }
        })
    }

    fn on_disconnect(&self, disconnect: &Disconnect<'_>) -> Done {
        let expiry = disconnect.properties.session_expiry;
        // A session that was to end cannot be kept after all [MQTT5-3.14.2.2.2].
        if self.expiry == 0 && expiry.is_some_and(|expiry| expiry > 0) {
            return Done::Wrong(ReasonCode::ProtocolError);
        }
        // Only a normal one discards the will [MQTT5-3.14.4-3].
        Done::Left { keep_will: disconnect.reason != ReasonCode::NORMAL_DISCONNECTION, expiry }
    }

    fn on_subscribe(&mut self, subscribe: &Subscribe<'_>, limits: &Limits) -> Subscribing {
        let id = subscribe.properties.subscription_id;
        let wishes = subscribe.filters.iter().map(|wish| {
            let code = self
                .judge(wish.filter, limits)
                .map_or_else(|refusal| refusal, |()| ReasonCode::granted(wish.options.qos));
            let new = !code.is_failure() && self.filters.get(wish.filter).is_none();
            if new {
                self.filters.get_or_add(wish.filter);
                self.filter_bytes += length(wish.filter);
                self.shared += u32::from(topic::Shared::is_shared(wish.filter));
            }
            Wish { filter: wish.filter.into(), options: wish.options, id, code, new }
        });
        let wishes = wishes.collect();
        Subscribing { packet_id: subscribe.packet_id, wishes }
    }

    fn judge(&self, filter: &str, limits: &Limits) -> Result<(), ReasonCode> {
        if !topics(limits).allow(filter) {
            return Err(ReasonCode::TopicFilterInvalid);
        }
        if topic::Shared::is_shared(filter) && !self.shares {
            return Err(ReasonCode::SharedSubscriptionsNotSupported);
        }
        if !self.grant.may_subscribe(filter) {
            return Err(ReasonCode::NotAuthorized);
        }
        let full = self.filters.len() >= limits.subscriptions_per_client
            || (topic::Shared::is_shared(filter) && self.shared >= SHARES_PER_CLIENT)
            || (self.filter_bytes + length(filter)) as usize > limits.subscription_bytes;
        if full && self.filters.get(filter).is_none() {
            return Err(ReasonCode::QuotaExceeded);
        }
        Ok(())
    }

    pub(super) fn take_filter(&mut self, filter: &str) -> Option<Box<str>> {
        let (filter, ()) = self.filters.remove(filter)?;
        self.filter_bytes -= length(&filter);
        self.shared -= u32::from(topic::Shared::is_shared(&filter));
        Some(filter)
    }

    fn on_unsubscribe(&mut self, unsubscribe: &Unsubscribe<'_>) -> Unsubscribing {
        let mut filters = Vec::new();
        let codes = unsubscribe.filters.iter().map(|filter| match self.take_filter(filter) {
            Some(filter) => {
                filters.push(filter);
                ReasonCode::Success
            }
            None => ReasonCode::NoSubscriptionExisted,
        });
        let codes = codes.collect();
        Unsubscribing { packet_id: unsubscribe.packet_id, filters, codes }
    }
}

/// Of a filter, which is shorter than 64 KiB; all of a client's are within a limit below 4 GiB.
fn length(filter: &str) -> u32 {
    u32::try_from(filter.len()).unwrap_or(u32::MAX)
}

fn settle(kind: AckKind, ack: &Ack<'_>) -> Effects<'static> {
    Effects::one(Effect::Settle { kind, id: ack.packet_id, reason: ack.reason })
}
