//! A WebSocket (RFC 6455, no extensions) as a stream of the bytes in its binary frames. Nothing is gathered: payload goes
//! to the reader as it comes, whatever the frames' borders are, and each write is a frame. Pings are answered and the
//! closing handshake is done here, while the stream is read.

mod frames;
mod upgrade;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tungstenite::protocol::frame::coding::CloseCode;

use crate::stream::Stream;
use frames::{Asked, BinaryHeader, Decoder};

pub use frames::Violation;
pub use upgrade::{UpgradeError, Upgraded, WebSocketSettings, upgrade};

/// The longest frame that we write: what the socket does not take of it is held here.
const LONGEST_WRITTEN: usize = 64 * 1024;

#[derive(Debug)]
pub struct WebSocket {
    stream: Stream,
    decoder: Decoder,
    /// Came together with the request, and was not looked at yet.
    early: Vec<u8>,
    /// The rest of a frame that the socket did not take; `sent` of it is gone.
    unsent: Vec<u8>,
    sent: usize,
    /// A pong or a close that must wait for its turn between frames. A newer pong replaces an older one, as the
    /// specification allows: who pings without listening costs one frame.
    answer: Vec<u8>,
    /// Nothing more is read.
    ended: bool,
    /// A close was written: nothing may follow it.
    closed: bool,
}

impl WebSocket {
    fn new(stream: Stream, early: Vec<u8>, longest_frame: u64) -> Self {
        Self {
            stream,
            decoder: Decoder::new(longest_frame),
            early,
            unsent: Vec::new(),
            sent: 0,
            answer: Vec::new(),
            ended: false,
            closed: false,
        }
    }

    /// What it runs over.
    pub fn get_ref(&self) -> &Stream {
        &self.stream
    }

    /// Reads frames into the buffer and leaves the payload there.
    fn poll_frames(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        let before = buffer.filled().len();
        if self.early.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        } else {
            let here = self.early.len().min(buffer.remaining());
            buffer.put_slice(&self.early[..here]);
            self.early.drain(..here);
        }
        self.ended = buffer.filled().len() == before;
        let Self { decoder, answer, ended, closed, .. } = self;
        let decoded = decoder.decode(&mut buffer.filled_mut()[before..], |asked| match asked {
            Asked::Ping(payload) if !*closed => *answer = frames::pong(&payload),
            Asked::Ping(_) => {}
            Asked::Close(code) => {
                *ended = true;
                if !std::mem::replace(closed, true) {
                    *answer = frames::close(code);
                }
            }
        });
        let kept = *decoded.as_ref().unwrap_or(&0);
        buffer.set_filled(before + kept);
        if let Err(violation) = &decoded {
            self.ended = true;
            self.say_close(violation.code());
        }
        if !self.answer.is_empty() {
            // What cannot be written now is written when the socket has room and the connection is looked at again.
            let _ = Pin::new(&mut *self).poll_flush(context);
        }
        Poll::Ready(decoded.map_err(|violation| io::Error::new(io::ErrorKind::InvalidData, violation)))
    }

    fn say_close(&mut self, code: CloseCode) {
        if !std::mem::replace(&mut self.closed, true) {
            self.answer = frames::close(Some(code));
        }
    }

    /// Writes what waits here.
    fn poll_unsent(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while self.sent < self.unsent.len() {
                let rest = &self.unsent[self.sent..];
                let wrote = ready!(Pin::new(&mut self.stream).poll_write(context, rest))?;
                if wrote == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.sent += wrote;
            }
            self.sent = 0;
            self.unsent = std::mem::take(&mut self.answer);
            if self.unsent.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncRead for WebSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        while !socket.ended && buffer.remaining() > 0 {
            // Frames without payload are no end of the stream. That a peer sends nothing else does not keep others
            // waiting: the runtime lets a task read only so often in one go.
            if ready!(socket.poll_frames(context, buffer))? > 0 {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WebSocket {
    /// Takes bytes as soon as the socket takes any of their frame; the rest of it is held, so flush in the end.
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let socket = self.get_mut();
        ready!(socket.poll_unsent(context))?;
        if socket.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let bytes = &bytes[..bytes.len().min(LONGEST_WRITTEN)];
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let header = BinaryHeader::of(bytes.len());
        let header = header.as_bytes();
        let slices = [IoSlice::new(header), IoSlice::new(bytes)];
        let wrote = ready!(Pin::new(&mut socket.stream).poll_write_vectored(context, &slices))?;
        if wrote < header.len() {
            socket.unsent.extend_from_slice(&header[wrote..]);
        }
        socket.unsent.extend_from_slice(&bytes[wrote.saturating_sub(header.len())..]);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        ready!(socket.poll_unsent(context))?;
        Pin::new(&mut socket.stream).poll_flush(context)
    }

    /// Says goodbye; does not wait for the answer.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        socket.say_close(CloseCode::Normal);
        ready!(socket.poll_unsent(context))?;
        Pin::new(&mut socket.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
