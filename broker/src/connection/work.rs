//! What a connection has to do; of an idle one there is nothing.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use nsd_wire::ReasonCode;

use super::leeway::Leeway;
use super::partial::Partial;
use crate::busy::Idle;
use crate::hub::{Outbox, Terms};
use crate::session::{Opening, Receipt, Subscribing, Unsubscribing};

#[derive(Default)]
pub(super) struct Work {
    pub(super) partial: Partial,
    /// Being written; `sent` of it is.
    pub(super) unsent: Vec<u8>,
    pub(super) sent: usize,
    /// The socket took nothing more at the last attempt.
    pub(super) stuck: bool,
    /// A stream that is not plain took bytes that it has not passed on yet.
    pub(super) held_back: bool,
    /// When patience with full receivers ends.
    pub(super) patience: Option<Instant>,
    /// When we close, whether or not the last bytes could be written.
    pub(super) farewell: Option<Instant>,
    pub(super) replies: Vec<u8>,
    /// A DISCONNECT: goes behind every message that is waiting.
    pub(super) last_word: Vec<u8>,
    pub(super) opening: Option<Box<Opening>>,
    /// The first message of a client that wants to prove itself.
    pub(super) first: Option<Box<[u8]>>,
    /// Receivers that have no room for more of ours.
    pub(super) full: Vec<Arc<Outbox>>,
    /// For what we put into them although they have none; who has needed it once keeps it.
    pub(super) leeway: Option<Leeway>,
    /// Answers that need no waiting.
    pub(super) stored: VecDeque<(Receipt, ReasonCode)>,
    /// Subscriptions that all clients together have no room for, or that could not be stored: the session forgets them.
    pub(super) unsubscribed: Vec<Box<str>>,
    /// On its way to the store and to the other nodes; its SUBACK or UNSUBACK follows.
    pub(super) becoming_known: VecDeque<(u32, Asked)>,
    pub(super) retained: VecDeque<Wanted>,
}

pub(super) enum Asked {
    Subscribe(Subscribing),
    Unsubscribe(Unsubscribing),
}

/// What is retained for a subscription, on its way: at most one of these per filter that the client has.
pub(super) struct Wanted {
    pub(super) filter: Box<str>,
    pub(super) terms: Terms,
    /// The last topic that was looked at.
    pub(super) after: Option<Box<str>>,
}

impl Work {
    /// Nothing is being written.
    pub(super) fn is_all_sent(&self) -> bool {
        self.unsent.is_empty() && !self.held_back
    }

    /// Nothing of our own waits to be written.
    pub(super) fn is_silent(&self) -> bool {
        self.replies.is_empty() && self.last_word.is_empty()
    }
}

impl Idle for Work {
    fn idle() -> &'static Self {
        static NOTHING: LazyLock<Work> = LazyLock::new(Work::default);
        &NOTHING
    }

    fn is_idle(&self) -> bool {
        self.is_all_sent()
            && self.is_silent()
            && self.partial.is_idle()
            && self.patience.is_none()
            && self.farewell.is_none()
            && self.opening.is_none()
            && self.first.is_none()
            && self.full.is_empty()
            && self.leeway.is_none()
            && self.stored.is_empty()
            && self.unsubscribed.is_empty()
            && self.becoming_known.is_empty()
            && self.retained.is_empty()
    }
}
