//! Servers and clients that do what nobody should, and a machine that runs out: memory stays bounded, all is given back,
//! and who was there before goes on.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nsd_edge::admin::{Method, StatusCode};
use nsd_wire::{Connect, Version};
use rustix::process::{Resource, Rlimit, prlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet, LocalSet};

use crate::support::{
    BINARY, Balancer, Broker, Client, PATIENCE, UNCHECKED, free_address, listen, servers, until,
};

/// What a server does once it has said its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Close,
    /// Keeps the connection, and reads nothing more.
    Stay,
}

/// A server that says the same to everybody.
struct Scripted {
    address: SocketAddr,
    acceptor: JoinHandle<()>,
}

impl Scripted {
    async fn start(words: &'static [u8], then: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                if !words.is_empty() {
                    // A close with bytes unread would take the words back.
                    let _ = stream.read(&mut [0; 1024]).await;
                }
                let _ = stream.write_all(words).await;
                if then == Then::Stay {
                    kept.push(stream);
                }
            }
        });
        Self { address, acceptor }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

/// Clients take turns between this server and a good one.
async fn before(bad: &Scripted, good: &Broker, options: &str) -> Balancer {
    let address = free_address();
    let all = [("good", good.address), ("bad", bad.address)];
    let options = format!("balance = \"roundrobin\"\n{options}");
    Balancer::start(address, &listen(address, &options, &all)).await
}

fn connect(id: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    Connect::new(Version::V311, id).encode(Version::V311, &mut bytes).unwrap();
    bytes
}

/// What a client hears within its patience, up to so many bytes or the end.
async fn heard(address: SocketAddr, most: usize) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&connect("device")).await.unwrap();
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while answer.len() < most {
        match tokio::time::timeout(PATIENCE, stream.read(&mut byte)).await.expect("an answer or the end") {
            Ok(1) => answer.push(byte[0]),
            _ => break,
        }
    }
    answer
}

/// Gone without a goodbye.
fn break_off(stream: TcpStream) {
    let _ = stream.set_zero_linger();
}

async fn sessions(balancer: &Balancer) -> u64 {
    let (_, status) = balancer.ask(Method::GET, "/status", None).await;
    status["sessions"].as_u64().unwrap()
}

#[tokio::test]
async fn a_server_that_says_half_a_connack_or_none_costs_its_client_nothing() {
    let (here, mut all) = (LocalSet::new(), JoinSet::new());
    for (words, then) in [
        (&b""[..], Then::Close),
        (b"", Then::Stay),
        (b"\x20", Then::Close),
        (b"\x20\x02\0", Then::Stay),
        (b"\x20\x02\0", Then::Close),
        (b"\x20\x02\0\x03", Then::Stay),
    ] {
        all.spawn_local_on(costs_its_client_nothing(words, then), &here);
    }
    here.run_until(all.join_all()).await;
}

async fn costs_its_client_nothing(words: &'static [u8], then: Then) {
    let b1 = Broker::start("b1").await;
    let bad = Scripted::start(words, then).await;
    // The good one answers sooner, however busy the machine is.
    let options = format!("{UNCHECKED}\ngate = {{ answer_timeout = \"3s\" }}");
    let balancer = before(&bad, &b1, &options).await;
    let mut kept = Client::connect(balancer.address).await.unwrap();
    for _ in 0..3 {
        let client = Client::connect(balancer.address).await.expect("it comes to the other server");
        assert_eq!(client.broker, "b1", "{words:?} {then:?}");
        kept.echo(b"established").await.unwrap();
    }
    assert_eq!(balancer.server("bad").await["sessions"], 0, "{words:?} {then:?}");
}

#[tokio::test]
async fn what_a_server_says_instead_of_a_connack_is_its_clients_to_judge() {
    let b1 = Broker::start("b1").await;
    for words in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x20\xff\xff\xff\x7f",
        b"\x20\xff\xff\xff\xff\xff",
        b"\x20\x00",
        b"\x20\x02\x00\xee",
    ] {
        let bad = Scripted::start(words, Then::Close).await;
        let balancer = before(&bad, &b1, UNCHECKED).await;
        let mut kept = Client::connect(balancer.address).await.unwrap();
        let mut told = 0;
        for _ in 0..6 {
            // The good server says ten bytes.
            let answer = heard(balancer.address, words.len().clamp(4, 10)).await;
            let (let_in, is_told) = (answer.starts_with(b"\x20\x02\0\0"), words.starts_with(&answer));
            assert!(let_in || is_told, "{words:?} became {answer:?}");
            told += usize::from(is_told);
            kept.echo(b"established").await.unwrap();
        }
        assert_eq!(told, 3, "{words:?}");
    }
}

#[tokio::test]
async fn servers_that_close_right_after_their_connack_leave_nothing_behind() {
    let b1 = Broker::start("b1").await;
    let bad = Scripted::start(b"\x20\x02\0\0", Then::Close).await;
    let balancer = before(&bad, &b1, UNCHECKED).await;
    let mut kept = Client::connect(balancer.address).await.unwrap();
    assert_eq!(kept.broker, "b1");
    for _ in 0..100 {
        let answer = heard(balancer.address, 10).await;
        assert!(answer.starts_with(b"\x20\x02\0\0"), "{answer:?}");
        kept.echo(b"established").await.unwrap();
    }
    until("all sessions but one are over", async || sessions(&balancer).await == 1).await;
    assert_eq!(balancer.server("bad").await["sessions"], 0);
}

#[tokio::test]
async fn clients_of_a_mute_server_that_break_off_are_forgotten() {
    let b1 = Broker::start("b1").await;
    let mute = Scripted::start(b"", Then::Stay).await;
    let balancer = before(&mute, &b1, "mode = \"tcp\"\ncheck = { kind = \"none\" }").await;
    let mut kept = Client::connect(balancer.address).await.unwrap();
    let mut strangers = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(balancer.address).await.unwrap();
        stream.write_all(b"anybody there?").await.unwrap();
        strangers.push(stream);
    }
    until("all have come", async || sessions(&balancer).await == 201).await;
    kept.echo(b"established").await.unwrap();
    strangers.into_iter().for_each(break_off);
    until("all but one are forgotten", async || sessions(&balancer).await == 1).await;
    kept.echo(b"established").await.unwrap();
}

#[tokio::test]
async fn a_server_that_does_not_read_stops_its_clients_instead_of_growing_memory() {
    let b1 = Broker::start("b1").await;
    let deaf = Scripted::start(b"\x20\x02\0\0", Then::Stay).await;
    let balancer = before(&deaf, &b1, UNCHECKED).await;
    let mut kept = Client::connect(balancer.address).await.unwrap();
    let memory = balancer.resident();
    let (mut sent, mut senders) = (0, Vec::new());
    let chunk = vec![7; 64 * 1024];
    while senders.len() < 20 {
        let mut stream = TcpStream::connect(balancer.address).await.unwrap();
        stream.write_all(&connect("device")).await.unwrap();
        let mut answer = [0; 5];
        // The good server has more to say than the CONNACK.
        let more = tokio::time::timeout(Duration::from_millis(300), stream.read_exact(&mut answer)).await;
        if more.is_ok() {
            continue;
        }
        let wait = Duration::from_millis(100);
        while let Ok(Ok(taken)) = tokio::time::timeout(wait, stream.write(&chunk)).await {
            sent += taken;
            assert!(sent < 2_000_000_000, "endless");
        }
        senders.push(stream);
    }
    kept.echo(b"established").await.unwrap();
    let grown = balancer.resident().saturating_sub(memory);
    println!("{sent} bytes to a server that does not read, by 20 clients: {grown} KiB more");
    assert!(grown < 20 * 2 * 64 + 2048, "{grown} KiB more for 20 sessions");
}

#[tokio::test]
async fn bytes_one_by_one_arrive_in_order() {
    let b1 = Broker::start("b1").await;
    let balancer = Balancer::before(&[&b1]).await;
    let mut client = Client::connect(balancer.address).await.unwrap();
    client.stream.set_nodelay(true).unwrap();
    let sent: Vec<u8> = (0..3000_u32).map(|number| u8::try_from(number % 251).unwrap()).collect();
    for byte in &sent {
        client.stream.write_all(&[*byte]).await.unwrap();
    }
    let mut back = vec![0; sent.len()];
    tokio::time::timeout(PATIENCE, client.stream.read_exact(&mut back)).await.unwrap().unwrap();
    assert!(back == sent);
}

/// As a client does that only wants to be sure that it was let in.
#[tokio::test]
async fn a_client_that_ends_its_side_behind_its_connect_gets_its_answer() {
    let b1 = Broker::start("b1").await;
    let balancer = Balancer::before(&[&b1]).await;
    let mut kept = Client::connect(balancer.address).await.unwrap();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(balancer.address).await.unwrap();
        stream.write_all(&connect("brief")).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with(b"\x20\x02\0\0"), "{answer:?}");
    }
    kept.echo(b"established").await.unwrap();
    until("all but one are over", async || sessions(&balancer).await == 1).await;
}

/// The limit of sessions leaves room for what else is open; here others take more than that.
#[tokio::test]
async fn out_of_files_new_clients_are_told_and_come_in_when_there_is_room() {
    let b1 = Broker::start("b1").await;
    let address = free_address();
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 64; exec \"$@\"", "sh", BINARY]);
    let settings = listen(address, UNCHECKED, &servers(&["b1"], &[&b1]));
    let balancer = Balancer::start_as(address, &settings, limited).await;
    let mut kept = Client::connect(address).await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(Client::persist(address).await);
    }
    let files = || {
        let open = |file: &u64| PathBuf::from(format!("/proc/{}/fd/{file}", balancer.pid())).is_symlink();
        (0..64).filter(open).collect::<Vec<u64>>()
    };
    until("only clients are there", async || is_unasked(&balancer)).await;
    let before = files();
    // One file is left: the client is accepted, and there is none for its server.
    leave_files(&balancer, &before, 1);
    assert_eq!(answer(&mut late(address).await).await, [0x20, 2, 0, 3], "server unavailable");
    balancer.wait_for_log("end=\"our-limit\"").await;
    kept.echo(b"established").await.unwrap();
    // None is left: clients wait in the kernel's queue.
    until("one file is left again", async || files() == before).await;
    leave_files(&balancer, &before, 0);
    let mut queued = late(address).await;
    balancer.wait_for_log("cannot accept").await;
    kept.echo(b"established").await.unwrap();
    limit_files(&balancer, 64);
    assert_eq!(answer(&mut queued).await, [0x20, 2, 0, 0]);
    kept.echo(b"established").await.unwrap();
    assert_eq!(balancer.ask(Method::GET, "/health", None).await.0, StatusCode::OK);
}

/// Room for so many files beside those that are open: a new one gets the first number that is free.
fn leave_files(balancer: &Balancer, open: &[u64], count: usize) {
    let limit = (0..64).filter(|file| !open.contains(file)).nth(count);
    limit_files(balancer, limit.unwrap());
}

/// Whether nobody asks at the admin socket any more.
fn is_unasked(balancer: &Balancer) -> bool {
    // It was bound under this name, and each connection has it, too.
    let name = format!("{}.{}", balancer.path("admin.sock").display(), balancer.pid());
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    sockets.lines().filter(|line| line.ends_with(&name)).count() == 1
}

fn limit_files(balancer: &Balancer, limit: u64) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(balancer.pid()).unwrap());
    let rlimit = Rlimit { current: Some(limit), maximum: Some(64) };
    prlimit(pid, Resource::Nofile, rlimit).unwrap();
}

async fn late(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&connect("late")).await.unwrap();
    stream
}

async fn answer(stream: &mut TcpStream) -> [u8; 4] {
    let mut connack = [0; 4];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut connack)).await.unwrap().unwrap();
    connack
}

/// Comes back until it is told to stop; how often it had to.
async fn device(address: SocketAddr, stopped: tokio::sync::watch::Receiver<bool>) -> usize {
    let mut connections = 0;
    loop {
        let mut client = Client::persist(address).await;
        connections += 1;
        while client.echo(b"hello").await.is_ok() {
            if *stopped.borrow() {
                return connections;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Whatever a killed process left behind, the next one starts, and everybody comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_under_load_it_starts_again_and_all_clients_come_back() {
    let (b1, b2) = (Broker::start("b1").await, Broker::start("b2").await);
    let mut balancer = Balancer::before(&[&b1, &b2]).await;
    let address = balancer.address;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut fleet = JoinSet::new();
    for _ in 0..50 {
        fleet.spawn(device(address, stopped.clone()));
    }
    for _ in 0..3 {
        until("all are there", async || sessions(&balancer).await >= 50).await;
        balancer.crash().await;
    }
    until("all are back", async || sessions(&balancer).await >= 50).await;
    stop.send_replace(true);
    let connections = fleet.join_all().await;
    // Who is just coming when it is killed counts but once.
    assert!(connections.iter().sum::<usize>() > 50, "nobody lost a connection: {connections:?}");
    until("the servers know", async || b1.sessions() + b2.sessions() == 0).await;
}
