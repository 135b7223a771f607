//! `[limits]`: how much of everything one client may take.

use std::ops::RangeInclusive;
use std::time::Duration;

use nsd_edge::config::Table;

use crate::limits::{Limits, QueuePolicy};

const DEADLINES: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(600);
const EXPIRIES: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(0xffff_fffe);
/// What the wire format can say at most.
const MOST_BYTES: u64 = 268_435_455;

pub(super) fn read(mut table: Table<'_, '_>) -> Limits {
    let policies = [
        ("drop-oldest", QueuePolicy::DropOldest),
        ("drop-newest", QueuePolicy::DropNewest),
        ("disconnect", QueuePolicy::Disconnect),
    ];
    let default = Limits::default();
    let limits = Limits {
        connect_deadline: table.duration("connect_deadline", &DEADLINES).unwrap_or(default.connect_deadline),
        packet_bytes: size(&mut table, "packet_bytes", 1024, MOST_BYTES).unwrap_or(default.packet_bytes),
        topic_levels: size(&mut table, "topic_levels", 1, 1024).unwrap_or(default.topic_levels),
        subscriptions_per_client: size(&mut table, "subscriptions_per_client", 1, 10_000_000)
            .unwrap_or(default.subscriptions_per_client),
        subscription_bytes: size(&mut table, "subscription_bytes", 1024, 1 << 40)
            .unwrap_or(default.subscription_bytes),
        subscriptions: size(&mut table, "subscriptions", 1, 1_000_000_000).unwrap_or(default.subscriptions),
        receive_maximum: short(&mut table, "receive_maximum", 1).unwrap_or(default.receive_maximum),
        send_window: short(&mut table, "send_window", 1).unwrap_or(default.send_window),
        topic_aliases: short(&mut table, "topic_aliases", 0).unwrap_or(default.topic_aliases),
        keep_alive: short(&mut table, "keep_alive", 0).unwrap_or(default.keep_alive),
        session_expiry: table.duration("session_expiry", &EXPIRIES).unwrap_or(default.session_expiry),
        queue_messages: size(&mut table, "queue_messages", 1, 10_000_000).unwrap_or(default.queue_messages),
        queue_bytes: size(&mut table, "queue_bytes", 1024, 1 << 40).unwrap_or(default.queue_bytes),
        queue_policy: table.choice("queue_policy", &policies).unwrap_or(default.queue_policy),
        retained: size(&mut table, "retained", 0, 1_000_000_000).unwrap_or(default.retained),
        retained_bytes: size(&mut table, "retained_bytes", 0, 1 << 50).unwrap_or(default.retained_bytes),
        messages_per_second: rate(&mut table, "messages_per_second").unwrap_or(default.messages_per_second),
        bytes_per_second: size(&mut table, "bytes_per_second", 0, 1 << 40)
            .unwrap_or(default.bytes_per_second),
        sessions: size(&mut table, "sessions", 0, 1_000_000_000).unwrap_or(default.sessions),
        memory: size(&mut table, "memory", 1024 * 1024, 1 << 50).unwrap_or(default.memory),
    };
    table.finish();
    limits
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
    fn the_documents_example_is_right() {
        let example = TEXT.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let limits = parse(&format!("{LISTEN}{example}")).unwrap().limits;
        assert_eq!((limits.packet_bytes, limits.messages_per_second), (262_144, 50));
        assert_eq!(limits.retained, Limits::default().retained);
    }
}
