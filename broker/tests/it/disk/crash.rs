//! `kill -9` at any moment.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nsd_broker::store::change::Change;

use super::opened;
use crate::stored::author::{self, Wish};
use crate::stored::model::Model;

const FOLDER: &str = "NSD_TEST_DISK_FOLDER";
const FROM: &str = "NSD_TEST_DISK_FROM";
const ROUNDS: usize = 40;
const LONGEST: Duration = Duration::from_secs(15);

/// Each batch follows from its number and from those before it.
fn batch(model: &mut Model, number: u64) -> Vec<Change> {
    let mut dice = fastrand::Rng::with_seed(number);
    let wishes: Vec<Wish> =
        (0..dice.usize(1..60)).map(|_| (dice.u8(..), dice.u8(..), dice.u16(..))).collect();
    author::batch(model, &wishes)
}

/// Not a test of its own: the process that is killed. It stores batch after batch and tells each.
#[test]
fn the_process_that_is_killed() {
    let (Ok(folder), Ok(from)) = (std::env::var(FOLDER), std::env::var(FROM)) else { return };
    let mut model = Model::default();
    let from: u64 = from.parse().unwrap();
    for number in 0..from {
        batch(&mut model, number);
    }
    let (mut store, _) = opened(Path::new(&folder));
    let mut out = std::io::stdout();
    for number in from.. {
        store.commit(&batch(&mut model, number)).unwrap();
        writeln!(out, "stored {number}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn a_killed_process_loses_nothing_that_it_told_and_leaves_no_half_batch() {
    let folder = tempfile::tempdir().unwrap();
    let mut dice = fastrand::Rng::with_seed(7);
    let (mut model, mut next) = (Model::default(), 0);
    let started = Instant::now();
    let mut rounds = 0;
    // However slow: fewer would tell nothing.
    while rounds < 5 || next <= 20 || rounds < ROUNDS && started.elapsed() < LONGEST {
        let told = run_and_kill(folder.path(), next, Duration::from_micros(dice.u64(0..120_000)));
        for number in next..told {
            batch(&mut model, number);
        }
        let (store, stored) = opened(folder.path());
        next = told;
        // The last one may have been stored before it could be told.
        if !model.is(&stored) {
            batch(&mut model, told);
            next += 1;
            model.check(&stored);
        }
        // Sometimes the one that looks is killed, too: then there is no clean end in between.
        if dice.bool() {
            store.close().unwrap();
        }
        rounds += 1;
    }
}

/// Returns the number after the last batch that the process told.
fn run_and_kill(folder: &Path, from: u64, after: Duration) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "disk::crash::the_process_that_is_killed", "--nocapture"])
        .env(FOLDER, folder)
        .env(FROM, from.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let number =
        |line: String| line.rsplit_once("stored ").and_then(|(_, number)| number.trim().parse::<u64>().ok());
    // It runs from the first batch on; a moment of any length later it dies.
    let first = lines.by_ref().find_map(number).expect("the process stores one batch at least");
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
    lines.filter_map(number).last().unwrap_or(first) + 1
}

/// The very first start is cut off at any of its steps.
#[test]
fn a_start_that_was_cut_off_does_not_spoil_the_next_one() {
    for cut in [0, 1, 9, 4096, 50_000] {
        let folder = tempfile::tempdir().unwrap();
        drop(opened(folder.path()));
        let file = folder.path().join("store.redb");
        let whole = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        std::fs::remove_file(folder.path().join("mark")).unwrap();
        std::fs::write(folder.path().join("store.redb.new"), &whole[..cut]).unwrap();
        let (store, stored) = opened(folder.path());
        Model::default().check(&stored);
        store.close().unwrap();
    }
    // Killed while the files were being made.
    for microseconds in (0..4000).step_by(250) {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "disk::crash::the_process_that_is_killed", "--nocapture"])
            .env(FOLDER, folder.path())
            .env(FROM, "0")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while std::fs::read_dir(folder.path()).unwrap().next().is_none() {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_micros(microseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        opened(folder.path()).0.close().unwrap();
    }
}
