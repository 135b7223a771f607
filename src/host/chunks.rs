//! Bytes between async streams and threads that read or write: a bounded queue with a blocking end.

use std::io::{Read, Write};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::sync::mpsc;

/// A full queue holds the sender back.
pub(crate) const QUEUE: usize = 16;

pub(crate) type Chunk = std::io::Result<Bytes>;
pub(crate) type Chunks = BoxStream<'static, Chunk>;

pub(crate) fn stream_of(receiver: mpsc::Receiver<Chunk>) -> Chunks {
    stream::unfold(
        receiver,
        |mut receiver| async move { receiver.recv().await.map(|chunk| (chunk, receiver)) },
    )
    .boxed()
}

/// The receiving end as a reader.
pub(crate) struct ChunkReader {
    chunks: mpsc::Receiver<Chunk>,
    rest: Bytes,
}

impl ChunkReader {
    pub(crate) fn new(chunks: mpsc::Receiver<Chunk>) -> Self {
        Self { chunks, rest: Bytes::new() }
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.rest.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.rest = chunk?,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.rest.len());
        buffer[..length].copy_from_slice(&self.rest.split_to(length));
        Ok(length)
    }
}

/// The sending end as a writer; each write is a chunk, so a buffer belongs in front of it.
pub(crate) struct ChunkWriter(pub(crate) mpsc::Sender<Chunk>);

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let chunk = Ok(Bytes::copy_from_slice(bytes));
        self.0.blocking_send(chunk).map_err(|_| std::io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs `produce` on a thread and gives what it writes as a stream; its error ends the stream.
pub(crate) fn produced(
    produce: impl FnOnce(&mut dyn Write) -> std::io::Result<()> + Send + 'static,
) -> Chunks {
    const CHUNK: usize = 64 << 10;
    let (sender, receiver) = mpsc::channel(QUEUE);
    // It ends by itself: when all is written, or when nobody reads any more.
    drop(tokio::task::spawn_blocking(move || {
        let mut writer = std::io::BufWriter::with_capacity(CHUNK, ChunkWriter(sender.clone()));
        let written = produce(&mut writer).and_then(|()| writer.flush());
        if let Err(error) = written {
            let _ = sender.blocking_send(Err(error));
        }
    }));
    stream_of(receiver)
}
