//! What a process has to do with the one before it, and with the one after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use super::channel::Channel;
use super::message::FromNew;
use super::outbox::{Given, outbox};
use crate::registry::Live;

/// To say a word to the process before, which may hang.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Succession {
    /// Where sessions put themselves that are to go; open while a process takes over.
    outbox: Mutex<Option<mpsc::Sender<Given>>>,
    /// Another process accepts in our place.
    succeeded: AtomicBool,
    /// The other process is gone: this one goes on.
    returned: Notify,
    /// Nothing is left to be done here.
    over: Notify,
    /// The process before, while it has sessions left.
    before: Mutex<Option<Arc<Channel>>>,
}

impl Succession {
    /// `None`: another process is being given them.
    pub(super) fn open(&self) -> Option<mpsc::Receiver<Given>> {
        let mut open = self.outbox.lock();
        if open.as_ref().is_some_and(|sender| !sender.is_closed()) {
            return None;
        }
        let (sender, receiver) = outbox();
        *open = Some(sender);
        Some(receiver)
    }

    /// Where nobody waits for it, it is returned.
    pub(crate) fn put(&self, given: Given) {
        let outbox = self.outbox.lock().clone();
        if let Some(outbox) = outbox {
            let _ = outbox.try_send(given);
        }
    }

    pub(crate) fn is_succeeded(&self) -> bool {
        self.succeeded.load(SeqCst)
    }

    pub(super) fn succeed(&self) {
        self.succeeded.store(true, SeqCst);
    }

    pub(super) fn return_here(&self) {
        self.succeeded.store(false, SeqCst);
        self.returned.notify_one();
    }

    /// Resolves when the other process is gone, and this one is to accept again. Cancel safe.
    pub(crate) async fn returned(&self) {
        self.returned.notified().await;
    }

    pub(super) fn end(&self) {
        self.over.notify_one();
    }

    /// Resolves when this process is to end. Cancel safe.
    pub(crate) async fn over(&self) {
        self.over.notified().await;
    }

    pub(super) fn follow(&self, before: Option<Arc<Channel>>) {
        *self.before.lock() = before;
    }

    /// Whether there is still a process before.
    pub(super) fn follows(&self) -> bool {
        self.before.lock().is_some()
    }

    /// This process is told to stop: the one before does so, too.
    pub(crate) async fn stopping(&self) {
        self.say(FromNew::Stopping).await;
    }

    /// A client was let in: the process before may have an older session of it.
    pub(crate) fn came(self: &Arc<Self>, live: &Live) {
        if !self.follows() || live.names.id().is_empty() {
            return;
        }
        let (backend, client) = (live.member.backend.to_string(), live.names.id().to_owned());
        let this = Arc::clone(self);
        tokio::spawn(async move { this.say(FromNew::Came { backend, client }).await });
    }

    async fn say(&self, word: FromNew) {
        let before = self.before.lock().clone();
        if let Some(before) = before {
            // If it does not hear, it is gone or hangs.
            let _ = timeout(PATIENCE, before.say(&word, &[])).await;
        }
    }
}
