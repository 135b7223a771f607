//! The flusher: takes what all threads have gathered, writes it to Redis in one pipeline, answers those who wait.
//!
//! After a batch, nothing of it depends on this process any more, so QoS 1 and 2 are answered then. The batch reads
//! the versions of subscriptions and retained messages: if a subscription elsewhere is newer than our mirror, the mirror
//! catches up and the batch's messages go there too before anybody is answered.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use nsd_wire::{PacketId, Qos, ReasonCode};
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, Value};
use tokio::sync::watch;
use tracing::{info, warn};

use super::membership::{Rounds, change_routes};
use super::mirror::{Mirror, Versions};
use super::packets::Packets;
use super::writes::{Author, Writes};
use super::{Bus, Load, RouteChange, Waiter};
use crate::hub::{Addressee, Event, Outbox};
use crate::journal::{self, Work};
use crate::lanes::Receipts;
use crate::limits;
use crate::message;
use crate::node::Node;
use crate::store::redis::codec;
use crate::store::{self, Link, scripts};

/// How often an idle node looks at the change logs.
const IDLE: Duration = Duration::from_millis(500);
/// How long those who wait for Redis are kept waiting before they are told that it is away.
const STORE_PATIENCE: Duration = Duration::from_secs(10);
/// Pauses between attempts to reach Redis again: doubled from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Sessions whose queues are looked at with one question.
const LOOKED_AT: usize = 256;
/// Versions that a batch reads at its end.
const VERSIONS: usize = 4;
/// How long a hint may be on its way before it counts as lost.
const HINT_PATIENCE: Duration = Duration::from_millis(400);

/// Everything gathered since the last batch.
#[derive(Debug, Default)]
struct Batch {
    lanes: Vec<Load>,
    changes: Vec<RouteChange>,
    waiters: Vec<Waiter>,
    /// For sessions of the store: messages, steps, and who waits for either.
    work: Vec<Work>,
    messages: Receipts,
    steps: Receipts,
    stored: Vec<journal::Waiter>,
}

pub struct Flusher {
    pub(super) node: Arc<Node>,
    pub(super) bus: Arc<Bus>,
    pub(super) link: Arc<Link>,
    pub(super) mirror: Mirror,
    pub(super) author: Author,
    pub(super) rounds: Rounds,
    /// Of the last packet to another node.
    number: u64,
    /// Packets that nobody heard, for nodes that are not known to be gone: their inboxes may only be cut off for a
    /// moment. They go with the next batch; beyond `limits::LANE_MARK` bytes they are lost, counted.
    unheard: Packets,
    /// Steps that were taken already and are not stored yet, and the answers that wait for that.
    owed: Vec<Work>,
    owed_answers: Receipts,
    /// Identifiers of messages that were refused, which Redis may hold all the same: each is free for another message.
    pub(super) taken_back: HashMap<(u64, PacketId), Arc<Outbox>>,
    /// Wills that are among the messages by now, by their names.
    pub(super) owing: HashSet<Box<str>>,
    /// Hints that were sent here and not heard when this was looked at.
    pub(super) missing: Option<(u64, Instant)>,
}

impl Flusher {
    pub fn new(node: Arc<Node>, bus: Arc<Bus>, link: Arc<Link>) -> Self {
        let author = Author { keys: link.keys.clone(), node: bus.node, number: 0, steps: 0 };
        Self {
            node,
            bus,
            link,
            mirror: Mirror::default(),
            author,
            rounds: Rounds::default(),
            number: 0,
            unheard: Packets::default(),
            owed: Vec::new(),
            owed_answers: Receipts::default(),
            taken_back: HashMap::new(),
            owing: HashSet::new(),
            missing: None,
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
        let mut batch = self.gather();
        let since = Instant::now();
        let (mut prepared, mut refused, mut attempts) = (None, false, 0);
        loop {
            attempts += 1;
            match self.attempt(&batch, &mut prepared).await {
                Ok(()) => return batch.answer(),
                Err(error) if is_refusal(&error) => {
                    if self.node.stores(false) {
                        warn!(redis = self.link.place(), %error, "redis takes nothing more: what must be stored is refused");
                    }
                    // Once without messages: the rest needs less room, and makes some.
                    let before = std::mem::replace(&mut refused, true);
                    self.bus.put_back(std::mem::take(&mut batch.changes));
                    self.refuse(&mut batch, ReasonCode::QuotaExceeded);
                    prepared = None;
                    if before {
                        break;
                    }
                    continue;
                }
                Err(error) => self.lose(&error),
            }
            // For nobody, once is enough: who comes meanwhile would wait twice.
            let patience = if batch.is_waited_for() { STORE_PATIENCE } else { Duration::ZERO };
            // Nor does it help for ever that Redis can be reached, but for one more attempt.
            let is_over = attempts > 1 && since.elapsed() >= patience;
            if is_over || !self.reconnect(since + patience).await {
                break;
            }
        }
        self.refuse(&mut batch, ReasonCode::UnspecifiedError);
        // Those who wait for these answers wait until it works again; others have been told that it does not.
        (self.owed, self.owed_answers) = (batch.work, batch.steps);
        // Clients may change their minds for as long as it does not work.
        Work::keep_last(&mut self.owed);
    }

    /// Messages are refused, and who waits is told; steps stay. Wills among the messages are looked for again.
    fn refuse(&mut self, batch: &mut Batch, reason: ReasonCode) {
        for will in batch.wills() {
            self.owing.remove(will);
        }
        // Parts of it may have been taken, and what was answered is not known.
        self.bus.doubt_wills();
        self.bus.doubt_all();
        batch.take_back(&mut self.taken_back);
        batch.tell(reason);
        batch.work.retain(|work| !matches!(work, Work::Message(_)));
    }

    async fn attempt(&mut self, batch: &Batch, prepared: &mut Option<Prepared>) -> Result<(), RedisError> {
        let mut connection = self.link.get().map_err(|_| not_connected())?;
        self.upkeep(&mut connection).await?;
        // A repeated attempt sends the same packets under the same numbers: receivers take them once.
        if prepared.is_none() {
            *prepared = Some(self.prepare(batch));
        }
        let Some(prepared) = prepared else { return Ok(()) };
        let repeated = std::mem::replace(&mut prepared.tried, true);
        let replies: Vec<Value> = prepared.call.pipeline.query_async(&mut connection).await?;
        self.bus.counters.batches.fetch_add(1, Ordering::Relaxed);
        self.bus.counters.commands.fetch_add(replies.len() as u64, Ordering::Relaxed);
        let (replies, versions) = replies.split_at(replies.len().saturating_sub(VERSIONS));
        // What an attempt before this one kept is part of this one.
        self.unheard = Packets::default();
        self.take_answers(&prepared.call, replies);
        for late in &prepared.late {
            let replies: Vec<Value> = late.pipeline.query_async(&mut connection).await?;
            self.take_answers(late, &replies);
        }
        for will in batch.wills() {
            self.owing.remove(will);
        }
        if prepared.call.writes.has_messages() && !self.node.stores(true) {
            info!(redis = self.link.place(), "redis takes messages again");
        }
        let versions: Vec<u64> = versions.iter().map(scripts::version).collect();
        let [routes, retained, sessions, hints] = versions[..] else { return Ok(()) };
        self.miss(hints);
        let versions = Versions { routes, retained, sessions };
        // A repeated batch may have been cut off after the mirror caught up and before the newcomers were sent to.
        if repeated || self.mirror.is_behind(versions) {
            let (keys, hub) = (&self.link.keys, &self.node.hub);
            self.mirror.follow(versions, &mut connection, keys, hub, &self.bus).await?;
            if let Some(late) = self.for_newcomers(batch, &mut prepared.targets) {
                // Before it is sent: whether or not it is answered, it is what goes to them.
                prepared.late.push(late);
                let Some(late) = prepared.late.last() else { return Ok(()) };
                let replies: Vec<Value> = late.pipeline.query_async(&mut connection).await?;
                self.take_answers(late, &replies);
            }
        }
        self.catch_up(&mut connection).await
    }

    /// What Redis has answered about sessions.
    pub(super) fn take_in(&mut self, writes: &Writes, replies: &[Value]) {
        let answered = writes.read(replies, &self.node.hub, &self.node.limits.load());
        if answered.again {
            self.bus.doubt_wills();
            self.bus.look_at_all();
        }
        answered.owed.into_iter().for_each(|owed| self.publish_owed(owed));
    }

    /// Hints are only hints: if some do not come, the queues are looked at.
    fn miss(&mut self, sent: u64) {
        let heard = self.bus.heard();
        match self.missing {
            Some((sent, since)) if heard < sent => {
                if since.elapsed() >= HINT_PATIENCE {
                    self.missing = None;
                    self.bus.hear(sent);
                    self.bus.look_at_all();
                }
            }
            _ => self.missing = (heard < sent).then(|| (sent, Instant::now())),
        }
    }

    /// Reads what has come to queues and was not told of.
    async fn catch_up(&mut self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let stale = self.bus.take_stale();
        let outboxes = if stale.all { self.node.hub.all_here() } else { stale.some };
        let known = |outbox: Arc<Outbox>| Some((outbox.session?, outbox.next_place()?, outbox));
        let wanted: Vec<_> = outboxes.into_iter().filter_map(known).collect();
        for wanted in wanted.chunks(LOOKED_AT) {
            let places: Vec<_> = wanted.iter().map(|(session, place, _)| (*session, *place)).collect();
            let read = store::redis::read_on(connection, &self.link.keys, &places).await;
            let read = read.inspect_err(|_| self.bus.doubt_all())?;
            for ((_, _, outbox), found) in wanted.iter().zip(read) {
                match found {
                    Some((entries, next)) => outbox.catch_up(entries, next, &self.node.limits.load()),
                    None => self.node.hub.supersede(outbox),
                }
                outbox.wake();
            }
        }
        Ok(())
    }

    /// Messages of this batch for subscriptions that we had not heard of when it was made; from now on they are its targets.
    fn for_newcomers(&mut self, batch: &Batch, targets: &mut [Targets]) -> Option<Call> {
        let (mut packets, mut writes, now) = (Packets::default(), Writes::default(), SystemTime::now());
        for ((bytes, entry), targets) in batch.messages().zip(targets) {
            let Some(publish) = message::read(bytes) else { continue };
            let mut nodes = self.bus.interested(publish.topic);
            nodes.retain(|node| !targets.nodes.contains(node));
            for node in &nodes {
                packets.add(*node, bytes, self.bus.node, &mut self.number);
            }
            let mut addressees = Vec::new();
            if entry.durable && publish.qos != Qos::AtMostOnce {
                addressees = self.bus.addressees(publish.topic);
                addressees.retain(|one| !targets.addressees.iter().any(|known| known.session == one.session));
                writes.more(bytes, &addressees, &entry.origin, now);
            }
            targets.add(nodes, addressees);
        }
        let mut pipeline = redis::pipe();
        let commands = writes.write(&mut self.author, &self.node.limits.load(), &mut pipeline);
        let packets = packets.write(&mut pipeline, &self.link);
        (!pipeline.is_empty()).then_some(Call { pipeline, writes, commands, packets })
    }

    /// What Redis has answered to a call, but for what is read at its end.
    fn take_answers(&mut self, call: &Call, replies: &[Value]) {
        let (replies, heard) = replies.split_at(replies.len().saturating_sub(call.packets.len()));
        self.keep_unheard(&call.packets, heard);
        self.take_in(&call.writes, &replies[replies.len().saturating_sub(call.commands)..]);
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
        change_routes(&mut pipeline, &scripts::ROUTES, keys, self.bus.node, &batch.changes);
        let generation = self.node.hub.generation();
        let (mut targets, now) = (Vec::new(), SystemTime::now());
        let mut packets = std::mem::take(&mut self.unheard);
        packets.by_node.retain(|node, _| self.mirror.knows(*node));
        packets.number_anew(&mut self.number);
        let mut writes = Writes::default();
        for (bytes, entry) in batch.messages() {
            if entry.retain
                && let Some(publish) = message::read(bytes)
            {
                let is_removed = publish.payload.is_empty();
                let stored = if is_removed { Vec::new() } else { codec::write_retained(bytes, now) };
                store::redis::retain(&mut pipeline, keys, publish.topic, &stored);
            }
            let found = self.targets_of(bytes, entry, generation);
            for node in found.nodes.iter() {
                packets.add(*node, bytes, self.bus.node, &mut self.number);
                self.bus.counters.sent.fetch_add(1, Ordering::Relaxed);
            }
            if entry.durable {
                writes.message(bytes, &found.addressees, &entry.origin, now);
            }
            targets.push(found);
        }
        for work in &batch.work {
            match work {
                Work::Message(to_store) => writes.retained(to_store),
                work => writes.step(work, &mut self.author),
            }
        }
        let commands = writes.write(&mut self.author, &self.node.limits.load(), &mut pipeline);
        let packets = packets.write(&mut pipeline, &self.link);
        for version in [
            keys.route_version(),
            keys.retained_version(),
            keys.subscription_version(),
            keys.hints(self.bus.node),
        ] {
            pipeline.cmd("GET").arg(version);
        }
        let call = Call { pipeline, writes, commands, packets };
        Prepared { call, late: Vec::new(), targets, tried: false }
    }

    /// Where a message goes, as far as we know by now.
    fn targets_of(&self, bytes: &[u8], entry: &super::Entry, generation: u64) -> Targets {
        if entry.generation == generation {
            let (nodes, addressees) = (entry.nodes.clone(), entry.addressees.clone());
            return Targets { nodes: nodes.unwrap_or_default(), addressees: addressees.unwrap_or_default() };
        }
        // Matched under an older one: subscriptions may have come since.
        let Some(publish) = message::read(bytes) else { return Targets::default() };
        let nodes = self.bus.interested(publish.topic).into();
        let lasts = publish.qos != Qos::AtMostOnce;
        let addressees = if lasts { self.bus.addressees(publish.topic).into() } else { Arc::default() };
        Targets { nodes, addressees }
    }

    /// The waiters first: what they wait for was announced before them.
    fn gather(&mut self) -> Batch {
        let mut batch = Batch {
            work: std::mem::take(&mut self.owed),
            steps: std::mem::take(&mut self.owed_answers),
            waiters: std::mem::take(&mut *self.bus.waiters.lock()),
            ..Batch::default()
        };
        if let Some(journal) = &self.node.hub.journal {
            let (stored, loads) = journal.take();
            batch.stored = stored;
            for load in loads {
                batch.work.extend(load.work);
                batch.messages.extend(load.messages);
                batch.steps.extend(load.steps);
            }
        }
        batch.changes = std::mem::take(&mut *self.bus.changes.lock());
        batch.lanes = self.bus.lanes.take();
        batch
    }

    fn lose(&mut self, error: &RedisError) {
        self.link.lose();
        self.rounds.begin_anew();
        if self.bus.set_connected(false) {
            warn!(redis = self.link.place(), %error, "redis is away: local QoS 0 goes on, the rest waits");
            self.bus.wake_blocked();
        }
    }

    /// Tries until `deadline`, which is only for those who wait; the next turn tries on.
    async fn reconnect(&mut self, deadline: Instant) -> bool {
        let mut pause = BACKOFF.0;
        loop {
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
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(pause.mul_f32(0.5 + fastrand::f32())).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }
}

/// Where one message goes.
#[derive(Debug, Default)]
struct Targets {
    nodes: Arc<[u64]>,
    addressees: Arc<[Addressee]>,
}

impl Targets {
    fn add(&mut self, nodes: Vec<u64>, addressees: Vec<Addressee>) {
        if !nodes.is_empty() {
            self.nodes = self.nodes.iter().copied().chain(nodes).collect();
        }
        if !addressees.is_empty() {
            self.addressees = self.addressees.iter().cloned().chain(addressees).collect();
        }
    }
}

/// A batch as Redis gets it, and where each of its messages goes. All of it is sent again as it was, should an answer be
/// lost.
struct Prepared {
    /// At its end it reads the versions.
    call: Call,
    /// The same messages for those who were not known when it was made.
    late: Vec<Call>,
    targets: Vec<Targets>,
    tried: bool,
}

/// One pipeline.
struct Call {
    pipeline: Pipeline,
    /// What it writes to sessions, with so many commands before the PUBLISHes.
    writes: Writes,
    commands: usize,
    /// What its PUBLISHes carry and to whom, in their order.
    packets: Vec<(u64, Vec<u8>)>,
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

    fn is_waited_for(&self) -> bool {
        let lanes = self.lanes.iter().all(|lane| lane.entries.is_empty());
        !(lanes && self.waiters.is_empty() && self.stored.is_empty() && self.work.is_empty())
    }

    /// Wills among the messages, by their names.
    fn wills(&self) -> impl Iterator<Item = &str> {
        let entries = self.lanes.iter().flat_map(|lane| &lane.entries);
        entries.filter_map(|entry| entry.origin.owed.as_deref())
    }

    fn answer(mut self) {
        self.tell(ReasonCode::Success);
        self.steps.answer(ReasonCode::Success);
    }

    fn tell(&mut self, reason: ReasonCode) {
        for lane in self.lanes.drain(..) {
            lane.receipts.answer(reason);
        }
        std::mem::take(&mut self.messages).answer(reason);
        for Waiter { caller, token } in self.waiters.drain(..) {
            caller.notify(Event::Known { token, reason });
        }
        self.stored.drain(..).for_each(|waiter| waiter.answer(reason));
    }

    /// Identifiers of messages that are not kept are not held either.
    fn take_back(&self, taken_back: &mut HashMap<(u64, PacketId), Arc<Outbox>>) {
        for entry in self.lanes.iter().flat_map(|lane| &lane.entries) {
            if let (Some(sender), Some(id)) = (&entry.origin.sender, entry.origin.hold) {
                sender.with_persistent(|persistent| persistent.held.remove(&id));
                taken_back.insert((sender.id, id), Arc::clone(sender));
            }
        }
    }
}

/// Redis is there and says no (out of memory, cannot write its file): trying again at once would not help.
fn is_refusal(error: &RedisError) -> bool {
    const REFUSALS: [&str; 3] = ["OOM", "MISCONF", "NOPERM"];
    let errors = error.clone().into_server_errors();
    errors.is_some_and(|errors| errors.iter().all(|(_, error)| REFUSALS.contains(&error.code())))
}

fn not_connected() -> RedisError {
    RedisError::from(std::io::Error::from(std::io::ErrorKind::NotConnected))
}
