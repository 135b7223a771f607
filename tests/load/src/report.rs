//! What a run found, for people and for programs. The benchmark reads these very structs back from `--json`.

use std::fmt;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::usage::Usage;

/// One run's result. `unit` says what is counted; every `…_each` figure is per unit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The run in one line: pattern, sizes, target.
    pub what: String,
    /// In the singular: `delivered message`, `connection`, `GB`, `idle client`, …
    pub unit: String,
    pub count: f64,
    pub seconds: f64,
    pub rate: f64,
    pub delivery: Option<Delivery>,
    pub latency: Option<Latency>,
    pub server: Option<Server>,
    pub own_cpu_seconds: f64,
    pub failures: Failures,
}

/// What became of the messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    pub published: u64,
    /// What the subscribers should have got.
    pub expected: u64,
    pub delivered: u64,
    pub lost: u64,
    pub duplicates: u64,
    pub reordered: u64,
    pub strays: u64,
}

/// Microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub since: Since,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// From when a latency is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Since {
    /// The time a message was due, whatever the server did.
    Due,
    /// The time a message was queued: under full load it tells the length of queues rather than the speed of the server.
    Queued,
    /// The time a client asked, when it asks one thing at a time.
    Asked,
}

impl Since {
    fn label(self) -> &'static str {
        match self {
            Self::Due => "latency, from due time",
            Self::Queued => "time in queues",
            Self::Asked => "time to the answer",
        }
    }
}

impl Latency {
    /// From nanoseconds; nothing when nothing was recorded.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>, since: Since) -> Option<Self> {
        if histogram.is_empty() {
            return None;
        }
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        let max = histogram.max() as f64 / 1000.0;
        Some(Self { since, p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max })
    }
}

/// What the watched processes (`--pid`) used.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Server {
    pub pids: Vec<u32>,
    pub cpu_seconds: f64,
    pub cpu_us_each: f64,
    pub rss_kib_before: u64,
    pub rss_kib_after: u64,
    /// Growth of resident memory per unit; only where the run is about memory.
    pub rss_kib_each: Option<f64>,
}

impl Server {
    /// The difference of two readings, over `count` units.
    #[must_use]
    pub fn between(pids: &[u32], before: Usage, after: Usage, count: f64) -> Option<Self> {
        if pids.is_empty() {
            return None;
        }
        let cpu_seconds = after.cpu_seconds - before.cpu_seconds;
        Some(Self {
            pids: pids.to_vec(),
            cpu_seconds,
            cpu_us_each: if count > 0.0 { cpu_seconds * 1e6 / count } else { 0.0 },
            rss_kib_before: before.rss_kib,
            rss_kib_after: after.rss_kib,
            rss_kib_each: None,
        })
    }
}

/// Connections that failed or ended before they should.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    pub count: u64,
    /// The first one, in words.
    pub first: Option<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        let units = format!("{}s", self.unit);
        row(f, &units, &format!("{} in {:.2} s = {}/s", short(self.count), self.seconds, short(self.rate)))?;
        if let Some(delivery) = &self.delivery {
            row(f, "published", &short(delivery.published as f64))?;
            let lost = percent(delivery.lost, delivery.expected);
            row(f, "lost", &format!("{} of {} ({lost})", delivery.lost, short(delivery.expected as f64)))?;
            row(f, "twice, late, foreign", &delivery.oddities())?;
        }
        if let Some(latency) = &self.latency {
            row(f, latency.since.label(), &latency.to_string())?;
        }
        if let Some(server) = &self.server {
            server.rows(f, &self.unit)?;
        }
        let own = if self.count > 0.0 { self.own_cpu_seconds * 1e6 / self.count } else { 0.0 };
        row(f, "own CPU", &format!("{:.2} s = {} per {}", self.own_cpu_seconds, micros(own), self.unit))?;
        if self.failures.count > 0 {
            let first = self.failures.first.as_deref().unwrap_or("unknown");
            row(f, "failures", &format!("{}; the first: {first}", self.failures.count))?;
        }
        Ok(())
    }
}

impl Delivery {
    fn oddities(&self) -> String {
        format!("{}, {}, {}", self.duplicates, self.reordered, self.strays)
    }
}

impl Server {
    fn rows(&self, f: &mut fmt::Formatter<'_>, unit: &str) -> fmt::Result {
        let each = micros(self.cpu_us_each);
        row(f, "server CPU", &format!("{:.2} s = {each} per {unit}", self.cpu_seconds))?;
        let slope = self.rss_kib_each.map_or(String::new(), |each| format!(" = {each:.2} KiB per {unit}"));
        row(f, "server memory", &format!("{} → {} KiB{slope}", self.rss_kib_before, self.rss_kib_after))
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p90, p99, p999, max, .. } = self;
        write!(f, "p50 {p50:.0}  p90 {p90:.0}  p99 {p99:.0}  p99.9 {p999:.0}  max {max:.0} µs")
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, value: &str) -> fmt::Result {
    writeln!(f, "  {name:<24}{value}")
}

/// Pure: `1500.0` as `1500 µs`, a million as `1000 ms`.
fn micros(value: f64) -> String {
    match value {
        v if v >= 1e5 => format!("{:.0} ms", v / 1e3),
        v if v >= 1e3 => format!("{v:.0} µs"),
        v => format!("{v:.2} µs"),
    }
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "–".to_owned() } else { format!("{:.2} %", part as f64 * 100.0 / whole as f64) }
}

/// Pure: `1234567` as `1.23 M`.
#[must_use]
pub fn short(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{:.2} G", v / 1e9),
        v if v >= 1e6 => format!("{:.2} M", v / 1e6),
        v if v >= 1e4 => format!("{:.1} k", v / 1e3),
        v if v >= 100.0 || v.fract() == 0.0 => format!("{v:.0}"),
        v => format!("{v:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let shown: Vec<_> = [0.0, 7.0, 7.5, 123.4, 12_345.0, 2_500_000.0, 3.2e9].map(short).into();
        assert_eq!(shown, ["0", "7", "7.50", "123", "12.3 k", "2.50 M", "3.20 G"]);
    }

    #[test]
    fn cpu_is_divided_by_the_units_done() {
        let before = Usage { cpu_seconds: 1.0, rss_kib: 10 };
        let after = Usage { cpu_seconds: 3.0, rss_kib: 30 };
        let server = Server::between(&[1], before, after, 1_000_000.0).unwrap();
        assert!((server.cpu_us_each - 2.0).abs() < 1e-9);
        assert_eq!(Server::between(&[], before, after, 1.0), None);
    }

    #[test]
    fn a_report_survives_json_and_names_its_failures() {
        let report = Report {
            what: "pairs".into(),
            unit: "delivered message".into(),
            delivery: Some(Delivery { published: 4, expected: 4, lost: 1, ..Delivery::default() }),
            failures: Failures { count: 2, first: Some("connection refused".into()) },
            ..Report::default()
        };
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
        let shown = report.to_string();
        assert!(
            shown.contains("1 of 4 (25.00 %)") && shown.contains("2; the first: connection refused"),
            "{shown}"
        );
    }
}
