//! A client's connection that breaks when the client takes nothing of its answer for too long: it holds a server's.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

#[derive(Debug)]
pub(super) struct Patience<C> {
    stream: C,
    limit: Duration,
    /// Runs while the client takes nothing.
    timer: Option<Pin<Box<Sleep>>>,
    ended: Arc<AtomicBool>,
}

impl<C> Patience<C> {
    /// `ended`: it is no longer a connection of HTTP, and may be as slow as any session.
    pub(super) fn new(stream: C, limit: Duration, ended: Arc<AtomicBool>) -> Self {
        Self { stream, limit, timer: None, ended }
    }

    /// What becomes of an attempt to send.
    fn judge<T>(&mut self, context: &mut Context<'_>, sent: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if sent.is_ready() || self.ended.load(Relaxed) {
            self.timer = None;
            return sent;
        }
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        timer.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Patience<C> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Patience<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, sent)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.judge(context, sent)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = Pin::new(&mut self.stream).poll_flush(context);
        self.judge(context, sent)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = Pin::new(&mut self.stream).poll_shutdown(context);
        self.judge(context, sent)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::{Instant, sleep};

    use super::*;

    /// Far more than lies between two readings, also on a busy machine.
    const LIMIT: Duration = Duration::from_secs(2);

    #[tokio::test]
    async fn who_takes_nothing_is_cut_and_who_takes_little_is_not() {
        let (ours, mut client) = tokio::io::duplex(16);
        let mut stream = Patience::new(ours, LIMIT, Arc::default());
        let slow = tokio::spawn(async move {
            for _ in 0..30 {
                sleep(LIMIT / 20).await;
                client.read_exact(&mut [0; 16]).await.unwrap();
            }
            client
        });
        let since = Instant::now();
        let error = stream.write_all(&[0; 1000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(since.elapsed() >= LIMIT * 2);
        drop(slow.await.unwrap());
    }

    #[tokio::test]
    async fn what_is_no_longer_http_may_wait() {
        let (ours, _client) = tokio::io::duplex(16);
        let ended = Arc::new(AtomicBool::new(true));
        let mut stream = Patience::new(ours, LIMIT, ended);
        assert!(tokio::time::timeout(LIMIT * 2, stream.write_all(&[0; 1000])).await.is_err());
    }
}
