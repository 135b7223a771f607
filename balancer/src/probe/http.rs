//! The HTTP check: one request, whose status tells. The body is not read.

use hyper::client::conn::http1;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;

use crate::settings::HttpAsk;
use crate::upstream::Upstream;
use crate::verdict::{Failed, Verdict};

/// The head of an answer; a longer one is none.
const MAX_HEAD: usize = 16 * 1024;

/// `host`: what the settings do not say.
pub(super) async fn ask(stream: Upstream, ask: &HttpAsk, host: &str) -> Result<(), Failed> {
    let request = Request::builder()
        .method(if ask.head { Method::HEAD } else { Method::GET })
        .uri(ask.path.as_str())
        .header(header::HOST, ask.host.as_deref().unwrap_or(host))
        .header(header::USER_AGENT, "nsd-balancer")
        .header(header::CONNECTION, "close")
        .body(String::new())
        .map_err(|error| Failed::new(Verdict::Garbled, format!("cannot be asked: {error}")))?;
    let mut client = http1::Builder::new();
    client.max_buf_size(MAX_HEAD);
    let (mut sender, connection) =
        client.handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let answer = sender.send_request(request);
    tokio::pin!(connection, answer);
    let response = tokio::select! {
        biased;
        response = &mut answer => response,
        // What it had to say is said; the answer knows it.
        _ended = &mut connection => answer.await,
    };
    let status = response.map_err(|error| failed(&error))?.status();
    if ask.expect.iter().any(|expected| expected.contain(status.as_u16())) {
        return Ok(());
    }
    Err(Failed::new(Verdict::Refusing, format!("it answers with status {}", status.as_u16())))
}

fn failed(error: &hyper::Error) -> Failed {
    let verdict =
        if error.is_parse() || error.is_parse_too_large() { Verdict::Garbled } else { Verdict::Refusing };
    Failed::new(verdict, error.to_string())
}
