//! What can be wrong with a packet that has arrived, and with one that is to be written.

use thiserror::Error;

use crate::reason::ReasonCode;

/// Why a complete packet was refused. The connection ends: v5 is told [`DecodeError::reason`], v3 is closed without a
/// word [MQTT-4.8.0-1], an unsupported version gets [`crate::connack::unsupported_version`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The bytes cannot be read by the specification.
    #[error("malformed packet: {0}")]
    Malformed(&'static str),
    /// They can be read, and say what they must not.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// A CONNECT of MQTT, of a level that is unknown here.
    #[error("protocol level {level} is not supported")]
    UnsupportedVersion { level: u8 },
    /// A CONNECT of something else than MQTT.
    #[error("the protocol is not MQTT")]
    UnknownProtocol,
    /// Topic alias 0 [MQTT-3.3.2-8].
    #[error("topic alias 0")]
    TopicAliasInvalid,
}

impl DecodeError {
    /// What a v5 peer is told.
    pub const fn reason(&self) -> ReasonCode {
        match self {
            Self::Malformed(_) => ReasonCode::MalformedPacket,
            Self::Protocol(_) => ReasonCode::ProtocolError,
            Self::UnsupportedVersion { .. } | Self::UnknownProtocol => ReasonCode::UnsupportedProtocolVersion,
            Self::TopicAliasInvalid => ReasonCode::TopicAliasInvalid,
        }
    }
}

/// Why a packet cannot be written. What was already in the buffer stays as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// A string over 65,535 bytes, or a packet over 268,435,455.
    #[error("too long for a length field of MQTT")]
    TooLong,
    /// QoS above 0 needs a packet identifier, QoS 0 must not have one.
    #[error("the packet identifier does not fit the QoS")]
    PacketId,
    /// The packet does not exist in that version: AUTH before v5.
    #[error("no such packet in this version of MQTT")]
    NotInVersion,
    /// SUBSCRIBE or UNSUBSCRIBE without a filter, SUBACK without a code.
    #[error("the packet needs at least one entry")]
    Empty,
    /// A password without a user name in v3 [MQTT-3.1.2-22].
    #[error("a password needs a user name before v5")]
    PasswordWithoutUserName,
}

/// Why the next packet of a stream was refused: see [`crate::read`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ReadError {
    #[error(transparent)]
    Frame(#[from] crate::frame::FrameError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl ReadError {
    /// What a v5 peer is told.
    pub const fn reason(&self) -> ReasonCode {
        match self {
            Self::Frame(error) => error.reason(),
            Self::Decode(error) => error.reason(),
        }
    }
}
