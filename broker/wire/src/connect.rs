//! CONNECT: the only packet that tells its own version.

use std::{
    fmt,
    num::{NonZeroU16, NonZeroU32},
};

use crate::{
    error::{
        DecodeError::{self, Malformed, Protocol},
        EncodeError,
    },
    frame::PacketType,
    property::{self, Authentication, PayloadFormat, Properties, PropertyId, PropertySink},
    qos::Qos,
    reader::Reader,
    repeated::UserProperties,
    topic,
    version::Version,
    writer::{self, Body, Section, Sink},
};

const RESERVED: u8 = 0b0000_0001;
const CLEAN_START: u8 = 0b0000_0010;
const WILL: u8 = 0b0000_0100;
const WILL_QOS_SHIFT: u8 = 3;
const WILL_RETAIN: u8 = 0b0010_0000;
const PASSWORD: u8 = 0b0100_0000;
const USER_NAME: u8 = 0b1000_0000;

/// A client's first packet. Which client identifiers are taken, the empty one too, is the server's decision.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Connect<'a> {
    /// What was asked for. Encoding goes by its argument.
    pub version: Version,
    /// Clean Session before v5.
    pub clean_start: bool,
    /// Seconds; 0: no limit.
    pub keep_alive: u16,
    pub client_id: &'a str,
    pub properties: ConnectProperties<'a>,
    pub will: Option<Will<'a>>,
    pub user_name: Option<&'a str>,
    pub password: Option<&'a [u8]>,
}

/// The message that the server publishes for a client that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Will<'a> {
    pub qos: Qos,
    pub retain: bool,
    pub topic: &'a str,
    pub payload: &'a [u8],
    pub properties: WillProperties<'a>,
}

/// Properties of a CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectProperties<'a> {
    /// Seconds; `u32::MAX`: for ever.
    pub session_expiry: Option<u32>,
    pub receive_maximum: Option<NonZeroU16>,
    pub maximum_packet_size: Option<NonZeroU32>,
    pub topic_alias_maximum: Option<u16>,
    pub request_response_information: Option<bool>,
    pub request_problem_information: Option<bool>,
    pub authentication: Option<Authentication<'a>>,
    pub user: UserProperties<'a>,
}

/// Properties of a will.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WillProperties<'a> {
    /// Seconds between the end of the connection and the will.
    pub delay: Option<u32>,
    pub payload_format: Option<PayloadFormat>,
    /// Seconds.
    pub message_expiry: Option<u32>,
    pub content_type: Option<&'a str>,
    pub response_topic: Option<&'a str>,
    pub correlation_data: Option<&'a [u8]>,
    pub user: UserProperties<'a>,
}

impl<'a> Connect<'a> {
    /// A clean start without will, name or password, and a minute of keep alive.
    pub fn new(version: Version, client_id: &'a str) -> Self {
        Self {
            version,
            clean_start: true,
            keep_alive: 60,
            client_id,
            properties: ConnectProperties::default(),
            will: None,
            user_name: None,
            password: None,
        }
    }

    pub(crate) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let version = read_version(&mut reader)?;
        let flags = reader.u8()?;
        check_flags(version, flags)?;
        let keep_alive = reader.u16()?;
        let properties =
            if version.is_v5() { property::read(&mut reader)? } else { ConnectProperties::default() };
        let client_id = reader.string()?;
        let will = if flags & WILL != 0 { Some(Will::decode(version, flags, &mut reader)?) } else { None };
        // In 3.1 the length of the packet goes before these two flags: a promised string may be missing.
        let promised =
            |flag, reader: &Reader<'_>| flags & flag != 0 && !(version == Version::V31 && reader.is_empty());
        let user_name = if promised(USER_NAME, &reader) { Some(reader.string()?) } else { None };
        let password = if promised(PASSWORD, &reader) { Some(reader.binary()?) } else { None };
        reader.end()?;
        let clean_start = flags & CLEAN_START != 0;
        Ok(Self { version, clean_start, keep_alive, client_id, properties, will, user_name, password })
    }

    /// Appends the packet to `out`, for `version`.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.password.is_some() && self.user_name.is_none() && !version.is_v5() {
            return Err(EncodeError::PasswordWithoutUserName);
        }
        writer::packet(PacketType::Connect.first_byte(), self, version, out)
    }

    fn flags(&self) -> u8 {
        let mut flags = 0;
        let mut set = |flag, on| flags |= if on { flag } else { 0 };
        set(CLEAN_START, self.clean_start);
        set(USER_NAME, self.user_name.is_some());
        set(PASSWORD, self.password.is_some());
        if let Some(will) = &self.will {
            set(WILL | (will.qos as u8) << WILL_QOS_SHIFT, true);
            set(WILL_RETAIN, will.retain);
        }
        flags
    }
}

fn read_version(reader: &mut Reader<'_>) -> Result<Version, DecodeError> {
    let name = reader.binary()?;
    if name != b"MQTT" && name != b"MQIsdp" {
        return Err(DecodeError::UnknownProtocol);
    }
    let level = reader.u8()?;
    Version::from_level(level)
        .filter(|version| version.protocol_name().as_bytes() == name)
        .ok_or(DecodeError::UnsupportedVersion { level })
}

/// The rules between the flags. MQTT 3.1 leaves the reserved bit, and what is said of an absent will, unused.
fn check_flags(version: Version, flags: u8) -> Result<(), DecodeError> {
    if flags & PASSWORD != 0 && flags & USER_NAME == 0 && !version.is_v5() {
        return Err(Protocol("a password without a user name"));
    }
    if version == Version::V31 {
        return Ok(());
    }
    if flags & RESERVED != 0 {
        return Err(Malformed("the reserved flag of CONNECT is set"));
    }
    if flags & WILL == 0 && flags & (WILL_RETAIN | 0b11 << WILL_QOS_SHIFT) != 0 {
        return Err(Malformed("will flags without a will"));
    }
    Ok(())
}

impl<'a> Will<'a> {
    /// A QoS 0 will that is not retained.
    pub fn new(topic: &'a str, payload: &'a [u8]) -> Self {
        Self { qos: Qos::AtMostOnce, retain: false, topic, payload, properties: WillProperties::default() }
    }

    fn decode(version: Version, flags: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let qos = Qos::from_u8(flags >> WILL_QOS_SHIFT & 0b11).ok_or(Malformed("will QoS 3"))?;
        let properties = if version.is_v5() { property::read(reader)? } else { WillProperties::default() };
        let topic = reader.string()?;
        if !topic::valid_name(topic) {
            return Err(Malformed("the will topic is no topic name"));
        }
        Ok(Self { qos, retain: flags & WILL_RETAIN != 0, topic, payload: reader.binary()?, properties })
    }
}

impl Body for Connect<'_> {
    fn write_body<S: Sink>(&self, version: Version, sink: &mut S) -> Result<(), EncodeError> {
        sink.string(version.protocol_name())?;
        sink.u8(version.level());
        sink.u8(self.flags());
        sink.u16(self.keep_alive);
        if version.is_v5() {
            sink.section(&self.properties)?;
        }
        sink.string(self.client_id)?;
        if let Some(will) = &self.will {
            if version.is_v5() {
                sink.section(&will.properties)?;
            }
            sink.string(will.topic)?;
            sink.binary(will.payload)?;
        }
        if let Some(user_name) = self.user_name {
            sink.string(user_name)?;
        }
        if let Some(password) = self.password {
            sink.binary(password)?;
        }
        Ok(())
    }
}

impl<'a> Properties<'a> for ConnectProperties<'a> {
    fn take(&mut self, id: PropertyId, value: &mut Reader<'a>) -> Result<bool, DecodeError> {
        use PropertyId as P;
        match id {
            P::SessionExpiryInterval => self.session_expiry = Some(value.u32()?),
            P::ReceiveMaximum => self.receive_maximum = property::non_zero(value.u16()?)?,
            P::MaximumPacketSize => self.maximum_packet_size = property::non_zero(value.u32()?)?,
            P::TopicAliasMaximum => self.topic_alias_maximum = Some(value.u16()?),
            P::RequestResponseInformation => self.request_response_information = property::boolean(value)?,
            P::RequestProblemInformation => self.request_problem_information = property::boolean(value)?,
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

impl Section for ConnectProperties<'_> {
    fn write<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        use PropertyId as P;
        sink.u32_property(P::SessionExpiryInterval, self.session_expiry);
        sink.u16_property(P::ReceiveMaximum, self.receive_maximum.map(NonZeroU16::get));
        sink.u32_property(P::MaximumPacketSize, self.maximum_packet_size.map(NonZeroU32::get));
        sink.u16_property(P::TopicAliasMaximum, self.topic_alias_maximum);
        sink.bool_property(P::RequestResponseInformation, self.request_response_information);
        sink.bool_property(P::RequestProblemInformation, self.request_problem_information);
        sink.authentication(self.authentication)?;
        self.user.write(sink)
    }
}

impl<'a> Properties<'a> for WillProperties<'a> {
    fn take(&mut self, id: PropertyId, value: &mut Reader<'a>) -> Result<bool, DecodeError> {
        use PropertyId as P;
        match id {
            P::WillDelayInterval => self.delay = Some(value.u32()?),
            P::PayloadFormatIndicator => self.payload_format = property::payload_format(value)?,
            P::MessageExpiryInterval => self.message_expiry = Some(value.u32()?),
            P::ContentType => self.content_type = Some(value.string()?),
            P::ResponseTopic => self.response_topic = property::response_topic(value)?,
            P::CorrelationData => self.correlation_data = Some(value.binary()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn set_user(&mut self, user: UserProperties<'a>) {
        self.user = user;
    }
}

impl Section for WillProperties<'_> {
    fn write<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        use PropertyId as P;
        sink.u32_property(P::WillDelayInterval, self.delay);
        sink.byte_property(P::PayloadFormatIndicator, self.payload_format.map(|format| format as u8));
        sink.u32_property(P::MessageExpiryInterval, self.message_expiry);
        sink.string_property(P::ContentType, self.content_type)?;
        sink.string_property(P::ResponseTopic, self.response_topic)?;
        sink.binary_property(P::CorrelationData, self.correlation_data)?;
        self.user.write(sink)
    }
}

/// The password is never shown.
impl fmt::Debug for Connect<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("clean_start", &self.clean_start)
            .field("keep_alive", &self.keep_alive)
            .field("client_id", &self.client_id)
            .field("properties", &self.properties)
            .field("will", &self.will)
            .field("user_name", &self.user_name)
            .field("password", &self.password.map(|_| "[secret]"))
            .finish()
    }
}
