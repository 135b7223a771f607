//! Sessions that outlive their connections over Redis: on one node, from node to node, and through the death of nodes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nsd_wire::{Connect, Disconnect, Packet, Publish, Qos, ReasonCode, Version, Will};

use crate::support::{Broker, Client, Redis, SOON, eventually};

/// Longer than a lease, and what comes after it.
const REAPED: Duration = Duration::from_secs(20);

fn keeping(id: &str) -> Connect<'_> {
    let mut connect = Connect::new(Version::V5, id);
    connect.clean_start = false;
    connect.properties.session_expiry = Some(600);
    connect
}

/// A client whose CONNECT must be accepted, and whether its session was there.
fn come(node: &Broker, connect: &Connect<'_>) -> (Client, bool) {
    let mut client = Client::open(node.address, connect.version);
    client.send(&Packet::Connect(*connect));
    let (reason, present, expiry) = client.expect(|packet| match packet {
        Packet::ConnAck(ack) => Some((ack.reason, ack.session_present, ack.properties.session_expiry)),
        _ => None,
    });
    assert_eq!((reason, expiry), (ReasonCode::Success, None), "granted as asked for");
    (client, present)
}

#[test]
fn everything_is_there_after_a_crash() {
    let redis = Redis::start();
    let mut broker = Broker::node(&redis);
    let (mut client, present) = come(&broker, &keeping("c"));
    assert!(!present);
    client.subscribe("t/#", Qos::ExactlyOnce);
    client.disconnect();
    let mut publisher = broker.client(Version::V5, "p");
    publisher.retain("state", b"on", Qos::AtLeastOnce);
    for number in 0..20_u8 {
        let qos = if number % 3 == 0 { Qos::ExactlyOnce } else { Qos::AtLeastOnce };
        assert_eq!(publisher.publish("t/x", &[number], qos), ReasonCode::Success);
    }
    let will = Will { qos: Qos::AtLeastOnce, ..Will::new("t/will", b"gone") };
    let doomed =
        Client::connect(broker.address, &Connect { will: Some(will), ..Connect::new(Version::V5, "d") });
    let clean =
        Client::connect(broker.address, &Connect { will: Some(will), ..Connect::new(Version::V5, "e") });
    clean.disconnect();
    publisher.publish("t/x", &[20], Qos::AtLeastOnce);
    broker.kill();
    broker.restart();
    let (mut client, present) = come(&broker, &keeping("c"));
    assert!(present);
    for number in 0..=20_u8 {
        assert_eq!(client.message().payload, [number]);
    }
    let will = client.message_within(REAPED).expect("a will");
    assert_eq!(will.topic, "t/will", "whoever was connected was cut off");
    assert_eq!(client.message_within(Duration::from_millis(300)), None, "who left had no will any more");
    client.subscribe("#", Qos::AtMostOnce);
    let kept = client.message();
    assert_eq!((kept.topic.as_str(), kept.retain), ("state", true));
    drop(doomed);
    client.disconnect();
    broker.signal("-TERM");
    assert_eq!(broker.wait(), Some(0));
    broker.restart();
    let (mut client, present) = come(&broker, &keeping("c"));
    assert!(present);
    broker.client(Version::V5, "p").publish("t/y", b"later", Qos::AtLeastOnce);
    assert_eq!(client.message().payload, b"later");
}

#[test]
fn a_session_goes_from_node_to_node_with_all_that_waits() {
    let redis = Redis::start();
    let (a, b) = (Broker::node(&redis), Broker::node(&redis));
    let (mut first, _) = come(&a, &keeping("c"));
    first.subscribe("t", Qos::AtLeastOnce);
    first.subscribe("zero", Qos::AtMostOnce);
    let (mut near, mut far) = (a.client(Version::V5, "near"), b.client(Version::V311, "far"));
    // While it is connected, from both nodes.
    for number in 0..50_u8 {
        let publisher = if number % 2 == 0 { &mut near } else { &mut far };
        assert_eq!(publisher.publish("t", &[number], Qos::AtLeastOnce), ReasonCode::Success);
        assert_eq!(first.message().payload, [number]);
    }
    far.publish("zero", b"0", Qos::AtMostOnce);
    assert_eq!(first.message().payload, b"0");
    // Taken over by the other node.
    let (mut second, present) = come(&b, &keeping("c"));
    assert!(present);
    assert_eq!(first.disconnected(), ReasonCode::SessionTakenOver);
    near.publish("t", b"second", Qos::AtLeastOnce);
    assert_eq!(second.message().payload, b"second");
    near.publish("zero", b"1", Qos::AtMostOnce);
    assert_eq!(second.message().payload, b"1");
    second.disconnect();
    // While it is away, from both nodes.
    for number in 0..50_u8 {
        let publisher = if number % 2 == 0 { &mut near } else { &mut far };
        assert_eq!(publisher.publish("t", &[number], Qos::AtLeastOnce), ReasonCode::Success);
    }
    let (mut third, present) = come(&a, &keeping("c"));
    assert!(present);
    for number in 0..50_u8 {
        assert_eq!(third.message().payload, [number]);
    }
    // What it does not want any more does not come, and its end is known everywhere.
    third.leave(Disconnect {
        properties: nsd_wire::DisconnectProperties { session_expiry: Some(0), ..Default::default() },
        ..Disconnect::new(ReasonCode::Success)
    });
    far.publish("t", b"x", Qos::AtLeastOnce);
    let (_, present) = come(&b, &keeping("c"));
    assert!(!present);
}
