//! `mode` and `[listen.gate]`: whether and how the CONNECTs of a frontend are judged.

use std::ops::RangeInclusive;
use std::time::Duration;

use nsd_edge::config::Table;
use nsd_wire::Version;

use super::{CheckKind, HttpSettings, http};
use crate::gate::rates::Rate;
use crate::gate::{CONNECT_SIZES, GateRules};
use crate::limits;

/// Where a client without keep alive may be silent for so long. Less would cut those that speak each second; more than a
/// week of silence is no client any more, or a slip of the unit.
const SILENCES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3600);
/// Longer keep alives do not fit a CONNECT.
const KEEP_ALIVES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(65_535);
const MAX_RATE: u64 = 1_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Mqtt,
    Tcp,
    Http,
}

/// How what clients send is read; neither: not at all.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) gate: Option<GateRules>,
    pub(super) http: Option<HttpSettings>,
}

/// Unless the section says otherwise, clients are taken for MQTT's where the servers are checked for MQTT.
pub(super) fn read(table: &mut Table<'_, '_>, check: Option<CheckKind>) -> Reading {
    let told = table.choice("mode", &[("mqtt", Mode::Mqtt), ("tcp", Mode::Tcp), ("http", Mode::Http)]);
    let by_check = if check == Some(CheckKind::Mqtt) { Mode::Mqtt } else { Mode::Tcp };
    let mode = told.unwrap_or(by_check);
    let rules = table.table("gate").map(|mut gate| {
        let rules = read_rules(&mut gate);
        gate.finish();
        rules
    });
    let http = table.table("http").map(|mut http| {
        let settings = http::read(&mut http);
        http.finish();
        settings
    });
    if rules.is_some() && mode != Mode::Mqtt {
        table.problem("gate", "only MQTT has a CONNECT to judge; add `mode = \"mqtt\"`");
    }
    if http.is_some() && mode != Mode::Http {
        table.problem("http", "only HTTP has requests; add `mode = \"http\"`");
    }
    match mode {
        Mode::Mqtt => Reading { gate: Some(rules.unwrap_or_default()), ..Reading::default() },
        Mode::Http => Reading { http: Some(http.unwrap_or_default()), ..Reading::default() },
        Mode::Tcp => Reading::default(),
    }
}

fn read_rules(table: &mut Table<'_, '_>) -> GateRules {
    let default = GateRules::default();
    let versions = read_versions(table, "versions");
    if versions.is_none() && table.has("versions") {
        table.problem("versions", "without a version no client can come");
    }
    let size = |value: u64| usize::try_from(value).ok();
    let (least, most) = (*CONNECT_SIZES.start() as u64, *CONNECT_SIZES.end() as u64);
    GateRules {
        deadline: table.duration("deadline", &limits::DURATIONS).unwrap_or(default.deadline),
        answer_timeout: table
            .duration("answer_timeout", &limits::DURATIONS)
            .unwrap_or(default.answer_timeout),
        max_connect: table.number("max_connect", least, most).and_then(size).unwrap_or(default.max_connect),
        versions: versions.unwrap_or(default.versions),
        max_client_id: table
            .number("max_client_id", 1, u64::from(u16::MAX))
            .and_then(size)
            .unwrap_or(default.max_client_id),
        empty_client_id: table.boolean("empty_client_id").unwrap_or(default.empty_client_id),
        require_user_name: table.boolean("require_user_name").unwrap_or(default.require_user_name),
        max_keep_alive: table
            .duration("max_keep_alive", &KEEP_ALIVES)
            .and_then(|longest| u16::try_from(longest.as_secs()).ok()),
        source_rate: read_rate(table, "source_rate"),
        client_rate: read_rate(table, "client_rate"),
        keep_alive_grace: table
            .duration("keep_alive_grace", &limits::DURATIONS)
            .unwrap_or(default.keep_alive_grace),
        silent_after: table.duration("silent_after", &SILENCES),
    }
}

pub(super) fn read_versions(table: &mut Table<'_, '_>, key: &'static str) -> Option<Vec<Version>> {
    let known = [("3.1", Version::V31), ("3.1.1", Version::V311), ("5", Version::V5)];
    let mut versions = Vec::new();
    for text in table.strings(key) {
        match known.iter().find(|(name, _)| *name == text) {
            Some((_, version)) => versions.push(*version),
            None => table.problem(key, format!("`{text}` is none of 3.1, 3.1.1, 5")),
        }
    }
    (!versions.is_empty()).then_some(versions)
}

/// `{ per_minute = 60, burst = 10 }`; the burst is the whole minute's unless told.
pub(super) fn read_rate(table: &mut Table<'_, '_>, key: &'static str) -> Option<Rate> {
    let mut rate = table.table(key)?;
    rate.require("per_minute");
    let mut number = |key| rate.number(key, 1, MAX_RATE).and_then(|number| u32::try_from(number).ok());
    let (per_minute, burst) = (number("per_minute"), number("burst"));
    rate.finish();
    Some(Rate { per_minute: per_minute?, burst: burst.or(per_minute)? })
}
