//! HTTP/1 served on any stream: requests are read whole and bounded, then answered by a handler, or by a [`Router`] of them.

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
pub use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
pub use hyper::{Method, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};
use tracing::debug;

/// All header lines of a request together; more are refused with 431.
const MAX_HEAD: usize = 16 * 1024;

/// How much a connection may ask for, and how long it may take for it.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes of a request's body; a larger one is refused with 413.
    pub body: usize,
    /// From the connection, or the last answer, to a request's last header line; the same again for its body.
    pub header: Duration,
    /// After this a connection is closed with the answer that is under way, which then has `header` to be taken.
    pub connection: Duration,
    /// Whether a connection may ask more than once.
    pub keep_alive: bool,
}

/// What a handler gets to see.
#[derive(Debug)]
pub struct Request {
    pub method: Method,
    pub path: String,
    /// What stands behind the `?`.
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Request {
    /// A value of the query (`?name=value`), decoded; of one that is there twice, the first.
    pub fn query(&self, name: &str) -> Option<String> {
        let mut pairs = form_urlencoded::parse(self.query.as_bytes());
        pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// A header's value, of one that is there once and is text.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?.to_str().ok()?;
        values.next().is_none().then_some(value)
    }

    /// A value of the form in the body; of one that is there twice, the first.
    pub fn form(&self, name: &str) -> Option<Cow<'_, str>> {
        form_urlencoded::parse(&self.body).find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// The body as JSON. The error is an answer already.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Reply> {
        serde_json::from_slice(&self.body).map_err(|error| Reply::problem(StatusCode::BAD_REQUEST, error))
    }
}

/// What a handler answers.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    /// Each once; of one that is there twice, the last counts.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}

impl Reply {
    pub fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let reply = Self { status, headers: Vec::new(), body: body.into() };
        reply.with(header::CONTENT_TYPE, HeaderValue::from_static(content_type))
    }

    pub fn json(status: StatusCode, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self::new(status, "application/json", body),
            Err(error) => Self::problem(StatusCode::INTERNAL_SERVER_ERROR, error),
        }
    }

    pub fn text(content_type: &'static str, text: String) -> Self {
        Self::new(StatusCode::OK, content_type, text)
    }

    /// The same with one more header.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// `{"error": …}`.
    pub fn problem(status: StatusCode, error: impl ToString) -> Self {
        Self::json(status, &json!({ "error": error.to_string() }))
    }
}

type Answer = Pin<Box<dyn Future<Output = Reply> + Send>>;
type Handler = Box<dyn Fn(Request) -> Answer + Send + Sync>;

/// Method and path → handler.
#[derive(Default)]
pub struct Router {
    routes: Vec<(Method, &'static str, Handler)>,
}

impl Router {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn route<F, A>(mut self, method: Method, path: &'static str, handler: F) -> Self
    where
        F: Fn(Request) -> A + Send + Sync + 'static,
        A: Future<Output = Reply> + Send + 'static,
    {
        self.routes.push((method, path, Box::new(move |request| Box::pin(handler(request)))));
        self
    }

    /// A handler that answers at once.
    #[must_use]
    pub fn at_once<F>(self, method: Method, path: &'static str, handler: F) -> Self
    where
        F: Fn(&Request) -> Reply + Send + Sync + 'static,
    {
        self.route(method, path, move |request| std::future::ready(handler(&request)))
    }

    pub async fn answer(&self, request: Request) -> Reply {
        let found =
            |(method, path, _): &&(Method, &str, Handler)| *method == request.method && *path == request.path;
        if let Some((_, _, handler)) = self.routes.iter().find(found) {
            return handler(request).await;
        }
        if self.routes.iter().any(|(_, path, _)| *path == request.path) {
            return Reply::problem(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method");
        }
        let known: Vec<String> =
            self.routes.iter().map(|(method, path, _)| format!("{method} {path}")).collect();
        Reply::json(StatusCode::NOT_FOUND, &json!({ "error": "no such path", "paths": known }))
    }

    /// Answers what comes on `stream`.
    pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S, bounds: Bounds) {
        serve(stream, bounds, |request| self.answer(request)).await;
    }
}

/// Answers what comes on `stream` until it ends or its time is over.
pub async fn serve<S, H, A>(stream: S, bounds: Bounds, handler: H)
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Request) -> A,
    A: Future<Output = Reply>,
{
    let handler = &handler;
    let service = service_fn(|request| async move {
        let reply = match read(request, bounds).await {
            Ok(request) => handler(request).await,
            Err(reply) => reply,
        };
        Ok::<_, Infallible>(to_http(reply))
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.header)
        .max_buf_size(MAX_HEAD)
        .keep_alive(bounds.keep_alive)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => Ok(ended),
        () = sleep(bounds.connection) => {
            connection.as_mut().graceful_shutdown();
            timeout(bounds.header, connection).await
        }
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "HTTP connection"),
        Err(_elapsed) => debug!("HTTP connection: the answer was not taken in time"),
    }
}

async fn read(request: hyper::Request<Incoming>, bounds: Bounds) -> Result<Request, Reply> {
    let (head, body) = request.into_parts();
    let body = match timeout(bounds.header, Limited::new(body, bounds.body).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return Err(Reply::problem(StatusCode::PAYLOAD_TOO_LARGE, error)),
        Err(_elapsed) => return Err(Reply::problem(StatusCode::REQUEST_TIMEOUT, "the body did not arrive")),
    };
    let (path, query) = (head.uri.path().to_owned(), head.uri.query().unwrap_or_default().to_owned());
    Ok(Request { method: head.method, path, query, headers: head.headers, body })
}

fn to_http(reply: Reply) -> hyper::Response<Full<Bytes>> {
    let mut response = hyper::Response::new(Full::new(reply.body));
    *response.status_mut() = reply.status;
    for (name, value) in reply.headers {
        response.headers_mut().insert(name, value);
    }
    response
}
