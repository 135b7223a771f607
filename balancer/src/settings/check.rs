//! `check = { … }` of a backend: how its servers are asked whether they are well.

use std::time::Duration;

use nsd_edge::config::Table;

use crate::limits;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub kind: CheckKind,
    pub interval: Duration,
    pub timeout: Duration,
    /// Successes in a row that bring a server back.
    pub rise: u32,
    /// Failures in a row that take it out.
    pub fall: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckKind {
    /// No checks; only failed connections take a server out, and a TCP connection brings it back.
    None,
    /// The port takes connections.
    Tcp,
    /// The broker answers a CONNECT.
    Mqtt,
}

impl Default for Check {
    fn default() -> Self {
        let (interval, timeout) = (Duration::from_secs(2), Duration::from_secs(1));
        Self { kind: CheckKind::Tcp, interval, timeout, rise: 2, fall: 2 }
    }
}

pub(super) fn read(table: &mut Table<'_, '_>) -> Check {
    let Some(mut table) = table.table("check") else { return Check::default() };
    let check = read_keys(&mut table);
    table.finish();
    check
}

fn read_keys(table: &mut Table<'_, '_>) -> Check {
    let default = Check::default();
    let kinds = [("none", CheckKind::None), ("tcp", CheckKind::Tcp), ("mqtt", CheckKind::Mqtt)];
    let mut count = |key| table.number(key, 1, 100).and_then(|count| u32::try_from(count).ok());
    let (rise, fall) = (count("rise").unwrap_or(default.rise), count("fall").unwrap_or(default.fall));
    Check {
        kind: table.choice("kind", &kinds).unwrap_or(default.kind),
        interval: table.duration("interval", &limits::DURATIONS).unwrap_or(default.interval),
        timeout: table.duration("timeout", &limits::DURATIONS).unwrap_or(default.timeout),
        rise,
        fall,
    }
}
