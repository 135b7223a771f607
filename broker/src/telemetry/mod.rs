//! What the broker tells about itself, in one place: counters that cost nothing to speak of, one [`Sample`] of
//! everything, and its three forms: `$SYS` topics, Prometheus text, JSON for the admin socket.

mod count;
mod listener;
pub mod prometheus;
mod publisher;
mod rates;
mod sample;
pub mod sys;

use std::sync::atomic::{AtomicU64, Ordering};

use nsd_wire::Qos;

pub use count::{Cause, Count, Early, Ended, QOS, Totals, count, count_all, count_many};
pub use listener::{Connections, Counted};
pub use nsd_edge::process::Process;
pub(crate) use prometheus::version_name;
pub use publisher::{Event, Sys};
pub use rates::{Rates, SPANS};
pub use sample::{Clients, Cluster, ListenerSample, Sample, take};

/// The most clients that were ever connected at once.
static PEAK: AtomicU64 = AtomicU64::new(0);

/// A message of this QoS and with so many bytes was put on its way to a client.
pub fn sent(qos: Qos, payload: usize) {
    count_all([(Count::Sent(qos), 1), (Count::PayloadOut, payload as u64)]);
}

/// So many clients are connected now.
pub fn connected(now: usize) {
    PEAK.fetch_max(now as u64, Ordering::Relaxed);
}
