//! What the disk store costs: `cargo bench -p nsd-broker --bench disk [-- FOLDER]`. The folder decides which disk is
//! measured; without one it is the target folder's.
#![expect(clippy::print_stdout, reason = "the numbers are what it is run for")]
#![expect(clippy::unwrap_used, reason = "a bench that cannot store has nothing to measure")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};

use nsd_broker::message::Message;
use nsd_broker::store::change::{Change, Entry, Seq, SessionId};
use nsd_broker::store::disk::{CACHE, DiskStore};
use nsd_wire::{Publish, Qos, SubscribeOptions};

const SESSIONS: u64 = 100_000;
const STANDING: u64 = 1_000_000;
const PAYLOAD: usize = 256;
/// A batch is bounded like the broker's.
const BATCH: usize = 5000;

fn main() {
    let given = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let base = given.unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").to_owned());
    let folder = tempfile::tempdir_in(base).unwrap();
    let mut bench = Bench::new(folder.path());

    println!("{SESSIONS} sessions, queues empty");
    bench.begin_sessions();
    bench.pairs_of_all_sizes();
    bench.same_batch();
    bench.fan_out();
    bench.growth();
    bench.start();

    println!("\n{STANDING} entries of {PAYLOAD} B standing in the queues");
    bench.fill();
    bench.start();
    bench.pairs_of_all_sizes();
    bench.drain();
    bench.start();
}

struct Bench<'f> {
    folder: &'f Path,
    store: Option<DiskStore>,
    /// Of each session.
    seqs: Vec<Seq>,
    turn: u64,
}

impl<'f> Bench<'f> {
    fn new(folder: &'f Path) -> Self {
        Self {
            folder,
            store: Some(DiskStore::open(folder, CACHE).unwrap().0),
            seqs: vec![0; SESSIONS as usize],
            turn: 0,
        }
    }

    fn commit(&mut self, changes: &[Change]) {
        self.store.as_mut().unwrap().commit(changes).unwrap();
    }

    fn begin_sessions(&mut self) {
        let all: Vec<SessionId> = (1..=SESSIONS).collect();
        let watch = Watch::start();
        for some in all.chunks(BATCH / 2) {
            let changes: Vec<Change> = some.iter().flat_map(|session| begin(*session)).collect();
            self.commit(&changes);
        }
        watch.tell("open a session and subscribe", SESSIONS, SESSIONS / (BATCH as u64 / 2));
    }

    fn pairs_of_all_sizes(&mut self) {
        for (payload, batches) in [(PAYLOAD, &[1, 10, 100, 1000][..]), (65_536, &[1, 100])] {
            let message = message(payload);
            for &batch in batches {
                let rounds = (20_000 * PAYLOAD / payload.max(PAYLOAD) / batch).clamp(20, 400);
                let watch = Watch::start();
                let mut before = Vec::new();
                for _ in 0..rounds {
                    let new: Vec<(SessionId, Seq)> = (0..batch).map(|_| self.next()).collect();
                    let mut changes: Vec<Change> = before.drain(..).map(done).collect();
                    // Separate messages, as separate publishers send them.
                    changes.extend(new.iter().map(|at| enqueue(*at, &Arc::new((*message).clone()))));
                    self.commit(&changes);
                    before = new;
                }
                watch.tell(
                    &format!("{payload} B, {batch} a batch, done in the next"),
                    (rounds * batch) as u64,
                    rounds as u64,
                );
                let rest: Vec<Change> = before.into_iter().map(done).collect();
                self.commit(&rest);
            }
        }
    }

    fn same_batch(&mut self) {
        let message = message(PAYLOAD);
        let watch = Watch::start();
        for _ in 0..100 {
            let mut changes = Vec::new();
            for _ in 0..1000 {
                let at = self.next();
                changes.extend([enqueue(at, &Arc::new((*message).clone())), done(at)]);
            }
            self.commit(&changes);
        }
        watch.tell("done in the same batch", 100_000, 100);
    }

    fn fan_out(&mut self) {
        let watch = Watch::start();
        for _ in 0..20 {
            let message = message(4096);
            let all: Vec<_> = (0..1000).map(|_| self.next()).collect();
            let changes: Vec<Change> = all.iter().map(|at| enqueue(*at, &message)).collect();
            self.commit(&changes);
            let changes: Vec<Change> = all.into_iter().map(done).collect();
            self.commit(&changes);
        }
        watch.tell("one message of 4 KiB to 1,000 sessions, done in the next", 20_000, 40);
    }

    fn growth(&mut self) {
        let message = message(PAYLOAD);
        print!("file after each 200,000 entries that came and went, MB:");
        let mut before = Vec::new();
        for round in 1..=1000 {
            let new: Vec<(SessionId, Seq)> = (0..1000).map(|_| self.next()).collect();
            let mut changes: Vec<Change> = before.drain(..).map(done).collect();
            changes.extend(new.iter().map(|at| enqueue(*at, &Arc::new((*message).clone()))));
            self.commit(&changes);
            before = new;
            if round % 200 == 0 {
                print!(" {:.1}", self.size());
            }
        }
        println!();
        let rest: Vec<Change> = before.into_iter().map(done).collect();
        self.commit(&rest);
    }

    fn fill(&mut self) {
        let message = message(PAYLOAD);
        let watch = Watch::start();
        let batches = STANDING / BATCH as u64;
        for _ in 0..batches {
            let changes: Vec<Change> =
                (0..BATCH).map(|_| enqueue(self.next(), &Arc::new((*message).clone()))).collect();
            self.commit(&changes);
        }
        watch.tell(&format!("enqueue, {BATCH} a batch"), STANDING, batches);
        let net = STANDING as f64 * message.bytes().len() as f64 / 1e6;
        println!("file {:.1} MB for {net:.1} MB of messages", self.size());
    }

    fn drain(&mut self) {
        let watch = Watch::start();
        let (_, stored) = self.reopened();
        let all: Vec<(SessionId, Seq)> = stored
            .sessions
            .iter()
            .flat_map(|session| session.queue.iter().map(|entry| (session.session, entry.seq)))
            .collect();
        drop(stored);
        for some in all.chunks(BATCH) {
            let changes: Vec<Change> = some.iter().copied().map(done).collect();
            self.commit(&changes);
        }
        watch.tell("done, session by session (start included)", all.len() as u64, (all.len() / BATCH) as u64);
    }

    fn start(&mut self) {
        let (took, stored) = self.reopened();
        let entries: usize = stored.sessions.iter().map(|session| session.queue.len()).sum();
        println!(
            "start with {} sessions, {entries} entries: {took:.2} s, file {:.1} MB",
            stored.sessions.len(),
            self.size()
        );
    }

    fn reopened(&mut self) -> (f64, nsd_broker::store::change::Stored) {
        self.store.take().unwrap().close().unwrap();
        let start = Instant::now();
        let (store, stored) = DiskStore::open(self.folder, CACHE).unwrap();
        self.store = Some(store);
        (start.elapsed().as_secs_f64(), stored)
    }

    /// Sessions in no order.
    fn next(&mut self) -> (SessionId, Seq) {
        self.turn += 1;
        let at = self.turn.wrapping_mul(7919) % SESSIONS;
        let seq = &mut self.seqs[at as usize];
        *seq += 1;
        (at + 1, *seq)
    }

    fn size(&self) -> f64 {
        fs::metadata(self.folder.join("store.redb")).unwrap().len() as f64 / 1e6
    }
}

/// Wall clock and this thread's processor time.
struct Watch(Instant, f64);

impl Watch {
    fn start() -> Self {
        Self(Instant::now(), processor())
    }

    fn tell(self, what: &str, items: u64, batches: u64) {
        let wall = self.0.elapsed().as_secs_f64() * 1e6;
        let cpu = processor() - self.1;
        let (items, batches) = (items as f64, batches.max(1) as f64);
        println!(
            "{what:56} {:8.1} µs of processor, {:8.1} µs in all each; {:8.2} ms a batch",
            cpu / items,
            wall / items,
            wall / batches / 1e3
        );
    }
}

/// Microseconds.
fn processor() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e3
}

fn begin(session: SessionId) -> [Change; 2] {
    let client_id = format!("device-{session:08}").into();
    let filter = format!("plant/{session}/command/#").into();
    let options = SubscribeOptions::from(Qos::AtLeastOnce);
    [
        Change::Open { session, client_id, expiry: 3600 },
        Change::Subscribe { session, filter, options, id: None },
    ]
}

fn enqueue((session, seq): (SessionId, Seq), message: &Arc<Message>) -> Change {
    let message = Arc::clone(message);
    let (qos, ids) = (Qos::AtLeastOnce, Box::default());
    let entry = Entry { seq, qos, retain: false, ids, since: UNIX_EPOCH, message, received: false };
    Change::Enqueue { session, entry }
}

fn done((session, seq): (SessionId, Seq)) -> Change {
    Change::Done { session, seq }
}

fn message(payload: usize) -> Arc<Message> {
    let payload: Vec<u8> = (0..payload).map(|at| (at * 31 % 251) as u8).collect();
    Arc::new(Message::new(&Publish::new("plant/1234/command/set", &payload)).unwrap())
}
