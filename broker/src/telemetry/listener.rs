//! Connections of one listener.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::entry::Entry;

/// How many there are and were, and what is asked of those that come; clients may come and go on different threads.
#[derive(Debug)]
pub struct Connections {
    pub address: SocketAddr,
    /// Another one after the settings have changed.
    pub entry: ArcSwap<Entry>,
    open: AtomicU64,
    accepted: AtomicU64,
    /// For connections of all listeners.
    permits: Arc<Semaphore>,
}

impl Connections {
    pub fn new(address: SocketAddr, entry: Arc<Entry>, permits: Arc<Semaphore>) -> Self {
        let entry = ArcSwap::from(entry);
        Self { address, entry, open: AtomicU64::new(0), accepted: AtomicU64::new(0), permits }
    }

    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// One more, with its permit, until the answer is dropped.
    pub fn enter(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Counted {
        permit.forget();
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(self))
    }
}

/// One connection of a listener.
#[derive(Debug)]
pub struct Counted(Arc<Connections>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.permits.add_permits(1);
    }
}
