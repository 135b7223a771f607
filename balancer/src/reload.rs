//! New settings → a running balancer, as a transaction: everything that can fail (binding, certificates) is done first;
//! if something does, nothing has changed. What follows cannot fail, and touches no session.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use nsd_edge::drain::Drain;
use nsd_edge::listen;
use nsd_edge::metrics::MetricsPort;
use nsd_edge::tls::{self, TlsServer, TlsSettings};
use tokio::sync::Semaphore;
use tracing::info;

use crate::backend::Backend;
use crate::bound::{Bound, Closing, Route};
use crate::credentials::Credentials;
use crate::dashboard::{self, Dashboard};
use crate::entry::Entry;
use crate::frontend::Frontend;
use crate::gate::GateRules;
use crate::guard::Guard;
use crate::health::Input;
use crate::member::{self, Member, rules};
use crate::moving;
use crate::pool::{Change, Changes, Pool};
use crate::registry::Registry;
use crate::running::{Certificates, Running};
use crate::session::Handshakes;
use crate::settings::{BackendSettings, EntrySettings, FrontendSettings, ServerSettings, Settings, TlsBind};
use crate::shared::Shared;
use crate::shown::Shown;
use crate::tally::Tally;
use crate::{names, probe, waves};

/// What [`prepare`] made, not in use yet.
pub(crate) struct Prepared {
    sockets: HashMap<SocketAddr, TcpListener>,
    certificates: HashMap<TlsSettings, Arc<TlsServer>>,
    /// By the name of the backend.
    credentials: HashMap<String, Credentials>,
    dashboard: Option<dashboard::Prepared>,
    /// Where it is another one than before.
    metrics: Option<MetricsPort>,
}

/// What the balancer needs besides settings.
pub(crate) struct Context<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) drain: &'a Drain,
    pub(crate) shown: &'a Arc<dyn Shown>,
    /// Becomes true once clients may be accepted.
    pub(crate) ready: &'a tokio::sync::watch::Receiver<bool>,
}

/// Binds the new addresses and loads all certificates anew; or all that is wrong.
/// `inherited` are sockets that another process has bound; those that nobody wants stay.
pub(crate) fn prepare(
    running: &Running,
    wanted: &Settings,
    inherited: &mut HashMap<SocketAddr, TcpListener>,
) -> Result<Prepared, Vec<String>> {
    let mut problems = Vec::new();
    let mut sockets = HashMap::new();
    let mut certificates = HashMap::new();
    for address in wanted.frontends.iter().flat_map(addresses) {
        if running.bound.contains_key(&address) {
            continue;
        }
        match inherited.remove(&address).map_or_else(|| listen::bind(address), Ok) {
            Ok(socket) => {
                sockets.insert(address, socket);
            }
            Err(error) => problems.push(error.to_string()),
        }
    }
    let secure = wanted.frontends.iter().filter_map(|frontend| frontend.tls.as_ref());
    let of_dashboard = wanted.dashboard.iter().filter_map(|dashboard| dashboard.tls.as_ref());
    for settings in secure.map(|bind| &bind.tls).chain(of_dashboard) {
        if certificates.contains_key(settings) {
            continue;
        }
        match TlsServer::with(settings.clone()) {
            Ok(server) => {
                certificates.insert(settings.clone(), Arc::new(server));
            }
            Err(_first) => problems.extend(tls::problems(settings).iter().map(ToString::to_string)),
        }
    }
    let dashboard = Dashboard::prepare(running.dashboard.as_ref(), wanted.dashboard.as_ref(), inherited);
    let dashboard = dashboard.unwrap_or_else(|found| {
        problems.extend(found);
        None
    });
    let mut credentials = HashMap::new();
    for backend in &wanted.backends {
        match Credentials::load(&backend.policy) {
            Ok(loaded) => drop(credentials.insert(backend.name.clone(), loaded)),
            Err(problem) => problems.push(problem),
        }
    }
    let mut metrics = None;
    if wanted.metrics != running.metrics.address() {
        let bound = wanted.metrics.and_then(|address| Some((address, inherited.remove(&address)?)));
        let bind = || MetricsPort::bind(wanted.metrics);
        match bound.map_or_else(bind, |(address, socket)| MetricsPort::on(address, socket)) {
            Ok(port) => metrics = Some(port),
            Err(error) => problems.push(error.to_string()),
        }
    }
    problems.dedup();
    let prepared = Prepared { sockets, certificates, credentials, dashboard, metrics };
    if problems.is_empty() { Ok(prepared) } else { Err(problems) }
}

/// Takes the new settings into use, and says what changed.
pub(crate) fn commit(
    running: &mut Running,
    wanted: &Settings,
    mut prepared: Prepared,
    context: &Context<'_>,
) -> (Vec<String>, Closing) {
    let (mut plan, mut closing) = (Vec::new(), Closing::default());
    let mut backend = |wanted: &BackendSettings| {
        let credentials = prepared.credentials.remove(&wanted.name).unwrap_or_default();
        commit_backend(running, wanted, credentials, context, &mut plan)
    };
    let backends: Vec<Arc<Backend>> = wanted.backends.iter().map(&mut backend).collect();
    for backend in &running.backends {
        if !backends.iter().any(|kept| kept.name == backend.name) {
            let (_, changes) = replace(backend, &[]);
            note(&backend.name, &changes, &mut plan);
        }
    }
    running.backends = backends;
    commit_certificates(running, &mut prepared, context);
    let tls = wanted.dashboard.as_ref().and_then(|wanted| wanted.tls.as_ref());
    let tls = tls.and_then(|tls| running.certificates.get(tls)).map(|kept| Arc::clone(&kept.server));
    let page = wanted.dashboard.as_ref().zip(prepared.dashboard.take());
    plan.extend(Dashboard::commit(&mut running.dashboard, page, tls, context.shown, &mut closing));
    commit_metrics(running, &mut prepared, context, &mut closing);
    running.frontends = wanted.frontends.iter().map(|wanted| frontend(running, wanted)).collect();
    commit_binds(running, wanted, prepared, context, &mut plan, &mut closing);
    context.shared.access_log.store(wanted.access_log, Relaxed);
    context.shared.log_user_names.store(wanted.log_user_names, Relaxed);
    (plan, closing)
}

fn commit_backend(
    running: &Running,
    wanted: &BackendSettings,
    credentials: Credentials,
    context: &Context<'_>,
    plan: &mut Vec<String>,
) -> Arc<Backend> {
    let kept = running.backends.iter().find(|backend| backend.name == wanted.name);
    let backend =
        kept.map_or_else(|| Arc::new(Backend::new(&wanted.name, wanted.policy.clone())), Arc::clone);
    let credentials = Arc::new(credentials);
    credentials.follow(&wanted.name);
    backend.credentials.store(credentials);
    if **backend.policy.load() != wanted.policy {
        backend.policy.store(Arc::new(wanted.policy.clone()));
        for entry in &backend.pool.load().members {
            entry.member.set_rules(rules(&wanted.policy));
        }
        plan.push(format!("~{} policy", wanted.name));
    }
    let (pool, changes) = replace(&backend, &wanted.servers);
    note(&wanted.name, &changes, plan);
    backend.pool.store(Arc::new(pool));
    note_excess(&backend, &changes, plan);
    perform(&backend, &changes, &context.shared.registry);
    backend.queue.freed();
    backend
}

fn replace(backend: &Backend, wanted: &[ServerSettings]) -> (Pool<Member>, Changes<Member>) {
    let rules = rules(&backend.policy.load());
    let shared = member::Context { backend: backend.name.as_str().into(), queue: Arc::clone(&backend.queue) };
    let cold = !backend.pool.load().members.is_empty();
    let make = |settings: &_| Member::new(settings, rules, cold, shared.clone());
    let (pool, changes) = backend.pool.load().replace(wanted, make, |member| member.active() > 0);
    let policy = backend.policy.load();
    for change in &changes {
        match change {
            Change::Left(entry) => entry.member.tell(Input::Removed, &policy),
            Change::Returned(entry) => entry.member.tell(Input::Returned, &policy),
            Change::Joined(_) | Change::Settings { .. } => None,
        };
    }
    (pool, changes)
}

/// Each server that came is watched until it is gone.
fn perform(backend: &Arc<Backend>, changes: &Changes<Member>, registry: &Arc<Registry>) {
    for change in changes {
        if let Change::Joined(entry) | Change::Returned(entry) = change {
            let member = || Arc::clone(&entry.member);
            let backend = || Arc::clone(backend);
            entry.member.attend([
                tokio::spawn(probe::watch(member(), backend())),
                tokio::spawn(names::follow(member(), backend())),
                tokio::spawn(waves::follow(member(), backend(), Arc::clone(registry))),
            ]);
        }
    }
}

/// What a rebalance would move now.
fn note_excess(backend: &Backend, changes: &Changes<Member>, plan: &mut Vec<String>) {
    let excess = moving::planned(backend);
    if !changes.is_empty() && excess.total() > 0 {
        plan.push(format!("{}: {excess}", backend.name));
    }
}

fn note(backend: &str, changes: &Changes<Member>, plan: &mut Vec<String>) {
    plan.extend(changes.iter().map(|change| format!("{backend}: {change}")));
}

/// Certificates in use keep their ticket keys and their follower; they were loaded once more to know that they can be.
fn commit_certificates(running: &mut Running, prepared: &mut Prepared, context: &Context<'_>) {
    running.certificates.retain(|settings, _| prepared.certificates.contains_key(settings));
    for (settings, fresh) in prepared.certificates.drain() {
        if let Some(kept) = running.certificates.get(&settings) {
            kept.server.adopt(&fresh);
            continue;
        }
        let follower = Arc::clone(&fresh).follow(context.drain.watch());
        let follower = tokio::spawn(follower).abort_handle();
        running.certificates.insert(settings, Certificates { server: fresh, follower });
    }
}

fn commit_metrics(
    running: &mut Running,
    prepared: &mut Prepared,
    context: &Context<'_>,
    closing: &mut Closing,
) {
    let Some(mut port) = prepared.metrics.take() else { return };
    let shown = Arc::clone(context.shown);
    port.serve(move || shown.page().unwrap_or_default());
    let was = std::mem::replace(&mut running.metrics, port);
    was.into_acceptor().into_iter().for_each(|acceptor| closing.add(acceptor));
}

fn frontend(running: &Running, wanted: &FrontendSettings) -> Arc<Frontend> {
    let named = |backend: &&Arc<Backend>| wanted.rules.backends().any(|name| name == backend.name);
    Arc::new(Frontend {
        name: wanted.name.clone(),
        user_timeout: wanted.user_timeout,
        rules: wanted.rules.clone(),
        backends: running.backends.iter().filter(named).cloned().collect(),
        entry: entry(running, wanted),
        http: wanted.http.clone(),
        guard: wanted.gate.as_ref().map(|rules| guard(running, &wanted.name, rules)),
        tally: tally(running, &wanted.name),
    })
}

/// What was counted goes on.
fn tally(running: &Running, name: &str) -> Arc<Tally> {
    let before = running.frontends.iter().find(|frontend| frontend.name == name);
    before.map(|before| Arc::clone(&before.tally)).unwrap_or_default()
}

/// `None`: nothing is asked of who comes.
fn entry(running: &Running, wanted: &FrontendSettings) -> Option<Arc<Entry>> {
    let before = running.frontends.iter().find(|frontend| frontend.name == wanted.name);
    let before = before.and_then(|before| before.entry.as_ref());
    match before {
        Some(kept) if kept.settings == wanted.entry => Some(Arc::clone(kept)),
        _ if wanted.entry == EntrySettings::default() => None,
        _ => Some(Arc::new(Entry::new(wanted.entry.clone(), before.map(|before| &**before)))),
    }
}

/// Where the rules stay the same, so do the counts of who came how often.
fn guard(running: &Running, name: &str, rules: &GateRules) -> Arc<Guard> {
    let before = running.frontends.iter().find(|frontend| frontend.name == name);
    let kept = before.and_then(|before| before.guard.as_ref()).filter(|kept| kept.rules == *rules);
    kept.map_or_else(|| Arc::new(Guard::new(rules.clone())), Arc::clone)
}

fn commit_binds(
    running: &mut Running,
    wanted: &Settings,
    mut prepared: Prepared,
    context: &Context<'_>,
    plan: &mut Vec<String>,
    closing: &mut Closing,
) {
    let mut bound = HashMap::new();
    for (settings, frontend) in wanted.frontends.iter().zip(&running.frontends) {
        let plain = settings.bind.iter().map(|address| (*address, None));
        let tls = settings.tls.iter().flat_map(|tls| {
            let handshakes = handshakes(&running.certificates, tls);
            tls.bind.iter().map(move |address| (*address, handshakes.clone()))
        });
        for (address, tls) in plain.chain(tls) {
            let route = Route { frontend: Arc::clone(frontend), tls };
            if let Some(kept) = running.bound.remove(&address) {
                kept.route.store(Arc::new(route));
                bound.insert(address, kept);
            } else if let Some(socket) = prepared.sockets.remove(&address) {
                plan.push(format!("+bind {address}"));
                info!(%address, listener = settings.name, "listening");
                let ready = context.ready.clone();
                bound.insert(address, Bound::start(socket, route, context.shared, bound.len(), ready));
            }
        }
    }
    plan.extend(running.bound.keys().map(|address| format!("-bind {address}")));
    let gone = std::mem::replace(&mut running.bound, bound);
    gone.into_values().for_each(|gone| closing.add(gone.into_acceptor()));
}

fn handshakes(running: &HashMap<TlsSettings, Certificates>, wanted: &TlsBind) -> Option<Arc<Handshakes>> {
    let server = Arc::clone(&running.get(&wanted.tls)?.server);
    let turns = Semaphore::new(wanted.handshakes);
    Some(Arc::new(Handshakes { server, deadline: wanted.handshake_deadline, turns }))
}

fn addresses(frontend: &FrontendSettings) -> impl Iterator<Item = SocketAddr> + '_ {
    let tls = frontend.tls.iter().flat_map(|tls| &tls.bind);
    frontend.bind.iter().chain(tls).copied()
}
