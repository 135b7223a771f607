//! The suite on a real Redis, which is killed and started again between writing and reading.

use std::sync::Arc;

use nsd_broker::hub::Ending;
use nsd_broker::limits::Limits;
use nsd_broker::settings::RedisSettings;
use nsd_broker::store::change::{Change, SessionId, Stored};
use nsd_broker::store::keys::{Keys, SHARDS, node_name, shard};
use nsd_broker::store::redis::{Messages, Outcome, Steps, codec, retain};
use nsd_broker::store::{Link, RedisStore};
use redis::{Commands, Value};
use tokio::runtime::Runtime;

use super::author::{self, Wish};
use super::model::Model;
use super::{Keeper, done, enqueue, message, open, subscribe, suite};
use crate::support::Redis;

/// One node that writes, always under the same epoch unless it is told another one.
struct Shared {
    redis: Redis,
    runtime: Runtime,
    link: Arc<Link>,
    batch: u64,
}

const EPOCH: u64 = 7;
/// Numbers of one batch: what stands between its changes divides it.
const PARTS: u64 = 1000;
/// A connection has ended at a time that is given.
const PART: &str = "if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HSET', KEYS[1], 'parted', ARGV[1])
  redis.call('HDEL', KEYS[1], 'node')
end";

/// The client id that a session has alone; those of the suite may have several.
fn client_of(session: SessionId) -> String {
    format!("of {session}")
}

impl Shared {
    fn start() -> Self {
        let redis = Redis::start();
        let settings = RedisSettings::parse(&redis.url(), None, "nsd:").unwrap();
        let link = Arc::new(Link::new(&settings).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut shared = Self { redis, runtime, link, batch: 0 };
        shared.connect();
        shared
    }

    fn connect(&mut self) {
        // It listens before it has read its file.
        crate::support::eventually("redis has read its file", crate::support::SOON * 2, || {
            let connected = self.runtime.block_on(self.link.connect());
            connected.map(|connection| self.link.use_now(connection)).is_ok()
        });
    }

    fn keys(&self) -> &Keys {
        &self.link.keys
    }

    /// Sends this batch, as number `self.batch`: what came of its steps, unless it had come before.
    fn send(&self, changes: &[Change], epoch: u64) -> Option<Vec<Outcome>> {
        let (mut before, mut rest) = (redis::pipe(), redis::pipe());
        let mut parts = vec![Steps::new(self.keys(), 1, self.batch * PARTS)];
        let mut between: Vec<redis::Cmd> = Vec::new();
        for change in changes {
            let number = self.batch * PARTS + parts.len() as u64;
            let Some(steps) = parts.last_mut() else { panic!("there is one") };
            // As claims write them: who has the client id, and what its session is.
            if let Change::Open { session, client_id, .. } = change {
                let client = format!("nsd:{{s{}}}:client:{client_id}", session % SHARDS);
                before.hset(client, "epoch", EPOCH).ignore();
                let fields = [("epoch", EPOCH), ("session", *session)];
                before.hset_multiple(self.keys().client(&client_of(*session)), &fields).ignore();
            }
            if steps.change(change, epoch) {
                continue;
            }
            match change {
                Change::Close { session } => {
                    let ending = Ending { expiry: 0, keep_will: false, sent: 0 };
                    steps.part(self.keys(), &client_of(*session), epoch, ending);
                }
                // The script takes the time by its own clock.
                Change::Part { session, at } => {
                    let mut part = redis::cmd("EVAL");
                    part.arg(PART).arg(1).arg(self.keys().of(*session, "s")).arg(codec::write_parted(*at));
                    between.push(part);
                    parts.push(Steps::new(self.keys(), 1, number));
                }
                Change::Will { client_id, will } => {
                    let stored = codec::write_will(Some(will));
                    rest.hset(self.keys().client(client_id), "will", stored).ignore();
                }
                Change::WillDone { client_id } => {
                    rest.hdel(self.keys().client(client_id), "will").ignore();
                }
                Change::Retain { message, since } => {
                    let stored = codec::write_retained(message.bytes(), *since);
                    retain(&mut rest, self.keys(), message.publish().topic, &stored);
                }
                Change::Forget { topic } => retain(&mut rest, self.keys(), topic, b""),
                // As `nsd` writes them.
                Change::Device { id, secret, disabled } => {
                    let fields = [("secret", &**secret), ("disabled", if *disabled { "1" } else { "0" })];
                    rest.hset_multiple(self.keys().device(id), &fields).ignore();
                }
                Change::NoDevice { id } => drop(rest.del(self.keys().device(id)).ignore().clone()),
                other => panic!("{other:?} is written by nobody"),
            }
        }
        // Much at once may take longer than a node waits for an answer.
        let mut connection = self.redis.connection();
        self.write(&before);
        let (mut outcomes, mut between) = (Vec::new(), between.into_iter());
        for steps in parts {
            let reply: Value = steps.command.query(&mut connection).unwrap();
            outcomes.extend(Steps::read(&reply)?);
            if let Some(part) = between.next() {
                part.exec(&mut connection).unwrap();
            }
        }
        self.write(&rest);
        Some(outcomes)
    }

    fn write(&self, pipeline: &redis::Pipeline) {
        if !pipeline.is_empty() {
            pipeline.exec(&mut self.redis.connection()).unwrap();
        }
    }

    fn read(&self) -> Stored {
        let mut connection = self.redis.connection();
        let store = RedisStore::new(Arc::clone(&self.link), 1);
        let sessions: Vec<SessionId> = connection.smembers(self.keys().sessions()).unwrap();
        let session = |session| {
            let mut found = None;
            crate::support::eventually("the session is read", crate::support::SOON * 4, || {
                found = self.runtime.block_on(store.stored(session)).ok().flatten();
                found.is_some()
            });
            found.unwrap()
        };
        let retained: Vec<(String, Vec<u8>)> = connection.hgetall(self.keys().retained()).unwrap();
        let retained = retained.iter().map(|(_, stored)| codec::read_retained(stored).unwrap());
        let keys: Vec<String> = connection.keys("nsd:*").unwrap();
        let named = |name: &str| -> Vec<(String, String)> {
            let of = |key: &String| Some((key.clone(), key.split_once(name)?.1.to_owned()));
            keys.iter().filter_map(of).collect()
        };
        let mut wills = Vec::new();
        for (key, client) in named("}:client:") {
            let will: Option<Vec<u8>> = connection.hget(key, "will").unwrap();
            wills.extend(will.map(|will| (client.into(), codec::read_will(&will).unwrap())));
        }
        let mut devices = Vec::new();
        for (_, id) in named("nsd:device:") {
            let device = self.runtime.block_on(
                nsd_broker::store::Store::Redis(RedisStore::new(Arc::clone(&self.link), 1)).device(&id),
            );
            let device = device.unwrap().unwrap();
            devices.push((id.into(), device.secret.as_str().into(), device.disabled));
        }
        let last: Option<SessionId> = connection.get(self.keys().last_session()).unwrap();
        Stored {
            sessions: sessions.into_iter().map(session).collect(),
            retained: retained.map(|(message, since)| (Arc::new(message), since)).collect(),
            wills,
            devices,
            next_session: last.unwrap_or(0) + 1,
        }
    }
}

impl Keeper for Shared {
    fn commit(&mut self, changes: &[Change]) {
        self.batch += 1;
        assert!(self.send(changes, EPOCH).is_some());
        assert_eq!(self.send(changes, EPOCH), None, "a batch that comes again changes nothing");
    }

    fn restart(&mut self) -> Stored {
        self.redis.kill();
        self.redis.restart();
        self.connect();
        self.read()
    }

    fn shares(&self) -> bool {
        false
    }
}

#[test]
fn redis_keeps_what_the_suite_asks_for() {
    suite(&mut Shared::start());
}

#[test]
fn changes_at_random_are_kept() {
    let mut shared = Shared::start();
    let (mut model, mut dice) = (Model::default(), fastrand::Rng::with_seed(3));
    for round in 1..=40 {
        let wishes: Vec<Wish> =
            (0..dice.usize(1..60)).map(|_| (dice.u8(..), dice.u8(..), dice.u16(..))).collect();
        shared.commit(&author::batch(&mut model, &wishes));
        if round % 8 == 0 {
            model.check(&shared.restart());
        }
    }
}

#[test]
fn what_comes_under_an_old_epoch_is_void() {
    let mut shared = Shared::start();
    let mut model = Model::default();
    let begin = [open(1, "c", 60), enqueue(1, 1, message("m", 10)), enqueue(1, 2, message("m", 10))];
    shared.commit(&begin);
    model.apply(&begin);
    let id = nsd_wire::PacketId::MIN;
    let late = [
        Change::Subscribe { session: 1, filter: "f".into(), options: Default::default(), id: None },
        Change::Done { session: 1, seq: 1 },
        Change::Received { session: 1, seq: 2 },
        Change::Hold { session: 1, id },
        Change::Release { session: 1, id },
        enqueue(1, 3, message("m", 10)),
        open(1, "c", 99),
        Change::Close { session: 1 },
    ];
    shared.batch += 1;
    let outcomes = shared.send(&late, EPOCH - 1).unwrap();
    assert_eq!(outcomes, vec![Outcome::Fenced; late.len()]);
    model.check(&shared.restart());
}

impl Shared {
    /// A session with this queue, whose client went away after it was sent what has a place below `sent`.
    fn away(&mut self, places: std::ops::RangeInclusive<u64>, sent: u64) {
        self.commit(&[open(1, "c", 60)]);
        self.commit(&places.map(|place| enqueue(1, place, message("m", 10))).collect::<Vec<_>>());
        self.commit(&[Change::Part { session: 1, at: std::time::SystemTime::now() }]);
        let _: () = self.redis.connection().hset(self.keys().of(1, "s"), "sent", sent).unwrap();
    }

    /// Messages for the session 1 under these limits: what became of each.
    fn publish(&mut self, messages: &[Arc<nsd_broker::message::Message>], limits: &Limits) -> Vec<i64> {
        self.batch += 1;
        self.try_publish(messages, limits).unwrap()
    }

    /// The same, as number `self.batch`, unless that had come before.
    fn try_publish(
        &mut self,
        messages: &[Arc<nsd_broker::message::Message>],
        limits: &Limits,
    ) -> Option<Vec<i64>> {
        let mut call = Messages::new(self.keys(), 1, self.batch, limits);
        let mut head = Vec::new();
        codec::write_head(nsd_wire::Qos::AtLeastOnce, false, std::time::SystemTime::now(), &[], &mut head);
        messages.iter().for_each(|one| call.add(one.bytes(), [(1, &head[..])].into_iter(), None, None));
        let mut all = redis::pipe();
        all.add_command(call.command);
        let replies: Vec<Value> = all.query(&mut self.redis.connection()).unwrap();
        let (_, answers) = Messages::read(&replies[0])?;
        Some(answers.chunks(2).map(|pair| pair[1]).collect())
    }

    fn field(&self, field: &str) -> u64 {
        self.redis.connection().hget(self.keys().of(1, "s"), field).unwrap()
    }

    fn places(&self) -> Vec<u64> {
        let mut places: Vec<u64> = self.redis.connection().hkeys(self.keys().of(1, "q")).unwrap();
        places.sort_unstable();
        places
    }

    /// How often a command has run since the server began.
    fn calls(&self, command: &str) -> u64 {
        let all: String = redis::cmd("INFO").arg("commandstats").query(&mut self.redis.connection()).unwrap();
        let line = all.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    }
}

fn at_most(queue_messages: usize, queue_bytes: usize) -> Limits {
    Limits { queue_messages, queue_bytes, ..Limits::default() }
}

#[test]
fn what_gives_way_is_not_looked_for_from_the_beginning_each_time() {
    let mut shared = Shared::start();
    shared.away(1..=2000, 1500);
    let (before, one) = (shared.calls("hstrlen"), message("m", 10));
    assert_eq!(shared.publish(&vec![one; 300], &at_most(2000, 1 << 20)), [0; 300]);
    assert!(shared.calls("hstrlen") - before < 1000, "{}", shared.calls("hstrlen") - before);
    let left: Vec<u64> = (1..1500).chain(1800..=2300).collect();
    assert_eq!((shared.places(), shared.field("head")), (left, 1));
}

/// A queue that was four times as large while its client was there.
#[test]
fn a_queue_that_is_far_too_long_is_shortened_in_parts() {
    let mut shared = Shared::start();
    shared.away(1..=40_000, 0);
    let (before, one) = (shared.calls("hstrlen"), message("m", 10));
    assert_eq!(shared.publish(&[Arc::clone(&one)], &at_most(10, 1 << 30)), [0]);
    assert!(shared.calls("hstrlen") - before <= 21_000);
    shared.publish(&[one], &at_most(10, 1 << 30));
    shared.publish(&[message("last", 10)], &at_most(10, 1 << 30));
    assert_eq!((shared.places().len(), shared.field("head")), (10, 39_994));
}

#[test]
fn what_gave_way_is_counted_and_did_not_do_so_for_nothing() {
    let mut shared = Shared::start();
    shared.away(1..=3, 2);
    let large = message("large", 200);
    let answers = shared.publish(&[Arc::clone(&large), large], &at_most(1000, 250));
    assert_eq!(answers, [0, 0], "the second makes the first give way");
    assert_eq!(shared.places(), [1, 5]);
    let queue: Vec<Vec<u8>> = shared.redis.connection().hvals(shared.keys().of(1, "q")).unwrap();
    assert_eq!(shared.field("bytes"), queue.iter().map(|entry| entry.len() as u64).sum::<u64>());
}

#[test]
fn the_beginning_of_a_queue_follows_what_is_done_with() {
    let mut shared = Shared::start();
    shared.commit(&[open(1, "c", 60)]);
    shared.commit(&(1..=100).map(|place| enqueue(1, place, message("m", 10))).collect::<Vec<_>>());
    shared.commit(&(2..=50).map(|place| done(1, place)).collect::<Vec<_>>());
    assert_eq!(shared.field("head"), 1);
    shared.commit(&[done(1, 1)]);
    assert_eq!(shared.field("head"), 51);
    // Across a gap that is too wide for one look.
    shared.commit(&[enqueue(1, 5000, message("m", 10)), enqueue(1, 5001, message("m", 10))]);
    for place in 51..=100 {
        shared.commit(&[done(1, place)]);
    }
    let heads: Vec<u64> = (0..6)
        .map(|round| {
            shared.commit(&[enqueue(1, 6000 + round, message("m", 10)), done(1, 6000 + round)]);
            shared.field("head")
        })
        .collect();
    assert!(heads.is_sorted() && heads[0] < 5000 && heads[5] == 5000, "{heads:?}");
}

const SESSION: &str = include_str!("../../../src/store/scripts/session.lua");
const DUE: &str = include_str!("../../../src/store/scripts/due.lua");
const REAP: &str = include_str!("../../../src/store/scripts/reap.lua");

impl Shared {
    /// Five sessions from this one on that end with their connections, with 6000 filters each.
    fn wide(&mut self, first: SessionId) {
        for session in first..first + 5 {
            self.commit(&[open(session, &client_of(session), 0)]);
            let wanted = |number| subscribe(session, &format!("{number}"), Default::default(), None);
            self.commit(&(0..6000).map(wanted).collect::<Vec<_>>());
        }
    }

    fn run(&self, script: &str, args: &[&str]) -> (u64, Value) {
        let script = redis::Script::new(&format!("{SESSION}{script}"));
        let mut call = script.prepare_invoke();
        call.arg("nsd:");
        args.iter().for_each(|arg| {
            call.arg(*arg);
        });
        call.invoke(&mut self.redis.connection()).unwrap()
    }

    fn sessions(&self) -> Vec<SessionId> {
        let mut sessions: Vec<_> = self.redis.connection().smembers(self.keys().sessions()).unwrap();
        sessions.sort_unstable();
        sessions
    }
}

/// Each filter of each is written to a log, and Redis does nothing else meanwhile.
#[test]
fn sessions_with_many_filters_do_not_end_all_at_once() {
    let mut shared = Shared::start();
    shared.wide(1);
    shared.commit(&(1..=5).map(|session| Change::Close { session }).collect::<Vec<_>>());
    assert_eq!(shared.sessions(), [3, 4, 5], "10,000 filters and those of one more session");
    assert_eq!(shared.run(DUE, &["1", "500"]).0, 2);
    assert_eq!(shared.sessions(), [5]);
    assert_eq!(shared.run(DUE, &["1", "500"]).0, 1);
    assert_eq!((shared.sessions(), shared.run(DUE, &["1", "500"]).0), (vec![], 0));
    // Of a dead node.
    shared.wide(6);
    let mut connection = shared.redis.connection();
    let _: () = connection.sadd(shared.keys().nodes(), "dead").unwrap();
    for session in 6..=10 {
        let id = client_of(session);
        let _: () = connection.hset(shared.keys().client(&id), "node", "dead").unwrap();
        let _: () = connection.sadd("nsd:on:dead", format!("{}:{id}", shard(&id))).unwrap();
    }
    let left: Vec<_> =
        (0..3).map(|_| (shared.run(REAP, &["1", "dead", "500"]).0, shared.sessions().len())).collect();
    assert_eq!(left, [(1, 3), (1, 1), (0, 0)]);
}

/// It may only have been cut off, and sends again what it has no answer to.
#[test]
fn batches_of_a_node_that_was_taken_for_dead_are_known_when_they_come_again() {
    let mut shared = Shared::start();
    shared.commit(&[open(1, "c", 60)]);
    let one = [message("m", 10)];
    assert_eq!(shared.publish(&one, &Limits::default()), [1]);
    let nodes = shared.keys().nodes();
    let _: () = shared.redis.connection().sadd(&nodes, node_name(1)).unwrap();
    let _survivor = crate::support::Broker::node(&shared.redis);
    let is_in = |set: String| -> bool { shared.redis.connection().sismember(set, node_name(1)).unwrap() };
    crate::support::eventually("it is taken for dead", crate::support::SOON, || {
        !is_in(nodes.clone()) && !is_in(shared.keys().dying())
    });
    assert_eq!(shared.try_publish(&one, &Limits::default()), None);
    shared.batch = 1;
    assert_eq!(shared.send(&[done(1, 1)], EPOCH), None);
    assert_eq!(shared.places(), [1]);
}
