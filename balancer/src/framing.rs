//! PURE. Where packets begin and end in one direction of an MQTT connection: twelve bytes of state, a few instructions a
//! packet, nothing kept of what passes. So it is known at any time whether something may be said between two packets.

use nsd_wire::PacketType;
use serde::{Deserialize, Serialize};

/// The remaining length has at most so many bytes.
const LONGEST_LENGTH: u8 = 4;

/// Follows a stream that begins with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Framing {
    /// Of the packet's body, still to come; while its length is read, the length so far.
    left: u32,
    publishes: u32,
    at: At,
    /// The kind of the last packet, as its number; 0: there was none.
    kind: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum At {
    Boundary,
    /// In the remaining length, after so many of its bytes.
    Length(u8),
    Body,
    /// Not MQTT, or broken: nobody can tell any more.
    Lost,
}

/// How far the next boundary is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boundary {
    /// Here.
    Here,
    /// Not within the next so many bytes; never 0.
    After(usize),
    /// It is not known.
    Unknown,
}

impl Default for Framing {
    fn default() -> Self {
        Self { left: 0, publishes: 0, at: At::Boundary, kind: 0 }
    }
}

impl Framing {
    /// Of a stream that is not MQTT's: follows nothing.
    pub fn lost() -> Self {
        Self { at: At::Lost, ..Self::default() }
    }

    /// Whether a stream can be here: what another process tells is looked at before it is followed.
    pub fn is_sound(&self) -> bool {
        match self.at {
            At::Boundary | At::Lost => true,
            At::Length(read) => read < LONGEST_LENGTH && self.left >> (7 * u32::from(read)) == 0,
            At::Body => self.left > 0,
        }
    }

    /// Takes the next bytes of the stream, cut anywhere.
    pub fn follow(&mut self, mut bytes: &[u8]) {
        while let Some((&first, rest)) = bytes.split_first() {
            bytes = match self.at {
                At::Boundary => {
                    self.begin(first);
                    rest
                }
                At::Length(read) => {
                    self.lengthen(first, read);
                    rest
                }
                At::Body => {
                    let here = bytes.len().min(self.left as usize);
                    self.skip(here);
                    &bytes[here..]
                }
                At::Lost => return,
            };
        }
    }

    fn begin(&mut self, first: u8) {
        self.kind = first >> 4;
        self.left = 0;
        self.at = if self.kind == 0 { At::Lost } else { At::Length(0) };
        if self.kind == PacketType::Publish as u8 {
            self.publishes = self.publishes.saturating_add(1);
        }
    }

    fn lengthen(&mut self, byte: u8, read: u8) {
        self.left |= u32::from(byte & 0x7f) << (7 * read);
        let more = byte & 0x80 != 0;
        self.at = match (more, self.left) {
            (true, _) if read + 1 == LONGEST_LENGTH => At::Lost,
            (true, _) => At::Length(read + 1),
            (false, 0) => At::Boundary,
            (false, _) => At::Body,
        };
    }

    pub fn boundary(&self) -> Boundary {
        match self.at {
            At::Boundary => Boundary::Here,
            At::Length(_) => Boundary::After(1),
            At::Body => Boundary::After(self.left as usize),
            At::Lost => Boundary::Unknown,
        }
    }

    /// How many of the next bytes tell nothing about where packets begin and end.
    pub fn unseen(&self) -> usize {
        match self.at {
            At::Boundary | At::Length(_) => 0,
            At::Body => self.left as usize,
            At::Lost => usize::MAX,
        }
    }

    /// [`Self::follow`] for bytes that were not seen; no more than [`Self::unseen`].
    pub fn skip(&mut self, bytes: usize) {
        if self.at == At::Body {
            self.left = self.left.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
            self.at = if self.left == 0 { At::Boundary } else { At::Body };
        }
    }

    /// Packets of messages so far; stays at its largest value.
    pub fn publishes(&self) -> u32 {
        self.publishes
    }

    /// Whether the last thing that was said is DISCONNECT: a connection that ends then ends as it should.
    pub fn said_goodbye(&self) -> bool {
        self.at == At::Boundary && self.kind == PacketType::Disconnect as u8
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn followed(bytes: &[u8]) -> Framing {
        let mut framing = Framing::default();
        framing.follow(bytes);
        framing
    }

    #[test]
    fn it_knows_how_far_the_boundary_is() {
        assert_eq!(followed(b"").boundary(), Boundary::Here);
        assert_eq!(followed(b"\xc0").boundary(), Boundary::After(1));
        assert_eq!(followed(b"\xc0\0").boundary(), Boundary::Here);
        assert_eq!(followed(b"\x30\x80").boundary(), Boundary::After(1));
        assert_eq!(followed(b"\x30\x80\x01").boundary(), Boundary::After(128));
        assert_eq!(followed(b"\x30\x05ab").boundary(), Boundary::After(3));
        assert_eq!(followed(b"\x30\xff\xff\xff\x7f").boundary(), Boundary::After(268_435_455));
    }

    #[test]
    fn what_is_broken_is_not_followed_any_longer() {
        for broken in [b"\x30\x80\x80\x80\x80".as_slice(), b"\0", b"\xc0\0\0\0"] {
            let mut framing = followed(broken);
            assert_eq!(framing.boundary(), Boundary::Unknown);
            framing.follow(b"\xc0\0");
            assert_eq!(framing.boundary(), Boundary::Unknown);
        }
        assert_eq!(Framing::lost().boundary(), Boundary::Unknown);
    }

    #[test]
    fn it_counts_messages_and_knows_a_goodbye() {
        let framing = followed(b"\x30\x03\0\x01a\xc0\0\x32\x02ab\xe0\0");
        assert_eq!((framing.publishes(), framing.said_goodbye()), (2, true));
        assert!(!followed(b"\xe0").said_goodbye() && !followed(b"\xe0\0\xc0\0").said_goodbye());
    }

    #[test]
    fn it_is_small() {
        assert_eq!(size_of::<Framing>(), 12);
    }

    /// A whole packet of any kind, with a body of some length.
    fn any_packet() -> impl Strategy<Value = Vec<u8>> {
        (1..=15_u8, 0..16_u8, prop_oneof![0..4_usize, 126..130_usize, 16_380..16_390_usize]).prop_map(
            |(kind, flags, length)| {
                let mut packet = vec![kind << 4 | flags];
                let mut left = length;
                loop {
                    let low = u8::try_from(left & 0x7f).unwrap();
                    left >>= 7;
                    packet.push(if left > 0 { low | 0x80 } else { low });
                    if left == 0 {
                        break;
                    }
                }
                packet.resize(packet.len() + length, 0x30);
                packet
            },
        )
    }

    proptest! {
        #[test]
        fn any_split_of_any_packets_ends_the_same(
            packets in prop::collection::vec(any_packet(), 0..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
            part in any::<prop::sample::Index>(),
        ) {
            let bytes = packets.concat();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let mut framing = Framing::default();
            let mut from = 0;
            for cut in cuts {
                framing.follow(&bytes[from..cut]);
                from = cut;
            }
            framing.follow(&bytes[from..]);
            prop_assert_eq!(framing, followed(&bytes));
            prop_assert_eq!(framing.boundary(), Boundary::Here);
            let messages = packets.iter().filter(|packet| packet[0] >> 4 == 3).count();
            prop_assert_eq!(framing.publishes() as usize, messages);

            // In the middle, the distance it tells never leads beyond the next boundary.
            let end = part.index(bytes.len() + 1);
            let mut part = followed(&bytes[..end]);
            prop_assert!(part.is_sound());
            let mut at = end;
            while let Boundary::After(distance) = part.boundary() {
                part.follow(&bytes[at..at + distance]);
                at += distance;
            }
            let starts = packets.iter().scan(0, |at, packet| { *at += packet.len(); Some(*at) });
            prop_assert!(at == 0 || starts.into_iter().any(|start| start == at), "{} is no boundary", at);
        }

        #[test]
        fn any_bytes_are_followed_or_given_up(bytes: Vec<u8>) {
            let _ = followed(&bytes).boundary();
        }
    }
}
