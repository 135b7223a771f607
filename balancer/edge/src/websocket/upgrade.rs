//! How a connection becomes a WebSocket: one HTTP request, judged, answered in one line where it is refused.

use std::convert::Infallible;
use std::future::ready;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    self, CONNECTION, HeaderMap, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tungstenite::handshake::derive_accept_key;

use super::WebSocket;
use crate::stream::Stream;

/// A request's head; browsers send one or two KiB. (hyper takes no smaller limit.)
const MAX_HEAD: usize = 8 * 1024;
/// Proxies between the client and us that are told apart.
const MAX_FORWARDED: usize = 32;
/// The base64 of 16 bytes.
const KEY_LENGTH: usize = 24;
const FORWARDED: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What a listener's clients must ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocketSettings {
    pub path: String,
    /// Pages that may connect, as browsers name them: `https://example.com`. Empty: all may. Programs name none.
    pub origins: Vec<String>,
    /// The longest frame that is taken.
    pub longest_frame: u64,
}

#[derive(Debug, Error)]
pub enum UpgradeError {
    #[error("{status}: {reason}")]
    Refused { status: StatusCode, reason: &'static str },
    #[error("no HTTP request: {0}")]
    Http(#[from] hyper::Error),
}

/// A connection that became a WebSocket.
#[derive(Debug)]
pub struct Upgraded {
    pub stream: WebSocket,
    /// The addresses of `X-Forwarded-For`, the nearest last. Anybody can write them: believe a proxy that you know.
    pub forwarded: Vec<IpAddr>,
}

/// Answers one request. `protocols` are the subprotocols spoken; the client's first that is among them is agreed on. The
/// caller sets the deadline.
pub async fn upgrade(
    stream: Stream,
    settings: &WebSocketSettings,
    protocols: &[&'static str],
) -> Result<Upgraded, UpgradeError> {
    let verdict = Arc::new(Mutex::new(None));
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let judged = judge(&request, settings, protocols);
        let response = match &judged {
            Ok(accepted) => accepted.response(),
            Err(refused) => refused.response(),
        };
        *verdict.lock() = Some(judged.map(|_| forwarded(request.headers())));
        ready(Ok::<_, Infallible>(response))
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let parts = connection.without_shutdown().await?;
    let mut stream = parts.io.into_inner();
    let verdict = verdict.lock().take();
    match verdict {
        Some(Ok(forwarded)) => {
            let stream = WebSocket::new(stream, parts.read_buf.to_vec(), settings.longest_frame);
            Ok(Upgraded { stream, forwarded })
        }
        Some(Err(Refused { status, reason })) => {
            let _ = stream.shutdown().await;
            Err(UpgradeError::Refused { status, reason })
        }
        None => {
            Err(UpgradeError::Refused { status: StatusCode::BAD_REQUEST, reason: "closed without a request" })
        }
    }
}

struct Accepted {
    answer: String,
    protocol: &'static str,
}

#[derive(Debug, PartialEq, Eq)]
struct Refused {
    status: StatusCode,
    reason: &'static str,
}

fn judge<B>(
    request: &Request<B>,
    settings: &WebSocketSettings,
    protocols: &[&'static str],
) -> Result<Accepted, Refused> {
    let refuse = |status, reason| Err(Refused { status, reason });
    let headers = request.headers();
    if request.uri().path() != settings.path {
        return refuse(StatusCode::NOT_FOUND, "nothing is here");
    }
    if request.method() != Method::GET || request.version() != Version::HTTP_11 {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET of HTTP/1.1 is answered here");
    }
    if !has_word(headers, CONNECTION, "upgrade") || !has_word(headers, UPGRADE, "websocket") {
        return refuse(StatusCode::UPGRADE_REQUIRED, "this place speaks WebSocket, nothing else");
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return refuse(StatusCode::UPGRADE_REQUIRED, "WebSocket version 13 is spoken here");
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| key.len() == KEY_LENGTH);
    let Some(key) = key else { return refuse(StatusCode::BAD_REQUEST, "no proper Sec-WebSocket-Key") };
    if !may_connect(headers.get(ORIGIN), &settings.origins) {
        return refuse(StatusCode::FORBIDDEN, "this origin may not connect");
    }
    let wanted = words(headers, SEC_WEBSOCKET_PROTOCOL);
    let agreed = wanted.filter_map(|word| protocols.iter().find(|known| **known == word)).next();
    let Some(protocol) = agreed else {
        return refuse(
            StatusCode::BAD_REQUEST,
            "no subprotocol that is spoken here (Sec-WebSocket-Protocol)",
        );
    };
    Ok(Accepted { answer: derive_accept_key(key.as_bytes()), protocol })
}

fn may_connect(origin: Option<&HeaderValue>, allowed: &[String]) -> bool {
    let Some(origin) = origin else { return true };
    allowed.is_empty()
        || allowed.iter().any(|allowed| origin.as_bytes().eq_ignore_ascii_case(allowed.as_bytes()))
}

fn words(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

fn has_word(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    words(headers, name).any(|word| word.eq_ignore_ascii_case(wanted))
}

/// What stands left of something that is no address was not written by a proxy that we could know.
fn forwarded(headers: &HeaderMap) -> Vec<IpAddr> {
    let written: Vec<&str> = words(headers, FORWARDED).collect();
    let address = |word: &&str| {
        let with_port = || word.parse::<SocketAddr>().ok().map(|address| address.ip());
        word.parse().ok().or_else(with_port)
    };
    let mut known: Vec<IpAddr> = written.iter().rev().map_while(address).take(MAX_FORWARDED).collect();
    known.reverse();
    known
}

impl Accepted {
    fn response(&self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(self.protocol));
        if let Ok(answer) = HeaderValue::from_str(&self.answer) {
            headers.insert(SEC_WEBSOCKET_ACCEPT, answer);
        }
        response
    }
}

impl Refused {
    fn response(&self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(format!("{}\n", self.reason)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if self.status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        response
    }
}
