//! What was published, who must have it, who has it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use nsd_wire::{Qos, topic};

pub(super) const TOPICS: [&str; 3] = ["t/0", "t/1", "t/2"];
pub(super) const FILTERS: [&str; 5] = ["t/0", "t/1", "t/2", "t/+", "t/#"];

/// One run of a session: never the same twice.
pub(super) type Run = u32;

#[derive(Default)]
pub(super) struct Model {
    sent: Vec<Sent>,
    sessions: BTreeMap<Run, Session>,
    runs: Run,
    /// By topic: the last that was acknowledged, and those that may have come later.
    retained: [Retained; TOPICS.len()],
}

struct Sent {
    by: Run,
    topic: usize,
    qos: Qos,
    /// Sessions that wanted it when it was sent, above QoS 0.
    wanted: Vec<Run>,
    retain: bool,
    /// It takes away what is retained.
    is_empty: bool,
    /// It was sent once more, or its sender has gone: when it came first is not known.
    is_late: bool,
}

#[derive(Default)]
struct Session {
    filters: BTreeMap<&'static str, Qos>,
    ever: BTreeSet<&'static str>,
    must: BTreeSet<u32>,
    got: BTreeSet<u32>,
    /// The newest of each publisher, topic and QoS.
    newest: HashMap<(Run, usize, Qos), u32>,
}

#[derive(Default)]
struct Retained {
    last: Option<u32>,
    perhaps: BTreeSet<u32>,
}

/// A message as it came.
#[derive(Debug, Clone)]
pub(super) struct Came {
    pub(super) topic: String,
    pub(super) number: Option<u32>,
    pub(super) qos: Qos,
    pub(super) dup: bool,
    pub(super) retain: bool,
}

impl Model {
    pub(super) fn begin(&mut self) -> Run {
        self.runs += 1;
        self.sessions.insert(self.runs, Session::default());
        self.runs
    }

    /// What it did not get nobody asks for any more.
    pub(super) fn end(&mut self, run: Run) {
        self.sessions.remove(&run);
    }

    /// From now on it may come.
    pub(super) fn expect(&mut self, run: Run, filter: &'static str) {
        self.sessions.get_mut(&run).unwrap().ever.insert(filter);
    }

    /// From now on it must come.
    pub(super) fn subscribe(&mut self, run: Run, filter: &'static str, qos: Qos) {
        self.sessions.get_mut(&run).unwrap().filters.insert(filter, qos);
        self.look_again(run);
    }

    /// What waits may come or not.
    pub(super) fn unsubscribe(&mut self, run: Run, filter: &str) {
        let (session, sent) = (self.sessions.get_mut(&run).unwrap(), &self.sent);
        session.filters.remove(filter);
        let filters = &session.filters;
        session.must.retain(|number| is_wanted(filters, TOPICS[sent[*number as usize].topic]).is_some());
        self.look_again(run);
    }

    /// What is on its way at this moment may get there after the change, and not be wanted any more.
    fn look_again(&mut self, run: Run) {
        let filters = &self.sessions[&run].filters;
        for sent in &mut self.sent {
            let wanted = is_wanted(filters, TOPICS[sent.topic]).unwrap_or_default();
            if wanted == Qos::AtMostOnce {
                sent.wanted.retain(|other| *other != run);
            }
        }
    }

    pub(super) fn send(&mut self, by: Run, topic: usize, qos: Qos, retain: bool, is_empty: bool) -> u32 {
        let number = self.sent.len() as u32;
        let wanted = self.sessions.iter().filter(|(_, session)| {
            let wanted = is_wanted(&session.filters, TOPICS[topic]);
            wanted.is_some_and(|wanted| wanted.min(qos) != Qos::AtMostOnce)
        });
        let wanted = wanted.map(|(run, _)| *run).collect();
        if retain {
            self.retained[topic].perhaps.insert(number);
        }
        self.sent.push(Sent { by, topic, qos, wanted, retain, is_empty, is_late: false });
        number
    }

    /// Its sender goes before it knows what has become of it.
    pub(super) fn leave_open(&mut self, number: u32) {
        self.sent[number as usize].is_late = true;
    }

    pub(super) fn acknowledged(&mut self, number: u32) {
        let sent = &self.sent[number as usize];
        for run in &sent.wanted {
            let Some(session) = self.sessions.get_mut(run) else { continue };
            let still = is_wanted(&session.filters, TOPICS[sent.topic]).is_some();
            if still && !sent.is_empty && !session.got.contains(&number) {
                session.must.insert(number);
            }
        }
        if sent.retain && !sent.is_late {
            let (retained, all) = (&mut self.retained[sent.topic], &self.sent);
            retained.last = Some(number);
            retained.perhaps.retain(|other| *other > number || all[*other as usize].is_late);
        }
    }

    pub(super) fn came(&mut self, run: Run, came: &Came) {
        let Some(number) = came.number else { return };
        let sent = self.sent.get(number as usize).expect("it was sent");
        let session = self.sessions.get_mut(&run).unwrap();
        let shown = || format!("{came:?} to {run}, sent by {} at {:?}", sent.by, sent.qos);
        assert_eq!(came.topic, TOPICS[sent.topic], "{}", shown());
        assert!(came.qos <= sent.qos, "{}", shown());
        assert!(session.ever.iter().any(|filter| topic::matches(filter, &came.topic)), "{}", shown());
        // Retained, it may come once more, and late.
        if came.retain {
            return;
        }
        let is_new = session.got.insert(number);
        session.must.remove(&number);
        // Its sender has sent it once more, maybe: then it may come once more, and behind others.
        let is_again = sent.is_late && sent.qos == Qos::AtLeastOnce;
        let may_be_again = is_again || (came.dup && came.qos == Qos::AtLeastOnce);
        assert!(is_new || may_be_again, "twice: {}", shown());
        let newest = session.newest.entry((sent.by, sent.topic, came.qos)).or_insert(number);
        assert!(!is_new || is_again || *newest <= number, "behind {newest}: {}", shown());
        *newest = number.max(*newest);
    }

    pub(super) fn check_delivered(&self) {
        for (run, session) in &self.sessions {
            assert!(session.must.is_empty(), "acknowledged, and lost for {run}: {:?}", session.must);
        }
    }

    pub(super) fn check_retained(&self, kept: &[Option<u32>]) {
        for (topic, (kept, retained)) in kept.iter().zip(&self.retained).enumerate() {
            let what = |number: &u32| Some(*number).filter(|number| !self.sent[*number as usize].is_empty);
            let last = retained.last.as_ref().and_then(what);
            let fits = *kept == last || retained.perhaps.iter().map(what).any(|perhaps| perhaps == *kept);
            assert!(
                fits,
                "{kept:?} is retained for topic {topic}, not {last:?} or one of {:?}",
                retained.perhaps
            );
        }
    }
}

fn is_wanted(filters: &BTreeMap<&'static str, Qos>, topic: &str) -> Option<Qos> {
    filters.iter().filter(|(filter, _)| topic::matches(filter, topic)).map(|(_, qos)| *qos).max()
}

pub(super) fn topic(name: &str) -> usize {
    TOPICS.iter().position(|topic| *topic == name).unwrap()
}

/// Of a payload; none of an empty one.
pub(super) fn number(payload: &[u8]) -> Option<u32> {
    payload.first_chunk().map(|number| u32::from_be_bytes(*number))
}
