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
use crate::session::registered::Registered;
use crate::settings::Duplicates;

fn register(connection: &Connection, seat: &Seat) -> Registered {
    let client = &connection.client;
    let shared = Arc::clone(&client.shared);
    let live = Live {
        handle: Handle::new(Moved::default(), None, shared.registry.now()),
        names: Registry::nobody(),
        version: None,
        clean: true,
        will: false,
        let_in: true,
        tls: connection.extras.tls.as_ref().is_some_and(|tls| tls.over_tls),
        // What HTTP has read ahead is here, and in no socket.
        movable: false,
        peer: client.peer,
        since: client.since,
        frontend: Arc::clone(&client.frontend),
        member: Arc::clone(seat.member()),
    };
    // Whose it is stays inside the WebSocket.
    Registered::new(live, seat, shared, Duplicates::Keep).0
}

pub(super) async fn relay(connection: Arc<Connection>, ours: OnUpgrade, theirs: OnUpgrade, seat: Arc<Seat>) {
    let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) else { return };
    let session = register(&connection, &seat);
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
