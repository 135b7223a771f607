//! A sample as Prometheus reads it: text format 0.0.4, one family after another, each with its help and its type. Pure.

use nsd_edge::metrics::{COUNTER, GAUGE, Page, label};
use nsd_wire::frame::PacketType;
use nsd_wire::{ReasonCode, Version};

use super::count::{Cause, Count, Early, Ended, QOS};
use super::sample::Sample;

/// The whole page.
pub fn page(sample: &Sample) -> String {
    let mut page = Page::new("nsd_broker");
    broker(&mut page, sample);
    connections(&mut page, sample);
    messages(&mut page, sample);
    sessions(&mut page, sample);
    cluster(&mut page, sample);
    page.process(&sample.process);
    page.into_text()
}

fn broker(page: &mut Page, sample: &Sample) {
    let labels = format!("{},{}", label("version", env!("CARGO_PKG_VERSION")), label("node", &sample.node));
    page.family("info", GAUGE, "Which broker this is; the value is always 1.", [(labels, 1)]);
    page.one("uptime_seconds", GAUGE, "Time since the start.", sample.uptime.as_secs());
    page.one("ready", GAUGE, "1 while clients may come.", u8::from(sample.ready));
    page.one(
        "degraded",
        GAUGE,
        "1 while something is missing that clients do not need at once.",
        u8::from(sample.degraded),
    );
}

fn connections(page: &mut Page, sample: &Sample) {
    let totals = &sample.totals;
    let listener = |of: fn(&super::ListenerSample) -> u64| {
        sample.listeners.iter().map(move |listener| (label("listener", listener.address), of(listener)))
    };
    page.family(
        "listener_connections",
        GAUGE,
        "Open connections by listener.",
        listener(|listener| listener.open),
    );
    page.family(
        "listener_connections_accepted_total",
        COUNTER,
        "Connections accepted by listener.",
        listener(|listener| listener.accepted),
    );
    page.family(
        "connections_closed_early_total",
        COUNTER,
        "Connections closed before there was a client, by cause.",
        Early::ALL.map(|(early, name)| (label("cause", name), totals.of(Count::Closed(early)))),
    );
    page.one("clients_connected", GAUGE, "Clients connected now.", sample.clients.connected);
    page.one(
        "clients_connected_peak",
        GAUGE,
        "The most clients that were ever connected at once.",
        sample.clients.peak,
    );
    page.family(
        "clients_connected_total",
        COUNTER,
        "Clients let in, by protocol version.",
        Version::ALL
            .map(|version| (label("version", version_name(version)), totals.of(Count::Connected(version)))),
    );
    let connack = |reason: &ReasonCode| (code(*reason), totals.of(Count::ConnAck(*reason)));
    page.family(
        "connack_total",
        COUNTER,
        "CONNACK packets by reason code; every code but 0x00 is a refusal.",
        ReasonCode::ALL.iter().filter(|reason| reason.belongs_to(PacketType::ConnAck)).map(connack),
    );
    let ended = ReasonCode::ALL
        .iter()
        .filter(|reason| reason.is_failure() && reason.belongs_to(PacketType::Disconnect));
    let ended = ended.map(|reason| (code(*reason), totals.of(Count::Ended(Ended::ByServer(*reason)))));
    let own = [
        (r#"code="0x00",reason="by client""#.to_owned(), totals.of(Count::Ended(Ended::ByClient))),
        (r#"code="",reason="lost""#.to_owned(), totals.of(Count::Ended(Ended::Lost))),
    ];
    page.family(
        "disconnects_total",
        COUNTER,
        "Ends of clients' connections by reason.",
        own.into_iter().chain(ended),
    );
    page.one("bytes_received_total", COUNTER, "Bytes from clients.", totals.of(Count::BytesIn));
    page.one("bytes_sent_total", COUNTER, "Bytes to clients.", totals.of(Count::BytesOut));
}

fn messages(page: &mut Page, sample: &Sample) {
    let totals = &sample.totals;
    let packets = |of: fn(PacketType) -> Count| {
        PacketType::ALL.map(move |kind| (label("type", packet_name(kind)), totals.of(of(kind))))
    };
    page.family(
        "packets_received_total",
        COUNTER,
        "MQTT packets from clients by type.",
        packets(Count::PacketIn),
    );
    page.family("packets_sent_total", COUNTER, "MQTT packets to clients by type.", packets(Count::PacketOut));
    let by_qos =
        |of: fn(nsd_wire::Qos) -> Count| QOS.map(|qos| (label("qos", qos as u8), totals.of(of(qos))));
    page.family("messages_received_total", COUNTER, "Messages from clients by QoS.", by_qos(Count::Received));
    page.family("messages_sent_total", COUNTER, "Messages to clients by QoS.", by_qos(Count::Sent));
    page.family(
        "messages_dropped_total",
        COUNTER,
        "Messages that did not reach a receiver, by cause.",
        Cause::ALL.map(|(cause, name)| (label("cause", name), totals.of(Count::Dropped(cause)))),
    );
    page.one(
        "payload_bytes_received_total",
        COUNTER,
        "Payload bytes from clients.",
        totals.of(Count::PayloadIn),
    );
    page.one("payload_bytes_sent_total", COUNTER, "Payload bytes to clients.", totals.of(Count::PayloadOut));
}

fn sessions(page: &mut Page, sample: &Sample) {
    let (totals, clients) = (&sample.totals, &sample.clients);
    let states = [("connected", clients.connected), ("offline", clients.offline)];
    page.family(
        "sessions",
        GAUGE,
        "Sessions whose client is connected, and those whose client is away.",
        states.map(|(state, number)| (label("state", state), number)),
    );
    page.one(
        "sessions_expired_total",
        COUNTER,
        "Sessions whose time has run out.",
        totals.of(Count::SessionExpired),
    );
    page.one(
        "messages_in_flight",
        GAUGE,
        "QoS 1 and 2 messages sent and not yet acknowledged.",
        clients.in_flight,
    );
    page.one("messages_queued", GAUGE, "Messages that wait for their client.", clients.queued);
    page.one(
        "messages_queued_bytes",
        GAUGE,
        "Bytes of messages that wait for their client.",
        clients.queued_bytes,
    );
    page.one("subscriptions", GAUGE, "Subscriptions of all sessions.", sample.subscriptions);
    page.one("subscribed_total", COUNTER, "Filters subscribed to.", totals.of(Count::Subscribed));
    page.one("unsubscribed_total", COUNTER, "Filters unsubscribed from.", totals.of(Count::Unsubscribed));
    page.one("retained", GAUGE, "Topics with a retained message, without the broker's own.", sample.retained);
}

fn cluster(page: &mut Page, sample: &Sample) {
    let Some(cluster) = &sample.cluster else { return };
    page.one("cluster_connected", GAUGE, "1 while Redis answers.", u8::from(cluster.connected));
    page.one("cluster_batches_total", COUNTER, "Batches written to Redis.", cluster.batches);
    page.one("cluster_commands_total", COUNTER, "Commands sent to Redis.", cluster.commands);
    page.one("cluster_messages_sent_total", COUNTER, "Messages handed to other nodes.", cluster.sent);
    page.one("cluster_messages_received_total", COUNTER, "Messages got from other nodes.", cluster.received);
    page.one(
        "cluster_messages_dropped_total",
        COUNTER,
        "QoS 0 messages not handed to other nodes.",
        cluster.dropped,
    );
}

/// A reason code as it is written everywhere else, with its words.
fn code(reason: ReasonCode) -> String {
    format!("{},{}", label("code", format!("0x{:02x}", reason as u8)), label("reason", reason.text()))
}

pub(crate) fn version_name(version: Version) -> &'static str {
    match version {
        Version::V31 => "3.1",
        Version::V311 => "3.1.1",
        Version::V5 => "5.0",
    }
}

fn packet_name(kind: PacketType) -> String {
    format!("{kind:?}").to_lowercase()
}
