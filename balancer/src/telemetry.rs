//! What the balancer tells about itself: counts that a message costs nothing for, one sample of everything, and the
//! page that Prometheus reads. A connection is counted when it comes, shakes hands, connects and ends; what a running
//! session has moved is read from the session itself, by whoever asks.

mod prometheus;
mod sample;

use crate::balancer::Balancer;
use crate::shown::Totals;

/// As Prometheus reads it, as of now.
pub(crate) fn page(balancer: &Balancer) -> String {
    prometheus::page(&sample::take(balancer))
}

/// What the dashboard samples every second.
pub(crate) fn totals(balancer: &Balancer) -> Totals {
    let mut totals = Totals { sessions: balancer.shared.workers.sessions() as u64, ..Totals::default() };
    for frontend in sample::frontends(balancer) {
        totals.connections += frontend.counts.accepted;
        totals.bytes_in += frontend.moved.up;
        totals.bytes_out += frontend.moved.down;
    }
    totals
}
