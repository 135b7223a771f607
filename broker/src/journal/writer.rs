//! The writer: a thread that takes what all others have said, stores it, and answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use nsd_wire::ReasonCode;
use tracing::{error, info, warn};

use super::{Journal, ToStore, Work};
use crate::access::DeviceRecord;
use crate::hub::{Away, Hub, Keepsake, Kept, Outbox, Placed};
use crate::lanes::Receipts;
use crate::limits::Limits;
use crate::node::Node;
use crate::queue::Displaced;
use crate::store::change::Change;
use crate::store::{CommitError, Keep, Store};
use crate::telemetry::{Cause, Count, count_many};

/// Between two attempts to store what must not be lost.
const PAUSE: Duration = Duration::from_millis(200);

pub struct Writer {
    journal: Arc<Journal>,
    hub: Arc<Hub>,
    devices: Arc<Store>,
    store: Box<dyn Keep>,
    limits: Arc<ArcSwap<Limits>>,
    /// Steps that were taken already and are not stored yet, and the answers that wait for that.
    owed: Vec<Work>,
    owed_answers: Receipts,
}

/// Nobody is answered without the writer, and everybody would wait: if it fails, the process ends, and comes back with
/// all that was acknowledged.
struct Vital;

impl Drop for Vital {
    fn drop(&mut self) {
        if std::thread::panicking() {
            error!("the thread of the store has failed: the broker ends, so that it is started again");
            std::process::abort();
        }
    }
}

/// One batch, as it will be stored.
#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    /// To be handed over once they are safe.
    entries: Vec<(Arc<Outbox>, Placed)>,
    retained: Vec<Tried>,
    /// What had to go for the entries.
    displaced: Vec<(Arc<Outbox>, Displaced)>,
    /// How many of the entries are lost when this batch is refused.
    unanswered: usize,
    /// Taken back when the messages of this batch are refused.
    held: Vec<(Arc<Outbox>, nsd_wire::PacketId)>,
}

/// What is to be stored for a topic.
struct Tried {
    topic: Box<str>,
    kept: Option<Arc<Kept>>,
    /// How many messages it answers, whether it is stored or refused.
    answers: usize,
    /// How many besides it answers only when it is stored.
    owed: usize,
}

impl Writer {
    pub fn new(journal: Arc<Journal>, node: &Node, store: Box<dyn Keep>) -> Self {
        Self {
            journal,
            hub: Arc::clone(&node.hub),
            devices: Arc::clone(&node.store),
            store,
            limits: Arc::clone(&node.limits),
            owed: Vec::new(),
            owed_answers: Receipts::default(),
        }
    }

    /// Until [`Journal::finish`], and then once more; and once for what that has given to other members of groups.
    pub fn run(mut self) {
        let _vital = Vital;
        while !self.wait() {
            self.turn();
        }
        self.turn();
        self.turn();
        if let Err(error) = self.store.close() {
            error!(%error, "the store cannot be closed as it should be; the next start takes longer");
        }
    }

    /// Whether this is the end.
    fn wait(&self) -> bool {
        let mut bell = self.journal.bell.lock();
        while !bell.rung && !bell.over {
            if self.owed.is_empty() {
                self.journal.rung.wait(&mut bell);
            } else if self.journal.rung.wait_for(&mut bell, PAUSE).timed_out() {
                break;
            }
        }
        bell.rung = false;
        bell.over
    }

    fn turn(&mut self) {
        let (waiters, loads) = self.journal.take();
        let (mut messages, mut steps) = (Receipts::default(), std::mem::take(&mut self.owed_answers));
        let mut work = std::mem::take(&mut self.owed);
        for load in loads {
            work.extend(load.work);
            messages.extend(load.messages);
            steps.extend(load.steps);
        }
        retained_first(&mut work);
        let mut outcome = self.commit(&work);
        messages.answer(reason(outcome));
        if outcome.is_err() {
            // Without messages, which are refused, less room is needed, and what is done with makes some.
            work.retain(|work| !matches!(work, Work::Message(_) | Work::Retained { owed: false, .. }));
            Work::keep_first(&mut work);
            outcome = self.commit(&work);
        }
        waiters.into_iter().for_each(|waiter| waiter.answer(reason(outcome)));
        if outcome.is_ok() {
            return steps.answer(ReasonCode::Success);
        }
        if self.journal.broken().is_some() {
            // It never will again: who waits for such an answer goes elsewhere, or comes back to the next process.
            return steps.send_away(ReasonCode::UnspecifiedError);
        }
        if self.make_room(&work).is_ok() {
            work.retain(|work| !work.is_step());
            std::mem::take(&mut steps).answer(ReasonCode::Success);
        }
        // Those who wait for these answers wait until it works again; others are told at once that it does not.
        (self.owed, self.owed_answers) = (work, steps);
    }

    /// What makes room does not wait for what needs some.
    fn make_room(&mut self, work: &[Work]) -> Result<(), CommitError> {
        let mut changes = self.prepare(work).changes;
        changes.retain(|change| !change.needs_room());
        self.store.commit(&changes)
    }

    /// All of it, or nothing.
    fn commit(&mut self, work: &[Work]) -> Result<(), ReasonCode> {
        let batch = self.prepare(work);
        let outcome = self.store(&batch.changes);
        match outcome {
            Ok(()) => batch.hand_over(&self.hub),
            Err(_) => batch.take_back(&self.hub),
        }
        outcome
    }

    fn store(&mut self, changes: &[Change]) -> Result<(), ReasonCode> {
        if changes.is_empty() {
            return Ok(());
        }
        let outcome = self.store.commit(changes);
        let before = self.journal.set_working(outcome.is_ok());
        outcome.map_err(|error| {
            if let CommitError::Broken { .. } = error
                && self.journal.broken.set(error.to_string()).is_ok()
            {
                error!(
                    %error,
                    "the store is broken: what must be stored is refused. See to its disk and folder, then start the \
                     broker again: it has everything that was acknowledged"
                );
            } else if before {
                error!(%error, "the store does not take anything: what must be stored is refused");
            }
            error.reason()
        })?;
        if !before {
            info!("the store works again");
        }
        Ok(())
    }

    fn prepare(&self, work: &[Work]) -> Batch {
        let mut batch = Batch::default();
        let mut topics: HashMap<&str, (usize, usize)> = HashMap::new();
        for work in work {
            match work {
                Work::Message(to_store) => batch.add(to_store, &self.limits.load()),
                // Here, a session is what is told of it.
                Work::Session(outbox) | Work::Part(outbox, _) => batch.add_session(outbox),
                Work::Filter(outbox, filter, _) => batch.add_filter(outbox, filter),
                Work::Released(outbox, id) => {
                    batch.of(outbox, |session| Change::Release { session, id: *id });
                }
                Work::Received(outbox, seq) => {
                    batch.of(outbox, |session| Change::Received { session, seq: *seq });
                }
                Work::Done(outbox, seq) => {
                    batch.of(outbox, |session| Change::Done { session, seq: *seq });
                }
                Work::Retained { topic, owed } => {
                    let (answers, owes) = topics.entry(topic).or_default();
                    *if *owed { owes } else { answers } += 1;
                }
                Work::Will(client_id) => batch.add_will(client_id, &self.hub),
                Work::Device(id) => batch.add_device(id, &self.devices),
            }
        }
        let retained = self.hub.retained.read();
        for (topic, (answers, owed)) in topics {
            let kept = retained.get(topic).cloned();
            batch.changes.push(match &kept {
                Some(kept) => Change::Retain { message: Arc::clone(&kept.message), since: kept.since },
                None => Change::Forget { topic: topic.into() },
            });
            batch.retained.push(Tried { topic: topic.into(), kept, answers, owed });
        }
        batch
    }
}

/// What was retained was said before what is newer, in whichever lane that is.
fn retained_first(work: &mut [Work]) {
    let is_live = |work: &Work| !matches!(work, Work::Message(to_store) if to_store.retained);
    if !work.iter().all(is_live) {
        work.sort_by_key(is_live);
    }
}

fn reason(outcome: Result<(), ReasonCode>) -> ReasonCode {
    outcome.err().unwrap_or(ReasonCode::Success)
}

impl Batch {
    /// A change of a session that is not over.
    fn of(&mut self, outbox: &Arc<Outbox>, change: impl FnOnce(u64) -> Change) {
        if let Some(session) = outbox.session.filter(|_| !outbox.is_closed()) {
            self.changes.push(change(session));
        }
    }

    fn add(&mut self, to_store: &ToStore, limits: &Limits) {
        let ToStore { message, since, lasting, retained, hold, answered } = to_store;
        let kept = Keepsake { message, since: *since, retained: *retained };
        lasting.place(&kept, limits, |outbox, mut placed| {
            let session = placed.session;
            self.changes.push(Change::Enqueue { session, entry: placed.entry.clone() });
            for displaced in std::mem::take(&mut placed.instead_of) {
                self.changes.push(Change::Done { session, seq: displaced.seq() });
                self.displaced.push((Arc::clone(outbox), displaced));
            }
            self.entries.push((Arc::clone(outbox), placed));
            self.unanswered += usize::from(!answered);
        });
        if let Some((outbox, id)) = hold {
            self.of(outbox, |session| Change::Hold { session, id: *id });
            self.held.push((Arc::clone(outbox), *id));
        }
    }

    fn add_session(&mut self, outbox: &Arc<Outbox>) {
        let Some(session) = outbox.session else { return };
        let standing = outbox.with_persistent(|persistent| {
            (persistent.expiry, persistent.away.as_ref().map(|away: &Away| away.since))
        });
        let Some((expiry, away)) = standing else {
            return self.changes.push(Change::Close { session });
        };
        self.changes.push(Change::Open { session, client_id: outbox.client_id.clone(), expiry });
        if let Some(at) = away {
            self.changes.push(Change::Part { session, at });
        }
    }

    fn add_filter(&mut self, outbox: &Arc<Outbox>, filter: &str) {
        let wanted = outbox.with_persistent(|persistent| persistent.filters.get(filter).copied());
        let Some(wanted) = wanted else { return };
        self.of(outbox, |session| match wanted {
            Some((options, id)) => Change::Subscribe { session, filter: filter.into(), options, id },
            None => Change::Unsubscribe { session, filter: filter.into() },
        });
    }

    /// The will of whoever has the client id by now.
    fn add_will(&mut self, client_id: &str, hub: &Hub) {
        let client_id = Box::from(client_id);
        self.changes.push(match hub.will_of(&client_id) {
            Some(will) => Change::Will { client_id, will },
            None => Change::WillDone { client_id },
        });
    }

    fn add_device(&mut self, id: &str, devices: &Store) {
        self.changes.push(match devices.own_device(id) {
            Some(DeviceRecord { secret, disabled }) => {
                Change::Device { id: id.into(), secret: secret.into(), disabled }
            }
            None => Change::NoDevice { id: id.into() },
        });
    }

    fn hand_over(self, hub: &Hub) {
        self.settle(hub, true);
        count_many(Count::Dropped(Cause::QueueFull), self.displaced.len() as u64);
        let mut woken: Option<Arc<Outbox>> = None;
        for (outbox, placed) in self.entries {
            if woken.as_ref().is_some_and(|last| last.id != outbox.id)
                && let Some(last) = woken.take()
            {
                last.wake();
            }
            hub.enqueue(&outbox, placed);
            woken = Some(outbox);
        }
        woken.inspect(|last| last.wake());
    }

    fn settle(&self, hub: &Hub, stored: bool) {
        if !self.retained.is_empty() {
            let mut retained = hub.retained.write();
            for Tried { topic, kept, answers, owed } in &self.retained {
                let answered = if stored { answers + owed } else { *answers };
                retained.settle(topic, answered, kept.clone(), stored);
            }
        }
    }

    fn take_back(self, hub: &Hub) {
        self.settle(hub, false);
        if self.unanswered > 0 {
            warn!(messages = self.unanswered, "lost: the store has no room, and there is nobody to tell");
            count_many(Count::Dropped(Cause::NotStored), self.unanswered as u64);
        }
        for (outbox, placed) in self.entries {
            outbox.give_back(&placed.entry.message);
        }
        for (outbox, displaced) in self.displaced {
            outbox.put_back(displaced);
        }
        for (outbox, id) in self.held {
            outbox.with_persistent(|persistent| persistent.held.remove(&id));
        }
    }
}
