//! The long part of a session: client and server talk, in a task that holds nothing else.

use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use super::registered::Registered;
use super::{Client, Line, Seated};
use crate::entry::Pass;
use crate::handover::outbox::Given;
use crate::member::Seat;
use crate::origin::Origin;
use crate::registry::Live;
use crate::relay::{End, Handle, Passing, Relay, Side};
use crate::settings::Duplicates;
use crate::upstream::Upstream;
use crate::workers::Place;
use crate::{duplicates, limits};

/// A future by hand: what an `async` block would keep of its arguments twice, each idle session would pay for.
pub(super) struct Talk<C> {
    relay: Relay<C, Upstream>,
    registered: Registered,
    attended: bool,
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
        let live = Live {
            handle: Handle::new(moved, silence, shared.registry.now()),
            names,
            version,
            clean,
            will,
            let_in: accepted,
            tls: stream.is_tls(),
            // Another process would take it for one that was let in.
            movable: accepted && stream.plain_socket().is_some() && server.plain_socket().is_some(),
            peer,
            since,
            frontend,
            member: Arc::clone(seat.member()),
        };
        let (registered, older) = Registered::new(live, &seat, shared, duplicates);
        if accepted {
            let Registered { live, shared } = &registered;
            shared.moving.came(live);
            if duplicates == Duplicates::Close {
                shared.succession.came(live);
            }
            duplicates::close(live, older);
        }
        let mut relay = Relay::new(stream, server, version, up, down);
        if !accepted {
            relay.expects_end();
        }
        Self { relay, registered, attended: false, seat, _pass: pass, _permit, _place }
    }

    pub(super) fn live(&self) -> &Arc<Live> {
        &self.registered.live
    }
}

impl<C> Talk<C>
where
    C: Side + Origin,
{
    fn log(&self, end: End) {
        let tls =
            self.registered.shared.access_log.load(Relaxed).then(|| self.relay.sides().0.agreed()).flatten();
        let Live { names, frontend, peer, since, version, handle, member, .. } = &*self.registered.live;
        frontend.tally.count(|counts| counts.ended(end.as_str(), Some(since.elapsed())));
        if self.registered.live.will && self.relay.has_spoken() {
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
        .write(&self.registered.shared);
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
        if !self.registered.live.handle.give() {
            return false;
        }
        // If nobody waits for it, it is returned at once.
        let given = Given::new(Arc::clone(&self.registered.live), [client, server], [up, down]);
        self.registered.shared.succession.put(given);
        self.registered.live.handle.passing() != Passing::No
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
            talk.registered.live.handle.attend(context.waker());
            talk.attended = true;
        }
        match talk.registered.live.handle.passing() {
            Passing::No => {}
            Passing::Wanted => ready!(talk.poll_give(context)),
            Passing::Given => return Poll::Pending,
            Passing::Taken => {
                talk.registered.live.frontend.tally.count(|counts| counts.given += 1);
                return Poll::Ready(());
            }
        }
        let end = ready!(talk.relay.poll(context, &talk.registered.live.handle));
        if end == End::ServerBroke && talk.registered.live.since.elapsed() < limits::YOUNG {
            talk.seat.member().suspected();
        }
        talk.log(end);
        Poll::Ready(())
    }
}
