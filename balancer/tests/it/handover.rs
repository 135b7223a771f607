//! One process takes over from another, under traffic.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use nsd_edge::admin::{Method, call};
use nsd_wire::Version;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use crate::support::broker::Mood;
use crate::support::device::{Device, Heard};
use crate::support::tls::{Place, Secure};
use crate::support::witness::Witness;
use crate::support::{
    BINARY, Balancer, Broker, CHECK, Client, IMPATIENT, PATIENCE, UNCHECKED, free_address, listen, servers,
    until,
};

/// A process after the first, with the settings and the admin socket of that; killed when dropped.
struct Next {
    process: Child,
    log: PathBuf,
    socket: PathBuf,
}

impl Next {
    /// `number` tells it from others in the same directory.
    fn begin(first: &Balancer, number: usize) -> Self {
        Self::begin_as(first, number, Command::new(BINARY))
    }

    fn begin_as(first: &Balancer, number: usize, mut command: Command) -> Self {
        let config = first.path("balancer.toml");
        command.arg("--config").arg(config).arg("--take-over");
        Self::begin_by(first, number, command)
    }

    fn begin_by(first: &Balancer, number: usize, mut command: Command) -> Self {
        let log = first.path(&format!("log-{number}"));
        command.env("RUST_LOG", "info");
        let to_log = File::create(&log).unwrap();
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(to_log).spawn().unwrap();
        Self { process, log, socket: first.path("admin.sock") }
    }

    async fn took_over(first: &Balancer, number: usize) -> Self {
        let next = Self::begin(first, number);
        next.wait_for_log("started").await;
        assert!(next.log().contains("taking over from a running process"));
        next
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    async fn wait_for_log(&self, text: &str) {
        let said = async || {
            let log = self.log();
            assert!(log.contains(text) || !log.contains("cannot"), "{log}");
            log.contains(text)
        };
        until(&format!("the next process says `{text}`"), said).await;
    }

    async fn status(&self) -> Value {
        call(&self.socket, Method::GET, "/status", None).await.unwrap().1
    }

    async fn metrics(&self) -> String {
        let mut socket = tokio::net::UnixStream::connect(&self.socket).await.unwrap();
        socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).await.unwrap();
        text
    }

    /// Its own sessions, and those that it says the servers have.
    async fn sessions(&self) -> (u64, u64) {
        let status = self.status().await;
        let servers = status["backends"][0]["servers"].as_array().unwrap();
        let at_servers = servers.iter().map(|server| server["sessions"].as_u64().unwrap()).sum();
        (status["sessions"].as_u64().unwrap(), at_servers)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    async fn exited(&mut self) -> i32 {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(begun.elapsed() < PATIENCE, "the next process does not exit\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Next {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- the next process's log\n{}", self.log());
        }
    }
}

/// The heap and the stacks of a process, in KiB.
fn anonymous(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Clients that send and get back, until told to stop.
struct Traffic {
    stop: Arc<AtomicBool>,
    echoed: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Client>>,
}

impl Traffic {
    fn of(clients: Vec<Client>, pause: Duration) -> Self {
        let (stop, echoed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let talk = |mut client: Client| {
            let (stop, echoed) = (Arc::clone(&stop), Arc::clone(&echoed));
            tokio::spawn(async move {
                let mut number = 0_u32;
                while !stop.load(SeqCst) {
                    // A message of QoS 0 to the topic `t`, so that packets can be followed.
                    let mut packet = vec![0x30, 7, 0, 1, b't'];
                    packet.extend(number.to_be_bytes());
                    let echo = tokio::time::timeout(PATIENCE, client.echo(&packet)).await;
                    echo.expect("the echo comes").expect("the session goes on");
                    echoed.fetch_add(1, SeqCst);
                    number += 1;
                    tokio::time::sleep(pause).await;
                }
                client
            })
        };
        let clients = clients.into_iter().map(talk).collect();
        Self { stop, echoed, clients }
    }

    /// So many more echoes.
    async fn goes_on(&self, more: usize) {
        let wanted = self.echoed.load(SeqCst) + more;
        until("traffic goes on", async || self.echoed.load(SeqCst) >= wanted).await;
    }

    /// Whoever was cut, or got other bytes than it sent, fails here.
    async fn end(self) -> Vec<Client> {
        self.stop.store(true, SeqCst);
        let mut clients = Vec::new();
        for client in self.clients {
            clients.push(client.await.unwrap());
        }
        clients
    }
}

/// New clients, one after the other, none of whom may be refused.
struct Newcomers {
    stop: Arc<AtomicBool>,
    came: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Newcomers {
    fn to(address: std::net::SocketAddr) -> Self {
        let (stop, came) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (until, count) = (Arc::clone(&stop), Arc::clone(&came));
        let task = tokio::spawn(async move {
            while !until.load(SeqCst) {
                let mut client = Client::connect(address).await.expect("a new client is let in");
                client.echo(b"\xc0\0").await.expect("and served");
                count.fetch_add(1, SeqCst);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        Self { stop, came, task }
    }

    async fn end(self) -> usize {
        self.stop.store(true, SeqCst);
        self.task.await.unwrap();
        self.came.load(SeqCst)
    }
}

/// With `rate` for those who have to leave.
async fn secure(rate: &str, brokers: &[&Broker]) -> Secure {
    secure_with(rate, "", brokers).await
}

async fn secure_with(rate: &str, options: &str, brokers: &[&Broker]) -> Secure {
    let place = Place::new();
    let options = format!("{CHECK}\n{options}");
    let settings = format!("[take_over]\nrate = \"{rate}\"\n{}", place.settings(&options, "", brokers));
    let Place { directory, authority, plain, tls } = place;
    let balancer = Balancer::start_in(directory, plain, &settings, Command::new(BINARY)).await;
    Secure { balancer, authority, tls }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_sessions_move_unnoticed_and_tls_ones_leave_at_the_rate() {
    nsd_edge::listen::raise_open_files();
    let (b1, b2) = (Broker::start("b1").await, Broker::start("b2").await);
    let mut secure = secure("10/s", &[&b1, &b2]).await;
    let address = secure.balancer.address;
    let mut over_tls = Vec::new();
    for _ in 0..50 {
        over_tls.push(secure.connect().await.unwrap());
    }
    let traffic = Traffic::of(Client::many(address, 500).await, Duration::from_millis(300));
    let newcomers = Newcomers::to(address);
    traffic.goes_on(500).await;

    let mut next = Next::took_over(&secure.balancer, 2).await;
    // All of them are counted at any time, wherever they are.
    let (_, at_servers) = next.sessions().await;
    assert!(at_servers >= 500, "{at_servers} are too few: {}", next.status().await);
    until("all plain sessions have moved", async || next.sessions().await.0 >= 500).await;
    traffic.goes_on(1000).await;

    let ends = over_tls.into_iter().map(|mut client| async move {
        client.ended().await;
        Instant::now()
    });
    let ends: Vec<JoinHandle<Instant>> = ends.map(tokio::spawn).collect();
    let mut left = Vec::new();
    for end in ends {
        left.push(end.await.unwrap());
    }
    left.sort();
    // About five seconds; whoever of them is heard late has a few of these.
    assert!(left[49] - left[0] > Duration::from_millis(1500), "all at once: {:?}", left[49] - left[0]);
    assert!(secure.balancer.exited().await.success());
    let log = secure.balancer.log();
    let left = log.lines().filter(|line| line.contains("end=\"restarted\"") && line.contains("clean=true"));
    assert_eq!(left.count(), 50, "{log}");
    assert!(!log.contains("deadline for leaving"), "{log}");

    let came = newcomers.end().await;
    traffic.goes_on(500).await;
    println!("{came} new clients came meanwhile");
    until("the counts are right", async || next.sessions().await == (500, 500)).await;
    let connections = async |count: u64| next.status().await["frontends"][0]["connections"] == count;
    until("those that were taken over count", async || connections(500).await).await;
    let clients = traffic.end().await;
    until("the servers have no others", async || b1.sessions() + b2.sessions() == 500).await;
    drop(clients);
    until("all have left", async || next.sessions().await == (0, 0)).await;
    until("none is counted any more", async || connections(0).await).await;
    let log = next.log();
    let ended =
        log.lines().filter(|line| line.contains("end=\"client\"") && !line.contains("messages_up=0 "));
    assert!(ended.count() >= 500, "{log}");
    next.signal(Signal::TERM);
    assert_eq!(next.exited().await, 0);
    assert!(
        !secure.balancer.path("admin.sock").exists()
            && !secure.balancer.path("admin.sock.take-over").exists()
    );
}

/// Its will, and what had gone through: the new process goes on where the old one was, and counts nothing twice.
#[tokio::test]
async fn what_is_known_of_a_session_goes_with_it() {
    let b1 = Witness::start().await;
    let address = free_address();
    let balancer = Balancer::start(address, &listen(address, CHECK, &[("b1", b1.address)])).await;
    balancer.wait_for_state("b1", "healthy").await;
    let mut devices = Device::many(address, "device", 3, Version::V5).await;
    let speak = async |device: &mut Device| {
        let message = device.message("t", b"m");
        device.stream.write_all(&message).await.unwrap();
        assert_eq!(device.hear().await, Heard::Other, "PUBACK");
    };
    for device in &mut devices {
        speak(device).await;
    }
    let next = Next::took_over(&balancer, 2).await;
    until("all have moved", async || next.sessions().await.0 == 3).await;
    speak(&mut devices[0]).await;
    let asked = json!({ "server": "b1", "rate": "1000/s", "deadline_seconds": 0 });
    call(&next.socket, Method::POST, "/drain", Some(&asked)).await.unwrap();
    until("all have left", async || b1.left() == 3).await;
    drop(devices);
    let told = async || {
        let page = next.metrics().await;
        let has = |family: &str, value: &str| {
            page.lines().any(|line| line.starts_with(family) && line.ends_with(value))
        };
        has("nsd_balancer_server_wills_suppressed_total{", "} 3")
            && has("nsd_balancer_server_messages_total{", "direction=\"up\"} 1")
    };
    until("three wills were not fired, and one message came here", told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_times_in_a_row() {
    let (b1, b2) = (Broker::start("b1").await, Broker::start("b2").await);
    let mut first = Balancer::before(&[&b1, &b2]).await;
    first.tell("/drain", "b2").await;
    let traffic = Traffic::of(Client::many(first.address, 60).await, Duration::from_millis(20));
    let newcomers = Newcomers::to(first.address);
    let mut second = Next::took_over(&first, 2).await;
    traffic.goes_on(500).await;
    let mut third = Next::took_over(&first, 3).await;
    let mut fourth = Next::took_over(&first, 4).await;
    assert!(first.exited().await.success());
    assert_eq!((second.exited().await, third.exited().await), (0, 0));
    newcomers.end().await;
    traffic.goes_on(500).await;
    until("all are there", async || fourth.sessions().await == (60, 60)).await;
    let status = fourth.status().await;
    let servers = status["backends"][0]["servers"].as_array().unwrap();
    assert_eq!(
        (&servers[0]["state"], &servers[1]["state"]),
        (&"healthy".into(), &"draining".into()),
        "{status}"
    );
    assert!(servers[0]["sessions_total"].as_u64().unwrap() > 60, "{status}");
    assert_eq!(b2.total(), 0);
    traffic.end().await;
    fourth.signal(Signal::TERM);
    assert_eq!(fourth.exited().await, 0);
}

#[tokio::test]
async fn where_nothing_runs_it_is_a_start() {
    let b1 = Broker::start("b1").await;
    let mut first = Balancer::before(&[&b1]).await;
    first.kill();
    let next = Next::begin(&first, 2);
    next.wait_for_log("nothing runs that could be taken over from").await;
    next.wait_for_log("started").await;
    Client::connect(first.address).await.unwrap();
}

#[tokio::test]
async fn bad_settings_change_nothing() {
    let b1 = Broker::start("b1").await;
    let balancer = Balancer::before(&[&b1]).await;
    let traffic = Traffic::of(Client::many(balancer.address, 10).await, Duration::from_millis(10));
    let good = listen(balancer.address, CHECK, &servers(&["b1"], &[&b1]));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let certificates = "[listen.tls]\nbind = [\"127.0.0.1:1\"]\ncertificates = [\"/nowhere.pem\"]\n";
    let wrong = [
        (good.replace("kind", "knid"), 65, "knid"),
        (
            good.replace("bind = [", &format!("bind = [\"{at}\", ")),
            1,
            "another program listens there already",
        ),
        (good.replace("[[listen.server]]", &format!("{certificates}[[listen.server]]")), 1, "/nowhere.pem"),
    ];
    for (number, (settings, code, says)) in wrong.iter().enumerate() {
        balancer.rewrite(settings);
        let mut next = Next::begin(&balancer, number);
        assert_eq!(next.exited().await, *code, "{}", next.log());
        assert!(next.log().contains(says), "{}", next.log());
    }
    traffic.goes_on(100).await;
    Client::connect(balancer.address).await.unwrap();
    assert!(!balancer.log().contains("accepts from now on"));
    balancer.rewrite(&good);
    let next = Next::took_over(&balancer, 9).await;
    traffic.goes_on(100).await;
    until("all have moved", async || next.sessions().await.0 == 10).await;
    traffic.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_is_killed_takes_nothing_along_but_what_it_had() {
    const CLIENTS: usize = 600;
    nsd_edge::listen::raise_open_files();
    let (b1, b2) = (Broker::start("b1").await, Broker::start("b2").await);
    let secure = secure("1/min", &[&b1, &b2]).await;
    let balancer = &secure.balancer;
    // They keep the old process there, one of them leaves in each round.
    let mut over_tls = Vec::new();
    for _ in 0..12 {
        over_tls.push(secure.connect().await.unwrap());
    }
    let mut clients = Client::many(balancer.address, CLIENTS).await;
    for round in 0..8 {
        let takeovers = || balancer.log().matches("accepts from now on").count();
        let before = takeovers();
        let mut next = Next::begin(balancer, 10 + round);
        // Every fourth is killed earlier: while it prepares.
        if round % 4 != 0 {
            until("it takes over", async || takeovers() > before).await;
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..40))).await;
        next.process.kill().unwrap();
        next.process.wait().unwrap();
        let mut kept = Vec::new();
        for mut client in clients {
            // Cut, or as before: never other bytes than were sent.
            match tokio::time::timeout(PATIENCE, client.echo(b"\xc0\0")).await.expect("cut or served") {
                Ok(()) => kept.push(client),
                Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::Other, "{error}"),
            }
        }
        println!("round {round}: {} sessions are left", kept.len());
        for _ in kept.len()..CLIENTS {
            kept.push(Client::persist(balancer.address).await);
        }
        clients = kept;
        // The admin socket answers again, and it knows of everybody.
        let known = async || {
            let asked = call(&balancer.path("admin.sock"), Method::GET, "/status", None).await;
            asked.is_ok_and(|(_, status)| status["sessions"].as_u64() > Some(CLIENTS as u64))
        };
        until("the old process has them all", known).await;
    }
    let next = Next::took_over(balancer, 99).await;
    until("all have moved", async || next.sessions().await.0 == CLIENTS as u64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_process_that_is_killed_leaves_what_was_handed_over() {
    let b1 = Broker::start("b1").await;
    let mut secure = secure("1/min", &[&b1]).await;
    let mut over_tls =
        [secure.connect().await.unwrap(), secure.connect().await.unwrap(), secure.connect().await.unwrap()];
    let traffic = Traffic::of(Client::many(secure.balancer.address, 100).await, Duration::from_millis(50));
    let next = Next::took_over(&secure.balancer, 2).await;
    until("all plain sessions have moved", async || next.sessions().await.0 == 100).await;
    until("those over TLS count", async || (101..=103).contains(&next.sessions().await.1)).await;
    secure.balancer.kill();
    for client in &mut over_tls {
        client.ended().await;
    }
    traffic.goes_on(200).await;
    until("they count no more", async || next.sessions().await == (100, 100)).await;
    traffic.end().await;
    secure.connect().await.unwrap();
}

#[tokio::test]
async fn what_the_new_settings_leave_out_goes_as_in_a_reload() {
    let (b1, b2) = (Broker::start("b1").await, Broker::start("b2").await);
    let (address, other) = (free_address(), free_address());
    let extra =
        listen(other, UNCHECKED, &[("b2", b2.address)]).replace("name = \"mqtt\"", "name = \"extra\"");
    let before = format!("{}{extra}", listen(address, UNCHECKED, &[("b1", b1.address)]));
    let mut balancer = Balancer::start(address, &before).await;
    let mut stays = Client::connect(address).await.unwrap();
    let mut orphan = Client::connect(other).await.unwrap();
    // In another file: its own the running process would read anew as soon as it changes.
    balancer.write("next.toml", &listen(address, UNCHECKED, &[("b2", b2.address)]));
    let mut command = Command::new(BINARY);
    command.arg("--config").arg(balancer.path("next.toml")).arg("--take-over");
    let next = Next::begin_by(&balancer, 2, command);
    next.wait_for_log("started").await;
    assert!(balancer.exited().await.success());
    stays.echo(b"\xc0\0").await.unwrap();
    orphan.echo(b"\xc0\0").await.unwrap();
    assert!(Client::connect(other).await.is_err(), "nobody listens there");
    assert_eq!(Client::connect(address).await.unwrap().broker, "b2");
    let status = next.status().await;
    let leaving = &status["backends"][0]["leaving"][0];
    assert_eq!((&leaving["name"], &leaving["sessions"]), (&"b1".into(), &1.into()), "{status}");
    drop((stays, orphan));
    until("they have left", async || next.status().await["sessions"] == 0).await;
}

#[tokio::test]
async fn another_user_is_refused() {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;

    assert!(rustix::process::geteuid().is_root(), "only root can be another user");
    let b1 = Broker::start("b1").await;
    let balancer = Balancer::before(&[&b1]).await;
    let door = balancer.path("admin.sock.take-over");
    assert_eq!(std::fs::metadata(&door).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(balancer.directory.path(), Permissions::from_mode(0o755)).unwrap();
    // Where the binary stands, another user may not look: it is copied. By another process, for what this one has open to
    // be written, each process that other tests begin meanwhile has for a moment, too, and such a file cannot be run.
    let binary = balancer.path("nsd-balancer");
    assert!(Command::new("cp").arg(BINARY).arg(&binary).status().unwrap().success());
    let other = || {
        let mut command = Command::new(&binary);
        command.uid(65534).gid(65534);
        command
    };
    let mut next = Next::begin_as(&balancer, 2, other());
    assert_eq!(next.exited().await, 1);
    assert!(
        next.log().contains("cannot take over through") && next.log().contains("denied"),
        "{}",
        next.log()
    );
    // Even if somebody opens the socket's file to everyone.
    std::fs::set_permissions(&door, Permissions::from_mode(0o666)).unwrap();
    let mut next = Next::begin_as(&balancer, 3, other());
    assert_eq!(next.exited().await, 1);
    assert!(next.log().contains("the other process is of user 0, not 65534"), "{}", next.log());
    Client::connect(balancer.address).await.unwrap();
    assert!(!balancer.log().contains("accepts from now on"));
}

#[tokio::test]
async fn sessions_that_moved_are_closed_with_their_server() {
    let (b1, mut b2) = (Broker::start("b1").await, Broker::start("b2").await);
    let balancer = Balancer::checking(IMPATIENT, &[&b1, &b2]).await;
    let clients = Client::many(balancer.address, 20).await;
    let next = Next::took_over(&balancer, 2).await;
    until("all have moved", async || next.sessions().await.0 == 20).await;
    b1.set(Mood::Frozen);
    b2.stop().await;
    for mut client in clients {
        client.ended().await;
    }
    until("none is left", async || next.sessions().await == (0, 0)).await;
    next.wait_for_log("end=\"server-down\"").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_message_both_ways_arrives_whole() {
    let b1 = Broker::start("b1").await;
    let mut balancer = Balancer::before(&[&b1]).await;
    let client = Client::connect(balancer.address).await.unwrap();
    let (mut read, mut write) = client.stream.into_split();
    // Messages of a million bytes each, as many as it takes.
    let mut message = vec![0x30, 0xc0, 0x84, 0x3d, 0, 1, b't'];
    message.extend((3..1_000_000_u32).map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 24).unwrap()));
    let expected = message.clone();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let sender = tokio::spawn(async move {
        let mut messages = 0;
        while !stopped.load(SeqCst) {
            for part in message.chunks(20_000) {
                write.write_all(part).await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            messages += 1;
        }
        write.shutdown().await.unwrap();
        messages
    });
    // Its server still answers, and ends behind its last answer.
    let receiver = tokio::spawn(async move {
        let (mut messages, mut back) = (0, vec![0; expected.len()]);
        while read.read_exact(&mut back).await.is_ok() {
            assert!(back == expected, "other bytes came back");
            messages += 1;
        }
        messages
    });
    let second = Next::took_over(&balancer, 2).await;
    until("it has moved", async || second.sessions().await.0 == 1).await;
    let third = Next::took_over(&balancer, 3).await;
    until("it has moved on", async || third.sessions().await.0 == 1).await;
    stop.store(true, SeqCst);
    let messages = sender.await.unwrap();
    let back = tokio::time::timeout(PATIENCE, receiver).await.expect("all comes back").unwrap();
    assert_eq!(back, messages);
    assert!(balancer.exited().await.success());
    let told = format!("messages_up={messages} messages_down={}", messages + 1);
    until("it has ended", async || third.log().contains(&told)).await;
}

/// A client that does not read keeps its session where bytes are held for it; others do not wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_is_moved_once_it_does() {
    let b1 = Broker::start("b1").await;
    let mut balancer = Balancer::before(&[&b1]).await;
    let mut client = Client::connect(balancer.address).await.unwrap();
    // Of the two threads each has one of them.
    let mut others = Client::many(balancer.address, 2).await;
    let sent = client.fill(&mut others).await;
    drop(others);
    let traffic = Traffic::of(Client::many(balancer.address, 20).await, Duration::from_millis(20));
    let next = Next::took_over(&balancer, 2).await;
    until("the others have moved", async || next.sessions().await.0 == 20).await;
    traffic.goes_on(200).await;
    until("it is counted where it is", async || next.sessions().await == (20, 21)).await;
    let mut back = vec![0; sent];
    tokio::time::timeout(PATIENCE, client.stream.read_exact(&mut back)).await.unwrap().unwrap();
    assert!(back.chunks_exact(2).all(|packet| packet == b"\xc0\0"));
    until("it has moved too", async || next.sessions().await == (21, 21)).await;
    assert!(balancer.exited().await.success());
    traffic.end().await;
}

#[tokio::test]
async fn a_moved_session_costs_what_another_does() {
    const CLIENTS: usize = 2000;
    nsd_edge::listen::raise_open_files();
    let b1 = Broker::start("b1").await;
    let balancer = Balancer::before(&[&b1]).await;
    let empty = anonymous(balancer.pid());
    let clients = Client::many(balancer.address, CLIENTS).await;
    let own = anonymous(balancer.pid()).saturating_sub(empty);
    let next = Next::took_over(&balancer, 2).await;
    until("all have moved", async || next.sessions().await.0 == CLIENTS as u64).await;
    let moved = anonymous(next.process.id()).saturating_sub(empty);
    println!("{CLIENTS} idle sessions: {own} KiB where they came, {moved} KiB where they moved");
    assert!(moved < own + own / 4 + 1024, "{moved} KiB instead of {own}");
    drop(clients);
}

#[tokio::test]
async fn a_client_that_comes_again_closes_its_session_in_the_other_process() {
    let b1 = Broker::start("b1").await;
    let secure = secure("1/min", &[&b1]).await;
    let config = secure.authority.client_config(None);
    let mut older = Vec::new();
    for name in ["one", "two", "three"] {
        let socket = tokio::net::TcpStream::connect(secure.tls).await.unwrap();
        let server = rustls_pki_types::ServerName::try_from(crate::support::tls::NAME).unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&config));
        older.push(Client::over_as(connector.connect(server, socket).await.unwrap(), name).await.unwrap());
    }
    let _next = Next::took_over(&secure.balancer, 2).await;
    let mut newer = Vec::new();
    for name in ["one", "two", "three"] {
        newer.push(Client::named(secure.balancer.address, name).await.unwrap());
    }
    for mut client in older {
        client.ended().await;
    }
    for client in &mut newer {
        client.echo(b"\xc0\0").await.unwrap();
    }
    secure.balancer.wait_for_log("end=\"duplicate\"").await;
}

#[tokio::test]
async fn a_service_manager_is_told_who_is_the_main_process() {
    let b1 = Broker::start("b1").await;
    let balancer = Balancer::before(&[&b1]).await;
    let path = balancer.path("notify");
    let manager = tokio::net::UnixDatagram::bind(&path).unwrap();
    let mut command = Command::new(BINARY);
    command.env("NOTIFY_SOCKET", &path);
    let next = Next::begin_as(&balancer, 2, command);
    let mut words = [0; 100];
    let length = tokio::time::timeout(PATIENCE, manager.recv(&mut words)).await.unwrap().unwrap();
    let words = std::str::from_utf8(&words[..length]).unwrap();
    assert_eq!(words, format!("READY=1\nMAINPID={}\n", next.process.id()));
}

#[tokio::test]
async fn the_ports_of_metrics_and_dashboard_go_over_too() {
    let b1 = Broker::start("b1").await;
    let (address, metrics, dashboard) = (free_address(), free_address(), free_address());
    let directory = tempfile::tempdir().unwrap();
    let users = directory.path().join("users");
    crate::support::visitor::with_anna(&users);
    let settings = format!(
        "[metrics]\nbind = \"{metrics}\"\n[dashboard]\nbind = \"{dashboard}\"\npassword_file = \"{}\"\n{}",
        users.display(),
        listen(address, CHECK, &servers(&["b1"], &[&b1]))
    );
    let mut balancer = Balancer::start(address, &settings).await;
    let mut client = Client::named(address, "one").await.unwrap();
    client.echo(&[b'x'; 1000]).await.unwrap();
    let answer = async |address: std::net::SocketAddr, path: &str| {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await.unwrap().unwrap();
        text
    };
    let page = answer(metrics, "/metrics").await;
    assert!(page.contains("direction=\"up\"} 1017"), "{page}");
    let next = Next::took_over(&balancer, 2).await;
    assert!(balancer.exited().await.success());
    until("it has moved", async || next.sessions().await == (1, 1)).await;
    client.echo(&[b'x'; 1000]).await.unwrap();
    let page = answer(metrics, "/metrics").await;
    assert!(
        page.contains("direction=\"up\"} 1000"),
        "what it moved before counted in the other process: {page}"
    );
    assert!(answer(dashboard, "/").await.starts_with("HTTP/1.1 "));
}

/// Whoever has a session reads it alone, also when the other one wakes up late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_hangs_is_left_and_ends_when_it_wakes_up() {
    const CLIENTS: usize = 600;
    nsd_edge::listen::raise_open_files();
    let b1 = Broker::start("b1").await;
    let secure = secure_with("1/min", "gate = { deadline = \"10m\" }", &[&b1]).await;
    let balancer = &secure.balancer;
    let mut over_tls = Vec::new();
    for _ in 0..3 {
        over_tls.push(secure.connect().await.unwrap());
    }
    let clients = Client::many(balancer.address, CLIENTS).await;
    // It has not said who it is, so it stays where it is.
    let mut undecided = tokio::net::TcpStream::connect(balancer.address).await.unwrap();
    let accepted = async || {
        let (_, status) = balancer.ask(Method::GET, "/status", None).await;
        status["sessions"] == CLIENTS + 4
    };
    until("all are counted", accepted).await;
    let mut next = Next::begin(balancer, 2);
    until("it takes over", async || balancer.log().contains("accepts from now on")).await;
    next.signal(Signal::STOP);
    // Now it is a session that could be moved, so the other process is missed, however many it has got by now.
    let mut connect = Vec::new();
    nsd_wire::Connect::new(Version::V311, "undecided").encode(Version::V311, &mut connect).unwrap();
    undecided.write_all(&connect).await.unwrap();
    // What it has not got yet, or has said nothing about, goes on where it was.
    let talk = |mut client: Client| async move {
        for _ in 0..20 {
            let mut back = [0; 2];
            client.stream.write_all(b"\xc0\0").await?;
            client.stream.read_exact(&mut back).await?;
            if back == [0xe0, 0] {
                // The new process took leave of the server, which echoes that too.
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            assert_eq!(back, [0xc0, 0], "other bytes came back");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok::<_, std::io::Error>(client)
    };
    let asked = clients.into_iter().map(|client| tokio::spawn(talk(client)));
    let asked: Vec<_> = asked.collect();
    balancer.wait_for_log("the new process is lost, this one goes on").await;
    let mut newer = Client::connect(balancer.address).await.unwrap();
    next.signal(Signal::CONT);
    next.exited().await;
    assert!(next.log().contains("the process before goes on, this one ends"), "{}", next.log());
    let mut served = 0;
    for client in asked {
        match tokio::time::timeout(PATIENCE, client).await.expect("served or ended").unwrap() {
            Ok(_client) => served += 1,
            Err(error) => println!("{error}"),
        }
    }
    println!("{served} of {CLIENTS} sessions were still here");
    newer.echo(b"\xc0\0").await.unwrap();
    assert_eq!(balancer.ask(Method::GET, "/health", None).await.1["ready"], true);
    let _next = Next::took_over(balancer, 3).await;
    newer.echo(b"\xc0\0").await.unwrap();
}

/// Killed when dropped: it is nobody's child.
struct Stranger(Pid);

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}

#[tokio::test]
async fn the_documented_file_and_the_documented_reload_work() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/balancer-restart.md");
    let page = std::fs::read_to_string(page).unwrap();
    let b1 = Broker::start("b1").await;
    let address = free_address();
    let example = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let settings = example.replace("0.0.0.0:1883", &address.to_string());
    let settings = settings.replace("10.0.0.3:1883", &b1.address.to_string());
    let mut balancer = Balancer::start(address, &settings).await;
    let mut client = Client::connect(address).await.unwrap();
    let reload = page.lines().find_map(|line| line.strip_prefix("ExecReload=/bin/sh -c ")).unwrap();
    let reload = reload.trim_matches('\'').replace("/usr/local/bin/nsd-balancer", BINARY);
    let reload = reload.replace("/etc/nsd/balancer.toml", balancer.path("balancer.toml").to_str().unwrap());
    let path = balancer.path("notify");
    let manager = tokio::net::UnixDatagram::bind(&path).unwrap();
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(reload).env("NOTIFY_SOCKET", &path);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().unwrap().success());
    let mut words = [0; 100];
    let length = tokio::time::timeout(PATIENCE, manager.recv(&mut words)).await.unwrap().unwrap();
    let words = std::str::from_utf8(&words[..length]).unwrap();
    let pid = words.lines().find_map(|line| line.strip_prefix("MAINPID=")).unwrap();
    let _stranger = Stranger(Pid::from_raw(pid.parse().unwrap()).unwrap());
    assert!(balancer.exited().await.success());
    client.echo(b"\xc0\0").await.unwrap();
}

/// The first words of an unknown release.
#[tokio::test]
async fn another_version_is_refused_in_words() {
    use rustix::net::{
        AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType, connect, recv, send, socket,
    };

    let b1 = Broker::start("b1").await;
    let balancer = Balancer::before(&[&b1]).await;
    let door = SocketAddrUnix::new(balancer.path("admin.sock.take-over")).unwrap();
    let ask = |words: &[u8]| {
        let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        connect(&socket, &door).unwrap();
        send(&socket, words, SendFlags::empty()).unwrap();
        let mut answer = vec![0; 4096];
        let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty()).unwrap();
        (String::from_utf8(answer[..length].to_vec()).unwrap(), socket)
    };
    let (answer, _socket) = ask(br#"{"hello":{"version":99}}"#);
    assert!(answer.contains("speaks version 1 of taking over, not 99: stop it (SIGTERM)"), "{answer}");
    let (answer, _socket) = ask(b"GET / HTTP/1.1");
    assert!(answer.contains("refused"), "{answer}");
    let (answer, _taking) = ask(br#"{"hello":{"version":1}}"#);
    assert!(answer.contains("welcome"), "{answer}");
    let mut next = Next::begin(&balancer, 2);
    assert_eq!(next.exited().await, 1);
    assert!(next.log().contains("another process is taking over already"), "{}", next.log());
    drop(_taking);
    balancer.wait_for_log("it does not take over").await;
    Next::took_over(&balancer, 3).await;
}
