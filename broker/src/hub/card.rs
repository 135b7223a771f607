//! Who is connected, for people who ask. Written by the connection, or by who writes to its socket instead; read by
//! anybody.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nsd_wire::Version;

#[derive(Debug)]
pub struct Card {
    pub address: SocketAddr,
    pub user: Option<Box<str>>,
    pub version: Version,
    /// Seconds; 0: none.
    pub keep_alive: u16,
    pub since: Instant,
    /// Milliseconds from `since` to the last bytes that came.
    heard: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    subscriptions: AtomicU64,
}

impl Card {
    pub fn new(
        address: SocketAddr,
        user: Option<&str>,
        version: Version,
        keep_alive: u16,
        now: Instant,
    ) -> Self {
        Self {
            address,
            user: user.map(Into::into),
            version,
            keep_alive,
            since: now,
            heard: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            subscriptions: AtomicU64::new(0),
        }
    }

    pub fn received(&self, bytes: usize, now: Instant) {
        add(&self.bytes_in, bytes as u64);
        let heard = u64::try_from(now.duration_since(self.since).as_millis()).unwrap_or(u64::MAX);
        self.heard.store(heard, Ordering::Relaxed);
    }

    pub fn sent(&self, bytes: usize) {
        add(&self.bytes_out, bytes as u64);
    }

    /// So many filters more.
    pub fn subscribed(&self, filters: usize) {
        add(&self.subscriptions, filters as u64);
    }

    pub fn unsubscribed(&self, filters: usize) {
        let now = self.subscriptions.load(Ordering::Relaxed);
        self.subscriptions.store(now.saturating_sub(filters as u64), Ordering::Relaxed);
    }

    pub fn subscriptions(&self) -> u64 {
        self.subscriptions.load(Ordering::Relaxed)
    }

    /// Bytes from and to the client.
    pub fn bytes(&self) -> (u64, u64) {
        (self.bytes_in.load(Ordering::Relaxed), self.bytes_out.load(Ordering::Relaxed))
    }

    /// How long nothing has come.
    pub fn silent(&self, now: Instant) -> Duration {
        let heard = self.since + Duration::from_millis(self.heard.load(Ordering::Relaxed));
        now.saturating_duration_since(heard)
    }
}

/// One writer at a time: no locked instruction is needed.
fn add(counter: &AtomicU64, number: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(number), Ordering::Relaxed);
}
