//! Servers by name, with a real DNS server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nsd_edge::admin::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::UdpSocket;

use crate::support::{Balancer, Broker, Client, free_address, listen, until};

/// dnsmasq with a list of names of its own.
struct Dns {
    process: Child,
    address: SocketAddr,
    directory: TempDir,
}

fn dnsmasq(address: SocketAddr, directory: &TempDir) -> Child {
    let mut command = Command::new("/usr/sbin/dnsmasq");
    command.args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--bind-interfaces"]);
    command.args(["--conf-file=/dev/null", "--user=root", "--group=root", "--pid-file="]);
    command.args(["--listen-address=127.0.0.1".to_owned(), format!("--port={}", address.port())]);
    command.arg(format!("--addn-hosts={}", directory.path().join("hosts").display()));
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("dnsmasq is installed")
}

impl Dns {
    /// `names` as in `/etc/hosts`.
    async fn start(names: &str) -> Self {
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("hosts"), names).unwrap();
        loop {
            // Free for UDP; who came to have it for TCP meanwhile makes us try another one.
            let address = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
            let mut process = dnsmasq(address, &directory);
            while process.try_wait().unwrap().is_none() {
                let listens = tokio::net::TcpStream::connect(address).await.is_ok();
                // If it was another one that took the connection, dnsmasq has ended by then.
                tokio::time::sleep(Duration::from_millis(50)).await;
                if listens && process.try_wait().unwrap().is_none() {
                    return Self { process, address, directory };
                }
            }
        }
    }

    fn hosts(&self) -> PathBuf {
        self.directory.path().join("hosts")
    }

    fn set(&self, names: &str) {
        std::fs::write(self.hosts(), names).unwrap();
        self.signal(Signal::HUP);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const CHECK: &str =
    "check = { kind = \"mqtt\", interval = \"200ms\", timeout = \"20s\", rise = 1, fall = 1 }";

fn settings(address: SocketAddr, dns: SocketAddr, servers: &[(&str, String)]) -> String {
    let options = format!("{CHECK}\nresolvers = [\"{dns}\"]\nresolve_interval = \"1s\"");
    let mut text = listen(address, &options, &[]);
    for (name, address) in servers {
        text += &format!("[[listen.server]]\nname = \"{name}\"\naddress = \"{address}\"\n");
    }
    text
}

/// Two brokers with one port, at two addresses.
async fn twins() -> (Broker, Broker, u16) {
    let port = free_address().port();
    let at = |last: u8| SocketAddr::from(([127, 0, 0, last], port));
    (Broker::start_at("one", at(2)).await, Broker::start_at("two", at(3)).await, port)
}

#[tokio::test]
async fn a_name_that_moves_takes_new_sessions_along_and_leaves_the_old_ones() {
    let (one, two, port) = twins().await;
    let dns = Dns::start("127.0.0.2 mqtt.internal\n").await;
    let address = free_address();
    let named = [("m", format!("mqtt.internal:{port}"))];
    let balancer = Balancer::start(address, &settings(address, dns.address, &named)).await;
    balancer.wait_for_state("m", "healthy").await;
    let mut old = Client::connect(address).await.unwrap();
    assert_eq!(old.broker, "one");
    let shown = balancer.server("m").await;
    assert_eq!(shown["address"], format!("mqtt.internal:{port}"));
    assert_eq!(shown["resolved"], one.address.to_string());

    dns.set("127.0.0.3 mqtt.internal\n");
    let moved = async || Client::connect(address).await.unwrap().broker == "two";
    until("new sessions go to the new address", moved).await;
    old.echo(b"still at the old one").await.unwrap();
    assert_eq!(balancer.server("m").await["state"], "healthy");
    until("only the old one is there", async || one.sessions() == 1).await;
    drop(two);
}

#[tokio::test]
async fn a_name_that_is_not_found_takes_one_server_out_and_no_other() {
    let (_one, two, port) = twins().await;
    let dns = Dns::start("127.0.0.3 two.internal\n").await;
    let address = free_address();
    let named = [("a", format!("one.internal:{port}")), ("b", format!("two.internal:{port}"))];
    let balancer = Balancer::start(address, &settings(address, dns.address, &named)).await;
    balancer.wait_for_state("b", "healthy").await;
    balancer.wait_for_state("a", "unhealthy").await;
    let shown = balancer.server("a").await;
    assert_eq!(shown["check"]["verdict"], "unresolved");
    assert!(!shown["name_problem"].as_str().unwrap().is_empty());
    assert_eq!(Client::connect(address).await.unwrap().broker, "two");

    dns.set("127.0.0.2 one.internal\n127.0.0.3 two.internal\n");
    balancer.wait_for_state("a", "healthy").await;
    assert_eq!(balancer.server("a").await["name_problem"], serde_json::Value::Null);
    drop(two);
}

#[tokio::test]
async fn while_the_dns_is_out_the_last_address_serves() {
    let (_one, _two, port) = twins().await;
    let dns = Dns::start("127.0.0.2 mqtt.internal\n").await;
    let address = free_address();
    let named = [("m", format!("mqtt.internal:{port}"))];
    let text = settings(address, dns.address, &named);
    let balancer = Balancer::start(address, &text).await;
    balancer.wait_for_state("m", "healthy").await;
    // It takes questions and answers none: worse than being gone.
    dns.signal(Signal::STOP);
    let told = async || balancer.server("m").await["name_problem"].is_string();
    until("the problem is shown", told).await;
    assert_eq!(balancer.server("m").await["state"], "healthy");
    assert_eq!(Client::connect(address).await.unwrap().broker, "one");
    // Neither waits for it: a reload, nor a server that joins.
    balancer.rewrite(&text.replace("interval = \"200ms\"", "interval = \"210ms\""));
    let (status, _) = balancer.ask(Method::POST, "/reload", None).await;
    assert_eq!(status, StatusCode::OK);
    Client::connect(address).await.unwrap();
    dns.signal(Signal::CONT);
    let well = async || balancer.server("m").await["name_problem"].is_null();
    until("the problem is gone", well).await;
}

#[tokio::test]
async fn of_several_addresses_one_that_can_be_reached_is_used_and_kept() {
    let (mut one, two, port) = twins().await;
    one.stop().await;
    let dns = Dns::start("127.0.0.2 mqtt.internal\n127.0.0.3 mqtt.internal\n").await;
    let address = free_address();
    let named = [("m", format!("mqtt.internal:{port}"))];
    let balancer = Balancer::start(address, &settings(address, dns.address, &named)).await;
    balancer.wait_for_state("m", "healthy").await;
    assert_eq!(balancer.server("m").await["resolved"], two.address.to_string());
    one.start_again().await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    for _ in 0..10 {
        assert_eq!(
            Client::connect(address).await.unwrap().broker,
            "two",
            "it is kept, in whatever order answers come"
        );
    }
}

#[tokio::test]
async fn the_hosts_file_counts_without_resolvers() {
    let b1 = Broker::start("b1").await;
    let address = free_address();
    let settings = listen(address, CHECK, &[("b1", b1.address)]).replace(
        &format!("address = \"{}\"", b1.address),
        &format!("address = \"localhost:{}\"", b1.address.port()),
    );
    let balancer = Balancer::start(address, &settings).await;
    balancer.wait_for_state("b1", "healthy").await;
    assert_eq!(Client::connect(address).await.unwrap().broker, "b1");
}
