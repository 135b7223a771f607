//! Sessions that outlive their connections over Redis: on one node, from node to node, and through the death of nodes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nsd_wire::{Connect, Disconnect, Packet, Publish, Qos, ReasonCode, Version, Will};

use crate::support::{Broker, Client, Message, Redis, SOON, eventually};

/// Longer than a lease, and what comes after it.
const REAPED: Duration = Duration::from_secs(40);
/// Longer than a batch is kept waiting that fails, and the next one.
const TRIED: Duration = Duration::from_secs(25);

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

/// What its node has heard from all its clients is stored: it may be in the batch behind the one that a message goes with.
fn settle(client: &mut Client) {
    for _ in 0..2 {
        client.publish("nobody", b"", Qos::AtLeastOnce);
    }
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
    first.ping();
    settle(&mut near);
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
    settle(&mut near);
    far.publish("t", b"x", Qos::AtLeastOnce);
    let (_, present) = come(&b, &keeping("c"));
    assert!(!present);
}

/// Publishers on both nodes note what was acknowledged, the subscriber goes from node to node, and every round one node
/// is killed at a random moment: twenty rounds, or as many as `NSD_KILLS` says, and as many as it takes to have something to
/// lose. In the end the subscriber must have had all of it, in the order of each publisher but for repetitions, and of QoS
/// 2 nothing twice.
#[test]
fn nothing_acknowledged_is_lost_however_often_nodes_are_killed() {
    let rounds = std::env::var("NSD_KILLS").map_or(20, |kills| kills.parse().expect("a number of kills"));
    let redis = Redis::start();
    // Room for all that quick publishers send while the subscriber is away.
    let limits = "queue_messages = 100000\nqueue_bytes = 1000000000";
    let mut nodes = [0; 2].map(|_| Broker::limited_node(&redis, limits));
    let (mut client, _) = come(&nodes[0], &keeping("s"));
    client.subscribe("n/#", Qos::ExactlyOnce);
    client.disconnect();
    let mut random = fastrand::Rng::with_seed(11);
    let mut writers = [Writer::new("n/0"), Writer::new("n/1")];
    let mut got = Vec::new();
    for round in 0.. {
        if round >= rounds && writers.iter().all(|writer| writer.done.len() > 100) {
            break;
        }
        let stop = AtomicBool::new(false);
        let addresses = nodes.each_ref().map(|node| node.address);
        std::thread::scope(|scope| {
            for (writer, address) in writers.iter_mut().zip(addresses) {
                let stop = &stop;
                scope.spawn(move || writer.write_until(stop, address));
            }
            let limit = Duration::from_millis(random.u64(30..200));
            read_some(addresses[round % 2], &mut got, limit);
            nodes[random.usize(0..2)].kill();
            stop.store(true, Ordering::Release);
        });
        for node in &mut nodes {
            if !node.is_running() {
                node.restart();
            }
        }
    }
    read_the_rest(nodes[0].address, &mut got, &writers);
    for writer in &writers {
        let mine: Vec<u32> =
            got.iter().filter(|(topic, _)| *topic == writer.topic).map(|(_, number)| *number).collect();
        let seen: BTreeSet<u32> = mine.iter().copied().collect();
        let lost: Vec<_> = writer.done.difference(&seen).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let mut first = BTreeSet::new();
        let firsts: Vec<u32> = mine.into_iter().filter(|number| first.insert(*number)).collect();
        assert!(firsts.is_sorted(), "what comes for the first time comes in order");
    }
}

struct Writer {
    topic: &'static str,
    /// What was acknowledged.
    done: BTreeSet<u32>,
    next: u32,
}

impl Writer {
    fn new(topic: &'static str) -> Self {
        Self { topic, done: BTreeSet::new(), next: 0 }
    }

    /// Numbers at QoS 1, some at a time, until it is stopped or the connection breaks.
    fn write_until(&mut self, stop: &AtomicBool, address: SocketAddr) {
        const AT_ONCE: usize = 10;
        // Its node may have been killed before.
        let Some(mut client) = Client::try_open(address, Version::V5) else { return };
        client.try_send(&Packet::Connect(Connect::new(Version::V5, self.topic)));
        if client.next(SOON, |packet| matches!(packet, Packet::ConnAck(_))) != Ok(true) {
            return;
        }
        let mut open = std::collections::VecDeque::new();
        while !stop.load(Ordering::Acquire) || !open.is_empty() {
            while open.len() < AT_ONCE && !stop.load(Ordering::Acquire) {
                let (payload, packet_id) = (self.next.to_be_bytes(), Some(client.id()));
                let publish =
                    Publish { qos: Qos::AtLeastOnce, packet_id, ..Publish::new(self.topic, &payload) };
                let mut bytes = Vec::new();
                Packet::Publish(publish).encode(Version::V5, &mut bytes).unwrap();
                open.push_back(self.next);
                self.next += 1;
                if !client.try_send_raw(&bytes) {
                    return;
                }
            }
            let answer =
                client.next(SOON, |packet| matches!(packet, Packet::PubAck(ack) if !ack.reason.is_failure()));
            match (answer, open.pop_front()) {
                (Ok(true), Some(number)) => drop(self.done.insert(number)),
                _ => return,
            }
        }
    }
}

fn number(message: &Message) -> u32 {
    u32::from_be_bytes(message.payload[..].try_into().unwrap())
}

/// What the subscriber gets within a time, or until its node is gone.
fn read_some(address: SocketAddr, got: &mut Vec<(String, u32)>, limit: Duration) {
    let until = Instant::now() + limit;
    let mut client = Client::connect(address, &keeping("s"));
    while let Some(message) = client.message_within(until.saturating_duration_since(Instant::now())) {
        let number = number(&message);
        got.push((message.topic, number));
    }
}

/// Until all that was acknowledged is there, or nothing comes any more, and what is behind it.
fn read_the_rest(address: SocketAddr, got: &mut Vec<(String, u32)>, writers: &[Writer]) {
    let acknowledged = |writer: &Writer| {
        let topic = writer.topic;
        writer.done.iter().map(|number| (topic.to_owned(), *number)).collect::<Vec<_>>()
    };
    let mut missing: BTreeSet<(String, u32)> = writers.iter().flat_map(acknowledged).collect();
    for one in &*got {
        missing.remove(one);
    }
    let mut client = Client::connect(address, &keeping("s"));
    let limit = |missing: &BTreeSet<_>| if missing.is_empty() { Duration::from_millis(300) } else { SOON };
    while let Some(message) = client.message_within(limit(&missing)) {
        let number = number(&message);
        let one = (message.topic, number);
        missing.remove(&one);
        got.push(one);
    }
}

/// A message at QoS 2 whose publisher is cut off before it knows: it sends it again through the other node.
#[test]
fn a_qos_2_message_comes_once_though_it_is_sent_again_through_another_node() {
    let redis = Redis::start();
    let (mut a, b) = (Broker::node(&redis), Broker::node(&redis));
    let (mut reader, _) = come(&b, &keeping("reader"));
    reader.subscribe("t", Qos::ExactlyOnce);
    let (mut writer, _) = come(&a, &keeping("writer"));
    for number in 0..20_u8 {
        let id = writer.id();
        let payload = [number];
        let publish = |dup| {
            let publish =
                Publish { qos: Qos::ExactlyOnce, packet_id: Some(id), dup, ..Publish::new("t", &payload) };
            let mut bytes = Vec::new();
            Packet::Publish(publish).encode(Version::V5, &mut bytes).unwrap();
            bytes
        };
        writer.send_raw(&publish(false));
        // Its answer is not waited for, or not heard.
        if number % 2 == 0 {
            let _ = writer.next(SOON, |packet| matches!(packet, Packet::PubRec(_)));
        }
        let other = if number % 4 < 2 { &b } else { &a };
        let (mut again, present) = come(other, &keeping("writer"));
        assert!(present);
        again.send_raw(&publish(true));
        again.expect(|packet| matches!(packet, Packet::PubRec(ack) if ack.packet_id == id).then_some(()));
        again.send(&Packet::PubRel(nsd_wire::Ack::new(id)));
        again.expect(|packet| matches!(packet, Packet::PubComp(ack) if ack.packet_id == id).then_some(()));
        (writer, _) = come(&a, &keeping("writer"));
        for _ in 0..=number {
            writer.id();
        }
    }
    for number in 0..20_u8 {
        assert_eq!(reader.message().payload, [number]);
    }
    reader.hears_nothing();
    a.kill();
    let (mut writer, present) = come(&b, &keeping("writer"));
    assert!(present);
    writer.ping();
}

/// The reader at QoS 2 acknowledges the first half on one node, which dies; the rest is asked for on the other.
#[test]
fn the_second_half_of_qos_2_goes_on_on_another_node() {
    let redis = Redis::start();
    let (mut a, b) = (Broker::node(&redis), Broker::node(&redis));
    let (mut reader, _) = come(&a, &keeping("reader"));
    reader.subscribe("t", Qos::ExactlyOnce);
    b.client(Version::V5, "p").publish("t", b"x", Qos::AtLeastOnce);
    b.client(Version::V5, "p").publish("t", b"x", Qos::ExactlyOnce);
    let first = reader.message();
    assert_eq!(first.qos, Qos::AtLeastOnce);
    let second = reader.message();
    assert_eq!(second.qos, Qos::ExactlyOnce);
    // PUBREC was sent; PUBREL comes once that is stored.
    let id = nsd_wire::PacketId::new(3).unwrap();
    reader.expect_release(id);
    a.kill();
    let (mut reader, present) = come(&b, &keeping("reader"));
    assert!(present);
    reader.expect_release(id);
    reader.send(&Packet::PubComp(nsd_wire::Ack::new(id)));
    reader.ping();
    let (mut reader, _) = come(&b, &keeping("reader"));
    reader.hears_nothing();
}

/// A client of a node that dies: its session stays, its will comes once, and when its time is over, so does the session.
#[test]
fn what_a_dead_node_leaves_is_taken_care_of_by_exactly_one() {
    let redis = Redis::start();
    let (a, b, c) = (Broker::node(&redis), Broker::node(&redis), Broker::node(&redis));
    let mut watcher = b.client(Version::V311, "w");
    watcher.subscribe("will/#", Qos::AtLeastOnce);
    let (mut keeper, _) = come(&c, &keeping("keeper"));
    keeper.subscribe("will/#", Qos::ExactlyOnce);
    keeper.disconnect();
    let connect = |id, topic, delay, expiry| {
        let mut will = Will { qos: Qos::AtLeastOnce, ..Will::new(topic, b"gone") };
        will.properties.delay = Some(delay);
        let mut connect = Connect { will: Some(will), ..keeping(id) };
        connect.properties.session_expiry = Some(expiry);
        connect
    };
    let mortals: Vec<Client> = [
        connect("now", "will/now", 0, 600),
        connect("later", "will/later", 2, 600),
        connect("end", "will/end", 900, 3),
        connect("back", "will/back", 60, 600),
        connect("clean", "will/clean", 900, 0),
    ]
    .iter()
    .map(|connect| {
        let (mut client, _) = come(&a, connect);
        client.subscribe("news", Qos::AtLeastOnce);
        client
    })
    .collect();
    a.signal("-KILL");
    drop(mortals);
    // It comes back before its will is due: that is not wanted any more.
    let (back, present) = come(&c, &keeping("back"));
    assert!(present);
    let mut topics: Vec<String> =
        (0..4).map(|_| watcher.message_within(REAPED).expect("a will").topic).collect();
    topics.sort();
    assert_eq!(topics, ["will/clean", "will/end", "will/later", "will/now"]);
    assert_eq!(watcher.message_within(Duration::from_secs(2)), None, "no will comes twice");
    let (mut keeper, _) = come(&c, &keeping("keeper"));
    let mut kept: Vec<String> = (0..4).map(|_| keeper.message().topic).collect();
    kept.sort();
    assert_eq!(kept, topics, "for who was away, too");
    keeper.hears_nothing();
    // Those that go on got what was published after the death of their node.
    let mut publisher = c.client(Version::V5, "p");
    publisher.publish("news", b"x", Qos::AtLeastOnce);
    for (id, goes_on) in [("now", true), ("later", true), ("end", false), ("clean", false)] {
        let (mut client, present) = come(&b, &keeping(id));
        assert_eq!(present, goes_on, "{id}");
        if goes_on {
            client.message();
        } else {
            client.hears_nothing();
        }
    }
    drop(back);
    let left: Vec<String> = redis::cmd("KEYS").arg("nsd:*:end").query(&mut redis.connection()).unwrap();
    assert!(left.len() <= 1, "what is over leaves nothing: {left:?}");
}

#[test]
fn a_session_whose_client_does_not_come_back_ends_and_leaves_nothing() {
    let redis = Redis::start();
    let (a, b) = (Broker::node(&redis), Broker::node(&redis));
    let mut connect = keeping("c");
    connect.properties.session_expiry = Some(6);
    let (mut client, _) = come(&a, &connect);
    client.subscribe("t", Qos::AtLeastOnce);
    client.disconnect();
    let mut publisher = b.client(Version::V5, "p");
    publisher.publish("t", b"x", Qos::AtLeastOnce);
    let keys = || -> Vec<String> { redis::cmd("KEYS").arg("nsd:{*").query(&mut redis.connection()).unwrap() };
    assert!(keys().iter().any(|key| key.contains(":q:")), "{:?}", keys());
    eventually("it has ended", SOON * 2, || keys().iter().all(|key| key.ends_with("client:p")));
    // Nobody keeps anything for it any more, on any node.
    publisher.publish("t", b"x", Qos::AtLeastOnce);
    assert!(keys().iter().all(|key| key.ends_with("client:p")), "{:?}", keys());
    let (_, present) = come(&b, &connect);
    assert!(!present);
}

/// A node that is frozen is taken for dead. When it goes on, it has lost what went on elsewhere, and keeps the rest.
#[test]
fn a_node_that_was_taken_for_dead_comes_back_to_what_is_still_its_own() {
    let redis = Redis::start();
    let (a, b) = (Broker::node(&redis), Broker::node(&redis));
    let (mut moved, _) = come(&a, &keeping("moved"));
    let (mut stays, _) = come(&a, &keeping("stays"));
    for client in [&mut moved, &mut stays] {
        client.subscribe("t", Qos::AtLeastOnce);
    }
    a.signal("-STOP");
    let key = |id: &str| format!("nsd:{{s{}}}:client:{id}", nsd_broker::store::keys::shard(id));
    eventually("it is taken for dead", REAPED, || {
        let node: Option<String> =
            redis::cmd("HGET").arg(key("stays")).arg("node").query(&mut redis.connection()).unwrap();
        node.is_none()
    });
    let mut publisher = b.client(Version::V5, "p");
    publisher.publish("t", b"1", Qos::AtLeastOnce);
    let (mut elsewhere, present) = come(&b, &keeping("moved"));
    assert!(present);
    assert_eq!(elsewhere.message().payload, b"1");
    a.signal("-CONT");
    assert_eq!(stays.message_within(REAPED).expect("what came meanwhile").payload, b"1");
    publisher.publish("t", b"2", Qos::AtLeastOnce);
    assert_eq!(stays.message().payload, b"2");
    assert_eq!(elsewhere.message().payload, b"2");
    assert!(moved.is_closed(SOON), "its session is elsewhere");
    elsewhere.ping();
}

#[test]
fn a_full_redis_refuses_what_must_be_stored_and_takes_it_again_when_there_is_room() {
    let redis = Redis::start();
    let broker = Broker::node(&redis);
    let (mut client, _) = come(&broker, &keeping("c"));
    client.subscribe("t", Qos::AtLeastOnce);
    client.disconnect();
    let memory = |bytes: u64| {
        let _: () = redis::cmd("CONFIG")
            .arg("SET")
            .arg("maxmemory")
            .arg(bytes)
            .query(&mut redis.connection())
            .unwrap();
    };
    let mut publisher = broker.client(Version::V5, "p");
    assert_eq!(publisher.publish("t", b"stored", Qos::AtLeastOnce), ReasonCode::Success);
    memory(1);
    assert_eq!(publisher.publish("t", b"refused", Qos::AtLeastOnce), ReasonCode::QuotaExceeded);
    assert_eq!(broker.ask("health").1["degraded"], true);
    assert_eq!(publisher.publish("nobody", b"x", Qos::AtLeastOnce), ReasonCode::Success, "nothing to store");
    let refused = Client::refused(broker.address, &keeping("new"));
    assert_eq!(refused, ReasonCode::ServerUnavailable, "who would be forgotten is not let in");
    memory(0);
    eventually("there is room again", SOON, || {
        publisher.publish("t", b"again", Qos::AtLeastOnce) == ReasonCode::Success
    });
    assert_eq!(broker.ask("health").1["degraded"], false);
    let (mut client, present) = come(&broker, &keeping("c"));
    assert!(present);
    assert_eq!(client.message().payload, b"stored");
    assert_eq!(client.message().payload, b"again");
    client.ping();
}

/// Otherwise nobody could take what waits, and there would never be room.
#[test]
fn who_has_a_session_in_a_full_redis_comes_back_to_it_through_another_node() {
    let redis = Redis::start();
    let (mut a, b) = (Broker::node(&redis), Broker::node(&redis));
    let (mut client, _) = come(&a, &keeping("c"));
    client.subscribe("t", Qos::AtLeastOnce);
    let mut publisher = b.client(Version::V5, "p");
    assert_eq!(publisher.publish("t", b"stored", Qos::AtLeastOnce), ReasonCode::Success);
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(1).exec(&mut redis.connection()).unwrap();
    a.kill();
    let (mut client, present) = come(&b, &keeping("c"));
    assert!(present);
    assert_eq!(client.message().payload, b"stored");
    eventually("it is done with", SOON, || count(&redis, "HLEN", &key(&redis, "c", Some("q"))) == 0);
    assert_eq!(Client::refused(b.address, &keeping("new")), ReasonCode::ServerUnavailable);
}

/// Redis without a file forgets everything at its end. What a node knows of clients that are connected is told anew.
#[test]
fn a_redis_that_forgot_everything_is_told_what_the_nodes_know() {
    let mut redis = Redis::with(&["--appendonly", "no"]);
    let (a, b) = (Broker::node(&redis), Broker::node(&redis));
    let (mut client, _) = come(&a, &keeping("c"));
    client.subscribe("t", Qos::AtLeastOnce);
    redis.kill();
    redis.restart();
    let mut publisher = loop {
        // Until both are back, nobody is let in.
        let mut client = Client::open(b.address, Version::V5);
        client.send(&Packet::Connect(Connect::new(Version::V5, "p")));
        if client.next(SOON, |packet| matches!(packet, Packet::ConnAck(ack) if !ack.reason.is_failure()))
            == Ok(true)
        {
            break client;
        }
    };
    eventually("both are back", SOON * 4, || {
        [&a, &b].iter().all(|node| node.ask("health").1["degraded"] == false)
    });
    eventually("it is known everywhere", SOON * 2, || {
        publisher.publish("t", b"x", Qos::AtLeastOnce);
        client.message_within(Duration::from_millis(300)).is_some()
    });
    client.disconnect();
    publisher.publish("t", b"later", Qos::AtLeastOnce);
    let (mut client, present) = come(&b, &keeping("c"));
    assert!(present);
    while client.message().payload != b"later" {}
}

/// A batch that never came to Redis is sent again after the node has told Redis what it has forgotten: it still counts.
#[test]
fn what_was_under_way_counts_after_the_store_was_told_what_it_had_forgotten() {
    let mut redis = Redis::start();
    let broker = Broker::node(&redis);
    let ((mut stays, _), (mut leaves, _)) =
        (come(&broker, &keeping("stays")), come(&broker, &keeping("leaves")));
    stays.subscribe("t", Qos::AtLeastOnce);
    leaves.subscribe("t", Qos::AtLeastOnce);
    let field = |redis: &Redis, id: &str, field: &str| -> Option<String> {
        let key = format!("nsd:{{s{}}}:client:{id}", nsd_broker::store::keys::shard(id));
        redis::cmd("HGET").arg(key).arg(field).query(&mut redis.connection()).unwrap()
    };
    let session: u64 = field(&redis, "stays", "session").unwrap().parse().unwrap();
    let forgotten = format!("nsd:{{s{}}}:s:{session}", session % nsd_broker::store::keys::SHARDS);
    let _: () = redis::cmd("DEL").arg(forgotten).query(&mut redis.connection()).unwrap();
    redis.signal("-STOP");
    leaves.disconnect();
    std::thread::sleep(Duration::from_millis(300));
    redis.kill();
    redis.restart();
    eventually("the node is back", SOON * 4, || broker.ask("health").1["degraded"] == false);
    eventually("nobody is connected to what was left", SOON, || field(&redis, "leaves", "node").is_none());
    let (_, present) = come(&broker, &keeping("leaves"));
    assert!(present);
    stays.ping();
}

/// A client's key, and its session's of a kind.
fn key(redis: &Redis, id: &str, kind: Option<&str>) -> String {
    let client = format!("nsd:{{s{}}}:client:{id}", nsd_broker::store::keys::shard(id));
    let Some(kind) = kind else { return client };
    let session: u64 = redis::cmd("HGET").arg(client).arg("session").query(&mut redis.connection()).unwrap();
    format!("nsd:{{s{}}}:{kind}:{session}", session % nsd_broker::store::keys::SHARDS)
}

fn count(redis: &Redis, command: &str, key: &str) -> usize {
    redis::cmd(command).arg(key).query(&mut redis.connection()).unwrap()
}

/// A queue that cannot be read: whatever its client's node does with Redis is taken, and fails in the end, and is done again.
struct Broken<'r> {
    redis: &'r Redis,
    queue: String,
}

impl<'r> Broken<'r> {
    fn new(redis: &'r Redis, id: &str) -> Self {
        let (session, queue) = (key(redis, id, Some("s")), key(redis, id, Some("q")));
        let mut all = redis::pipe();
        all.hincr(session, "next", 1)
            .set(&queue, "no queue")
            .cmd("CLIENT")
            .arg("KILL")
            .arg("TYPE")
            .arg("normal");
        all.exec(&mut redis.connection()).unwrap();
        Self { redis, queue }
    }

    fn connects(&self) -> u64 {
        let all: String = redis::cmd("INFO").arg("stats").query(&mut self.redis.connection()).unwrap();
        let count = all.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        count.unwrap().trim().parse().unwrap()
    }

    /// Everything is done again, more than once.
    fn some_attempts(&self) {
        let before = self.connects();
        let mut own = 0;
        eventually("it was tried again", SOON, || {
            own += 1;
            self.connects() > before + own + 5
        });
    }

    fn repair(self) {
        redis::cmd("DEL").arg(&self.queue).exec(&mut self.redis.connection()).unwrap();
    }
}

#[test]
fn who_subscribes_while_a_batch_is_sent_again_gets_its_messages_once() {
    let redis = Redis::start();
    let (a, b) = (Broker::node(&redis), Broker::node(&redis));
    let (_stays, _) = come(&a, &keeping("stays"));
    let ((mut away, _), (mut reader, _)) = (come(&b, &keeping("away")), come(&b, &keeping("reader")));
    away.subscribe("t", Qos::AtLeastOnce);
    away.disconnect();
    let mut publisher = a.client(Version::V5, "p");
    let queue = |id| key(&redis, id, Some("q"));
    let (before, after) = (queue("away"), queue("reader"));
    let broken = Broken::new(&redis, "stays");
    let publishing = std::thread::spawn(move || publisher.publish_within(TRIED, at_least_once("t", b"x")));
    eventually("it is stored", TRIED, || count(&redis, "HLEN", &before) == 1);
    reader.subscribe("t", Qos::AtLeastOnce);
    eventually("it is stored for the newcomer, too", SOON, || count(&redis, "HLEN", &after) > 0);
    broken.some_attempts();
    broken.repair();
    assert_eq!(publishing.join().unwrap(), ReasonCode::Success);
    assert_eq!((count(&redis, "HLEN", &before), count(&redis, "HLEN", &after)), (1, 1));
    assert_eq!(reader.message().payload, b"x");
}

#[test]
fn a_will_that_a_claim_leaves_comes_also_when_nothing_comes_of_the_claim() {
    let redis = Redis::start();
    let (a, b) = (Broker::node(&redis), Broker::node(&redis));
    let mut watcher = a.client(Version::V5, "w");
    watcher.subscribe("will", Qos::AtLeastOnce);
    let (mut first, _) = come(&a, &Connect { will: Some(Will::new("will", b"gone")), ..keeping("c") });
    // What is stored of it cannot be read.
    let identifiers = key(&redis, "c", Some("i"));
    redis::cmd("SET").arg(identifiers).arg("no set").exec(&mut redis.connection()).unwrap();
    assert_eq!(Client::refused(b.address, &keeping("c")), ReasonCode::ServerUnavailable);
    assert_eq!(first.disconnected(), ReasonCode::SessionTakenOver);
    assert_eq!(watcher.message().payload, b"gone");
    watcher.hears_nothing();
}

#[test]
fn a_will_that_a_claim_leaves_comes_once_while_batches_are_sent_again() {
    let redis = Redis::start();
    let (a, b) = (Broker::node(&redis), Broker::node(&redis));
    let mut watcher = b.client(Version::V5, "w");
    watcher.subscribe("will", Qos::AtLeastOnce);
    let (_stays, _) = come(&a, &keeping("stays"));
    let (mut away, _) = come(&b, &keeping("away"));
    away.subscribe("t", Qos::AtLeastOnce);
    away.disconnect();
    let (_first, _) = come(&b, &Connect { will: Some(Will::new("will", b"gone")), ..keeping("c") });
    let (mut publisher, queue) = (a.client(Version::V5, "p"), key(&redis, "away", Some("q")));
    let broken = Broken::new(&redis, "stays");
    let publishing = std::thread::spawn(move || publisher.publish_within(TRIED, at_least_once("t", b"x")));
    eventually("it is stored", TRIED, || count(&redis, "HLEN", &queue) == 1);
    let mut second = None;
    eventually("its client is let in", SOON, || {
        let mut client = Client::open(a.address, Version::V5);
        client.send(&Packet::Connect(keeping("c")));
        let is_in =
            client.next(SOON, |packet| matches!(packet, Packet::ConnAck(ack) if !ack.reason.is_failure()));
        second = (is_in == Ok(true)).then_some(client);
        second.is_some()
    });
    broken.some_attempts();
    broken.repair();
    assert_eq!(publishing.join().unwrap(), ReasonCode::Success);
    assert_eq!(watcher.message_within(SOON * 2).expect("a will").payload, b"gone");
    watcher.hears_nothing();
}

/// A dead node owes more wills than a node keeps waiting messages.
#[test]
fn wills_of_a_dead_node_are_taken_over_no_faster_than_they_are_written() {
    const CLIENTS: usize = 1200;
    let redis = Redis::start();
    // Nobody waits for who reads a will, so there must be room for all that it has not read yet.
    let node = Broker::limited_node(&redis, "queue_messages = 100000\nqueue_bytes = 1000000000");
    let (mut watcher, _) = come(&node, &keeping("w"));
    watcher.subscribe("will", Qos::AtLeastOnce);
    let payload = [b'x'; 12 * 1024];
    let message = nsd_broker::message::Message::new(&at_least_once("will", &payload)).unwrap();
    let will = nsd_broker::message::Will { message, delay: 0 };
    let will = nsd_broker::store::redis::codec::write_will(Some(&will));
    let mut config = redis::cmd("CONFIG");
    config.arg("SET").arg("slowlog-max-len").arg(100_000).arg("slowlog-log-slower-than").arg(0);
    config.exec(&mut redis.connection()).unwrap();
    let mut dead = redis::pipe();
    for number in 0..CLIENTS {
        let id = format!("d{number}");
        dead.sadd("nsd:on:00000000000000de", format!("{}:{id}", nsd_broker::store::keys::shard(&id)));
        let epoch = (number + 1).to_string();
        let client = [("node", &b"00000000000000de"[..]), ("epoch", epoch.as_bytes()), ("will", &will)];
        dead.hset_multiple(key(&redis, &id, None), &client);
    }
    dead.sadd("nsd:nodes", "00000000000000de");
    dead.exec(&mut redis.connection()).unwrap();
    for _ in 0..CLIENTS {
        assert_eq!(watcher.message_within(TRIED).expect("a will").topic, "will");
    }
    let log: Vec<Vec<redis::Value>> =
        redis::cmd("SLOWLOG").arg("GET").arg(-1).query(&mut redis.connection()).unwrap();
    // Of the calls of scripts, which take something over.
    let takes_over = |entry: &Vec<redis::Value>| {
        let words: Vec<Vec<u8>> = redis::from_redis_value_ref(&entry[3]).unwrap();
        (words[0] == b"EVALSHA").then(|| words.get(5).is_some_and(|word| word == b"00000000000000de"))
    };
    let taken: Vec<bool> = log.iter().filter_map(takes_over).collect();
    assert!(taken.iter().filter(|taken| **taken).count() >= 3);
    assert!(!taken.windows(2).any(|two| two == [true, true]), "something is written in between");
}

fn at_least_once<'p>(topic: &'p str, payload: &'p [u8]) -> Publish<'p> {
    Publish { qos: Qos::AtLeastOnce, ..Publish::new(topic, payload) }
}

/// Its message was stored and refused, for it was not known whether it was. The next one under the same identifier is not
/// a repetition.
#[test]
fn a_batch_that_fails_for_long_is_refused_and_the_identifiers_of_its_messages_are_free() {
    let redis = Redis::start();
    let broker = Broker::node(&redis);
    let (_stays, _) = come(&broker, &keeping("stays"));
    let (mut reader, _) = come(&broker, &keeping("reader"));
    reader.subscribe("t", Qos::ExactlyOnce);
    reader.disconnect();
    eventually("it has left", SOON, || {
        let node =
            redis::cmd("HEXISTS").arg(key(&redis, "reader", None)).arg("node").query(&mut redis.connection());
        node == Ok(false)
    });
    let (mut writer, _) = come(&broker, &keeping("writer"));
    let stored = key(&redis, "reader", Some("q"));
    let broken = Broken::new(&redis, "stays");
    let id = nsd_wire::PacketId::MIN;
    let publish = |payload| {
        Packet::Publish(Publish { qos: Qos::ExactlyOnce, packet_id: Some(id), ..Publish::new("t", payload) })
    };
    writer.send(&publish(b"first"));
    let reason = writer.next(TRIED, |packet| match packet {
        Packet::PubRec(ack) => Some(ack.reason),
        _ => None,
    });
    assert_eq!(reason, Ok(Some(ReasonCode::UnspecifiedError)));
    assert_eq!(count(&redis, "HLEN", &stored), 1, "it is there all the same");
    broken.repair();
    eventually("the node is back", SOON * 4, || broker.ask("health").1["degraded"] == false);
    let (mut writer, present) = come(&broker, &keeping("writer"));
    assert!(present);
    writer.send(&publish(b"second"));
    writer.expect(|packet| matches!(packet, Packet::PubRec(ack) if !ack.reason.is_failure()).then_some(()));
    let (mut reader, _) = come(&broker, &keeping("reader"));
    assert_eq!([reader.message().payload, reader.message().payload], [&b"first"[..], b"second"]);
}

/// Its acknowledgement waits for the batch before, and it comes back before the node has noticed that it was gone.
#[test]
fn what_a_client_has_acknowledged_does_not_come_again_however_soon_it_comes_back() {
    let redis = Redis::start();
    let broker = Broker::node(&redis);
    let (mut client, _) = come(&broker, &keeping("c"));
    client.subscribe("t", Qos::AtLeastOnce);
    let mut publisher = broker.client(Version::V5, "p");
    assert_eq!(publisher.publish("t", b"x", Qos::AtLeastOnce), ReasonCode::Success);
    redis.signal("-STOP");
    let waiting = std::thread::spawn(move || publisher.publish_within(SOON, at_least_once("other", b"")));
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(client.message().payload, b"x");
    client.ping();
    let mut again = Client::open(broker.address, Version::V5);
    again.send(&Packet::Connect(keeping("c")));
    std::thread::sleep(Duration::from_millis(300));
    redis.signal("-CONT");
    let present = again.expect(|packet| match packet {
        Packet::ConnAck(ack) if !ack.reason.is_failure() => Some(ack.session_present),
        _ => None,
    });
    assert!(present);
    assert_eq!(waiting.join().unwrap(), ReasonCode::Success);
    again.hears_nothing();
}

/// The answer to a claim is lost, and with it the connection: the session must end all the same.
#[tokio::test]
async fn a_claim_of_which_nothing_came_is_given_up() {
    let redis = Redis::start();
    let broker = Broker::node(&redis);
    let (mut client, _) = come(&broker, &keeping("c"));
    let key = |id: &str| format!("nsd:{{s{}}}:client:{id}", nsd_broker::store::keys::shard(id));
    let node: String = redis::cmd("HGET").arg(key("c")).arg("node").query(&mut redis.connection()).unwrap();
    let settings = nsd_broker::settings::RedisSettings::parse(&redis.url(), None, "nsd:").unwrap();
    let link = nsd_broker::store::Link::new(&settings).unwrap();
    link.use_now(link.connect().await.unwrap());
    let node = nsd_broker::store::keys::node_of(&node).unwrap();
    let store = nsd_broker::store::Store::Redis(nsd_broker::store::RedisStore::new(link.into(), node));
    let claim = nsd_broker::store::Claim {
        client_id: "ghost",
        will: None,
        expiry: 1,
        clean_start: true,
        instead_of: None,
    };
    let claimed = store.claim(&claim).await.unwrap();
    let exists = || redis::cmd("EXISTS").arg(key("ghost")).query(&mut redis.connection()).unwrap();
    assert!(claimed.session.is_some() && exists());
    eventually("it is given up", REAPED, || !exists());
    client.ping();
}
