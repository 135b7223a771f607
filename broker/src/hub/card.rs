//! Who is connected, for people who ask. Written by the connection, or by who writes to its socket instead; read by
//! anybody.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nsd_wire::Version;

#[derive(Debug)]
pub struct Card {
    /// Apart, they are smaller than together.
    ip: IpAddr,
    port: u16,
    pub user: Option<Box<str>>,
    pub version: Version,
    /// Seconds; 0: none.
    pub keep_alive: u16,
    pub since: Instant,
    /// Milliseconds from `since` to the last bytes that came.
    heard: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    subscriptions: AtomicU32,
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
            ip: address.ip(),
            port: address.port(),
            user: user.map(Into::into),
            version,
            keep_alive,
            since: now,
            heard: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            subscriptions: AtomicU32::new(0),
        }
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
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
        self.change_subscriptions(|now| now.saturating_add(filters));
    }

    pub fn unsubscribed(&self, filters: usize) {
        self.change_subscriptions(|now| now.saturating_sub(filters));
    }

    pub fn subscriptions(&self) -> u32 {
        self.subscriptions.load(Ordering::Relaxed)
    }

    fn change_subscriptions(&self, change: impl FnOnce(usize) -> usize) {
        let changed = change(self.subscriptions() as usize);
        self.subscriptions.store(u32::try_from(changed).unwrap_or(u32::MAX), Ordering::Relaxed);
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
