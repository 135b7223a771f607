//! The server's end of a TLS connection, without buffers of its own: what comes is decrypted from a scratch buffer of the
//! thread into the reader's, what goes is encrypted into the scratch and written from there. Only what could not be passed
//! on is kept: the beginning of a record, plaintext that the reader had no room for, ciphertext that the socket did not
//! take. An idle connection keeps nothing but its keys; rustls' own buffered connection would keep 4 KiB.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use rustls::server::{ClientHello, ResolvesServerCert, ServerConnectionData, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus,
    WriteTraffic,
};
use rustls::{HandshakeKind, ProtocolVersion, ServerConfig};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::yield_now;

/// Several records (16 KiB each) with one system call; a handshake's longest message must fit, too.
const SCRATCH: usize = 64 * 1024;
/// Plaintext of one write: fits into the scratch when it is encrypted.
const LONGEST_WRITE: usize = 60 * 1024;

thread_local! {
    static CIPHERTEXT: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

pub struct TlsStream {
    socket: TcpStream,
    connection: UnbufferedServerConnection,
    /// Waits to be sent; `sent` of it is gone.
    outgoing: Vec<u8>,
    sent: usize,
    /// The beginning of a record.
    incoming: Vec<u8>,
    /// Decrypted, for the next read.
    plain: Vec<u8>,
    server_name: Option<Box<str>>,
    /// The client said goodbye: nothing more comes.
    ended: bool,
    /// We have.
    closed: bool,
}

impl TlsStream {
    /// The whole handshake. `config` is the listener's.
    pub(super) async fn accept(
        socket: TcpStream,
        config: &ServerConfig,
        turns: &Semaphore,
    ) -> io::Result<Self> {
        let asked = Arc::new(Asked { resolver: Arc::clone(&config.cert_resolver), name: OnceLock::new() });
        let mut config = config.clone();
        config.cert_resolver = Arc::clone(&asked) as Arc<dyn ResolvesServerCert>;
        let connection = UnbufferedServerConnection::new(Arc::new(config)).map_err(io::Error::other)?;
        let mut stream = Self {
            socket,
            connection,
            outgoing: Vec::new(),
            sent: 0,
            incoming: Vec::new(),
            plain: Vec::new(),
            server_name: None,
            ended: false,
            closed: false,
        };
        stream.shake_hands(turns).await?;
        stream.server_name = asked.name.get().cloned();
        Ok(stream)
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// The name the client asked for.
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// The version of TLS that is spoken, as people write it.
    pub fn version(&self) -> &'static str {
        match self.connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "1.3",
            _ => "1.2",
        }
    }

    /// The cipher suite, by its registered name.
    pub fn cipher_suite(&self) -> Option<String> {
        let ours = self.connection.negotiated_cipher_suite()?.suite().as_str()?;
        // The library marks those of TLS 1.3, the registry does not.
        Some(ours.replacen("TLS13_", "TLS_", 1))
    }

    /// The group that keys were exchanged in, by its registered name; none where a session of TLS 1.2 was resumed.
    pub fn group(&self) -> Option<&'static str> {
        self.connection.negotiated_key_exchange_group()?.name().as_str()
    }

    /// Whether the handshake resumed a session of before.
    pub fn is_resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The client's own certificate, which the handshake has verified.
    pub fn certificate(&self) -> Option<&CertificateDer<'static>> {
        self.connection.peer_certificates()?.first()
    }

    /// Bytes of buffers that it holds now.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.plain.capacity() + self.incoming.capacity() + self.outgoing.capacity()
    }

    /// Holds a turn while something is computed, until the other tasks of the thread have been looked at, and none while
    /// the client is waited for.
    async fn shake_hands(&mut self, turns: &Semaphore) -> io::Result<()> {
        loop {
            poll_fn(|context| self.poll_outgoing(context)).await?;
            if !self.connection.is_handshaking() {
                return Ok(());
            }
            if self.ended {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.socket.readable().await?;
            let _turn = turns.acquire().await.map_err(io::Error::other)?;
            // No room for plaintext: what follows the handshake at once is kept.
            poll_fn(|context| match self.poll_records(context, &mut ReadBuf::new(&mut [])) {
                Poll::Pending => Poll::Ready(Ok(())),
                read => read,
            })
            .await?;
            yield_now().await;
        }
    }

    /// Reads once and decrypts what came.
    fn poll_records(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let done = CIPHERTEXT.with_borrow_mut(|scratch| {
            let kept = self.incoming.len();
            let Some(room) = scratch.get_mut(kept..).filter(|room| !room.is_empty()) else {
                return Poll::Ready(Err(invalid("a TLS message too long")));
            };
            let mut read = ReadBuf::new(room);
            ready!(Pin::new(&mut self.socket).poll_read(context, &mut read))?;
            let length = kept + read.filled().len();
            if length == kept {
                // Without a goodbye: whoever sits between could have cut the stream.
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            scratch[..kept].copy_from_slice(&self.incoming);
            self.incoming = Vec::new();
            let used = self.process(&mut scratch[..length], buffer)?;
            if !self.ended && used < length {
                self.incoming = scratch[used..length].to_vec();
            }
            Poll::Ready(Ok(()))
        });
        if !self.outgoing.is_empty() {
            // An answer of the protocol's, or why we end: what is not taken now is flushed with the next write.
            let _ = self.poll_outgoing(context);
        }
        done
    }

    /// Decrypts into the buffer, and beyond its end into `plain`. Tells how many bytes of `records` are done with.
    fn process(&mut self, records: &mut [u8], buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.connection.process_tls_records(&mut records[used..]);
            let go_on = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(invalid)?;
                        discard += record.discard;
                        let (front, rest) =
                            record.payload.split_at(record.payload.len().min(buffer.remaining()));
                        buffer.put_slice(front);
                        self.plain.extend_from_slice(rest);
                    }
                    true
                }
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, &mut self.outgoing)?,
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    true
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.ended = true;
                    true
                }
                Ok(_) => false,
                Err(error) => {
                    self.encode_alert(&mut records[used + discard..]);
                    // A connection that has failed must not be asked again.
                    (self.ended, self.closed) = (true, true);
                    return Err(invalid(error));
                }
            };
            used += discard;
            if !go_on {
                return Ok(used);
            }
        }
    }

    /// After an error: the client is told why. The connection must see the same bytes as long as it has not let go of them.
    fn encode_alert(&mut self, records: &mut [u8]) {
        while self.connection.wants_write() {
            let state = self.connection.process_tls_records(records).state;
            let Ok(ConnectionState::EncodeTlsData(data)) = state else { return };
            if encode(data, &mut self.outgoing).is_err() {
                return;
            }
        }
    }

    fn poll_outgoing(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.outgoing.len() {
            let rest = &self.outgoing[self.sent..];
            let wrote = ready!(Pin::new(&mut self.socket).poll_write(context, rest))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += wrote;
        }
        self.sent = 0;
        self.outgoing = Vec::new();
        Poll::Ready(Ok(()))
    }

    /// Gives `write` the side that encrypts. What the protocol itself has to say goes first, into `outgoing`.
    fn writing<T>(
        &mut self,
        write: impl FnOnce(&mut WriteTraffic<'_, ServerConnectionData>) -> Result<T, EncryptError>,
    ) -> io::Result<T> {
        // The beginning of a record must be shown each time: the connection remembers places in it.
        let mut records = std::mem::take(&mut self.incoming);
        // It was looked at when it came, so there is no plaintext in it.
        let used = self.process(&mut records, &mut ReadBuf::new(&mut []));
        let wrote = used.and_then(|used| {
            records.drain(..used);
            match self.connection.process_tls_records(&mut records).state.map_err(invalid)? {
                ConnectionState::WriteTraffic(mut traffic) => write(&mut traffic).map_err(io::Error::other),
                _ => Err(io::ErrorKind::BrokenPipe.into()),
            }
        });
        self.incoming = records;
        wrote
    }

    /// Encrypts the slices and writes them with one call; the rest of the ciphertext is kept.
    fn poll_encrypted(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        CIPHERTEXT.with_borrow_mut(|scratch| {
            let (mut taken, mut length) = (0, 0);
            for slice in slices {
                let part = &slice[..slice.len().min(LONGEST_WRITE - taken)];
                if !part.is_empty() {
                    length += self.writing(|traffic| traffic.encrypt(part, &mut scratch[length..]))?;
                    taken += part.len();
                }
            }
            let written = if self.outgoing.is_empty() {
                // Encrypted is encrypted, so a socket that is full now gets these bytes later.
                match Pin::new(&mut self.socket).poll_write(context, &scratch[..length]) {
                    Poll::Ready(wrote) => wrote?,
                    Poll::Pending => 0,
                }
            } else {
                0
            };
            self.outgoing.extend_from_slice(&scratch[written..length]);
            Poll::Ready(Ok(taken))
        })
    }
}

/// Keys and plaintext stay out of it.
impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

fn encode(mut data: EncodeTlsData<'_, ServerConnectionData>, outgoing: &mut Vec<u8>) -> io::Result<bool> {
    let start = outgoing.len();
    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = data.encode(&mut [])
    {
        outgoing.resize(start + required_size, 0);
        data.encode(&mut outgoing[start..]).map_err(io::Error::other)?;
    }
    Ok(true)
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Remembers the name that a client asks for: an unbuffered connection does not tell it.
#[derive(Debug)]
struct Asked {
    resolver: Arc<dyn ResolvesServerCert>,
    name: OnceLock<Box<str>>,
}

impl ResolvesServerCert for Asked {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(name) = hello.server_name() {
            let _ = self.name.set(name.into());
        }
        self.resolver.resolve(hello)
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        if !stream.plain.is_empty() {
            let here = stream.plain.len().min(buffer.remaining());
            buffer.put_slice(&stream.plain[..here]);
            stream.plain.drain(..here);
            if stream.plain.is_empty() {
                stream.plain = Vec::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        while !stream.ended && buffer.filled().len() == before && buffer.remaining() > 0 {
            ready!(stream.poll_records(context, buffer))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    /// Takes bytes only when the socket has taken those before; so flush in the end.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        ready!(stream.poll_outgoing(context))?;
        if stream.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        stream.poll_encrypted(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_outgoing(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        if !std::mem::replace(&mut stream.closed, true) {
            let mut goodbye = [0; 64];
            let length = stream.writing(|traffic| traffic.queue_close_notify(&mut goodbye))?;
            stream.outgoing.extend_from_slice(&goodbye[..length]);
        }
        ready!(stream.poll_outgoing(context))?;
        Pin::new(&mut stream.socket).poll_shutdown(context)
    }
}
