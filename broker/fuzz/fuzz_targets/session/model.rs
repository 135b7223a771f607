//! What a session has asked for so far, and what it may ask for next.

use std::collections::{HashMap, HashSet};

use nsd_broker::limits::Limits;
use nsd_broker::session::{Admitted, Effect, Effects, Receipt, Reply, Session};
use nsd_wire::{AckKind, Packet, PacketId, Qos, ReasonCode, Version};

/// What an effect follows from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cause {
    Published(Option<PacketId>),
    Released(PacketId),
    OtherPacket,
    Garbage,
    Admitted,
    Challenged,
    Stored(Receipt, ReasonCode),
    Time,
    End,
}

impl Cause {
    pub(crate) fn heard(packet: &Packet<'_>) -> Self {
        match packet {
            Packet::Publish(publish) => Self::Published(publish.packet_id),
            Packet::PubRel(ack) => Self::Released(ack.packet_id),
            _ => Self::OtherPacket,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Model {
    limits: Limits,
    version: Version,
    /// A CONNECT has come.
    connected: bool,
    asked: bool,
    undecided: bool,
    challenge: Option<Box<[u8]>>,
    inside: bool,
    left: bool,
    closed: bool,
    /// Routed and to be answered.
    receipts: Vec<Receipt>,
    /// QoS 2 messages that were routed and not released: whether they are stored.
    unreleased: HashMap<PacketId, bool>,
    filters: HashSet<Box<str>>,
    /// Filters and QoS 2 messages that came with the session.
    before: (usize, usize),
}

impl Model {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            version: Version::V311,
            connected: false,
            asked: false,
            undecided: false,
            challenge: None,
            inside: false,
            left: false,
            closed: false,
            receipts: Vec::new(),
            unreleased: HashMap::new(),
            filters: HashSet::new(),
            before: (0, 0),
        }
    }

    pub(crate) fn admit(&mut self, admitted: &Admitted) {
        let Some(resumed) = &admitted.resumed else { return };
        self.filters = resumed.filters.iter().cloned().collect();
        self.unreleased = resumed.held.iter().map(|id| (*id, true)).collect();
        self.before = (self.filters.len(), self.unreleased.len());
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// The first CONNECT tells it.
    pub(crate) fn hear_version(&mut self, version: Version) {
        if !std::mem::replace(&mut self.connected, true) {
            self.version = version;
        }
    }

    /// A CONNECT that was not decided yet.
    pub(crate) fn take_opening(&mut self) -> bool {
        std::mem::take(&mut self.undecided)
    }

    /// The first message of a client that wants to prove itself.
    pub(crate) fn take_challenge(&mut self) -> Option<Box<[u8]>> {
        self.challenge.take()
    }

    pub(crate) fn take_receipt(&mut self, which: u8) -> Option<Receipt> {
        let count = self.receipts.len();
        (count > 0).then(|| self.receipts.swap_remove(usize::from(which) % count))
    }

    pub(crate) fn carry_out(&mut self, effects: Effects<'_>, cause: &Cause) {
        let (mut answers, was_over) = (0, self.closed);
        for effect in effects {
            assert!(!self.closed, "asked after its end: {effect:?} for {cause:?}");
            answers += u32::from(matches!(effect, Effect::Send(Reply::Ack { .. })));
            self.one(effect, cause);
        }
        if let Cause::Stored(receipt, reason) = cause
            && !was_over
        {
            let may_end = reason.is_failure() && !self.version.is_v5();
            assert!(answers == 1 || (self.closed && may_end), "{receipt:?} has {answers} answers");
        }
    }

    fn one(&mut self, effect: Effect<'_>, cause: &Cause) {
        match effect {
            Effect::Admit(opening) => {
                assert!(!self.asked && self.challenge.is_none() && !opening.client_id.is_empty());
                (self.asked, self.undecided) = (true, true);
            }
            Effect::Challenge(first) => {
                assert!(self.challenge.is_none() && !self.undecided && self.version.is_v5());
                self.challenge = Some(first);
            }
            Effect::Route { publish, topic, receipt } => {
                assert!(self.inside && !topic.is_empty(), "{publish:?}");
                assert!(topic.split('/').count() <= self.limits.topic_levels, "{publish:?}");
                let Some(receipt) = receipt else { return assert_eq!(publish.qos, Qos::AtMostOnce) };
                self.receipts.push(receipt);
                assert_eq!(Some(receipt.id), publish.packet_id);
                if publish.qos == Qos::ExactlyOnce {
                    assert_eq!(receipt.kind, AckKind::PubRec);
                    let before = self.unreleased.insert(receipt.id, false);
                    assert_eq!(before, None, "{receipt:?} is routed twice");
                } else {
                    assert_eq!((receipt.kind, publish.qos), (AckKind::PubAck, Qos::AtLeastOnce));
                }
            }
            Effect::Release(receipt) => {
                assert_eq!(receipt.kind, AckKind::PubComp);
                assert!(matches!(cause, Cause::Released(id) if *id == receipt.id));
                let stored = self.unreleased.remove(&receipt.id);
                assert_eq!(stored, Some(true), "{receipt:?} is complete before it is stored");
                self.receipts.push(receipt);
            }
            Effect::Send(reply) => self.sent(&reply, cause),
            Effect::Subscribe(subscribing) => {
                for wish in subscribing.wishes {
                    if !wish.code.is_failure() {
                        assert_eq!(wish.new, self.filters.insert(wish.filter));
                    }
                }
            }
            Effect::Unsubscribe(unsubscribing) => {
                for filter in unsubscribing.filters {
                    assert!(self.filters.remove(&filter), "it had no {filter}");
                }
            }
            Effect::Leave { filters, .. } => {
                assert!(self.inside && !self.left);
                self.left = true;
                assert_eq!(filters.into_iter().collect::<HashSet<_>>(), self.filters);
            }
            Effect::Settle { .. } => assert!(self.inside),
            Effect::Close => {
                assert_eq!(self.left, self.inside, "who was in leaves");
                self.closed = true;
            }
        }
    }

    fn sent(&mut self, reply: &Reply, cause: &Cause) {
        match reply {
            Reply::Accepted { .. } => {
                assert!(self.asked && !self.inside);
                self.inside = true;
            }
            Reply::Refused { version, reason } => {
                assert!(reason.is_failure() && !self.inside);
                assert_eq!(*version, self.version);
            }
            Reply::Disconnect(_) => assert!(self.version.is_v5() && self.inside),
            Reply::Ack { kind, id, reason } => self.acknowledged(*kind, *id, *reason, cause),
            Reply::Auth { .. } => assert!(self.version.is_v5()),
            Reply::PingResp => assert!(self.inside),
            Reply::UnsupportedVersion { .. } => assert!(!self.asked),
        }
    }

    /// No acknowledgement before what it acknowledges was stored.
    fn acknowledged(&mut self, kind: AckKind, id: PacketId, reason: ReasonCode, cause: &Cause) {
        assert!(self.inside && reason.belongs_to(kind.packet_type()), "{kind:?} with {reason}");
        match (kind, cause) {
            (_, Cause::Stored(receipt, stored)) => {
                assert_eq!((receipt.id, receipt.kind, *stored), (id, kind, reason));
                match (kind, reason.is_failure()) {
                    (AckKind::PubRec, true) => drop(self.unreleased.remove(&id)),
                    (AckKind::PubRec, false) => drop(self.unreleased.insert(id, true)),
                    _ => {}
                }
            }
            (AckKind::PubRec, Cause::Published(Some(published))) if !reason.is_failure() => {
                assert_eq!((*published, self.unreleased.get(&id)), (id, Some(&true)), "only sent again");
            }
            (AckKind::PubAck | AckKind::PubRec, Cause::Published(Some(published))) => {
                assert!(*published == id && reason.is_failure());
            }
            (AckKind::PubComp, Cause::Released(released)) => {
                assert_eq!((*released, reason), (id, ReasonCode::PacketIdentifierNotFound));
                assert!(!self.unreleased.contains_key(&id));
            }
            // What the client says about messages that it got is the outbox's to answer.
            other => panic!("{other:?} {id:?} {reason:?}"),
        }
    }

    /// Never more than the limits say.
    pub(crate) fn check(&self, session: &Session) {
        let most = usize::from(self.limits.receive_maximum);
        let unsafe_yet = self.receipts.iter().filter(|receipt| receipt.kind != AckKind::PubComp).count();
        assert!(unsafe_yet <= most, "{unsafe_yet} are not safe yet");
        assert!(!session.may_read() || self.closed || unsafe_yet < most);
        assert!(!session.may_read() || !self.undecided, "nothing is heard before the decision");
        if self.version.is_v5() {
            assert!(self.unreleased.len() <= most.max(self.before.1));
        }
        assert!(self.filters.len() <= self.limits.subscriptions_per_client.max(self.before.0));
        assert!(!self.closed || session.deadline().is_none());
    }

    pub(crate) fn check_end(&self) {
        assert!(self.closed, "every life ends");
    }
}
