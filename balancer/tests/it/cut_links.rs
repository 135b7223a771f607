//! Half-open peers: what happens to sessions whose client or server is on a machine that nothing comes from any more.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use nsd_edge::admin::Method;
use nsd_wire::{Connect, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::support::cable::{Cable, FAR, Machine, NEAR};
use crate::support::{
    BINARY, Balancer, Broker, Client, IMPATIENT, PATIENCE, UNCHECKED, listen, servers, until,
};

const ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(NEAR, 1883));
/// Far less than any other patience that could end a session here.
const SOON_GONE: &str = "tcp_user_timeout = \"2s\"\nconnect_timeout = \"500ms\"";

/// On the near machine.
async fn balance(cable: &Cable, options: &str, brokers: &[&Broker]) -> Balancer {
    let settings = listen(ADDRESS, options, &servers(&["b1", "b2"], brokers));
    Balancer::start_as(ADDRESS, &settings, cable.near.command(BINARY)).await
}

fn broker(name: &str, machine: &Machine, at: Ipv4Addr) -> Broker {
    let listener = machine.does(|| std::net::TcpListener::bind((at, 0))).unwrap();
    listener.set_nonblocking(true).unwrap();
    Broker::at(name, TcpListener::from_std(listener).unwrap())
}

/// A client whose own keep alive would be heard of in ten minutes.
async fn come(machine: &Machine, id: &str) -> io::Result<Client> {
    let stream = machine.does(|| std::net::TcpStream::connect(ADDRESS))?;
    stream.set_nonblocking(true)?;
    let connect = Connect { keep_alive: 600, ..Connect::new(Version::V311, id) };
    Client::over_told(TcpStream::from_std(stream)?, &connect).await
}

async fn sessions(balancer: &Balancer) -> u64 {
    let (_, counts) = balancer.ask(Method::GET, "/sessions", None).await;
    counts["sessions"].as_u64().unwrap()
}

/// The line about this client's end.
async fn end_of(id: &str, balancer: &Balancer) -> String {
    let id = format!("id=\"{id}\"");
    balancer.wait_for_log(&id).await;
    balancer.log().lines().find(|line| line.contains(&id)).unwrap().to_owned()
}

async fn is_well(client: &mut Client) {
    timeout(PATIENCE, client.echo(b"still here")).await.expect("an echo in time").unwrap();
}

#[tokio::test]
async fn a_client_that_is_cut_off_is_gone_after_the_time_that_is_set() {
    let cable = Cable::lay();
    let b1 = broker("b1", &cable.near, NEAR);
    let balancer = balance(&cable, &format!("{IMPATIENT}\n{SOON_GONE}"), &[&b1]).await;
    let _cut_off = come(&cable.far, "cut-off").await.unwrap();
    let mut other = come(&cable.near, "other").await.unwrap();
    until("both are there", async || (b1.sessions(), sessions(&balancer).await) == (2, 2)).await;
    cable.cut();
    until("its server is told", async || b1.sessions() == 1).await;
    let end = end_of("cut-off", &balancer).await;
    assert!(end.contains("end=\"client-vanished\""), "{end}");
    until("its session is gone", async || sessions(&balancer).await == 1).await;
    is_well(&mut other).await;
}

#[tokio::test]
async fn clients_of_a_server_that_is_cut_off_are_closed_and_come_to_another_one() {
    let cable = Cable::lay();
    let (b1, b2) = (broker("b1", &cable.far, FAR), broker("b2", &cable.near, NEAR));
    let options = format!("{UNCHECKED}\n{SOON_GONE}\nbalance = \"roundrobin\"");
    let balancer = balance(&cable, &options, &[&b1, &b2]).await;
    let (mut at_b1, mut at_b2) = (Vec::new(), Vec::new());
    for number in 0..4 {
        let client = come(&cable.near, &format!("client-{number}")).await.unwrap();
        let place = if client.broker == "b1" { &mut at_b1 } else { &mut at_b2 };
        place.push((number, client));
    }
    assert_eq!((at_b1.len(), at_b2.len()), (2, 2));
    cable.cut();
    // One has data on its way, the other has not.
    at_b1[0].1.stream.write_all(b"on its way").await.unwrap();
    for (number, client) in &mut at_b1 {
        client.ended().await;
        let end = end_of(&format!("client-{number}"), &balancer).await;
        assert!(end.contains("server=\"b1\"") && end.contains("end=\"server-vanished\""), "{end}");
        let again = come(&cable.near, &format!("again-{number}")).await.unwrap();
        assert_eq!(again.broker, "b2");
    }
    for (_, client) in &mut at_b2 {
        is_well(client).await;
    }
}

#[tokio::test]
async fn a_server_that_cannot_be_connected_to_in_time_loses_the_client_to_another_one() {
    let cable = Cable::lay();
    let (b1, b2) = (broker("b1", &cable.far, FAR), broker("b2", &cable.near, NEAR));
    let options = "mode = \"mqtt\"\nbalance = \"roundrobin\"\nconnect_timeout = \"300ms\"\n\
                   check = { kind = \"none\", fall = 1 }";
    let balancer = balance(&cable, options, &[&b1, &b2]).await;
    cable.cut();
    for number in 0..4 {
        let client = come(&cable.near, &format!("client-{number}")).await.unwrap();
        assert_eq!(client.broker, "b2");
    }
    assert_eq!(balancer.server("b1").await["state"], "unhealthy", "it was tried");
    assert_eq!(b1.total(), 0);
}

#[tokio::test]
async fn a_check_sees_that_a_server_is_cut_off_and_that_it_is_back() {
    let cable = Cable::lay();
    let (b1, b2) = (broker("b1", &cable.far, FAR), broker("b2", &cable.near, NEAR));
    let options = format!("{IMPATIENT}\nbalance = \"roundrobin\"\nconnect_timeout = \"500ms\"");
    let balancer = balance(&cable, &options, &[&b1, &b2]).await;
    let mut clients = Vec::new();
    for number in 0..2 {
        clients.push(come(&cable.near, &format!("client-{number}")).await.unwrap());
    }
    cable.cut();
    balancer.wait_for_state("b1", "unhealthy").await;
    assert_eq!(balancer.server("b1").await["check"]["verdict"], "dead");
    for client in &mut clients {
        if client.broker == "b1" {
            client.ended().await;
        } else {
            is_well(client).await;
        }
    }
    balancer.wait_for_log("end=\"server-down\"").await;
    let meanwhile = come(&cable.near, "meanwhile").await.unwrap();
    assert_eq!(meanwhile.broker, "b2");
    cable.mend();
    balancer.wait_for_state("b1", "healthy").await;
    let mut back = Vec::new();
    for number in 0..2 {
        back.push(come(&cable.near, &format!("back-{number}")).await.unwrap().broker);
    }
    back.sort();
    assert_eq!(back, ["b1", "b2"]);
}

#[tokio::test]
async fn others_go_on_while_many_are_cut_off_in_the_middle_of_what_they_are_sent() {
    const CUT_OFF: usize = 20;
    let cable = Cable::lay();
    let (b1, b2) = (broker("b1", &cable.near, NEAR), broker("b2", &cable.near, NEAR));
    let options = format!("{UNCHECKED}\n{SOON_GONE}\nbalance = \"roundrobin\"");
    let balancer = balance(&cable, &options, &[&b1, &b2]).await;
    let (mut cut_off, mut others) = (Vec::new(), Vec::new());
    for number in 0..CUT_OFF {
        cut_off.push(come(&cable.far, &format!("cut-off-{number}")).await.unwrap());
        others.push(come(&cable.near, &format!("other-{number}")).await.unwrap());
    }
    assert!(cut_off.iter().all(|client| client.broker == "b1"));
    let before = balancer.resident();
    cable.cut();
    b1.tell_all(vec![7; 1 << 20]);
    let gone = || balancer.log().matches("end=\"client-vanished\"").count();
    let others_are_served = async {
        for other in (0..CUT_OFF).cycle() {
            is_well(&mut others[other]).await;
            is_well(&mut come(&cable.near, "new").await.unwrap()).await;
            if gone() == CUT_OFF {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, others_are_served).await.expect("those who are cut off are gone in time");
    let left = async || (b1.sessions(), b2.sessions()) == (0, CUT_OFF);
    until("their server is told, and only the others are left", left).await;
    let grown = balancer.resident().saturating_sub(before);
    assert!(grown < 8192, "{grown} KiB more");
}

#[tokio::test]
async fn who_takes_nothing_for_as_long_is_not_waited_for_either() {
    let cable = Cable::lay();
    let b1 = broker("b1", &cable.near, NEAR);
    let balancer = balance(&cable, &format!("{UNCHECKED}\n{SOON_GONE}"), &[&b1]).await;
    let _deaf = come(&cable.far, "deaf").await.unwrap();
    // More than the kernels keep.
    b1.tell_all(vec![7; 64 << 20]);
    let end = end_of("deaf", &balancer).await;
    assert!(end.contains("end=\"client-vanished\""), "{end}");
}

#[tokio::test]
async fn a_link_that_is_back_in_time_cuts_nobody_and_loses_nothing() {
    let cable = Cable::lay();
    let (b1, b2) = (broker("b1", &cable.far, FAR), broker("b2", &cable.near, NEAR));
    let options = format!("{UNCHECKED}\ntcp_user_timeout = \"60s\"\nbalance = \"roundrobin\"");
    let balancer = balance(&cable, &options, &[&b1, &b2]).await;
    let mut clients = Vec::new();
    for number in 0..4 {
        // Two of each machine, one at each server.
        let machine = if number < 2 { &cable.near } else { &cable.far };
        clients.push(come(machine, &format!("client-{number}")).await.unwrap());
    }
    assert_eq!((b1.sessions(), b2.sessions()), (2, 2));
    let before = cable.near.sent_again();
    cable.cut();
    let sent: Vec<u8> = (0..10_000_u32).map(|number| u8::try_from(number % 251).unwrap()).collect();
    for client in &mut clients {
        client.stream.write_all(&sent).await.unwrap();
    }
    until("something is lost", async || cable.near.sent_again() >= before + 3).await;
    cable.mend();
    for client in &mut clients {
        let mut back = vec![0; sent.len()];
        timeout(PATIENCE, client.stream.read_exact(&mut back)).await.expect("an echo in time").unwrap();
        assert!(back == sent);
        is_well(client).await;
    }
    assert_eq!((b1.total(), b2.total()), (2, 2));
    assert!(!balancer.log().contains("end="), "{}", balancer.log());
}
