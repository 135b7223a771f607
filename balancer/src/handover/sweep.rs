//! What the old process does with its sessions: those that can be moved are given away in batches, the others are told to
//! leave at a pace.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::channel::Channel;
use super::message::{FromOld, LISTED, SESSIONS, Which};
use super::outbox::Given;
use super::servers;
use crate::balancer::Balancer;
use crate::limits;
use crate::pace::Pace;
use crate::registry::{Live, Registry};
use crate::relay::{Order, Passing};
use crate::waves::Beat;

/// Between two looks for sessions that could not be moved before, or have only begun.
const PAUSE: Duration = Duration::from_millis(100);
/// A session that still holds bytes has so long to get rid of them, and reads nothing meanwhile; then it is tried again later.
const STANDSTILL: Duration = Duration::from_millis(200);
/// Between two reports of how many sessions are left.
const COUNTS: Duration = Duration::from_secs(1);

/// The batch that is on its way.
#[derive(Debug, Default)]
pub(super) struct Pending {
    batch: Mutex<(u64, Vec<Given>)>,
    answered: Notify,
}

impl Pending {
    /// The other process has the first so many sessions of it; the rest goes on here.
    pub(super) fn taken(&self, number: u64, sessions: usize) {
        let mut batch = self.batch.lock();
        if batch.0 != number {
            return;
        }
        let (_, given) = std::mem::take(&mut *batch);
        given.into_iter().take(sessions).for_each(Given::taken);
        self.answered.notify_one();
    }
}

/// Wanted by the other process, for as long as this is there.
struct Wanted<'l>(Vec<&'l Arc<Live>>);

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        for live in &self.0 {
            live.handle.keep();
        }
    }
}

/// Moves whatever can be moved, for ever.
pub(super) async fn give_away(
    registry: &Registry,
    channel: &Channel,
    outbox: &mut mpsc::Receiver<Given>,
    pending: &Pending,
) -> io::Result<Infallible> {
    let mut number = 0;
    loop {
        let mut movable = Vec::new();
        registry.each(|live| movable.extend(live.movable.then(|| Arc::clone(live))));
        for some in movable.chunks(SESSIONS) {
            let given = gather(some, outbox).await;
            if !given.is_empty() {
                number += 1;
                send(registry, channel, pending, number, given).await?;
            }
        }
        sleep(PAUSE).await;
    }
}

/// Those of them that hold nothing, or soon.
async fn gather(some: &[Arc<Live>], outbox: &mut mpsc::Receiver<Given>) -> Vec<Given> {
    let wanted = Wanted(some.iter().filter(|live| live.handle.want()).collect());
    let mut given = Vec::with_capacity(wanted.0.len());
    let deadline = Instant::now() + STANDSTILL;
    while given.len() < wanted.0.len()
        && let Ok(Some(one)) = timeout_at(deadline, outbox.recv()).await
    {
        given.push(one);
    }
    for live in &wanted.0 {
        live.handle.keep();
    }
    // Who gave itself in this very moment is still to come.
    let on_their_way = || wanted.0.iter().filter(|live| live.handle.passing() == Passing::Given).count();
    while given.len() < on_their_way() {
        if let Ok(Some(one)) = timeout(PAUSE, outbox.recv()).await {
            given.push(one);
        }
    }
    given
}

async fn send(
    registry: &Registry,
    channel: &Channel,
    pending: &Pending,
    batch: u64,
    given: Vec<Given>,
) -> io::Result<()> {
    let sessions = given.iter().map(|given| given.described(registry)).collect();
    let message = FromOld::Sessions { batch, sessions };
    let files: Vec<_> = given.iter().flat_map(Given::files).collect();
    channel.say(&message, &files).await?;
    drop(files);
    // The answer is heard by this very task, so not before this.
    *pending.batch.lock() = (batch, given);
    let answered = timeout(limits::ANSWER_OF_A_PROCESS, pending.answered.notified()).await;
    answered.map_err(|_elapsed| io::Error::other("the new process does not answer"))
}

/// Those that stay, at a pace, for ever.
pub(super) async fn send_away(registry: &Registry, pace: Pace) -> Infallible {
    let mut beat = Beat::new(pace);
    loop {
        let mut staying = Vec::new();
        registry.each(|live| staying.extend((!live.movable).then(|| Arc::clone(live))));
        for live in staying {
            if live.handle.tell(Order::Restart) {
                beat.next().await;
            }
        }
        sleep(PAUSE).await;
    }
}

/// Tells how many sessions are left, for ever.
pub(super) async fn count(
    balancer: &Balancer,
    channel: &Channel,
    mut told: HashMap<Which, u32>,
) -> io::Result<Infallible> {
    loop {
        sleep(COUNTS).await;
        let counts = servers::changed(&balancer.members(), &mut told);
        for some in counts.chunks(LISTED) {
            channel.say(&FromOld::Counts { counts: some.to_vec() }, &[]).await?;
        }
    }
}
