//! One sample as JSON.

use nsd_edge::admin::{Reply, StatusCode};
use nsd_wire::{ReasonCode, Version};
use serde_json::{Map, Value, json};

use crate::operate::Desk;
use crate::telemetry::{self, Cause, Count, Early, Ended, QOS, Sample, Totals, version_name};

pub(super) fn status(desk: &Desk) -> Reply {
    Reply::json(StatusCode::OK, &of(&telemetry::take(&desk.node)))
}

fn of(sample: &Sample) -> Value {
    let (totals, clients, process) = (&sample.totals, &sample.clients, &sample.process);
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "node": sample.node,
        "uptime_seconds": sample.uptime.as_secs(),
        "ready": sample.ready,
        "degraded": sample.degraded,
        "clients": clients.connected,
        "clients_peak": clients.peak,
        "sessions_offline": clients.offline,
        "subscriptions": sample.subscriptions,
        "retained": sample.retained,
        "in_flight": clients.in_flight,
        "queued": clients.queued,
        "queued_bytes": clients.queued_bytes,
        "connects": totals.connected(),
        "refused": totals.refused(),
        "connects_by_version": by(Version::ALL.map(|version| (version_name(version), Count::Connected(version))), totals),
        "refused_by_reason": reasons(totals, Count::ConnAck),
        "closed_early": by(Early::ALL.map(|(early, name)| (name, Count::Closed(early))), totals),
        "ends": ends(totals),
        "messages": {
            "received": totals.received(),
            "delivered": totals.sent(),
            "dropped": totals.dropped(),
            "received_by_qos": QOS.map(|qos| totals.of(Count::Received(qos))),
            "delivered_by_qos": QOS.map(|qos| totals.of(Count::Sent(qos))),
            "dropped_by_cause": by(Cause::ALL.map(|(cause, name)| (name, Count::Dropped(cause))), totals),
        },
        "packets": { "received": totals.packets_in(), "sent": totals.packets_out() },
        "bytes": { "received": totals.of(Count::BytesIn), "sent": totals.of(Count::BytesOut) },
        "listeners": sample.listeners.iter().map(|listener| json!({
            "address": listener.address, "open": listener.open, "accepted": listener.accepted,
            "turned_away": listener.turned_away, "certificates_problem": listener.certificates_problem,
        })).collect::<Vec<_>>(),
        "process": {
            "resident_bytes": process.resident,
            "resident_peak_bytes": process.resident_peak,
            "open_files": process.open_files,
            "threads": process.threads,
            "cpu_milliseconds": process.cpu_milliseconds,
        },
        "cluster": cluster(sample),
    })
}

fn cluster(sample: &Sample) -> Option<Value> {
    let cluster = sample.cluster.as_ref()?;
    Some(json!({
        "node": cluster.node,
        "connected": cluster.connected,
        "batches": cluster.batches,
        "commands": cluster.commands,
        "sent": cluster.sent,
        "received": cluster.received,
        "dropped": cluster.dropped,
    }))
}

fn by<'n>(counts: impl IntoIterator<Item = (&'n str, Count)>, totals: &Totals) -> Map<String, Value> {
    counts.into_iter().map(|(name, what)| (name.to_owned(), totals.of(what).into())).collect()
}

/// Failures that happened, in the words of the specification.
fn reasons(totals: &Totals, of: impl Fn(ReasonCode) -> Count) -> Map<String, Value> {
    let failures = ReasonCode::ALL.iter().filter(|reason| reason.is_failure());
    let counted = failures.map(|reason| (reason.text().to_owned(), totals.of(of(*reason))));
    counted.filter(|(_, number)| *number > 0).map(|(name, number)| (name, number.into())).collect()
}

fn ends(totals: &Totals) -> Map<String, Value> {
    let mut all = reasons(totals, |reason| Count::Ended(Ended::ByServer(reason)));
    all.insert("by client".to_owned(), totals.of(Count::Ended(Ended::ByClient)).into());
    all.insert("lost".to_owned(), totals.of(Count::Ended(Ended::Lost)).into());
    all
}
