//! More clients than anybody wants: who was there before goes on, and all that they cost is given back.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nsd_edge::admin::Method;
use nsd_wire::{Connect, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::support::{Balancer, Broker, CHECK, Client, PATIENCE, free_address, listen, until};

/// From another address of this machine.
async fn from(last: u8, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from(([127, 0, 1, last], 0)))?;
    socket.connect(address).await
}

fn connect(id: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    // However long a test takes, nobody is silent for too long.
    let connect = Connect { keep_alive: 0, ..Connect::new(Version::V311, id) };
    connect.encode(Version::V311, &mut bytes).unwrap();
    bytes
}

async fn sessions(balancer: &Balancer) -> u64 {
    let (_, status) = balancer.ask(Method::GET, "/status", None).await;
    status["sessions"].as_u64().unwrap()
}

/// One of the flood, by its number: a client that leaves at once, one that breaks off, half a CONNECT, noise, nothing.
async fn nuisance(number: usize, address: SocketAddr) {
    let Ok(mut stream) = from(u8::try_from(number % 8 + 1).unwrap(), address).await else { return };
    let hello = connect(&format!("flood-{number}"));
    let said = match number % 5 {
        0 | 1 => &hello[..],
        2 => &hello[..hello.len() / 2],
        3 => b"\x00\xff\x00\xff noise",
        _ => b"",
    };
    let _ = stream.write_all(said).await;
    if number.is_multiple_of(5) {
        let _ = tokio::time::timeout(PATIENCE, stream.read_exact(&mut [0; 4])).await;
    }
    if number.is_multiple_of(2) {
        let _ = stream.set_zero_linger();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_connects_in_a_few_seconds_disturb_nobody() {
    let (b1, b2) = (Broker::start("b1").await, Broker::start("b2").await);
    let balancer = Balancer::before(&[&b1, &b2]).await;
    let mut kept = Client::many(balancer.address, 4).await;
    let memory = balancer.resident();
    let address = balancer.address;
    let mut flood = JoinSet::new();
    for number in 0..5000 {
        if flood.len() >= 200 {
            flood.join_next().await;
        }
        flood.spawn(nuisance(number, address));
        if number.is_multiple_of(100) {
            for client in &mut kept {
                client.echo(b"established").await.unwrap();
            }
        }
    }
    flood.join_all().await;
    Client::persist(address).await;
    until("the flood is over", async || sessions(&balancer).await == 4).await;
    for client in &mut kept {
        client.echo(b"established").await.unwrap();
    }
    let grown = balancer.resident().saturating_sub(memory);
    println!("5000 connects left {grown} KiB behind");
    assert!(grown < 16 * 1024, "{grown} KiB are left");
    let log = balancer.log();
    assert!(!log.contains("panicked"), "{log}");
    for end in ["connect-unfinished", "not-mqtt"] {
        assert!(log.contains(&format!("end=\"{end}\"")), "nobody ended by {end}");
    }
}

/// A broker that is a process of its own, so that its files are, too.
struct Mosquitto {
    address: SocketAddr,
    process: Child,
}

impl Mosquitto {
    fn start() -> Self {
        let address = free_address();
        let process = Command::new("mosquitto")
            .args(["-p", &address.port().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto is installed");
        Self { address, process }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A real client without a buffer: CONNECT, CONNACK, and a PING where it is asked whether it lives.
async fn enter(number: usize, address: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&connect(&format!("crowd-{number}"))).await?;
    let mut answer = [0; 4];
    let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await;
    read.map_err(|_| std::io::ErrorKind::TimedOut)??;
    if answer == [0x20, 2, 0, 0] { Ok(stream) } else { Err(std::io::Error::other("refused")) }
}

async fn ping(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"\xc0\0").await?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).await?;
    if answer == *b"\xd0\0" { Ok(()) } else { Err(std::io::Error::other("no PINGRESP")) }
}

/// All of `numbers` at once, a hundred at a time; who fails tries again.
async fn crowd(numbers: Vec<usize>, address: SocketAddr) -> Vec<(usize, TcpStream)> {
    let (mut coming, mut there) = (JoinSet::new(), Vec::new());
    for number in numbers {
        if coming.len() >= 100 {
            there.extend(coming.join_next().await.unwrap());
        }
        coming.spawn(async move {
            let begun = std::time::Instant::now();
            loop {
                match enter(number, address).await {
                    Ok(stream) => return (number, stream),
                    Err(error) => assert!(begun.elapsed() < PATIENCE * 3, "{number} never came in: {error}"),
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
    there.extend(coming.join_all().await);
    there
}

/// As many as this machine's files allow; then one of two brokers is killed, and half of them come again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nine_thousand_sessions_outlive_the_death_of_a_broker() {
    // Each takes one file here, two at the balancer, one at a broker.
    let files = usize::try_from(nsd_edge::listen::raise_open_files()).unwrap_or(usize::MAX);
    let count = (files / 2).saturating_sub(1000).clamp(100, 9000);
    let (first, second) = (Mosquitto::start(), Mosquitto::start());
    let address = free_address();
    let all = [("first", first.address), ("second", second.address)];
    let balancer = Balancer::start(address, &listen(address, CHECK, &all)).await;
    for name in ["first", "second"] {
        balancer.wait_for_state(name, "healthy").await;
    }
    let memory = balancer.resident();
    let mut there = crowd((0..count).collect(), address).await;
    until("all are counted", async || sessions(&balancer).await == count as u64).await;
    let grown = balancer.resident().saturating_sub(memory);
    println!("{count} sessions take {grown} KiB");
    assert!(grown < 6 * count as u64, "{grown} KiB for {count}");
    drop(first);
    let mut homeless = Vec::new();
    for (number, stream) in &mut there {
        // Half of them find out now.
        if ping(stream).await.is_err() {
            homeless.push(*number);
        }
    }
    assert!(homeless.len().abs_diff(count / 2) < count / 10, "{} of {count}", homeless.len());
    homeless.sort_unstable();
    there.retain(|(number, _)| homeless.binary_search(number).is_err());
    there.extend(crowd(homeless, address).await);
    for (number, stream) in &mut there {
        if let Err(error) = ping(stream).await {
            let log = balancer.log();
            let told = log.lines().filter(|line| line.contains(&format!("id=\"crowd-{number}\"")));
            panic!("{number} is lost: {error}\n{}", told.collect::<Vec<_>>().join("\n"));
        }
    }
    until("all are at the second", async || balancer.server("second").await["sessions"] == count).await;
    assert!(!balancer.log().contains("panicked"));
}
