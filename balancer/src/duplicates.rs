//! A client that comes again while an older session of its own is still there, half open or at another server: the older
//! one is closed. Servers that share sessions do that themselves, and get a moment for it.

use std::sync::Arc;

use tokio::time::sleep;

use crate::limits;
use crate::registry::Live;
use crate::relay::Order;

/// The client's older sessions, once the newer one was let in.
pub(crate) fn close(newer: &Live, older: Vec<Arc<Live>>) {
    if older.is_empty() {
        return;
    }
    tracing::debug!(id = ?newer.names.id(), server = newer.member.name, older = older.len(), "came again");
    tokio::spawn(async move {
        sleep(limits::TAKEOVER).await;
        for live in older {
            live.handle.tell(Order::Duplicate);
        }
    });
}
