//! Who gets which client.

use std::collections::HashMap;

use crate::support::{Balancer, Broker, CHECK, Client, free_address, listen, servers};

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
    let balancer = Balancer::before(&[&b1, &b2]).await;
    let old = Client::many(balancer.address, 100).await;
    assert_eq!(shares(&old), HashMap::from([("b1", 50), ("b2", 50)]));

    let all = servers(&["b1", "b2", "b3"], &[&b1, &b2, &b3]);
    balancer.rewrite(&listen(balancer.address, CHECK, &all));
    balancer.wait_for_log("reloaded: mqtt: +b3").await;
    balancer.wait_for_state("b3", "healthy").await;
    let new = Client::many(balancer.address, 30).await;
    assert_eq!(shares(&new), HashMap::from([("b3", 30)]));
    assert_eq!((b1.sessions(), b2.sessions()), (50, 50), "nobody was cut");
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
