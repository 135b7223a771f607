//! What an outbox holds beside its bytes; most clients have nothing of it.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::task::Waker;

use nsd_wire::PacketId;

use super::backlog::Backlog;
use super::outbox::Event;
use super::share::Dealt;
use super::waits::Awaited;
use crate::busy::Idle;

#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Of the outbox's bytes, what others than its connection have written.
    pub(super) written: usize,
    /// QoS 1 and 2 packets beyond the client's window, of a session that ends with its connection.
    pub(super) backlog: Backlog,
    /// Of such a session: what it has of groups, QoS 1, sent and not acknowledged.
    pub(super) dealt: BTreeMap<PacketId, Dealt>,
    /// Bytes of those.
    dealt_bytes: usize,
    pub(super) events: Vec<Event>,
    /// Publishers that wait for room.
    pub(super) waiters: Vec<Waker>,
    /// Whom its own client waits for.
    pub(super) awaited: Vec<Awaited>,
}

impl Pending {
    pub(super) fn keep(&mut self, id: PacketId, dealt: Dealt) {
        self.dealt_bytes += dealt.weight();
        self.dealt.insert(id, dealt);
    }

    pub(super) fn forget(&mut self, id: PacketId) {
        self.dealt_bytes -= self.dealt.remove(&id).as_ref().map_or(0, Dealt::weight);
    }

    /// Bytes of messages that others may get instead.
    pub(super) fn kept(&self) -> usize {
        self.dealt_bytes + self.backlog.dealt()
    }

    /// All messages that others may get instead, in the order in which they came.
    pub(super) fn take_dealt(&mut self) -> Vec<Dealt> {
        self.dealt_bytes = 0;
        let sent = std::mem::take(&mut self.dealt).into_values();
        sent.chain(std::mem::take(&mut self.backlog).into_dealt()).collect()
    }
}

impl Idle for Pending {
    fn idle() -> &'static Self {
        static NOTHING: LazyLock<Pending> = LazyLock::new(Pending::default);
        &NOTHING
    }

    fn is_idle(&self) -> bool {
        let idle = self.backlog.is_empty() && self.dealt.is_empty();
        let waits = !self.waiters.is_empty() || !self.awaited.is_empty();
        self.written == 0 && idle && self.events.is_empty() && !waits
    }
}
