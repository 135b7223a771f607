//! MQTT over WebSocket: chapter 6 of both documents.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use crate::answer::{self, Answer};
use crate::broker::{Broker, Settings};
use crate::client::{PATIENCE, SOON, unique};
use crate::packet::{self, BOTH, Connect, PINGREQ, Publish, V311, Version, packet};
use crate::suite::both_alone;

const WITH_WEBSOCKET: Settings = Settings { ours: "", mosquitto: "", websocket: true };

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;

/// A client that has upgraded.
struct Socket {
    stream: TcpStream,
    version: Version,
    /// Payloads of binary frames, not read yet.
    unread: Vec<u8>,
    /// The head of the answer, in lower case.
    head: String,
}

impl Socket {
    fn upgrade(broker: &Broker, version: Version, protocols: &str) -> Self {
        let address = broker.websocket.unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let request = format!(
            "GET /mqtt HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: {protocols}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.starts_with("http/1.1 101"), "{head}");
        Self { stream, version, unread: Vec::new(), head }
    }

    /// A frame of this kind, masked as those of clients must be.
    fn send(&mut self, kind: u8, last: bool, payload: &[u8]) {
        let length = u16::try_from(payload.len()).unwrap();
        let mut frame = vec![u8::from(last) << 7 | kind];
        match u8::try_from(length) {
            Ok(short @ 0..126) => frame.push(0x80 | short),
            _ => {
                frame.push(0x80 | 126);
                frame.extend(length.to_be_bytes());
            }
        }
        let mask = [1, 2, 3, 4];
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.stream.write_all(&frame).unwrap();
    }

    fn says(&mut self, bytes: &[u8]) {
        self.send(BINARY, true, bytes);
    }

    /// Takes in one frame; false: the connection is closed.
    fn frame(&mut self) -> bool {
        self.stream.set_read_timeout(Some(PATIENCE.get())).unwrap();
        let mut head = [0; 2];
        if let Err(error) = self.stream.read_exact(&mut head) {
            assert!(!matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "no frame, no end");
            return false;
        }
        assert_eq!(head[1] & 0x80, 0, "frames of a server are not masked");
        let length = match head[1] {
            126 => {
                let mut long = [0; 2];
                self.stream.read_exact(&mut long).unwrap();
                u16::from_be_bytes(long).into()
            }
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).unwrap();
        match head[0] & 0x0f {
            BINARY | CONTINUATION => self.unread.extend(payload),
            8 => return false,
            9 | 10 => {}
            kind => panic!("a frame of kind {kind}"),
        }
        true
    }

    fn answer(&mut self) -> Answer {
        loop {
            if let Some(read) = answer::read(self.version, &self.unread) {
                self.unread.drain(..read.length);
                return read.answer;
            }
            assert!(self.frame(), "the connection is closed");
        }
    }

    fn connect(&mut self) {
        let connect = Connect::new(self.version, &unique("ws")).bytes();
        self.says(&connect);
        let answer = self.answer();
        assert!(matches!(answer, Answer::ConnAck { code: 0, .. }), "{answer:?}");
    }
}

/// [MQTT-6.0.0-4] [MQTT5-6.0.0-4]
#[test]
fn v311_6_0_0_4_the_subprotocol_is_mqtt() {
    both_alone(WITH_WEBSOCKET, |broker| {
        for offered in ["mqtt", "soap, mqtt"] {
            let mut socket = Socket::upgrade(broker, V311, offered);
            let chosen = socket.head.lines().find_map(|line| line.strip_prefix("sec-websocket-protocol:"));
            assert_eq!(chosen.map(str::trim), Some("mqtt"));
            assert!(
                socket.head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
                "{}",
                socket.head
            );
            socket.connect();
        }
    });
}

/// [MQTT-6.0.0-2] [MQTT5-6.0.0-2] [MQTT-6.0.0-1] [MQTT5-6.0.0-1]
#[test]
fn v311_6_0_0_2_frames_and_packets_need_not_fit() {
    both_alone(WITH_WEBSOCKET, |broker| {
        for version in BOTH {
            let topic = unique("frames");
            let all = [
                Connect::new(version, &unique("ws")).bytes(),
                packet::subscribe(version, 1, &[], &[(&topic, 1)]),
                Publish::new(&topic, [b'x'; 300]).qos(1).id(2).bytes(version),
                packet(PINGREQ, &[]),
            ]
            .concat();
            for size in [1, 7, all.len()] {
                let mut socket = Socket::upgrade(broker, version, "mqtt");
                all.chunks(size).for_each(|piece| socket.says(piece));
                assert!(matches!(socket.answer(), Answer::ConnAck { code: 0, .. }));
                let rest = [socket.answer(), socket.answer(), socket.answer(), socket.answer()];
                let suback = Answer::SubAck { id: 1, codes: vec![1] };
                for answer in [suback, Answer::PubAck { id: 2, code: 0 }, Answer::PingResp] {
                    assert!(rest.contains(&answer), "{rest:?}");
                }
                let message = rest
                    .iter()
                    .find_map(|answer| if let Answer::Publish(got) = answer { Some(got) } else { None });
                assert_eq!(message.unwrap().payload, [b'x'; 300]);
            }
            // A message of many frames.
            let mut socket = Socket::upgrade(broker, version, "mqtt");
            socket.connect();
            socket.send(BINARY, false, &packet(PINGREQ, &[])[..1]);
            socket.send(CONTINUATION, true, &packet(PINGREQ, &[])[1..]);
            assert_eq!(socket.answer(), Answer::PingResp);
        }
    });
}

/// [MQTT-6.0.0-1] [MQTT5-6.0.0-1]
#[test]
fn v311_6_0_0_1_text_frames_end_the_connection() {
    both_alone(WITH_WEBSOCKET, |broker| {
        for version in BOTH {
            let mut socket = Socket::upgrade(broker, version, "mqtt");
            socket.connect();
            socket.send(TEXT, true, &Publish::new("x", "y").bytes(version));
            broker.but_mosquitto("takes what is in text frames", || while socket.frame() {});
        }
    });
}
