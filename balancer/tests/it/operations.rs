//! Starting, stopping, asking, and the limits of the machine.

use std::process::Command;
use std::time::Duration;

use nsd_edge::admin::{Method, StatusCode};
use rustix::process::Signal;
use tokio::net::TcpStream;

use crate::support::{
    BINARY, Balancer, Broker, CHECK, Client, blocks, free_address, listen, page, servers, tls, typed, until,
};

#[tokio::test]
async fn a_drained_server_keeps_its_sessions_until_it_is_ready_again() {
    let (b1, b2) = (Broker::start("b1").await, Broker::start("b2").await);
    let balancer = Balancer::before(&[&b1, &b2]).await;
    let mut clients = Client::many(balancer.address, 4).await;
    let (code, answer) = balancer.tell("/drain", "b1").await;
    assert_eq!((code, &answer["servers"][0]["state"]), (StatusCode::OK, &"draining".into()));
    let new = Client::many(balancer.address, 4).await;
    assert!(new.iter().all(|client| client.broker == "b2"));
    for client in &mut clients {
        client.echo(b"still here").await.unwrap();
    }
    balancer.tell("/ready", "b1").await;
    balancer.wait_for_state("b1", "healthy").await;
    assert_eq!(Client::connect(balancer.address).await.unwrap().broker, "b1");
    assert_eq!(balancer.tell("/drain", "b9").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_graceful_stop_lets_sessions_end_then_closes_them_and_exits_with_0() {
    let b1 = Broker::start("b1").await;
    let mut balancer = Balancer::before(&[&b1]).await;
    let mut client = Client::connect(balancer.address).await.unwrap();
    let file = balancer.path("balancer.toml");
    let settings = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, settings.replace("stop_grace = \"500ms\"", "stop_grace = \"5s\"")).unwrap();
    balancer.wait_for_log("reloaded: ~stop_grace").await;
    balancer.signal(Signal::TERM);
    balancer.wait_for_log("stopping, sessions have 5s").await;
    client.echo(b"within the grace time").await.unwrap();
    let refused = async || TcpStream::connect(balancer.address).await.is_err();
    until("new clients are refused", refused).await;
    client.ended().await;
    assert_eq!(balancer.exited().await.code(), Some(0));
    assert!(balancer.log().contains("end=\"stopping\""));
    assert!(!balancer.path("admin.sock").exists());
}

#[tokio::test]
async fn health_says_whether_clients_can_be_taken() {
    let mut b1 = Broker::start("b1").await;
    let balancer = Balancer::before(&[&b1]).await;
    balancer.wait_for_state("b1", "healthy").await;
    assert_eq!(balancer.ask(Method::GET, "/health", None).await.0, StatusCode::OK);
    b1.stop().await;
    balancer.wait_for_state("b1", "unhealthy").await;
    assert_eq!(balancer.ask(Method::GET, "/health", None).await.0, StatusCode::SERVICE_UNAVAILABLE);
}

/// More clients than files: the late ones wait in the kernel's queue, and are served when others leave.
#[tokio::test]
async fn running_out_of_files_is_waited_out() {
    let b1 = Broker::start("b1").await;
    let address = free_address();
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 64; exec \"$@\"", "sh", BINARY]);
    let settings = listen(address, CHECK, &servers(&["b1"], &[&b1]));
    let balancer = Balancer::start_as(address, &settings, limited).await;
    assert!(balancer.log().contains("sessions=16"), "{}", balancer.log());
    let mut early = Client::many(address, 16).await;
    let late: Vec<_> = (0..30).map(|_| tokio::spawn(Client::connect(address))).collect();
    // They come meanwhile.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(b1.sessions(), 16, "the rest waits");
    for client in &mut early {
        client.echo(b"served").await.unwrap();
    }
    drop(early);
    for client in late {
        drop(client.await.unwrap().expect("let in after waiting"));
    }
    assert_eq!(b1.total(), 46);
    assert_eq!(balancer.ask(Method::GET, "/health", None).await.0, StatusCode::OK);
}

/// Prints what an idle session costs, and fails where it costs more than a proxy with buffers.
#[tokio::test]
async fn two_thousand_idle_sessions_cost_little() {
    let b1 = Broker::start("b1").await;
    let balancer = Balancer::before(&[&b1]).await;
    let mut clients = Client::many(balancer.address, 500).await;
    let before = balancer.resident();
    clients.extend(Client::many(balancer.address, 2000).await);
    for client in &mut clients {
        client.echo(b"sixty-four bytes would do as well").await.unwrap();
    }
    let grown = balancer.resident().saturating_sub(before);
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let each = grown as f64 / 2000.0;
    println!("an idle plain session takes {each:.2} KiB of resident memory");
    assert!(each < 4.0, "{each} KiB");
}

#[test]
fn checking_a_file_tells_all_problems_and_the_exit_code_tells_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let run = |text: &str| {
        let path = directory.path().join("balancer.toml");
        std::fs::write(&path, text).unwrap();
        let output = Command::new(BINARY).arg("--check").arg("--config").arg(path).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let good = listen(free_address(), CHECK, &[("b1", free_address())]);
    assert_eq!(run(&good), (Some(0), String::new()));
    let (code, text) = run(&good.replace("interval", "intervall").replace("address", "adress"));
    assert_eq!(code, Some(65));
    for part in ["balancer.toml:4: ", "did you mean `interval`?", "did you mean `address`?"] {
        assert!(text.contains(part), "{text}");
    }
    let tls = "tls = { bind = [\"127.0.0.1:8883\"], certificates = [\"/nowhere/x.pem\"] }";
    let (code, text) = run(&listen(free_address(), tls, &[]));
    assert_eq!(code, Some(65));
    assert!(text.contains("/nowhere/x.pem: cannot read"), "{text}");
    let absent = Command::new(BINARY).args(["--check", "--config", "/nowhere.toml"]).output().unwrap();
    assert_eq!(absent.status.code(), Some(65));
    assert_eq!(Command::new(BINARY).arg("--chek").output().unwrap().status.code(), Some(64));
}

#[test]
fn every_example_of_the_documentation_is_a_good_file() {
    let directory = tempfile::tempdir().unwrap();
    let text = ["balancer.md", "balancer-operations.md"].map(page).concat();
    // The files that the examples name are there, in a directory of ours.
    tls::write_documented(directory.path());
    let text = text.replace("/etc/nsd/", &format!("{}/", directory.path().display()));
    let examples = blocks(&text, "toml");
    assert!(!examples.is_empty());
    for example in examples {
        let path = directory.path().join("balancer.toml");
        std::fs::write(&path, &example).unwrap();
        let output = Command::new(BINARY).arg("--check").arg("--config").arg(path).output().unwrap();
        assert!(output.status.success(), "{}\n{example}", String::from_utf8_lossy(&output.stderr));
    }
}

/// `docs/balancer-operations.md`: every command is understood and answered, every path is there.
#[tokio::test]
async fn the_page_of_operations_is_true() {
    let page = page("balancer-operations.md");
    let b1 = Broker::start("b1").await;
    let balancer = Balancer::before(&[&b1]).await;
    balancer.wait_for_state("b1", "healthy").await;
    let _device = Client::named(balancer.address, "device-17").await.unwrap();
    let commands = blocks(&page, "sh").concat();
    assert_eq!(commands.lines().count(), 5, "{commands}");
    for line in commands.lines() {
        typed(line, &balancer);
    }
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(row, _)| row);
    let routes: Vec<(&str, &str)> = rows.filter_map(|row| row.split_once(" /")).collect();
    assert_eq!(routes.len(), 10, "{routes:?}");
    for (method, path) in routes.into_iter().filter(|(_, path)| *path != "metrics") {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let (status, answer) = balancer.ask(method, &format!("/{path}"), None).await;
        let missing = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED].contains(&status);
        assert!(!missing, "{path}: {status} {answer}");
    }
}

#[test]
fn a_start_that_fails_says_why_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("balancer.toml");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    std::fs::write(&path, listen(address, CHECK, &[])).unwrap();
    let output = Command::new(BINARY).arg("--config").arg(path).env("RUST_LOG", "error").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    let expected =
        format!("nsd-balancer: cannot listen on {address}: another program listens there already\n");
    assert_eq!(text, expected);
}

#[tokio::test]
async fn the_admin_command_asks_the_running_balancer() {
    let b1 = Broker::start("b1").await;
    let balancer = Balancer::before(&[&b1]).await;
    until("b1 is healthy", async || balancer.server("b1").await["state"] == "healthy").await;
    let socket = balancer.path("admin.sock");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(["admin", "--socket"]).arg(&socket).args(arguments);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = run(&["drain", "b1"]);
    assert!(code == Some(0) && text.contains("\"draining\""), "{text}");
    assert_eq!(run(&["health"]).0, Some(1));
    assert_eq!(run(&["ready", "b1"]).0, Some(0));
    assert_eq!(run(&["reload"]).0, Some(0));
    let (code, text) = run(&["status"]);
    assert!(code == Some(0) && text.contains("\"b1\""), "{text}");
    assert_eq!(run(&["drain", "nobody"]).0, Some(1));
}
