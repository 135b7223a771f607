//! Changes made up from small numbers: the same numbers and the same past give the same changes.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use nsd_broker::message::Will;
use nsd_broker::store::change::Change;
use nsd_wire::{PacketId, SubscribeOptions, SubscriptionId};

use super::model::Model;
use super::{done, enqueue, message, open};

/// What to do, to which of the few there are, and how.
pub(crate) type Wish = (u8, u8, u16);

/// One batch, that follows on what the model knows; the model knows it afterwards.
pub(crate) fn batch(model: &mut Model, wishes: &[Wish]) -> Vec<Change> {
    let mut changes = Vec::new();
    for wish in wishes {
        let before = changes.len();
        write(model, *wish, &mut changes);
        model.apply(&changes[before..]);
    }
    changes
}

fn write(model: &Model, (kind, which, how): Wish, out: &mut Vec<Change>) {
    let sessions = model.sessions();
    let session = *pick(&sessions, which).unwrap_or(&0);
    let name = format!("name {}", which % 8);
    let text: Box<str> = name.as_str().into();
    out.push(match kind % 32 {
        0 if !sessions.is_empty() => open(session, &name, how.into()),
        0..=2 => open(model.next_session(), &name, how.into()),
        3 => Change::Part { session, at: UNIX_EPOCH + Duration::from_micros(how.into()) },
        4 => Change::Close { session },
        5 | 6 => Change::Subscribe {
            session,
            filter: text,
            options: SubscribeOptions::from_u8(how as u8 & 0b10_1101).unwrap_or_default(),
            id: SubscriptionId::new(u32::from(how) % 5),
        },
        7 => Change::Unsubscribe { session, filter: text },
        8..=14 => enqueue(session, model.next_seq(session) + u64::from(how % 3), message(&name, size(how))),
        15 => {
            let one = message(&name, size(how));
            let some = sessions.iter().filter(|session| (*session + u64::from(how)) % 4 != 0);
            out.extend(some.map(|session| enqueue(*session, model.next_seq(*session), Arc::clone(&one))));
            return;
        }
        16..=23 => done(session, *pick(&model.queue(session), how as u8).unwrap_or(&0)),
        24 => Change::Received { session, seq: *pick(&model.queue(session), how as u8).unwrap_or(&0) },
        25 => Change::Hold { session, id: identifier(how) },
        26 => Change::Release { session, id: identifier(how) },
        27 => Change::Retain {
            message: message(&name, size(how)),
            since: UNIX_EPOCH + Duration::from_secs(how.into()),
        },
        28 => Change::Forget { topic: text },
        29 => {
            let message = (*message("will", size(how))).clone();
            Change::Will { client_id: text, will: Will { message, delay: how.into() } }
        }
        30 => Change::WillDone { client_id: text },
        _ if how.is_multiple_of(3) => Change::NoDevice { id: text },
        _ => Change::Device { id: text, secret: format!("{how}").into(), disabled: how.is_multiple_of(2) },
    });
    // Often a message is done with before its batch is stored.
    if let Some(Change::Enqueue { session, entry }) = out.last()
        && how.is_multiple_of(4)
    {
        let (session, seq) = (*session, entry.seq);
        out.push(done(session, seq));
    }
}

/// Mostly small, sometimes the size of pages, rarely large.
fn size(how: u16) -> usize {
    match how % 50 {
        0 => 65_536,
        1..5 => 4000 + usize::from(how % 200),
        5..15 => usize::from(how % 40),
        _ => 100 + usize::from(how % 400),
    }
}

fn identifier(how: u16) -> PacketId {
    PacketId::new(how % 6 + 1).unwrap()
}

fn pick<T>(all: &[T], which: u8) -> Option<&T> {
    all.get(usize::from(which).checked_rem(all.len())?)
}
