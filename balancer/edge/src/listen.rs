//! Listening sockets: bound with the options that accepted sockets inherit, accepted with a permit in hand and with
//! back-off when the machine runs out of something. An accepted socket is a plain `std` socket, non-blocking and not
//! yet registered anywhere, so that the caller may hand it to another thread's runtime at no cost.

mod gate;
mod network;
mod pace;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{SocketFlags, acceptfrom_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use thiserror::Error;
use tokio::io::unix::AsyncFd;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use pace::Pace;

pub use gate::{Gate, GateRules, Place, Refusal};
pub use network::{Network, any_contains, household};

/// What the kernel may queue before we accept. It cuts this at `net.core.somaxconn` (4096 by default): a fleet that
/// reconnects at once waits there rather than being refused.
const BACKLOG: i32 = 4096;
/// A peer from whose machine nothing comes for so long, neither to what was sent nor to probes, has vanished; the settings
/// may say otherwise.
pub const USER_TIMEOUT: Duration = Duration::from_secs(120);
/// The kernel counts probes in seconds, and needs two: one to ask, one to give up.
pub const USER_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(24 * 3600);
/// Keepalive: the first probe after half of that, and at the latest after this silence. Below the idle limits of common
/// NAT boxes and cloud balancers (350 s and less).
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_PROBES: u32 = 4;
/// In a storm, so many connections are accepted before whatever else is ready on the thread has its turn: each costs a
/// twentieth of a millisecond and more, and thousands at once would hold up those who are there.
const IN_A_ROW: u32 = 8;
/// Room for so many open files is made at the start: half a megabyte of the kernel's memory.
const FILES_AT_ONCE: u64 = 65_536;
/// Pauses after "too many open files" and the like: doubled from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

#[derive(Debug, Error)]
#[error("cannot listen on {address}: {}", explain(.source))]
pub struct BindError {
    pub address: SocketAddr,
    #[source]
    pub source: io::Error,
}

/// A bound address. Dropping it closes the socket and refuses what is still queued.
#[derive(Debug)]
pub struct Listener {
    socket: AsyncFd<TcpListener>,
    address: SocketAddr,
    permits: Arc<Semaphore>,
    pace: Option<SharedPace>,
    accepted: AtomicU32,
}

/// How many connections are accepted a second, by all listeners that share it.
#[derive(Debug, Clone)]
pub struct SharedPace(Arc<Mutex<Pace>>);

impl SharedPace {
    /// In the long run so many a second; after a silent second as many at once.
    pub fn new(per_second: u32) -> Self {
        Self(Arc::new(Mutex::new(Pace::new(per_second, Instant::now()))))
    }
}

/// One accepted connection. It counts against the listener's limit until `permit` is dropped.
#[derive(Debug)]
pub struct Accepted {
    pub socket: TcpStream,
    /// The client; an IPv4 client of a `[::]` listener appears as IPv4.
    pub peer: SocketAddr,
    pub permit: OwnedSemaphorePermit,
}

impl Accepted {
    /// Patience with a peer that vanishes. The usual one is inherited and costs nothing here.
    pub fn watch(&self, user_timeout: Duration) {
        if user_timeout != USER_TIMEOUT
            && let Err(error) = watch(&self.socket, user_timeout)
        {
            warn!(peer = %self.peer, %error, "it will be noticed after {USER_TIMEOUT:?} only if this peer vanishes");
        }
    }
}

/// Binds without accepting yet, so that a program can check all its addresses before it starts.
pub fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let bound = || -> io::Result<TcpListener> {
        let socket = open(address, false)?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    bound().map_err(|source| BindError { address, source })
}

/// Several sockets on one address, one for each thread that accepts: the kernel deals connections out among them, and
/// whoever accepts one need not wake another thread for it.
pub fn bind_shared(address: SocketAddr, count: usize) -> Result<Vec<TcpListener>, BindError> {
    let all_bound = || -> io::Result<Vec<TcpListener>> {
        if address.port() != 0 {
            // The kernel would let us share with another program of this user, too: what listens there must be a mistake.
            drop(open(address, false)?);
        }
        let mut address = address;
        let mut sockets = Vec::with_capacity(count);
        for _ in 0..count {
            let socket = open(address, true)?;
            address = socket.local_addr()?.as_socket().unwrap_or(address);
            sockets.push(socket);
        }
        // Only now: none of the addresses accepts if one cannot be had.
        sockets.iter().try_for_each(|socket| socket.listen(BACKLOG))?;
        Ok(sockets.into_iter().map(TcpListener::from).collect())
    };
    all_bound().map_err(|source| BindError { address, source })
}

fn open(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    tune(&socket, USER_TIMEOUT)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// When this returns, nothing listens any more where the task did: a task that is told to end is there for a while.
pub async fn ended(acceptor: AbortOnDropHandle<()>) {
    acceptor.abort();
    // It was told so.
    let _ = acceptor.await;
}

/// Options for a long-lived connection of small messages. Set on a listening socket, accepted sockets inherit them;
/// a connecting socket gets them before `connect`.
fn tune(socket: &Socket, user_timeout: Duration) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    watch(socket, user_timeout)
}

/// Where something was sent, the kernel itself waits for its acknowledgement; where nothing is, it sends probes.
fn watch(socket: &impl AsFd, user_timeout: Duration) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let second = Duration::from_secs(1);
    let idle = (user_timeout / 2).min(KEEPALIVE_IDLE).max(second);
    let interval = (user_timeout.saturating_sub(idle) / KEEPALIVE_PROBES).max(second);
    let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval);
    socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_PROBES))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(user_timeout))?;
    Ok(())
}

/// Connects with the options of a long-lived connection of small messages, and this patience with a peer that vanishes.
pub async fn connect(address: SocketAddr, user_timeout: Duration) -> io::Result<tokio::net::TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    tune(&socket, user_timeout)?;
    tokio::net::TcpSocket::from_std_stream(socket.into()).connect(address).await
}

/// Whether connecting failed for want of something here (files, ports, memory), so that the other side is not to blame.
pub fn is_our_limit(error: &io::Error) -> bool {
    use Errno as E;
    let ours = [E::MFILE, E::NFILE, E::NOBUFS, E::NOMEM, E::ADDRNOTAVAIL, E::AGAIN];
    Errno::from_io_error(error).is_some_and(|errno| ours.contains(&errno))
}

/// Whether all our ports toward one address are in use. Toward another one the same ports can be used again.
pub fn is_out_of_ports(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::ADDRNOTAVAIL)
}

impl Listener {
    /// Takes a socket from [`bind`] into the current runtime. `permits` is how many connections may be open at once;
    /// at the limit nothing more is accepted, and clients wait in the kernel's queue.
    pub fn new(socket: TcpListener, permits: Arc<Semaphore>) -> io::Result<Self> {
        let address = socket.local_addr()?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; a TcpListener never changes its descriptor, the one danger"
        )]
        let socket = AsyncFd::new(socket)?;
        Ok(Self { socket, address, permits, pace: None, accepted: AtomicU32::new(0) })
    }

    /// Over the pace, clients wait in the kernel's queue.
    #[must_use]
    pub fn paced(self, pace: SharedPace) -> Self {
        Self { pace: Some(pace), ..self }
    }

    /// The bound address, with the port the kernel chose where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection. Never fails: what a listener can suffer passes, so it is logged and waited out. Cancel safe.
    pub async fn accept(&self) -> Accepted {
        if self.accepted.fetch_add(1, Relaxed) % IN_A_ROW == IN_A_ROW - 1 {
            yield_now().await;
        }
        self.wait_for_turn().await;
        let mut pause = BACKOFF.0;
        loop {
            match self.try_accept().await {
                Ok((socket, peer, permit)) => {
                    self.pace.iter().for_each(|pace| pace.0.lock().count(Instant::now()));
                    return Accepted { socket, peer, permit };
                }
                Err(error) if is_peers_own(&error) => {}
                Err(error) => {
                    warn!(address = %self.address, %error, "cannot accept, pausing {pause:?}");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(BACKOFF.1);
                }
            }
        }
    }

    async fn wait_for_turn(&self) {
        let Some(pace) = &self.pace else { return };
        let wait = pace.0.lock().wait(Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    async fn permit(&self) -> OwnedSemaphorePermit {
        match Arc::clone(&self.permits).acquire_owned().await {
            Ok(permit) => permit,
            // A closed semaphore means "accept no more": wait to be dropped.
            Err(_closed) => std::future::pending().await,
        }
    }

    /// A permit is taken once somebody has come: held while waiting, it would be one that no other listener can use.
    async fn try_accept(&self) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        loop {
            let mut ready = self.socket.readable().await?;
            let permit = self.permit().await;
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let attempt = ready.try_io(|socket| Ok(acceptfrom_with(socket, flags)?));
            if let Ok(accepted) = attempt {
                let (socket, peer) = accepted?;
                let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).ok_or(Errno::CONNABORTED)?;
                return Ok((socket.into(), canonical(peer), permit));
            }
        }
    }
}

/// `::ffff:192.0.2.1` → `192.0.2.1`: logs and rules should see one address per client.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

/// The connection went away before we took it: the next one may be fine.
fn is_peers_own(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::CONNABORTED | Errno::INTR | Errno::PERM | Errno::PROTO))
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program listens there already".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "not permitted (ports below 1024 need CAP_NET_BIND_SERVICE)".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        _ => error.to_string(),
    }
}

/// Raises the soft limit of open files to the hard one and returns it. Every connection needs one file, a proxied one two.
/// Best called before there are threads.
pub fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let now = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    let now = now.unwrap_or(u64::MAX);
    make_room_for_files(now);
    now
}

/// The kernel's table of a process's files grows as they come, to twice its size each time; where there are threads, it
/// waits for all processors before it goes on, tens of milliseconds in which a thread serves nobody. So it grows here.
fn make_room_for_files(limit: u64) {
    let last = i32::try_from(limit.min(FILES_AT_ONCE)).unwrap_or(i32::MAX) - 1;
    // Closed at once; the table stays. Where that cannot be had, it grows later.
    drop(fcntl_dupfd_cloexec(io::stderr(), last));
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn any() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    #[tokio::test]
    async fn accepted_sockets_inherit_the_options() {
        let listener = Listener::new(bind(any()).unwrap(), Arc::new(Semaphore::new(8))).unwrap();
        let client = TcpStream::connect(listener.address()).unwrap();
        let accepted = listener.accept().await;
        assert_eq!(accepted.peer, client.local_addr().unwrap());
        assert!(accepted.socket.nodelay().unwrap());
        let socket = Socket::from(accepted.socket);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
    }

    #[tokio::test]
    async fn sockets_that_connect_have_the_same_options() {
        let listener = bind(any()).unwrap();
        let connected = connect(listener.local_addr().unwrap(), USER_TIMEOUT).await.unwrap();
        let socket = Socket::from(connected.into_std().unwrap());
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
    }

    #[tokio::test]
    async fn probes_fill_the_time_that_is_given() {
        let seconds = Duration::from_secs;
        for (given, idle, interval) in [(2, 1, 1), (3, 1, 1), (10, 5, 1), (120, 60, 15), (3660, 60, 900)] {
            let listener = Listener::new(bind(any()).unwrap(), Arc::new(Semaphore::new(8))).unwrap();
            let connected = connect(listener.address(), seconds(given)).await.unwrap();
            let accepted = listener.accept().await;
            accepted.watch(seconds(given));
            for socket in [connected.into_std().unwrap(), accepted.socket].map(Socket::from) {
                assert_eq!(socket.tcp_keepalive_time().unwrap(), seconds(idle), "{given} s");
                assert_eq!(socket.tcp_keepalive_interval().unwrap(), seconds(interval), "{given} s");
                assert_eq!(socket.tcp_user_timeout().unwrap(), Some(seconds(given)));
            }
        }
    }

    #[tokio::test]
    async fn at_the_limit_nothing_more_is_accepted_until_one_leaves() {
        let listener = Listener::new(bind(any()).unwrap(), Arc::new(Semaphore::new(1))).unwrap();
        let _clients = [(); 2].map(|()| TcpStream::connect(listener.address()).unwrap());
        let first = listener.accept().await;
        let waiting = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
        assert!(waiting.is_err());
        drop(first);
        listener.accept().await;
    }

    #[tokio::test]
    async fn over_its_pace_a_listener_leaves_clients_in_the_queue() {
        let permits = Arc::new(Semaphore::new(100));
        let listener = Listener::new(bind(any()).unwrap(), permits).unwrap().paced(SharedPace::new(10));
        let _clients: Vec<_> = (0..20).map(|_| TcpStream::connect(listener.address()).unwrap()).collect();
        let began = Instant::now();
        for _ in 0..20 {
            listener.accept().await;
        }
        assert!(began.elapsed() >= Duration::from_millis(700), "eleven at once, nine more take 100 ms each");
    }

    #[tokio::test]
    async fn who_is_there_has_a_turn_while_many_come() {
        let permits = Arc::new(Semaphore::new(100));
        let listener = Listener::new(bind(any()).unwrap(), permits).unwrap();
        let _clients: Vec<_> = (0..32).map(|_| TcpStream::connect(listener.address()).unwrap()).collect();
        let mut there = bind_and_connect().await;
        let answered = async {
            there.1.write_all(b"?").await.unwrap();
            there.0.read_exact(&mut [0]).await.unwrap();
        };
        let mut came = 0;
        let coming = async {
            while came < 32 {
                listener.accept().await;
                came += 1;
            }
        };
        tokio::select! {
            biased;
            () = coming => panic!("all came first"),
            () = answered => {}
        }
        assert!(came <= 2 * IN_A_ROW, "{came} came before who was there had a turn");
    }

    async fn bind_and_connect() -> (tokio::net::TcpStream, tokio::net::TcpStream) {
        let listener = tokio::net::TcpListener::bind(any()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    #[tokio::test]
    async fn a_listener_that_waits_takes_no_permit_from_another() {
        let permits = Arc::new(Semaphore::new(1));
        let listeners = bind_shared(any(), 2).unwrap();
        let [first, second] = listeners.try_into().unwrap();
        let first = Listener::new(first, Arc::clone(&permits)).unwrap();
        let second = Listener::new(second, permits).unwrap();
        assert_eq!(first.address(), second.address());
        // Wherever the kernel puts them, both come through, one after the other.
        let _clients = [(); 2].map(|()| TcpStream::connect(first.address()).unwrap());
        for _ in 0..2 {
            tokio::select! {
                accepted = first.accept() => drop(accepted),
                accepted = second.accept() => drop(accepted),
            }
        }
    }

    #[test]
    fn sockets_are_shared_by_one_program_only() {
        let ours = bind_shared(any(), 2).unwrap();
        let address = ours[0].local_addr().unwrap();
        let error = bind_shared(address, 2).unwrap_err().to_string();
        assert_eq!(error, format!("cannot listen on {address}: another program listens there already"));
        assert!(bind(address).is_err());
        drop(ours);
        assert_eq!(bind_shared(address, 2).unwrap().len(), 2);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_table_of_files_has_room_from_the_start() {
        let limit = raise_open_files();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
        assert!(size.trim().parse::<u64>().unwrap() >= limit.min(FILES_AT_ONCE), "{size} of {limit}");
    }

    #[test]
    fn an_address_in_use_is_told_plainly() {
        let taken = bind(any()).unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind(address).unwrap_err().to_string();
        assert_eq!(error, format!("cannot listen on {address}: another program listens there already"));
    }

    #[test]
    fn ipv4_clients_of_an_ipv6_listener_appear_as_ipv4() {
        assert_eq!(canonical("[::ffff:192.0.2.1]:7".parse().unwrap()), "192.0.2.1:7".parse().unwrap());
        assert_eq!(canonical("[::1]:7".parse().unwrap()), "[::1]:7".parse().unwrap());
    }
}
