//! Ports for the servers that a test starts. Tests of several packages take this file in.

use std::net::SocketAddr;
use std::sync::Mutex;

use socket2::{Domain, Socket, Type};

/// A port that nobody listens on, chosen by the kernel and kept as long as this process lives, also while its server is
/// down: nobody else is given it, to listen there or to connect from, and two brokers at one port would share their clients.
pub(crate) fn port() -> u16 {
    static KEPT: Mutex<Vec<Socket>> = Mutex::new(Vec::new());
    let (socket, port) = kept().expect("the kernel has a free port");
    KEPT.lock().expect("nobody fails while it is held").push(socket);
    port
}

/// Bound and not listening, at all addresses of this machine: a server that asks for this very port gets it; nobody is
/// given it who asks for any.
fn kept() -> std::io::Result<(Socket, u16)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from(([0, 0, 0, 0], 0)).into())?;
    let port = socket.local_addr()?.as_socket().map_or(0, |address| address.port());
    Ok((socket, port))
}

#[test]
fn a_port_is_kept_for_who_asks_for_it() {
    let port = port();
    let bound = |address: [u8; 4], reuse: bool| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(reuse)?;
        socket.bind(&SocketAddr::from((address, port)).into())?;
        socket.listen(1)
    };
    for address in [[127, 0, 0, 1], [127, 0, 0, 2], [0, 0, 0, 0]] {
        assert!(bound(address, false).is_err(), "it is nobody's");
        assert!(bound(address, true).is_ok());
    }
}
