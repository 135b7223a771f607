//! The queue of one persistent session under any order of messages, acknowledgements, connections and time.
//!
//! Each message that got a place is sent, dropped or expired, in the end exactly one of these; what is sent comes in
//! order, and again only on a later connection, as a repetition and under the same identifier; a window is never
//! overrun; what the queue says it holds is what it holds.

#![no_main]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use nsd_broker::limits::{Limits, QueuePolicy};
use nsd_broker::message::Message;
use nsd_broker::queue::{Next, Place, Queue};
use nsd_broker::session::Settled;
use nsd_broker::store::change::{Entry, Seq};
use nsd_wire::{PacketId, Publish, Qos, ReasonCode};

#[derive(Debug, Arbitrary)]
struct Life {
    messages: u8,
    bytes: u8,
    policy: u8,
    window: u8,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Place {
        size: u8,
        twice: bool,
        expiry: Option<u8>,
        generous: bool,
    },
    /// The oldest place is filled, or given back.
    Push,
    GiveBack,
    Next,
    PubAck {
        which: u8,
    },
    PubRec {
        which: u8,
        well: bool,
    },
    PubComp {
        which: u8,
    },
    Skip {
        which: u8,
    },
    Rewind,
    Restart,
    Wait {
        seconds: u8,
    },
}

/// What is known of a message from outside.
#[derive(Debug, Clone)]
struct Known {
    entry: Entry,
    /// On the connection of now.
    sent: Option<PacketId>,
    /// By this process; and by any, as far as is known.
    begun: bool,
    ever: bool,
    received: bool,
}

struct Model {
    queue: Queue,
    limits: Limits,
    window: u16,
    now: SystemTime,
    /// Given and neither filled nor given back.
    places: VecDeque<Entry>,
    /// In the queue.
    known: BTreeMap<Seq, Known>,
    newest: Option<Seq>,
    /// The newest that was sent on the connection of now.
    reached: Option<Seq>,
}

fuzz_target!(|life: Life| {
    let policies = [QueuePolicy::DropOldest, QueuePolicy::DropNewest, QueuePolicy::Disconnect];
    let limits = Limits {
        queue_messages: usize::from(life.messages % 16) + 1,
        queue_bytes: (usize::from(life.bytes) + 1) * 64,
        queue_policy: policies[usize::from(life.policy) % 3],
        ..Limits::default()
    };
    let mut model = Model {
        queue: Queue::default(),
        limits,
        window: u16::from(life.window % 8) + 1,
        now: SystemTime::UNIX_EPOCH,
        places: VecDeque::new(),
        known: BTreeMap::new(),
        newest: None,
        reached: None,
    };
    for step in life.steps {
        model.step(&step);
        model.check();
    }
    model.finish();
});

impl Model {
    fn step(&mut self, step: &Step) {
        match *step {
            Step::Place { size, twice, expiry, generous } => self.place(size, twice, expiry, generous),
            Step::Push => {
                if let Some(entry) = self.places.pop_front() {
                    self.queue.push(entry.clone());
                    let known = Known { entry, sent: None, begun: false, ever: false, received: false };
                    self.known.insert(known.entry.seq, known);
                }
            }
            Step::GiveBack => {
                if let Some(entry) = self.places.pop_front() {
                    self.queue.give_back(&entry.message);
                }
            }
            Step::Next => drop(self.next()),
            Step::PubAck { which } => {
                let Some((seq, id)) = self.pick(which) else { return };
                let right = self.known[&seq].entry.qos == Qos::AtLeastOnce;
                let expected = if right { (Settled::Done, Some(seq)) } else { (Settled::Unknown, None) };
                assert_eq!(self.queue.on_puback(id), expected);
                self.over(seq, right);
            }
            Step::PubRec { which, well } => self.received(which, well),
            Step::PubComp { which } => {
                let Some((seq, id)) = self.pick(which) else { return };
                let right = self.known[&seq].received;
                let expected = if right { (Settled::Done, Some(seq)) } else { (Settled::Unknown, None) };
                assert_eq!(self.queue.on_pubcomp(id), expected);
                self.over(seq, right);
            }
            Step::Skip { which } => {
                let Some((seq, id)) = self.pick(which) else { return };
                if !self.known[&seq].received {
                    assert_eq!(self.queue.skip(id), Some(seq));
                    self.over(seq, true);
                }
            }
            Step::Rewind => {
                self.queue.rewind();
                self.reconnected();
            }
            Step::Restart => self.restart(),
            Step::Wait { seconds } => self.now += Duration::from_secs(seconds.into()),
        }
    }

    fn place(&mut self, size: u8, twice: bool, expiry: Option<u8>, generous: bool) {
        let payload = vec![b'x'; size.into()];
        let qos = if twice { Qos::ExactlyOnce } else { Qos::AtLeastOnce };
        let mut publish = Publish { qos, ..Publish::new("t", &payload) };
        publish.properties.message_expiry = expiry.map(Into::into);
        let message = Arc::new(Message::new(&publish).expect("it can be written"));
        let (seq, instead_of) = match self.queue.place(&message, generous, &self.limits) {
            Place::Full => return assert_ne!(self.limits.queue_policy, QueuePolicy::Disconnect),
            Place::Overrun => return assert_eq!(self.limits.queue_policy, QueuePolicy::Disconnect),
            Place::Taken { seq, instead_of } => (seq, instead_of),
        };
        assert!(self.newest.is_none_or(|newest| seq > newest), "places are given in order");
        assert!(instead_of.is_empty() || self.limits.queue_policy == QueuePolicy::DropOldest);
        for displaced in instead_of {
            let dropped = self.known.remove(&displaced.seq()).expect("only what is there can be dropped");
            assert!(!dropped.begun && !dropped.received, "what was sent is never dropped");
        }
        self.newest = Some(seq);
        let (ids, since) = (Box::default(), self.now);
        self.places.push_back(Entry { seq, qos, retain: false, ids, since, message, received: false });
    }

    /// Whether there was something.
    fn next(&mut self) -> bool {
        match self.queue.next(self.window, self.now) {
            None => return false,
            Some(Next::Expired(seq)) => {
                let known = self.known.remove(&seq).expect("only what is there can expire");
                assert!(known.sent.is_none() && !known.received);
                let expiry = known.entry.message.publish().properties.message_expiry;
                let age = self.now.duration_since(known.entry.since).unwrap_or_default();
                assert!(expiry.is_some_and(|expiry| age >= Duration::from_secs(expiry.into())));
            }
            Some(Next::Release(id)) => {
                let next = self.known.values_mut().find(|known| known.received && known.sent.is_none());
                let next = next.expect("only what the client has is released");
                next.sent = Some(id);
                self.reached = self.reached.max(Some(next.entry.seq));
            }
            Some(Next::Publish { id, dup, entry, .. }) => {
                let seq = entry.seq;
                assert!(self.reached.is_none_or(|reached| seq > reached), "in order");
                let twice = self.known.values().any(|known| known.sent == Some(id));
                assert!(!twice, "two messages under one identifier");
                let known = self.known.get_mut(&seq).expect("only what is there can be sent");
                assert!(!known.received && known.sent.is_none());
                assert_eq!(dup, known.ever, "a repetition says so, and nothing else does");
                (known.sent, known.begun, known.ever) = (Some(id), true, true);
                self.reached = Some(seq);
            }
        }
        true
    }

    fn received(&mut self, which: u8, well: bool) {
        let Some((seq, id)) = self.pick(which) else { return };
        let known = self.known.get_mut(&seq).expect("it was picked");
        let reason = if well { ReasonCode::Success } else { ReasonCode::UnspecifiedError };
        let (settled, place) = self.queue.on_pubrec(id, reason);
        let awaited = known.entry.qos == Qos::ExactlyOnce && !known.received;
        if awaited && well {
            assert_eq!((settled, place), (Settled::Release(ReasonCode::Success), Some(seq)));
            known.received = true;
        } else if awaited {
            assert_eq!((settled, place), (Settled::Done, Some(seq)));
            self.over(seq, true);
        } else {
            assert_eq!(place, None);
        }
    }

    /// The process began anew, with what a store would have kept.
    fn restart(&mut self) {
        let entries: Vec<Entry> = self.queue.entries().cloned().collect();
        let seqs: Vec<Seq> = entries.iter().map(|entry| entry.seq).collect();
        assert!(seqs.iter().eq(self.known.keys()), "the queue has {seqs:?}");
        self.queue = Queue::restored(entries, self.newest.map_or(0, |newest| newest + 1), None);
        self.places.clear();
        // Whether they were sent is not stored: they may have been.
        self.known.values_mut().for_each(|known| (known.begun, known.ever) = (false, true));
        self.reconnected();
    }

    fn reconnected(&mut self) {
        self.known.values_mut().for_each(|known| known.sent = None);
        self.reached = None;
    }

    fn pick(&self, which: u8) -> Option<(Seq, PacketId)> {
        let sent: Vec<_> =
            self.known.iter().filter_map(|(seq, known)| known.sent.map(|id| (*seq, id))).collect();
        (!sent.is_empty()).then(|| sent[usize::from(which) % sent.len()])
    }

    fn over(&mut self, seq: Seq, really: bool) {
        if really {
            self.known.remove(&seq);
        }
    }

    fn check(&self) {
        let sent = self.known.values().filter(|known| known.sent.is_some()).count();
        assert_eq!(self.queue.in_flight(), sent);
        let releases = self.known.values().filter(|known| known.received).count();
        assert!(sent <= usize::from(self.window).max(releases), "{sent} are on their way");
        assert_eq!(self.queue.len(), self.known.len() + self.places.len());
        assert_eq!(self.queue.is_empty(), self.queue.bytes() == 0);
        // The last that was let in after others had gone for it may be too much by itself.
        assert!(self.queue.bytes() <= self.limits.queue_bytes * 4 + 1024, "{}", self.queue.bytes());
    }

    /// A client that takes and acknowledges everything empties the queue.
    fn finish(&mut self) {
        while let Some(entry) = self.places.pop_front() {
            self.queue.give_back(&entry.message);
        }
        loop {
            while self.next() {}
            let Some((seq, id)) = self.pick(0) else { break };
            let known = self.known[&seq].clone();
            match (known.entry.qos, known.received) {
                (Qos::ExactlyOnce, false) => drop(self.queue.on_pubrec(id, ReasonCode::Success)),
                (Qos::ExactlyOnce, true) => {}
                _ => drop(self.queue.on_puback(id)),
            }
            if known.entry.qos == Qos::ExactlyOnce {
                assert_eq!(self.queue.on_pubcomp(id), (Settled::Done, Some(seq)));
            }
            self.over(seq, true);
        }
        assert!(
            self.known.is_empty() && self.queue.is_empty() && self.queue.bytes() == 0,
            "{:?}",
            self.known
        );
    }
}
