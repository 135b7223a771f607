//! What processes used: CPU time and resident memory, from `/proc`.

use std::path::PathBuf;

use thiserror::Error;

#[derive(Debug, Error)]
pub enum UsageError {
    #[error("process {pid} cannot be watched: {cause}")]
    Gone { pid: u32, cause: std::io::Error },
    #[error("{} does not look as the kernel writes it", path.display())]
    Unreadable { path: PathBuf },
}

/// CPU time and memory at one moment, summed over processes.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Usage {
    /// User and system time of all threads, in seconds.
    pub cpu_seconds: f64,
    pub rss_kib: u64,
}

impl Usage {
    /// Reads `pids`; their threads count, their children do not.
    pub fn of(pids: &[u32]) -> Result<Self, UsageError> {
        let mut sum = Self::default();
        for &pid in pids {
            let stat = read(pid, "stat")?;
            let status = read(pid, "status")?;
            let ticks = cpu_ticks(&stat.1).ok_or(UsageError::Unreadable { path: stat.0 })?;
            let rss = rss_kib(&status.1).ok_or(UsageError::Unreadable { path: status.0 })?;
            sum.cpu_seconds += ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
            sum.rss_kib += rss;
        }
        Ok(sum)
    }

    /// Of this process.
    pub fn own() -> Result<Self, UsageError> {
        Self::of(&[std::process::id()])
    }
}

fn read(pid: u32, name: &str) -> Result<(PathBuf, String), UsageError> {
    let path = PathBuf::from(format!("/proc/{pid}/{name}"));
    let text = std::fs::read_to_string(&path).map_err(|cause| UsageError::Gone { pid, cause })?;
    Ok((path, text))
}

/// Pure: utime + stime of `/proc/PID/stat`. Fields are counted after the last `)`, as a process name may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Pure: `VmRSS` of `/proc/PID/status`.
fn rss_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_fields_are_found_behind_any_process_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 700 55 9 9 20 0 3 0 12 1 1";
        assert_eq!(cpu_ticks(stat), Some(755));
        assert_eq!(cpu_ticks("42 (short) S 1"), None);
    }

    #[test]
    fn resident_memory_is_found() {
        assert_eq!(rss_kib("Name:\tx\nVmRSS:\t    1234 kB\nVmData:\t 9 kB\n"), Some(1234));
        assert_eq!(rss_kib("Name:\tzombie\n"), None);
    }

    #[test]
    fn own_usage_grows_and_a_missing_process_is_an_error() {
        let before = Usage::own().unwrap();
        assert!(before.rss_kib > 0);
        assert!(matches!(Usage::of(&[u32::MAX]), Err(UsageError::Gone { .. })));
    }
}
