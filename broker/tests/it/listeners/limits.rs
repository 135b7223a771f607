//! Limits that a listener has for its own clients.

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use nsd_wire::{Ack, Connect, Packet, Publish, Qos, ReasonCode, Version};

use crate::support::{Broker, Client, SOON, port};

/// A broker with these limits for all, these of its first listener, and its second listener, which has none.
fn two_listeners(all: &str, own: &str) -> (Broker, SocketAddr) {
    let second: SocketAddr = ([127, 0, 0, 1], port()).into();
    let settings = format!("allow_anonymous = true\n[limits]\n{all}");
    let listener = format!("[listen.limits]\n{own}\n[[listen]]\naddress = \"{second}\"");
    (Broker::with(&settings, &listener), second)
}

/// What a client is told that asks for a keep alive of a minute and a session of an hour: largest packet, Receive Maximum,
/// aliases, keep alive, session expiry.
fn told(address: SocketAddr) -> (u32, u16, u16, u16, u32) {
    let mut client = Client::open(address, Version::V5);
    let mut connect = Connect { keep_alive: 60, ..Connect::new(Version::V5, "probe") };
    connect.properties.session_expiry = Some(3600);
    client.send(&Packet::Connect(connect));
    let told = client.expect(|packet| match packet {
        Packet::ConnAck(ack) => {
            let told = &ack.properties;
            Some((
                told.maximum_packet_size.map_or(0, NonZeroU32::get),
                told.receive_maximum.map_or(0, NonZeroU16::get),
                told.topic_alias_maximum.unwrap_or_default(),
                told.server_keep_alive.unwrap_or(60),
                told.session_expiry.unwrap_or(3600),
            ))
        }
        _ => None,
    });
    let mut goodbye = nsd_wire::Disconnect::new(ReasonCode::Success);
    goodbye.properties.session_expiry = Some(0);
    client.leave(goodbye);
    told
}

#[test]
fn clients_are_told_the_limits_of_their_listener_lower_or_higher_than_those_of_all() {
    let (broker, second) = two_listeners(
        "packet_bytes = 2000\nreceive_maximum = 10\nkeep_alive = 30",
        "packet_bytes = 5000\nreceive_maximum = 7\ntopic_aliases = 3\nkeep_alive = 0\nsession_expiry = \"10m\"",
    );
    assert_eq!(told(broker.address), (5000, 7, 3, 60, 600));
    assert_eq!(told(second), (2000, 10, 64, 30, 3600));
}

#[test]
fn what_a_client_sends_is_measured_by_its_listener() {
    let (broker, second) = two_listeners(
        "packet_bytes = 2000\nsubscriptions_per_client = 1",
        "packet_bytes = 5000\ntopic_levels = 3\nsubscriptions_per_client = 2\nreceive_maximum = 1",
    );
    let through_second = || Client::connect(second, &Connect::new(Version::V5, "other"));
    let large = [b'x'; 3000];

    let (mut own, mut other) = (broker.client(Version::V5, "own"), through_second());
    assert_eq!(own.publish("t", &large, Qos::AtLeastOnce), ReasonCode::Success);
    other.send(&Packet::Publish(Publish::new("t", &large)));
    assert_eq!(other.disconnected(), ReasonCode::PacketTooLarge);

    let mut other = through_second();
    let codes = |client: &mut Client| ["a", "b", "c"].map(|filter| client.subscribe(filter, Qos::AtMostOnce));
    let (yes, no) = (ReasonCode::granted(Qos::AtMostOnce), ReasonCode::QuotaExceeded);
    assert_eq!(codes(&mut own), [yes, yes, no]);
    assert_eq!(codes(&mut other), [yes, no, no]);

    // Two at once, of which the first waits for its PUBREL.
    for (client, expected) in [(&mut own, Some(ReasonCode::ReceiveMaximumExceeded)), (&mut other, None)] {
        for _ in 0..2 {
            let id = client.id();
            let publish = Publish { qos: Qos::ExactlyOnce, packet_id: Some(id), ..Publish::new("t", b"x") };
            client.send(&Packet::Publish(publish));
        }
        client.expect(|packet| matches!(packet, Packet::PubRec(_)).then_some(()));
        match expected {
            Some(reason) => assert_eq!(client.disconnected(), reason),
            None => client.expect(|packet| matches!(packet, Packet::PubRec(_)).then_some(())),
        }
    }

    let mut own = broker.client(Version::V5, "own");
    assert_eq!(other.publish("1/2/3/4", b"x", Qos::AtLeastOnce), ReasonCode::Success);
    own.send(&Packet::Publish(Publish::new("1/2/3/4", b"x")));
    assert_eq!(own.disconnected(), ReasonCode::TopicNameInvalid);
}

#[test]
fn what_a_client_is_sent_at_a_time_is_decided_by_its_listener() {
    let (broker, second) = two_listeners("", "send_window = 2");
    let mut publisher = broker.client(Version::V5, "p");
    let mut own = broker.client(Version::V5, "own");
    let mut other = Client::connect(second, &Connect::new(Version::V5, "other"));
    let received = |client: &mut Client| {
        client.next(SOON, |packet| match packet {
            Packet::Publish(publish) => publish.packet_id,
            other => panic!("{other:?}"),
        })
    };
    for client in [&mut own, &mut other] {
        client.subscribe("t", Qos::AtLeastOnce);
    }
    for _ in 0..4 {
        publisher.publish("t", b"x", Qos::AtLeastOnce);
    }
    // Nothing is acknowledged.
    for _ in 0..4 {
        received(&mut other).unwrap();
    }
    let first = received(&mut own).unwrap().unwrap();
    received(&mut own).unwrap();
    assert!(own.next(Duration::from_millis(300), |_| ()).is_err(), "its window is full");
    own.send(&Packet::PubAck(Ack::new(first)));
    received(&mut own).unwrap();
}

#[test]
fn a_pace_is_that_of_the_listener() {
    let (broker, second) = two_listeners("", "messages_per_second = 1");
    let mut slow = broker.client(Version::V5, "slow");
    let mut fast = Client::connect(second, &Connect::new(Version::V5, "fast"));
    let mut subscriber = Client::connect(second, &Connect::new(Version::V5, "s"));
    subscriber.subscribe("slow", Qos::AtMostOnce);
    // More than a minute's worth.
    let mut bytes = Vec::new();
    (0..100).for_each(|_| Publish::new("slow", b"x").encode(Version::V5, &mut bytes).unwrap());
    slow.send_raw(&bytes);
    for _ in 0..100 {
        assert_eq!(fast.publish("fast", b"x", Qos::AtLeastOnce), ReasonCode::Success);
    }
    fast.publish("slow", b"the fast one's", Qos::AtLeastOnce);
    let before = (0..100).take_while(|_| subscriber.message().payload == b"x").count();
    assert!(before < 100, "the slow one was not slowed down");
}

#[test]
fn who_says_nothing_is_closed_at_the_deadline_of_its_listener() {
    let (broker, second) = two_listeners("connect_deadline = \"120s\"", "connect_deadline = \"200ms\"");
    let mut silent = [broker.address, second].map(|address| Client::open(address, Version::V5));
    assert!(silent[0].is_closed(SOON));
    silent[1].login(&Connect::new(Version::V5, "late"));
}
