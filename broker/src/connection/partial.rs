//! The beginning of a packet whose end has not come, or packets that must wait for a decision.
//!
//! What is read lands in a buffer of the thread and is acted on there; only a packet that is cut off is put together
//! here. A large one would be copied whole, so its rest is read to where it belongs, and mostly the next one is as long.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::BufMut;
use nsd_edge::stream::SCRATCH;
use nsd_wire::frame;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Packets from here on are large.
const LARGE: usize = SCRATCH / 2;
/// Room made for bytes that have not come, at most; and kept for a packet that has not begun.
const AHEAD: usize = 2 * SCRATCH;

#[derive(Debug, Default)]
pub(super) struct Partial {
    bytes: Vec<u8>,
    /// The length of a large packet that came just now: another one is expected.
    alike: usize,
}

/// How many bytes of a packet have not come, as far as it is known; none of bytes that are no packet.
fn missing(bytes: &[u8], max_packet: usize) -> usize {
    match frame(bytes, max_packet) {
        Ok(Some(frame)) => frame.len().saturating_sub(bytes.len()),
        Ok(None) => 1,
        Err(_) => 0,
    }
}

impl Partial {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.is_empty() && self.alike == 0
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes of memory.
    pub(super) fn held(&self) -> usize {
        self.bytes.capacity()
    }

    pub(super) fn begin(&mut self, bytes: &[u8], max_packet: usize) {
        self.bytes.reserve_exact(bytes.len() + missing(bytes, max_packet).min(bytes.len()));
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes what the packet still needs; all of it, if that is nothing. What is behind comes back.
    pub(super) fn complete<'b>(&mut self, bytes: &'b [u8], max_packet: usize) -> &'b [u8] {
        let taken = match missing(&self.bytes, max_packet) {
            0 => bytes.len(),
            missing => missing.min(bytes.len()),
        };
        self.bytes.extend_from_slice(&bytes[..taken]);
        &bytes[taken..]
    }

    /// So many bytes are acted on.
    pub(super) fn used(&mut self, bytes: usize) {
        let whole = bytes == self.bytes.len();
        self.alike = if whole && (LARGE..AHEAD).contains(&bytes) { bytes } else { 0 };
        self.bytes.drain(..bytes);
        if self.is_idle() {
            self.bytes = Vec::new();
        }
    }

    /// How many bytes to read straight to here; 0: what comes next is not known to be large.
    pub(super) fn wanted(&self, max_packet: usize) -> usize {
        if self.is_empty() {
            return self.alike;
        }
        let missing = missing(&self.bytes, max_packet);
        if self.bytes.len() + missing >= LARGE { missing } else { 0 }
    }

    /// Reads so many bytes at most.
    pub(super) fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
        wanted: usize,
    ) -> Poll<io::Result<usize>> {
        // To announce a packet costs nothing here.
        let most = wanted.min(self.bytes.len().max(AHEAD));
        self.bytes.reserve_exact(most);
        let mut into = (&mut self.bytes).limit(most);
        let polled = pin!(stream.read_buf(&mut into)).poll(context);
        if polled.is_pending() {
            self.rest();
        }
        polled
    }

    /// Nothing comes at present.
    fn rest(&mut self) {
        self.alike = 0;
        self.bytes.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use nsd_wire::{Publish, Version};

    use super::*;

    const MOST: usize = 1024 * 1024;

    fn packet(payload: usize) -> Vec<u8> {
        let (payload, mut bytes) = (vec![b'x'; payload], Vec::new());
        Publish::new("t", &payload).encode(Version::V311, &mut bytes).unwrap();
        bytes
    }

    fn read(partial: &mut Partial, mut from: &[u8]) -> usize {
        let (wanted, mut context) = (partial.wanted(MOST), Context::from_waker(Waker::noop()));
        match partial.poll_read(&mut from, &mut context, wanted) {
            Poll::Ready(read) => read.unwrap(),
            Poll::Pending => unreachable!("bytes are there"),
        }
    }

    #[test]
    fn only_the_packet_that_is_cut_off_is_put_together() {
        for cut in 1..7 {
            let (small, mut stream) = (packet(3), packet(3));
            stream.extend_from_slice(&packet(500));
            let mut partial = Partial::default();
            partial.begin(&stream[..cut], MOST);
            let mut behind = &stream[cut..];
            while partial.bytes().len() < small.len() {
                behind = partial.complete(behind, MOST);
            }
            assert_eq!((partial.bytes(), behind), (&*small, &stream[small.len()..]), "cut at {cut}");
            partial.used(small.len());
            assert_eq!((partial.is_idle(), partial.held()), (true, 0));
        }
    }

    #[test]
    fn a_large_packet_is_read_as_far_as_it_goes_and_the_next_one_whole() {
        let large = packet(70_000);
        let stream = large.repeat(3);
        let mut partial = Partial::default();
        partial.begin(&stream[..1000], MOST);
        assert_eq!(read(&mut partial, &stream[1000..]), large.len() - 1000);
        assert_eq!(partial.bytes(), large);
        partial.used(large.len());
        assert_eq!(read(&mut partial, &stream[large.len()..]), large.len());
        assert_eq!(partial.bytes(), large);
        partial.used(large.len());
        // It was the last one.
        let (mut nothing, _other_end) = tokio::io::duplex(1);
        let mut context = Context::from_waker(Waker::noop());
        let wanted = partial.wanted(MOST);
        assert!(partial.poll_read(&mut nothing, &mut context, wanted).is_pending());
        assert_eq!((partial.is_idle(), partial.held()), (true, 0));
    }

    #[test]
    fn what_is_announced_holds_nothing_until_it_comes() {
        let mut partial = Partial::default();
        let announced = packet(MOST - 100);
        partial.begin(&announced[..5], MOST);
        assert!(partial.held() <= 16);
        assert_eq!(read(&mut partial, &announced[5..]), AHEAD);
        assert_eq!(partial.held(), AHEAD + 5);
    }
}
