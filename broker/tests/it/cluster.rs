//! Two nodes around one Redis.

use std::time::Duration;

use nsd_wire::{Connect, Packet, Publish, Qos, ReasonCode, Subscribe, SubscribeFilter, Version, Will};

use crate::support::{Broker, Client, Redis, SOON, eventually};

const ALL_QOS: [Qos; 3] = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];

#[test]
fn messages_cross_nodes_at_every_qos_and_in_order() {
    let redis = Redis::start();
    let (a, b) = (Broker::node(&redis), Broker::node(&redis));
    let mut subscriber = a.client(Version::V5, "s");
    subscriber.subscribe("t/#", Qos::ExactlyOnce);
    let mut publisher = b.client(Version::V311, "p");
    for number in 0..300_u32 {
        publisher.publish("t/x", &number.to_be_bytes(), ALL_QOS[number as usize % 3]);
    }
    for number in 0..300_u32 {
        let message = subscriber.message();
        assert_eq!(message.payload, number.to_be_bytes());
        assert_eq!(message.qos, ALL_QOS[number as usize % 3]);
    }
}

#[test]
fn after_the_suback_a_publish_anywhere_is_delivered() {
    let redis = Redis::start();
    let (a, b) = (Broker::node(&redis), Broker::node(&redis));
    let mut subscriber = a.client(Version::V311, "s");
    let mut publisher = b.client(Version::V311, "p");
    for round in 0..200_u32 {
        let topic = format!("round/{round}");
        subscriber.subscribe(&topic, Qos::AtMostOnce);
        publisher.publish(&topic, &round.to_be_bytes(), ALL_QOS[round as usize % 2]);
        assert_eq!(subscriber.message().payload, round.to_be_bytes(), "round {round}");
    }
}

#[test]
fn only_interested_nodes_get_messages() {
    let redis = Redis::start();
    let (a, b) = (Broker::node(&redis), Broker::node(&redis));
    let mut publisher = a.client(Version::V311, "p");
    let mut subscriber = b.client(Version::V311, "s");
    subscriber.subscribe("wanted", Qos::AtMostOnce);
    for _ in 0..50 {
        publisher.publish("unwanted", b"x", Qos::AtLeastOnce);
    }
    publisher.publish("wanted", b"x", Qos::AtLeastOnce);
    subscriber.message();
    eventually("it is counted, and nothing else is", SOON, || b.ask("stats").1["cluster"]["received"] == 1);
}

#[test]
fn retained_messages_are_the_same_everywhere_also_for_a_new_node() {
    let redis = Redis::start();
    let (a, b) = (Broker::node(&redis), Broker::node(&redis));
    let mut publisher = a.client(Version::V5, "p");
    for number in 0..20 {
        publisher.retain(&format!("r/{number}"), b"x", Qos::AtLeastOnce);
    }
    publisher.retain("r/0", b"", Qos::AtLeastOnce);
    let late = Broker::node(&redis);
    for node in [&a, &b, &late] {
        let mut subscriber = node.client(Version::V311, "s");
        subscriber.subscribe("r/+", Qos::AtMostOnce);
        for _ in 1..20 {
            assert!(subscriber.message().retain);
        }
        subscriber.hears_nothing();
    }
}

#[test]
fn a_session_is_taken_over_across_nodes_with_its_will() {
    let redis = Redis::start();
    let (a, b) = (Broker::node(&redis), Broker::node(&redis));
    let mut watcher = b.client(Version::V5, "w");
    watcher.subscribe("will", Qos::AtLeastOnce);
    let connect = Connect { will: Some(Will::new("will", b"old")), ..Connect::new(Version::V5, "same") };
    let mut old = Client::connect(a.address, &connect);
    let mut new = b.client(Version::V5, "same");
    assert_eq!(old.disconnected(), ReasonCode::SessionTakenOver);
    assert!(old.is_closed(SOON));
    assert_eq!(watcher.message().payload, b"old");
    new.ping();
    let mut third = a.client(Version::V311, "same");
    assert_eq!(new.disconnected(), ReasonCode::SessionTakenOver);
    third.ping();
}

#[test]
fn a_takeover_storm_leaves_exactly_one() {
    let redis = Redis::start();
    let (a, b) = (Broker::node(&redis), Broker::node(&redis));
    let mut clients: Vec<Client> = (0..40)
        .map(|number| if number % 2 == 0 { &a } else { &b })
        .map(|node| {
            let mut client = Client::open(node.address, Version::V5);
            client.send(&Packet::Connect(Connect::new(Version::V5, "storm")));
            client
        })
        .collect();
    let alive = |clients: &mut Vec<Client>| {
        clients.retain_mut(|client| !client.is_closed(Duration::from_millis(20)));
        clients.len()
    };
    eventually("one is left", SOON * 2, || alive(&mut clients) == 1);
    // Its CONNACK may only come now.
    clients[0].send(&Packet::PingReq);
    while !clients[0].next(SOON, |packet| packet == Packet::PingResp).unwrap() {}
}

#[test]
fn a_dead_nodes_wills_come_exactly_once_and_its_routes_go() {
    let redis = Redis::start();
    let (a, b, c) = (Broker::node(&redis), Broker::node(&redis), Broker::node(&redis));
    let mut watcher = b.client(Version::V311, "w");
    watcher.subscribe("will/#", Qos::AtLeastOnce);
    let mortals: Vec<Client> = (0..10)
        .map(|number| {
            let (topic, id) = (format!("will/{number}"), format!("mortal-{number}"));
            let connect =
                Connect { will: Some(Will::new(&topic, b"gone")), ..Connect::new(Version::V5, &id) };
            let mut client = Client::connect(a.address, &connect);
            client.subscribe("news", Qos::AtMostOnce);
            client
        })
        .collect();
    a.signal("-KILL");
    // It is found out when its lease is over.
    let mut topics: Vec<String> =
        (0..10).map(|_| watcher.message_within(SOON * 4).expect("a will").topic).collect();
    topics.sort();
    topics.dedup();
    assert_eq!(topics.len(), 10);
    assert_eq!(watcher.message_within(Duration::from_secs(3)), None, "no will comes twice");
    let mut publisher = c.client(Version::V311, "p");
    let mut is_sent = || {
        let sent = || c.ask("stats").1["cluster"]["sent"].as_u64().unwrap();
        let before = sent();
        publisher.publish("news", b"x", Qos::AtLeastOnce);
        sent() > before
    };
    eventually("nobody sends to a dead node", SOON, || !is_sent());
    drop(mortals);
}

#[test]
fn redis_killed_and_restarted() {
    let mut redis = Redis::start();
    let (a, b) = (Broker::node(&redis), Broker::node(&redis));
    let mut near = a.client(Version::V311, "near");
    near.subscribe("t", Qos::AtLeastOnce);
    let mut far = b.client(Version::V311, "far");
    far.subscribe("t", Qos::AtLeastOnce);
    let mut publisher = a.client(Version::V5, "p");
    publisher.retain("kept", b"x", Qos::AtLeastOnce);
    redis.kill();
    publisher.publish("t", b"local", Qos::AtMostOnce);
    assert_eq!(near.message().payload, b"local", "local QoS 0 goes on");
    eventually("health says degraded", SOON, || a.ask("health").1["degraded"] == true);
    let (good, health) = a.ask("health");
    assert!(good && health["live"] == true && health["ready"] == true, "{health}");
    let refused = Client::refused(a.address, &Connect::new(Version::V5, "new"));
    assert_eq!(refused, ReasonCode::ServerUnavailable);
    let waiting = std::thread::spawn(move || {
        let held = Publish { qos: Qos::AtLeastOnce, ..Publish::new("t", b"held") };
        let reason = publisher.publish_within(SOON * 2, held);
        (publisher, reason)
    });
    assert_eq!(near.message().payload, b"held");
    std::thread::sleep(Duration::from_millis(700));
    assert!(!waiting.is_finished(), "what is not safe is not acknowledged");
    redis.restart();
    let (mut publisher, reason) = waiting.join().unwrap();
    assert_eq!(reason, ReasonCode::Success);
    eventually("health is good again", SOON * 2, || {
        [&a, &b].iter().all(|node| node.ask("health").1["degraded"] == false)
    });
    publisher.publish("t", b"after", Qos::AtLeastOnce);
    assert_eq!(near.message().payload, b"after");
    eventually("the far client hears again", SOON, || far.message().payload == b"after");
    let mut new = b.client(Version::V311, "new");
    new.subscribe("kept", Qos::AtMostOnce);
    assert_eq!(new.message().payload, b"x");
}

#[test]
fn what_a_node_wants_is_said_to_redis_in_parts() {
    const CLIENTS: usize = 3;
    const EACH: usize = 8000;
    const AT_ONCE: usize = 2000;
    let redis = Redis::start();
    let node = Broker::node(&redis);
    let mut connection = redis.connection();
    let mut config = redis::pipe();
    config.cmd("CONFIG").arg("SET").arg("slowlog-log-slower-than").arg(0).ignore();
    config.cmd("CONFIG").arg("SET").arg("slowlog-max-len").arg(100_000).ignore();
    config.exec(&mut connection).unwrap();
    let _clients: Vec<Client> = (0..CLIENTS)
        .map(|client| {
            let filters: Vec<String> = (0..EACH).map(|number| format!("{client}/{number}")).collect();
            let wanted = |filter| SubscribeFilter { filter, options: Qos::AtMostOnce.into() };
            let filters: Vec<_> = filters.iter().map(|filter| wanted(&**filter)).collect();
            let mut client = node.client(Version::V5, &client.to_string());
            for filters in filters.chunks(AT_ONCE) {
                let id = client.id();
                client.send(&Packet::Subscribe(Subscribe::new(id, filters)));
                client.expect(|packet| matches!(packet, Packet::SubAck(_)).then_some(()));
            }
            client
        })
        .collect();
    let nodes: Vec<String> = redis::cmd("SMEMBERS").arg("nsd:nodes").query(&mut connection).unwrap();
    let routes = format!("nsd:routes:{}", nodes[0]);
    let wanted = |connection: &mut redis::Connection| -> usize {
        redis::cmd("SCARD").arg(&routes).query(connection).unwrap()
    };
    assert_eq!(wanted(&mut connection), CLIENTS * EACH);
    // It is told that it was forgotten, and what it said with it; something that nobody wants is there.
    let mut forget = redis::pipe();
    forget.del(&routes).sadd(&routes, "stale").srem("nsd:nodes", &nodes[0]);
    forget.exec(&mut connection).unwrap();
    eventually("it has said all again", SOON * 4, || {
        let stale: bool = redis::cmd("SISMEMBER").arg(&routes).arg("stale").query(&mut connection).unwrap();
        !stale && wanted(&mut connection) == CLIENTS * EACH
    });
    let log: Vec<Vec<redis::Value>> =
        redis::cmd("SLOWLOG").arg("GET").arg(-1).query(&mut connection).unwrap();
    let longest = log.iter().map(|entry| {
        let words: Vec<String> = redis::from_redis_value_ref(&entry[3]).unwrap_or_default();
        // All but the first are only counted.
        let more = words.last().and_then(|last| last.strip_prefix("... (")?.split(' ').next()?.parse().ok());
        words.len() + more.unwrap_or(0)
    });
    assert!((10_000..=20_100).contains(&longest.max().unwrap()));
}

#[test]
fn who_is_taken_over_while_the_inbox_is_cut_off_learns_of_it() {
    let redis = Redis::start();
    let (a, b) = (Broker::node(&redis), Broker::node(&redis));
    let mut old = a.client(Version::V5, "same");
    let mut connection = redis.connection();
    let mut may = |subscribe: &str| {
        redis::cmd("ACL").arg("SETUSER").arg("default").arg(subscribe).exec(&mut connection).unwrap();
    };
    may("-subscribe");
    redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub").exec(&mut redis.connection()).unwrap();
    let mut new = b.client(Version::V5, "same");
    may("+subscribe");
    assert_eq!(old.disconnected(), ReasonCode::SessionTakenOver);
    new.ping();
}
