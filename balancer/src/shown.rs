//! The balancer as it is shown, for those parts of it that pass it on and else know nothing of it.

use std::fmt::Debug;

use nsd_edge::admin::Router;

/// Each is `None` once the balancer is gone.
pub(crate) trait Shown: Debug + Send + Sync {
    /// What the admin socket answers.
    fn router(&self) -> Option<Router>;
    /// What the dashboard samples every second.
    fn totals(&self) -> Option<Totals>;
    /// What Prometheus reads.
    fn page(&self) -> Option<String>;
}

/// What has been counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Now, not since the start.
    pub(crate) sessions: u64,
    pub(crate) connections: u64,
    /// From clients, and to them.
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}
