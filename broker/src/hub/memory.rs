//! Bytes that wait for clients, over all threads: counted where they come and go, so that the sum costs nothing.
//! And what gives way when they are too many.

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};

use nsd_wire::ReasonCode;
use tracing::{info, warn};

use super::{Event, Hub, Outbox};

/// Threads count apart from one another: a shared cache line would be waited for with each message.
const LANES: usize = 16;
/// Changes that are too small to be counted, until they add up.
const STEP: usize = 4096;
/// Who holds less is not worth sending away.
const LITTLE: usize = 64 * 1024;

#[repr(align(128))]
struct Lane(AtomicIsize);

static TOTAL: [Lane; LANES] = [const { Lane(AtomicIsize::new(0)) }; LANES];
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static MINE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % LANES;
}

/// What one place holds, within some kilobytes; nothing any more once it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Held(usize);

impl Held {
    /// Whether that is a change worth counting.
    pub(crate) fn set(&mut self, bytes: usize) -> bool {
        let changed = bytes.abs_diff(self.0) >= STEP;
        if changed {
            self.count(bytes);
        }
        changed
    }

    fn count(&mut self, bytes: usize) {
        let lane = MINE.try_with(|lane| *lane).unwrap_or_default();
        TOTAL[lane].0.fetch_add(bytes.cast_signed().wrapping_sub(self.0.cast_signed()), Ordering::Relaxed);
        self.0 = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.count(0);
    }
}

/// What all clients of this process hold.
fn held() -> usize {
    let sum: isize = TOTAL.iter().map(|lane| lane.0.load(Ordering::Relaxed)).sum();
    usize::try_from(sum).unwrap_or_default()
}

impl Hub {
    /// Clients hold more than all of them together may.
    pub fn is_pressed(&self) -> bool {
        self.pressed.load(Ordering::Relaxed)
    }

    /// Looks at what is held. Over `most` the largest receivers are sent away, and until some is free again nothing is
    /// begun that would hold more.
    pub fn relieve(&self, most: usize) {
        let held = held();
        let was_pressed = self.is_pressed();
        if held <= most {
            if was_pressed && held <= most - most / 8 {
                self.pressed.store(false, Ordering::Relaxed);
                info!(held, most, "there is room for clients' messages again");
            }
            return;
        }
        self.pressed.store(true, Ordering::Relaxed);
        let mut largest: Vec<(usize, Arc<Outbox>)> =
            self.clients().into_iter().map(|outbox| (outbox.giveable(), outbox)).collect();
        largest.retain(|(bytes, _)| *bytes > LITTLE);
        largest.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let mut over = held - (most - most / 8);
        let mut sent_away = 0;
        for (bytes, outbox) in largest {
            outbox.notify(Event::Leave(ReasonCode::QuotaExceeded));
            sent_away += 1;
            over = over.saturating_sub(bytes);
            if over == 0 {
                break;
            }
        }
        if sent_away > 0 || !was_pressed {
            warn!(held, most, sent_away, "clients hold too much: the largest receivers are sent away");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_counted_until_it_is_dropped() {
        // Other tests of this process hold little.
        const MUCH: usize = 1 << 40;
        let mut held_here = Held::default();
        held_here.set(MUCH);
        assert!(held() > MUCH / 2);
        std::thread::spawn(move || drop(held_here)).join().unwrap();
        assert!(held() < MUCH / 2, "also where another thread lets it go");
    }
}
