//! A client's stream. A plain one is shared with its outbox, where others write to it while the connection rests.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nsd_edge::stream::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::tcp::OwnedReadHalf;

use crate::hub::Writer;

pub(super) enum Line {
    /// Read from as a half, for that is how the runtime reads without asking twice; written to as a whole.
    Plain(OwnedReadHalf),
    Other(Box<Stream>),
}

impl Line {
    pub(super) fn new(stream: Stream) -> (Self, Option<Writer>) {
        match stream {
            Stream::Plain(socket) => {
                let (reader, writer) = socket.into_split();
                (Self::Plain(reader), Some(writer.into()))
            }
            other => (Self::Other(Box::new(other)), None),
        }
    }

    /// Whether bytes that were written may still be held here, until a flush.
    pub(super) fn holds_back(&self) -> bool {
        matches!(self, Self::Other(stream) if stream.holds_back())
    }

    pub(super) async fn farewell(&mut self) {
        if let Self::Other(stream) = self {
            stream.farewell().await;
        }
    }

    pub(super) fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(half) => loop {
                let socket = half.as_ref();
                ready!(socket.poll_write_ready(context))?;
                match socket.try_write(bytes) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    written => return Poll::Ready(written),
                }
            },
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
            Self::Plain(half) => Pin::new(half).poll_read(context, buffer),
            Self::Other(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}
