//! A broker that knows just enough to be wrong on purpose: every so many messages one is dropped or sent twice.
#![expect(clippy::unwrap_used, reason = "a test's double: what it does not expect fails the test")]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use nsd_wire::{Ack, AckKind, ConnAck, Packet, Publish, Qos, ReasonCode, SubAck, Subscribe, Version, read};

/// What goes wrong; a message that is dropped is not repeated.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Faults {
    pub(crate) drop_every: Option<u64>,
    pub(crate) repeat_every: Option<u64>,
}

/// Listens until the test process ends.
pub(crate) struct Broker {
    pub(crate) address: SocketAddr,
}

#[derive(Default)]
struct Shared {
    faults: Faults,
    published: AtomicU64,
    /// By exact topic.
    subscribers: Mutex<HashMap<String, Vec<TcpStream>>>,
}

impl Broker {
    pub(crate) fn start(faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { faults, ..Shared::default() });
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.talk(stream.unwrap()));
            }
        });
        Self { address }
    }
}

impl Shared {
    /// Answers one client until it leaves.
    fn talk(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
        let mut version = Version::V311;
        loop {
            let count = stream.read(&mut piece)?;
            if count == 0 {
                return Ok(());
            }
            bytes.extend_from_slice(&piece[..count]);
            let mut at = 0;
            while let Some((packet, length)) = read(version, &bytes[at..], usize::MAX).unwrap() {
                let mut answer = Vec::new();
                match packet {
                    Packet::Connect(connect) => {
                        version = connect.version;
                        ConnAck::new(false, ReasonCode::Success).encode(version, &mut answer).unwrap();
                    }
                    Packet::Subscribe(subscribe) => self.subscribe(version, subscribe, &stream, &mut answer),
                    Packet::Publish(publish) => {
                        self.deliver(&bytes[at..at + length], publish.topic)?;
                        acknowledge(version, publish, &mut answer);
                    }
                    Packet::PubRec(ack) => ack_with(AckKind::PubRel, version, ack, &mut answer),
                    Packet::PubRel(ack) => ack_with(AckKind::PubComp, version, ack, &mut answer),
                    _ => {}
                }
                stream.write_all(&answer)?;
                at += length;
            }
            bytes.drain(..at);
        }
    }

    fn subscribe(
        &self,
        version: Version,
        subscribe: Subscribe<'_>,
        stream: &TcpStream,
        answer: &mut Vec<u8>,
    ) {
        let wanted = subscribe.filters.iter().next().unwrap();
        let mut subscribers = self.subscribers.lock().unwrap();
        subscribers.entry(wanted.filter.to_owned()).or_default().push(stream.try_clone().unwrap());
        let codes = [ReasonCode::granted(wanted.options.qos)];
        SubAck::new(subscribe.packet_id, &codes).encode(version, answer).unwrap();
    }

    /// Passes the publisher's own bytes on: packet ids of one publisher are good enough for its subscribers here.
    fn deliver(&self, packet: &[u8], topic: &str) -> std::io::Result<()> {
        let number = self.published.fetch_add(1, Ordering::SeqCst) + 1;
        let is_turn = |every: Option<u64>| every.is_some_and(|every| number.is_multiple_of(every));
        let times = match (is_turn(self.faults.drop_every), is_turn(self.faults.repeat_every)) {
            (true, _) => 0,
            (false, true) => 2,
            (false, false) => 1,
        };
        let mut subscribers = self.subscribers.lock().unwrap();
        for stream in subscribers.get_mut(topic).into_iter().flatten() {
            stream.write_all(&packet.repeat(times))?;
        }
        Ok(())
    }
}

fn acknowledge(version: Version, publish: Publish<'_>, answer: &mut Vec<u8>) {
    let kind = if publish.qos == Qos::AtLeastOnce { AckKind::PubAck } else { AckKind::PubRec };
    if let Some(id) = publish.packet_id {
        ack_with(kind, version, Ack::new(id), answer);
    }
}

fn ack_with(kind: AckKind, version: Version, ack: Ack<'_>, answer: &mut Vec<u8>) {
    ack.encode(kind, version, answer).unwrap();
}
