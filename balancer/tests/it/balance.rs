//! Who gets which client.

use std::collections::HashMap;

use nsd_edge::admin::Method;
use nsd_wire::{Connect, Version};
use tokio::net::TcpStream;

use crate::support::{Balancer, Broker, CHECK, Client, UNCHECKED, free_address, listen, servers, until};

fn shares(clients: &[Client]) -> HashMap<&str, usize> {
    let mut shares = HashMap::new();
    for client in clients {
        *shares.entry(client.broker.as_str()).or_default() += 1;
    }
    shares
}

#[tokio::test]
async fn a_server_that_joins_by_reload_gets_the_next_clients() {
    let (b1, b2, b3) = (Broker::start("b1").await, Broker::start("b2").await, Broker::start("b3").await);
    nsd_edge::listen::raise_open_files();
    let balancer = Balancer::before(&[&b1, &b2]).await;
    let old = Client::many(balancer.address, 1000).await;
    assert_eq!(shares(&old), HashMap::from([("b1", 500), ("b2", 500)]));

    let all = servers(&["b1", "b2", "b3"], &[&b1, &b2, &b3]);
    balancer.rewrite(&listen(balancer.address, CHECK, &all));
    balancer.wait_for_log("reloaded: mqtt: +b3").await;
    balancer.wait_for_state("b3", "healthy").await;
    let new = Client::many(balancer.address, 300).await;
    assert_eq!(shares(&new), HashMap::from([("b3", 300)]));
    assert_eq!((b1.sessions(), b2.sessions()), (500, 500), "nobody was cut");
}

#[tokio::test]
async fn round_robin_follows_the_weights() {
    let (b1, b2) = (Broker::start("b1").await, Broker::start("b2").await);
    let address = free_address();
    let options = format!("balance = \"roundrobin\"\n{CHECK}");
    let settings = listen(address, &options, &servers(&["b1", "b2"], &[&b1, &b2])) + "weight = 3\n";
    let balancer = Balancer::start(address, &settings).await;
    balancer.wait_for_state("b1", "healthy").await;
    balancer.wait_for_state("b2", "healthy").await;
    let clients = Client::many(address, 40).await;
    assert_eq!(shares(&clients), HashMap::from([("b1", 10), ("b2", 30)]));
}

#[tokio::test]
async fn frontend_and_backend_apart_do_the_same_as_listen() {
    let b1 = Broker::start("b1").await;
    let (address, other) = (free_address(), free_address());
    let settings = format!(
        "[[frontend]]\nname = \"one\"\nbind = [\"{address}\"]\nbackend = \"pool\"\n\
         [[frontend]]\nname = \"two\"\nbind = [\"{other}\"]\nbackend = \"pool\"\n\
         [[backend]]\nname = \"pool\"\n{CHECK}\n\
         [[backend.server]]\nname = \"b1\"\naddress = \"{}\"\n",
        b1.address
    );
    let _balancer = Balancer::start(address, &settings).await;
    let _clients = [Client::connect(address).await.unwrap(), Client::connect(other).await.unwrap()];
    assert_eq!(b1.sessions(), 2);
}

/// Who loses nothing elsewhere goes to where there is room; the others to their own server.
#[tokio::test]
async fn where_only_persistent_sessions_are_affine_the_others_even_the_load_out() {
    let (b1, b2) = (Broker::start("b1").await, Broker::start("b2").await);
    let address = free_address();
    let options = format!("balance = \"client_id\"\naffinity = \"persistent\"\n{UNCHECKED}");
    let balancer =
        Balancer::start(address, &listen(address, &options, &servers(&["b1", "b2"], &[&b1, &b2]))).await;
    let came = async |clean_start, id: String| {
        let connect = Connect { clean_start, ..Connect::new(Version::V311, &id) };
        Client::over_told(TcpStream::connect(address).await.unwrap(), &connect).await.unwrap()
    };
    let all = async |clean_start, name: &str| {
        let mut clients = Vec::new();
        for number in 0..40 {
            clients.push(came(clean_start, format!("{name}-{number}")).await);
        }
        clients
    };
    let clean = all(true, "other").await;
    assert_eq!(shares(&clean), HashMap::from([("b1", 20), ("b2", 20)]));
    // As many at both, so each finds its own server below its bound, whoever else came.
    let homes: Vec<String> = all(false, "device").await.into_iter().map(|client| client.broker).collect();
    let are_there = async |count: u64| {
        let (_, status) = balancer.ask(Method::GET, "/status", None).await;
        status["sessions"] == count
    };
    until("they have left", async || are_there(40).await).await;
    for (number, home) in homes.iter().enumerate().rev() {
        assert_eq!(came(false, format!("device-{number}")).await.broker, *home);
        until("it has left", async || are_there(40).await).await;
    }
    assert!(homes.iter().any(|home| home == "b1") && homes.iter().any(|home| home == "b2"));
}

/// The ids that HAProxy's table of 32-byte keys puts on one server.
#[tokio::test]
async fn clients_spread_by_their_whole_identifier_and_return_to_their_server() {
    let (b1, b2) = (Broker::start("b1").await, Broker::start("b2").await);
    let address = free_address();
    let options = format!("balance = \"client_id\"\n{UNCHECKED}");
    let settings = listen(address, &options, &servers(&["b1", "b2"], &[&b1, &b2]));
    let balancer = Balancer::start(address, &settings).await;
    let come = async || {
        let mut clients = Vec::new();
        for number in 0..40 {
            let id = format!("factory-line-7/gateway-0001/device-{number:04}");
            clients.push(Client::named(address, &id).await.unwrap());
        }
        assert!(b1.sessions() >= 12 && b2.sessions() >= 12, "{} and {}", b1.sessions(), b2.sessions());
        clients.into_iter().map(|client| client.broker).collect::<Vec<_>>()
    };
    let first = come().await;
    let sessions = async |name| balancer.server(name).await["sessions"].as_u64().unwrap();
    until("all have left", async || sessions("b1").await + sessions("b2").await == 0).await;
    assert_eq!(come().await, first);
}

#[tokio::test]
async fn one_address_has_one_server_and_chance_uses_all() {
    let (b1, b2, b3) = (Broker::start("b1").await, Broker::start("b2").await, Broker::start("b3").await);
    for (balance, used) in [("source", 1), ("random", 3)] {
        let address = free_address();
        let options = format!("balance = \"{balance}\"\n{UNCHECKED}");
        let all = servers(&["b1", "b2", "b3"], &[&b1, &b2, &b3]);
        let _balancer = Balancer::start(address, &listen(address, &options, &all)).await;
        let clients = Client::many(address, 30).await;
        assert_eq!(shares(&clients).len(), used, "{balance}");
    }
}

#[tokio::test]
async fn a_full_server_falls_through_to_others_and_a_backup_comes_last() {
    let (b1, b2) = (Broker::start("b1").await, Broker::start("b2").await);
    let address = free_address();
    let section = |most: u32| {
        listen(address, UNCHECKED, &[("b1", b1.address)])
            + &format!("max_sessions = {most}\n")
            + &format!("[[listen.server]]\nname = \"b2\"\naddress = \"{}\"\n", b2.address)
            + "backup = true\nmax_sessions = 2\n"
    };
    let balancer = Balancer::start(address, &section(3)).await;
    let clients = Client::many(address, 5).await;
    assert_eq!(shares(&clients), HashMap::from([("b1", 3), ("b2", 2)]));
    assert!(Client::connect(address).await.is_err(), "all are full");
    balancer.wait_for_log("end=\"servers-busy\"").await;
    balancer.rewrite(&section(4));
    balancer.wait_for_log("reloaded: mqtt: ~b1 max_sessions 3 → 4").await;
    assert_eq!(Client::connect(address).await.unwrap().broker, "b1");
}

#[tokio::test]
async fn where_all_are_full_clients_wait_in_a_bounded_queue() {
    let b1 = Broker::start("b1").await;
    let address = free_address();
    let options = format!("queue = 2\nqueue_timeout = \"10m\"\n{UNCHECKED}");
    let section = |most: u32| {
        listen(address, &options, &servers(&["b1"], &[&b1])) + &format!("max_sessions = {most}\n")
    };
    let balancer = Balancer::start(address, &section(2)).await;
    let mut early = Client::many(address, 2).await;
    let waiting = [(); 2].map(|()| tokio::spawn(Client::connect(address)));
    let queued = async |count: u64| {
        balancer.ask(Method::GET, "/status", None).await.1["backends"][0]["queued"] == count
    };
    until("two clients wait", async || queued(2).await).await;
    assert!(Client::connect(address).await.is_err(), "no room to wait for a third");
    drop(early.pop());
    drop(early.pop());
    let [one, other] = waiting;
    let _served = [one.await.unwrap().expect("waited"), other.await.unwrap().expect("waited")];
    // A reload may make room, too.
    let late = tokio::spawn(Client::connect(address));
    until("it waits", async || queued(1).await).await;
    until("two are there", async || b1.sessions() == 2).await;
    balancer.rewrite(&section(3));
    assert_eq!(late.await.unwrap().unwrap().broker, "b1");
}
