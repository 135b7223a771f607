//! What stands in the keys of sessions: values ↔ bytes. Pure. Numbers are big-endian; a time is nanoseconds since 1970
//! (`u64`); a message is the bytes of one v5 PUBLISH.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nsd_wire::{Qos, SubscribeOptions, SubscriptionId};

use crate::message::{Message, Will};
use crate::store::change::{Entry, Seq};

const QOS: u8 = 0b11;
const RETAIN: u8 = 0b100;

/// What stands before the message in a queue: flags `u8`, time, count `u16` and identifiers `u32`.
pub fn write_head(qos: Qos, retain: bool, since: SystemTime, ids: &[SubscriptionId], out: &mut Vec<u8>) {
    out.push(qos as u8 | if retain { RETAIN } else { 0 });
    out.extend_from_slice(&nanoseconds(since).to_be_bytes());
    // A client has 10,000 filters at most that could match at once.
    let count = u16::try_from(ids.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&count.to_be_bytes());
    ids.iter().take(count.into()).for_each(|id| out.extend_from_slice(&id.get().to_be_bytes()));
}

/// An entry of a queue; `None` for what no broker of ours writes.
pub fn read_entry(seq: Seq, bytes: &[u8]) -> Option<Entry> {
    let count = bytes.get(9..11)?;
    let head = 11 + 4 * usize::from(u16::from_be_bytes(count.try_into().ok()?));
    let (head, message) = bytes.split_at_checked(head)?;
    entry(seq, head, Arc::new(Message::from_bytes(message)?))
}

/// An entry with this head.
pub fn entry(seq: Seq, head: &[u8], message: Arc<Message>) -> Option<Entry> {
    let (flags, rest) = head.split_first()?;
    let (since, rest) = rest.split_first_chunk::<8>()?;
    let (_, ids) = rest.split_first_chunk::<2>()?;
    let ids = ids.chunks_exact(4).map(|id| SubscriptionId::new(u32::from_be_bytes(id.try_into().ok()?)));
    Some(Entry {
        seq,
        qos: Qos::from_u8(flags & QOS)?,
        retain: flags & RETAIN != 0,
        ids: ids.collect::<Option<_>>()?,
        since: time(u64::from_be_bytes(*since))?,
        message,
        received: false,
    })
}

/// How a filter is wanted: options `u8`, identifier `u32` (0: none).
pub fn write_terms(options: SubscribeOptions, id: Option<SubscriptionId>) -> [u8; 5] {
    let [a, b, c, d] = id.map_or(0, SubscriptionId::get).to_be_bytes();
    [options.to_u8(), a, b, c, d]
}

pub fn read_terms(bytes: &[u8]) -> Option<(SubscribeOptions, Option<SubscriptionId>)> {
    let (options, id) = bytes.split_first()?;
    let id = match u32::from_be_bytes(id.try_into().ok()?) {
        0 => None,
        id => Some(SubscriptionId::new(id)?),
    };
    Some((SubscribeOptions::from_u8(*options)?, id))
}

/// A will: delay `u32`, message.
pub fn write_will(will: Option<&Will>) -> Vec<u8> {
    let Some(Will { message, delay }) = will else { return Vec::new() };
    [&delay.to_be_bytes()[..], message.bytes()].concat()
}

pub fn read_will(bytes: &[u8]) -> Option<Will> {
    let (delay, message) = bytes.split_first_chunk::<4>()?;
    Some(Will { delay: u32::from_be_bytes(*delay), message: Message::from_bytes(message)? })
}

/// A retained message: time, message.
pub fn write_retained(message: &[u8], since: SystemTime) -> Vec<u8> {
    [&nanoseconds(since).to_be_bytes()[..], message].concat()
}

pub fn read_retained(bytes: &[u8]) -> Option<(Message, SystemTime)> {
    let (since, message) = bytes.split_first_chunk::<8>()?;
    Some((Message::from_bytes(message)?, time(u64::from_be_bytes(*since))?))
}

/// Seconds since 1970 with a fraction, as scripts count.
pub fn write_parted(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:09}", since.as_secs(), since.subsec_nanos())
}

pub fn read_parted(text: &str) -> Option<SystemTime> {
    let (seconds, fraction) = text.split_once('.')?;
    let nanoseconds = format!("{fraction:0<9}").parse().ok()?;
    UNIX_EPOCH.checked_add(Duration::new(seconds.parse().ok()?, nanoseconds))
}

/// What is before 1970 was never set, and what is after 2554 is not ours to see.
fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn time(nanoseconds: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_nanos(nanoseconds))
}

#[cfg(test)]
mod tests {
    use nsd_wire::Publish;

    use super::*;

    #[test]
    fn values_come_back_and_no_cut_of_one_is_taken_for_one() {
        let message = Message::new(&Publish::new("a/b", b"xyz")).unwrap();
        let since = UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
        let ids = [SubscriptionId::new(7).unwrap(), SubscriptionId::new(268_435_455).unwrap()];
        let mut entry = Vec::new();
        write_head(Qos::ExactlyOnce, true, since, &ids, &mut entry);
        entry.extend_from_slice(message.bytes());
        let read = read_entry(9, &entry).unwrap();
        assert_eq!((read.seq, read.qos, read.retain, read.received), (9, Qos::ExactlyOnce, true, false));
        assert_eq!((&*read.ids, read.since, &*read.message), (&ids[..], since, &message));
        let will = Will { message: message.clone(), delay: 5 };
        let (will_bytes, retained) = (write_will(Some(&will)), write_retained(message.bytes(), since));
        assert_eq!(read_will(&will_bytes), Some(will));
        assert_eq!(read_retained(&retained), Some((message, since)));
        (0..entry.len()).for_each(|end| assert_eq!(read_entry(9, &entry[..end]), None, "cut at {end}"));
        (0..will_bytes.len()).for_each(|end| assert_eq!(read_will(&will_bytes[..end]), None));
        (0..retained.len()).for_each(|end| assert_eq!(read_retained(&retained[..end]), None));
        let terms = write_terms(Qos::AtLeastOnce.into(), Some(ids[1]));
        assert_eq!(read_terms(&terms), Some((Qos::AtLeastOnce.into(), Some(ids[1]))));
        assert_eq!(read_terms(&terms[..4]), None);
        assert_eq!(read_parted(&write_parted(since)), Some(since));
        assert_eq!(read_parted("1700000000.123456"), Some(since - Duration::from_nanos(789)));
    }
}
