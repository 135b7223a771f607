//! What the load says in MQTT: the packets that clients need, a PUBLISH made once and patched for every message, and the
//! mark that its payload begins with. The bytes themselves are `nsd-wire`'s business.

use nsd_wire::{
    Ack, AckKind, Connect, Disconnect, EncodeError, PacketId, Publish, Qos, ReasonCode, Subscribe,
    SubscribeFilter, SubscribeOptions, Version,
};

use crate::mqtt::Identity;

/// Bytes of a [`Mark`].
pub const MARK: usize = 4 + 8 + 8;
/// No packet of a run is larger.
pub const MAX_PACKET: usize = 128 * 1024;
/// The flag in a PUBLISH's first byte.
const RETAIN: u8 = 0b0000_0001;
/// Longer than any run: clients send no pings.
const KEEP_ALIVE: u16 = 3600;
/// Seconds that a session is kept; longer than any run.
const KEEP_SESSION: u32 = 3600;

/// What every payload begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub publisher: u32,
    pub number: u64,
    /// Nanoseconds of [`crate::clock`].
    pub stamp: u64,
}

impl Mark {
    /// `None` when the payload is none of ours.
    #[must_use]
    pub fn of(payload: &[u8]) -> Option<Self> {
        let (publisher, rest) = payload.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (stamp, _) = rest.split_first_chunk()?;
        Some(Self {
            publisher: u32::from_be_bytes(*publisher),
            number: u64::from_be_bytes(*number),
            stamp: u64::from_be_bytes(*stamp),
        })
    }
}

/// What becomes of a client's session when its connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    Clean,
    /// The server keeps it, with what is published meanwhile.
    Kept,
}

/// Appends the CONNECT of a client.
pub fn connect(
    identity: &Identity,
    client_id: &str,
    keeping: Keeping,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let mut connect = Connect::new(identity.version, client_id);
    connect.keep_alive = KEEP_ALIVE;
    connect.clean_start = keeping == Keeping::Clean;
    if identity.version.is_v5() && keeping == Keeping::Kept {
        connect.properties.session_expiry = Some(KEEP_SESSION);
    }
    connect.user_name = identity.user.as_deref();
    connect.password = identity.password.as_deref().map(str::as_bytes);
    connect.encode(identity.version, out)
}

/// Appends a SUBSCRIBE.
pub fn subscribe(
    version: Version,
    filters: &[String],
    qos: Qos,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let options = SubscribeOptions::from(qos);
    let filters: Vec<_> = filters.iter().map(|filter| SubscribeFilter { filter, options }).collect();
    Subscribe::new(PacketId::MIN, &filters).encode(version, out)
}

/// Appends an acknowledgement.
pub fn ack(kind: AckKind, version: Version, id: PacketId, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    Ack::new(id).encode(kind, version, out)
}

/// Appends what makes the server forget a topic's retained message.
pub fn forget(version: Version, topic: &str, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let mut publish = Publish::new(topic, b"");
    publish.retain = true;
    publish.encode(version, out)
}

/// Appends the farewell that no will follows.
pub fn disconnect(version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    Disconnect::new(ReasonCode::NORMAL_DISCONNECTION).encode(version, out)
}

/// A publisher's PUBLISH, whole but for what changes from message to message.
#[derive(Debug)]
pub struct Template {
    bytes: Vec<u8>,
    /// Where the packet id stands, if there is one.
    id: Option<usize>,
    /// Where the number and the stamp stand.
    number: usize,
    stamp: usize,
}

impl Template {
    /// `size` is at least [`MARK`].
    pub fn new(
        version: Version,
        topic: &str,
        qos: Qos,
        size: usize,
        publisher: u32,
    ) -> Result<Self, EncodeError> {
        let mut payload = vec![b'x'; size.max(MARK)];
        payload[..4].copy_from_slice(&publisher.to_be_bytes());
        let mut publish = Publish::new(topic, &payload);
        publish.qos = qos;
        publish.packet_id = (qos != Qos::AtMostOnce).then_some(PacketId::MIN);
        let mut bytes = Vec::new();
        publish.encode(version, &mut bytes)?;
        // Counted from the end, where the payload is: behind the topic come the id and, in v5, the length of no properties.
        let start = bytes.len() - payload.len();
        let properties = usize::from(version.is_v5());
        let id = publish.packet_id.map(|_| start - properties - 2);
        Ok(Self { bytes, id, number: start + 4, stamp: start + 12 })
    }

    /// The server keeps the message for later subscribers.
    #[must_use]
    pub fn retained(mut self) -> Self {
        self.bytes[0] |= RETAIN;
        self
    }

    /// Appends message `number`.
    pub fn push(&self, number: u64, stamp: u64, id: Option<PacketId>, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let message = &mut out[start..];
        if let (Some(at), Some(id)) = (self.id, id) {
            message[at..at + 2].copy_from_slice(&id.get().to_be_bytes());
        }
        message[self.number..self.number + 8].copy_from_slice(&number.to_be_bytes());
        message[self.stamp..self.stamp + 8].copy_from_slice(&stamp.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nsd_wire::{Packet, read};

    #[test]
    fn a_patched_template_reads_as_the_message_it_is() {
        for version in [Version::V311, Version::V5] {
            for (qos, id) in [
                (Qos::AtMostOnce, None),
                (Qos::AtLeastOnce, PacketId::new(0x1234)),
                (Qos::ExactlyOnce, PacketId::new(7)),
            ] {
                let template = Template::new(version, "load/any/x/1", qos, 200, 9).unwrap();
                let mut out = Vec::new();
                template.push(0, 0, PacketId::new(1), &mut out);
                let first = out.len();
                template.push(77, 88, id, &mut out);
                let Some((Packet::Publish(publish), _)) = read(version, &out[first..], MAX_PACKET).unwrap()
                else {
                    panic!("a PUBLISH");
                };
                assert_eq!((publish.qos, publish.packet_id, publish.topic), (qos, id, "load/any/x/1"));
                assert_eq!(publish.payload.len(), 200);
                assert_eq!(Mark::of(publish.payload), Some(Mark { publisher: 9, number: 77, stamp: 88 }));
            }
        }
    }

    #[test]
    fn short_payloads_are_none_of_ours() {
        assert_eq!(Mark::of(&[0; MARK - 1]), None);
        assert!(Mark::of(&[0; MARK]).is_some());
    }
}
