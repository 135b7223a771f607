//! What a store must remember, in the plainest way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use nsd_broker::store::change::{Change, Entry, Seq, SessionId, Stored};
use nsd_wire::{PacketId, SubscribeOptions, SubscriptionId};

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Model {
    sessions: BTreeMap<SessionId, Session>,
    retained: BTreeMap<Box<str>, (Vec<u8>, SystemTime)>,
    wills: BTreeMap<Box<str>, (Vec<u8>, u32)>,
    devices: BTreeMap<Box<str>, (Box<str>, bool)>,
    next_session: SessionId,
}

#[derive(Debug, Clone, PartialEq)]
struct Session {
    client_id: Box<str>,
    expiry: u32,
    parted: Option<SystemTime>,
    subscriptions: BTreeMap<Box<str>, (SubscribeOptions, Option<SubscriptionId>)>,
    queue: BTreeMap<Seq, Entry>,
    next_seq: Seq,
    held: BTreeSet<PacketId>,
}

impl Model {
    pub(crate) fn sessions(&self) -> Vec<SessionId> {
        self.sessions.keys().copied().collect()
    }

    pub(crate) fn next_session(&self) -> SessionId {
        self.next_session.max(1)
    }

    pub(crate) fn queue(&self, session: SessionId) -> Vec<Seq> {
        self.sessions.get(&session).map_or_else(Vec::new, |session| session.queue.keys().copied().collect())
    }

    pub(crate) fn next_seq(&self, session: SessionId) -> Seq {
        self.sessions.get(&session).map_or(0, |session| session.next_seq)
    }

    pub(crate) fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            self.take(change);
        }
    }

    fn take(&mut self, change: &Change) {
        match change.clone() {
            Change::Open { session, client_id, expiry } => {
                self.next_session = self.next_session.max(session + 1);
                let known = self.sessions.entry(session).or_insert_with(|| Session {
                    client_id: client_id.clone(),
                    expiry,
                    parted: None,
                    subscriptions: BTreeMap::new(),
                    queue: BTreeMap::new(),
                    next_seq: 0,
                    held: BTreeSet::new(),
                });
                (known.client_id, known.expiry, known.parted) = (client_id, expiry, None);
            }
            Change::Close { session } => {
                self.sessions.remove(&session);
            }
            Change::Retain { message, since } => {
                let topic = message.publish().topic.into();
                self.retained.insert(topic, (message.bytes().to_owned(), since));
            }
            Change::Forget { topic } => {
                self.retained.remove(&topic);
            }
            Change::Will { client_id, will } => {
                self.wills.insert(client_id, (will.message.bytes().to_owned(), will.delay));
            }
            Change::WillDone { client_id } => {
                self.wills.remove(&client_id);
            }
            Change::Device { id, secret, disabled } => {
                self.devices.insert(id, (secret, disabled));
            }
            Change::NoDevice { id } => {
                self.devices.remove(&id);
            }
            Change::Part { session, .. }
            | Change::Subscribe { session, .. }
            | Change::Unsubscribe { session, .. }
            | Change::Enqueue { session, .. }
            | Change::Received { session, .. }
            | Change::Done { session, .. }
            | Change::Hold { session, .. }
            | Change::Release { session, .. } => {
                if let Some(session) = self.sessions.get_mut(&session) {
                    session.take(change.clone());
                }
            }
        }
    }

    /// Panics with what differs. The next place of a queue may be higher than needed, never lower.
    pub(crate) fn check(&self, stored: &Stored) {
        let mut found = Self::of(stored);
        let ids: BTreeSet<_> = self.sessions.keys().chain(found.sessions.keys()).copied().collect();
        for id in ids {
            let (wanted, found) = (self.sessions.get(&id), found.sessions.get_mut(&id));
            if let (Some(wanted), Some(found)) = (wanted, found) {
                assert!(found.next_seq >= wanted.next_seq, "session {id} would give a place twice");
                found.next_seq = wanted.next_seq;
                assert!(wanted == found, "session {id}\nwanted {wanted:#?}\nfound {found:#?}");
            } else {
                assert_eq!(
                    self.sessions.contains_key(&id),
                    stored.sessions.iter().any(|session| session.session == id),
                    "session {id}"
                );
            }
        }
        assert!(found.retained == self.retained, "retained messages differ");
        assert_eq!(found.wills, self.wills);
        assert_eq!(found.devices, self.devices);
        assert_eq!(found.next_session.max(1), self.next_session.max(1));
    }

    /// Whether what is stored is exactly this.
    pub(crate) fn is(&self, stored: &Stored) -> bool {
        let mut found = Self::of(stored);
        for (id, session) in &mut found.sessions {
            session.next_seq = self.sessions.get(id).map_or(0, |wanted| wanted.next_seq);
        }
        found.next_session = found.next_session.max(1);
        let mut wanted = self.clone();
        wanted.next_session = wanted.next_session.max(1);
        found == wanted
    }

    fn of(stored: &Stored) -> Self {
        let mut model = Self { next_session: stored.next_session, ..Self::default() };
        for one in &stored.sessions {
            assert!(one.queue.is_sorted_by_key(|entry| entry.seq), "the queue is in order");
            let session = Session {
                client_id: one.client_id.clone(),
                expiry: one.expiry,
                parted: one.parted,
                subscriptions: one
                    .subscriptions
                    .iter()
                    .cloned()
                    .map(|(filter, options, id)| (filter, (options, id)))
                    .collect(),
                queue: one.queue.iter().map(|entry| (entry.seq, entry.clone())).collect(),
                next_seq: one.next_seq,
                held: one.held.iter().copied().collect(),
            };
            assert_eq!(session.queue.len(), one.queue.len(), "an entry is told once");
            assert_eq!(session.subscriptions.len(), one.subscriptions.len(), "a subscription is told once");
            assert_eq!(session.held.len(), one.held.len(), "an identifier is told once");
            assert!(model.sessions.insert(one.session, session).is_none(), "a session is told once");
        }
        let retained = stored.retained.iter();
        model.retained = retained
            .map(|(message, since)| (message.publish().topic.into(), (message.bytes().to_owned(), *since)))
            .collect();
        let wills = stored.wills.iter();
        model.wills =
            wills.map(|(id, will)| (id.clone(), (will.message.bytes().to_owned(), will.delay))).collect();
        let devices = stored.devices.iter().cloned();
        model.devices = devices.map(|(id, secret, disabled)| (id, (secret, disabled))).collect();
        model
    }
}

impl Session {
    fn take(&mut self, change: Change) {
        match change {
            Change::Part { at, .. } => self.parted = Some(at),
            Change::Subscribe { filter, options, id, .. } => {
                self.subscriptions.insert(filter, (options, id));
            }
            Change::Unsubscribe { filter, .. } => {
                self.subscriptions.remove(&filter);
            }
            Change::Enqueue { entry, .. } => {
                self.next_seq = self.next_seq.max(entry.seq + 1);
                self.queue.insert(entry.seq, entry);
            }
            Change::Received { seq, .. } => {
                if let Some(entry) = self.queue.get_mut(&seq) {
                    entry.received = true;
                }
            }
            Change::Done { seq, .. } => {
                self.queue.remove(&seq);
            }
            Change::Hold { id, .. } => {
                self.held.insert(id);
            }
            Change::Release { id, .. } => {
                self.held.remove(&id);
            }
            other => panic!("{other:?} is not for a session"),
        }
    }
}
