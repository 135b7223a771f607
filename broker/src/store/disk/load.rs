//! The whole content of the tables, read at the start. Whatever does not fit together is damage.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use nsd_wire::PacketId;
use redb::{Error, Key, ReadTransaction, ReadableTable, TableDefinition, TableHandle, Value};

use super::BodyId;
use super::codec::{self, Body, EntryRecord, SessionRecord};
use super::engine::Failure;
use super::index::Index;
use super::tables::*;
use super::write::size;
use crate::message::Message;
use crate::store::change::{Entry, SessionId, Stored, StoredSession};

/// What was found in a file.
pub(super) struct Found {
    pub(super) index: Index,
    pub(super) stored: Stored,
    /// The number of the last batch.
    pub(super) batch: u64,
    /// What all records need, about.
    pub(super) live: i64,
}

pub(super) fn run(transaction: &ReadTransaction, messages: bool) -> Result<Result<Found, Failure>, Error> {
    let meta = transaction.open_table(META)?;
    let number = |name: &str| match meta.get(name)? {
        Some(number) => Ok(number.value()),
        None => Err(damaged(META.name())),
    };
    match number(META_FORMAT)? {
        FORMAT => {}
        newer @ FORMAT.. => return Ok(Err(Failure::Newer(newer))),
        _ => return Err(damaged(META.name())),
    }
    let found = Found {
        index: Index::new(number(META_NEXT_SESSION)?),
        stored: Stored::default(),
        batch: number(META_BATCH)?,
        live: 0,
    };
    let mut load = Load { transaction, messages, found, at: HashMap::new() };
    load.sessions()?;
    load.entries()?;
    load.others()?;
    for session in &mut load.found.stored.sessions {
        session.next_seq = load.found.index.next_seq(session.session);
    }
    load.found.stored.next_session = load.found.index.next_session();
    Ok(Ok(load.found))
}

/// `None` where messages are not read.
type Bodies = HashMap<BodyId, Option<Arc<Message>>>;

struct Load<'t> {
    transaction: &'t ReadTransaction,
    messages: bool,
    found: Found,
    /// Where a session stands in the list.
    at: HashMap<SessionId, usize>,
}

impl Load<'_> {
    fn sessions(&mut self) -> Result<(), Error> {
        for_each(self.transaction, SESSIONS, |session, bytes| {
            let record = SessionRecord::read(bytes)?;
            self.found.live += size(bytes);
            self.at.insert(session, self.found.stored.sessions.len());
            self.found.stored.sessions.push(StoredSession {
                session,
                client_id: record.client_id.clone(),
                expiry: record.expiry,
                parted: record.parted,
                subscriptions: Vec::new(),
                queue: Vec::new(),
                sent: None,
                next_seq: 0,
                held: Vec::new(),
            });
            self.found.index.add_session(session, record);
            Some(())
        })?;
        for_each(self.transaction, SUBSCRIPTIONS, |(session, filter), bytes| {
            let (options, id) = codec::read_subscription(bytes)?;
            self.found.live += size(bytes);
            self.session(session)?.subscriptions.push((filter.into(), options, id));
            Some(())
        })?;
        for_each(self.transaction, HELD, |(session, id), ()| {
            self.session(session)?.held.push(PacketId::new(id)?);
            Some(())
        })
    }

    fn entries(&mut self) -> Result<(), Error> {
        let bodies = self.bodies()?;
        let received = self.transaction.open_table(RECEIVED)?;
        let any_received = received.first()?.is_some();
        for_each(self.transaction, ENTRIES, |place, bytes| {
            let mut record = codec::read_entry(bytes)?;
            record.received |= any_received && received.get(place).ok()?.is_some();
            self.found.live += size(bytes);
            let body = match record.body {
                Body::Inline(_) => None,
                Body::Shared(body) => Some(bodies.contains_key(&body).then_some(body)?),
            };
            let id = (record.session, record.seq);
            self.found.index.add_entry(id, place, body, record.received).then_some(())?;
            if self.messages {
                let session = record.session;
                let entry = entry(record, &bodies)?;
                self.session(session)?.queue.push(entry);
            }
            Some(())
        })?;
        // A body that nobody needs would stay for ever.
        if bodies.keys().any(|body| self.found.index.needed(*body) == 0) {
            return Err(damaged(BODIES.name()));
        }
        for session in &mut self.found.stored.sessions {
            session.queue.sort_by_key(|entry| entry.seq);
        }
        Ok(())
    }

    /// Bodies, put together again.
    fn bodies(&mut self) -> Result<Bodies, Error> {
        let mut bodies = Bodies::new();
        let mut begun: Option<(BodyId, u16, Vec<u8>)> = None;
        for_each(self.transaction, BODIES, |(body, number), bytes| {
            self.found.live += size(bytes);
            let kept = if self.messages { bytes } else { b"" };
            match &mut begun {
                Some((same, last, whole)) if *same == body => {
                    *last = last.checked_add(1).filter(|next| *next == number)?;
                    whole.extend_from_slice(kept);
                    Some(())
                }
                _ if number == 0 => end(begun.replace((body, 0, kept.to_vec())), &mut bodies),
                _ => None,
            }
        })?;
        end(begun, &mut bodies).ok_or_else(|| damaged(BODIES.name()))?;
        Ok(bodies)
    }

    fn others(&mut self) -> Result<(), Error> {
        let Found { stored, live, .. } = &mut self.found;
        for_each(self.transaction, RETAINED, |topic, bytes| {
            *live += size(bytes);
            let (message, since) = codec::read_retained(bytes)?;
            (message.publish().topic == topic).then_some(())?;
            if self.messages {
                stored.retained.push((Arc::new(message), since));
            }
            Some(())
        })?;
        for_each(self.transaction, WILLS, |client_id, bytes| {
            *live += size(bytes);
            stored.wills.push((client_id.into(), codec::read_will(bytes)?));
            Some(())
        })?;
        for_each(self.transaction, DEVICES, |id, bytes| {
            *live += size(bytes);
            let (secret, disabled) = codec::read_device(bytes)?;
            stored.devices.push((id.into(), secret, disabled));
            Some(())
        })
    }

    fn session(&mut self, session: SessionId) -> Option<&mut StoredSession> {
        self.found.stored.sessions.get_mut(*self.at.get(&session)?)
    }
}

/// A body has all its parts; without messages there is nothing to make of them.
fn end(begun: Option<(BodyId, u16, Vec<u8>)>, bodies: &mut Bodies) -> Option<()> {
    let Some((body, _, whole)) = begun else { return Some(()) };
    let message = if whole.is_empty() { None } else { Some(Arc::new(Message::from_bytes(&whole)?)) };
    bodies.insert(body, message);
    Some(())
}

fn entry(record: EntryRecord<'_>, bodies: &Bodies) -> Option<Entry> {
    let message = match record.body {
        Body::Inline(bytes) => Arc::new(Message::from_bytes(bytes)?),
        Body::Shared(body) => Arc::clone(bodies.get(&body)?.as_ref()?),
    };
    let EntryRecord { seq, qos, retain, ids, since, received, .. } = record;
    Some(Entry { seq, qos, retain, ids, since, message, received })
}

/// Every record of a table, in order of keys. `None` from `take`: the record makes no sense.
fn for_each<K: Key + 'static, V: Value + 'static>(
    transaction: &ReadTransaction,
    table: TableDefinition<'_, K, V>,
    mut take: impl FnMut(K::SelfType<'_>, V::SelfType<'_>) -> Option<()>,
) -> Result<(), Error> {
    let name = table.name().to_owned();
    for record in transaction.open_table(table)?.iter()? {
        let (key, value) = record?;
        take(key.value(), value.value()).ok_or_else(|| damaged(&name))?;
    }
    Ok(())
}

fn damaged(table: &str) -> Error {
    Error::Corrupted(format!("a record of the table `{table}` makes no sense"))
}
