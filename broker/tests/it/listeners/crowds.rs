//! Many at once: limits of a listener, and those who begin and do not go on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nsd_wire::{Connect, Qos, Version};
use tempfile::TempDir;

use super::certify;
use crate::support::{Broker, Client, SOON, eventually, port};

#[test]
fn a_full_listener_closes_who_is_too_many_and_counts_them() {
    let broker = Broker::listening("connections = 2");
    eventually("who looked whether the broker listens is gone", SOON, || {
        let listener = &broker.ask("stats").1["listeners"][0];
        listener["accepted"] == 1 && listener["open"] == 0
    });
    let mut first = broker.client(Version::V5, "first");
    let second = broker.client(Version::V5, "second");
    let mut third = Client::open(broker.address, Version::V5);
    assert!(third.is_closed(SOON));
    assert!(broker.ask("stats").1["listeners"][0]["turned_away"].as_u64() >= Some(1));
    second.disconnect();
    eventually("there is room again", SOON, || {
        let mut client = Client::open(broker.address, Version::V311);
        let connect = nsd_wire::Packet::Connect(Connect::new(Version::V311, "third"));
        let mut bytes = Vec::new();
        connect.encode(Version::V311, &mut bytes).unwrap();
        client.try_send_raw(&bytes) && client.next(SOON, |_| ()).is_ok()
    });
    first.ping();
}

#[test]
fn who_may_not_come_is_closed_at_once() {
    let denied = Broker::listening("deny = [\"127.0.0.0/8\"]");
    assert!(Client::open(denied.address, Version::V5).is_closed(SOON));
    let not_allowed = Broker::listening("allow = [\"192.0.2.0/24\"]");
    assert!(Client::open(not_allowed.address, Version::V5).is_closed(SOON));
    let allowed = Broker::listening("allow = [\"127.0.0.1\"]");
    allowed.client(Version::V5, "c").ping();
}

#[test]
fn over_the_rate_clients_wait_and_none_is_refused() {
    let broker = Broker::listening("connect_rate = 20");
    let began = Instant::now();
    let mut clients: Vec<Client> = (0..60).map(|_| Client::open(broker.address, Version::V311)).collect();
    for (id, client) in clients.iter_mut().enumerate() {
        client.login(&Connect::new(Version::V311, &id.to_string()));
    }
    // 21 at once, 39 more at 20 a second: less than half of that would be no limit.
    assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
}

/// The beginning of a TLS record that promises a ClientHello and does not keep it.
const HALF_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

fn half_open(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let open = |_| {
        let mut socket = TcpStream::connect(address).unwrap();
        let _ = socket.write_all(HALF_HELLO);
        socket
    };
    (0..count).map(open).collect()
}

/// A broker, its TLS listener that has so many turns for handshakes, what to trust, and where the certificate is.
fn with_handshakes(turns: u32, deadline: &str) -> (Broker, SocketAddr, Vec<u8>, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("x.pem");
    let trusted = certify(&file);
    let secure: SocketAddr = ([127, 0, 0, 1], port()).into();
    let broker = Broker::listening(&format!(
        "[[listen]]\naddress = \"{secure}\"\nhandshakes = {turns}\nhandshake_deadline = \"{deadline}\"\n\
         tls = {{ certificates = [\"{}\"] }}",
        file.display()
    ));
    (broker, secure, trusted, directory)
}

#[test]
fn half_open_handshakes_keep_nobody_else_waiting_and_end_by_themselves() {
    let (broker, secure, trusted, _directory) = with_handshakes(4, "5s");
    let mut plain = broker.client(Version::V5, "plain");
    let mut inside = Client::tls(secure, &trusted, Version::V5, "inside").unwrap();
    let flood = half_open(secure, 300);
    inside.subscribe("t", Qos::AtLeastOnce);
    plain.publish("t", b"goes on", Qos::AtLeastOnce);
    assert_eq!(inside.message().payload, b"goes on");
    broker.client(Version::V5, "new on the plain one").ping();
    // They are closed at their deadline, all of them, though four only could shake hands at a time.
    for mut socket in flood {
        socket.set_read_timeout(Some(SOON * 2)).unwrap();
        let mut answer = [0; 100];
        let ended = socket.read(&mut answer);
        assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock));
    }
    Client::tls(secure, &trusted, Version::V5, "after").unwrap().ping();
    plain.ping();
}

/// As many as there are turns send one byte and go on with nothing.
#[test]
fn slow_handshakes_take_nobodys_turn() {
    let (broker, secure, trusted, _directory) = with_handshakes(2, "60s");
    let mut plain = broker.client(Version::V5, "plain");
    let slow = [(); 2].map(|()| {
        let mut socket = TcpStream::connect(secure).unwrap();
        socket.write_all(&HALF_HELLO[..1]).unwrap();
        socket
    });
    // They are on their way, and what they have sent was looked at.
    std::thread::sleep(Duration::from_millis(200));
    Client::tls(secure, &trusted, Version::V5, "quick").unwrap().ping();
    plain.ping();
    drop(slow);
}

#[test]
fn who_begins_without_going_on_takes_no_file_away_from_other_listeners() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("x.pem");
    certify(&file);
    let secure: SocketAddr = ([127, 0, 0, 1], port()).into();
    let broker = Broker::with_files_listening(
        200,
        &format!(
            "[[listen]]\naddress = \"{secure}\"\nhandshake_deadline = \"300s\"\n\
             tls = {{ certificates = [\"{}\"] }}",
            file.display()
        ),
    );
    let mut plain = broker.client(Version::V5, "plain");
    let _flood = half_open(secure, 250);
    let mut more: Vec<Client> =
        (0..40).map(|id| broker.client(Version::V311, &format!("more-{id}"))).collect();
    more.iter_mut().for_each(Client::ping);
    plain.ping();
    assert!(broker.ask("health").0);
}
