//! Every limit of the balancer with its reason, and what happens at it.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::gate::rates::Rate;
use crate::pace::Pace;

/// A larger settings file is something else: refused. Thousands of servers fit.
pub(crate) const SETTINGS_FILE: u64 = 4 * 1024 * 1024;
/// Times in settings; anything else is a slip of the unit.
pub(crate) const DURATIONS: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(24 * 3600);
/// To connect to a server on the same network; then another one is tried.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// In the queue of a backend whose servers are all full; below what clients wait for a CONNACK.
pub(crate) const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between look-ups of a server's name.
pub(crate) const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);
/// However often a server cannot be reached, its name is not looked up more often.
pub(crate) const LOOKUP_PAUSE: Duration = Duration::from_secs(1);
/// For the whole of a look-up; then the last address stays.
pub(crate) const LOOKUP: Duration = Duration::from_secs(5);
/// A client that waits in line, and has sent something that nobody reads yet, is looked at this often, whether it is there.
pub(crate) const LEFT_IN_LINE: Duration = Duration::from_millis(500);
/// Servers tried for one client; then it is closed, for it would have given up itself.
pub(crate) const CONNECT_ATTEMPTS: usize = 4;
/// After SIGTERM, below the 10 s after which container engines kill.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(5);
/// TLS handshakes of a frontend that are computed before everything else is looked at again: in a storm, established
/// sessions wait for so many, each about a third of a millisecond. More wait in order, their deadline running. Memory is
/// bounded by the connections that there may be, and by the deadline.
pub(crate) const HANDSHAKES: usize = 2;
pub(crate) const MOST_HANDSHAKES: u64 = 1_000_000;
/// Less than this a slow radio link cannot do; more is a slip of the unit.
pub(crate) const HANDSHAKE_DEADLINES: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(120);
/// A client that was refused, here or by its server, may take so long, and send so much, until it has read why: to close
/// with unread bytes would throw the answer away.
pub(crate) const FAREWELL: Duration = Duration::from_secs(1);
pub(crate) const FAREWELL_BYTES: usize = 1024 * 1024;
/// A session that is told to leave may take so long to finish its packets and to say goodbye; then it is cut. Below what
/// is left of 10 s after [`STOP_GRACE`].
pub(crate) const LEAVE: Duration = Duration::from_secs(3);
/// Of that, a server that was told DISCONNECT has so long to answer what it has got, and to close.
pub(crate) const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// When a client comes again, servers that share sessions have so long to close its older session themselves.
pub(crate) const TAKEOVER: Duration = Duration::from_secs(1);
/// Sessions of a server that is down, closed a second unless the settings say otherwise: each of their clients comes back
/// with a CONNECT, and perhaps a handshake.
pub(crate) const CLOSE_RATE: Pace = Pace::per_second(1000);
/// Sessions that an operator moves, where no rate is told.
pub(crate) const MOVE_RATE: Pace = Pace::per_second(10);
/// After the last session of a drain or rebalance was closed, its clients are followed for so long; who comes later is
/// reported as not returned.
pub(crate) const FOLLOW: Duration = Duration::from_secs(600);
/// Drains and rebalances that are remembered, beside those under way.
pub(crate) const MOVES: usize = 16;
/// A rebalance begins by itself so long after a server came, ...
pub(crate) const REBALANCE_AFTER: Duration = Duration::from_secs(30);
/// ... where a server has more than its fair share by so many per cent; ...
pub(crate) const REBALANCE_THRESHOLD: u32 = 20;
/// ... and it is looked so often.
pub(crate) const REBALANCE_GLANCE: Duration = Duration::from_millis(500);
/// How often it is looked for clients that are silent. A session is looked at once in as many turns as there are shards of
/// the registry, so about once in two seconds.
pub(crate) const LOOK_AFTER: Duration = Duration::from_millis(125);
/// A longer client identifier or user name is kept, shown and logged up to here. Compared is all of it.
pub(crate) const NAME: usize = 128;
/// Read at most of a server's answer to a CONNECT before it is passed on.
pub(crate) const ANSWER: u64 = 4096;
/// Once one side has ended, the other may stay this long without sending: far longer than any answer takes.
pub(crate) const HALF_CLOSED_IDLE: Duration = Duration::from_secs(60);
/// A session that its server breaks off so soon after the client came brings the server's next check forward. It takes no server out: what
/// clients send may be why.
pub(crate) const YOUNG: Duration = Duration::from_secs(1);
/// Connections to the dashboard at once, and from one source: a browser makes up to six. More from one source are closed,
/// others wait in the kernel's queue.
pub(crate) const DASHBOARD_CONNECTIONS: usize = 64;
pub(crate) const DASHBOARD_CONNECTIONS_BY_SOURCE: u32 = 24;
/// Passwords that are tried, wrong or right; more are refused unseen. People mistype a few times; nobody guesses at this rate.
pub(crate) const LOGINS_BY_SOURCE: Rate = Rate { per_minute: 6, burst: 6 };
pub(crate) const LOGINS_IN_ALL: Rate = Rate { per_minute: 60, burst: 30 };
/// Lines in the log about logins that were refused, of each kind; the others are counted. About 3 MB a day at most.
pub(crate) const REFUSALS_BY_SOURCE: Rate = Rate { per_minute: 1, burst: 1 };
pub(crate) const REFUSALS_IN_ALL: Rate = Rate { per_minute: 20, burst: 20 };
/// Sets of eight sources whose tries are counted: 16 KiB.
pub(crate) const LOGIN_SOURCES: usize = 128;
/// A login that nobody uses, and any login.
pub(crate) const LOGIN_IDLE: Duration = Duration::from_secs(30 * 60);
pub(crate) const LOGIN_LIFETIME: Duration = Duration::from_secs(12 * 3600);
pub(crate) const LOGIN_TIMES: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
/// Open files kept free of sessions: listeners, checks, the admin socket, the dashboard, logs, certificates.
/// Where there are few, half of them.
const RESERVED_FILES: u64 = 256;
/// Where one process takes over from another: for an answer that takes no work. Then the other one hangs.
pub(crate) const ANSWER_OF_A_PROCESS: Duration = Duration::from_secs(10);
/// And until the new one has read its settings and certificates and made its first checks.
pub(crate) const PREPARATION: Duration = Duration::from_secs(60);
/// Sessions that cannot be handed over leave so fast: each of their clients comes back with a handshake, about a millisecond
/// of a core.
pub(crate) const LEAVE_RATE: Pace = Pace::per_second(100);
/// And all of them until then; 60 000 at that rate.
pub(crate) const LEAVE_DEADLINE: Duration = Duration::from_secs(600);
/// Clients wait this long at the start for the first checks to tell which servers there are.
pub(crate) const FIRST_CHECKS: Duration = Duration::from_secs(2);

/// Sessions at once: each needs two files. At the limit nothing is accepted, and clients wait in the kernel's queue.
pub(crate) fn sessions(open_files: u64) -> usize {
    let usable = open_files.saturating_sub(RESERVED_FILES.min(open_files / 2)) / 2;
    usize::try_from(usable).unwrap_or(usize::MAX).clamp(1, tokio::sync::Semaphore::MAX_PERMITS)
}
