//! This node's place in the cluster: its lease, what it says when Redis may have forgotten it, and what it does for nodes
//! that are dead and clients that do not come back.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, Script, Value};
use tracing::info;

use super::RouteChange;
use super::flusher::Flusher;
use super::writes::Writes;
use crate::hub::Outbox;
use crate::journal::Work;
use crate::limits;
use crate::store::change::Change;
use crate::store::keys::{Keys, node_name, node_of, shard};
use crate::store::redis::{Owed, codec};
use crate::store::{LEASE, scripts};
use crate::telemetry::{Count, count_many};

/// How often the lease is renewed and the dead are looked for.
const UPKEEP: Duration = Duration::from_secs(2);
/// How often sessions are looked for that end, and wills that are due.
const AGENDA: Duration = Duration::from_millis(500);
/// How often some of the clients are looked at that Redis takes for ours.
const AUDIT: Duration = Duration::from_secs(2);
/// After so long, a claim has come to something or nothing will come of it.
const UNCLAIMED: Duration = Duration::from_secs(10);
/// Clients of a dead node, and sessions that are due, dealt with at once: Redis does nothing else meanwhile.
const SLICE: usize = 500;
/// Filters that are named to Redis with one call, for the same reason.
const FILTERS: usize = 10_000;
/// Clients that are named to Redis with one question.
const NAMED: usize = 1000;

/// When this node did last what it does now and then.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    renewed: Option<Instant>,
    agenda: Option<Instant>,
    audited: Option<Instant>,
    /// How far it is through the clients that Redis takes for ours.
    cursor: String,
    /// Those that are not here, under the epoch of their claim, and since when.
    strangers: HashMap<Box<str>, (u64, Instant)>,
}

impl Rounds {
    /// Everything is due.
    pub(super) fn begin_anew(&mut self) {
        *self = Self::default();
    }
}

fn is_due(last: Option<Instant>, pace: Duration) -> bool {
    last.is_none_or(|at| at.elapsed() >= pace)
}

impl Flusher {
    pub(super) async fn upkeep(&mut self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        if is_due(self.rounds.renewed, UPKEEP) {
            if !self.renew(connection).await? {
                info!("this node was not registered, registering");
                self.register(connection).await?;
            }
            self.rounds.renewed = Some(Instant::now());
            self.reap(connection).await?;
        }
        if is_due(self.rounds.agenda, AGENDA) {
            self.rounds.agenda = Some(Instant::now());
            self.look_after_the_absent(connection).await?;
        }
        if is_due(self.rounds.audited, AUDIT) {
            self.rounds.audited = Some(Instant::now());
            self.audit(connection).await?;
        }
        if self.bus.asserts.swap(false, Ordering::AcqRel) {
            self.assert_all(connection).await?;
        }
        self.release(connection).await?;
        if self.bus.collects.swap(false, Ordering::AcqRel) {
            self.collect_owed(connection).await?;
        }
        Ok(())
    }

    /// Registers anew and reads everything anew: nobody knows what was missed.
    pub(super) async fn join(&mut self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        self.renew(connection).await?;
        self.register(connection).await?;
        self.release(connection).await?;
        self.rounds.renewed = Some(Instant::now());
        self.bus.doubt_wills();
        self.missing = None;
        self.mirror.load(connection, &self.link.keys, &self.node.hub, &self.bus).await
    }

    /// Whether this node was registered.
    async fn renew(&self, connection: &mut MultiplexedConnection) -> Result<bool, RedisError> {
        let keys = &self.link.keys;
        scripts::RENEW
            .key(keys.lease(self.bus.node))
            .key(keys.nodes())
            .key(keys.dying())
            .arg(node_name(self.bus.node))
            .arg(&self.node.name)
            .arg(u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX))
            .invoke_async(connection)
            .await
    }

    /// Says everything that this node wants and owns, after the store may have forgotten it.
    async fn register(&mut self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let (keys, wanted) = (&self.link.keys, self.node.hub.filters());
        let known: Vec<String> =
            redis::cmd("SMEMBERS").arg(keys.routes(self.bus.node)).query_async(connection).await?;
        let changes = {
            let wanted: HashSet<&str> = wanted.iter().map(String::as_str).collect();
            let known: HashSet<&str> = known.iter().map(String::as_str).collect();
            let change = |added| move |filter: &&str| RouteChange { filter: (*filter).into(), added };
            let missing = wanted.difference(&known).map(change(true));
            missing.chain(known.difference(&wanted).map(change(false))).collect::<Vec<_>>()
        };
        if !changes.is_empty() {
            let mut pipeline = redis::pipe();
            change_routes(&mut pipeline, &scripts::REGISTER, keys, self.bus.node, &changes);
            pipeline.query_async::<()>(connection).await?;
        }
        self.assert_all(connection).await?;
        // What came to their queues meanwhile was told to nobody.
        self.bus.look_at_all();
        Ok(())
    }

    /// Says who is connected here; those who have been claimed elsewhere are sent away.
    async fn assert_all(&mut self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        for clients in self.node.hub.clients().chunks(NAMED) {
            self.assert(clients, connection).await?;
        }
        Ok(())
    }

    /// Some of them. Sessions that Redis has lost are written anew, as far as they are known here.
    async fn assert(
        &mut self,
        clients: &[Arc<Outbox>],
        connection: &mut MultiplexedConnection,
    ) -> Result<(), RedisError> {
        let (keys, own) = (&self.link.keys, node_name(self.bus.node));
        let mut pipeline = redis::pipe();
        for outbox in clients {
            let id = &*outbox.client_id;
            let text = [
                keys.prefix().to_owned(),
                own.clone(),
                keys.client(id),
                shard(id).to_string(),
                id.to_owned(),
                outbox.ownership().to_string(),
                outbox.session.map(|session| session.to_string()).unwrap_or_default(),
            ];
            let will = codec::write_will(outbox.will().as_ref());
            let args: Vec<&[u8]> = text.iter().map(String::as_bytes).chain([&will[..]]).collect();
            scripts::add(&mut pipeline, &scripts::ASSERT, &[], &args);
        }
        let answers: Vec<u8> = pipeline.query_async(connection).await?;
        let mut writes = Writes::aside();
        for (outbox, answer) in clients.iter().zip(answers) {
            match answer {
                0 => self.node.hub.supersede(outbox),
                2 => {
                    for change in known_of(outbox) {
                        writes.change(&change, outbox, &mut self.author);
                    }
                }
                _ => {}
            }
        }
        let mut pipeline = redis::pipe();
        if writes.write(&mut self.author, &self.node.limits.load(), &mut pipeline) > 0 {
            pipeline.query_async::<Vec<Value>>(connection).await?;
        }
        Ok(())
    }

    /// Ahead of the next batch, and before their clients may come back: either may hold the same identifiers anew.
    async fn release(&mut self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let mut writes = Writes::aside();
        for ((_, id), outbox) in &self.taken_back {
            writes.step(&Work::Released(Arc::clone(outbox), *id), &mut self.author);
        }
        let mut pipeline = redis::pipe();
        if writes.write(&mut self.author, &self.node.limits.load(), &mut pipeline) > 0 {
            let replies: Vec<Value> = pipeline.query_async(connection).await?;
            self.take_in(&writes, &replies);
        }
        self.taken_back.clear();
        Ok(())
    }

    async fn reap(&mut self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let keys = &self.link.keys;
        let mut ask = redis::pipe();
        ask.cmd("SMEMBERS").arg(keys.nodes()).cmd("SMEMBERS").arg(keys.dying());
        let (nodes, dying): (Vec<String>, Vec<String>) = ask.query_async(connection).await?;
        let others: HashSet<u64> = nodes.iter().chain(&dying).filter_map(|name| node_of(name)).collect();
        for dead in others {
            if dead == self.bus.node {
                continue;
            }
            let lease = self.link.keys.lease(dead);
            let alive: bool = redis::cmd("EXISTS").arg(lease).query_async(connection).await?;
            if !alive {
                self.reap_one(dead, connection).await?;
            }
        }
        Ok(())
    }

    /// Takes over what a dead node leaves: its wills, and its clients' sessions, which nobody is connected to any more.
    async fn reap_one(
        &mut self,
        dead: u64,
        connection: &mut MultiplexedConnection,
    ) -> Result<(), RedisError> {
        info!(node = node_name(dead), "a node is gone");
        // What does not fit is taken over once this has been written.
        while self.bus.lanes.bytes() <= limits::LANE_MARK {
            let (more, wills): (bool, Vec<Value>) = scripts::REAP
                .arg(self.link.keys.prefix())
                .arg(node_name(self.bus.node))
                .arg(node_name(dead))
                .arg(SLICE)
                .invoke_async(connection)
                .await?;
            wills.iter().filter_map(Owed::of).for_each(|owed| self.publish_owed(owed));
            if !more {
                return Ok(());
            }
        }
        self.rounds.renewed = None;
        Ok(())
    }

    /// Ends sessions and publishes wills whose time has come.
    async fn look_after_the_absent(
        &mut self,
        connection: &mut MultiplexedConnection,
    ) -> Result<(), RedisError> {
        let (ended, wills): (u64, Vec<Value>) = scripts::DUE
            .arg(self.link.keys.prefix())
            .arg(node_name(self.bus.node))
            .arg(SLICE)
            .invoke_async(connection)
            .await?;
        count_many(Count::SessionExpired, ended);
        wills.iter().filter_map(Owed::of).for_each(|owed| self.publish_owed(owed));
        Ok(())
    }

    /// A claim whose answer was lost, or came too late for its client, leaves a client id that is ours and a session that
    /// would never end.
    async fn audit(&mut self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let (keys, rounds) = (&self.link.keys, &mut self.rounds);
        let mut scan = redis::cmd("SSCAN");
        let cursor = if rounds.cursor.is_empty() { "0" } else { &rounds.cursor };
        scan.arg(keys.clients_on(self.bus.node)).arg(cursor).arg("COUNT").arg(SLICE);
        let (next, members): (String, Vec<String>) = scan.query_async(connection).await?;
        rounds.cursor = next;
        let hub = &self.node.hub;
        let ids = members.iter().filter_map(|member| Some(member.split_once(':')?.1));
        let strangers: Vec<&str> = ids.filter(|id| !hub.knows(id) && !hub.is_leaving(id)).collect();
        rounds.strangers.retain(|id, _| !hub.knows(id));
        if strangers.is_empty() {
            return Ok(());
        }
        let mut ask = redis::pipe();
        strangers.iter().for_each(|id| {
            ask.cmd("HGET").arg(keys.client(id)).arg("epoch");
        });
        let epochs: Vec<Option<u64>> = ask.query_async(connection).await?;
        let mut writes = Writes::aside();
        for (id, epoch) in strangers.into_iter().zip(epochs) {
            let epoch = epoch.unwrap_or(0);
            let known = rounds.strangers.entry(id.into()).or_insert((epoch, Instant::now()));
            if known.0 != epoch {
                *known = (epoch, Instant::now());
            } else if known.1.elapsed() >= UNCLAIMED {
                rounds.strangers.remove(id);
                writes.abandon(id, epoch, &mut self.author);
            }
        }
        let mut pipeline = redis::pipe();
        if writes.write(&mut self.author, &self.node.limits.load(), &mut pipeline) > 0 {
            let replies: Vec<Value> = pipeline.query_async(connection).await?;
            self.take_in(&writes, &replies);
        }
        Ok(())
    }

    /// Wills that claims have left to this node, or of which an answer that was lost has told.
    async fn collect_owed(&mut self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let wills = self.link.keys.wills(self.bus.node);
        let wills: Result<Vec<Value>, RedisError> =
            redis::cmd("HGETALL").arg(wills).query_async(connection).await;
        let wills = wills.inspect_err(|_| self.bus.doubt_wills())?;
        for pair in wills.chunks(2) {
            Owed::of(&Value::Array(pair.to_vec())).into_iter().for_each(|owed| self.publish_owed(owed));
        }
        Ok(())
    }

    /// Puts a will among the messages, once.
    pub(super) fn publish_owed(&mut self, owed: Owed) {
        let name: Box<str> = owed.name.into();
        if self.owing.insert(name.clone()) {
            self.node.publish_owed(&owed.message, name);
        }
    }
}

/// Adds to a pipeline what this node wants, or does not want any more.
pub(super) fn change_routes(
    pipeline: &mut Pipeline,
    script: &Script,
    keys: &Keys,
    node: u64,
    changes: &[RouteChange],
) {
    let (own, names) = (node_name(node), [keys.routes(node), keys.route_log(), keys.route_version()]);
    for changes in changes.chunks(FILTERS) {
        let mut args: Vec<&[u8]> = vec![own.as_bytes()];
        for change in changes {
            args.push(if change.added { b"+" } else { b"-" });
            args.push(change.filter.as_bytes());
        }
        scripts::add(pipeline, script, &names, &args);
    }
}

/// All that this node knows of a session.
fn known_of(outbox: &Outbox) -> Vec<Change> {
    let changes = outbox.with_persistent(|persistent| {
        let session = persistent.session;
        let mut changes =
            vec![Change::Open { session, client_id: outbox.client_id.clone(), expiry: persistent.expiry }];
        changes.extend(persistent.filters.iter().map(|(filter, (options, id))| Change::Subscribe {
            session,
            filter: filter.clone(),
            options: *options,
            id: *id,
        }));
        changes.extend(persistent.held.iter().map(|id| Change::Hold { session, id: *id }));
        for entry in persistent.queue.entries() {
            changes.push(Change::Enqueue { session, entry: entry.clone() });
            changes.extend(entry.received.then_some(Change::Received { session, seq: entry.seq }));
        }
        changes
    });
    changes.unwrap_or_default()
}
