//! One deploy of a system at a time: an exclusive `flock` on each machine.
//!
//! On a machine reached by SSH the lock is held by a shell whose input is our channel: when `nsd` is killed the channel
//! dies, the shell ends and the lock is free. What is written to the shell at the end goes into the machine's audit log.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use uuid::Uuid;

use crate::failure::{Failure, Kind};
use crate::host::{Host, Hosts, RemoteLock};
use crate::system::System;

/// Held until dropped, or until [`Lock::finish`].
pub struct Lock {
    held: Vec<Held>,
}

enum Held {
    Here { file: File, log: PathBuf },
    There(Box<RemoteLock>),
}

/// Locks every machine that was reached, or none. `who` is shown to whoever finds the lock taken.
pub async fn lock(hosts: &Hosts, system: &System, who: &str) -> Result<Lock, Failure> {
    let note = format!("{who}, since {}", jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%SZ"));
    // The first machine alone decides between two that start at the same moment; the others follow side by side.
    let mut machines = hosts.reached();
    let mut held = Vec::new();
    if let Some(first) = machines.next() {
        held.push(lock_one(first, system.id, &note).await?);
    }
    for one in join_all(machines.map(|host| lock_one(host, system.id, &note))).await {
        held.push(one?);
    }
    Ok(Lock { held })
}

impl Lock {
    /// Writes one line into the audit log of each machine and frees the locks. The deploy itself is over by now, so
    /// what fails here is returned only to be told.
    pub async fn finish(self, line: &str) -> Result<(), Failure> {
        let line = format!(
            "{} {}\n",
            jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ"),
            line.replace('\n', " ")
        );
        let ends = self.held.into_iter().map(|held| held.finish(&line));
        join_all(ends).await.into_iter().collect()
    }
}

impl Held {
    async fn finish(self, line: &str) -> Result<(), Failure> {
        match self {
            Self::There(lock) => lock.finish(line).await,
            Self::Here { file, log } => {
                let written = append(&log, line);
                let cleared = file.set_len(0);
                drop(file);
                written.and(cleared).map_err(|error| {
                    Failure::error(format!("cannot write the audit log {}", log.display())).because(&error)
                })
            }
        }
    }
}

async fn lock_one(host: &Host, id: Uuid, note: &str) -> Result<Held, Failure> {
    match &host.ssh {
        Some(link) => Ok(Held::There(Box::new(link.lock(id, note).await?))),
        None => lock_here(&host.name.to_string(), id, note),
    }
}

fn lock_here(machine: &str, id: Uuid, note: &str) -> Result<Held, Failure> {
    let path = lock_folder().join(format!("nsd-{id}.lock"));
    let cannot =
        |error: &std::io::Error| Failure::error(format!("cannot lock {}", path.display())).because(error);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| cannot(&error))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            // Who holds it is a courtesy; that it is held is certain.
            let _ = file.read_to_string(&mut holder);
            return Err(locked(machine, &holder));
        }
        Err(errno) => return Err(cannot(&errno.into())),
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(note.as_bytes())
    };
    write(&mut file).map_err(|error| cannot(&error))?;
    Ok(Held::Here { file, log: log_path() })
}

/// The failure that names who holds the lock.
pub(crate) fn locked(machine: &str, holder: &str) -> Failure {
    let holder = holder.trim();
    let holder = if holder.is_empty() { "somebody who left no name" } else { holder };
    Failure::new(Kind::Locked, format!("{machine} is locked by {holder}"))
        .hint("wait until that deploy is over; a killed `nsd` frees its lock by itself")
}

fn lock_folder() -> PathBuf {
    let shared = Path::new("/run/lock");
    if writable(shared) { shared.to_owned() } else { std::env::temp_dir() }
}

fn log_path() -> PathBuf {
    if writable(Path::new("/var/log")) {
        return PathBuf::from("/var/log/nsd.log");
    }
    std::env::home_dir().unwrap_or_else(std::env::temp_dir).join(".nsd.log")
}

fn writable(folder: &Path) -> bool {
    rustix::fs::access(folder, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok()
}

fn append(log: &Path, line: &str) -> std::io::Result<()> {
    let mut file = File::options().append(true).create(true).open(log)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(line.as_bytes())
}
