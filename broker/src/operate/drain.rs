//! Sends all clients away at a rate, so that those who take them in are not overrun. Who is told where to go instead goes
//! there (v5); all others come back through whatever they came through.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nsd_wire::ReasonCode;
use tracing::{info, warn};

use super::desk::{self, Desk};
use crate::hub::Event;

/// How often it is looked whether everybody is gone, and how far behind its time a drain may hurry.
const LOOK: Duration = Duration::from_millis(100);

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// Clients a second.
    pub rate: f64,
    /// `HOST:PORT` that v5 clients are told.
    pub redirect: Option<String>,
    /// For good: clients should forget this server.
    pub moved: bool,
    /// The process ends afterwards.
    pub stop: bool,
}

/// How far a drain is.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    pub order: Order,
    pub told: usize,
    pub finished: bool,
}

#[derive(Debug)]
pub(super) struct Running {
    order: Order,
    told: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    pub(super) fn progress(&self) -> Progress {
        let told = self.told.load(Ordering::Relaxed);
        Progress { order: self.order.clone(), told, finished: self.task.is_finished() }
    }
}

impl Order {
    /// The code that clients are told.
    fn reason(&self) -> ReasonCode {
        match (&self.redirect, self.moved) {
            (None, _) => ReasonCode::ServerShuttingDown,
            (Some(_), false) => ReasonCode::UseAnotherServer,
            (Some(_), true) => ReasonCode::ServerMoved,
        }
    }
}

/// `50/s`, `50`, `3000/min` → clients a second.
pub fn rate(text: &str) -> Result<f64, String> {
    let wrong = || format!("`{text}` is no rate between 1/min and 100000/s; write it like `50/s`");
    let (number, seconds) = match text.trim().split_once('/') {
        None => (text.trim(), 1.0),
        Some((number, "s" | "sec")) => (number, 1.0),
        Some((number, "m" | "min")) => (number, 60.0),
        Some(_) => return Err(wrong()),
    };
    let number: u32 = number.trim().parse().map_err(|_| wrong())?;
    let rate = f64::from(number) / seconds;
    if (1.0 / 60.0..=100_000.0).contains(&rate) { Ok(rate) } else { Err(wrong()) }
}

/// Begins; a drain that runs goes on at the new rate instead. Listeners are closed already.
pub(super) fn start(desk: &Arc<Desk>, order: Order) {
    let mut running = desk.drain.lock();
    if let Some(before) = running.take() {
        before.task.abort();
    }
    desk.node.set_ready(false);
    desk.node.set_redirect(order.redirect.as_deref());
    info!(rate = order.rate, redirect = order.redirect, stop = order.stop, "draining");
    let told = Arc::new(AtomicUsize::new(0));
    let task = tokio::spawn(send_away(Arc::clone(desk), order.clone(), Arc::clone(&told)));
    *running = Some(Running { order, told, task });
}

/// Whether there was something to cancel.
pub(super) fn cancel(desk: &Desk) -> bool {
    let Some(running) = desk.drain.lock().take() else { return false };
    running.task.abort();
    desk.node.set_redirect(None);
    true
}

async fn send_away(desk: Arc<Desk>, order: Order, told: Arc<AtomicUsize>) {
    let reason = order.reason();
    let (mut pace, mut known) = (Pace::new(order.rate, Instant::now()), HashSet::new());
    // Whoever was let in meanwhile is found by the next look.
    loop {
        let mut clients = desk.node.hub.clients();
        if clients.is_empty() {
            break;
        }
        fastrand::shuffle(&mut clients);
        for client in clients.into_iter().filter(|client| known.insert(client.id)) {
            let (now, due) = (Instant::now(), pace.next(Instant::now(), fastrand::f64()));
            // Timers count milliseconds: at high rates, several go at once.
            if due > now {
                tokio::time::sleep_until(due.into()).await;
            }
            client.notify(Event::Leave(reason));
            told.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(LOOK).await;
    }
    info!(clients = told.load(Ordering::Relaxed), "drained");
    if order.stop && !desk.order(desk::Order::Stop) {
        warn!("drained, but the stop could not be ordered");
    }
}

/// One step each `1/rate`, up to a step late: fleets that were let in together do not go together. Pure.
struct Pace {
    step: Duration,
    next: Instant,
}

impl Pace {
    fn new(rate: f64, now: Instant) -> Self {
        Self { step: Duration::from_secs_f64(1.0 / rate), next: now }
    }

    /// When the next one is due; `jitter` is between 0 and 1. What was missed is made up for, but not in one go.
    fn next(&mut self, now: Instant, jitter: f64) -> Instant {
        self.next = self.next.max(now.checked_sub(LOOK).unwrap_or(now));
        let due = self.next + self.step.mul_f64(jitter);
        self.next += self.step;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (text, expected) in [("50/s", 50.0), ("50", 50.0), ("60/min", 1.0), (" 7 / s".trim(), 7.0)] {
            assert!(rate(&text.replace(' ', "")).is_ok_and(|rate| (rate - expected).abs() < 1e-9), "{text}");
        }
        for text in ["", "0/s", "-1/s", "x", "5/h", "1000000/s", "1e3/s", "/s", "5/"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_pace_is_kept_over_time_and_a_pause_is_no_reason_to_rush() {
        let begin = Instant::now();
        let mut pace = Pace::new(100.0, begin);
        let mut now = begin;
        for step in 0..300_u32 {
            now = pace.next(now, 0.5).max(now);
            let even = begin + Duration::from_millis(10) * step + Duration::from_millis(5);
            assert_eq!(now, even);
        }
        let late = now + Duration::from_secs(60);
        let missed = (0..100).filter(|_| pace.next(late, 0.0) <= late).count();
        assert_eq!(missed, 11, "a tenth of a second's worth");
    }
}
