//! The wall clock may be set at any time, forward and back. What waits, counts and limits must not look at it: it is for
//! certificates, which are valid from a date to a date, and nothing else.

use std::path::{Path, PathBuf};

/// Files that may ask what time people have.
const CALENDARS: [&str; 2] = ["edge/src/tls.rs", "edge/src/tls/"];
const WALL_CLOCKS: [&str; 5] = ["SystemTime", "UNIX_EPOCH", "UnixTime::now", "jiff::", "CLOCK_REALTIME"];

#[test]
fn only_certificates_look_at_the_wall_clock() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files: Vec<PathBuf> =
        ["src", "edge/src"].iter().flat_map(|top| rust_files(&root.join(top))).collect();
    assert!(files.len() > 40, "the sources are elsewhere");
    let mut wrong = Vec::new();
    for file in files {
        let name = file.strip_prefix(root).unwrap().display().to_string();
        let text = std::fs::read_to_string(&file).unwrap();
        let looks = WALL_CLOCKS.iter().find(|clock| text.contains(**clock));
        if let Some(clock) = looks
            && !CALENDARS.iter().any(|calendar| name.starts_with(calendar))
        {
            wrong.push(format!("{name} names {clock}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}
