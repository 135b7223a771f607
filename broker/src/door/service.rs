//! A service that is asked by HTTP who a client is. It is never asked longer than its deadline, nor by too many at once,
//! and what it does not answer clearly is no permission.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::http::uri::Scheme;
use hyper::{Method, Request, StatusCode, Uri, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::memory::{Memory, Namer};
use crate::access::Lists;
use crate::limits;

/// An answer larger than this is none; those that are remembered are not larger either.
const MOST_BYTES: usize = 16 * 1024;
/// A connection to the service that nobody needed for so long is closed.
const IDLE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub struct ServiceSettings {
    pub url: Uri,
    /// Whom to trust, for `https`.
    pub tls: Arc<ClientConfig>,
    pub deadline: Duration,
    pub calls: usize,
    pub remember: Duration,
    pub remember_refusals: Duration,
}

/// What the service is told of a client.
#[derive(Serialize)]
pub(super) struct Question<'q> {
    pub(super) client_id: &'q str,
    pub(super) username: Option<&'q str>,
    pub(super) password: Option<&'q str>,
    pub(super) address: IpAddr,
    pub(super) certificate: Option<&'q str>,
}

/// What the service thinks of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Refused,
    Allowed { superuser: bool, lists: Option<Lists> },
}

#[derive(Debug)]
pub(super) struct Service {
    settings: ServiceSettings,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    calls: Semaphore,
    allowed: Memory<Verdict>,
    /// Apart, so that who guesses passwords does not make it forget who was right.
    refused: Memory<()>,
    namer: Namer,
    /// The last call went well; a change is worth a line in the log, a failure among many is not.
    well: AtomicBool,
}

impl Service {
    pub(super) fn new(settings: ServiceSettings, namer: Namer) -> Self {
        let tls = ClientConfig::clone(&settings.tls);
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(settings.calls)
            .build(connector);
        let calls = Semaphore::new(settings.calls);
        let (allowed, refused) =
            (Memory::new(limits::PASSWORDS_REMEMBERED), Memory::new(limits::PASSWORDS_REMEMBERED));
        Self { settings, client, calls, allowed, refused, namer, well: AtomicBool::new(true) }
    }

    /// `Err`: it could not be asked, or did not answer as agreed.
    pub(super) async fn ask(&self, question: &Question<'_>) -> Result<Verdict, ()> {
        let bytes = str::as_bytes;
        let address = question.address.to_string();
        let name = self.namer.name(&[
            Some(bytes(question.client_id)),
            question.username.map(bytes),
            question.password.map(bytes),
            Some(bytes(&address)),
            question.certificate.map(bytes),
        ]);
        let now = Instant::now();
        let refused = || self.refused.recall(&name, now).map(|()| Verdict::Refused);
        if let Some(verdict) = self.allowed.recall(&name, now).or_else(refused) {
            return Ok(verdict);
        }
        let asked = tokio::time::timeout(self.settings.deadline, self.call(question)).await;
        let outcome = asked.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        self.report(outcome.as_ref().err());
        let verdict = outcome.map_err(drop)?;
        let now = Instant::now();
        match &verdict {
            Verdict::Allowed { .. } => {
                self.allowed.keep(name, verdict.clone(), now, self.settings.remember);
            }
            Verdict::Refused => self.refused.keep(name, (), now, self.settings.remember_refusals),
        }
        Ok(verdict)
    }

    async fn call(&self, question: &Question<'_>) -> Result<Verdict, String> {
        let _permit = self.calls.acquire().await.map_err(|error| error.to_string())?;
        let mut body = Zeroizing::new(Vec::with_capacity(1024 + question.password.map_or(0, str::len) * 6));
        serde_json::to_writer(&mut *body, question).map_err(|error| error.to_string())?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.settings.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from_owner(body)))
            .map_err(|error| error.to_string())?;
        let response = self.client.request(request).await.map_err(|error| chain(&error))?;
        let status = response.status();
        if matches!(status, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED) {
            return Ok(Verdict::Refused);
        }
        if status != StatusCode::OK {
            return Err(format!("it answered {status}"));
        }
        let body = Limited::new(response.into_body(), MOST_BYTES).collect().await;
        let body = body.map_err(|error| format!("its answer: {error}"))?.to_bytes();
        understand(&body)
    }

    fn report(&self, problem: Option<&String>) {
        let was_well = self.well.swap(problem.is_none(), Ordering::Relaxed);
        match problem {
            Some(problem) if was_well => {
                warn!(url = %self.settings.url, problem, "the access service does not answer: clients are refused");
            }
            None if !was_well => info!(url = %self.settings.url, "the access service answers again"),
            _ => {}
        }
    }
}

/// `{"allow":…,"superuser":…,"acl":{"publish":[…],"subscribe":[…]}}`, and nothing that only resembles it.
fn understand(body: &[u8]) -> Result<Verdict, String> {
    // The error of the parser may repeat what it read.
    let answer: Map<String, Value> =
        serde_json::from_slice(body).map_err(|_| "its answer is no JSON object".to_owned())?;
    let flag = |name: &str| match answer.get(name) {
        None => Ok(None),
        Some(value) => {
            value.as_bool().map(Some).ok_or_else(|| format!("`{name}` of its answer is no boolean"))
        }
    };
    let (allow, superuser) = (flag("allow")?.ok_or("its answer has no `allow`")?, flag("superuser")?);
    let lists = match answer.get("acl") {
        None | Some(Value::Null) => None,
        Some(acl) => {
            Some(lists(acl).ok_or("`acl` of its answer is not `{\"publish\":[…],\"subscribe\":[…]}`")?)
        }
    };
    Ok(match allow {
        true => Verdict::Allowed { superuser: superuser == Some(true), lists },
        false => Verdict::Refused,
    })
}

fn lists(acl: &Value) -> Option<Lists> {
    let acl = acl.as_object()?;
    if !acl.keys().all(|key| key == "publish" || key == "subscribe") {
        return None;
    }
    let filters = |name: &str| -> Option<Vec<Box<str>>> {
        let Some(list) = acl.get(name) else { return Some(Vec::new()) };
        list.as_array()?.iter().map(|filter| filter.as_str().map(Into::into)).collect()
    };
    Lists::new(filters("publish")?, filters("subscribe")?)
}

/// The causes are where the reason stands.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

pub(crate) fn parse_url(text: &str) -> Result<Uri, &'static str> {
    let wrong = "is no `http://HOST[:PORT]/PATH` or `https://…`";
    let url: Uri = text.parse().map_err(|_| wrong)?;
    let known = [Some(&Scheme::HTTP), Some(&Scheme::HTTPS)].contains(&url.scheme());
    match url.authority() {
        Some(authority) if authority.as_str().contains('@') => Err("must be without a user and a password"),
        Some(_) if known => Ok(url),
        _ => Err(wrong),
    }
}

fn is_https(url: &Uri) -> bool {
    url.scheme() == Some(&Scheme::HTTPS)
}

/// Trusts the certificates of this file, or those of the system; nobody where the URL asks for no TLS.
pub(crate) fn tls(url: &Uri, ca: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let roots = match (is_https(url), ca) {
        (true, Some(path)) => roots_of(path)?,
        (true, None) => roots_of_the_system()?,
        (false, Some(_)) => return Err("means nothing without https".to_owned()),
        (false, None) => RootCertStore::empty(),
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

fn roots_of(path: &Path) -> Result<RootCertStore, String> {
    let wrong = |what: String| format!("{}: {what}", path.display());
    let (content, mut roots) = (crate::live_file::bytes(path)?, RootCertStore::empty());
    for certificate in CertificateDer::pem_slice_iter(&content) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() { Err(wrong("holds no certificate".to_owned())) } else { Ok(roots) }
}

fn roots_of_the_system() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err("is missing, and this system has no certificates of its own".to_owned());
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let allowed = |superuser, lists| Ok(Verdict::Allowed { superuser, lists });
        let lists = Lists::new(vec!["a/+".into()], Vec::new());
        for (body, expected) in [
            (r#"{"allow":true}"#, allowed(false, None)),
            (r#"{"allow":true,"superuser":true,"more":1}"#, allowed(true, None)),
            (r#"{"allow":true,"acl":{"publish":["a/+"]}}"#, allowed(false, lists)),
            (r#"{"allow":true,"acl":null}"#, allowed(false, None)),
            (r#"{"allow":false,"superuser":true}"#, Ok(Verdict::Refused)),
        ] {
            assert_eq!(understand(body.as_bytes()), expected, "{body}");
        }
        for odd in [
            "",
            "null",
            "{}",
            "[]",
            "yes",
            r#"{"allow":"true"}"#,
            r#"{"allow":1}"#,
            r#"{"allow":true"#,
            r#"{"allow":true,"acl":{"publish":["a/#/b"]}}"#,
            r#"{"allow":true,"acl":{"publsh":[]}}"#,
            r#"{"allow":true,"acl":[]}"#,
            r#"{"allow":true,"superuser":"no"}"#,
            r#"[true,true]"#,
        ] {
            assert!(understand(odd.as_bytes()).is_err(), "{odd}");
        }
    }

    #[test]
    fn urls() {
        for fine in ["http://127.0.0.1:8080/mqtt", "https://auth.example", "http://[::1]:1/x?y=z"] {
            assert!(parse_url(fine).is_ok(), "{fine}");
        }
        for odd in ["", "/path", "auth.example", "ftp://x/", "http://", "http://u:p@h/", "http://a b/"] {
            assert!(parse_url(odd).is_err(), "{odd}");
        }
    }
}
