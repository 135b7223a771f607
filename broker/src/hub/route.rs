//! A message on its way to all who want it, on the publisher's thread.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use foldhash::{HashMap, HashMapExt};
use nsd_wire::{Publish, Version};

use super::{Hub, Outbox, Parcel, Put, Terms};
use crate::limits;

/// What came of routing one message here.
#[derive(Debug, Default)]
pub struct Routed {
    /// Other nodes that want it.
    pub nodes: Option<Arc<[u64]>>,
    /// Under which all this was found.
    pub generation: u64,
}

/// Who gets one topic.
#[derive(Debug, Default)]
struct Receivers {
    clients: Vec<Receiver>,
    nodes: Option<Arc<[u64]>>,
}

#[derive(Debug)]
struct Receiver {
    outbox: Arc<Outbox>,
    terms: Terms,
    /// Under which a message of the client itself comes back to it; `None`: not at all (v5 no-local).
    own: Option<Terms>,
}

/// What a thread remembers between messages, and whom it still has to wake. Of one hub: tests have several.
#[derive(Default)]
struct Memory {
    hub: usize,
    generation: u64,
    by_topic: HashMap<Box<str>, Rc<Receivers>>,
    to_wake: Vec<Arc<Outbox>>,
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

/// Delivers to every client of this node that wants the message. `sender` is the connection it came from (0: none).
/// Receivers that should be waited for are added to `full`. Call [`wake_receivers`] after the batch.
pub fn route(
    hub: &Hub,
    publish: &Publish<'_>,
    wire: Option<(&[u8], Version)>,
    sender: u64,
    full: &mut Vec<Arc<Outbox>>,
) -> Routed {
    MEMORY.with_borrow_mut(|memory| {
        let receivers = memory.receivers(hub, publish.topic);
        let parcel = Parcel::live(publish, wire);
        for receiver in &receivers.clients {
            let terms =
                if receiver.outbox.id == sender { receiver.own.as_ref() } else { Some(&receiver.terms) };
            let Some(terms) = terms else { continue };
            match receiver.outbox.deliver(&parcel, terms) {
                Put::Wake => memory.to_wake.push(Arc::clone(&receiver.outbox)),
                Put::Full => {
                    receiver.outbox.wake();
                    if !full.iter().any(|known| known.id == receiver.outbox.id) {
                        full.push(Arc::clone(&receiver.outbox));
                    }
                }
                Put::Taken | Put::Lost => {}
            }
        }
        hub.counters.delivered.fetch_add(receivers.clients.len() as u64, Ordering::Relaxed);
        Routed { nodes: receivers.nodes.clone(), generation: memory.generation }
    })
}

/// Wakes each receiver of this thread's last batch, once.
pub fn wake_receivers() {
    let mut receivers = MEMORY.with_borrow_mut(|memory| std::mem::take(&mut memory.to_wake));
    receivers.drain(..).for_each(|outbox| outbox.wake());
    // The list's memory serves the next batch.
    MEMORY.with_borrow_mut(|memory| memory.to_wake = receivers);
}

impl Memory {
    fn receivers(&mut self, hub: &Hub, topic: &str) -> Rc<Receivers> {
        let (generation, name) = (hub.generation(), std::ptr::from_ref(hub).addr());
        if self.generation != generation || self.hub != name || self.by_topic.len() >= limits::MATCH_CACHE {
            self.by_topic.clear();
            (self.generation, self.hub) = (generation, name);
        }
        if let Some(known) = self.by_topic.get(topic) {
            return Rc::clone(known);
        }
        let found = Rc::new(find(hub, topic));
        self.by_topic.insert(topic.into(), Rc::clone(&found));
        found
    }
}

/// Overlapping filters of one client make one delivery: highest QoS, all identifiers (MQTT-3.3.4-2, 3.3.4-3).
fn find(hub: &Hub, topic: &str) -> Receivers {
    let mut at: HashMap<u64, usize> = HashMap::new();
    let mut clients: Vec<Receiver> = Vec::new();
    hub.subscriptions.read().visit(topic, &mut |key, subscription| {
        let index = *at.entry(*key).or_insert(clients.len());
        if index == clients.len() {
            let outbox = Arc::clone(&subscription.outbox);
            clients.push(Receiver { outbox, terms: Terms::default(), own: None });
        }
        let receiver = &mut clients[index];
        receiver.terms.add(subscription);
        if !subscription.options.no_local {
            receiver.own.get_or_insert_default().add(subscription);
        }
    });
    let nodes = hub.bus.as_ref().map(|bus| bus.interested(topic)).filter(|nodes| !nodes.is_empty());
    let nodes = nodes.map(Into::into);
    Receivers { clients, nodes }
}

impl Terms {
    fn add(&mut self, subscription: &super::Subscription) {
        self.qos = self.qos.max(subscription.options.qos);
        self.retain_as_published |= subscription.options.retain_as_published;
        self.ids.extend(subscription.id);
    }
}
