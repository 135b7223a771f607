//! Where clients wait while all servers of a backend are full, or have had their clients for now: in a bounded line, for a bounded time, first come first
//! served.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

#[derive(Debug)]
pub(crate) struct Queue {
    waiting: AtomicUsize,
    /// One permit, and a fair line for it: only who is at its head looks for a seat.
    line: Semaphore,
    freed: Notify,
}

/// One client's place in the line, until dropped.
struct Place<'q>(&'q Queue);

impl Default for Queue {
    fn default() -> Self {
        Self { waiting: AtomicUsize::new(0), line: Semaphore::new(1), freed: Notify::new() }
    }
}

impl Queue {
    /// There may be seats now: one was given back, a server came back, the settings changed.
    pub(crate) fn freed(&self) {
        self.freed.notify_one();
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// Waits for what `take` finds, unless `most` wait already. Where there is nothing it may say when there will be.
    pub(crate) async fn wait<T>(
        &self,
        most: usize,
        at_most: Duration,
        take: impl Fn() -> Result<T, Option<Duration>>,
    ) -> Option<T> {
        let _place = self.enter(most)?;
        let found = async {
            let _head = self.line.acquire().await.ok()?;
            loop {
                // Made before looking, so that nothing which happens in between is missed.
                let freed = self.freed.notified();
                match take() {
                    Ok(found) => return Some(found),
                    Err(None) => freed.await,
                    Err(Some(soon)) => drop(timeout(soon, freed).await),
                }
            }
        };
        timeout(at_most, found).await.ok().flatten()
    }

    fn enter(&self, most: usize) -> Option<Place<'_>> {
        let room = |waiting: usize| (waiting < most).then_some(waiting + 1);
        self.waiting.fetch_update(Relaxed, Relaxed, room).ok()?;
        Some(Place(self))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicI32;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn who_waits_gets_what_is_freed_and_one_over_the_bound_is_sent_away() {
        let queue = Arc::new(Queue::default());
        let seats = Arc::new(AtomicI32::new(0));
        let come = |most| {
            let (queue, seats) = (Arc::clone(&queue), Arc::clone(&seats));
            async move {
                let room = |seats: i32| (seats > 0).then_some(seats - 1);
                queue.wait(most, LONG, || seats.fetch_update(Relaxed, Relaxed, room).map_err(|_| None)).await
            }
        };
        let waiting = [tokio::spawn(come(2)), tokio::spawn(come(2))];
        while queue.waiting() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(come(2).await, None);
        for waiting in waiting {
            seats.fetch_add(1, Relaxed);
            queue.freed();
            assert!(waiting.await.unwrap().is_some(), "first come, first served");
        }
        assert_eq!(queue.waiting(), 0);
    }

    #[tokio::test]
    async fn nobody_jumps_the_line_and_many_seats_reach_all() {
        let queue = Arc::new(Queue::default());
        let seats = Arc::new(AtomicI32::new(0));
        let served = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let come = |number: usize| {
            let (queue, seats, served) = (Arc::clone(&queue), Arc::clone(&seats), Arc::clone(&served));
            tokio::spawn(async move {
                let room = |seats: i32| (seats > 0).then_some(seats - 1);
                let took = queue
                    .wait(100, LONG, || seats.fetch_update(Relaxed, Relaxed, room).map_err(|_| None))
                    .await;
                served.lock().push((number, took.is_some()));
            })
        };
        let early: Vec<_> = (0..5).map(&come).collect();
        while queue.waiting() < 5 {
            tokio::task::yield_now().await;
        }
        seats.store(1, Relaxed);
        queue.freed();
        let late = come(5);
        while served.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(*served.lock(), [(0, true)]);
        // One word is enough for all the seats that there are.
        seats.store(5, Relaxed);
        queue.freed();
        for waiting in early.into_iter().chain([late]) {
            waiting.await.unwrap();
        }
        let order: Vec<_> = (0..6).map(|number| (number, true)).collect();
        assert_eq!(*served.lock(), order);
    }

    #[tokio::test]
    async fn nobody_waits_for_ever() {
        let queue = Arc::new(Queue::default());
        assert_eq!(queue.wait(1, Duration::from_millis(20), || Err::<(), _>(None)).await, None);
        let soon = Some(Duration::from_millis(5));
        assert_eq!(queue.wait(1, Duration::from_millis(20), || Err::<(), _>(soon)).await, None);
        assert_eq!(queue.waiting(), 0);
    }
}
