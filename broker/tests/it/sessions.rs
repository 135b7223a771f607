//! Sessions that outlive their connections, in each of the stores: what was acknowledged is there afterwards.

use std::collections::VecDeque;
use std::io::Write;
use std::num::NonZeroU16;
use std::sync::Barrier;
use std::time::Duration;

use nsd_wire::{
    Ack, AckKind, Connect, Packet, PacketId, Publish, Qos, ReasonCode, Subscribe, SubscribeFilter,
    SubscribeOptions, Version, Will,
};

use crate::support::{Broker, Client, Gone, Keeping, SOON};

/// A v5 client whose session is kept for so many seconds.
fn keeping(id: &str, seconds: u32) -> Connect<'_> {
    let mut connect = Connect::new(Version::V5, id);
    connect.clean_start = false;
    connect.properties.session_expiry = Some(seconds);
    connect
}

fn kept_v3(id: &str) -> Connect<'_> {
    Connect { clean_start: false, ..Connect::new(Version::V311, id) }
}

/// Connects, and tells whether the session was there.
fn present(broker: &Broker, connect: &Connect<'_>) -> (Client, bool) {
    let mut client = Client::open(broker.address, connect.version);
    let present = client.login(connect);
    (client, present)
}

#[test]
fn what_came_while_a_client_was_away_is_there_in_order() {
    for broker in Keeping::each() {
        for connect in [keeping("c", 60), kept_v3("c3")] {
            let (mut client, was_there) = present(&broker, &connect);
            assert!(!was_there);
            client.subscribe("t/#", Qos::ExactlyOnce);
            client.disconnect();
            let mut publisher = broker.client(Version::V5, "p");
            for number in 0..50_u8 {
                let qos = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][usize::from(number % 3)];
                publisher.publish("t/x", &[number], qos);
            }
            let (mut client, was_there) = present(&broker, &connect);
            assert!(was_there);
            for number in (0..50_u8).filter(|number| number % 3 != 0) {
                let message = client.message();
                assert_eq!(message.payload, [number], "QoS 0 is not kept, the rest is");
            }
            client.ping();
            let (_, was_there) = present(&broker, &Connect { clean_start: true, ..connect });
            assert!(!was_there, "a clean start forgets");
        }
    }
}

#[test]
fn what_was_not_acknowledged_is_sent_again_under_its_identifier() {
    for broker in Keeping::each() {
        let (mut client, _) = present(&broker, &keeping("c", 60));
        client.subscribe("t", Qos::ExactlyOnce);
        let mut publisher = broker.client(Version::V5, "p");
        publisher.publish("t", b"one", Qos::AtLeastOnce);
        publisher.publish("t", b"two", Qos::ExactlyOnce);
        publisher.publish("t", b"three", Qos::ExactlyOnce);
        let mut ids = Vec::new();
        for expected in [&b"one"[..], b"two", b"three"] {
            ids.push(client.expect(|packet| match packet {
                Packet::Publish(publish) if publish.payload == expected && !publish.dup => publish.packet_id,
                _ => None,
            }));
        }
        // Of the second, the client has told that it has it.
        client.send(&Packet::PubRec(Ack::new(ids[1])));
        client.expect_release(ids[1]);
        client.vanish();
        let (mut client, _) = present(&broker, &keeping("c", 60));
        let again = |client: &mut Client| {
            client.expect(|packet| match packet {
                Packet::Publish(publish) if publish.dup => publish.packet_id,
                _ => None,
            })
        };
        assert_eq!(again(&mut client), ids[0]);
        client.expect_release(ids[1]);
        client.send(&Packet::PubComp(Ack::new(ids[1])));
        assert_eq!(again(&mut client), ids[2]);
        client.send(&Packet::PubAck(Ack::new(ids[0])));
        client.send(&Packet::PubRec(Ack::new(ids[2])));
        client.expect_release(ids[2]);
        client.send(&Packet::PubComp(Ack::new(ids[2])));
        client.ping();
        client.vanish();
        let (mut client, _) = present(&broker, &keeping("c", 60));
        client.hears_nothing();
    }
}

#[test]
fn a_qos_2_message_that_is_sent_again_on_another_connection_is_one_message() {
    for broker in Keeping::each() {
        let mut receiver = broker.client(Version::V5, "r");
        receiver.subscribe("t", Qos::ExactlyOnce);
        let (mut client, _) = present(&broker, &keeping("c", 60));
        let id = PacketId::new(7).unwrap();
        let publish = Publish { qos: Qos::ExactlyOnce, packet_id: Some(id), ..Publish::new("t", b"once") };
        let received =
            |packet: Packet<'_>| matches!(packet, Packet::PubRec(ack) if ack.packet_id == id).then_some(());
        client.send(&Packet::Publish(publish));
        client.expect(received);
        client.vanish();
        let (mut client, _) = present(&broker, &keeping("c", 60));
        client.send(&Packet::Publish(Publish { dup: true, ..publish }));
        client.expect(received);
        client.send(&Packet::PubRel(Ack::new(id)));
        client.expect(|packet| {
            matches!(packet, Packet::PubComp(ack) if ack.packet_id == id && ack.reason == ReasonCode::Success)
                .then_some(())
        });
        assert_eq!(receiver.message().payload, b"once");
        receiver.hears_nothing();
    }
}

/// [MQTT5-3.3.4-7]: the client may have as many under way on each connection, those of before among them.
#[test]
fn a_publisher_goes_on_whose_whole_receive_maximum_was_under_way() {
    for broker in Keeping::each_limited("receive_maximum = 3") {
        let (mut client, _) = present(&broker, &keeping("c", 60));
        let ids = [1, 2, 3].map(|id| PacketId::new(id).unwrap());
        let send = |client: &mut Client, dup| {
            for id in ids {
                let publish =
                    Publish { qos: Qos::ExactlyOnce, packet_id: Some(id), ..Publish::new("t", b"x") };
                client.send(&Packet::Publish(Publish { dup, ..publish }));
            }
            for id in ids {
                client.expect(|packet| {
                    matches!(packet, Packet::PubRec(ack) if ack.packet_id == id).then_some(())
                });
            }
        };
        send(&mut client, false);
        client.vanish();
        let (mut client, _) = present(&broker, &keeping("c", 60));
        send(&mut client, true);
        // One more than that is still too much.
        let id = PacketId::new(4);
        client.send(&Packet::Publish(Publish {
            qos: Qos::AtLeastOnce,
            packet_id: id,
            ..Publish::new("t", b"")
        }));
        assert_eq!(client.disconnected(), ReasonCode::ReceiveMaximumExceeded);
    }
}

/// What they acknowledge stands behind what they publish: to wait with the one is to wait with the other.
#[test]
fn clients_that_write_to_each_other_or_to_themselves_lose_nothing() {
    const EACH: u32 = 3000;
    for broker in Keeping::own() {
        let all_come = |id: &str, from: &str, to: &str, ready: &Barrier| {
            let (mut client, _) = present(&broker, &kept_v3(id));
            client.subscribe(from, Qos::AtLeastOnce);
            ready.wait();
            let (due, acknowledgements) = std::sync::mpsc::channel();
            let mut socket = client.socket.try_clone().unwrap();
            let mut write = move |packet: Packet<'_>| {
                let mut bytes = Vec::new();
                packet.encode(Version::V311, &mut bytes).unwrap();
                socket.write_all(&bytes).unwrap();
            };
            let to = to.to_owned();
            let writing = std::thread::spawn(move || {
                for number in 0..EACH {
                    let packet_id = PacketId::new(number as u16 + 1);
                    let payload = [&number.to_be_bytes()[..], &[b'x'; 100]].concat();
                    let publish = Publish { qos: Qos::AtLeastOnce, packet_id, ..Publish::new(&to, &payload) };
                    write(Packet::Publish(publish));
                    acknowledgements.try_iter().for_each(|id| write(Packet::PubAck(Ack::new(id))));
                }
                acknowledgements.iter().for_each(|id| write(Packet::PubAck(Ack::new(id))));
            });
            let (mut next, mut acknowledged) = (0, 0);
            while next < EACH || acknowledged < EACH {
                let came = client.next(SOON, |packet| match packet {
                    Packet::Publish(publish) => (publish.packet_id, publish.payload[..4].to_vec()),
                    _ => (None, Vec::new()),
                });
                let (packet_id, number) = came.expect("all come");
                let Some(packet_id) = packet_id else {
                    acknowledged += 1;
                    continue;
                };
                assert_eq!(number, next.to_be_bytes(), "what came before it is lost");
                next += 1;
                due.send(packet_id).unwrap();
            }
            drop(due);
            writing.join().unwrap();
        };
        all_come("self", "own", "own", &Barrier::new(1));
        let both = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| all_come("a", "to/a", "to/b", &both));
            scope.spawn(|| all_come("b", "to/b", "to/a", &both));
        });
    }
}

/// [MQTT5-4.4.0-1]
#[test]
fn who_is_sent_away_is_not_sent_again_what_it_has() {
    for broker in Keeping::each() {
        let (mut client, _) = present(&broker, &keeping("c", 60));
        client.subscribe("t", Qos::ExactlyOnce);
        let mut publisher = broker.client(Version::V5, "p");
        publisher.publish("t", b"one", Qos::AtLeastOnce);
        publisher.publish("t", b"two", Qos::ExactlyOnce);
        for expected in [&b"one"[..], b"two"] {
            client.expect(|packet| {
                matches!(packet, Packet::Publish(publish) if publish.payload == expected).then_some(())
            });
        }
        assert_eq!(broker.admin(&["kick", "c"]).0, 0);
        assert_eq!(client.disconnected(), ReasonCode::AdministrativeAction);
        assert!(client.is_closed(SOON));
        let (mut client, _) = present(&broker, &keeping("c", 60));
        assert_eq!([client.message().payload, client.message().payload], [b"one", b"two"]);
    }
}

#[test]
fn a_session_ends_when_its_time_has_come_and_not_before() {
    for broker in Keeping::each() {
        // Its will comes at its end.
        let mut watcher = broker.client(Version::V5, "w");
        watcher.subscribe("over", Qos::AtLeastOnce);
        let mut will = Will::new("over", b"");
        will.properties.delay = Some(600);
        let (client, _) = present(&broker, &Connect { will: Some(will), ..keeping("short", 1) });
        client.vanish();
        assert_eq!(watcher.message().topic, "over");
        let (client, was_there) = present(&broker, &keeping("short", 1));
        assert!(!was_there);
        // At its end the client says otherwise.
        let mut goodbye = nsd_wire::Disconnect::new(ReasonCode::Success);
        goodbye.properties.session_expiry = Some(60);
        client.leave(goodbye);
        std::thread::sleep(Duration::from_millis(1500));
        let (mut client, was_there) = present(&broker, &keeping("short", 1));
        assert!(was_there);
        goodbye.properties.session_expiry = Some(0);
        client.send(&Packet::Disconnect(goodbye));
        assert!(client.is_closed(SOON));
        let (_, was_there) = present(&broker, &keeping("short", 1));
        assert!(!was_there);
    }
}

#[test]
fn a_will_waits_and_is_not_wanted_when_the_client_is_back() {
    Keeping::each_at_once(|broker| {
        let mut watcher = broker.client(Version::V5, "w");
        watcher.subscribe("wills/#", Qos::AtLeastOnce);
        let with_will = |id: &'static str, topic: &'static str, delay: u32, expiry: u32| {
            let mut will = Will::new(topic, b"gone");
            will.properties.delay = Some(delay);
            let (client, _) = present(broker, &Connect { will: Some(will), ..keeping(id, expiry) });
            client
        };
        // Time enough to be back in.
        with_will("back", "wills/back", 6, 60).vanish();
        let back = with_will("back", "wills/back", 6, 60);
        // When it comes, the one before would have come.
        with_will("late", "wills/late", 7, 60).vanish();
        // The session ends before the delay does.
        with_will("over", "wills/over", 600, 1).vanish();
        assert_eq!(watcher.message().topic, "wills/over");
        // A clean start ends it too.
        with_will("clean", "wills/clean", 600, 60).vanish();
        let clean = broker.client(Version::V5, "clean");
        assert_eq!(watcher.message().topic, "wills/clean");
        assert_eq!(watcher.message_within(SOON * 2).expect("a will").topic, "wills/late");
        watcher.hears_nothing();
        drop((back, clean));
    });
}

#[test]
fn a_connection_that_takes_a_session_over_goes_on_with_it() {
    for broker in Keeping::each() {
        let (mut old, _) = present(&broker, &keeping("c", 60));
        old.subscribe("t", Qos::AtLeastOnce);
        let (mut new, was_there) = present(&broker, &keeping("c", 60));
        assert!(was_there);
        assert_eq!(old.disconnected(), ReasonCode::SessionTakenOver);
        broker.client(Version::V5, "p").publish("t", b"x", Qos::AtLeastOnce);
        assert_eq!(new.message().payload, b"x");
        assert!(old.is_closed(SOON));
        broker.client(Version::V5, "p").publish("t", b"y", Qos::AtLeastOnce);
        assert_eq!(new.message().payload, b"y", "the end of the old connection takes nothing away");
    }
}

#[test]
fn a_full_queue_loses_the_oldest_and_says_how_many() {
    for broker in Keeping::each_limited("queue_messages = 10") {
        let (mut client, _) = present(&broker, &keeping("c", 60));
        client.subscribe("t", Qos::AtLeastOnce);
        client.disconnect();
        let mut publisher = broker.client(Version::V5, "p");
        for number in 0..25_u8 {
            assert_eq!(publisher.publish("t", &[number], Qos::AtLeastOnce), ReasonCode::Success);
        }
        let (_, status) = broker.ask("stats");
        assert_eq!(status["messages"]["dropped"], 15);
        let (mut client, _) = present(&broker, &keeping("c", 60));
        for number in 15..25_u8 {
            assert_eq!(client.message().payload, [number]);
        }
        client.hears_nothing();
    }
}

#[test]
fn a_client_that_keeps_up_loses_nothing_however_short_its_queue() {
    for broker in Keeping::each_limited("queue_messages = 10") {
        let (mut client, _) = present(&broker, &keeping("c", 60));
        client.subscribe("t", Qos::AtLeastOnce);
        let address = broker.address;
        let publisher = std::thread::spawn(move || {
            let mut publisher = Client::connect(address, &Connect::new(Version::V5, "p"));
            for number in 0..2000_u16 {
                publisher.publish("t", &number.to_be_bytes(), Qos::AtLeastOnce);
            }
        });
        for number in 0..2000_u16 {
            assert_eq!(client.message().payload, number.to_be_bytes());
        }
        publisher.join().unwrap();
    }
}

#[test]
fn retained_messages_to_a_session_are_part_of_it() {
    for broker in Keeping::each() {
        let mut publisher = broker.client(Version::V5, "p");
        publisher.retain("r", b"kept", Qos::AtLeastOnce);
        let (mut client, _) = present(&broker, &keeping("c", 60));
        client.subscribe("r", Qos::AtLeastOnce);
        let first = client.expect(|packet| match packet {
            Packet::Publish(publish) if publish.retain => publish.packet_id,
            _ => None,
        });
        client.vanish();
        let (mut client, _) = present(&broker, &keeping("c", 60));
        let again = client.expect(|packet| match packet {
            Packet::Publish(publish) if publish.retain && publish.dup => publish.packet_id,
            _ => None,
        });
        assert_eq!(first, again);
    }
}

#[test]
fn each_message_to_a_shared_subscription_goes_to_one_member() {
    for broker in Keeping::own() {
        let mut members: Vec<Client> = ["m1", "m2"].map(|id| broker.client(Version::V5, id)).into();
        members.push(broker.client(Version::V311, "m3"));
        for member in &mut members {
            assert_eq!(member.subscribe("$share/g/t/+", Qos::AtLeastOnce), ReasonCode::GrantedQos1);
        }
        let mut other = broker.client(Version::V5, "other");
        other.subscribe("$share/h/t/#", Qos::AtMostOnce);
        let mut publisher = broker.client(Version::V5, "p");
        for number in 0..30_u8 {
            publisher.publish("t/x", &[number], Qos::AtLeastOnce);
        }
        let mut got: Vec<u8> = Vec::new();
        for member in &mut members {
            let mine: Vec<u8> = (0..10).map(|_| member.message().payload[0]).collect();
            assert!(mine.is_sorted());
            got.extend(mine);
        }
        got.sort_unstable();
        assert_eq!(got, (0..30).collect::<Vec<_>>());
        for number in 0..30_u8 {
            assert_eq!(other.message().payload, [number], "another group has a copy of its own");
        }
        // Who left gets nothing any more, and who is only away does not get what others can take.
        members.pop().unwrap().disconnect();
        members.pop().unwrap().disconnect();
        crate::support::eventually("two are gone", SOON, || broker.ask("stats").1["clients"] == 3);
        publisher.publish("t/x", b"last", Qos::AtLeastOnce);
        assert_eq!(members[0].message().payload, b"last");
        members[0].ping();
    }
}

#[test]
fn a_group_whose_members_are_away_keeps_its_messages() {
    for broker in Keeping::own() {
        let (mut member, _) = present(&broker, &keeping("m", 60));
        member.subscribe("$share/g/t", Qos::AtLeastOnce);
        member.disconnect();
        let mut publisher = broker.client(Version::V5, "p");
        publisher.publish("t", b"kept", Qos::AtLeastOnce);
        let (mut member, _) = present(&broker, &keeping("m", 60));
        assert_eq!(member.message().payload, b"kept");
    }
}

/// [MQTT5-3.1.2-26]
#[test]
fn a_topic_that_comes_often_is_told_once() {
    let broker = Broker::anonymous();
    let mut connect = Connect::new(Version::V5, "c");
    connect.properties.topic_alias_maximum = Some(1);
    let mut client = Client::connect(broker.address, &connect);
    client.subscribe("#", Qos::AtMostOnce);
    let mut publisher = broker.client(Version::V5, "p");
    for topic in ["devices/one", "devices/two", "devices/one"] {
        publisher.publish(topic, b"x", Qos::AtMostOnce);
    }
    let mut next = || {
        client.expect(|packet| match packet {
            Packet::Publish(publish) => {
                Some((publish.topic.to_owned(), publish.properties.topic_alias.map(NonZeroU16::get)))
            }
            _ => None,
        })
    };
    assert_eq!(next(), ("devices/one".to_owned(), Some(1)));
    assert_eq!(next(), ("devices/two".to_owned(), None));
    assert_eq!(next(), (String::new(), Some(1)));
}

#[test]
fn no_local_and_identifiers_hold_for_sessions_that_are_away() {
    for broker in Keeping::each() {
        let (mut client, _) = present(&broker, &keeping("c", 60));
        let no_local = SubscribeOptions { no_local: true, ..Qos::AtLeastOnce.into() };
        client.subscribe_with("t", no_local, Some(9));
        client.publish("t", b"own", Qos::AtLeastOnce);
        client.disconnect();
        broker.client(Version::V5, "p").publish("t", b"other", Qos::AtLeastOnce);
        let (mut client, _) = present(&broker, &keeping("c", 60));
        let message = client.message();
        assert_eq!((message.payload.as_slice(), message.ids), (&b"other"[..], vec![9]));
    }
}

#[test]
fn unknown_acknowledgements_are_answered_and_harmless() {
    for broker in Keeping::each() {
        let (mut client, _) = present(&broker, &keeping("c", 60));
        let id = PacketId::new(99).unwrap();
        for kind in [AckKind::PubAck, AckKind::PubComp] {
            let mut bytes = Vec::new();
            Ack::new(id).encode(kind, Version::V5, &mut bytes).unwrap();
            client.send_raw(&bytes);
        }
        client.send(&Packet::PubRel(Ack::new(id)));
        client.expect(|packet| {
            matches!(packet, Packet::PubComp(ack) if ack.reason == ReasonCode::PacketIdentifierNotFound)
                .then_some(())
        });
        client.ping();
    }
}

/// Publishers on all threads at once: each one's messages come in its order, none is lost or doubled, and the queue goes on.
#[test]
fn many_publishers_fill_one_queue() {
    const EACH: u16 = 400;
    for broker in Keeping::each() {
        let (mut client, _) = present(&broker, &keeping("c", 60));
        client.subscribe("t/#", Qos::ExactlyOnce);
        let address = broker.address;
        let publishers: Vec<_> = (0..6)
            .map(|publisher| std::thread::spawn(move || publish_numbers(address, publisher, EACH)))
            .collect();
        let mut next = [[0, 1]; 6];
        for _ in 0..6 * usize::from(EACH) {
            let message = client.message();
            let number = u16::from_be_bytes([message.payload[1], message.payload[2]]);
            let expected = &mut next[usize::from(message.payload[0])][usize::from(number % 2)];
            assert_eq!(number, *expected, "of one publisher and one QoS, in order");
            *expected += 2;
        }
        publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
        client.hears_nothing();
    }
}

fn publish_numbers(address: std::net::SocketAddr, publisher: u8, count: u16) {
    let mut client = Client::connect(address, &Connect::new(Version::V5, &format!("p{publisher}")));
    for number in 0..count {
        let [high, low] = number.to_be_bytes();
        let qos = [Qos::AtLeastOnce, Qos::ExactlyOnce][usize::from(number % 2)];
        client.publish(&format!("t/{publisher}"), &[publisher, high, low], qos);
    }
}

/// Many connections fight for a few client ids, clean starts among them, while messages come; then everybody leaves.
#[test]
fn a_storm_of_takeovers_leaves_every_session_whole() {
    for broker in Keeping::each() {
        let address = broker.address;
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for seed in 0..6 {
                let stop = &stop;
                scope.spawn(move || fight(address, seed, stop));
            }
            let mut publisher = broker.client(Version::V5, "publisher");
            for number in 0..100_u16 {
                let payload = number.to_be_bytes();
                let publish = Publish { qos: Qos::AtLeastOnce, ..Publish::new("t", &payload) };
                publisher.publish_within(SOON * 4, publish);
            }
            stop.store(true, std::sync::atomic::Ordering::Release);
        });
        crate::support::eventually("all are gone", SOON * 4, || broker.ask("stats").1["clients"] == 0);
        for id in ["a", "b"] {
            hears_also(&broker, &keeping(id, 60), "after");
            broker.client(Version::V5, id).hears_nothing();
        }
        crate::support::eventually("nothing is left", SOON * 2, || {
            let status = broker.ask("stats").1;
            status["clients"] == 0 && status["subscriptions"] == 0
        });
    }
}

/// Comes, and gets what it subscribes to now behind whatever has waited for it.
fn hears_also(broker: &Broker, connect: &Connect<'_>, topic: &str) {
    let (mut client, _) = present(broker, connect);
    let filters = [SubscribeFilter { filter: topic, options: Qos::AtLeastOnce.into() }];
    let packet_id = client.id();
    client.send(&Packet::Subscribe(Subscribe::new(packet_id, &filters)));
    loop {
        let came = client.next(SOON, |packet| match packet {
            Packet::SubAck(_) => None,
            Packet::Publish(publish) => Some(publish.topic == topic),
            other => panic!("neither an answer nor a message: {other:?}"),
        });
        match came.expect("the message comes") {
            None => drop(broker.client(Version::V5, "last").publish(topic, b"x", Qos::AtLeastOnce)),
            Some(is_it) if is_it => return,
            Some(_) => {}
        }
    }
}

fn fight(address: std::net::SocketAddr, seed: u64, stop: &std::sync::atomic::AtomicBool) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut unanswered = VecDeque::new();
    // Whoever is let in late takes the session from who has it then.
    let await_answer = |mut client: Client| {
        while client.next(SOON * 4, |packet| matches!(packet, Packet::ConnAck(_))) == Ok(false) {}
    };
    while !stop.load(std::sync::atomic::Ordering::Acquire) {
        let id = ["a", "b"][random.usize(..2)];
        // A fight that lasts may run out of ports.
        let Some(mut client) = Client::try_open(address, Version::V5) else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        let connect = Connect { clean_start: random.u8(..4) == 0, ..keeping(id, 60) };
        client.send(&Packet::Connect(connect));
        let mut bytes = Vec::new();
        let filters = [SubscribeFilter { filter: "t", options: Qos::ExactlyOnce.into() }];
        let subscribe = Subscribe::new(PacketId::MIN, &filters);
        Packet::Subscribe(subscribe).encode(Version::V5, &mut bytes).unwrap();
        client.try_send_raw(&bytes);
        let until = std::time::Instant::now() + Duration::from_millis(random.u64(..20));
        let mut answered = false;
        while std::time::Instant::now() < until {
            match client.next(Duration::from_millis(5), |packet| matches!(packet, Packet::ConnAck(_))) {
                Ok(is_answer) => answered |= is_answer,
                Err(Gone::Silent) => {}
                Err(Gone::Closed) => {
                    answered = true;
                    break;
                }
            }
        }
        if random.bool() {
            client.try_send_raw(&[0xe0, 0]);
        }
        if !answered {
            unanswered.push_back(client);
        }
        // A slow broker is not to take all files of this process.
        if unanswered.len() > 50 {
            unanswered.pop_front().into_iter().for_each(await_answer);
        }
    }
    unanswered.into_iter().for_each(await_answer);
}
