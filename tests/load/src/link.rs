//! One MQTT connection as bytes: queued output written in big pieces, input split into packets without a copy.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nsd_wire::{EncodeError, Packet, ReadError, ReasonCode, Version};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::frames::MAX_PACKET;
use crate::target::Stream;

/// What one read may bring; every connection of a thread reads into the same buffer.
pub const SCRATCH: usize = 256 * 1024;

#[derive(Debug, Error)]
pub enum LinkError {
    #[error("the server closed the connection")]
    Closed,
    #[error("the server closed the connection: {}", .0.text())]
    Dismissed(ReasonCode),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the server sent what is no MQTT: {0}")]
    Read(#[from] ReadError),
    #[error("a packet cannot be written: {0}")]
    Encode(#[from] EncodeError),
    #[error("the server refused the connection: {}", .0.text())]
    NotAccepted(ReasonCode),
    #[error("the server refused the subscription: {}", .0.text())]
    NotSubscribed(ReasonCode),
    #[error("the server refused a message: {}", .0.text())]
    NotPublished(ReasonCode),
    #[error("the server sent something else than {0}")]
    Unexpected(&'static str),
}

/// A connection and what is still to be written to it.
#[derive(Debug)]
pub struct Link {
    stream: Stream,
    version: Version,
    /// The beginning of a packet whose rest has not arrived.
    tail: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    unflushed: bool,
    /// An answer is awaited: what comes behind it is not looked at yet.
    asking: bool,
    /// There may be whole packets in `tail`.
    unread: bool,
}

impl Link {
    #[must_use]
    pub fn new(stream: Stream, version: Version) -> Self {
        Self {
            stream,
            version,
            tail: Vec::new(),
            out: Vec::new(),
            written: 0,
            unflushed: false,
            asking: false,
            unread: false,
        }
    }

    /// The queue of output, to append to. Its bound is the caller's: a batch or the packets in flight.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Bytes queued and not yet written. What a TLS stream took and holds back counts as one more: it would never go out
    /// if nobody wrote again.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.out.len() - self.written + usize::from(self.unflushed)
    }

    /// Writes what is queued; ready when nothing is left.
    pub fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        while self.written < self.out.len() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(LinkError::Closed));
            }
            self.written += count;
        }
        self.out.clear();
        self.written = 0;
        self.unflushed = true;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// Reads once and hands every whole packet to `on_packet`, which may queue output. A DISCONNECT is an error.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        mut on_packet: impl FnMut(Packet<'_>, &mut Vec<u8>) -> Result<(), LinkError>,
    ) -> Poll<Result<(), LinkError>> {
        if std::mem::take(&mut self.unread) {
            let bytes = std::mem::take(&mut self.tail);
            let used = self.split(&bytes, &mut on_packet)?;
            self.tail.extend_from_slice(&bytes[used..]);
            return Poll::Ready(Ok(()));
        }
        let kept = self.tail.len();
        scratch[..kept].copy_from_slice(&self.tail);
        let mut buffer = ReadBuf::new(&mut scratch[kept..]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        let count = buffer.filled().len();
        if count == 0 {
            return Poll::Ready(Err(LinkError::Closed));
        }
        let bytes = &scratch[..kept + count];
        let used = self.split(bytes, &mut on_packet)?;
        self.tail.clear();
        self.tail.extend_from_slice(&bytes[used..]);
        Poll::Ready(Ok(()))
    }

    /// Hands out whole packets, or one while an answer is awaited; returns how many bytes that were.
    fn split(
        &mut self,
        bytes: &[u8],
        on_packet: &mut impl FnMut(Packet<'_>, &mut Vec<u8>) -> Result<(), LinkError>,
    ) -> Result<usize, LinkError> {
        let mut at = 0;
        while let Some((packet, length)) = nsd_wire::read(self.version, &bytes[at..], MAX_PACKET)? {
            at += length;
            if let Packet::Disconnect(farewell) = &packet {
                return Err(LinkError::Dismissed(farewell.reason));
            }
            on_packet(packet, &mut self.out)?;
            if self.asking {
                self.unread = true;
                break;
            }
        }
        Ok(at)
    }

    /// Writes what is queued and waits for the first answer that `wanted` takes.
    pub async fn ask<T>(
        &mut self,
        scratch: &RefCell<Vec<u8>>,
        wanted: impl Fn(&Packet<'_>) -> Option<Result<T, LinkError>>,
    ) -> Result<T, LinkError> {
        poll_fn(|cx| self.poll_write(cx)).await?;
        self.asking = true;
        let mut answer = None;
        while answer.is_none() {
            let look = poll_fn(|cx| {
                self.poll_read(cx, &mut scratch.borrow_mut(), |packet, _| {
                    answer = answer.take().or_else(|| wanted(&packet));
                    Ok(())
                })
            });
            look.await?;
        }
        self.asking = false;
        answer.unwrap_or(Err(LinkError::Closed))
    }

    /// Writes what is queued, then closes.
    pub async fn finish(mut self) -> Result<(), LinkError> {
        poll_fn(|cx| self.poll_write(cx)).await?;
        Ok(tokio::io::AsyncWriteExt::shutdown(&mut self.stream).await?)
    }
}
