//! A server that is emptied: its sessions are told to leave, one after the other, until none is left.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::{GLANCE, Job, Moving, What};
use crate::backend::Backend;
use crate::health::State;
use crate::member::Member;
use crate::pace::Pace;
use crate::registry::Registry;
use crate::relay::Order;
use crate::waves::Beat;

/// What an operator asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Drain {
    pub(crate) pace: Pace,
    /// What is left then leaves at once.
    pub(crate) deadline: Option<Duration>,
}

impl Drain {
    /// Begins to empty a server that takes no new sessions any more.
    pub(crate) fn begin(
        self,
        moving: &Arc<Moving>,
        registry: &Arc<Registry>,
        backend: &Arc<Backend>,
        member: &Arc<Member>,
    ) -> Arc<Job> {
        let what = What::Drain { server: member.name.clone(), backend: member.backend.to_string() };
        moving.running(|other| *other == what).iter().for_each(|job| job.stop());
        let planned = registry.of_server(member).len();
        let job = Job::new(what, self.pace, planned);
        let (given, registry) = (Arc::clone(&job), Arc::clone(registry));
        let (backend, member) = (Arc::clone(backend), Arc::clone(member));
        moving.start(&job, async move { self.close(&given, &registry, &backend, &member).await });
        job
    }

    async fn close(self, job: &Job, registry: &Registry, backend: &Backend, member: &Member) {
        let at_pace = self.close_at_pace(job, registry, backend, member);
        let Some(deadline) = self.deadline.map(|deadline| Instant::now() + deadline) else {
            return at_pace.await;
        };
        if timeout_at(deadline, at_pace).await.is_err() && is_drained(member) {
            registry.of_server(member).iter().for_each(|live| {
                job.close(live, Order::Drain);
            });
        }
    }

    async fn close_at_pace(self, job: &Job, registry: &Registry, backend: &Backend, member: &Member) {
        let mut beat = Beat::new(self.pace);
        while is_drained(member) && member.active() > 0 {
            for live in registry.of_server(member).iter().take_while(|_| is_drained(member)) {
                // A client that has nowhere to go is better off where it is.
                job.wait_until(|| backend.takes_besides(member, true)).await;
                if job.close(live, Order::Drain) {
                    beat.next().await;
                }
            }
            // Some are on their way out, or on their way in.
            sleep(GLANCE).await;
        }
    }
}

/// Nobody has said "ready" meanwhile.
fn is_drained(member: &Member) -> bool {
    matches!(member.state(), State::Draining | State::Gone)
}
