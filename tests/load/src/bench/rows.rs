//! The rows of both tables: what is done, what is compared, and the goal.

/// What is compared of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figure {
    /// CPU of the server per unit, microseconds.
    Cpu,
    /// The same in milliseconds, where the unit is large.
    CpuMillis,
    /// Growth of resident memory per unit, KiB.
    Memory,
    /// 99th percentile of latency, microseconds.
    P99,
    /// From the start to the last delivery, milliseconds.
    Time,
    /// Units a second. Its goal is what ours does at least, whatever the peer does.
    Rate,
}

impl Figure {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU µs each",
            Self::CpuMillis => "CPU ms per GB",
            Self::Memory => "KiB each",
            Self::P99 => "p99 µs",
            Self::Time => "ms until all came",
            Self::Rate => "a second",
        }
    }
}

/// What stands behind a proxy, or how a broker is asked itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    Broker,
    BrokerTls,
    /// A broker that keeps what it has on disk.
    BrokerDisk,
    Echo,
    EchoTls,
    Sink,
    Connack,
    ConnackTls,
}

/// One piece of work and the figures taken from it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// For `--only`.
    pub(crate) key: &'static str,
    pub(crate) work: &'static str,
    pub(crate) door: Door,
    /// Words for `nsd-load`, before target, pids and duration.
    pub(crate) load: &'static [&'static str],
    /// The run lasts a given time; otherwise its words bound it.
    pub(crate) timed: bool,
    /// Figure and goal, where one was set: the highest ratio to the peer, of a rate the lowest.
    pub(crate) figures: &'static [(Figure, Option<f64>)],
    /// Part of the quick run.
    pub(crate) smoke: bool,
}

const ROW: Row =
    Row { key: "", work: "", door: Door::Broker, load: &[], timed: true, figures: &[], smoke: false };

const TLS: [&str; 3] = ["--tls", "--insecure", "--x25519"];
/// Figures that nobody set a goal for.
const CPU: &[(Figure, Option<f64>)] = &[(Figure::Cpu, None)];

/// Against Mosquitto.
pub(crate) const BROKER: &[Row] = &[
    Row {
        key: "fan-in-0",
        work: "5 publishers → 1 subscriber, QoS 0",
        load: &["fan-in"],
        figures: &[(Figure::Cpu, Some(0.25))],
        smoke: true,
        ..ROW
    },
    Row {
        key: "fan-in-1",
        work: "5 publishers → 1 subscriber, QoS 1",
        load: &["fan-in", "--qos", "1"],
        figures: &[(Figure::Cpu, Some(0.09))],
        smoke: true,
        ..ROW
    },
    Row {
        key: "fan-in-2",
        work: "5 publishers → 1 subscriber, QoS 2",
        load: &["fan-in", "--qos", "2"],
        figures: &[(Figure::Cpu, Some(0.035))],
        ..ROW
    },
    Row {
        key: "fan-out-0",
        work: "1 publisher → 50 subscribers, QoS 0",
        load: &["fan-out"],
        figures: &[(Figure::Cpu, Some(0.14))],
        smoke: true,
        ..ROW
    },
    Row {
        key: "pairs-0",
        work: "50 pairs, QoS 0",
        load: &["pairs"],
        figures: &[(Figure::Cpu, Some(0.08))],
        ..ROW
    },
    Row {
        key: "paced",
        work: "50 pairs, QoS 0, 20 k/s in all",
        load: &["pairs", "--rate", "20000"],
        figures: &[(Figure::Cpu, Some(1.0)), (Figure::P99, Some(1.0))],
        ..ROW
    },
    Row {
        key: "connect",
        work: "connect + disconnect",
        load: &["connect", "--sources", "64"],
        figures: &[(Figure::Cpu, Some(1.0))],
        smoke: true,
        ..ROW
    },
    Row {
        key: "idle",
        work: "idle subscribed client",
        load: &["idle", "--counts", "2000,8000"],
        timed: false,
        figures: &[(Figure::Memory, Some(1.0))],
        ..ROW
    },
    Row {
        key: "pairs-0-1k",
        work: "50 pairs, QoS 0, 1 KiB",
        load: &["pairs", "--size", "1024"],
        figures: CPU,
        ..ROW
    },
    Row {
        key: "pairs-1-1k",
        work: "50 pairs, QoS 1, 1 KiB",
        load: &["pairs", "--qos", "1", "--size", "1024"],
        figures: CPU,
        ..ROW
    },
    Row {
        key: "pairs-0-64k",
        work: "50 pairs, QoS 0, 64 KiB",
        load: &["pairs", "--size", "65536"],
        figures: CPU,
        ..ROW
    },
    Row {
        key: "pairs-1-64k",
        work: "50 pairs, QoS 1, 64 KiB, 10 in flight",
        load: &["pairs", "--qos", "1", "--size", "65536", "--window", "10"],
        figures: CPU,
        ..ROW
    },
    Row {
        key: "retained",
        work: "100 k retained messages to a new subscriber of all",
        load: &["retained", "--topics", "100000"],
        timed: false,
        figures: &[(Figure::Cpu, None), (Figure::Time, None)],
        ..ROW
    },
    Row {
        key: "large-tree",
        work: "50 pairs beside 100 k other subscriptions, 1000 topics a pair",
        load: &["pairs", "--topics", "1000", "--bystanders", "100000"],
        figures: CPU,
        ..ROW
    },
    Row {
        key: "wide-tree",
        work: "50 pairs beside 100 k other subscriptions of 5000 clients",
        load: &["pairs", "--bystanders", "100000", "--bystander-filters", "20"],
        figures: CPU,
        ..ROW
    },
    Row {
        key: "large-match",
        work: "one topic, 5000 subscribers of 20 matching filters each",
        load: &[
            "fan-out",
            "--subscribers",
            "5000",
            "--filters",
            "20",
            "--messages",
            "15",
            "--rate",
            "1",
            "--duration",
            "30s",
        ],
        timed: false,
        figures: CPU,
        ..ROW
    },
    Row {
        key: "sessions-disk",
        work: "50 pairs, QoS 1, subscribers away, kept on disk",
        door: Door::BrokerDisk,
        load: &["pairs", "--qos", "1", "--away", "--messages", "100000", "--duration", "60s"],
        timed: false,
        figures: CPU,
        ..ROW
    },
    Row {
        key: "pairs-0-tls",
        work: "50 pairs, QoS 0, TLS",
        door: Door::BrokerTls,
        load: &["pairs", TLS[0], TLS[1], TLS[2]],
        figures: CPU,
        ..ROW
    },
];

/// Two nodes against one: publishers at the first, subscribers at the second. CPU is of all processes, Redis among them.
/// What one node keeps, it keeps on disk.
pub(crate) const CLUSTER: &[Row] = &[
    Row {
        key: "pairs-0",
        work: "50 pairs across nodes, QoS 0",
        load: &["pairs"],
        figures: &[(Figure::Cpu, Some(3.0))],
        smoke: true,
        ..ROW
    },
    Row {
        key: "sessions-1",
        work: "50 pairs across nodes, QoS 1, sessions kept",
        door: Door::BrokerDisk,
        load: &["pairs", "--qos", "1", "--kept"],
        figures: &[(Figure::Rate, Some(50_000.0)), (Figure::Cpu, None)],
        smoke: true,
        ..ROW
    },
    Row {
        key: "sessions-1-away",
        work: "50 pairs across nodes, QoS 1, subscribers away",
        door: Door::BrokerDisk,
        load: &["pairs", "--qos", "1", "--away", "--messages", "100000", "--duration", "60s"],
        timed: false,
        figures: &[(Figure::Rate, None), (Figure::Cpu, None)],
        ..ROW
    },
];

/// Against HAProxy.
pub(crate) const BALANCER: &[Row] = &[
    Row {
        key: "stream",
        work: "64-byte messages through and back, plain",
        door: Door::Echo,
        load: &["relay"],
        figures: &[(Figure::Cpu, Some(0.9))],
        smoke: true,
        ..ROW
    },
    Row {
        key: "stream-tls",
        work: "64-byte messages through and back, TLS",
        door: Door::EchoTls,
        load: &["relay", TLS[0], TLS[1], TLS[2]],
        figures: &[(Figure::Cpu, Some(0.9))],
        ..ROW
    },
    Row {
        key: "paced",
        work: "the same at 20 k/s over 100 connections",
        door: Door::Echo,
        load: &["relay", "--connections", "100", "--rate", "20000"],
        figures: &[(Figure::Cpu, Some(0.95)), (Figure::P99, Some(1.0))],
        ..ROW
    },
    Row {
        key: "paced-tls",
        work: "the same, TLS, 20 k/s over 100 connections",
        door: Door::EchoTls,
        load: &["relay", "--connections", "100", "--rate", "20000", TLS[0], TLS[1], TLS[2]],
        figures: &[(Figure::Cpu, None), (Figure::P99, None)],
        ..ROW
    },
    Row {
        key: "bulk",
        work: "bulk, 4 connections up",
        door: Door::Sink,
        load: &["bulk", "--gigabytes", "4"],
        timed: false,
        figures: &[(Figure::CpuMillis, Some(0.6))],
        ..ROW
    },
    Row {
        key: "connect",
        work: "new connection, CONNECT → CONNACK",
        door: Door::Connack,
        load: &["connect", "--sources", "64"],
        figures: &[(Figure::Cpu, Some(0.95))],
        smoke: true,
        ..ROW
    },
    Row {
        key: "handshake",
        work: "full TLS 1.3 handshake, CONNECT → CONNACK",
        door: Door::ConnackTls,
        load: &["connect", "--sources", "64", TLS[0], TLS[1], TLS[2]],
        figures: &[(Figure::Cpu, Some(0.65))],
        smoke: true,
        ..ROW
    },
    Row {
        key: "idle",
        work: "idle connection, plain",
        door: Door::Echo,
        load: &["idle", "--raw", "--counts", "2000,8000"],
        timed: false,
        figures: &[(Figure::Memory, Some(0.6))],
        ..ROW
    },
    Row {
        key: "idle-tls",
        work: "idle connection, TLS",
        door: Door::EchoTls,
        load: &["idle", "--raw", "--counts", "2000,8000", TLS[0], TLS[1], TLS[2]],
        timed: false,
        figures: &[(Figure::Memory, Some(0.45))],
        ..ROW
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::collections::HashSet;

    #[test]
    fn every_row_is_a_command_line_that_the_load_tool_takes() {
        for row in BROKER.iter().chain(CLUSTER).chain(BALANCER) {
            let words = ["nsd-load"].iter().chain(row.load);
            let parsed = nsd_load::cli::Cli::try_parse_from(words);
            assert!(parsed.is_ok(), "{}: {parsed:?}", row.work);
            assert!(!row.figures.is_empty(), "{}", row.work);
        }
    }

    #[test]
    fn keys_name_one_row_of_a_table() {
        for table in [BROKER, CLUSTER, BALANCER] {
            let keys: HashSet<_> = table.iter().map(|row| row.key).collect();
            assert_eq!(keys.len(), table.len());
        }
    }
}
