//! The flusher: takes what all threads have gathered, writes it to Redis in one pipeline, answers those who wait. It
//! also keeps this node's place in the cluster: lease, registration, and the reaping of dead nodes.
//!
//! After a batch, nothing of it depends on this process any more, so QoS 1 and 2 are answered then. The batch reads
//! the versions of routes and retained messages: if a subscription elsewhere is newer than our mirror, the mirror
//! catches up and the batch's messages go there too before anybody is answered.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use foldhash::HashMap;
use nsd_wire::ReasonCode;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, Value};
use tokio::sync::watch;
use tracing::{info, warn};

use super::mirror::{Mirror, write_stored};
use super::{Bus, Load, RouteChange, Waiter, codec};
use crate::hub::Event;
use crate::limits;
use crate::message::{self, Message};
use crate::node::Node;
use crate::store::keys::node_name;
use crate::store::{LEASE, Link, scripts};

/// How often the lease is renewed and the dead are looked for.
const UPKEEP: Duration = Duration::from_secs(2);
/// How often an idle node looks at the change logs.
const IDLE: Duration = Duration::from_millis(500);
/// How long those who wait for Redis are kept waiting before they are told that it is away.
const STORE_PATIENCE: Duration = Duration::from_secs(10);
/// Pauses between attempts to reach Redis again: doubled from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Everything gathered since the last batch.
#[derive(Debug)]
struct Batch {
    lanes: Vec<Load>,
    changes: Vec<RouteChange>,
    waiters: Vec<Waiter>,
}

/// Packets per node, each no larger than what one Redis message should be.
#[derive(Default)]
struct Packets {
    by_node: HashMap<u64, Vec<Vec<u8>>>,
}

pub struct Flusher {
    node: Arc<Node>,
    bus: Arc<Bus>,
    link: Arc<Link>,
    mirror: Mirror,
    /// Of the last packet to another node.
    number: u64,
    /// When the lease was renewed last.
    renewed: Option<Instant>,
    /// Packets that nobody heard, for nodes that are not known to be gone: their inboxes may only be cut off for a
    /// moment. They go with the next batch; beyond `limits::LANE_MARK` bytes they are lost, counted.
    unheard: Packets,
}

impl Flusher {
    pub fn new(node: Arc<Node>, bus: Arc<Bus>, link: Arc<Link>) -> Self {
        Self {
            node,
            bus,
            link,
            mirror: Mirror::default(),
            number: 0,
            renewed: None,
            unheard: Packets::default(),
        }
    }

    /// Registers this node and reads what the others share. After this, clients may come.
    pub async fn start(&mut self, mut connection: MultiplexedConnection) -> Result<(), RedisError> {
        self.join(&mut connection).await?;
        self.link.use_now(connection);
        Ok(())
    }

    /// Flushes until `stop` says so, then once more, and gives the lease back.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                () = self.bus.work.notified() => {}
                () = tokio::time::sleep(IDLE) => {}
            }
            self.turn().await;
        }
        self.turn().await;
        if let Ok(mut connection) = self.link.get() {
            // Without a lease the next node to look takes over whatever is left of us.
            let _ = redis::cmd("DEL")
                .arg(self.link.keys.lease(self.bus.node))
                .query_async::<()>(&mut connection)
                .await;
        }
    }

    async fn turn(&mut self) {
        let batch = self.gather();
        let since = Instant::now();
        let mut pipeline = None;
        loop {
            match self.attempt(&batch, &mut pipeline).await {
                Ok(()) => return batch.answer(ReasonCode::Success),
                Err(error) if is_refusal(&error) => {
                    warn!(redis = self.link.place(), %error, "redis refused a batch");
                    return batch.answer(ReasonCode::QuotaExceeded);
                }
                Err(error) => self.lose(&error),
            }
            if !self.reconnect(since + STORE_PATIENCE).await {
                return batch.answer(ReasonCode::UnspecifiedError);
            }
        }
    }

    async fn attempt(&mut self, batch: &Batch, prepared: &mut Option<Prepared>) -> Result<(), RedisError> {
        let mut connection = self.link.get().map_err(|_| not_connected())?;
        if self.renewed.is_none_or(|at| at.elapsed() >= UPKEEP) {
            self.upkeep(&mut connection).await?;
        }
        // A repeated attempt sends the same packets under the same numbers: receivers take them once.
        if prepared.is_none() {
            *prepared = Some(self.prepare(batch));
        }
        let Some(prepared) = prepared else { return Ok(()) };
        let repeated = std::mem::replace(&mut prepared.tried, true);
        let replies: Vec<Value> = prepared.pipeline.query_async(&mut connection).await?;
        self.bus.counters.batches.fetch_add(1, Ordering::Relaxed);
        self.bus.counters.commands.fetch_add(replies.len() as u64, Ordering::Relaxed);
        let first = replies.len().saturating_sub(prepared.packets.len() + 2);
        // What an attempt before this one kept is part of this one.
        self.unheard = Packets::default();
        self.keep_unheard(&prepared.packets, &replies[first..]);
        let mut newest = replies.iter().rev().map(scripts::version);
        let (retained, routes) = (newest.next().unwrap_or(0), newest.next().unwrap_or(0));
        // A repeated batch may have been cut off after the mirror caught up and before the newcomers were sent to.
        if !repeated && !self.mirror.is_behind(routes, retained) {
            return Ok(());
        }
        let (keys, hub) = (&self.link.keys, &self.node.hub);
        self.mirror.follow((routes, retained), &mut connection, keys, hub, &self.bus).await?;
        self.send_to_newcomers(batch, &prepared.targets, &mut connection).await
    }

    /// Messages of this batch for subscriptions that we had not heard of when it was made.
    async fn send_to_newcomers(
        &mut self,
        batch: &Batch,
        targets: &[Arc<[u64]>],
        connection: &mut MultiplexedConnection,
    ) -> Result<(), RedisError> {
        let mut packets = Packets::default();
        for ((bytes, _), sent) in batch.messages().zip(targets) {
            let Some(publish) = message::read(bytes) else { continue };
            for node in self.bus.interested(publish.topic) {
                if !sent.contains(&node) {
                    packets.add(node, bytes, self.bus.node, &mut self.number);
                }
            }
        }
        if packets.by_node.is_empty() {
            return Ok(());
        }
        let mut pipeline = redis::pipe();
        let packets = packets.write(&mut pipeline, &self.link);
        let replies: Vec<Value> = pipeline.query_async(connection).await?;
        self.keep_unheard(&packets, &replies);
        Ok(())
    }

    /// `replies` begin with those to the PUBLISHes of these packets.
    fn keep_unheard(&mut self, packets: &[(u64, Vec<u8>)], replies: &[Value]) {
        for ((node, packet), reply) in packets.iter().zip(replies) {
            if *reply == Value::Int(0) {
                self.unheard.by_node.entry(*node).or_default().push(packet.clone());
            }
        }
        let lost = self.unheard.shorten(limits::LANE_MARK);
        self.bus.counters.dropped.fetch_add(lost, Ordering::Relaxed);
    }

    fn prepare(&mut self, batch: &Batch) -> Prepared {
        let keys = &self.link.keys;
        let mut pipeline = redis::pipe();
        let own = node_name(self.bus.node);
        if !batch.changes.is_empty() {
            let mut args: Vec<&[u8]> = vec![own.as_bytes()];
            for change in &batch.changes {
                args.push(if change.added { b"+" } else { b"-" });
                args.push(change.filter.as_bytes());
            }
            let names = [keys.routes(self.bus.node), keys.route_log(), keys.route_version()];
            scripts::add(&mut pipeline, &scripts::ROUTES, &names, &args);
        }
        let generation = self.node.hub.generation();
        let (mut targets, now) = (Vec::new(), SystemTime::now());
        let mut packets = std::mem::take(&mut self.unheard);
        packets.by_node.retain(|node, _| self.mirror.knows(*node));
        packets.number_anew(&mut self.number);
        let nobody: Arc<[u64]> = Arc::default();
        for (bytes, entry) in batch.messages() {
            if entry.retain
                && let Some(publish) = message::read(bytes)
            {
                let stored = if publish.payload.is_empty() { Vec::new() } else { write_stored(bytes, now) };
                let names = [keys.retained(), keys.retained_log(), keys.retained_version()];
                scripts::add(&mut pipeline, &scripts::RETAIN, &names, &[publish.topic.as_bytes(), &stored]);
            }
            // Matched under an older generation: routes may have come since.
            let nodes = if entry.generation == generation {
                entry.nodes.clone()
            } else {
                message::read(bytes).map(|publish| self.bus.interested(publish.topic).into())
            };
            let nodes = nodes.unwrap_or_else(|| Arc::clone(&nobody));
            for node in nodes.iter() {
                packets.add(*node, bytes, self.bus.node, &mut self.number);
                self.bus.counters.sent.fetch_add(1, Ordering::Relaxed);
            }
            targets.push(nodes);
        }
        let packets = packets.write(&mut pipeline, &self.link);
        pipeline.cmd("GET").arg(keys.route_version()).cmd("GET").arg(keys.retained_version());
        Prepared { pipeline, packets, targets, tried: false }
    }

    /// The waiters first: what they wait for was announced before them.
    fn gather(&self) -> Batch {
        let waiters = std::mem::take(&mut *self.bus.waiters.lock());
        let changes = std::mem::take(&mut *self.bus.changes.lock());
        Batch { lanes: self.bus.lanes.take(), changes, waiters }
    }

    async fn upkeep(&mut self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        if !self.renew(connection).await? {
            info!("this node was not registered, registering");
            self.register(connection).await?;
        }
        self.renewed = Some(Instant::now());
        self.reap(connection).await
    }

    /// Whether this node was registered.
    async fn renew(&self, connection: &mut MultiplexedConnection) -> Result<bool, RedisError> {
        let keys = &self.link.keys;
        scripts::RENEW
            .key(keys.lease(self.bus.node))
            .key(keys.nodes())
            .arg(node_name(self.bus.node))
            .arg(&self.node.name)
            .arg(u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX))
            .invoke_async(connection)
            .await
    }

    /// Says everything that this node wants and owns, after the store may have forgotten it.
    async fn register(&self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let (keys, own) = (&self.link.keys, node_name(self.bus.node));
        let mut register = scripts::REGISTER.prepare_invoke();
        register.key(keys.routes(self.bus.node)).key(keys.route_log()).key(keys.route_version()).arg(&own);
        for filter in self.node.hub.filters() {
            register.arg(filter);
        }
        register.invoke_async::<Option<u64>>(connection).await?;
        let mut pipeline = redis::pipe();
        for outbox in self.node.hub.clients() {
            let epoch = outbox.ownership();
            pipeline.cmd("HSETNX").arg(keys.client(&outbox.client_id)).arg("node").arg(&own).ignore();
            pipeline.cmd("HSETNX").arg(keys.client(&outbox.client_id)).arg("epoch").arg(epoch).ignore();
            pipeline.cmd("SADD").arg(keys.clients_on(self.bus.node)).arg(&*outbox.client_id).ignore();
            if let Some(will) = outbox.will() {
                pipeline
                    .cmd("HSET")
                    .arg(keys.wills(self.bus.node))
                    .arg(epoch)
                    .arg(will.message.bytes())
                    .ignore();
            }
        }
        if pipeline.cmd_iter().next().is_some() {
            pipeline.query_async::<()>(connection).await?;
        }
        Ok(())
    }

    async fn reap(&mut self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let keys = &self.link.keys;
        let nodes: Vec<String> = redis::cmd("SMEMBERS").arg(keys.nodes()).query_async(connection).await?;
        let others = nodes.iter().filter_map(|name| crate::store::keys::node_of(name));
        for dead in others.filter(|node| *node != self.bus.node) {
            let alive: bool = redis::cmd("EXISTS").arg(keys.lease(dead)).query_async(connection).await?;
            if !alive {
                self.reap_one(dead, connection).await?;
            }
        }
        Ok(())
    }

    /// Takes over the wills of a dead node: published first, then forgotten.
    async fn reap_one(&self, dead: u64, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let (keys, own) = (&self.link.keys, self.bus.node);
        let wills: Vec<(String, Vec<u8>)> = scripts::REAP
            .key(keys.lease(dead))
            .key(keys.nodes())
            .key(keys.routes(dead))
            .key(keys.route_log())
            .key(keys.route_version())
            .key(keys.wills(dead))
            .key(keys.wills(own))
            .key(keys.clients_on(dead))
            .arg(node_name(dead))
            .arg(keys.client_prefix())
            .invoke_async(connection)
            .await?;
        info!(node = node_name(dead), wills = wills.len(), "a node is gone");
        for (epoch, will) in wills {
            if let Some(will) = Message::from_bytes(&will) {
                self.node.publish(&will);
            }
            redis::cmd("HDEL").arg(keys.wills(own)).arg(epoch).query_async::<()>(connection).await?;
        }
        Ok(())
    }

    fn lose(&mut self, error: &RedisError) {
        self.link.lose();
        self.renewed = None;
        if self.bus.set_connected(false) {
            warn!(redis = self.link.place(), %error, "redis is away: local QoS 0 goes on, the rest waits");
            self.bus.wake_blocked();
        }
    }

    /// Tries until `deadline`, which is only for those who wait; the next turn tries on.
    async fn reconnect(&mut self, deadline: Instant) -> bool {
        let mut pause = BACKOFF.0;
        while Instant::now() < deadline {
            let joined = match self.link.connect().await {
                Ok(mut connection) => self.join(&mut connection).await.map(|()| connection),
                Err(error) => Err(error),
            };
            if let Ok(connection) = joined {
                self.link.use_now(connection);
                self.bus.set_connected(true);
                info!(redis = self.link.place(), "redis is back");
                return true;
            }
            tokio::time::sleep(pause.mul_f32(0.5 + fastrand::f32())).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
        false
    }

    /// Registers anew and reads everything anew: nobody knows what was missed.
    async fn join(&mut self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        self.renew(connection).await?;
        self.register(connection).await?;
        self.renewed = Some(Instant::now());
        self.mirror.load(connection, &self.link.keys, &self.node.hub, &self.bus).await
    }
}

/// A batch as Redis gets it, and where each of its messages goes.
struct Prepared {
    pipeline: Pipeline,
    /// What its PUBLISHes carry and to whom, in their order; two more commands follow them.
    packets: Vec<(u64, Vec<u8>)>,
    targets: Vec<Arc<[u64]>>,
    tried: bool,
}

impl Batch {
    fn messages(&self) -> impl Iterator<Item = (&[u8], &super::Entry)> {
        self.lanes.iter().flat_map(|lane| {
            let mut rest = &lane.bytes[..];
            lane.entries.iter().map(move |entry| {
                let (message, after) = rest.split_at(entry.length);
                rest = after;
                (message, entry)
            })
        })
    }

    fn answer(self, reason: ReasonCode) {
        for lane in self.lanes {
            lane.receipts.answer(reason);
        }
        for Waiter { caller, token } in self.waiters {
            caller.notify(Event::Known { token, reason });
        }
    }
}

impl Packets {
    fn add(&mut self, node: u64, message: &[u8], sender: u64, number: &mut u64) {
        let packets = self.by_node.entry(node).or_default();
        if packets.last().is_none_or(|packet| packet.len() + message.len() > limits::BUS_PACKET) {
            *number += 1;
            packets.push(codec::begin(sender, *number));
        }
        if let Some(packet) = packets.last_mut() {
            codec::push(packet, message);
        }
    }

    /// Nobody heard them, so under a new number they are not taken for a repetition, and come in order.
    fn number_anew(&mut self, number: &mut u64) {
        for packet in self.by_node.values_mut().flatten() {
            *number += 1;
            codec::set_number(packet, *number);
        }
    }

    /// Gives up the newest until no more than `most` bytes are left; how many packets that were.
    fn shorten(&mut self, most: usize) -> u64 {
        let (mut left, mut lost) = (most, 0);
        for packets in self.by_node.values_mut() {
            let kept = packets.iter().take_while(|packet| match left.checked_sub(packet.len()) {
                Some(less) => {
                    left = less;
                    true
                }
                None => false,
            });
            let kept = kept.count();
            lost += (packets.len() - kept) as u64;
            packets.truncate(kept);
        }
        lost
    }

    fn write(self, pipeline: &mut Pipeline, link: &Link) -> Vec<(u64, Vec<u8>)> {
        let each = self
            .by_node
            .into_iter()
            .flat_map(|(node, packets)| packets.into_iter().map(move |packet| (node, packet)));
        let packets: Vec<_> = each.collect();
        for (node, packet) in &packets {
            pipeline.cmd("PUBLISH").arg(link.keys.inbox(*node)).arg(packet);
        }
        packets
    }
}

/// Redis is there and says no (out of memory, read only): trying again at once would not help.
fn is_refusal(error: &RedisError) -> bool {
    error.code() == Some("OOM") || error.code() == Some("MISCONF") || error.code() == Some("NOPERM")
}

fn not_connected() -> RedisError {
    RedisError::from(std::io::Error::from(std::io::ErrorKind::NotConnected))
}
