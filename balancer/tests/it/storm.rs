//! Many clients at once, and servers that have just come.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use nsd_edge::admin::Method;
use nsd_wire::{ConnAck, Connect, Packet, ReasonCode, Version};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::{Balancer, Broker, Client, PATIENCE, UNCHECKED, free_address, listen, servers, until};

/// Who has waited for too long himself, comes again.
async fn persist(address: SocketAddr, id: String) -> Client {
    loop {
        if let Ok(client) = Client::named(address, &id).await {
            return client;
        }
    }
}

async fn backend(balancer: &Balancer) -> Value {
    balancer.ask(Method::GET, "/status", None).await.1["backends"][0].clone()
}

/// 2,000 clients come at once to a server that may get 200 a second, while a session goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_comes_to_a_server_at_its_rate_and_old_sessions_go_on() {
    const CLIENTS: usize = 2000;
    const RATE: usize = 200;
    const BURST: usize = 20;
    nsd_edge::listen::raise_open_files();
    let b1 = Broker::start("b1").await;
    let address = free_address();
    let options = format!("connects_per_second = {RATE}\nqueue_timeout = \"5m\"\n{UNCHECKED}");
    let balancer = Balancer::start(address, &listen(address, &options, &servers(&["b1"], &[&b1]))).await;
    let mut old = Client::connect(address).await.unwrap();

    let (begun, before) = (Instant::now(), b1.total());
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(persist(address, format!("device-{number}")));
    }
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    let old = tokio::spawn(async move {
        let mut echoes = 0;
        while !told.load(SeqCst) {
            old.echo(b"21.5 degrees").await.unwrap();
            echoes += 1;
        }
        (old, echoes)
    });
    let waiting = async || {
        let backend = backend(&balancer).await;
        let (queued, takes) =
            (backend["queued"].as_u64().unwrap(), backend["queue_takes_ms"].as_u64().unwrap());
        // A client may come or go between the two looks.
        queued > 200 && takes.abs_diff(queued * 1000 / RATE as u64) < 500
    };
    until("status tells how long the queue takes", waiting).await;
    let mut in_already = Vec::new();
    while let Some(client) = clients.join_next().await {
        in_already.push(client.unwrap());
        let came = b1.total() - before;
        let most = BURST + 1 + RATE * usize::try_from(begun.elapsed().as_millis()).unwrap() / 1000;
        assert!(came <= most, "{came} clients came, {most} may have");
    }
    over.store(true, SeqCst);
    let (_old, echoes): (Client, usize) = old.await.unwrap();
    println!(
        "{CLIENTS} clients within {:?}, {echoes} messages of the old session meanwhile",
        begun.elapsed()
    );
    // Ten seconds and more.
    assert!(echoes > 20, "the old session came {echoes} times to speak");
    // Who came again may have come in twice, and then leaves.
    until("all are there once", async || b1.sessions() == CLIENTS + 1).await;
    let over = async || {
        let backend = backend(&balancer).await;
        backend["queued"] == 0 && backend["all_take_ms"] == (CLIENTS as u64 + 1) * 1000 / RATE as u64
    };
    until("status tells that nobody waits", over).await;
}

/// The reason in the CONNACK, as the version says it.
async fn answer(address: SocketAddr, version: Version) -> ReasonCode {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut bytes = Vec::new();
    Connect::new(version, "late").encode(version, &mut bytes).unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut heard = Vec::new();
    loop {
        if let Some((Packet::ConnAck(ConnAck { reason, .. }), _)) =
            nsd_wire::read(version, &heard, 1000).unwrap()
        {
            return reason;
        }
        assert!(stream.read_buf(&mut heard).await.unwrap() > 0, "closed without a word");
    }
}

#[tokio::test]
async fn who_finds_no_room_to_wait_or_waits_in_vain_is_told() {
    let expected = [ReasonCode::ServerBusy, ReasonCode::ServerUnavailable, ReasonCode::ServerBusy];
    // One an hour would be told in another unit: the first comes in, the next one's turn is a second away. If this machine
    // is so busy that the second is over, it is nobody's fault who came in.
    let begun = Instant::now();
    let (balancer, b1) = loop {
        assert!(begun.elapsed() < PATIENCE, "never within a second");
        let b1 = Broker::start("b1").await;
        let address = free_address();
        let options = format!("connects_per_second = 1\nqueue = 1\nqueue_timeout = \"200ms\"\n{UNCHECKED}");
        let balancer = Balancer::start(address, &listen(address, &options, &servers(&["b1"], &[&b1]))).await;
        let first = Instant::now();
        let _first = Client::connect(address).await.unwrap();
        let answers =
            [Version::V5, Version::V311, Version::V5].map(|version| tokio::spawn(answer(address, version)));
        let mut told = Vec::new();
        for answer in answers {
            told.push(answer.await.unwrap());
        }
        if first.elapsed() < Duration::from_secs(1) {
            assert_eq!(told, expected);
            assert_eq!(b1.total(), 1);
            break (balancer, b1);
        }
    };
    balancer.wait_for_log("end=\"servers-busy\"").await;
    // It is a rate, not a ban.
    Client::persist(balancer.address).await;
    assert_eq!(b1.total(), 2);
}

/// Devices give up sooner than a long line ends: what they leave behind must cost no server anything.
#[tokio::test]
async fn who_leaves_the_line_is_not_waited_for() {
    let b1 = Broker::start("b1").await;
    let address = free_address();
    let options = format!("queue = 50\nqueue_timeout = \"10m\"\n{UNCHECKED}");
    let settings = listen(address, &options, &servers(&["b1"], &[&b1])) + "max_sessions = 1\n";
    let balancer = Balancer::start(address, &settings).await;
    let first = Client::connect(address).await.unwrap();
    let mut waiting = Vec::new();
    for number in 0..50 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut bytes = Vec::new();
        Connect::new(Version::V311, "waits").encode(Version::V311, &mut bytes).unwrap();
        // Some say more than their CONNECT.
        bytes.extend(std::iter::repeat_n([0xc0, 0], number % 3).flatten());
        stream.write_all(&bytes).await.unwrap();
        waiting.push(stream);
    }
    let queued = async |count: usize| backend(&balancer).await["queued"] == count;
    until("all wait", async || queued(50).await).await;
    let last = waiting.pop();
    drop(waiting);
    until("one is left", async || queued(1).await).await;
    assert_eq!(b1.total(), 1);
    drop(first);
    until("it comes in", async || b1.total() == 2).await;
    drop(last);
}

/// A server that is dead and not known to be: who tried it in vain waits for his turn at another one.
#[tokio::test]
async fn who_tried_a_server_in_vain_waits_for_his_turn_at_another() {
    let b1 = Broker::start("b1").await;
    let address = free_address();
    // Never taken out.
    let options = "mode = \"mqtt\"\nconnects_per_second = 50\nconnects_burst = 1\nqueue_timeout = \"30s\"\ncheck = { kind = \"none\", fall = 100 }";
    let settings = listen(address, options, &[("nobody", free_address()), ("b1", b1.address)]);
    let _balancer = Balancer::start(address, &settings).await;
    let mut clients = JoinSet::new();
    for _ in 0..60 {
        clients.spawn(Client::connect(address));
    }
    let all = clients.join_all().await;
    assert!(all.iter().all(|client| client.as_ref().unwrap().broker == "b1"));
}

#[tokio::test]
async fn a_storm_does_not_spill_over_to_backups() {
    let (b1, spare) = (Broker::start("b1").await, Broker::start("spare").await);
    let address = free_address();
    let options = format!("connects_per_second = 20\nqueue_timeout = \"30s\"\n{UNCHECKED}");
    let settings = listen(address, &options, &servers(&["b1", "spare"], &[&b1, &spare])) + "backup = true\n";
    let _balancer = Balancer::start(address, &settings).await;
    let mut clients = JoinSet::new();
    for _ in 0..40 {
        clients.spawn(Client::connect(address));
    }
    let all = clients.join_all().await;
    assert!(all.iter().all(|client| client.as_ref().unwrap().broker == "b1"));
    assert_eq!(spare.total(), 0);
}

const QUICK: &str =
    "check = { kind = \"mqtt\", interval = \"200ms\", timeout = \"20s\", rise = 1, fall = 1 }";

/// As long as this test lives, a share of a twentieth.
#[tokio::test]
async fn a_server_that_joins_or_returns_starts_slowly_and_a_fresh_balancer_does_not() {
    let (b1, b2, mut b3) = (Broker::start("b1").await, Broker::start("b2").await, Broker::start("b3").await);
    let address = free_address();
    let options = format!("slow_start = \"10h\"\n{QUICK}");
    let settings = |all: &[(&str, SocketAddr)]| listen(address, &options, all);
    let all = servers(&["b1", "b2", "b3"], &[&b1, &b2, &b3]);
    let balancer = Balancer::start(address, &settings(&[all[0], all[2]])).await;
    balancer.wait_for_state("b1", "healthy").await;
    balancer.wait_for_state("b3", "healthy").await;
    let mut clients = Client::many(address, 100).await;
    assert_eq!((b1.sessions(), b3.sessions()), (50, 50), "none is held back when all are new");

    balancer.rewrite(&settings(&all));
    balancer.wait_for_state("b2", "healthy").await;
    assert_eq!(balancer.server("b2").await["share"], 0.05);
    clients.extend(Client::many(address, 100).await);
    // Its twentieth of what the others have: a bit under five.
    assert!((3..=6).contains(&b2.sessions()), "{}", b2.sessions());

    b3.stop().await;
    balancer.wait_for_state("b3", "unhealthy").await;
    let gone = async || balancer.server("b3").await["sessions"] == 0;
    until("its sessions are closed", gone).await;
    b3.start_again().await;
    balancer.wait_for_state("b3", "healthy").await;
    assert_eq!(balancer.server("b3").await["share"], 0.05);
    assert_eq!(balancer.server("b1").await["share"], 1.0);
    clients.extend(Client::many(address, 60).await);
    assert!((1..=10).contains(&b3.sessions()), "{}", b3.sessions());
    // An operator who has no patience turns it off.
    balancer.rewrite(&settings(&all).replace("10h", "1ms"));
    balancer.wait_for_log("reloaded: ~mqtt policy").await;
    let whole = async || balancer.server("b3").await["share"] == 1.0;
    until("it has its whole share", whole).await;
    let before = b3.sessions();
    clients.extend(Client::many(address, 30).await);
    assert!(b3.sessions() >= before + 10, "{} before, {} now", before, b3.sessions());
}
