//! This node's inbox: what other nodes send here is delivered to the clients that live here.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashMapExt};
use futures_util::StreamExt;
use nsd_wire::Version;
use redis::RedisError;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::codec::{self, Inbound};
use crate::hub::{self, Outbox};
use crate::message;
use crate::node::Node;
use crate::store::Link;

/// Between two attempts to listen again.
const PAUSE: Duration = Duration::from_millis(200);
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
    let timed_out = |_elapsed| RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    let connecting = async {
        let mut pubsub = link.client().get_async_pubsub().await?;
        pubsub.subscribe(link.keys.inbox(own)).await?;
        Ok::<_, RedisError>(pubsub)
    };
    let pubsub = tokio::time::timeout(Duration::from_secs(5), connecting).await.map_err(timed_out)??;
    node.hear(true);
    match ready.take() {
        Some(ready) => drop(ready.send(())),
        None => info!("the inbox is heard again"),
    }
    let mut messages = pubsub.into_on_message();
    let mut full = Vec::new();
    while let Some(message) = messages.next().await {
        match codec::read(message.get_payload_bytes()) {
            Some(Inbound::Batch { sender, number, messages }) => {
                let newest = last.entry(sender).or_default();
                if number > *newest {
                    *newest = number;
                    deliver(node, messages, &mut full);
                    make_room(&mut full).await;
                }
            }
            Some(Inbound::Kick { epoch, client_id }) => node.taken_over(client_id, epoch, Instant::now()),
            None => warn!("the inbox got something that no node of this version writes"),
        }
    }
    Ok(())
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

async fn make_room(full: &mut Vec<Arc<Outbox>>) {
    for outbox in full.drain(..) {
        let room = std::future::poll_fn(|context| outbox.poll_room(context));
        if tokio::time::timeout(PATIENCE, room).await.is_err() {
            outbox.give_up();
        }
    }
}
