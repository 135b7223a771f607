//! One way of a session: from a reader to a writer.

use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use nsd_edge::stream::{Behind, SCRATCH, poll_pass_scratch};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

use super::Side;
use super::handle::Way;
use super::pipe::Pipe;
use crate::framing::{Boundary, Framing};

/// So many reads in a row of at least [`LARGE`] bytes are bulk: what follows goes from socket to socket in the kernel.
const LARGE_READS: u8 = 16;
const LARGE: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct Direction {
    /// What was read and the writer did not take; no allocation while empty.
    tail: Option<Box<Tail>>,
    pub(super) framing: Framing,
    unflushed: bool,
    reader: Reader,
    /// In a row, so far.
    large_reads: u8,
}

#[derive(Debug)]
enum Tail {
    Bytes {
        bytes: Vec<u8>,
        sent: usize,
    },
    /// In the kernel.
    Piped(Pipe),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    Open,
    /// Has broken behind what was read of it, which is still sent.
    Broken(io::ErrorKind),
    /// Has ended; the writer is told once all is sent.
    Ended,
    /// Has ended, and the writer was told.
    Told,
}

/// Which end of a direction broke, and how.
#[derive(Debug, Clone, Copy)]
pub(super) enum Broke {
    Reader(io::ErrorKind),
    Writer(io::ErrorKind),
}

impl Broke {
    pub(super) fn reader(error: io::Error) -> Self {
        Self::Reader(error.kind())
    }

    pub(super) fn writer(error: io::Error) -> Self {
        Self::Writer(error.kind())
    }
}

impl Direction {
    pub(super) fn new(framing: Framing) -> Self {
        Self { tail: None, framing, unflushed: false, reader: Reader::Open, large_reads: 0 }
    }

    pub(super) fn is_open(&self) -> bool {
        self.reader == Reader::Open
    }

    /// Whether the writer has not taken all that was read.
    pub(super) fn is_held_up(&self) -> bool {
        self.tail.is_some()
    }

    /// Moves what can be moved now; ready once the reader has ended and the writer was told. `other` is the other way: where
    /// it is over, both sockets are closed next, which tells a writer that expects no goodbye.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut impl Side,
        writer: &mut impl Side,
        moved: &Way,
        other: &Self,
    ) -> Poll<Result<(), Broke>> {
        ready!(self.poll_all(context, reader, writer, moved))?;
        let closed_next = other.reader == Reader::Told && writer.plain_socket().is_some();
        if self.reader == Reader::Ended && !closed_next {
            ready!(Pin::new(writer).poll_shutdown(context)).map_err(Broke::writer)?;
        }
        self.reader = Reader::Told;
        Poll::Ready(Ok(()))
    }

    /// [`Self::poll`] without telling the writer.
    pub(super) fn poll_all(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut impl Side,
        writer: &mut impl Side,
        moved: &Way,
    ) -> Poll<Result<(), Broke>> {
        loop {
            ready!(self.poll_send(context, writer)).map_err(Broke::writer)?;
            if let Some(over) = self.reader_is_over() {
                return Poll::Ready(over);
            }
            if self.is_bulk()
                && let (Some(from), Some(to)) = (reader.plain_socket(), writer.plain_socket())
                && let Some(pipe) = Pipe::borrow()
            {
                ready!(self.poll_pipe(context, pipe, from, to, moved))?;
            } else {
                ready!(self.poll_pass(context, reader, writer, moved, SCRATCH))?;
            }
        }
    }

    /// Finishes the packet that has begun and reads nothing behind it; ready once all is with the writer. Where packets
    /// are not followed, or the reader ends, this is not a boundary.
    pub(super) fn poll_settle(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut impl Side,
        writer: &mut impl Side,
        moved: &Way,
    ) -> Poll<Result<(), Broke>> {
        loop {
            ready!(self.poll_send(context, writer)).map_err(Broke::writer)?;
            let Boundary::After(left) = self.framing.boundary() else { return Poll::Ready(Ok(())) };
            if let Some(over) = self.reader_is_over() {
                return Poll::Ready(over);
            }
            ready!(self.poll_pass(context, reader, writer, moved, left))?;
        }
    }

    /// How it is over, if it is.
    fn reader_is_over(&self) -> Option<Result<(), Broke>> {
        match self.reader {
            Reader::Open => None,
            Reader::Broken(how) => Some(Err(Broke::Reader(how))),
            Reader::Ended | Reader::Told => Some(Ok(())),
        }
    }

    /// Whether something may be said to the writer now.
    pub(super) fn may_speak(&self) -> bool {
        self.framing.boundary() == Boundary::Here && self.tail.is_none()
    }

    /// Says something of our own, behind all that was read; only where it may speak.
    pub(super) fn say(&mut self, words: Vec<u8>) {
        debug_assert!(self.may_speak());
        self.framing.follow(&words);
        self.tail = Some(Box::new(Tail::Bytes { bytes: words, sent: 0 }));
    }

    /// Until nothing is kept here or in the writer.
    pub(super) fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        writer: &mut impl Side,
    ) -> Poll<io::Result<()>> {
        match self.tail.as_deref_mut() {
            None => {}
            Some(Tail::Bytes { bytes, sent }) => {
                while *sent < bytes.len() {
                    let taken = ready!(Pin::new(&mut *writer).poll_write(context, &bytes[*sent..]))?;
                    if taken == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    *sent += taken;
                    self.unflushed = true;
                }
            }
            Some(Tail::Piped(pipe)) => {
                // Only what has a socket was piped to.
                let socket = writer.plain_socket().ok_or(io::ErrorKind::NotConnected)?;
                ready!(pipe.poll_drain(context, socket))?;
            }
        }
        self.tail = None;
        if self.unflushed {
            ready!(Pin::new(writer).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether bytes come in bulk, and none of the next need be seen.
    fn is_bulk(&self) -> bool {
        self.large_reads >= LARGE_READS && self.framing.unseen() >= LARGE
    }

    /// One pipe's filling from socket to socket, copied nowhere.
    fn poll_pipe(
        &mut self,
        context: &mut Context<'_>,
        mut pipe: Pipe,
        from: &TcpStream,
        to: &TcpStream,
        moved: &Way,
    ) -> Poll<Result<(), Broke>> {
        let filled = ready!(pipe.poll_fill(context, from, self.framing.unseen()));
        let filled = filled.map_err(Broke::reader)?;
        if filled == 0 {
            self.reader = Reader::Ended;
            return Poll::Ready(Ok(()));
        }
        self.framing.skip(filled);
        self.count(filled, moved);
        let drained = pipe.poll_drain(context, to).map_err(Broke::writer)?;
        if drained.is_pending() {
            self.tail = Some(Box::new(Tail::Piped(pipe)));
        }
        Poll::Ready(Ok(()))
    }

    fn count(&mut self, bytes: usize, moved: &Way) {
        // Nobody else writes it.
        moved.bytes.store(moved.bytes.load(Relaxed) + bytes as u64, Relaxed);
        moved.messages.store(self.framing.publishes(), Relaxed);
        self.large_reads = if bytes < LARGE { 0 } else { self.large_reads.saturating_add(1) };
    }

    /// What is there, up to `most`, straight from the scratch buffer to the writer.
    fn poll_pass(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut impl Side,
        writer: &mut impl Side,
        moved: &Way,
        most: usize,
    ) -> Poll<Result<(), Broke>> {
        let pass = |context: &mut Context<'_>, bytes: &[u8]| self.pass_on(context, writer, bytes, moved);
        let passed = ready!(poll_pass_scratch(Pin::new(reader), context, most, pass));
        let (passed, behind) = passed.map_err(Broke::reader)?;
        match behind {
            Behind::Open => {}
            Behind::Ended => self.reader = Reader::Ended,
            Behind::Broken(how) => self.reader = Reader::Broken(how),
        }
        Poll::Ready(passed.map_err(Broke::writer))
    }

    /// Keeps what the writer does not take.
    fn pass_on<W: AsyncWrite + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        writer: &mut W,
        bytes: &[u8],
        moved: &Way,
    ) -> io::Result<()> {
        if bytes.is_empty() {
            self.reader = Reader::Ended;
            return Ok(());
        }
        self.framing.follow(bytes);
        self.count(bytes.len(), moved);
        let mut rest = bytes;
        while !rest.is_empty() {
            match Pin::new(&mut *writer).poll_write(context, rest) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(taken)) => rest = &rest[taken..],
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        self.tail = (!rest.is_empty()).then(|| Box::new(Tail::Bytes { bytes: rest.to_vec(), sent: 0 }));
        self.unflushed = true;
        Ok(())
    }
}
