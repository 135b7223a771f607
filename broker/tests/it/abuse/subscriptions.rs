//! Filters and topics as a weapon.

use nsd_wire::{Packet, Publish, Qos, ReasonCode, Subscribe, SubscribeFilter, Version};

use super::{MIB, Siege, swallow};
use crate::support::{Client, SOON, eventually};

/// One SUBSCRIBE with all of them: the code of each.
fn subscribe(client: &mut Client, filters: &[String], qos: Qos) -> Vec<ReasonCode> {
    let packet_id = client.id();
    let filters: Vec<_> =
        filters.iter().map(|filter| SubscribeFilter { filter, options: qos.into() }).collect();
    client.send(&Packet::Subscribe(Subscribe::new(packet_id, &filters)));
    client.expect(|packet| match packet {
        Packet::SubAck(ack) if ack.packet_id == packet_id => Some(ack.codes.iter().collect()),
        _ => None,
    })
}

fn counted(codes: &[ReasonCode], code: ReasonCode) -> usize {
    codes.iter().filter(|known| **known == code).count()
}

#[test]
fn ten_thousand_filters_in_one_packet() {
    let siege = Siege::begin();
    let filters: Vec<_> = (0..10_050).map(|number| format!("{number}/+/{number}")).collect();
    let mut clients: Vec<_> = (0..4).map(|number| siege.client(&format!("many-{number}"))).collect();
    for client in &mut clients {
        let codes = subscribe(client, &filters, Qos::AtMostOnce);
        assert_eq!(counted(&codes, ReasonCode::Success), 10_000);
        assert_eq!(counted(&codes, ReasonCode::QuotaExceeded), 50);
    }
    drop(clients);
    eventually("they are all forgotten", SOON * 2, || {
        siege.broker.ask("stats").1["subscriptions"].as_u64() == Some(1)
    });
    siege.end("many filters: 10,050 in one SUBSCRIBE, 4 clients", 32 * MIB);
}

#[test]
fn deep_topics_as_far_as_they_may_go() {
    let siege = Siege::begin();
    let deep = |levels: usize, last: usize| format!("{}{last}", "d/".repeat(levels - 1));
    let wild = |levels: usize| format!("{}#", "+/".repeat(levels - 1));
    let mut client = siege.client("deep");
    let filters: Vec<_> = (0..2000).map(|number| deep(128, number)).chain([wild(128), wild(64)]).collect();
    let codes = subscribe(&mut client, &filters, Qos::AtMostOnce);
    assert_eq!(counted(&codes, ReasonCode::Success), filters.len());
    let codes = subscribe(&mut client, &[deep(129, 0), wild(129), wild(30_000)], Qos::AtMostOnce);
    assert_eq!(counted(&codes, ReasonCode::TopicFilterInvalid), 3);
    let mut publisher = siege.client("publisher");
    for number in 0..500 {
        publisher.publish(&deep(128, number), b"x", Qos::AtMostOnce);
        publisher.retain(&deep(128, number), b"x", Qos::AtMostOnce);
    }
    for _ in 0..1000 {
        client.message();
    }
    publisher.publish(&deep(129, 0), b"x", Qos::AtMostOnce);
    assert_eq!(publisher.disconnected(), ReasonCode::TopicNameInvalid);
    siege.end("deep topics: 2000 filters of 128 levels, 1000 messages", 10 * MIB);
}

#[test]
fn topics_of_the_server_stay_its_own() {
    let siege = Siege::begin();
    let mut all = siege.client("all");
    let filters = ["#", "+/#", "+/+"].map(str::to_owned);
    assert_eq!(counted(&subscribe(&mut all, &filters, Qos::AtMostOnce), ReasonCode::Success), 3);
    let read = swallow(&all);
    for number in 0..200 {
        let mut client = siege.client("dollar");
        let topic = format!("$SYS/{number}");
        assert_eq!(client.publish(&topic, b"x", Qos::AtLeastOnce), ReasonCode::NotAuthorized);
        assert_eq!(client.retain(&topic, b"x", Qos::ExactlyOnce), ReasonCode::NotAuthorized);
        client.send(&Packet::Publish(Publish::new(&topic, b"x")));
        assert_eq!(client.disconnected(), ReasonCode::NotAuthorized);
        let mut old = siege.broker.client(Version::V311, "dollar-old");
        old.send(&Packet::Publish(Publish::new(&topic, b"x")));
        assert!(old.is_closed(SOON));
    }
    let mut subscriber = siege.client("subscriber");
    for filter in ["$share", "$share/", "$share//a", "$share/g", "$share/+/a", "$share/#/a"] {
        let mut client = siege.client("shared");
        let filters = [SubscribeFilter { filter, options: Qos::AtMostOnce.into() }];
        let mut bytes = Vec::new();
        if Packet::Subscribe(Subscribe::new(client.id(), &filters)).encode(Version::V5, &mut bytes).is_ok() {
            client.send_raw(&bytes);
            assert!(client.is_closed(SOON) || filter == "$share", "{filter}");
        }
    }
    subscriber.ping();
    all.disconnect();
    read.join().unwrap();
    siege.end("`$` topics: 800 refused messages", 6 * MIB);
}

/// Every filter of `levels` that is made of `a` and `+`: a topic of only `a` matches them all.
fn all_ways(levels: u32) -> Vec<String> {
    let way = |bits: u32| {
        let level = |at| if bits >> at & 1 == 1 { "+" } else { "a" };
        (0..levels).map(level).collect::<Vec<_>>().join("/")
    };
    (0..1 << levels).map(way).collect()
}

#[test]
fn wildcard_bombs_cost_no_more_than_their_filters() {
    let siege = Siege::begin();
    let filters = all_ways(13);
    let topic = ["a"; 13].join("/");
    let mut bombs: Vec<_> = (0..3).map(|number| siege.client(&format!("bomb-{number}"))).collect();
    for bomb in &mut bombs {
        let codes = subscribe(bomb, &filters, Qos::AtMostOnce);
        assert_eq!(counted(&codes, ReasonCode::Success), filters.len());
        let many: Vec<_> = (1..120).map(|levels| format!("{}#", "+/".repeat(levels))).collect();
        assert_eq!(counted(&subscribe(bomb, &many, Qos::AtMostOnce), ReasonCode::Success), many.len());
    }
    let mut publisher = siege.client("publisher");
    // The client that comes and goes makes everything that was remembered about topics worthless.
    let mut flickering = siege.client("flickering");
    for number in 0..100_u32 {
        flickering.subscribe(&format!("f/{number}"), Qos::AtMostOnce);
        publisher.publish(&topic, &number.to_be_bytes(), Qos::AtLeastOnce);
    }
    for bomb in &mut bombs {
        let mut own = 0_u32;
        while own < 100 {
            let message = bomb.message();
            if message.topic == topic {
                assert_eq!(message.payload, own.to_be_bytes(), "one copy of each");
                own += 1;
            }
        }
    }
    siege.end("wildcard bombs: 3 × 8300 filters, each topic matches them all", 32 * MIB);
}

#[test]
fn groups_without_end_multiply_no_message_without_end() {
    let siege = Siege::begin();
    let filters: Vec<_> = (0..1000).map(|number| format!("$share/g{number}/bomb/#")).collect();
    let mut bombs: Vec<_> = (0..3).map(|number| siege.client(&format!("groups-{number}"))).collect();
    for bomb in &mut bombs {
        let codes = subscribe(bomb, &filters, Qos::AtMostOnce);
        assert_eq!(counted(&codes, ReasonCode::Success), 256);
        assert_eq!(counted(&codes, ReasonCode::QuotaExceeded), 744);
    }
    let mut publisher = siege.client("publisher");
    for number in 0..50 {
        publisher.publish(&format!("bomb/{number}"), b"x", Qos::AtLeastOnce);
    }
    // Each group has one copy for one of its three members.
    let read = bombs.iter().map(swallow).collect::<Vec<_>>();
    bombs
        .iter_mut()
        .for_each(|bomb| bomb.send(&Packet::Disconnect(nsd_wire::Disconnect::new(ReasonCode::Success))));
    let bytes: u64 = read.into_iter().map(|read| read.join().unwrap()).sum();
    assert!(bytes < 256 * 50 * 16, "{bytes}");
    siege.end("groups: 3 members of 256 each, 50 messages", 10 * MIB);
}

#[test]
fn a_retained_storm_waits_for_its_readers() {
    let siege = Siege::begin();
    let mut publisher = siege.client("keeper");
    let mut bytes = Vec::new();
    for number in 0..100_000 {
        let topic = format!("kept/{}/{number}", number % 100);
        let publish = Publish { retain: true, ..Publish::new(&topic, b"0123456789abcdef") };
        Packet::Publish(publish).encode(Version::V5, &mut bytes).unwrap();
    }
    publisher.send_raw(&bytes);
    eventually("all are kept", SOON * 12, || {
        siege.broker.ask("stats").1["retained"].as_u64() == Some(100_000)
    });
    let kept = siege.grown_kib();
    assert!(kept < 40 * MIB, "100,000 retained messages take {kept} KiB");
    let storm: Vec<_> = (0..30)
        .map(|number| {
            let mut client = siege.narrow(Version::V5, &format!("storm-{number}"));
            client.subscribe("#", Qos::AtLeastOnce);
            client
        })
        .collect();
    let mut reader = siege.client("reader");
    reader.subscribe("kept/#", Qos::AtMostOnce);
    for _ in 0..100_000 {
        assert!(reader.message().retain);
    }
    let grown = siege.grown_kib() - kept;
    assert!(grown < 30 * 2 * MIB, "30 that do not read them take {grown} KiB more");
    drop(storm);
    siege.end("retained storm: 100,000 kept, 30 deaf `#` and a reader", 64 * MIB);
}
