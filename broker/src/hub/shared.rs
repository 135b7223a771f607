//! Sessions of a store that all nodes share: this node has those whose clients are connected to it, each only as long as
//! that lasts. What is true of them is there; what is here is what this connection needs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use nsd_wire::ReasonCode;

use super::persistent::Persistent;
use super::sessions::{Entered, Newcomer, Parting};
use super::{Event, Hub, Outbox};
use crate::queue::Queue;
use crate::session::Resumed;
use crate::store::change::{Seq, SessionId, StoredSession};
use crate::telemetry;

/// How a connection has ended, for the store.
#[derive(Debug, Clone, Copy)]
pub struct Ending {
    /// Seconds that the session stays; 0: it is over.
    pub expiry: u32,
    pub keep_will: bool,
    /// Of its queue, the places below this one were sent.
    pub sent: Seq,
}

/// The first place that is given in a new queue.
const FIRST_PLACE: u64 = 1;

impl Hub {
    /// Makes this connection the one of its client id, with the session that the store has for it. `None`: there is a later
    /// one.
    pub fn welcome(
        &self,
        newcomer: Newcomer<'_>,
        session: Option<SessionId>,
        stored: Option<StoredSession>,
    ) -> Option<Entered> {
        let mut clients = self.clients.lock();
        let known = clients.get(newcomer.client_id).cloned();
        if known.as_ref().is_some_and(|known| known.ownership() > newcomer.epoch) {
            return None;
        }
        let is_resumed = stored.is_some();
        let persistent = session.map(|session| Persistent {
            expiry: newcomer.expiry,
            ..stored.map_or_else(|| begun(session), Persistent::restored)
        });
        let (mut filters, mut held) = (Vec::new(), Vec::new());
        if let Some(persistent) = &persistent {
            filters.extend(
                persistent.filters.iter().map(|(filter, (options, id))| (filter.clone(), *options, *id)),
            );
            held.extend(persistent.held.iter().copied());
        }
        let outbox = Arc::new(Outbox::new(self.next_id(), newcomer.client_id.into(), persistent));
        outbox.attach_first(newcomer.capacity, newcomer.will);
        outbox.set_ownership(newcomer.epoch);
        clients.put(Arc::clone(&outbox));
        if let Some(session) = session {
            self.here.write().insert(session, Arc::clone(&outbox));
        }
        drop(clients);
        telemetry::connected(self.attached.fetch_add(1, Ordering::Relaxed) + 1);
        // Before the one before goes, so that what both want is wanted without a break.
        self.subscribe(&outbox, filters.iter().map(|(filter, options, id)| (&**filter, *options, *id)));
        known.into_iter().for_each(|known| self.supersede(&known));
        let filters = filters.into_iter().map(|(filter, ..)| filter).collect();
        let resumed = is_resumed.then_some(Resumed { filters, held });
        Some(Entered { outbox, attachment: 1, resumed, ended: false, will: None })
    }

    /// Another connection owns the client id: its claim has taken the will over, too.
    pub fn supersede(&self, known: &Arc<Outbox>) {
        known.forget_will();
        if known.session.is_some() {
            self.dismiss(known);
        } else {
            known.notify(Event::Leave(ReasonCode::SessionTakenOver));
        }
    }

    /// A connection ends, as its session decided. `None`: it had been superseded.
    pub fn see_off(&self, outbox: &Arc<Outbox>, attachment: u64, parting: &Parting<'_>) -> Option<Ending> {
        drop(outbox.take_will(attachment));
        let keep_will = parting.keep_will;
        if outbox.session.is_none() {
            self.forget_subscriptions(outbox, parting.filters.iter().map(|filter| &**filter));
            self.leaving.lock().insert(outbox.client_id.clone());
            return Some(Ending { expiry: 0, keep_will, sent: 0 });
        }
        let persistent = self.dismiss(outbox)?;
        self.leaving.lock().insert(outbox.client_id.clone());
        let expiry = parting.expiry.unwrap_or(persistent.expiry);
        let expiry = if outbox.is_overrun() { 0 } else { expiry };
        Some(Ending { expiry, keep_will, sent: persistent.queue.sent_below() })
    }

    /// The end of this client's last connection here is on its way to the store: until it is there, a new connection would
    /// be taken for one that takes the old one over.
    pub fn is_leaving(&self, client_id: &str) -> bool {
        self.leaving.lock().contains(client_id)
    }

    /// It is there.
    pub fn has_left(&self, outbox: &Outbox) {
        self.leaving.lock().remove(&outbox.client_id);
    }

    /// A session leaves this node; if its connection is still there, it learns of it when it looks.
    fn dismiss(&self, outbox: &Arc<Outbox>) -> Option<Box<Persistent>> {
        let persistent = outbox.close_if(|_| true)?;
        self.forget_subscriptions(outbox, persistent.filters.keys().map(|filter| &**filter));
        self.forget_client(outbox);
        let mut here = self.here.write();
        if here.get(&persistent.session).is_some_and(|known| known.id == outbox.id) {
            here.remove(&persistent.session);
        }
        drop(here);
        self.attached.fetch_sub(1, Ordering::Relaxed);
        Some(persistent)
    }

    /// A session whose client is connected to this node.
    pub fn here(&self, session: SessionId) -> Option<Arc<Outbox>> {
        self.here.read().get(&session).cloned()
    }

    pub fn all_here(&self) -> Vec<Arc<Outbox>> {
        self.here.read().values().cloned().collect()
    }
}

fn begun(session: SessionId) -> Persistent {
    Persistent { session, queue: Queue::restored(Vec::new(), FIRST_PLACE, None), ..Persistent::default() }
}
