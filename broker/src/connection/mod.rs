//! One client: bytes in, the session decides, effects are carried out, bytes out.
//!
//! All of a connection happens in `poll_turn`: read what is there, act, take what others left in the outbox, write it
//! with one call. While a client is idle it holds no buffer, and what only a beginning or an end needs is not there.

mod alarm;
mod hands;
mod leeway;
mod tally;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use nsd_edge::stream::{Stream, poll_read_scratch};
use nsd_wire::packet::Sender;
use nsd_wire::{Packet, ReadError, ReasonCode, frame};
use tokio::io::AsyncWrite;
use tracing::debug;

use crate::hub::{self, Event};
use crate::limits;
use crate::node::Node;
use crate::session::{Ending, Opening, Session};
use crate::telemetry::Ended;
use hands::Hands;

pub use alarm::{Alarm, Alarms};

/// Reads of one connection before the others of its thread get their turn.
const READS_A_TURN: usize = 4;

/// Where a connection comes from.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: SocketAddr,
    /// Whom a client certificate names, checked here or by a balancer that we trust.
    pub certified: Option<Box<str>>,
}

struct Connection {
    stream: Stream,
    session: Session,
    hands: Hands,
    /// The beginning of a packet whose end has not come, or packets that must wait for a decision.
    partial: Vec<u8>,
    /// Being written; `sent` of it is.
    unsent: Vec<u8>,
    sent: usize,
    /// The socket took nothing more at the last attempt.
    stuck: bool,
    /// A stream that is not plain took bytes that it has not passed on yet.
    unflushed: bool,
    alarm: Alarm,
    /// What all of the above hold.
    held: hub::Held,
    /// When patience with the first of the full receivers ends.
    patience: Option<Instant>,
    /// When we close, whether or not the last bytes could be written.
    farewell: Option<Instant>,
}

enum Next {
    Admit(Box<Opening>),
    Challenge(Box<[u8]>),
    /// There is more to do, after the others of this thread had their turn.
    Again,
    End,
}

/// Serves one client until it is gone. The future is most of what an idle client takes: it is the connection and little
/// else, and what is large and soon over is boxed.
pub fn serve(
    stream: Stream,
    peer: Peer,
    node: Arc<Node>,
    alarms: Arc<Alarms>,
) -> impl Future<Output = ()> + Send {
    let mut connection = Connection {
        stream,
        session: Session::new(node.limits.load_full(), Instant::now()),
        hands: Hands::new(node, peer),
        partial: Vec::new(),
        unsent: Vec::new(),
        sent: 0,
        stuck: false,
        unflushed: false,
        alarm: Alarm::new(alarms),
        held: hub::Held::default(),
        patience: None,
        farewell: None,
    };
    async move {
        loop {
            let next = std::future::poll_fn(|context| {
                let next = connection.poll_turn(context);
                connection.account();
                next
            });
            let effects = match next.await {
                Next::Admit(opening) => {
                    let decision = Box::pin(connection.hands.admit(&opening)).await;
                    connection.session.on_admitted(decision, Instant::now())
                }
                Next::Challenge(first) => {
                    let outcome = Box::pin(connection.hands.challenge(&first)).await;
                    connection.session.on_challenge(outcome)
                }
                // Not by waking itself: the runtime looks at its sockets only once in many turns, and a client that
                // keeps its task ready would be all that the thread sees.
                Next::Again => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Next::End => break,
            };
            connection.hands.carry_out(effects, None);
        }
        Box::pin(connection.depart()).await;
    }
}

impl Connection {
    async fn depart(mut self) {
        self.stream.farewell().await;
        self.hands.depart();
    }

    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        let now = Instant::now();
        for _ in 0..READS_A_TURN {
            let mut progress = self.read(context, now);
            self.hands.publish_batch();
            progress |= self.take(context);
            progress |= self.hands.continue_retained();
            progress |= self.write(context);
            if let Some(opening) = self.hands.opening.take() {
                return Poll::Ready(Next::Admit(opening));
            }
            if let Some(first) = self.hands.first.take() {
                return Poll::Ready(Next::Challenge(first));
            }
            if self.hands.closing {
                let farewell = *self.farewell.get_or_insert(now + limits::FAREWELL);
                let silent = self.hands.replies.is_empty() && self.hands.last_word.is_empty();
                if (self.is_all_sent() && silent) || now >= farewell {
                    return Poll::Ready(Next::End);
                }
            }
            progress |= self.tick(context, now);
            if !progress {
                return Poll::Pending;
            }
        }
        Poll::Ready(Next::Again)
    }

    fn account(&mut self) {
        let bytes = self.partial.len() + self.unsent.len() - self.sent + self.hands.replies.len();
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
        if self.hands.replies.len() > limits::REPLIES_MARK {
            return false;
        }
        if !self.partial.is_empty() && self.session.may_read() {
            let partial = std::mem::take(&mut self.partial);
            let used = self.act_on(&partial, now);
            self.partial = partial;
            self.partial.drain(..used);
            if used > 0 {
                return true;
            }
        }
        if !self.session.may_read() || self.hands.closing {
            self.session.excuse(now);
            return false;
        }
        let Self { stream, session, hands, partial, .. } = self;
        let polled = poll_read_scratch(Pin::new(stream), context, |bytes| {
            if bytes.is_empty() {
                return false;
            }
            hands.tally.received(bytes.len(), now);
            if partial.is_empty() {
                let used = act_on(session, hands, bytes, now);
                partial.extend_from_slice(&bytes[used..]);
            } else {
                partial.extend_from_slice(bytes);
                let used = act_on(session, hands, partial, now);
                partial.drain(..used);
            }
            if partial.is_empty() {
                *partial = Vec::new();
            }
            true
        });
        match polled {
            Poll::Pending => false,
            Poll::Ready(Ok(true)) => true,
            Poll::Ready(Ok(false)) => self.lost(None),
            Poll::Ready(Err(error)) => self.lost(Some(&error)),
        }
    }

    fn act_on(&mut self, bytes: &[u8], now: Instant) -> usize {
        act_on(&mut self.session, &mut self.hands, bytes, now)
    }

    fn lost(&mut self, error: Option<&io::Error>) -> bool {
        if let Some(error) = error {
            debug!(peer = %self.hands.peer.address, %error, "connection lost");
        }
        self.hands.tally.ends(Ended::Lost);
        let effects = self.session.on_end(Ending::Lost);
        self.hands.carry_out(effects, None);
        self.hands.closing = true;
        self.farewell = Some(Instant::now());
        true
    }

    /// Back-pressure: a publisher is not read from while those it fills are full, as long as patience with them lasts.
    fn is_waiting_for_room(&mut self, context: &Context<'_>, now: Instant) -> bool {
        self.patience = None;
        self.hands.full.retain(|outbox| {
            let until = outbox.wait_for_room(context, now);
            self.patience = self.patience.into_iter().chain(until).min();
            until.is_some()
        });
        self.hands.poll_lanes(context).is_pending() || !self.hands.full.is_empty()
    }

    /// Takes what others have left for this client.
    fn take(&mut self, context: &Context<'_>) -> bool {
        let Some(outbox) = &self.hands.outbox else { return false };
        let taken = outbox.take(self.hands.attachment, context, self.is_all_sent());
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
            self.unsent = taken.bytes;
        }
        let progress = !taken.events.is_empty();
        for event in taken.events {
            match event {
                Event::Stored(receipt, reason) => {
                    let effects = self.session.on_stored(receipt, reason);
                    self.hands.carry_out(effects, None);
                }
                Event::Known { token, reason } => self.hands.on_known(token, reason),
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
    fn write(&mut self, context: &mut Context<'_>) -> bool {
        let mut again = false;
        loop {
            if self.is_all_sent() && !self.hands.replies.is_empty() {
                self.unsent = std::mem::take(&mut self.hands.replies);
            } else if !self.hands.replies.is_empty() && self.sent == 0 && !self.stuck {
                // Replies first: a CONNACK or SUBACK goes before the messages it lets through. Once the socket is
                // full, they gather behind: to move all that waits for each of them would cost too much.
                let mut replies = std::mem::take(&mut self.hands.replies);
                replies.extend_from_slice(&self.unsent);
                hub::give_buffer(std::mem::replace(&mut self.unsent, replies));
            }
            if self.is_all_sent() && !self.hands.last_word.is_empty() {
                let attachment = self.hands.attachment;
                let waiting =
                    self.hands.outbox.as_ref().map(|outbox| outbox.take(attachment, context, true).bytes);
                let waiting = waiting.filter(|bytes| !bytes.is_empty());
                self.unsent = waiting.unwrap_or_else(|| std::mem::take(&mut self.hands.last_word));
            }
            if self.is_all_sent() {
                return again;
            }
            let wrote = self.poll_write(context);
            self.stuck = wrote.is_pending();
            match wrote {
                Poll::Pending => return again,
                Poll::Ready(Ok(())) => again = self.hands.outbox.is_some(),
                Poll::Ready(Err(error)) => return self.lost(Some(&error)),
            }
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.unsent.len() {
            let wrote = ready!(Pin::new(&mut self.stream).poll_write(context, &self.unsent[self.sent..]))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += wrote;
            self.hands.tally.sent(wrote);
        }
        if !self.unsent.is_empty() {
            self.sent = 0;
            hub::give_buffer(std::mem::take(&mut self.unsent));
            self.unflushed = self.stream.holds_back();
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn is_all_sent(&self) -> bool {
        self.unsent.is_empty() && !self.unflushed
    }

    /// One alarm for all deadlines. What was due is handled here or by the turn that the alarm begins.
    fn tick(&mut self, context: &Context<'_>, now: Instant) -> bool {
        let effects = self.session.on_tick(now);
        let progress = !effects.is_empty();
        self.hands.carry_out(effects, None);
        if progress && self.hands.closing {
            // v5 was told why a moment ago; v3 is closed for this reason alone.
            self.hands.tally.ends(Ended::ByServer(ReasonCode::KeepAliveTimeout));
        }
        let wanted = [self.session.deadline(), self.session.rests_until(now), self.patience, self.farewell];
        if let Some(wanted) = wanted.into_iter().flatten().min() {
            self.alarm.set(wanted, now, context);
        }
        progress
    }
}

/// Acts on every whole packet in `bytes`; returns how many bytes were used.
fn act_on(session: &mut Session, hands: &mut Hands, bytes: &[u8], now: Instant) -> usize {
    let mut rest = bytes;
    while session.may_read() && session.rests_until(now).is_none() && !hands.closing {
        let version = session.version();
        let error = match frame(rest, session.max_packet()) {
            Ok(None) => break,
            Ok(Some(frame)) => {
                let Some(body) = frame.body_of(rest) else { break };
                let wire = &rest[..frame.len()];
                rest = &rest[frame.len()..];
                hands.tally.packet(frame.kind);
                let packet = nsd_wire::decode(version, frame, body);
                let checked =
                    packet.and_then(|packet| packet.check_sender(Sender::Client, version).map(|()| packet));
                match checked {
                    Ok(packet) => {
                        // Also a refusal is told in the client's version.
                        if let (true, Packet::Connect(connect)) = (session.awaits_connect(), &packet) {
                            hands.version = connect.version;
                        }
                        session.pay(&packet, wire.len(), now);
                        let effects = session.on_packet(packet, now);
                        hands.carry_out(effects, Some((wire, version)));
                        while let Some((receipt, reason)) = hands.stored.pop_front() {
                            let effects = session.on_stored(receipt, reason);
                            hands.carry_out(effects, None);
                        }
                        session.on_unsubscribed(&std::mem::take(&mut hands.unsubscribed));
                        continue;
                    }
                    Err(error) => ReadError::Decode(error),
                }
            }
            Err(error) => ReadError::Frame(error),
        };
        debug!(peer = %hands.peer.address, %error, "refused a packet");
        hands.tally.ends(Ended::ByServer(error.reason()));
        let effects = session.on_error(error);
        hands.carry_out(effects, None);
    }
    bytes.len() - rest.len()
}
