//! What can happen to a session, as the fuzzer writes it.

use std::num::{NonZeroU16, NonZeroU32};

use arbitrary::Arbitrary;
use nsd_broker::access::scram::METHOD;
use nsd_wire::{
    Ack, AckKind, Auth, Authentication, Connect, Disconnect, EncodeError, Packet, PacketId, Publish, Qos,
    ReasonCode, Subscribe, SubscribeFilter, SubscribeOptions, SubscriptionId, Unsubscribe, Version, Will,
};

#[derive(Debug, Arbitrary)]
pub(crate) struct Life<'a> {
    pub(crate) limits: Caps,
    pub(crate) steps: Vec<Step<'a>>,
}

/// So small that they are reached.
#[derive(Debug, Arbitrary)]
pub(crate) struct Caps {
    pub(crate) receive_maximum: u8,
    pub(crate) subscriptions: u8,
    pub(crate) aliases: u8,
    pub(crate) rate: u8,
}

#[derive(Debug, Arbitrary)]
pub(crate) enum Step<'a> {
    Packet(Said<'a>),
    Bytes(&'a [u8]),
    Admit { device: bool, resumed: Option<Before<'a>>, shares: bool },
    Refuse,
    Challenge { known: bool },
    Stored { which: u8, well: bool },
    Wait { tenths: u16 },
    Excuse,
    Lost,
    SentAway,
}

/// What a session has from earlier connections.
#[derive(Debug, Arbitrary)]
pub(crate) struct Before<'a> {
    pub(crate) filters: Vec<Text<'a>>,
    pub(crate) held: Vec<u8>,
}

/// A packet of a client. Identifiers are few, so that they meet.
#[derive(Debug, Arbitrary)]
pub(crate) enum Said<'a> {
    Connect {
        version: u8,
        clean_start: bool,
        keep_alive: u8,
        client_id: Text<'a>,
        will: Option<(Text<'a>, u8, bool)>,
        session_expiry: Option<u8>,
        receive_maximum: Option<NonZeroU16>,
        maximum_packet_size: Option<NonZeroU32>,
        user_name: Option<&'a str>,
        password: Option<&'a [u8]>,
        authentication: Option<Message<'a>>,
    },
    Auth {
        kind: u8,
        message: Message<'a>,
    },
    Publish {
        qos: u8,
        dup: bool,
        retain: bool,
        topic: Text<'a>,
        id: u8,
        alias: u8,
        payload: &'a [u8],
    },
    Ack {
        kind: u8,
        id: u8,
        reason: u8,
    },
    Subscribe {
        id: u8,
        filters: Vec<(Text<'a>, u8)>,
        subscription_id: Option<u8>,
    },
    Unsubscribe {
        id: u8,
        filters: Vec<Text<'a>>,
    },
    Ping,
    Disconnect {
        reason: u8,
        session_expiry: Option<u8>,
    },
}

/// A topic, a filter, a name: mostly one of those that matter.
#[derive(Debug, Arbitrary)]
pub(crate) enum Text<'a> {
    Known(u8),
    Any(&'a str),
}

/// A message of SCRAM: those of the exchange in RFC 7677, or any.
#[derive(Debug, Arbitrary)]
pub(crate) enum Message<'a> {
    First,
    Proof,
    Any(&'a [u8]),
}

impl<'a> Message<'a> {
    fn authentication(&self) -> Authentication<'a> {
        let data = match self {
            Self::First => b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
            Self::Proof => {
                &b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                   p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="[..]
            }
            Self::Any(data) => data,
        };
        Authentication { method: METHOD, data: Some(data) }
    }
}

const KNOWN: [&str; 16] = [
    "a",
    "a/b",
    "",
    "devices/user/x",
    "devices/user/#",
    "devices/e/x",
    "#",
    "+/b",
    "$SYS/x",
    "$share/g/a",
    "$share/g/#",
    "a/b/c/d",
    "a/b/c/d/e",
    "+/+/+/+/+",
    "/",
    "$SYS/#",
];

impl<'a> Text<'a> {
    pub(crate) fn text(&self) -> &'a str {
        match self {
            Self::Known(index) => KNOWN[usize::from(*index) % KNOWN.len()],
            Self::Any(text) => text,
        }
    }
}

pub(crate) fn id(id: u8) -> PacketId {
    PacketId::new(u16::from(id % 12) + 1).expect("it is above 0")
}

fn qos(qos: u8) -> Qos {
    [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][usize::from(qos) % 3]
}

fn code(code: u8) -> ReasonCode {
    ReasonCode::from_u8(code).unwrap_or(ReasonCode::Success)
}

impl Said<'_> {
    pub(crate) fn write(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::Connect { version, .. } => self.write_connect(Version::ALL[usize::from(*version) % 3], out),
            Self::Publish { .. } => self.write_publish(version, out),
            Self::Ack { kind, id: number, reason } => {
                let kinds = [AckKind::PubAck, AckKind::PubRec, AckKind::PubRel, AckKind::PubComp];
                let ack = Ack::with_reason(id(*number), code(*reason));
                ack.encode(kinds[usize::from(*kind) % 4], version, out)
            }
            Self::Subscribe { id: number, filters, subscription_id } => {
                let filters = filters.iter().map(|(filter, options)| {
                    let options = SubscribeOptions::from_u8(*options).unwrap_or_default();
                    SubscribeFilter { filter: filter.text(), options }
                });
                let filters: Vec<_> = filters.collect();
                let mut subscribe = Subscribe::new(id(*number), &filters);
                subscribe.properties.subscription_id =
                    subscription_id.and_then(|number| SubscriptionId::new(number.into()));
                subscribe.encode(version, out)
            }
            Self::Unsubscribe { id: number, filters } => {
                let filters: Vec<_> = filters.iter().map(Text::text).collect();
                Unsubscribe::new(id(*number), &filters).encode(version, out)
            }
            Self::Auth { kind, message } => {
                let kinds =
                    [ReasonCode::ContinueAuthentication, ReasonCode::ReAuthenticate, ReasonCode::Success];
                let mut auth = Auth { reason: kinds[usize::from(*kind) % 3], ..Auth::default() };
                auth.properties.authentication = Some(message.authentication());
                auth.encode(version, out)
            }
            Self::Ping => Packet::PingReq.encode(version, out),
            Self::Disconnect { reason, session_expiry } => {
                let mut disconnect = Disconnect::new(code(*reason));
                disconnect.properties.session_expiry = session_expiry.map(Into::into);
                disconnect.encode(version, out)
            }
        }
    }

    fn write_connect(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let Self::Connect { clean_start, keep_alive, client_id, will, user_name, password, .. } = self else {
            return Ok(());
        };
        let Self::Connect { session_expiry, receive_maximum, maximum_packet_size, authentication, .. } = self
        else {
            return Ok(());
        };
        let mut connect = Connect::new(version, client_id.text());
        connect.clean_start = *clean_start;
        connect.keep_alive = (*keep_alive).into();
        connect.will = will.as_ref().map(|(topic, level, retain)| Will {
            qos: qos(*level),
            retain: *retain,
            ..Will::new(topic.text(), b"gone")
        });
        (connect.user_name, connect.password) = (*user_name, *password);
        if version.is_v5() {
            connect.properties.session_expiry = session_expiry.map(Into::into);
            connect.properties.receive_maximum = *receive_maximum;
            connect.properties.maximum_packet_size = *maximum_packet_size;
            connect.properties.authentication = authentication.as_ref().map(Message::authentication);
        }
        connect.encode(version, out)
    }

    fn write_publish(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let Self::Publish { qos: level, dup, retain, topic, id: number, alias, payload } = self else {
            return Ok(());
        };
        let qos = qos(*level);
        let above_zero = qos != Qos::AtMostOnce;
        let packet_id = above_zero.then(|| id(*number));
        let mut publish = Publish {
            qos,
            dup: *dup && above_zero,
            retain: *retain,
            packet_id,
            ..Publish::new(topic.text(), payload)
        };
        if version.is_v5() {
            publish.properties.topic_alias = NonZeroU16::new(u16::from(*alias % 4));
        }
        publish.encode(version, out)
    }
}
