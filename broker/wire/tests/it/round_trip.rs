//! decode(encode(packet)) == packet, for every packet of every version.

use nsd_wire::*;
use proptest::prelude::*;

use crate::arbitrary;

fn any_packet() -> impl Strategy<Value = (Version, Packet<'static>)> {
    proptest::sample::select(&Version::ALL[..])
        .prop_flat_map(|version| arbitrary::packet(version).prop_map(move |packet| (version, packet)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_is_written_is_read_back((version, packet) in any_packet()) {
        let mut bytes = b"before".to_vec();
        packet.encode(version, &mut bytes).unwrap();
        prop_assert_eq!(&bytes[..6], b"before");
        let packet_bytes = &bytes[6..];

        let (read_back, length) = read(version, packet_bytes, usize::MAX).unwrap().unwrap();
        prop_assert_eq!(length, packet_bytes.len());
        prop_assert_eq!(read_back, packet);

        // What was read in place is written again as it stood.
        let mut again = Vec::new();
        read_back.encode(version, &mut again).unwrap();
        prop_assert_eq!(packet_bytes, &again[..]);
    }

    #[test]
    fn a_packet_cut_short_is_waited_for((version, packet) in any_packet(), cut in any::<prop::sample::Index>()) {
        let mut bytes = Vec::new();
        packet.encode(version, &mut bytes).unwrap();
        prop_assert_eq!(read(version, &bytes[..cut.index(bytes.len())], usize::MAX), Ok(None));
    }

    #[test]
    fn what_follows_is_not_looked_at((version, packet) in any_packet(), after in any::<[u8; 8]>()) {
        let mut bytes = Vec::new();
        packet.encode(version, &mut bytes).unwrap();
        let length = bytes.len();
        bytes.extend(after);
        prop_assert_eq!(read(version, &bytes, length), Ok(Some((packet, length))));
    }

    #[test]
    fn user_properties_travel_by_themselves(publish in arbitrary::publish(Version::V5)) {
        let user = publish.properties.user;
        let mut wire = Vec::new();
        user.write_wire(&mut wire).unwrap();
        prop_assert_eq!(UserProperties::from_wire(&wire).unwrap(), user);
    }

    #[test]
    fn any_bytes_are_packets_or_errors(
        first in any::<u8>(),
        body in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        let mut bytes = vec![first, body.len() as u8];
        bytes.extend(body);
        for version in Version::ALL {
            if let Ok(found) = read(version, &bytes, usize::MAX) {
                prop_assert_eq!(found.unwrap().1, bytes.len());
            }
        }
    }
}

#[test]
fn what_cannot_be_written_leaves_the_buffer_alone() {
    let id = PacketId::MIN;
    let long = "x".repeat(65_536);
    let pairs = [("a", "b"), ("name", long.as_str())];
    let filters = [SubscribeFilter { filter: &long, options: SubscribeOptions::default() }];
    let huge = vec![0; MAX_REMAINING_LENGTH];

    let mut with_pairs = Ack::new(id);
    with_pairs.properties.user = UserProperties::from_pairs(&pairs);
    let publish = Publish::new("t", b"");
    let mut without_user = Connect::new(Version::V311, "id");
    without_user.password = Some(b"secret");
    let long_will =
        Connect { will: Some(Will::new("t", long.as_bytes())), ..Connect::new(Version::V5, "id") };

    let cases = [
        (Packet::Publish(Publish::new(&long, b"")), EncodeError::TooLong),
        (Packet::Publish(Publish::new("t", &huge)), EncodeError::TooLong),
        (Packet::PubAck(with_pairs), EncodeError::TooLong),
        (Packet::Subscribe(Subscribe::new(id, &filters)), EncodeError::TooLong),
        (Packet::Connect(Connect::new(Version::V5, &long)), EncodeError::TooLong),
        (Packet::Connect(long_will), EncodeError::TooLong),
        (Packet::Publish(Publish { qos: Qos::AtLeastOnce, ..publish }), EncodeError::PacketId),
        (Packet::Publish(Publish { packet_id: Some(id), ..publish }), EncodeError::PacketId),
        (Packet::Subscribe(Subscribe::new(id, &[])), EncodeError::Empty),
        (Packet::Unsubscribe(Unsubscribe::new(id, &[])), EncodeError::Empty),
        (Packet::SubAck(SubAck::new(id, &[])), EncodeError::Empty),
        (Packet::UnsubAck(UnsubAck::new(id, &[])), EncodeError::Empty),
    ];
    for (packet, error) in cases {
        let mut out = b"kept".to_vec();
        assert_eq!(packet.encode(Version::V5, &mut out), Err(error), "{:?}", packet.packet_type());
        assert_eq!(out, b"kept", "{:?}", packet.packet_type());
    }
    for (packet, error) in [
        (Packet::Auth(Auth::default()), EncodeError::NotInVersion),
        (Packet::Connect(without_user), EncodeError::PasswordWithoutUserName),
    ] {
        let mut out = b"kept".to_vec();
        assert_eq!(packet.encode(Version::V311, &mut out), Err(error));
        assert_eq!(out, b"kept");
    }
}

#[test]
fn every_length_of_the_header_is_written_and_read() {
    for (body, header) in [(127, 2), (128, 3), (16_383, 3), (16_384, 4), (2_097_151, 4), (2_097_152, 5)] {
        let payload = vec![7; body - 3];
        let mut bytes = Vec::new();
        let publish = Publish::new("t", &payload);
        publish.encode(Version::V311, &mut bytes).unwrap();
        assert_eq!(bytes.len(), header + body);
        assert_eq!(
            read(Version::V311, &bytes, usize::MAX),
            Ok(Some((Packet::Publish(publish), bytes.len())))
        );
    }
}

#[test]
fn user_properties_between_others_are_all_kept() {
    // expiry, user, content type, user, subscription identifier, user, subscription identifier
    let section: &[&[u8]] = &[
        &[0x02, 0, 0, 0, 9],
        b"\x26\0\x01a\0\x011",
        b"\x03\0\x01t",
        b"\x26\0\x01b\0\x012",
        &[0x0b, 0x80, 0x01],
        b"\x26\0\x01a\0\x013",
        &[0x0b, 0x07],
    ];
    let section = section.concat();
    let mut bytes = vec![0x30, (3 + 1 + section.len() + 1) as u8];
    bytes.extend(b"\0\x01t");
    bytes.push(section.len() as u8);
    bytes.extend(&section);
    bytes.push(b'!');
    let Ok(Some((Packet::Publish(publish), _))) = read(Version::V5, &bytes, 1000) else {
        panic!("it is a PUBLISH")
    };
    let properties = publish.properties;
    assert_eq!(properties.user.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "2"), ("a", "3")]);
    assert_eq!(properties.subscription_ids.iter().map(SubscriptionId::get).collect::<Vec<_>>(), [128, 7]);
    assert_eq!(publish.payload, b"!");

    let mut again = Vec::new();
    publish.encode(Version::V5, &mut again).unwrap();
    assert_eq!(again.len(), bytes.len());
    assert_eq!(read(Version::V5, &again, 1000), Ok(Some((Packet::Publish(publish), bytes.len()))));
}

#[test]
fn secrets_are_not_shown() {
    let mut connect = Connect::new(Version::V5, "id");
    connect.password = Some(b"hunter2");
    connect.properties.authentication = Some(Authentication { method: "SCRAM", data: Some(b"hunter2") });
    let shown = format!("{connect:?} {:?}", Packet::Connect(connect));
    assert!(shown.contains("SCRAM"));
    let as_numbers = format!("{:?}", b"hunter2");
    assert!(!shown.contains("hunter2") && !shown.contains(as_numbers.trim_matches(['[', ']'])), "{shown}");
}

#[test]
fn packet_identifiers_go_round_without_zero() {
    assert_eq!(PacketId::new(0), None);
    assert_eq!(PacketId::MIN.next().get(), 2);
    assert_eq!(PacketId::MAX.next(), PacketId::MIN);
}
