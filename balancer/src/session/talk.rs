//! The long part of a session: client and server talk, in a task that holds nothing else.

use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use super::{Client, Line, Seated, Upstream};
use crate::entry::Pass;
use crate::handover::Given;
use crate::member::Seat;
use crate::origin::Origin;
use crate::registry::Live;
use crate::relay::{End, Handle, Passing, Relay, Side};
use crate::running::Shared;
use crate::settings::Duplicates;
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
        let Seated {
            server,
            seat,
            moved,
            up,
            down,
            version,
            clean,
            will,
            names,
            silence,
            accepted,
            duplicates,
        } = seated;
        let Client { peer, since, frontend, shared, pass, _permit, _place } = client;
        let (names, duplicates) = if accepted {
            (names, duplicates)
        } else {
            shared.moving.failed(names.key);
            (names.unproven(), Duplicates::Keep)
        };
        let live = Arc::new(Live {
            handle: Handle::new(moved, silence, shared.registry.now()),
            names,
            version,
            clean,
            will,
            tls: stream.is_tls(),
            // Another process would take it for one that was let in.
            movable: accepted && stream.plain_socket().is_some() && server.plain_socket().is_some(),
            peer,
            since,
            frontend,
            member: Arc::clone(seat.member()),
        });
        let older = shared.registry.insert(&live, duplicates);
        if accepted {
            shared.moving.came(&live);
            if duplicates == Duplicates::Close {
                shared.succession.came(&live);
            }
            duplicates::close(&live, older);
        }
        // Told to all while this one was on its way: it is not found later.
        if let Some(order) = seat.is_closed() {
            live.handle.tell(order);
        }
        let mut relay = Relay::new(stream, server, version, up, down);
        if !accepted {
            relay.expects_end();
        }
        Self { relay, live, attended: false, shared, seat, _pass: pass, _permit, _place }
    }

    pub(super) fn live(&self) -> &Arc<Live> {
        &self.live
    }
}

impl<C> Talk<C>
where
    C: Side + Origin,
{
    fn log(&self, end: End) {
        let tls = self.relay.sides().0.agreed();
        let Live { names, frontend, peer, since, version, handle, member, .. } = &*self.live;
        frontend.tally.count(|counts| counts.ended(end.as_str(), Some(since.elapsed())));
        if self.live.will && self.relay.has_spoken() {
            member.will_suppressed();
        }
        Line {
            listener: &frontend.name,
            peer: *peer,
            since: *since,
            names: version.map(|_| names),
            version: *version,
            tls: tls.as_deref(),
            server: &member.name,
            messages: self.relay.messages(),
            moved: handle.moved(),
            end,
            clean: self.relay.left_cleanly(),
        }
        .write(&self.shared);
    }
}

impl<C> Talk<C>
where
    C: Side,
{
    /// Pending: it was given to another process, or will be once nothing is held. Ready: it goes on here.
    fn poll_give(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let given = ready!(self.relay.poll_emptied(context)) && self.give();
        if given { Poll::Pending } else { Poll::Ready(()) }
    }

    fn give(&self) -> bool {
        let (client, server) = self.relay.sides();
        let copy = |socket: &TcpStream| socket.as_fd().try_clone_to_owned().ok();
        let copies = (client.plain_socket().and_then(copy), server.plain_socket().and_then(copy));
        let (Some(client), Some(server)) = copies else { return false };
        let (up, down) = self.relay.framings();
        if !self.live.handle.give() {
            return false;
        }
        // If nobody waits for it, it is returned at once.
        let given = Given::new(Arc::clone(&self.live), [client, server], [up, down]);
        self.shared.succession.put(given);
        self.live.handle.passing() != Passing::No
    }
}

impl<C> Future for Talk<C>
where
    C: Side + Origin,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let talk = self.get_mut();
        if !talk.attended {
            talk.live.handle.attend(context.waker());
            talk.attended = true;
        }
        match talk.live.handle.passing() {
            Passing::No => {}
            Passing::Wanted => ready!(talk.poll_give(context)),
            Passing::Given => return Poll::Pending,
            Passing::Taken => {
                talk.live.frontend.tally.count(|counts| counts.given += 1);
                return Poll::Ready(());
            }
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
        // First, for others may hold it when it is not found any more.
        handle.ended();
        // In this order, for what has moved must never be counted twice.
        self.shared.registry.remove(&self.live);
        frontend.tally.traffic.add(handle.moved());
        member.traffic.add(handle.moved());
    }
}
