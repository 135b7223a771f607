//! What the kernel says about this process.

/// Bytes, files and time; zero where the kernel does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Process {
    pub resident: u64,
    /// The most that was ever resident.
    pub resident_peak: u64,
    /// Anonymous memory: the heap and the stacks.
    pub anonymous: u64,
    pub open_files: u64,
    pub threads: u64,
    pub cpu_milliseconds: u64,
}

impl Process {
    pub fn now() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            open_files: open_files(),
            cpu_milliseconds: cpu(&read("/proc/self/stat")),
            ..memory(&read("/proc/self/status"))
        }
    }
}

/// A kernel since 6.2 has the count at hand; an older one says 0, and they are looked through one by one.
fn open_files() -> u64 {
    const FILES: &str = "/proc/self/fd";
    match std::fs::metadata(FILES).map_or(0, |metadata| metadata.len()) {
        0 => counted(FILES),
        files => files,
    }
}

/// Without the one that is open to count.
fn counted(directory: &str) -> u64 {
    let files = std::fs::read_dir(directory).map_or(0, Iterator::count);
    u64::try_from(files).unwrap_or(u64::MAX).saturating_sub(1)
}

/// Pure: the lines of `/proc/self/status`.
fn memory(status: &str) -> Process {
    let number = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    Process {
        resident: number("VmRSS") * 1024,
        resident_peak: number("VmHWM") * 1024,
        anonymous: number("RssAnon") * 1024,
        threads: number("Threads"),
        ..Process::default()
    }
}

/// Pure: user and system time of `/proc/self/stat`, in its unit of a hundredth of a second. The program's name, in
/// brackets, may hold anything.
fn cpu(stat: &str) -> u64 {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>()
        * 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words() {
        let read = memory("Name:\tx\nVmHWM:\t  200 kB\nVmRSS:\t   100 kB\nRssAnon:\t 50 kB\nThreads:\t3\n");
        assert_eq!(
            (read.resident, read.resident_peak, read.anonymous, read.threads),
            (102_400, 204_800, 51_200, 3)
        );
        assert_eq!(memory(""), Process::default());
        assert_eq!(cpu("7 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 25 0 0"), 1750);
        assert_eq!(cpu("nothing"), 0);
    }

    #[test]
    fn this_very_process() {
        let now = Process::now();
        let held: Vec<_> = (0..100).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let more = Process::now();
        assert!(more.open_files >= 100 && counted("/proc/self/fd") >= 100, "{more:?}");
        drop(held);
        assert!(now.resident > 0 && now.resident_peak >= now.resident && now.open_files > 0, "{now:?}");
    }
}
