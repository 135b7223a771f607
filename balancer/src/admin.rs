//! The admin socket: health, status, who is where, drain and ready of a server, reload.

mod clients;
mod moves;

use std::sync::Arc;
use std::time::Duration;

use nsd_edge::admin::{Method, Reply, Request, Router, StatusCode};
use nsd_edge::metrics::CONTENT_TYPE;
use nsd_edge::tls::{Ocsp, OwnCertificate};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::backend::Backend;
use crate::balancer::Balancer;
use crate::health::{Input, State};
use crate::member::{Member, MemberReport};
use crate::moving;
use crate::pool::{Entry, Pool};
use crate::rules::Then;
use crate::running::Running;
use crate::settings::{Address, Policy};
use crate::telemetry;

pub(crate) fn router(balancer: Arc<Balancer>) -> Router {
    let with = |answer: fn(&Balancer, &Request) -> Reply| {
        let balancer = Arc::clone(&balancer);
        move |request: Request| {
            let reply = answer(&balancer, &request);
            async move { reply }
        }
    };
    Router::new()
        .route(Method::GET, "/health", with(|balancer, _| health(balancer)))
        .route(Method::GET, "/status", with(|balancer, _| status(balancer)))
        .route(
            Method::GET,
            "/metrics",
            with(|balancer, _| Reply::text(CONTENT_TYPE, telemetry::page(balancer))),
        )
        .route(Method::GET, "/who", with(clients::who))
        .route(Method::GET, "/sessions", with(|balancer, _| clients::sessions(balancer)))
        .route(Method::POST, "/drain", with(moves::drain))
        .route(Method::POST, "/ready", with(moves::ready))
        .route(Method::POST, "/rebalance", with(moves::rebalance))
        .route(Method::GET, "/moves", with(|balancer, _| moves::moves(balancer)))
        .route(Method::POST, "/reload", move |_| reload(Arc::clone(&balancer)))
}

#[derive(Deserialize)]
struct Which {
    server: String,
}

#[derive(Serialize)]
struct Status {
    version: &'static str,
    uptime_seconds: u64,
    #[serde(flatten)]
    health: Health,
    sessions: usize,
    /// Why the last reload changed nothing.
    problem: Option<String>,
    frontends: Vec<FrontendReport>,
    backends: Vec<BackendReport>,
    /// Drains and rebalances, oldest first.
    moves: Vec<moving::Report>,
    certificates: Vec<CertificateReport>,
}

/// Whether clients can be taken.
#[derive(Serialize)]
struct Health {
    live: bool,
    /// Every frontend has a server for its clients.
    ready: bool,
    /// A server is down, or the last reload was refused.
    degraded: bool,
    draining: bool,
}

#[derive(Serialize)]
struct FrontendReport {
    name: String,
    /// Of clients whom no rule singles out.
    backend: Option<String>,
    /// All that clients may come to.
    backends: Vec<String>,
    /// Connections now, and since the start.
    connections: u64,
    connections_total: u64,
}

#[derive(Serialize)]
struct BackendReport {
    name: String,
    servers: Vec<MemberReport>,
    /// No longer in the settings, with sessions still there.
    leaving: Vec<MemberReport>,
    /// Clients that wait because all servers are full, or have had their clients for now.
    queued: usize,
    /// At the rate that is allowed: to let those in, and to let all in that are here now, should they come at once.
    queue_takes_ms: Option<u64>,
    all_take_ms: Option<u64>,
}

#[derive(Serialize)]
struct CertificateReport {
    files: Vec<std::path::PathBuf>,
    names: Vec<String>,
    /// Why the files in use are not those of now.
    problem: Option<String>,
    certificates: Vec<OwnReport>,
}

/// One certificate.
#[derive(Serialize)]
struct OwnReport {
    file: std::path::PathBuf,
    names: Vec<String>,
    /// Seconds since 1970.
    not_after: Option<i64>,
    ocsp: serde_json::Value,
}

impl From<OwnCertificate> for OwnReport {
    fn from(OwnCertificate { file, names, ends, ocsp }: OwnCertificate) -> Self {
        let ocsp = match ocsp {
            Ocsp::None => serde_json::Value::Null,
            Ocsp::Until(until) => json!({ "until": until }),
            Ocsp::Unusable(problem) => json!({ "problem": problem }),
        };
        Self { file, names, not_after: ends, ocsp }
    }
}

impl Health {
    fn of(balancer: &Balancer) -> Self {
        let draining = balancer.drain.watch().is_draining();
        let usable = balancer.running.lock().frontends.iter().all(|frontend| frontend.is_usable());
        let down = balancer.members().iter().any(|entry| entry.member.state() == State::Unhealthy);
        let degraded = down || balancer.last_reload.lock().is_err();
        Self { live: true, ready: usable && !draining, degraded, draining }
    }
}

fn health(balancer: &Balancer) -> Reply {
    let health = Health::of(balancer);
    let status = if health.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Reply::json(status, &health)
}

fn status(balancer: &Balancer) -> Reply {
    let health = Health::of(balancer);
    let running = balancer.running.lock();
    let frontend = |frontend: &Arc<crate::frontend::Frontend>| FrontendReport {
        name: frontend.name.clone(),
        backend: match &frontend.rules.otherwise {
            Then::Backend(name) => Some(name.clone()),
            Then::Refuse => None,
        },
        backends: frontend.backends.iter().map(|backend| backend.name.clone()).collect(),
        connections: frontend.tally.counts().open(),
        connections_total: frontend.tally.counts().accepted,
    };
    let backend = |backend: &Arc<Backend>| {
        let (pool, policy) = (backend.pool.load(), backend.policy.load());
        let report = |entry: &Entry<_>| entry_report(entry, &policy);
        let sessions = pool.members.iter().map(|entry| u64::from(entry.member.active()));
        let leaving = pool.leaving.iter().filter(|entry| entry.member.active() > 0);
        BackendReport {
            name: backend.name.clone(),
            servers: pool.members.iter().map(report).collect(),
            leaving: leaving.map(report).collect(),
            queued: backend.queue.waiting(),
            queue_takes_ms: milliseconds(backend.takes(backend.queue.waiting() as u64)),
            all_take_ms: milliseconds(backend.takes(sessions.sum())),
        }
    };
    let certificates = running.certificates.iter().map(|(settings, kept)| CertificateReport {
        files: settings.certificates.clone(),
        names: kept.server.names(),
        problem: kept.server.problem(),
        certificates: kept.server.certificates().into_iter().map(OwnReport::from).collect(),
    });
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: balancer.since.elapsed().as_secs(),
        health,
        sessions: balancer.shared.workers.sessions(),
        problem: balancer.last_reload.lock().clone().err(),
        frontends: running.frontends.iter().map(frontend).collect(),
        backends: running.backends.iter().map(backend).collect(),
        moves: balancer.shared.moving.reports(),
        certificates: certificates.collect(),
    };
    Reply::json(StatusCode::OK, &status)
}

fn milliseconds(time: Option<Duration>) -> Option<u64> {
    u64::try_from(time?.as_millis()).ok()
}

fn entry_report(entry: &Entry<Member>, policy: &Policy) -> MemberReport {
    entry.member.report(entry.settings.weight, policy)
}

/// A server is named by its name, in whichever backends it is, or by its address.
fn tell(
    balancer: &Balancer,
    server: &str,
    input: Input,
    then: impl Fn(&Arc<Backend>, &Arc<Member>),
) -> Reply {
    let meant = Meant::new(server);
    let running = balancer.running.lock();
    let mut told = Vec::new();
    for backend in &running.backends {
        let policy = backend.policy.load();
        for entry in backend.pool.load().members.iter().filter(|entry| meant.is(entry)) {
            entry.member.tell(input, &policy);
            then(backend, &entry.member);
            told.push(entry_report(entry, &policy));
        }
    }
    if told.is_empty() {
        return unknown(&running, server);
    }
    Reply::json(StatusCode::OK, &json!({ "servers": told }))
}

/// Which servers somebody means.
struct Meant<'a> {
    name: &'a str,
    address: Option<Address>,
}

impl<'a> Meant<'a> {
    fn new(server: &'a str) -> Self {
        Self { name: server, address: server.parse().ok() }
    }

    fn is(&self, entry: &Entry<Member>) -> bool {
        entry.settings.name == self.name || Some(&entry.settings.address) == self.address.as_ref()
    }
}

fn unknown(running: &Running, server: &str) -> Reply {
    let pools = running.backends.iter().map(|backend| backend.pool.load());
    let names = |pool: &Pool<Member>| -> Vec<String> {
        pool.members.iter().map(|entry| entry.settings.name.clone()).collect()
    };
    let known: Vec<String> = pools.flat_map(|pool| names(&pool)).collect();
    let problem = json!({ "error": format!("there is no server `{server}`"), "servers": known });
    Reply::json(StatusCode::NOT_FOUND, &problem)
}

async fn reload(balancer: Arc<Balancer>) -> Reply {
    // To its end, even if whoever asked does not wait for it: what is in use must be told.
    let reloaded = tokio::spawn(async move { balancer.reload().await }).await;
    match reloaded.unwrap_or_else(|error| Err(vec![error.to_string()])) {
        Ok(plan) => Reply::json(StatusCode::OK, &json!({ "plan": plan })),
        Err(problems) => Reply::json(StatusCode::UNPROCESSABLE_ENTITY, &json!({ "problems": problems })),
    }
}
