//! AUTH: one step of enhanced authentication, v5 only.

use crate::{
    ack::{reason_of, write_reason},
    error::{
        DecodeError::{self, Protocol},
        EncodeError,
    },
    frame::PacketType,
    property::{self, Authentication, Properties, PropertyId, PropertySink},
    reader::Reader,
    reason::ReasonCode,
    repeated::UserProperties,
    version::Version,
    writer::{self, Body, Section, Sink},
};

/// A step of either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Auth<'a> {
    pub reason: ReasonCode,
    pub properties: AuthProperties<'a>,
}

/// Properties of an AUTH. The method is absent only where all of them are, in the shortest form of success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AuthProperties<'a> {
    pub authentication: Option<Authentication<'a>>,
    pub reason_string: Option<&'a str>,
    pub user: UserProperties<'a>,
}

impl<'a> Auth<'a> {
    pub(crate) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        // Reason and property length may be left out together only (section 3.15.2.1).
        if body.is_empty() {
            return Ok(Self::default());
        }
        let mut reader = Reader::new(body);
        let reason = reason_of(reader.u8()?, PacketType::Auth)?;
        let properties: AuthProperties<'_> = property::read(&mut reader)?;
        reader.end()?;
        if properties.authentication.is_none() {
            return Err(Protocol("AUTH without an authentication method"));
        }
        Ok(Self { reason, properties })
    }

    /// Appends the packet to `out`.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if !version.is_v5() {
            return Err(EncodeError::NotInVersion);
        }
        writer::packet(PacketType::Auth.first_byte(), self, version, out)
    }
}

impl Body for Auth<'_> {
    fn write_body<S: Sink>(&self, _version: Version, sink: &mut S) -> Result<(), EncodeError> {
        write_reason(self.reason, &self.properties, *self == Self::default(), sink)
    }
}

impl<'a> Properties<'a> for AuthProperties<'a> {
    fn take(&mut self, id: PropertyId, value: &mut Reader<'a>) -> Result<bool, DecodeError> {
        match id {
            PropertyId::AuthenticationMethod | PropertyId::AuthenticationData => {
                return property::authentication(&mut self.authentication, id, value);
            }
            PropertyId::ReasonString => self.reason_string = Some(value.string()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn set_user(&mut self, user: UserProperties<'a>) {
        self.user = user;
    }
}

impl Section for AuthProperties<'_> {
    fn write<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        sink.authentication(self.authentication)?;
        sink.string_property(PropertyId::ReasonString, self.reason_string)?;
        self.user.write(sink)
    }
}
