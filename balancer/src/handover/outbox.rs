//! Sessions on their way to another process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nsd_wire::Version;
use tokio::sync::mpsc;

use super::message::{SESSIONS, Session};
use crate::framing::Framing;
use crate::registry::{Live, Registry};

/// A session that is not read here for as long as this is there. Dropped, it goes on here, unless it was taken.
#[derive(Debug)]
pub(crate) struct Given {
    live: Arc<Live>,
    /// The client's socket and the server's.
    sockets: [OwnedFd; 2],
    /// Up and down.
    framings: [Framing; 2],
}

impl Given {
    pub(crate) fn new(live: Arc<Live>, sockets: [OwnedFd; 2], framings: [Framing; 2]) -> Self {
        Self { live, sockets, framings }
    }

    pub(super) fn files(&self) -> [BorrowedFd<'_>; 2] {
        [self.sockets[0].as_fd(), self.sockets[1].as_fd()]
    }

    pub(super) fn described(&self, registry: &Registry) -> Session {
        let Live { handle, names, version, clean, will, peer, since, frontend, member, .. } = &*self.live;
        let moved = handle.moved();
        let (silence_ms, silent_ms) = handle.silence(registry.now());
        let [framing_up, framing_down] = self.framings;
        Session {
            server: member.which(),
            frontend: frontend.name.clone(),
            peer: *peer,
            level: version.map(Version::level),
            clean: *clean,
            will: *will,
            client_id: names.id().to_owned(),
            user_name: names.user().to_owned(),
            age_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
            silence_ms,
            silent_ms,
            up: moved.up,
            down: moved.down,
            framing_up,
            framing_down,
        }
    }

    /// The other process has it.
    pub(super) fn taken(self) {
        self.live.handle.taken();
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        self.live.handle.returned();
    }
}

/// Room for one batch.
pub(super) fn outbox() -> (mpsc::Sender<Given>, mpsc::Receiver<Given>) {
    mpsc::channel(SESSIONS)
}
