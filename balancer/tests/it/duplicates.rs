//! A client that comes again while its older session is still there.

use std::time::Duration;

use nsd_edge::admin::{Method, StatusCode};
use nsd_wire::{Connect, ReasonCode, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::device::{Device, Heard};
use crate::support::witness::Witness;
use crate::support::{Balancer, CHECK, free_address, listen, until};

async fn before_two(options: &str) -> (Witness, Witness, Balancer) {
    let (b1, b2) = (Witness::start().await, Witness::start().await);
    let address = free_address();
    let settings = listen(address, &format!("{options}\n{CHECK}"), &[("b1", b1.address), ("b2", b2.address)]);
    let balancer = Balancer::start(address, &settings).await;
    balancer.wait_for_state("b1", "healthy").await;
    balancer.wait_for_state("b2", "healthy").await;
    (b1, b2, balancer)
}

#[tokio::test]
async fn the_older_session_is_closed_and_its_will_is_not_fired() {
    for (version, goodbye) in
        [(Version::V311, Heard::Ended), (Version::V5, Heard::Disconnect(ReasonCode::SessionTakenOver))]
    {
        let (b1, b2, balancer) = before_two("").await;
        let mut older = Device::come(balancer.address, "device", version).await.unwrap();
        let mut other = Device::come(balancer.address, "device-2", version).await.unwrap();
        let newer = Device::come(balancer.address, "device", version).await.unwrap();
        assert_eq!(older.hear().await, goodbye);
        drop(older);
        until("one has left", async || b1.left() + b2.left() == 1).await;
        assert_eq!((b1.vanished() + b2.vanished(), b1.sessions() + b2.sessions()), (0, 2));
        balancer.wait_for_log("end=\"duplicate\" clean=true").await;
        assert!(balancer.log().contains("id=\"device\""), "{}", balancer.log());
        let still_there = tokio::time::timeout(Duration::from_millis(200), other.hear()).await;
        assert!(still_there.is_err(), "another client");
        drop(newer);
    }
}

#[tokio::test]
async fn who_is_not_let_in_closes_nobody() {
    let (b1, b2, balancer) = before_two("").await;
    let mut older = Device::come(balancer.address, "device", Version::V5).await.unwrap();
    b1.refuse(true);
    b2.refuse(true);
    assert!(Device::come(balancer.address, "device", Version::V5).await.is_err());
    let still_there = tokio::time::timeout(Duration::from_millis(1500), older.hear()).await;
    assert!(still_there.is_err(), "{still_there:?}");
}

#[tokio::test]
async fn who_is_not_let_in_is_nobody_and_does_not_stay() {
    let (b1, b2, balancer) = before_two("").await;
    b1.refuse(true);
    b2.refuse(true);
    // As long as its server keeps it, so does the balancer.
    b1.linger(true);
    b2.linger(true);
    let mut bytes = Vec::new();
    Connect::new(Version::V5, "device").encode(Version::V5, &mut bytes).unwrap();
    let mut stays = TcpStream::connect(balancer.address).await.unwrap();
    stays.write_all(&bytes).await.unwrap();
    assert_eq!(stays.read_u8().await.unwrap(), 0x20, "a CONNACK");
    let there = async || balancer.ask(Method::GET, "/sessions", None).await.1["sessions"] == 1;
    until("it reads why", there).await;
    let (status, who) = balancer.ask(Method::GET, "/who?client=device", None).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{who}");
    b1.linger(false);
    b2.linger(false);
    balancer.wait_for_log("end=\"server\"").await;
    until("it has gone", async || balancer.ask(Method::GET, "/status", None).await.1["sessions"] == 0).await;
}

#[tokio::test]
async fn both_are_kept_where_the_settings_say_so() {
    let (b1, b2, balancer) = before_two("duplicates = \"keep\"").await;
    let mut older = Device::come(balancer.address, "device", Version::V5).await.unwrap();
    let _newer = Device::come(balancer.address, "device", Version::V5).await.unwrap();
    let still_there = tokio::time::timeout(Duration::from_millis(1500), older.hear()).await;
    assert!(still_there.is_err(), "{still_there:?}");
    assert_eq!(b1.sessions() + b2.sessions(), 2);
}

#[tokio::test]
async fn clients_without_an_identifier_are_nobodys_duplicate() {
    let (b1, b2, balancer) = before_two("").await;
    let mut older = Device::come(balancer.address, "", Version::V5).await.unwrap();
    let _newer = Device::come(balancer.address, "", Version::V5).await.unwrap();
    let still_there = tokio::time::timeout(Duration::from_millis(1500), older.hear()).await;
    assert!(still_there.is_err(), "{still_there:?}");
    assert_eq!(b1.sessions() + b2.sessions(), 2);
}
