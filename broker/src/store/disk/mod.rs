//! `store = "disk"`: one node's state in one file that survives `kill -9` and the loss of power.
//!
//! One thread owns the store and hands it batches of [`Change`]s. A batch is one transaction of the engine (`redb`: a
//! copy-on-write B-tree, every page with a checksum) and one flush of the disk, however many clients it serves. What
//! [`DiskStore::commit`] returned `Ok` for is there after any crash; a batch is never there in part.
//!
//! | module | what it is |
//! | --- | --- |
//! | `folder` | the folder: lock, files, room |
//! | `index` | pure: changes → writes, and what must be known for that |
//! | `codec` | pure: values ↔ bytes |
//! | `tables` | the tables' names and types |
//! | `engine`, `write`, `load` | the engine opened, written, read |
//!
//! # Files
//!
//! | file | is |
//! | --- | --- |
//! | `store.redb` | everything |
//! | `mark` | the number of the last batch that was acknowledged: a file that went back behind it is refused |
//! | `lock` | held by the process that has the store, whose number stands in it |
//! | `store.redb.new` | a file whose making was interrupted; it is made anew |
//!
//! # Tables, format 1
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `meta` | name | number: `format`, `batch` (the last one's), `next session` |
//! | `sessions` | session | expiry `u32`, bound of the queue's places `u64`, `0` or `1` and the time it parted, client id |
//! | `subscriptions` | session, filter | options `u8`, identifier `u32` (0: none) |
//! | `held` | session, packet identifier | |
//! | `entries` | place | flags `u8`, session, seq, time, count `u32` and identifiers `u32`, then a message or a body's key |
//! | `received` | place | its entry's client has the message, as was learnt after the entry was written |
//! | `bodies` | place of the first entry, number of the part `u16` | a part of a message that several entries of one batch share, or of a large one |
//! | `retained` | topic | time, message |
//! | `wills` | client id | delay `u32`, message |
//! | `devices` | id | disabled `u8`, secret |
//!
//! Numbers are big-endian; a time is seconds since 1970 (`i64`) and nanoseconds (`u32`); a message is the bytes of one v5
//! PUBLISH. A *place* counts up with every entry of every session: new entries stand side by side at the end of the tree,
//! so a batch writes few pages, whoever it is for. With the session in front each entry would touch a page of its own:
//! fifteen times the processor's time with 100,000 sessions. Which place an entry has is known in memory (about 50 bytes
//! an entry), and so is how many entries need a body: neither costs a write.
//!
//! # The engine
//!
//! `redb` was measured beside `fjall` (a log-structured tree): 300 B entries that come and go, one flush a batch, queues
//! nearly empty. `redb` took 5 µs of processor an entry at 100 a batch and 3 µs at 1,000, `fjall` 8 and 5. `redb` is one
//! file and no threads; `fjall` has a thread at work behind it, begins with 64 MiB, and cuts its journal where a mark
//! between batches is damaged: what came later is gone without a word.
//!
//! One flush a commit leaves one question open, in any engine: the last batch does not verify after a crash. Was it
//! never finished, or damaged later? `redb` falls back to the batch before it. `mark` answers: it is written, not
//! flushed, after each commit, so it outlives `kill -9`, and what was acknowledged is never taken back in silence. A
//! second flush (the engine's two-phase commit) would answer too, and doubles what every client waits for.

mod codec;
mod engine;
mod folder;
mod index;
mod load;
mod tables;
mod write;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use self::engine::{Engine, Failure};
use self::folder::Folder;
use self::index::Index;
use self::load::Found;
use super::change::{Change, Stored};
use crate::message::Message;

/// The memory that the engine may keep pages in.
pub const CACHE: usize = 32 << 20;
/// Left on the disk for changes that only free room: to take entries out, the engine first writes the pages anew in which
/// they stand. This is enough for 5,000 of them, each in a page of its own; no more is needed than all records take.
const RESERVE: u64 = 32 << 20;

/// Below this the file is not opened again after the disk was full: it takes reading all of it to find out.
const REOPENING: u64 = 1 << 16;
/// A file is made smaller at the start if it has more than this, and less than a quarter of it is in use.
const SPACIOUS: u64 = 64 << 20;

/// Counts the entries of all sessions; 0 is none.
type Place = u64;
type BodyId = Place;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OpenError {
    #[error("{} is in use by process {holder}: a store belongs to one broker", path.display())]
    InUse { path: PathBuf, holder: String },
    #[error(
        "{} is damaged ({what}). Nothing was forgotten or begun anew: put the backup of this folder in its place, or \
         move the folder away to begin without what it held",
        file.display()
    )]
    Damaged { file: PathBuf, what: String },
    #[error(
        "{} is not the store of a broker, or its beginning is damaged: put the backup of this folder in its place, or \
         move the file away to begin anew",
        file.display()
    )]
    Foreign { file: PathBuf },
    #[error(
        "{} is missing, but {} tells that it was there: put the backup of this folder in its place, or remove `mark` \
         too to begin anew",
        file.display(), mark.display()
    )]
    Missing { file: PathBuf, mark: PathBuf },
    #[error(
        "{} ends with batch {found}, but batch {marked} was acknowledged: its end is damaged, or an older file was put \
         in its place. If that was you, remove {}; else put the backup of this folder in its place",
        file.display(), mark.display()
    )]
    WentBack { file: PathBuf, mark: PathBuf, found: u64, marked: u64 },
    #[error(
        "{} has format {found}, this program knows {}: a newer nsd-broker wrote it, start that one",
        file.display(), tables::FORMAT
    )]
    Newer { file: PathBuf, found: u64 },
    #[error("there is no room on the disk to open {}", file.display())]
    Full { file: PathBuf },
    #[error("{}: {what}", path.display())]
    Io { path: PathBuf, what: String },
}

/// Why a batch is not stored; nothing of it is.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CommitError {
    /// It may be tried again: changes that free room are taken first, all others when there is room again.
    #[error("there is no room on the disk for {}", file.display())]
    Full { file: PathBuf },
    /// Nothing will be stored any more until the broker is started again.
    #[error("{} takes nothing more: {what}", file.display())]
    Broken { file: PathBuf, what: String },
}

#[derive(Debug)]
pub struct DiskStore {
    state: State,
    /// The number of the last batch.
    batch: u64,
    /// What all records need, about.
    live: i64,
    cache: usize,
    folder: Folder,
}

#[derive(Debug)]
enum State {
    Open(Engine, Index),
    /// The disk was full and the file is yet to be opened again.
    Shut,
    Broken(String),
}

impl DiskStore {
    /// Opens the store in this folder, which is made where it is missing, for this process alone, and reads all of it.
    /// `cache` bounds the memory that the engine keeps pages in.
    pub fn open(directory: &Path, cache: usize) -> Result<(Self, Stored), OpenError> {
        let mut folder = Folder::take(directory)?;
        let file = folder.file().to_owned();
        if !folder.has_file()? {
            let io = |error: io::Error| refusal(&file, sort_io(&error));
            let unfinished = folder.begin().map_err(io)?;
            Engine::create(&unfinished).map_err(|failure| refusal(&file, failure))?;
            folder.finish(&unfinished).map_err(io)?;
        }
        let opened = Engine::open(&file, cache, true).map_err(|failure| refusal(&file, failure))?;
        let (engine, Found { index, stored, batch, live }) = opened;
        if let Some(marked) = folder.marked().filter(|marked| *marked > batch) {
            return Err(OpenError::WentBack { file, mark: folder.mark(), found: batch, marked });
        }
        folder.settle().map_err(|error| refusal(&file, sort_io(&error)))?;
        folder.set_mark(batch);
        let state = State::Open(engine, index);
        let mut store = Self { state, batch, live, cache, folder };
        store.give_back_room().map_err(|failure| refusal(&file, failure))?;
        Ok((store, stored))
    }

    /// Stores all of the batch or nothing; it is on the disk when this returns.
    pub fn commit(&mut self, changes: &[Change]) -> Result<(), CommitError> {
        let added = added(changes);
        if let State::Shut = self.state {
            // To open it, some pages are written.
            if self.folder.free().unwrap_or(0) < REOPENING {
                return Err(self.full());
            }
            self.open_again()?;
        }
        self.has_room(added)?;
        self.write(changes)
    }

    /// Whether it was thought to fit or not.
    fn write(&mut self, changes: &[Change]) -> Result<(), CommitError> {
        let (engine, index) = match &mut self.state {
            State::Open(engine, index) => (engine, index),
            State::Shut => return Err(self.full()),
            State::Broken(what) => return Err(broken(&self.folder, what.clone())),
        };
        let writes = index.plan(changes);
        if writes.is_empty() {
            return Ok(());
        }
        match engine.write(&writes, self.batch + 1) {
            Ok(grown) => {
                self.batch += 1;
                self.live += grown;
                self.folder.set_mark(self.batch);
                Ok(())
            }
            Err(Failure::Full) => {
                self.state = State::Shut;
                self.open_again()?;
                Err(self.full())
            }
            Err(failure) => Err(self.break_off(refusal_text(failure))),
        }
    }

    /// Leaves the file so that the next start is quick.
    pub fn close(self) -> Result<(), CommitError> {
        match self.state {
            State::Open(engine, _) => {
                engine.close().map_err(|failure| broken(&self.folder, refusal_text(failure)))
            }
            State::Shut => Ok(()),
            State::Broken(what) => Err(broken(&self.folder, what)),
        }
    }

    /// The engine takes nothing after an error, and the index has taken in what is not stored: both begin again with
    /// what is on the disk.
    fn open_again(&mut self) -> Result<(), CommitError> {
        match Engine::open(self.folder.file(), self.cache, false) {
            Ok((engine, found)) if found.batch == self.batch => {
                self.live = found.live;
                self.state = State::Open(engine, found.index);
                Ok(())
            }
            Ok((_, found)) => {
                let what = format!("it ends with batch {} instead of {}", found.batch, self.batch);
                Err(self.break_off(what))
            }
            Err(Failure::Full) => Err(self.full()),
            Err(failure) => Err(self.break_off(refusal_text(failure))),
        }
    }

    /// Asked before the engine is: it must read the whole file again after it has met a full disk. What frees more than
    /// it takes is always tried, for it may fit into pages that the file has.
    fn has_room(&mut self, added: u64) -> Result<(), CommitError> {
        if let State::Broken(_) = self.state {
            return Ok(());
        }
        let allocated = match self.folder.allocated() {
            Ok(allocated) => allocated,
            Err(what) => return Err(self.break_off(what)),
        };
        if added == 0 {
            return Ok(());
        }
        let free = match self.folder.free() {
            Ok(free) => free,
            Err(error) => return Err(self.break_off(error.to_string())),
        };
        // Pages are rarely full: a record needs up to twice its size.
        let live = 2 * u64::try_from(self.live).unwrap_or(0);
        let inside = allocated.saturating_sub(live);
        if free + inside < 2 * added + RESERVE.min(live) { Err(self.full()) } else { Ok(()) }
    }

    /// Makes a file smaller that is mostly empty.
    fn give_back_room(&mut self) -> Result<(), Failure> {
        let used = 4 * u64::try_from(self.live).unwrap_or(0);
        let State::Open(engine, _) = &mut self.state else { return Ok(()) };
        if !self.folder.allocated().is_ok_and(|allocated| allocated > SPACIOUS.max(used)) {
            return Ok(());
        }
        if engine.compact().is_err() {
            // It takes some room itself. Nothing is lost if there is none, but the engine takes no more after an error.
            self.state = State::Shut;
            let (engine, found) = Engine::open(self.folder.file(), self.cache, false)?;
            self.state = State::Open(engine, found.index);
        }
        Ok(())
    }

    fn full(&self) -> CommitError {
        CommitError::Full { file: self.folder.file().to_owned() }
    }

    fn break_off(&mut self, what: String) -> CommitError {
        self.state = State::Broken(what.clone());
        broken(&self.folder, what)
    }
}

/// The bytes that changes add, about; those that free some or none count nothing.
fn added(changes: &[Change]) -> u64 {
    let mut before: Option<&Arc<Message>> = None;
    let mut sum = 0;
    for change in changes {
        let bytes = match change {
            Change::Enqueue { entry, .. } => {
                let again =
                    before.replace(&entry.message).is_some_and(|before| Arc::ptr_eq(before, &entry.message));
                4 * entry.ids.len() + if again { 0 } else { entry.message.bytes().len() }
            }
            Change::Retain { message, .. } => 2 * message.bytes().len(),
            Change::Will { will, client_id } => will.message.bytes().len() + client_id.len(),
            Change::Subscribe { filter, .. } => filter.len(),
            Change::Open { client_id, .. } => client_id.len(),
            Change::Device { id, secret, .. } => id.len() + secret.len(),
            Change::Hold { .. } => 0,
            _ => continue,
        };
        sum += (bytes + write::OVERHEAD) as u64;
    }
    sum
}

fn broken(folder: &Folder, what: String) -> CommitError {
    CommitError::Broken { file: folder.file().to_owned(), what }
}

fn sort_io(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Failure::Full,
        _ => Failure::Io(error.to_string()),
    }
}

fn refusal(file: &Path, failure: Failure) -> OpenError {
    let file = file.to_owned();
    match failure {
        Failure::Full => OpenError::Full { file },
        Failure::Newer(found) => OpenError::Newer { file, found },
        Failure::Taken => OpenError::InUse { path: file, holder: "(unknown)".to_owned() },
        Failure::Damaged(what) => OpenError::Damaged { file, what },
        Failure::Io(what) => OpenError::Io { path: file, what },
    }
}

fn refusal_text(failure: Failure) -> String {
    match failure {
        Failure::Full => "no room".to_owned(),
        Failure::Newer(found) => format!("it has format {found} now"),
        Failure::Taken => "another program has opened it".to_owned(),
        Failure::Damaged(what) => format!("it is damaged: {what}"),
        Failure::Io(what) => what,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;
    use std::time::UNIX_EPOCH;

    use nsd_wire::{Publish, Qos};

    use super::*;
    use crate::store::change::Entry;

    fn enqueue(seq: u64, size: usize) -> Change {
        let message = Arc::new(Message::new(&Publish::new("t", &vec![b'x'; size])).unwrap());
        let entry = Entry {
            seq,
            qos: Qos::AtLeastOnce,
            retain: false,
            ids: Box::default(),
            since: UNIX_EPOCH,
            message,
            received: false,
        };
        Change::Enqueue { session: 1, entry }
    }

    /// The engine meets the full disk itself, as it does when others take the room after it was asked for: with nothing
    /// left, and with less left than the batch needs.
    fn get_full(folder: &Path) {
        let (store, other) = (folder.join("store"), folder.join("other"));
        let (mut disk, _) = DiskStore::open(&store, CACHE).unwrap();
        disk.commit(&[Change::Open { session: 1, client_id: "c".into(), expiry: 1 }]).unwrap();
        for (round, left) in (0..).zip([0, 4, 30, 100, 300, 900, 2000_u64]) {
            let filled = fs::write(&other, vec![1; 16 << 20]);
            assert!(filled.is_err(), "the disk is not as small as it should be");
            let length = fs::metadata(&other).unwrap().len();
            fs::OpenOptions::new().write(true).open(&other).unwrap().set_len(length - (left << 10)).unwrap();
            let batch: Vec<Change> = (0..100).map(|seq| enqueue(1000 * round + seq, 40_000)).collect();
            let error = disk.write(&batch).unwrap_err();
            assert!(matches!(error, CommitError::Full { .. }), "{left} KiB left: {error}");
            fs::remove_file(&other).unwrap();
            disk.commit(&[enqueue(1000 * round + 500, 10)]).unwrap();
            if left % 3 == 0 {
                drop(disk);
                let (again, found) = DiskStore::open(&store, CACHE).unwrap();
                let queue: Vec<u64> = found.sessions[0].queue.iter().map(|entry| entry.seq).collect();
                let told: Vec<u64> = (0..=round).map(|round| 1000 * round + 500).collect();
                assert_eq!(queue, told, "what was acknowledged is there, what was refused is not");
                disk = again;
            }
        }
    }

    #[test]
    fn the_engine_meets_a_full_disk_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let run = |program: &str, arguments: &[&str]| {
            let told = Command::new(program).args(arguments).arg(folder.path()).output().unwrap();
            assert!(told.status.success(), "this test must mount a file system, which takes root: {told:?}");
        };
        run("mount", &["-t", "tmpfs", "-o", "size=12m", "nsd-test"]);
        let outcome = std::panic::catch_unwind(|| get_full(folder.path()));
        run("umount", &["-l"]);
        assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
        outcome.unwrap();
    }
}
