//! One server at run time: its state machine, its counts, and the way to end its sessions. Shared by all threads; the
//! counts are atomics, and the machine's lock is only taken when something happens to the server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::health::{Input, Machine, Rules, State, Transition};
use crate::pick::{self, Load};
use crate::queue::Queue;
use crate::relay::Order;
use crate::settings::{CheckKind, OnDown, Policy, ServerSettings};
use crate::tally::{Counted, Traffic};
use crate::verdict::{CheckResult, Verdict};

mod admission;
mod continued;
mod place;

use admission::Admission;
use place::Place;

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) place: Place,
    admission: Admission,
    /// The name of its backend.
    pub(crate) backend: Arc<str>,
    /// [`pick::key`] of its name: tells it from the others of its backend.
    pub(crate) id: u64,
    machine: Mutex<Machine>,
    /// When its state changed last.
    changed: Mutex<Instant>,
    /// Mirrors of the machine, for those who choose among many servers.
    takes: AtomicBool,
    suspect: AtomicBool,
    active: AtomicU32,
    /// Sessions that the process before still has there.
    elsewhere: AtomicU32,
    sessions: AtomicU64,
    connect_failures: AtomicU64,
    suspicions: AtomicU64,
    closing: Notify,
    /// How often all sessions were closed, and why the last time: who was being connected before learns of it late.
    closings: AtomicU32,
    stopping: AtomicBool,
    /// Since when it takes sessions, until that was long enough for a rebalance.
    well_since: Mutex<Option<Instant>>,
    /// Wakes the probe: look now.
    pub(crate) nudge: Notify,
    /// Its state has changed.
    pub(crate) turned: Notify,
    last_check: Mutex<Option<CheckResult>>,
    /// What watches it.
    attendants: Mutex<Vec<JoinHandle<()>>>,
    pub(crate) checks: Counted<&'static str>,
    /// Its CONNACKs to clients, by their code on the wire.
    pub(crate) connacks: Counted<u8>,
    wills_suppressed: AtomicU64,
    pub(crate) traffic: Traffic,
    /// Of its backend: who waits for a seat.
    queue: Arc<Queue>,
}

/// What members share.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) backend: Arc<str>,
    pub(crate) queue: Arc<Queue>,
}

/// A session's place at a server; counted until dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    member: Arc<Member>,
    closings: u32,
}

pub(crate) fn rules(policy: &Policy) -> Rules {
    let check = &policy.check;
    Rules { checked: check.kind() != CheckKind::None, rise: check.rise, fall: check.fall }
}

impl Member {
    /// `cold`: others of its backend are there already.
    pub(crate) fn new(settings: &ServerSettings, rules: Rules, cold: bool, context: Context) -> Self {
        let machine = Machine::new(rules);
        let admission = Admission::new(cold);
        let well = machine.state() == State::Healthy;
        if well {
            admission.began();
        }
        let Context { backend, queue } = context;
        Self {
            name: settings.name.clone(),
            place: Place::new(&settings.address),
            admission,
            backend,
            id: pick::key(&settings.name),
            takes: AtomicBool::new(well),
            machine: Mutex::new(machine),
            changed: Mutex::new(Instant::now()),
            suspect: AtomicBool::new(false),
            active: AtomicU32::new(0),
            elsewhere: AtomicU32::new(0),
            sessions: AtomicU64::new(0),
            connect_failures: AtomicU64::new(0),
            suspicions: AtomicU64::new(0),
            closing: Notify::new(),
            closings: AtomicU32::new(0),
            stopping: AtomicBool::new(false),
            well_since: Mutex::new(well.then(Instant::now)),
            nudge: Notify::new(),
            turned: Notify::new(),
            last_check: Mutex::new(None),
            attendants: Mutex::default(),
            checks: Counted::default(),
            connacks: Counted::default(),
            wills_suppressed: AtomicU64::new(0),
            traffic: Traffic::default(),
            queue,
        }
    }

    pub(crate) fn state(&self) -> State {
        self.machine.lock().state()
    }

    pub(crate) fn takes_sessions(&self) -> bool {
        self.takes.load(Relaxed)
    }

    /// What a look-up of its name has found.
    pub(crate) fn looked_up(&self, found: Result<Option<SocketAddr>, String>) {
        if self.place.found(&self.name, found) {
            self.nudge.notify_one();
        }
    }

    /// From now on these tasks watch it, and those from before no longer.
    pub(crate) fn attend(&self, tasks: impl IntoIterator<Item = JoinHandle<()>>) {
        let before = std::mem::replace(&mut *self.attendants.lock(), tasks.into_iter().collect());
        before.iter().for_each(JoinHandle::abort);
    }

    /// Sessions, those of the process before included.
    pub(crate) fn active(&self) -> u32 {
        self.active.load(Relaxed).saturating_add(self.elsewhere.load(Relaxed))
    }

    pub(crate) fn sessions_total(&self) -> u64 {
        self.sessions.load(Relaxed)
    }

    pub(crate) fn connect_failures(&self) -> u64 {
        self.connect_failures.load(Relaxed)
    }

    pub(crate) fn last_check(&self) -> Option<CheckResult> {
        self.last_check.lock().clone()
    }

    pub(crate) fn load(
        &self,
        settings: &ServerSettings,
        untried: bool,
        policy: &Policy,
        now: Instant,
    ) -> Load {
        let (active, usable) = (self.active(), untried && self.takes_sessions());
        Load {
            id: self.id,
            active,
            most: settings.max_sessions,
            weight: settings.weight,
            share: self.admission.share(policy.arrivals.slow_start, now),
            backup: settings.backup,
            usable,
            throttled: usable && active < settings.max_sessions && !self.next_turn(policy, now).is_zero(),
        }
    }

    /// Until another client may be sent to it.
    pub(crate) fn next_turn(&self, policy: &Policy, now: Instant) -> Duration {
        self.admission.wait(policy, now)
    }

    /// A seat, unless others were quicker and there are `most` already, or it was another one's turn.
    pub(crate) fn sit(self: &Arc<Self>, most: u32, policy: &Policy, now: Instant) -> Option<Seat> {
        let elsewhere = self.elsewhere.load(Relaxed);
        let room = |active: u32| (active.saturating_add(elsewhere) < most).then_some(active + 1);
        self.active.fetch_update(Relaxed, Relaxed, room).ok()?;
        let seat = Seat { closings: self.closings.load(SeqCst), member: Arc::clone(self) };
        self.admission.take(policy, now).then_some(seat)
    }

    /// Tells the machine, does what follows from it, and says what it became.
    pub(crate) fn tell(&self, input: Input, policy: &Policy) -> Option<Transition> {
        let transition = {
            let mut machine = self.machine.lock();
            let transition = machine.on(input);
            self.takes.store(machine.state() == State::Healthy, Relaxed);
            self.suspect.store(machine.is_suspect(), Relaxed);
            transition
        };
        if let Some(Transition { from, to }) = transition {
            *self.changed.lock() = Instant::now();
            self.log(from, to);
            if to == State::Healthy {
                self.admission.began();
            }
            *self.well_since.lock() = (to == State::Healthy).then(Instant::now);
            if to == State::Unhealthy && policy.on_down == OnDown::Close {
                // They go to another server; those who were connected leave at a pace, which somebody else keeps.
                self.close_connecting(Order::ServerDown);
            }
            self.nudge.notify_one();
            self.turned.notify_one();
            self.place.look_up.notify_one();
            self.queue.freed();
        }
        transition
    }

    /// Whether it joined or returned, and has taken sessions for so long now. Said once.
    pub(crate) fn has_settled(&self, after: Duration) -> bool {
        self.well_since.lock().take_if(|since| since.elapsed() >= after).is_some()
    }

    fn log(&self, from: State, to: State) {
        let check = self.last_check.lock().as_ref().map(|check| check.verdict.as_str());
        let (server, address, sessions) = (&self.name, &self.place.address, self.active());
        if to == State::Unhealthy {
            warn!(server, %address, ?from, ?to, check, sessions, "server down");
        } else {
            info!(server, %address, ?from, ?to, check, sessions, "server");
        }
    }

    pub(crate) fn set_rules(&self, rules: Rules) {
        let mut machine = self.machine.lock();
        machine.set_rules(rules);
        self.takes.store(machine.state() == State::Healthy, Relaxed);
        drop(machine);
        self.nudge.notify_one();
    }

    pub(crate) fn connected(&self, policy: &Policy) {
        self.sessions.fetch_add(1, Relaxed);
        if self.suspect.load(Relaxed) {
            self.tell(Input::Connected, policy);
        }
    }

    pub(crate) fn connect_failed(&self, policy: &Policy) {
        self.connect_failures.fetch_add(1, Relaxed);
        self.place.failed();
        self.tell(Input::ConnectFailed, policy);
        self.nudge.notify_one();
    }

    /// Something about it went wrong that a client may have brought about: no blame, but a look at it.
    pub(crate) fn suspected(&self) {
        self.suspicions.fetch_add(1, Relaxed);
        self.nudge.notify_one();
    }

    /// Whether the verdict is another one than before.
    pub(crate) fn checked(&self, result: CheckResult, policy: &Policy) -> bool {
        let verdict = result.verdict;
        self.checks.count(verdict.as_str());
        let detail = result.detail.clone();
        let before = self.last_check.lock().replace(result);
        let input = if verdict.is_alive() { Input::CheckPassed } else { Input::CheckFailed };
        let changed = before.map(|before| before.verdict) != Some(verdict);
        if changed && !verdict.is_alive() {
            info!(server = self.name, address = %self.place.address, check = verdict.as_str(), detail, "check failed");
        }
        if matches!(verdict, Verdict::Dead | Verdict::Unresolved) {
            self.place.failed();
        }
        self.tell(input, policy);
        changed
    }

    /// It was told DISCONNECT in the name of a client that is well, and fires no will for it.
    pub(crate) fn will_suppressed(&self) {
        self.wills_suppressed.fetch_add(1, Relaxed);
    }

    pub(crate) fn wills_suppressed(&self) -> u64 {
        self.wills_suppressed.load(Relaxed)
    }

    /// Ends those who are just being connected.
    pub(crate) fn close_connecting(&self, order: Order) {
        self.stopping.store(order == Order::Stop, SeqCst);
        self.closings.fetch_add(1, SeqCst);
        self.closing.notify_waiters();
    }

    pub(crate) fn report(&self, weight: u32, policy: &Policy) -> MemberReport {
        MemberReport {
            name: self.name.clone(),
            address: self.place.address.to_string(),
            resolved: self.place.resolved(),
            name_problem: self.place.problem(),
            state: self.state(),
            in_state_seconds: self.changed.lock().elapsed().as_secs(),
            weight,
            share: f64::from(self.admission.share(policy.arrivals.slow_start, Instant::now()))
                / f64::from(pick::WHOLE),
            sessions: self.active(),
            sessions_total: self.sessions_total(),
            connect_failures: self.connect_failures(),
            suspicions: self.suspicions.load(Relaxed),
            check: self.last_check(),
        }
    }
}

/// A server as `/status` shows it.
#[derive(Debug, Serialize)]
pub(crate) struct MemberReport {
    name: String,
    address: String,
    /// Where a name is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    resolved: Option<SocketAddr>,
    /// Why the last look-up of a name found nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    name_problem: Option<String>,
    state: State,
    in_state_seconds: u64,
    weight: u32,
    /// The part of its weight that it gets now; less than 1 while it starts slowly.
    share: f64,
    sessions: u32,
    sessions_total: u64,
    connect_failures: u64,
    /// Sessions that went wrong after they had been connected.
    suspicions: u64,
    check: Option<CheckResult>,
}

impl Seat {
    pub(crate) fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// Resolves when a client that is being connected is to end, also if that was said before this was called.
    pub(crate) async fn closed(&self) -> Order {
        let closing = self.member.closing.notified();
        // The future above is woken by any close from here on; one before it shows in the count.
        if let Some(order) = self.is_closed() {
            return order;
        }
        closing.await;
        self.is_closed().unwrap_or(Order::ServerDown)
    }

    /// Whether all of the server's sessions were told to end since this seat was taken.
    pub(crate) fn is_closed(&self) -> Option<Order> {
        let closed = self.member.closings.load(SeqCst) != self.closings;
        let order = if self.member.stopping.load(SeqCst) { Order::Stop } else { Order::ServerDown };
        closed.then_some(order)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.member.active.fetch_sub(1, Relaxed);
        self.member.queue.freed();
    }
}
