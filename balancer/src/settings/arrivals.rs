//! How fast the servers of a backend get clients, and how many clients may wait for their turn.

use std::time::Duration;

use nsd_edge::config::Table;

use crate::bucket::ConnectRate;
use crate::limits;

/// More clients than this are not served sooner for waiting.
const MAX_QUEUE: u64 = 100_000;
/// Beyond this a rate is none.
const MAX_CONNECTS: u64 = 1_000_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrivals {
    /// Clients that may wait at once while all servers are full or have had theirs for now, and how long.
    pub queue: usize,
    pub queue_timeout: Duration,
    /// How many clients each server may get; `None`: as many as come.
    pub connect_rate: Option<ConnectRate>,
    /// How long a server that comes to others, or comes back, gets less than its share; zero: at once.
    pub slow_start: Duration,
}

/// `servers`: how many the backend has.
pub(super) fn read(table: &mut Table<'_, '_>, servers: usize) -> Arrivals {
    let queue = table.number("queue", 0, MAX_QUEUE);
    let queue_timeout = table.duration("queue_timeout", &limits::DURATIONS).unwrap_or(limits::QUEUE_TIMEOUT);
    let connect_rate = read_rate(table);
    let queue = queue.unwrap_or_else(|| connect_rate.map_or(0, |rate| served(rate, queue_timeout, servers)));
    Arrivals {
        queue: usize::try_from(queue).unwrap_or(usize::MAX),
        queue_timeout,
        connect_rate,
        slow_start: table.duration("slow_start", &limits::DURATIONS).unwrap_or_default(),
    }
}

/// `connects_per_second = 200`, with `connects_burst`: what a tenth of a second gives unless told.
fn read_rate(table: &mut Table<'_, '_>) -> Option<ConnectRate> {
    let mut number = |key| table.number(key, 1, MAX_CONNECTS).and_then(|number| u32::try_from(number).ok());
    let (per_second, burst) = (number("connects_per_second"), number("connects_burst"));
    if table.has("connects_burst") && !table.has("connects_per_second") {
        table.problem("connects_burst", "needs `connects_per_second` beside it");
    }
    let per_second = per_second?;
    Some(ConnectRate { per_second, burst: burst.unwrap_or(per_second.div_ceil(10)) })
}

/// The clients that a rate lets in within the time that they may wait: more would wait in vain.
fn served(rate: ConnectRate, time: Duration, servers: usize) -> u64 {
    let all = u128::from(rate.per_second) * time.as_millis() / 1000 * servers as u128;
    u64::try_from(all).unwrap_or(MAX_QUEUE).clamp(1, MAX_QUEUE)
}
