//! Many sessions told to end, one after the other, at a pace; among them those of a server that went down.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::backend::Backend;
use crate::health::State;
use crate::member::Member;
use crate::pace::Pace;
use crate::registry::{Live, Registry};
use crate::relay::Order;
use crate::settings::OnDown;

/// What a busy machine missed is made up for so far, and no further: no crowd at once.
const LAG: Duration = Duration::from_millis(100);

/// Says when the next one is due.
#[derive(Debug)]
pub(crate) struct Beat {
    pace: Pace,
    due: Instant,
    /// However much was missed, and whatever the pace.
    least: Duration,
}

impl Beat {
    pub(crate) fn new(pace: Pace) -> Self {
        Self { pace, due: Instant::now(), least: Duration::ZERO }
    }

    /// With no less than this between two.
    pub(crate) fn at_least(self, least: Duration) -> Self {
        Self { least, ..self }
    }

    pub(crate) async fn next(&mut self) {
        let now = Instant::now();
        let next = self.due.max(now.checked_sub(LAG).unwrap_or(now)) + self.pace.gap(fastrand::f64());
        self.due = next.max(now + self.least);
        if self.due > now {
            sleep_until(self.due).await;
        }
    }
}

/// Closes the sessions of a server whenever it goes down, until the server is gone, where the settings say so.
pub(crate) async fn follow(member: Arc<Member>, backend: Arc<Backend>, registry: Arc<Registry>) {
    while member.state() != State::Gone {
        member.turned.notified().await;
        let policy = backend.policy.load();
        if member.state() == State::Unhealthy && policy.on_down == OnDown::Close {
            // A task of its own: what was begun goes on, whoever follows the server then.
            tokio::spawn(close_dead(registry.of_server(&member), policy.close_rate));
        }
    }
}

/// The sessions of a server that is down, as long as it is. At a pace, for their clients come back at once.
async fn close_dead(sessions: Vec<Arc<Live>>, pace: Pace) {
    let mut beat = Beat::new(pace);
    for live in sessions {
        if live.member.takes_sessions() {
            return;
        }
        if live.handle.tell(Order::ServerDown) {
            beat.next().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_missed_is_made_up_for_but_for_the_least_gap() {
        let least = Duration::from_millis(40);
        let mut beat = Beat::new(Pace::per_second(10_000)).at_least(least);
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(30));
            let now = Instant::now();
            beat.next().await;
            assert!(now.elapsed() >= least);
        }
    }
}
