//! What waits to be sent to one client. Any thread may put something in; only the client's own connection takes it
//! out, all at once, and is woken once for however much came. Short mutex, never held across an await. Little that
//! comes while the connection rests is written to its socket at once, by who has put it in.
//!
//! Over its mark the outbox is "full": who fills it stops reading until it has room, and over its brim so does everybody
//! else who publishes to it. A client that keeps it full beyond their patience "lags" and loses QoS 0 until it has caught
//! up; over the ceiling everything new is lost, counted.
//!
//! The outbox of a persistent session outlives its connections: one after another attaches to it. What a connection of
//! before still has to do with it is told by its attachment, a number that only goes up.

mod lasting;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::{Instant, SystemTime};

use nsd_wire::{AckKind, Delivery, PacketId, Qos, ReasonCode, SubscriptionId, Version};
use parking_lot::Mutex;

use super::aliases::Aliases;
use super::backlog::Expiry;
use super::buffers;
use super::card::Card;
use super::memory::Held;
use super::parcel::Parcel;
use super::patience::Patience;
use super::pending::Pending;
use super::persistent::Persistent;
use super::share::Dealt;
use super::waits::Awaited;
use super::writer::Writer;
use crate::busy::{Busy, Idle};
use crate::limits;
use crate::message::Will;
use crate::queue::Next;
use crate::session::{Outbound, Receipt, Settled};
use crate::store::change::{Seq, SessionId};
use crate::telemetry::{self, Cause, Count, count, count_many};

/// One client's outbox; also its name tag on this node.
#[derive(Debug)]
pub struct Outbox {
    /// Of this session: never given twice on a node.
    pub id: u64,
    pub client_id: Box<str>,
    /// Of a session that may outlive its connection: QoS 1 and 2 go through its queue.
    pub session: Option<SessionId>,
    /// A connection is attached; a hint for who chooses among several receivers.
    attached: AtomicBool,
    /// The queue was full, and the session is to end for it.
    overrun: AtomicBool,
    /// Bytes that its connection holds besides.
    carried: AtomicUsize,
    state: Mutex<State>,
}

/// What a connection takes, as its CONNECT said.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    pub version: Version,
    /// QoS 1 and 2 messages at a time.
    pub window: u16,
    pub packet_bytes: usize,
    pub topic_aliases: u16,
}

#[derive(Debug)]
pub(super) struct State {
    /// Packets ready to be written.
    bytes: Vec<u8>,
    /// Where others may write while the connection rests: it had nothing to write when it last looked, and looks again
    /// before it writes.
    writer: Option<Writer>,
    rests: bool,
    capacity: Capacity,
    outbound: Outbound,
    pub(super) persistent: Option<Box<Persistent>>,
    seldom: Busy<Seldom>,
    pending: Busy<Pending>,
    waker: Option<Waker>,
    attachment: u64,
    /// The connection has been, or is about to be, woken for what is in here.
    noticed: bool,
    lagging: bool,
    /// The queue of a persistent session is on its way to its limit.
    crowded: bool,
    closed: bool,
    ownership: u64,
    card: Option<Arc<Card>>,
    held: Held,
}

/// What most clients never need; who has needed it keeps it until its next connection.
#[derive(Debug, Default)]
struct Seldom {
    /// To be published should the connection of now end without a word.
    will: Option<Will>,
    aliases: Option<Aliases>,
    /// Of those who wait or have waited for it.
    patience: Option<Patience>,
}

impl Idle for Seldom {
    fn idle() -> &'static Self {
        static NOTHING: Seldom = Seldom { will: None, aliases: None, patience: None };
        &NOTHING
    }

    fn is_idle(&self) -> bool {
        self.will.is_none() && self.aliases.is_none() && self.patience.is_none()
    }
}

/// Something for the connection other than bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A routed message is safe, or was refused; or the end of a QoS 2 exchange is.
    Stored(Receipt, ReasonCode),
    /// All that was asked to be made known until then is known.
    Known { token: u32, reason: ReasonCode },
    /// Another connection has this client id now, or the server stops.
    Leave(ReasonCode),
}

/// How a subscription wants its messages, over all of a client's filters that match.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    pub qos: Qos,
    pub retain_as_published: bool,
    pub ids: Vec<SubscriptionId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    Taken,
    /// Taken, and the first since the connection looked: wake it after the batch.
    Wake,
    /// Taken, but the publisher should wait for room before it reads on.
    Full,
    Lost,
}

/// What a client's acknowledgement leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    Nothing,
    /// A PUBREL is due, with this reason.
    Release(ReasonCode),
    /// A PUBREL is due once it is stored that the client has the message.
    ReleaseStored(Seq),
    /// A message of a persistent session needs nothing more.
    Done(Seq),
}

/// A connection that goes on with a session.
#[derive(Debug)]
pub(super) struct Attached<T> {
    pub(super) attachment: u64,
    /// What was looked for in the session.
    pub(super) found: T,
    /// Of the connection that it was taken from.
    pub(super) old_will: Option<Will>,
}

/// What the connection takes out at once.
#[derive(Debug, Default)]
pub struct Taken {
    pub bytes: Vec<u8>,
    /// So many of them were written by others: the connection goes on from there.
    pub written: usize,
    pub events: Vec<Event>,
    /// Messages of a persistent session that turned out to need nothing more.
    pub done: Vec<Seq>,
    /// Another connection has taken over, the session is over, or the connection has left it: nothing here is this
    /// connection's any more.
    pub stale: bool,
}

/// How much waits for one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// QoS 1 and 2 messages sent and not yet acknowledged.
    pub in_flight: usize,
    pub queued: usize,
    pub queued_bytes: usize,
}

impl Outbox {
    /// Of a session that nobody is connected to yet.
    pub fn new(id: u64, client_id: Box<str>, persistent: Option<Persistent>) -> Self {
        let session = persistent.as_ref().map(|persistent| persistent.session);
        let capacity = Capacity { version: Version::V5, window: 0, packet_bytes: 0, topic_aliases: 0 };
        let state = State {
            bytes: Vec::new(),
            writer: None,
            rests: false,
            capacity,
            outbound: Outbound::new(0),
            persistent: persistent.map(Box::new),
            seldom: Busy::default(),
            pending: Busy::default(),
            waker: None,
            attachment: 0,
            noticed: false,
            lagging: false,
            crowded: false,
            closed: false,
            ownership: 0,
            card: None,
            held: Held::default(),
        };
        Self {
            id,
            client_id,
            session,
            attached: AtomicBool::new(false),
            overrun: AtomicBool::new(false),
            carried: AtomicUsize::new(0),
            state: Mutex::new(state),
        }
    }

    /// The epoch under which this connection owns its client id in the cluster; 0 while it is not known.
    pub fn ownership(&self) -> u64 {
        self.state.lock().ownership
    }

    pub fn set_ownership(&self, epoch: u64) {
        self.state.lock().ownership = epoch;
    }

    /// Who is connected, and where others may write.
    pub fn introduce(&self, attachment: u64, card: Arc<Card>, writer: Option<Writer>) {
        let mut state = self.state.lock();
        if state.attachment == attachment && !state.closed {
            state.card = Some(card);
            state.writer = writer;
        }
    }

    /// A connection is gone, however it went: its socket is to be closed.
    pub fn hang_up(&self, attachment: u64) {
        let mut state = self.state.lock();
        if state.attachment == attachment {
            state.hang_up();
        }
    }

    /// Until the connection has looked again, nobody else writes.
    pub fn hold_back(&self) {
        self.state.lock().rests = false;
    }

    /// Who is connected, or was last.
    pub fn card(&self) -> Option<Arc<Card>> {
        self.state.lock().card.clone()
    }

    pub fn load(&self) -> Load {
        let state = self.state.lock();
        match state.persistent.as_deref() {
            Some(Persistent { queue, .. }) => {
                let in_flight = queue.in_flight();
                Load { in_flight, queued: queue.len().saturating_sub(in_flight), queued_bytes: queue.bytes() }
            }
            None => Load {
                in_flight: state.outbound.in_flight(),
                queued: state.pending.backlog.packets(),
                queued_bytes: state.behind(),
            },
        }
    }

    pub fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    pub fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Relaxed)
    }

    /// The first connection; nobody else knows the outbox yet.
    pub(super) fn attach_first(&self, capacity: Capacity, will: Option<Will>) {
        let mut state = self.state.lock();
        state.begin(capacity, will);
        self.attached.store(true, Ordering::Relaxed);
    }

    /// A connection takes over; the one before hears of it when it looks. `None`: the session is over.
    pub(super) fn attach<T>(
        &self,
        capacity: Capacity,
        will: Option<Will>,
        resume: impl FnOnce(&mut Persistent) -> T,
    ) -> Option<Attached<T>> {
        let mut state = self.state.lock();
        if state.closed {
            return None;
        }
        let found = resume(state.persistent.as_deref_mut()?);
        state.let_go();
        let old_will = state.begin(capacity, will);
        self.attached.store(true, Ordering::Relaxed);
        Some(Attached { attachment: state.attachment, found, old_will })
    }

    /// The connection of a persistent session is over; `away` says what that means for it. `None`: another one had
    /// taken its place before, or the session is over.
    pub(super) fn detach<T>(&self, attachment: u64, away: impl FnOnce(&mut Persistent) -> T) -> Option<T> {
        let mut state = self.state.lock();
        if state.attachment != attachment || state.closed {
            return None;
        }
        state.let_go();
        self.attached.store(false, Ordering::Relaxed);
        state.persistent.as_deref_mut().map(away)
    }

    /// The will of this connection, which nobody else takes then.
    pub fn take_will(&self, attachment: u64) -> Option<Will> {
        let mut state = self.state.lock();
        let mine = state.attachment == attachment;
        state.seldom.held().filter(|_| mine)?.will.take()
    }

    /// The will of the connection of now.
    pub fn will(&self) -> Option<Will> {
        self.state.lock().seldom.will.clone()
    }

    /// Puts one message in, written for this client. Not for QoS 1 and 2 toward persistent sessions.
    pub fn deliver(&self, parcel: &Parcel<'_>, terms: &Terms) -> Put {
        self.deal(parcel, terms, None).unwrap_or(Put::Taken)
    }

    /// The same with a message that others may get instead. `None`: nobody is there to take it.
    pub(super) fn deal(&self, parcel: &Parcel<'_>, terms: &Terms, dealt: Option<Dealt>) -> Option<Put> {
        let mut state = self.state.lock();
        let is_there = !state.closed && self.is_attached();
        is_there.then(|| state.deliver(parcel, terms, dealt))
    }

    /// How many messages of this QoS wait for the client to acknowledge others; `None`: it is away, or full.
    pub(super) fn burden(&self, qos: Qos) -> Option<usize> {
        let state = self.state.lock();
        let keeps_up = self.is_attached() && !state.closed && !state.lagging && !state.is_full();
        let waiting = || match state.persistent.as_deref() {
            Some(persistent) => (persistent.queue.len() + 1).saturating_sub(state.capacity.window.into()),
            None => state.pending.backlog.packets() + usize::from(!state.outbound.has_room()),
        };
        keeps_up.then(|| if qos == Qos::AtMostOnce { 0 } else { waiting() })
    }

    /// The end of a session that ends with its connection. What it had of groups and did not acknowledge comes back.
    pub(super) fn close(&self) -> Vec<Dealt> {
        let mut state = self.state.lock();
        let dealt = state.pending.held().map(Pending::take_dealt).unwrap_or_default();
        state.closed = true;
        state.let_go();
        self.attached.store(false, Ordering::Relaxed);
        dealt
    }

    /// The will is somebody else's to publish.
    pub fn forget_will(&self) {
        self.state.lock().seldom.held().into_iter().for_each(|seldom| seldom.will = None);
    }

    /// The client tells how far it is with a message; what becomes possible is put in.
    pub fn settle(&self, kind: AckKind, id: PacketId, reason: ReasonCode) -> Settlement {
        let mut state = self.state.lock();
        if let Some(persistent) = state.persistent.as_deref_mut() {
            let settlement = persistent.settle(kind, id, reason);
            if matches!(settlement, Settlement::Done(..)) {
                state.takes_something();
                state.fill();
                state.account();
            }
            return settlement;
        }
        let settled = match kind {
            AckKind::PubAck => state.outbound.on_puback(id),
            AckKind::PubRec => state.outbound.on_pubrec(id, reason),
            AckKind::PubComp => state.outbound.on_pubcomp(id),
            AckKind::PubRel => return Settlement::Nothing,
        };
        match settled {
            Settled::Unknown => Settlement::Nothing,
            Settled::Done => {
                state.pending.held().into_iter().for_each(|pending| pending.forget(id));
                state.advance();
                state.takes_something();
                state.account();
                Settlement::Nothing
            }
            Settled::Release(reason) => Settlement::Release(reason),
        }
    }

    /// Whatever connection is attached.
    pub fn notify(&self, event: Event) {
        let attachment = self.state.lock().attachment;
        self.notify_one(attachment, event);
    }

    pub fn notify_one(&self, attachment: u64, event: Event) {
        self.notify_all(attachment, [event]);
    }

    /// Several events for one lock and one wake-up.
    pub fn notify_all(&self, attachment: u64, events: impl IntoIterator<Item = Event>) {
        let mut state = self.state.lock();
        if !state.closed && state.attachment == attachment && self.is_attached() {
            state.pending.events.extend(events);
            state.notice();
            wake(&mut state);
        }
    }

    /// Has what was put in written: at once where that can be, else by the connection.
    pub fn pass_on(&self) {
        if !self.state.lock().pass_on() {
            self.wake();
        }
    }

    pub fn wake(&self) {
        // Not under the lock: to wake another thread takes a system call, and the first thing it does is to lock.
        let waker = self.state.lock().waker.clone();
        waker.into_iter().for_each(Waker::wake);
    }

    /// Takes out everything; registers for a wake-up when there is nothing. `rests`: the connection has nothing else to
    /// write.
    pub fn take(&self, attachment: u64, context: &Context<'_>, bytes_too: bool, rests: bool) -> Taken {
        let mut state = self.state.lock();
        let is_over = state.closed || !self.is_attached();
        if state.attachment != attachment || (is_over && self.session.is_some()) {
            return Taken { stale: true, ..Taken::default() };
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            state.waker = Some(context.waker().clone());
        }
        let events =
            state.pending.held().map(|pending| std::mem::take(&mut pending.events)).unwrap_or_default();
        state.rests = false;
        if !bytes_too {
            // Still writing the last bytes: publishers need not wake us for more.
            return Taken { events, ..Taken::default() };
        }
        state.noticed = false;
        state.fill();
        let bytes = std::mem::take(&mut state.bytes);
        let written =
            state.pending.held().map(|pending| std::mem::take(&mut pending.written)).unwrap_or_default();
        state.rests = rests && bytes.is_empty() && events.is_empty();
        let done = state
            .persistent
            .as_deref_mut()
            .map_or_else(Vec::new, |persistent| std::mem::take(&mut persistent.done));
        state.account();
        if !state.crowded && state.behind() < limits::OUTBOX_MARK / 2 {
            state.lagging = false;
            state.go_on();
        }
        state.pending.rest();
        Taken { bytes, written, events, done, stale: false }
    }

    /// Until when to wait for room at most; the context is woken when there is some. `None`: there is room, or this
    /// client is not waited for.
    pub fn wait_for_room(&self, context: &Context<'_>, now: Instant) -> Option<Instant> {
        let mut state = self.state.lock();
        if state.closed || state.lagging || !self.is_attached() || !state.is_full() {
            return None;
        }
        let until = state.seldom.patience.get_or_insert_with(|| Patience::new(now)).wait(now);
        if now >= until {
            state.give_up();
            return None;
        }
        let waiters = &mut state.pending.waiters;
        if !waiters.iter().any(|waker| waker.will_wake(context.waker())) {
            waiters.push(context.waker().clone());
        }
        Some(until)
    }

    /// Whom its own client waits for.
    pub(super) fn awaited(&self) -> Vec<Awaited> {
        self.state.lock().pending.awaited.clone()
    }

    pub(super) fn awaits(&self, id: u64) -> bool {
        self.state.lock().pending.awaited.iter().any(|(awaited, _)| *awaited == id)
    }

    pub(super) fn set_awaited(&self, awaited: Vec<Awaited>) {
        let mut state = self.state.lock();
        if !awaited.is_empty() || !state.pending.awaited.is_empty() {
            state.pending.awaited = awaited;
        }
    }

    /// Until this client has caught up, nobody waits for it.
    pub fn give_up(&self) {
        let mut state = self.state.lock();
        if state.is_full() {
            state.give_up();
        }
    }

    /// The client has taken something, though not all that is on its way.
    pub fn takes_something(&self) {
        self.state.lock().takes_something();
    }

    /// So much waits that also those should wait who put little in.
    pub fn is_brimming(&self) -> bool {
        let state = self.state.lock();
        let queue = || state.persistent.as_ref().is_some_and(|persistent| persistent.queue.is_brimming());
        state.waiting() > limits::OUTBOX_BRIM || queue()
    }

    /// Room for what is retained: live messages have the other half, so that nobody who publishes waits for it.
    pub fn has_room(&self) -> bool {
        let state = self.state.lock();
        state.waiting() <= limits::OUTBOX_MARK / 2 && !state.crowded && !state.lagging
    }

    /// The connection tells what it holds besides.
    pub fn carry(&self, bytes: usize) {
        self.carried.store(bytes, Ordering::Relaxed);
    }

    /// What would be free without its connection.
    pub fn giveable(&self) -> usize {
        let state = self.state.lock();
        state.waiting() + state.pending.kept() + self.carried.load(Ordering::Relaxed)
    }

    /// Whether publishers should wait for this client: it is there, and has not been given up.
    pub fn should_wait(&self) -> bool {
        let state = self.state.lock();
        self.is_attached() && !state.lagging && state.is_full()
    }

    /// The queue has reached its limit, and the policy is that the session ends for it.
    pub fn overrun(&self) {
        self.overrun.store(true, Ordering::Relaxed);
        self.notify(Event::Leave(ReasonCode::QuotaExceeded));
    }

    pub(super) fn is_overrun(&self) -> bool {
        self.overrun.load(Ordering::Relaxed)
    }

    /// If `really` says so: nothing more is taken in, and what waits is thrown away. What a persistent session knew is
    /// given back, once.
    pub(super) fn close_if(&self, really: impl FnOnce(&Persistent) -> bool) -> Option<Box<Persistent>> {
        let mut state = self.state.lock();
        if !state.persistent.as_deref().is_none_or(really) {
            return None;
        }
        state.closed = true;
        // A connection that is still there is woken, and learns that its session is over.
        state.let_go();
        self.attached.store(false, Ordering::Relaxed);
        let persistent = state.persistent.take();
        state.account();
        persistent
    }
}

fn wake(state: &mut State) {
    if let Some(waker) = &state.waker {
        waker.wake_by_ref();
    }
}

impl State {
    fn waiting(&self) -> usize {
        self.bytes.len() + self.behind()
    }

    /// Bytes of the backlog.
    fn behind(&self) -> usize {
        self.pending.backlog.len()
    }

    fn deliver(&mut self, parcel: &Parcel<'_>, terms: &Terms, dealt: Option<Dealt>) -> Put {
        let qos = parcel.qos().min(terms.qos);
        let waiting = self.waiting();
        if waiting > limits::OUTBOX_CEILING || (self.lagging && qos == Qos::AtMostOnce) {
            count(Count::Dropped(Cause::SlowReceiver));
            return Put::Lost;
        }
        let delivery = Delivery {
            qos,
            retain: parcel.retain(terms.retain_as_published),
            subscription_ids: &terms.ids,
            waited: parcel.waited(),
            ..Delivery::default()
        };
        let written = if qos == Qos::AtMostOnce {
            self.write(parcel, delivery)
        } else if self.pending.backlog.is_empty()
            && let Some(id) = self.outbound.admit(qos)
        {
            let written = self.write(parcel, Delivery { packet_id: Some(id), ..delivery });
            if !written {
                self.outbound.forget(id);
            } else if let Some(dealt) = dealt.filter(|_| qos == Qos::AtLeastOnce) {
                self.pending.keep(id, dealt);
            }
            written
        } else {
            let delivery = Delivery { packet_id: Some(PacketId::MIN), ..delivery };
            let Capacity { version, packet_bytes, .. } = self.capacity;
            let expiry = parcel.left().map(|seconds| Expiry { since: Instant::now(), seconds, version });
            let write = |out: &mut Vec<u8>| parcel.write(version, delivery, packet_bytes, out);
            self.pending.backlog.push(qos, expiry, dealt, write)
        };
        if !written {
            // Larger than the client takes: as if it had been delivered (MQTT-3.1.2-25).
            count(Count::Dropped(Cause::TooLarge));
            return Put::Taken;
        }
        telemetry::sent(qos, parcel.payload());
        self.put()
    }

    /// The queue got shorter: half of what crowds it is room enough.
    fn relax(&mut self) {
        if self.crowded && self.persistent.as_ref().is_some_and(|persistent| persistent.queue.is_relaxed()) {
            self.crowded = false;
            self.lagging = false;
            self.go_on();
        }
    }

    /// Nobody waits for this client any more.
    fn go_on(&mut self) {
        self.pending.held().into_iter().for_each(|pending| pending.waiters.drain(..).for_each(Waker::wake));
        self.takes_something();
    }

    /// Patience is for who takes nothing: those who wait begin anew, once they look again.
    fn takes_something(&mut self) {
        if let Some(patience) = self.seldom.held().and_then(|seldom| seldom.patience.as_mut()) {
            patience.go_on(Instant::now());
        }
    }

    fn give_up(&mut self) {
        self.lagging = true;
        self.go_on();
    }

    fn ready(&mut self) {
        if self.bytes.capacity() == 0 {
            self.bytes = buffers::take();
        }
    }

    /// Whether the connection must be woken for what was just put in.
    fn notice(&mut self) -> bool {
        !std::mem::replace(&mut self.noticed, true)
    }

    /// Publishers should wait.
    fn is_full(&self) -> bool {
        self.waiting() > limits::OUTBOX_MARK || self.crowded
    }

    /// What this place holds is counted.
    fn account(&mut self) {
        let queued = self.persistent.as_ref().map_or(0, |persistent| persistent.queue.bytes());
        self.held.set(self.waiting() + self.pending.kept() + queued);
    }

    /// What the publisher has to know after putting something in.
    fn put(&mut self) -> Put {
        self.account();
        match (self.notice(), self.is_full() && !self.lagging) {
            (_, true) => Put::Full,
            (true, false) => Put::Wake,
            (false, false) => Put::Taken,
        }
    }

    /// Behind half a packet nothing may follow.
    fn hang_up(&mut self) {
        match self.writer.take() {
            Some(writer) if self.pending.written > 0 => writer.cut(),
            _ => {}
        }
        self.rests = false;
    }

    /// Writes what is there, if the connection rests and it is little. Tells whether nothing is left for the connection.
    fn pass_on(&mut self) -> bool {
        if !self.rests || self.bytes.len() > limits::PASSED_ON {
            return false;
        }
        let Some(writer) = &self.writer else { return false };
        if !self.bytes.is_empty() {
            // The connection will meet the same error.
            let written = writer.write(&self.bytes).unwrap_or_default();
            count_many(Count::BytesOut, written as u64);
            self.card.iter().for_each(|card| card.sent(written));
            if written < self.bytes.len() {
                self.pending.written = written;
                self.rests = false;
                return false;
            }
            buffers::give(std::mem::take(&mut self.bytes));
        }
        self.noticed = false;
        self.account();
        true
    }

    /// The will of the connection before comes back.
    fn begin(&mut self, capacity: Capacity, will: Option<Will>) -> Option<Will> {
        self.capacity = capacity;
        self.hang_up();
        self.outbound = Outbound::new(capacity.window);
        let (old_will, aliases) =
            (self.seldom.held().and_then(|seldom| seldom.will.take()), Aliases::new(capacity.topic_aliases));
        if will.is_some() || aliases.is_some() || self.seldom.aliases.is_some() {
            (self.seldom.will, self.seldom.aliases) = (will, aliases);
        }
        self.attachment += 1;
        self.seldom.rest();
        old_will
    }

    /// Everything that is a connection's own.
    fn let_go(&mut self) {
        self.hang_up();
        self.bytes = Vec::new();
        self.lagging = false;
        self.go_on();
        self.pending = Busy::default();
        self.noticed = false;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        if let Some(persistent) = self.persistent.as_deref_mut() {
            persistent.queue.rewind();
        }
        self.account();
    }

    fn write(&mut self, parcel: &Parcel<'_>, mut delivery: Delivery<'_>) -> bool {
        self.ready();
        if let Some(aliases) = self.seldom.held().and_then(|seldom| seldom.aliases.as_mut()) {
            delivery.alias = aliases.of(parcel.publish.topic);
        }
        let written =
            parcel.write(self.capacity.version, delivery, self.capacity.packet_bytes, &mut self.bytes);
        if !written && let Some(aliases) = self.seldom.held().and_then(|seldom| seldom.aliases.as_mut()) {
            aliases.unset(delivery.alias);
        }
        written
    }

    /// The window has room: the backlog moves up.
    fn advance(&mut self) {
        while let Some(qos) = self.pending.backlog.first()
            && let Some(id) = self.outbound.admit(qos)
        {
            self.ready();
            let backlog = &mut self.pending.backlog;
            let dealt = backlog.take_dealt().filter(|_| qos == Qos::AtLeastOnce);
            if !backlog.pop_into(id, &mut self.bytes) {
                self.outbound.forget(id);
            } else if let Some(dealt) = dealt {
                self.pending.keep(id, dealt);
            }
        }
    }

    /// The queue of a persistent session moves up, as far as the client's window and this outbox have room.
    fn fill(&mut self) {
        let Some(mut persistent) = self.persistent.take() else { return };
        // The clock is asked only where something may be sent.
        let mut now = None;
        while self.waiting() <= limits::OUTBOX_MARK {
            let now =
                if persistent.queue.has_more() { *now.get_or_insert_with(SystemTime::now) } else { break };
            match persistent.queue.next(self.capacity.window, now) {
                None => break,
                Some(Next::Expired(seq)) => {
                    count(Count::Dropped(Cause::Expired));
                    persistent.done.push(seq);
                }
                Some(Next::Release(id)) => self.release(id),
                Some(Next::Publish { id, dup, entry, waited }) => {
                    let publish = entry.message.publish();
                    let parcel = Parcel::queued(&publish, entry.message.bytes(), waited);
                    let delivery = Delivery {
                        dup,
                        retain: entry.retain,
                        qos: entry.qos,
                        packet_id: Some(id),
                        subscription_ids: &entry.ids,
                        waited,
                        ..Delivery::default()
                    };
                    if self.write(&parcel, delivery) {
                        telemetry::sent(entry.qos, parcel.payload());
                    } else {
                        count(Count::Dropped(Cause::TooLarge));
                        persistent.done.extend(persistent.queue.skip(id));
                    }
                }
            }
        }
        self.persistent = Some(persistent);
        // Also what has expired makes room.
        self.relax();
    }

    fn release(&mut self, id: PacketId) {
        self.ready();
        let release = nsd_wire::Ack::new(id).encode(AckKind::PubRel, self.capacity.version, &mut self.bytes);
        debug_assert!(release.is_ok(), "a PUBREL is always short enough");
    }
}
