//! This node's inbox: what other nodes send here is delivered to the clients that live here.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashMapExt};
use futures_util::StreamExt;
use nsd_wire::Version;
use redis::aio::PubSubSink;
use redis::{RedisError, Value};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::codec::{self, Inbound};
use crate::hub::{self, Outbox};
use crate::message;
use crate::node::Node;
use crate::store::Link;

/// Between two attempts to listen again.
const PAUSE: Duration = Duration::from_millis(200);
/// How often a quiet inbox is asked whether it still hears, and how long the answer may take: a connection whose other
/// end is gone without a word would stay deaf forever.
const PING: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));
/// What one full receiver here may cost the messages of all others: after that it loses QoS 0.
const PATIENCE: Duration = Duration::from_millis(100);

/// Listens until the runtime ends. `ready` hears of the first success.
pub async fn listen(node: Arc<Node>, link: Arc<Link>, own: u64, ready: oneshot::Sender<()>) {
    let mut ready = Some(ready);
    let mut last: HashMap<u64, u64> = HashMap::new();
    loop {
        if let Err(error) = hear(&node, &link, own, &mut ready, &mut last).await {
            warn!(%error, "the inbox is cut off");
        }
        node.hear(false);
        tokio::time::sleep(PAUSE).await;
    }
}

async fn hear(
    node: &Node,
    link: &Link,
    own: u64,
    ready: &mut Option<oneshot::Sender<()>>,
    last: &mut HashMap<u64, u64>,
) -> Result<(), RedisError> {
    let connecting = async {
        let mut pubsub = link.client().get_async_pubsub().await?;
        pubsub.subscribe(link.keys.inbox(own)).await?;
        Ok::<_, RedisError>(pubsub)
    };
    let pubsub =
        tokio::time::timeout(Duration::from_secs(5), connecting).await.map_err(|_elapsed| timed_out())??;
    node.hear(true);
    if let Some(bus) = &node.hub.bus {
        bus.doubt_inbox();
    }
    match ready.take() {
        Some(ready) => drop(ready.send(())),
        None => info!("the inbox is heard again"),
    }
    let (mut sink, mut messages) = pubsub.split();
    let mut full = Vec::new();
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            () = tokio::time::sleep(PING.0) => {
                still_hears(&mut sink, link).await?;
                continue;
            }
        };
        let Some(message) = message else { return Ok(()) };
        match codec::read(message.get_payload_bytes()) {
            Some(Inbound::Batch { sender, number, messages }) => {
                let newest = last.entry(sender).or_default();
                if number > *newest {
                    *newest = number;
                    deliver(node, messages, &mut full);
                    make_room(&mut full).await;
                }
            }
            Some(Inbound::Hints { number, hints }) => take_hints(node, number, hints),
            Some(Inbound::Kick { epoch, client_id }) => node.taken_over(client_id, epoch, Instant::now()),
            None => warn!("the inbox got something that no node of this version writes"),
        }
    }
}

/// While Redis answers nobody, silence says nothing: the subscription may well be there when it goes on.
async fn still_hears(sink: &mut PubSubSink, link: &Link) -> Result<(), RedisError> {
    let mut ping = std::pin::pin!(sink.ping::<Value>());
    loop {
        match tokio::time::timeout(PING.1, &mut ping).await {
            Ok(answer) => return answer.map(drop),
            Err(_elapsed) if link.is_there() => return Err(timed_out()),
            Err(_elapsed) => {}
        }
    }
}

fn timed_out() -> RedisError {
    RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut))
}

fn deliver(node: &Node, messages: codec::Messages<'_>, full: &mut Vec<Arc<Outbox>>) {
    for bytes in messages {
        if let Some(publish) = message::read(bytes) {
            hub::route(&node.hub, &publish, Some((bytes, Version::V5)), 0, full);
            if let Some(bus) = &node.hub.bus {
                bus.counters.received.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    hub::wake_receivers();
}

/// What was put into queues of sessions here.
fn take_hints(node: &Node, number: u64, hints: codec::Hints<'_>) {
    let Some(bus) = &node.hub.bus else { return };
    if number != bus.heard() + 1 {
        bus.look_at_all();
    }
    bus.hear(number);
    let mut last: Option<Arc<Outbox>> = None;
    let limits = node.limits.load();
    for hint in hints {
        let Some(outbox) = node.hub.here(hint.session) else { continue };
        if hint.place == 0 {
            outbox.overrun();
        } else if let Some(entry) = crate::store::redis::codec::read_entry(hint.place, hint.entry) {
            outbox.arrive(entry, &limits);
            bus.counters.received.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(before) = last.filter(|last| last.id != outbox.id) {
            before.wake();
        }
        last = Some(outbox);
    }
    last.inspect(|last| last.wake());
}

async fn make_room(full: &mut Vec<Arc<Outbox>>) {
    for outbox in full.drain(..) {
        let room = std::future::poll_fn(|context| match outbox.wait_for_room(context, Instant::now()) {
            Some(_) => Poll::Pending,
            None => Poll::Ready(()),
        });
        if tokio::time::timeout(PATIENCE, room).await.is_err() {
            outbox.give_up();
        }
    }
}
