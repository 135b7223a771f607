//! Where packets begin and end: the same for every cut of the stream, and where the wire format says so; and never lost
//! where the wire format is not.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use nsd_balancer::framing::{Boundary, Framing};
use nsd_wire::FrameError;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    /// Lengths of the pieces, over and over.
    pieces: [u8; 4],
    bytes: &'a [u8],
}

fuzz_target!(|input: Input<'_>| {
    let mut single = Framing::default();
    let mut packets = Packets::default();
    assert_eq!(single.boundary(), Boundary::Here);
    for end in 1..=input.bytes.len() {
        single.follow(&input.bytes[end - 1..end]);
        if let Some(wanted) = packets.boundary(&input.bytes[..end]) {
            assert_eq!(single.boundary(), wanted, "after {end} bytes");
        }
    }
    let mut whole = Framing::default();
    whole.follow(input.bytes);
    assert_eq!(whole, single, "at once, and byte by byte");
    let mut cut = Framing::default();
    let (mut rest, mut turn) = (input.bytes, input.pieces.iter().cycle());
    while !rest.is_empty() {
        let piece = usize::from(*turn.next().expect("a cycle")).clamp(1, rest.len());
        cut.follow(&rest[..piece]);
        rest = &rest[piece..];
    }
    assert_eq!(cut, single, "in pieces, and byte by byte");
});

/// The same told by the wire format's own framing.
#[derive(Default)]
struct Packets {
    /// Where the packet begins that is not complete.
    begin: usize,
    end: End,
}

#[derive(Default, Clone, Copy)]
enum End {
    #[default]
    None,
    Lost,
    /// A length with a byte too many: the wire format refuses it, framing is lenient, as MQTT 3 is.
    Untold,
}

impl Packets {
    fn boundary(&mut self, bytes: &[u8]) -> Option<Boundary> {
        let here = &bytes[self.begin..];
        match self.end {
            End::Lost => return Some(Boundary::Unknown),
            End::Untold => return None,
            End::None => {}
        }
        Some(match nsd_wire::frame(here, usize::MAX) {
            Err(FrameError::LengthNotMinimal) => {
                self.end = End::Untold;
                return None;
            }
            Err(_) => {
                self.end = End::Lost;
                Boundary::Unknown
            }
            Ok(None) => Boundary::After(1),
            Ok(Some(frame)) if frame.len() > here.len() => Boundary::After(frame.len() - here.len()),
            Ok(Some(frame)) => {
                self.begin += frame.len();
                Boundary::Here
            }
        })
    }
}
