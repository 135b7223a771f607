//! What `Change` and `Stored` promise, for every store that keeps them: one suite, a model to compare with, and changes
//! made up at random.

pub(crate) mod author;
pub(crate) mod model;
mod on_redis;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nsd_broker::message::{Message, Will};
use nsd_broker::store::change::{Change, Entry, Seq, SessionId, Stored};
use nsd_wire::{PacketId, Publish, Qos, RetainHandling, SubscribeOptions, SubscriptionId};

use model::Model;

/// A store under test.
pub(crate) trait Keeper {
    /// Stores a batch; it must not fail.
    fn commit(&mut self, changes: &[Change]);
    /// Starts again, and tells what there is.
    fn restart(&mut self) -> Stored;
    /// Whether it gives back one message for all that had one. Not if it gives sessions back one at a time.
    fn shares(&self) -> bool {
        true
    }
}

/// A keeper beside the model: whatever is said to both, they must agree on after a restart.
struct Pair<'k, K> {
    keeper: &'k mut K,
    model: Model,
}

impl<K: Keeper> Pair<'_, K> {
    fn commit(&mut self, changes: impl IntoIterator<Item = Change>) {
        let changes: Vec<Change> = changes.into_iter().collect();
        self.keeper.commit(&changes);
        self.model.apply(&changes);
    }

    fn agree(&mut self) -> Stored {
        let stored = self.keeper.restart();
        self.model.check(&stored);
        stored
    }
}

/// Begins with an empty store, and leaves an empty one but for the numbers that must not come again.
pub(crate) fn suite(keeper: &mut impl Keeper) {
    let mut pair = Pair { keeper, model: Model::default() };
    pair.agree();
    sessions(&mut pair);
    subscriptions(&mut pair);
    queues(&mut pair);
    shared_messages(&mut pair);
    second_halves_of_qos_2(&mut pair);
    retained_wills_and_devices(&mut pair);
    the_dead_stay_dead(&mut pair);
    for session in pair.model.sessions() {
        pair.commit([Change::Close { session }]);
    }
    let stored = pair.agree();
    assert!(stored.sessions.is_empty());
    assert!(stored.next_session > 1, "numbers of sessions are never given twice");
}

fn sessions(pair: &mut Pair<'_, impl Keeper>) {
    pair.commit([open(1, "one", 0), open(2, "two", u32::MAX), open(7, "seven", 60)]);
    pair.agree();
    let at = UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
    pair.commit([Change::Part { session: 2, at }, Change::Close { session: 7 }]);
    let stored = pair.agree();
    assert_eq!(stored.next_session, 8, "also after the last session has ended");
    // It comes back under other terms, and with it its queue.
    pair.commit([enqueue(2, 5, message("kept", 100))]);
    pair.commit([open(2, "two", 99)]);
    let stored = pair.agree();
    let two = stored.sessions.iter().find(|session| session.session == 2).unwrap();
    assert_eq!((two.expiry, two.parted, two.queue.len()), (99, None, 1));
}

fn subscriptions(pair: &mut Pair<'_, impl Keeper>) {
    let every = SubscribeOptions {
        qos: Qos::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    let id = SubscriptionId::new(268_435_455);
    pair.commit([
        subscribe(1, "a/+/#", every, id),
        subscribe(1, "", Qos::AtMostOnce.into(), None),
        subscribe(1, "ä/\u{10ffff}", Qos::AtLeastOnce.into(), None),
        subscribe(2, "a/+/#", Qos::AtLeastOnce.into(), None),
        subscribe(2, "$share/g/a", Qos::AtLeastOnce.into(), id),
    ]);
    pair.agree();
    pair.commit([
        subscribe(1, "a/+/#", Qos::AtMostOnce.into(), None),
        Change::Unsubscribe { session: 2, filter: "a/+/#".into() },
        Change::Unsubscribe { session: 2, filter: "never there".into() },
        subscribe(2, "x", every, None),
        Change::Unsubscribe { session: 2, filter: "x".into() },
        Change::Unsubscribe { session: 2, filter: "y".into() },
        subscribe(2, "y", every, None),
    ]);
    pair.agree();
}

fn queues(pair: &mut Pair<'_, impl Keeper>) {
    let sizes = [0, 1, 50, 1000, 5000, 65_536, 1 << 20];
    pair.commit((10..).zip(sizes).map(|(seq, size)| enqueue(1, seq, message("size", size))));
    pair.agree();
    // Out of order, from both ends and the middle, across batches.
    pair.commit([done(1, 13)]);
    pair.commit([done(1, 10), done(1, 16), done(1, 16), done(1, 999)]);
    pair.agree();
    // Came and went at once; one of them is the highest place that there ever was.
    pair.commit([
        enqueue(1, 20, message("short", 10)),
        enqueue(1, 5000, message("short", 10)),
        done(1, 20),
        done(1, 5000),
    ]);
    let stored = pair.agree();
    assert!(next_seq(&stored, 1) > 5000);
    pair.commit([enqueue(1, 5001, message("after", 10))]);
    let rest: Vec<Seq> = pair.model.queue(1);
    pair.commit(rest.into_iter().map(|seq| done(1, seq)));
    let stored = pair.agree();
    assert!(next_seq(&stored, 1) > 5001, "also when the queue is empty");
}

fn shared_messages(pair: &mut Pair<'_, impl Keeper>) {
    pair.commit((100..120).map(|session| open(session, &format!("fan {session}"), 5)));
    for size in [3, 300, 100_000] {
        let one = message("shared", size);
        pair.commit((100..120).map(|session| enqueue(session, size as u64, Arc::clone(&one))));
    }
    let stored = pair.agree();
    let of = |session| {
        let found = stored.sessions.iter().find(|one| one.session == session).unwrap();
        Arc::clone(&found.queue.last().unwrap().message)
    };
    let is_one = Arc::ptr_eq(&of(100), &of(119));
    assert!(is_one || !pair.keeper.shares(), "one in memory again after a restart");
    // The first one goes, all but one go, across a restart; then the last.
    pair.commit([done(100, 300), done(100, 100_000)]);
    pair.agree();
    pair.commit((101..119).flat_map(|session| [done(session, 300), done(session, 100_000)]));
    pair.agree();
    pair.commit([done(119, 300), Change::Close { session: 119 }]);
    pair.agree();
    // Shared, and done with by some or all of them in the same batch.
    let two = message("twice", 5000);
    pair.commit([
        enqueue(100, 200_000, Arc::clone(&two)),
        enqueue(101, 200_000, Arc::clone(&two)),
        enqueue(102, 200_000, Arc::clone(&two)),
        done(100, 200_000),
    ]);
    pair.agree();
    pair.commit((100..119).map(|session| Change::Close { session }));
    pair.agree();
}

fn second_halves_of_qos_2(pair: &mut Pair<'_, impl Keeper>) {
    let received = |session, seq| Change::Received { session, seq };
    pair.commit([
        enqueue(1, 6000, message("q2", 10)),
        enqueue(1, 6001, message("q2", 10)),
        received(1, 6001),
    ]);
    pair.agree();
    pair.commit([received(1, 6000), received(1, 6000), received(1, 12_345)]);
    pair.agree();
    pair.commit([done(1, 6000)]);
    pair.agree();
    let id = |id| PacketId::new(id).unwrap();
    let hold = |session, of| Change::Hold { session, id: id(of) };
    pair.commit([hold(1, 1), hold(1, 65_535), hold(1, 65_535), hold(2, 1), hold(2, 2)]);
    pair.agree();
    let release = |session, of| Change::Release { session, id: id(of) };
    pair.commit([release(1, 1), release(1, 77), release(2, 2), hold(2, 2), hold(2, 3), release(2, 3)]);
    pair.agree();
}

fn retained_wills_and_devices(pair: &mut Pair<'_, impl Keeper>) {
    let since = UNIX_EPOCH + Duration::from_nanos(1);
    let retain = |topic: &str, size| Change::Retain { message: message(topic, size), since };
    pair.commit([retain("a", 10), retain("a/b", 100_000), retain("a", 20), retain("gone", 1)]);
    pair.agree();
    let forget = |topic: &str| Change::Forget { topic: topic.into() };
    pair.commit([
        forget("gone"),
        forget("never"),
        retain("a", 30),
        forget("a/b"),
        retain("back", 1),
        forget("back"),
    ]);
    pair.agree();

    let will = |delay| Will { message: (*message("will", 40)).clone(), delay };
    let last_words = |client_id: &str, delay| Change::Will { client_id: client_id.into(), will: will(delay) };
    let will_done = |client_id: &str| Change::WillDone { client_id: client_id.into() };
    pair.commit([last_words("one", 0), last_words("two", u32::MAX), last_words("one", 7)]);
    pair.agree();
    pair.commit([will_done("two"), will_done("nobody")]);
    pair.agree();

    let device =
        |id: &str, secret: &str, disabled| Change::Device { id: id.into(), secret: secret.into(), disabled };
    pair.commit([
        device("d1", "s1", false),
        device("d2", "", true),
        device("d1", "s3", true),
        device("d3", "x", false),
    ]);
    pair.agree();
    pair.commit([Change::NoDevice { id: "d3".into() }, Change::NoDevice { id: "d4".into() }]);
    pair.agree();
}

/// A change may come after the end of its session: it is void, and brings nothing back.
fn the_dead_stay_dead(pair: &mut Pair<'_, impl Keeper>) {
    pair.commit([
        open(300, "late", 5),
        subscribe(300, "f", Qos::AtLeastOnce.into(), None),
        enqueue(300, 1, message("m", 500)),
        Change::Hold { session: 300, id: PacketId::MIN },
    ]);
    let after = || {
        [
            subscribe(300, "g", Qos::AtLeastOnce.into(), None),
            enqueue(300, 2, message("m", 500)),
            Change::Received { session: 300, seq: 1 },
            done(300, 1),
            Change::Hold { session: 300, id: PacketId::MAX },
            Change::Part { session: 300, at: SystemTime::UNIX_EPOCH },
            Change::Close { session: 300 },
        ]
    };
    pair.commit([Change::Close { session: 300 }].into_iter().chain(after()));
    pair.agree();
    pair.commit(after());
    pair.agree();
    // A whole life in one batch.
    pair.commit([open(301, "short", 5), enqueue(301, 2, message("m", 500)), Change::Close { session: 301 }]);
    let stored = pair.agree();
    assert!(stored.next_session > 301);
}

fn next_seq(stored: &Stored, session: SessionId) -> Seq {
    stored.sessions.iter().find(|one| one.session == session).unwrap().next_seq
}

pub(crate) fn open(session: SessionId, client_id: &str, expiry: u32) -> Change {
    Change::Open { session, client_id: client_id.into(), expiry }
}

fn subscribe(
    session: SessionId,
    filter: &str,
    options: SubscribeOptions,
    id: Option<SubscriptionId>,
) -> Change {
    Change::Subscribe { session, filter: filter.into(), options, id }
}

pub(crate) fn enqueue(session: SessionId, seq: Seq, message: Arc<Message>) -> Change {
    let ids = (0..seq % 3).filter_map(|id| SubscriptionId::new(id as u32 + 1)).collect();
    let qos = if seq.is_multiple_of(2) { Qos::AtLeastOnce } else { Qos::ExactlyOnce };
    let since = UNIX_EPOCH + Duration::from_millis(seq);
    Change::Enqueue {
        session,
        entry: Entry { seq, qos, retain: seq.is_multiple_of(5), ids, since, message, received: false },
    }
}

pub(crate) fn done(session: SessionId, seq: Seq) -> Change {
    Change::Done { session, seq }
}

/// A message whose payload has this size, and is not all the same.
pub(crate) fn message(topic: &str, size: usize) -> Arc<Message> {
    let payload: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
    Arc::new(Message::new(&Publish::new(topic, &payload)).unwrap())
}
