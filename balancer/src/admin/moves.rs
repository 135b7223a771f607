//! Drains and rebalances on the admin socket.

use std::sync::Arc;
use std::time::Duration;

use nsd_edge::admin::{Reply, Request, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::backend::Backend;
use crate::balancer::Balancer;
use crate::health::Input;
use crate::limits;
use crate::member::Member;
use crate::moving::{Drain, Rebalance, What, planned};
use crate::pace::{self, Pace};

/// `POST /drain`.
#[derive(Deserialize)]
struct AskedDrain {
    server: String,
    /// Without one, sessions stay.
    rate: Option<String>,
    deadline_seconds: Option<u64>,
    /// Closes no more sessions; the server stays drained.
    #[serde(default)]
    stop: bool,
}

/// `POST /rebalance`.
#[derive(Deserialize)]
struct AskedRebalance {
    /// All of them unless told.
    backend: Option<String>,
    rate: Option<String>,
    percent_per_minute: Option<u32>,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    stop: bool,
}

pub(super) fn drain(balancer: &Balancer, request: &Request) -> Reply {
    let asked: AskedDrain = match request.json() {
        Ok(asked) => asked,
        Err(reply) => return reply,
    };
    let pace = match pace(asked.rate.as_deref()) {
        Ok(pace) => pace,
        Err(reply) => return reply,
    };
    if asked.stop {
        return stop(balancer, &asked.server);
    }
    let deadline = match deadline(asked.deadline_seconds) {
        Ok(deadline) => deadline,
        Err(reply) => return reply,
    };
    super::tell(balancer, &asked.server, Input::Drain, |backend, member| {
        let Some(pace) = pace else { return };
        Drain { pace, deadline }.begin(&balancer.shared.moving, &balancer.shared.registry, backend, member);
    })
}

pub(super) fn ready(balancer: &Balancer, request: &Request) -> Reply {
    let which: super::Which = match request.json() {
        Ok(which) => which,
        Err(reply) => return reply,
    };
    super::tell(balancer, &which.server, Input::Ready, |_, member| stop_drain(balancer, member))
}

/// Also of servers that are no longer in the settings, nor in a pool: their drains go on.
fn stop(balancer: &Balancer, server: &str) -> Reply {
    let meant = super::Meant::new(server);
    let running = balancer.running.lock();
    let mut members = Vec::new();
    for backend in &running.backends {
        let pool = backend.pool.load();
        let its = pool.members.iter().chain(&pool.leaving).filter(|entry| meant.is(entry));
        members.extend(its.map(|entry| Arc::clone(&entry.member)));
    }
    let jobs = balancer.shared.moving.running(|what| {
        matches!(what, What::Drain { server: name, .. } if name == server)
            || members.iter().any(|member| is_drain_of(what, member))
    });
    if members.is_empty() && jobs.is_empty() {
        return super::unknown(&running, server);
    }
    jobs.iter().for_each(|job| job.stop());
    Reply::json(StatusCode::OK, &json!({ "moves": balancer.shared.moving.reports() }))
}

fn stop_drain(balancer: &Balancer, member: &Member) {
    let jobs = balancer.shared.moving.running(|what| is_drain_of(what, member));
    jobs.iter().for_each(|job| job.stop());
}

fn is_drain_of(what: &What, member: &Member) -> bool {
    matches!(what, What::Drain { server, backend } if *server == member.name && **backend == *member.backend)
}

/// What a rebalance of one backend moves.
#[derive(Serialize)]
struct Planned {
    backend: String,
    /// `334 of 1000 sessions above fair share`.
    plan: String,
    sessions: u32,
    above: u32,
    from: Vec<(String, u32)>,
}

pub(super) fn rebalance(balancer: &Balancer, request: &Request) -> Reply {
    let asked: AskedRebalance = match request.json() {
        Ok(asked) => asked,
        Err(reply) => return reply,
    };
    let pace = match pace(asked.rate.as_deref()) {
        Ok(pace) => pace,
        Err(reply) => return reply,
    };
    if asked.percent_per_minute.is_some_and(|percent| !(1..=100).contains(&percent)) {
        return Reply::problem(StatusCode::BAD_REQUEST, "percent_per_minute: 1 to 100");
    }
    let meant = |name: &str| asked.backend.as_deref().is_none_or(|wanted| wanted == name);
    let backends: Vec<Arc<Backend>> =
        balancer.running.lock().backends.iter().filter(|backend| meant(&backend.name)).cloned().collect();
    if backends.is_empty() {
        return Reply::problem(StatusCode::NOT_FOUND, "there is no such backend");
    }
    let shared = &balancer.shared;
    if asked.stop {
        let rebalance = |what: &What| matches!(what, What::Rebalance { backend } if meant(backend));
        shared.moving.running(rebalance).iter().for_each(|job| job.stop());
        return Reply::json(StatusCode::OK, &json!({ "moves": shared.moving.reports() }));
    }
    let plans: Vec<Planned> = backends.iter().map(|backend| shown(backend)).collect();
    if !asked.dry_run {
        for backend in &backends {
            let rules = backend.policy.load().rebalance;
            let pace = pace.or(rules.map(|rules| rules.pace)).unwrap_or(limits::MOVE_RATE);
            let percent_per_minute =
                asked.percent_per_minute.or(rules.and_then(|rules| rules.percent_per_minute));
            let rebalance = Rebalance { pace, percent_per_minute };
            rebalance.begin(&shared.moving, &shared.registry, backend);
        }
    }
    Reply::json(StatusCode::OK, &json!({ "plan": plans, "begun": !asked.dry_run }))
}

fn shown(backend: &Backend) -> Planned {
    let plan = planned(backend);
    let pool = backend.pool.load();
    let from = pool.members.iter().map(|entry| entry.member.name.clone()).zip(plan.from.iter().copied());
    Planned {
        backend: backend.name.clone(),
        plan: plan.to_string(),
        sessions: plan.sessions,
        above: plan.total(),
        from: from.filter(|(_, from)| *from > 0).collect(),
    }
}

pub(super) fn moves(balancer: &Balancer) -> Reply {
    Reply::json(StatusCode::OK, &json!({ "moves": balancer.shared.moving.reports() }))
}

fn pace(text: Option<&str>) -> Result<Option<Pace>, Reply> {
    let parsed = text.map(str::parse::<Pace>).transpose();
    parsed.map_err(|error| Reply::problem(StatusCode::BAD_REQUEST, format!("rate: {error}")))
}

fn deadline(seconds: Option<u64>) -> Result<Option<Duration>, Reply> {
    let checked = seconds.map(|seconds| pace::deadline(Duration::from_secs(seconds))).transpose();
    checked.map_err(|error| Reply::problem(StatusCode::BAD_REQUEST, format!("deadline_seconds: {error}")))
}
