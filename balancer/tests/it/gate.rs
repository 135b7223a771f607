//! The CONNECT gate: who is let in, what the others are told, and what a server that fails costs.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nsd_wire::{Connect, Version, Will};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::broker::Mood;
use crate::support::{
    Balancer, Broker, CHECK, Client, PATIENCE, UNCHECKED, free_address, listen, servers, until,
};

/// With checks, and this gate.
async fn gated(gate: &str, brokers: &[&Broker]) -> Balancer {
    with(&format!("{CHECK}\ngate = {{ {gate} }}"), brokers).await
}

async fn with(options: &str, brokers: &[&Broker]) -> Balancer {
    let address = free_address();
    Balancer::start(address, &listen(address, options, &servers(&["b1", "b2", "b3"], brokers))).await
}

fn connect(version: Version, id: &str) -> Vec<u8> {
    encoded(&Connect::new(version, id))
}

fn encoded(connect: &Connect<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    connect.encode(connect.version, &mut bytes).unwrap();
    bytes
}

/// Sends all of it, and reads until the other side ends.
async fn told(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A refusal may come before all was sent.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("the connection is ended");
    answer
}

fn refusal(version: Version, v3: u8, v5: u8) -> Vec<u8> {
    if version.is_v5() { vec![0x20, 3, 0, v5, 0] } else { vec![0x20, 2, 0, v3] }
}

#[tokio::test]
async fn every_rule_is_told_in_the_clients_version_and_logged() {
    let b1 = Broker::start("b1").await;
    for (rule, reason, v3, v5) in [
        ("max_client_id = 5", "client-id-refused", 2, 0x85),
        ("require_user_name = true", "user-name-missing", 5, 0x87),
        ("max_keep_alive = \"30s\"", "keep-alive-refused", 5, 0x87),
        ("versions = [\"3.1\"]", "version-refused", 1, 0x84),
    ] {
        let balancer = gated(rule, &[&b1]).await;
        for version in [Version::V311, Version::V5] {
            let answer = told(balancer.address, &connect(version, "device")).await;
            assert_eq!(answer, refusal(version, v3, v5), "{rule} for {version:?}");
        }
        balancer.wait_for_log("id=\"device\" server=\"-\"").await;
        balancer.wait_for_log(&format!("end=\"{reason}\"")).await;
    }
    let balancer = gated("empty_client_id = false", &[&b1]).await;
    for version in [Version::V311, Version::V5] {
        assert_eq!(told(balancer.address, &connect(version, "")).await, refusal(version, 2, 0x85));
    }
    Client::connect(balancer.address).await.expect("one with an identifier is let in");
    assert_eq!(b1.total(), 1, "no other one has touched a server");
}

#[tokio::test]
async fn slow_and_half_connects_are_cut_while_others_go_on() {
    let b1 = Broker::start("b1").await;
    let balancer = gated("deadline = \"6s\"", &[&b1]).await;
    let begun = Instant::now();
    let slow = connect(Version::V311, "slow");
    let mut loris = Vec::new();
    for cut in (0..40).map(|n| n % slow.len()) {
        let mut stream = TcpStream::connect(balancer.address).await.unwrap();
        stream.write_all(&slow[..cut]).await.unwrap();
        loris.push(stream);
    }
    let mut served = Client::connect(balancer.address).await.unwrap();
    for stream in loris {
        served.echo(b"established").await.unwrap();
        Client::connect(balancer.address).await.expect("new clients come in");
        let mut stream = stream;
        let mut rest = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        let _ = read.expect("a slow client is cut");
        assert!(rest.is_empty());
    }
    assert!(begun.elapsed() >= Duration::from_secs(6));
    balancer.wait_for_log("end=\"connect-timeout\"").await;
    assert_eq!(b1.total(), 41, "the slow ones have touched no server");
}

#[tokio::test]
async fn one_byte_at_a_time_does_not_stretch_the_deadline() {
    let b1 = Broker::start("b1").await;
    let balancer = gated("deadline = \"500ms\"", &[&b1]).await;
    let mut stream = TcpStream::connect(balancer.address).await.unwrap();
    let begun = Instant::now();
    // It would be complete after ten minutes.
    for byte in connect(Version::V311, &"x".repeat(60_000)) {
        assert!(begun.elapsed() < PATIENCE, "it is never cut");
        tokio::time::sleep(Duration::from_millis(10)).await;
        if stream.write_all(&[byte]).await.is_err() {
            break;
        }
    }
    balancer.wait_for_log("end=\"connect-timeout\"").await;
}

#[tokio::test]
async fn a_connect_cut_at_any_byte_comes_through() {
    let b1 = Broker::start("b1").await;
    let balancer = gated("", &[&b1]).await;
    let bytes = connect(Version::V311, "device");
    for cut in 1..bytes.len() {
        let mut stream = TcpStream::connect(balancer.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(&bytes[..cut]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(3)).await;
        stream.write_all(&bytes[cut..]).await.unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [0x20, 2, 0, 0], "cut at {cut}");
    }
}

#[tokio::test]
async fn what_follows_the_connect_at_once_arrives_in_order() {
    let b1 = Broker::start("b1").await;
    let balancer = gated("", &[&b1]).await;
    for behind in [0, 1, 100, 5000, 300_000] {
        let mut bytes = connect(Version::V311, "device");
        let mut sent = b"\x82\x06\0\x01\0\x01a\0\x30\x05\0\x01ahi".to_vec();
        sent.extend((0..behind).map(|n: u32| u8::try_from(n % 251).unwrap()));
        bytes.extend_from_slice(&sent);
        let (mut read, mut write) = TcpStream::connect(balancer.address).await.unwrap().into_split();
        let sender = tokio::spawn(async move {
            write.write_all(&bytes).await.unwrap();
            write
        });
        // CONNACK, the PUBLISH with the broker's name, and the echo.
        let mut back = vec![0; 4 + 6 + sent.len()];
        tokio::time::timeout(PATIENCE, read.read_exact(&mut back)).await.unwrap().unwrap();
        assert_eq!(back[..4], [0x20, 2, 0, 0]);
        assert!(back[10..] == sent, "{behind} bytes behind");
        drop(sender.await.unwrap());
    }
}

#[tokio::test]
async fn a_will_of_64_kib_passes_and_over_the_cap_the_client_is_told() {
    let b1 = Broker::start("b1").await;
    let balancer = gated("max_connect = 70000", &[&b1]).await;
    let payload = vec![7; 65_535];
    let will = Some(Will::new("w", &payload));
    for version in [Version::V311, Version::V5] {
        let with_will = Connect { will, ..Connect::new(version, "device") };
        let mut stream = TcpStream::connect(balancer.address).await.unwrap();
        stream.write_all(&encoded(&with_will)).await.unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer[3], 0, "{version:?}");
        let password = vec![7; 8000];
        let larger = Connect { user_name: Some("u"), password: Some(&password), ..with_will };
        assert_eq!(told(balancer.address, &encoded(&larger)).await, refusal(version, 3, 0x95));
    }
    balancer.wait_for_log("end=\"connect-too-large\"").await;
    assert_eq!(
        told(balancer.address, b"\x10\xff\xff\xff\x7f\0\x04MQTT\x05").await,
        refusal(Version::V5, 3, 0x95)
    );
    assert_eq!(b1.total(), 2);
}

#[tokio::test]
async fn what_is_no_mqtt_is_closed_without_touching_a_server() {
    let b1 = Broker::start("b1").await;
    let balancer = gated("", &[&b1]).await;
    let mut noise = vec![0; 20_000];
    for _ in 0..50 {
        make_noise(&mut noise);
        told(balancer.address, &noise).await;
    }
    assert_eq!(told(balancer.address, b"GET / HTTP/1.1\r\n\r\n").await, b"");
    balancer.wait_for_log("end=\"not-mqtt\"").await;
    assert_eq!(told(balancer.address, b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03").await, b"");
    balancer.wait_for_log("end=\"tls-on-plain-port\"").await;
    assert_eq!(told(balancer.address, b"\x10\x0d\0\x04MQTT\x04\x03\0\x0a\0\x01d").await, b"");
    balancer.wait_for_log("end=\"connect-malformed\"").await;
    assert_eq!(b1.total(), 0);
}

/// Bytes that are different each time; what they are does not matter.
fn make_noise(bytes: &mut [u8]) {
    use std::hash::{BuildHasher, RandomState};
    let keys = RandomState::new();
    for (at, chunk) in bytes.chunks_mut(8).enumerate() {
        chunk.copy_from_slice(&keys.hash_one(at).to_le_bytes()[..chunk.len()]);
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_its_connect_is_complete_is_forgotten() {
    let b1 = Broker::start("b1").await;
    let balancer = gated("", &[&b1]).await;
    let mut stream = TcpStream::connect(balancer.address).await.unwrap();
    stream.write_all(&connect(Version::V311, "device")[..7]).await.unwrap();
    drop(stream);
    balancer.wait_for_log("end=\"connect-unfinished\"").await;
}

/// Whatever the first servers do, the client comes to the one that is well.
#[tokio::test]
async fn a_connect_goes_to_the_next_server_when_one_fails() {
    for mood in [Mood::Closing, Mood::Unavailable, Mood::Frozen] {
        let (b1, b2, b3) = (Broker::start("b1").await, Broker::start("b2").await, Broker::start("b3").await);
        b1.set(mood);
        b2.set(mood);
        let options = format!("{UNCHECKED}\ngate = {{ answer_timeout = \"3s\" }}");
        let balancer = with(&options, &[&b1, &b2, &b3]).await;
        assert_eq!(Client::connect(balancer.address).await.unwrap().broker, "b3");
        // A v5 client is understood as well.
        let mut stream = TcpStream::connect(balancer.address).await.unwrap();
        stream.write_all(&connect(Version::V5, "device")).await.unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [0x20, 3, 0, 0, 0]);
        assert_eq!(balancer.server("b1").await["state"], "healthy", "a client cannot take a server out");
    }
}

#[tokio::test]
async fn without_any_server_clients_are_told_so() {
    let (mut b1, b2) = (Broker::start("b1").await, Broker::start("b2").await);
    b1.stop().await;
    b2.set(Mood::Unavailable);
    let balancer = with(UNCHECKED, &[&b1, &b2]).await;
    for version in [Version::V311, Version::V5] {
        let answer = told(balancer.address, &connect(version, "device")).await;
        assert_eq!(answer, refusal(version, 3, 0x88));
    }
    balancer.wait_for_log("end=\"no-server\"").await;
}

#[tokio::test]
async fn the_seat_at_a_server_that_failed_is_given_back() {
    let (b1, b2) = (Broker::start("b1").await, Broker::start("b2").await);
    b1.set(Mood::Closing);
    let balancer = with(UNCHECKED, &[&b1, &b2]).await;
    let _clients = Client::many(balancer.address, 4).await;
    assert_eq!(balancer.server("b1").await["sessions"], 0);
    assert_eq!(balancer.server("b2").await["sessions"], 4);
}

#[tokio::test]
async fn who_comes_too_often_is_told_and_a_reload_does_not_forget_it() {
    let b1 = Broker::start("b1").await;
    let rules = "client_rate = { per_minute = 1, burst = 2 }, source_rate = { per_minute = 1, burst = 6 }";
    let balancer = gated(rules, &[&b1]).await;
    let came = async |version, id| {
        let mut stream = TcpStream::connect(balancer.address).await.unwrap();
        stream.write_all(&connect(version, id)).await.unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.unwrap();
        answer[3]
    };
    assert_eq!(came(Version::V311, "one").await, 0);
    assert_eq!(came(Version::V311, "one").await, 0);
    assert_eq!(came(Version::V311, "one").await, 3);
    assert_eq!(came(Version::V5, "one").await, 0x9f);
    balancer.wait_for_log("end=\"client-rate\"").await;
    assert_eq!(came(Version::V311, "two").await, 0, "another one is let in");

    let options = format!("{CHECK}\non_down = \"keep\"\ngate = {{ {rules} }}");
    balancer.rewrite(&listen(balancer.address, &options, &servers(&["b1"], &[&b1])));
    balancer.wait_for_log("reloaded: ~mqtt policy").await;
    assert_eq!(came(Version::V5, "one").await, 0x9f);
    assert_eq!(came(Version::V5, "three").await, 0x9f, "six were enough from this source");
    balancer.wait_for_log("end=\"source-rate\"").await;
}

/// The brokers of these tests have no keep alive of their own: only the balancer notices.
#[tokio::test]
async fn a_client_that_is_silent_for_longer_than_its_keep_alive_is_closed() {
    let b1 = Broker::start("b1").await;
    let balancer = gated("keep_alive_grace = \"4500ms\"", &[&b1]).await;
    // One and a half of its keep alive, and the grace.
    let longest = Duration::from_secs(6);
    let came = async |id, keep_alive| {
        let mut stream = TcpStream::connect(balancer.address).await.unwrap();
        let told = Connect { keep_alive, ..Connect::new(Version::V311, id) };
        stream.write_all(&encoded(&told)).await.unwrap();
        let mut answer = [0; 10];
        stream.read_exact(&mut answer).await.unwrap();
        stream
    };
    let begun = Instant::now();
    let (mut frozen, mut alive, mut endless) = (came("a", 1).await, came("b", 1).await, came("c", 0).await);
    let mut byte = [0; 2];
    while b1.sessions() > 2 {
        assert!(begun.elapsed() < PATIENCE, "the silent one is never closed");
        tokio::time::sleep(Duration::from_millis(400)).await;
        alive.write_all(b"\xc0\0").await.unwrap();
        alive.read_exact(&mut byte).await.unwrap();
    }
    assert!(begun.elapsed() > longest, "too early for anybody");
    assert_eq!(frozen.read(&mut byte).await.unwrap(), 0);
    balancer.wait_for_log("end=\"client-silent\"").await;
    alive.write_all(b"\xc0\0").await.unwrap();
    alive.read_exact(&mut byte).await.unwrap();
    endless.write_all(b"\xc0\0").await.unwrap();
    endless.read_exact(&mut byte).await.unwrap();
}

/// By a reload, for those who come from then on.
#[tokio::test]
async fn a_client_without_keep_alive_is_silent_when_the_settings_say_so() {
    let b1 = Broker::start("b1").await;
    let balancer = gated("", &[&b1]).await;
    let came = async |id| {
        let mut stream = TcpStream::connect(balancer.address).await.unwrap();
        let told = Connect { keep_alive: 0, ..Connect::new(Version::V311, id) };
        stream.write_all(&encoded(&told)).await.unwrap();
        stream.read_exact(&mut [0; 10]).await.unwrap();
        stream
    };
    let mut before = came("before").await;
    let options = format!("{CHECK}\ngate = {{ silent_after = \"6s\" }}");
    balancer.rewrite(&listen(balancer.address, &options, &servers(&["b1"], &[&b1])));
    balancer.wait_for_log("reloaded: ~mqtt gate").await;
    let (mut silent, mut speaks) = (came("silent").await, came("speaks").await);
    let mut byte = [0; 2];
    let begun = Instant::now();
    while b1.sessions() > 2 {
        assert!(begun.elapsed() < PATIENCE, "the silent one is never closed");
        tokio::time::sleep(Duration::from_millis(400)).await;
        speaks.write_all(b"\xc0\0").await.unwrap();
        speaks.read_exact(&mut byte).await.unwrap();
    }
    assert_eq!(silent.read(&mut byte).await.unwrap(), 0);
    balancer.wait_for_log("id=\"silent\"").await;
    assert_eq!(balancer.log().matches("end=\"client-silent\"").count(), 1);
    for stream in [&mut before, &mut speaks] {
        stream.write_all(b"\xc0\0").await.unwrap();
        stream.read_exact(&mut byte).await.unwrap();
    }
}

#[tokio::test]
async fn a_reload_changes_the_gate_for_those_who_come_and_leaves_those_who_are_there() {
    let b1 = Broker::start("b1").await;
    let balancer = gated("", &[&b1]).await;
    let mut old = Client::connect(balancer.address).await.unwrap();
    let section = |rest: &str| listen(balancer.address, rest, &servers(&["b1"], &[&b1]));
    balancer.rewrite(&section(&format!("{CHECK}\ngate = {{ require_user_name = true }}")));
    balancer.wait_for_log("reloaded: ~mqtt gate").await;
    let answer = told(balancer.address, &connect(Version::V311, "device")).await;
    assert_eq!(answer, refusal(Version::V311, 5, 0x87));
    old.echo(b"still here").await.unwrap();
    balancer.rewrite(&section(&format!("{CHECK}\nmode = \"tcp\"")));
    until("clients are no longer judged", async || Client::connect(balancer.address).await.is_ok()).await;
    old.echo(b"still here").await.unwrap();
}

#[tokio::test]
async fn in_tcp_mode_nothing_is_judged() {
    let b1 = Broker::start("b1").await;
    let balancer = with(&format!("mode = \"tcp\"\n{CHECK}"), &[&b1]).await;
    // A broker ends who begins with a PINGREQ; here the server has to find out itself.
    told(balancer.address, b"\xc0\0").await;
    balancer.wait_for_log("server=\"b1\" ms=").await;
}

/// What the gate needs is gone once a client has passed.
#[tokio::test]
async fn a_passed_client_takes_no_more_memory_than_one_that_was_not_judged() {
    let b1 = Broker::start("b1").await;
    let mut grown = Vec::new();
    for mode in ["tcp", "mqtt"] {
        let balancer = with(&format!("mode = \"{mode}\"\ncheck = {{ kind = \"none\" }}"), &[&b1]).await;
        let mut clients = Client::many(balancer.address, 500).await;
        let before = balancer.resident();
        clients.extend(Client::many(balancer.address, 2000).await);
        grown.push(balancer.resident().saturating_sub(before));
    }
    println!("2000 idle sessions take {} KiB without and {} KiB with the gate", grown[0], grown[1]);
    assert!(grown[1] < grown[0] + 1000, "{grown:?}");
}
