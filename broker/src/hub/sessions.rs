//! Sessions of this node: a client comes, goes, comes back, or does not. Who has a client id, what becomes of the session
//! that was there, and what is due while nobody is connected.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use nsd_wire::ReasonCode;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::persistent::{Away, Persistent};
use super::{Capacity, Event, Hub, Outbox};
use crate::access::Grant;
use crate::message::Will;
use crate::session::Resumed;
use crate::store::change::StoredSession;
use crate::telemetry::{self, Count, count};

/// A client whose CONNECT was granted.
#[derive(Debug)]
pub struct Newcomer<'n> {
    pub client_id: &'n str,
    pub capacity: Capacity,
    pub clean_start: bool,
    /// Seconds that its session shall outlive the connection; 0: not at all.
    pub expiry: u32,
    /// Of the claim to its client id: a later one wins.
    pub epoch: u64,
    pub will: Option<Will>,
    pub grant: &'n Grant,
}

/// What the newcomer is now.
#[derive(Debug)]
pub struct Entered {
    pub outbox: Arc<Outbox>,
    pub attachment: u64,
    /// The session that was there goes on.
    pub resumed: Option<Resumed>,
    /// A session that was there has ended just now.
    pub ended: bool,
    /// That session's.
    pub will: Option<Will>,
}

/// A connection's own end, as its session decided.
#[derive(Debug)]
pub struct Parting<'p> {
    /// All filters of the client.
    pub filters: &'p [Box<str>],
    /// Another session expiry than the CONNECT's.
    pub expiry: Option<u32>,
    pub keep_will: bool,
}

/// What is due when, over all clients that are away.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    entries: Mutex<BTreeMap<(Instant, u64), Arc<Outbox>>>,
    sooner: Notify,
}

impl Hub {
    /// Makes this connection the one of its client id; the one before is sent away (MQTT-3.1.4-3). Which of two came
    /// first is decided by the store: the answer to an earlier claim may get here after the answer to a later one.
    /// `None`: there is a later one.
    pub fn enter(&self, newcomer: Newcomer<'_>) -> Option<Entered> {
        let mut clients = self.clients.lock();
        let known = clients.get(newcomer.client_id).cloned();
        if known.as_ref().is_some_and(|known| known.ownership() > newcomer.epoch) {
            return None;
        }
        // Who comes under a client id may be somebody else, or may do less than when the session began: what is no
        // longer its to hear is not handed on, and a session is whole or not at all.
        let is_fit = |persistent: &mut Persistent| persistent.is_fit_for(newcomer.grant);
        let now = Instant::now();
        let goes_on = |known: &&Arc<Outbox>| {
            let goes_on = |persistent: &mut Persistent| !persistent.is_over(now) && is_fit(persistent);
            known.session.is_some() && !known.is_overrun() && known.with_persistent(goes_on) == Some(true)
        };
        let resumes = known.as_ref().filter(|_| !newcomer.clean_start).filter(goes_on);
        if let Some(entered) = resumes.and_then(|known| self.resume(known, &newcomer)) {
            drop(clients);
            self.session_changed(&entered.outbox);
            return Some(entered);
        }
        let outbox = Arc::new(self.begin(&newcomer));
        clients.put(Arc::clone(&outbox));
        drop(clients);
        telemetry::connected(self.attached.fetch_add(1, Ordering::Relaxed) + 1);
        let ended = known.as_ref().is_some_and(|known| known.session.is_some());
        let will = known.and_then(|known| self.replace(&known));
        self.session_changed(&outbox);
        Some(Entered { outbox, attachment: 1, resumed: None, ended, will })
    }

    fn resume(&self, known: &Arc<Outbox>, newcomer: &Newcomer<'_>) -> Option<Entered> {
        let resume = |persistent: &mut Persistent| {
            persistent.expiry = newcomer.expiry;
            let filters = persistent.filters.keys().cloned().collect();
            let held = persistent.held.iter().copied().collect();
            (Resumed { filters, held }, persistent.away.take())
        };
        let attached = known.attach(newcomer.capacity, newcomer.will.clone(), resume)?;
        known.set_ownership(newcomer.epoch);
        let (resumed, away) = attached.found;
        if let Some(away) = away {
            telemetry::connected(self.attached.fetch_add(1, Ordering::Relaxed) + 1);
            self.agenda.strike(away.next(), known);
        }
        Some(Entered {
            outbox: Arc::clone(known),
            attachment: attached.attachment,
            resumed: Some(resumed),
            ended: false,
            // One that can wait is not wanted any more [MQTT5-3.1.3-9].
            will: attached.old_will.filter(|will| will.delay == 0),
        })
    }

    fn begin(&self, newcomer: &Newcomer<'_>) -> Outbox {
        let (id, client_id) = (self.next_id(), Box::<str>::from(newcomer.client_id));
        let persistent = (newcomer.expiry > 0).then(|| {
            let session = self.next_session.fetch_add(1, Ordering::Relaxed);
            Persistent { session, expiry: newcomer.expiry, ..Persistent::default() }
        });
        let outbox = Outbox::new(id, client_id, persistent);
        outbox.attach_first(newcomer.capacity, newcomer.will.clone());
        outbox.set_ownership(newcomer.epoch);
        outbox
    }

    /// Another session begins under this one's client id: this one is over. Its will, if it was waiting, is due.
    fn replace(&self, known: &Arc<Outbox>) -> Option<Will> {
        if known.session.is_some() {
            return self.end(known, |_| true);
        }
        known.notify(Event::Leave(ReasonCode::SessionTakenOver));
        None
    }

    /// A client with this id has connected to another node, under this epoch.
    pub fn taken_over(&self, client_id: &str, epoch: u64) {
        let known = self.clients.lock().get(client_id).cloned();
        known.filter(|known| known.ownership() < epoch).inspect(|known| self.supersede(known));
    }

    /// A connection ends; the will to publish, if that is due now. Subscriptions of a session that ends go before:
    /// a client does not get its own will.
    pub fn part(&self, outbox: &Arc<Outbox>, attachment: u64, parting: &Parting<'_>) -> Option<Will> {
        let will = outbox.take_will(attachment).filter(|_| parting.keep_will);
        if outbox.session.is_none() {
            self.forget_subscriptions(outbox, parting.filters.iter().map(|filter| &**filter));
            return will;
        }
        let at_once = will.as_ref().is_none_or(|will| will.delay == 0);
        let away = |persistent: &mut Persistent| {
            persistent.expiry = parting.expiry.unwrap_or(persistent.expiry);
            let later = will.clone().filter(|_| !at_once && persistent.expiry > 0);
            let now = (Instant::now(), Duration::ZERO);
            let away = Away::from(SystemTime::now(), now, persistent.expiry, later);
            let next = away.next();
            persistent.away = Some(away);
            (persistent.expiry, next)
        };
        let Some((expiry, next)) = outbox.detach(attachment, away) else {
            // Taken over, and with it the will; or ended by a clean start: then its will comes, also one that could have
            // waited [MQTT5-3.1.2-8].
            return will;
        };
        self.attached.fetch_sub(1, Ordering::Relaxed);
        if expiry == 0 || outbox.is_overrun() {
            // Unless its client is back already.
            self.end(outbox, |persistent| persistent.away.is_some());
            return will;
        }
        self.agenda.add(next, outbox);
        self.session_changed(outbox);
        will.filter(|_| at_once)
    }

    /// A persistent session is over, if it still is as it should be for that. Its will, if it was waiting, is due.
    fn end(&self, outbox: &Arc<Outbox>, really: impl FnOnce(&Persistent) -> bool) -> Option<Will> {
        let persistent = outbox.close_if(really)?;
        self.forget_subscriptions(outbox, persistent.filters.keys().map(|filter| &**filter));
        self.forget_client(outbox);
        match persistent.away {
            None => {
                self.attached.fetch_sub(1, Ordering::Relaxed);
            }
            Some(ref away) => self.agenda.strike(away.next(), outbox),
        }
        // Before the store hears of the end: what it does not know any more, somebody else has.
        self.deal_again(self.dealt(&persistent));
        self.session_changed(outbox);
        persistent.away.and_then(|away| away.will).map(|(_, will)| will)
    }

    /// Ends the session of a client, whether it is connected or not: the will that is due then. `None`: there is no such
    /// client.
    pub fn end_session(&self, client_id: &str) -> Option<Option<Will>> {
        let outbox = self.clients.lock().get(client_id).cloned()?;
        if outbox.session.is_some() && self.bus.is_none() {
            return Some(self.end(&outbox, |_| true));
        }
        outbox.notify(Event::Leave(ReasonCode::AdministrativeAction));
        Some(None)
    }

    /// Ends a connection's part here, after [`Self::part`].
    pub fn leave(&self, outbox: &Arc<Outbox>) {
        if outbox.session.is_none() {
            let dealt = outbox.close();
            self.attached.fetch_sub(1, Ordering::Relaxed);
            self.forget_client(outbox);
            self.deal_again(dealt);
        }
    }

    pub(super) fn forget_client(&self, outbox: &Arc<Outbox>) {
        let mut clients = self.clients.lock();
        if clients.get(&outbox.client_id).is_some_and(|known| known.id == outbox.id) {
            clients.remove(&outbox.client_id);
        }
    }

    /// Waits for something that is due while clients are away. A will comes back to be published, and whose it was.
    pub async fn next_due(&self) -> Option<(Arc<Outbox>, Will)> {
        let first = self.agenda.first();
        let until = first.unwrap_or_else(|| Instant::now() + NEVER);
        tokio::select! {
            () = tokio::time::sleep_until(until.into()) => {}
            () = self.agenda.sooner.notified() => {}
        }
        let outbox = self.agenda.pop(Instant::now())?;
        let will = self.act_on(&outbox)?;
        Some((outbox, will))
    }

    fn act_on(&self, outbox: &Arc<Outbox>) -> Option<Will> {
        let now = Instant::now();
        if outbox.with_persistent(|persistent| persistent.is_over(now))? {
            count(Count::SessionExpired);
            return self.end(outbox, |persistent| persistent.is_over(now));
        }
        let (ends, will) = outbox.with_persistent(|persistent| {
            let away = persistent.away.as_mut()?;
            let due = away.will.as_ref().is_some_and(|(due, _)| *due <= now);
            Some((away.ends, away.will.take_if(|_| due).map(|(_, will)| will)))
        })??;
        self.agenda.add(ends, outbox);
        will
    }

    /// A session that the store has kept; its client is away. What is due is due at the time that was known before the
    /// process ended; if the clock was put back since, it takes its full time from now, and no longer.
    pub fn restore(&self, stored: StoredSession, will: Option<Will>, now: SystemTime) {
        let (client_id, expiry, parted) = (stored.client_id.clone(), stored.expiry, stored.parted);
        let since = parted.unwrap_or(now);
        let ago = now.duration_since(since).unwrap_or_default();
        let away = Away::from(since, (Instant::now(), ago), expiry, will);
        let next = away.next();
        let wanted = stored.subscriptions.clone();
        let persistent = Persistent { away: Some(away), ..Persistent::restored(stored) };
        let outbox = Arc::new(Outbox::new(self.next_id(), client_id, Some(persistent)));
        self.subscribe(&outbox, wanted.iter().map(|(filter, options, id)| (&**filter, *options, *id)));
        self.clients.lock().put(Arc::clone(&outbox));
        self.agenda.add(next, &outbox);
        // Whose connection the end of the process has cut: after another such end, it counts from this one still.
        if parted.is_none() {
            self.session_changed(&outbox);
        }
    }

    /// The store is told, where there is one.
    fn session_changed(&self, outbox: &Arc<Outbox>) {
        if let Some(journal) = self.journal.as_ref().filter(|_| outbox.session.is_some()) {
            journal.session_changed(outbox);
        }
    }
}

/// When there is nothing to wait for.
const NEVER: Duration = Duration::from_secs(86_400);

impl Agenda {
    fn add(&self, at: Instant, outbox: &Arc<Outbox>) {
        let mut entries = self.entries.lock();
        entries.insert((at, outbox.id), Arc::clone(outbox));
        let is_first = entries.keys().next() == Some(&(at, outbox.id));
        drop(entries);
        if is_first {
            self.sooner.notify_one();
        }
    }

    fn strike(&self, at: Instant, outbox: &Arc<Outbox>) {
        self.entries.lock().remove(&(at, outbox.id));
    }

    fn first(&self) -> Option<Instant> {
        self.entries.lock().keys().next().map(|(at, _)| *at)
    }

    fn pop(&self, now: Instant) -> Option<Arc<Outbox>> {
        let mut entries = self.entries.lock();
        let first = entries.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(first.remove())
    }
}
