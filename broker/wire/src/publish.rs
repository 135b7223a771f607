//! PUBLISH, and the way to write one message for many receivers.

use std::num::NonZeroU16;

use crate::{
    error::{
        DecodeError::{self, Malformed, Protocol, TopicAliasInvalid},
        EncodeError,
    },
    frame::PacketType,
    property::{self, PayloadFormat, Properties, PropertyId, PropertySink},
    qos::{PacketId, Qos},
    reader::Reader,
    repeated::{Span, SubscriptionIds, UserProperties},
    topic,
    version::Version,
    writer::{self, Body, Section, Sink},
};

const DUP: u8 = 0b1000;
const QOS_SHIFT: u8 = 1;
const RETAIN: u8 = 0b0001;

/// A message on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    pub dup: bool,
    pub qos: Qos,
    pub retain: bool,
    /// Empty only in v5 and with a topic alias.
    pub topic: &'a str,
    /// There exactly if the QoS is above 0.
    pub packet_id: Option<PacketId>,
    pub properties: PublishProperties<'a>,
    pub payload: &'a [u8],
}

/// Properties of a PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PublishProperties<'a> {
    pub payload_format: Option<PayloadFormat>,
    /// Seconds.
    pub message_expiry: Option<u32>,
    pub topic_alias: Option<NonZeroU16>,
    pub response_topic: Option<&'a str>,
    pub correlation_data: Option<&'a [u8]>,
    pub content_type: Option<&'a str>,
    pub subscription_ids: SubscriptionIds<'a>,
    pub user: UserProperties<'a>,
}

impl<'a> Publish<'a> {
    /// A QoS 0 message without properties.
    pub fn new(topic: &'a str, payload: &'a [u8]) -> Self {
        Self {
            dup: false,
            qos: Qos::AtMostOnce,
            retain: false,
            topic,
            packet_id: None,
            properties: PublishProperties::default(),
            payload,
        }
    }

    #[inline]
    pub(crate) fn decode(version: Version, flags: u8, body: &'a [u8]) -> Result<Self, DecodeError> {
        let qos = Qos::from_u8(flags >> QOS_SHIFT & 0b11).ok_or(Malformed("QoS 3"))?;
        let dup = flags & DUP != 0;
        if dup && qos == Qos::AtMostOnce && version != Version::V31 {
            return Err(Malformed("DUP with QoS 0"));
        }
        let mut reader = Reader::new(body);
        let topic = topic::read_name(&mut reader)?;
        let packet_id = if qos == Qos::AtMostOnce { None } else { Some(reader.packet_id()?) };
        let properties = if version.is_v5() {
            property::read::<PublishProperties<'_>>(&mut reader)?
        } else {
            PublishProperties::default()
        };
        if topic.is_empty() && properties.topic_alias.is_none() {
            return Err(if version.is_v5() {
                Protocol("neither a topic nor a topic alias")
            } else {
                Malformed("an empty topic")
            });
        }
        let retain = flags & RETAIN != 0;
        Ok(Self { dup, qos, retain, topic, packet_id, properties, payload: reader.take_rest() })
    }

    /// Appends the packet to `out`.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.packet_id.is_some() != (self.qos != Qos::AtMostOnce) {
            return Err(EncodeError::PacketId);
        }
        writer::packet(first_byte(self.dup, self.qos, self.retain), self, version, out)
    }

    /// Whether the bytes of this packet, as they came from a client of version `from`, are what a receiver of version
    /// `to` gets, so that they can be copied as they are.
    ///
    /// The caller adds what only it knows: the message goes out at once (its expiry has not shortened), and the
    /// receiver's subscription has no identifier and no "retain as published" that the RETAIN flag would matter for:
    /// a packet with that flag is never copied.
    pub fn can_be_copied(&self, from: Version, to: Version) -> bool {
        self.qos == Qos::AtMostOnce
            && from.same_family(to)
            && !self.dup
            && !self.retain
            && self.properties.topic_alias.is_none()
            && self.properties.subscription_ids.is_empty()
    }

    /// Whether the payload is what its format indicator says. A receiver may check it (section 3.3.2.3.2); decoding
    /// does not, because it costs a pass over the payload.
    pub fn payload_fits_format(&self) -> bool {
        self.properties.payload_format != Some(PayloadFormat::Utf8)
            || std::str::from_utf8(self.payload).is_ok()
    }
}

pub(crate) const fn first_byte(dup: bool, qos: Qos, retain: bool) -> u8 {
    PacketType::Publish.first_byte() | (dup as u8) << 3 | (qos as u8) << QOS_SHIFT | retain as u8
}

impl Body for Publish<'_> {
    fn write_body<S: Sink>(&self, version: Version, sink: &mut S) -> Result<(), EncodeError> {
        sink.string(self.topic)?;
        if let Some(id) = self.packet_id {
            sink.u16(id.get());
        }
        if version.is_v5() {
            sink.section(&self.properties)?;
        }
        sink.bytes(self.payload);
        Ok(())
    }
}

impl<'a> Properties<'a> for PublishProperties<'a> {
    fn take(&mut self, id: PropertyId, value: &mut Reader<'a>) -> Result<bool, DecodeError> {
        use PropertyId as P;
        match id {
            P::PayloadFormatIndicator => self.payload_format = property::payload_format(value)?,
            P::MessageExpiryInterval => self.message_expiry = Some(value.u32()?),
            P::TopicAlias => self.topic_alias = Some(NonZeroU16::new(value.u16()?).ok_or(TopicAliasInvalid)?),
            P::ResponseTopic => self.response_topic = property::response_topic(value)?,
            P::CorrelationData => self.correlation_data = Some(value.binary()?),
            P::ContentType => self.content_type = Some(value.string()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn set_user(&mut self, user: UserProperties<'a>) {
        self.user = user;
    }

    fn take_repeated(&mut self, span: Span<'a>) -> bool {
        self.subscription_ids = SubscriptionIds::from_span(span);
        true
    }
}

impl Section for PublishProperties<'_> {
    fn write<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        sink.u16_property(PropertyId::TopicAlias, self.topic_alias.map(NonZeroU16::get));
        self.subscription_ids.write(sink)?;
        self.write_of_message(sink)
    }
}

impl PublishProperties<'_> {
    /// Those that belong to the message and not to one connection; the expiry comes first, see [`crate::Template`].
    pub(crate) fn write_of_message<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        use PropertyId as P;
        sink.u32_property(P::MessageExpiryInterval, self.message_expiry);
        sink.byte_property(P::PayloadFormatIndicator, self.payload_format.map(|format| format as u8));
        sink.string_property(P::ContentType, self.content_type)?;
        sink.string_property(P::ResponseTopic, self.response_topic)?;
        sink.binary_property(P::CorrelationData, self.correlation_data)?;
        self.user.write(sink)
    }
}
