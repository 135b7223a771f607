//! Drains that follow clients, and rebalances.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use nsd_edge::admin::{Method, StatusCode};
use nsd_wire::Version;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::device::{Device, Heard};
use crate::support::witness::Witness;
use crate::support::{BINARY, Balancer, CHECK, IMPATIENT, free_address, listen, until};

fn named<'n>(witnesses: &[&Witness]) -> Vec<(&'n str, SocketAddr)> {
    ["b1", "b2", "b3"].into_iter().zip(witnesses.iter().map(|witness| witness.address)).collect()
}

async fn before(options: &str, witnesses: &[&Witness]) -> Balancer {
    checking(CHECK, options, witnesses).await
}

async fn checking(check: &str, options: &str, witnesses: &[&Witness]) -> Balancer {
    let address = free_address();
    let settings = listen(address, &format!("{options}\n{check}"), &named(witnesses));
    let balancer = Balancer::start(address, &settings).await;
    for (name, _) in named(witnesses) {
        balancer.wait_for_state(name, "healthy").await;
    }
    balancer
}

/// Devices that come back, each time they are sent away, until dropped.
struct Fleet(Vec<JoinHandle<()>>);

impl Fleet {
    fn of(address: SocketAddr, devices: Vec<Device>) -> Self {
        Self(devices.into_iter().map(|device| tokio::spawn(stay(address, device))).collect())
    }
}

async fn stay(address: SocketAddr, mut device: Device) {
    loop {
        if matches!(device.hear_at_last().await, Heard::Ended | Heard::Broken) {
            device = Device::persist(address, &device.id, Version::V5).await;
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

async fn rebalanced(balancer: &Balancer, rate: &str) {
    balancer.ask(Method::POST, "/rebalance", Some(json!({ "rate": rate }))).await;
    until("it is over", async || moves(balancer).await["stage"] == "done").await;
}

async fn moves(balancer: &Balancer) -> Value {
    let (_, answer) = balancer.ask(Method::GET, "/moves", None).await;
    answer["moves"].as_array().unwrap().last().cloned().unwrap_or(Value::Null)
}

async fn sessions(balancer: &Balancer, server: &str) -> u64 {
    balancer.server(server).await["sessions"].as_u64().unwrap()
}

#[tokio::test]
async fn a_drain_at_a_rate_moves_all_sessions_and_counts_them() {
    let [b1, b2, b3] = [Witness::start().await, Witness::start().await, Witness::start().await];
    let balancer = before("", &[&b1, &b2, &b3]).await;
    let devices = Device::many(balancer.address, "device", 501, Version::V5).await;
    assert_eq!((b1.sessions(), b2.sessions(), b3.sessions()), (167, 167, 167));
    let fleet = Fleet::of(balancer.address, devices);
    let asked = json!({ "server": "b1", "rate": "200/s" });
    let (_, answer) = balancer.ask(Method::POST, "/drain", Some(asked)).await;
    assert_eq!(answer["servers"][0]["state"], "draining", "{answer}");
    until("the drain is over", async || moves(&balancer).await["stage"] == "done").await;
    let report = moves(&balancer).await;
    for (key, value) in [
        ("planned", 167),
        ("closed", 167),
        ("moved", 167),
        ("returned_to_it", 0),
        ("not_returned", 0),
        ("failed", 0),
        ("unfollowed", 0),
    ] {
        assert_eq!(report[key], value, "{key} of {report}");
    }
    assert_eq!((report["kind"].as_str(), report["server"].as_str()), (Some("drain"), Some("b1")), "{report}");
    assert_eq!(report["moved_to"]["b2"].as_u64().unwrap() + report["moved_to"]["b3"].as_u64().unwrap(), 167);
    until("all have left b1", async || (b1.left(), b1.sessions()) == (167, 0)).await;
    assert_eq!(b1.vanished(), 0);
    assert_eq!((b2.left(), b3.left(), b2.sessions() + b3.sessions()), (0, 0, 501));
    drop(fleet);
}

#[tokio::test]
async fn a_drain_tells_who_does_not_return_and_who_is_refused_until_it_is_ended() {
    let (b1, b2) = (Witness::start().await, Witness::start().await);
    let balancer = before("", &[&b1, &b2]).await;
    let mut devices = Device::many(balancer.address, "device", 10, Version::V311).await;
    let asked = json!({ "server": "b1", "rate": "1000/s" });
    balancer.ask(Method::POST, "/drain", Some(asked)).await;
    let closed = async || moves(&balancer).await["stage"] == "following";
    until("b1 is empty", closed).await;
    until("all have left", async || sessions(&balancer, "b1").await == 0).await;
    let mut gone = Vec::new();
    for device in &mut devices {
        let (status, _) = balancer.ask(Method::GET, &format!("/who?client={}", device.id), None).await;
        if status == StatusCode::NOT_FOUND {
            assert_eq!(device.hear().await, Heard::Ended);
            gone.push(device.id.clone());
        }
    }
    assert_eq!(gone.len(), 5);
    let _back = Device::come(balancer.address, &gone[0], Version::V311).await.unwrap();
    b2.refuse(true);
    assert!(Device::come(balancer.address, &gone[1], Version::V311).await.is_err());
    let counts = async || {
        let report = moves(&balancer).await;
        ["moved", "failed", "not_returned"].map(|key| report[key].as_u64().unwrap())
    };
    until("one has moved, one failed, three are away", async || counts().await == [1, 1, 3]).await;
    // Who failed may still come.
    b2.refuse(false);
    let _late = Device::come(balancer.address, &gone[1], Version::V311).await.unwrap();
    until("two have moved", async || counts().await == [2, 0, 3]).await;
    balancer.tell("/ready", "b1").await;
    until("it is ended", async || moves(&balancer).await["stage"] == "stopped").await;
}

#[tokio::test]
async fn a_drain_can_be_stopped_and_its_deadline_closes_the_rest() {
    let (b1, b2) = (Witness::start().await, Witness::start().await);
    let balancer = before("", &[&b1, &b2]).await;
    let devices = Device::many(balancer.address, "device", 40, Version::V5).await;
    let run = |arguments: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(["admin", "--socket"]).arg(balancer.path("admin.sock")).args(arguments);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(run(&["drain", "b1", "--rate", "1/min"]).0, Some(0));
    until("one has left", async || sessions(&balancer, "b1").await == 19).await;
    assert_eq!(run(&["drain", "b1", "--stop"]).0, Some(0));
    until("it is stopped", async || moves(&balancer).await["stage"] == "stopped").await;
    assert_eq!((sessions(&balancer, "b1").await, b1.left()), (19, 1), "the others stay");
    assert_eq!(run(&["drain", "b9", "--stop"]).0, Some(1), "there is no such server");
    assert_eq!(run(&["drain", "b1", "--rate", "1/min"]).0, Some(0));
    until("one more has left", async || sessions(&balancer, "b1").await == 18).await;
    assert_eq!(run(&["drain", &b1.address.to_string(), "--stop"]).0, Some(0));
    until("it is stopped by the address", async || moves(&balancer).await["stage"] == "stopped").await;
    let (code, text) = run(&["drain", "b1", "--rate", "20/min", "--deadline", "1s"]);
    assert!(code == Some(0) && text.contains("draining"), "{text}");
    until("all have left", async || b1.left() == 20).await;
    let report = run(&["moves"]).1;
    assert!(report.contains("\"closed\": 18") && report.contains("\"not_returned\": 18"), "{report}");
    assert_eq!(run(&["drain", "b1", "--rate", "fast"]).0, Some(64));
    assert_eq!(run(&["drain", "b1", "--rate", "1/s", "--deadline", "8days"]).0, Some(64));
    for deadline in [8 * 24 * 3600, u64::MAX] {
        let asked = json!({ "server": "b1", "rate": "1/s", "deadline_seconds": deadline });
        let (status, answer) = balancer.ask(Method::POST, "/drain", Some(asked)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
        assert!(answer.to_string().contains("at most 7 days"), "{answer}");
    }
    drop(devices);
}

#[tokio::test]
async fn who_ends_by_itself_meanwhile_was_not_sent_away() {
    let (b1, b2) = (Witness::start().await, Witness::start().await);
    let balancer = before("", &[&b1]).await;
    let mut devices = Device::many(balancer.address, "device", 5, Version::V5).await;
    balancer.rewrite(&listen(balancer.address, CHECK, &named(&[&b1, &b2])));
    balancer.wait_for_state("b2", "healthy").await;
    balancer.ask(Method::POST, "/drain", Some(json!({ "server": "b1", "rate": "15/min" }))).await;
    until("one was sent away", async || b1.left() == 1).await;
    devices.clear();
    until("all have gone", async || sessions(&balancer, "b1").await == 0).await;
    until("that is seen", async || moves(&balancer).await["stage"] == "following").await;
    let report = moves(&balancer).await;
    let closed = report["closed"].as_u64().unwrap();
    assert!(closed <= 2 && report["not_returned"] == closed, "{report}");
}

#[tokio::test]
async fn a_drain_sends_nobody_away_who_has_nowhere_to_go() {
    let (b1, b2) = (Witness::start().await, Witness::start().await);
    let balancer = before("", &[&b1]).await;
    let devices = Device::many(balancer.address, "device", 10, Version::V311).await;
    let asked = json!({ "server": "b1", "rate": "1000/s" });
    balancer.ask(Method::POST, "/drain", Some(asked)).await;
    until("it waits", async || moves(&balancer).await["stage"] == "waiting").await;
    assert_eq!((sessions(&balancer, "b1").await, b1.left()), (10, 0));
    balancer.rewrite(&listen(balancer.address, CHECK, &named(&[&b1, &b2])));
    until("b1 is empty", async || b1.left() == 10).await;
    assert_eq!(moves(&balancer).await["closed"], 10);
    drop(devices);
}

#[tokio::test]
async fn a_rebalance_moves_the_excess_to_a_server_that_joined() {
    let [b1, b2, b3] = [Witness::start().await, Witness::start().await, Witness::start().await];
    let balancer = before("", &[&b1, &b2]).await;
    let devices = Device::many(balancer.address, "device", 1000, Version::V5).await;
    let fleet = Fleet::of(balancer.address, devices);
    balancer.rewrite(&listen(balancer.address, CHECK, &named(&[&b1, &b2, &b3])));
    balancer.wait_for_log("reloaded: mqtt: +b3, mqtt: 334 of 1000 sessions above fair share").await;
    balancer.wait_for_state("b3", "healthy").await;
    let (_, plan) = balancer.ask(Method::POST, "/rebalance", Some(json!({ "dry_run": true }))).await;
    assert_eq!(plan["plan"][0]["plan"], "334 of 1000 sessions above fair share", "{plan}");
    assert_eq!(plan["plan"][0]["from"], json!([["b1", 167], ["b2", 167]]), "{plan}");
    assert_eq!((b3.sessions(), moves(&balancer).await), (0, Value::Null), "nothing was done");
    rebalanced(&balancer, "400/s").await;
    let report = moves(&balancer).await;
    assert_eq!((&report["closed"], &report["moved"]), (&334.into(), &334.into()), "{report}");
    // Where one more weighs the same, a client may take the other.
    let even = async || {
        let mut shares = [b1.sessions(), b2.sessions(), b3.sessions()];
        shares.sort_unstable();
        shares == [333, 333, 334]
    };
    until("all have their share", even).await;
    assert_eq!((b1.left(), b2.left(), b1.vanished() + b2.vanished()), (167, 167, 0));
    // The youngest were moved: the first of all devices are where they were.
    let (_, first) = balancer.ask(Method::GET, "/who?client=device-0", None).await;
    assert_ne!(first["sessions"][0]["server"], "b3", "{first}");
    balancer.ask(Method::POST, "/rebalance", Some(json!({}))).await;
    assert_eq!(moves(&balancer).await["closed"], 334, "there is nothing left to move");
    drop(fleet);
}

#[tokio::test]
async fn where_the_settings_say_so_it_begins_by_itself() {
    let (b1, b2) = (Witness::start().await, Witness::start().await);
    let rebalance = "rebalance = { rate = \"500/s\", threshold = 10, after = \"200ms\" }";
    let balancer = before(rebalance, &[&b1]).await;
    let devices = Device::many(balancer.address, "device", 100, Version::V5).await;
    let fleet = Fleet::of(balancer.address, devices);
    let options = format!("{rebalance}\n{CHECK}");
    balancer.rewrite(&listen(balancer.address, &options, &named(&[&b1, &b2])));
    until("half of them are at b2", async || (b1.sessions(), b2.sessions()) == (50, 50)).await;
    until("it is over", async || moves(&balancer).await["stage"] == "done").await;
    assert_eq!(moves(&balancer).await["moved"], 50);
    drop(fleet);
}

/// Least connections alone would leave it empty until new clients come.
#[tokio::test]
async fn a_server_that_was_out_and_is_well_again_gets_its_share_back() {
    let (b1, b2) = (Witness::start().await, Witness::start().await);
    let rebalance = "rebalance = { rate = \"500/s\", threshold = 10, after = \"200ms\" }";
    let balancer = checking(IMPATIENT, rebalance, &[&b1, &b2]).await;
    b2.freeze();
    balancer.wait_for_state("b2", "unhealthy").await;
    let devices = Device::many(balancer.address, "device", 100, Version::V5).await;
    let fleet = Fleet::of(balancer.address, devices);
    assert_eq!((b1.sessions(), b2.sessions()), (100, 0));
    b2.thaw();
    until("half of them are at b2", async || (b1.sessions(), b2.sessions()) == (50, 50)).await;
    assert_eq!((b1.left(), b1.vanished()), (50, 0));
    drop(fleet);
}

#[tokio::test]
async fn a_rebalance_that_is_stopped_moves_no_more() {
    let (b1, b2) = (Witness::start().await, Witness::start().await);
    let balancer = before("", &[&b1]).await;
    let devices = Device::many(balancer.address, "device", 40, Version::V5).await;
    balancer.rewrite(&listen(balancer.address, CHECK, &named(&[&b1, &b2])));
    balancer.wait_for_state("b2", "healthy").await;
    balancer.ask(Method::POST, "/rebalance", Some(json!({ "rate": "1/s" }))).await;
    until("one has left", async || b1.left() >= 1).await;
    balancer.ask(Method::POST, "/rebalance", Some(json!({ "stop": true }))).await;
    until("it is stopped", async || moves(&balancer).await["stage"] == "stopped").await;
    // Twenty seconds would have been needed for all.
    let closed = moves(&balancer).await["closed"].as_u64().unwrap();
    assert!(closed < 20, "{closed}");
    until("who was told has left", async || b1.left() as u64 == closed).await;
    tokio::time::sleep(Duration::from_millis(1600)).await;
    assert_eq!(b1.left() as u64, closed);
    drop(devices);
}

#[tokio::test]
async fn a_drain_of_a_server_whose_backend_is_gone_can_be_stopped() {
    let (b1, b2) = (Witness::start().await, Witness::start().await);
    let balancer = before("", &[&b1, &b2]).await;
    let devices = Device::many(balancer.address, "device", 40, Version::V5).await;
    balancer.ask(Method::POST, "/drain", Some(json!({ "server": "b1", "rate": "1/min" }))).await;
    until("one has left", async || b1.left() == 1).await;
    let other =
        listen(balancer.address, CHECK, &[("c1", b2.address)]).replace("\"mqtt\"\nbind", "\"other\"\nbind");
    balancer.rewrite(&other);
    balancer.wait_for_log("mqtt: -b1").await;
    let stop = || async {
        balancer.ask(Method::POST, "/drain", Some(json!({ "server": "b1", "stop": true }))).await
    };
    assert_eq!(stop().await.0, StatusCode::OK);
    until("it is stopped", async || moves(&balancer).await["stage"] == "stopped").await;
    assert_eq!(stop().await.0, StatusCode::NOT_FOUND, "nothing is under way, and there is no such server");
    drop(devices);
}

#[tokio::test]
async fn a_rebalance_moves_no_more_of_all_in_a_minute_than_it_may() {
    let (b1, b2) = (Witness::start().await, Witness::start().await);
    let rebalance = "rebalance = { rate = \"500/s\", percent_per_minute = 2, after = \"200ms\" }";
    let balancer = before(rebalance, &[&b1]).await;
    let devices = Device::many(balancer.address, "device", 100, Version::V5).await;
    let fleet = Fleet::of(balancer.address, devices);
    balancer.rewrite(&listen(balancer.address, &format!("{rebalance}\n{CHECK}"), &named(&[&b1, &b2])));
    until("it has begun", async || !moves(&balancer).await.is_null()).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let report = moves(&balancer).await;
    assert_eq!((&report["closed"], &report["planned"]), (&json!(0), &json!(50)), "one in 30 s: {report}");
    let begun = Instant::now();
    let asked = json!({ "rate": "500/s", "percent_per_minute": 100 });
    balancer.ask(Method::POST, "/rebalance", Some(asked)).await;
    until("four have gone", async || b2.sessions() >= 4).await;
    assert!(begun.elapsed() >= Duration::from_millis(2400), "one in 600 ms: {:?}", begun.elapsed());
    for percent in [0, 101] {
        let asked = json!({ "percent_per_minute": percent });
        let (status, answer) = balancer.ask(Method::POST, "/rebalance", Some(asked)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    }
    drop(fleet);
}

/// A client's own server is not left for nothing: it would be back at once.
#[tokio::test]
async fn clients_that_would_return_to_their_server_are_not_sent_away() {
    let (b1, b2) = (Witness::start().await, Witness::start().await);
    let balancer = before("balance = \"client_id\"", &[&b1]).await;
    let devices = Device::many(balancer.address, "device", 200, Version::V5).await;
    let fleet = Fleet::of(balancer.address, devices);
    let options = format!("balance = \"client_id\"\n{CHECK}");
    balancer.rewrite(&listen(balancer.address, &options, &named(&[&b1, &b2])));
    balancer.wait_for_state("b2", "healthy").await;
    rebalanced(&balancer, "500/s").await;
    let report = moves(&balancer).await;
    let [closed, moved, stayed] =
        ["closed", "moved", "returned_to_it"].map(|key| report[key].as_u64().unwrap());
    assert!(closed > 60 && moved == closed && stayed == 0, "{report}");
    drop(fleet);
}

/// What these devices ask for ends with their connections, so no server is their own.
#[tokio::test]
async fn clean_sessions_are_sent_away_where_only_persistent_ones_have_a_server_of_their_own() {
    let (b1, b2) = (Witness::start().await, Witness::start().await);
    let only = "balance = \"client_id\"\naffinity = \"persistent\"";
    let balancer = before(only, &[&b1]).await;
    let devices = Device::many(balancer.address, "device", 100, Version::V5).await;
    let fleet = Fleet::of(balancer.address, devices);
    balancer.rewrite(&listen(balancer.address, &format!("{only}\n{CHECK}"), &named(&[&b1, &b2])));
    balancer.wait_for_state("b2", "healthy").await;
    rebalanced(&balancer, "500/s").await;
    assert_eq!(moves(&balancer).await["moved"], 50);
    drop(fleet);
}

/// Where a client belongs depends on all of its identifier, of which only the beginning is kept.
#[tokio::test]
async fn clients_with_identifiers_too_long_to_be_kept_are_left_alone() {
    let (b1, b2) = (Witness::start().await, Witness::start().await);
    let balancer = before("balance = \"client_id\"", &[&b1]).await;
    let long = "x".repeat(200);
    let devices = Device::many(balancer.address, &long, 40, Version::V5).await;
    let options = format!("balance = \"client_id\"\n{CHECK}");
    balancer.rewrite(&listen(balancer.address, &options, &named(&[&b1, &b2])));
    balancer.wait_for_state("b2", "healthy").await;
    rebalanced(&balancer, "500/s").await;
    assert_eq!(moves(&balancer).await["closed"], 0);
    drop(devices);
}

#[tokio::test]
async fn nobody_is_moved_where_nobody_can_take_it() {
    let (b1, b2) = (Witness::start().await, Witness::start().await);
    let balancer = before("", &[&b1]).await;
    let _devices = Device::many(balancer.address, "device", 50, Version::V5).await;
    b2.freeze();
    balancer.rewrite(&listen(balancer.address, IMPATIENT, &named(&[&b1, &b2])));
    balancer.wait_for_state("b2", "unhealthy").await;
    let (_, plan) = balancer.ask(Method::POST, "/rebalance", Some(json!({ "rate": "1000/s" }))).await;
    assert_eq!(plan["plan"][0]["above"], 0, "{plan}");
    assert_eq!((sessions(&balancer, "b1").await, moves(&balancer).await), (50, Value::Null));
    let (status, _) = balancer.ask(Method::POST, "/rebalance", Some(json!({ "backend": "x" }))).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}
