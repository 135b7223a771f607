//! The long part of a session: client and server talk, in a task that holds nothing else.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::OwnedSemaphorePermit;

use super::{Client, Line, Seated, Upstream};
use crate::entry::Pass;
use crate::member::Seat;
use crate::origin::Origin;
use crate::registry::Live;
use crate::relay::{End, Handle, Relay, Side};
use crate::running::Shared;
use crate::workers::Place;
use crate::{duplicates, limits};

/// A future by hand: what an `async` block would keep of its arguments twice, each idle session would pay for.
pub(super) struct Talk<C> {
    relay: Relay<C, Upstream>,
    live: Arc<Live>,
    attended: bool,
    shared: Arc<Shared>,
    seat: Seat,
    _pass: Option<Box<Pass>>,
    _permit: OwnedSemaphorePermit,
    _place: Place,
}

impl<C> Talk<C>
where
    C: Side + Origin,
{
    pub(super) fn begin(stream: C, seated: Seated, client: Client) -> Self {
        let Seated { server, seat, moved, up, down, version, names, silence, accepted, duplicates } = seated;
        let Client { peer, since, frontend, shared, pass, _permit, _place } = client;
        let live = Arc::new(Live {
            handle: Handle::new(moved, silence, shared.registry.now()),
            names,
            version,
            tls: stream.is_tls(),
            peer,
            since,
            frontend,
            member: Arc::clone(seat.member()),
        });
        let older = shared.registry.insert(&live);
        if accepted {
            shared.moving.came(&live);
            duplicates::close(&live, older, duplicates);
        } else {
            shared.moving.failed(live.names.key);
        }
        // Told to all while this one was on its way: it is not found later.
        if let Some(order) = seat.is_closed() {
            live.handle.tell(order);
        }
        let relay = Relay::new(stream, server, version, up, down);
        Self { relay, live, attended: false, shared, seat, _pass: pass, _permit, _place }
    }
}

impl<C> Talk<C>
where
    C: Side,
{
    fn log(&self, end: End) {
        let Live { names, frontend, peer, since, version, handle, member, .. } = &*self.live;
        frontend.tally.count(|counts| counts.ended(end.as_str(), Some(since.elapsed())));
        Line {
            listener: &frontend.name,
            peer: *peer,
            since: *since,
            names: version.map(|_| names),
            version: *version,
            server: &member.name,
            messages: self.relay.messages(),
            moved: handle.moved(),
            end,
            clean: self.relay.left_cleanly(),
        }
        .write(&self.shared);
    }
}

impl<C> Future for Talk<C>
where
    C: Side,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let talk = self.get_mut();
        if !talk.attended {
            talk.live.handle.attend(context.waker());
            talk.attended = true;
        }
        let end = ready!(talk.relay.poll(context, &talk.live.handle));
        if end == End::ServerBroke && talk.live.since.elapsed() < limits::YOUNG {
            talk.seat.member().suspected();
        }
        talk.log(end);
        Poll::Ready(())
    }
}

impl<C> Drop for Talk<C> {
    fn drop(&mut self) {
        let Live { frontend, member, handle, .. } = &*self.live;
        // In this order, for what has moved must never be counted twice.
        self.shared.registry.remove(&self.live);
        frontend.tally.traffic.add(handle.moved());
        member.traffic.add(handle.moved());
    }
}
