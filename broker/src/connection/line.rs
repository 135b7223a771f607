//! A client's stream. A plain one is a socket of the executor's, shared with its outbox, where others write to it while
//! the connection rests.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nsd_edge::stream::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::executor::{News, Socket};
use crate::hub::Writer;

pub enum Line {
    Plain(Socket),
    Other(Box<Stream>),
}

impl Line {
    /// For others, while the connection rests.
    pub(super) fn writer(&self) -> Option<Writer> {
        match self {
            Self::Plain(socket) => Some(socket.share().into()),
            Self::Other(_) => None,
        }
    }

    pub(super) fn hear(&mut self, news: News) -> bool {
        match self {
            Self::Plain(socket) => socket.hear(news),
            Self::Other(_) => false,
        }
    }

    /// Whether bytes that were written may still be held here, until a flush.
    pub(super) fn holds_back(&self) -> bool {
        matches!(self, Self::Other(stream) if stream.holds_back())
    }

    pub(super) fn farewell(&mut self, context: &mut Context<'_>) {
        if let Self::Other(stream) = self {
            stream.farewell(context);
        }
    }

    pub(super) fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => socket.poll_write(bytes),
            Self::Other(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Other(stream) => Pin::new(stream).poll_flush(context),
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => {
                let read = ready!(socket.poll_read(buffer.initialize_unfilled()))?;
                buffer.advance(read);
                Poll::Ready(Ok(()))
            }
            Self::Other(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}
