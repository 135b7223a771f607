use nsd_wire::{ConnectProperties, Will};
use proptest::prelude::*;

use super::*;

fn connect(version: Version, id: &str) -> Vec<u8> {
    encoded(version, &Connect::new(version, id))
}

fn encoded(version: Version, connect: &Connect<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    connect.encode(version, &mut bytes).unwrap();
    bytes
}

/// Gives the bytes in pieces of `step`, as far as there is room, until the gate decides.
fn fed(gate: &mut Gate, bytes: &[u8], step: usize, rules: &GateRules) -> Verdict {
    let (mut sent, mut verdict) = (0, Verdict::More(Gate::FIRST_ROOM));
    while let Verdict::More(room) = verdict
        && sent < bytes.len()
    {
        assert!(room > 0);
        let piece = &bytes[sent..bytes.len().min(sent + step.min(room))];
        verdict = gate.take(piece, rules);
        sent += piece.len();
        assert!(gate.bytes.capacity() <= rules.max_connect, "never more than the cap");
    }
    verdict
}

fn judged(bytes: &[u8], rules: &GateRules) -> Verdict {
    fed(&mut Gate::default(), bytes, usize::MAX, rules)
}

fn refused(bytes: &[u8], rules: &GateRules) -> (Refusal, Vec<u8>) {
    match judged(bytes, rules) {
        Verdict::Refused(Refused { why, answer }) => (why, answer),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sound_connect_passes_in_pieces_of_any_size_and_is_kept() {
    for version in Version::ALL {
        let bytes = connect(version, "device");
        for step in 1..=bytes.len() {
            let mut gate = Gate::default();
            let passed = Verdict::Passed(Passed { version, keep_alive: 60, clean: true, will: false });
            assert_eq!(fed(&mut gate, &bytes, step, &GateRules::default()), passed);
            assert_eq!(gate.bytes(), bytes);
            assert_eq!(gate.connect().map(|connect| connect.client_id), Some("device"));
        }
    }
}

#[test]
fn what_comes_behind_the_connect_is_kept_in_order() {
    let mut bytes = connect(Version::V5, "device");
    bytes.extend_from_slice(b"\x82\x06\0\x01\0\x01a\0 and more");
    let mut gate = Gate::default();
    assert!(matches!(gate.take(&bytes, &GateRules::default()), Verdict::Passed(_)));
    assert_eq!(gate.bytes(), bytes);
}

#[test]
fn a_will_of_64_kib_passes_and_no_length_is_a_cliff() {
    let rules = GateRules { max_connect: 128 * 1024, ..GateRules::default() };
    for length in [4000, 4050, 4096, 16_383, 16_384, 65_535] {
        let payload = vec![7; length];
        let with_will = Connect { will: Some(Will::new("w", &payload)), ..Connect::new(Version::V311, "d") };
        let bytes = encoded(Version::V311, &with_will);
        let mut gate = Gate::default();
        assert!(matches!(fed(&mut gate, &bytes, 1460, &rules), Verdict::Passed(_)), "{length}");
        assert!(gate.bytes() == bytes);
    }
}

#[test]
fn each_rule_refuses_in_the_words_of_the_version() {
    let base = GateRules::default();
    let only = |version| GateRules { versions: vec![version], ..GateRules::default() };
    let short = GateRules { max_client_id: 5, ..base.clone() };
    let named = GateRules { empty_client_id: false, ..base.clone() };
    let user = GateRules { require_user_name: true, ..base.clone() };
    let often = GateRules { max_keep_alive: Some(59), ..base.clone() };
    let cases = [
        (only(Version::V5), Version::V311, "d", Refusal::Version, 1),
        (only(Version::V311), Version::V5, "d", Refusal::Version, 0x84),
        (short.clone(), Version::V311, "device", Refusal::ClientId, 2),
        (short, Version::V5, "device", Refusal::ClientId, 0x85),
        (named.clone(), Version::V311, "", Refusal::ClientId, 2),
        (named, Version::V5, "", Refusal::ClientId, 0x85),
        (user.clone(), Version::V311, "d", Refusal::NoUserName, 5),
        (user, Version::V5, "d", Refusal::NoUserName, 0x87),
        (often.clone(), Version::V311, "d", Refusal::KeepAlive, 5),
        (often, Version::V5, "d", Refusal::KeepAlive, 0x87),
    ];
    for (rules, version, id, why, code) in cases {
        let v5: &[u8] = &[0x20, 3, 0, code, 0];
        let v3: &[u8] = &[0x20, 2, 0, code];
        let answer = if version.is_v5() { v5 } else { v3 };
        assert_eq!(refused(&connect(version, id), &rules), (why, answer.to_vec()));
        assert!(matches!(judged(&connect(version, id), &base), Verdict::Passed(_)));
    }
    for (version, code) in [(Version::V311, 3), (Version::V5, 0x9f)] {
        assert_eq!(Refused::new(Refusal::SourceRate, Some(version)).answer[3], code);
    }
}

#[test]
fn no_keep_alive_is_longer_than_any() {
    let rules = GateRules { max_keep_alive: Some(u16::MAX), ..GateRules::default() };
    let endless = Connect { keep_alive: 0, ..Connect::new(Version::V311, "d") };
    assert_eq!(refused(&encoded(Version::V311, &endless), &rules).0, Refusal::KeepAlive);
}

#[test]
fn a_giant_length_is_refused_before_it_is_sent() {
    let rules = GateRules::default();
    let v311 = b"\x10\xff\xff\xff\x7f\0\x04MQTT\x04";
    for cut in 0..v311.len() {
        assert!(matches!(judged(&v311[..cut], &rules), Verdict::More(_)), "{cut}");
    }
    assert_eq!(refused(v311, &rules), (Refusal::TooLarge, vec![0x20, 2, 0, 3]));
    let v5 = b"\x10\xff\xff\xff\x7f\0\x04MQTT\x05";
    assert_eq!(refused(v5, &rules), (Refusal::TooLarge, vec![0x20, 3, 0, 0x95, 0]));
}

#[test]
fn what_is_no_mqtt_is_known_by_its_first_bytes() {
    let rules = GateRules::default();
    for (bytes, why) in [
        (&b"\x16\x03\x01\x02\0\x01"[..], Refusal::TlsOnPlain),
        (b"GET / HTTP/1.1\r\n", Refusal::NotMqtt),
        (b"\x11\x0c\0\x04MQTT", Refusal::NotMqtt),
        (b"\xc0\0", Refusal::NotMqtt),
        (b"\x10\xff\xff\xff\xff", Refusal::Malformed),
        (b"\x10\x80\0", Refusal::Malformed),
        (b"\x10\x20\0\x05", Refusal::NotMqtt),
        (b"\x10\x20\0\x04MQTX", Refusal::NotMqtt),
        (b"\x10\xff\xff\xff\x7f\0\x04HTTP", Refusal::NotMqtt),
    ] {
        assert_eq!(refused(bytes, &rules), (why, Vec::new()), "{bytes:?}");
    }
}

#[test]
fn an_unknown_level_is_told_in_a_form_that_its_client_reads() {
    let rules = GateRules::default();
    assert_eq!(refused(b"\x10\x20\0\x04MQTT\x06", &rules), (Refusal::Version, vec![0x20, 3, 0, 0x84, 0]));
    assert_eq!(refused(b"\x10\x20\0\x06MQIsdp\x02", &rules), (Refusal::Version, vec![0x20, 2, 0, 1]));
    assert_eq!(refused(b"\x10\x20\0\x04MQTT\x84", &rules).0, Refusal::Version, "a bridge's private level");
}

#[test]
fn a_broken_connect_is_told_to_v5_only() {
    let mut v3 = connect(Version::V311, "d");
    let mut v5 = connect(Version::V5, "d");
    (v3[9], v5[9]) = (v3[9] | 1, v5[9] | 1);
    let rules = GateRules::default();
    assert_eq!(refused(&v3, &rules), (Refusal::Malformed, Vec::new()));
    assert_eq!(refused(&v5, &rules), (Refusal::Malformed, vec![0x20, 3, 0, 0x81, 0]));
}

#[test]
fn a_servers_answer_is_for_the_client_unless_it_is_unavailable() {
    use Answer::{ForClient, More, Unavailable};
    for (bytes, version, wanted) in [
        (&[][..], Version::V311, More),
        (&[0x20], Version::V311, More),
        (&[0x20, 2, 0], Version::V311, More),
        (&[0x20, 2, 0, 0], Version::V311, ForClient),
        (&[0x20, 2, 0, 3], Version::V311, Unavailable),
        (&[0x20, 2, 0, 5], Version::V311, ForClient),
        (&[0x20, 3, 0, 3, 0], Version::V5, ForClient),
        (&[0x20, 3, 0, 0x88, 0], Version::V5, Unavailable),
        (&[0x20, 0xff, 1, 0, 0x89], Version::V5, More),
        (&[0x20, 3, 0, 0x89, 0], Version::V5, Unavailable),
        (&[0x20, 0xff, 0x7f, 0, 0], Version::V5, ForClient),
        (&[0x20, 3, 0, 0x87, 0], Version::V5, ForClient),
        (&[0xf0, 2], Version::V5, ForClient),
        (&[0x20, 1, 0], Version::V5, ForClient),
        (&[0x20, 0xff, 0xff, 0xff, 0xff], Version::V5, ForClient),
        (b"HTTP/1.1 400", Version::V311, ForClient),
    ] {
        assert_eq!(answer(bytes, version), wanted, "{bytes:02x?}");
    }
}

#[test]
fn a_session_is_clean_that_begins_and_ends_with_its_connection() {
    let clean = |version, clean_start, session_expiry| {
        let properties = ConnectProperties { session_expiry, ..ConnectProperties::default() };
        let told = Connect { clean_start, properties, ..Connect::new(version, "device") };
        match judged(&encoded(version, &told), &GateRules::default()) {
            Verdict::Passed(passed) => passed.clean,
            other => panic!("{other:?}"),
        }
    };
    assert!(clean(Version::V311, true, None) && clean(Version::V5, true, None));
    assert!(clean(Version::V5, true, Some(0)));
    assert!(!clean(Version::V311, false, None) && !clean(Version::V5, false, Some(0)));
    assert!(!clean(Version::V5, true, Some(1)) && !clean(Version::V5, true, Some(u32::MAX)));
}

#[test]
fn silence_is_measured_by_the_keep_alive_that_holds() {
    let rules = |silent_after| GateRules {
        keep_alive_grace: Duration::from_secs(10),
        silent_after,
        ..GateRules::default()
    };
    let by = |rules: &GateRules, version, keep_alive, answer: &[u8]| {
        longest_silence(Passed { version, keep_alive, clean: true, will: false }, answer, rules)
            .map(|silence| silence.as_secs())
    };
    let silence = |version, keep_alive, answer: &[u8]| by(&rules(None), version, keep_alive, answer);
    assert_eq!(silence(Version::V311, 60, &[0x20, 2, 0, 0]), Some(100));
    assert_eq!(silence(Version::V311, 0, &[0x20, 2, 0, 0]), None);
    assert_eq!(silence(Version::V5, 60, &[0x20, 3, 0, 0, 0]), Some(100));
    assert_eq!(silence(Version::V5, 60, &[0x20, 6, 0, 0, 3, 0x13, 0, 20]), Some(40), "the server's counts");
    assert_eq!(silence(Version::V5, 0, &[0x20, 6, 0, 0, 3, 0x13, 0, 20]), Some(40));
    assert_eq!(silence(Version::V5, 60, &[0x20, 6, 0, 0, 3, 0x13, 0, 0]), None);
    assert_eq!(silence(Version::V5, 60, &[0xf0, 2, 0x18, 0]), None, "its CONNACK is still to come");
    assert_eq!(silence(Version::V311, u16::MAX, &[]), Some(98_312));
    // Whose keep alive is none, by itself or by its server.
    let limited = rules(Some(Duration::from_secs(1800)));
    assert_eq!(by(&limited, Version::V311, 0, &[0x20, 2, 0, 0]), Some(1800));
    assert_eq!(by(&limited, Version::V5, 60, &[0x20, 6, 0, 0, 3, 0x13, 0, 0]), Some(1800));
    assert_eq!(by(&limited, Version::V311, 60, &[0x20, 2, 0, 0]), Some(100));
    assert_eq!(by(&limited, Version::V5, 0, &[0xf0, 2, 0x18, 0]), None, "its CONNACK is still to come");
}

/// Bytes that get past the first looks often enough.
fn nearly_a_connect() -> impl Strategy<Value = Vec<u8>> {
    let sound =
        (prop::sample::select(&Version::ALL[..]), ".{0,40}", prop::collection::vec(any::<u8>(), 0..6000));
    let changed = (sound, prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4));
    let changed = changed.prop_map(|((version, id, payload), changes)| {
        let will = Some(Will::new("w", &payload));
        let mut bytes = encoded(version, &Connect { will, ..Connect::new(version, &id) });
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    });
    prop_oneof![changed, prop::collection::vec(any::<u8>(), 0..200)]
}

proptest! {
    #[test]
    fn the_gate_never_panics_and_never_needs_more_than_its_cap(
        bytes in nearly_a_connect(), step in 1..3000usize, max_connect in 4096..8192usize,
    ) {
        let rules = GateRules { max_connect, ..GateRules::default() };
        let mut gate = Gate::default();
        let verdict = fed(&mut gate, &bytes, step, &rules);
        prop_assert!(bytes.starts_with(gate.bytes()));
        match verdict {
            Verdict::Passed(_) => prop_assert!(gate.connect().is_some()),
            Verdict::More(_) => prop_assert_eq!(gate.bytes().len(), bytes.len(), "it waits for what did not come"),
            Verdict::Refused(_) => {}
        }
    }

    #[test]
    fn the_same_bytes_are_judged_alike_in_any_pieces(bytes in nearly_a_connect(), step in 1..3000usize) {
        let rules = GateRules { max_connect: 4096, ..GateRules::default() };
        let (whole, pieces) = (judged(&bytes, &rules), fed(&mut Gate::default(), &bytes, step, &rules));
        let alike = match (&whole, &pieces) {
            (Verdict::Refused(one), Verdict::Refused(other)) => one.why == other.why,
            (one, other) => std::mem::discriminant(one) == std::mem::discriminant(other),
        };
        prop_assert!(alike, "{whole:?} {pieces:?}");
    }

    #[test]
    fn an_answer_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..40), v5: bool) {
        let version = if v5 { Version::V5 } else { Version::V311 };
        answer(&bytes, version);
        longest_silence(Passed { version, keep_alive: 1, clean: true, will: false }, &bytes, &GateRules::default());
    }
}

/// Found by fuzzing: at once they were malformed, byte by byte their version was refused first.
#[test]
fn the_verdict_does_not_depend_on_how_the_bytes_were_cut() {
    let rules = GateRules { versions: vec![Version::V5], ..GateRules::default() };
    for bytes in [
        &b"\x10\x0d\0\x04MQTT\x04\x03\0\x0a\0\x01d"[..],
        b"\x10\x08\0\x04MQTT\x04\x02\0",
        b"\x10\x02\0\x04MQTT\x05\x02\0",
        b"\x10\x02\0\x09MQTT\x05\x02\0",
    ] {
        let whole = judged(bytes, &rules);
        assert!(matches!(whole, Verdict::Refused(_)), "{whole:?}");
        for step in 1..bytes.len() {
            assert_eq!(
                fed(&mut Gate::default(), bytes, step, &rules),
                whole,
                "{bytes:?} in pieces of {step}"
            );
        }
    }
}
