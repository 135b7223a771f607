//! Servers that fail, freeze, refuse and return.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::broker::Mood;
use crate::support::{
    Balancer, Broker, CHECK, Client, IMPATIENT, Killed, free_address, listen, servers, until,
};

#[tokio::test]
async fn a_client_is_given_another_server_when_the_first_cannot_be_reached() {
    let (b1, b2) = (Broker::start("b1").await, Broker::start("b2").await);
    let address = free_address();
    // No checks: the client itself finds out.
    let options = r#"check = { kind = "none", fall = 3, interval = "100ms" }"#;
    let nobody = free_address();
    let mut all = servers(&["b1", "b2"], &[&b1, &b2]);
    all.insert(0, ("nobody", nobody));
    let balancer = Balancer::start(address, &listen(address, options, &all)).await;
    let clients = Client::many(address, 30).await;
    assert_eq!((b1.sessions(), b2.sessions()), (15, 15));
    assert_eq!(balancer.server("nobody").await["state"], "unhealthy", "failed connections took it out");
    drop(clients);
}

#[tokio::test]
async fn clients_of_a_server_that_dies_move_and_it_is_used_again_after() {
    let (mut b1, b2) = (Broker::start("b1").await, Broker::start("b2").await);
    let balancer = Balancer::before(&[&b1, &b2]).await;
    let clients = Client::many(balancer.address, 20).await;
    assert_eq!((b1.sessions(), b2.sessions()), (10, 10));
    b1.stop().await;
    let mut moved = Vec::new();
    for mut client in clients {
        if client.broker == "b1" {
            client.ended().await;
            client = Client::persist(balancer.address).await;
            assert_eq!(client.broker, "b2");
        }
        moved.push(client);
    }
    assert_eq!(b2.sessions(), 20);
    b1.start_again().await;
    balancer.wait_for_state("b1", "healthy").await;
    let back = Client::many(balancer.address, 5).await;
    assert!(back.iter().all(|client| client.broker == "b1"));
}

#[tokio::test]
async fn a_frozen_broker_is_seen_and_its_sessions_are_closed() {
    let (b1, b2) = (Broker::start("b1").await, Broker::start("b2").await);
    let balancer = Balancer::checking(IMPATIENT, &[&b1, &b2]).await;
    let mut clients = Client::many(balancer.address, 2).await;
    b1.set(Mood::Frozen);
    balancer.wait_for_state("b1", "unhealthy").await;
    assert_eq!(balancer.server("b1").await["check"]["verdict"], "frozen");
    let on_b1 = clients.iter_mut().find(|client| client.broker == "b1").unwrap();
    on_b1.ended().await;
    balancer.wait_for_log("end=\"server-down\"").await;
    assert_eq!(Client::connect(balancer.address).await.unwrap().broker, "b2");
}

#[tokio::test]
async fn verdicts_tell_unavailable_from_unauthorised_and_dead() {
    let (mut b1, b2, b3) = (Broker::start("b1").await, Broker::start("b2").await, Broker::start("b3").await);
    b1.stop().await;
    b2.set(Mood::Unavailable);
    b3.set(Mood::Stranger);
    let balancer = Balancer::before(&[&b1, &b2, &b3]).await;
    for (name, state, verdict) in
        [("b1", "unhealthy", "dead"), ("b2", "unhealthy", "refusing"), ("b3", "healthy", "ok")]
    {
        balancer.wait_for_state(name, state).await;
        assert_eq!(balancer.server(name).await["check"]["verdict"], verdict, "{name}");
    }
    assert_eq!(Client::connect(balancer.address).await.unwrap().broker, "b3");
}

#[tokio::test]
async fn sessions_may_be_kept_when_a_server_goes_down() {
    let b1 = Broker::start("b1").await;
    let address = free_address();
    let options = format!("on_down = \"keep\"\n{CHECK}");
    let balancer = Balancer::start(address, &listen(address, &options, &servers(&["b1"], &[&b1]))).await;
    let mut client = Client::connect(address).await.unwrap();
    b1.set(Mood::Unavailable);
    balancer.wait_for_state("b1", "unhealthy").await;
    client.echo(b"still here").await.unwrap();
    assert!(Client::connect(address).await.is_err());
    b1.set(Mood::Well);
    balancer.wait_for_state("b1", "healthy").await;
    Client::connect(address).await.expect("it is used again");
}

/// The real thing: Mosquitto, stopped by the kernel. TCP checks never see it.
#[tokio::test]
async fn a_stopped_mosquitto_is_noticed_within_an_interval() {
    let (at, address) = (free_address(), free_address());
    let mosquitto = Command::new("mosquitto")
        .args(["-p", &at.port().to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("mosquitto is installed");
    let pid = Pid::from_child(&mosquitto);
    let _killed = Killed(mosquitto);
    // What has changed, or is doubted, is looked at again before its turn: so is the second failure.
    let interval = Duration::from_secs(12);
    let options = r#"check = { kind = "mqtt", interval = "12s", timeout = "1s", rise = 1, fall = 2 }"#;
    let balancer = Balancer::start(address, &listen(address, options, &[("mosquitto", at)])).await;
    balancer.wait_for_state("mosquitto", "healthy").await;
    kill_process(pid, Signal::STOP).unwrap();
    let stopped = Instant::now();
    balancer.wait_for_state("mosquitto", "unhealthy").await;
    let noticed = stopped.elapsed();
    assert_eq!(balancer.server("mosquitto").await["check"]["verdict"], "frozen");
    assert!(noticed < interval, "noticed after {noticed:?}");
    println!("a frozen mosquitto was noticed after {noticed:?}");
    kill_process(pid, Signal::CONT).unwrap();
    until("it is back", async || balancer.server("mosquitto").await["state"] == "healthy").await;
}
