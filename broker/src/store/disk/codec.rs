//! Values of the tables as bytes, and back. Numbers are big-endian; what is long stands last and needs no length. Pure.
//!
//! Each value is read to its last byte: one that is longer or shorter than its parts is damaged, and is never guessed at.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nsd_wire::{Qos, SubscribeOptions, SubscriptionId};

use super::Place;
use crate::message::Message;
use crate::message::Will;
use crate::store::change::{Entry, Seq, SessionId};

const QOS: u8 = 0b11;
const RETAIN: u8 = 1 << 2;
const RECEIVED: u8 = 1 << 3;
const SHARED: u8 = 1 << 4;

/// A session without what stands in tables of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SessionRecord {
    pub(super) client_id: Box<str>,
    pub(super) expiry: u32,
    pub(super) parted: Option<SystemTime>,
    /// Above every place that was given in the queue; raised in steps, so that not each entry rewrites the record.
    pub(super) bound: Seq,
}

impl SessionRecord {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.expiry.to_be_bytes());
        out.extend_from_slice(&self.bound.to_be_bytes());
        out.push(u8::from(self.parted.is_some()));
        if let Some(at) = self.parted {
            write_time(at, out);
        }
        out.extend_from_slice(self.client_id.as_bytes());
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let (expiry, bound) = (reader.u32()?, reader.u64()?);
        let parted = match reader.u8()? {
            0 => None,
            1 => Some(reader.time()?),
            _ => return None,
        };
        Some(Self { client_id: reader.text()?.into(), expiry, parted, bound })
    }
}

pub(super) fn write_subscription(options: SubscribeOptions, id: Option<SubscriptionId>, out: &mut Vec<u8>) {
    out.push(options.to_u8());
    out.extend_from_slice(&id.map_or(0, SubscriptionId::get).to_be_bytes());
}

pub(super) fn read_subscription(bytes: &[u8]) -> Option<(SubscribeOptions, Option<SubscriptionId>)> {
    let mut reader = Reader(bytes);
    let options = SubscribeOptions::from_u8(reader.u8()?)?;
    let id = match reader.u32()? {
        0 => None,
        id => Some(SubscriptionId::new(id)?),
    };
    reader.0.is_empty().then_some((options, id))
}

/// An entry, with its message unless that stands in the table of bodies.
pub(super) fn write_entry(
    session: SessionId,
    entry: &Entry,
    received: bool,
    body: Option<Place>,
    out: &mut Vec<u8>,
) {
    let mut flags = entry.qos as u8;
    for (is, flag) in [(entry.retain, RETAIN), (received, RECEIVED), (body.is_some(), SHARED)] {
        flags |= if is { flag } else { 0 };
    }
    out.push(flags);
    out.extend_from_slice(&session.to_be_bytes());
    out.extend_from_slice(&entry.seq.to_be_bytes());
    write_time(entry.since, out);
    let ids = u32::try_from(entry.ids.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&ids.to_be_bytes());
    for id in entry.ids.iter().take(ids as usize) {
        out.extend_from_slice(&id.get().to_be_bytes());
    }
    match body {
        Some(body) => out.extend_from_slice(&body.to_be_bytes()),
        None => out.extend_from_slice(entry.message.bytes()),
    }
}

/// An entry as it stands in its table.
pub(super) struct EntryRecord<'a> {
    pub(super) session: SessionId,
    pub(super) seq: Seq,
    pub(super) qos: Qos,
    pub(super) retain: bool,
    pub(super) received: bool,
    pub(super) since: SystemTime,
    pub(super) ids: Box<[SubscriptionId]>,
    pub(super) body: Body<'a>,
}

pub(super) enum Body<'a> {
    Inline(&'a [u8]),
    Shared(Place),
}

pub(super) fn read_entry(bytes: &[u8]) -> Option<EntryRecord<'_>> {
    let mut reader = Reader(bytes);
    let flags = reader.u8()?;
    let (session, seq, since) = (reader.u64()?, reader.u64()?, reader.time()?);
    let count = reader.u32()? as usize;
    if count > reader.0.len() / size_of::<u32>() {
        return None;
    }
    let ids = (0..count).map(|_| SubscriptionId::new(reader.u32()?)).collect::<Option<_>>()?;
    let body = if flags & SHARED == 0 {
        Body::Inline(reader.0)
    } else {
        let body = Body::Shared(reader.u64()?);
        if !reader.0.is_empty() {
            return None;
        }
        body
    };
    if flags & !(QOS | RETAIN | RECEIVED | SHARED) != 0 {
        return None;
    }
    let qos = Qos::from_u8(flags & QOS)?;
    let (retain, received) = (flags & RETAIN != 0, flags & RECEIVED != 0);
    Some(EntryRecord { session, seq, qos, retain, received, since, ids, body })
}

pub(super) fn write_retained(message: &Message, since: SystemTime, out: &mut Vec<u8>) {
    write_time(since, out);
    out.extend_from_slice(message.bytes());
}

pub(super) fn read_retained(bytes: &[u8]) -> Option<(Message, SystemTime)> {
    let mut reader = Reader(bytes);
    let since = reader.time()?;
    Some((Message::from_bytes(reader.0)?, since))
}

pub(super) fn write_will(will: &Will, out: &mut Vec<u8>) {
    out.extend_from_slice(&will.delay.to_be_bytes());
    out.extend_from_slice(will.message.bytes());
}

pub(super) fn read_will(bytes: &[u8]) -> Option<Will> {
    let mut reader = Reader(bytes);
    let delay = reader.u32()?;
    Some(Will { message: Message::from_bytes(reader.0)?, delay })
}

pub(super) fn write_device(secret: &str, disabled: bool, out: &mut Vec<u8>) {
    out.push(u8::from(disabled));
    out.extend_from_slice(secret.as_bytes());
}

pub(super) fn read_device(bytes: &[u8]) -> Option<(Box<str>, bool)> {
    let mut reader = Reader(bytes);
    let disabled = match reader.u8()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    Some((reader.text()?.into(), disabled))
}

/// Seconds since 1970, rounded down, and the nanoseconds above them.
fn write_time(time: SystemTime, out: &mut Vec<u8>) {
    let (seconds, nanos) = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
        // A clock that was never set may stand before 1970.
        Err(error) => {
            let before = error.duration();
            let seconds = i64::try_from(before.as_secs()).map_or(i64::MIN, |seconds| -seconds);
            match before.subsec_nanos() {
                0 => (seconds, 0),
                nanos => (seconds.saturating_sub(1), 1_000_000_000 - nanos),
            }
        }
    };
    out.extend_from_slice(&seconds.to_be_bytes());
    out.extend_from_slice(&nanos.to_be_bytes());
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn time(&mut self) -> Option<SystemTime> {
        let seconds = self.array().map(i64::from_be_bytes)?;
        let nanos = Duration::from_nanos(u64::from(self.u32()?));
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let base = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
        base?.checked_add(nanos)
    }

    /// All the rest.
    fn text(self) -> Option<&'a str> {
        std::str::from_utf8(self.0).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nsd_wire::Publish;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    #[test]
    fn times_before_1970_and_parts_of_a_second_survive() {
        for nanos in [0, 1, 999_999_999, 1_000_000_000, 1_000_000_001, 86_400_123_456_789] {
            let nanos = Duration::from_nanos(nanos);
            for time in [UNIX_EPOCH + nanos, UNIX_EPOCH - nanos] {
                let bytes = written(|out| write_time(time, out));
                assert_eq!(Reader(&bytes).time(), Some(time));
            }
        }
    }

    #[test]
    fn no_cut_of_a_value_is_taken_for_a_value() {
        let message = Arc::new(Message::new(&Publish::new("a/b", b"xyz")).unwrap());
        let ids = [SubscriptionId::new(7).unwrap(), SubscriptionId::new(268_435_455).unwrap()].into();
        let (seq, since) = (9, UNIX_EPOCH);
        let entry = Entry {
            seq,
            qos: Qos::ExactlyOnce,
            retain: true,
            ids,
            since,
            message: Arc::clone(&message),
            received: false,
        };
        for body in [None, Some(77)] {
            let whole = written(|out| write_entry(3, &entry, true, body, out));
            let read = read_entry(&whole).unwrap();
            assert_eq!((read.session, read.seq, read.retain, read.received), (3, 9, true, true));
            assert_eq!(read.ids, entry.ids);
            for end in 0..whole.len() {
                let whole = read_entry(&whole[..end]).is_some_and(|entry| match entry.body {
                    Body::Inline(bytes) => Message::from_bytes(bytes).is_some(),
                    Body::Shared(_) => true,
                });
                assert!(!whole, "cut at {end}");
            }
        }
        let will = written(|out| write_will(&Will { message: (*message).clone(), delay: 5 }, out));
        let retained = written(|out| write_retained(&message, since, out));
        assert_eq!(read_will(&will).unwrap().delay, 5);
        assert_eq!(read_retained(&retained), Some(((*message).clone(), since)));
        for end in 0..will.len() {
            assert_eq!(read_will(&will[..end]), None);
        }
        for end in 0..retained.len() {
            assert_eq!(read_retained(&retained[..end]), None);
        }
    }

    #[test]
    fn a_count_of_identifiers_beyond_the_value_is_damage() {
        let message = Arc::new(Message::new(&Publish::new("a", b"")).unwrap());
        let entry = Entry {
            seq: 1,
            qos: Qos::AtLeastOnce,
            retain: false,
            ids: Box::default(),
            since: UNIX_EPOCH,
            message,
            received: false,
        };
        let mut bytes = written(|out| write_entry(1, &entry, false, None, out));
        bytes[29..33].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(read_entry(&bytes).is_none());
    }
}
