//! Pipes in the kernel: bytes go from one socket to another through them and are copied nowhere (splice). It pays for
//! bulk alone: a pipe costs two files and as many system calls as copying does. So a few are kept, and lent out for as long as
//! bytes are in them.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Pipes at once, in all threads: half of the files that are kept free of sessions. Over it bytes are copied.
const MOST: usize = 64;
/// Empty ones that a thread keeps: it fills and empties one after the other, and more would be missing elsewhere.
const MOST_SPARE: usize = 4;
/// Bytes that a pipe may hold. An unprivileged user's pipes may hold 64 MiB in all before the kernel makes them small.
const ROOM: usize = 256 * 1024;

static ALIVE: AtomicUsize = AtomicUsize::new(0);

/// How often bytes went into one.
#[cfg(test)]
static FILLED: AtomicUsize = AtomicUsize::new(0);

#[cfg(test)]
pub(super) fn filled() -> usize {
    FILLED.load(Relaxed)
}

thread_local! {
    /// Empty ones.
    static SPARE: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
}

/// One that is lent; back with the others once dropped, unless bytes are in it.
#[derive(Debug)]
pub(super) struct Pipe {
    ends: Option<Ends>,
    held: usize,
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    /// `None`: there are enough already, or none can be made.
    pub(super) fn borrow() -> Option<Self> {
        let ends = SPARE.with_borrow_mut(Vec::pop).or_else(Ends::make)?;
        Some(Self { ends: Some(ends), held: 0 })
    }

    /// Moves up to `most` bytes out of the socket; 0: it has ended. Only into an empty pipe, so that nothing but the socket
    /// can be what there is to wait for.
    pub(super) fn poll_fill(
        &mut self,
        context: &mut Context<'_>,
        from: &TcpStream,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        let Some(ends) = &self.ends else { return Poll::Ready(Ok(0)) };
        debug_assert_eq!(self.held, 0);
        loop {
            ready!(from.poll_read_ready(context))?;
            match from.try_io(Interest::READABLE, || transfer(from, &ends.write, most.min(ROOM))) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                filled => {
                    self.held = *filled.as_ref().unwrap_or(&0);
                    #[cfg(test)]
                    FILLED.fetch_add(1, Relaxed);
                    return Poll::Ready(filled);
                }
            }
        }
    }

    /// Until all is with the socket.
    pub(super) fn poll_drain(&mut self, context: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<()>> {
        let Some(ends) = &self.ends else { return Poll::Ready(Ok(())) };
        while self.held > 0 {
            ready!(to.poll_write_ready(context))?;
            match to.try_io(Interest::WRITABLE, || transfer(&ends.read, to, self.held)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(sent) => self.held -= sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn transfer(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    Ok(splice(from, None, to, None, most, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?)
}

impl Ends {
    fn make() -> Option<Self> {
        let room = |alive: usize| (alive < MOST).then_some(alive + 1);
        ALIVE.fetch_update(Relaxed, Relaxed, room).ok()?;
        let Ok((read, write)) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK) else {
            ALIVE.fetch_sub(1, Relaxed);
            return None;
        };
        // A smaller one will do.
        let _ = fcntl_setpipe_size(&write, ROOM);
        Some(Self { read, write })
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Relaxed);
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if let Some(ends) = self.ends.take_if(|_| self.held == 0) {
            // A thread that ends keeps none.
            let _ = SPARE.try_with(|spare| {
                let mut spare = spare.borrow_mut();
                if spare.len() < MOST_SPARE {
                    spare.push(ends);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_a_few_and_gives_the_others_up() {
        let lent: Vec<Pipe> = (0..2 * MOST_SPARE).filter_map(|_| Pipe::borrow()).collect();
        assert!(lent.len() > MOST_SPARE, "other tests have them all");
        drop(lent);
        assert_eq!(SPARE.with_borrow(Vec::len), MOST_SPARE);
    }
}
