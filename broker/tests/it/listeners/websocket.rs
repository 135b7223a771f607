//! MQTT over WebSocket, with a client library that is not ours.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use nsd_wire::{Connect, Packet, Publish, Qos, ReasonCode, Version};
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::{Error, Message, WebSocket};

use super::{certify, saw};
use crate::support::{Broker, Client, SOON, eventually};

type Secured = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

/// A TLS connection, and the socket below it.
pub(super) fn secured(address: SocketAddr, config: rustls::ClientConfig) -> io::Result<(TcpStream, Secured)> {
    let mut connection =
        rustls::ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(SOON))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok((socket.try_clone()?, rustls::StreamOwned::new(connection, socket)))
}

/// The bytes in a library's binary frames; each write is one frame.
struct Bytes<S> {
    socket: WebSocket<S>,
    read: Vec<u8>,
}

impl<S: Read + Write> Read for Bytes<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read.is_empty() {
            match self.socket.read() {
                Ok(Message::Binary(payload)) => self.read = payload.to_vec(),
                Ok(Message::Close(_)) => return Ok(0),
                Ok(Message::Text(text)) => panic!("text from an MQTT broker: {text}"),
                Ok(_) => {}
                Err(Error::Io(error)) => return Err(error),
                Err(_) => return Ok(0),
            }
        }
        let length = buffer.len().min(self.read.len());
        buffer[..length].copy_from_slice(&self.read[..length]);
        self.read.drain(..length);
        Ok(length)
    }
}

impl<S: Read + Write> Write for Bytes<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.send(Message::binary(bytes.to_vec())).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush().map_err(io::Error::other)
    }
}

fn upgraded<S: Read + Write>(stream: S, headers: &[(&'static str, &str)]) -> Option<WebSocket<S>> {
    let mut request = "ws://localhost/mqtt".into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    tungstenite::client(request, stream).ok().map(|(socket, _)| socket)
}

const MQTT: (&str, &str) = ("Sec-WebSocket-Protocol", "mqtt");

fn raw(broker: &Broker) -> WebSocket<TcpStream> {
    let socket = TcpStream::connect(broker.address).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    upgraded(socket, &[MQTT]).unwrap()
}

fn client(broker: &Broker, version: Version, id: &str) -> Client {
    let socket = TcpStream::connect(broker.address).unwrap();
    let bytes = Bytes { socket: upgraded(socket.try_clone().unwrap(), &[MQTT]).unwrap(), read: Vec::new() };
    let mut client = Client::over(socket, Box::new(bytes), version);
    client.login(&Connect::new(version, id));
    client
}

fn encoded(packets: &[Packet<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    packets.iter().for_each(|packet| packet.encode(Version::V311, &mut bytes).unwrap());
    bytes
}

/// The next message, which must be of the library's binary kind.
fn answer(socket: &mut WebSocket<TcpStream>) -> Vec<u8> {
    match socket.read().unwrap() {
        Message::Binary(payload) => payload.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_over_a_websocket_is_a_client_like_any_other() {
    let broker = Broker::listening("websocket = true");
    for version in [Version::V31, Version::V311, Version::V5] {
        let mut one = client(&broker, version, "one");
        let mut two = client(&broker, version, "two");
        one.subscribe("t/#", Qos::ExactlyOnce);
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
            // Longer than a frame that we write.
            let payload = vec![b'x'; 300_000];
            assert_eq!(two.publish("t/1", &payload, qos), ReasonCode::Success);
            let message = one.message();
            assert_eq!((message.payload.len(), message.qos), (300_000, qos));
        }
        two.ping();
    }
}

#[test]
fn packets_may_share_frames_and_span_them() {
    let broker = Broker::listening("websocket = true");
    let mut socket = raw(&broker);
    let all = encoded(&[
        Packet::Connect(Connect::new(Version::V311, "many")),
        Packet::PingReq,
        Packet::PingReq,
        Packet::Publish(Publish::new("t", b"x")),
        Packet::PingReq,
    ]);
    socket.send(Message::binary(all)).unwrap();
    let mut bytes = Vec::new();
    while bytes.len() < 4 + 3 * 2 {
        bytes.extend(answer(&mut socket));
    }
    assert_eq!(bytes, b"\x20\x02\0\0\xd0\0\xd0\0\xd0\0");

    // Byte by byte, with pings and empty frames between.
    for byte in encoded(&[Packet::PingReq]) {
        socket.send(Message::Ping("?".into())).unwrap();
        socket.send(Message::binary(Vec::new())).unwrap();
        socket.send(Message::binary(vec![byte])).unwrap();
    }
    let mut pongs = 0;
    loop {
        match socket.read().unwrap() {
            Message::Pong(payload) => {
                assert_eq!(&payload[..], b"?");
                pongs += 1;
            }
            Message::Binary(payload) => break assert_eq!(&payload[..], b"\xd0\0"),
            other => panic!("{other:?}"),
        }
    }
    assert!(pongs > 0);

    // One message in three fragments, cut within a packet.
    let publish = encoded(&[Packet::Publish(Publish::new("t", b"payload")), Packet::PingReq]);
    let (front, rest) = publish.split_at(3);
    let (middle, back) = rest.split_at(4);
    for (part, code, last) in
        [(front, Data::Binary, false), (middle, Data::Continue, false), (back, Data::Continue, true)]
    {
        let frame = Frame::message(part.to_vec(), OpCode::Data(code), last);
        socket.send(Message::Frame(frame)).unwrap();
    }
    let mut last = socket.read().unwrap();
    while last.is_pong() {
        last = socket.read().unwrap();
    }
    assert_eq!(&last.into_data()[..], b"\xd0\0");
}

/// The code of the close that comes next.
fn closed(socket: &mut WebSocket<TcpStream>) -> CloseCode {
    loop {
        match socket.read() {
            Ok(Message::Close(Some(frame))) => return frame.code,
            Ok(Message::Close(None)) => return CloseCode::Status,
            Ok(_) => {}
            Err(error) => panic!("no close: {error}"),
        }
    }
}

#[test]
fn what_is_not_allowed_is_told_by_its_code_and_hurts_nobody_else() {
    let broker = Broker::listening("websocket = { frame_bytes = 4096 }");
    let mut other = client(&broker, Version::V5, "other");
    for (message, code) in [
        (Message::text("hello"), CloseCode::Unsupported),
        (Message::binary(vec![0; 5000]), CloseCode::Size),
        (Message::Frame(Frame::message(vec![1], OpCode::Data(Data::Continue), true)), CloseCode::Protocol),
    ] {
        let mut socket = raw(&broker);
        socket.send(message).unwrap();
        assert_eq!(closed(&mut socket), code);
    }
    // A frame that says it has 4 TiB takes no memory for it.
    let mut socket = raw(&broker);
    socket.get_mut().write_all(&[0x82, 0xff, 0, 0, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4]).unwrap();
    assert_eq!(closed(&mut socket), CloseCode::Size);
    // A packet that is none, and a client that says goodbye.
    let mut socket = raw(&broker);
    socket.send(Message::binary(b"\0\0".to_vec())).unwrap();
    assert_eq!(closed(&mut socket), CloseCode::Normal);
    let mut socket = raw(&broker);
    socket.close(None).unwrap();
    assert!(matches!(socket.read(), Ok(Message::Close(None))));
    other.ping();
}

#[test]
fn an_upgrade_that_takes_too_long_is_over_and_others_do_not_wait_for_it() {
    let broker = Broker::listening("websocket = true\nhandshake_deadline = \"5s\"");
    let mut slow = TcpStream::connect(broker.address).unwrap();
    slow.set_read_timeout(Some(SOON)).unwrap();
    slow.write_all(b"GET /mqtt HTTP/1.1\r\nHost: x\r\nX: ").unwrap();
    let mut other = client(&broker, Version::V5, "other");
    eventually("the slow one is closed", SOON * 2, || slow.write_all(b"x").is_err());
    other.ping();
}

fn asked(broker: &Broker, request: &str) -> String {
    let mut socket = TcpStream::connect(broker.address).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_browser_that_is_not_meant_gets_a_line_it_can_show() {
    let broker = Broker::listening("websocket = { path = \"/ws\", origins = [\"https://site.example\"] }");
    let page = asked(&broker, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(page.starts_with("HTTP/1.1 404 ") && page.ends_with("nothing is here\n"), "{page}");
    let page = asked(&broker, "GET /ws HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(
        page.starts_with("HTTP/1.1 426 ") && page.to_lowercase().contains("upgrade: websocket"),
        "{page}"
    );
    let upgrade = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let chat = asked(&broker, &format!("{upgrade}Sec-WebSocket-Protocol: chat\r\n\r\n"));
    assert!(chat.starts_with("HTTP/1.1 400 ") && chat.contains("subprotocol"), "{chat}");
    let evil = "Sec-WebSocket-Protocol: mqtt\r\nOrigin: https://evil.example\r\n\r\n";
    assert!(asked(&broker, &format!("{upgrade}{evil}")).starts_with("HTTP/1.1 403 "));
    assert!(asked(&broker, "\x10\x0e\0\x04MQTT\x04\x02\0\0\0\0\r\n\r\n").starts_with("HTTP/1.1 400 "));
}

#[test]
fn over_tls_too() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("x.pem");
    let server = certify(&file);
    let listener = format!("websocket = true\ntls = {{ certificates = [\"{}\"] }}", file.display());
    let broker = Broker::listening(&listener);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(server.into()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (socket, stream) = secured(broker.address, config).unwrap();
    let bytes = Bytes { socket: upgraded(stream, &[MQTT]).unwrap(), read: Vec::new() };
    let mut secure = Client::over(socket, Box::new(bytes), Version::V5);
    secure.login(&Connect::new(Version::V5, "wss"));
    secure.subscribe("t", Qos::AtLeastOnce);
    assert_eq!(secure.publish("other", &[1; 200_000], Qos::AtLeastOnce), ReasonCode::Success);
    secure.publish("t", &[2; 200_000], Qos::AtMostOnce);
    assert_eq!(secure.message().payload, [2; 200_000]);
}

#[test]
fn a_proxy_that_is_known_tells_the_clients_address_and_nobody_else_can() {
    let enter = |broker: &Broker, forwarded: &str| {
        let socket = TcpStream::connect(broker.address).unwrap();
        upgraded(socket, &[MQTT, ("X-Forwarded-For", forwarded)]).unwrap()
    };
    let known = Broker::listening("websocket = true\nproxy_from = [\"127.0.0.1\", \"10.0.0.0/8\"]");
    // What the client itself wrote stands before what proxies added.
    drop(enter(&known, "192.0.2.66, 203.0.113.7, 10.1.1.1"));
    eventually("the client is known by its address", SOON, || saw(&known, "203.0.113.7:0", None));
    assert!(!known.log().contains("192.0.2.66"));
    let unknown = Broker::listening("websocket = true");
    drop(enter(&unknown, "203.0.113.7"));
    eventually("it is what its socket says", SOON, || saw(&unknown, "127.0.0.1", None));
    assert!(!unknown.log().contains("203.0.113.7"));
}

#[test]
fn a_stop_says_goodbye_in_both_languages() {
    let broker = Broker::listening("websocket = true");
    let mut socket = raw(&broker);
    let mut bytes = Vec::new();
    Packet::Connect(Connect::new(Version::V5, "c")).encode(Version::V5, &mut bytes).unwrap();
    socket.send(Message::binary(bytes)).unwrap();
    assert_eq!(answer(&mut socket)[0], 0x20);
    broker.signal("-TERM");
    let goodbye = answer(&mut socket);
    assert_eq!((goodbye[0], goodbye[2]), (0xe0, 0x8b), "DISCONNECT: server shutting down");
    assert_eq!(closed(&mut socket), CloseCode::Normal);
}
