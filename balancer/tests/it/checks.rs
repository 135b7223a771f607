//! How servers are asked whether they are well.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{BINARY, Balancer, Broker, Client, free_address, listen, servers, until};

/// Answers each connection with the same text, after a while; counts what it was sent.
struct Answering {
    address: SocketAddr,
    delay: Arc<AtomicU64>,
    asked: Arc<AtomicUsize>,
    last: Arc<parking_lot::Mutex<Vec<u8>>>,
}

async fn answering(answer: &'static [u8]) -> Answering {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Answering {
        address: listener.local_addr().unwrap(),
        delay: Arc::default(),
        asked: Arc::default(),
        last: Arc::default(),
    };
    let (delay, asked, last) =
        (Arc::clone(&server.delay), Arc::clone(&server.asked), Arc::clone(&server.last));
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (delay, last) = (delay.load(SeqCst), Arc::clone(&last));
            asked.fetch_add(1, SeqCst);
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).await.unwrap_or(0);
                if read > 0 {
                    *last.lock() = request[..read].to_vec();
                }
                tokio::time::sleep(Duration::from_millis(delay)).await;
                let _ = stream.write_all(answer).await;
                let _ = stream.read(&mut request).await;
            });
        }
    });
    server
}

async fn verdict(balancer: &Balancer, server: &str, verdict: &str) {
    let is = async || balancer.server(server).await["check"]["verdict"] == verdict;
    until(&format!("{server} is {verdict}"), is).await;
}

#[tokio::test]
async fn an_http_check_looks_at_the_status_and_may_go_to_another_port() {
    let b1 = Broker::start("b1").await;
    let cases: [(&[u8], &str, &str); 4] = [
        (b"HTTP/1.1 204 No Content\r\n\r\n", "healthy", "ok"),
        (b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", "unhealthy", "refusing"),
        (b"220 mail.example ESMTP\r\n", "unhealthy", "garbled"),
        (b"", "unhealthy", "frozen"),
    ];
    for (answer, state, expected) in cases {
        let health = answering(answer).await;
        let address = free_address();
        let options = format!(
            "send_proxy = \"v1\"\ncheck = {{ kind = \"http\", port = {}, path = \"/ready?x=1\", host = \"b1.example\", method = \"HEAD\", expect = [\"200-299\"], interval = \"200ms\", timeout = \"2s\", fall = 1 }}",
            health.address.port()
        );
        let balancer = Balancer::start(address, &listen(address, &options, &servers(&["b1"], &[&b1]))).await;
        balancer.wait_for_state("b1", state).await;
        verdict(&balancer, "b1", expected).await;
        let request = String::from_utf8(health.last.lock().clone()).unwrap();
        assert!(
            request.starts_with("HEAD /ready?x=1 HTTP/1.1\r\n"),
            "no PROXY header at another port: {request}"
        );
        assert!(request.to_ascii_lowercase().contains("host: b1.example\r\n"), "{request}");
    }
}

#[tokio::test]
async fn a_slow_server_is_shown_and_keeps_its_clients() {
    let server = answering(&[0x20, 2, 0, 0]).await;
    let address = free_address();
    let options = "mode = \"mqtt\"\ncheck = { kind = \"mqtt\", interval = \"200ms\", timeout = \"20s\", slow_after = \"100ms\" }";
    let balancer = Balancer::start(address, &listen(address, options, &[("b1", server.address)])).await;
    balancer.wait_for_state("b1", "healthy").await;
    verdict(&balancer, "b1", "ok").await;
    server.delay.store(300, SeqCst);
    let late = async || {
        let check = &balancer.server("b1").await["check"];
        check["verdict"] == "slow" && check["milliseconds"].as_u64() >= Some(300)
    };
    until("b1 is slow by 300 ms", late).await;
    assert_eq!(balancer.server("b1").await["state"], "healthy");
}

/// With an interval that this test does not live to see twice.
#[tokio::test]
async fn a_failed_connection_brings_the_next_check_forward() {
    let (mut b1, b2) = (Broker::start("b1").await, Broker::start("b2").await);
    let address = free_address();
    let options =
        "check = { kind = \"mqtt\", interval = \"10m\", fast_interval = \"50ms\", fall = 3, rise = 2 }";
    let settings = listen(address, options, &servers(&["b1", "b2"], &[&b1, &b2]));
    let balancer = Balancer::start(address, &settings).await;
    balancer.wait_for_state("b1", "healthy").await;
    until("the check after the first one is over, too", async || b1.checks() >= 2).await;
    b1.stop().await;
    let clients = Client::many(address, 4).await;
    assert!(clients.iter().all(|client| client.broker == "b2"));
    verdict(&balancer, "b1", "dead").await;
    balancer.wait_for_state("b1", "unhealthy").await;
}

/// What clients bring about costs a server no storm of checks, and does not take it out.
#[tokio::test]
async fn sessions_that_end_badly_bring_checks_and_no_blame() {
    use crate::support::broker::Mood;
    let b1 = Broker::start("b1").await;
    let address = free_address();
    let options = "check = { kind = \"mqtt\", interval = \"10m\", fast_interval = \"100ms\", timeout = \"20s\", fall = 1 }";
    let balancer = Balancer::start(address, &listen(address, options, &servers(&["b1"], &[&b1]))).await;
    balancer.wait_for_state("b1", "healthy").await;
    until("the check after the first one is over, too", async || b1.checks() >= 2).await;
    b1.set(Mood::Closing);
    for _ in 0..50 {
        assert!(Client::connect(address).await.is_err());
    }
    let server = balancer.server("b1").await;
    assert_eq!((&server["state"], &server["suspicions"]), (&"healthy".into(), &50.into()));
    b1.set(Mood::Well);
    Client::connect(address).await.expect("it was never taken out");
    b1.set(Mood::Unavailable);
    assert!(Client::connect(address).await.is_err());
    balancer.wait_for_state("b1", "unhealthy").await;
}

struct Mosquitto {
    process: Child,
    address: SocketAddr,
    _directory: TempDir,
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A real broker that knows one user, who may use the topics below `nsd/`.
fn mosquitto() -> Mosquitto {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let address = free_address();
    let mut command = Command::new("mosquitto_passwd");
    command.args(["-b", "-c"]).arg(path("users")).args(["probe", "s3cret-word"]);
    assert!(command.stderr(Stdio::null()).status().unwrap().success());
    std::fs::write(path("acl"), "user probe\ntopic readwrite nsd/#\n").unwrap();
    let settings = format!(
        "listener {} 127.0.0.1\nallow_anonymous false\npassword_file {}\nacl_file {}\nuser root\n",
        address.port(),
        path("users").display(),
        path("acl").display()
    );
    std::fs::write(path("conf"), settings).unwrap();
    let process =
        Command::new("mosquitto").arg("-c").arg(path("conf")).stderr(Stdio::null()).spawn().unwrap();
    Mosquitto { process, address, _directory: directory }
}

fn secret(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn a_loop_back_logs_in_and_waits_for_its_message() {
    let mosquitto = mosquitto();
    for (version, topic, expected) in [
        ("3.1.1", "nsd/check/%c", "ok"),
        ("5", "nsd/check/%c", "ok"),
        ("3.1", "nsd/check/%c", "ok"),
        ("5", "elsewhere/%c", "refusing"),
    ] {
        let directory = TempDir::new().unwrap();
        let password = directory.path().join("password");
        secret(&password, "s3cret-word\n", 0o600);
        let address = free_address();
        let options = format!(
            "check = {{ kind = \"mqtt\", interval = \"200ms\", timeout = \"3s\", user_name = \"probe\", password_file = \"{}\", version = \"{version}\", client_id = \"nsd-%s-%r\", loop_back = \"{topic}\" }}",
            password.display()
        );
        let settings = listen(address, &options, &[("m", mosquitto.address)]);
        let balancer = Balancer::start_in(directory, address, &settings, Command::new(BINARY)).await;
        let state = if expected == "ok" { "healthy" } else { "unhealthy" };
        balancer.wait_for_state("m", state).await;
        let known = [expected, if expected == "ok" { "slow" } else { "frozen" }];
        let found = async || {
            let server = balancer.server("m").await;
            known.iter().any(|word| server["check"]["verdict"] == *word)
        };
        until(&format!("{version} {topic}: one of {known:?}"), found).await;
        if expected == "ok" {
            // The file is followed; and who may not log in cannot do what was asked for.
            secret(&password, "another-word\n", 0o600);
            verdict(&balancer, "m", "refusing").await;
            secret(&password, "s3cret-word\n", 0o600);
            balancer.wait_for_state("m", "healthy").await;
        }
        assert!(!balancer.log().contains("-word"), "a password is in the log");
    }
}

#[test]
fn a_password_that_everybody_can_read_is_refused() {
    let directory = TempDir::new().unwrap();
    let (password, settings) = (directory.path().join("password"), directory.path().join("balancer.toml"));
    let options = format!(
        "check = {{ kind = \"mqtt\", user_name = \"u\", password_file = \"{}\" }}",
        password.display()
    );
    std::fs::write(&settings, listen(free_address(), &options, &[])).unwrap();
    let check = || {
        let output = Command::new(BINARY).args(["--check", "--config"]).arg(&settings).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert!(matches!(check(), (Some(65), text) if text.contains("No such file")));
    secret(&password, "s3cret", 0o644);
    let (code, text) = check();
    assert!(code == Some(65) && text.contains("chmod o-rwx") && !text.contains("s3cret"), "{text}");
    secret(&password, "s3cret", 0o640);
    assert_eq!(check(), (Some(0), String::new()));
}
