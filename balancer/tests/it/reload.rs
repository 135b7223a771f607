//! New settings while clients are there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use nsd_edge::admin::{Method, StatusCode};
use rustix::process::Signal;
use tokio::net::TcpStream;

use crate::support::broker::Mood;
use crate::support::visitor::with_anna;
use crate::support::{Balancer, Broker, CHECK, Client, IMPATIENT, free_address, listen, servers, until};

#[tokio::test]
async fn a_removed_server_keeps_its_sessions_and_gets_no_more() {
    let (b1, b2) = (Broker::start("b1").await, Broker::start("b2").await);
    let balancer = Balancer::before(&[&b1, &b2]).await;
    let mut clients = Client::many(balancer.address, 10).await;
    balancer.rewrite(&listen(balancer.address, CHECK, &servers(&["b2"], &[&b2])));
    balancer.wait_for_log("reloaded: mqtt: -b1").await;
    for client in &mut clients {
        client.echo(b"nobody was cut").await.unwrap();
    }
    let new = Client::many(balancer.address, 10).await;
    assert!(new.iter().all(|client| client.broker == "b2"));
    let (_, status) = balancer.ask(Method::GET, "/status", None).await;
    assert_eq!(status["backends"][0]["leaving"][0]["sessions"], 5);

    // Wanted again, its sessions count again.
    balancer.rewrite(&listen(balancer.address, CHECK, &servers(&["b1", "b2"], &[&b1, &b2])));
    balancer.wait_for_log("reloaded: mqtt: +b1").await;
    balancer.wait_for_state("b1", "healthy").await;
    assert_eq!(balancer.server("b1").await["sessions"], 5);
    let new = Client::many(balancer.address, 10).await;
    assert!(new.iter().all(|client| client.broker == "b1"), "5 and 15: the next ten are for b1");
}

/// Which a reload that starts a new process cannot do: that one knows nothing of the old sessions.
#[tokio::test]
async fn sessions_from_before_a_reload_are_closed_with_their_server() {
    let (b1, b2) = (Broker::start("b1").await, Broker::start("b2").await);
    let balancer = Balancer::checking(IMPATIENT, &[&b1]).await;
    let mut clients = Client::many(balancer.address, 5).await;
    balancer.rewrite(&listen(balancer.address, IMPATIENT, &servers(&["b1", "b2"], &[&b1, &b2])));
    balancer.wait_for_log("reloaded: mqtt: +b2").await;
    balancer.wait_for_state("b2", "healthy").await;
    b1.set(Mood::Frozen);
    let closed = async || balancer.log().matches("end=\"server-down\"").count() == 5;
    until("its sessions are closed", closed).await;
    for client in &mut clients {
        assert!(client.echo(b"anybody?").await.is_err());
    }
}

#[tokio::test]
async fn what_is_known_of_servers_outlives_a_reload() {
    let [b1, b2, b3] = [Broker::start("b1").await, Broker::start("b2").await, Broker::start("b3").await];
    let all = servers(&["b1", "b2", "b3"], &[&b1, &b2, &b3]);
    let balancer = Balancer::checking(IMPATIENT, &[&b1, &b2, &b3]).await;
    b3.set(Mood::Frozen);
    balancer.wait_for_state("b3", "unhealthy").await;
    balancer.tell("/drain", "b1").await;
    let before = balancer.server("b3").await["check"]["verdict"].clone();
    balancer.rewrite(&listen(balancer.address, &format!("queue = 7\n{IMPATIENT}"), &all));
    balancer.wait_for_log("reloaded: ~mqtt policy").await;
    let states = [balancer.server("b1").await, balancer.server("b2").await, balancer.server("b3").await];
    let states = states.each_ref().map(|server| server["state"].as_str().unwrap());
    assert_eq!(states, ["draining", "healthy", "unhealthy"]);
    assert_eq!(balancer.server("b3").await["check"]["verdict"], before);
    let clients = Client::many(balancer.address, 6).await;
    assert!(clients.iter().all(|client| client.broker == "b2"));
}

#[tokio::test]
async fn a_client_comes_to_its_server_after_a_reload_too() {
    let [b1, b2] = [Broker::start("b1").await, Broker::start("b2").await];
    let address = free_address();
    let all = servers(&["b1", "b2"], &[&b1, &b2]);
    let options = format!("balance = \"client_id\"\n{CHECK}");
    let balancer = Balancer::start(address, &listen(address, &options, &all)).await;
    for name in ["b1", "b2"] {
        balancer.wait_for_state(name, "healthy").await;
    }
    let mut places = Vec::new();
    for round in 0..2 {
        for number in 0..21 {
            // One at a time: nobody's server is over its share. An odd number: taking turns would give others the next time.
            let client = Client::named(address, &format!("device-{number}")).await.unwrap();
            places.push(client.broker.clone());
            drop(client);
            let left = async || balancer.ask(Method::GET, "/status", None).await.1["sessions"] == 0;
            until("it has left", left).await;
        }
        if round == 0 {
            balancer.rewrite(&listen(address, &format!("queue = 7\n{options}"), &all));
            balancer.wait_for_log("reloaded: ~mqtt policy").await;
        }
    }
    assert_eq!(places[..21], places[21..]);
    assert!(places.iter().any(|place| *place != places[0]), "all at one server show nothing");
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_is_reported_with_its_line() {
    let b1 = Broker::start("b1").await;
    let balancer = Balancer::before(&[&b1]).await;
    let mut client = Client::connect(balancer.address).await.unwrap();
    let good = listen(balancer.address, CHECK, &servers(&["b1"], &[&b1]));
    balancer.rewrite(&good.replace("address", "adress"));
    balancer.wait_for_log("unknown key: did you mean `address`?").await;
    client.echo(b"still here").await.unwrap();
    Client::connect(balancer.address).await.expect("the old settings are in use");
    let problem = async || balancer.ask(Method::GET, "/status", None).await.1["problem"].to_string();
    until("it is told where", async || problem().await.contains("balancer.toml:11: ")).await;
    let (code, health) = balancer.ask(Method::GET, "/health", None).await;
    assert_eq!((code, &health["degraded"]), (StatusCode::OK, &true.into()));

    balancer.rewrite(&good);
    let repaired = async || balancer.ask(Method::GET, "/status", None).await.1["problem"].is_null();
    until("the good file is taken", repaired).await;
}

#[tokio::test]
async fn an_address_that_cannot_be_bound_refuses_the_whole_change() {
    let (b1, b2) = (Broker::start("b1").await, Broker::start("b2").await);
    let balancer = Balancer::before(&[&b1]).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let both = format!("{}\", \"{}", balancer.address, taken.local_addr().unwrap());
    let wanted = listen(balancer.address, CHECK, &servers(&["b1", "b2"], &[&b1, &b2]));
    balancer
        .rewrite(&wanted.replace(&format!("bind = [\"{}", balancer.address), &format!("bind = [\"{both}")));
    balancer.wait_for_log("another program listens there already").await;
    assert!(balancer.server("b2").await.is_null(), "a part of the change was made");
}

#[tokio::test]
async fn addresses_come_and_go_by_sighup_and_by_the_admin_socket() {
    let b1 = Broker::start("b1").await;
    let balancer = Balancer::before(&[&b1]).await;
    let mut client = Client::connect(balancer.address).await.unwrap();
    let other = free_address();
    let wanted = listen(other, CHECK, &servers(&["b1"], &[&b1]));
    balancer.rewrite(&wanted);
    balancer.signal(Signal::HUP);
    until("the new address is bound", async || Client::connect(other).await.is_ok()).await;
    until("the old one refuses", async || Client::connect(balancer.address).await.is_err()).await;
    client.echo(b"a session outlives its address").await.unwrap();

    let (code, answer) = balancer.ask(Method::POST, "/reload", None).await;
    assert_eq!((code, &answer["plan"]), (StatusCode::OK, &serde_json::json!([])));
}

/// Churn under reloads: not one connection may fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_reloads_under_load_fail_nobody() {
    let (b1, b2) = (Broker::start("b1").await, Broker::start("b2").await);
    let balancer = Balancer::before(&[&b1, &b2]).await;
    let mut idle = Client::many(balancer.address, 50).await;
    let address = balancer.address;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let made = Arc::new(AtomicUsize::new(0));
    let churn: Vec<_> = (0..4)
        .map(|_| {
            let (stopped, made) = (stopped.clone(), Arc::clone(&made));
            tokio::spawn(async move {
                while !*stopped.borrow() {
                    let mut client = Client::connect(address).await.expect("let in");
                    client.echo(b"hello").await.expect("served");
                    made.fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    for round in 0..10 {
        let wanted =
            if round % 2 == 0 { servers(&["b1"], &[&b1]) } else { servers(&["b1", "b2"], &[&b1, &b2]) };
        balancer.rewrite(&listen(address, CHECK, &wanted));
        let (code, answer) = balancer.ask(Method::POST, "/reload", None).await;
        assert_eq!(code, StatusCode::OK, "{answer}");
        let before = made.load(SeqCst);
        until("clients come and go", async || made.load(SeqCst) >= before + 5).await;
    }
    stop.send_replace(true);
    for task in churn {
        task.await.unwrap();
    }
    for client in &mut idle {
        client.echo(b"still here").await.unwrap();
    }
}

/// Whoever reads that an address is free again may bind it at once.
#[tokio::test]
async fn what_a_reload_removes_is_closed_when_it_says_so() {
    let b1 = Broker::start("b1").await;
    let balancer = Balancer::before(&[&b1]).await;
    with_anna(&balancer.path("users"));
    let without = listen(balancer.address, CHECK, &servers(&["b1"], &[&b1]));
    for round in 0..20 {
        let [bind, metrics, dashboard] = [(); 3].map(|()| free_address());
        let own = format!("bind = [\"{}\"]", balancer.address);
        assert!(without.contains(&own), "{without}");
        let with = without.replace(&own, &format!("bind = [\"{}\", \"{bind}\"]", balancer.address));
        let users = balancer.path("users").display().to_string();
        balancer.rewrite(&format!(
            "[metrics]\nbind = \"{metrics}\"\n[dashboard]\nbind = \"{dashboard}\"\npassword_file = \"{users}\"\n{with}"
        ));
        balancer.ask(Method::POST, "/reload", None).await;
        for address in [bind, metrics, dashboard] {
            TcpStream::connect(address).await.expect("it listens");
        }
        balancer.rewrite(&without);
        balancer.ask(Method::POST, "/reload", None).await;
        for (what, address) in [("bind", bind), ("metrics", metrics), ("dashboard", dashboard)] {
            assert!(TcpStream::connect(address).await.is_err(), "{what} still listens in round {round}");
        }
    }
}
