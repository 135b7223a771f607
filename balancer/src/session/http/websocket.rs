//! What has become a WebSocket: a session like any other, found by its server and told to end.

use std::future::poll_fn;
use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::Connection;
use crate::framing::Framing;
use crate::member::Seat;
use crate::registry::{Live, Registry};
use crate::relay::{Handle, Moved, Relay};
use crate::running::Shared;
use crate::settings::Duplicates;

/// Among the running sessions until dropped.
struct Registered {
    live: Arc<Live>,
    shared: Arc<Shared>,
}

impl Registered {
    fn new(connection: &Connection, seat: &Seat) -> Self {
        let client = &connection.client;
        let shared = Arc::clone(&client.shared);
        let live = Arc::new(Live {
            handle: Handle::new(Moved::default(), None, shared.registry.now()),
            names: Registry::nobody(),
            version: None,
            clean: true,
            will: false,
            tls: connection.extras.tls.as_ref().is_some_and(|tls| tls.over_tls),
            // What HTTP has read ahead is here, and in no socket.
            movable: false,
            peer: client.peer,
            since: client.since,
            frontend: Arc::clone(&client.frontend),
            member: Arc::clone(seat.member()),
        });
        // Whose it is stays inside the WebSocket.
        shared.registry.insert(&live, Duplicates::Keep);
        // Told to all while this one was on its way: it is not found later.
        if let Some(order) = seat.is_closed() {
            live.handle.tell(order);
        }
        Self { live, shared }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let Live { frontend, member, handle, .. } = &*self.live;
        // In this order, for what has moved must never be counted twice.
        self.shared.registry.remove(&self.live);
        frontend.tally.traffic.add(handle.moved());
        member.traffic.add(handle.moved());
    }
}

pub(super) async fn relay(connection: Arc<Connection>, ours: OnUpgrade, theirs: OnUpgrade, seat: Arc<Seat>) {
    let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) else { return };
    let session = Registered::new(&connection, &seat);
    let handle = &session.live.handle;
    let (ours, theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
    let mut relay = Relay::new(ours, theirs, None, Framing::lost(), Framing::lost());
    let mut attended = false;
    let end = poll_fn(|context| {
        if !attended {
            handle.attend(context.waker());
            attended = true;
        }
        relay.poll(context, handle)
    });
    let end = end.await;
    connection.client.ended(connection.tls.as_deref(), &seat.member().name, handle.moved(), end);
}
