//! A running session as others reach it: what it has moved, whether its client still speaks, and a word to end it.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;

use super::Order;

/// What has moved so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moved {
    /// Bytes, client to server.
    pub(crate) up: u64,
    /// Bytes, server to client.
    pub(crate) down: u64,
    /// PUBLISH packets; none where packets are not followed.
    pub(crate) messages_up: u64,
    pub(crate) messages_down: u64,
}

impl std::ops::AddAssign for Moved {
    fn add_assign(&mut self, more: Self) {
        self.up += more.up;
        self.down += more.down;
        self.messages_up += more.messages_up;
        self.messages_down += more.messages_down;
    }
}

/// What has moved in one direction.
#[derive(Debug, Default)]
pub(super) struct Way {
    pub(super) bytes: AtomicU64,
    pub(super) messages: AtomicU32,
}

impl Way {
    fn new(bytes: u64, messages: u64) -> Self {
        Self { bytes: bytes.into(), messages: u32::try_from(messages).unwrap_or(u32::MAX).into() }
    }
}

/// Counts are written by the session's own thread alone.
#[derive(Debug, Default)]
pub(crate) struct Handle {
    pub(super) up: Way,
    pub(super) down: Way,
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

/// It is to be given to another process, as soon as nothing of it is held here.
const WANTED: u8 = 254;
/// It was given, and nobody reads it here until it is known whether it was taken.
const GIVEN: u8 = 253;
/// It was taken.
const TAKEN: u8 = 252;
/// It is over: whoever found it before hears that nothing can be said to it.
const ENDED: u8 = 251;

/// How far a session is on its way to another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passing {
    No,
    Wanted,
    Given,
    Taken,
}

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
            up: Way::new(moved.up, moved.messages_up),
            down: Way::new(moved.down, moved.messages_down),
            silence: Silence { longest, since: now.into(), heard: heard.into() },
            ..Self::default()
        }
    }

    pub(crate) fn moved(&self) -> Moved {
        Moved {
            up: self.up.bytes.load(Relaxed),
            down: self.down.bytes.load(Relaxed),
            messages_up: self.up.messages.load(Relaxed).into(),
            messages_down: self.down.messages.load(Relaxed).into(),
        }
    }

    /// Tells the session to end; says whether it was the first to do so.
    pub(crate) fn tell(&self, order: Order) -> bool {
        let unheard = |word: u8| matches!(word, NOTHING | PROVE | WANTED).then_some(order as u8);
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
        let up = low_bits(self.up.bytes.load(Relaxed));
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

    pub(crate) fn passing(&self) -> Passing {
        match self.word.load(SeqCst) {
            WANTED => Passing::Wanted,
            GIVEN => Passing::Given,
            TAKEN => Passing::Taken,
            _ => Passing::No,
        }
    }

    /// Another process wants the session. Not one that was told something else.
    pub(crate) fn want(&self) -> bool {
        self.becomes(NOTHING, WANTED)
    }

    /// It is wanted no longer; false: it has given itself, or ends.
    pub(crate) fn keep(&self) -> bool {
        self.becomes(WANTED, NOTHING)
    }

    /// The session gives itself, and reads no more from here on.
    pub(crate) fn give(&self) -> bool {
        self.word.compare_exchange(WANTED, GIVEN, SeqCst, SeqCst).is_ok()
    }

    /// The other process has it: it ends here without a word.
    pub(crate) fn taken(&self) {
        self.becomes(GIVEN, TAKEN);
    }

    /// It is over, and listens to nothing any more.
    pub(crate) fn ended(&self) {
        self.word.store(ENDED, SeqCst);
    }

    /// It was not taken, and goes on here.
    pub(crate) fn returned(&self) {
        self.becomes(GIVEN, NOTHING);
    }

    fn becomes(&self, from: u8, to: u8) -> bool {
        let so = self.word.compare_exchange(from, to, SeqCst, SeqCst).is_ok();
        if so {
            self.wake();
        }
        so
    }

    /// How long its client may be silent (0: for ever), and is, in milliseconds.
    pub(crate) fn silence(&self, now: u32) -> (u32, u32) {
        let Silence { longest, since, .. } = &self.silence;
        (*longest, now.wrapping_sub(since.load(Relaxed)))
    }

    /// The client was last heard at `since`, when another process looked after it.
    pub(crate) fn heard(&self, since: u32) {
        self.silence.since.store(since, Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_said_to_a_session_that_is_over() {
        let handle = Handle::new(Moved::default(), Some(Duration::from_millis(1)), 0);
        handle.ended();
        handle.look(1000);
        assert_eq!((handle.word(), handle.tell(Order::Drain), handle.want()), (Word::Nothing, false, false));
    }
}
