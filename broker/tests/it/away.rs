//! Redis that does not answer, does not allow, or must not be shown.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nsd_wire::{Connect, Packet, Publish, Qos, ReasonCode, Unsubscribe, Version};

use crate::support::{Broker, Client, Gone, Redis, SOON, eventually, port};

fn at_least_once(payload: &[u8]) -> Publish<'_> {
    Publish { qos: Qos::AtLeastOnce, ..Publish::new("t", payload) }
}

#[test]
fn redis_frozen_and_thawed() {
    let redis = Redis::start();
    let (a, b) = (Broker::node(&redis), Broker::node(&redis));
    let mut near = a.client(Version::V311, "near");
    near.subscribe("t", Qos::AtLeastOnce);
    let mut far = b.client(Version::V311, "far");
    far.subscribe("t", Qos::AtLeastOnce);
    let mut publisher = a.client(Version::V5, "p");

    redis.signal("-STOP");
    publisher.publish("t", b"local", Qos::AtMostOnce);
    assert_eq!(near.message().payload, b"local", "local QoS 0 goes on");
    let waiting = std::thread::spawn(move || {
        let reason = publisher.publish_within(SOON * 2, at_least_once(b"held"));
        (publisher, reason)
    });
    assert_eq!(near.message().payload, b"held");
    eventually("health says degraded", SOON * 2, || a.ask("health").1["degraded"] == true);
    let (good, health) = a.ask("health");
    assert!(good && health["live"] == true && health["ready"] == true, "{health}");
    assert!(!waiting.is_finished(), "what is not safe is not acknowledged");
    let refused = Client::refused(a.address, &Connect::new(Version::V5, "new"));
    assert_eq!(refused, ReasonCode::ServerUnavailable);

    redis.signal("-CONT");
    let (mut publisher, reason) = waiting.join().unwrap();
    assert_eq!(reason, ReasonCode::Success);
    eventually("health is good again", SOON * 2, || {
        [&a, &b].iter().all(|node| node.ask("health").1["degraded"] == false)
    });
    for number in 0..50_u32 {
        assert_eq!(publisher.publish("t", &number.to_be_bytes(), Qos::AtLeastOnce), ReasonCode::Success);
    }
    let mut heard = Vec::new();
    while heard.last() != Some(&49_u32.to_be_bytes().to_vec()) {
        heard.push(far.message().payload);
    }
    heard.retain(|payload| payload != b"local");
    let mut expected = vec![b"held".to_vec()];
    expected.extend((0..50_u32).map(|number| number.to_be_bytes().to_vec()));
    assert_eq!(heard, expected, "nothing is lost, nothing comes twice");
    b.client(Version::V5, "new").ping();
}

#[test]
fn the_end_of_a_subscription_is_stored_before_it_is_acknowledged() {
    let redis = Redis::start();
    let node = Broker::node(&redis);
    let mut connect = Connect::new(Version::V5, "kept");
    connect.properties.session_expiry = Some(600);
    let mut kept = Client::connect(node.address, &connect);
    let mut clean = node.client(Version::V311, "clean");
    for client in [&mut kept, &mut clean] {
        client.subscribe("t", Qos::AtLeastOnce);
    }
    redis.signal("-STOP");
    let unsubscribe = |client: &mut Client| {
        let id = client.id();
        client.send(&Packet::Unsubscribe(Unsubscribe::new(id, &["t"])));
        id
    };
    let answer = |client: &mut Client, limit| {
        client.next(limit, |packet| match packet {
            Packet::UnsubAck(ack) => ack.packet_id,
            other => panic!("no UNSUBACK: {other:?}"),
        })
    };
    let id = unsubscribe(&mut clean);
    assert_eq!(answer(&mut clean, SOON), Ok(id), "it has nothing stored");
    let id = unsubscribe(&mut kept);
    assert_eq!(answer(&mut kept, Duration::from_millis(300)), Err(Gone::Silent));
    redis.signal("-CONT");
    assert_eq!(answer(&mut kept, SOON * 2), Ok(id));
}

#[test]
fn what_is_acknowledged_around_a_restart_of_redis_reaches_other_nodes() {
    let mut redis = Redis::start();
    let (a, b) = (Broker::node(&redis), Broker::node(&redis));
    let mut far = b.client(Version::V311, "far");
    far.subscribe("t", Qos::AtLeastOnce);
    let mut publisher = a.client(Version::V5, "p");
    for round in 0..5_u8 {
        redis.kill();
        redis.restart();
        // The publisher's node is back before the other one's inbox, or after it.
        for number in 0..20_u8 {
            let payload = [round, number];
            let publish = at_least_once(&payload);
            assert_eq!(publisher.publish_within(SOON * 2, publish), ReasonCode::Success);
        }
        let heard: Vec<_> = (0..20).map(|_| far.message().payload).collect();
        assert_eq!(heard, (0..20_u8).map(|number| vec![round, number]).collect::<Vec<_>>());
    }
}

#[test]
fn redis_frozen_for_long_is_told_and_does_not_hold_up_a_stop() {
    let redis = Redis::start();
    let mut broker = Broker::node(&redis);
    let mut publisher = broker.client(Version::V5, "p");
    redis.signal("-STOP");
    let reason = publisher.publish_within(Duration::from_secs(20), at_least_once(b"x"));
    assert_eq!(reason, ReasonCode::UnspecifiedError, "refused after a time, neither lost nor kept for ever");
    publisher.ping();
    let stopped = std::time::Instant::now();
    broker.signal("-TERM");
    assert_eq!(publisher.disconnected(), ReasonCode::ServerShuttingDown);
    assert_eq!(broker.wait(), Some(0));
    assert!(stopped.elapsed() < Duration::from_secs(10), "{:?}", stopped.elapsed());
}

#[test]
fn a_redis_user_that_may_not_run_config_is_warned_about_and_works() {
    let redis = Redis::start();
    let rules = ["nsd", "on", ">hush", "~*", "&*", "+@all", "-config"];
    let _: () = redis::cmd("ACL").arg("SETUSER").arg(&rules).query(&mut redis.connection()).unwrap();
    let broker = Broker::start(&format!(
        "allow_anonymous = true\n[store]\nkind = \"redis\"\nurl = \"redis://nsd@127.0.0.1:{}/5\"\npassword = \"hush\"",
        redis.port
    ));
    let log = broker.log();
    assert!(log.contains("WARN") && log.contains("cannot ask for maxmemory-policy"), "{log}");
    let mut client = broker.client(Version::V5, "c");
    client.subscribe("t", Qos::AtLeastOnce);
    assert_eq!(client.publish("kept", b"x", Qos::AtLeastOnce), ReasonCode::Success);
}

#[test]
fn a_password_of_redis_is_never_shown() {
    let mut redis = Redis::with(&["--requirepass", "hush-hush"]);
    let output = Command::new(env!("CARGO_BIN_EXE_nsd-broker"))
        .args(["--store", &format!("redis://:hush-hush@127.0.0.1:{}/5", redis.port)])
        .args(["--listen", &format!("127.0.0.1:{}", port())])
        .env("RUST_LOG", "trace")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64), "arguments are read by everybody on the machine");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("password_file") && !text.contains("hush-hush"), "{text}");

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "hush-hush\n").unwrap();
    let broker = Broker::start(&format!(
        "allow_anonymous = true\n[store]\nkind = \"redis\"\nurl = \"redis://127.0.0.1:{}/5\"\npassword_file = \"{}\"",
        redis.port,
        file.display()
    ));
    broker.client(Version::V5, "c").ping();
    redis.kill();
    eventually("redis is missed", SOON, || broker.log().contains("redis is away"));
    let pid = broker.pid();
    let told = ["ps", "-ww", "-o", "args=", "-p", &pid.to_string()].map(str::to_owned);
    let listed = Command::new(&told[0]).args(&told[1..]).output().unwrap();
    let mut seen = String::from_utf8(listed.stdout).unwrap();
    assert!(seen.contains("nsd-broker"), "{seen}");
    for name in ["cmdline", "environ"] {
        seen += &String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/{name}")).unwrap());
    }
    seen += &broker.log();
    seen += &broker.ask("stats").1.to_string();
    assert!(!seen.contains("hush-hush"), "{seen}");
}

/// A way to Redis that can go dead without a word, as a network does: connections stay open and carry nothing.
struct Way {
    port: u16,
    /// Connections made before the last cut are dead.
    cuts: Arc<AtomicU32>,
}

impl Way {
    fn to(redis: &Redis) -> Self {
        let (port, cuts, target) = (port(), Arc::new(AtomicU32::new(0)), redis.port);
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let now = Arc::clone(&cuts);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(("127.0.0.1", target)) else { return };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (cuts, born) = (Arc::clone(&now), now.load(Ordering::SeqCst));
                    std::thread::spawn(move || carry(from, to, || cuts.load(Ordering::SeqCst) == born));
                }
            }
        });
        Self { port, cuts }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, alive: impl Fn() -> bool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if alive() && to.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
}

#[test]
fn an_inbox_that_went_deaf_without_a_word_is_opened_anew() {
    let redis = Redis::start();
    let way = Way::to(&redis);
    let a = Broker::node(&redis);
    let b = Broker::start(&format!(
        "allow_anonymous = true\n[store]\nkind = \"redis\"\nurl = \"redis://127.0.0.1:{}/5\"",
        way.port
    ));
    let mut far = b.client(Version::V311, "far");
    far.subscribe("t", Qos::AtMostOnce);
    let mut publisher = a.client(Version::V5, "p");
    publisher.publish("t", b"before", Qos::AtLeastOnce);
    assert_eq!(far.message().payload, b"before");
    way.cuts.fetch_add(1, Ordering::SeqCst);
    eventually("the far client hears again", SOON * 5, || {
        publisher.publish("t", b"after", Qos::AtLeastOnce);
        far.message_within(Duration::from_millis(200)).is_some()
    });
}
