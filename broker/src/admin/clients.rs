//! Sessions: who is there, who one of them is, sending one away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nsd_edge::admin::{Reply, Request, StatusCode};
use nsd_wire::ReasonCode;
use serde_json::{Value, json};

use super::{page, wanted};
use crate::hub::{Ending, Event, Outbox};
use crate::node::Node;
use crate::telemetry::version_name;

/// How long a kicked client may take to go before its session is ended under it.
const PATIENCE: Duration = Duration::from_secs(2);
/// Filters shown of one client; their number is told in any case.
const FILTERS: usize = 1000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Any,
    Connected,
    Offline,
}

/// Sessions by client id: those that begin with `prefix`, behind `after`, as many as `limit` says.
pub(super) fn list(node: &Node, request: &Request) -> Reply {
    let (limit, after) = match page(request) {
        Ok(page) => page,
        Err(reply) => return reply,
    };
    let state = match request.query("state").as_deref() {
        None => State::Any,
        Some("connected") => State::Connected,
        Some("offline") => State::Offline,
        Some(_) => return Reply::problem(StatusCode::BAD_REQUEST, "state: is neither connected nor offline"),
    };
    let prefix = request.query("prefix").unwrap_or_default();
    let all = node.hub.all_sessions();
    let (total, connected) = (all.len(), node.hub.connected());
    let mut found: Vec<_> = all.into_iter().filter(|client| client.client_id.starts_with(&prefix)).collect();
    found.retain(|client| state == State::Any || client.is_attached() == (state == State::Connected));
    let matching = found.len();
    found.retain(|client| after.as_deref().is_none_or(|after| *client.client_id > *after));
    found.sort_unstable_by(|one, other| one.client_id.cmp(&other.client_id));
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|client| client.client_id.clone());
    let now = Instant::now();
    let sessions: Vec<Value> = found.iter().map(|client| summary(client, now)).collect();
    let body = json!({
        "sessions": sessions,
        "total": total,
        "connected": connected,
        "offline": total.saturating_sub(connected),
        "matching": matching,
        "next": next,
    });
    Reply::json(StatusCode::OK, &body)
}

fn summary(client: &Outbox, now: Instant) -> Value {
    let (card, load) = (client.card(), client.load());
    json!({
        "client": client.client_id,
        "connected": client.is_attached(),
        "user": card.as_ref().and_then(|card| card.user.clone()),
        "address": card.as_ref().map(|card| card.address()),
        "version": card.as_ref().map(|card| version_name(card.version)),
        "connected_seconds": card.as_ref().map(|card| now.saturating_duration_since(card.since).as_secs()),
        "subscriptions": card.as_ref().map(|card| card.subscriptions()),
        "in_flight": load.in_flight,
        "queued": load.queued,
        "queued_bytes": load.queued_bytes,
    })
}

/// Everything about one client but what its messages say.
pub(super) fn who(node: &Node, request: &Request) -> Reply {
    let client = match find(node, request) {
        Ok(client) => client,
        Err(reply) => return reply,
    };
    let now = Instant::now();
    let mut told = summary(&client, now);
    let mut filters = node.hub.filters_of(&client);
    filters.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    told["subscriptions"] = filters.len().into();
    filters.truncate(FILTERS);
    told["filters"] = filters
        .into_iter()
        .map(|(filter, options)| json!({ "filter": filter, "qos": options.qos as u8 }))
        .collect();
    if let Some(card) = client.card() {
        let (received, sent) = card.bytes();
        told["keep_alive_seconds"] = card.keep_alive.into();
        told["silent_seconds"] = card.silent(now).as_secs().into();
        told["bytes_received"] = received.into();
        told["bytes_sent"] = sent.into();
    }
    Reply::json(StatusCode::OK, &told)
}

/// The client is told 0x98 and disconnected; with `session=true` its session ends once it has gone.
pub(super) async fn kick(node: Arc<Node>, request: Request) -> Reply {
    let client = match find(&node, &request) {
        Ok(client) => client,
        Err(reply) => return reply,
    };
    let session = request.query("session").as_deref() == Some("true");
    tracing::info!(client = &*client.client_id, session, "kicked by the operator");
    let connected = client.is_attached();
    client.notify(Event::Leave(ReasonCode::AdministrativeAction));
    if session {
        // Its last word is written first; a client that takes none is not waited for.
        let until = Instant::now() + PATIENCE;
        while client.is_attached() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (will, hub) = (node.hub.end_session(&client.client_id), &node.hub);
        if let (Some(_), Some(journal)) = (&hub.bus, &hub.journal) {
            journal.part(&client, Ending { expiry: 0, keep_will: true, sent: 0 });
            journal.flush();
        } else if let Some(will) = will {
            node.publish_will(&client, will);
        }
    }
    Reply::json(StatusCode::OK, &json!({ "kicked": connected, "session_ended": session }))
}

fn find(node: &Node, request: &Request) -> Result<Arc<Outbox>, Reply> {
    let client = wanted(request, "client")?;
    node.hub.session(&client).ok_or_else(|| Reply::problem(StatusCode::NOT_FOUND, "no such client here"))
}
