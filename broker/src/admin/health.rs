//! Live, ready, degraded.

use nsd_edge::admin::{Reply, StatusCode};
use serde_json::json;

use super::drain::progress_json;
use crate::operate::Desk;

/// Degraded is served with 200: a node without Redis still serves what it can, and all nodes lose Redis at once. Of a
/// broken store of its own a node is not ready: it never works again here.
pub(super) fn health(desk: &Desk) -> Reply {
    let node = &desk.node;
    let ready = node.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let draining = desk.draining();
    let mut reasons = desk.complaints();
    let degraded = !reasons.is_empty();
    if draining.is_some() {
        reasons.push("draining: no client is let in".to_owned());
    }
    let needs_restart = desk.last_reload().map_or_else(Vec::new, |reloaded| reloaded.needs_restart);
    let body = json!({
        "live": true,
        "ready": ready,
        "degraded": degraded,
        "reasons": reasons,
        "needs_restart": needs_restart.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "draining": draining.map(|progress| progress_json(&progress)),
        "node": node.name,
        "clients": node.hub.connected(),
    });
    Reply::json(status, &body)
}
