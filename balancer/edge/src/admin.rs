//! The admin socket: HTTP/1 with JSON on a unix socket that only its owner may open, and the small client behind the
//! `admin` commands. The [`Router`] knows no socket: metrics are served by the same means on a port ([`serve_port`]).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use thiserror::Error;
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tracing::debug;

use crate::drain::Watch;
use crate::http::Bounds;
pub use crate::http::{Method, Reply, Request, Router, StatusCode};
use crate::listen::{BindError, Gate, GateRules, Listener};
use crate::socket_file::SocketFile;

/// An answer that the client takes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// Connections served at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 32;
/// Of them, on a TCP port, one source's; more are closed. Whoever is slow there does not keep others out.
const CONNECTIONS_BY_SOURCE: u32 = 8;
/// One request a connection. Who asks without listening does not keep others out.
const BOUNDS: Bounds = Bounds {
    body: 64 * 1024,
    header: Duration::from_secs(5),
    connection: Duration::from_secs(60),
    keep_alive: false,
};
/// The client's patience. A drain may be asked to wait; the server answers it at once and drains on.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Error)]
pub enum AdminBindError {
    #[error("admin socket {}: another server answers there", .0.display())]
    InUse(PathBuf),
    #[error("admin socket {}: something that is not a socket is in its place", .0.display())]
    NotASocket(PathBuf),
    #[error("admin socket {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// The bound socket. Its file is removed when dropped.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    file: SocketFile,
}

impl AdminSocket {
    /// Binds with mode 0600. The file of a server that is gone is replaced, that of one that answers is not.
    pub fn bind(path: &Path) -> Result<Self, AdminBindError> {
        if let Ok(found) = std::fs::symlink_metadata(path) {
            if !found.file_type().is_socket() {
                return Err(AdminBindError::NotASocket(path.to_owned()));
            }
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(AdminBindError::InUse(path.to_owned()));
            }
        }
        let socket = Self::aside(path)?;
        socket.put()?;
        Ok(socket)
    }

    /// Bound, and not in its place yet: that of a server that still answers.
    pub fn aside(path: &Path) -> Result<Self, AdminBindError> {
        let made = SocketFile::aside(path, |path| UnixListener::bind(path));
        let (listener, file) = made.map_err(|source| AdminBindError::Io { path: path.to_owned(), source })?;
        Ok(Self { listener, file })
    }

    /// From now on it is asked, and nobody else.
    pub fn put(&self) -> Result<(), AdminBindError> {
        self.file.put().map_err(|source| AdminBindError::Io { path: self.file.path().to_owned(), source })
    }

    /// Answers until the drain's deadline, so that a drain can be watched through it.
    pub async fn serve(self, router: Arc<Router>, mut end: Watch) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = self.accept(&permits) => accepted,
                () = end.draining() => return,
            };
            let Some((stream, permit)) = accepted else { continue };
            let router = Arc::clone(&router);
            tokio::spawn(async move {
                router.serve(stream, BOUNDS).await;
                drop(permit);
            });
        }
    }

    async fn accept(
        &self,
        permits: &Arc<Semaphore>,
    ) -> Option<(UnixStream, tokio::sync::OwnedSemaphorePermit)> {
        let permit = Arc::clone(permits).acquire_owned().await.ok()?;
        match self.listener.accept().await {
            Ok((stream, _)) => Some((stream, permit)),
            Err(error) => {
                debug!(%error, "admin socket cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                None
            }
        }
    }
}

/// Answers on a TCP port for ever, for whoever may reach it: a router with nothing in it but what anybody may see.
pub async fn serve_port(listener: Listener, router: Arc<Router>) {
    let by_source = Some(CONNECTIONS_BY_SOURCE);
    let gate = Arc::new(Gate::new(GateRules { connections_per_address: by_source, ..GateRules::default() }));
    loop {
        let accepted = listener.accept().await;
        let Ok(place) = gate.admit(accepted.peer.ip()) else { continue };
        let Ok(stream) = TcpStream::from_std(accepted.socket) else { continue };
        let router = Arc::clone(&router);
        tokio::spawn(async move {
            router.serve(stream, BOUNDS).await;
            drop((accepted.permit, place));
        });
    }
}

/// A listener for [`serve_port`], on a socket that is bound: few connections at once, more wait in the kernel.
pub fn port(address: SocketAddr, socket: TcpListener) -> Result<Listener, BindError> {
    Listener::new(socket, Arc::new(Semaphore::new(MAX_CONNECTIONS)))
        .map_err(|source| BindError { address, source })
}

#[derive(Debug, Error)]
pub enum CallError {
    #[error("no server answers at {}: {source}", path.display())]
    Unreachable { path: PathBuf, source: io::Error },
    #[error("the server did not answer within {}s", CALL_TIMEOUT.as_secs())]
    TimedOut,
    #[error("the server's answer is broken: {0}")]
    Broken(String),
}

/// One request to a server's admin socket → status and JSON answer.
pub async fn call(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<(StatusCode, Value), CallError> {
    let exchange = exchange(socket, method, path, body);
    tokio::time::timeout(CALL_TIMEOUT, exchange).await.unwrap_or(Err(CallError::TimedOut))
}

async fn exchange(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<(StatusCode, Value), CallError> {
    let broken = |error: &dyn std::error::Error| CallError::Broken(error.to_string());
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| CallError::Unreachable { path: socket.to_owned(), source })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let request = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header(hyper::header::HOST, "localhost")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| broken(&error))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect();
        let body = body.await.map_err(|error| CallError::Broken(error.to_string()))?.to_bytes();
        let value = serde_json::from_slice(&body).map_err(|error| broken(&error))?;
        Ok((status, value))
    };
    tokio::pin!(connection);
    tokio::pin!(answer);
    tokio::select! {
        answered = &mut answer => answered,
        _ended = &mut connection => answer.await,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::drain::Drain;

    fn router() -> Arc<Router> {
        let health = |_request| async { Reply::json(StatusCode::OK, &json!({ "live": true })) };
        let echo = |request: Request| async move {
            match request.json::<Value>() {
                Ok(value) => Reply::json(StatusCode::OK, &value),
                Err(reply) => reply,
            }
        };
        let asked = |request: &Request| {
            let (client, missing) = (request.query("client"), request.query("missing"));
            Reply::json(StatusCode::OK, &json!({ "client": client, "missing": missing }))
        };
        let router = Router::new().route(Method::GET, "/health", health).route(Method::POST, "/echo", echo);
        Arc::new(router.at_once(Method::GET, "/asked", asked))
    }

    #[tokio::test]
    async fn a_call_reaches_its_handler_and_others_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let drain = Drain::new();
        let socket = AdminSocket::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let served = tokio::spawn(socket.serve(router(), drain.watch()));

        let (status, body) = call(&path, Method::GET, "/health", None).await.unwrap();
        assert_eq!((status, body), (StatusCode::OK, json!({ "live": true })));
        let sent = json!({ "server": "mqtt-1" });
        assert_eq!(call(&path, Method::POST, "/echo", Some(&sent)).await.unwrap().1, sent);
        let asked = call(&path, Method::GET, "/asked?client=a%2Fb+c&x=1", None).await.unwrap().1;
        assert_eq!(asked, json!({ "client": "a/b c", "missing": null }));
        assert_eq!(call(&path, Method::POST, "/echo", None).await.unwrap().0, StatusCode::BAD_REQUEST);
        assert_eq!(call(&path, Method::GET, "/echo", None).await.unwrap().0, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(call(&path, Method::GET, "/nothing", None).await.unwrap().0, StatusCode::NOT_FOUND);
        let large = json!("x".repeat(BOUNDS.body));
        assert_eq!(
            call(&path, Method::POST, "/echo", Some(&large)).await.unwrap().0,
            StatusCode::PAYLOAD_TOO_LARGE
        );

        assert!(matches!(AdminSocket::bind(&path), Err(AdminBindError::InUse(_))));
        drain.begin();
        served.await.unwrap();
        assert!(!path.exists());
        assert!(matches!(call(&path, Method::GET, "/", None).await, Err(CallError::Unreachable { .. })));
    }

    #[tokio::test]
    async fn who_holds_connections_to_a_port_keeps_nobody_else_out() {
        let socket = crate::listen::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = port(socket.local_addr().unwrap(), socket).unwrap();
        let address = listener.address();
        tokio::spawn(serve_port(listener, router()));
        let mut silent = Vec::new();
        for _ in 0..2 * MAX_CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        // All of loopback's addresses are ours.
        let other = tokio::net::TcpSocket::new_v4().unwrap();
        other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut other = other.connect(address).await.unwrap();
        other.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        other.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let kept = silent[0].try_read(&mut [0]).unwrap_err();
        assert_eq!(kept.kind(), io::ErrorKind::WouldBlock, "one of the silent ones was given up for it");
    }

    #[tokio::test]
    async fn a_socket_left_behind_is_replaced_and_anything_else_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        drop(AdminSocket::bind(&path).unwrap());
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(AdminSocket::bind(&path), Err(AdminBindError::NotASocket(_))));
    }
}
