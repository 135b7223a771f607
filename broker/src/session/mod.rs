//! The protocol of one client as a pure machine: a packet, an answer or the time goes in, effects come out.
//! No socket, no clock, no store. States are named for what they wait for.

mod authenticating;
mod connected;
mod effect;
mod outbound;
mod pace;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use nsd_wire::{AckKind, Connect, DecodeError, Packet, Publish, ReadError, ReasonCode, Version, topic};
use zeroize::Zeroizing;

use crate::access::scram::{self, Exchange};
use crate::limits::{self, Limits};
use crate::message::Will;

use authenticating::Proving;
use connected::{Connected, Done, Receiving, Verdict};
use pace::Pace;

pub use effect::{
    Admitted, Effect, Effects, Opening, Receipt, Reply, Resumed, Subscribing, Unsubscribing, Wish,
};
pub use outbound::{Outbound, Settled};

#[derive(Debug)]
pub struct Session {
    version: Version,
    limits: Arc<Limits>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    AwaitingConnect { deadline: Instant },
    AwaitingChallenge(Box<Proving>),
    AwaitingProof(Box<Proving>, Box<Exchange>),
    AwaitingAdmission(Box<Accepting>),
    Connected(Box<Connected>),
    Closed,
}

/// What is kept of an opening for the time after it was granted.
#[derive(Debug)]
struct Accepting {
    keep_alive: u16,
    packet_bytes: u32,
    /// As the client asks for it.
    expiry: u32,
    assigned_id: Option<Box<str>>,
    authentication: Option<Box<str>>,
}

/// Bytes of a CONNACK that refuses a v5 client.
const REFUSAL: usize = 5;
/// Of one that accepts, with all that may stand in it but an assigned client id and authentication.
const CONNACK: usize = 26;
const ASSIGNED_ID: usize = 3 + 20;
/// What an exchange adds to the data of its first message.
const AUTHENTICATION: usize = 160;

/// How a connection came to its end, when it was not the session that ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The peer hung up, or the network did.
    Lost,
    /// We send it away.
    SentAway(ReasonCode),
}

impl Session {
    pub fn new(limits: Arc<Limits>, now: Instant) -> Self {
        let deadline = now + limits.connect_deadline;
        Self { version: Version::V311, limits, phase: Phase::AwaitingConnect { deadline } }
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub fn awaits_connect(&self) -> bool {
        matches!(self.phase, Phase::AwaitingConnect { .. })
    }

    /// The largest packet to take next.
    pub fn max_packet(&self) -> usize {
        match self.phase {
            Phase::Connected(_) => self.limits.packet_bytes,
            _ => limits::MAX_CONNECT_PACKET.min(self.limits.packet_bytes),
        }
    }

    /// Whether more may be read: not while a decision is awaited, nor from a client whose messages pile up here. Those
    /// that wait for its own PUBREL do not count: to wait for it without reading would be to wait forever.
    pub fn may_read(&self) -> bool {
        match &self.phase {
            Phase::AwaitingConnect { .. } | Phase::AwaitingProof(..) => true,
            Phase::Connected(client) => client.unsafe_yet < self.limits.receive_maximum,
            Phase::AwaitingChallenge(_) | Phase::AwaitingAdmission(_) | Phase::Closed => false,
        }
    }

    /// Takes a packet and its length into account, before or after it is acted on.
    pub fn pay(&mut self, packet: &Packet<'_>, bytes: usize, now: Instant) {
        let Phase::Connected(client) = &mut self.phase else { return };
        if !Pace::is_set(&self.limits) {
            return;
        }
        let pace = client.pace.get_or_insert_with(|| Box::new(Pace::new(now)));
        let works = matches!(packet, Packet::Publish(_) | Packet::Subscribe(_) | Packet::Unsubscribe(_));
        pace.pay(works.into(), bytes, &self.limits, now);
    }

    /// Until when this client, which was faster than it may be, is not read from.
    pub fn rests_until(&self, now: Instant) -> Option<Instant> {
        match &self.phase {
            Phase::Connected(client) => client.pace.as_ref()?.rests_until(now),
            _ => None,
        }
    }

    /// Subscriptions that could not be made after all.
    pub fn on_unsubscribed(&mut self, filters: &[Box<str>]) {
        if let Phase::Connected(client) = &mut self.phase {
            filters.iter().for_each(|filter| drop(client.take_filter(filter)));
        }
    }

    /// When `on_tick` has something to do unless something is heard before.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::AwaitingConnect { deadline } => Some(*deadline),
            Phase::AwaitingProof(proving, _) => Some(proving.deadline),
            Phase::Connected(client) => client.deadline(),
            _ => None,
        }
    }

    /// The client was not listened to, for our own reasons: its silence does not count.
    pub fn excuse(&mut self, now: Instant) {
        if let Phase::Connected(client) = &mut self.phase {
            client.heard = now;
        }
    }

    pub fn on_packet<'p>(&'p mut self, packet: &'p Packet<'_>, now: Instant) -> Effects<'p> {
        let version = self.version;
        match (&mut self.phase, packet) {
            (Phase::AwaitingConnect { deadline }, Packet::Connect(connect)) => {
                let deadline = *deadline;
                self.on_connect(connect, deadline)
            }
            (Phase::AwaitingProof(..), packet) => self.on_proof(packet),
            (Phase::AwaitingConnect { .. }, _) => {
                self.phase = Phase::Closed;
                Effects::one(Effect::Close)
            }
            (Phase::Connected(_), Packet::Publish(publish)) => self.on_publish(publish, now),
            (Phase::Connected(client), packet) => match client.on_other(packet, &self.limits, now) {
                Ok(effects) => effects,
                Err(Done::Left { keep_will, expiry }) => {
                    let expiry = expiry.map(|asked| self.limits.expiry(asked));
                    self.leave(keep_will, expiry, None)
                }
                Err(Done::Wrong(reason)) => self.leave(true, None, version.is_v5().then_some(reason)),
            },
            // Nothing is read in these phases; what was read together with the CONNECT waits outside.
            (Phase::AwaitingChallenge(_) | Phase::AwaitingAdmission(_) | Phase::Closed, _) => Effects::none(),
        }
    }

    /// The answer to `Effect::Admit`.
    pub fn on_admitted(&mut self, decision: Result<Admitted, ReasonCode>, now: Instant) -> Effects<'static> {
        let Phase::AwaitingAdmission(accepting) = std::mem::replace(&mut self.phase, Phase::Closed) else {
            return Effects::none();
        };
        let admitted = match decision {
            Ok(admitted) => admitted,
            Err(reason) => return self.refuse(reason),
        };
        let Accepting { keep_alive: asked, packet_bytes, expiry: wanted, assigned_id, authentication } =
            *accepting;
        let expiry = self.limits.expiry(wanted);
        // Only v5 can be told another keep alive than it asked for; silence that lasts longer is suffered from nobody.
        let most = self.limits.keep_alive;
        let keep_alive = if most > 0 && (asked == 0 || asked > most) { most } else { asked };
        let accepted = Reply::Accepted {
            assigned_id,
            session_present: admitted.resumed.is_some(),
            expiry: Some(expiry).filter(|expiry| *expiry != wanted),
            keep_alive: Some(keep_alive).filter(|keep_alive| *keep_alive != asked && self.version.is_v5()),
            shares: admitted.shares,
            limits: Arc::clone(&self.limits),
            authentication,
        };
        let proven = matches!(&accepted, Reply::Accepted { authentication: Some(_), .. });
        let client = Connected::new(admitted, expiry, keep_alive, packet_bytes, proven, now);
        self.phase = Phase::Connected(Box::new(client));
        Effects::one(Effect::Send(accepted))
    }

    /// A routed message is safe, or could not be made so: the publisher gets its answer.
    pub fn on_stored(&mut self, receipt: Receipt, reason: ReasonCode) -> Effects<'static> {
        let Phase::Connected(client) = &mut self.phase else { return Effects::none() };
        match receipt.kind {
            AckKind::PubRec => {
                client.unsafe_yet = client.unsafe_yet.saturating_sub(1);
                // A refused message is over with its PUBREC (MQTT-4.3.3-4).
                let receiving = &mut client.seldom.receiving;
                if reason.is_failure() {
                    receiving.remove(&receipt.id);
                } else if let Some(state) = receiving.get_mut(&receipt.id) {
                    *state = Receiving::AwaitingReleased;
                }
            }
            AckKind::PubAck => {
                client.unsafe_yet = client.unsafe_yet.saturating_sub(1);
                client.unacknowledged = client.unacknowledged.saturating_sub(1);
            }
            AckKind::PubRel | AckKind::PubComp => {}
        }
        if reason.is_failure() && !self.version.is_v5() {
            // v3 cannot say no: an acknowledgement would be a lie, silence would hang the client.
            return self.leave(true, None, None);
        }
        Effects::one(Effect::Send(Reply::Ack { kind: receipt.kind, id: receipt.id, reason }))
    }

    pub fn on_tick(&mut self, now: Instant) -> Effects<'static> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Effects::none();
        }
        match &self.phase {
            Phase::Connected(client) => {
                let reason = client.overdue(now);
                self.leave(true, None, self.version.is_v5().then_some(reason))
            }
            _ => {
                self.phase = Phase::Closed;
                Effects::one(Effect::Close)
            }
        }
    }

    /// Bytes that are no packet.
    pub fn on_error(&mut self, error: ReadError) -> Effects<'static> {
        match (&self.phase, error) {
            (Phase::Connected(_), error) => {
                self.leave(true, None, self.version.is_v5().then_some(error.reason()))
            }
            (_, ReadError::Decode(DecodeError::UnsupportedVersion { level })) => {
                self.phase = Phase::Closed;
                Effects::one(Effect::Send(Reply::UnsupportedVersion { level })).and(Effect::Close)
            }
            _ => {
                self.phase = Phase::Closed;
                Effects::one(Effect::Close)
            }
        }
    }

    pub fn on_end(&mut self, ending: Ending) -> Effects<'static> {
        match (&self.phase, ending) {
            (Phase::Closed, _) => Effects::none(),
            (Phase::Connected(_), Ending::SentAway(reason)) => {
                self.leave(true, None, self.version.is_v5().then_some(reason))
            }
            (Phase::Connected(_), Ending::Lost) => self.leave(true, None, None),
            _ => {
                self.phase = Phase::Closed;
                Effects::one(Effect::Close)
            }
        }
    }

    fn on_connect(&mut self, connect: &Connect<'_>, deadline: Instant) -> Effects<'static> {
        self.version = connect.version;
        if connect.properties.authentication.is_some_and(|given| given.method != scram::METHOD) {
            return self.refuse(ReasonCode::BadAuthenticationMethod);
        }
        // Who does not take our answers cannot be served, and is told only what it takes [MQTT5-3.1.2-24].
        let takes = connect.properties.maximum_packet_size.map_or(usize::MAX, |size| size.get() as usize);
        if takes < REFUSAL {
            self.phase = Phase::Closed;
            return Effects::one(Effect::Close);
        }
        if takes < longest_answer(connect) {
            return self.refuse(ReasonCode::ImplementationSpecificError);
        }
        let assigned_id = connect.client_id.is_empty();
        // v3 without a name must not ask for a session to be kept under it (MQTT-3.1.3-8); 3.1 must give one.
        let unnamed = match connect.version {
            Version::V31 => assigned_id,
            Version::V311 => assigned_id && !connect.clean_start,
            Version::V5 => false,
        };
        if unnamed {
            return self.refuse(ReasonCode::ClientIdentifierNotValid);
        }
        let will = match &connect.will {
            None => None,
            Some(will) if !topics(&self.limits).allow(will.topic) => {
                return self.refuse(ReasonCode::TopicNameInvalid);
            }
            Some(will) if will.retain && !self.limits.retains() => {
                return self.refuse(ReasonCode::RetainNotSupported);
            }
            Some(will) => Will::new(will),
        };
        let client_id: Box<str> = if assigned_id {
            format!("nsd-{:016x}", fastrand::u64(..)).into()
        } else {
            connect.client_id.into()
        };
        let expiry = match connect.version {
            Version::V5 => connect.properties.session_expiry.unwrap_or(0),
            _ if connect.clean_start => 0,
            _ => u32::MAX,
        };
        let accepting = Box::new(Accepting {
            keep_alive: connect.keep_alive,
            packet_bytes: connect.properties.maximum_packet_size.map_or(u32::MAX, NonZeroU32::get),
            expiry,
            assigned_id: assigned_id.then(|| client_id.clone()),
            authentication: None,
        });
        let opening = Box::new(opening(connect, client_id, expiry, will, &self.limits));
        match connect.properties.authentication {
            None => {
                self.phase = Phase::AwaitingAdmission(accepting);
                Effects::one(Effect::Admit(opening))
            }
            Some(given) => {
                self.phase = Phase::AwaitingChallenge(Box::new(Proving { opening, accepting, deadline }));
                Effects::one(Effect::Challenge(given.data.unwrap_or_default().into()))
            }
        }
    }

    fn refuse(&mut self, reason: ReasonCode) -> Effects<'static> {
        self.phase = Phase::Closed;
        Effects::one(Effect::Send(Reply::Refused { version: self.version, reason })).and(Effect::Close)
    }

    fn on_publish<'p>(&'p mut self, publish: &'p Publish<'p>, now: Instant) -> Effects<'p> {
        let version = self.version;
        let Phase::Connected(client) = &mut self.phase else { return Effects::none() };
        client.heard = now;
        let receipt = match client.judge_publish(version, publish, &self.limits) {
            Verdict::Route(receipt) => receipt,
            Verdict::Answer(reply) => return Effects::one(Effect::Send(reply)),
            Verdict::Ignore => return Effects::none(),
            Verdict::End(reason) => return self.leave(true, None, version.is_v5().then_some(reason)),
        };
        let Phase::Connected(client) = &self.phase else { return Effects::none() };
        let topic = client.topic_of(publish);
        Effects::one(Effect::Route { publish, topic, receipt })
    }

    fn leave(
        &mut self,
        keep_will: bool,
        expiry: Option<u32>,
        farewell: Option<ReasonCode>,
    ) -> Effects<'static> {
        let Phase::Connected(client) = std::mem::replace(&mut self.phase, Phase::Closed) else {
            return Effects::one(Effect::Close);
        };
        let effects = match farewell {
            Some(reason) => Effects::one(Effect::Send(Reply::Disconnect(reason))),
            None => Effects::none(),
        };
        let filters = client.filters.into_names();
        effects.and(Effect::Leave { keep_will, expiry, filters }).and(Effect::Close)
    }
}

/// The longest CONNACK or AUTH that this CONNECT may lead to.
fn longest_answer(connect: &Connect<'_>) -> usize {
    let assigned_id = if connect.client_id.is_empty() { ASSIGNED_ID } else { 0 };
    let data = connect.properties.authentication.map(|given| given.data.map_or(0, <[u8]>::len));
    CONNACK + assigned_id + data.map_or(0, |data| AUTHENTICATION + data)
}

fn opening(
    connect: &Connect<'_>,
    client_id: Box<str>,
    expiry: u32,
    will: Option<Will>,
    limits: &Limits,
) -> Opening {
    let properties = &connect.properties;
    Opening {
        version: connect.version,
        client_id,
        assigned_id: connect.client_id.is_empty(),
        clean_start: connect.clean_start,
        expiry: limits.expiry(expiry),
        keep_alive: connect.keep_alive,
        receive_maximum: properties.receive_maximum.map_or(u16::MAX, Into::into).min(limits.send_window),
        maximum_packet_size: properties.maximum_packet_size.map_or(usize::MAX, |size| size.get() as usize),
        topic_aliases: properties.topic_alias_maximum.unwrap_or(0).min(limits.topic_aliases),
        user_name: connect.user_name.map(Into::into),
        password: connect.password.map(|password| Zeroizing::new(password.to_vec())),
        proven: None,
        will,
    }
}

fn topics(limits: &Limits) -> topic::Limits {
    topic::Limits { bytes: u16::MAX as usize, levels: limits.topic_levels }
}

#[cfg(test)]
mod tests;
