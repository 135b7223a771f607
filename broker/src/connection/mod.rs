//! One client: bytes in, the session decides, effects are carried out, bytes out.
//!
//! All of a connection happens in `Connection::next`: read what is there, act, take what others left in the outbox,
//! write it with one call. While a client is idle it holds no buffer, and what only a beginning or an end needs is not there.

mod explanation;
mod hands;
mod leeway;
mod line;
mod partial;
mod tally;
mod work;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use nsd_edge::stream::poll_read_scratch;
use nsd_wire::packet::Sender;
use nsd_wire::{Packet, ReadError, ReasonCode, frame};
use tracing::debug;

use crate::executor::{self, News, Turn};
use crate::hub::{self, Event};
use crate::limits::{self, Limits};
use crate::node::Node;
use crate::session::{Effects, Ending, Opening, Session};
use crate::telemetry::Ended;
use hands::Hands;

pub use line::Line;

/// Reads of one connection before the others of its thread get their turn.
const READS_A_TURN: usize = 4;

/// Where a connection comes from.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: SocketAddr,
    /// Whom a client certificate names, checked here or by a balancer that we trust.
    pub certified: Option<Box<str>>,
}

/// One client, from its coming until it is gone. It is most of what an idle client takes: its connection and little else,
/// and what is large and soon over is boxed. `H`: what it holds meanwhile.
pub struct Client<H> {
    phase: Phase<H>,
    /// What its socket told while nobody listened.
    heard: News,
    held: Option<H>,
}

enum Phase<H> {
    Arriving(Soon<Option<(Connection, H)>>),
    Talking(Connection),
    /// Whether it may come in, or how it can prove itself.
    Deciding(Soon<(Connection, Effects<'static>)>),
    Gone,
}

type Soon<T> = Pin<Box<dyn Future<Output = T> + Send>>;

pub struct Connection {
    line: Line,
    session: Session,
    hands: Hands,
    /// What all of the above hold.
    held: hub::Held,
}

enum Next {
    Turn(Turn),
    Admit(Box<Opening>),
    Challenge(Box<[u8]>),
    End,
}

impl<H> Client<H> {
    pub fn new(connection: Connection, held: H) -> Self {
        Self { phase: Phase::Talking(connection), heard: News::default(), held: Some(held) }
    }

    /// One that is not a client yet, and may never be.
    pub fn arriving(arriving: impl Future<Output = Option<(Connection, H)>> + Send + 'static) -> Self {
        Self { phase: Phase::Arriving(Box::pin(arriving)), heard: News::default(), held: None }
    }

    fn go_on(&mut self, mut connection: Connection) {
        connection.line.hear(std::mem::take(&mut self.heard));
        self.phase = Phase::Talking(connection);
    }

    fn decide<F>(&mut self, deciding: impl FnOnce(Connection) -> F)
    where
        F: Future<Output = (Connection, Effects<'static>)> + Send + 'static,
    {
        if let Phase::Talking(connection) = std::mem::replace(&mut self.phase, Phase::Gone) {
            self.phase = Phase::Deciding(Box::pin(deciding(connection)));
        }
    }

    fn depart(&mut self, context: &mut Context<'_>) {
        if let Phase::Talking(connection) = std::mem::replace(&mut self.phase, Phase::Gone) {
            connection.depart(context);
        }
    }
}

impl<H: Send + 'static> executor::Client for Client<H> {
    fn hear(&mut self, news: News) -> bool {
        match &mut self.phase {
            Phase::Talking(connection) => connection.line.hear(news),
            Phase::Arriving(_) | Phase::Deciding(_) | Phase::Gone => {
                self.heard.add(news);
                false
            }
        }
    }

    fn turn(&mut self, context: &mut Context<'_>) -> Turn {
        loop {
            match &mut self.phase {
                Phase::Arriving(arriving) => match arriving.as_mut().poll(context) {
                    Poll::Ready(Some((connection, held))) => {
                        self.held = Some(held);
                        self.go_on(connection);
                    }
                    Poll::Ready(None) => self.phase = Phase::Gone,
                    Poll::Pending => return Turn::Rest(None),
                },
                Phase::Talking(connection) => match connection.turn(context) {
                    Next::Turn(turn) => return turn,
                    Next::Admit(opening) => self.decide(|connection| connection.admit(opening)),
                    Next::Challenge(first) => self.decide(|connection| connection.challenge(first)),
                    Next::End => self.depart(context),
                },
                Phase::Deciding(deciding) => match deciding.as_mut().poll(context) {
                    Poll::Ready((mut connection, effects)) => {
                        connection.hands.carry_out(effects, None);
                        self.go_on(connection);
                    }
                    Poll::Pending => return Turn::Rest(None),
                },
                Phase::Gone => return Turn::Over,
            }
        }
    }
}

impl Connection {
    pub fn new(line: Line, peer: Peer, node: Arc<Node>, limits: Arc<Limits>) -> Self {
        let writer = line.writer();
        Self {
            line,
            session: Session::new(limits, Instant::now()),
            hands: Hands::new(node, peer, writer),
            held: hub::Held::default(),
        }
    }

    async fn admit(mut self, opening: Box<Opening>) -> (Self, Effects<'static>) {
        let decision = self.hands.admit(&opening).await;
        let effects = self.session.on_admitted(decision, Instant::now());
        (self, effects)
    }

    async fn challenge(mut self, first: Box<[u8]>) -> (Self, Effects<'static>) {
        let outcome = self.hands.challenge(&first).await;
        let effects = self.session.on_challenge(outcome);
        (self, effects)
    }

    fn depart(mut self, context: &mut Context<'_>) {
        self.line.farewell(context);
        self.hands.depart();
    }

    fn turn(&mut self, context: &mut Context<'_>) -> Next {
        let next = self.next(context);
        self.account();
        self.hands.work.rest();
        next
    }

    fn next(&mut self, context: &mut Context<'_>) -> Next {
        let now = Instant::now();
        if self.hands.is_unknown() && !self.hands.closing && self.hands.node_ends() {
            return Next::End;
        }
        for _ in 0..READS_A_TURN {
            let mut progress = self.read(context, now);
            self.hands.publish_batch();
            progress |= self.take(context);
            progress |= self.hands.continue_retained();
            progress |= self.write(context, now);
            if let Some(work) = self.hands.work.held() {
                if let Some(opening) = work.opening.take() {
                    return Next::Admit(opening);
                }
                if let Some(first) = work.first.take() {
                    return Next::Challenge(first);
                }
            }
            if self.hands.closing {
                let work = &mut self.hands.work;
                let farewell = *work.farewell.get_or_insert(now + limits::FAREWELL);
                if (work.is_all_sent() && work.is_silent()) || now >= farewell {
                    return Next::End;
                }
            }
            progress |= self.tick(now);
            if !progress {
                return Next::Turn(Turn::Rest(self.deadline(now)));
            }
        }
        Next::Turn(Turn::Again)
    }

    fn account(&mut self) {
        let work = &*self.hands.work;
        let bytes = work.partial.held() + work.unsent.len() - work.sent + work.replies.len();
        if self.held.set(bytes)
            && let Some(outbox) = &self.hands.outbox
        {
            outbox.carry(bytes);
        }
    }

    /// Reads once, if more may be read. Tells whether something came.
    fn read(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        if self.hands.closing {
            return false;
        }
        let rests = self.session.rests_until(now).is_some();
        if rests || self.is_waiting_for_room(context, now) || self.hands.has_many_subscribes() {
            self.session.excuse(now);
            return false;
        }
        // Not excused: this client does not take what it asked for.
        if self.hands.work.replies.len() > limits::REPLIES_MARK {
            return false;
        }
        if !self.hands.work.partial.is_empty()
            && self.session.may_read()
            && act_on_partial(&mut self.session, &mut self.hands, now) > 0
        {
            return true;
        }
        if !self.session.may_read() || self.hands.closing {
            self.session.excuse(now);
            return false;
        }
        let polled = match self.hands.work.partial.wanted(self.session.max_packet()) {
            0 => self.poll_read(context, now),
            wanted => self.poll_read_on(context, wanted, now),
        };
        match polled {
            Poll::Pending => false,
            Poll::Ready(Ok(true)) => true,
            Poll::Ready(Ok(false)) => self.lost(None, now),
            Poll::Ready(Err(error)) => self.lost(Some(&error), now),
        }
    }

    /// Whatever comes; `false` is the end.
    fn poll_read(&mut self, context: &mut Context<'_>, now: Instant) -> Poll<io::Result<bool>> {
        let Self { line, session, hands, .. } = self;
        poll_read_scratch(Pin::new(line), context, |mut bytes| {
            if bytes.is_empty() {
                return false;
            }
            hands.tally.received(bytes.len(), now);
            while !bytes.is_empty() && !hands.work.partial.is_empty() {
                bytes = hands.work.partial.complete(bytes, session.max_packet());
                act_on_partial(session, hands, now);
            }
            let used = act_on(session, hands, bytes, now);
            if used < bytes.len() {
                hands.work.partial.begin(&bytes[used..], session.max_packet());
            }
            true
        })
    }

    /// More of a large packet; `false` is the end.
    fn poll_read_on(
        &mut self,
        context: &mut Context<'_>,
        wanted: usize,
        now: Instant,
    ) -> Poll<io::Result<bool>> {
        let Self { line, session, hands, .. } = self;
        let read = ready!(hands.work.partial.poll_read(line, context, wanted))?;
        hands.tally.received(read, now);
        act_on_partial(session, hands, now);
        Poll::Ready(Ok(read > 0))
    }

    /// It ends in this very turn, whatever could not be sent.
    fn lost(&mut self, error: Option<&io::Error>, now: Instant) -> bool {
        if let Some(error) = error {
            debug!(peer = self.hands.address(), %error, "connection lost");
        }
        self.hands.tally.ends(Ended::Lost);
        let effects = self.session.on_end(Ending::Lost);
        self.hands.carry_out(effects, None);
        self.hands.closing = true;
        self.hands.work.farewell = Some(now);
        true
    }

    /// Back-pressure: a publisher is not read from while those it fills are full, as long as patience with them lasts.
    fn is_waiting_for_room(&mut self, context: &Context<'_>, now: Instant) -> bool {
        if let (Some(work), Some(own)) = (self.hands.work.held(), &self.hands.outbox) {
            work.patience = None;
            if !work.full.is_empty() {
                own.wait_for(&mut work.full);
            }
            work.full.retain(|outbox| {
                let until = outbox.wait_for_room(context, now);
                work.patience = work.patience.into_iter().chain(until).min();
                until.is_some()
            });
            if work.full.is_empty() {
                own.wait_for(&mut work.full);
            }
        }
        self.hands.poll_lanes(context).is_pending() || !self.hands.work.full.is_empty()
    }

    /// Takes what others have left for this client.
    fn take(&mut self, context: &Context<'_>) -> bool {
        let Some(outbox) = &self.hands.outbox else { return false };
        let has_nothing = !self.hands.closing && self.hands.work.is_silent();
        let taken = outbox.take(self.hands.attachment, context, self.hands.work.is_all_sent(), has_nothing);
        if taken.stale {
            if self.hands.closing {
                return false;
            }
            self.hands.tally.ends(Ended::ByServer(ReasonCode::SessionTakenOver));
            let effects = self.session.on_end(Ending::SentAway(ReasonCode::SessionTakenOver));
            self.hands.carry_out(effects, None);
            return true;
        }
        self.hands.done(&taken.done);
        if !taken.bytes.is_empty() {
            let work = &mut *self.hands.work;
            (work.unsent, work.sent) = (taken.bytes, taken.written);
        }
        let progress = !taken.events.is_empty();
        for event in taken.events {
            match event {
                Event::Stored(receipt, reason) => {
                    let effects = self.session.on_stored(receipt, reason);
                    self.hands.carry_out(effects, None);
                }
                Event::Known { token, reason } => {
                    self.hands.on_known(token, reason);
                    forget_unsubscribed(&mut self.session, &mut self.hands);
                }
                Event::Leave(reason) => {
                    self.hands.tally.ends(Ended::ByServer(reason));
                    let effects = self.session.on_end(Ending::SentAway(reason));
                    self.hands.carry_out(effects, None);
                }
            }
        }
        progress
    }

    /// Writes replies and packets, many with one call. Tells whether the outbox should be looked at again.
    fn write(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        let mut again = false;
        // Nothing at all: an idle client.
        while let Some(work) = self.hands.work.held() {
            if work.is_all_sent() && !work.replies.is_empty() {
                work.unsent = std::mem::take(&mut work.replies);
            } else if !work.replies.is_empty() && work.sent == 0 && !work.stuck {
                // Replies first: a CONNACK or SUBACK goes before the messages it lets through. Once the socket is
                // full, they gather behind: to move all that waits for each of them would cost too much.
                let mut replies = std::mem::take(&mut work.replies);
                replies.extend_from_slice(&work.unsent);
                hub::give_buffer(std::mem::replace(&mut work.unsent, replies));
            }
            if work.is_all_sent() && !work.last_word.is_empty() {
                let attachment = self.hands.attachment;
                let waiting = self
                    .hands
                    .outbox
                    .as_ref()
                    .map(|outbox| outbox.take(attachment, context, true, false).bytes);
                let waiting = waiting.filter(|bytes| !bytes.is_empty());
                work.unsent = waiting.unwrap_or_else(|| std::mem::take(&mut work.last_word));
            }
            if work.is_all_sent() {
                break;
            }
            let sent_before = self.hands.work.sent;
            let wrote = self.poll_write(context);
            self.hands.work.stuck = wrote.is_pending();
            match wrote {
                Poll::Pending => {
                    let outbox = self.hands.outbox.as_ref().filter(|_| self.hands.work.sent > sent_before);
                    outbox.into_iter().for_each(|outbox| outbox.takes_something());
                    break;
                }
                Poll::Ready(Ok(())) => again = self.hands.outbox.is_some(),
                Poll::Ready(Err(error)) => return self.lost(Some(&error), now),
            }
        }
        again
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let work = &mut *self.hands.work;
        while work.sent < work.unsent.len() {
            let wrote = ready!(self.line.poll_write(context, &work.unsent[work.sent..]))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            work.sent += wrote;
            self.hands.tally.sent(wrote);
        }
        if !work.unsent.is_empty() {
            work.sent = 0;
            hub::give_buffer(std::mem::take(&mut work.unsent));
            work.held_back = self.line.holds_back();
        }
        if work.held_back {
            ready!(self.line.poll_flush(context))?;
            work.held_back = false;
        }
        Poll::Ready(Ok(()))
    }

    /// What is due is handled here or by the turn that begins then.
    fn tick(&mut self, now: Instant) -> bool {
        let effects = self.session.on_tick(now);
        let progress = !effects.is_empty();
        self.hands.carry_out(effects, None);
        if progress && self.hands.closing {
            // v5 was told why a moment ago; v3 is closed for this reason alone.
            self.hands.tally.ends(Ended::ByServer(ReasonCode::KeepAliveTimeout));
        }
        progress
    }

    fn deadline(&self, now: Instant) -> Option<Instant> {
        let (session, work) = (&self.session, &self.hands.work);
        let all = [session.deadline(), session.rests_until(now), work.patience, work.farewell];
        all.into_iter().flatten().min()
    }
}

/// Subscriptions that there are none of after all.
fn forget_unsubscribed(session: &mut Session, hands: &mut Hands) {
    if !hands.work.unsubscribed.is_empty() {
        session.on_unsubscribed(&std::mem::take(&mut hands.work.unsubscribed));
    }
}

/// Acts on what was put together; returns how many bytes were used.
fn act_on_partial(session: &mut Session, hands: &mut Hands, now: Instant) -> usize {
    let mut partial = std::mem::take(&mut hands.work.partial);
    let used = act_on(session, hands, partial.bytes(), now);
    partial.used(used);
    hands.work.partial = partial;
    used
}

/// Acts on every whole packet in `bytes`; returns how many bytes were used.
fn act_on(session: &mut Session, hands: &mut Hands, bytes: &[u8], now: Instant) -> usize {
    let mut rest = bytes;
    while session.may_read() && session.rests_until(now).is_none() && !hands.closing && !hands.superseded {
        let version = session.version();
        let error = match frame(rest, session.max_packet()) {
            Ok(None) => break,
            Ok(Some(frame)) => {
                let Some(body) = frame.body_of(rest) else { break };
                let wire = &rest[..frame.len()];
                rest = &rest[frame.len()..];
                hands.tally.packet(frame.kind);
                // Checked where it is: packets are large values.
                let packet = nsd_wire::decode(version, frame, body);
                let known = packet.as_ref().map_err(|error| *error);
                let checked =
                    known.and_then(|packet| packet.check_sender(Sender::Client, version).map(|()| packet));
                match checked {
                    Ok(packet) => {
                        if let (true, Packet::Connect(connect)) = (session.awaits_connect(), packet) {
                            hands.hear_connect(connect);
                        }
                        session.pay(packet, wire.len(), now);
                        let effects = session.on_packet(packet, now);
                        hands.carry_out(effects, Some((wire, version)));
                        while let Some((receipt, reason)) = hands.next_stored() {
                            let effects = session.on_stored(receipt, reason);
                            hands.carry_out(effects, None);
                        }
                        forget_unsubscribed(session, hands);
                        continue;
                    }
                    Err(error) => ReadError::Decode(error),
                }
            }
            Err(error) => ReadError::Frame(error),
        };
        debug!(peer = hands.address(), %error, "refused a packet");
        hands.tally.ends(Ended::ByServer(error.reason()));
        let effects = session.on_error(error);
        hands.carry_out(effects, None);
    }
    bytes.len() - rest.len()
}

#[cfg(test)]
mod tests {
    use nsd_wire::{AckKind, PacketId, Publish, Qos};

    use super::*;
    use crate::session::{Effect, Receipt};
    use crate::store::{MemoryStore, Store};

    fn node() -> Arc<Node> {
        let text = "allow_anonymous = true\n[access]\ntopic_rule = \"open\"\ndevices = false\n[store]\nkind = \
                    \"memory\"\n[[listen]]\naddress = \"127.0.0.1:1\"\n";
        let settings = crate::settings::parse(text).unwrap();
        let node = Node::new(&settings, Store::Memory(MemoryStore::default()), None, None);
        node.set_ready(true);
        Arc::new(node)
    }

    async fn admitted(node: &Arc<Node>, id: &str, expiry: u32) -> (Hands, crate::session::Admitted) {
        let peer = Peer { address: SocketAddr::from(([127, 0, 0, 1], 1)), certified: None };
        let mut hands = Hands::new(Arc::clone(node), peer, None);
        let admitted = hands.admit(&Opening::of(id, expiry)).await.unwrap();
        (hands, admitted)
    }

    /// Its client sends it again where it is connected now, and there it is another one.
    #[tokio::test]
    async fn a_qos_2_message_on_a_connection_that_was_taken_over_is_not_passed_on() {
        let node = node();
        let (receiver, _) = admitted(&node, "receiver", 60).await;
        let outbox = receiver.outbox.clone().unwrap();
        node.hub.subscribe(&outbox, [("t", Qos::ExactlyOnce.into(), None)]);
        let publish = |hands: &mut Hands, id: u16| {
            let id = PacketId::new(id).unwrap();
            let publish = Publish { qos: Qos::ExactlyOnce, packet_id: Some(id), ..Publish::new("t", b"x") };
            let receipt = Some(Receipt { id, kind: AckKind::PubRec });
            hands.carry_out(Effects::one(Effect::Route { publish: &publish, topic: "t", receipt }), None);
            outbox.load().in_flight
        };
        let (mut before, _) = admitted(&node, "c", 60).await;
        assert_eq!(publish(&mut before, 1), 1);
        let (mut now, known) = admitted(&node, "c", 60).await;
        assert_eq!(known.resumed.unwrap().held, [PacketId::MIN]);
        assert_eq!(publish(&mut before, 2), 1);
        assert_eq!(publish(&mut now, 2), 2);
    }

    /// Else what its client sends again would be answered before it is stored, and what comes behind it passed on before it.
    #[tokio::test]
    async fn who_takes_over_waits_for_what_the_connection_before_is_passing_on() {
        let node = node();
        let (before, _) = admitted(&node, "c", 60).await;
        let outbox = before.outbox.clone().unwrap();
        assert!(outbox.hold(before.attachment, PacketId::MIN));
        let mut entering = std::pin::pin!(admitted(&node, "c", 60));
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(entering.as_mut().poll(&mut context).is_pending());
        outbox.has_taken();
        assert_eq!(entering.await.1.resumed.unwrap().held, [PacketId::MIN]);
    }

    #[tokio::test]
    async fn a_client_that_a_panic_has_ended_is_not_there_any_more() {
        let node = node();
        for expiry in [0, 60] {
            let (hands, _) = admitted(&node, "c", expiry).await;
            let outbox = hands.outbox.clone().unwrap();
            node.hub.subscribe(&outbox, [("$share/g/t", Qos::AtLeastOnce.into(), None)]);
            outbox.with_persistent(|persistent| {
                persistent.filters.insert("$share/g/t".into(), (Qos::AtLeastOnce.into(), None))
            });
            assert_eq!((node.hub.connected(), node.hub.subscribed()), (1, 1));
            drop(hands);
            let kept = usize::from(expiry > 0);
            assert_eq!((node.hub.connected(), node.hub.subscribed(), node.hub.sessions()), (0, kept, kept));
        }
    }

    /// A fleet is idle most of the time, so this is most of a broker's memory. A field too many shows here, not in a
    /// benchmark months later. Around each are 16 bytes of an `Arc`, around a client 16 of its task.
    #[test]
    fn an_idle_client_is_small() {
        assert!(size_of::<Client<(Arc<()>, Arc<()>, Option<Box<()>>)>>() <= 168);
        assert!(size_of::<hub::Outbox>() <= 232);
        assert!(size_of::<hub::Card>() <= 88);
    }
}
