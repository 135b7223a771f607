//! The message patterns: who publishes, who hears whom, and what is reported.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use nsd_wire::Qos;

use crate::limits;
use crate::mqtt::{Identity, Publisher, Subscriber};
use crate::report::{Delivery, Latency, Report, Server, Since};
use crate::run::{self, Outcome, Setup};
use crate::target::Target;

/// What a publisher may have written and the server not read.
const SEND_BUFFER: usize = 64 * 1024;

/// Who hears whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// Every subscriber hears every publisher.
    Everyone { publishers: u32, subscribers: u32 },
    /// Every subscriber hears its own publisher.
    Pairs(u32),
}

/// What is published.
#[derive(Debug, Clone)]
pub struct Load {
    pub pattern: Pattern,
    pub qos: Qos,
    pub size: usize,
    pub window: u16,
    pub rate: Option<f64>,
    pub duration: Duration,
    pub messages: Option<u64>,
}

/// A client of a run.
#[derive(Debug)]
enum Client {
    Publisher(Publisher),
    Subscriber(Subscriber),
}

/// Runs the pattern against `target`.
pub fn measure(
    load: &Load,
    target: Target,
    identity: Identity,
    threads: usize,
    pids: &[u32],
) -> Result<Report> {
    let clients = clients(load, &identity);
    let timers = if load.rate.is_some() { load.pattern.publishers() } else { 0 };
    limits::allow_files(clients.len() + timers as usize)?;
    if let Some(messages) = load.messages {
        ensure!(messages >= u64::from(load.pattern.publishers()), "fewer messages than publishers");
    }
    let setup = Setup {
        threads,
        workers: load.pattern.publishers() as usize,
        duration: load.duration,
        copies: load.pattern.copies(),
        settle: Duration::ZERO,
        pids: pids.to_vec(),
    };
    let what = format!("{} at {}", load.describe(), target.describe());
    let (target, identity) = (Arc::new(target.with_send_buffer(SEND_BUFFER)), Arc::new(identity));
    let outcome = run::run(&setup, clients, move |client, desk| {
        let (target, identity) = (Arc::clone(&target), Arc::clone(&identity));
        async move {
            match client {
                Client::Publisher(publisher) => publisher.play(&target, &identity, desk).await,
                Client::Subscriber(subscriber) => subscriber.play(&target, &identity, desk).await,
            }
        }
    })?;
    Ok(report(what, load, &setup, outcome))
}

impl Pattern {
    fn publishers(self) -> u32 {
        match self {
            Self::Everyone { publishers, .. } => publishers,
            Self::Pairs(pairs) => pairs,
        }
    }

    fn subscribers(self) -> u32 {
        match self {
            Self::Everyone { subscribers, .. } => subscribers,
            Self::Pairs(pairs) => pairs,
        }
    }

    /// How often a message is delivered.
    fn copies(self) -> u64 {
        match self {
            Self::Everyone { subscribers, .. } => u64::from(subscribers),
            Self::Pairs(_) => 1,
        }
    }
}

impl Load {
    fn describe(&self) -> String {
        let who = match self.pattern {
            Pattern::Everyone { publishers, subscribers } => format!("{publishers} → {subscribers}"),
            Pattern::Pairs(pairs) => format!("{pairs} pairs"),
        };
        let pace = self.rate.map_or(String::new(), |rate| format!(", {rate}/s"));
        format!("{who}, QoS {}, {} bytes{pace}", self.qos as u8, self.size)
    }
}

/// Pure: all clients of the run, subscribers and publishers mixed so that threads get both.
fn clients(load: &Load, identity: &Identity) -> Vec<Client> {
    let base = identity.base();
    let publishers = load.pattern.publishers();
    let (share, rest) = match load.messages {
        Some(messages) => (messages / u64::from(publishers), messages % u64::from(publishers)),
        None => (u64::MAX, 0),
    };
    let mut clients = Vec::new();
    for number in 0..load.pattern.subscribers() {
        let (filter, hears) = match load.pattern {
            Pattern::Everyone { publishers, .. } => (format!("{base}/all"), (0, publishers)),
            Pattern::Pairs(_) => (format!("{base}/{number}"), (number, 1)),
        };
        let every_latency = load.rate.is_some();
        let name = format!("s{number}");
        clients.push(Client::Subscriber(Subscriber { name, filter, qos: load.qos, hears, every_latency }));
    }
    for number in 0..publishers {
        let topic = match load.pattern {
            Pattern::Everyone { .. } => format!("{base}/all"),
            Pattern::Pairs(_) => format!("{base}/{number}"),
        };
        clients.push(Client::Publisher(Publisher {
            number,
            topic,
            qos: load.qos,
            size: load.size,
            window: load.window,
            share: share + u64::from(u64::from(number) < rest),
            rate: load.rate.map(|rate| (rate, publishers as usize)),
        }));
    }
    clients
}

fn report(what: String, load: &Load, setup: &Setup, outcome: Outcome) -> Report {
    let expected = outcome.published * setup.copies;
    let arrivals = outcome.arrivals;
    let delivered = arrivals.unique;
    Report {
        what,
        unit: "delivered message".to_owned(),
        count: delivered as f64,
        seconds: outcome.seconds,
        rate: if outcome.seconds > 0.0 { delivered as f64 / outcome.seconds } else { 0.0 },
        delivery: Some(Delivery {
            published: outcome.published,
            expected,
            delivered,
            lost: expected.saturating_sub(delivered),
            duplicates: arrivals.duplicates,
            reordered: arrivals.reordered,
            strays: arrivals.strays,
        }),
        latency: Latency::of(
            &outcome.histogram,
            if load.rate.is_some() { Since::Due } else { Since::Queued },
        ),
        server: Server::between(&setup.pids, outcome.before, outcome.after, delivered as f64),
        own_cpu_seconds: outcome.own_cpu_seconds,
        failures: outcome.failures,
    }
}
