//! Bytes that no one meant, read as every version.
//!
//! Nothing may panic; framing and parsing agree about lengths; a complete frame is never waited for; what is taken is
//! the same packet after it has been written and read again; reading allocates nothing, writing no more than a small
//! multiple of what came.
//!
//! The first byte of an input says how the rest is meant: even, a stream of packets as they are; odd, one packet whose
//! remaining length is put in, so that a mutation reaches the parser.

#![no_main]

use std::alloc::System;

use cap::Cap;
use libfuzzer_sys::{Corpus, fuzz_target};
use nsd_wire::packet::Sender;
use nsd_wire::{Delivery, Packet, Publish, ReadError, Template, Version, frame, read};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

fuzz_target!(|input: &[u8]| -> Corpus {
    let [mode, bytes @ ..] = input else { return Corpus::Reject };
    let mended = mode % 2 == 1;
    if mended && bytes.is_empty() {
        return Corpus::Reject;
    }
    let stream = if mended { mend(bytes) } else { bytes.to_vec() };
    for version in Version::ALL {
        let mut rest = &stream[..];
        while let Some(used) = check(version, rest) {
            rest = &rest[used..];
        }
    }
    Corpus::Keep
});

/// The first byte, the length of the others, the others.
fn mend(bytes: &[u8]) -> Vec<u8> {
    let mut packet = vec![bytes[0]];
    let mut length = bytes.len() - 1;
    loop {
        let more = if length > 127 { 0x80 } else { 0 };
        packet.push((length % 128) as u8 | more);
        length /= 128;
        if more == 0 {
            break;
        }
    }
    packet.extend_from_slice(&bytes[1..]);
    packet
}

/// The length of the valid packet that the bytes begin with; everything said above holds.
fn check(version: Version, bytes: &[u8]) -> Option<usize> {
    let before = ALLOCATOR.total_allocated();
    let framed = frame(bytes, usize::MAX);
    let found = read(version, bytes, usize::MAX);
    assert_eq!(ALLOCATOR.total_allocated(), before, "{version:?}: reading allocates");
    match (framed, &found) {
        (Err(error), found) => assert_eq!(found, &Err(ReadError::Frame(error)), "{version:?}"),
        (Ok(None), found) => assert_eq!(found, &Ok(None), "{version:?}"),
        (Ok(Some(frame)), found) if frame.len() > bytes.len() => {
            assert_eq!(found, &Ok(None), "{version:?}");
        }
        (Ok(Some(frame)), Ok(Some((_, length)))) => assert_eq!(*length, frame.len(), "{version:?}"),
        (Ok(Some(_)), Ok(None)) => panic!("{version:?}: a complete frame is waited for"),
        (Ok(Some(_)), Err(error)) => assert!(error.reason().is_failure(), "{version:?}"),
    }
    let (packet, length) = found.ok()??;
    assert_eq!(frame(bytes, length), framed, "{version:?}: the exact limit");
    assert!(frame(bytes, length - 1).is_err(), "{version:?}: the limit");
    for sender in [Sender::Client, Sender::Server] {
        let _ = packet.check_sender(sender, version);
    }
    // A CONNECT is of the version that it tells.
    let told = if let Packet::Connect(connect) = packet { connect.version } else { version };
    again(told, packet, length);
    if let Packet::Publish(publish) = packet {
        deliver(version, publish, &bytes[..length]);
    }
    Some(length)
}

/// Decode → encode → decode is the same. A length that is not written as short as possible may shrink, nothing grows
/// but the reason code and property length that may be left out.
fn again(version: Version, packet: Packet<'_>, length: usize) {
    let mut written = vec![0xaa];
    packet.encode(version, &mut written).expect("what was read can be written");
    assert!(written.len() <= length + 8, "{version:?}: {length} bytes became {}", written.len());
    let read_back = read(version, &written[1..], usize::MAX);
    assert_eq!(read_back, Ok(Some((packet, written.len() - 1))), "{version:?}");
}

/// The template of a message, and the bytes that may be copied.
fn deliver(version: Version, publish: Publish<'_>, wire: &[u8]) {
    if publish.topic.is_empty() {
        return;
    }
    let before = ALLOCATOR.allocated();
    let template = Template::new(&publish).expect("what was read can be delivered");
    let held = ALLOCATOR.allocated() - before;
    assert!(held <= 4 * wire.len() + 256, "{held} bytes are held for {}", wire.len());
    for to in Version::ALL {
        let mut written = Vec::new();
        template.write(to, &Delivery::default(), &mut written).expect("a template can be written");
        let Ok(Some((Packet::Publish(delivered), _))) = read(to, &written, usize::MAX) else {
            panic!("{version:?} to {to:?}: what was delivered is no PUBLISH")
        };
        assert_eq!((delivered.topic, delivered.payload), (publish.topic, publish.payload), "to {to:?}");
        if publish.can_be_copied(version, to) {
            let copied = read(to, wire, usize::MAX);
            assert_eq!(copied, Ok(Some((Packet::Publish(delivered), wire.len()))), "to {to:?}");
        }
    }
}
