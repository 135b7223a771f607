//! What is counted, and how: each thread has a block of its own that nobody else writes, so counting is a load, an add
//! and a store, without a locked instruction and without a cache line that threads fight for. Whoever asks sums up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nsd_wire::frame::PacketType;
use nsd_wire::{Qos, ReasonCode, Version};
use parking_lot::Mutex;

/// One thing that happens. All of them only ever grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// A socket was accepted.
    Accepted,
    /// A socket was closed before its client said anything that could be answered.
    Closed(Early),
    /// A client was let in.
    Connected(Version),
    /// A CONNACK was sent, with this code.
    ConnAck(ReasonCode),
    /// A connected client is gone.
    Ended(Ended),
    /// Of any kind but PUBLISH, which is counted by its QoS.
    PacketIn(PacketType),
    PacketOut(PacketType),
    BytesIn,
    BytesOut,
    /// A PUBLISH from a client.
    Received(Qos),
    /// A PUBLISH to a client.
    Sent(Qos),
    /// Payload bytes of PUBLISH packets.
    PayloadIn,
    PayloadOut,
    Dropped(Cause),
    Subscribed,
    Unsubscribed,
    /// A session's time has run out.
    SessionExpired,
}

/// Why a connection ended before there was a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Early {
    /// No PROXY header where one must be.
    ProxyHeader,
    /// The TLS handshake failed or took too long.
    Tls,
    /// No WebSocket upgrade where one must be.
    WebSocket,
    /// All of that together took too long.
    TooLate,
    /// Too many connections at once or too fast, here or from one address.
    Limit,
    /// No whole CONNECT came, or nothing that begins like one.
    NoConnect,
}

/// How a client's connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// DISCONNECT, as it should be.
    ByClient,
    /// Without a word.
    Lost,
    /// By us, for this reason (v3 clients are told nothing, the reason is the same).
    ByServer(ReasonCode),
}

/// Why a message did not reach a receiver, or nobody at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The receiver does not keep up, and the message may be lost (QoS 0).
    SlowReceiver,
    /// The session's queue is full.
    QueueFull,
    /// Its time has run out.
    Expired,
    /// The publisher may not.
    NotAuthorized,
    /// Larger than the receiver takes.
    TooLarge,
    /// One retained topic more than may be kept.
    RetainedFull,
    /// QoS 0 that could not be handed to other nodes.
    OtherNodes,
    /// The store refused it, and there was no publisher to tell.
    NotStored,
}

impl Early {
    pub const ALL: [(Self, &str); 6] = [
        (Self::ProxyHeader, "proxy_header"),
        (Self::Tls, "tls"),
        (Self::WebSocket, "web_socket"),
        (Self::TooLate, "too_late"),
        (Self::Limit, "limit"),
        (Self::NoConnect, "no_connect"),
    ];
}

impl Cause {
    pub const ALL: [(Self, &str); 8] = [
        (Self::SlowReceiver, "slow_receiver"),
        (Self::QueueFull, "queue_full"),
        (Self::Expired, "expired"),
        (Self::NotAuthorized, "not_authorized"),
        (Self::TooLarge, "too_large"),
        (Self::RetainedFull, "retained_full"),
        (Self::OtherNodes, "other_nodes"),
        (Self::NotStored, "not_stored"),
    ];
}

pub const QOS: [Qos; 3] = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];

/// Reason codes end at 0xa2; packet types at 15.
const REASONS: usize = 0xa3;
const PACKETS: usize = 16;
const PLAIN: usize = 9;
const CONNECTED: usize = PLAIN;
const EARLY: usize = CONNECTED + Version::ALL.len();
const CONN_ACK: usize = EARLY + Early::ALL.len();
const ENDED: usize = CONN_ACK + REASONS;
const PACKET_IN: usize = ENDED + REASONS;
const PACKET_OUT: usize = PACKET_IN + PACKETS;
const RECEIVED: usize = PACKET_OUT + PACKETS;
const SENT: usize = RECEIVED + QOS.len();
const DROPPED: usize = SENT + QOS.len();
const SLOTS: usize = DROPPED + Cause::ALL.len();

impl Count {
    const fn slot(self) -> usize {
        match self {
            Self::Accepted => 0,
            Self::BytesIn => 1,
            Self::BytesOut => 2,
            Self::PayloadIn => 3,
            Self::PayloadOut => 4,
            Self::Subscribed => 5,
            Self::Unsubscribed => 6,
            Self::SessionExpired => 7,
            Self::Ended(Ended::Lost) => 8,
            Self::Connected(version) => CONNECTED + version as usize,
            Self::Closed(early) => EARLY + early as usize,
            Self::ConnAck(reason) => CONN_ACK + reason as usize,
            // No server ends a connection with "success", so that slot is the client's own end.
            Self::Ended(Ended::ByClient) => ENDED,
            Self::Ended(Ended::ByServer(reason)) => ENDED + reason as usize,
            Self::PacketIn(kind) => PACKET_IN + kind as usize,
            Self::PacketOut(kind) => PACKET_OUT + kind as usize,
            Self::Received(qos) => RECEIVED + qos as usize,
            Self::Sent(qos) => SENT + qos as usize,
            Self::Dropped(cause) => DROPPED + cause as usize,
        }
    }
}

type Block = [AtomicU64; SLOTS];

/// The blocks of all threads that count, and the sum of those that have ended.
struct Books {
    open: Vec<Arc<Block>>,
    closed: [u64; SLOTS],
}

static BOOKS: Mutex<Books> = Mutex::new(Books { open: Vec::new(), closed: [0; SLOTS] });

/// This thread's block; it goes into the sum when the thread ends.
struct Own(Arc<Block>);

impl Own {
    fn open() -> Self {
        let block: Arc<Block> = Arc::new([const { AtomicU64::new(0) }; SLOTS]);
        BOOKS.lock().open.push(Arc::clone(&block));
        Self(block)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let mut books = BOOKS.lock();
        for (sum, slot) in books.closed.iter_mut().zip(&*self.0) {
            *sum += slot.load(Ordering::Relaxed);
        }
        books.open.retain(|block| !Arc::ptr_eq(block, &self.0));
    }
}

thread_local! {
    static OWN: Own = Own::open();
}

/// Counts one.
pub fn count(what: Count) {
    count_many(what, 1);
}

pub fn count_many(what: Count, number: u64) {
    count_all([(what, number)]);
}

/// Several counts for one look at where this thread's block is.
pub fn count_all<const N: usize>(all: [(Count, u64); N]) {
    // A thread that is ending has closed its block: what it still counts is not worth a panic.
    let _ = OWN.try_with(|own| {
        for (what, number) in all {
            let slot = &own.0[what.slot()];
            slot.store(slot.load(Ordering::Relaxed).wrapping_add(number), Ordering::Relaxed);
        }
    });
}

/// Everything counted so far, by all threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals(Box<[u64; SLOTS]>);

impl Totals {
    pub fn now() -> Self {
        let books = BOOKS.lock();
        let mut sums = Box::new(books.closed);
        for block in &books.open {
            for (sum, slot) in sums.iter_mut().zip(&**block) {
                *sum = sum.wrapping_add(slot.load(Ordering::Relaxed));
            }
        }
        Self(sums)
    }

    pub fn of(&self, what: Count) -> u64 {
        match what {
            Count::PacketIn(PacketType::Publish) => self.received(),
            Count::PacketOut(PacketType::Publish) => self.sent(),
            _ => self.0[what.slot()],
        }
    }

    pub fn sum(&self, all: impl IntoIterator<Item = Count>) -> u64 {
        all.into_iter().map(|what| self.of(what)).sum()
    }

    pub fn connected(&self) -> u64 {
        self.sum(Version::ALL.map(Count::Connected))
    }

    /// Clients that were told "no" in their CONNACK.
    pub fn refused(&self) -> u64 {
        self.sum(
            ReasonCode::ALL.iter().filter(|reason| reason.is_failure()).map(|reason| Count::ConnAck(*reason)),
        )
    }

    pub fn received(&self) -> u64 {
        self.sum(QOS.map(Count::Received))
    }

    pub fn sent(&self) -> u64 {
        self.sum(QOS.map(Count::Sent))
    }

    pub fn dropped(&self) -> u64 {
        self.sum(Cause::ALL.map(|(cause, _)| Count::Dropped(cause)))
    }

    pub fn packets_in(&self) -> u64 {
        self.sum(PacketType::ALL.map(Count::PacketIn))
    }

    pub fn packets_out(&self) -> u64 {
        self.sum(PacketType::ALL.map(Count::PacketOut))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn all() -> Vec<Count> {
        let mut all = vec![
            Count::Accepted,
            Count::BytesIn,
            Count::BytesOut,
            Count::PayloadIn,
            Count::PayloadOut,
            Count::Subscribed,
            Count::Unsubscribed,
            Count::SessionExpired,
            Count::Ended(Ended::Lost),
            Count::Ended(Ended::ByClient),
        ];
        all.extend(Version::ALL.map(Count::Connected));
        all.extend(Early::ALL.map(|(early, _)| Count::Closed(early)));
        all.extend(ReasonCode::ALL.iter().map(|reason| Count::ConnAck(*reason)));
        all.extend(ReasonCode::ALL.iter().skip(1).map(|reason| Count::Ended(Ended::ByServer(*reason))));
        all.extend(PacketType::ALL.map(Count::PacketIn));
        all.extend(PacketType::ALL.map(Count::PacketOut));
        all.extend(QOS.map(Count::Received));
        all.extend(QOS.map(Count::Sent));
        all.extend(Cause::ALL.map(|(cause, _)| Count::Dropped(cause)));
        all
    }

    #[test]
    fn nothing_shares_a_slot_and_every_slot_is_there() {
        let all = all();
        let slots: HashSet<usize> = all.iter().map(|what| what.slot()).collect();
        assert_eq!(slots.len(), all.len());
        assert!(slots.iter().all(|slot| *slot < SLOTS));
    }

    #[test]
    fn what_ended_threads_counted_stays() {
        // Nothing else in this process's tests counts sessions that expired.
        let before = Totals::now().of(Count::SessionExpired);
        let threads: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(|| (0..1000).for_each(|_| count(Count::SessionExpired))))
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        count_many(Count::SessionExpired, 5);
        assert_eq!(Totals::now().of(Count::SessionExpired) - before, 4005);
        assert!(BOOKS.lock().open.len() < 64, "blocks of ended threads are given back");
    }
}
