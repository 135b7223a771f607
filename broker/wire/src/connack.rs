//! CONNACK: the server's answer to a CONNECT.

use std::num::{NonZeroU16, NonZeroU32};

use crate::{
    error::{
        DecodeError::{self, Malformed, Protocol},
        EncodeError,
    },
    frame::PacketType,
    property::{self, Authentication, Properties, PropertyId, PropertySink},
    qos::Qos,
    reader::Reader,
    reason::{ConnectReturnCode, ReasonCode},
    repeated::UserProperties,
    version::Version,
    writer::{self, Body, Section, Sink},
};

/// Whether the client may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnAck<'a> {
    /// Not in MQTT 3.1, and never with a refusal [MQTT-3.2.2-6].
    pub session_present: bool,
    /// Before v5 the nearest [`ConnectReturnCode`] is written, and read back as what it means.
    pub reason: ReasonCode,
    pub properties: ConnAckProperties<'a>,
}

/// Properties of a CONNACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnAckProperties<'a> {
    pub session_expiry: Option<u32>,
    pub receive_maximum: Option<NonZeroU16>,
    /// `ExactlyOnce` is told by leaving it out: it is not written.
    pub maximum_qos: Option<Qos>,
    pub retain_available: Option<bool>,
    pub maximum_packet_size: Option<NonZeroU32>,
    pub assigned_client_id: Option<&'a str>,
    pub topic_alias_maximum: Option<u16>,
    pub reason_string: Option<&'a str>,
    pub wildcard_subscription_available: Option<bool>,
    pub subscription_ids_available: Option<bool>,
    pub shared_subscription_available: Option<bool>,
    pub server_keep_alive: Option<u16>,
    pub response_information: Option<&'a str>,
    pub server_reference: Option<&'a str>,
    pub authentication: Option<Authentication<'a>>,
    pub user: UserProperties<'a>,
}

/// The whole answer to a CONNECT whose level is not supported, in the form that a client of that level reads.
pub const fn unsupported_version(level: u8) -> &'static [u8] {
    if level > 4 { &[0x20, 0x03, 0x00, 0x84, 0x00] } else { &[0x20, 0x02, 0x00, 0x01] }
}

impl<'a> ConnAck<'a> {
    /// An answer without properties.
    pub fn new(session_present: bool, reason: ReasonCode) -> Self {
        Self { session_present, reason, properties: ConnAckProperties::default() }
    }

    pub(crate) fn decode(version: Version, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let flags = reader.u8()?;
        if flags > 1 && version != Version::V31 {
            return Err(Malformed("reserved flags of CONNACK are set"));
        }
        let code = reader.u8()?;
        let (reason, properties) = if version.is_v5() {
            (crate::ack::reason_of(code, PacketType::ConnAck)?, property::read(&mut reader)?)
        } else {
            let code = ConnectReturnCode::from_u8(code).ok_or(Malformed("a reserved return code"))?;
            (code.reason(), ConnAckProperties::default())
        };
        reader.end()?;
        // In 3.1 that byte is reserved and not looked at.
        let session_present = flags == 1 && version != Version::V31;
        if session_present && reason.is_failure() {
            return Err(Protocol("a session is present, yet the connection is refused"));
        }
        Ok(Self { session_present, reason, properties })
    }

    /// Appends the packet to `out`.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        writer::packet(PacketType::ConnAck.first_byte(), self, version, out)
    }
}

impl Body for ConnAck<'_> {
    fn write_body<S: Sink>(&self, version: Version, sink: &mut S) -> Result<(), EncodeError> {
        let present = self.session_present && !self.reason.is_failure() && version != Version::V31;
        sink.u8(u8::from(present));
        if version.is_v5() {
            sink.u8(self.reason as u8);
            sink.section(&self.properties)
        } else {
            sink.u8(ConnectReturnCode::from_reason(self.reason) as u8);
            Ok(())
        }
    }
}

impl<'a> Properties<'a> for ConnAckProperties<'a> {
    fn take(&mut self, id: PropertyId, value: &mut Reader<'a>) -> Result<bool, DecodeError> {
        use PropertyId as P;
        match id {
            P::SessionExpiryInterval => self.session_expiry = Some(value.u32()?),
            P::ReceiveMaximum => self.receive_maximum = property::non_zero(value.u16()?)?,
            P::MaximumQos => {
                let above_zero = property::boolean(value)?;
                self.maximum_qos = above_zero.map(|one| if one { Qos::AtLeastOnce } else { Qos::AtMostOnce });
            }
            P::RetainAvailable => self.retain_available = property::boolean(value)?,
            P::MaximumPacketSize => self.maximum_packet_size = property::non_zero(value.u32()?)?,
            P::AssignedClientIdentifier => self.assigned_client_id = Some(value.string()?),
            P::TopicAliasMaximum => self.topic_alias_maximum = Some(value.u16()?),
            P::ReasonString => self.reason_string = Some(value.string()?),
            P::WildcardSubscriptionAvailable => {
                self.wildcard_subscription_available = property::boolean(value)?;
            }
            P::SubscriptionIdentifierAvailable => self.subscription_ids_available = property::boolean(value)?,
            P::SharedSubscriptionAvailable => self.shared_subscription_available = property::boolean(value)?,
            P::ServerKeepAlive => self.server_keep_alive = Some(value.u16()?),
            P::ResponseInformation => self.response_information = Some(value.string()?),
            P::ServerReference => self.server_reference = Some(value.string()?),
            P::AuthenticationMethod | P::AuthenticationData => {
                return property::authentication(&mut self.authentication, id, value);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn set_user(&mut self, user: UserProperties<'a>) {
        self.user = user;
    }
}

impl Section for ConnAckProperties<'_> {
    fn write<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        use PropertyId as P;
        let maximum_qos = self.maximum_qos.filter(|&qos| qos != Qos::ExactlyOnce);
        sink.u32_property(P::SessionExpiryInterval, self.session_expiry);
        sink.u16_property(P::ReceiveMaximum, self.receive_maximum.map(NonZeroU16::get));
        sink.byte_property(P::MaximumQos, maximum_qos.map(|qos| qos as u8));
        sink.bool_property(P::RetainAvailable, self.retain_available);
        sink.u32_property(P::MaximumPacketSize, self.maximum_packet_size.map(NonZeroU32::get));
        sink.string_property(P::AssignedClientIdentifier, self.assigned_client_id)?;
        sink.u16_property(P::TopicAliasMaximum, self.topic_alias_maximum);
        sink.string_property(P::ReasonString, self.reason_string)?;
        sink.bool_property(P::WildcardSubscriptionAvailable, self.wildcard_subscription_available);
        sink.bool_property(P::SubscriptionIdentifierAvailable, self.subscription_ids_available);
        sink.bool_property(P::SharedSubscriptionAvailable, self.shared_subscription_available);
        sink.u16_property(P::ServerKeepAlive, self.server_keep_alive);
        sink.string_property(P::ResponseInformation, self.response_information)?;
        sink.string_property(P::ServerReference, self.server_reference)?;
        sink.authentication(self.authentication)?;
        self.user.write(sink)
    }
}
