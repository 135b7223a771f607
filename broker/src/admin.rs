//! The admin socket's answers: health for balancers and supervisors, status for people.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nsd_edge::admin::{Method, Reply, Router, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::entry::Entry;
use crate::hub::DROPPED;
use crate::node::Node;

/// `stop` is notified by `POST /drain`.
pub fn router(node: &Arc<Node>, stop: &Arc<Notify>) -> Router {
    let (health_of, status_of, stop) = (Arc::clone(node), Arc::clone(node), Arc::clone(stop));
    Router::new()
        .route(Method::GET, "/health", move |_request| {
            let (status, body) = health(&health_of);
            async move { Reply::json(status, &body) }
        })
        .route(Method::GET, "/status", move |_request| {
            let body = status(&status_of);
            async move { Reply::json(StatusCode::OK, &body) }
        })
        .route(Method::POST, "/drain", move |_request| {
            stop.notify_one();
            async move { Reply::json(StatusCode::OK, &json!({ "draining": true })) }
        })
}

/// Degraded is served with 200: a node without Redis still serves what it can, and all nodes lose Redis at once.
fn health(node: &Node) -> (StatusCode, Value) {
    let ready = node.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "live": true, "ready": ready, "degraded": node.is_degraded(), "node": node.name,
        "clients": node.hub.connected(),
    });
    (status, body)
}

fn status(node: &Node) -> Value {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counters = &node.hub.counters;
    let cluster = node.hub.bus.as_ref().map(|bus| {
        json!({
            "node": crate::store::keys::node_name(bus.node),
            "connected": bus.is_connected(),
            "batches": read(&bus.counters.batches),
            "commands": read(&bus.counters.commands),
            "sent": read(&bus.counters.sent),
            "received": read(&bus.counters.received),
            "dropped": read(&bus.counters.dropped),
        })
    });
    let listener = |entry: &Arc<Entry>| {
        json!({
            "address": entry.address.get().map(ToString::to_string),
            "turned_away": read(&entry.turned_away),
            "certificates_problem": entry.tls.as_ref().and_then(|tls| tls.problem()),
        })
    };
    let listeners: Vec<Value> = node.entries.get().into_iter().flatten().map(listener).collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "node": node.name,
        "uptime_seconds": node.started.elapsed().as_secs(),
        "ready": node.is_ready(),
        "degraded": node.is_degraded(),
        "clients": node.hub.connected(),
        "subscriptions": node.hub.subscribed(),
        "retained": node.hub.retained.read().len(),
        "connects": read(&counters.connects),
        "refused": read(&counters.refused),
        "messages": {
            "received": read(&counters.received),
            "delivered": read(&counters.delivered),
            "dropped": read(&DROPPED),
        },
        "listeners": listeners,
        "cluster": cluster,
    })
}
