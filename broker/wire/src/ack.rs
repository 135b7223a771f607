//! PUBACK, PUBREC, PUBREL and PUBCOMP: one shape, four kinds.

use crate::{
    error::{
        DecodeError::{self, Malformed, Protocol},
        EncodeError,
    },
    frame::PacketType,
    property::{self, Properties, PropertyId, PropertySink},
    qos::PacketId,
    reader::Reader,
    reason::ReasonCode,
    repeated::UserProperties,
    version::Version,
    writer::{self, Body, Section, Sink},
};

/// One step of the exchange about a PUBLISH. Before v5 it is the identifier alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack<'a> {
    pub packet_id: PacketId,
    pub reason: ReasonCode,
    pub properties: ReasonProperties<'a>,
}

/// Which step. The name of the [`crate::Packet`] variant says it elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AckKind {
    PubAck,
    PubRec,
    PubRel,
    PubComp,
}

/// The properties of every packet that only says how something went: the four acknowledgements, SUBACK, UNSUBACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReasonProperties<'a> {
    /// For people who look for the cause; not for programs.
    pub reason_string: Option<&'a str>,
    pub user: UserProperties<'a>,
}

impl AckKind {
    /// The kind of packet.
    pub const fn packet_type(self) -> PacketType {
        match self {
            Self::PubAck => PacketType::PubAck,
            Self::PubRec => PacketType::PubRec,
            Self::PubRel => PacketType::PubRel,
            Self::PubComp => PacketType::PubComp,
        }
    }
}

impl<'a> Ack<'a> {
    /// All went well.
    pub fn new(packet_id: PacketId) -> Self {
        Self::with_reason(packet_id, ReasonCode::Success)
    }

    /// An acknowledgement without properties.
    pub fn with_reason(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self { packet_id, reason, properties: ReasonProperties::default() }
    }

    pub(crate) fn decode(version: Version, kind: PacketType, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let mut ack = Self::new(reader.packet_id()?);
        if version.is_v5() && !reader.is_empty() {
            ack.reason = reason_of(reader.u8()?, kind)?;
            // Without a property length the properties are none (section 3.4.2.2.1).
            if !reader.is_empty() {
                ack.properties = property::read(&mut reader)?;
            }
        }
        reader.end()?;
        Ok(ack)
    }

    /// Appends the packet to `out`, in its shortest form.
    pub fn encode(&self, kind: AckKind, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        writer::packet(kind.packet_type().first_byte(), self, version, out)
    }
}

/// A reason code of a packet: defined, and listed for that kind.
pub(crate) fn reason_of(code: u8, kind: PacketType) -> Result<ReasonCode, DecodeError> {
    let reason = ReasonCode::from_u8(code).ok_or(Malformed("an undefined reason code"))?;
    if reason.belongs_to(kind) {
        Ok(reason)
    } else {
        Err(Protocol("a reason code that does not belong to the packet"))
    }
}

impl Body for Ack<'_> {
    fn write_body<S: Sink>(&self, version: Version, sink: &mut S) -> Result<(), EncodeError> {
        sink.u16(self.packet_id.get());
        if !version.is_v5() {
            return Ok(());
        }
        write_reason(self.reason, &self.properties, self.properties == ReasonProperties::default(), sink)
    }
}

/// A reason and properties that may both be left out from the end.
pub(crate) fn write_reason<S: Sink>(
    reason: ReasonCode,
    properties: &impl Section,
    none: bool,
    sink: &mut S,
) -> Result<(), EncodeError> {
    if !none || reason != ReasonCode::Success {
        sink.u8(reason as u8);
    }
    if !none {
        sink.section(properties)?;
    }
    Ok(())
}

impl<'a> Properties<'a> for ReasonProperties<'a> {
    fn take(&mut self, id: PropertyId, value: &mut Reader<'a>) -> Result<bool, DecodeError> {
        match id {
            PropertyId::ReasonString => self.reason_string = Some(value.string()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn set_user(&mut self, user: UserProperties<'a>) {
        self.user = user;
    }
}

impl Section for ReasonProperties<'_> {
    fn write<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        sink.string_property(PropertyId::ReasonString, self.reason_string)?;
        self.user.write(sink)
    }
}
