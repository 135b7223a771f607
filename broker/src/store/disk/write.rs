//! Writes of one batch, put into the tables within one transaction.

use std::borrow::Borrow;

use redb::{Error, Key, Table, TableDefinition, WriteTransaction};

use super::codec;
use super::index::Writes;
use super::tables::*;

/// What a record costs beside its value: its key, its place in a page.
pub(super) const OVERHEAD: usize = 40;

/// A body is cut into parts of this size. The engine rounds a large record up to a power of two: a message of 64 KiB and
/// its topic would take 128 KiB. 65,536 of them are far more than the longest packet.
pub(super) const PART: usize = 32_000;

/// Returns by how many bytes the records have grown.
pub(super) fn perform(
    transaction: &WriteTransaction,
    writes: &Writes<'_>,
    batch: u64,
    scratch: &mut Vec<u8>,
) -> Result<i64, Error> {
    let mut meta = transaction.open_table(META)?;
    meta.insert(META_BATCH, batch)?;
    if let Some(next) = writes.next_session {
        meta.insert(META_NEXT_SESSION, next)?;
    }
    let mut grown = closed(transaction, writes)?;
    grown += entries(transaction, writes, scratch)?;
    grown += bodies(transaction, writes)?;
    let values = writes.sessions.iter().map(|(session, value)| (session, value.as_deref()));
    grown += all(transaction, SESSIONS, values)?;
    let values = writes.subscriptions.iter().map(|(key, value)| (key, value.as_deref()));
    grown += all(transaction, SUBSCRIPTIONS, values)?;
    grown += all(transaction, WILLS, writes.wills.iter().map(|(id, value)| (*id, value.as_deref())))?;
    grown += all(transaction, DEVICES, writes.devices.iter().map(|(id, value)| (*id, value.as_deref())))?;
    flags(transaction, HELD, writes.held.iter())?;
    flags(transaction, RECEIVED, writes.received.iter())?;
    grown += retained(transaction, writes, scratch)?;
    Ok(grown)
}

fn entries(transaction: &WriteTransaction, writes: &Writes<'_>, scratch: &mut Vec<u8>) -> Result<i64, Error> {
    let mut grown = 0;
    if writes.done.is_empty() && writes.fresh.iter().all(Option::is_none) {
        return Ok(grown);
    }
    let mut table = transaction.open_table(ENTRIES)?;
    for place in &writes.done {
        grown += put(&mut table, place, None)?;
    }
    for (place, fresh) in (writes.first..).zip(&writes.fresh) {
        let Some(fresh) = fresh else { continue };
        scratch.clear();
        codec::write_entry(fresh.session, fresh.entry, fresh.received, fresh.body, scratch);
        grown += put(&mut table, place, Some(scratch))?;
    }
    Ok(grown)
}

fn bodies(transaction: &WriteTransaction, writes: &Writes<'_>) -> Result<i64, Error> {
    let mut grown = 0;
    if writes.bodies.is_empty() && writes.unneeded.is_empty() {
        return Ok(grown);
    }
    let mut table = transaction.open_table(BODIES)?;
    for body in &writes.unneeded {
        for gone in table.extract_from_if((*body, 0)..=(*body, u16::MAX), |_, _| true)? {
            grown -= size(gone?.1.value());
        }
    }
    for (body, message) in &writes.bodies {
        for (number, part) in (0..).zip(message.bytes().chunks(PART)) {
            grown += put(&mut table, (*body, number), Some(part))?;
        }
    }
    Ok(grown)
}

fn retained(
    transaction: &WriteTransaction,
    writes: &Writes<'_>,
    scratch: &mut Vec<u8>,
) -> Result<i64, Error> {
    let mut grown = 0;
    if writes.retained.is_empty() {
        return Ok(grown);
    }
    let mut table = transaction.open_table(RETAINED)?;
    for (topic, value) in &writes.retained {
        scratch.clear();
        if let Some((message, since)) = value {
            codec::write_retained(message, *since, scratch);
        }
        grown += put(&mut table, *topic, value.map(|_| scratch.as_slice()))?;
    }
    Ok(grown)
}

/// What ended sessions leave in tables whose keys begin with the session.
fn closed(transaction: &WriteTransaction, writes: &Writes<'_>) -> Result<i64, Error> {
    let mut grown = 0;
    if writes.closed.is_empty() {
        return Ok(grown);
    }
    let mut subscriptions = transaction.open_table(SUBSCRIPTIONS)?;
    let mut held = transaction.open_table(HELD)?;
    for session in &writes.closed {
        let Some(next) = session.checked_add(1) else { continue };
        for gone in subscriptions.extract_from_if((*session, "")..(next, ""), |_, _| true)? {
            grown -= size(gone?.1.value());
        }
        for gone in held.extract_from_if((*session, 0)..(next, 0), |_, ()| true)? {
            gone?;
        }
    }
    Ok(grown)
}

fn all<'v, 'k, K: Key + 'static>(
    transaction: &WriteTransaction,
    table: TableDefinition<'_, K, &'static [u8]>,
    values: impl Iterator<Item = (impl Borrow<K::SelfType<'k>>, Option<&'v [u8]>)>,
) -> Result<i64, Error> {
    let mut values = values.peekable();
    let mut grown = 0;
    if values.peek().is_none() {
        return Ok(grown);
    }
    let mut table = transaction.open_table(table)?;
    for (key, value) in values {
        grown += put(&mut table, key, value)?;
    }
    Ok(grown)
}

fn put<'k, K: Key + 'static>(
    table: &mut Table<'_, K, &'static [u8]>,
    key: impl Borrow<K::SelfType<'k>>,
    value: Option<&[u8]>,
) -> Result<i64, Error> {
    let before = match value {
        Some(value) => table.insert(key, value)?,
        None => table.remove(key)?,
    };
    Ok(value.map_or(0, size) - before.map_or(0, |before| size(before.value())))
}

/// Keys that are there or not.
fn flags<'k, 'f, K: Key + 'static>(
    transaction: &WriteTransaction,
    table: TableDefinition<'_, K, ()>,
    values: impl Iterator<Item = (&'f K::SelfType<'k>, &'f bool)>,
) -> Result<(), Error>
where
    K::SelfType<'k>: 'f,
{
    let mut values = values.peekable();
    if values.peek().is_none() {
        return Ok(());
    }
    let mut table = transaction.open_table(table)?;
    for (key, is) in values {
        if *is {
            table.insert(key, ())?;
        } else {
            table.remove(key)?;
        }
    }
    Ok(())
}

pub(super) fn size(value: &[u8]) -> i64 {
    i64::try_from(value.len() + OVERHEAD).unwrap_or(i64::MAX)
}
