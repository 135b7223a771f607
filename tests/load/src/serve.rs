//! The servers behind a proxy: as cheap as can be, so that what is measured is the proxy.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use nsd_wire::{ConnAck, Packet, ReasonCode, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cli::Role;
use crate::frames::MAX_PACKET;
use crate::limits;

/// Connections a server may hold; the ones beyond wait in the kernel's backlog.
const CONNECTIONS: usize = 12_000;
const BACKLOG: u32 = 4096;
/// Accepting goes on after so long when descriptors have run out.
const RETRY: Duration = Duration::from_millis(50);
/// What an echo reads at once, on the stack.
const SMALL: usize = 16 * 1024;
const LARGE: usize = 256 * 1024;

/// Client identifiers of checks: ours, and the one that a hand-made check of the benchmarks has.
pub const CHECKS: [&str; 2] = ["nsd-check", "check"];

/// Plays `role` on all of `addresses` for `lifetime`, or until interrupted. From SIGHUP on it refuses connections, and
/// keeps those it has.
pub fn serve(role: Role, addresses: &[SocketAddr], lifetime: Duration) -> Result<()> {
    limits::allow_files(CONNECTIONS)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut listeners = JoinSet::new();
        let (deafen, deaf) = watch::channel(false);
        for &address in addresses {
            let listener = listen(address).with_context(|| format!("listening on {address}"))?;
            listeners.spawn(accept(listener, role, deaf.clone()));
        }
        let mut hangup = signal(SignalKind::hangup())?;
        let deafening = async {
            while hangup.recv().await.is_some() {
                deafen.send_replace(true);
            }
        };
        tokio::select! {
            () = tokio::time::sleep(lifetime) => {}
            () = deafening => {}
            interrupted = tokio::signal::ctrl_c() => interrupted?,
        }
        Ok(())
    })
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket =
        if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(listener: TcpListener, role: Role, mut deaf: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS {
            connections.join_next().await;
            continue;
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = deaf.wait_for(|deaf| *deaf) => break,
        };
        match accepted {
            // How a connection ended is its client's to report.
            Ok((stream, _)) => drop(connections.spawn(async move { answer(stream, role).await.ok() })),
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn answer(mut stream: TcpStream, role: Role) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    match role {
        Role::Echo => echo(&mut stream).await,
        Role::Sink => sink(&mut stream).await,
        Role::Source => source(&mut stream).await,
        Role::Connack | Role::Session | Role::Busy => connack(&mut stream, role).await,
    }
}

/// Waits without a buffer: thousands of idle connections cost the machine next to nothing.
async fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
    loop {
        stream.readable().await?;
        match bounce(stream) {
            Ok(None) => return Ok(()),
            Ok(Some(rest)) => stream.write_all(&rest).await?,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sends back what is there, and tells what the socket did not take; `None` when the client has finished.
fn bounce(stream: &TcpStream) -> std::io::Result<Option<Vec<u8>>> {
    let mut buffer = [0; SMALL];
    let count = stream.try_read(&mut buffer)?;
    if count == 0 {
        return Ok(None);
    }
    let written = match stream.try_write(&buffer[..count]) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        written => written?,
    };
    Ok(Some(buffer[written..count].to_vec()))
}

async fn sink(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; LARGE];
    while stream.read(&mut buffer).await? > 0 {}
    stream.shutdown().await
}

async fn source(stream: &mut TcpStream) -> std::io::Result<()> {
    let buffer = vec![b'x'; LARGE];
    loop {
        stream.write_all(&buffer).await?;
    }
}

/// Answers the CONNECT; then waits for the client to leave, or sends back what it sends.
async fn connack(stream: &mut TcpStream, role: Role) -> std::io::Result<()> {
    let mut seen = Vec::new();
    let mut piece = [0; 1024];
    let mut answered = false;
    loop {
        let count = stream.read(&mut piece).await?;
        if count == 0 {
            return Ok(());
        }
        if answered {
            continue;
        }
        seen.extend_from_slice(&piece[..count]);
        // A CONNECT tells its own version, whichever is named here.
        let answer = match nsd_wire::read(Version::V311, &seen, MAX_PACKET) {
            Ok(None) => continue,
            Ok(Some((Packet::Connect(connect), _))) => answer_to(connect.version, connect.client_id, role),
            Ok(Some(_)) | Err(_) => return Ok(()),
        };
        (answered, seen) = (true, Vec::new());
        stream.write_all(&answer).await?;
        if role == Role::Session {
            return echo(stream).await;
        }
    }
}

fn answer_to(version: Version, client_id: &str, role: Role) -> Vec<u8> {
    let is_check = CHECKS.iter().any(|check| client_id.starts_with(check));
    let refuses = role == Role::Busy && !is_check;
    let reason = if refuses { ReasonCode::ServerUnavailable } else { ReasonCode::Success };
    let mut answer = Vec::new();
    // Two to five bytes: nothing in it can be too long.
    let _ = ConnAck::new(false, reason).encode(version, &mut answer);
    answer
}
