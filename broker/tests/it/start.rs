//! Starting, checking, stopping.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use nsd_wire::{Qos, ReasonCode, Version};

use crate::support::{Broker, Redis, SOON, eventually, port};

fn broker(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_nsd-broker")).args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn check_lists_all_problems_and_tells_by_its_code() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("b.toml");
    let path = file.display().to_string();
    std::fs::write(&file, "nod = 1\n[[listen]]\naddress = \"x\"\n").unwrap();
    let (code, text) = broker(&["--config", &path, "--check"]);
    assert_eq!(code, Some(65));
    assert!(
        text.contains(":1: nod: unknown key: did you mean `node`?") && text.contains(":3: listen.address"),
        "{text}"
    );
    std::fs::write(&file, "[[listen]]\naddress = \"127.0.0.1:1\"\n").unwrap();
    assert_eq!(broker(&["--config", &path, "--check"]), (Some(0), String::new()));
    assert_eq!(broker(&["--config", "/no/such/file", "--check"]).0, Some(65));
    assert_eq!(broker(&["--no-such-flag"]).0, Some(64));
}

#[test]
fn a_start_that_cannot_be_says_why_in_a_line() {
    let address = format!("127.0.0.1:{}", port());
    let _taken = std::net::TcpListener::bind(&address).unwrap();
    let (code, text) = broker(&["--store", "memory", "--listen", &address]);
    assert_eq!(
        (code, text.lines().filter(|line| line.starts_with("nsd-broker:")).count()),
        (Some(1), 1),
        "{text}"
    );
    assert!(text.contains(&address) && text.contains("listens there already"), "{text}");
    let nobody = format!("redis://127.0.0.1:{}/1", port());
    let (code, text) = broker(&["--store", &nobody, "--listen", &format!("127.0.0.1:{}", port())]);
    assert_eq!(code, Some(1));
    assert!(text.contains("cannot reach redis 127.0.0.1"), "{text}");
}

#[test]
fn a_redis_that_throws_keys_away_is_refused() {
    let redis = Redis::with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let (code, text) = broker(&["--store", &redis.url(), "--listen", &format!("127.0.0.1:{}", port())]);
    assert_eq!(code, Some(1));
    assert!(text.contains("allkeys-lru") && text.contains("noeviction"), "{text}");
}

#[test]
fn a_graceful_stop_tells_clients_and_ends_well() {
    let redis = Redis::start();
    for mut broker in [Broker::anonymous(), Broker::node(&redis)] {
        let mut v5 = broker.client(Version::V5, "v5");
        let mut v3 = broker.client(Version::V311, "v3");
        v5.subscribe("t", Qos::AtLeastOnce);
        v3.publish("t", b"last", Qos::AtLeastOnce);
        broker.signal("-TERM");
        assert_eq!(v5.message().payload, b"last");
        assert_eq!(v5.disconnected(), ReasonCode::ServerShuttingDown);
        assert!(v5.is_closed(SOON) && v3.is_closed(SOON));
        assert_eq!(broker.wait(), Some(0));
        assert!(!broker.socket.exists(), "the admin socket is gone");
    }
}

/// A connection that says nothing, as of who looks whether the port is open.
#[test]
fn a_graceful_stop_does_not_wait_for_who_is_no_client() {
    for (mut broker, beginning) in
        [(Broker::anonymous(), b"\x10"), (Broker::listening("websocket = true"), b"G")]
    {
        let mut silent = TcpStream::connect(broker.address).unwrap();
        let mut begun = TcpStream::connect(broker.address).unwrap();
        begun.write_all(beginning).unwrap();
        eventually("they have come", SOON, || broker.ask("stats").1["listeners"][0]["open"] == 2);
        broker.signal("-TERM");
        for socket in [&mut silent, &mut begun] {
            socket.set_read_timeout(Some(SOON)).unwrap();
            assert!(matches!(socket.read(&mut [0]), Ok(0)));
        }
        assert_eq!(broker.wait(), Some(0));
        assert!(!broker.log().contains("cut off"), "they were told");
    }
}

#[test]
fn a_drain_by_the_admin_socket_is_a_graceful_stop() {
    let mut broker = Broker::anonymous();
    let mut client = broker.client(Version::V5, "c");
    let (good, health) = broker.ask("health");
    assert!(good && health["ready"] == true && health["clients"] == 1, "{health}");
    assert!(broker.ask("stop").0);
    assert_eq!(client.disconnected(), ReasonCode::ServerShuttingDown);
    assert_eq!(broker.wait(), Some(0));
    eventually("nobody answers", SOON, || !broker.ask("health").0);
}
