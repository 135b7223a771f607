//! Ports for the servers that a test starts.

use std::net::SocketAddr;

use parking_lot::Mutex;
use socket2::{Domain, Socket, Type};

/// A port of loopback that nobody listens on, chosen by the kernel and kept as long as this process lives, also while its
/// server is down: two brokers at one port would share their clients, for the workers of a broker listen side by side.
pub(crate) fn port() -> u16 {
    static KEPT: Mutex<Vec<Socket>> = Mutex::new(Vec::new());
    let (socket, port) = kept().expect("the kernel has a free port");
    KEPT.lock().push(socket);
    port
}

/// Bound and not listening: a server that asks for this very port gets it; nobody is given it who asks for any.
fn kept() -> std::io::Result<(Socket, u16)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    let port = socket.local_addr()?.as_socket().map_or(0, |address| address.port());
    Ok((socket, port))
}

#[test]
fn a_port_is_kept_for_who_asks_for_it() {
    let address = SocketAddr::from(([127, 0, 0, 1], port()));
    let bound = |reuse: bool| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(reuse).unwrap();
        socket.bind(&address.into()).and_then(|()| socket.listen(1))
    };
    assert!(bound(false).is_err(), "it is nobody's");
    assert!(bound(true).is_ok());
}
