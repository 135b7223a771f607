//! One way of a session: from a reader to a writer.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use nsd_edge::stream::poll_pass_scratch;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use crate::framing::{Boundary, Framing};

#[derive(Debug)]
pub(super) struct Direction {
    /// What was read and the writer did not take; no allocation while empty.
    tail: Option<Box<Tail>>,
    pub(super) framing: Framing,
    unflushed: bool,
    reader: Reader,
}

#[derive(Debug)]
struct Tail {
    bytes: Vec<u8>,
    sent: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    Open,
    /// Has ended; the writer is told once all is sent.
    Ended,
    /// Has ended, and the writer was told.
    Told,
}

/// Which end of a direction broke.
#[derive(Debug, Clone, Copy)]
pub(super) enum Broke {
    Reader,
    Writer,
}

impl Direction {
    pub(super) fn new(framing: Framing) -> Self {
        Self { tail: None, framing, unflushed: false, reader: Reader::Open }
    }

    pub(super) fn is_open(&self) -> bool {
        self.reader == Reader::Open
    }

    /// Whether the writer has not taken all that was read.
    pub(super) fn is_held_up(&self) -> bool {
        self.tail.is_some()
    }

    /// Moves what can be moved now; ready once the reader has ended and the writer was told.
    pub(super) fn poll<R, W>(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        moved: &AtomicU64,
    ) -> Poll<Result<(), Broke>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        ready!(self.poll_all(context, reader, writer, moved))?;
        if self.reader == Reader::Ended {
            ready!(Pin::new(writer).poll_shutdown(context)).map_err(|_| Broke::Writer)?;
            self.reader = Reader::Told;
        }
        Poll::Ready(Ok(()))
    }

    /// [`Self::poll`] without telling the writer.
    pub(super) fn poll_all<R, W>(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        moved: &AtomicU64,
    ) -> Poll<Result<(), Broke>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            ready!(self.poll_send(context, writer)).map_err(|_| Broke::Writer)?;
            if self.reader != Reader::Open {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_pass(context, reader, writer, moved))?;
        }
    }

    /// Finishes the packet that has begun and reads nothing behind it; ready once all is with the writer. Where packets
    /// are not followed, or the reader ends, this is not a boundary.
    pub(super) fn poll_settle<R, W>(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        moved: &AtomicU64,
    ) -> Poll<Result<(), Broke>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            ready!(self.poll_send(context, writer)).map_err(|_| Broke::Writer)?;
            let Boundary::After(left) = self.framing.boundary() else { return Poll::Ready(Ok(())) };
            if self.reader != Reader::Open {
                return Poll::Ready(Ok(()));
            }
            let mut limited = (&mut *reader).take(left as u64);
            ready!(self.poll_pass(context, &mut limited, writer, moved))?;
        }
    }

    /// Whether something may be said to the writer now.
    pub(super) fn may_speak(&self) -> bool {
        self.framing.boundary() == Boundary::Here && self.tail.is_none()
    }

    /// Says something of our own, behind all that was read.
    pub(super) fn say(&mut self, words: Vec<u8>) {
        self.framing.follow(&words);
        let tail = self.tail.get_or_insert_with(|| Box::new(Tail { bytes: Vec::new(), sent: 0 }));
        tail.bytes.extend(words);
    }

    /// Until nothing is kept here or in the writer.
    pub(super) fn poll_send<W: AsyncWrite + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<io::Result<()>> {
        if let Some(tail) = &mut self.tail {
            while tail.sent < tail.bytes.len() {
                let taken = ready!(Pin::new(&mut *writer).poll_write(context, &tail.bytes[tail.sent..]))?;
                if taken == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                tail.sent += taken;
                self.unflushed = true;
            }
            self.tail = None;
        }
        if self.unflushed {
            ready!(Pin::new(writer).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// One read, straight from the scratch buffer to the writer.
    fn poll_pass<R, W>(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        moved: &AtomicU64,
    ) -> Poll<Result<(), Broke>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let pass = |context: &mut Context<'_>, bytes: &[u8]| self.pass_on(context, writer, bytes, moved);
        let passed = ready!(poll_pass_scratch(Pin::new(reader), context, pass));
        Poll::Ready(passed.map_err(|_| Broke::Reader)?.map_err(|_| Broke::Writer))
    }

    /// Keeps what the writer does not take.
    fn pass_on<W: AsyncWrite + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        writer: &mut W,
        bytes: &[u8],
        moved: &AtomicU64,
    ) -> io::Result<()> {
        if bytes.is_empty() {
            self.reader = Reader::Ended;
            return Ok(());
        }
        // Nobody else writes it.
        moved.store(moved.load(Relaxed) + bytes.len() as u64, Relaxed);
        self.framing.follow(bytes);
        let mut rest = bytes;
        while !rest.is_empty() {
            match Pin::new(&mut *writer).poll_write(context, rest) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(taken)) => rest = &rest[taken..],
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        self.tail = (!rest.is_empty()).then(|| Box::new(Tail { bytes: rest.to_vec(), sent: 0 }));
        self.unflushed = true;
        Ok(())
    }
}
