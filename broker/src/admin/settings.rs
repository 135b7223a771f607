//! Settings, the log's level, certificates.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nsd_edge::admin::{Reply, Request, StatusCode};
use nsd_edge::logs;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::busy;
use crate::node::Node;
use crate::operate::{Desk, Order, Reloaded};

const DAY: i64 = 86_400;

/// Answers once the file has been read and applied, or not.
pub(super) async fn reload(desk: Arc<Desk>) -> Reply {
    let (done, outcome) = oneshot::channel();
    if !desk.order(Order::Reload { done }) {
        return busy();
    }
    match outcome.await {
        Ok(Some(reloaded)) if reloaded.problems.is_empty() => Reply::json(StatusCode::OK, &told(&reloaded)),
        Ok(Some(reloaded)) => Reply::json(StatusCode::UNPROCESSABLE_ENTITY, &told(&reloaded)),
        Ok(None) => Reply::problem(StatusCode::CONFLICT, "the broker was started without a settings file"),
        Err(_ended) => busy(),
    }
}

fn told(reloaded: &Reloaded) -> Value {
    let words = |changes: &[crate::operate::diff::Change]| {
        changes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    json!({
        "problems": reloaded.problems,
        "applied": words(&reloaded.applied),
        "needs_restart": words(&reloaded.needs_restart),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Log {
    level: String,
}

/// Another filter until the next start or the next change of `log.level`.
pub(super) fn log(request: &Request) -> Reply {
    let Log { level } = match request.json() {
        Ok(log) => log,
        Err(reply) => return reply,
    };
    match logs::change(&level) {
        Ok(()) => {
            tracing::info!(level, "the log's level was changed by the operator");
            Reply::json(StatusCode::OK, &json!({ "level": level }))
        }
        Err(error) => Reply::problem(StatusCode::BAD_REQUEST, format!("level: {error}")),
    }
}

/// The listeners' certificates, and when each ends.
pub(super) fn certificates(node: &Node) -> Reply {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let listeners = node.listeners.read();
    let all =
        listeners.iter().filter_map(|listener| Some((listener.address, listener.entry.load().tls.clone()?)));
    let told = all.flat_map(|(address, tls)| {
        let problem = tls.problem();
        tls.certificates().into_iter().map(move |certificate| {
            json!({
                "listener": address,
                "names": certificate.names,
                "expires": certificate.ends.map(date),
                "days_left": certificate.ends.map(|ends| (ends - now).div_euclid(DAY)),
                "problem": problem,
            })
        })
    });
    Reply::json(StatusCode::OK, &json!({ "certificates": told.collect::<Vec<_>>() }))
}

fn date(seconds: i64) -> Option<String> {
    let since = Duration::from_secs(u64::try_from(seconds).ok()?);
    Some(humantime::format_rfc3339_seconds(UNIX_EPOCH.checked_add(since)?).to_string())
}
