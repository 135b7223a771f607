//! `[limits]` and `[listen.limits]`: how much of everything one client may take, and all together.

use std::ops::RangeInclusive;
use std::time::Duration;

use nsd_edge::config::Table;

use crate::limits::{Limits, QueuePolicy};

const DEADLINES: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(600);
const EXPIRIES: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(0xffff_fffe);
/// What the wire format can say at most.
const MOST_BYTES: u64 = 268_435_455;

/// They bound what all clients share, or queues, which outlive connections and are filled by other nodes, too.
const OF_THE_NODE: [&str; 8] = [
    "queue_messages",
    "queue_bytes",
    "queue_policy",
    "sessions",
    "subscriptions",
    "retained",
    "retained_bytes",
    "memory",
];
/// Before a connection is a client.
const OF_THE_ENTRY: [&str; 6] = [
    "connections",
    "connections_per_address",
    "connect_rate",
    "handshakes",
    "handshake_deadline",
    "tcp_user_timeout",
];

/// `[limits]`.
pub(super) fn read(mut table: Table<'_, '_>) -> Limits {
    let policies = [
        ("drop-oldest", QueuePolicy::DropOldest),
        ("drop-newest", QueuePolicy::DropNewest),
        ("disconnect", QueuePolicy::Disconnect),
    ];
    let default = Limits::default();
    let limits = of_clients(&mut table, &default);
    let limits = Limits {
        queue_messages: size(&mut table, "queue_messages", 1, 10_000_000).unwrap_or(default.queue_messages),
        queue_bytes: size(&mut table, "queue_bytes", 1024, 1 << 40).unwrap_or(default.queue_bytes),
        queue_policy: table.choice("queue_policy", &policies).unwrap_or(default.queue_policy),
        sessions: size(&mut table, "sessions", 0, 1_000_000_000).unwrap_or(default.sessions),
        subscriptions: size(&mut table, "subscriptions", 1, 1_000_000_000).unwrap_or(default.subscriptions),
        retained: size(&mut table, "retained", 0, 1_000_000_000).unwrap_or(default.retained),
        retained_bytes: size(&mut table, "retained_bytes", 0, 1 << 50).unwrap_or(default.retained_bytes),
        memory: size(&mut table, "memory", 1024 * 1024, 1 << 50).unwrap_or(default.memory),
        ..limits
    };
    for key in OF_THE_ENTRY {
        table.refuse(key, "is a limit of each listener: write it into its `[[listen]]`");
    }
    table.finish();
    limits
}

/// `[listen.limits]`: what holds for clients of one listener instead of the limits of all.
pub(super) fn read_own(mut table: Table<'_, '_>, all: &Limits) -> Limits {
    let limits = of_clients(&mut table, all);
    for key in OF_THE_NODE {
        table.refuse(key, "is a limit of the whole node, not of a listener: write it into `[limits]`");
    }
    for key in OF_THE_ENTRY {
        table.refuse(key, "stands in `[[listen]]` itself, not in its `limits`");
    }
    table.finish();
    limits
}

/// What one client may do as long as it is connected.
fn of_clients(table: &mut Table<'_, '_>, default: &Limits) -> Limits {
    Limits {
        connect_deadline: table.duration("connect_deadline", &DEADLINES).unwrap_or(default.connect_deadline),
        packet_bytes: size(table, "packet_bytes", 1024, MOST_BYTES).unwrap_or(default.packet_bytes),
        topic_levels: size(table, "topic_levels", 1, 1024).unwrap_or(default.topic_levels),
        topic_aliases: short(table, "topic_aliases", 0).unwrap_or(default.topic_aliases),
        receive_maximum: short(table, "receive_maximum", 1).unwrap_or(default.receive_maximum),
        send_window: short(table, "send_window", 1).unwrap_or(default.send_window),
        keep_alive: short(table, "keep_alive", 0).unwrap_or(default.keep_alive),
        subscriptions_per_client: size(table, "subscriptions_per_client", 1, 10_000_000)
            .unwrap_or(default.subscriptions_per_client),
        subscription_bytes: size(table, "subscription_bytes", 1024, 1 << 30)
            .unwrap_or(default.subscription_bytes),
        messages_per_second: rate(table, "messages_per_second").unwrap_or(default.messages_per_second),
        bytes_per_second: size(table, "bytes_per_second", 0, 1 << 40).unwrap_or(default.bytes_per_second),
        session_expiry: table.duration("session_expiry", &EXPIRIES).unwrap_or(default.session_expiry),
        ..default.clone()
    }
}

fn size(table: &mut Table<'_, '_>, key: &'static str, least: u64, most: u64) -> Option<usize> {
    table.number(key, least, most).and_then(|number| usize::try_from(number).ok())
}

fn rate(table: &mut Table<'_, '_>, key: &'static str) -> Option<u32> {
    table.number(key, 0, 1_000_000_000).and_then(|number| u32::try_from(number).ok())
}

fn short(table: &mut Table<'_, '_>, key: &'static str, least: u64) -> Option<u16> {
    table.number(key, least, u16::MAX.into()).and_then(|number| u16::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use super::OF_THE_NODE;
    use crate::limits::Limits;
    use crate::settings::parse;

    const TEXT: &str = include_str!("../../../docs/broker-limits.md");
    const LISTEN: &str = "[[listen]]\naddress = \"0.0.0.0:1\"\n";

    #[test]
    fn the_document_names_every_key_and_its_default() {
        let told = parse(&format!("{LISTEN}[limits]\nzzzzzzzzzzzzzzzz = 1\n")).unwrap_err()[0].to_string();
        let (_, keys) = told.split_once("known here are ").unwrap();
        assert!(keys.split(", ").count() >= 20, "{keys}");
        for key in keys.split(", ") {
            let row = TEXT.lines().find(|line| line.starts_with('|') && line.contains(&format!("`{key}`")));
            assert!(row.is_some(), "{key} is not documented");
        }
        let default = Limits::default();
        for (key, value) in [
            ("packet_bytes", default.packet_bytes),
            ("topic_levels", default.topic_levels),
            ("topic_aliases", default.topic_aliases.into()),
            ("receive_maximum", default.receive_maximum.into()),
            ("send_window", default.send_window.into()),
            ("subscriptions_per_client", default.subscriptions_per_client),
            ("subscription_bytes", default.subscription_bytes),
            ("queue_messages", default.queue_messages),
            ("queue_bytes", default.queue_bytes),
            ("sessions", default.sessions),
            ("subscriptions", default.subscriptions),
            ("retained", default.retained),
            ("retained_bytes", default.retained_bytes),
            ("memory", default.memory),
        ] {
            let row = TEXT.lines().find(|line| line.starts_with('|') && line.contains(&format!("`{key}`")));
            assert!(row.unwrap().contains(&value.to_string()), "{key} is {value}");
        }
    }

    #[test]
    fn the_document_tells_which_of_them_a_listener_may_have() {
        let told =
            parse(&format!("{LISTEN}[listen.limits]\nzzzzzzzzzzzzzzzz = 1\n")).unwrap_err()[0].to_string();
        let (_, keys) = told.split_once("known here are ").unwrap();
        let (_, section) = TEXT.split_once("### One client\n").unwrap();
        let rows = section.split("\n###").next().unwrap().lines().filter_map(|line| line.strip_prefix("| `"));
        let mut documented: Vec<_> = rows.filter_map(|row| row.split('`').next()).collect();
        let mut keys: Vec<_> = keys.split(", ").collect();
        documented.sort_unstable();
        keys.sort_unstable();
        assert_eq!(documented, keys);
        for key in OF_THE_NODE {
            let told = parse(&format!("{LISTEN}[listen.limits]\n{key} = 1\n")).unwrap_err()[0].to_string();
            assert!(
                told.starts_with(&format!("4: listen.limits.{key}: is a limit of the whole node")),
                "{told}"
            );
        }
    }

    #[test]
    fn a_key_that_belongs_to_a_listener_is_sent_there() {
        let told = parse(&format!("{LISTEN}[limits]\nconnections = 1\n")).unwrap_err()[0].to_string();
        assert!(told.starts_with("4: limits.connections: is a limit of each listener"), "{told}");
    }

    #[test]
    fn the_documents_examples_are_right() {
        let example = |which| TEXT.split("```toml\n").nth(which).and_then(|rest| rest.split("```").next());
        let limits = parse(&format!("{LISTEN}{}", example(1).unwrap())).unwrap().limits;
        assert_eq!((limits.packet_bytes, limits.messages_per_second), (262_144, 50));
        assert_eq!(limits.retained, Limits::default().retained);
        let settings = parse(example(2).unwrap()).unwrap();
        let own = |at: usize| {
            let limits = &settings.listen[at].limits;
            (limits.packet_bytes, limits.messages_per_second, limits.receive_maximum)
        };
        let default = Limits::default();
        assert_eq!(own(0), (default.packet_bytes, 10, default.receive_maximum));
        assert_eq!(own(1), (16_777_216, 0, 8192));
    }
}
