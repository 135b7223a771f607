//! What waits to be sent to one client. Any thread may put something in; only the client's own connection takes it
//! out, all at once, and is woken once for however much came. Short mutex, never held across an await.
//!
//! Over its mark the outbox is "full": publishers stop reading until it has room. A client that keeps it full beyond
//! their patience "lags" and loses QoS 0 until it has caught up; over the ceiling everything new is lost, counted.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use nsd_wire::{AckKind, Delivery, PacketId, Qos, ReasonCode, SubscriptionId, Version};
use parking_lot::Mutex;

use super::buffers;
use super::parcel::Parcel;
use crate::limits;
use crate::message::Message;
use crate::session::{Outbound, Receipt, Settled};

/// One client's outbox; also its name tag on this node.
#[derive(Debug)]
pub struct Outbox {
    /// Of this connection: never given twice on a node.
    pub id: u64,
    pub client_id: Box<str>,
    pub version: Version,
    /// In a cluster: to be stored again, should the store forget it.
    pub will: Option<Message>,
    max_packet: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Packets ready to be written.
    bytes: Vec<u8>,
    outbound: Outbound,
    /// QoS 1 and 2 packets beyond the client's window.
    backlog: Backlog,
    events: Vec<Event>,
    waker: Option<Waker>,
    /// The connection has been, or is about to be, woken for what is in here.
    noticed: bool,
    lagging: bool,
    closed: bool,
    waiters: Vec<Waker>,
    ownership: u64,
}

/// Something for the connection other than bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A routed message is safe, or was refused.
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

/// What the connection takes out at once.
#[derive(Debug, Default)]
pub struct Taken {
    pub bytes: Vec<u8>,
    pub events: Vec<Event>,
}

/// Messages that were dropped because a receiver did not keep up.
pub static DROPPED: AtomicU64 = AtomicU64::new(0);

impl Outbox {
    pub fn new(id: u64, client_id: Box<str>, version: Version, window: u16, max_packet: usize) -> Self {
        let state = State {
            bytes: Vec::new(),
            outbound: Outbound::new(window),
            backlog: Backlog::default(),
            events: Vec::new(),
            waker: None,
            noticed: false,
            lagging: false,
            closed: false,
            waiters: Vec::new(),
            ownership: 0,
        };
        Self { id, client_id, version, will: None, max_packet, state: Mutex::new(state) }
    }

    /// The epoch under which this connection owns its client id in the cluster; 0 while it is not known.
    pub fn ownership(&self) -> u64 {
        self.state.lock().ownership
    }

    pub fn set_ownership(&self, epoch: u64) {
        self.state.lock().ownership = epoch;
    }

    pub fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Puts one message in, written for this client.
    pub fn deliver(&self, parcel: &Parcel<'_>, terms: &Terms) -> Put {
        let qos = parcel.qos().min(terms.qos);
        let mut state = self.state.lock();
        if state.closed {
            return Put::Taken;
        }
        let waiting = state.waiting();
        if waiting > limits::OUTBOX_CEILING || (state.lagging && qos == Qos::AtMostOnce) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
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
            state.ready();
            parcel.write(self.version, delivery, self.max_packet, &mut state.bytes)
        } else if state.backlog.is_empty()
            && let Some(id) = state.outbound.admit(qos)
        {
            state.ready();
            let delivery = Delivery { packet_id: Some(id), ..delivery };
            let written = parcel.write(self.version, delivery, self.max_packet, &mut state.bytes);
            if !written {
                state.outbound.forget(id);
            }
            written
        } else {
            let delivery = Delivery { packet_id: Some(PacketId::MIN), ..delivery };
            state.backlog.push(qos, |out| parcel.write(self.version, delivery, self.max_packet, out))
        };
        if !written {
            // Larger than the client takes: as if it had been delivered (MQTT-3.1.2-25).
            return Put::Taken;
        }
        match (state.notice(), waiting > limits::OUTBOX_MARK && !state.lagging) {
            (_, true) => Put::Full,
            (true, false) => Put::Wake,
            (false, false) => Put::Taken,
        }
    }

    /// The client tells how far it is with a message; what becomes possible is put in. The answer: a PUBREL is due,
    /// with this reason.
    pub fn settle(&self, kind: AckKind, id: PacketId, reason: ReasonCode) -> Option<ReasonCode> {
        let mut state = self.state.lock();
        let settled = match kind {
            AckKind::PubAck => state.outbound.on_puback(id),
            AckKind::PubRec => state.outbound.on_pubrec(id, reason),
            AckKind::PubComp => state.outbound.on_pubcomp(id),
            AckKind::PubRel => return None,
        };
        match settled {
            Settled::Unknown => None,
            Settled::Done => {
                state.advance();
                None
            }
            Settled::Release(reason) => Some(reason),
        }
    }

    /// Bytes of the connection itself, in order with what is there.
    pub fn append(&self, bytes: &[u8]) {
        let mut state = self.state.lock();
        state.ready();
        state.bytes.extend_from_slice(bytes);
    }

    pub fn notify(&self, event: Event) {
        let mut state = self.state.lock();
        if !state.closed {
            state.events.push(event);
            state.notice();
            wake(&mut state);
        }
    }

    /// Several events for one lock and one wake-up.
    pub fn notify_all(&self, events: impl IntoIterator<Item = Event>) {
        let mut state = self.state.lock();
        if !state.closed {
            state.events.extend(events);
            state.notice();
            wake(&mut state);
        }
    }

    pub fn wake(&self) {
        wake(&mut self.state.lock());
    }

    /// Takes out everything; registers for a wake-up when there is nothing.
    pub fn take(&self, context: &Context<'_>, bytes_too: bool) -> Taken {
        let mut state = self.state.lock();
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            state.waker = Some(context.waker().clone());
        }
        let events = std::mem::take(&mut state.events);
        if !bytes_too {
            // Still writing the last bytes: publishers need not wake us for more.
            return Taken { bytes: Vec::new(), events };
        }
        state.noticed = false;
        let bytes = std::mem::take(&mut state.bytes);
        if state.backlog.is_empty() || state.backlog.len() < limits::OUTBOX_MARK / 2 {
            state.lagging = false;
            state.waiters.drain(..).for_each(Waker::wake);
        }
        Taken { bytes, events }
    }

    /// Ready once there is room, or nobody will take anything out any more.
    pub fn poll_room(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.closed || state.lagging || state.waiting() <= limits::OUTBOX_MARK {
            return Poll::Ready(());
        }
        if !state.waiters.iter().any(|waker| waker.will_wake(context.waker())) {
            state.waiters.push(context.waker().clone());
        }
        Poll::Pending
    }

    /// A publisher's patience has ended: until this client has caught up, nobody waits for it.
    pub fn give_up(&self) {
        let mut state = self.state.lock();
        if state.waiting() > limits::OUTBOX_MARK {
            state.lagging = true;
            state.waiters.drain(..).for_each(Waker::wake);
        }
    }

    pub fn has_room(&self) -> bool {
        self.state.lock().waiting() <= limits::OUTBOX_MARK
    }

    /// Nothing more is taken in; what waits is thrown away.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.bytes = Vec::new();
        state.backlog = Backlog::default();
        state.events = Vec::new();
        state.waker = None;
        state.waiters.drain(..).for_each(Waker::wake);
    }
}

fn wake(state: &mut State) {
    if let Some(waker) = &state.waker {
        waker.wake_by_ref();
    }
}

impl State {
    fn waiting(&self) -> usize {
        self.bytes.len() + self.backlog.len()
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

    /// The window has room: the backlog moves up.
    fn advance(&mut self) {
        while let Some(qos) = self.backlog.first() {
            let Some(id) = self.outbound.admit(qos) else { return };
            self.ready();
            self.backlog.pop_into(id, &mut self.bytes);
        }
    }
}

/// Whole packets in one run of bytes, each still without its identifier. Sent ones are not removed from the front one
/// by one: that would move all the others each time.
#[derive(Debug, Default)]
struct Backlog {
    bytes: Vec<u8>,
    sent: usize,
    packets: VecDeque<(usize, Qos)>,
}

impl Backlog {
    fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    fn first(&self) -> Option<Qos> {
        self.packets.front().map(|(_, qos)| *qos)
    }

    fn push(&mut self, qos: Qos, write: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        let before = self.bytes.len();
        let written = write(&mut self.bytes);
        if written {
            self.packets.push_back((self.bytes.len() - before, qos));
        }
        written
    }

    fn pop_into(&mut self, id: PacketId, out: &mut Vec<u8>) {
        let Some((length, _)) = self.packets.pop_front() else { return };
        let at = out.len();
        out.extend_from_slice(&self.bytes[self.sent..self.sent + length]);
        patch_id(&mut out[at..], id);
        self.sent += length;
        if self.packets.is_empty() {
            *self = Self::default();
        } else if self.sent > self.bytes.len() / 2 && self.sent > 64 * 1024 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }
}

/// Sets the identifier of a PUBLISH above QoS 0: it stands behind the fixed header and the topic.
pub(super) fn patch_id(packet: &mut [u8], id: PacketId) {
    let header = 2 + packet[1..].iter().take_while(|byte| **byte & 0x80 != 0).count();
    let topic = usize::from(u16::from_be_bytes([packet[header], packet[header + 1]]));
    let at = header + 2 + topic;
    packet[at..at + 2].copy_from_slice(&id.get().to_be_bytes());
}
