//! `[take_over]`: how sessions leave the process that was running, once this one has taken over.

use std::time::Duration;

use nsd_edge::config::Table;

use crate::limits;
use crate::pace::Pace;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakeOver {
    /// Of those that cannot be handed over.
    pub rate: Pace,
    /// Whatever is left then is closed.
    pub deadline: Duration,
}

impl Default for TakeOver {
    fn default() -> Self {
        Self { rate: limits::LEAVE_RATE, deadline: limits::LEAVE_DEADLINE }
    }
}

pub(super) fn read(root: &mut Table<'_, '_>) -> TakeOver {
    let mut take_over = TakeOver::default();
    if let Some(mut table) = root.table("take_over") {
        take_over.rate = table.parsed("rate", "100/s").unwrap_or(take_over.rate);
        take_over.deadline = table.duration("deadline", &limits::DURATIONS).unwrap_or(take_over.deadline);
        table.finish();
    }
    take_over
}
