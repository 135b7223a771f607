//! A small server that takes note of how its clients end: with DISCONNECT, or without, as a will would be fired.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use nsd_wire::{Ack, AckKind, ConnAck, Packet, Publish, Qos, ReasonCode, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::broker::MAX_PACKET;

pub(crate) struct Witness {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
    acceptor: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    sessions: AtomicUsize,
    left: AtomicUsize,
    vanished: AtomicUsize,
    messages: AtomicUsize,
    refuses: AtomicBool,
    frozen: AtomicBool,
    lingers: AtomicBool,
}

impl Witness {
    pub(crate) async fn start() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(4096).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Seen>::default();
        let acceptor = tokio::spawn(accept(listener, Arc::clone(&seen)));
        Self { address, seen, acceptor }
    }

    /// Clients it has now; checks are none.
    pub(crate) fn sessions(&self) -> usize {
        self.seen.sessions.load(SeqCst)
    }

    /// Clients that said DISCONNECT.
    pub(crate) fn left(&self) -> usize {
        self.seen.left.load(SeqCst)
    }

    /// Clients that ended without a word.
    pub(crate) fn vanished(&self) -> usize {
        self.seen.vanished.load(SeqCst)
    }

    /// Messages that arrived whole.
    pub(crate) fn messages(&self) -> usize {
        self.seen.messages.load(SeqCst)
    }

    /// "Not authorised" to each client from now on.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.seen.refuses.store(refuses, SeqCst);
    }

    /// Does not close the connections of those that it refuses.
    pub(crate) fn linger(&self, lingers: bool) {
        self.seen.lingers.store(lingers, SeqCst);
    }

    /// Says nothing to who comes from now on, and keeps whom it has.
    pub(crate) fn freeze(&self) {
        self.seen.frozen.store(true, SeqCst);
    }

    pub(crate) fn thaw(&self) {
        self.seen.frozen.store(false, SeqCst);
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

async fn accept(listener: TcpListener, seen: Arc<Seen>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, Arc::clone(&seen)));
        while connections.try_join_next().is_some() {}
    }
}

/// What follows from one packet.
enum Then {
    Say(Vec<u8>),
    Nothing,
    Leave,
}

async fn serve(mut stream: TcpStream, seen: Arc<Seen>) -> Option<()> {
    let mut bytes = Vec::new();
    let mut client: Option<Version> = None;
    loop {
        let version = client.unwrap_or(Version::V311);
        let Ok(read) = nsd_wire::read(version, &bytes, MAX_PACKET) else { break };
        let Some((packet, length)) = read else {
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                break;
            }
            continue;
        };
        if let Packet::Connect(connect) = &packet {
            if seen.frozen.load(SeqCst) {
                return std::future::pending().await;
            }
            let is_check = connect.client_id.starts_with("nsd-check");
            let refuses = seen.refuses.load(SeqCst) && !is_check;
            let reason = if refuses { ReasonCode::NotAuthorized } else { ReasonCode::Success };
            let mut answer = Vec::new();
            ConnAck::new(false, reason).encode(connect.version, &mut answer).ok()?;
            if !is_check && !refuses {
                client = Some(connect.version);
                seen.sessions.fetch_add(1, SeqCst);
            }
            // Counted before, so that whoever has heard of it finds it counted.
            if stream.write_all(&answer).await.is_err() {
                break;
            }
            if is_check || refuses {
                while refuses && seen.lingers.load(SeqCst) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                return None;
            }
        } else {
            match answer(&packet, version, &seen) {
                Then::Say(answer) => drop(stream.write_all(&answer).await),
                Then::Nothing => {}
                Then::Leave => {
                    seen.left.fetch_add(1, SeqCst);
                    seen.sessions.fetch_sub(1, SeqCst);
                    return None;
                }
            }
        }
        bytes.drain(..length);
    }
    if client.is_some() {
        seen.vanished.fetch_add(1, SeqCst);
        seen.sessions.fetch_sub(1, SeqCst);
    }
    None
}

fn answer(packet: &Packet<'_>, version: Version, seen: &Seen) -> Then {
    let mut out = Vec::new();
    match packet {
        Packet::Publish(publish) if publish.topic == "flood" => {
            let payload = vec![7; 60_000];
            for _ in 0..300 {
                Publish::new("flood", &payload).encode(version, &mut out).unwrap();
            }
        }
        Packet::Publish(publish) => {
            seen.messages.fetch_add(1, SeqCst);
            let Some(id) = publish.packet_id.filter(|_| publish.qos == Qos::AtLeastOnce) else {
                return Then::Nothing;
            };
            Ack::new(id).encode(AckKind::PubAck, version, &mut out).unwrap();
        }
        Packet::Disconnect(_) => return Then::Leave,
        _ => return Then::Nothing,
    }
    Then::Say(out)
}
