//! The metrics page, read as Prometheus reads it.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use nsd_wire::{Publish, Qos, Version};

use crate::support::{Broker, SOON, eventually, port};

fn broker() -> (Broker, SocketAddr) {
    let metrics: SocketAddr = ([127, 0, 0, 1], port()).into();
    let broker = Broker::start(&format!(
        "node = \"n\\\"1\"\nallow_anonymous = true\n[metrics]\nlisten = \"{metrics}\""
    ));
    (broker, metrics)
}

/// Status line, headers, body.
fn get(address: SocketAddr, path: &str) -> (String, String, String) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let (status, headers) = head.split_once("\r\n").unwrap_or((head, ""));
    (status.to_owned(), headers.to_lowercase(), body.to_owned())
}

fn scrape(address: SocketAddr) -> HashMap<String, f64> {
    let (status, headers, body) = get(address, "/metrics");
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(headers.contains("content-type: text/plain; version=0.0.4"), "{headers}");
    parse(&body)
}

fn is_name(name: &str) -> bool {
    name.starts_with("nsd_broker_")
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Each label is `name="value"`, with only the three escapes that there are.
fn check_labels(mut labels: &str) {
    let mut names = HashSet::new();
    while !labels.is_empty() {
        let (name, rest) = labels.split_once("=\"").unwrap_or_else(|| panic!("no label: {labels}"));
        assert!(
            name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') && names.insert(name),
            "{labels}"
        );
        let mut escaped = false;
        let end = rest.bytes().position(|byte| {
            let ends = byte == b'"' && !escaped;
            assert!(!escaped || b"\\\"n".contains(&byte), "{rest}");
            escaped = byte == b'\\' && !escaped;
            ends
        });
        let after = &rest[end.unwrap() + 1..];
        labels = after.strip_prefix(',').unwrap_or(after);
    }
}

/// Text format 0.0.4, taken strictly: families together, help and type before the values, counters named as such,
/// nothing twice.
fn parse(page: &str) -> HashMap<String, f64> {
    assert!(page.ends_with('\n'));
    let (mut families, mut values, mut current) =
        (HashSet::new(), HashMap::new(), (String::new(), String::new()));
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').unwrap();
            assert!(is_name(name) && text.ends_with('.') && families.insert(name.to_owned()), "{line}");
            let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap().to_owned();
            assert!(kind == "counter" || kind == "gauge", "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
            current = (name.to_owned(), kind);
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
        let name = series.split('{').next().unwrap();
        assert_eq!(name, current.0, "values stand behind their family's head");
        if let Some(labels) = series.strip_prefix(&format!("{name}{{")) {
            check_labels(labels.strip_suffix('}').unwrap());
        }
        let value: f64 = value.parse().unwrap();
        assert!(value >= 0.0, "{line}");
        assert!(values.insert(series.to_owned(), value).is_none(), "twice: {series}");
    }
    values
}

#[test]
fn the_page_is_right_and_says_what_has_happened() {
    let (broker, metrics) = broker();
    let before = scrape(metrics);
    let mut client = broker.client(Version::V5, "c");
    client.subscribe("t", Qos::AtLeastOnce);
    let mut publisher = broker.client(Version::V311, "p");
    publisher.publish_as(Publish { qos: Qos::ExactlyOnce, ..Publish::new("t", b"12345") });
    client.message();
    let expected = [
        ("nsd_broker_clients_connected", 2.0),
        ("nsd_broker_clients_connected_total{version=\"5.0\"}", 1.0),
        ("nsd_broker_connack_total{code=\"0x00\",reason=\"success\"}", 2.0),
        ("nsd_broker_messages_received_total{qos=\"2\"}", 1.0),
        ("nsd_broker_messages_sent_total{qos=\"1\"}", 1.0),
        ("nsd_broker_payload_bytes_received_total", 5.0),
        ("nsd_broker_packets_received_total{type=\"subscribe\"}", 1.0),
        ("nsd_broker_subscriptions", 1.0),
        ("nsd_broker_subscribed_total", 1.0),
    ];
    // Made once a second at most.
    let mut after = HashMap::new();
    eventually("the page says all of it", SOON, || {
        after = scrape(metrics);
        let grown = |series: &str| after[series] - before[series];
        expected.iter().all(|(series, by)| (grown(series) - by).abs() < 0.5)
    });
    assert!(after.contains_key(r#"nsd_broker_info{version="0.1.0",node="n\"1"}"#), "{:?}", after.keys());
    assert!(before.keys().all(|series| after.contains_key(series)), "no series vanishes");
    for (series, value) in &after {
        let counter = series.split('{').next().unwrap().ends_with("_total");
        assert!(!counter || before.get(series).is_none_or(|before| value >= before), "{series} has fallen");
    }
}

#[test]
fn the_admin_socket_has_the_same_page() {
    let (broker, metrics) = broker();
    let mut socket = std::os::unix::net::UnixStream::connect(&broker.socket).unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    let series = |values: HashMap<String, f64>| values.into_keys().collect::<HashSet<_>>();
    assert_eq!(series(parse(text.split_once("\r\n\r\n").unwrap().1)), series(scrape(metrics)));
}

/// Prometheus' own parser (Debian: python3-prometheus-client).
#[test]
fn the_parser_of_prometheus_takes_it() {
    let (_broker, metrics) = broker();
    let script = "import sys\n\
                  from prometheus_client.parser import text_string_to_metric_families as parse\n\
                  families = list(parse(sys.stdin.read()))\n\
                  assert all(f.documentation and f.type in ('counter', 'gauge') for f in families), families\n\
                  print(sum(len(f.samples) for f in families))\n";
    let mut command = Command::new("/usr/bin/python3"); // Debian's, which has Debian's packages
    let command = command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = command.spawn().expect("Debian's python3 is installed");
    let page = get(metrics, "/metrics").2;
    let ours = parse(&page).len();
    // Without the library it has gone before it reads.
    let _ = python.stdin.take().unwrap().write_all(page.as_bytes());
    let output = python.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "is python3-prometheus-client installed?");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), ours.to_string());
}

#[test]
fn the_port_has_nothing_else_and_bears_who_asks_without_listening() {
    let (broker, metrics) = broker();
    for path in ["/", "/health", "/status", "/sessions", "/metrics/x"] {
        assert!(get(metrics, path).0.contains("404"), "{path}");
    }
    let mut post = TcpStream::connect(metrics).unwrap();
    post.write_all(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").unwrap();
    let mut text = String::new();
    post.read_to_string(&mut text).unwrap();
    assert!(text.contains("405"), "{text}");
    // Half requests, and as many as are served at once.
    let slow: Vec<_> = (0..64)
        .map(|_| {
            let mut socket = TcpStream::connect(metrics).unwrap();
            socket.write_all(b"GET /met").unwrap();
            socket
        })
        .collect();
    broker.client(Version::V5, "fine").ping();
    assert!(broker.ask("health").0);
    eventually("their time is over", SOON * 3, || {
        let mut socket = TcpStream::connect(metrics).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).is_ok() && text.starts_with("HTTP/1.1 200")
    });
    drop(slow);
}

#[test]
fn an_address_in_use_is_told_before_any_client_comes() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("broker.toml");
    let text = format!(
        "allow_anonymous = true\n[[listen]]\naddress = \"127.0.0.1:{}\"\n[metrics]\nlisten = \"{}\"\n[admin]\nsocket = \"{}\"\n",
        port(),
        taken.local_addr().unwrap(),
        directory.path().join("s").display()
    );
    std::fs::write(&file, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_nsd-broker")).arg("--config").arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("another program listens there already"), "{told}");
}
