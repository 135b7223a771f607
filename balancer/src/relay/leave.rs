//! The clean end of a session that is told to leave: between packets, with DISCONNECT to its server, so that no will
//! fires for a client that is well, and to a v5 client.
//!
//! Both ways go on until the client's packet is complete. Then the server is told, and what it still has to say (it answers
//! in order: acknowledgements of all that the client sent) is passed on until it closes. Last the client is told.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nsd_edge::stream::poll_read_scratch;
use nsd_wire::{Disconnect, ReasonCode, Version};
use tokio::io::AsyncRead;
use tokio::time::{Sleep, sleep};

use super::direction::{Broke, Direction};
use super::{End, Handle, Order, Side};
use crate::limits;

/// DISCONNECT without a reason: a normal end in every version. In v5 the session's expiry stays what it was.
const NORMAL: [u8; 2] = [0xe0, 0];

#[derive(Debug)]
pub(super) struct Leave {
    order: Order,
    stage: Stage,
    /// The server has got its DISCONNECT.
    told: bool,
    /// And that was ours, not the client's own.
    ours: bool,
    /// The whole must be over then.
    deadline: Pin<Box<Sleep>>,
    /// The stage must.
    patience: Pin<Box<Sleep>>,
    farewell_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The client's packet is finished.
    Settling,
    /// The server was told; it answers what it has got, and closes.
    Answers,
    /// It did not close: its packet is finished.
    Finishing,
    /// The client is told.
    Goodbye,
    /// The client reads why, and closes.
    Farewell,
}

/// The two sides of a session, and what moves between them.
pub(super) struct Sides<'a, C, S> {
    pub(super) client: &'a mut C,
    pub(super) server: &'a mut S,
    pub(super) up: &'a mut Direction,
    pub(super) down: &'a mut Direction,
    pub(super) handle: &'a Handle,
}

impl Leave {
    pub(super) fn new(order: Order) -> Self {
        Self {
            order,
            stage: Stage::Settling,
            told: false,
            ours: false,
            deadline: Box::pin(sleep(limits::LEAVE)),
            patience: Box::pin(sleep(limits::LEAVE)),
            farewell_bytes: limits::FAREWELL_BYTES,
        }
    }

    /// Whether the server was told.
    pub(super) fn is_clean(&self) -> bool {
        self.told
    }

    /// Whether it was told so in the client's name.
    pub(super) fn has_spoken(&self) -> bool {
        self.told && self.ours
    }

    pub(super) fn poll<C, S>(
        &mut self,
        context: &mut Context<'_>,
        sides: &mut Sides<'_, C, S>,
        version: Option<Version>,
    ) -> Poll<End>
    where
        C: Side,
        S: Side,
    {
        let over = Poll::Ready(End::Told(self.order));
        if self.deadline.as_mut().poll(context).is_ready() {
            return over;
        }
        match self.poll_stages(context, sides, version) {
            Poll::Pending => Poll::Pending,
            // Whatever broke: there is nobody left to be polite to.
            Poll::Ready(Ok(()) | Err(_)) => over,
        }
    }

    fn poll_stages<C, S>(
        &mut self,
        context: &mut Context<'_>,
        sides: &mut Sides<'_, C, S>,
        version: Option<Version>,
    ) -> Poll<Result<(), Broke>>
    where
        C: Side,
        S: Side,
    {
        loop {
            match self.stage {
                Stage::Settling => {
                    let down = sides.poll_down(context);
                    ready!(sides.poll_settle_up(context))?;
                    if down.is_ready() {
                        // The server has ended meanwhile.
                        self.enter(Stage::Goodbye);
                    } else if sides.up.is_open() && sides.up.may_speak() {
                        self.speak(sides.up);
                        self.enter(Stage::Answers);
                    } else {
                        return Poll::Ready(Ok(()));
                    }
                }
                Stage::Answers => {
                    self.told |= sides.up.poll_send(context, sides.server).map_err(Broke::writer)?.is_ready();
                    if sides.poll_down(context).is_ready() {
                        self.enter(Stage::Goodbye);
                    } else if self.told {
                        ready!(self.patience.as_mut().poll(context));
                        self.enter(Stage::Finishing);
                    } else {
                        return Poll::Pending;
                    }
                }
                Stage::Finishing => {
                    ready!(sides.poll_settle_down(context))?;
                    self.enter(Stage::Goodbye);
                }
                Stage::Goodbye => {
                    let reason = self.order.goodbye().filter(|_| version.is_some_and(Version::is_v5));
                    if let Some(reason) = reason
                        && sides.down.may_speak()
                        && !sides.down.framing.said_goodbye()
                    {
                        sides.down.say(disconnect(reason));
                    }
                    ready!(sides.down.poll_send(context, sides.client)).map_err(Broke::writer)?;
                    ready!(Pin::new(&mut *sides.client).poll_shutdown(context)).map_err(Broke::writer)?;
                    self.enter(Stage::Farewell);
                }
                Stage::Farewell => return self.poll_farewell(context, sides.client),
            }
        }
    }

    /// A client may have said it just now; then nothing may follow [MQTT-3.14.4-2].
    fn speak(&mut self, up: &mut Direction) {
        self.ours = !up.framing.said_goodbye();
        if self.ours {
            up.say(NORMAL.to_vec());
        }
    }

    fn enter(&mut self, stage: Stage) {
        let patience = match stage {
            Stage::Answers => limits::LAST_ANSWERS,
            Stage::Farewell => limits::FAREWELL,
            _ => limits::LEAVE,
        };
        self.patience = Box::pin(sleep(patience));
        self.stage = stage;
    }

    /// To close with unread bytes would throw away what the client was told last.
    fn poll_farewell<C: AsyncRead + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        client: &mut C,
    ) -> Poll<Result<(), Broke>> {
        while self.farewell_bytes > 0 && self.patience.as_mut().poll(context).is_pending() {
            match ready!(poll_read_scratch(Pin::new(&mut *client), context, <[u8]>::len)) {
                Ok(0) | Err(_) => break,
                Ok(more) => self.farewell_bytes = self.farewell_bytes.saturating_sub(more),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<C, S> Sides<'_, C, S>
where
    C: Side,
    S: Side,
{
    fn poll_down(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broke>> {
        self.down.poll_all(context, self.server, self.client, &self.handle.down)
    }

    fn poll_settle_up(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broke>> {
        self.up.poll_settle(context, self.client, self.server, &self.handle.up)
    }

    fn poll_settle_down(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broke>> {
        self.down.poll_settle(context, self.server, self.client, &self.handle.down)
    }
}

fn disconnect(reason: ReasonCode) -> Vec<u8> {
    let mut words = Vec::new();
    // A DISCONNECT without properties always fits.
    let _ = Disconnect::new(reason).encode(Version::V5, &mut words);
    words
}
