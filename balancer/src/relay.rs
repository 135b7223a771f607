//! Copies both ways between a client and its server. While nothing moves, a session holds no buffer: bytes are read into
//! the thread's scratch buffer and written on at once; only what the other side does not take is kept, and until that is
//! gone nothing more is read. So a slow reader costs one read's worth of memory and slows its sender.

use std::io::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use nsd_edge::tls::TlsStream;
use nsd_wire::Version;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use crate::framing::Framing;
use crate::limits;

mod direction;
mod end;
mod handle;
mod leave;
mod pipe;

use direction::{Broke, Direction};
use handle::Word;
use leave::{Leave, Sides};

pub(crate) use end::{End, Order};
pub(crate) use handle::{Handle, Moved, Passing};

/// Tests do not wait for a minute.
const HALF_CLOSED_IDLE: Duration =
    if cfg!(test) { Duration::from_millis(200) } else { limits::HALF_CLOSED_IDLE };

/// A client's or a server's connection.
pub(crate) trait Side: AsyncRead + AsyncWrite + Unpin {
    /// Its socket, where the bytes on it are those that are relayed: not where TLS is between the two.
    fn plain_socket(&self) -> Option<&TcpStream> {
        None
    }
}

impl Side for TcpStream {
    fn plain_socket(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl Side for TlsStream {}

impl Side for TokioIo<Upgraded> {}

/// A client and its server. What is rare is boxed: most of a fleet's memory is idle sessions.
#[derive(Debug)]
pub(crate) struct Relay<C, S> {
    client: C,
    server: S,
    up: Direction,
    down: Direction,
    /// `None`: bytes that are not MQTT's.
    version: Option<Version>,
    /// The server has refused the client: it closes, and the client has only to read why.
    refused: bool,
    first_to_end: Option<End>,
    half_closed: Option<Box<Silence>>,
    leave: Option<Box<Leave>>,
}

impl<C, S> Relay<C, S>
where
    C: Side,
    S: Side,
{
    /// Of MQTT where there is a version. `up` and `down` have followed what was passed on already.
    pub(crate) fn new(client: C, server: S, version: Option<Version>, up: Framing, down: Framing) -> Self {
        let (up, down) = (Direction::new(up), Direction::new(down));
        Self {
            client,
            server,
            up,
            down,
            version,
            refused: false,
            first_to_end: None,
            half_closed: None,
            leave: None,
        }
    }

    /// Of a client that its server did not let in.
    pub(crate) fn expects_end(&mut self) {
        self.refused = true;
    }

    /// Copies until both sides have ended, one broke, the session is told to end, or one side has ended and the other is
    /// silent. The counts in the handle are current at any time, also when this is dropped.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>, handle: &Handle) -> Poll<End> {
        match handle.word() {
            Word::Nothing => {}
            Word::ProveLife => return self.poll_last_time(context, handle),
            Word::End(order) => return self.poll_leave(context, handle, order),
        }
        self.poll_both(context, handle)
    }

    /// Whether the client is silent indeed. One that is not read because its server is slow is not; half a session has its
    /// own patience.
    fn poll_last_time(&mut self, context: &mut Context<'_>, handle: &Handle) -> Poll<End> {
        let before = handle.moved();
        let both = self.poll_both(context, handle);
        let silent = handle.moved().up == before.up && !self.up.is_held_up() && self.first_to_end.is_none();
        if both.is_pending() && silent {
            return Poll::Ready(End::Silent);
        }
        handle.excuse();
        both
    }

    fn poll_both(&mut self, context: &mut Context<'_>, handle: &Handle) -> Poll<End> {
        let before = self.half_closed.as_ref().map(|_| handle.moved());
        let Self { client, server, up, down, .. } = self;
        let upward = up.poll(context, client, server, &handle.up, down);
        let downward = down.poll(context, server, client, &handle.down, up);
        match (upward, downward) {
            (Poll::Ready(Err(broke)), _) => {
                return Poll::Ready(self.ended(broke.end(End::client_broke, End::server_broke)));
            }
            (_, Poll::Ready(Err(broke))) => {
                return Poll::Ready(self.ended(broke.end(End::server_broke, End::client_broke)));
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => {
                return Poll::Ready(self.first_to_end.unwrap_or_else(|| self.ended(End::Client)));
            }
            (Poll::Pending, Poll::Pending) => return Poll::Pending,
            (upward, _) if self.first_to_end.is_none() => {
                let end = if upward.is_ready() { End::Client } else { End::Server };
                self.first_to_end = Some(self.ended(end));
            }
            _ => {}
        }
        let farewell = self.refused && self.first_to_end == Some(End::Server);
        let patience = if farewell { limits::FAREWELL } else { HALF_CLOSED_IDLE };
        let silence = self.half_closed.get_or_insert_with(|| Box::new(Silence::new(patience)));
        // Whoever was refused does not prolong it.
        let heard = !farewell && before != Some(handle.moved());
        silence.poll(context, heard).map(|()| if farewell { End::Server } else { End::HalfClosed })
    }

    /// Sends what is held, and reads nothing. Ready when nothing is held any more, or (false) one side has broken.
    pub(crate) fn poll_emptied(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        let Self { client, server, up, down, .. } = self;
        let (upward, downward) = (up.poll_send(context, server), down.poll_send(context, client));
        match (upward, downward) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(false),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(true),
            _ => Poll::Pending,
        }
    }

    pub(crate) fn sides(&self) -> (&C, &S) {
        (&self.client, &self.server)
    }

    pub(crate) fn framings(&self) -> (Framing, Framing) {
        (self.up.framing, self.down.framing)
    }

    fn poll_leave(&mut self, context: &mut Context<'_>, handle: &Handle, order: Order) -> Poll<End> {
        let alone = order.goodbye().is_none()
            || self.version.is_none()
            || self.refused
            || self.first_to_end.is_some();
        if alone {
            return Poll::Ready(End::Told(order));
        }
        let Self { client, server, up, down, version, leave, .. } = self;
        let leave = leave.get_or_insert_with(|| Box::new(Leave::new(order)));
        leave.poll(context, &mut Sides { client, server, up, down, handle }, *version)
    }

    /// For a session that was told to leave: whether its server was told so.
    pub(crate) fn left_cleanly(&self) -> Option<bool> {
        self.leave.as_ref().map(|leave| leave.is_clean())
    }

    /// Whether its server was told DISCONNECT in its client's name.
    pub(crate) fn has_spoken(&self) -> bool {
        self.leave.as_ref().is_some_and(|leave| leave.has_spoken())
    }

    /// Messages that went up and down, where they can be seen.
    pub(crate) fn messages(&self) -> Option<(u32, u32)> {
        self.version.map(|_| (self.up.framing.publishes(), self.down.framing.publishes()))
    }

    /// Whoever closes first after a DISCONNECT, it ended as it was said.
    fn ended(&self, closed: End) -> End {
        if self.up.framing.said_goodbye() {
            End::ClientGoodbye
        } else if self.down.framing.said_goodbye() {
            End::ServerGoodbye
        } else {
            closed
        }
    }
}

impl Broke {
    fn end(self, reader: fn(ErrorKind) -> End, writer: fn(ErrorKind) -> End) -> End {
        match self {
            Self::Reader(how) => reader(how),
            Self::Writer(how) => writer(how),
        }
    }
}

/// A time without a sound. The timer is not touched at each sound, but set anew when it has run out too early.
#[derive(Debug)]
struct Silence {
    limit: Duration,
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Silence {
    fn new(limit: Duration) -> Self {
        Self { limit, since: Instant::now(), timer: Box::pin(sleep(limit)) }
    }

    /// Ready when it has lasted for too long.
    fn poll(&mut self, context: &mut Context<'_>, heard: bool) -> Poll<()> {
        if heard {
            self.since = Instant::now();
        }
        loop {
            ready!(self.timer.as_mut().poll(context));
            let due = self.since + self.limit;
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(due);
        }
    }
}

#[cfg(test)]
mod tests;
