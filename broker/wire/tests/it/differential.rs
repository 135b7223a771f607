//! mqttbytes as the other opinion: what we write it reads, what it makes of it and writes again we read as the same.
//! Where it is known to be wrong stands in [`deviation`], with the reason; the tests below that show each of its
//! defects, and that it is none of ours.

use bytes::BytesMut;
use mqttbytes::{v4, v5};
use nsd_wire::*;
use proptest::prelude::*;

use crate::arbitrary;

/// Why mqttbytes cannot have, or reads otherwise, a valid packet of 3.1.1 or 5.0.
fn deviation(version: Version, packet: &Packet<'_>) -> Option<&'static str> {
    match packet {
        Packet::Auth(_) => Some("it has no AUTH"),
        Packet::Disconnect(disconnect) if version.is_v5() => disconnect_deviation(disconnect),
        Packet::Unsubscribe(_) if version.is_v5() => Some("it prints a line for each"),
        Packet::Connect(connect) => connect_deviation(connect),
        Packet::ConnAck(_) if !version.is_v5() => None,
        Packet::ConnAck(connack) => connack_deviation(connack),
        Packet::Publish(publish) => publish_deviation(publish),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            ack_deviation(ack)
        }
        Packet::Subscribe(subscribe) if subscribe.properties.subscription_id.is_some() => {
            Some("it counts the identifier's length wrong")
        }
        _ => None,
    }
}

fn connect_deviation(connect: &Connect<'_>) -> Option<&'static str> {
    let password = connect.password.unwrap_or_default();
    if std::str::from_utf8(password).is_err() {
        return Some("its password is a String");
    }
    match (connect.user_name, connect.password) {
        (None, Some(_)) => Some("it needs a name with a password"),
        (Some(name), _) if name.is_empty() && password.is_empty() => {
            Some("it takes empty credentials for none")
        }
        (Some(_), None) | (Some(""), _) => Some("it writes the flags by what is empty"),
        (_, Some(b"")) => Some("it writes the flags by what is empty"),
        _ => None,
    }
}

fn connack_deviation(connack: &ConnAck<'_>) -> Option<&'static str> {
    (connack.properties == ConnAckProperties::default()).then_some("it leaves the property length out")
}

fn publish_deviation(publish: &Publish<'_>) -> Option<&'static str> {
    (!publish.properties.subscription_ids.is_empty()).then_some("it counts the identifiers' length wrong")
}

fn ack_deviation(ack: &Ack<'_>) -> Option<&'static str> {
    (ack.properties == ReasonProperties::default() && ack.reason != ReasonCode::Success)
        .then_some("it cannot write a reason without properties")
}

fn disconnect_deviation(disconnect: &Disconnect<'_>) -> Option<&'static str> {
    if disconnect.properties == DisconnectProperties::default() {
        return Some("it refuses the two short forms, and drops a reason without properties");
    }
    (disconnect.reason == ReasonCode::BadAuthenticationMethod).then_some("it does not know 0x8c")
}

fn through_mqttbytes(version: Version, bytes: &[u8]) -> Result<BytesMut, String> {
    let mut input = BytesMut::from(bytes);
    let mut output = BytesMut::new();
    let told = |error| format!("{error:?}");
    if version.is_v5() {
        let packet = v5::read(&mut input, usize::MAX).map_err(told)?;
        write_v5(&packet, &mut output).map_err(told)?;
    } else {
        let packet = v4::read(&mut input, usize::MAX).map_err(told)?;
        write_v4(&packet, &mut output).map_err(told)?;
    }
    if input.is_empty() { Ok(output) } else { Err("bytes are left".to_owned()) }
}

macro_rules! writer {
    ($name:ident, $module:ident, $disconnect:pat => $written:expr) => {
        fn $name(packet: &$module::Packet, out: &mut BytesMut) -> Result<usize, mqttbytes::Error> {
            use $module::Packet::*;
            match packet {
                Connect(packet) => packet.write(out),
                ConnAck(packet) => packet.write(out),
                Publish(packet) => packet.write(out),
                PubAck(packet) => packet.write(out),
                PubRec(packet) => packet.write(out),
                PubRel(packet) => packet.write(out),
                PubComp(packet) => packet.write(out),
                Subscribe(packet) => packet.write(out),
                SubAck(packet) => packet.write(out),
                Unsubscribe(packet) => packet.write(out),
                UnsubAck(packet) => packet.write(out),
                PingReq => $module::PingReq.write(out),
                PingResp => $module::PingResp.write(out),
                $disconnect => $written(out),
            }
        }
    };
}

writer!(write_v4, v4, Disconnect => |out| v4::Disconnect.write(out));
writer!(write_v5, v5, Disconnect(packet) => |out| packet.write(out));

fn any_packet() -> impl Strategy<Value = (Version, Packet<'static>)> {
    proptest::sample::select(&[Version::V311, Version::V5][..])
        .prop_flat_map(|version| arbitrary::packet(version).prop_map(move |packet| (version, packet)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, max_global_rejects: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn both_read_the_same((version, packet) in any_packet()) {
        prop_assume!(deviation(version, &packet).is_none());
        let mut bytes = Vec::new();
        packet.encode(version, &mut bytes).unwrap();
        let through = through_mqttbytes(version, &bytes).map_err(TestCaseError::fail)?;
        let (back, length) = read(version, &through, usize::MAX)
            .map_err(|error| TestCaseError::fail(format!("{error} in {:02x?}", &through[..])))?
            .unwrap();
        prop_assert_eq!(length, through.len());
        prop_assert_eq!(back, packet);
    }
}

/// Every defect of the audit of mqttbytes 0.6.0. `theirs` documents it, `ours` shows that it is absent here.
mod audit {
    use super::*;

    fn ours(version: Version, bytes: &[u8]) -> Result<Packet<'_>, ReadError> {
        read(version, bytes, usize::MAX).map(|found| found.expect("the packet is complete").0)
    }

    fn written(packet: Packet<'_>, version: Version) -> Vec<u8> {
        let mut out = Vec::new();
        packet.encode(version, &mut out).unwrap();
        out
    }

    fn theirs(version: Version, bytes: &[u8]) -> Result<(), mqttbytes::Error> {
        let mut input = BytesMut::from(bytes);
        match version {
            Version::V5 => v5::read(&mut input, usize::MAX).map(drop),
            _ => v4::read(&mut input, usize::MAX).map(drop),
        }
    }

    #[test]
    fn short_disconnects_are_disconnects() {
        for (bytes, reason) in [
            (&[0xe0, 0x00][..], ReasonCode::NORMAL_DISCONNECTION),
            (&[0xe0, 0x01, 0x04], ReasonCode::DisconnectWithWill),
            (&[0xe0, 0x01, 0x8c], ReasonCode::BadAuthenticationMethod),
        ] {
            assert!(theirs(Version::V5, bytes).is_err());
            let disconnect = Packet::Disconnect(Disconnect::new(reason));
            assert_eq!(ours(Version::V5, bytes), Ok(disconnect));
            assert_eq!(written(disconnect, Version::V5), bytes);
        }
    }

    #[test]
    fn a_reason_without_properties_is_written() {
        let taken_over = Packet::Disconnect(Disconnect::new(ReasonCode::SessionTakenOver));
        assert_eq!(written(taken_over, Version::V5), [0xe0, 0x01, 0x8e]);
    }

    #[test]
    fn a_malformed_complete_packet_is_an_error_and_not_waited_for() {
        for bytes in
            [&[0x82, 0x02, 0x00, 0x01][..], &[0x30, 0x04, 0x00, 0x01, b'a', 0x80], &[0x40, 0x01, 0x00]]
        {
            assert!(ours(Version::V5, bytes).is_err(), "{bytes:02x?}");
        }
        let cut = [0x30, 0x04, 0x00, 0x01, b'a', 0x80];
        assert!(matches!(theirs(Version::V5, &cut), Err(mqttbytes::Error::InsufficientBytes(_))));
    }

    #[test]
    fn topics_of_any_language_match() {
        assert!(std::panic::catch_unwind(|| mqttbytes::matches("é/x", "#")).is_err());
        assert!(topic::matches("#", "é/x") && topic::matches("+/x", "é/x"));
        assert!(topic::matches("$SYS/#", "$SYS/a") && !mqttbytes::matches("$SYS/a", "$SYS/#"));
    }

    #[test]
    fn filters_and_names_that_are_none() {
        for filter in ["a+/b", "+a", "a\0", "$share/g/"] {
            assert!(mqttbytes::valid_filter(filter) && !topic::valid_filter(filter), "{filter:?}");
        }
        for name in ["", "a\0"] {
            assert!(mqttbytes::valid_topic(name) && !topic::valid_name(name), "{name:?}");
        }
    }

    #[test]
    fn auth_is_known() {
        let bytes = [0xf0, 0x06, 0x18, 0x04, 0x15, 0x00, 0x01, b'x'];
        assert!(theirs(Version::V5, &bytes).is_err());
        assert!(matches!(ours(Version::V5, &bytes), Ok(Packet::Auth(_))));
    }

    #[test]
    fn a_connack_has_its_property_length() {
        assert_eq!(written(Packet::ConnAck(ConnAck::default()), Version::V5), [0x20, 0x03, 0x00, 0x00, 0x00]);
    }

    #[test]
    fn any_password_and_empty_credentials() {
        let mut connect = Connect::new(Version::V311, "c");
        connect.user_name = Some("");
        for password in [&b""[..], &[0xff, 0x00]] {
            connect.password = Some(password);
            let bytes = written(Packet::Connect(connect), Version::V311);
            assert_eq!(ours(Version::V311, &bytes), Ok(Packet::Connect(connect)));
        }
    }

    #[test]
    fn mqtt_3_1_is_spoken() {
        let bytes = written(Packet::Connect(Connect::new(Version::V31, "c")), Version::V31);
        assert!(theirs(Version::V311, &bytes).is_err());
        assert_eq!(ours(Version::V311, &bytes), Ok(Packet::Connect(Connect::new(Version::V31, "c"))));
    }

    #[test]
    fn a_connect_is_appended() {
        let mut out = vec![0xff; 40];
        Connect::new(Version::V5, "c").encode(Version::V5, &mut out).unwrap();
        assert_eq!(out[..40], [0xff; 40]);
        assert_eq!(ours(Version::V5, &out[40..]), Ok(Packet::Connect(Connect::new(Version::V5, "c"))));
    }

    #[test]
    fn many_subscription_identifiers_stay_out_of_the_payload() {
        let ids = [1, 200, 268_435_455].map(|id| SubscriptionId::new(id).unwrap());
        let mut publish = Publish::new("t", b"payload");
        publish.properties.subscription_ids = SubscriptionIds::from_list(&ids);
        let bytes = written(Packet::Publish(publish), Version::V5);
        assert_eq!(ours(Version::V5, &bytes), Ok(Packet::Publish(publish)));
    }

    /// What section 6.2 lists as taken by mqttbytes stands, with much else, in the tables of `malformed`.
    #[test]
    fn a_sample_of_what_it_takes_and_we_do_not() {
        for (version, bytes) in [
            (Version::V311, &[0xef, 0x00][..]),
            (Version::V311, &[0xc0, 0x80, 0x00]),
            (Version::V311, &[0x40, 0x02, 0x00, 0x00]),
            (Version::V311, &[0x82, 0x06, 0x00, 0x00, 0x00, 0x01, b'a', 0x00]),
            (Version::V311, &[0x30, 0x03, 0x00, 0x01, b'#']),
            (Version::V311, &[0x38, 0x03, 0x00, 0x01, b'a']),
            (Version::V5, &[0x30, 0x07, 0x00, 0x01, b'a', 0x03, 0x23, 0x00, 0x00]),
        ] {
            assert!(theirs(version, bytes).is_ok(), "{bytes:02x?}");
            assert!(ours(version, bytes).is_err(), "{bytes:02x?}");
        }
    }
}
