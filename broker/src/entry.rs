//! How connections of one listener begin: everything before the first byte of MQTT. Who may come at all, PROXY header, TLS,
//! WebSocket, under one deadline.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use nsd_edge::listen::{Gate, GateRules, Network, Place, Refusal, any_contains};
use nsd_edge::proxy_header::{self, ProxyHeader};
use nsd_edge::stream::Stream;
use nsd_edge::tls::{self, HandshakeError, TlsError, TlsServer};
use nsd_edge::websocket::{UpgradeError, WebSocketSettings, upgrade};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info};

use crate::connection::Peer;
use crate::limits::Limits;
use crate::settings::Listen;
use crate::telemetry::{Count, Early, count};

/// What clients may ask for when they upgrade, as MQTT 5.0 (6) and the drafts before 3.1.1 name it.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// What a listener asks of a connection.
#[derive(Debug)]
pub struct Entry {
    /// Where it listens, once it does.
    pub address: OnceLock<SocketAddr>,
    /// Connections that were closed before they became clients.
    pub turned_away: AtomicU64,
    /// Of who becomes a client from now on.
    pub limits: ArcSwap<Limits>,
    pub tls: Option<Arc<TlsServer>>,
    websocket: Option<WebSocketSettings>,
    proxy_protocol: bool,
    proxy_from: Vec<Network>,
    handshakes: Semaphore,
    deadline: Duration,
    /// See [`Listen::user_timeout`].
    pub user_timeout: Duration,
    gate: Option<Arc<Gate>>,
    /// Connections that have come and are not clients yet. At the limit no more are accepted, so that those who begin and
    /// do not go on take no descriptor away from other listeners.
    beginning: Option<Arc<Semaphore>>,
}

/// What is wrong with files that the settings name, without listening anywhere.
pub fn problems(listen: &[Listen]) -> Vec<TlsError> {
    listen.iter().filter_map(|listen| listen.tls.as_ref()).flat_map(tls::problems).collect()
}

/// What a connection holds: its place among those of its source, for as long as it lasts.
pub type Pass = Option<Box<Place>>;

/// Why a connection does not become a client.
#[derive(Debug, Error)]
enum NoEntry {
    #[error("it did not come to the point in time")]
    TooLate,
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("no PROXY header is taken from here (`proxy_from`)")]
    UnknownProxy,
    #[error("no PROXY header: {0}")]
    NoHeader(#[from] proxy_header::ReadError),
    #[error("no TLS handshake: {0}")]
    NoHandshake(#[from] HandshakeError),
    #[error("no WebSocket: {0}")]
    NoWebSocket(#[from] UpgradeError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl NoEntry {
    fn kind(&self) -> Early {
        match self {
            Self::TooLate => Early::TooLate,
            Self::Refused(_) => Early::Limit,
            Self::UnknownProxy | Self::NoHeader(_) => Early::ProxyHeader,
            Self::NoHandshake(_) => Early::Tls,
            Self::NoWebSocket(_) => Early::WebSocket,
            Self::Io(_) => Early::NoConnect,
        }
    }
}

impl Entry {
    /// `beginning`: how many may be on their way at once.
    pub fn new(listen: &Listen, beginning: usize) -> Result<Self, TlsError> {
        let tls = listen.tls.clone().map(TlsServer::with).transpose()?.map(Arc::new);
        let takes_time = tls.is_some() || listen.websocket.is_some() || listen.proxy_protocol;
        let is_guarded = listen.gate != GateRules::default();
        Ok(Self {
            address: OnceLock::new(),
            turned_away: AtomicU64::new(0),
            limits: ArcSwap::new(Arc::clone(&listen.limits)),
            tls,
            websocket: listen.websocket.clone(),
            proxy_protocol: listen.proxy_protocol,
            proxy_from: listen.proxy_from.clone(),
            handshakes: Semaphore::new(listen.handshakes),
            deadline: listen.handshake_deadline,
            user_timeout: listen.user_timeout,
            gate: is_guarded.then(|| Arc::new(Gate::new(listen.gate.clone()))),
            beginning: takes_time.then(|| Arc::new(Semaphore::new(beginning.max(1)))),
        })
    }

    /// Goes on counting where the one before was: who came in through that is still there.
    pub fn succeed(&mut self, before: &Self, rules: &GateRules) {
        self.turned_away = AtomicU64::new(before.turned_away.load(Ordering::Relaxed));
        if let (Some(gate), Some(counted)) = (&mut self.gate, &before.gate) {
            counted.set_rules(rules.clone());
            *gate = Arc::clone(counted);
        }
    }

    /// Waits until one more may begin; nobody else is accepted meanwhile. What it returns is dropped when that one has become a client, or not.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // A closed semaphore cannot be: nobody closes it.
        Arc::clone(self.beginning.as_ref()?).acquire_owned().await.ok()
    }

    /// Whether a connection may begin; an error was logged, and the connection is closed.
    #[expect(clippy::result_unit_err, reason = "why is logged here, and of no use elsewhere")]
    pub fn let_in(&self, address: SocketAddr) -> Result<Pass, ()> {
        self.admit(address.ip()).map_err(|error| self.turn_away(address, &error))
    }

    fn turn_away(&self, peer: SocketAddr, error: &NoEntry) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
        count(Count::Closed(error.kind()));
        match error {
            // A proxy or a web client that is set up wrong: its operator should see it.
            NoEntry::NoHeader(_) | NoEntry::UnknownProxy | NoEntry::NoWebSocket(_) => {
                info!(%peer, %error, "closed");
            }
            _ => debug!(%peer, %error, "closed"),
        }
    }

    fn admit(&self, address: IpAddr) -> Result<Pass, NoEntry> {
        let is_stranger = !self.proxy_from.is_empty() && !any_contains(&self.proxy_from, address);
        if self.proxy_protocol && is_stranger {
            return Err(NoEntry::UnknownProxy);
        }
        let Some(gate) = &self.gate else { return Ok(None) };
        let mut place = Box::new(gate.enter()?);
        // Behind a proxy, rules are about the clients it names.
        if !self.proxy_protocol {
            place.settle(address)?;
        }
        Ok(Some(place))
    }

    /// Whether anything comes before the first byte of MQTT.
    pub fn takes_time(&self) -> bool {
        self.beginning.is_some()
    }

    /// `None`: what it asks for did not come, and the connection is closed.
    pub async fn open(
        &self,
        socket: TcpStream,
        address: SocketAddr,
        pass: &mut Pass,
    ) -> Option<(Stream, Peer)> {
        let socket = tokio::net::TcpStream::from_std(socket).ok()?;
        match self.begin(socket, Peer { address, certified: None }, pass).await {
            Ok((stream, peer)) => {
                debug!(peer = %peer.address, certified = peer.certified.as_deref(), "begun");
                Some((stream, peer))
            }
            Err(error) => {
                self.turn_away(address, &error);
                None
            }
        }
    }

    async fn begin(
        &self,
        socket: tokio::net::TcpStream,
        mut peer: Peer,
        pass: &mut Pass,
    ) -> Result<(Stream, Peer), NoEntry> {
        let deadline = Instant::now() + self.deadline;
        let steps = async {
            let mut socket = socket;
            let mut proxy_ends_tls = false;
            if self.proxy_protocol {
                proxy_ends_tls = self.read_header(&mut socket, &mut peer).await?;
                if let Some(place) = pass {
                    place.settle(peer.address.ip())?;
                }
            }
            let mut stream = Stream::from(socket);
            if let Some(tls) = &self.tls {
                stream = self.shake_hands(tls, stream, deadline).await?;
                // Where a proxy has ended the client's TLS, the certificate that we see is the proxy's own.
                if !proxy_ends_tls {
                    peer.certified = stream.certified();
                }
            }
            if let Some(websocket) = &self.websocket {
                let upgraded = upgrade(stream, websocket, &SUBPROTOCOLS).await?;
                stream = Stream::WebSocket(Box::new(upgraded.stream));
                self.believe(&upgraded.forwarded, &mut peer.address);
            }
            Ok((stream, peer))
        };
        timeout_at(deadline, steps).await.unwrap_or(Err(NoEntry::TooLate))
    }

    /// Tells whether the proxy speaks TLS with the client.
    async fn read_header(
        &self,
        socket: &mut tokio::net::TcpStream,
        peer: &mut Peer,
    ) -> Result<bool, NoEntry> {
        let ProxyHeader::Proxied { source, extras, .. } = proxy_header::read(socket).await? else {
            return Ok(false);
        };
        peer.address = source;
        // Whoever reaches the port could write an address; a name opens doors, so it counts from known proxies only.
        if !self.proxy_from.is_empty() {
            peer.certified = extras.identity().map(Box::from);
        }
        Ok(extras.tls.is_some_and(|tls| tls.over_tls))
    }

    async fn shake_hands(
        &self,
        tls: &TlsServer,
        stream: Stream,
        deadline: Instant,
    ) -> Result<Stream, NoEntry> {
        let Stream::Plain(socket) = stream else { return Ok(stream) };
        // A silent client waits here, where it costs the least.
        socket.readable().await?;
        let left = deadline.saturating_duration_since(Instant::now());
        let shaken = tls.handshake_in_turn(socket, left, &self.handshakes).await?;
        Ok(Stream::Tls(Box::new(shaken)))
    }

    /// Each known proxy vouches for whom it names; the first one that we do not know is the client.
    fn believe(&self, forwarded: &[IpAddr], address: &mut SocketAddr) {
        for named in forwarded.iter().rev() {
            if !any_contains(&self.proxy_from, address.ip()) {
                return;
            }
            *address = SocketAddr::new(*named, 0);
        }
    }
}
