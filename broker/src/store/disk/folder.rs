//! The folder of the store: who holds it, which files stand in it, how much room is left.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::OpenError;

const FILE: &str = "store.redb";
const UNFINISHED: &str = "store.redb.new";
const LOCK: &str = "lock";
const MARK: &str = "mark";

const OURS: u32 = 0o600;
const BLOCK: u64 = 512;
/// What every file of the engine begins with.
const MAGIC: &[u8] = b"redb\x1a\n\xa9\r\n";

#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    file: PathBuf,
    /// Which file it was when it was opened.
    identity: Option<(u64, u64)>,
    /// The number of the last batch that was acknowledged, twice. It is not flushed: it outlives the process, and the
    /// machine most of the time.
    mark: File,
    _lock: File,
}

impl Folder {
    /// Makes the folder where it is missing and takes it for this process alone.
    pub(super) fn take(path: &Path) -> Result<Self, OpenError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| OpenError::Io { path, what: error.to_string() }
        };
        if !path.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path))?;
            path.parent().map_or(Ok(()), sync_folder).map_err(at(path))?;
        }
        let file = path.join(LOCK);
        let mut lock = open_ours(&file).map_err(at(&file))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = (&lock).take(20).read_to_string(&mut holder);
                return Err(OpenError::InUse { path: path.to_owned(), holder: holder.trim().to_owned() });
            }
            Err(fs::TryLockError::Error(error)) => return Err(at(&file)(error)),
        }
        let named = lock.set_len(0).and_then(|()| lock.rewind());
        // The name only helps who is refused: a full disk must not keep the store shut.
        let _ = named.and_then(|()| writeln!(lock, "{}", std::process::id()));
        let mark = path.join(MARK);
        let mark = open_ours(&mark).map_err(at(&mark))?;
        let file = path.join(FILE);
        Ok(Self { path: path.to_owned(), file, identity: None, mark, _lock: lock })
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Whether there is a file to open. One that was never finished is not; one that is no store is refused.
    pub(super) fn has_file(&self) -> Result<bool, OpenError> {
        let mut head = Vec::new();
        let read =
            File::open(&self.file).and_then(|file| file.take(MAGIC.len() as u64).read_to_end(&mut head));
        match read {
            Ok(_) if head == MAGIC => Ok(true),
            Ok(_) => Err(OpenError::Foreign { file: self.file.clone() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => match self.marked() {
                None => Ok(false),
                Some(_) => Err(OpenError::Missing { file: self.file.clone(), mark: self.path.join(MARK) }),
            },
            Err(error) => Err(OpenError::Io { path: self.file.clone(), what: error.to_string() }),
        }
    }

    /// An empty file apart from the real one: a crash before [`Self::finish`] leaves nothing that counts.
    pub(super) fn begin(&self) -> io::Result<PathBuf> {
        let unfinished = self.path.join(UNFINISHED);
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => open_ours(&unfinished)?,
        };
        Ok(unfinished)
    }

    pub(super) fn finish(&self, unfinished: &Path) -> io::Result<()> {
        fs::rename(unfinished, &self.file)?;
        sync_folder(&self.path)
    }

    /// Remembers which file is ours, and closes it to others.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        let metadata = fs::metadata(&self.file)?;
        if metadata.mode() & 0o777 != OURS {
            fs::set_permissions(&self.file, fs::Permissions::from_mode(OURS))?;
        }
        self.identity = Some((metadata.dev(), metadata.ino()));
        Ok(())
    }

    /// The bytes on the disk that the file has, if it is still the one that was opened: a file that was removed takes
    /// everything that is written and keeps nothing.
    pub(super) fn allocated(&self) -> Result<u64, String> {
        let metadata = fs::metadata(&self.file).map_err(|error| error.to_string())?;
        if self.identity != Some((metadata.dev(), metadata.ino())) {
            return Err("another file stands in its place".to_owned());
        }
        Ok(metadata.blocks() * BLOCK)
    }

    /// The bytes that this disk still has for us.
    pub(super) fn free(&self) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.path)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    pub(super) fn set_mark(&self, batch: u64) {
        let [number, inverse] = [batch, !batch].map(u64::to_be_bytes);
        // One that cannot be written stays lower, and a lower one refuses nothing.
        let _ = self.mark.write_all_at(&[number, inverse].concat(), 0);
    }

    pub(super) fn marked(&self) -> Option<u64> {
        let mut bytes = [0; 16];
        self.mark.read_exact_at(&mut bytes, 0).ok()?;
        let (number, inverse) = bytes.split_first_chunk()?;
        let number = u64::from_be_bytes(*number);
        (inverse == (!number).to_be_bytes()).then_some(number)
    }

    pub(super) fn mark(&self) -> PathBuf {
        self.path.join(MARK)
    }
}

fn open_ours(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(OURS).open(path)
}

/// A name is on the disk once its folder is.
fn sync_folder(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path)?.sync_all()
}
