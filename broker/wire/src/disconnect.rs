//! DISCONNECT: the end, said by either side in v5 and by the client alone before.

use crate::{
    ack::{reason_of, write_reason},
    error::{DecodeError, EncodeError},
    frame::PacketType,
    property::{self, Properties, PropertyId, PropertySink},
    reader::Reader,
    reason::ReasonCode,
    repeated::UserProperties,
    version::Version,
    writer::{self, Body, Section, Sink},
};

/// The last packet of a connection. Before v5 it says nothing but that it is a normal end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Disconnect<'a> {
    pub reason: ReasonCode,
    pub properties: DisconnectProperties<'a>,
}

/// Properties of a DISCONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DisconnectProperties<'a> {
    /// From a client only [MQTT-3.14.2-2].
    pub session_expiry: Option<u32>,
    pub reason_string: Option<&'a str>,
    /// From a server only.
    pub server_reference: Option<&'a str>,
    pub user: UserProperties<'a>,
}

impl<'a> Disconnect<'a> {
    /// A DISCONNECT without properties.
    pub fn new(reason: ReasonCode) -> Self {
        Self { reason, properties: DisconnectProperties::default() }
    }

    pub(crate) fn decode(version: Version, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let mut disconnect = Self::default();
        if version.is_v5() && !reader.is_empty() {
            disconnect.reason = reason_of(reader.u8()?, PacketType::Disconnect)?;
            // Without a property length the properties are none (section 3.14.2.2.1).
            if !reader.is_empty() {
                disconnect.properties = property::read(&mut reader)?;
            }
        }
        reader.end()?;
        Ok(disconnect)
    }

    /// Appends the packet to `out`, in its shortest form.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        writer::packet(PacketType::Disconnect.first_byte(), self, version, out)
    }
}

impl Body for Disconnect<'_> {
    fn write_body<S: Sink>(&self, version: Version, sink: &mut S) -> Result<(), EncodeError> {
        if !version.is_v5() {
            return Ok(());
        }
        write_reason(self.reason, &self.properties, self.properties == DisconnectProperties::default(), sink)
    }
}

impl<'a> Properties<'a> for DisconnectProperties<'a> {
    fn take(&mut self, id: PropertyId, value: &mut Reader<'a>) -> Result<bool, DecodeError> {
        match id {
            PropertyId::SessionExpiryInterval => self.session_expiry = Some(value.u32()?),
            PropertyId::ReasonString => self.reason_string = Some(value.string()?),
            PropertyId::ServerReference => self.server_reference = Some(value.string()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn set_user(&mut self, user: UserProperties<'a>) {
        self.user = user;
    }
}

impl Section for DisconnectProperties<'_> {
    fn write<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        sink.u32_property(PropertyId::SessionExpiryInterval, self.session_expiry);
        sink.string_property(PropertyId::ReasonString, self.reason_string)?;
        sink.string_property(PropertyId::ServerReference, self.server_reference)?;
        self.user.write(sink)
    }
}
