//! The message patterns: who publishes, who hears whom, and what is reported.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use nsd_wire::Qos;

use crate::bystander::{self, Bystander};
use crate::limits;
use crate::mqtt::{Identity, Publisher, Subscriber};
use crate::report::{Delivery, Latency, Report, Server, Since};
use crate::run::{self, Outcome, Setup};
use crate::target::Target;

/// What all publishers' messages, made beforehand, may take.
const TEMPLATES: usize = 256 * 1024 * 1024;
/// As many as there are ways to leave levels of the longest topic open.
pub const MOST_FILTERS: u32 = 32;
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
    pub more: More,
}

/// What may be added to a pattern.
#[derive(Debug, Clone, Copy)]
pub struct More {
    /// Topics of a publisher; above 1, subscribers hear them by a wildcard.
    pub topics: u32,
    /// Filters of a subscriber of everything; each matches every message.
    pub filters: u32,
    /// Subscriptions of others, which match nothing.
    pub bystanders: u32,
    /// How many of them one client has.
    pub bystander_filters: u32,
    /// Subscribers come for their messages after all were published.
    pub away: bool,
    /// Subscribers stay, and their sessions would outlive their connections.
    pub kept: bool,
}

/// Where clients connect.
#[derive(Debug)]
pub struct Sides {
    pub publishers: Target,
    /// `None`: at the same place.
    pub subscribers: Option<Target>,
}

impl From<Target> for Sides {
    fn from(publishers: Target) -> Self {
        Self { publishers, subscribers: None }
    }
}

impl Default for More {
    fn default() -> Self {
        Self { topics: 1, filters: 1, bystanders: 0, bystander_filters: 100, away: false, kept: false }
    }
}

/// A client of a run.
#[derive(Debug)]
enum Client {
    Bystander(Bystander),
    Publisher(Publisher),
    Subscriber(Subscriber),
}

/// Runs the pattern against `sides`.
pub fn measure(
    load: &Load,
    sides: impl Into<Sides>,
    identity: Identity,
    threads: usize,
    pids: &[u32],
) -> Result<Report> {
    let clients = clients(load, &identity);
    let timers = if load.rate.is_some() { load.pattern.publishers() } else { 0 };
    limits::allow_files(clients.len() + timers as usize)?;
    let made = load.pattern.publishers() as usize * load.more.topics as usize * load.size;
    ensure!(made <= TEMPLATES, "so many topics and such large messages do not fit into memory");
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
    let sides: Sides = sides.into();
    let mut what = format!("{} at {}", load.describe(), sides.publishers.describe());
    if let Some(subscribers) = &sides.subscribers {
        what += &format!(", subscribers at {}", subscribers.describe());
    }
    let target = Arc::new(sides.publishers.with_send_buffer(SEND_BUFFER));
    let elsewhere = sides.subscribers.map(|target| Arc::new(target.with_send_buffer(SEND_BUFFER)));
    let elsewhere = elsewhere.unwrap_or_else(|| Arc::clone(&target));
    let identity = Arc::new(identity);
    let outcome = run::run(&setup, clients, move |client, desk| {
        let (target, elsewhere, identity) =
            (Arc::clone(&target), Arc::clone(&elsewhere), Arc::clone(&identity));
        async move {
            match client {
                Client::Bystander(bystander) => bystander.stay(&target, &identity, &desk).await,
                Client::Publisher(publisher) => publisher.play(&target, &identity, desk).await,
                Client::Subscriber(subscriber) => subscriber.play(&elsewhere, &identity, desk).await,
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
        let mut text = format!("{who}, QoS {}, {} bytes", self.qos as u8, self.size);
        let more = &self.more;
        let notes = [
            self.rate.map(|rate| format!("{rate}/s")),
            (more.topics > 1).then(|| format!("{} topics each", more.topics)),
            (more.filters > 1).then(|| format!("{} filters each", more.filters)),
            (more.bystanders > 0).then(|| {
                format!("{} subscriptions of others, {} each", more.bystanders, more.bystander_filters)
            }),
            more.away.then(|| "subscribers away".to_owned()),
            more.kept.then(|| "sessions kept".to_owned()),
        ];
        for note in notes.into_iter().flatten() {
            text += ", ";
            text += &note;
        }
        text
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
    let more = load.more;
    let bystanders = bystander::bystanders(more.bystanders, more.bystander_filters, &base);
    let mut clients: Vec<_> = bystanders.into_iter().map(Client::Bystander).collect();
    for number in 0..load.pattern.subscribers() {
        let (name, hears) = match load.pattern {
            Pattern::Everyone { publishers, .. } => ("all".to_owned(), (0, publishers)),
            Pattern::Pairs(_) => (number.to_string(), (number, 1)),
        };
        clients.push(Client::Subscriber(Subscriber {
            name: format!("s{number}"),
            filters: filters(&base, &name, more),
            qos: load.qos,
            hears,
            every_latency: load.rate.is_some(),
            away: more.away,
            kept: more.kept,
        }));
    }
    for number in 0..publishers {
        let name = match load.pattern {
            Pattern::Everyone { .. } => "all".to_owned(),
            Pattern::Pairs(_) => number.to_string(),
        };
        clients.push(Client::Publisher(Publisher {
            number,
            topics: topics(&base, &name, more),
            qos: load.qos,
            size: load.size,
            window: load.window,
            share: share + u64::from(u64::from(number) < rest),
            rate: load.rate.map(|rate| (rate, publishers as usize)),
        }));
    }
    clients
}

/// Behind the name, so that more filters can match.
const DEEPER: &str = "x/y";

fn topics(base: &str, name: &str, more: More) -> Vec<String> {
    match (more.topics, more.filters) {
        (1, 1) => vec![format!("{base}/{name}")],
        (1, _) => vec![format!("{base}/{name}/{DEEPER}")],
        (topics, _) => (0..topics).map(|topic| format!("{base}/{name}/{topic}")).collect(),
    }
}

/// Several are the topic with one or another level left open; never the run's own, by which runs are kept apart.
fn filters(base: &str, name: &str, more: More) -> Vec<String> {
    if more.topics > 1 {
        return vec![format!("{base}/{name}/+")];
    }
    let topic = topics(base, name, more).concat();
    let run = base.split('/').count() - 1;
    let variant = |number: u32| {
        let mut open = number;
        let level = |(index, level)| {
            if index == run {
                return level;
            }
            let is_open = open % 2 == 1;
            open /= 2;
            if is_open { "+" } else { level }
        };
        topic.split('/').enumerate().map(level).collect::<Vec<_>>().join("/")
    };
    (0..more.filters).map(variant).collect()
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn all_filters_of_a_subscriber_match_and_bystanders_never() {
        let base = "load/any/run";
        for more in [
            More::default(),
            More { filters: MOST_FILTERS, ..More::default() },
            More { topics: 5, ..More::default() },
        ] {
            let (topics, filters) = (topics(base, "all", more), filters(base, "all", more));
            assert_eq!(filters.iter().collect::<HashSet<_>>().len(), more.filters as usize);
            let bystanders = bystander::bystanders(1000, 30, base);
            for topic in &topics {
                assert!(filters.iter().all(|filter| nsd_wire::topic::matches(filter, topic)), "{filters:?}");
                let others = bystanders.iter().flat_map(|bystander| &bystander.filters);
                assert!(others.clone().count() == 1000 && bystanders.len() == 34);
                for other in others {
                    assert!(!nsd_wire::topic::matches(other, topic), "{other} matches {topic}");
                }
            }
        }
    }
}
