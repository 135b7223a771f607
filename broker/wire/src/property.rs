//! Properties of v5: which exist, how long each value is, and the one loop that reads them all.
//!
//! A packet's known properties end up in the fields of its struct. What may occur any number of times (user
//! properties, subscription identifiers) stays where it is in the packet and is walked when asked for; it has been
//! validated by then.

use std::{fmt, num::NonZeroU32};

use crate::{
    error::{
        DecodeError::{self, Malformed, Protocol},
        EncodeError,
    },
    reader::Reader,
    repeated::{Occurrences, Span, UserProperties},
    writer::Sink,
};

macro_rules! properties {
    ($($name:ident = $value:literal;)*) => {
        #[repr(u8)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum PropertyId {
            $($name = $value,)*
        }

        impl PropertyId {
            pub(crate) const fn from_u8(value: u8) -> Option<Self> {
                match value {
                    $($value => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

properties! {
    PayloadFormatIndicator = 0x01;
    MessageExpiryInterval = 0x02;
    ContentType = 0x03;
    ResponseTopic = 0x08;
    CorrelationData = 0x09;
    SubscriptionIdentifier = 0x0b;
    SessionExpiryInterval = 0x11;
    AssignedClientIdentifier = 0x12;
    ServerKeepAlive = 0x13;
    AuthenticationMethod = 0x15;
    AuthenticationData = 0x16;
    RequestProblemInformation = 0x17;
    WillDelayInterval = 0x18;
    RequestResponseInformation = 0x19;
    ResponseInformation = 0x1a;
    ServerReference = 0x1c;
    ReasonString = 0x1f;
    ReceiveMaximum = 0x21;
    TopicAliasMaximum = 0x22;
    TopicAlias = 0x23;
    MaximumQos = 0x24;
    RetainAvailable = 0x25;
    UserProperty = 0x26;
    MaximumPacketSize = 0x27;
    WildcardSubscriptionAvailable = 0x28;
    SubscriptionIdentifierAvailable = 0x29;
    SharedSubscriptionAvailable = 0x2a;
}

/// A subscription identifier: 1 to 268,435,455.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(NonZeroU32);

impl SubscriptionId {
    /// `None` outside the range.
    pub const fn new(id: u32) -> Option<Self> {
        match NonZeroU32::new(id) {
            Some(id) if id.get() <= 268_435_455 => Some(Self(id)),
            _ => None,
        }
    }

    /// The number on the wire.
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

/// What the payload of a message is said to be.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PayloadFormat {
    Bytes = 0,
    Utf8 = 1,
}

/// The method and data of enhanced authentication. There is no data without a method (section 3.1.2.11.10).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Authentication<'a> {
    pub method: &'a str,
    pub data: Option<&'a [u8]>,
}

/// The data is a secret of its method: it is never shown.
impl fmt::Debug for Authentication<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authentication").field("method", &self.method).finish_non_exhaustive()
    }
}

/// The properties of one packet, filled one by one.
pub(crate) trait Properties<'a>: Default {
    /// Takes the value of `id`; `Ok(false)`: the property does not belong to this packet.
    fn take(&mut self, id: PropertyId, value: &mut Reader<'a>) -> Result<bool, DecodeError>;

    /// The user properties of the packet, none so far.
    fn set_user(&mut self, user: UserProperties<'a>);

    /// Subscription identifiers may be many in a PUBLISH only, which notes where they stand.
    fn take_repeated(&mut self, _span: Span<'a>) -> bool {
        false
    }

    /// What can be judged only when all are known.
    fn finish(&self) -> Result<(), DecodeError> {
        Ok(())
    }
}

/// Reads a property section in one pass.
pub(crate) fn read<'a, P: Properties<'a>>(reader: &mut Reader<'a>) -> Result<P, DecodeError> {
    let length = reader.varint()? as usize;
    if length == 0 {
        let properties = P::default();
        properties.finish()?;
        return Ok(properties);
    }
    read_section(reader.take(length).map_err(|_| Malformed("the properties run past the packet"))?)
}

pub(crate) fn read_section<'a, P: Properties<'a>>(section: &'a [u8]) -> Result<P, DecodeError> {
    let mut properties = P::default();
    let mut reader = Reader::new(section);
    let mut seen = 0_u64;
    let (mut user, mut subscriptions) = (Occurrences::default(), Occurrences::default());
    while !reader.is_empty() {
        let start = section.len() - reader.remaining();
        let id = PropertyId::from_u8(reader.u8()?).ok_or(Malformed("an unknown property"))?;
        match id {
            PropertyId::UserProperty => {
                reader.string()?;
                reader.string()?;
                user.note(start, section.len() - reader.remaining());
                continue;
            }
            PropertyId::SubscriptionIdentifier if properties.take_repeated(Span::default()) => {
                subscription_id(&mut reader)?;
                subscriptions.note(start, section.len() - reader.remaining());
                continue;
            }
            _ => {}
        }
        let bit = 1 << (id as u8);
        if seen & bit != 0 {
            return Err(Protocol("a property twice"));
        }
        seen |= bit;
        if !properties.take(id, &mut reader)? {
            return Err(Malformed("a property that does not belong to the packet"));
        }
    }
    if let Some(span) = user.span(section) {
        properties.set_user(UserProperties::from_span(span));
    }
    if let Some(span) = subscriptions.span(section) {
        properties.take_repeated(span);
    }
    if seen & AUTHENTICATION == 1 << (PropertyId::AuthenticationData as u8) {
        return Err(Protocol("authentication data without a method"));
    }
    properties.finish()?;
    Ok(properties)
}

const AUTHENTICATION: u64 =
    1 << (PropertyId::AuthenticationMethod as u8) | 1 << (PropertyId::AuthenticationData as u8);

// ---- values -------------------------------------------------------------------------------------------------------

pub(crate) fn boolean(value: &mut Reader<'_>) -> Result<Option<bool>, DecodeError> {
    match value.u8()? {
        0 => Ok(Some(false)),
        1 => Ok(Some(true)),
        _ => Err(Protocol("a property that is neither 0 nor 1")),
    }
}

pub(crate) fn payload_format(value: &mut Reader<'_>) -> Result<Option<PayloadFormat>, DecodeError> {
    Ok(boolean(value)?.map(|utf8| if utf8 { PayloadFormat::Utf8 } else { PayloadFormat::Bytes }))
}

/// A value of two or four bytes that must not be 0.
pub(crate) fn non_zero<N, Z: TryFrom<N>>(value: N) -> Result<Option<Z>, DecodeError> {
    Z::try_from(value).map(Some).map_err(|_| Protocol("a property that must not be 0 is 0"))
}

pub(crate) fn subscription_id(value: &mut Reader<'_>) -> Result<SubscriptionId, DecodeError> {
    SubscriptionId::new(value.varint()?).ok_or(Protocol("subscription identifier 0"))
}

/// A response topic: a topic name [MQTT-3.3.2-14].
pub(crate) fn response_topic<'a>(value: &mut Reader<'a>) -> Result<Option<&'a str>, DecodeError> {
    let topic = value.string()?;
    if crate::topic::valid_name(topic) {
        Ok(Some(topic))
    } else {
        Err(Protocol("the response topic is no topic name"))
    }
}

/// Method and data come in any order: until the method is known it is empty.
pub(crate) fn authentication<'a>(
    so_far: &mut Option<Authentication<'a>>,
    id: PropertyId,
    value: &mut Reader<'a>,
) -> Result<bool, DecodeError> {
    let known = so_far.get_or_insert(Authentication { method: "", data: None });
    match id {
        PropertyId::AuthenticationMethod => known.method = value.string()?,
        _ => known.data = Some(value.binary()?),
    }
    Ok(true)
}

/// Writing one property: nothing if it is absent.
pub(crate) trait PropertySink: Sink {
    #[inline]
    fn byte_property(&mut self, id: PropertyId, value: Option<u8>) {
        if let Some(value) = value {
            self.u8(id as u8);
            self.u8(value);
        }
    }

    fn bool_property(&mut self, id: PropertyId, value: Option<bool>) {
        self.byte_property(id, value.map(u8::from));
    }

    #[inline]
    fn u16_property(&mut self, id: PropertyId, value: Option<u16>) {
        if let Some(value) = value {
            self.u8(id as u8);
            self.u16(value);
        }
    }

    #[inline]
    fn u32_property(&mut self, id: PropertyId, value: Option<u32>) {
        if let Some(value) = value {
            self.u8(id as u8);
            self.u32(value);
        }
    }

    #[inline]
    fn string_property(&mut self, id: PropertyId, value: Option<&str>) -> Result<(), EncodeError> {
        self.binary_property(id, value.map(str::as_bytes))
    }

    #[inline]
    fn binary_property(&mut self, id: PropertyId, value: Option<&[u8]>) -> Result<(), EncodeError> {
        let Some(value) = value else { return Ok(()) };
        self.u8(id as u8);
        self.binary(value)
    }

    fn subscription_id(&mut self, id: SubscriptionId) -> Result<(), EncodeError> {
        self.u8(PropertyId::SubscriptionIdentifier as u8);
        self.varint(id.get() as usize)
    }

    fn authentication(&mut self, authentication: Option<Authentication<'_>>) -> Result<(), EncodeError> {
        let Some(authentication) = authentication else { return Ok(()) };
        self.string_property(PropertyId::AuthenticationMethod, Some(authentication.method))?;
        self.binary_property(PropertyId::AuthenticationData, authentication.data)
    }
}

impl<S: Sink> PropertySink for S {}

/// Passes over a value: the one table of what values are made of.
pub(crate) fn skip(id: PropertyId, value: &mut Reader<'_>) -> Result<(), DecodeError> {
    use PropertyId as P;
    match id {
        P::PayloadFormatIndicator
        | P::RequestProblemInformation
        | P::RequestResponseInformation
        | P::MaximumQos
        | P::RetainAvailable
        | P::WildcardSubscriptionAvailable
        | P::SubscriptionIdentifierAvailable
        | P::SharedSubscriptionAvailable => value.take(1).map(drop),
        P::ServerKeepAlive | P::ReceiveMaximum | P::TopicAliasMaximum | P::TopicAlias => {
            value.take(2).map(drop)
        }
        P::MessageExpiryInterval | P::SessionExpiryInterval | P::WillDelayInterval | P::MaximumPacketSize => {
            value.take(4).map(drop)
        }
        P::SubscriptionIdentifier => value.varint().map(drop),
        P::UserProperty => value.binary().and_then(|_| value.binary()).map(drop),
        P::ContentType
        | P::ResponseTopic
        | P::CorrelationData
        | P::AssignedClientIdentifier
        | P::AuthenticationMethod
        | P::AuthenticationData
        | P::ResponseInformation
        | P::ServerReference
        | P::ReasonString => value.binary().map(drop),
    }
}
