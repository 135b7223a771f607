//! The page that Prometheus reads, and its port.

use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nsd_edge::admin::{Method, StatusCode};
use nsd_wire::{Connect, Version};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::device::{Device, Heard};
use crate::support::tls::Place;
use crate::support::witness::Witness;
use crate::support::{Balancer, Broker, CHECK, Client, PATIENCE, free_address, listen, servers, until};

/// Head and body of the answer.
async fn get(address: SocketAddr, request: &str) -> std::io::Result<(String, String)> {
    let exchange = async {
        let mut socket = TcpStream::connect(address).await?;
        socket.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await?;
        let mut text = String::new();
        socket.read_to_string(&mut text).await?;
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        Ok((head.to_owned(), body.to_owned()))
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap_or(Err(std::io::ErrorKind::TimedOut.into()))
}

/// Each series with its value; no series twice.
async fn scrape(address: SocketAddr) -> HashMap<String, f64> {
    let (head, body) = get(address, "GET /metrics").await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/plain; version=0.0.4"), "{head}");
    let mut all = HashMap::new();
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(all.insert(series.to_owned(), value.parse().unwrap()).is_none(), "twice: {series}");
    }
    all
}

fn value(all: &HashMap<String, f64>, series: &str) -> f64 {
    let found = all.get(&format!("nsd_balancer_{series}")).copied();
    assert!(found.is_some(), "no {series} in {all:#?}");
    found.unwrap()
}

/// Waits until the series has this value.
async fn wait_for(address: SocketAddr, series: &str, wanted: f64) {
    wait_for_all(address, &[(series, wanted)]).await;
}

/// Waits for a page on which each series has its value: a page may be a second old.
async fn wait_for_all(address: SocketAddr, wanted: &[(&str, f64)]) -> HashMap<String, f64> {
    let begun = Instant::now();
    loop {
        let all = scrape(address).await;
        let found = |series: &str| all.get(&format!("nsd_balancer_{series}")).copied();
        let wrong = wanted
            .iter()
            .find(|(series, wanted)| found(series).is_none_or(|value| (value - wanted).abs() > 1e-9));
        let Some((series, wanted)) = wrong else { return all };
        assert!(begun.elapsed() < PATIENCE, "{series} is {:?}, not {wanted}: {all:#?}", found(series));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn section(metrics: SocketAddr) -> String {
    format!("[metrics]\nbind = \"{metrics}\"\n")
}

#[tokio::test]
async fn the_page_says_what_clients_and_servers_do() {
    let (b1, mut b2) = (Broker::start("b1").await, Broker::start("b2").await);
    let (address, metrics) = (free_address(), free_address());
    let options = format!("{CHECK}\n[listen.gate]\nmax_client_id = 20");
    let text = section(metrics) + &listen(address, &options, &servers(&["b1", "b2"], &[&b1, &b2]));
    let balancer = Balancer::start(address, &text).await;
    let server = |name: &str, broker: &Broker| {
        format!(r#"backend="mqtt",server="{name}",address="{}""#, broker.address)
    };
    let (one, two) = (server("b1", &b1), server("b2", &b2));
    wait_for(metrics, &format!("server_state{{{one},state=\"healthy\"}}"), 1.0).await;
    wait_for(metrics, &format!("server_state{{{two},state=\"healthy\"}}"), 1.0).await;

    let mut clients = Client::many(address, 3).await;
    clients[0].echo(&[7; 50_000]).await.unwrap();
    assert!(Client::named(address, "an identifier that is too long").await.is_err());
    let mut junk = TcpStream::connect(address).await.unwrap();
    junk.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    wait_for(metrics, r#"ends_total{frontend="mqtt",reason="not-mqtt"}"#, 1.0).await;
    wait_for(metrics, r#"ends_total{frontend="mqtt",reason="client-id-refused"}"#, 1.0).await;

    let expected = [
        (r#"frontend_connections{frontend="mqtt"}"#, 3.0),
        (r#"frontend_accepted_total{frontend="mqtt"}"#, 5.0),
        (r#"connects_total{frontend="mqtt",version="3.1.1"}"#, 3.0),
        (r#"connacks_total{frontend="mqtt",code="0x00"}"#, 3.0),
        (r#"connacks_total{frontend="mqtt",code="0x02"}"#, 1.0),
        (r#"keep_alive_seconds_bucket{frontend="mqtt",le="60"}"#, 3.0),
        (r#"keep_alive_seconds_count{frontend="mqtt"}"#, 3.0),
        (r#"session_age_seconds_count{frontend="mqtt"}"#, 0.0),
        (r#"queued{backend="mqtt"}"#, 0.0),
        // Two and one.
        (r#"imbalance_ratio{backend="mqtt"}"#, 1.333),
        ("connections", 3.0),
        ("ready", 1.0),
        ("last_reload_ok", 1.0),
    ];
    let all = wait_for_all(metrics, &expected).await;
    let sessions = [&one, &two].map(|of| value(&all, &format!("server_sessions{{{of}}}")));
    assert!(
        (sessions.iter().sum::<f64>() - 3.0).abs() < 1e-9 && sessions.iter().all(|n| *n >= 1.0),
        "{sessions:?}"
    );
    assert!(value(&all, "connections_headroom") + 3.0 <= value(&all, "connections_limit"));
    assert!(value(&all, &format!("server_checks_total{{{one},verdict=\"ok\"}}")) >= 1.0);
    assert!(value(&all, "resident_memory_bytes") > 1e6 && value(&all, "open_files") > 8.0);
    // Of sessions that still run.
    let up = value(&all, r#"frontend_bytes_total{frontend="mqtt",direction="up"}"#);
    let down = value(&all, r#"frontend_bytes_total{frontend="mqtt",direction="down"}"#);
    assert!((50_000.0..51_000.0).contains(&up) && (50_000.0..51_000.0).contains(&down), "{up} {down}");
    let of_servers =
        [&one, &two].map(|of| value(&all, &format!("server_bytes_total{{{of},direction=\"down\"}}")));
    // The frontend also told four bytes to the client that it refused.
    assert!((of_servers.iter().sum::<f64>() + 4.0 - down).abs() < 1e-9, "{of_servers:?} {down}");

    // What was counted stays when its sessions end, and through a reload.
    drop(clients);
    wait_for(metrics, r#"session_age_seconds_count{frontend="mqtt"}"#, 3.0).await;
    b2.stop().await;
    wait_for(metrics, &format!("server_state{{{two},state=\"unhealthy\"}}"), 1.0).await;
    balancer.ask(Method::POST, "/reload", None).await;
    wait_for(metrics, r#"reloads_total{outcome="ok"}"#, 1.0).await;
    let after = scrape(metrics).await;
    assert!(value(&after, &format!("server_checks_total{{{two},verdict=\"dead\"}}")) >= 2.0);
    for (series, before) in &all {
        let counter = series.split('{').next().unwrap().ends_with("_total");
        assert!(!counter || after[series] >= *before, "{series} has fallen");
    }
    balancer.rewrite("nonsense");
    wait_for(metrics, r#"reloads_total{outcome="failed"}"#, 1.0).await;
    wait_for(metrics, "last_reload_ok", 0.0).await;
}

/// CONNACKs, messages, also those that go through in bulk, and wills that are not fired.
#[tokio::test]
async fn what_servers_say_and_what_becomes_of_wills_is_told() {
    let (b1, b2) = (Witness::start().await, Witness::start().await);
    let (address, metrics) = (free_address(), free_address());
    let named = [("b1", b1.address), ("b2", b2.address)];
    let settings = section(metrics) + &listen(address, CHECK, &named) + "backup = true\n";
    let balancer = Balancer::start(address, &settings).await;
    balancer.wait_for_state("b1", "healthy").await;
    balancer.wait_for_state("b2", "healthy").await;
    let of = |name: &str, at: SocketAddr| format!(r#"backend="mqtt",server="{name}",address="{at}""#);
    let (one, two) = (of("b1", b1.address), of("b2", b2.address));

    let mut devices = Device::many(address, "device", 2, Version::V5).await;
    let without = Connect::new(Version::V311, "without a will");
    devices.push(Device::come_as(address, &without).await.unwrap());
    b1.refuse(true);
    assert!(Device::come(address, "refused", Version::V5).await.is_err());
    b1.refuse(false);
    let (small, flood) = (devices[0].message("t", b"m"), devices[0].message("flood", b""));
    devices[0].stream.write_all(&[small.repeat(3), flood].concat()).await.unwrap();
    for _ in 0..3 {
        assert_eq!(devices[0].hear().await, Heard::Other, "PUBACK");
    }
    for _ in 0..300 {
        assert_eq!(devices[0].hear().await, Heard::Message("flood".to_owned()));
    }
    let expected = [
        (format!("server_connacks_total{{{one},code=\"0x00\"}}"), 3.0),
        (format!("server_connacks_total{{{one},code=\"0x87\"}}"), 1.0),
        (format!("server_messages_total{{{one},direction=\"up\"}}"), 4.0),
        (format!("server_messages_total{{{one},direction=\"down\"}}"), 300.0),
        (format!("server_messages_total{{{two},direction=\"up\"}}"), 0.0),
        (r#"frontend_messages_total{frontend="mqtt",direction="down"}"#.to_owned(), 300.0),
        (format!("server_wills_suppressed_total{{{one}}}"), 0.0),
    ];
    wait_for_all(metrics, &expected.each_ref().map(|(series, wanted)| (series.as_str(), *wanted))).await;

    let asked = json!({ "server": "b1", "rate": "1000/s" });
    balancer.ask(Method::POST, "/drain", Some(asked)).await;
    until("all have left", async || b1.left() == 3).await;
    drop(devices);
    wait_for(metrics, r#"ends_total{frontend="mqtt",reason="drained"}"#, 3.0).await;
    wait_for(metrics, &format!("server_wills_suppressed_total{{{one}}}"), 2.0).await;
    // A client that dies is not spoken for.
    drop(Device::come(address, "dies", Version::V311).await.unwrap());
    until("its server sees it vanish", async || b2.vanished() == 1).await;
    wait_for(metrics, r#"frontend_connections{frontend="mqtt"}"#, 0.0).await;
    let after = scrape(metrics).await;
    assert!(value(&after, &format!("server_wills_suppressed_total{{{two}}}")).abs() < 1e-9);
    let series = format!("server_messages_total{{{one},direction=\"down\"}}");
    assert!((value(&after, &series) - 300.0).abs() < 1e-9, "what has ended still counts");
}

#[tokio::test]
async fn handshakes_and_certificates_are_told() {
    let place = Place::new();
    let b1 = Broker::start("b1").await;
    let metrics = free_address();
    let settings = section(metrics) + &place.settings(CHECK, "handshake_deadline = \"4s\"", &[&b1]);
    let mut secure = place.start(CHECK, "", &[&b1]).await;
    secure.balancer.rewrite(&settings);
    until("metrics are served", async || get(metrics, "GET /metrics").await.is_ok()).await;

    let config = secure.authority.client_config(None);
    for _ in 0..2 {
        crate::support::tls::connect(secure.tls, &config).await.unwrap();
    }
    let silent = TcpStream::connect(secure.tls).await.unwrap();
    let mut junk = TcpStream::connect(secure.tls).await.unwrap();
    junk.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    wait_for(metrics, r#"tls_handshakes_failed_total{frontend="mqtt",cause="handshake-timeout"}"#, 1.0).await;
    wait_for(metrics, r#"tls_handshakes_failed_total{frontend="mqtt",cause="handshake"}"#, 1.0).await;
    drop(silent);
    let all = scrape(metrics).await;
    for kind in ["full", "resumed"] {
        let series = format!(r#"tls_handshakes_total{{frontend="mqtt",version="1.3",kind="{kind}"}}"#);
        assert!((value(&all, &series) - 1.0).abs() < 1e-9, "{series}");
    }
    let file = secure.balancer.path("own.pem").display().to_string();
    let labels = format!(r#"file="{file}",name="mqtt.example""#);
    assert!(value(&all, &format!("certificate_not_after_seconds{{{labels}}}")) > 1.7e9);
    wait_for(metrics, &format!("certificate_stale{{{labels}}}"), 0.0).await;
    secure.write("own.pem", b"half");
    wait_for(metrics, &format!("certificate_stale{{{labels}}}"), 1.0).await;
    secure.balancer.kill();
}

/// Prometheus' own parser (Debian: python3-prometheus-client).
#[tokio::test]
async fn the_parser_of_prometheus_takes_it() {
    let place = Place::new();
    let b1 = Broker::start("b1").await;
    let secure = place.start(CHECK, "", &[&b1]).await;
    secure.connect().await.unwrap();
    secure.balancer.wait_for_log("end=").await;
    let mut socket = tokio::net::UnixStream::connect(secure.balancer.path("admin.sock")).await.unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    let page = text.split_once("\r\n\r\n").unwrap().1.to_owned();
    let script = "import sys\n\
                  from prometheus_client.parser import text_string_to_metric_families as parse\n\
                  families = list(parse(sys.stdin.read()))\n\
                  assert all(f.documentation and f.type in ('counter', 'gauge', 'histogram') for f in families), families\n\
                  names = [f.name for f in families]\n\
                  assert len(names) == len(set(names)) and all(n.startswith('nsd_balancer_') for n in names), names\n\
                  print(sum(len(f.samples) for f in families))\n";
    let mut command = Command::new("/usr/bin/python3"); // Debian's, which has Debian's packages
    let command = command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = command.spawn().expect("Debian's python3 is installed");
    // Without the library it has gone before it reads.
    let _ = python.stdin.take().unwrap().write_all(page.as_bytes());
    let output = python.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "is python3-prometheus-client installed?\n{page}");
    let ours = page.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), ours.to_string());
}

#[tokio::test]
async fn the_port_is_off_unless_asked_for_moves_with_a_reload_and_has_nothing_else() {
    let b1 = Broker::start("b1").await;
    let (address, first, second) = (free_address(), free_address(), free_address());
    let without = listen(address, CHECK, &servers(&["b1"], &[&b1]));
    let balancer = Balancer::start(address, &without).await;
    assert!(get(first, "GET /metrics").await.is_err(), "nothing listens there");
    balancer.rewrite(&(section(first) + &without));
    until("metrics are served", async || get(first, "GET /metrics").await.is_ok()).await;
    for path in ["/", "/status", "/health", "/reload", "/metrics/x"] {
        assert!(get(first, &format!("GET {path}")).await.unwrap().0.contains("404"), "{path}");
    }
    assert!(get(first, "POST /metrics").await.unwrap().0.contains("405"));

    // A port that is taken changes nothing.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    balancer.rewrite(&(section(taken.local_addr().unwrap()) + &without));
    balancer.wait_for_log("another program listens there already").await;
    get(first, "GET /metrics").await.unwrap();
    balancer.rewrite(&(section(second) + &without));
    until("metrics have moved", async || get(second, "GET /metrics").await.is_ok()).await;
    until("the old port is closed", async || TcpStream::connect(first).await.is_err()).await;
    balancer.rewrite(&without);
    until("metrics are off", async || TcpStream::connect(second).await.is_err()).await;
    let (status, _) = balancer.ask(Method::GET, "/health", None).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn who_asks_without_listening_keeps_nobody_out() {
    let b1 = Broker::start("b1").await;
    let (address, metrics) = (free_address(), free_address());
    let text = section(metrics) + &listen(address, CHECK, &servers(&["b1"], &[&b1]));
    let _balancer = Balancer::start(address, &text).await;
    let mut slow = Vec::new();
    for _ in 0..64 {
        let mut socket = TcpStream::connect(metrics).await.unwrap();
        socket.write_all(b"GET /met").await.unwrap();
        slow.push(socket);
    }
    Client::connect(address).await.expect("clients do not notice");
    until("their time is over", async || get(metrics, "GET /metrics").await.is_ok()).await;
}
