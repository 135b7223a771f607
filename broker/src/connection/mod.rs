//! One client: bytes in, the session decides, effects are carried out, bytes out.
//!
//! All of a connection happens in `poll_turn`: read what is there, act, take what others left in the outbox, write it
//! with one call. While a client is idle it holds no buffer, and what only a beginning or an end needs is not there.

mod alarm;
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

use nsd_edge::stream::{Stream, poll_read_scratch};
use nsd_wire::packet::Sender;
use nsd_wire::{Packet, ReadError, ReasonCode, frame};
use tracing::debug;

use crate::hub::{self, Event};
use crate::limits::{self, Limits};
use crate::node::Node;
use crate::session::{Effects, Ending, Opening, Session};
use crate::telemetry::Ended;
use hands::Hands;
use line::Line;

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
    line: Line,
    session: Session,
    hands: Hands,
    alarm: Alarm,
    /// What all of the above hold.
    held: hub::Held,
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
    limits: Arc<Limits>,
) -> impl Future<Output = ()> + Send {
    let (line, writer) = Line::new(stream);
    let mut connection = Connection {
        line,
        session: Session::new(limits, Instant::now()),
        hands: Hands::new(node, peer, writer),
        alarm: Alarm::new(alarms),
        held: hub::Held::default(),
    };
    async move {
        loop {
            let next = std::future::poll_fn(|context| {
                let next = connection.poll_turn(context);
                connection.account();
                connection.hands.work.rest();
                next
            });
            let deciding: Pin<Box<dyn Future<Output = Effects<'static>> + Send>> = match next.await {
                Next::Admit(opening) => Box::pin(connection.admit(opening)),
                Next::Challenge(first) => Box::pin(connection.challenge(first)),
                // Not by waking itself: the runtime looks at its sockets only once in many turns, and a client that
                // keeps its task ready would be all that the thread sees.
                Next::Again => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Next::End => break,
            };
            let effects = deciding.await;
            connection.hands.carry_out(effects, None);
        }
        Box::pin(connection.depart()).await;
    }
}

impl Connection {
    async fn admit(&mut self, opening: Box<Opening>) -> Effects<'static> {
        let decision = self.hands.admit(&opening).await;
        self.session.on_admitted(decision, Instant::now())
    }

    async fn challenge(&mut self, first: Box<[u8]>) -> Effects<'static> {
        let outcome = self.hands.challenge(&first).await;
        self.session.on_challenge(outcome)
    }

    async fn depart(mut self) {
        self.line.farewell().await;
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
            if let Some(work) = self.hands.work.held() {
                if let Some(opening) = work.opening.take() {
                    return Poll::Ready(Next::Admit(opening));
                }
                if let Some(first) = work.first.take() {
                    return Poll::Ready(Next::Challenge(first));
                }
            }
            if self.hands.closing {
                let work = &mut self.hands.work;
                let farewell = *work.farewell.get_or_insert(now + limits::FAREWELL);
                if (work.is_all_sent() && work.is_silent()) || now >= farewell {
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
            Poll::Ready(Ok(false)) => self.lost(None),
            Poll::Ready(Err(error)) => self.lost(Some(&error)),
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

    fn lost(&mut self, error: Option<&io::Error>) -> bool {
        if let Some(error) = error {
            debug!(peer = self.hands.address(), %error, "connection lost");
        }
        self.hands.tally.ends(Ended::Lost);
        let effects = self.session.on_end(Ending::Lost);
        self.hands.carry_out(effects, None);
        self.hands.closing = true;
        self.hands.work.farewell = Some(Instant::now());
        true
    }

    /// Back-pressure: a publisher is not read from while those it fills are full, as long as patience with them lasts.
    fn is_waiting_for_room(&mut self, context: &Context<'_>, now: Instant) -> bool {
        if let Some(work) = self.hands.work.held() {
            work.patience = None;
            work.full.retain(|outbox| {
                let until = outbox.wait_for_room(context, now);
                work.patience = work.patience.into_iter().chain(until).min();
                until.is_some()
            });
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
                Poll::Ready(Err(error)) => return self.lost(Some(&error)),
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

    /// One alarm for all deadlines. What was due is handled here or by the turn that the alarm begins.
    fn tick(&mut self, context: &Context<'_>, now: Instant) -> bool {
        let effects = self.session.on_tick(now);
        let progress = !effects.is_empty();
        self.hands.carry_out(effects, None);
        if progress && self.hands.closing {
            // v5 was told why a moment ago; v3 is closed for this reason alone.
            self.hands.tally.ends(Ended::ByServer(ReasonCode::KeepAliveTimeout));
        }
        let wanted = [
            self.session.deadline(),
            self.session.rests_until(now),
            self.hands.work.patience,
            self.hands.work.farewell,
        ];
        if let Some(wanted) = wanted.into_iter().flatten().min() {
            self.alarm.set(wanted, now, context);
        }
        progress
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
    while session.may_read() && session.rests_until(now).is_none() && !hands.closing {
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
                        if !hands.work.unsubscribed.is_empty() {
                            session.on_unsubscribed(&std::mem::take(&mut hands.work.unsubscribed));
                        }
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
    use super::*;

    /// A fleet is idle most of the time, so this is most of a broker's memory. A field too many shows here, not in a
    /// benchmark months later. The task around it holds 64 bytes more and rounds up to 384.
    #[test]
    fn an_idle_client_is_small() {
        fn served<S, P, N, A, L, F>(_: impl FnOnce(S, P, N, A, L) -> F) -> usize {
            size_of::<F>()
        }
        assert!(served(serve) <= 208);
        assert!(size_of::<hub::Outbox>() <= 256);
    }
}
