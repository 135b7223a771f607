//! One accepted connection, from its socket to its line in the access log: handshake, CONNECT gate, choice of a server,
//! another one where the first cannot be reached, relay. The stages are tasks of their own, so that what a handshake or a choice
//! needs is freed before the long, idle part begins.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use nsd_edge::listen::Accepted;
use nsd_edge::tls::HandshakeError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info};

use crate::entry::{Entry, Pass};
use crate::frontend::Frontend;
use crate::gate::Refusal;
use crate::limits;
use crate::member::Seat;
use crate::origin::Origin;
use crate::relay::{End, Moved, Patience, relay};
use crate::running::{Handshakes, Shared, Who};
use crate::workers::Place;

mod admit;
mod facts;
mod reach;
mod upstream;

use admit::admit;
use reach::reach;
pub(crate) use upstream::Upstream;

/// What is known of a client, and what is counted for it until it ends.
pub(crate) struct Client {
    peer: SocketAddr,
    since: Instant,
    frontend: Arc<Frontend>,
    shared: Arc<Shared>,
    /// Where the frontend asks who comes.
    pass: Option<Box<Pass>>,
    _permit: OwnedSemaphorePermit,
    _place: Place,
}

/// Runs on the worker that the client was given to.
pub(crate) async fn begin(
    accepted: Accepted,
    tls: Option<Arc<Handshakes>>,
    frontend: Arc<Frontend>,
    shared: Arc<Shared>,
    place: Place,
) {
    let Accepted { socket, peer, permit } = accepted;
    let since = Instant::now();
    let mut client = Client { peer, since, frontend, shared, pass: None, _permit: permit, _place: place };
    let socket = match TcpStream::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return client.ended_by(&error, End::OurLimit),
    };
    let Some(entry) = client.frontend.entry.clone() else { return enter(socket, tls, client).await };
    match entry.admit(peer.ip()) {
        Ok(pass) => client.pass = Some(pass),
        Err(end) => return client.ended(None, end, Moved::default()),
    }
    if entry.is_behind_proxy() {
        tokio::spawn(hear_proxy(socket, entry, tls, client));
    } else {
        enter(socket, tls, client).await;
    }
}

async fn hear_proxy(
    mut socket: TcpStream,
    entry: Arc<Entry>,
    tls: Option<Arc<Handshakes>>,
    mut client: Client,
) {
    if let Some(pass) = &mut client.pass {
        match entry.read_header(&mut socket, client.peer, pass).await {
            Ok(peer) => client.peer = peer,
            Err((peer, end)) => {
                client.peer = peer;
                return client.ended(None, end, Moved::default());
            }
        }
    }
    tokio::spawn(enter(socket, tls, client));
}

async fn enter(socket: TcpStream, tls: Option<Arc<Handshakes>>, client: Client) {
    match tls {
        None => seat(socket, client).await,
        Some(tls) => {
            tokio::spawn(shake_hands(socket, tls, client));
        }
    }
}

async fn shake_hands(socket: TcpStream, tls: Arc<Handshakes>, client: Client) {
    let deadline = client.since + tls.deadline;
    // A silent client waits here, where it holds nothing that others need.
    let turn = async {
        socket.readable().await?;
        tls.turns.acquire().await.map_err(io::Error::other)
    };
    let turn = match timeout_at(deadline, turn).await {
        Ok(Ok(turn)) => turn,
        Ok(Err(error)) => return client.ended_by(&error, End::Handshake),
        Err(_elapsed) => return client.ended(None, End::HandshakeTimeout, Moved::default()),
    };
    let shaken = tls.server.handshake(socket, deadline.saturating_duration_since(Instant::now())).await;
    drop(turn);
    match shaken {
        Ok(stream) => {
            tokio::spawn(seat(stream, client));
        }
        Err(HandshakeError::TimedOut) => client.ended(None, End::HandshakeTimeout, Moved::default()),
        Err(HandshakeError::Failed(error)) => client.ended_by(&error, End::Handshake),
    }
}

/// Finds a server for the client, and lets the two talk in a task that holds nothing else.
async fn seat<C>(mut stream: C, mut client: Client)
where
    C: AsyncRead + AsyncWrite + Origin + Unpin + Send + 'static,
{
    let seated = match client.frontend.guard.clone() {
        Some(guard) => admit(&mut stream, &client, &guard).await,
        None => connect(&stream, &client).await,
    };
    match seated {
        Ok(seated) => {
            client.pass.iter_mut().for_each(|pass| pass.begun());
            tokio::spawn(talk(stream, seated, client));
        }
        Err(failed) => client.turned_away(&failed),
    }
}

/// A client's connection to its server.
struct Seated {
    server: Upstream,
    seat: Seat,
    /// Bytes passed on so far.
    moved: Moved,
    /// How long the client may be silent; `None`: it has not said.
    silence: Option<Duration>,
}

/// Why a client came to no server.
struct Failed {
    end: End,
    /// Its identifier, where it told one.
    id: Option<String>,
    moved: Moved,
}

impl From<End> for Failed {
    fn from(end: End) -> Self {
        Self { end, id: None, moved: Moved::default() }
    }
}

/// A connection to the server that should get the next session; to another one where that fails.
async fn connect(stream: &impl Origin, client: &Client) -> Result<Seated, Failed> {
    let refused = || Failed::from(End::Refused(Refusal::Rule));
    let backend = client.backend(stream, None).ok_or_else(refused)?;
    let who = Who { source: client.peer.ip(), client: None };
    let policy = backend.policy.load_full();
    let mut tried = Vec::new();
    while tried.len() < limits::CONNECT_ATTEMPTS {
        let Some(seat) = backend.seat(&policy, who, &tried).await else { break };
        if let Some(server) = reach(backend, seat.member(), &policy, stream, client).await? {
            seat.member().connected(&policy);
            return Ok(Seated { server, seat, moved: Moved::default(), silence: None });
        }
        tried.push(seat.member().id);
    }
    Err(End::NoServer.into())
}

async fn talk<C>(mut stream: C, seated: Seated, client: Client)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let Seated { mut server, seat, mut moved, silence } = seated;
    let patience = Patience { client: silence, half_closed: limits::HALF_CLOSED_IDLE };
    let end = tokio::select! {
        biased;
        end = seat.closed() => end,
        end = relay(&mut stream, &mut server, &mut moved, patience) => end,
    };
    if end == End::ServerBroke && client.since.elapsed() < limits::YOUNG {
        seat.member().suspected();
    }
    client.ended(Some(&seat), end, moved);
}

impl Client {
    fn ended_by(&self, error: &io::Error, end: End) {
        debug!(client = %self.peer, %error, "ended");
        self.ended(None, end, Moved::default());
    }

    fn ended(&self, seat: Option<&Seat>, end: End, moved: Moved) {
        self.log(seat, end, moved, None);
    }

    fn turned_away(&self, failed: &Failed) {
        self.log(None, failed.end, failed.moved, failed.id.as_deref());
    }

    /// The access log: one line for each ended session. What a client says of itself is quoted.
    fn log(&self, seat: Option<&Seat>, end: End, moved: Moved, id: Option<&str>) {
        if !self.shared.access_log.load(Relaxed) {
            return;
        }
        info!(
            target: "access",
            listener = self.frontend.name,
            client = %self.peer,
            id = id.map(tracing::field::debug),
            server = seat.map_or("-", |seat| seat.member().name.as_str()),
            ms = self.since.elapsed().as_millis(),
            up = moved.up,
            down = moved.down,
            end = end.as_str(),
        );
    }
}
