//! A client of a frontend of HTTP: each of its requests goes to the server that its rules and the balance choose, over a
//! connection of its own. What becomes a WebSocket is relayed like any session.

mod headers;
mod patience;
mod websocket;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header, upgrade};
use hyper_util::rt::{TokioIo, TokioTimer};
use nsd_edge::proxy_header::{Extras, ProxyHeader};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};
use tracing::{debug, info};

use patience::Patience;

use super::{Client, reach};
use crate::backend::Who;
use crate::limits;
use crate::member::Seat;
use crate::origin::{Agreed, Origin};
use crate::rules::Asked;
use crate::settings::HttpSettings;
use crate::upstream::Upstream;

/// Fields in a request's head; more are a mistake, or an attack.
const FIELDS: usize = 100;
/// A path is logged up to here.
const LOGGED_PATH: usize = 256;

type Answer = Response<Either<Full<Bytes>, Incoming>>;

/// What all requests of a connection share.
struct Connection {
    client: Client,
    settings: HttpSettings,
    extras: Extras,
    tls: Option<Box<Agreed>>,
    port: u16,
    header: ProxyHeader,
    /// From here on it is a WebSocket.
    switched: Arc<AtomicBool>,
}

/// Counted once, whatever became of its requests.
impl Drop for Connection {
    fn drop(&mut self) {
        let Client { frontend, since, .. } = &self.client;
        frontend.tally.count(|counts| counts.ended("http", Some(since.elapsed())));
    }
}

/// How a request ended, for the access log.
struct Outcome {
    answer: Answer,
    server: Option<String>,
}

/// Until the client or a timeout ends the connection.
pub(super) async fn serve<C>(stream: C, mut client: Client, settings: HttpSettings)
where
    C: AsyncRead + AsyncWrite + Origin + Unpin + Send + 'static,
{
    let extras = client.extras(&stream);
    let tls = stream.agreed();
    let port = stream.socket().local_addr().map_or(0, |ours| ours.port());
    let header = client.header(&stream);
    let (request_timeout, max_head) = (settings.request_timeout, settings.max_head);
    // Whom a proxy names is known by now, and silence ends by the timeout.
    client.pass.iter_mut().for_each(|pass| pass.begun());
    let peer = client.peer;
    let switched = Arc::<AtomicBool>::default();
    let stream = Patience::new(stream, settings.send_timeout, Arc::clone(&switched));
    let connection = Arc::new(Connection { client, settings, extras, tls, port, header, switched });
    let service = service_fn(move |request| {
        let connection = Arc::clone(&connection);
        async move { Ok::<_, Infallible>(connection.answer(request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(request_timeout)
        .max_buf_size(max_head)
        .max_headers(FIELDS)
        .half_close(false)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = served.await {
        debug!(client = %peer, %error, "ended");
    }
}

impl Connection {
    async fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Answer {
        let since = Instant::now();
        let method = request.method().clone();
        let path: String = request.uri().path().chars().take(LOGGED_PATH).collect();
        let Outcome { mut answer, server } = self.pass_on(request).await;
        if self.client.shared.succession.is_succeeded() {
            // Its next request is for the process that took over.
            headers::close_after(&mut answer);
        }
        if self.client.shared.access_log.load(Relaxed) {
            let tls = self.tls.as_deref();
            info!(
                target: "access",
                listener = self.client.frontend.name,
                client = %self.client.peer,
                tls = tls.map(|tls| tls.version),
                cipher = tls.and_then(|tls| tls.cipher.as_deref()),
                group = tls.and_then(|tls| tls.group),
                sni = tls.and_then(|tls| tls.server_name.as_deref()).map(tracing::field::debug),
                resumed = tls.map(|tls| tls.resumed),
                %method,
                path,
                status = answer.status().as_u16(),
                server = server.as_deref().unwrap_or("-"),
                ms = since.elapsed().as_millis(),
            );
        }
        answer
    }

    async fn pass_on(self: &Arc<Self>, mut request: Request<Incoming>) -> Outcome {
        let Ok(host) = headers::host(&request) else { return Outcome::told(StatusCode::BAD_REQUEST) };
        let asked = Asked { host: host.as_deref(), path: request.uri().path() };
        let Some(backend) = self.client.choose(&self.extras, self.port, None, Some(asked)) else {
            return Outcome::told(StatusCode::FORBIDDEN);
        };
        let policy = backend.policy.load_full();
        let who = Who { source: self.client.peer.ip(), client: None };
        let mut tried = Vec::new();
        let (server, seat) = loop {
            let seat = match backend.seat(&policy, who, &tried).await {
                Some(seat) if tried.len() < limits::CONNECT_ATTEMPTS => seat,
                _ => return Outcome::told(StatusCode::SERVICE_UNAVAILABLE),
            };
            match reach(backend, seat.member(), &policy, || self.header.clone()).await {
                Ok(Some(server)) => break (server, seat),
                Ok(None) => tried.push(seat.member().id),
                Err(_) => return Outcome::told(StatusCode::SERVICE_UNAVAILABLE),
            }
        };
        seat.member().connected(&policy);
        let name = Some(seat.member().name.clone());
        let over_tls = self.extras.tls.as_ref().is_some_and(|tls| tls.over_tls);
        let address = &seat.member().place.address;
        let upgrading = headers::forward(&mut request, self.client.peer.ip(), over_tls, address);
        let answer = self.ask(server, Arc::new(seat), request, upgrading).await;
        Outcome { answer: answer.unwrap_or_else(told), server: name }
    }

    async fn ask(
        self: &Arc<Self>,
        server: Upstream,
        seat: Arc<Seat>,
        mut request: Request<Incoming>,
        upgrading: bool,
    ) -> Result<Answer, StatusCode> {
        let bad = |error: hyper::Error| {
            debug!(server = seat.member().name, %error, "no answer");
            StatusCode::BAD_GATEWAY
        };
        let builder = hyper::client::conn::http1::Builder::new();
        let (mut sender, connection) = builder.handshake(TokioIo::new(server)).await.map_err(bad)?;
        tokio::spawn({
            let seat = Arc::clone(&seat);
            async move {
                // Its seat is given back when the last byte of the answer has been read.
                tokio::select! {
                    _ended = connection.with_upgrades() => {}
                    _closed = seat.closed() => {}
                }
            }
        });
        let ours = upgrading.then(|| upgrade::on(&mut request));
        let answer = match timeout(self.settings.answer_timeout, sender.send_request(request)).await {
            Ok(answer) => answer.map_err(bad)?,
            Err(_elapsed) => return Err(StatusCode::GATEWAY_TIMEOUT),
        };
        self.hand_back(answer, ours, seat)
    }

    /// The server's answer, as its client may see it.
    fn hand_back(
        self: &Arc<Self>,
        mut answer: Response<Incoming>,
        ours: Option<upgrade::OnUpgrade>,
        seat: Arc<Seat>,
    ) -> Result<Answer, StatusCode> {
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            // Nobody asked for it: the client would read what follows as an answer.
            let ours = ours.ok_or(StatusCode::BAD_GATEWAY)?;
            let theirs = upgrade::on(&mut answer);
            self.switched.store(true, Relaxed);
            tokio::spawn(websocket::relay(Arc::clone(self), ours, theirs, seat));
        } else {
            headers::strip(answer.headers_mut());
        }
        *answer.version_mut() = hyper::Version::HTTP_11;
        Ok(answer.map(Either::Right))
    }
}

impl Outcome {
    fn told(status: StatusCode) -> Self {
        Self { answer: told(status), server: None }
    }
}

/// One plain line.
fn told(status: StatusCode) -> Answer {
    let text = format!("{status}\n");
    let mut answer = Response::new(Either::Left(Full::new(Bytes::from(text))));
    *answer.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain");
    answer.headers_mut().insert(header::CONTENT_TYPE, plain);
    answer
}
