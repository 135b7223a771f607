//! What is stored of sessions, as it is read.

use foldhash::{HashMap, HashSet};
use nsd_wire::PacketId;
use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value, from_redis_value_ref};

use super::codec;
use crate::store::change::{Entry, Seq, SessionId, StoredSession};
use crate::store::keys::Keys;
use crate::store::scripts;

/// Places of one queue that are looked at with one question, and bytes after which no more are.
const PLACES: usize = 512;
const BYTES: usize = 256 * 1024;

type Fields = HashMap<String, String>;
type Filters = HashMap<String, Vec<u8>>;

pub(super) async fn session(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    session: SessionId,
) -> Result<Option<StoredSession>, RedisError> {
    let mut ask = redis::pipe();
    ask.cmd("HGETALL").arg(keys.of(session, "s")).cmd("HGETALL").arg(keys.of(session, "f"));
    ask.cmd("SMEMBERS").arg(keys.of(session, "i")).cmd("SMEMBERS").arg(keys.of(session, "r"));
    let (fields, filters, held, received): (Fields, Filters, Vec<u16>, HashSet<Seq>) =
        ask.query_async(connection).await?;
    let Some(client_id) = fields.get("client") else { return Ok(None) };
    let Some((mut queue, next_seq)) = queues(connection, keys, &[(session, 0)]).await?.remove(0) else {
        return Ok(None);
    };
    queue.iter_mut().for_each(|entry| entry.received = received.contains(&entry.seq));
    let subscriptions = filters.into_iter().filter_map(|(filter, terms)| {
        codec::read_terms(&terms).map(|(options, id)| (filter.into(), options, id))
    });
    Ok(Some(StoredSession {
        session,
        client_id: client_id.as_str().into(),
        expiry: fields.get("expiry").and_then(|expiry| expiry.parse().ok()).unwrap_or(0),
        parted: fields.get("parted").and_then(|parted| codec::read_parted(parted)),
        subscriptions: subscriptions.collect(),
        queue,
        sent: None,
        next_seq,
        held: held.into_iter().filter_map(PacketId::new).collect(),
    }))
}

/// A part of a queue, and where to go on.
struct Part {
    entries: Vec<Entry>,
    on: Seq,
    upto: Seq,
}

/// Many queues at once; each as [`super::read_on`] tells it.
pub(super) async fn queues(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    wanted: &[(SessionId, Seq)],
) -> Result<Vec<Option<(Vec<Entry>, Seq)>>, RedisError> {
    let mut found: Vec<Option<(Vec<Entry>, Seq)>> =
        wanted.iter().map(|(_, from)| Some((Vec::new(), *from))).collect();
    let mut open: Vec<(usize, Seq)> = wanted.iter().map(|(_, from)| *from).enumerate().collect();
    while !open.is_empty() {
        let mut ask = redis::pipe();
        for (index, from) in &open {
            let [session, from] = [wanted[*index].0, *from].map(|number| number.to_string());
            let [places, bytes] = [PLACES, BYTES].map(|number| number.to_string());
            let args = [keys.prefix(), "", &session, &from, &places, &bytes].map(str::as_bytes);
            scripts::add(&mut ask, &scripts::READ, &[], &args);
        }
        let answers: Vec<Value> = ask.query_async(connection).await?;
        let asked = std::mem::take(&mut open);
        for ((index, _), answer) in asked.into_iter().zip(answers) {
            let Some(part) = Part::of(&answer) else {
                found[index] = None;
                continue;
            };
            if let Some((entries, next)) = &mut found[index] {
                entries.extend(part.entries);
                *next = part.upto;
            }
            if part.on < part.upto {
                open.push((index, part.on));
            }
        }
    }
    Ok(found)
}

impl Part {
    /// `None`: there is no such session. An entry that nobody of ours wrote is left out.
    fn of(answer: &Value) -> Option<Self> {
        let (on, upto, pairs): (String, String, Vec<Vec<u8>>) = from_redis_value_ref(answer).ok()?;
        let entries = pairs.chunks_exact(2).filter_map(|pair| {
            let place = std::str::from_utf8(&pair[0]).ok()?.parse().ok()?;
            codec::read_entry(place, &pair[1])
        });
        Some(Self { entries: entries.collect(), on: on.parse().ok()?, upto: upto.parse().ok()? })
    }
}
