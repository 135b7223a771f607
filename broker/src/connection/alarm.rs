//! One timer for all clients of a thread. A timer of its own would be a tenth of an idle client's memory, and what
//! clients wait for is seconds away and rarely comes: a list that is gone through now and then does.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The list is not gone through more often than this, so an alarm may be late by as much.
const PAUSE: Duration = Duration::from_millis(100);
/// Milliseconds that never come.
const NEVER: u64 = u64::MAX;

/// The alarms of one thread.
#[derive(Debug)]
pub struct Alarms {
    began: Instant,
    list: Mutex<List>,
    /// An alarm was set that is due before all others.
    sooner: Notify,
}

#[derive(Debug)]
struct List {
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// Nothing is due before, in milliseconds since the beginning.
    soonest: u64,
}

#[derive(Debug)]
struct Entry {
    at: u64,
    /// `None`: free.
    waker: Option<Waker>,
}

/// The alarm of one task; dropping it gives its place back.
#[derive(Debug)]
pub struct Alarm {
    alarms: Arc<Alarms>,
    place: Option<u32>,
    at: u64,
}

impl Default for Alarms {
    fn default() -> Self {
        let list = List { entries: Vec::new(), free: Vec::new(), soonest: NEVER };
        Self { began: Instant::now(), list: Mutex::new(list), sooner: Notify::new() }
    }
}

impl Alarms {
    /// Wakes whoever is due, for as long as it is polled.
    pub async fn ring(&self) {
        loop {
            let soonest = self.list.lock().ring(self.millis(Instant::now()));
            let sooner = self.sooner.notified();
            if soonest == NEVER {
                sooner.await;
            } else {
                let next = self.began + Duration::from_millis(soonest);
                tokio::select! {
                    () = tokio::time::sleep_until(next.into()) => {}
                    () = sooner => {}
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Rounded up: an alarm does not come too early.
    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.began) + Duration::from_nanos(999_999);
        u64::try_from(since.as_millis()).unwrap_or(NEVER)
    }
}

impl List {
    /// Wakes and unsets what is due. Returns what is due next.
    fn ring(&mut self, now: u64) -> u64 {
        self.soonest = NEVER;
        for entry in &mut self.entries {
            if entry.at <= now {
                entry.at = NEVER;
                entry.waker.iter().for_each(Waker::wake_by_ref);
            }
            self.soonest = self.soonest.min(entry.at);
        }
        self.soonest
    }

    fn take_place(&mut self, waker: Waker) -> u32 {
        let entry = Entry { at: NEVER, waker: Some(waker) };
        if let Some(place) = self.free.pop() {
            self.entries[place as usize] = entry;
            return place;
        }
        self.entries.push(entry);
        u32::try_from(self.entries.len() - 1).expect("a thread has fewer than four billion clients")
    }
}

impl Alarm {
    pub fn new(alarms: Arc<Alarms>) -> Self {
        Self { alarms, place: None, at: NEVER }
    }

    /// Has the task woken at `at`, unless it will be woken before: whoever is woken too early sets its alarm again. Always
    /// the same task.
    pub fn set(&mut self, at: Instant, now: Instant, context: &Context<'_>) {
        let at = self.alarms.millis(at);
        if self.at <= at && self.at > self.alarms.millis(now) {
            return;
        }
        self.at = at;
        let mut list = self.alarms.list.lock();
        let place = match self.place {
            Some(place) => place,
            None => *self.place.insert(list.take_place(context.waker().clone())),
        };
        list.entries[place as usize].at = at;
        if at < list.soonest {
            list.soonest = at;
            self.alarms.sooner.notify_one();
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let Some(place) = self.place else { return };
        let mut list = self.alarms.list.lock();
        list.entries[place as usize] = Entry { at: NEVER, waker: None };
        list.free.push(place);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn each_is_woken_when_it_is_due_and_once() {
        let alarms = Arc::new(Alarms::default());
        let (bell, began) = (Arc::new(Bell::default()), alarms.began);
        let waker = Waker::from(Arc::clone(&bell));
        let context = Context::from_waker(&waker);
        let after = |millis| began + Duration::from_millis(millis);
        let mut set = [300, 100, 200].map(|_| Alarm::new(Arc::clone(&alarms)));
        for (alarm, at) in set.iter_mut().zip([300, 100, 200]) {
            alarm.set(after(at), began, &context);
        }
        let ring = |now| (alarms.list.lock().ring(now), bell.0.load(Ordering::Relaxed));
        assert_eq!(ring(99), (100, 0));
        assert_eq!(ring(100), (200, 1));
        // Later is not set again: it would have to be found in the list for every packet that comes.
        set[2].set(after(900), after(150), &context);
        assert_eq!(ring(250), (300, 2));
        set[2].set(after(900), after(250), &context);
        set[1].set(after(260), after(250), &context);
        assert_eq!(ring(400), (900, 4));
        drop(set);
        assert_eq!(ring(1000), (NEVER, 4));
        assert_eq!(alarms.list.lock().free.len(), 3);
    }

    #[tokio::test]
    async fn an_alarm_before_all_others_is_not_slept_through() {
        let alarms = Arc::new(Alarms::default());
        let mut alarm = Alarm::new(Arc::clone(&alarms));
        let (start, mut turns) = (Instant::now(), [3600, 0].into_iter());
        let woken_twice = std::future::poll_fn(|context| match turns.next() {
            Some(seconds) => {
                alarm.set(start + Duration::from_secs(seconds), start, context);
                if seconds > 0 {
                    context.waker().wake_by_ref();
                }
                std::task::Poll::Pending
            }
            None => std::task::Poll::Ready(()),
        });
        tokio::select! {
            () = alarms.ring() => {}
            () = woken_twice => {}
        }
    }
}
