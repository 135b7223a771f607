//! What stands in front of MQTT: who may come, PROXY header, TLS, WebSocket.

mod certificates;
mod crowds;
mod documented;
mod limits;
pub(crate) mod proxies;
mod websocket;

use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use nsd_wire::{Connect, Packet, Qos, ReasonCode, Version};
use rcgen::{CertificateParams, KeyPair};

use crate::support::{Broker, Client, SOON, eventually};

const TLS_ALERT: u8 = 0x15;

/// Writes a combined PEM file with a new certificate for `localhost`; the certificate.
fn certify(file: &Path) -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(file, format!("{}{}", certificate.pem(), key.serialize_pem())).unwrap();
    certificate.der().to_vec()
}

/// Whether the broker has let a client in whom it sees like this.
fn saw(broker: &Broker, peer: &str, certified: Option<&str>) -> bool {
    let wanted = certified.map(|name| format!("certified=\"{name}\""));
    broker.log().lines().filter(|line| line.contains("begun") && line.contains(peer)).any(
        |line| match &wanted {
            Some(wanted) => line.contains(wanted),
            None => !line.contains("certified="),
        },
    )
}

fn over_tls(file: &Path) -> Broker {
    Broker::listening(&format!("tls = {{ certificates = [\"{}\"] }}", file.display()))
}

#[test]
fn tls_with_a_combined_pem_that_changes_live() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("x.pem");
    let old = certify(&file);
    let broker = over_tls(&file);
    let mut client = Client::tls(broker.address, &old, Version::V5, "old").unwrap();
    client.subscribe("t", Qos::AtLeastOnce);
    assert_eq!(client.publish("t/other", &[7; 100_000], Qos::AtLeastOnce), ReasonCode::Success);

    std::fs::write(&file, "no certificate").unwrap();
    eventually("the bad file is refused", SOON * 2, || broker.log().contains("the old ones stay in use"));
    Client::tls(broker.address, &old, Version::V311, "still").unwrap().ping();

    let new = certify(&file);
    eventually("the new certificate is shown", SOON * 2, || {
        Client::tls(broker.address, &new, Version::V311, "new").is_ok()
    });
    assert!(Client::tls(broker.address, &old, Version::V311, "new").is_err(), "the old one is not shown");
    let mut other = Client::tls(broker.address, &new, Version::V311, "other").unwrap();
    other.publish("t", b"x", Qos::AtLeastOnce);
    assert_eq!(client.message().payload, b"x", "who was connected stays so");
    let mut plain = Client::open(broker.address, Version::V5);
    plain.send(&Packet::Connect(Connect::new(Version::V5, "plain")));
    let mut answer = Vec::new();
    let _ = plain.socket.read_to_end(&mut answer);
    assert!(answer.first().is_none_or(|byte| *byte == TLS_ALERT), "TLS or nothing: {answer:02x?}");
}

/// Bytes of the broker's side that the kernel still holds for this client.
fn unsent(client: &Client) -> u64 {
    let ports = [client.socket.peer_addr().unwrap().port(), client.socket.local_addr().unwrap().port()];
    let ends = ports.map(|port| format!("0100007F:{port:04X}"));
    let look = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let line = fields.into_iter().find(|line| line[1] == ends[0] && line[2] == ends[1])?;
        Some(u64::from_str_radix(line[4].split(':').next().unwrap(), 16).unwrap())
    };
    // The table changes while it is read, and then lines are missed.
    (0..100).find_map(|_| look()).expect("the connection is there")
}

#[test]
fn a_slow_reader_over_tls_gets_the_last_bytes_too() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("x.pem");
    let trusted = certify(&file);
    let broker = over_tls(&file);
    let mut slow = Client::tls(broker.address, &trusted, Version::V311, "slow").unwrap();
    slow.subscribe("t", Qos::AtMostOnce);
    let mut publisher = Client::tls(broker.address, &trusted, Version::V311, "p").unwrap();
    // Until the kernel takes no more: the last messages are then in the TLS stream's own buffer. A machine that is too slow
    // for that in half a minute shows less.
    let (started, mut sent, mut before, mut same) = (Instant::now(), 0, 0, 0);
    while same < 3 && started.elapsed() < Duration::from_secs(30) {
        publisher.publish("t", &[b'x'; 4000], Qos::AtLeastOnce);
        sent += 1;
        std::thread::sleep(Duration::from_millis(5));
        let now = unsent(&slow);
        same = if now == before && now > 0 { same + 1 } else { 0 };
        before = now;
        assert!(sent < 5000, "the socket is never full");
    }
    for number in 0..sent {
        assert_eq!(slow.message().payload.len(), 4000, "message {number} of {sent}");
    }
}
