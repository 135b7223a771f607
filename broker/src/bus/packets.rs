//! Messages on their way to other nodes, packed.

use foldhash::HashMap;
use redis::Pipeline;

use super::codec;
use crate::limits;
use crate::store::Link;

/// Packets per node, each no larger than what one Redis message should be.
#[derive(Default)]
pub(super) struct Packets {
    pub(super) by_node: HashMap<u64, Vec<Vec<u8>>>,
}

impl Packets {
    pub(super) fn add(&mut self, node: u64, message: &[u8], sender: u64, number: &mut u64) {
        let packets = self.by_node.entry(node).or_default();
        if packets.last().is_none_or(|packet| packet.len() + message.len() > limits::BUS_PACKET) {
            *number += 1;
            packets.push(codec::begin(sender, *number));
        }
        if let Some(packet) = packets.last_mut() {
            codec::push(packet, message);
        }
    }

    /// Nobody heard them, so under a new number they are not taken for a repetition, and come in order.
    pub(super) fn number_anew(&mut self, number: &mut u64) {
        for packet in self.by_node.values_mut().flatten() {
            *number += 1;
            codec::set_number(packet, *number);
        }
    }

    /// Gives up the newest until no more than `most` bytes are left; how many packets that were.
    pub(super) fn shorten(&mut self, most: usize) -> u64 {
        let (mut left, mut lost) = (most, 0);
        for packets in self.by_node.values_mut() {
            let kept = packets.iter().take_while(|packet| match left.checked_sub(packet.len()) {
                Some(less) => {
                    left = less;
                    true
                }
                None => false,
            });
            let kept = kept.count();
            lost += (packets.len() - kept) as u64;
            packets.truncate(kept);
        }
        lost
    }

    pub(super) fn write(self, pipeline: &mut Pipeline, link: &Link) -> Vec<(u64, Vec<u8>)> {
        let each = self
            .by_node
            .into_iter()
            .flat_map(|(node, packets)| packets.into_iter().map(move |packet| (node, packet)));
        let packets: Vec<_> = each.collect();
        for (node, packet) in &packets {
            pipeline.cmd("PUBLISH").arg(link.keys.inbox(*node)).arg(packet);
        }
        packets
    }
}
