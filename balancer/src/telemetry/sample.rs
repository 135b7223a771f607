//! Everything there is to tell, at one moment. Taken by the edge; what is made of it is pure.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use nsd_edge::process::Process;
use nsd_edge::tls::Ocsp;

use crate::backend::Backend;
use crate::balancer::Balancer;
use crate::frontend::Frontend;
use crate::health::State;
use crate::member::Member;
use crate::pool::Entry;
use crate::relay::Moved;
use crate::running::Running;
use crate::settings::Address;
use crate::tally::{Counts, Times};

#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) uptime: Duration,
    pub(crate) draining: bool,
    /// Whether each frontend has a server that takes clients.
    pub(crate) usable: bool,
    /// Settings that were taken, and those that were refused.
    pub(crate) reloads: (u64, u64),
    /// Whether the last settings were taken.
    pub(crate) reload_ok: bool,
    /// Connections now, and how many there may be.
    pub(crate) connections: usize,
    pub(crate) limit: usize,
    pub(crate) frontends: Vec<FrontendSample>,
    pub(crate) backends: Vec<BackendSample>,
    pub(crate) certificates: Vec<CertificateSample>,
    pub(crate) process: Process,
}

#[derive(Debug, Clone)]
pub(crate) struct FrontendSample {
    pub(crate) name: String,
    pub(crate) counts: Counts,
    pub(crate) moved: Moved,
}

#[derive(Debug, Clone)]
pub(crate) struct BackendSample {
    pub(crate) name: String,
    pub(crate) queued: usize,
    /// Those that leave included.
    pub(crate) servers: Vec<ServerSample>,
}

#[derive(Debug, Clone)]
pub(crate) struct ServerSample {
    pub(crate) name: String,
    pub(crate) address: Address,
    pub(crate) state: State,
    pub(crate) weight: u32,
    pub(crate) backup: bool,
    pub(crate) sessions: u32,
    pub(crate) sessions_total: u64,
    pub(crate) connect_failures: u64,
    pub(crate) moved: Moved,
    /// By their code on the wire.
    pub(crate) connacks: Times<u8>,
    pub(crate) wills_suppressed: u64,
    pub(crate) checks: Times<&'static str>,
    /// Of the last check.
    pub(crate) check_milliseconds: Option<u64>,
}

#[derive(Debug, Clone)]
pub(crate) struct CertificateSample {
    pub(crate) file: PathBuf,
    pub(crate) name: String,
    /// Seconds since 1970.
    pub(crate) ends: Option<i64>,
    pub(crate) ocsp: Ocsp,
    /// Whether newer files could not be taken.
    pub(crate) stale: bool,
}

/// What sessions have moved, ended and running ones, by what they belong to.
#[derive(Default)]
struct MovedBy(HashMap<usize, Moved>);

impl MovedBy {
    fn take(balancer: &Balancer) -> Self {
        let mut all = Self::ended(&balancer.running.lock());
        balancer.shared.registry.each(|live| {
            all.add(&live.frontend.tally, live.handle.moved());
            all.add(&live.member, live.handle.moved());
        });
        all
    }

    fn ended(running: &Running) -> Self {
        let mut all = Self::default();
        for frontend in &running.frontends {
            all.add(&frontend.tally, frontend.tally.traffic.ended());
        }
        for backend in &running.backends {
            let pool = backend.pool.load();
            let members = pool.members.iter().chain(&pool.leaving);
            members.for_each(|entry| all.add(&entry.member, entry.member.traffic.ended()));
        }
        all
    }

    fn add<T>(&mut self, of: &Arc<T>, moved: Moved) {
        *self.0.entry(Arc::as_ptr(of).addr()).or_default() += moved;
    }

    fn of<T>(&self, of: &Arc<T>) -> Moved {
        self.0.get(&Arc::as_ptr(of).addr()).copied().unwrap_or_default()
    }
}

/// Looks at everything. Costs a look at each session, so it is for every second, not for every message.
pub(crate) fn take(balancer: &Balancer) -> Sample {
    let shared = &balancer.shared;
    let moved = MovedBy::take(balancer);
    let running = balancer.running.lock();
    let frontends = running.frontends.iter().map(|frontend| of_frontend(frontend, &moved));
    let certificates = running.certificates.values().flat_map(|kept| {
        let stale = kept.server.problem().is_some();
        kept.server.certificates().into_iter().map(move |own| CertificateSample {
            file: own.file,
            name: own.names.into_iter().next().unwrap_or_default(),
            ends: own.ends,
            ocsp: own.ocsp,
            stale,
        })
    });
    let mut certificates: Vec<_> = certificates.collect();
    // The same file may serve several frontends.
    certificates.sort_by(|one, other| one.file.cmp(&other.file));
    certificates.dedup_by(|one, other| one.file == other.file);
    Sample {
        uptime: balancer.since.elapsed(),
        draining: balancer.drain.watch().is_draining(),
        usable: running.frontends.iter().all(|frontend| frontend.is_usable()),
        reloads: (balancer.reloads.taken.load(Relaxed), balancer.reloads.refused.load(Relaxed)),
        reload_ok: balancer.last_reload.lock().is_ok(),
        connections: shared.workers.sessions(),
        limit: shared.workers.sessions() + shared.sessions.available_permits(),
        frontends: frontends.collect(),
        backends: running.backends.iter().map(|backend| of_backend(backend, &moved)).collect(),
        certificates,
        process: Process::now(),
    }
}

/// The clients of each frontend. Costs a look at each session, too.
pub(crate) fn frontends(balancer: &Balancer) -> Vec<FrontendSample> {
    let moved = MovedBy::take(balancer);
    balancer.running.lock().frontends.iter().map(|frontend| of_frontend(frontend, &moved)).collect()
}

fn of_frontend(frontend: &Frontend, moved: &MovedBy) -> FrontendSample {
    FrontendSample {
        name: frontend.name.clone(),
        counts: frontend.tally.counts(),
        moved: frontend.tally.traffic.here(moved.of(&frontend.tally)),
    }
}

fn of_backend(backend: &Backend, moved: &MovedBy) -> BackendSample {
    let pool = backend.pool.load();
    let leaving = pool.leaving.iter().filter(|entry| entry.member.active() > 0);
    let servers = pool.members.iter().chain(leaving).map(|entry| of_server(entry, moved)).collect();
    BackendSample { name: backend.name.clone(), queued: backend.queue.waiting(), servers }
}

fn of_server(entry: &Entry<Member>, moved: &MovedBy) -> ServerSample {
    let Entry { settings, member } = entry;
    ServerSample {
        name: member.name.clone(),
        address: member.place.address.clone(),
        state: member.state(),
        weight: settings.weight,
        backup: settings.backup,
        sessions: member.active(),
        sessions_total: member.sessions_total(),
        connect_failures: member.connect_failures(),
        moved: member.traffic.here(moved.of(member)),
        connacks: member.connacks.all(),
        wills_suppressed: member.wills_suppressed(),
        checks: member.checks.all(),
        check_milliseconds: member.last_check().map(|check| check.milliseconds),
    }
}
