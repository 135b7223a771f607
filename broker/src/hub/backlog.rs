//! Packets beyond a client's window, of a session that ends with its connection: kept as they will be sent.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use nsd_wire::{Packet, PacketId, Qos, Version};

use super::share::Dealt;

/// Whole packets in one run of bytes, each still without its identifier. Sent ones are not removed from the front one
/// by one: that would move all the others each time.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: Vec<u8>,
    sent: usize,
    packets: VecDeque<Waiting>,
    /// Bytes of messages of groups, which are kept beside their packets.
    dealt: usize,
}

#[derive(Debug)]
struct Waiting {
    length: u32,
    qos: Qos,
    /// Of a message that expires; most do not.
    expiry: Option<Box<Expiry>>,
    /// Of a group's message.
    dealt: Option<Box<Dealt>>,
}

/// A message's life, from when the packet was written.
#[derive(Debug)]
pub(super) struct Expiry {
    pub(super) since: Instant,
    pub(super) seconds: u32,
    /// The packet's own.
    pub(super) version: Version,
}

impl Backlog {
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Bytes of messages that others may get instead.
    pub(super) fn dealt(&self) -> usize {
        self.dealt
    }

    pub(super) fn packets(&self) -> usize {
        self.packets.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    pub(super) fn first(&self) -> Option<Qos> {
        self.packets.front().map(|waiting| waiting.qos)
    }

    pub(super) fn push(
        &mut self,
        qos: Qos,
        expiry: Option<Expiry>,
        dealt: Option<Dealt>,
        write: impl FnOnce(&mut Vec<u8>) -> bool,
    ) -> bool {
        let before = self.bytes.len();
        let written = write(&mut self.bytes);
        if written {
            let length = u32::try_from(self.bytes.len() - before).expect("a packet is shorter than 256 MB");
            self.dealt += dealt.as_ref().map_or(0, Dealt::weight);
            let (expiry, dealt) = (expiry.map(Box::new), dealt.map(Box::new));
            self.packets.push_back(Waiting { length, qos, expiry, dealt });
        }
        written
    }

    /// Of the first one, once.
    pub(super) fn take_dealt(&mut self) -> Option<Dealt> {
        let dealt = self.packets.front_mut()?.dealt.take()?;
        self.dealt -= dealt.weight();
        Some(*dealt)
    }

    /// All messages of groups.
    pub(super) fn into_dealt(self) -> impl Iterator<Item = Dealt> {
        self.packets.into_iter().filter_map(|waiting| waiting.dealt.map(|dealt| *dealt))
    }

    /// Moves the first one up. `false`: it has expired, and is gone [MQTT5-3.3.2-5].
    pub(super) fn pop_into(&mut self, id: PacketId, out: &mut Vec<u8>) -> bool {
        let Some(Waiting { length, expiry, .. }) = self.packets.pop_front() else { return false };
        let packet = self.sent..self.sent + length as usize;
        self.sent = packet.end;
        let written = match expiry {
            None => copy(&self.bytes[packet], id, out),
            Some(expiry) => expiry.copy(&self.bytes[packet], id, out),
        };
        if self.packets.is_empty() {
            *self = Self::default();
        } else if self.sent > self.bytes.len() / 2 && self.sent > 64 * 1024 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        written
    }
}

impl Expiry {
    /// What is left of the message's life goes along [MQTT5-3.3.2-6]; v3 has no place for it.
    fn copy(&self, packet: &[u8], id: PacketId, out: &mut Vec<u8>) -> bool {
        let age = self.since.elapsed();
        if age >= Duration::from_secs(self.seconds.into()) {
            return false;
        }
        let waited = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        if waited == 0 || !self.version.is_v5() {
            return copy(packet, id, out);
        }
        let Ok(Some((Packet::Publish(mut publish), _))) = nsd_wire::read(self.version, packet, usize::MAX)
        else {
            return false;
        };
        publish.packet_id = Some(id);
        publish.properties.message_expiry = Some(self.seconds.saturating_sub(waited));
        publish.encode(self.version, out).is_ok()
    }
}

fn copy(packet: &[u8], id: PacketId, out: &mut Vec<u8>) -> bool {
    let at = out.len();
    out.extend_from_slice(packet);
    patch_id(&mut out[at..], id);
    true
}

/// Sets the identifier of a PUBLISH above QoS 0: it stands behind the fixed header and the topic.
pub(super) fn patch_id(packet: &mut [u8], id: PacketId) {
    let header = 2 + packet[1..].iter().take_while(|byte| **byte & 0x80 != 0).count();
    let topic = usize::from(u16::from_be_bytes([packet[header], packet[header + 1]]));
    let at = header + 2 + topic;
    packet[at..at + 2].copy_from_slice(&id.get().to_be_bytes());
}
