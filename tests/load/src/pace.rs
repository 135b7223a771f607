//! Open-loop pacing: message `n` is due at a time fixed beforehand, whatever the server does.
//!
//! Latency is counted from the time a message was *due*, so a server that makes the sender wait cannot hide it
//! (coordinated omission).

use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

use crate::clock;

/// Pure: the due times of one of `senders` that together send `rate` messages a second, evenly spread.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    first: u64,
    interval: u64,
}

impl Schedule {
    /// The schedule of sender `index` of `senders`, beginning at `start` (nanoseconds).
    #[must_use]
    pub fn new(start: u64, rate: f64, index: usize, senders: usize) -> Self {
        let interval = senders as f64 * 1e9 / rate;
        let offset = interval * index as f64 / senders as f64;
        Self { first: start + offset as u64, interval: (interval as u64).max(1) }
    }

    /// When message `number` is due.
    #[must_use]
    pub fn due(&self, number: u64) -> u64 {
        self.first + self.interval * number
    }
}

/// Wakes its task at the due times. A descriptor of its own rather than the runtime's timer, which only knows milliseconds.
#[derive(Debug)]
pub struct Pacer {
    schedule: Schedule,
    timer: AsyncFd<OwnedFd>,
    armed: u64,
}

impl Pacer {
    /// Must be called inside a runtime.
    #[expect(
        deprecated,
        reason = "its doubt is about types that lie about their descriptor; `OwnedFd` cannot"
    )]
    pub fn new(schedule: Schedule) -> std::io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self { schedule, timer: AsyncFd::new(timer)?, armed: 0 })
    }

    /// The due time of message `number` once it is due; else the task is woken then.
    pub fn poll_due(&mut self, cx: &mut Context<'_>, number: u64) -> Poll<std::io::Result<u64>> {
        let due = self.schedule.due(number);
        while clock::now() < due {
            if self.armed != due {
                // Setting it anew also takes back its expiry, so the timer is never read: one system call a message.
                let once = Itimerspec { it_interval: clock::timespec(0), it_value: clock::timespec(due) };
                timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::ABSTIME, &once)?;
                self.armed = due;
            }
            ready!(self.timer.poll_read_ready(cx))?.clear_ready();
        }
        Poll::Ready(Ok(due))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_share_the_rate_evenly() {
        let due = |index, number| Schedule::new(1_000, 1_000.0, index, 4).due(number);
        assert_eq!(due(0, 0), 1_000);
        assert_eq!(due(1, 0), 1_001_000, "a millisecond after its neighbour");
        assert_eq!(due(0, 1), 4_001_000, "four milliseconds a sender");
        assert_eq!(due(3, 250), 1_003_001_000);
    }

    #[tokio::test]
    async fn the_pacer_wakes_at_the_due_times_and_not_before() {
        let start = clock::now() + 2_000_000;
        let mut pacer = Pacer::new(Schedule::new(start, 10_000.0, 0, 1)).unwrap();
        for number in 0..50 {
            let due = std::future::poll_fn(|cx| pacer.poll_due(cx, number)).await.unwrap();
            assert_eq!(due, start + number * 100_000);
            assert!(clock::now() >= due);
        }
    }
}
