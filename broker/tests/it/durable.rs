//! The store on the disk under a broker: what is there after a crash, and where nothing can be stored, that is said.

use std::time::{Duration, SystemTime};

use nsd_broker::store::change::Change;
use nsd_wire::{Ack, Connect, Packet, Publish, Qos, ReasonCode, Unsubscribe, Version, Will};

use crate::disk::opened;
use crate::support::{Broker, Client, Keeping, SOON};

fn keeping(id: &str) -> Connect<'_> {
    let mut connect = Connect::new(Version::V5, id);
    connect.clean_start = false;
    connect.properties.session_expiry = Some(600);
    connect
}

#[test]
fn everything_is_there_after_a_crash() {
    for mut broker in Keeping::lasting() {
        crash(&mut broker);
    }
}

fn crash(broker: &mut Broker) {
    let mut client = Client::connect(broker.address, &keeping("c"));
    client.subscribe("t/#", Qos::ExactlyOnce);
    client.disconnect();
    let mut publisher = broker.client(Version::V5, "p");
    publisher.retain("state", b"on", Qos::AtLeastOnce);
    publisher.retain("old", b"x", Qos::AtLeastOnce);
    publisher.retain("old", b"", Qos::AtLeastOnce);
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
    let mut client = Client::connect(broker.address, &keeping("c"));
    for number in 0..=20_u8 {
        assert_eq!(client.message().payload, [number]);
    }
    // A dead node of a cluster is found out when it has not been heard of for a while.
    let will = client.message_within(SOON * 4).expect("whoever was connected was cut off");
    assert_eq!(will.topic, "t/will");
    client.hears_nothing(); // Who left had no will any more.
    client.subscribe("#", Qos::AtMostOnce);
    let kept = client.message();
    assert_eq!((kept.topic.as_str(), kept.retain), ("state", true));
    client.ping();
    drop(doomed);
    // A proper end and a start: the same.
    client.disconnect();
    broker.signal("-TERM");
    assert_eq!(broker.wait(), Some(0));
    broker.restart();
    let mut client = Client::connect(broker.address, &keeping("c"));
    broker.client(Version::V5, "p").publish("t/y", b"later", Qos::AtLeastOnce);
    assert_eq!(client.message().payload, b"later");
}

/// The store is told in between when each client went away: nobody waits for the delays.
#[test]
fn the_delay_of_a_will_goes_on_after_a_crash() {
    let mut broker = Broker::on_disk();
    let mut watcher = Client::connect(broker.address, &keeping("watcher"));
    watcher.subscribe("wills/#", Qos::AtLeastOnce);
    watcher.disconnect();
    let doomed = [
        ("passed", 1000, Some(1001)),
        ("waits", 1000, Some(500)),
        ("put back", 1, Some(-5000)),
        ("cut off", 1000, None),
    ];
    let clients = doomed.map(|(id, delay, _)| {
        let topic = format!("wills/{id}");
        let mut will = Will { qos: Qos::AtLeastOnce, ..Will::new(&topic, b"gone") };
        will.properties.delay = Some(delay);
        let mut connect = Connect { will: Some(will), ..keeping(id) };
        connect.properties.session_expiry = Some(10_000);
        Client::connect(broker.address, &connect)
    });
    broker.kill();
    drop(clients);
    let (mut store, stored) = opened(&broker.store());
    let now = SystemTime::now();
    for (id, _, ago) in doomed {
        let kept = stored.sessions.iter().find(|session| &*session.client_id == id).unwrap();
        let Some(ago) = ago else { continue };
        let seconds = Duration::from_secs(i64::unsigned_abs(ago));
        let at = if ago > 0 { now - seconds } else { now + seconds };
        store.commit(&[Change::Part { session: kept.session, at }]).unwrap();
    }
    drop(store);
    broker.restart();
    let mut watcher = Client::connect(broker.address, &keeping("watcher"));
    assert_eq!(watcher.message().topic, "wills/passed");
    assert_eq!(watcher.message().topic, "wills/put back");
    watcher.hears_nothing();
    // Another crash does not begin the delay anew.
    broker.kill();
    let (_, stored) = opened(&broker.store());
    assert!(
        stored.sessions.iter().all(|session| session.parted.is_some() || &*session.client_id == "watcher")
    );
}

#[test]
fn what_expires_while_the_broker_is_down_is_gone_and_the_rest_has_less_time() {
    let mut broker = Broker::on_disk();
    let mut client = Client::connect(broker.address, &keeping("c"));
    client.subscribe("t", Qos::AtLeastOnce);
    client.disconnect();
    let mut publisher = broker.client(Version::V5, "p");
    let mut say = |topic: &str, retain: bool, expiry: u32| {
        let mut publish = Publish { qos: Qos::AtLeastOnce, retain, ..Publish::new(topic, b"x") };
        publish.properties.message_expiry = Some(expiry);
        assert_eq!(publisher.publish_as(publish), ReasonCode::Success);
    };
    for (topic, retain) in [("t", false), ("kept", true), ("kept too", true)] {
        say(topic, retain, if topic == "kept too" { 1000 } else { 2 });
    }
    say("t", false, 1000);
    broker.kill();
    std::thread::sleep(Duration::from_millis(2500));
    broker.restart();
    let mut client = Client::connect(broker.address, &keeping("c"));
    let mut left = || {
        client.expect(|packet| match packet {
            Packet::Publish(publish) => Some((publish.topic.to_owned(), publish.properties.message_expiry)),
            _ => None,
        })
    };
    let (topic, seconds) = left();
    assert!(topic == "t" && seconds.is_some_and(|seconds| seconds <= 998), "{topic} {seconds:?}");
    let mut asks = broker.client(Version::V5, "asks");
    asks.subscribe("+", Qos::AtMostOnce);
    assert_eq!(asks.message().topic, "kept too");
    asks.ping();
    crate::support::eventually("no room is kept for it", SOON, || broker.ask("stats").1["retained"] == 1);
    assert_eq!(broker.ask("stats").1["queued"], 0);
}

/// [MQTT-4.8.0-2]
#[test]
fn a_full_disk_is_said_and_passes() {
    let (_disk, mut broker) = on_small_disk(100_000);
    let mut client = Client::connect(broker.address, &keeping("c"));
    client.subscribe("t", Qos::AtLeastOnce);
    client.disconnect();
    let mut publisher = broker.client(Version::V5, "p");
    assert_eq!(publisher.retain("state", b"before", Qos::AtLeastOnce), ReasonCode::Success);
    let payload = vec![b'x'; 64 * 1024];
    let mut stored = 0;
    let refused = loop {
        match publisher.publish("t", &payload, Qos::AtLeastOnce) {
            ReasonCode::Success => stored += 1,
            refusal => break refusal,
        }
        assert!(stored < 1000, "the disk is never full");
    };
    assert_eq!(refused, ReasonCode::QuotaExceeded);
    assert_eq!(broker.ask("health").1["degraded"], true);
    // What is refused as retained is not, neither now nor later.
    assert_eq!(publisher.retain("state", &payload, Qos::AtLeastOnce), ReasonCode::QuotaExceeded);
    let mut asks = broker.client(Version::V5, "asks");
    asks.subscribe("state", Qos::AtMostOnce);
    let kept = asks.message();
    assert_eq!((kept.retain, &*kept.payload), (true, &b"before"[..]));
    asks.ping();
    // What needs no room goes on, and a v3 publisher is cut off rather than lied to.
    let mut live = broker.client(Version::V5, "live");
    live.subscribe("live", Qos::AtLeastOnce);
    assert_eq!(publisher.publish("live", b"x", Qos::AtLeastOnce), ReasonCode::Success);
    assert_eq!(live.message().payload, b"x");
    let mut old = broker.client(Version::V311, "old");
    let packet_id = Some(old.id());
    old.send(&Packet::Publish(Publish { qos: Qos::AtLeastOnce, packet_id, ..Publish::new("t", &payload) }));
    assert!(old.is_closed(SOON));
    // The client takes what there is, and there is room again.
    let mut client = Client::connect(broker.address, &keeping("c"));
    for _ in 0..stored {
        assert_eq!(client.message().payload.len(), payload.len());
    }
    client.ping();
    crate::support::eventually("there is room again", SOON * 2, || {
        publisher.publish("t", b"small", Qos::AtLeastOnce) == ReasonCode::Success
    });
    broker.kill();
    broker.restart();
    let mut asks = broker.client(Version::V5, "asks");
    asks.subscribe("state", Qos::AtMostOnce);
    assert_eq!(asks.message().payload, b"before");
}

/// What it says anew takes room that there is not: neither that nor others who want some keep it from what waits.
/// Fills a queue to the last byte: how many messages there are.
fn fill(publisher: &mut Client, topic: &str) -> usize {
    let mut stored = 0;
    // The smaller they are, the less room is left, until there is none for a single byte.
    for size in [64 << 10, 4 << 10, 256, 1] {
        let payload = vec![b'x'; size];
        while publisher.publish(topic, &payload, Qos::AtLeastOnce) == ReasonCode::Success {
            stored += 1;
            assert!(stored < 10_000, "the disk is never full");
        }
    }
    stored
}

/// A broker with a small disk, which it can fill.
fn on_small_disk(queue_messages: usize) -> (crate::support::SmallDisk, Broker) {
    let disk = crate::support::SmallDisk::mount("24m");
    let store =
        format!("[store]\nkind = \"disk\"\ndirectory = \"{}\"\n", disk.path().join("store").display());
    let limits = format!("[limits]\nqueue_messages = {queue_messages}\nqueue_bytes = 1000000000\n");
    let broker = Broker::start(&format!("allow_anonymous = true\n{store}{limits}"));
    (disk, broker)
}

#[test]
fn a_message_that_a_full_disk_refuses_displaces_none_from_a_full_queue() {
    let (_disk, broker) = on_small_disk(10);
    let mut absent = Client::connect(broker.address, &keeping("absent"));
    absent.subscribe("t", Qos::AtLeastOnce);
    absent.disconnect();
    let mut publisher = broker.client(Version::V5, "p");
    for number in 0..12_u8 {
        assert_eq!(publisher.publish("t", &[number], Qos::AtLeastOnce), ReasonCode::Success);
    }
    let mut topics = (0..10_000).map(|number| format!("kept/{number}"));
    for size in [64 << 10, 4 << 10, 256, 1] {
        let payload = vec![b'x'; size];
        while publisher.retain(&topics.next().unwrap(), &payload, Qos::AtLeastOnce) == ReasonCode::Success {}
    }
    let payload = vec![b'x'; 64 << 10];
    for _ in 0..5 {
        assert_eq!(publisher.publish("t", &payload, Qos::AtLeastOnce), ReasonCode::QuotaExceeded);
    }
    let dropped = broker.ask("stats").1["messages"]["dropped_by_cause"]["queue_full"].as_u64();
    assert_eq!(dropped, Some(2), "by those that were taken");
    let mut absent = Client::connect(broker.address, &keeping("absent"));
    for number in 2..12_u8 {
        assert_eq!(absent.message().payload, [number]);
    }
    absent.ping();
}

#[test]
fn what_a_group_cannot_hand_over_on_a_full_disk_is_counted() {
    let (_disk, broker) = on_small_disk(100_000);
    for id in ["a", "b"] {
        let mut member = Client::connect(broker.address, &keeping(id));
        member.subscribe("$share/g/t", Qos::AtLeastOnce);
        member.disconnect();
    }
    let mut publisher = broker.client(Version::V5, "p");
    let stored = fill(&mut publisher, "t");
    // This ends one's session; it was one batch with what the other should have had.
    broker.client(Version::V5, "a").disconnect();
    // Whatever comes of it: what was to be stored before has been tried.
    publisher.retain("behind", b"x", Qos::AtLeastOnce);
    let not_stored = || {
        let stats = broker.ask("stats").1;
        stats["messages"]["dropped_by_cause"]["not_stored"].as_u64().unwrap() as usize
    };
    crate::support::eventually("the loss is counted", SOON, || not_stored() > 0);
    let mut other = Client::connect(broker.address, &keeping("b"));
    for _ in 0..stored - not_stored() {
        other.message();
    }
    other.ping();
    assert!(broker.log().contains("lost: the store has no room"));
}

#[test]
fn who_comes_back_on_a_full_disk_makes_room() {
    let (disk, mut broker) = on_small_disk(100_000);
    let mut absent = Client::connect(broker.address, &keeping("absent"));
    absent.subscribe("t", Qos::AtLeastOnce);
    absent.disconnect();
    let mut publisher = broker.client(Version::V5, "p");
    let stored = fill(&mut publisher, "t");
    let words = vec![b'w'; 4 << 10];
    let will = Some(Will { qos: Qos::AtLeastOnce, ..Will::new("will", &words) });
    for refused in [
        keeping("one that comes for the first time and would have its session kept"),
        Connect { will, ..Connect::new(Version::V5, "clean") },
    ] {
        assert_eq!(Client::refused(broker.address, &refused), ReasonCode::QuotaExceeded);
    }
    let mut absent = Client::open(broker.address, Version::V5);
    assert!(absent.login(&Connect { will, ..keeping("absent") }), "the session goes on");
    for _ in 0..stored {
        absent.message();
    }
    crate::support::eventually("there is room again", SOON * 2, || {
        publisher.publish("t", b"small", Qos::AtLeastOnce) == ReasonCode::Success
    });
    while absent.message().payload != b"small" {}
    absent.ping(); // All acknowledgements are there.
    // Its will has found room, too, and what it took is gone from the disk.
    publisher.publish("t", b"last", Qos::AtLeastOnce);
    broker.kill();
    let (_, left) = opened(&disk.path().join("store"));
    assert_eq!(left.wills.iter().map(|(id, _)| &**id).collect::<Vec<_>>(), ["absent"]);
    assert!(left.sessions[0].queue.len() < 3, "{}", left.sessions[0].queue.len());
}

#[test]
fn a_damaged_store_is_not_begun_anew() {
    let mut broker = Broker::on_disk();
    broker.client(Version::V5, "p").retain("t", b"x", Qos::AtLeastOnce);
    broker.kill();
    let file = broker.store().join("store.redb");
    std::fs::write(&file, b"something else").unwrap();
    let (code, log) = broker.fails_to_start();
    assert_eq!(code, Some(1));
    assert!(log.contains("store.redb") && log.contains("backup"), "{log}");
}

/// [MQTT-4.8.0-2]
#[test]
fn a_store_that_breaks_is_said_and_nobody_waits_for_it() {
    let broker = Broker::on_disk();
    let mut kept = Client::connect(broker.address, &keeping("kept"));
    let mut begun = Client::connect(broker.address, &keeping("begun"));
    let id = begun.id();
    let publish = Publish { qos: Qos::ExactlyOnce, packet_id: Some(id), ..Publish::new("t", b"x") };
    begun.send(&Packet::Publish(publish));
    assert_eq!(begun.next(SOON, |packet| matches!(packet, Packet::PubRec(_))), Ok(true));
    std::fs::remove_dir_all(broker.store()).unwrap();
    // A step of an exchange that cannot be stored ends the connection, instead of never being answered.
    begun.send(&Packet::PubRel(Ack::new(id)));
    assert_eq!(begun.disconnected(), ReasonCode::UnspecifiedError);
    assert_eq!(kept.subscribe("t", Qos::AtLeastOnce), ReasonCode::UnspecifiedError);
    let (ready, health) = broker.ask("health");
    assert_eq!((ready, health["ready"].as_bool()), (false, Some(false)), "{health}");
    let reason = health["reasons"][0].as_str().unwrap();
    assert!(reason.contains("broken") && reason.contains(broker.store().to_str().unwrap()), "{reason}");
    for version in [Version::V5, Version::V311] {
        let mut refused = Client::open(broker.address, version);
        let mut connect = Connect { clean_start: false, ..Connect::new(version, "new") };
        connect.properties.session_expiry = (version == Version::V5).then_some(600);
        refused.send(&Packet::Connect(connect));
        let reason = refused.expect(|packet| match packet {
            Packet::ConnAck(ack) => Some(ack.reason),
            _ => None,
        });
        assert_eq!(reason, ReasonCode::ServerUnavailable);
    }
    // What needs no store goes on.
    let mut clean = broker.client(Version::V5, "clean");
    clean.subscribe("live", Qos::AtLeastOnce);
    assert_eq!(clean.publish("live", b"x", Qos::AtMostOnce), ReasonCode::Success);
    assert_eq!(clean.message().payload, b"x");
    assert_eq!(broker.log().matches("the store is broken").count(), 1);
}

/// What is refused has no effect, however often it is asked for.
#[test]
fn a_subscription_that_cannot_be_stored_is_none() {
    let broker = Broker::on_disk();
    let mut client = Client::connect(broker.address, &keeping("c"));
    std::fs::remove_dir_all(broker.store()).unwrap();
    for _ in 0..2 {
        assert_eq!(client.subscribe("t", Qos::AtMostOnce), ReasonCode::UnspecifiedError);
        let mut publisher = broker.client(Version::V5, "p");
        publisher.publish("t", b"x", Qos::AtMostOnce);
        publisher.ping();
        client.ping();
    }
    let gone = client.id();
    client.send(&Packet::Unsubscribe(Unsubscribe::new(gone, &["t"])));
    let code = client.expect(|packet| match packet {
        Packet::UnsubAck(ack) => ack.codes.iter().next(),
        _ => None,
    });
    assert_eq!(code, ReasonCode::NoSubscriptionExisted);
}

/// v3 cannot be told that the end of a subscription is not stored: its connection ends as if the network had failed.
#[test]
fn a_v3_client_whose_unsubscribe_cannot_be_stored_is_gone_with_its_will() {
    let broker = Broker::on_disk();
    let mut watcher = broker.client(Version::V5, "watcher");
    watcher.subscribe("will", Qos::AtMostOnce);
    let will = Some(Will::new("will", b"gone"));
    let mut client = Client::connect(
        broker.address,
        &Connect { will, clean_start: false, ..Connect::new(Version::V311, "c") },
    );
    client.subscribe("t", Qos::AtLeastOnce);
    std::fs::remove_dir_all(broker.store()).unwrap();
    let id = client.id();
    client.send(&Packet::Unsubscribe(Unsubscribe::new(id, &["t"])));
    assert!(client.is_closed(SOON));
    assert_eq!(watcher.message().payload, b"gone");
    assert_eq!(broker.order(&["who", "c"]).1["connected"], false);
}
