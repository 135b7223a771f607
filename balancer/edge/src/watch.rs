//! "These files changed": notifications as a hint, a fingerprint as the truth, polling where no notification comes
//! (network file systems, bind mounts whose directory was replaced). Survives a file being replaced by rename, removed
//! and written anew, and bursts of writes, which are reported once they have settled.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::debug;

/// Without any notification the files are looked at this often.
const POLL: Duration = Duration::from_secs(5);
/// A change is reported after this much quiet, so that a file being written is not read half.
const SETTLE: Duration = Duration::from_millis(100);

/// Watches files, and directories with the files directly in them.
#[derive(Debug)]
pub struct FileWatch {
    paths: Vec<PathBuf>,
    seen: Vec<Fingerprint>,
    hints: mpsc::Receiver<()>,
    _watcher: Option<RecommendedWatcher>,
}

/// What tells one content from another without reading it. A missing file has one, too.
type Fingerprint = (PathBuf, Option<(u64, u64, u64, i64, i64, i64, i64)>);

impl FileWatch {
    /// Changes after this call are reported. Files that do not exist yet are waited for.
    pub fn new(paths: &[PathBuf]) -> Self {
        let (hint, hints) = mpsc::channel(1);
        let watched = paths.to_vec();
        let on_event = move |event: notify::Result<Event>| {
            if event.is_ok_and(|event| !concerns(&event, &watched)) {
                return;
            }
            // A full channel is fine: one waiting hint already says "look".
            let _ = hint.try_send(());
        };
        let watcher = notify::recommended_watcher(on_event).ok().map(|mut watcher| {
            for directory in directories(paths) {
                if let Err(error) = watcher.watch(&directory, RecursiveMode::NonRecursive) {
                    debug!(directory = %directory.display(), %error, "no notifications, polling instead");
                }
            }
            watcher
        });
        Self { paths: paths.to_vec(), seen: fingerprints(paths), hints, _watcher: watcher }
    }

    /// Resolves when the files differ from when they were last reported. Cancel safe.
    pub async fn changed(&mut self) {
        loop {
            self.hint().await;
            sleep(SETTLE).await;
            let mut now = fingerprints(&self.paths);
            if now == self.seen {
                continue;
            }
            now = self.settled(now).await;
            if now != self.seen {
                self.seen = now;
                return;
            }
        }
    }

    async fn hint(&mut self) {
        // A closed channel: no watcher could be made, so only the clock is left.
        if let Ok(None) = timeout(POLL, self.hints.recv()).await {
            sleep(POLL).await;
        }
    }

    async fn settled(&mut self, mut last: Vec<Fingerprint>) -> Vec<Fingerprint> {
        loop {
            sleep(SETTLE).await;
            let now = fingerprints(&self.paths);
            if now == last {
                return now;
            }
            last = now;
        }
    }
}

/// Directories are watched for the files in them, so most events may be about others: a log written beside the settings.
fn concerns(event: &Event, watched: &[PathBuf]) -> bool {
    let about = |path: &PathBuf| {
        let same = |wanted: &PathBuf| path.file_name() == wanted.file_name() || path.parent() == Some(wanted);
        watched.iter().any(same)
    };
    !matches!(event.kind, EventKind::Access(_)) && (event.paths.is_empty() || event.paths.iter().any(about))
}

/// A replaced file is a new file: its directory is what must be watched.
fn directories(paths: &[PathBuf]) -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> =
        paths.iter().map(|path| if path.is_dir() { path.clone() } else { parent(path) }).collect();
    directories.sort_unstable();
    directories.dedup();
    directories
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn fingerprints(paths: &[PathBuf]) -> Vec<Fingerprint> {
    let mut all = Vec::new();
    for path in paths {
        all.push(fingerprint(path.clone()));
        let Ok(entries) = std::fs::read_dir(path) else { continue };
        let mut within: Vec<_> = entries.flatten().map(|entry| fingerprint(entry.path())).collect();
        within.sort_unstable();
        all.append(&mut within);
    }
    all
}

fn fingerprint(path: PathBuf) -> Fingerprint {
    let of = |data: Metadata| {
        (
            data.dev(),
            data.ino(),
            data.size(),
            data.mtime(),
            data.mtime_nsec(),
            data.ctime(),
            data.ctime_nsec(),
        )
    };
    let found = std::fs::metadata(&path).ok().map(of);
    (path, found)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn writes_renames_and_removals_are_each_seen_once() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("watched");
        fs::write(&file, "1").unwrap();
        let mut watch = FileWatch::new(std::slice::from_ref(&file));

        fs::write(&file, "22").unwrap();
        timeout(SOON, watch.changed()).await.expect("a write");

        let fresh = directory.path().join("fresh");
        fs::write(&fresh, "333").unwrap();
        fs::rename(&fresh, &file).unwrap();
        timeout(SOON, watch.changed()).await.expect("a rename over it");

        fs::remove_file(&file).unwrap();
        timeout(SOON, watch.changed()).await.expect("a removal");
        fs::write(&file, "4444").unwrap();
        timeout(SOON, watch.changed()).await.expect("its return");

        fs::write(directory.path().join("other"), "").unwrap();
        assert!(
            timeout(Duration::from_millis(400), watch.changed()).await.is_err(),
            "another file is no change"
        );
    }

    #[test]
    fn events_about_other_files_and_reading_do_not_count() {
        let watched = [PathBuf::from("/etc/nsd/balancer.toml"), PathBuf::from("/certs")];
        let event = |kind, path: &str| Event::new(kind).add_path(PathBuf::from(path));
        let written = EventKind::Modify(notify::event::ModifyKind::Any);
        let read = EventKind::Access(notify::event::AccessKind::Any);
        assert!(concerns(&event(written, "/etc/nsd/balancer.toml"), &watched));
        assert!(concerns(&event(written, "/certs/new.pem"), &watched));
        assert!(concerns(&Event::new(EventKind::Other), &watched), "the kernel lost count: look");
        assert!(!concerns(&event(written, "/etc/nsd/balancer.log"), &watched));
        assert!(!concerns(&event(read, "/etc/nsd/balancer.toml"), &watched));
    }

    #[tokio::test]
    async fn a_new_file_in_a_watched_directory_is_a_change() {
        let directory = tempfile::tempdir().unwrap();
        let mut watch = FileWatch::new(&[directory.path().to_owned()]);
        fs::write(directory.path().join("new.pem"), "1").unwrap();
        timeout(SOON, watch.changed()).await.expect("a new file");
    }
}
