//! The store on the disk: what every store promises, and what only a disk can do to one.

mod crash;
mod damage;
mod full;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nsd_broker::store::change::{Change, Stored};
use nsd_broker::store::disk::{CACHE, DiskStore, OpenError};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::stored::author::{self, Wish};
use crate::stored::model::Model;
use crate::stored::{Keeper, done, enqueue, message, open, suite};

pub(super) struct Disk {
    path: PathBuf,
    store: Option<DiskStore>,
}

impl Disk {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), store: Some(opened(path).0) }
    }
}

impl Keeper for Disk {
    fn commit(&mut self, changes: &[Change]) {
        self.store.as_mut().unwrap().commit(changes).unwrap();
    }

    fn restart(&mut self) -> Stored {
        self.store.take().unwrap().close().unwrap();
        let (store, stored) = opened(&self.path);
        self.store = Some(store);
        stored
    }
}

pub(super) fn opened(path: &Path) -> (DiskStore, Stored) {
    opening(path).unwrap_or_else(|error| panic!("{error}"))
}

/// A process that another test starts has our lock, too, from its fork to its exec.
pub(super) fn opening(path: &Path) -> Result<(DiskStore, Stored), OpenError> {
    let started = Instant::now();
    loop {
        match DiskStore::open(path, CACHE) {
            Err(OpenError::InUse { .. }) if started.elapsed() < Duration::from_secs(10) => {
                std::thread::yield_now();
            }
            result => return result,
        }
    }
}

#[test]
fn it_keeps_what_every_store_keeps() {
    let folder = tempfile::tempdir().unwrap();
    suite(&mut Disk::new(folder.path()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn it_agrees_with_a_model_whatever_happens(
        batches in vec((vec(any::<Wish>(), 1..40), any::<bool>()), 1..12),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = Disk::new(folder.path());
        let mut model = Model::default();
        for (wishes, restart) in &batches {
            disk.commit(&author::batch(&mut model, wishes));
            if *restart {
                model.check(&disk.restart());
            }
        }
        model.check(&disk.restart());
    }
}

#[test]
fn a_second_process_is_refused_with_the_number_of_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = opened(folder.path());
    let error = DiskStore::open(folder.path(), CACHE).unwrap_err();
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    assert!(matches!(error, OpenError::InUse { .. }));
    drop(store);
    opened(folder.path());
}

#[test]
fn nobody_else_can_read_the_folder_and_its_files() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("deep/er");
    let (mut store, _) = opened(&folder);
    store.commit(&[open(1, "c", 1)]).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    let mut seen = 0;
    for file in fs::read_dir(&folder).unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
        seen += 1;
    }
    assert_eq!(seen, 3);
    drop(store);
    // An operator's copy came back with other rights.
    fs::set_permissions(folder.join("store.redb"), fs::Permissions::from_mode(0o644)).unwrap();
    drop(opened(&folder));
    assert_eq!(mode(&folder.join("store.redb")), 0o600);
}

#[test]
fn what_came_and_went_in_one_batch_never_touches_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, _) = opened(folder.path());
    store.commit(&[open(1, "c", 1), enqueue(1, 0, message("t", 10))]).unwrap();
    let mark = || fs::read(folder.path().join("mark")).unwrap();
    let before = mark();
    store.commit(&[enqueue(1, 1, message("t", 5000)), done(1, 1)]).unwrap();
    store.commit(&[]).unwrap();
    store.commit(&[done(1, 1), done(2, 2), Change::Close { session: 77 }]).unwrap();
    assert_eq!(mark(), before, "no batch was written");
    store.commit(&[done(1, 0)]).unwrap();
    assert_ne!(mark(), before);
}

#[test]
fn the_file_does_not_grow_with_what_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, _) = opened(folder.path());
    store.commit(&(1..=50).map(|session| open(session, "c", 1)).collect::<Vec<_>>()).unwrap();
    let size = || fs::metadata(folder.path().join("store.redb")).unwrap().len();
    let mut largest_early = 0;
    // The messages of each round are done in the next but one; a third of them is shared.
    for round in 0..300_u64 {
        let shared = message("shared", 2000);
        let mut changes: Vec<Change> =
            (1..=50).map(|session| enqueue(session, round * 3, shared.clone())).collect();
        changes.extend((1..=50).map(|session| enqueue(session, round * 3 + 1, message("own", 700))));
        if let Some(before) = round.checked_sub(2) {
            changes.extend(
                (1..=50).flat_map(|session| [done(session, before * 3), done(session, before * 3 + 1)]),
            );
        }
        store.commit(&changes).unwrap();
        if round < 50 {
            largest_early = largest_early.max(size());
        }
    }
    assert!(size() <= 2 * largest_early, "{} after {largest_early}", size());
    store.commit(&(1..=50).map(|session| Change::Close { session }).collect::<Vec<_>>()).unwrap();
    store.close().unwrap();
    let (store, stored) = opened(folder.path());
    assert!(stored.sessions.is_empty());
    store.close().unwrap();
    assert!(size() < 200_000, "nothing is left behind: {}", size());
}

#[test]
fn a_file_that_was_large_once_gives_its_room_back_at_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, _) = opened(folder.path());
    let size = || fs::metadata(folder.path().join("store.redb")).unwrap().len();
    store.commit(&[open(1, "c", 1), enqueue(1, 0, message("stays", 90_000))]).unwrap();
    for batch in 0..10 {
        let changes: Vec<Change> =
            (1..=100).map(|at| enqueue(1, batch * 100 + at, message("goes", 90_000))).collect();
        store.commit(&changes).unwrap();
    }
    store.commit(&[enqueue(1, 2000, message("stays", 90_000))]).unwrap();
    store.commit(&(1..=1000).map(|seq| done(1, seq)).collect::<Vec<_>>()).unwrap();
    drop(store);
    assert!(size() > 80 << 20, "{}", size());
    drop(opened(folder.path()));
    assert!(size() < 4 << 20, "{}", size());
    let (_, stored) = opened(folder.path());
    let queue: Vec<_> =
        stored.sessions[0].queue.iter().map(|entry| (entry.seq, entry.message.bytes().len())).collect();
    let whole = message("stays", 90_000).bytes().len();
    assert_eq!(queue, [(0, whole), (2000, whole)]);
}
