//! What happens between a client and its server.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Balancer, Broker, Client, UNCHECKED, free_address, listen, servers, until};

#[tokio::test]
async fn bytes_arrive_whole_and_in_order() {
    let b1 = Broker::start("b1").await;
    let address = free_address();
    let balancer = Balancer::start(address, &listen(address, UNCHECKED, &servers(&["b1"], &[&b1]))).await;
    let client = Client::connect(balancer.address).await.unwrap();
    let sent: Vec<u8> =
        (0..4_000_000_u32).map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect();
    let (mut read, mut write) = client.stream.into_split();
    let expected = sent.clone();
    let sender = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    // The server still answers after the client has ended its side.
    let mut back = Vec::new();
    read.read_to_end(&mut back).await.unwrap();
    sender.await.unwrap();
    assert!(back == expected);
    balancer.wait_for_log("end=\"client\"").await;
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_its_server_instead_of_growing_memory() {
    let b1 = Broker::start("b1").await;
    let balancer = Balancer::before(&[&b1]).await;
    let mut clients = Client::many(balancer.address, 20).await;
    let before = balancer.resident();
    let chunk = vec![1; 64 * 1024];
    let mut sent = 0_usize;
    for client in &mut clients {
        // The broker echoes; nobody reads the echo.
        while let Ok(Ok(taken)) =
            tokio::time::timeout(Duration::from_millis(100), client.stream.write(&chunk)).await
        {
            sent += taken;
            assert!(sent < 2_000_000_000, "endless");
        }
    }
    let grown = balancer.resident().saturating_sub(before);
    println!("{sent} bytes into 20 clients that do not read: {grown} KiB more");
    assert!(grown < 20 * 2 * 64 + 2048, "{grown} KiB more for 20 sessions");
}

#[tokio::test]
async fn the_end_of_one_side_ends_the_other() {
    let b1 = Broker::start("b1").await;
    let balancer = Balancer::before(&[&b1]).await;
    drop(Client::named(balancer.address, "client").await.unwrap());
    until("the server sees the end", async || b1.sessions() == 0 && b1.total() == 1).await;
    let log = "listener=\"mqtt\" client=127.0.0.1:";
    balancer.wait_for_log(log).await;
    let line = balancer.log().lines().find(|line| line.contains(log)).unwrap().to_owned();
    assert!(line.contains("server=\"b1\"") && line.contains("up=20 down=10 end=\"client\""), "{line}");
}

#[tokio::test]
async fn without_any_server_clients_are_closed_and_the_log_says_why() {
    let mut b1 = Broker::start("b1").await;
    b1.stop().await;
    let balancer = Balancer::before(&[&b1]).await;
    balancer.wait_for_state("b1", "unhealthy").await;
    assert!(Client::connect(balancer.address).await.is_err());
    balancer.wait_for_log("end=\"no-server\"").await;
}
