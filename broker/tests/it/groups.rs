//! Shared subscriptions: who of a group gets a message, and who gets what another has not taken.

use std::num::NonZeroU16;
use std::time::Duration;

use nsd_wire::{Connect, Packet, PacketId, Publish, Qos, ReasonCode, Version};

use crate::support::{Broker, Client, Keeping, SOON};

const FILTER: &str = "$share/g/t";

/// A member that takes so many messages at a time, with a session that outlives it or without.
fn member(broker: &Broker, id: &str, window: u16, seconds: u32) -> Client {
    let mut connect = Connect::new(Version::V5, id);
    connect.properties.receive_maximum = NonZeroU16::new(window);
    connect.properties.session_expiry = Some(seconds);
    let mut client = Client::connect(broker.address, &connect);
    assert_eq!(client.subscribe(FILTER, Qos::AtLeastOnce), ReasonCode::GrantedQos1);
    client
}

fn publish(broker: &Broker, qos: Qos, numbers: std::ops::Range<u8>) {
    let mut publisher = broker.client(Version::V5, "p");
    numbers.for_each(|number| assert_eq!(publisher.publish("t", &[number], qos), ReasonCode::Success));
}

/// So many messages come, none of which is acknowledged, and no more.
fn holds(client: &mut Client, count: usize) {
    let publish = |packet: Packet<'_>| matches!(packet, Packet::Publish(_));
    (0..count).for_each(|_| assert!(client.next(SOON, publish).unwrap(), "a message was expected"));
    client.send(&Packet::PingReq);
    assert!(client.next(SOON, |packet| matches!(packet, Packet::PingResp)).unwrap(), "{count} and no more");
}

fn each(mut test: impl FnMut(&Broker, u32)) {
    for seconds in [0, 60] {
        for broker in Keeping::own() {
            test(&broker, seconds);
        }
    }
}

fn payloads(client: &mut Client, count: usize) -> Vec<u8> {
    let mut got: Vec<u8> = (0..count).map(|_| client.message().payload[0]).collect();
    got.sort_unstable();
    got
}

#[test]
fn a_member_that_takes_nothing_more_is_passed_over() {
    each(|broker, seconds| {
        let mut stubborn = member(broker, "stubborn", 1, seconds);
        let mut other = member(broker, "other", 100, seconds);
        publish(broker, Qos::AtLeastOnce, 0..20);
        let mut got = payloads(&mut other, 19);
        got.dedup();
        assert_eq!(got.len(), 19, "the other has all but one");
        holds(&mut stubborn, 1);
    });
}

#[test]
fn what_a_member_has_not_acknowledged_is_another_ones_after_its_end() {
    each(|broker, seconds| {
        let mut dies = member(broker, "dies", 2, seconds);
        publish(broker, Qos::AtLeastOnce, 0..5);
        holds(&mut dies, 2);
        let mut heir = member(broker, "heir", 100, 0);
        dies.vanish();
        if seconds > 0 {
            holds(&mut heir, 0); // it may come back
            broker.client(Version::V5, "dies").disconnect();
        }
        assert_eq!(payloads(&mut heir, 5), [0, 1, 2, 3, 4]);
    });
}

/// As with a receiver of its own: a queue that fills up is said to the publisher before it is lost.
#[test]
fn a_group_of_which_nobody_keeps_up_slows_its_publishers() {
    let broker = Broker::start(
        "allow_anonymous = true\n[store]\nkind = \"memory\"\n[access]\ntopic_rule = \"open\"\ndevices = false\n[limits]\nqueue_messages = 20",
    );
    let mut stubborn = member(&broker, "stubborn", 1, 60);
    let mut publisher = broker.client(Version::V5, "p");
    // Who publishes little does not wait.
    let payload = [b'x'; 4096];
    for number in 1..=100 {
        let packet_id = PacketId::new(number);
        publisher.send(&Packet::Publish(Publish {
            qos: Qos::AtLeastOnce,
            packet_id,
            ..Publish::new("t", &payload)
        }));
    }
    let mut acknowledged = 0;
    let acked = |packet: Packet<'_>| matches!(packet, Packet::PubAck(_));
    // The first of them in any case, however long that takes.
    let limit = |acknowledged| if acknowledged < 10 { SOON } else { Duration::from_millis(500) };
    while acknowledged < 100 && publisher.next(limit(acknowledged), acked) == Ok(true) {
        acknowledged += 1;
    }
    assert!((10..60).contains(&acknowledged), "{acknowledged} before anybody has taken one");
    holds(&mut stubborn, 1);
}

#[test]
fn a_qos_2_message_that_was_begun_is_nobody_elses() {
    each(|broker, seconds| {
        let mut connect = Connect::new(Version::V5, "dies");
        connect.properties.receive_maximum = NonZeroU16::new(1);
        connect.properties.session_expiry = Some(seconds);
        let mut dies = Client::connect(broker.address, &connect);
        dies.subscribe(FILTER, Qos::ExactlyOnce);
        publish(broker, Qos::ExactlyOnce, 0..3);
        holds(&mut dies, 1);
        let mut heir = member(broker, "heir", 100, 0);
        dies.vanish();
        broker.client(Version::V5, "dies").disconnect();
        assert_eq!(payloads(&mut heir, 2), [1, 2]);
        holds(&mut heir, 0);
    });
}
