//! Bytes that no one meant: packets of the corpus, mutated at random for `NSD_FUZZ_SECONDS` (5 if it is not set).
//!
//! Each input is read as every version. Nothing may panic; framing and parsing agree about lengths; a complete frame
//! is never waited for; what is taken is the same packet after it has been written and read again. The seed is in every
//! failure and can be given back in `NSD_FUZZ_SEED`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use fastrand::Rng;
use nsd_wire::*;

#[test]
fn mutated_packets() {
    let seconds = number("NSD_FUZZ_SECONDS").unwrap_or(5);
    let seed = number("NSD_FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    let corpus = corpus();
    let mut rng = Rng::with_seed(seed);
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut inputs, mut taken) = (0_u64, 0_u64);
    let mut bytes = Vec::new();
    while Instant::now() < end {
        for _ in 0..256 {
            bytes.clone_from(&corpus[rng.usize(..corpus.len())]);
            for _ in 0..rng.usize(1..6) {
                mutate(&mut bytes, &corpus, &mut rng);
            }
            if rng.u8(..4) > 0 {
                mend_length(&mut bytes);
            }
            inputs += 1;
            taken += Version::ALL.into_iter().filter(|&version| check(version, &bytes, seed)).count() as u64;
        }
    }
    println!("{inputs} inputs, {taken} packets taken, seed {seed}");
    assert!(
        taken * 100 > inputs,
        "only {taken} of {inputs} inputs were packets: the mutation is too coarse to find much"
    );
}

#[test]
fn the_corpus_itself_is_valid() {
    for bytes in corpus() {
        assert!(
            Version::ALL.into_iter().any(|version| check(version, &bytes, 0)),
            "no version takes {bytes:02x?}"
        );
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

/// One packet a line, in hexadecimal; `#` begins a comment.
fn corpus() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut packets = Vec::new();
    for file in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        for line in text.lines() {
            let line = line.split('#').next().unwrap().trim();
            if !line.is_empty() {
                packets.push(line.split(' ').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect());
            }
        }
    }
    assert!(packets.len() > 40, "the corpus has gone");
    packets
}

fn mutate(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut Rng) {
    const INTERESTING: [u8; 12] = [0, 1, 2, 3, 0x7f, 0x80, 0xff, b'+', b'#', b'/', b'$', 0x26];
    let at = rng.usize(..=bytes.len());
    match rng.u8(..8) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
        1 if at < bytes.len() => bytes[at] = rng.u8(..),
        2 if at < bytes.len() => bytes[at] = INTERESTING[rng.usize(..INTERESTING.len())],
        3 if at < bytes.len() => {
            bytes.remove(at);
        }
        4 => bytes.insert(at, rng.u8(..)),
        5 => bytes.truncate(at),
        6 => {
            let other = &corpus[rng.usize(..corpus.len())];
            let from = rng.usize(..other.len());
            let to = rng.usize(from..=other.len());
            bytes.splice(at..at, other[from..to].iter().copied());
        }
        _ => {
            let from = rng.usize(..=at);
            let copy = bytes[from..at].to_vec();
            bytes.extend(copy);
        }
    }
}

/// Makes the remaining length fit again, so that the mutation reaches the parser.
fn mend_length(bytes: &mut [u8]) {
    if let (3..130, Some(length)) = (bytes.len(), bytes.len().checked_sub(2)) {
        bytes[1] = length as u8;
    }
}

/// Whether the bytes begin with a valid packet; everything said above holds.
fn check(version: Version, bytes: &[u8], seed: u64) -> bool {
    let told = || format!("{version:?} {bytes:02x?}, seed {seed}");
    let framed = frame(bytes, usize::MAX);
    let found = read(version, bytes, usize::MAX);
    match (framed, &found) {
        (Err(error), found) => assert_eq!(found, &Err(ReadError::Frame(error)), "{}", told()),
        (Ok(None), found) => assert_eq!(found, &Ok(None), "{}", told()),
        (Ok(Some(frame)), found) if frame.len() > bytes.len() => assert_eq!(found, &Ok(None), "{}", told()),
        (Ok(Some(frame)), Ok(Some((_, length)))) => assert_eq!(*length, frame.len(), "{}", told()),
        (Ok(Some(_)), Ok(None)) => panic!("a complete frame is waited for: {}", told()),
        (Ok(Some(_)), Err(error)) => assert!(error.reason().is_failure(), "{}", told()),
    }
    let Ok(Some((packet, length))) = found else { return false };
    assert_eq!(frame(bytes, length), framed, "the exact limit: {}", told());
    assert!(frame(bytes, length - 1).is_err(), "the limit: {}", told());
    // A CONNECT is of the version that it tells.
    let version = if let Packet::Connect(connect) = packet { connect.version } else { version };
    again(version, packet, &told);
    if let Packet::Publish(publish) = packet {
        deliver(version, publish, bytes, length, &told);
    }
    true
}

fn again(version: Version, packet: Packet<'_>, told: &dyn Fn() -> String) {
    let mut written = vec![0xaa];
    packet.encode(version, &mut written).unwrap_or_else(|error| panic!("{error}: {}", told()));
    let read_back = read(version, &written[1..], usize::MAX);
    assert_eq!(read_back, Ok(Some((packet, written.len() - 1))), "{}", told());
}

/// The template of a message, and the bytes that may be copied.
fn deliver(version: Version, publish: Publish<'_>, bytes: &[u8], length: usize, told: &dyn Fn() -> String) {
    let template = Template::new(&publish).unwrap();
    for to in Version::ALL {
        if publish.topic.is_empty() {
            break;
        }
        let mut written = Vec::new();
        template.write(to, &Delivery::default(), &mut written).unwrap();
        let Ok(Some((Packet::Publish(delivered), _))) = read(to, &written, usize::MAX) else {
            panic!("what was delivered is no PUBLISH: {}", told())
        };
        assert_eq!((delivered.topic, delivered.payload), (publish.topic, publish.payload), "{}", told());
        if publish.can_be_copied(version, to) {
            let copied = read(to, &bytes[..length], usize::MAX);
            assert_eq!(copied, Ok(Some((Packet::Publish(delivered), length))), "{}", told());
        }
    }
}
