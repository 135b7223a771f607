//! One accepted connection, from its socket to its line in the access log: handshake, CONNECT gate, choice of a server,
//! another one where the first cannot be reached, relay. The stages are tasks of their own, so that what a handshake or a choice
//! needs is freed before the long, idle part begins.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use nsd_edge::listen::Accepted;
use nsd_edge::tls::{HandshakeError, TlsServer};
use nsd_wire::Version;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::backend::Who;
use crate::entry::{Entry, Pass};
use crate::framing::Framing;
use crate::frontend::Frontend;
use crate::gate::Refusal;
use crate::limits;
use crate::member::Seat;
use crate::origin::{Agreed, Origin};
use crate::registry::{Names, Registry};
use crate::relay::{End, Moved, Side};
use crate::settings::Duplicates;
use crate::shared::Shared;
use crate::upstream::Upstream;
use crate::workers::Place;

mod access;
mod admit;
mod adopt;
mod facts;
mod http;
mod line;
mod reach;
mod registered;
mod talk;

use access::Line;
pub(crate) use access::number;
use admit::admit;
pub(crate) use adopt::Adopted;
use reach::reach;
use talk::Talk;

/// The TLS handshakes of a frontend.
#[derive(Debug)]
pub(crate) struct Handshakes {
    pub(crate) server: Arc<TlsServer>,
    /// From the connection on.
    pub(crate) deadline: Duration,
    /// One for each that is being computed.
    pub(crate) turns: Semaphore,
}

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
    accepted.watch(frontend.user_timeout);
    let Accepted { socket, peer, permit } = accepted;
    let since = Instant::now();
    frontend.tally.count(|counts| counts.accepted += 1);
    let mut client = Client { peer, since, frontend, shared, pass: None, _permit: permit, _place: place };
    let socket = match TcpStream::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return client.ended_by(&error, End::OurLimit),
    };
    let Some(entry) = client.frontend.entry.clone() else { return enter(socket, tls, client).await };
    match entry.admit(peer.ip()) {
        Ok(pass) => client.pass = Some(pass),
        Err(end) => return client.turned_away(&end.into()),
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
                return client.turned_away(&end.into());
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
    // A silent client waits here, where it costs the least.
    match timeout_at(deadline, socket.readable()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return client.ended_by(&error, End::Handshake),
        Err(_elapsed) => return client.turned_away(&End::HandshakeTimeout.into()),
    }
    let left = deadline.saturating_duration_since(Instant::now());
    match tls.server.handshake_in_turn(socket, left, &tls.turns).await {
        Ok(stream) => {
            let (version, resumed) = (stream.version(), stream.is_resumed());
            client.frontend.tally.count(|counts| counts.handshake(version, resumed));
            tokio::spawn(seat(stream, client));
        }
        Err(HandshakeError::TimedOut) => client.turned_away(&End::HandshakeTimeout.into()),
        Err(HandshakeError::Failed(error)) => client.ended_by(&error, End::Handshake),
    }
}

/// Finds a server for the client, and lets the two talk in a task that holds nothing else.
async fn seat<C>(mut stream: C, mut client: Client)
where
    C: Side + Origin + Send + 'static,
{
    if let Some(settings) = client.frontend.http.clone() {
        // Boxed: few frontends are of HTTP, and idle clients of others should not pay for it.
        return Box::pin(http::serve(stream, client, settings)).await;
    }
    let seated = match client.frontend.guard.clone() {
        Some(guard) => admit(&mut stream, &client, &guard).await,
        None => connect(&stream, &client).await,
    };
    match seated {
        Ok(seated) => {
            client.pass.iter_mut().for_each(|pass| pass.begun());
            tokio::spawn(Talk::begin(stream, seated, client));
        }
        Err(failed) => {
            let tls = client.shared.access_log.load(Relaxed).then(|| stream.agreed()).flatten();
            client.turned_away(&Failed { tls, ..failed });
        }
    }
}

/// A client's connection to its server.
struct Seated {
    server: Upstream,
    seat: Seat,
    /// Bytes passed on so far, and where they ended.
    moved: Moved,
    up: Framing,
    down: Framing,
    /// `None`: not MQTT.
    version: Option<Version>,
    /// See [`crate::gate::Passed`].
    clean: bool,
    will: bool,
    names: Names,
    /// How long the client may be silent; `None`: it has not said.
    silence: Option<Duration>,
    /// The server has let it in.
    accepted: bool,
    /// What becomes of older sessions of the client then.
    duplicates: Duplicates,
}

/// Why a client came to no server.
struct Failed {
    end: End,
    names: Option<Names>,
    version: Option<Version>,
    moved: Moved,
    tls: Option<Box<Agreed>>,
}

impl From<End> for Failed {
    fn from(end: End) -> Self {
        Self { end, names: None, version: None, moved: Moved::default(), tls: None }
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
        if let Some(server) = reach(backend, seat.member(), &policy, || client.header(stream)).await? {
            seat.member().connected(&policy);
            return Ok(Seated {
                server,
                seat,
                moved: Moved::default(),
                up: Framing::lost(),
                down: Framing::lost(),
                version: None,
                clean: true,
                will: false,
                names: Registry::nobody(),
                silence: None,
                accepted: true,
                duplicates: Duplicates::Keep,
            });
        }
        tried.push(seat.member().id);
    }
    let busy = tried.is_empty() && backend.is_usable();
    Err(if busy { End::ServersBusy } else { End::NoServer }.into())
}

impl Client {
    fn ended_by(&self, error: &io::Error, end: End) {
        debug!(client = %self.peer, %error, "ended");
        self.turned_away(&end.into());
    }

    /// Of bytes that nobody looked into, and that are counted elsewhere.
    fn ended(&self, tls: Option<&Agreed>, server: &str, moved: Moved, end: End) {
        let (listener, peer, since) = (&*self.frontend.name, self.peer, self.since);
        let (names, version, messages, clean) = (None, None, None, None);
        Line { listener, peer, since, names, version, tls, server, messages, moved, end, clean }
            .write(&self.shared);
    }

    fn turned_away(&self, failed: &Failed) {
        let Failed { end, names, version, moved, tls } = failed;
        let names = names.as_ref();
        let tally = &self.frontend.tally;
        tally.traffic.add(*moved);
        tally.count(|counts| {
            counts.ended(end.as_str(), None);
            if matches!(end, End::Handshake | End::HandshakeTimeout) {
                counts.handshake_failed(end.as_str());
            }
        });
        names.iter().for_each(|names| self.shared.moving.failed(names.key));
        Line {
            listener: &self.frontend.name,
            peer: self.peer,
            since: self.since,
            names,
            version: *version,
            tls: tls.as_deref(),
            server: "-",
            messages: None,
            moved: *moved,
            end: *end,
            clean: None,
        }
        .write(&self.shared);
    }
}
