//! Sessions above their servers' fair share, moved to where there is room.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::{Instant, sleep};

use super::{Job, Moving, What};
use crate::backend::Backend;
use crate::health::State;
use crate::limits;
use crate::member::Member;
use crate::moves::{self, Plan, Share};
use crate::pace::{self, Pace};
use crate::pick;
use crate::pool::Entry;
use crate::registry::{Live, Registry};
use crate::relay::Order;
use crate::settings::{Balance, RebalanceRules};
use crate::waves::Beat;

/// What an operator asked for, or the settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rebalance {
    pub(crate) pace: Pace,
    /// Whatever the pace, no more of the backend's sessions leave a minute than so many per cent.
    pub(crate) percent_per_minute: Option<u32>,
}

/// What a rebalance of the backend would do now. A server that was not checked yet counts: it was added to take its share.
pub(crate) fn planned(backend: &Backend) -> Plan {
    let pool = backend.pool.load();
    let shares: Vec<Share> = pool
        .members
        .iter()
        .map(|entry| Share {
            sessions: entry.member.active(),
            weight: entry.settings.weight,
            most: entry.settings.max_sessions,
            counts: !entry.settings.backup && matches!(entry.member.state(), State::Healthy | State::Joining),
        })
        .collect();
    moves::plan(&shares)
}

impl Rebalance {
    /// Begins to move what is above the fair share; `None`: nothing is.
    pub(crate) fn begin(
        self,
        moving: &Arc<Moving>,
        registry: &Arc<Registry>,
        backend: &Arc<Backend>,
    ) -> Option<Arc<Job>> {
        let plan = planned(backend);
        let what = What::Rebalance { backend: backend.name.clone() };
        moving.running(|other| *other == what).iter().for_each(|job| job.stop());
        if plan.total() == 0 {
            return None;
        }
        tracing::info!(backend = backend.name, rate = %self.pace, "rebalance: {plan}");
        let job = Job::new(what, self.pace, plan.total() as usize);
        let (given, registry, backend) = (Arc::clone(&job), Arc::clone(registry), Arc::clone(backend));
        moving.start(&job, async move { self.close(&given, &registry, &backend, &plan).await });
        Some(job)
    }

    async fn close(self, job: &Job, registry: &Registry, backend: &Backend, plan: &Plan) {
        let least = self.percent_per_minute.map(|percent| pace::gap_for_share(plan.sessions, percent));
        let least = least.unwrap_or_default();
        // The one that was stopped for this may have closed somebody just now.
        sleep(least).await;
        let mut beat = Beat::new(self.pace).at_least(least);
        for live in chosen(registry, backend, plan) {
            job.wait_until(|| backend.takes_besides(&live.member, false)).await;
            if job.close(&live, Order::Rebalance) {
                beat.next().await;
            }
        }
    }
}

/// The youngest of each server, by turns. They came last, most of them because the server that is back was missing; what
/// they have built up since is least; and who has stayed for long is likely to stay.
fn chosen(registry: &Registry, backend: &Backend, plan: &Plan) -> Vec<Arc<Live>> {
    let pool = backend.pool.load();
    let mut wanted: HashMap<u64, (u32, Vec<Arc<Live>>)> = HashMap::new();
    for (entry, from) in pool.members.iter().zip(&plan.from).filter(|(_, from)| **from > 0) {
        wanted.insert(entry.member.id, (*from, Vec::new()));
    }
    registry.each(|live| {
        if live.let_in
            && *live.member.backend == *backend.name
            && let Some((_, sessions)) = wanted.get_mut(&live.member.id)
        {
            sessions.push(Arc::clone(live));
        }
    });
    let mut columns: Vec<_> = wanted
        .into_values()
        .map(|(from, mut sessions)| {
            sessions.sort_by_key(|live| std::cmp::Reverse(live.since));
            sessions.into_iter().filter(|live| !would_return(backend, live)).take(from as usize)
        })
        .collect();
    let mut order = Vec::new();
    loop {
        let before = order.len();
        order.extend(columns.iter_mut().filter_map(Iterator::next));
        if order.len() == before {
            return order;
        }
    }
}

/// Whether the server that the client is at now is its own, to which it would come back if it were sent away. Where
/// that depends on more of its identifier than is kept, it may be.
fn would_return(backend: &Backend, live: &Live) -> bool {
    let policy = backend.policy.load();
    match policy.balance {
        Balance::Source => {}
        Balance::ClientId if !policy.is_affine(live.clean) => return false,
        Balance::ClientId if live.names.id_is_whole() => {}
        Balance::ClientId => return true,
        _ => return false,
    }
    let (pool, now) = (backend.pool.load(), Instant::now());
    // As it will be when all servers have their share.
    let settled = |entry: &Entry<Member>| {
        let load = entry.member.load(&entry.settings, true, &policy, now);
        let usable = load.usable && (load.active < load.most || load.id == live.member.id);
        pick::Load { usable, active: 0, share: pick::WHOLE, throttled: false, ..load }
    };
    let mut loads: Vec<pick::Load> = pool.members.iter().map(settled).collect();
    let id = live.names.id();
    let hint = pick::Hint {
        turn: 0,
        random: 0,
        source: pick::key(&live.peer.ip()),
        client: (!id.is_empty()).then(|| pick::key(id)),
    };
    pick::choose(policy.balance, &mut loads, &hint)
        .is_some_and(|at| pool.members[at].member.id == live.member.id)
}

/// Begins by itself where the settings say so, once a server that joined or returned has been well for a while.
pub(crate) async fn by_themselves(
    moving: Arc<Moving>,
    registry: Arc<Registry>,
    backends: impl Fn() -> Vec<Arc<Backend>>,
) {
    loop {
        sleep(limits::REBALANCE_GLANCE).await;
        for backend in backends() {
            let Some(rules) = backend.policy.load().rebalance else { continue };
            let members = &backend.pool.load().members;
            // All are asked: each says so once.
            let settled = members.iter().filter(|entry| entry.member.has_settled(rules.after)).count();
            if settled > 0 && planned(&backend).percent > rules.threshold {
                let RebalanceRules { pace, percent_per_minute, .. } = rules;
                Rebalance { pace, percent_per_minute }.begin(&moving, &registry, &backend);
            }
        }
    }
}
