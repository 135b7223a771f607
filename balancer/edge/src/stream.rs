//! A client's stream, plain, TLS or WebSocket over either, as one type, and reads that cost an idle connection no buffer: bytes land in one
//! scratch buffer of the thread and are looked at before the next task runs.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::tls::{self, TlsStream};
use crate::websocket::WebSocket;

/// What one read takes at most. One large read of a busy bulk connection, and a few hundred small packets.
pub const SCRATCH: usize = 64 * 1024;

thread_local! {
    static SCRATCH_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// All but `Plain` are boxed: most of a fleet's memory is idle streams, and a plain one should not pay for the larger ones.
#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
    WebSocket(Box<WebSocket>),
}

impl Stream {
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.socket(),
            Self::WebSocket(stream) => stream.get_ref().socket(),
        }
    }

    /// Whether bytes that were written may still be held here, until a flush.
    pub fn holds_back(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    pub fn is_tls(&self) -> bool {
        self.tls().is_some()
    }

    /// The name the client asked for in its handshake.
    pub fn server_name(&self) -> Option<&str> {
        self.tls()?.server_name()
    }

    /// Whom the client's certificate names, which its handshake has verified.
    pub fn certified(&self) -> Option<Box<str>> {
        tls::identity(self.tls()?)
    }

    fn tls(&self) -> Option<&TlsStream> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => Some(stream),
            Self::WebSocket(stream) => stream.get_ref().tls(),
        }
    }

    /// Says goodbye where the protocol has a word for it, as far as the socket takes it without waiting.
    pub fn farewell(&mut self, context: &mut Context<'_>) {
        if self.holds_back() {
            let _ = Pin::new(self).poll_shutdown(context);
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Self::Plain(socket)
    }
}

/// Waits for bytes and gives them to `look`, which must not read from another stream through this function. An empty
/// slice is the end of the stream. While it waits, it holds no buffer.
pub fn poll_read_scratch<S: AsyncRead, T>(
    stream: Pin<&mut S>,
    context: &mut Context<'_>,
    look: impl FnOnce(&[u8]) -> T,
) -> Poll<io::Result<T>> {
    SCRATCH_BUFFER.with_borrow_mut(|scratch| {
        let mut buffer = ReadBuf::new(scratch);
        ready!(stream.poll_read(context, &mut buffer))?;
        Poll::Ready(Ok(look(buffer.filled())))
    })
}

/// What is behind bytes that were read: seen while looking whether there are more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// Nothing that is known.
    Open,
    /// The stream's end.
    Ended,
    /// It is broken. A stream may tell so only once.
    Broken(io::ErrorKind),
}

/// [`poll_read_scratch`] for who passes the bytes on at once: `pass` gets the context back, to poll the writer with it.
/// Takes all that is there, up to `most` and [`SCRATCH`], since a TLS stream gives a few records a read, and each pass is a
/// write. No bytes are the stream's end.
pub fn poll_pass_scratch<S: AsyncRead, T>(
    mut stream: Pin<&mut S>,
    context: &mut Context<'_>,
    most: usize,
    pass: impl FnOnce(&mut Context<'_>, &[u8]) -> T,
) -> Poll<io::Result<(T, Behind)>> {
    SCRATCH_BUFFER.with_borrow_mut(|scratch| {
        let mut buffer = ReadBuf::new(&mut scratch[..most.min(SCRATCH)]);
        ready!(stream.as_mut().poll_read(context, &mut buffer))?;
        let (mut before, mut behind) = (0, Behind::Open);
        while buffer.filled().len() > before && buffer.remaining() > 0 {
            before = buffer.filled().len();
            behind = match stream.as_mut().poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if buffer.filled().len() == before => Behind::Ended,
                Poll::Ready(Err(error)) => Behind::Broken(error.kind()),
                Poll::Ready(Ok(())) | Poll::Pending => Behind::Open,
            };
        }
        Poll::Ready(Ok((pass(context, buffer.filled()), behind)))
    })
}

/// [`poll_read_scratch`] as a future. Cancel safe.
pub async fn read_scratch<S, T>(stream: &mut S, look: impl FnOnce(&[u8]) -> T) -> io::Result<T>
where
    S: AsyncRead + Unpin,
{
    let mut look = Some(look);
    std::future::poll_fn(|context| {
        poll_read_scratch(Pin::new(stream), context, |bytes| {
            let look = look.take().expect("a ready future is not polled again");
            look(bytes)
        })
    })
    .await
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::WebSocket(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::WebSocket(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::WebSocket(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::WebSocket(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
            Self::WebSocket(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            Self::WebSocket(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_reset_right_behind_bytes_is_told_with_them() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut stream = Stream::from(listener.accept().await.unwrap().0);
        client.write_all(b"last words").await.unwrap();
        rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
        drop(client);
        // Both are there before the first read.
        while !stream.socket().ready(Interest::READABLE).await.unwrap().is_read_closed() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (bytes, behind) = std::future::poll_fn(|context| {
            poll_pass_scratch(Pin::new(&mut stream), context, SCRATCH, |_, bytes| bytes.to_vec())
        })
        .await
        .unwrap();
        assert_eq!(bytes, b"last words");
        assert_eq!(behind, Behind::Broken(io::ErrorKind::ConnectionReset));
    }

    #[tokio::test]
    async fn the_end_is_seen_behind_the_last_bytes_and_not_where_more_could_be_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut stream = Stream::from(listener.accept().await.unwrap().0);
        client.write_all(b"last words").await.unwrap();
        drop(client);
        while !stream.socket().ready(Interest::READABLE).await.unwrap().is_read_closed() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for (most, expected) in
            [(5, (b"last ".to_vec(), Behind::Open)), (6, (b"words".to_vec(), Behind::Ended))]
        {
            let read = std::future::poll_fn(|context| {
                poll_pass_scratch(Pin::new(&mut stream), context, most, |_, bytes| bytes.to_vec())
            });
            assert_eq!(read.await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn reads_through_the_scratch_buffer_and_sees_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut stream = Stream::from(listener.accept().await.unwrap().0);
        client.write_all(b"hello").await.unwrap();
        assert_eq!(read_scratch(&mut stream, <[u8]>::to_vec).await.unwrap(), b"hello");
        stream.write_all(b"back").await.unwrap();
        let mut back = [0; 4];
        client.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"back");
        drop(client);
        assert!(read_scratch(&mut stream, <[u8]>::is_empty).await.unwrap());
    }
}
