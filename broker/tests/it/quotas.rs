//! Limits of one client's pace and of the whole node: each is reached, and what is said to happen there happens.

use std::time::{Duration, Instant};

use nsd_wire::{Connect, Packet, Publish, Qos, ReasonCode, Subscribe, SubscribeFilter, Version};

use crate::support::{Broker, Client, Redis, SOON, eventually};

fn limited(limits: &str) -> Broker {
    Broker::start(&format!("allow_anonymous = true\n[limits]\n{limits}"))
}

/// A client whose session outlives its connection, or why there is none.
fn lasting(broker: &Broker, id: &str) -> Result<Client, ReasonCode> {
    let mut connect = Connect { clean_start: false, ..Connect::new(Version::V5, id) };
    connect.properties.session_expiry = Some(600);
    let mut client = Client::open(broker.address, Version::V5);
    client.send(&Packet::Connect(connect));
    let reason = client.expect(|packet| match packet {
        Packet::ConnAck(ack) => Some(ack.reason),
        _ => None,
    });
    if reason.is_failure() { Err(reason) } else { Ok(client) }
}

/// One SUBSCRIBE with all of them: the code of each.
fn subscribe(client: &mut Client, filters: &[&str]) -> Vec<ReasonCode> {
    let filters: Vec<_> =
        filters.iter().map(|filter| SubscribeFilter { filter, options: Qos::AtLeastOnce.into() }).collect();
    let packet_id = client.id();
    client.send(&Packet::Subscribe(Subscribe::new(packet_id, &filters)));
    client.expect(|packet| match packet {
        Packet::SubAck(ack) => Some(ack.codes.iter().collect()),
        _ => None,
    })
}

#[test]
fn who_sends_too_fast_is_slowed_down_and_loses_nothing() {
    for (limits, count, size) in
        [("messages_per_second = 100", 600_u32, 10), ("bytes_per_second = 100_000", 60, 10_000)]
    {
        let broker = limited(limits);
        let mut subscriber = broker.client(Version::V5, "s");
        subscriber.subscribe("t", Qos::AtMostOnce);
        // Shorter than it is made to wait: that is not its own silence.
        let connect = Connect { keep_alive: 3, ..Connect::new(Version::V311, "fast") };
        let mut publisher = Client::connect(broker.address, &connect);
        let mut bytes = Vec::new();
        for number in 0..count {
            let mut payload = vec![b'x'; size];
            payload[..4].copy_from_slice(&number.to_be_bytes());
            Publish::new("t", &payload).encode(Version::V311, &mut bytes).unwrap();
        }
        let started = Instant::now();
        publisher.send_raw(&bytes);
        for number in 0..count {
            assert_eq!(subscriber.message().payload[..4], number.to_be_bytes(), "{limits}");
        }
        // A second's worth comes at once, the rest takes five.
        assert!(started.elapsed() > Duration::from_millis(4900), "{limits}: {:?}", started.elapsed());
        publisher.ping();
    }
}

#[test]
fn acknowledgements_are_not_messages() {
    let broker = limited("messages_per_second = 5");
    let mut subscriber = broker.client(Version::V5, "s");
    subscriber.subscribe("t", Qos::AtLeastOnce);
    let mut publishers: Vec<Client> =
        (0..20).map(|id| broker.client(Version::V5, &format!("p{id}"))).collect();
    for publisher in &mut publishers {
        for _ in 0..5 {
            assert_eq!(publisher.publish("t", b"x", Qos::AtLeastOnce), ReasonCode::Success);
        }
    }
    let started = Instant::now();
    (0..100).for_each(|_| drop(subscriber.message()));
    subscriber.ping();
    assert!(started.elapsed() < Duration::from_secs(10), "100 PUBACKs at 5 a second would take 20 s");
}

#[test]
fn all_clients_together_have_so_many_subscriptions() {
    let broker = limited("subscriptions = 10");
    let (mut first, mut second) = (broker.client(Version::V5, "1"), broker.client(Version::V5, "2"));
    let eight = ["1", "2", "3", "4", "5", "6", "7", "8"];
    assert!(subscribe(&mut first, &eight).iter().all(|code| !code.is_failure()));
    let (yes, no) = (ReasonCode::GrantedQos1, ReasonCode::QuotaExceeded);
    assert_eq!(subscribe(&mut second, &["1", "2", "3", "3", "1"]), [yes, yes, no, no, yes]);
    assert_eq!(subscribe(&mut first, &["1", "9"]), [yes, no], "what one has may be asked for again");
    first.publish("3", b"not for the second", Qos::AtLeastOnce);
    first.disconnect();
    eventually("the first one's are free", SOON, || broker.ask("stats").1["subscriptions"] == 2);
    assert_eq!(subscribe(&mut second, &["3", "4"]), [yes, yes]);
    broker.client(Version::V5, "p").publish("3", b"x", Qos::AtMostOnce);
    assert_eq!(second.message().payload, b"x");
}

#[test]
fn the_filters_of_one_client_have_so_many_bytes() {
    let broker = limited("subscription_bytes = 1024");
    let mut client = broker.client(Version::V5, "c");
    let (long, longer) = ("x".repeat(500), "y".repeat(525));
    let (yes, no) = (ReasonCode::GrantedQos1, ReasonCode::QuotaExceeded);
    assert_eq!(subscribe(&mut client, &[&long, &longer, "z"]), [yes, no, yes]);
    let names = [&*long];
    let packet_id = client.id();
    client.send(&Packet::Unsubscribe(nsd_wire::Unsubscribe::new(packet_id, &names)));
    client.expect(|packet| matches!(packet, Packet::UnsubAck(_)).then_some(()));
    assert_eq!(subscribe(&mut client, &[&longer]), [yes], "there is room again");
}

#[test]
fn so_many_sessions_are_kept_and_who_has_one_comes_back_to_it() {
    let broker = limited("sessions = 3");
    for id in ["a", "b", "c"] {
        lasting(&broker, id).unwrap().disconnect();
    }
    assert_eq!(lasting(&broker, "d").err(), Some(ReasonCode::QuotaExceeded));
    let old = Connect { clean_start: false, ..Connect::new(Version::V311, "e") };
    assert_eq!(Client::refused(broker.address, &old), ReasonCode::ServerUnavailable);
    broker.client(Version::V5, "who-leaves-nothing").ping();
    let mut known = lasting(&broker, "a").unwrap();
    let mut goodbye = nsd_wire::Disconnect::new(ReasonCode::Success);
    goodbye.properties.session_expiry = Some(0);
    known.send(&Packet::Disconnect(goodbye));
    assert!(known.is_closed(SOON));
    eventually("one has ended", SOON, || lasting(&broker, "d").is_ok());
}

#[test]
fn what_is_retained_has_so_many_bytes() {
    let broker = limited("retained_bytes = 10_000");
    let mut client = broker.client(Version::V5, "c");
    let payload = [b'x'; 4000];
    for (topic, expected) in
        [("a", ReasonCode::Success), ("b", ReasonCode::Success), ("c", ReasonCode::QuotaExceeded)]
    {
        assert_eq!(client.retain(topic, &payload, Qos::AtLeastOnce), expected, "{topic}");
    }
    client.retain("a", b"", Qos::AtLeastOnce);
    assert_eq!(client.retain("c", &payload, Qos::ExactlyOnce), ReasonCode::Success);
    let mut old = broker.client(Version::V311, "old");
    old.send(&Packet::Publish(Publish {
        retain: true,
        qos: Qos::AtLeastOnce,
        packet_id: Some(nsd_wire::PacketId::MIN),
        ..Publish::new("d", &payload)
    }));
    assert!(old.is_closed(SOON), "v3 cannot be told no");
}

#[test]
fn so_many_topics_are_retained_and_what_is_deleted_or_has_expired_makes_room() {
    for store in ["memory\"", "disk\"\ndirectory = \"STORE\""] {
        let mut broker = Broker::start(&format!(
            "allow_anonymous = true\n[limits]\nretained = 2\n[store]\nkind = \"{store}\n"
        ));
        let retained = |broker: &Broker| broker.ask("stats").1["retained"].as_u64().unwrap();
        let mut client = broker.client(Version::V5, "c");
        let mut keep = |topic: &str, payload: &[u8], expiry: Option<u32>| {
            let mut publish = Publish { retain: true, qos: Qos::AtLeastOnce, ..Publish::new(topic, payload) };
            publish.properties.message_expiry = expiry;
            client.publish_as(publish)
        };
        assert_eq!([keep("a", b"x", None), keep("b", b"x", None)], [ReasonCode::Success; 2]);
        assert_eq!(keep("c", b"x", None), ReasonCode::QuotaExceeded);
        assert_eq!(keep("a", b"another", None), ReasonCode::Success, "who is there may be replaced");
        assert_eq!(retained(&broker), 2);
        assert_eq!([keep("b", b"", None), keep("c", b"x", Some(6))], [ReasonCode::Success; 2]);
        assert_eq!(keep("d", b"x", None), ReasonCode::QuotaExceeded);
        eventually("what has expired is gone", SOON * 2, || retained(&broker) == 1);
        assert_eq!(keep("d", b"x", None), ReasonCode::Success);
        assert_eq!(keep("c", b"x", None), ReasonCode::QuotaExceeded);
        if store.starts_with("disk") {
            // Nor does it come back.
            broker.kill();
            broker.restart();
            assert_eq!(retained(&broker), 2);
        }
    }
}

/// A client with a session of ten places, away, and 25 messages for it; what was answered.
fn overrun(policy: &str) -> (Broker, Vec<ReasonCode>) {
    let broker = limited(&format!("queue_messages = 10\nqueue_policy = \"{policy}\""));
    let mut client = lasting(&broker, "c").unwrap();
    client.subscribe("t", Qos::AtLeastOnce);
    client.disconnect();
    let mut publisher = broker.client(Version::V5, "p");
    let answers = (0..25_u8).map(|number| publisher.publish("t", &[number], Qos::AtLeastOnce)).collect();
    (broker, answers)
}

#[test]
fn a_full_queue_drops_what_its_policy_says() {
    for (policy, kept) in [("drop-oldest", 15..25_u8), ("drop-newest", 0..10)] {
        let (broker, answers) = overrun(policy);
        assert!(answers.iter().all(|answer| *answer == ReasonCode::Success), "{policy}: {answers:?}");
        assert_eq!(broker.ask("stats").1["messages"]["dropped"], 15, "{policy}");
        let mut client = lasting(&broker, "c").unwrap();
        for number in kept {
            assert_eq!(client.message().payload, [number], "{policy}");
        }
        // What comes now has room again.
        broker.client(Version::V5, "later").publish("t", b"later", Qos::AtLeastOnce);
        assert_eq!(client.message().payload, b"later", "{policy}");
    }
}

#[test]
fn a_full_queue_may_end_the_session() {
    let (broker, _) = overrun("disconnect");
    let mut connect = Connect { clean_start: false, ..Connect::new(Version::V5, "c") };
    connect.properties.session_expiry = Some(600);
    let mut client = Client::open(broker.address, Version::V5);
    assert!(!client.login(&connect), "the session is over");
}

/// What a member of a group cannot take any more, because it was sent too much of something else, another one gets.
#[test]
fn a_session_that_was_overrun_takes_nothing_from_its_group() {
    for store in ["memory\"", "disk\"\ndirectory = \"STORE\""] {
        let broker = Broker::start(&format!(
            "allow_anonymous = true\n[limits]\nqueue_messages = 10\nqueue_policy = \"disconnect\"\n[store]\nkind = \"{store}\n"
        ));
        for (id, filters) in [("c", &["own", "$share/g/t"][..]), ("d", &["$share/g/t"])] {
            let mut client = lasting(&broker, id).unwrap();
            subscribe(&mut client, filters);
            client.disconnect();
        }
        let mut publisher = broker.client(Version::V5, "p");
        for number in 0..11_u8 {
            publisher.publish("own", &[number], Qos::AtLeastOnce);
        }
        for number in 0..6_u8 {
            assert_eq!(publisher.publish("t", &[number], Qos::AtLeastOnce), ReasonCode::Success);
        }
        let mut client = lasting(&broker, "d").unwrap();
        for number in 0..6_u8 {
            assert_eq!(client.message().payload, [number], "{store}");
        }
    }
}

#[test]
fn who_is_connected_and_acknowledges_nothing_is_told_that_its_session_ends() {
    let broker = limited("queue_bytes = 16_384\nqueue_policy = \"disconnect\"");
    let mut client = lasting(&broker, "c").unwrap();
    client.subscribe("t", Qos::AtLeastOnce);
    let mut publisher = broker.client(Version::V5, "p");
    // Four times its limit, and more: publishers wait for it, but not for ever.
    let payload = [b'x'; 8192];
    for _ in 0..40 {
        let packet_id = Some(publisher.id());
        let publish = Publish { qos: Qos::AtLeastOnce, packet_id, ..Publish::new("t", &payload) };
        publisher.send(&Packet::Publish(publish));
    }
    let until = Instant::now() + SOON * 6;
    let reason = loop {
        assert!(Instant::now() < until, "it is kept");
        let heard = client.next(SOON, |packet| match packet {
            Packet::Disconnect(disconnect) => Some(disconnect.reason),
            _ => None,
        });
        if let Ok(Some(reason)) = heard {
            break reason;
        }
    };
    assert_eq!(reason, ReasonCode::QuotaExceeded);
    eventually("the session is over", SOON, || broker.ask("stats").1["subscriptions"] == 0);
}

#[test]
fn a_refused_exactly_once_is_not_taken_for_known_later() {
    let broker = limited("retained_bytes = 1000");
    let mut client = lasting(&broker, "c").unwrap();
    let large = [b'x'; 2000];
    let id = client.id();
    let publish = |payload, retain| Publish {
        retain,
        qos: Qos::ExactlyOnce,
        packet_id: Some(id),
        ..Publish::new("t", payload)
    };
    let received = |packet: Packet<'_>| match packet {
        Packet::PubRec(ack) => Some(ack.reason),
        _ => None,
    };
    client.send(&Packet::Publish(publish(&large, true)));
    assert_eq!(client.expect(received), ReasonCode::QuotaExceeded);
    client.vanish();
    let mut subscriber = broker.client(Version::V5, "s");
    subscriber.subscribe("t", Qos::AtMostOnce);
    let mut client = lasting(&broker, "c").unwrap();
    client.send(&Packet::Publish(publish(b"new", false)));
    assert_eq!(client.expect(received), ReasonCode::Success);
    assert_eq!(subscriber.message().payload, b"new");
}

#[test]
fn over_the_memory_of_all_the_largest_receivers_go() {
    let broker = limited("memory = 8_388_608");
    let mut deaf: Vec<Client> = (0..8)
        .map(|id| {
            let mut client = Client::narrow(broker.address, Version::V5);
            client.login(&Connect::new(Version::V5, &format!("deaf-{id}")));
            client.subscribe("flood", Qos::AtLeastOnce);
            client
        })
        .collect();
    let mut good = broker.client(Version::V5, "good");
    good.subscribe("calm", Qos::AtLeastOnce);
    let mut publisher = broker.client(Version::V5, "p");
    let payload = vec![b'x'; 60_000];
    // The publisher waits until the deaf are given up: longer than anything that should happen at once.
    let patient = SOON * 3;
    for _ in 0..100 {
        for (topic, payload) in [("flood", &payload[..]), ("calm", b"x")] {
            let publish = Publish { qos: Qos::AtLeastOnce, ..Publish::new(topic, payload) };
            assert_eq!(publisher.publish_within(patient, publish), ReasonCode::Success);
        }
        assert_eq!(good.message_within(patient).map(|message| message.payload), Some(b"x".to_vec()));
    }
    eventually("it says so", SOON, || broker.log().contains("clients hold too much"));
    eventually("that there is room again, too", SOON, || {
        broker.log().contains("there is room for clients' messages again")
    });
    eventually("some have gone", SOON, || broker.ask("stats").1["clients"].as_u64() < Some(10));
    assert!(deaf.iter_mut().any(|client| client.is_closed(SOON)));
    broker.client(Version::V5, "new").ping();
}

#[test]
fn while_queues_fill_the_memory_only_who_empties_them_is_let_in() {
    let broker = limited("memory = 1_048_576");
    let mut away = lasting(&broker, "away").unwrap();
    away.subscribe("t", Qos::AtLeastOnce);
    away.disconnect();
    let mut publisher = broker.client(Version::V5, "p");
    let payload = vec![b'x'; 200_000];
    let mut taken = 0;
    eventually("there is no more room", SOON * 2, || {
        let reason = publisher.publish("t", &payload, Qos::AtLeastOnce);
        taken += u32::from(reason == ReasonCode::Success);
        reason == ReasonCode::QuotaExceeded
    });
    assert_eq!(publisher.publish("elsewhere", b"x", Qos::AtLeastOnce), ReasonCode::Success);
    assert_eq!(Client::refused(broker.address, &Connect::new(Version::V5, "new")), ReasonCode::QuotaExceeded);
    let mut back = lasting(&broker, "away").unwrap();
    (0..taken).for_each(|_| assert_eq!(back.message().payload.len(), payload.len()));
    eventually("there is room", SOON, || {
        publisher.publish("t", b"x", Qos::AtLeastOnce) == ReasonCode::Success
    });
    broker.client(Version::V5, "new").ping();
}

#[test]
fn large_retained_messages_wait_for_their_reader() {
    let broker = Broker::on_disk();
    let mut keeper = broker.client(Version::V5, "keeper");
    let payload = vec![b'x'; 100_000];
    for number in 0..120 {
        keeper.retain(&format!("kept/{number}"), &payload, Qos::AtLeastOnce);
    }
    let mut live = broker.client(Version::V5, "live");
    live.subscribe("#", Qos::AtMostOnce);
    let mut exact = lasting(&broker, "exact").unwrap();
    exact.subscribe("#", Qos::AtLeastOnce);
    for client in [&mut live, &mut exact] {
        let mut topics: Vec<_> = (0..120).map(|_| client.message().topic).collect();
        topics.sort();
        topics.dedup();
        assert_eq!(topics.len(), 120, "each comes, once");
    }
    assert_eq!(broker.ask("stats").1["messages"]["dropped"], 0);
}

#[test]
fn sessions_of_a_cluster_have_so_many_subscriptions_wherever_their_clients_are() {
    let redis = Redis::start();
    let [a, b] = [0; 2].map(|_| Broker::limited_node(&redis, "subscriptions = 3"));
    let mut away = lasting(&a, "away").unwrap();
    let granted = ReasonCode::GrantedQos1;
    assert_eq!(subscribe(&mut away, &["1", "2", "3"]), [granted; 3]);
    away.disconnect();
    let (mut other, mut clean) = (lasting(&b, "other").unwrap(), b.client(Version::V5, "clean"));
    // With an answer to a message, this node knows what was subscribed to before.
    assert_eq!(clean.publish("x", b"", Qos::AtLeastOnce), ReasonCode::Success);
    assert_eq!(subscribe(&mut other, &["4", "5"]), [ReasonCode::QuotaExceeded; 2]);
    assert_eq!(subscribe(&mut clean, &["4"]), [granted], "it is gone with its connection");
    let mut away = lasting(&b, "away").unwrap();
    assert_eq!(subscribe(&mut away, &["1"]), [granted], "it has it");
    let mut goodbye = nsd_wire::Disconnect::new(ReasonCode::Success);
    goodbye.properties.session_expiry = Some(0);
    away.leave(goodbye);
    eventually("there is room again", SOON, || {
        clean.publish("x", b"", Qos::AtLeastOnce);
        subscribe(&mut other, &["4"]) == [granted]
    });
}
