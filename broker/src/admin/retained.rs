//! Retained messages: what is there, and taking it away.

use std::sync::Arc;
use std::time::SystemTime;

use nsd_edge::admin::{Reply, Request, StatusCode};
use nsd_wire::{Publish, topic};
use serde_json::{Value, json};

use super::{page, wanted};
use crate::hub::Kept;
use crate::message::Message;
use crate::node::Node;

/// Topics looked at under one lock.
const SLICE: usize = 256;
/// Topics looked at for one answer: a filter that matches few of many is asked for again from where it stopped.
const LOOKS: usize = 100_000;

/// Topics, sizes and ages; never payloads.
pub(super) fn list(node: &Node, request: &Request) -> Reply {
    let (limit, after) = match page(request) {
        Ok(page) => page,
        Err(reply) => return reply,
    };
    let filter = request.query("filter").unwrap_or_else(|| "#".to_owned());
    if !topic::valid_levels(&filter) {
        return wrong_filter();
    }
    let (found, next) = search(node, &filter, after.as_deref(), limit);
    let now = SystemTime::now();
    let topics: Vec<Value> = found.iter().filter_map(|kept| entry(kept, now)).collect();
    Reply::json(StatusCode::OK, &json!({ "retained": topics, "next": next }))
}

fn entry(kept: &Kept, now: SystemTime) -> Option<Value> {
    let waited = kept.waited(now)?;
    let publish = kept.message.publish();
    Some(json!({
        "topic": publish.topic,
        "bytes": publish.payload.len(),
        "qos": publish.qos as u8,
        "age_seconds": waited,
        "expiry_seconds": publish.properties.message_expiry,
    }))
}

/// Takes away as a client would: with an empty message, so that everybody who listens hears of it. The broker's own
/// topics are not touched.
pub(super) async fn delete(node: Arc<Node>, request: Request) -> Reply {
    let filter = match wanted(&request, "filter") {
        Ok(filter) if topic::valid_levels(&filter) => filter,
        Ok(_) => return wrong_filter(),
        Err(reply) => return reply,
    };
    // There may be a million: not on the thread that answers health checks.
    let deleting = tokio::task::spawn_blocking(move || delete_all(&node, &filter));
    match deleting.await {
        Ok(deleted) => Reply::json(StatusCode::OK, &json!({ "deleted": deleted })),
        Err(error) => Reply::problem(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

fn delete_all(node: &Node, filter: &str) -> usize {
    let (mut deleted, mut after) = (0, None);
    loop {
        let (found, next) = search(node, filter, after.as_deref(), SLICE);
        for kept in &found {
            let name = kept.message.publish().topic;
            let empty = Message::new(&Publish { retain: true, ..Publish::new(name, b"") });
            if let Some(empty) = empty.filter(|_| !name.starts_with('$')) {
                node.publish(&empty);
                deleted += 1;
            }
        }
        after = next;
        if after.is_none() {
            break;
        }
    }
    tracing::info!(filter, deleted, "retained messages deleted by the operator");
    deleted
}

fn wrong_filter() -> Reply {
    Reply::problem(StatusCode::BAD_REQUEST, "filter: is no topic filter")
}

/// Up to `limit` that match, and where to go on.
fn search(
    node: &Node,
    filter: &str,
    after: Option<&str>,
    limit: usize,
) -> (Vec<Arc<Kept>>, Option<Box<str>>) {
    let (mut found, mut after, mut looked) = (Vec::new(), after.map(Box::from), 0);
    loop {
        let most = SLICE.min(limit - found.len());
        let (some, next) = node.hub.retained.read().slice(filter, after.as_deref(), most);
        found.extend(some);
        looked += most;
        if next.is_none() || found.len() >= limit || looked >= LOOKS {
            return (found, next);
        }
        after = next;
    }
}
