//! Keeps the `$SYS` topics: every few seconds what has changed is published and retained, on this node alone. Each
//! node tells about itself, so nothing of it goes to the others or into their store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use foldhash::{HashMap, HashMapExt};
use nsd_wire::Publish;
use serde_json::json;
use tokio::sync::watch;

use super::sample::take;
use super::sys::{self, Loads};
use crate::hub;
use crate::message::Message;
use crate::node::Node;

/// What the `$SYS` topics are made with; the settings may change while the broker runs.
#[derive(Debug)]
pub struct Sys {
    interval: watch::Sender<Duration>,
    events: AtomicBool,
}

/// What Mosca's event topics tell. Off unless asked for: with many clients they are a flood, and they name everybody.
#[derive(Debug, Clone, Copy)]
pub enum Event<'e> {
    Connected { client: &'e str },
    Disconnected { client: &'e str },
    Subscribed { client: &'e str, filter: &'e str },
    Unsubscribed { client: &'e str, filter: &'e str },
}

impl Sys {
    /// An interval of zero: no topics.
    pub fn new(interval: Duration, events: bool) -> Self {
        Self { interval: watch::Sender::new(interval), events: events.into() }
    }

    pub fn change(&self, interval: Duration, events: bool) {
        self.events.store(events, Ordering::Relaxed);
        self.interval.send_replace(interval);
    }

    /// Publishes an event where such are asked for.
    pub fn tell(&self, node: &Node, event: Event<'_>) {
        if self.events.load(Ordering::Relaxed) {
            let (topic, payload) = event.words(&node.name);
            send(node, &topic, payload.as_bytes());
        }
    }

    /// Keeps the topics for as long as the broker runs.
    pub async fn publish(node: Arc<Node>) {
        let mut interval = node.sys.interval.subscribe();
        let (mut known, mut loads, mut last) = (HashMap::new(), Loads::default(), node.started);
        loop {
            let pause = *interval.borrow_and_update();
            if pause.is_zero() {
                withdraw(&node, &mut known);
            } else {
                let now = Instant::now();
                let sample = take(&node);
                loads.update(sys::counters(&sample.totals), now.duration_since(last));
                last = now;
                update(&node, &mut known, sys::topics(&sample, &loads));
            }
            let sleep = async {
                match pause.is_zero() {
                    true => std::future::pending().await,
                    false => tokio::time::sleep(pause).await,
                }
            };
            tokio::select! {
                () = sleep => {}
                changed = interval.changed() => if changed.is_err() { return },
            }
        }
    }
}

impl Event<'_> {
    fn words(self, node: &str) -> (String, String) {
        let node = sys::level(node);
        match self {
            Self::Connected { client } => (format!("$SYS/{node}/new/clients"), client.to_owned()),
            Self::Disconnected { client } => (format!("$SYS/{node}/disconnect/clients"), client.to_owned()),
            Self::Subscribed { client, filter } => (
                format!("$SYS/{node}/new/subscribes"),
                json!({ "clientId": client, "topic": filter }).to_string(),
            ),
            Self::Unsubscribed { client, filter } => (
                format!("$SYS/{node}/new/unsubscribes"),
                json!({ "clientId": client, "topic": filter }).to_string(),
            ),
        }
    }
}

/// Publishes what differs from what is known, and what is no longer retained: a node that joins its cluster again
/// takes over the store's view, and ours is not in there.
fn update(node: &Node, known: &mut HashMap<String, String>, topics: Vec<(String, String)>) {
    for (topic, value) in topics {
        let changed = known.get(&topic) != Some(&value);
        if changed {
            send(node, &topic, value.as_bytes());
        }
        if changed || !is_retained(node, &topic) {
            retain(node, &topic, value.as_bytes());
        }
        known.insert(topic, value);
    }
}

fn withdraw(node: &Node, known: &mut HashMap<String, String>) {
    known.drain().for_each(|(topic, _)| retain(node, &topic, b""));
}

/// To those of this node who listen now.
fn send(node: &Node, topic: &str, payload: &[u8]) {
    hub::route(&node.hub, &Publish::new(topic, payload), None, 0, &mut Vec::new());
    hub::wake_receivers();
}

fn retain(node: &Node, topic: &str, payload: &[u8]) {
    let publish = Publish { retain: true, ..Publish::new(topic, payload) };
    if let Some(message) = Message::new(&publish) {
        node.hub.retained.write().set(Arc::new(message), SystemTime::now());
    }
}

fn is_retained(node: &Node, topic: &str) -> bool {
    !node.hub.retained.read().slice(topic, None, 1).0.is_empty()
}
