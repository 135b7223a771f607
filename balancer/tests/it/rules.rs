//! Frontends that choose a backend by rule.

use std::net::SocketAddr;
use std::process::Command;

use nsd_edge::admin::Method;
use nsd_edge::tls::TlsClient;
use nsd_wire::{Connect, Version};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::broker::Mood;
use crate::support::{BINARY, Balancer, Broker, CHECK, Client, PATIENCE, free_address, until};

/// A backend of each broker, named like it.
fn backends(brokers: &[(&str, &Broker)], options: &str) -> String {
    let backend = |(name, broker): &(&str, &Broker)| {
        format!(
            "[[backend]]\nname = \"{name}\"\n{options}\n[[backend.server]]\nname = \"{name}-1\"\naddress = \"{}\"\n",
            broker.address
        )
    };
    brokers.iter().map(backend).collect()
}

fn frontend(address: SocketAddr, options: &str, rules: &[&str]) -> String {
    let rules: String = rules.iter().map(|rule| format!("[[frontend.rule]]\n{rule}\n")).collect();
    format!("[[frontend]]\nname = \"door\"\nbind = [\"{address}\"]\n{options}\n{rules}")
}

/// Two brokers `b1` and `b2`, a backend for each, and this frontend before them.
async fn two(options: &str, rules: &[&str]) -> (Balancer, [Broker; 2]) {
    let brokers = [Broker::start("b1").await, Broker::start("b2").await];
    let address = free_address();
    let [b1, b2] = &brokers;
    let settings = backends(&[("b1", b1), ("b2", b2)], CHECK) + &frontend(address, options, rules);
    (Balancer::start(address, &settings).await, brokers)
}

/// All that a client with this CONNECT hears in answer: a broker's name in a PUBLISH, or a refusal.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, connect: &Connect<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    connect.encode(connect.version, &mut bytes).unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut heard = Vec::new();
    let reading = async {
        while !["b1", "b2"].contains(&broker_in(&heard)) {
            if stream.read_buf(&mut heard).await.unwrap_or(0) == 0 {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("an answer, or an end");
    heard
}

fn broker_in(answer: &[u8]) -> &str {
    // In v5 the name is followed by an empty list of properties.
    let answer = answer.strip_suffix(&[0]).unwrap_or(answer);
    let name = answer.len().saturating_sub(2);
    std::str::from_utf8(&answer[name..]).unwrap_or("neither")
}

async fn came_to(address: SocketAddr, connect: &Connect<'_>) -> String {
    let heard = answer(TcpStream::connect(address).await.unwrap(), connect).await;
    broker_in(&heard).to_owned()
}

/// A client from another address of this machine.
async fn from(source: &str, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    socket.connect(address).await.unwrap()
}

#[tokio::test]
async fn what_the_connect_says_decides() {
    let rules = [
        "client_id = [\"factory-*-1\", \"lamp\"]\nbackend = \"b2\"",
        "user_name = [\"guest*\"]\nversion = [\"3.1.1\"]\nbackend = \"b2\"",
        "version = [\"3.1\"]\nbackend = \"b2\"",
    ];
    let (balancer, _brokers) = two("backend = \"b1\"", &rules).await;
    let user = |version, user| Connect { user_name: Some(user), ..Connect::new(version, "c") };
    for (connect, expected) in [
        (Connect::new(Version::V311, "factory-7-1"), "b2"),
        (Connect::new(Version::V5, "lamp"), "b2"),
        (Connect::new(Version::V5, "factory-7-2"), "b1"),
        (user(Version::V311, "guest-1"), "b2"),
        (user(Version::V5, "guest-1"), "b1"),
        (user(Version::V311, "lelylan"), "b1"),
        (Connect::new(Version::V31, "old"), "b2"),
    ] {
        assert_eq!(came_to(balancer.address, &connect).await, expected, "{connect:?}");
    }
    let (_, status) = balancer.ask(Method::GET, "/status", None).await;
    assert_eq!(status["frontends"][0]["backend"], "b1");
    assert_eq!(status["frontends"][0]["backends"], serde_json::json!(["b1", "b2"]));
}

/// The same, in the mode that does not look at bytes, and in the one that does.
#[tokio::test]
async fn port_and_source_decide_in_either_mode() {
    for mode in ["mqtt", "tcp"] {
        let (first, second) = (free_address(), free_address());
        let brokers = [Broker::start("b1").await, Broker::start("b2").await];
        let [b1, b2] = &brokers;
        let rules = [
            "source = [\"127.0.0.3\"]\nrefuse = true".to_owned(),
            format!("port = [{}]\nsource = [\"127.0.0.2/31\", \"::1\"]\nbackend = \"b2\"", second.port()),
        ];
        let bind = format!("mode = \"{mode}\"\nbackend = \"b1\"");
        let settings = backends(&[("b1", b1), ("b2", b2)], CHECK)
            + &frontend(first, &bind, &[&rules[0], &rules[1]])
                .replace(&format!("\"{first}\""), &format!("\"{first}\", \"{second}\""));
        let balancer = Balancer::start(first, &settings).await;
        let connect = Connect::new(Version::V311, "c");
        for (source, address, expected) in [
            ("127.0.0.1", first, "b1"),
            ("127.0.0.1", second, "b1"),
            ("127.0.0.2", first, "b1"),
            ("127.0.0.2", second, "b2"),
        ] {
            let heard = answer(from(source, address).await, &connect).await;
            assert_eq!(broker_in(&heard), expected, "{mode}, {source} at {address}");
        }
        let heard = answer(from("127.0.0.3", first).await, &connect).await;
        let words: &[u8] = if mode == "mqtt" { &[0x20, 2, 0, 5] } else { &[] };
        assert_eq!(heard, words, "{mode}");
        balancer.wait_for_log("end=\"refused-by-rule\"").await;
        assert_eq!((b1.total(), b2.total()), (3, 1), "who is refused touches no server");
    }
}

#[tokio::test]
async fn the_name_of_the_tls_handshake_decides() {
    let brokers = [Broker::start("b1").await, Broker::start("b2").await];
    let [b1, b2] = &brokers;
    let directory = TempDir::new().unwrap();
    let pem = directory.path().join("certs.pem");
    let key = KeyPair::generate().unwrap();
    let names = ["eu.example", "us.example"].map(str::to_owned);
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    std::fs::write(&pem, certificate.pem() + &key.serialize_pem()).unwrap();
    let (plain, tls) = (free_address(), free_address());
    let options = format!(
        "tls = {{ bind = [\"{tls}\"], certificates = [\"{}\"] }}\nbackend = \"b1\"\nmode = \"tcp\"",
        pem.display()
    );
    let rules = ["sni = [\"EU.*\"]\nbackend = \"b2\"", "tls = false\nrefuse = true"];
    let settings = backends(&[("b1", b1), ("b2", b2)], CHECK) + &frontend(plain, &options, &rules);
    let _balancer = Balancer::start_in(directory, plain, &settings, Command::new(BINARY)).await;
    let client = TlsClient::trusting(&pem).unwrap();
    let connect = Connect::new(Version::V5, "c");
    for (name, expected) in [("eu.example", "b2"), ("us.example", "b1")] {
        let stream = TcpStream::connect(tls).await.unwrap();
        let stream = client.handshake(ServerName::try_from(name).unwrap(), stream).await.unwrap();
        assert_eq!(broker_in(&answer(stream, &connect).await), expected, "{name}");
    }
    assert_eq!(answer(TcpStream::connect(plain).await.unwrap(), &connect).await, b"");
}

#[tokio::test]
async fn who_fits_no_rule_and_has_no_backend_is_told_so() {
    let (balancer, [b1, b2]) = two("mode = \"mqtt\"", &["client_id = [\"known-*\"]\nbackend = \"b1\""]).await;
    assert_eq!(came_to(balancer.address, &Connect::new(Version::V5, "known-1")).await, "b1");
    for (version, words) in [(Version::V311, &[0x20, 2, 0, 5][..]), (Version::V5, &[0x20, 3, 0, 0x87, 0])] {
        let stranger = Connect::new(version, "stranger");
        let heard = answer(TcpStream::connect(balancer.address).await.unwrap(), &stranger).await;
        assert_eq!(heard, words);
    }
    balancer.wait_for_log("id=\"stranger\" server=\"-\"").await;
    assert_eq!((b1.total(), b2.total()), (1, 0));
}

/// A rule is a promise about where clients go: not even a failing server sends them elsewhere.
#[tokio::test]
async fn a_backend_that_fails_does_not_pass_its_clients_to_another() {
    let rule = "client_id = [\"factory-*\"]\nbackend = \"b2\"";
    let (balancer, [_b1, mut b2]) = two("backend = \"b1\"", &[rule]).await;
    b2.set(Mood::Unavailable);
    let factory = Connect::new(Version::V311, "factory-1");
    let heard = answer(TcpStream::connect(balancer.address).await.unwrap(), &factory).await;
    assert_eq!(heard, [0x20, 2, 0, 3]);
    b2.stop().await;
    let heard = answer(TcpStream::connect(balancer.address).await.unwrap(), &factory).await;
    assert_eq!(heard, [0x20, 2, 0, 3]);
    assert_eq!(came_to(balancer.address, &Connect::new(Version::V311, "else")).await, "b1");
    let (_, health) = balancer.ask(Method::GET, "/health", None).await;
    assert_eq!(health["ready"], true, "most clients can be served");
}

#[tokio::test]
async fn a_reload_changes_rules_for_new_clients_only() {
    let (balancer, [b1, b2]) = two("backend = \"b1\"", &[]).await;
    let mut old = Client::named(balancer.address, "factory-1").await.unwrap();
    assert_eq!(old.broker, "b1");
    let rules = ["client_id = [\"factory-*\"]\nbackend = \"b2\""];
    let all = backends(&[("b1", &b1), ("b2", &b2)], CHECK);
    let wanted = all.clone() + &frontend(balancer.address, "backend = \"b1\"", &rules);
    balancer.rewrite(&wanted);
    balancer.wait_for_log("reloaded: ~door rules").await;
    assert_eq!(Client::named(balancer.address, "factory-1").await.unwrap().broker, "b2");
    old.echo(b"goes on where it is").await.unwrap();
    balancer.rewrite(&wanted.replace("backend = \"b2\"", "backend = \"b3\""));
    balancer.wait_for_log("there is no backend `b3`").await;
    assert_eq!(Client::named(balancer.address, "factory-2").await.unwrap().broker, "b2");
}

/// Names that clients choose are compared, never interpreted: whatever they are, exactly those that fit come through.
#[tokio::test]
async fn odd_names_fit_or_do_not() {
    let rule = "client_id = [\"*/admin\"]\nbackend = \"b2\"";
    let (balancer, [_b1, b2]) = two("backend = \"b1\"", &[rule]).await;
    let long = "*".repeat(60_000);
    let odd = ["*", "*/admi", "/admin\u{7f}", "a/admin/", "💡", " ", &long];
    for id in odd {
        assert_eq!(came_to(balancer.address, &Connect::new(Version::V5, id)).await, "b1", "{id:.20}");
    }
    let fitting = format!("{long}/admin");
    assert_eq!(came_to(balancer.address, &Connect::new(Version::V5, &fitting)).await, "b2");
    until("all have left", async || b2.sessions() == 0).await;
}

/// `docs/balancer-frontends.md`, with a certificate that is there.
#[test]
fn every_example_of_the_documentation_is_a_good_file() {
    let directory = TempDir::new().unwrap();
    let (pem, file) = (directory.path().join("lelylan.pem"), directory.path().join("balancer.toml"));
    std::fs::write(&pem, crate::tls::combined_pem("mqtt.example")).unwrap();
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/balancer-frontends.md");
    let text = std::fs::read_to_string(page).unwrap();
    let examples: Vec<&str> =
        text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 4);
    for example in examples {
        std::fs::write(&file, example.replace("/certs/lelylan.pem", pem.to_str().unwrap())).unwrap();
        let output = Command::new(BINARY).arg("--check").arg("--config").arg(&file).output().unwrap();
        assert!(output.status.success(), "{}\n{example}", String::from_utf8_lossy(&output.stderr));
    }
}
