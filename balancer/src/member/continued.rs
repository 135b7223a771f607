//! A server's member where one process takes over from another.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::{Context, Member, Seat};
use crate::handover::message::{Server, Which};
use crate::health::{Input, Machine, Rules, State};
use crate::settings::{Address, ServerSettings};

impl Member {
    /// Of a server that is not in our settings: the process before has sessions there.
    pub(crate) fn gone(settings: &ServerSettings, context: Context) -> Self {
        let member = Self::new(settings, Rules { checked: false, rise: 1, fall: 1 }, false, context);
        member.machine.lock().on(Input::Removed);
        member.takes.store(false, Relaxed);
        member
    }

    pub(crate) fn which(&self) -> Which {
        Which {
            backend: self.backend.to_string(),
            name: self.name.clone(),
            address: self.place.address.to_string(),
        }
    }

    /// All that the next process has to know.
    pub(crate) fn told(&self) -> Server {
        let (state, streak) = {
            let machine = self.machine.lock();
            (machine.state(), machine.streak())
        };
        Server {
            which: self.which(),
            state,
            streak,
            resolved: self.place.resolved(),
            sessions: self.active(),
            sessions_total: self.sessions.load(Relaxed),
            connect_failures: self.connect_failures.load(Relaxed),
            suspicions: self.suspicions.load(Relaxed),
        }
    }

    /// To be called before anybody else asks or tells it anything.
    pub(crate) fn continues(&self, server: &Server) {
        {
            let mut machine = self.machine.lock();
            if machine.state() != State::Gone {
                *machine = Machine::continued(server.state, server.streak, machine.rules());
                self.takes.store(machine.state() == State::Healthy, Relaxed);
                self.suspect.store(machine.is_suspect(), Relaxed);
            }
        }
        self.admission.continues();
        if let (Address::Named { .. }, Some(address)) = (&self.place.address, server.resolved) {
            self.looked_up(Ok(Some(address)));
        }
        self.elsewhere.store(server.sessions, Relaxed);
        self.sessions.store(server.sessions_total, Relaxed);
        self.connect_failures.store(server.connect_failures, Relaxed);
        self.suspicions.store(server.suspicions, Relaxed);
    }

    /// How many sessions the process before still has there.
    pub(crate) fn has_elsewhere(&self, sessions: u32) {
        self.elsewhere.store(sessions, Relaxed);
        self.queue.freed();
    }

    /// A seat for one of them that has come here: no limit of now sends it away.
    pub(crate) fn seat_from_elsewhere(self: &Arc<Self>) -> Seat {
        let one_less = |sessions: u32| Some(sessions.saturating_sub(1));
        let _ = self.elsewhere.fetch_update(Relaxed, Relaxed, one_less);
        self.active.fetch_add(1, Relaxed);
        Seat { closings: self.closings.load(SeqCst), member: Arc::clone(self) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::pick;

    #[test]
    fn who_returns_after_a_take_over_starts_slowly_and_who_was_there_has_done_so() {
        let address = "10.0.0.1:1883".parse().unwrap();
        let settings =
            ServerSettings { name: "b1".into(), address, weight: 1, max_sessions: u32::MAX, backup: false };
        let context = Context { backend: "mqtt".into(), queue: Arc::default() };
        let member = Member::new(&settings, Rules { checked: true, rise: 1, fall: 1 }, false, context);
        let which =
            Which { backend: "mqtt".into(), name: "b1".into(), address: settings.address.to_string() };
        member.continues(&Server {
            which,
            state: State::Healthy,
            streak: 0,
            resolved: None,
            sessions: 0,
            sessions_total: 0,
            connect_failures: 0,
            suspicions: 0,
        });
        let share = || member.admission.share(Duration::from_secs(10), Instant::now());
        assert_eq!(share(), pick::WHOLE);
        member.admission.began();
        assert!(share() < pick::WHOLE, "it comes to others that are there");
    }
}
