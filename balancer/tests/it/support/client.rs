//! A client: CONNECT, the name of the broker it came to, then raw bytes that are echoed.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use nsd_wire::{ConnAck, Connect, Packet, ReasonCode, Version};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::PATIENCE;
use super::broker::MAX_PACKET;

pub(crate) struct Client<S = TcpStream> {
    pub(crate) stream: S,
    /// The broker it came to.
    pub(crate) broker: String,
}

/// An identifier of its own for each client that is not asked for one.
fn another() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("client-{}", COUNT.fetch_add(1, Relaxed))
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::named(address, &another()).await
    }

    pub(crate) async fn named(address: SocketAddr, id: &str) -> io::Result<Self> {
        Self::over_as(TcpStream::connect(address).await?, id).await
    }

    /// Comes back until it is let in, as devices do.
    pub(crate) async fn persist(address: SocketAddr) -> Self {
        let begun = std::time::Instant::now();
        loop {
            match Self::connect(address).await {
                Ok(client) => return client,
                Err(error) => assert!(begun.elapsed() < PATIENCE, "never let in: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// This many, one after the other.
    pub(crate) async fn many(address: SocketAddr, count: usize) -> Vec<Self> {
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            clients.push(Self::connect(address).await.expect("a client is let in"));
        }
        clients
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) async fn over(stream: S) -> io::Result<Self> {
        Self::over_as(stream, &another()).await
    }

    pub(crate) async fn over_as(stream: S, id: &str) -> io::Result<Self> {
        Self::over_told(stream, &Connect::new(Version::V311, id)).await
    }

    /// Of version 3.1.1.
    pub(crate) async fn over_told(mut stream: S, told: &Connect<'_>) -> io::Result<Self> {
        let connect = async {
            let mut bytes = Vec::new();
            told.encode(Version::V311, &mut bytes).map_err(io::Error::other)?;
            stream.write_all(&bytes).await?;
            stream.flush().await?;
            let mut received = Vec::new();
            let mut accepted = 0;
            loop {
                let packet = nsd_wire::read(Version::V311, &received[accepted..], MAX_PACKET);
                match packet.map_err(io::Error::other)? {
                    Some((Packet::ConnAck(ConnAck { reason: ReasonCode::Success, .. }), length)) => {
                        accepted = length;
                        continue;
                    }
                    Some((Packet::Publish(publish), _)) if accepted > 0 => {
                        return Ok(publish.topic.to_owned());
                    }
                    Some((other, _)) => return Err(io::Error::other(format!("{other:?}"))),
                    None => {}
                }
                if stream.read_buf(&mut received).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        };
        let broker = tokio::time::timeout(PATIENCE, connect).await.map_err(|_| io::ErrorKind::TimedOut)??;
        Ok(Self { stream, broker })
    }

    /// Sends `bytes` and gets them back.
    pub(crate) async fn echo(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await?;
        let mut back = vec![0; bytes.len()];
        self.stream.read_exact(&mut back).await?;
        if back == bytes { Ok(()) } else { Err(io::Error::other("other bytes came back")) }
    }

    /// Writes packets of two bytes until no more of them are taken; how many bytes were. That others are served meanwhile
    /// tells a stream that is full from a machine that is busy.
    pub(crate) async fn fill(&mut self, others: &mut [Client]) -> usize {
        let chunk = [0xc0, 0].repeat(32 * 1024);
        let (mut sent, mut in_vain) = (0, 0);
        while in_vain < 10 {
            let taking = self.stream.write(&chunk[sent % 2..]);
            if let Ok(taken) = tokio::time::timeout(Duration::from_millis(100), taking).await {
                (sent, in_vain) = (sent + taken.unwrap(), 0);
                continue;
            }
            for other in &mut *others {
                other.echo(b"\xc0\0").await.unwrap();
            }
            in_vain += 1;
        }
        sent
    }

    /// Waits until the connection is ended from the other side.
    pub(crate) async fn ended(&mut self) {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await;
        assert!(read.is_ok(), "the session was not ended");
    }
}
