//! Packets beyond a client's window, of a session that ends with its connection: kept as they will be sent.

use std::collections::VecDeque;

use nsd_wire::{PacketId, Qos};

/// Whole packets in one run of bytes, each still without its identifier. Sent ones are not removed from the front one
/// by one: that would move all the others each time.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: Vec<u8>,
    sent: usize,
    packets: VecDeque<(usize, Qos)>,
}

impl Backlog {
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub(super) fn packets(&self) -> usize {
        self.packets.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    pub(super) fn first(&self) -> Option<Qos> {
        self.packets.front().map(|(_, qos)| *qos)
    }

    pub(super) fn push(&mut self, qos: Qos, write: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        let before = self.bytes.len();
        let written = write(&mut self.bytes);
        if written {
            self.packets.push_back((self.bytes.len() - before, qos));
        }
        written
    }

    pub(super) fn pop_into(&mut self, id: PacketId, out: &mut Vec<u8>) {
        let Some((length, _)) = self.packets.pop_front() else { return };
        let at = out.len();
        out.extend_from_slice(&self.bytes[self.sent..self.sent + length]);
        patch_id(&mut out[at..], id);
        self.sent += length;
        if self.packets.is_empty() {
            *self = Self::default();
        } else if self.sent > self.bytes.len() / 2 && self.sent > 64 * 1024 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }
}

/// Sets the identifier of a PUBLISH above QoS 0: it stands behind the fixed header and the topic.
pub(super) fn patch_id(packet: &mut [u8], id: PacketId) {
    let header = 2 + packet[1..].iter().take_while(|byte| **byte & 0x80 != 0).count();
    let topic = usize::from(u16::from_be_bytes([packet[header], packet[header + 1]]));
    let at = header + 2 + topic;
    packet[at..at + 2].copy_from_slice(&id.get().to_be_bytes());
}
