//! Files that were cut, changed or exchanged: all of what was stored, or a refusal that says what to do.

use std::fs;
use std::path::Path;

use nsd_broker::store::disk::OpenError;

use super::{opened, opening};
use crate::stored::author::{self, Wish};
use crate::stored::model::Model;

/// A folder with a store in it, and what the store holds.
struct Sample {
    folder: tempfile::TempDir,
    model: Model,
    bytes: Vec<u8>,
}

/// With a clean end, or as a killed process leaves it.
fn sample(clean: bool) -> Sample {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, _) = opened(folder.path());
    let mut model = Model::default();
    let mut dice = fastrand::Rng::with_seed(3);
    for _ in 0..12 {
        let wishes: Vec<Wish> = (0..40).map(|_| (dice.u8(..), dice.u8(..), dice.u16(..))).collect();
        store.commit(&author::batch(&mut model, &wishes)).unwrap();
    }
    let file = folder.path().join("store.redb");
    let killed = fs::read(&file).unwrap();
    store.close().unwrap();
    let bytes = if clean { fs::read(&file).unwrap() } else { killed };
    Sample { folder, model, bytes }
}

impl Sample {
    /// Puts these bytes in the place of the file. `true`: all is there; `false`: it was refused with a way out.
    fn survives(&self, bytes: &[u8], what: &str) -> bool {
        let file = self.folder.path().join("store.redb");
        fs::write(&file, bytes).unwrap();
        match opening(self.folder.path()) {
            Ok((store, stored)) => {
                assert!(self.model.is(&stored), "{what}: something else was read");
                drop(store);
                true
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains(file.to_str().unwrap()) && text.contains("backup"), "{what}: {text}");
                // A second start must not find that all is well now.
                let again = opening(self.folder.path());
                assert!(again.is_err(), "{what}: refused with {text}, then opened");
                false
            }
        }
    }
}

#[test]
fn a_file_that_was_cut_is_refused_or_whole() {
    for clean in [true, false] {
        let sample = sample(clean);
        assert!(sample.survives(&sample.bytes, "whole"), "the sample itself");
        let length = sample.bytes.len();
        let mut cuts: Vec<usize> = (0..length).step_by(length / 40).collect();
        cuts.extend([1, 8, 9, 63, 64, 320, 4095, 4096, 4097, length - 4096, length - 1]);
        // A free page at the end is no loss.
        let survived = cuts.iter().filter(|cut| {
            sample.survives(&sample.bytes[..**cut], &format!("cut at {cut} of {length}, clean {clean}"))
        });
        let survived: Vec<_> = survived.collect();
        assert!(survived.len() < 5, "{survived:?} of {length} were enough");
    }
}

#[test]
fn bytes_that_were_changed_are_refused_or_harmless() {
    for clean in [true, false] {
        let sample = sample(clean);
        let mut dice = fastrand::Rng::with_seed(11);
        let mut refused = 0;
        // The head of the file, where each byte counts, and here and there.
        let places = (0..64)
            .chain((64..320).step_by(5))
            .chain((0..100).map(|_| dice.usize(320..sample.bytes.len())))
            .collect::<Vec<_>>();
        for place in places {
            let mut bytes = sample.bytes.clone();
            bytes[place] ^= 1 << (place % 8);
            refused += usize::from(!sample.survives(&bytes, &format!("byte {place}, clean {clean}")));
        }
        // A page of zeros, as a disk that forgot a write leaves it.
        for page in 0..sample.bytes.len() / 4096 {
            let mut bytes = sample.bytes.clone();
            bytes[page * 4096..][..4096].fill(0);
            refused += usize::from(!sample.survives(&bytes, &format!("page {page}, clean {clean}")));
        }
        assert!(refused > 50, "{refused} were refused: the damage hit nothing");
    }
}

#[test]
fn a_file_of_something_else_is_refused_and_left_alone() {
    for content in [
        &b""[..],
        b"x",
        b"redb",
        b"SQLite format 3\0",
        &[0; 100_000],
        b"redb\x1a\x0a\xa9\x0d\x0a and no more",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("store.redb");
        fs::write(&file, content).unwrap();
        let error = opening(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("store.redb") && error.contains("backup") && error.contains("anew"),
            "{error}"
        );
        assert_eq!(fs::read(&file).unwrap(), content, "it was changed");
    }
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("store.redb")).unwrap();
    assert!(opening(folder.path()).unwrap_err().to_string().contains("store.redb"));
    let file = folder.path().join("no folder");
    fs::write(&file, "x").unwrap();
    assert!(opening(&file).unwrap_err().to_string().contains("no folder"));
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(opened(folder.path()));
    let file = folder.path().join("store.redb");
    {
        let database = redb::Database::open(&file).unwrap();
        let transaction = database.begin_write().unwrap();
        let table = redb::TableDefinition::<&str, u64>::new("meta");
        transaction.open_table(table).unwrap().insert("format", 2).unwrap();
        transaction.commit().unwrap();
    }
    let error = opening(folder.path()).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 2, .. }), "{error}");
    assert!(error.to_string().contains("newer nsd-broker"), "{error}");
}

#[test]
fn a_file_that_is_older_than_what_was_acknowledged_is_refused() {
    let old = sample(true);
    let folder = old.folder.path();
    let (mut store, _) = opened(folder);
    store.commit(&[crate::stored::open(99, "late", 1)]).unwrap();
    store.close().unwrap();
    fs::write(folder.join("store.redb"), &old.bytes).unwrap();
    let error = opening(folder).unwrap_err();
    assert!(matches!(error, OpenError::WentBack { .. }), "{error}");
    // The operator says that it was meant.
    remove_mark(folder);
    old.model.check(&opened(folder).1);
}

#[test]
fn a_file_that_is_gone_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    drop(opened(folder.path()));
    fs::remove_file(folder.path().join("store.redb")).unwrap();
    let error = opening(folder.path()).unwrap_err();
    assert!(matches!(error, OpenError::Missing { .. }), "{error}");
    remove_mark(folder.path());
    Model::default().check(&opened(folder.path()).1);
}

fn remove_mark(folder: &Path) {
    fs::remove_file(folder.join("mark")).unwrap();
}
