//! A message that outlives the packet it came in: retained, a will, on its way to another node. Pure.
//! It is kept as the bytes of one v5 PUBLISH, so that there is one form in memory, in the store and between nodes.

use nsd_wire::{PacketId, Publish, Qos, Version};

/// A whole message. Its packet identifier is a placeholder; alias and subscription identifiers are not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message(Box<[u8]>);

impl Message {
    /// `None` for what cannot be written: with properties that v3 did not have, longer than a packet may be.
    pub fn new(publish: &Publish<'_>) -> Option<Self> {
        let mut frame = Vec::new();
        Self::write(publish, &mut frame).then(|| Self(frame.into()))
    }

    /// Appends the bytes of a message to `out`; `false` leaves it as it was.
    pub fn write(publish: &Publish<'_>, out: &mut Vec<u8>) -> bool {
        let mut publish = *publish;
        publish.dup = false;
        publish.packet_id = (publish.qos != Qos::AtMostOnce).then_some(PacketId::MIN);
        publish.properties.topic_alias = None;
        publish.properties.subscription_ids = nsd_wire::SubscriptionIds::default();
        publish.encode(Version::V5, out).is_ok()
    }

    /// Takes bytes that another node or the store hands over, if they are one message.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        read(bytes).map(|_| Self(bytes.into()))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn publish(&self) -> Publish<'_> {
        read(&self.0).expect("a message is built from a PUBLISH or checked to be one")
    }
}

/// What is published for a client that is gone without a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    pub message: Message,
    /// Seconds between the end of the connection and the publishing, unless the session ends before.
    pub delay: u32,
}

impl Will {
    /// `None` as for [`Message::new`].
    pub fn new(will: &nsd_wire::Will<'_>) -> Option<Self> {
        let mut publish = Publish::new(will.topic, will.payload);
        publish.qos = will.qos;
        publish.retain = will.retain;
        let (from, to) = (&will.properties, &mut publish.properties);
        to.payload_format = from.payload_format;
        to.message_expiry = from.message_expiry;
        to.content_type = from.content_type;
        to.response_topic = from.response_topic;
        to.correlation_data = from.correlation_data;
        to.user = from.user;
        Some(Self { message: Message::new(&publish)?, delay: from.delay.unwrap_or(0) })
    }
}

/// The message in `bytes`, borrowed; `None` if they are not exactly one.
pub fn read(bytes: &[u8]) -> Option<Publish<'_>> {
    match nsd_wire::read(Version::V5, bytes, usize::MAX) {
        Ok(Some((nsd_wire::Packet::Publish(publish), length)))
            if length == bytes.len() && !publish.topic.is_empty() =>
        {
            Some(publish)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_keeps_what_matters() {
        let mut publish = Publish::new("a/b", b"x");
        publish.qos = Qos::ExactlyOnce;
        publish.retain = true;
        publish.dup = true;
        publish.packet_id = PacketId::new(77);
        publish.properties.message_expiry = Some(9);
        let message = Message::new(&publish).unwrap();
        let kept = message.publish();
        assert_eq!(
            (kept.topic, kept.payload, kept.qos, kept.retain),
            ("a/b", &b"x"[..], Qos::ExactlyOnce, true)
        );
        assert_eq!(kept.properties.message_expiry, Some(9));
        assert!(!kept.dup);
        assert_eq!(Message::from_bytes(message.bytes()), Some(message.clone()));
        assert_eq!(Message::from_bytes(&message.bytes()[1..]), None);
        assert_eq!(Message::from_bytes(b""), None);
    }
}
