//! Publish and subscribe on one node, in all versions.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nsd_wire::{
    Connect, Packet, PacketId, Publish, Qos, ReasonCode, RetainHandling, Subscribe, SubscribeFilter,
    SubscribeOptions, Version, Will,
};

use crate::support::{Broker, Client, Keeping, SOON};

const ALL_QOS: [Qos; 3] = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];
const SHORT: Duration = Duration::from_millis(300);

#[test]
fn every_version_reaches_every_other_at_the_lower_qos() {
    let broker = Broker::anonymous();
    for from in Version::ALL {
        for to in Version::ALL {
            let mut subscriber = broker.client(to, "subscriber");
            let mut publisher = broker.client(from, "publisher");
            for wanted in ALL_QOS {
                subscriber.subscribe("t/+", wanted);
                for sent in ALL_QOS {
                    publisher.publish("t/x", b"hello", sent);
                    let message = subscriber.message();
                    assert_eq!((message.topic.as_str(), message.payload.as_slice()), ("t/x", &b"hello"[..]));
                    assert_eq!(message.qos, sent.min(wanted), "{from:?} {sent:?} to {to:?} {wanted:?}");
                }
            }
        }
    }
}

#[test]
fn packets_of_all_sizes_come_whole_however_they_are_cut() {
    let broker = Broker::anonymous();
    let mut subscriber = broker.client(Version::V311, "s");
    subscriber.subscribe("t", Qos::AtMostOnce);
    let mut publisher = broker.client(Version::V311, "p");
    // What one read takes is 64 KiB.
    let sizes = [3, 40_000, 65_530, 65_531, 3, 3, 70_000, 70_000, 70_000, 5, 300_000, 66_000, 131_072, 1, 2];
    let payload = |number: usize| vec![b'a' + number as u8; sizes[number]];
    let mut stream = Vec::new();
    for number in 0..sizes.len() {
        Publish::new("t", &payload(number)).encode(Version::V311, &mut stream).unwrap();
    }
    for cut in [997, 20_000, 65_536, 65_540, 100_000, stream.len()] {
        for piece in stream.chunks(cut) {
            publisher.send_raw(piece);
        }
        for number in 0..sizes.len() {
            assert!(subscriber.message().payload == payload(number), "{number} in pieces of {cut}");
        }
    }
}

#[test]
fn retained_messages_come_after_the_suback_and_can_be_removed() {
    let broker = Broker::anonymous();
    let mut publisher = broker.client(Version::V5, "p");
    publisher.retain("r/a", b"old", Qos::AtLeastOnce);
    publisher.retain("r/a", b"new", Qos::AtMostOnce);
    publisher.retain("r/b", b"b", Qos::ExactlyOnce);
    publisher.ping();
    let mut subscriber = broker.client(Version::V311, "s");
    subscriber.subscribe("r/#", Qos::AtLeastOnce);
    let (first, second) = (subscriber.message(), subscriber.message());
    assert_eq!((first.payload.as_slice(), first.retain, first.qos), (&b"new"[..], true, Qos::AtMostOnce));
    assert_eq!((second.payload.as_slice(), second.qos), (&b"b"[..], Qos::AtLeastOnce));
    publisher.retain("r/a", b"", Qos::AtLeastOnce);
    let live = subscriber.message();
    assert!(live.payload.is_empty() && !live.retain, "live messages do not say that they are retained");
    let mut late = broker.client(Version::V5, "late");
    late.subscribe("r/a", Qos::AtMostOnce);
    late.hears_nothing();
}

/// Who subscribes while a topic changes has its newest value last, also where an older one was still retained.
#[test]
fn what_is_retained_never_comes_after_something_newer() {
    for broker in Keeping::own() {
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let _stops = OnDrop(&stop);
                for topic in ["r/1", "r/2"] {
                    let publisher = broker.client(Version::V5, topic);
                    scope.spawn(|| retain_numbers(publisher, topic, &stop));
                }
                (0..40).for_each(|round| numbers_come_in_order(&broker, qos, round % 2));
            });
        }
    }
}

fn retain_numbers(mut publisher: Client, topic: &str, stop: &AtomicBool) {
    for number in (0_u32..).take_while(|_| !stop.load(Ordering::Relaxed)) {
        publisher.retain(topic, &number.to_be_bytes(), Qos::AtLeastOnce);
    }
}

fn numbers_come_in_order(broker: &Broker, qos: Qos, expiry: u32) {
    let mut connect = Connect::new(Version::V5, "s");
    connect.properties.session_expiry = Some(expiry);
    let mut client = Client::connect(broker.address, &connect);
    let filters = [SubscribeFilter { filter: "r/#", options: qos.into() }];
    client.send(&Packet::Subscribe(Subscribe::new(PacketId::MIN, &filters)));
    let mut newest = HashMap::new();
    for _ in 0..20 {
        let came = client.next(SOON, |packet| match packet {
            Packet::Publish(message) => Some((message.topic.to_owned(), message.payload.to_vec())),
            _ => None,
        });
        let Some((topic, number)) = came.unwrap() else { continue };
        let before = newest.insert(topic, number.clone());
        assert!(before.as_ref().is_none_or(|before| *before <= number), "{number:?} behind {before:?}");
    }
}

struct OnDrop<'s>(&'s AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn retained_messages_by_wish_and_expiry() {
    let broker = Broker::anonymous();
    let mut publisher = broker.client(Version::V5, "p");
    publisher.retain("r", b"x", Qos::AtLeastOnce);
    let mut subscriber = broker.client(Version::V5, "s");
    let wish = |retain_handling| SubscribeOptions { retain_handling, ..SubscribeOptions::default() };
    subscriber.subscribe_with("r", wish(RetainHandling::DoNotSend), None);
    subscriber.hears_nothing();
    subscriber.subscribe_with("r", wish(RetainHandling::SendIfNew), None);
    subscriber.hears_nothing();
    subscriber.subscribe_with("r", wish(RetainHandling::Send), None);
    assert!(subscriber.message().retain);
    let mut short = Publish { retain: true, qos: Qos::AtLeastOnce, ..Publish::new("short", b"x") };
    short.properties.message_expiry = Some(1);
    publisher.publish_as(short);
    std::thread::sleep(Duration::from_millis(1100));
    subscriber.subscribe("short", Qos::AtMostOnce);
    subscriber.hears_nothing();
}

#[test]
fn subscription_options_of_v5() {
    let broker = Broker::anonymous();
    let mut client = broker.client(Version::V5, "c");
    let own = SubscribeOptions { no_local: true, ..SubscribeOptions::default() };
    client.subscribe_with("own", own, None);
    client.publish("own", b"x", Qos::AtLeastOnce);
    client.hears_nothing();
    let published = SubscribeOptions { retain_as_published: true, ..SubscribeOptions::default() };
    client.subscribe_with("a/+", published, Some(7));
    client.subscribe_with("a/#", Qos::AtLeastOnce.into(), Some(300_000));
    let mut other = broker.client(Version::V5, "o");
    other.retain("a/b", b"x", Qos::AtLeastOnce);
    let mut message = client.message();
    message.ids.sort_unstable();
    assert_eq!((message.ids, message.qos, message.retain), (vec![7, 300_000], Qos::AtLeastOnce, true));
    client.hears_nothing(); // Overlapping filters make one delivery.
}

#[test]
fn properties_are_forwarded_and_aliases_are_not() {
    let broker = Broker::anonymous();
    let mut subscriber = broker.client(Version::V5, "s");
    subscriber.subscribe("t", Qos::AtLeastOnce);
    let mut publisher = broker.client(Version::V5, "p");
    let pairs = [("k", "v"), ("k", "w")];
    let mut publish = Publish::new("t", b"x");
    publish.properties.response_topic = Some("answer");
    publish.properties.correlation_data = Some(b"42");
    publish.properties.user = nsd_wire::UserProperties::from_pairs(&pairs);
    publish.properties.topic_alias = std::num::NonZeroU16::new(1);
    publisher.send(&Packet::Publish(publish));
    publisher.send(&Packet::Publish(Publish { topic: "", ..publish }));
    for _ in 0..2 {
        subscriber.expect(|packet| {
            let Packet::Publish(got) = packet else { return None };
            assert_eq!((got.topic, got.properties.topic_alias), ("t", None));
            assert_eq!(got.properties.response_topic, Some("answer"));
            assert_eq!(got.properties.correlation_data, Some(&b"42"[..]));
            assert_eq!(got.properties.user.iter().collect::<Vec<_>>(), pairs);
            Some(())
        });
    }
}

#[test]
fn a_will_comes_when_the_connection_breaks_and_only_then() {
    let broker = Broker::anonymous();
    let mut watcher = broker.client(Version::V311, "w");
    watcher.subscribe("will/#", Qos::AtLeastOnce);
    for version in Version::ALL {
        let will = Will { qos: Qos::AtLeastOnce, ..Will::new("will/x", b"gone") };
        let connect = Connect { will: Some(will), ..Connect::new(version, "mortal") };
        Client::connect(broker.address, &connect).disconnect();
        watcher.hears_nothing();
        Client::connect(broker.address, &connect).vanish();
        assert_eq!(watcher.message().payload, b"gone", "{version:?}");
    }
}

#[test]
fn taking_a_session_over_ends_the_old_connection_and_sends_its_will() {
    let broker = Broker::anonymous();
    let mut watcher = broker.client(Version::V5, "w");
    watcher.subscribe("will", Qos::AtMostOnce);
    let connect = Connect { will: Some(Will::new("will", b"old")), ..Connect::new(Version::V5, "same") };
    let mut old = Client::connect(broker.address, &connect);
    let mut new = broker.client(Version::V5, "same");
    assert_eq!(old.disconnected(), ReasonCode::SessionTakenOver);
    assert!(old.is_closed(SOON));
    assert_eq!(watcher.message().payload, b"old");
    new.ping();
    new.subscribe("t", Qos::AtMostOnce);
    new.publish("t", b"x", Qos::AtLeastOnce);
}

#[test]
fn a_connack_says_what_the_server_is() {
    let broker = Broker::anonymous();
    let mut client = Client::open(broker.address, Version::V5);
    let mut connect = Connect::new(Version::V5, "");
    connect.properties.session_expiry = Some(3600);
    client.send(&Packet::Connect(connect));
    client.expect(|packet| {
        let Packet::ConnAck(ack) = packet else { return None };
        assert!(ack.properties.assigned_client_id.is_some_and(|id| id.len() > 8));
        assert_eq!(ack.properties.session_expiry, None, "it is kept as long as it was asked for");
        assert!(ack.properties.receive_maximum.is_some() && ack.properties.maximum_packet_size.is_some());
        Some(())
    });
}

/// [MQTT5-3.14.2-3]
#[test]
fn who_is_sent_away_is_told_why_in_words_unless_they_do_not_fit() {
    let broker = Broker::anonymous();
    for (most, expected) in [(None, true), (Some(30), false)] {
        let mut connect = Connect::new(Version::V5, "c");
        connect.properties.maximum_packet_size = most.and_then(std::num::NonZeroU32::new);
        let mut client = Client::connect(broker.address, &connect);
        client.send(&Packet::Connect(connect));
        client.expect(|packet| match packet {
            Packet::Disconnect(disconnect) => {
                assert_eq!(disconnect.reason, ReasonCode::ProtocolError);
                assert_eq!(disconnect.properties.reason_string.is_some(), expected);
                Some(())
            }
            _ => None,
        });
    }
}

#[test]
fn the_receive_maximum_and_packet_size_of_a_client_hold() {
    let broker = Broker::anonymous();
    let mut connect = Connect::new(Version::V5, "small");
    connect.properties.receive_maximum = std::num::NonZeroU16::new(2);
    connect.properties.maximum_packet_size = std::num::NonZeroU32::new(100);
    let mut small = Client::connect(broker.address, &connect);
    small.subscribe("t", Qos::AtLeastOnce);
    let mut publisher = broker.client(Version::V5, "p");
    publisher.publish("t", &[b'x'; 200], Qos::AtLeastOnce);
    for number in 0..5_u8 {
        publisher.publish("t", &[number], Qos::AtLeastOnce);
    }
    let mut take = |limit| {
        small.next(limit, |packet| match packet {
            Packet::Publish(publish) => (publish.packet_id.unwrap(), publish.payload[0]),
            other => panic!("{other:?}"),
        })
    };
    let (first, second) = (take(SOON).unwrap(), take(SOON).unwrap());
    assert_eq!((first.1, second.1), (0, 1), "the large one is left out");
    assert!(take(SHORT).is_err(), "two are out, no more come");
    small.send(&Packet::PubAck(nsd_wire::Ack::new(second.0)));
    assert_eq!(small.message().payload, [2]);
    small.send(&Packet::PubAck(nsd_wire::Ack::new(first.0)));
    assert_eq!(small.message().payload, [3]);
    assert_eq!(small.message().payload, [4]);
}

#[test]
fn a_slow_receiver_costs_bounded_memory_and_only_itself() {
    let broker = Broker::anonymous();
    let mut slow = broker.client(Version::V311, "slow");
    slow.subscribe("flood", Qos::AtMostOnce);
    let mut publisher = broker.client(Version::V311, "p");
    let before = broker.resident_kib();
    let mut batch = Vec::new();
    for _ in 0..64 {
        Publish::new("flood", &[b'x'; 1000]).encode(Version::V311, &mut batch).unwrap();
    }
    // 64 MB toward a client that reads nothing; patience ends once, then it goes on.
    for _ in 0..1000 {
        publisher.send_raw(&batch);
    }
    let mut other = broker.client(Version::V311, "other");
    other.subscribe("fine", Qos::AtLeastOnce);
    other.publish_as(Publish { qos: Qos::AtMostOnce, ..Publish::new("fine", b"x") });
    other.message();
    let grown = broker.resident_kib() - before;
    assert!(grown < 24 * 1024, "grew by {grown} KiB");
    assert!(broker.ask("stats").1["messages"]["dropped"].as_u64().unwrap() > 0, "what is lost is counted");
}

#[test]
fn keep_alive_ends_a_silent_client_after_one_and_a_half_times() {
    let broker = Broker::anonymous();
    let started = std::time::Instant::now();
    let connect = Connect { keep_alive: 1, ..Connect::new(Version::V5, "silent") };
    let mut silent = Client::connect(broker.address, &connect);
    assert_eq!(silent.disconnected(), ReasonCode::KeepAliveTimeout);
    // That it is not much later shows beside a clock of the broker's own: `conformance::keep_alive`.
    assert!(started.elapsed() > Duration::from_millis(1400), "{:?}", started.elapsed());
}

#[test]
fn silence_beyond_the_limit_ends_clients_that_cannot_be_told_of_it() {
    let broker = Broker::start("allow_anonymous = true\n[limits]\nkeep_alive = 4\n");
    let connect = |id, seconds| {
        let connect = Connect { keep_alive: seconds, ..Connect::new(Version::V311, id) };
        Client::connect(broker.address, &connect)
    };
    let (mut never, mut minute, mut talks) =
        (connect("never", 0), connect("minute", 60), connect("talks", 60));
    for _ in 0..8 {
        talks.ping();
        std::thread::sleep(Duration::from_secs(1));
    }
    assert!(never.is_closed(SOON) && minute.is_closed(SOON));
    talks.ping();
}

#[test]
fn fan_in_loses_nothing() {
    let broker = Broker::anonymous();
    let mut subscriber = broker.client(Version::V311, "s");
    subscriber.subscribe("in/#", Qos::AtMostOnce);
    let address = broker.address;
    let publishers: Vec<_> = (0..4)
        .map(|number| {
            std::thread::spawn(move || {
                let mut client =
                    Client::connect(address, &Connect::new(Version::V311, &format!("p{number}")));
                let mut batch = Vec::new();
                for _ in 0..100 {
                    Publish::new("in/x", &[b'x'; 64]).encode(Version::V311, &mut batch).unwrap();
                }
                (0..100).for_each(|_| client.send_raw(&batch));
                client.ping();
            })
        })
        .collect();
    for _ in 0..40_000 {
        subscriber.message();
    }
    publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
}
