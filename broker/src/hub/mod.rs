//! The clients living on this node: who they are, what they subscribe to, and how a message reaches them.
//!
//! A publisher's thread writes straight into each receiver's [`Outbox`]. Topic → receivers is remembered by each
//! thread and forgotten when the generation moves on.

mod buffers;
mod outbox;
mod parcel;
mod retained;
mod route;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::{HashMap, HashMapExt};
use nsd_wire::{ReasonCode, SubscribeOptions, SubscriptionId};
use parking_lot::{Mutex, RwLock};

pub(crate) use buffers::{give as give_buffer, take as take_buffer};
pub use outbox::{DROPPED, Event, Outbox, Put, Taken, Terms};
pub use parcel::Parcel;
pub use retained::{Kept, Retained};
pub use route::{Routed, route, wake_receivers};

use crate::bus::Bus;
use crate::limits::Limits;
use crate::topic::Tree;

/// One client's subscription to one filter.
#[derive(Debug, Clone)]
pub struct Subscription {
    pub outbox: Arc<Outbox>,
    pub options: SubscribeOptions,
    pub id: Option<SubscriptionId>,
}

#[derive(Debug)]
pub struct Hub {
    subscriptions: RwLock<Tree<u64, Subscription>>,
    clients: Mutex<HashMap<Box<str>, Arc<Outbox>>>,
    pub retained: RwLock<Retained>,
    /// The other nodes; `None` where there can be none.
    pub bus: Option<Arc<Bus>>,
    /// Raised by every change of who gets what, here or on other nodes.
    generation: AtomicU64,
    next_id: AtomicU64,
    pub counters: Counters,
}

#[derive(Debug, Default)]
pub struct Counters {
    pub received: AtomicU64,
    pub delivered: AtomicU64,
    pub connects: AtomicU64,
    pub refused: AtomicU64,
}

impl Hub {
    pub fn new(bus: Option<Arc<Bus>>, limits: &Limits) -> Self {
        // In a cluster this mirrors what Redis has accepted.
        let retained = if bus.is_some() { usize::MAX } else { limits.retained };
        Self {
            subscriptions: RwLock::default(),
            clients: Mutex::new(HashMap::new()),
            retained: RwLock::new(Retained::new(retained)),
            bus,
            generation: AtomicU64::new(1),
            next_id: AtomicU64::new(1),
            counters: Counters::default(),
        }
    }

    pub fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub fn routes_changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    pub fn connected(&self) -> usize {
        self.clients.lock().len()
    }

    pub fn subscribed(&self) -> usize {
        self.subscriptions.read().len()
    }

    /// Makes this connection the one of its client id; the one before is sent away (MQTT-3.1.4-3). Which of two came
    /// first is decided by the store: the answer to an earlier claim may get here after the answer to a later one.
    pub fn enter(&self, outbox: &Arc<Outbox>) {
        self.counters.connects.fetch_add(1, Ordering::Relaxed);
        let mut clients = self.clients.lock();
        let older = match clients.get_mut(&outbox.client_id) {
            Some(known) if known.ownership() > outbox.ownership() => Some(Arc::clone(outbox)),
            Some(known) => Some(std::mem::replace(known, Arc::clone(outbox))),
            None => {
                clients.insert(outbox.client_id.clone(), Arc::clone(outbox));
                None
            }
        };
        drop(clients);
        if let Some(older) = older {
            older.notify(Event::Leave(ReasonCode::SessionTakenOver));
        }
    }

    /// A client with this id has connected to another node, under this epoch.
    pub fn taken_over(&self, client_id: &str, epoch: u64) {
        let clients = self.clients.lock();
        if let Some(outbox) = clients.get(client_id)
            && outbox.ownership() < epoch
        {
            outbox.notify(Event::Leave(ReasonCode::SessionTakenOver));
        }
    }

    /// Ends a connection's part here, after its subscriptions were forgotten.
    pub fn leave(&self, outbox: &Arc<Outbox>) {
        outbox.close();
        let mut clients = self.clients.lock();
        if clients.get(&outbox.client_id).is_some_and(|known| known.id == outbox.id) {
            clients.remove(&outbox.client_id);
        }
    }

    pub fn forget_subscriptions<'f>(&self, outbox: &Arc<Outbox>, filters: impl IntoIterator<Item = &'f str>) {
        let mut filters = filters.into_iter().peekable();
        if filters.peek().is_some() {
            self.unsubscribe(outbox, filters);
        }
    }

    pub fn subscribe<'f>(
        &self,
        outbox: &Arc<Outbox>,
        wishes: impl IntoIterator<Item = (&'f str, SubscribeOptions, Option<SubscriptionId>)>,
    ) {
        let mut tree = self.subscriptions.write();
        for (filter, options, id) in wishes {
            let subscription = Subscription { outbox: Arc::clone(outbox), options, id };
            let first = tree.insert(filter, outbox.id, subscription).first;
            // Under the tree's lock, so that the others hear of first and last in the order in which they were.
            if let Some(bus) = self.bus.as_ref().filter(|_| first) {
                bus.announce(filter, true);
            }
        }
        self.routes_changed();
    }

    pub fn unsubscribe<'f>(&self, outbox: &Arc<Outbox>, filters: impl IntoIterator<Item = &'f str>) {
        let mut tree = self.subscriptions.write();
        for filter in filters {
            let last = tree.remove(filter, &outbox.id).is_some_and(|removed| removed.last);
            if let Some(bus) = self.bus.as_ref().filter(|_| last) {
                bus.announce(filter, false);
            }
        }
        self.routes_changed();
    }

    /// Everything subscribed to here. Changes announced before are part of it, so they are taken back.
    pub fn filters(&self) -> Vec<String> {
        let tree = self.subscriptions.read();
        if let Some(bus) = &self.bus {
            bus.take_back();
        }
        tree.filters()
    }

    pub fn clients(&self) -> Vec<Arc<Outbox>> {
        self.clients.lock().values().cloned().collect()
    }

    /// All clients, for a stop.
    pub fn send_away(&self, reason: ReasonCode) {
        self.clients().iter().for_each(|outbox| outbox.notify(Event::Leave(reason)));
    }
}

#[cfg(test)]
mod tests {
    use nsd_wire::Version;

    use super::*;

    #[test]
    fn the_later_claim_stays_whichever_answer_comes_first() {
        let hub = Hub::new(None, &Limits::default());
        let claimed = |epoch| {
            let outbox = Outbox::new(hub.next_id(), "lamp".into(), Version::V5, 10, 1024);
            outbox.set_ownership(epoch);
            Arc::new(outbox)
        };
        let (earlier, later) = (claimed(1), claimed(2));
        for order in [[&earlier, &later], [&later, &earlier]] {
            order.into_iter().for_each(|outbox| hub.enter(outbox));
            assert_eq!(hub.clients().iter().map(|outbox| outbox.id).collect::<Vec<_>>(), [later.id]);
        }
    }
}
