//! `nsd-balancer convert`: the files that HAProxy takes, converted, serve the same clients.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::support::{BINARY, Balancer, Broker, Client, free_address, until};
use crate::tls;

/// As the article has it, with the addresses that it is run with here.
const ARTICLE: &str = "\
global
  maxconn 2000
defaults
  mode tcp
  timeout connect 5s
  timeout client 3h
  timeout server 3h
listen mqtt
  bind PLAIN
  bind TLS ssl crt PEM
  mode tcp
  option tcplog
  balance leastconn
  server mosca_1 FIRST check
  server mosca_2 SECOND check
";

/// What Lelylan's file says in the end; its statistics stood at `listen stats :80`, which HAProxy takes no longer.
const LELYLAN: &str = "\
global
  log 127.0.0.1 local0
  log 127.0.0.1 local1 notice
  maxconn MANY
  maxpipes FEW
  ulimit-n FILES
  tune.maxaccept 500
  chroot DIRECTORY
  user haproxy
  group haproxy
defaults
  log global
  mode http
  option dontlognull
  timeout connect 5000ms
  timeout client 50000ms
  timeout server 50000ms
  errorfile 400 /etc/haproxy/errors/400.http
  errorfile 503 /etc/haproxy/errors/503.http
listen stats
  bind STATS
  stats enable
  stats uri /
  stats auth admin:admin
listen mqtt
  bind PLAIN
  bind TLS ssl crt PEM
  mode tcp
  option clitcpka
  timeout client 3h
  timeout server 3h
  option tcplog
  balance leastconn
  server mosca_1 FIRST check
  server mosca_2 SECOND check
";

/// The form that the article asks its readers for.
const APART: &str = "\
defaults
  mode tcp
  timeout connect 5s
  timeout client 3h
  timeout server 3h
frontend door
  bind PLAIN
  bind TLS ssl crt PEM
  acl here src 127.0.0.0/8
  tcp-request connection reject unless here
  use_backend secure if { ssl_fc }
  default_backend open
backend open
  balance leastconn
  server mosca_1 FIRST check
backend secure
  server mosca_2 SECOND check
";

struct HaProxy(Child);

impl HaProxy {
    fn start(file: &Path) -> Self {
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(file).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn convert(file: &Path) -> Output {
    Command::new(BINARY).arg("convert").arg(file).output().unwrap()
}

/// Which brokers plain and TLS clients come to.
async fn served(plain: SocketAddr, secure: SocketAddr, pem: &Path) -> Vec<String> {
    until("the address is listened on", async || TcpStream::connect(plain).await.is_ok()).await;
    let mut brokers = Vec::new();
    let (mut open, mut closed) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        open.push(Client::persist(plain).await);
        closed.push(tls::connect(secure, pem).await.unwrap());
    }
    brokers.extend(open.iter().map(|client| client.broker.clone()));
    brokers.extend(closed.iter().map(|client| client.broker.clone()));
    for client in &mut open {
        client.echo(b"through it").await.unwrap();
    }
    brokers.sort();
    brokers
}

#[tokio::test]
async fn the_same_clients_are_served_from_the_converted_file() {
    for (original, code) in [(ARTICLE, 0), (LELYLAN, 2), (APART, 0)] {
        let (b1, b2) = (Broker::start("b1").await, Broker::start("b2").await);
        let directory = TempDir::new().unwrap();
        let (file, pem) = (directory.path().join("haproxy.cfg"), directory.path().join("lelylan.pem"));
        std::fs::write(&pem, tls::combined_pem("mqtt.example")).unwrap();
        let (plain, secure) = (free_address(), free_address());
        let mut text = original.to_owned();
        for (word, meant) in [
            ("PLAIN", plain.to_string()),
            ("TLS", secure.to_string()),
            ("STATS", free_address().to_string()),
            ("PEM", pem.display().to_string()),
            // All three are 99999 there, more than this machine may have.
            ("MANY", "4000".to_owned()),
            ("FEW", "400".to_owned()),
            ("FILES", "19000".to_owned()),
            ("DIRECTORY", directory.path().display().to_string()),
            ("FIRST", b1.address.to_string()),
            ("SECOND", b2.address.to_string()),
        ] {
            text = text.replace(word, &meant);
        }
        std::fs::write(&file, &text).unwrap();
        let checked = Command::new("haproxy").arg("-c").arg("-f").arg(&file).output().unwrap();
        assert!(checked.status.success(), "{}\n{text}", String::from_utf8_lossy(&checked.stderr));
        let haproxy = HaProxy::start(&file);
        let before = served(plain, secure, &pem).await;
        drop(haproxy);

        let made = convert(&file);
        assert_eq!(made.status.code(), Some(code), "{}", String::from_utf8_lossy(&made.stderr));
        let toml = String::from_utf8(made.stdout).unwrap();
        // No port here is MQTT's own, so nothing but bytes is seen in either.
        let _balancer = Balancer::start_in(directory, plain, &toml, Command::new(BINARY)).await;
        assert_eq!(served(plain, secure, &pem).await, before, "{toml}");
    }
}

/// At MQTT's own ports the section is one of MQTT; it is what is said of the article's file.
#[test]
fn what_is_not_carried_over_is_told_by_line_and_by_exit_code() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("haproxy.cfg");
    let meant = |text: &str| {
        let words =
            [("PLAIN", "*:1883"), ("TLS", "*:8883"), ("STATS", ":80"), ("PEM", "/certs/lelylan-mqtt.pem")];
        let words = words.into_iter().chain([
            ("MANY", "99999"),
            ("FEW", "99999"),
            ("FILES", "99999"),
            ("FIRST", "178.62.122.204:1883"),
            ("SECOND", "178.62.104.172:1883"),
            ("DIRECTORY", "/var/lib/haproxy"),
        ]);
        words.fold(text.to_owned(), |text, (word, meant)| text.replace(word, meant))
    };
    std::fs::write(&file, meant(LELYLAN)).unwrap();
    let made = convert(&file);
    assert_eq!(made.status.code(), Some(2));
    let told = String::from_utf8(made.stderr).unwrap();
    let lines: Vec<&str> =
        told.lines().map(|line| line.strip_prefix(&format!("{}:", file.display())).unwrap()).collect();
    let numbers: Vec<&str> = lines.iter().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(numbers, ["8", "9", "10", "18", "22"], "{told}");
    assert!(!told.contains("admin:admin"), "{told}");
    let toml = String::from_utf8(made.stdout).unwrap();
    for part in ["mode = \"mqtt\"", "kind = \"mqtt\"", "\"0.0.0.0:8883\"", "# Without a counterpart"] {
        assert!(toml.contains(part), "{part}\n{toml}");
    }

    std::fs::write(&file, meant(ARTICLE)).unwrap();
    let made = convert(&file);
    assert_eq!((made.status.code(), made.stderr.len()), (Some(0), 0));

    std::fs::write(&file, "[[listen]]\n").unwrap();
    assert_eq!(convert(&file).status.code(), Some(65));
    std::fs::write(&file, [0xff, 0xfe, 0]).unwrap();
    assert_eq!(convert(&file).status.code(), Some(65));
    assert_eq!(convert(Path::new("/nowhere/haproxy.cfg")).status.code(), Some(65));
    assert_eq!(Command::new(BINARY).arg("convert").output().unwrap().status.code(), Some(64));
}

/// A full disk must not look like settings that were written; who stopped reading knows that.
#[test]
fn settings_that_cannot_be_written_are_a_failure() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("haproxy.cfg");
    std::fs::write(&file, "listen mqtt\n  bind *:1883\n  mode tcp\n  server a 10.0.0.1:1883 check\n")
        .unwrap();
    let run = |stdout: Stdio| Command::new(BINARY).arg("convert").arg(&file).stdout(stdout).output().unwrap();
    let full = run(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into());
    assert_eq!(full.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&full.stderr).contains("stdout: No space left"), "{full:?}");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let left = run(writer.into());
    assert_ne!(left.status.code(), Some(1), "{left:?}");
    assert!(!String::from_utf8_lossy(&left.stderr).contains("panicked"), "{left:?}");
}

/// `docs/balancer-haproxy.md` shows what the command makes of the file that it shows.
#[test]
fn the_documentation_shows_what_is_made() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/balancer-haproxy.md");
    let page = std::fs::read_to_string(page).unwrap();
    let block = |kind: &str| page.split(&format!("```{kind}\n")).nth(1).unwrap().split("```").next().unwrap();
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("haproxy.cfg");
    std::fs::write(&file, block("haproxy")).unwrap();
    let made = convert(&file);
    assert_eq!(made.status.code(), Some(0));
    let toml = String::from_utf8(made.stdout).unwrap();
    let settings: Vec<&str> = toml.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(settings.join("\n").trim(), block("toml").trim());
}
