//! A running session as others reach it: what it has moved, whether its client still speaks, and a word to end it.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;

use super::Order;

/// Bytes moved so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moved {
    /// Client to server.
    pub(crate) up: u64,
    /// Server to client.
    pub(crate) down: u64,
}

/// Counts are written by the session's own thread alone.
#[derive(Debug, Default)]
pub(crate) struct Handle {
    pub(super) up: AtomicU64,
    pub(super) down: AtomicU64,
    silence: Silence,
    word: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

/// For how long the client may be silent, and since when it is. In milliseconds of a clock that may begin anew: only
/// differences count.
#[derive(Debug, Default)]
struct Silence {
    /// 0: for ever.
    longest: u32,
    since: AtomicU32,
    /// The low bits of `up` when last looked at.
    heard: AtomicU32,
}

/// Nothing was said.
const NOTHING: u8 = 0;
/// The client seems to be gone: end unless there is a reason for its silence.
const PROVE: u8 = u8::MAX;

/// What a session was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    Nothing,
    ProveLife,
    End(Order),
}

impl Handle {
    /// `silence`: how long the client may be silent; `None`: for ever.
    pub(crate) fn new(moved: Moved, silence: Option<Duration>, now: u32) -> Self {
        let longest = silence.map_or(0, |longest| u32::try_from(longest.as_millis()).unwrap_or(0));
        let heard = low_bits(moved.up);
        Self {
            up: moved.up.into(),
            down: moved.down.into(),
            silence: Silence { longest, since: now.into(), heard: heard.into() },
            ..Self::default()
        }
    }

    pub(crate) fn moved(&self) -> Moved {
        Moved { up: self.up.load(Relaxed), down: self.down.load(Relaxed) }
    }

    /// Tells the session to end; says whether it was the first to do so.
    pub(crate) fn tell(&self, order: Order) -> bool {
        let unheard = |word: u8| matches!(word, NOTHING | PROVE).then_some(order as u8);
        let first = self.word.fetch_update(SeqCst, SeqCst, unheard).is_ok();
        if first {
            self.wake();
        }
        first
    }

    /// Who polls the session. Told once: a task is always woken in the same way.
    pub(crate) fn attend(&self, waker: &Waker) {
        *self.waker.lock() = Some(waker.clone());
    }

    /// Looks after the client now and then; `now` in milliseconds.
    pub(crate) fn look(&self, now: u32) {
        let Silence { longest, since, heard } = &self.silence;
        let up = low_bits(self.up.load(Relaxed));
        if *longest == 0 {
        } else if heard.swap(up, Relaxed) != up {
            since.store(now, Relaxed);
        } else if now.wrapping_sub(since.load(Relaxed)) > *longest
            && self.word.compare_exchange(NOTHING, PROVE, SeqCst, SeqCst).is_ok()
        {
            self.wake();
        }
    }

    pub(super) fn word(&self) -> Word {
        match self.word.load(SeqCst) {
            NOTHING => Word::Nothing,
            PROVE => Word::ProveLife,
            order => Order::from_u8(order).map_or(Word::Nothing, Word::End),
        }
    }

    /// There is a reason for its silence: the time begins anew at the next look.
    pub(super) fn excuse(&self) {
        self.silence.heard.fetch_xor(1, Relaxed);
        let _ = self.word.compare_exchange(PROVE, NOTHING, SeqCst, SeqCst);
    }

    fn wake(&self) {
        // Taken out of the lock first: waking may run anything.
        let waker = self.waker.lock().clone();
        waker.iter().for_each(Waker::wake_by_ref);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low bits are what is asked for")]
fn low_bits(bytes: u64) -> u32 {
    bytes as u32
}
