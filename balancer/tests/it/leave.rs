//! Sessions that are told to leave: no will of a client that is well, and nothing half said.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nsd_edge::admin::Method;
use nsd_wire::{ReasonCode, Version};
use rustix::process::Signal;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::support::device::{Device, Heard};
use crate::support::witness::Witness;
use crate::support::{Balancer, CHECK, IMPATIENT, Killed, free_address, listen, until};

const BOTH: [(Version, Heard); 2] =
    [(Version::V311, Heard::Ended), (Version::V5, Heard::Disconnect(ReasonCode::AdministrativeAction))];

/// Before this one witness.
async fn before(witness: &Witness) -> Balancer {
    let address = free_address();
    let balancer = Balancer::start(address, &listen(address, CHECK, &[("b1", witness.address)])).await;
    balancer.wait_for_state("b1", "healthy").await;
    balancer
}

/// At once: there is no other server to wait for.
async fn drain(balancer: &Balancer, server: &str) {
    let asked = json!({ "server": server, "rate": "1000/s", "deadline_seconds": 0 });
    let (status, answer) = balancer.ask(Method::POST, "/drain", Some(asked)).await;
    assert!(status.is_success(), "{answer}");
}

/// Bytes of the only session.
async fn moved(balancer: &Balancer, way: &str) -> u64 {
    let (_, summary) = balancer.ask(Method::GET, "/sessions", None).await;
    summary[format!("bytes_{way}")].as_u64().unwrap()
}

#[tokio::test]
async fn mosquitto_fires_no_will_on_a_drain_and_fires_it_when_a_client_dies() {
    let (at, address) = (free_address(), free_address());
    let mosquitto = Command::new("mosquitto")
        .args(["-p", &at.port().to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("mosquitto is installed");
    let _killed = Killed(mosquitto);
    let balancer = Balancer::start(address, &listen(address, CHECK, &[("b1", at)])).await;
    for (version, goodbye) in BOTH {
        balancer.tell("/ready", "b1").await;
        balancer.wait_for_state("b1", "healthy").await;
        let mut watch = Device::persist(at, "watch", Version::V5).await;
        watch.subscribe("will/#").await;
        let mut drained = Device::many(address, "well", 20, version).await;
        drain(&balancer, "b1").await;
        for device in &mut drained {
            assert_eq!(device.hear().await, goodbye);
        }
        until("all have left", async || balancer.server("b1").await["sessions"] == 0).await;
        balancer.tell("/ready", "b1").await;
        balancer.wait_for_state("b1", "healthy").await;
        drop(Device::come(address, "dead", version).await.unwrap());
        // Whatever was fired before would be heard before.
        assert_eq!(watch.hear().await, Heard::Message("will/dead".to_owned()));
    }
    let clean = async || balancer.log().matches("end=\"drained\" clean=true").count() == 40;
    until("each end is told, and is clean", clean).await;
}

#[tokio::test]
async fn a_stopping_balancer_says_goodbye_to_all() {
    let b1 = Witness::start().await;
    let mut balancer = before(&b1).await;
    let mut v3 = Device::many(balancer.address, "three", 20, Version::V311).await;
    let mut v5 = Device::many(balancer.address, "five", 20, Version::V5).await;
    balancer.signal(Signal::TERM);
    for device in &mut v3 {
        assert_eq!(device.hear().await, Heard::Ended);
    }
    for device in &mut v5 {
        assert_eq!(device.hear().await, Heard::Disconnect(ReasonCode::ServerShuttingDown));
        assert_eq!(device.hear().await, Heard::Ended);
    }
    drop((v3, v5));
    assert_eq!(balancer.exited().await.code(), Some(0));
    until("all said goodbye", async || b1.left() == 40).await;
    assert_eq!(b1.vanished(), 0);
}

#[tokio::test]
async fn a_large_message_is_finished_and_acknowledged_before_its_client_leaves() {
    let b1 = Witness::start().await;
    let balancer = before(&b1).await;
    let mut device = Device::come(balancer.address, "large", Version::V5).await.unwrap();
    let message = device.message("t", &[1; 200_000]);
    device.stream.write_all(&message[..100_000]).await.unwrap();
    until("half of it has gone up", async || moved(&balancer, "up").await > 100_000).await;
    drain(&balancer, "b1").await;
    let told = async || balancer.ask(Method::GET, "/moves", None).await.1["moves"][0]["closed"] == 1;
    until("it is told to leave", told).await;
    assert_eq!((b1.left(), b1.messages()), (0, 0));
    // The rest, and a second one that comes too late.
    device.stream.write_all(&message[100_000..]).await.unwrap();
    device.stream.write_all(&message).await.unwrap();
    assert_eq!(device.hear().await, Heard::Other, "PUBACK");
    assert_eq!(device.hear().await, Heard::Disconnect(ReasonCode::AdministrativeAction));
    drop(device);
    until("it has left", async || b1.left() == 1).await;
    assert_eq!((b1.messages(), b1.vanished()), (1, 0));
    balancer.wait_for_log("messages_up=1 messages_down=0").await;
}

#[tokio::test]
async fn who_stays_within_a_packet_is_cut_at_the_deadline_and_its_will_is_right() {
    let b1 = Witness::start().await;
    let balancer = before(&b1).await;
    let mut device = Device::come(balancer.address, "stuck", Version::V311).await.unwrap();
    let message = device.message("t", &[1; 1000]);
    device.stream.write_all(&message[..500]).await.unwrap();
    until("half of it has gone up", async || moved(&balancer, "up").await > 500).await;
    let begun = Instant::now();
    drain(&balancer, "b1").await;
    assert_eq!(device.hear().await, Heard::Ended);
    assert!(begun.elapsed() >= Duration::from_millis(2900));
    until("its server sees it vanish", async || b1.vanished() == 1).await;
    assert_eq!(b1.left(), 0);
    balancer.wait_for_log("end=\"drained\" clean=false").await;
}

/// It does not take what its server sends, and still its server is told, and others go on.
#[tokio::test]
async fn a_slow_reader_keeps_nobody_and_its_server_is_told() {
    let b1 = Witness::start().await;
    let balancer = before(&b1).await;
    let mut slow = Device::come(balancer.address, "slow", Version::V5).await.unwrap();
    let flood = slow.message("flood", b"");
    slow.stream.write_all(&flood).await.unwrap();
    until("it is sent more than it takes", async || moved(&balancer, "down").await > 1_000_000).await;
    drain(&balancer, "b1").await;
    until("its session is over", async || balancer.server("b1").await["sessions"] == 0).await;
    balancer.wait_for_log("end=\"drained\"").await;
    assert!(balancer.log().contains("clean=true"), "{}", balancer.log());
}

/// Nobody is told DISCONNECT in the name of a client whose server is dead, and not all clients come back at once.
#[tokio::test]
async fn sessions_of_a_frozen_server_are_closed_in_waves() {
    let b1 = Witness::start().await;
    let address = free_address();
    let options = format!("close_rate = \"100/s\"\n{IMPATIENT}");
    let balancer = Balancer::start(address, &listen(address, &options, &[("b1", b1.address)])).await;
    let devices = Device::many(address, "device", 500, Version::V5).await;
    b1.freeze();
    balancer.wait_for_state("b1", "unhealthy").await;
    let mut ends = tokio::task::JoinSet::new();
    for mut device in devices {
        ends.spawn(async move { (device.hear().await, Instant::now()) });
    }
    let ends = ends.join_all().await;
    assert!(ends.iter().all(|(heard, _)| *heard == Heard::Ended), "a plain close");
    let (first, last) = (ends.iter().map(|end| end.1).min(), ends.iter().map(|end| end.1).max());
    let took = last.unwrap() - first.unwrap();
    println!("500 sessions at 100/s: closed within {took:?}");
    assert!(took > Duration::from_secs(2), "{took:?}");
    until("all are counted out", async || balancer.server("b1").await["sessions"] == 0).await;
    let told = async || balancer.log().matches("end=\"server-down\"").count() == 500;
    until("each end is told", told).await;
    assert_eq!(b1.left(), 0);
}
