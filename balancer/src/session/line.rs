//! A client of a frontend in MQTT mode that waits for its turn at a server, and may leave meanwhile. Of raw bytes nobody can tell
//! that: there a client may have ended its side and still wait for an answer.

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::backend::{Backend, Who};
use crate::limits;
use crate::member::Seat;
use crate::relay::End;
use crate::settings::Policy;

/// `None`: no server takes the client.
pub(super) async fn seat(
    socket: &TcpStream,
    backend: &Backend,
    policy: &Policy,
    who: Who,
    tried: &[u64],
) -> Result<Option<Seat>, End> {
    tokio::select! {
        biased;
        seat = backend.seat(policy, who, tried) => Ok(seat),
        () = left(socket) => Err(End::Client),
    }
}

/// Resolves some time after the client has ended its side. What it has sent stays where it is.
async fn left(socket: &TcpStream) {
    loop {
        match socket.ready(Interest::READABLE).await {
            Ok(ready) if !ready.is_read_closed() => sleep(limits::LEFT_IN_LINE).await,
            Ok(_) | Err(_) => return,
        }
    }
}
