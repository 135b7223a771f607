//! The file of tables, open: `redb` with its failures sorted by what can be done about them.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::{Database, ReadableDatabase};

use super::index::Writes;
use super::load::{self, Found};
use super::tables::*;
use super::write::perform;

#[derive(Debug)]
pub(super) enum Failure {
    /// No room on the disk.
    Full,
    /// A newer program wrote this file, in this format.
    Newer(u64),
    /// Somebody else has the file open.
    Taken,
    Damaged(String),
    Io(String),
}

pub(super) struct Engine {
    /// Gone once it has failed.
    database: Option<Database>,
    /// Where values are written before they are copied into their page.
    scratch: Vec<u8>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl Engine {
    /// Makes the tables in an empty file; they are on the disk when it returns.
    pub(super) fn create(file: &Path) -> Result<(), Failure> {
        guarded(|| {
            let database = redb::Builder::new().set_cache_size(0).create(file)?;
            let transaction = database.begin_write()?;
            {
                let mut meta = transaction.open_table(META)?;
                meta.insert(META_FORMAT, FORMAT)?;
                meta.insert(META_BATCH, 0)?;
                meta.insert(META_NEXT_SESSION, 1)?;
            }
            transaction.open_table(SESSIONS)?;
            transaction.open_table(SUBSCRIPTIONS)?;
            transaction.open_table(HELD)?;
            transaction.open_table(ENTRIES)?;
            transaction.open_table(RECEIVED)?;
            transaction.open_table(BODIES)?;
            transaction.open_table(RETAINED)?;
            transaction.open_table(WILLS)?;
            transaction.open_table(DEVICES)?;
            transaction.commit()?;
            database.close()?;
            Ok(())
        })
    }

    /// Checks every page of the file, then reads it: all of it, or without messages only what the index needs.
    pub(super) fn open(file: &Path, cache: usize, messages: bool) -> Result<(Self, Found), Failure> {
        guarded(|| {
            let database =
                redb::Builder::new().set_cache_size(cache).set_check_integrity_on_open(true).open(file)?;
            let found = load::run(&database.begin_read()?, messages)?;
            Ok(found.map(|found| (Self { database: Some(database), scratch: Vec::new() }, found)))
        })?
    }

    /// All of it or nothing. Returns by how many bytes the records have grown. After a failure the file must be opened
    /// anew.
    pub(super) fn write(&mut self, writes: &Writes<'_>, batch: u64) -> Result<i64, Failure> {
        let Some(database) = &self.database else {
            return Err(Failure::Io("the file was closed after an error".to_owned()));
        };
        let scratch = &mut self.scratch;
        let result = guarded(|| {
            let transaction = database.begin_write()?;
            let grown = perform(&transaction, writes, batch, scratch)?;
            transaction.commit()?;
            Ok(grown)
        });
        if result.is_err() {
            self.abandon();
        }
        self.scratch.shrink_to(1 << 20);
        result
    }

    /// Gives room that is not used back to the disk.
    pub(super) fn compact(&mut self) -> Result<(), Failure> {
        self.database.as_mut().map_or(Ok(()), |database| guarded(|| Ok(database.compact().map(drop)?)))
    }

    pub(super) fn close(mut self) -> Result<(), Failure> {
        self.database.take().map_or(Ok(()), |database| guarded(|| Ok(database.close()?)))
    }

    /// Lets go of the file: the engine takes nothing more once it has met an error.
    fn abandon(&mut self) {
        let database = self.database.take();
        // What it says at its end is of no use: the first error is told, and the next opening checks everything.
        let _ = guarded(|| {
            drop(database);
            Ok(())
        });
    }
}

/// The engine may panic on a file that was damaged in a way that it did not foresee; that must not end the broker.
fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(sort),
        Err(panic) => Err(Failure::Damaged(format!("the engine gave up: {}", spoken(&*panic)))),
    }
}

fn sort(error: redb::Error) -> Failure {
    use redb::Error as E;
    match error {
        E::Io(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            Failure::Full
        }
        E::DatabaseAlreadyOpen | E::LockProtocolMismatch => Failure::Taken,
        E::Corrupted(what) => Failure::Damaged(what),
        // It read past the end of a file that was cut, or something else than it wrote.
        E::Io(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData) => {
            Failure::Damaged(error.to_string())
        }
        error @ (E::Io(_) | E::PreviousIo | E::DatabaseClosed | E::Backend(_)) => {
            Failure::Io(error.to_string())
        }
        error => Failure::Damaged(error.to_string()),
    }
}

fn spoken(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}
