//! A sample as `$SYS` topics, under the names that dashboards know: Mosquitto's (`$SYS/broker/…`) and Mosca's
//! (`$SYS/NODE/…`). Pure: topic → value.

use nsd_wire::ReasonCode;

use super::count::{Count, Totals};
use super::rates::{Rates, SPANS};
use super::sample::Sample;

/// What has load averages: its Mosquitto name under `load/`.
const LOADS: [&str; 9] = [
    "messages/received",
    "messages/sent",
    "publish/received",
    "publish/sent",
    "publish/dropped",
    "bytes/received",
    "bytes/sent",
    "sockets",
    "connections",
];
const PUBLISH_RECEIVED: usize = 2;
const CONNECTIONS: usize = 8;

/// The averages of all that has some.
pub type Loads = Rates<{ LOADS.len() }>;

/// The counters behind the averages.
pub fn counters(totals: &Totals) -> [u64; LOADS.len()] {
    [
        totals.packets_in(),
        totals.packets_out(),
        totals.received(),
        totals.sent(),
        totals.dropped(),
        totals.of(Count::BytesIn),
        totals.of(Count::BytesOut),
        totals.of(Count::Accepted),
        totals.of(Count::ConnAck(ReasonCode::Success)),
    ]
}

/// Every topic with its value.
pub fn topics(sample: &Sample, loads: &Loads) -> Vec<(String, String)> {
    let mut all: Vec<_> =
        mosquitto(sample).into_iter().map(|(name, value)| (format!("$SYS/broker/{name}"), value)).collect();
    for (index, name) in LOADS.iter().enumerate() {
        for ((_, span), average) in SPANS.iter().zip(loads.of(index)) {
            all.push((format!("$SYS/broker/load/{name}/{span}"), format!("{average:.2}")));
        }
    }
    all.extend(
        mosca(sample, loads)
            .into_iter()
            .map(|(name, value)| (format!("$SYS/{}/{name}", level(&sample.node)), value)),
    );
    all
}

/// Mosca's topics have the node's name as a level of their own.
pub(super) fn level(node: &str) -> String {
    node.replace(['/', '+', '#', '\0'], "-")
}

fn version() -> String {
    format!("nsd-broker {}", env!("CARGO_PKG_VERSION"))
}

fn mosquitto(sample: &Sample) -> Vec<(&'static str, String)> {
    let (totals, clients, process) = (&sample.totals, &sample.clients, &sample.process);
    let number = |value: u64| value.to_string();
    vec![
        ("version", version()),
        ("uptime", format!("{} seconds", sample.uptime.as_secs())),
        ("clients/total", number(clients.connected + clients.offline)),
        ("clients/connected", number(clients.connected)),
        ("clients/active", number(clients.connected)),
        ("clients/disconnected", number(clients.offline)),
        ("clients/inactive", number(clients.offline)),
        ("clients/maximum", number(clients.peak)),
        ("clients/expired", number(totals.of(Count::SessionExpired))),
        ("messages/received", number(totals.packets_in())),
        ("messages/sent", number(totals.packets_out())),
        ("messages/inflight", number(clients.in_flight)),
        ("messages/stored", number(sample.retained + clients.queued)),
        ("store/messages/count", number(sample.retained + clients.queued)),
        ("store/messages/bytes", number(clients.queued_bytes)),
        ("publish/messages/received", number(totals.received())),
        ("publish/messages/sent", number(totals.sent())),
        ("publish/messages/dropped", number(totals.dropped())),
        ("publish/bytes/received", number(totals.of(Count::PayloadIn))),
        ("publish/bytes/sent", number(totals.of(Count::PayloadOut))),
        ("bytes/received", number(totals.of(Count::BytesIn))),
        ("bytes/sent", number(totals.of(Count::BytesOut))),
        ("subscriptions/count", number(sample.subscriptions.saturating_sub(sample.shared_subscriptions))),
        ("shared_subscriptions/count", number(sample.shared_subscriptions)),
        ("retained messages/count", number(sample.retained)),
        ("heap/current", number(process.anonymous)),
        ("heap/maximum", number(process.resident_peak)),
    ]
}

fn mosca(sample: &Sample, loads: &Loads) -> Vec<(String, String)> {
    let (totals, clients, process) = (&sample.totals, &sample.clients, &sample.process);
    let mut all: Vec<(String, String)> = [
        ("version", version()),
        ("started_at", humantime::format_rfc3339_millis(sample.started).to_string()),
        ("uptime", format!("{} seconds", sample.uptime.as_secs())),
        ("clients/maximum", clients.peak.to_string()),
        ("clients/connected", clients.connected.to_string()),
        ("publish/received", totals.received().to_string()),
        ("memory/rss", process.resident.to_string()),
        ("memory/heap/current", process.anonymous.to_string()),
        ("memory/heap/maximum", process.resident_peak.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    for (index, name) in [(CONNECTIONS, "connections"), (PUBLISH_RECEIVED, "publish/received")] {
        for ((_, span), average) in SPANS.iter().zip(loads.of(index)) {
            all.push((format!("load/{name}/{span}"), format!("{average:.2}")));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::telemetry::{Clients, Process};

    fn sample() -> Sample {
        Sample {
            node: "mqtt/1".to_owned(),
            started: UNIX_EPOCH,
            uptime: Duration::from_secs(61),
            ready: true,
            degraded: false,
            totals: Totals::now(),
            process: Process::default(),
            clients: Clients { connected: 3, peak: 5, offline: 2, in_flight: 1, queued: 4, queued_bytes: 99 },
            subscriptions: 7,
            shared_subscriptions: 2,
            retained: 6,
            listeners: Vec::new(),
            cluster: None,
        }
    }

    #[test]
    fn the_names_that_dashboards_know() {
        let all = topics(&sample(), &Loads::default());
        let value = |topic: &str| {
            let found = all.iter().find(|(name, _)| name == topic);
            found.unwrap_or_else(|| panic!("no {topic}")).1.clone()
        };
        for (topic, expected) in [
            ("$SYS/broker/uptime", "61 seconds"),
            ("$SYS/broker/clients/total", "5"),
            ("$SYS/broker/clients/connected", "3"),
            ("$SYS/broker/clients/maximum", "5"),
            ("$SYS/broker/clients/disconnected", "2"),
            ("$SYS/broker/subscriptions/count", "5"),
            ("$SYS/broker/shared_subscriptions/count", "2"),
            ("$SYS/broker/retained messages/count", "6"),
            ("$SYS/broker/store/messages/bytes", "99"),
            ("$SYS/broker/load/connections/15min", "0.00"),
            ("$SYS/mqtt-1/uptime", "61 seconds"),
            ("$SYS/mqtt-1/started_at", "1970-01-01T00:00:00.000Z"),
            ("$SYS/mqtt-1/clients/connected", "3"),
            ("$SYS/mqtt-1/load/publish/received/5min", "0.00"),
        ] {
            assert_eq!(value(topic), expected, "{topic}");
        }
        assert!(value("$SYS/broker/version").starts_with("nsd-broker "));
    }

    #[test]
    fn each_topic_once_and_fit_to_be_published() {
        let all = topics(&sample(), &Loads::default());
        let names: HashSet<_> = all.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), all.len());
        assert!(all.iter().all(|(name, value)| !name.contains(['+', '#', '\0']) && !value.is_empty()));
    }

    #[test]
    fn a_node_called_broker_does_not_say_two_things_under_one_name() {
        // Both families have `uptime`, `version` and `clients/…`; they mean the same there.
        let all = topics(&Sample { node: "broker".to_owned(), ..sample() }, &Loads::default());
        for (name, value) in &all {
            assert!(all.iter().all(|(other, said)| other != name || said == value), "{name}");
        }
    }
}
