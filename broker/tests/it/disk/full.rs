//! No room, no right to write, no folder any more.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use nsd_broker::store::change::Change;
use nsd_broker::store::disk::{CommitError, DiskStore};

use super::{opened, opening};
use crate::stored::model::Model;
use crate::stored::{done, enqueue, message, open};

/// A small file system in memory, gone at the end.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        run(
            "mount",
            &["-t", "tmpfs", "-o", &format!("size={size},mode=700"), "nsd-test", shown(folder.path())],
        );
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn remount(&self, options: &str) {
        run("mount", &["-o", &format!("remount,{options}"), shown(self.path())]);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(program: &str, arguments: &[&str]) {
    let told = Command::new(program).args(arguments).output();
    let told = told.unwrap_or_else(|error| panic!("this test must run `{program}`: {error}"));
    let why = String::from_utf8_lossy(&told.stderr);
    assert!(
        told.status.success(),
        "this test must mount a file system, which takes root: {program} {arguments:?}: {why}"
    );
}

/// Until it does not fit; each batch is all there or not at all.
fn fill(store: &mut DiskStore, model: &mut Model, seq: &mut u64, size: usize) {
    for _ in 0..100_000 {
        let batch: Vec<Change> = (0..4).map(|at| enqueue(1, *seq + at, message("fill", size))).collect();
        match store.commit(&batch) {
            Ok(()) => {
                model.apply(&batch);
                *seq += 4;
            }
            Err(CommitError::Full { .. }) => return,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("it never got full");
}

#[test]
fn a_full_disk_refuses_and_recovers_by_itself() {
    for (round, size) in [300, 3000, 60_000].into_iter().enumerate() {
        let mount = Mount::new("12m");
        let folder = mount.path().join("store");
        let (mut store, _) = opened(&folder);
        let mut model = Model::default();
        let first = [open(1, "c", 9), enqueue(1, 0, message("first", 100))];
        store.commit(&first).unwrap();
        model.apply(&first);
        let mut seq = 1;
        fill(&mut store, &mut model, &mut seq, size);
        assert!(seq > 20, "{seq} entries of {size} bytes were too many for 12 MiB");
        // It stays refused, and small things may still fit.
        for _ in 0..3 {
            let error = store.commit(&[enqueue(1, seq + 100, message("large", 2_000_000))]).unwrap_err();
            assert!(error.to_string().contains(shown(&folder)), "{error}");
        }
        // What the store itself holds is done with: there is room again, without a restart.
        let gone: Vec<Change> = model.queue(1).into_iter().step_by(2).map(|seq| done(1, seq)).collect();
        store.commit(&gone).unwrap();
        model.apply(&gone);
        let before = seq;
        seq += 1000;
        fill(&mut store, &mut model, &mut seq, size);
        assert!(seq > before + 1010, "round {round}: {seq} after {before}");
        store.close().unwrap();
        model.check(&opened(&folder).1);
    }
}

#[test]
fn others_fill_the_disk_to_the_last_byte_and_free_it_again() {
    let mount = Mount::new("8m");
    let folder = mount.path().join("store");
    let (mut store, _) = opened(&folder);
    let mut model = Model::default();
    let first = [open(1, "c", 9), enqueue(1, 0, message("first", 100))];
    store.commit(&first).unwrap();
    model.apply(&first);
    let mut seq = 1;
    for round in 0..4_u64 {
        let other = mount.path().join("other");
        // As much as there is: the write ends early, and that is its purpose.
        let _ = fs::write(&other, vec![1; 16 << 20]);
        let batch: Vec<Change> = (0..50).map(|at| enqueue(1, seq + at, message("refused", 20_000))).collect();
        assert!(matches!(store.commit(&batch), Err(CommitError::Full { .. })));
        // Whether the end of an entry fits or not, it is told truly.
        let gone = [done(1, seq - 1)];
        match store.commit(&gone) {
            Ok(()) => model.apply(&gone),
            Err(CommitError::Full { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        fs::remove_file(&other).unwrap();
        let batch: Vec<Change> =
            (0..10).map(|at| enqueue(1, seq + at, message("taken", 1000 * round as usize))).collect();
        store.commit(&batch).unwrap();
        model.apply(&batch);
        seq += 10;
    }
    drop(store);
    model.check(&opened(&folder).1);
}

/// Now the batch is first, now the other; whoever it is, nothing is half there.
#[test]
fn others_take_the_room_while_a_batch_is_written() {
    let mount = Mount::new("64m");
    let folder = mount.path().join("store");
    let (mut store, _) = opened(&folder);
    let mut model = Model::default();
    let first = [open(1, "c", 9), enqueue(1, 0, message("first", 100))];
    store.commit(&first).unwrap();
    model.apply(&first);
    for round in 0..12_u64 {
        let batch: Vec<Change> =
            (0..300).map(|at| enqueue(1, 1 + round * 300 + at, message("race", 40_000))).collect();
        let other = mount.path().join("other");
        let stop = AtomicBool::new(false);
        let result = std::thread::scope(|scope| {
            scope.spawn(|| take_room(&other, &stop));
            let result = store.commit(&batch);
            stop.store(true, Ordering::Relaxed);
            result
        });
        fs::remove_file(&other).unwrap();
        match result {
            Ok(()) => model.apply(&batch),
            Err(CommitError::Full { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        let gone: Vec<Change> = model.queue(1).into_iter().skip(1).map(|seq| done(1, seq)).collect();
        store.commit(&gone).unwrap();
        model.apply(&gone);
        // Nothing of a refused batch is there, and the store goes on.
        store.commit(&[open(1, "c", 9)]).unwrap();
    }
    drop(store);
    model.check(&opened(&folder).1);
}

/// Another program, that takes all the room while a batch is being written.
fn take_room(other: &Path, stop: &AtomicBool) {
    let block = vec![1; 1 << 20];
    let mut file = fs::File::create(other).unwrap();
    while !stop.load(Ordering::Relaxed) && file.write_all(&block).is_ok() {}
}

#[test]
fn a_start_on_a_full_disk_says_so() {
    let mount = Mount::new("1m");
    let _ = fs::write(mount.path().join("other"), vec![1; 2 << 20]);
    let error = opening(&mount.path().join("store")).unwrap_err().to_string();
    assert!(error.contains("store") && (error.contains("room") || error.contains("space")), "{error}");
    fs::remove_file(mount.path().join("other")).unwrap();
    let (mut store, _) = opened(&mount.path().join("store"));
    store.commit(&[done(1, 1)]).unwrap();
}

#[test]
fn a_file_system_that_became_read_only_breaks_the_store_with_its_path() {
    let mount = Mount::new("12m");
    let folder = mount.path().join("store");
    let (store, _) = opened(&folder);
    store.close().unwrap();
    mount.remount("ro");
    let error = opening(&folder).unwrap_err().to_string();
    assert!(error.contains(shown(&folder)) && error.contains("ead-only"), "{error}");
    mount.remount("rw");
    opened(&folder).0.close().unwrap();
}

#[test]
fn a_folder_that_was_removed_breaks_the_store_with_its_path() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("store");
    let (mut store, _) = opened(&folder);
    store.commit(&[open(1, "c", 1)]).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    for _ in 0..2 {
        let error = store.commit(&[open(2, "d", 1)]).unwrap_err();
        assert!(matches!(error, CommitError::Broken { .. }));
        assert!(error.to_string().contains(shown(&folder)), "{error}");
    }
}

#[test]
fn a_file_that_was_exchanged_breaks_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, _) = opened(folder.path());
    store.commit(&[open(1, "c", 1)]).unwrap();
    let file = folder.path().join("store.redb");
    fs::copy(&file, folder.path().join("copy")).unwrap();
    fs::rename(folder.path().join("copy"), &file).unwrap();
    assert!(matches!(store.commit(&[open(2, "d", 1)]), Err(CommitError::Broken { .. })));
}
