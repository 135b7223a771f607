//! What no proper client does: the server answers as its version allows, closes, and serves the others on.

use nsd_wire::{Connect, Packet, Publish, Qos, ReasonCode, Version};

use crate::support::{Broker, Client, SOON};

#[test]
fn malformed_packets_end_their_connection_and_nothing_else() {
    let broker = Broker::anonymous();
    let mut witness = broker.client(Version::V5, "witness");
    for bytes in [
        &[0x00, 0x00][..],
        &[0x30, 0xff, 0xff, 0xff, 0xff],
        &[0x32, 0x03, 0x00, 0x01, b'a'],
        &[0x36, 0x05, 0x00, 0x01, b'a', 0x00, 0x01],
        &[0x82, 0x02, 0x00, 0x01],
        &[0x80, 0x00],
        &[0x40, 0x01, 0x00],
        &[0xc0, 0x01, 0x00],
        &[0x30, 0x04, 0x00, 0x02, 0xff, 0xff],
    ] {
        let mut client = broker.client(Version::V5, "bad");
        client.send_raw(bytes);
        let reason = client.disconnected();
        assert!(
            [ReasonCode::MalformedPacket, ReasonCode::ProtocolError].contains(&reason),
            "{bytes:02x?}: {reason:?}"
        );
        assert!(client.is_closed(SOON), "{bytes:02x?}");
        let mut client = broker.client(Version::V311, "bad");
        client.send_raw(bytes);
        assert!(client.next(SOON, |_| ()).is_err(), "v3 is closed without a word: {bytes:02x?}");
    }
    witness.ping();
}

#[test]
fn random_bytes_never_end_the_server() {
    let broker = Broker::anonymous();
    let mut random = fastrand::Rng::with_seed(3);
    for round in 0..200 {
        let mut client = Client::open(broker.address, Version::V311);
        if round % 2 == 0 {
            client.send(&Packet::Connect(Connect::new(Version::ALL[round % 3], "fuzz")));
        }
        let mut bytes: Vec<u8> = (0..random.usize(1..300)).map(|_| random.u8(..)).collect();
        if random.bool() {
            bytes[0] = [0x10, 0x30, 0x32, 0x82, 0xa2, 0x40, 0x62, 0xe0, 0xf0][random.usize(..9)];
            if let Some(length) = bytes.get_mut(1) {
                *length = random.u8(..60);
            }
        }
        client.try_send_raw(&bytes);
    }
    broker.client(Version::V5, "after").ping();
}

#[test]
fn a_connection_without_a_connect_is_closed() {
    let broker = Broker::anonymous();
    let mut silent = Client::open(broker.address, Version::V311);
    let mut half = Client::open(broker.address, Version::V311);
    half.send_raw(&[0x10, 0x20, 0x00]);
    let mut wrong = Client::open(broker.address, Version::V311);
    wrong.send(&Packet::PingReq);
    assert!(wrong.is_closed(SOON));
    assert!(silent.is_closed(SOON * 4));
    assert!(half.is_closed(SOON));
}

#[test]
fn unknown_versions_get_the_answer_that_they_can_read() {
    let broker = Broker::anonymous();
    for (level, expected) in [(6, &[0x20, 0x03, 0x00, 0x84, 0x00][..]), (1, &[0x20, 0x02, 0x00, 0x01])] {
        let mut client = Client::open(broker.address, if level == 6 { Version::V5 } else { Version::V311 });
        client
            .send_raw(&[0x10, 0x0c, 0x00, 0x04, b'M', b'Q', b'T', b'T', level, 0x02, 0x00, 0x00, 0x00, 0x00]);
        let reason = client.expect(|packet| match packet {
            Packet::ConnAck(ack) => Some(ack.reason),
            _ => None,
        });
        assert_eq!(reason, ReasonCode::UnsupportedProtocolVersion, "{expected:02x?}");
        assert!(client.is_closed(SOON));
    }
}

#[test]
fn too_large_is_refused_before_it_is_read() {
    let broker = Broker::anonymous();
    let mut client = broker.client(Version::V5, "large");
    client.send_raw(&[0x30, 0xff, 0xff, 0xff, 0x7f]);
    assert_eq!(client.disconnected(), ReasonCode::PacketTooLarge);
    let mut deep = broker.client(Version::V5, "deep");
    deep.publish("a/".repeat(300).as_str(), b"x", Qos::AtMostOnce);
    assert_eq!(deep.disconnected(), ReasonCode::TopicNameInvalid);
}

#[test]
fn the_servers_topics_cannot_be_written() {
    let broker = Broker::anonymous();
    let mut v5 = broker.client(Version::V5, "v5");
    assert_eq!(v5.publish("$SYS/x", b"x", Qos::AtLeastOnce), ReasonCode::NotAuthorized);
    assert_eq!(v5.publish("$SYS/x", b"x", Qos::ExactlyOnce), ReasonCode::NotAuthorized);
    v5.send(&Packet::Publish(Publish::new("$SYS/x", b"x")));
    assert_eq!(v5.disconnected(), ReasonCode::NotAuthorized);
    let mut v3 = broker.client(Version::V311, "v3");
    v3.send(&Packet::Publish(Publish::new("$SYS/x", b"x")));
    assert!(v3.is_closed(SOON));
}
