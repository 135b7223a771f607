//! What the dashboard answers: before a login the form and nothing else; then the page, and what the page asks for.
//!
//! What changes something has to come from our own page: its `Origin` must name the very address (`Host`) that was asked. The
//! cookie's `SameSite=Strict` is not enough, since to a browser all ports of a host are one site.

use std::net::IpAddr;

use nsd_edge::http::{HeaderName, HeaderValue, Method, Reply, Request, StatusCode, header};
use nsd_edge::listen::household;
use nsd_edge::password::random;
use serde::Serialize;
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::Site;
use super::history::Sample;
use super::logins::{TOKEN, Token};
use super::refusals::Refused;

const PAGE: &str = include_str!("page.html");
const LOGIN: &str = include_str!("login.html");
const SCRIPT: &str = include_str!("page.js");
const STYLE: &str = include_str!("page.css");
const ICON: &str = include_str!("icon.svg");

/// Where a refused login says why.
const MESSAGE: &str = "<!-- message -->";
const HTML: &str = "text/html; charset=utf-8";
/// A password of a person is shorter.
const LONGEST_PASSWORD: usize = 1024;

/// Nothing from elsewhere, nothing inline, no frame around it, no sink that makes markup of text.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
     trusted-types 'none'",
);

/// Who asks, and what they are called.
struct Asker {
    user: String,
    token: Token,
}

/// The answer to one request.
pub(super) async fn answer(site: &Site, source: IpAddr, request: Request) -> Reply {
    let asker = asker(site, &request);
    let reply = match (&request.method, request.path.as_str(), &asker) {
        (&Method::GET, "/page.css", _) => file("text/css; charset=utf-8", STYLE),
        (&Method::GET, "/icon.svg", _) => file("image/svg+xml", ICON),
        (&Method::GET, "/login", None) => form(StatusCode::OK, ""),
        (&Method::POST, "/login", _) => log_in(site, source, &request).await,
        (&Method::GET, "/login", Some(_)) => redirect("/"),
        (&Method::GET, "/", None) => redirect("/login"),
        (_, _, None) => Reply::problem(StatusCode::UNAUTHORIZED, "log in first"),
        (&Method::GET, "/", Some(_)) => file(HTML, PAGE),
        (&Method::GET, "/page.js", Some(_)) => file("text/javascript; charset=utf-8", SCRIPT),
        (&Method::GET, "/api/history", Some(_)) => history(site, &request),
        (_, _, Some(asker)) => of_user(site, asker, request).await,
    };
    secured(reply)
}

/// What only who is logged in may ask, besides the page itself.
async fn of_user(site: &Site, asker: &Asker, request: Request) -> Reply {
    if request.method != Method::GET && !is_from_our_page(&request) {
        return Reply::problem(StatusCode::FORBIDDEN, "this did not come from the dashboard's own page");
    }
    let Asker { user, token } = asker;
    match (&request.method, request.path.as_str()) {
        (&Method::GET, "/api/status") => ask(site, request, "/status").await,
        (&Method::GET, "/api/health") => ask(site, request, "/health").await,
        (&Method::POST, "/api/drain") => {
            info!(user, body = ?String::from_utf8_lossy(&request.body), "dashboard: drain");
            ask(site, request, "/drain").await
        }
        (&Method::POST, "/api/ready") => {
            info!(user, body = ?String::from_utf8_lossy(&request.body), "dashboard: ready");
            ask(site, request, "/ready").await
        }
        (&Method::POST, "/logout") => {
            site.memory.logins.lock().end(token);
            info!(user, "dashboard: logged out");
            redirect("/login").with(header::SET_COOKIE, cookie(site, "", 0))
        }
        _ => Reply::problem(StatusCode::NOT_FOUND, "there is nothing here"),
    }
}

/// What the admin socket answers.
async fn ask(site: &Site, request: Request, path: &str) -> Reply {
    match site.shown.router() {
        Some(router) => router.answer(Request { path: path.to_owned(), ..request }).await,
        None => Reply::problem(StatusCode::SERVICE_UNAVAILABLE, "the balancer is stopping"),
    }
}

#[derive(Serialize)]
struct Samples<'h> {
    /// Seconds since the first sample.
    now: u64,
    samples: Vec<&'h Sample>,
}

/// All samples, or those `after` a second.
fn history(site: &Site, request: &Request) -> Reply {
    let after = request.query("after").and_then(|after| after.parse().ok());
    let history = site.memory.history.lock();
    let samples = history.since(after).collect();
    Reply::json(StatusCode::OK, &Samples { now: site.memory.since.elapsed().as_secs(), samples })
}

async fn log_in(site: &Site, source: IpAddr, request: &Request) -> Reply {
    if !is_from_our_page(request) {
        return form(StatusCode::FORBIDDEN, "This did not come from the dashboard's own form.");
    }
    let now = site.memory.since.elapsed();
    let may_try = site.memory.by_source.lock().admit(household(source), now)
        && site.memory.in_all.lock().admit((), now);
    if !may_try {
        tell_refusal(site, source, Refused::TooMany);
        return form(StatusCode::TOO_MANY_REQUESTS, "Too many tries. Please wait a minute.")
            .with(header::RETRY_AFTER, HeaderValue::from_static("60"));
    }
    let user = request.form("user").unwrap_or_default();
    let password = Zeroizing::new(request.form("password").unwrap_or_default().into_owned().into_bytes());
    let right = password.len() <= LONGEST_PASSWORD && site.users.load_full().know(&user, password).await;
    if !right {
        tell_refusal(site, source, Refused::Wrong);
        return form(StatusCode::UNAUTHORIZED, "The name or the password is wrong.");
    }
    let Ok(token) = random::<TOKEN>() else {
        return form(StatusCode::INTERNAL_SERVER_ERROR, "The machine has no random numbers.");
    };
    let lifetime = {
        let mut logins = site.memory.logins.lock();
        logins.begin(token, &user, site.memory.since.elapsed());
        logins.lifetime().as_secs()
    };
    info!(%source, user = %user, "dashboard: logged in");
    redirect("/").with(header::SET_COOKIE, cookie(site, &hex::encode(token), lifetime))
}

/// The name is not told: passwords are typed into the wrong field.
fn tell_refusal(site: &Site, source: IpAddr, refused: Refused) {
    let now = site.memory.since.elapsed();
    let Some(untold) = site.memory.refusals.lock().tell(source, refused, now) else { return };
    match refused {
        Refused::Wrong => warn!(%source, untold, "dashboard: login refused"),
        Refused::TooMany => warn!(%source, untold, "dashboard: too many logins are tried"),
    }
}

fn asker(site: &Site, request: &Request) -> Option<Asker> {
    let cookies = request.header(header::COOKIE)?.split(';');
    let mut named = cookies.filter_map(|cookie| cookie.trim().split_once('='));
    let (_, value) = named.find(|(name, _)| *name == cookie_name(site))?;
    let mut token = Token::default();
    hex::decode_to_slice(value, &mut token).ok()?;
    let mut logins = site.memory.logins.lock();
    let user = logins.user(&token, site.memory.since.elapsed())?.to_owned();
    Some(Asker { user, token })
}

/// Over TLS a browser takes a cookie of this name from nobody but this host, over TLS.
fn cookie_name(site: &Site) -> &'static str {
    if site.tls.is_some() { "__Host-nsd-balancer" } else { "nsd-balancer" }
}

fn cookie(site: &Site, value: &str, max_age: u64) -> HeaderValue {
    let secure = if site.tls.is_some() { "; Secure" } else { "" };
    let name = cookie_name(site);
    let text = format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={max_age}{secure}");
    let mut value = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// A browser tells the origin of everything that is posted, and lets no page tell another one's.
fn is_from_our_page(request: &Request) -> bool {
    let origin = request.header(header::ORIGIN).and_then(|origin| origin.split_once("://"));
    let host = request.header(header::HOST);
    origin.zip(host).is_some_and(|((_scheme, origin), host)| origin.eq_ignore_ascii_case(host))
}

fn file(content_type: &'static str, text: &'static str) -> Reply {
    Reply::new(StatusCode::OK, content_type, text)
}

fn form(status: StatusCode, message: &str) -> Reply {
    let message = match message {
        "" => String::new(),
        message => format!("<p class=\"refused\" role=\"alert\">{message}</p>"),
    };
    Reply::new(status, HTML, LOGIN.replace(MESSAGE, &message))
}

fn redirect(to: &'static str) -> Reply {
    Reply::new(StatusCode::SEE_OTHER, "text/plain", "").with(header::LOCATION, HeaderValue::from_static(to))
}

fn secured(reply: Reply) -> Reply {
    let value = HeaderValue::from_static;
    reply
        .with(header::CONTENT_SECURITY_POLICY, POLICY)
        .with(header::X_FRAME_OPTIONS, value("DENY"))
        .with(header::X_CONTENT_TYPE_OPTIONS, value("nosniff"))
        .with(header::REFERRER_POLICY, value("same-origin"))
        .with(header::CACHE_CONTROL, value("no-store"))
        .with(HeaderName::from_static("cross-origin-opener-policy"), value("same-origin"))
        .with(HeaderName::from_static("cross-origin-resource-policy"), value("same-origin"))
}
