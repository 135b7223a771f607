//! Copies both ways between a client and its server. While nothing moves, a session holds no buffer: bytes are read into
//! the thread's scratch buffer and written on at once; only what the other side does not take is kept, and until that is
//! gone nothing more is read. So a slow reader costs one read's worth of memory and slows its sender.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nsd_edge::stream::poll_pass_scratch;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep};

use crate::gate::Refusal;

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The client ended it.
    Client,
    /// The server ended it.
    Server,
    /// The client's connection broke.
    ClientBroke,
    /// The server's connection broke.
    ServerBroke,
    /// One side had ended, the other neither sent nor ended for too long.
    HalfClosed,
    /// The client sent nothing for longer than its keep alive allows.
    Silent,
    /// The server was marked down.
    ServerDown,
    /// The balancer stops.
    Stopping,
    /// No server took the client.
    NoServer,
    /// This process or machine ran out of files, ports or memory.
    OurLimit,
    /// The TLS handshake failed.
    Handshake,
    /// The TLS handshake took too long.
    HandshakeTimeout,
    /// The frontend has as many connections as it may.
    ListenerFull,
    /// The client's source has as many connections as it may.
    SourceFull,
    /// It has as many that came to no server yet as it may.
    SourcePending,
    /// The source may not come.
    SourceDenied,
    /// PROXY headers are not taken from there.
    UnknownProxy,
    /// The connection did not begin with a PROXY header.
    NoHeader,
    /// The CONNECT gate did not let the client in.
    Refused(Refusal),
}

impl End {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::ClientBroke => "client-broke",
            Self::ServerBroke => "server-broke",
            Self::HalfClosed => "half-closed",
            Self::Silent => "client-silent",
            Self::ServerDown => "server-down",
            Self::Stopping => "stopping",
            Self::NoServer => "no-server",
            Self::OurLimit => "our-limit",
            Self::Handshake => "handshake",
            Self::HandshakeTimeout => "handshake-timeout",
            Self::ListenerFull => "listener-full",
            Self::SourceFull => "source-full",
            Self::SourcePending => "source-pending",
            Self::SourceDenied => "source-denied",
            Self::UnknownProxy => "unknown-proxy",
            Self::NoHeader => "no-proxy-header",
            Self::Refused(refusal) => refusal.as_str(),
        }
    }
}

/// Bytes moved so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moved {
    /// Client to server.
    pub(crate) up: u64,
    /// Server to client.
    pub(crate) down: u64,
}

/// Copies until both sides have ended, one broke, the client is silent for longer than `patience` allows, or one side has
/// ended and the other is silent. `moved` is current at any time, also when this is dropped.
pub(crate) async fn relay<C, S>(client: &mut C, server: &mut S, moved: &mut Moved, patience: Patience) -> End
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Direction::default(), Direction::default());
    let mut first_to_end = None;
    let Patience { client: longest, half_closed } = patience;
    // The client's while both sides are there, then that of both.
    let mut silence = longest.map(Silence::boxed);
    poll_fn(|context| {
        let before = *moved;
        let upward = up.poll(context, client, server, &mut moved.up);
        let downward = down.poll(context, server, client, &mut moved.down);
        match (upward, downward) {
            (Poll::Ready(Err(broke)), _) => {
                return Poll::Ready(broke.end(End::ClientBroke, End::ServerBroke));
            }
            (_, Poll::Ready(Err(broke))) => {
                return Poll::Ready(broke.end(End::ServerBroke, End::ClientBroke));
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => {
                return Poll::Ready(first_to_end.unwrap_or(End::Client));
            }
            (Poll::Pending, Poll::Pending) => {
                // A client that is not read because its server is slow is not silent.
                let heard = moved.up != before.up || !up.tail.is_empty();
                let Some(silence) = &mut silence else { return Poll::Pending };
                return silence.poll(context, heard).map(|()| End::Silent);
            }
            (upward, _) if first_to_end.is_none() => {
                first_to_end = Some(if upward.is_ready() { End::Client } else { End::Server });
                silence = Some(Silence::boxed(half_closed));
            }
            _ => {}
        }
        let Some(silence) = &mut silence else { return Poll::Pending };
        silence.poll(context, *moved != before).map(|()| End::HalfClosed)
    })
    .await
}

/// How long who may be silent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// The client, while both sides are there; `None`: for ever.
    pub(crate) client: Option<Duration>,
    /// Both, once one has ended.
    pub(crate) half_closed: Duration,
}

/// A time without a sound. The timer is not touched at each sound, but set anew when it has run out too early.
/// Boxed, for most of a fleet's memory is idle sessions, and not all have one.
#[derive(Debug)]
struct Silence {
    limit: Duration,
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Silence {
    fn boxed(limit: Duration) -> Box<Self> {
        Box::new(Self { limit, since: Instant::now(), timer: Box::pin(sleep(limit)) })
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

/// One way: from a reader to a writer.
#[derive(Debug, Default)]
struct Direction {
    /// What was read and the writer did not take; no allocation while empty.
    tail: Vec<u8>,
    sent: usize,
    unflushed: bool,
    reader: Reader,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Reader {
    #[default]
    Open,
    /// Has ended; the writer is told once all is sent.
    Ended,
    /// Has ended, and the writer was told.
    Told,
}

/// Which end of a direction broke.
#[derive(Debug, Clone, Copy)]
enum Broke {
    Reader,
    Writer,
}

impl Broke {
    fn end(self, reader: End, writer: End) -> End {
        match self {
            Self::Reader => reader,
            Self::Writer => writer,
        }
    }
}

impl Direction {
    /// Moves what can be moved now; ready once the reader has ended and the writer was told.
    fn poll<R, W>(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        moved: &mut u64,
    ) -> Poll<Result<(), Broke>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            ready!(self.poll_send(context, writer)).map_err(|_| Broke::Writer)?;
            match self.reader {
                Reader::Open => {}
                Reader::Ended => {
                    ready!(Pin::new(&mut *writer).poll_shutdown(context)).map_err(|_| Broke::Writer)?;
                    self.reader = Reader::Told;
                    return Poll::Ready(Ok(()));
                }
                Reader::Told => return Poll::Ready(Ok(())),
            }
            let pass = |context: &mut Context<'_>, bytes: &[u8]| self.pass_on(context, writer, bytes, moved);
            ready!(poll_pass_scratch(Pin::new(&mut *reader), context, pass))
                .map_err(|_| Broke::Reader)?
                .map_err(|_| Broke::Writer)?;
        }
    }

    /// Until nothing is kept here or in the writer.
    fn poll_send<W: AsyncWrite + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<io::Result<()>> {
        while self.sent < self.tail.len() {
            let taken = ready!(Pin::new(&mut *writer).poll_write(context, &self.tail[self.sent..]))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += taken;
            self.unflushed = true;
        }
        if !self.tail.is_empty() {
            (self.tail, self.sent) = (Vec::new(), 0);
        }
        if self.unflushed {
            ready!(Pin::new(writer).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Straight from the scratch buffer to the writer; keeps what it does not take.
    fn pass_on<W: AsyncWrite + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        writer: &mut W,
        bytes: &[u8],
        moved: &mut u64,
    ) -> io::Result<()> {
        if bytes.is_empty() {
            self.reader = Reader::Ended;
            return Ok(());
        }
        *moved += bytes.len() as u64;
        let mut rest = bytes;
        while !rest.is_empty() {
            match Pin::new(&mut *writer).poll_write(context, rest) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(taken)) => rest = &rest[taken..],
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        self.tail = rest.to_vec();
        self.unflushed = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
