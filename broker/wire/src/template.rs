//! One message written for any number of receivers.
//!
//! The parts that are the same for all, in the order of the wire, are encoded once: topic, properties, payload. A
//! delivery is then two or three copies around the few bytes that are the receiver's own.

use std::num::NonZeroU16;

use crate::{
    error::EncodeError::{self, TooLong},
    frame::{MAX_HEADER, MAX_REMAINING_LENGTH},
    property::{PropertyId, PropertySink, SubscriptionId},
    publish::{self, Publish, PublishProperties},
    qos::{PacketId, Qos},
    version::Version,
    writer::{self, Section, Sink},
};

/// The parts of a PUBLISH that all its receivers share. Topic alias and subscription identifiers of the packet it was
/// made from are left out: they belong to its sender's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Length and text of the topic, length and bytes of the properties, the payload.
    bytes: Box<[u8]>,
    /// Where the length of the properties begins, where they do, and where the payload does.
    properties_length: usize,
    properties: usize,
    payload: usize,
    message_expiry: Option<u32>,
}

/// What is one receiver's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct Delivery<'a> {
    pub dup: bool,
    pub retain: bool,
    /// QoS 0 has no packet identifier, the others have one.
    pub qos: Qos,
    pub packet_id: Option<PacketId>,
    /// v5: identifiers of the subscriptions that match.
    pub subscription_ids: &'a [SubscriptionId],
    /// v5: the alias of the topic on this connection.
    pub alias: Option<Alias>,
    /// v5: seconds that the message has waited here [MQTT-3.3.2-6]. Without an expiry it says nothing.
    pub waited: u32,
}

/// A topic alias toward the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alias {
    /// Name the topic, and this number for it from now on.
    Set(NonZeroU16),
    /// The number instead of the topic.
    Use(NonZeroU16),
}

impl Alias {
    const fn number(self) -> NonZeroU16 {
        match self {
            Self::Set(number) | Self::Use(number) => number,
        }
    }
}

/// Properties of a message without those of a connection.
struct OfMessage<'a, 'b>(&'b PublishProperties<'a>);

impl Section for OfMessage<'_, '_> {
    fn write<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        self.0.write_of_message(sink)
    }
}

/// Properties of one delivery.
struct OfDelivery<'a, 'b>(&'b Delivery<'a>);

impl Section for OfDelivery<'_, '_> {
    fn write<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        sink.u16_property(PropertyId::TopicAlias, self.0.alias.map(|alias| alias.number().get()));
        self.0.subscription_ids.iter().try_for_each(|&id| sink.subscription_id(id))
    }
}

impl Template {
    /// Encodes the shared parts of `message`. Its topic must be there: an alias has been resolved.
    pub fn new(message: &Publish<'_>) -> Result<Self, EncodeError> {
        let properties = OfMessage(&message.properties);
        let length = writer::length_of(&properties)?;
        let mut bytes = Vec::with_capacity(2 + message.topic.len() + 4 + length + message.payload.len());
        bytes.string(message.topic)?;
        let properties_length = bytes.len();
        bytes.varint(length)?;
        let start = bytes.len();
        properties.write(&mut bytes)?;
        let payload = bytes.len();
        bytes.bytes(message.payload);
        Ok(Self {
            bytes: bytes.into_boxed_slice(),
            properties_length,
            properties: start,
            payload,
            message_expiry: message.properties.message_expiry,
        })
    }

    /// The topic of the message.
    pub fn topic(&self) -> &str {
        // What was written is a `&str`.
        std::str::from_utf8(&self.bytes[2..self.properties_length]).unwrap_or_default()
    }

    /// The payload of the message.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.payload..]
    }

    /// Seconds that the message may live from when it was received.
    pub const fn message_expiry(&self) -> Option<u32> {
        self.message_expiry
    }

    /// Bytes that the template holds.
    pub const fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The length of the whole packet of this delivery, to compare with the receiver's Maximum Packet Size.
    pub fn packet_len(&self, version: Version, delivery: &Delivery<'_>) -> Result<usize, EncodeError> {
        let body = self.layout(version, delivery)?.body;
        Ok(1 + writer::varint(body)?.1 + body)
    }

    /// Appends the whole packet to `out`.
    pub fn write(
        &self,
        version: Version,
        delivery: &Delivery<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let layout = self.layout(version, delivery)?;
        out.reserve(MAX_HEADER + layout.body);
        self.write_parts(&layout, delivery, out)?;
        out.bytes(self.payload());
        Ok(())
    }

    /// Appends the packet up to its payload: [`Self::payload`] has to follow, for vectored writes of large ones.
    pub fn write_head(
        &self,
        version: Version,
        delivery: &Delivery<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        self.write_parts(&self.layout(version, delivery)?, delivery, out)
    }

    /// All lengths of a delivery, and all that can be wrong with it.
    fn layout(&self, version: Version, delivery: &Delivery<'_>) -> Result<Layout, EncodeError> {
        if delivery.packet_id.is_some() != (delivery.qos != Qos::AtMostOnce) {
            return Err(EncodeError::PacketId);
        }
        let use_alias = version.is_v5() && matches!(delivery.alias, Some(Alias::Use(_)));
        let topic = if use_alias { 2 } else { self.properties_length };
        let id = if delivery.packet_id.is_some() { 2 } else { 0 };
        let mut layout = Layout { body: 0, use_alias, v5: None };
        let mut properties = 0;
        if version.is_v5() {
            let own = if delivery.alias.is_none() && delivery.subscription_ids.is_empty() {
                0
            } else {
                writer::length_of(&OfDelivery(delivery))?
            };
            let length = own + self.payload - self.properties;
            properties = writer::varint(length)?.1 + length;
            layout.v5 = Some(V5Layout { own, length });
        }
        layout.body = topic + id + properties + self.bytes.len() - self.payload;
        if layout.body > MAX_REMAINING_LENGTH { Err(TooLong) } else { Ok(layout) }
    }

    fn write_parts(
        &self,
        layout: &Layout,
        delivery: &Delivery<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        out.u8(publish::first_byte(delivery.dup, delivery.qos, delivery.retain));
        out.varint(layout.body)?;
        out.bytes(if layout.use_alias { &[0, 0] } else { &self.bytes[..self.properties_length] });
        if let Some(id) = delivery.packet_id {
            out.u16(id.get());
        }
        let Some(V5Layout { own, length }) = layout.v5 else { return Ok(()) };
        if own == 0 {
            out.bytes(&self.bytes[self.properties_length..self.payload]);
        } else {
            out.varint(length)?;
            OfDelivery(delivery).write(out)?;
            out.bytes(&self.bytes[self.properties..self.payload]);
        }
        self.age(delivery.waited, out);
        Ok(())
    }

    /// The expiry is the first of the shared properties; what is left of it goes to the receiver.
    fn age(&self, waited: u32, out: &mut [u8]) {
        let Some(expiry) = self.message_expiry else { return };
        let at = out.len() - (self.payload - self.properties) + 1;
        if let Some(place) = out.get_mut(at..at + 4) {
            place.copy_from_slice(&expiry.saturating_sub(waited).to_be_bytes());
        }
    }
}

struct Layout {
    body: usize,
    use_alias: bool,
    v5: Option<V5Layout>,
}

struct V5Layout {
    /// Bytes of the properties of the delivery.
    own: usize,
    /// Bytes of all properties.
    length: usize,
}
