//! Packets as a weapon: far too large, or small ones that mean much.

use std::num::NonZeroU16;

use nsd_wire::{
    Ack, AckKind, Connect, Packet, PacketId, Publish, Qos, ReasonCode, UserProperties, Version, Will,
};

use super::{MIB, Siege, swallow, written};
use crate::support::{Client, SOON};

fn id(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}

#[test]
fn giant_packets_are_refused_by_their_first_bytes() {
    let siege = Siege::begin();
    for number in 0..100 {
        let mut stranger = Client::open(siege.broker.address, Version::V5);
        stranger.try_send_raw(&[0x10, 0xff, 0xff, 0xff, 0x7f]);
        stranger.try_send_raw(&[b'x'; 16 * 1024]);
        assert!(stranger.is_closed(SOON), "a giant CONNECT");
        let mut client = siege.client(&format!("giant-{number}"));
        client.send_raw(&[0x30, 0xff, 0xff, 0xff, 0x7f]);
        assert_eq!(client.disconnected(), ReasonCode::PacketTooLarge);
    }
    siege.end("giant packets: 200 declare 256 MiB", 4 * MIB);
}

#[test]
fn the_largest_packets_that_are_allowed_cost_what_they_are() {
    let siege = Siege::begin();
    let payload = vec![b'x'; 1024 * 1024 - 64];
    let mut bytes = Vec::new();
    Publish::new("large", &payload).encode(Version::V5, &mut bytes).unwrap();
    let mut clients: Vec<Client> = (0..16).map(|number| siege.client(&format!("large-{number}"))).collect();
    for client in &mut clients {
        client.send_raw(&bytes);
        client.send_raw(&bytes[..bytes.len() - 1]);
    }
    for client in &mut clients {
        client.send_raw(&bytes[bytes.len() - 1..]);
        client.ping();
    }
    siege.end("large packets: 16 clients, 1 MiB each but for its last byte", 40 * MIB);
}

#[test]
fn user_properties_by_the_thousands() {
    let siege = Siege::begin();
    let properties = vec![("", ""); 65_000];
    let mut subscriber = siege.client("subscriber");
    subscriber.subscribe("bomb", Qos::AtLeastOnce);
    let mut old = siege.broker.client(Version::V311, "old");
    old.subscribe("bomb", Qos::AtLeastOnce);
    let mut bomber = siege.client("bomber");
    for _ in 0..6 {
        let mut publish = Publish { qos: Qos::AtLeastOnce, retain: true, ..Publish::new("bomb", b"x") };
        publish.properties.user = UserProperties::from_pairs(&properties);
        assert_eq!(bomber.publish_as(publish), ReasonCode::Success);
        let bytes = subscriber.next(SOON, |packet| match packet {
            Packet::Publish(publish) => publish.properties.user.iter().count(),
            _ => 0,
        });
        assert_eq!(bytes, Ok(properties.len()));
        assert_eq!(old.message().payload, b"x");
    }
    // A CONNECT may be of 128 KiB: the will has a part, the client another.
    let mut will = Will::new("bomb", b"x");
    will.properties.user = UserProperties::from_pairs(&properties[..12_000]);
    let mut connect = Connect { will: Some(will), ..Connect::new(Version::V5, "") };
    connect.properties.user = UserProperties::from_pairs(&properties[..12_000]);
    for number in 0..50 {
        let client_id = format!("will-{number}");
        Client::connect(siege.broker.address, &Connect { client_id: &client_id, ..connect }).vanish();
    }
    siege.end("user properties: 6 × 65,000 in a PUBLISH, 50 × 24,000 in a CONNECT", 8 * MIB);
}

#[test]
fn aliases_cost_their_topics_and_there_are_few() {
    let siege = Siege::begin();
    for client in 0..4 {
        let mut client = siege.client(&format!("aliases-{client}"));
        let set = |client: &mut Client, alias: u16, round: u16| {
            let topic = format!("{round}-{}", "x".repeat(60_000));
            let mut publish = Publish::new(&topic, b"x");
            publish.properties.topic_alias = NonZeroU16::new(alias);
            client.send(&Packet::Publish(publish));
        };
        for round in 0..8 {
            (1..=64).for_each(|alias| set(&mut client, alias, round));
        }
        client.ping();
        set(&mut client, 65, 0);
        assert_eq!(client.disconnected(), ReasonCode::TopicAliasInvalid);
    }
    siege.end("aliases: 64 of 60 KB, set 8 times, by 4 clients", 20 * MIB);
}

#[test]
fn topics_that_nobody_will_ever_use_again_are_not_remembered_at_any_price() {
    let siege = Siege::begin();
    let mut publisher = siege.client("forgetful");
    for number in 0..1000 {
        let topic = format!("{number}-{}", "x".repeat(60_000));
        publisher.send(&Packet::Publish(Publish::new(&topic, b"x")));
    }
    publisher.ping();
    siege.end("ever new topics: 1000 of 60 KB", 28 * MIB);
}

#[test]
fn identifiers_used_wrongly_are_answered_and_deliver_nothing_twice() {
    let siege = Siege::begin();
    let mut subscriber = siege.client("subscriber");
    subscriber.subscribe("once", Qos::AtMostOnce);
    for version in Version::ALL {
        let mut client = siege.broker.client(version, "confused");
        let answers = swallow(&client);
        let twice = |dup| Publish {
            qos: Qos::ExactlyOnce,
            packet_id: Some(id(1)),
            dup,
            ..Publish::new("once", b"first")
        };
        client.send(&Packet::Publish(twice(false)));
        let ack = Ack::new(id(9));
        let nonsense = written(
            version,
            (0..2000).flat_map(|number| {
                [
                    Packet::Publish(twice(number % 2 == 0)),
                    Packet::PubAck(ack),
                    Packet::PubRec(ack),
                    Packet::PubRel(ack),
                    Packet::PubComp(ack),
                ]
            }),
        );
        client.send_raw(&nonsense);
        client.send(&Packet::PubRel(Ack::new(id(1))));
        client.send(&Packet::Publish(Publish::new("once", b"last")));
        client.send(&Packet::Disconnect(nsd_wire::Disconnect::new(ReasonCode::Success)));
        assert!(answers.join().unwrap() >= 2000 * 4, "{version:?}: each PUBREL and PUBREC has an answer");
        assert_eq!(subscriber.message().payload, b"first", "{version:?}");
        assert_eq!(subscriber.message().payload, b"last", "{version:?}: what was sent once comes once");
    }
    siege.end("identifiers reused: 10,000 packets in each version", 4 * MIB);
}

#[test]
fn acknowledgements_of_nothing_cost_nothing() {
    let siege = Siege::begin();
    let mut client = siege.client("eager");
    let mut bytes = Vec::new();
    for number in 1..=u16::MAX {
        Ack::new(id(number)).encode(AckKind::PubAck, Version::V5, &mut bytes).unwrap();
        Ack::new(id(number)).encode(AckKind::PubComp, Version::V5, &mut bytes).unwrap();
    }
    client.send_raw(&bytes);
    client.ping();
    siege.end("acknowledgements of nothing: every identifier, twice", 4 * MIB);
}
