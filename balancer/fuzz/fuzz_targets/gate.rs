//! The CONNECT gate: however bytes are cut, the verdict is the same; it never holds more than its bound; what passes is
//! byte for byte what came, and is what the rules let in. And the server's answer: judged once, whatever follows.

#![no_main]

use std::alloc::System;

use arbitrary::Arbitrary;
use cap::Cap;
use libfuzzer_sys::fuzz_target;
use nsd_balancer::gate::{Answer, Gate, GateRules, Passed, Verdict, answer, longest_silence};
use nsd_wire::{Packet, Version};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Smaller than inputs can be, so that the bound is met.
const LEAST_CAP: usize = 4096;
/// For a verdict's answer.
const SLACK: usize = 64;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    rules: Rules,
    /// Lengths of the pieces, over and over.
    pieces: [u8; 4],
    /// The remaining length is put in, so that a mutation reaches what is behind it.
    mended: bool,
    /// Bytes of the will that are put in where it is mended: a CONNECT longer than an input can be.
    more: u16,
    bytes: &'a [u8],
}

#[derive(Debug, Arbitrary)]
struct Rules {
    versions: [bool; 3],
    over_least_cap: u16,
    max_client_id: u8,
    empty_client_id: bool,
    require_user_name: bool,
    max_keep_alive: Option<u16>,
}

fuzz_target!(|input: Input<'_>| {
    let rules = rules(&input.rules);
    let stream = if input.mended { mend(input.bytes, input.more) } else { input.bytes.to_vec() };
    let whole = judge(&stream, &rules, || usize::MAX);
    let bit = stream.len().div_ceil(LEAST_CAP);
    let single = judge(&stream, &rules, || bit);
    let mut turn = input.pieces.iter().cycle();
    let pieces = judge(&stream, &rules, || usize::from(*turn.next().expect("a cycle")).max(1));
    assert_eq!(whole, single, "at once, and in the smallest pieces");
    assert_eq!(whole, pieces, "at once, and in pieces");
    if let Verdict::Passed(passed) = whole {
        let_in(&stream, passed, &rules);
    }
    for version in Version::ALL {
        server(input.bytes, version);
    }
});

fn rules(input: &Rules) -> GateRules {
    let mut versions: Vec<Version> = Version::ALL
        .into_iter()
        .zip(input.versions)
        .filter(|(_, on)| *on)
        .map(|(version, _)| version)
        .collect();
    if versions.is_empty() {
        versions = Version::ALL.to_vec();
    }
    GateRules {
        versions,
        max_connect: LEAST_CAP + usize::from(input.over_least_cap),
        max_client_id: input.max_client_id.into(),
        empty_client_id: input.empty_client_id,
        require_user_name: input.require_user_name,
        max_keep_alive: input.max_keep_alive,
        ..GateRules::default()
    }
}

/// A CONNECT's first byte, the length of the others and of `more` zeroes, the others, the zeroes.
fn mend(bytes: &[u8], more: u16) -> Vec<u8> {
    let mut packet = vec![0x10];
    let mut length = bytes.len() + usize::from(more);
    loop {
        let rest = if length > 127 { 0x80 } else { 0 };
        packet.push((length % 128) as u8 | rest);
        length /= 128;
        if length == 0 {
            break;
        }
    }
    packet.extend_from_slice(bytes);
    packet.resize(packet.len() + usize::from(more), 0);
    packet
}

/// What the gate says in the end: `More` where it waits for what does not come.
fn judge(stream: &[u8], rules: &GateRules, mut piece: impl FnMut() -> usize) -> Verdict {
    let before = ALLOCATOR.allocated();
    let mut gate = Gate::default();
    let (mut sent, mut room) = (0, Gate::FIRST_ROOM);
    while sent < stream.len() {
        assert!(room > 0, "waits for nothing");
        let end = stream.len().min(sent + piece().min(room));
        let verdict = gate.take(&stream[sent..end], rules);
        sent = end;
        let held = ALLOCATOR.allocated().saturating_sub(before);
        assert!(
            held <= rules.max_connect + SLACK,
            "{held} bytes are held, {} are the most",
            rules.max_connect
        );
        match verdict {
            Verdict::More(more) => room = more,
            decided => {
                assert_eq!(gate.bytes(), &stream[..sent], "kept as it came");
                return decided;
            }
        }
    }
    Verdict::More(0)
}

/// Reads the CONNECT once more, and holds it against each rule.
fn let_in(stream: &[u8], passed: Passed, rules: &GateRules) {
    let Ok(Some((Packet::Connect(connect), length))) = nsd_wire::read(Version::V311, stream, usize::MAX)
    else {
        panic!("what passed is no CONNECT")
    };
    let clean = connect.clean_start && connect.properties.session_expiry.unwrap_or(0) == 0;
    let (version, keep_alive, will) = (connect.version, connect.keep_alive, connect.will.is_some());
    assert_eq!(passed, Passed { version, keep_alive, clean, will });
    assert!(length <= rules.max_connect);
    assert!(rules.versions.contains(&connect.version));
    assert!(connect.client_id.len() <= rules.max_client_id);
    assert!(rules.empty_client_id || !connect.client_id.is_empty());
    assert!(!rules.require_user_name || connect.user_name.is_some_and(|name| !name.is_empty()));
    assert!(rules.max_keep_alive.is_none_or(|most| (1..=most).contains(&connect.keep_alive)));
}

/// Bytes of a server, one more at a time: once it is judged, nothing changes that.
fn server(bytes: &[u8], version: Version) {
    let mut judged = Answer::More;
    for end in 0..=bytes.len() {
        let now = answer(&bytes[..end], version);
        assert!(judged == Answer::More || judged == now, "{judged:?}, then {now:?}");
        judged = now;
    }
    let rules = GateRules::default();
    let silence =
        longest_silence(Passed { version, keep_alive: 60, clean: true, will: false }, bytes, &rules);
    assert!(silence.is_none_or(|silence| silence > rules.keep_alive_grace));
}
