//! Files whose content is in use: read at the start, and again whenever they change. What cannot be read or understood
//! changes nothing: the old content stays, and the log says why.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use nsd_edge::drain::Watch;
use nsd_edge::secret_file::{self, Readers};
use nsd_edge::watch::FileWatch;
use tracing::{info, warn};
use zeroize::Zeroizing;

/// A file larger than this is something else.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

type Understand<T> = dyn Fn(&[PathBuf]) -> Result<T, Vec<String>> + Send + Sync;

pub struct LiveFile<T> {
    paths: Vec<PathBuf>,
    understand: Box<Understand<T>>,
    current: Arc<ArcSwap<T>>,
}

impl<T: Send + Sync + 'static> LiveFile<T> {
    /// `understand` reads the files; its problems name their places, and hold nothing secret.
    pub fn load(
        paths: Vec<PathBuf>,
        understand: impl Fn(&[PathBuf]) -> Result<T, Vec<String>> + Send + Sync + 'static,
    ) -> Result<Self, Vec<String>> {
        let current = Arc::new(ArcSwap::from_pointee(understand(&paths)?));
        Ok(Self { paths, understand: Box::new(understand), current })
    }

    /// The content of the moment.
    pub fn current(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// For who asks often, and always wants the content of the moment.
    pub fn shared(&self) -> Arc<ArcSwap<T>> {
        Arc::clone(&self.current)
    }

    /// Reads again whenever the files change, until the drain begins.
    pub async fn follow(self: Arc<Self>, mut end: Watch) {
        let mut files = FileWatch::new(&self.paths);
        loop {
            // At once, too: what changed between loading and watching would be missed.
            let this = Arc::clone(&self);
            let _ = tokio::task::spawn_blocking(move || this.reload()).await;
            tokio::select! {
                () = files.changed() => {}
                () = end.draining() => return,
            }
        }
    }

    fn reload(&self) {
        match (self.understand)(&self.paths) {
            Ok(content) => {
                self.current.store(Arc::new(content));
                info!(files = ?self.paths, "read");
            }
            Err(problems) => {
                for problem in problems.iter().take(10) {
                    warn!(problem, "file not taken, its old content stays in use");
                }
            }
        }
    }
}

impl<T> fmt::Debug for LiveFile<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveFile").field("paths", &self.paths).finish_non_exhaustive()
    }
}

/// A file's bytes; the problem names it.
pub fn bytes(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    secret_file::read(path, MOST_BYTES, Readers::Any).map_err(|error| format!("{}: {error}", path.display()))
}

/// A file of lines, understood by `parse`; each problem names file and line.
pub fn lines<T, P: fmt::Display>(
    path: &Path,
    parse: impl Fn(&str) -> Result<T, Vec<P>>,
) -> Result<T, Vec<String>> {
    let content = bytes(path).map_err(|problem| vec![problem])?;
    let text = std::str::from_utf8(&content).map_err(|_| vec![format!("{}: no UTF-8", path.display())])?;
    parse(text)
        .map_err(|problems| problems.iter().map(|problem| format!("{}:{problem}", path.display())).collect())
}
