//! One accepted connection, from its socket to its line in the access log: handshake, choice of a server, another one
//! where the first cannot be reached, relay. The stages are tasks of their own, so that what a handshake or a choice
//! needs is freed before the long, idle part begins.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use nsd_edge::listen::{self, Accepted};
use nsd_edge::tls::{HANDSHAKE_TIMEOUT, HandshakeError, TlsServer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, info};

use crate::limits;
use crate::member::Seat;
use crate::relay::{End, Moved, relay};
use crate::running::{Backend, Frontend, Shared};
use crate::workers::Place;

/// What is known of a client, and what is counted for it until it ends.
pub(crate) struct Client {
    peer: SocketAddr,
    since: Instant,
    frontend: Arc<Frontend>,
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
    _place: Place,
}

/// Runs on the worker that the client was given to.
pub(crate) async fn begin(
    accepted: Accepted,
    tls: Option<Arc<TlsServer>>,
    frontend: Arc<Frontend>,
    shared: Arc<Shared>,
    place: Place,
) {
    let Accepted { socket, peer, permit } = accepted;
    let client = Client { peer, since: Instant::now(), frontend, shared, _permit: permit, _place: place };
    match (TcpStream::from_std(socket), tls) {
        (Ok(socket), None) => seat(socket, client).await,
        (Ok(socket), Some(tls)) => {
            tokio::spawn(shake_hands(socket, tls, client));
        }
        (Err(error), _) => client.ended_by(&error, End::OurLimit),
    }
}

async fn shake_hands(socket: TcpStream, tls: Arc<TlsServer>, client: Client) {
    let deadline = client.since + HANDSHAKE_TIMEOUT;
    // A silent client waits here, where it holds nothing that others need.
    let turn = async {
        socket.readable().await?;
        client.shared.handshakes.acquire().await.map_err(io::Error::other)
    };
    let turn = match timeout_at(deadline, turn).await {
        Ok(Ok(turn)) => turn,
        Ok(Err(error)) => return client.ended_by(&error, End::Handshake),
        Err(_elapsed) => return client.ended(None, End::HandshakeTimeout, Moved::default()),
    };
    let shaken = tls.handshake(socket, deadline.saturating_duration_since(Instant::now())).await;
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
async fn seat<C>(stream: C, client: Client)
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match connect(&client.frontend.backend).await {
        Ok((server, seat)) => {
            tokio::spawn(talk(stream, server, seat, client));
        }
        Err(end) => client.ended(None, end, Moved::default()),
    }
}

/// A connection to the server that should get the next session; to another one where that fails.
async fn connect(backend: &Backend) -> Result<(TcpStream, Seat), End> {
    let policy = backend.policy.load_full();
    let mut tried: Vec<SocketAddr> = Vec::new();
    while tried.len() < limits::CONNECT_ATTEMPTS {
        let Some(seat) = backend.choose(policy.balance, &tried) else { break };
        let member = Arc::clone(seat.member());
        let error = match timeout(policy.connect_timeout, listen::connect(member.address)).await {
            Ok(Ok(server)) => {
                member.connected(&policy);
                return Ok((server, seat));
            }
            Ok(Err(error)) => error,
            Err(_elapsed) => io::ErrorKind::TimedOut.into(),
        };
        if listen::is_our_limit(&error) {
            info!(server = member.name, %error, "cannot connect to any server");
            return Err(End::OurLimit);
        }
        debug!(server = member.name, %error, "cannot connect, trying another server");
        member.connect_failed(&policy);
        tried.push(member.address);
    }
    Err(End::NoServer)
}

async fn talk<C>(mut stream: C, mut server: TcpStream, seat: Seat, client: Client)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let mut moved = Moved::default();
    let end = tokio::select! {
        biased;
        end = seat.closed() => end,
        end = relay(&mut stream, &mut server, &mut moved, limits::HALF_CLOSED_IDLE) => end,
    };
    client.ended(Some(&seat), end, moved);
}

impl Client {
    fn ended_by(&self, error: &io::Error, end: End) {
        debug!(client = %self.peer, %error, "ended");
        self.ended(None, end, Moved::default());
    }

    /// The access log: one line for each ended session.
    fn ended(&self, seat: Option<&Seat>, end: End, moved: Moved) {
        if !self.shared.access_log.load(Relaxed) {
            return;
        }
        info!(
            target: "access",
            listener = self.frontend.name,
            client = %self.peer,
            server = seat.map_or("-", |seat| seat.member().name.as_str()),
            ms = self.since.elapsed().as_millis(),
            up = moved.up,
            down = moved.down,
            end = end.as_str(),
        );
    }
}
