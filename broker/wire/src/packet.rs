//! Any packet: from a body to its struct, and back.

use crate::{
    ack::{Ack, AckKind},
    auth::Auth,
    connack::ConnAck,
    connect::Connect,
    disconnect::Disconnect,
    error::{
        DecodeError::{self, Malformed, Protocol},
        EncodeError, ReadError,
    },
    frame::{self, Frame, PacketType},
    publish::Publish,
    suback::{SubAck, UnsubAck},
    subscribe::{Subscribe, Unsubscribe},
    version::Version,
};

/// One control packet. Strings and bytes are borrowed from the body it was decoded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    Connect(Connect<'a>),
    ConnAck(ConnAck<'a>),
    Publish(Publish<'a>),
    PubAck(Ack<'a>),
    PubRec(Ack<'a>),
    PubRel(Ack<'a>),
    PubComp(Ack<'a>),
    Subscribe(Subscribe<'a>),
    SubAck(SubAck<'a>),
    Unsubscribe(Unsubscribe<'a>),
    UnsubAck(UnsubAck<'a>),
    PingReq,
    PingResp,
    Disconnect(Disconnect<'a>),
    Auth(Auth<'a>),
}

/// Which side of a connection sent a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sender {
    Client,
    Server,
}

/// Parses the complete body of a framed packet. A CONNECT tells its own version; for it `version` is not looked at.
#[inline]
pub fn decode(version: Version, frame: Frame, body: &[u8]) -> Result<Packet<'_>, DecodeError> {
    if body.len() != frame.body {
        return Err(Malformed("the body has another length than the frame says"));
    }
    if frame.kind == PacketType::Publish {
        return Publish::decode(version, frame.flags, body).map(Packet::Publish);
    }
    decode_other(version, frame, body)
}

/// All but PUBLISH, whose way stays short.
fn decode_other(version: Version, frame: Frame, body: &[u8]) -> Result<Packet<'_>, DecodeError> {
    check_flags(version, frame)?;
    Ok(match frame.kind {
        PacketType::Connect => Packet::Connect(Connect::decode(body)?),
        PacketType::ConnAck => Packet::ConnAck(ConnAck::decode(version, body)?),
        PacketType::Publish => Packet::Publish(Publish::decode(version, frame.flags, body)?),
        PacketType::PubAck => Packet::PubAck(Ack::decode(version, frame.kind, body)?),
        PacketType::PubRec => Packet::PubRec(Ack::decode(version, frame.kind, body)?),
        PacketType::PubRel => Packet::PubRel(Ack::decode(version, frame.kind, body)?),
        PacketType::PubComp => Packet::PubComp(Ack::decode(version, frame.kind, body)?),
        PacketType::Subscribe => Packet::Subscribe(Subscribe::decode(version, body)?),
        PacketType::SubAck => Packet::SubAck(SubAck::decode(version, body)?),
        PacketType::Unsubscribe => Packet::Unsubscribe(Unsubscribe::decode(version, body)?),
        PacketType::UnsubAck => Packet::UnsubAck(UnsubAck::decode(version, body)?),
        PacketType::PingReq => empty(body, Packet::PingReq)?,
        PacketType::PingResp => empty(body, Packet::PingResp)?,
        PacketType::Disconnect => Packet::Disconnect(Disconnect::decode(version, body)?),
        PacketType::Auth if version.is_v5() => Packet::Auth(Auth::decode(body)?),
        PacketType::Auth => return Err(Malformed("packet type 15 is reserved before v5")),
    })
}

/// Frames and parses the packet at the start of `bytes`, and tells its length. `Ok(None)`: it has not all arrived.
#[inline]
pub fn read(
    version: Version,
    bytes: &[u8],
    max_packet: usize,
) -> Result<Option<(Packet<'_>, usize)>, ReadError> {
    let Some(frame) = frame::frame(bytes, max_packet)? else { return Ok(None) };
    let Some(body) = frame.body_of(bytes) else { return Ok(None) };
    Ok(Some((decode(version, frame, body)?, frame.len())))
}

/// The flags that the specification fixes [MQTT-2.1.3-1]. In MQTT 3.1 the three kinds that are sent again with DUP may
/// have it.
fn check_flags(version: Version, frame: Frame) -> Result<(), DecodeError> {
    const DUP: u8 = 0b1000;
    let fixed = frame.kind.fixed_flags();
    let ignored = if version == Version::V31 && fixed != 0 { DUP } else { 0 };
    if frame.flags & !ignored == fixed {
        Ok(())
    } else {
        Err(Malformed("the flags of the fixed header are wrong"))
    }
}

fn empty<'a>(body: &[u8], packet: Packet<'a>) -> Result<Packet<'a>, DecodeError> {
    if body.is_empty() { Ok(packet) } else { Err(Malformed("bytes follow its end")) }
}

impl Packet<'_> {
    /// The kind of packet.
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::ConnAck(_) => PacketType::ConnAck,
            Self::Publish(_) => PacketType::Publish,
            Self::PubAck(_) => PacketType::PubAck,
            Self::PubRec(_) => PacketType::PubRec,
            Self::PubRel(_) => PacketType::PubRel,
            Self::PubComp(_) => PacketType::PubComp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::SubAck(_) => PacketType::SubAck,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::UnsubAck(_) => PacketType::UnsubAck,
            Self::PingReq => PacketType::PingReq,
            Self::PingResp => PacketType::PingResp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }

    /// Appends the packet to `out`; an error leaves `out` as it was.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::Connect(packet) => packet.encode(version, out),
            Self::ConnAck(packet) => packet.encode(version, out),
            Self::Publish(packet) => packet.encode(version, out),
            Self::PubAck(packet) => packet.encode(AckKind::PubAck, version, out),
            Self::PubRec(packet) => packet.encode(AckKind::PubRec, version, out),
            Self::PubRel(packet) => packet.encode(AckKind::PubRel, version, out),
            Self::PubComp(packet) => packet.encode(AckKind::PubComp, version, out),
            Self::Subscribe(packet) => packet.encode(version, out),
            Self::SubAck(packet) => packet.encode(version, out),
            Self::Unsubscribe(packet) => packet.encode(version, out),
            Self::UnsubAck(packet) => packet.encode(version, out),
            Self::PingReq | Self::PingResp => {
                out.extend_from_slice(&[self.packet_type().first_byte(), 0]);
                Ok(())
            }
            Self::Disconnect(packet) => packet.encode(version, out),
            Self::Auth(packet) => packet.encode(version, out),
        }
    }

    /// The rules that depend on who sends: kinds that go one way only, and fields that one side must not use. Decoding
    /// does not know the side, so who receives asks this next.
    pub fn check_sender(&self, sender: Sender, version: Version) -> Result<(), DecodeError> {
        match sender {
            Sender::Client => self.check_client(),
            Sender::Server => self.check_server(version),
        }
    }

    fn check_client(&self) -> Result<(), DecodeError> {
        match self {
            Self::ConnAck(_) | Self::SubAck(_) | Self::UnsubAck(_) | Self::PingResp => {
                Err(Protocol("a packet that only a server sends"))
            }
            // [MQTT-3.3.4-6]
            Self::Publish(publish) if !publish.properties.subscription_ids.is_empty() => {
                Err(Protocol("a subscription identifier in a client's PUBLISH"))
            }
            Self::Disconnect(disconnect) if disconnect.properties.server_reference.is_some() => {
                Err(Protocol("a server reference from a client"))
            }
            _ => Ok(()),
        }
    }

    fn check_server(&self, version: Version) -> Result<(), DecodeError> {
        match self {
            Self::Connect(_) | Self::Subscribe(_) | Self::Unsubscribe(_) | Self::PingReq => {
                Err(Protocol("a packet that only a client sends"))
            }
            Self::Disconnect(_) if !version.is_v5() => Err(Protocol("a DISCONNECT from a server before v5")),
            // [MQTT-3.14.2-2]
            Self::Disconnect(disconnect) if disconnect.properties.session_expiry.is_some() => {
                Err(Protocol("a session expiry in a server's DISCONNECT"))
            }
            _ => Ok(()),
        }
    }
}
