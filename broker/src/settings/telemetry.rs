//! `[sys]`, `[metrics]` and `[log]`: what the broker tells about itself, and where.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use nsd_edge::config::Table;
use nsd_edge::logs::{self, Format};

/// Zero: no `$SYS` topics.
const INTERVALS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(86_400);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telemetry {
    pub sys_interval: Duration,
    /// Mosca's event topics: who connects, subscribes, goes.
    pub sys_events: bool,
    /// Where Prometheus may ask; `None`: on the admin socket only.
    pub metrics: Option<SocketAddr>,
    pub log_format: Format,
    /// A filter: `info`, or `info,nsd_broker::door=debug`.
    pub log_level: String,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            sys_interval: Duration::from_secs(10),
            sys_events: false,
            metrics: None,
            log_format: Format::Text,
            log_level: "info".to_owned(),
        }
    }
}

pub(super) fn read(root: &mut Table<'_, '_>) -> Telemetry {
    let mut telemetry = Telemetry::default();
    if let Some(mut sys) = root.table("sys") {
        telemetry.sys_interval = sys.duration("interval", &INTERVALS).unwrap_or(telemetry.sys_interval);
        telemetry.sys_events = sys.boolean("events").unwrap_or(false);
        sys.finish();
    }
    if let Some(mut metrics) = root.table("metrics") {
        telemetry.metrics = metrics.parsed("listen", "127.0.0.1:9641");
        metrics.finish();
    }
    if let Some(mut log) = root.table("log") {
        let formats = [("text", Format::Text), ("json", Format::Json)];
        telemetry.log_format = log.choice("format", &formats).unwrap_or_default();
        if let Some(level) = log.string("level") {
            if let Err(what) = logs::check(&level) {
                log.problem(
                    "level",
                    format!("`{level}` is no level: {what}; write it like `info` or `warn,nsd_broker=debug`"),
                );
            }
            telemetry.log_level = level;
        }
        log.finish();
    }
    telemetry
}
