//! A small server that speaks enough MQTT: it answers a CONNECT with a CONNACK, tells its name in a PUBLISH, and echoes
//! every byte that follows. What it is asked to tell, it tells all.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nsd_edge::proxy_header::{self, ProxyHeader};
use nsd_wire::{ConnAck, Packet, Publish, ReasonCode, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use super::free_address;

pub(crate) const MAX_PACKET: usize = 1 << 20;

/// How it treats a CONNECT.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Mood {
    Well,
    /// Takes connections, says nothing.
    Frozen,
    /// "Server unavailable".
    Unavailable,
    /// "Not authorised": it is well, and does not know the client.
    Stranger,
    /// Ends the connection of each client that says CONNECT.
    Closing,
}

pub(crate) struct Broker {
    pub(crate) address: SocketAddr,
    name: String,
    shared: Arc<Shared>,
    told: broadcast::Sender<Arc<[u8]>>,
    acceptor: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    mood: AtomicU8,
    sessions: AtomicUsize,
    total: AtomicUsize,
    checks: AtomicUsize,
    behind_proxy: AtomicBool,
    /// Of clients and of checks, in the order they came.
    headers: Mutex<Vec<ProxyHeader>>,
}

/// Counts a client's session while it lasts; checks are not clients.
struct Session(Arc<Shared>);

impl Drop for Session {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, SeqCst);
    }
}

impl Broker {
    pub(crate) async fn start(name: &str) -> Self {
        Self::start_at(name, free_address()).await
    }

    pub(crate) async fn start_at(name: &str, address: SocketAddr) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        Self::at(name, socket.listen(4096).unwrap())
    }

    /// On a socket that may be of another network.
    pub(crate) fn at(name: &str, listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let shared = Arc::<Shared>::default();
        let told = broadcast::Sender::new(1);
        let acceptor = tokio::spawn(accept(listener, name.to_owned(), Arc::clone(&shared), told.clone()));
        Self { address, name: name.to_owned(), shared, told, acceptor }
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.shared.mood.store(mood as u8, SeqCst);
    }

    /// Sends this to each client that is there.
    pub(crate) fn tell_all(&self, bytes: Vec<u8>) {
        assert!(self.told.send(bytes.into()).is_ok(), "nobody is there");
    }

    /// From now on each connection has to begin with a PROXY header.
    pub(crate) fn expect_proxy(&self) {
        self.shared.behind_proxy.store(true, SeqCst);
    }

    /// The headers of those who came, the checks' included.
    pub(crate) fn headers(&self) -> Vec<ProxyHeader> {
        self.shared.headers.lock().unwrap().clone()
    }

    /// Clients it has now.
    pub(crate) fn sessions(&self) -> usize {
        self.shared.sessions.load(SeqCst)
    }

    /// Clients it ever had.
    pub(crate) fn total(&self) -> usize {
        self.shared.total.load(SeqCst)
    }

    /// Checks that were answered.
    pub(crate) fn checks(&self) -> usize {
        self.shared.checks.load(SeqCst)
    }

    /// Its port refuses from now on, and what it had is cut.
    pub(crate) async fn stop(&mut self) {
        self.acceptor.abort();
        let _ = (&mut self.acceptor).await;
    }

    pub(crate) async fn start_again(&mut self) {
        *self = Self::start_at(&self.name.clone(), self.address).await;
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

async fn accept(
    listener: TcpListener,
    name: String,
    shared: Arc<Shared>,
    told: broadcast::Sender<Arc<[u8]>>,
) {
    // Dropped with this task, and its connections with it.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(serve(stream, name.clone(), Arc::clone(&shared), told.subscribe()));
                while connections.try_join_next().is_some() {}
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve(
    mut stream: TcpStream,
    name: String,
    shared: Arc<Shared>,
    mut told: broadcast::Receiver<Arc<[u8]>>,
) -> Option<()> {
    if shared.behind_proxy.load(SeqCst) {
        let header = proxy_header::read(&mut stream).await.ok()?;
        shared.headers.lock().unwrap().push(header);
    }
    let mut bytes = Vec::new();
    let (is_check, length, version) = loop {
        match nsd_wire::read(Version::V311, &bytes, MAX_PACKET).ok()? {
            Some((Packet::Connect(connect), length)) => {
                break (connect.client_id.starts_with("nsd-check"), length, connect.version);
            }
            Some(_) => return None,
            None => {}
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let reason = match shared.mood.load(SeqCst) {
        mood if mood == Mood::Frozen as u8 => return std::future::pending().await,
        mood if mood == Mood::Closing as u8 && !is_check => return None,
        mood if mood == Mood::Unavailable as u8 => ReasonCode::ServerUnavailable,
        mood if mood == Mood::Stranger as u8 && is_check => ReasonCode::NotAuthorized,
        _ => ReasonCode::Success,
    };
    let mut out = Vec::new();
    ConnAck { reason, ..ConnAck::default() }.encode(version, &mut out).ok()?;
    if reason != ReasonCode::Success {
        stream.write_all(&out).await.ok()?;
        return None;
    }
    let _session = (!is_check).then(|| {
        shared.sessions.fetch_add(1, SeqCst);
        shared.total.fetch_add(1, SeqCst);
        Session(Arc::clone(&shared))
    });
    if !is_check {
        Publish::new(&name, b"").encode(version, &mut out).ok()?;
        out.extend_from_slice(&bytes[length..]);
    }
    if is_check {
        shared.checks.fetch_add(1, SeqCst);
    }
    stream.write_all(&out).await.ok()?;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        tokio::select! {
            read = stream.read(&mut buffer) => match read.ok()? {
                0 => return None,
                read => stream.write_all(&buffer[..read]).await.ok()?,
            },
            Ok(bytes) = told.recv() => stream.write_all(&bytes).await.ok()?,
        }
    }
}
