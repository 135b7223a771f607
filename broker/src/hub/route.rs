//! A message on its way to all who want it, on the publisher's thread.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use foldhash::{HashMap, HashMapExt};
use nsd_wire::{Publish, Qos, SubscribeOptions, SubscriptionId, Version};

use super::share::{Dealt, Share};
use super::{Hub, Outbox, Parcel, Put, Subscription, Terms};
use crate::limits::{self, Limits};
use crate::message::Message;
use crate::queue::{Displaced, Place};
use crate::store::change::{Entry, SessionId};
use crate::telemetry::{Cause, Count, count, count_many};

/// What came of routing one message here.
#[derive(Debug, Default)]
pub struct Routed {
    /// Persistent sessions that want it above QoS 0: it is not in their queues yet.
    pub lasting: Lasting,
    /// Other nodes that want it.
    pub nodes: Option<Arc<[u64]>>,
    /// Of a store that all nodes share: the sessions that want it above QoS 0, wherever their clients are. Then `lasting` are
    /// only those of them that are here.
    pub addressees: Option<Arc<[Addressee]>>,
    /// Under which all this was found.
    pub generation: u64,
}

/// Persistent sessions among the receivers of one message.
#[derive(Debug, Default, Clone)]
pub struct Lasting {
    all: Option<Arc<[Receiver]>>,
    /// Groups with such members: who gets it is decided when it is given its place, by what each has by then.
    groups: Vec<Group>,
    sender: u64,
}

/// A session of the store that all nodes share, as one that wants a message.
#[derive(Debug, Clone)]
pub struct Addressee {
    pub session: SessionId,
    terms: Terms,
    /// Under which a message of the client itself comes back to it; `None`: not at all (v5 no-local).
    own: Option<Terms>,
}

/// Who gets one topic.
#[derive(Debug, Default)]
struct Receivers {
    clients: Vec<Receiver>,
    lasting: Option<Arc<[Receiver]>>,
    groups: Vec<Group>,
    nodes: Option<Arc<[u64]>>,
    addressees: Option<Arc<[Addressee]>>,
}

/// The members of a shared subscription that want one topic.
#[derive(Debug, Clone)]
struct Group {
    share: Arc<Share>,
    members: Arc<[Receiver]>,
    /// One of them has a persistent session, and may want messages above QoS 0.
    lasts: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Receiver {
    pub outbox: Arc<Outbox>,
    terms: Terms,
    /// Under which a message of the client itself comes back to it; `None`: not at all (v5 no-local).
    own: Option<Terms>,
}

/// A message that has its place in the queue of a persistent session, and is to be stored.
#[derive(Debug)]
pub struct Placed {
    pub session: SessionId,
    pub entry: Entry,
    /// What had to go for it.
    pub instead_of: Vec<Displaced>,
    /// Of which shared subscription this session is the member that gets it.
    pub(super) share: Option<Arc<Share>>,
}

/// What a thread remembers between messages, and whom it still has to wake. Of one hub: tests have several.
#[derive(Default)]
struct Memory {
    hub: usize,
    generation: u64,
    by_topic: HashMap<Box<str>, Rc<Receivers>>,
    /// About as many bytes as `by_topic` takes.
    size: usize,
    to_wake: Vec<Arc<Outbox>>,
    /// Messages since then.
    routed: usize,
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

/// Delivers to every client of this node that wants the message, but for those whose session's queue it has to go
/// through. `sender` is the session it came from (0: none). Receivers that should be waited for are added to `full`.
/// Call [`wake_receivers`] after the batch.
pub fn route(
    hub: &Hub,
    publish: &Publish<'_>,
    wire: Option<(&[u8], Version)>,
    sender: u64,
    full: &mut Vec<Arc<Outbox>>,
) -> Routed {
    MEMORY.with_borrow_mut(|memory| {
        memory.routed += 1;
        let receivers = memory.receivers(hub, publish.topic);
        let parcel = Parcel::live(publish, wire);
        let mut lasting = Lasting { sender, ..Lasting::default() };
        for receiver in &receivers.clients {
            memory.deliver(&parcel, receiver, sender, full);
        }
        if let Some(all) = &receivers.lasting {
            for receiver in all.iter() {
                if publish.qos == Qos::AtMostOnce {
                    memory.deliver(&parcel, receiver, sender, full);
                } else if receiver.outbox.should_wait() {
                    add(full, &receiver.outbox);
                }
            }
            lasting.all = (publish.qos != Qos::AtMostOnce).then(|| Arc::clone(all));
        }
        let mut kept = None;
        for group in &receivers.groups {
            if publish.qos == Qos::AtMostOnce {
                if let Some(member) = group.share.choose(&group.members, publish.qos) {
                    memory.deliver(&parcel, member, sender, full);
                }
            } else if group.lasts {
                if let Some(outbox) = group.to_wait_for(publish.qos) {
                    add(full, outbox);
                }
                lasting.groups.push(group.clone());
            } else if let Some(message) =
                kept.get_or_insert_with(|| Message::new(publish).map(Arc::new)).as_ref()
            {
                let kept = Keepsake { message, since: SystemTime::now(), retained: false };
                group.deal(
                    &parcel,
                    &kept,
                    |_, _, _, _| false,
                    |outbox, put| {
                        memory.took(outbox, put, sender, full);
                    },
                );
            }
        }
        let addressees = receivers.addressees.clone().filter(|_| publish.qos != Qos::AtMostOnce);
        Routed { lasting, nodes: receivers.nodes.clone(), addressees, generation: memory.generation }
    })
}

/// Wakes each receiver of this thread's last batch, once. One message that came alone is rather passed on at once: where
/// many come, it is better that each receiver gathers what it gets.
pub fn wake_receivers() {
    let (mut receivers, routed) = MEMORY
        .with_borrow_mut(|memory| (std::mem::take(&mut memory.to_wake), std::mem::take(&mut memory.routed)));
    let alone = routed == 1 && receivers.len() <= limits::PASSED_ON_TO;
    receivers.drain(..).for_each(|outbox| if alone { outbox.pass_on() } else { outbox.wake() });
    // The list's memory serves the next batch.
    MEMORY.with_borrow_mut(|memory| memory.to_wake = receivers);
}

fn add(outboxes: &mut Vec<Arc<Outbox>>, outbox: &Arc<Outbox>) {
    if !outboxes.iter().any(|known| known.id == outbox.id) {
        outboxes.push(Arc::clone(outbox));
    }
}

impl Memory {
    fn receivers(&mut self, hub: &Hub, topic: &str) -> Rc<Receivers> {
        let (generation, name) = (hub.generation(), std::ptr::from_ref(hub).addr());
        if self.generation != generation || self.hub != name {
            self.forget();
            (self.generation, self.hub) = (generation, name);
        }
        if let Some(known) = self.by_topic.get(topic) {
            return Rc::clone(known);
        }
        let found = Rc::new(find(hub, topic));
        let size = topic.len() + found.size();
        if self.by_topic.len() >= limits::MATCH_CACHE || self.size + size > limits::MATCH_CACHE_BYTES {
            self.forget();
        }
        if size <= limits::MATCH_CACHE_BYTES {
            self.size += size;
            self.by_topic.insert(topic.into(), Rc::clone(&found));
        }
        found
    }

    fn forget(&mut self) {
        self.by_topic.clear();
        self.size = 0;
    }

    fn deliver(
        &mut self,
        parcel: &Parcel<'_>,
        receiver: &Receiver,
        sender: u64,
        full: &mut Vec<Arc<Outbox>>,
    ) {
        let Some(terms) = receiver.terms(sender) else { return };
        let put = receiver.outbox.deliver(parcel, terms);
        self.took(&receiver.outbox, put, sender, full);
    }

    fn took(&mut self, outbox: &Arc<Outbox>, put: Put, sender: u64, full: &mut Vec<Arc<Outbox>>) {
        match put {
            // Its connection has this turn, and an acknowledgement to send before.
            Put::Wake if outbox.id == sender => outbox.wake(),
            Put::Wake => self.to_wake.push(Arc::clone(outbox)),
            Put::Full => {
                outbox.wake();
                add(full, outbox);
            }
            Put::Taken | Put::Lost => {}
        }
    }
}

impl Receivers {
    /// What remembering them takes, but for the words of one entry.
    fn size(&self) -> usize {
        let ids = |terms: &Terms| size_of_val(&*terms.ids);
        let one = |receiver: &Receiver| {
            size_of::<Receiver>() + ids(&receiver.terms) + receiver.own.as_ref().map_or(0, ids)
        };
        let members = self.groups.iter().flat_map(|group| group.members.iter());
        let all = self.clients.iter().chain(self.lasting.iter().flat_map(|all| all.iter())).chain(members);
        let far = self.addressees.iter().flat_map(|all| all.iter());
        let far = far.map(|one| size_of::<Addressee>() + ids(&one.terms) + one.own.as_ref().map_or(0, ids));
        all.map(one).sum::<usize>() + far.sum::<usize>() + size_of_val(&*self.groups)
    }
}

impl Lasting {
    /// Only this session, whatever else matches.
    pub fn one(outbox: &Arc<Outbox>, terms: Terms) -> Self {
        let receiver = Receiver { outbox: Arc::clone(outbox), own: Some(terms.clone()), terms };
        Self { all: Some(Arc::new([receiver])), groups: Vec::new(), sender: 0 }
    }

    /// One of these members.
    pub(super) fn of(share: Arc<Share>, members: Arc<[Receiver]>) -> Self {
        Self { all: None, groups: vec![Group { share, members, lasts: true }], sender: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_none() && self.groups.is_empty()
    }

    pub fn len(&self) -> usize {
        self.all.as_ref().map_or(0, |all| all.len()) + self.groups.len()
    }

    /// Gives the message a place in each session's queue; it is there once [`Outbox::enqueue`] has put it there, in the
    /// order of places. What has no place is dropped, counted.
    pub fn place(&self, kept: &Keepsake<'_>, limits: &Limits, mut placed: impl FnMut(&Arc<Outbox>, Placed)) {
        self.each(kept, |outbox, terms, qos, share| {
            let Some((session, place)) = outbox.place(kept.message, limits) else { return false };
            match place {
                Place::Taken { seq, instead_of } => {
                    let entry = Entry { seq, ..kept.entry(terms, qos) };
                    placed(outbox, Placed { session, entry, instead_of, share: share.cloned() });
                }
                Place::Full | Place::Overrun => count_dropped(outbox, &place),
            }
            true
        });
    }

    /// Places and queues at once, where nothing has to be stored: publishers on other threads come before or after.
    pub fn enqueue(&self, kept: &Keepsake<'_>, limits: &Limits) {
        self.each(kept, |outbox, terms, qos, _| {
            let Some((place, put)) = outbox.place_and_enqueue(kept.entry(terms, qos), limits) else {
                return false;
            };
            count_dropped(outbox, &place);
            if put != Put::Taken {
                outbox.wake();
            }
            true
        });
    }

    /// `visit` tells whether the session is there to take it: if not, one of its group may.
    pub(crate) fn each(
        &self,
        kept: &Keepsake<'_>,
        mut visit: impl FnMut(&Arc<Outbox>, &Terms, Qos, Option<&Arc<Share>>) -> bool,
    ) {
        let publish = kept.message.publish();
        for receiver in self.all.iter().flat_map(|all| all.iter()) {
            let Some(terms) = receiver.terms(self.sender) else { continue };
            let qos = publish.qos.min(terms.qos);
            if qos == Qos::AtMostOnce {
                receiver.outbox.deliver(&Parcel::live(&publish, None), terms);
                receiver.outbox.wake();
            } else {
                visit(&receiver.outbox, terms, qos, None);
            }
        }
        if self.groups.is_empty() {
            return;
        }
        let waited = SystemTime::now().duration_since(kept.since).unwrap_or_default().as_secs();
        let waited = u32::try_from(waited).unwrap_or(u32::MAX);
        let parcel = Parcel::queued(&publish, kept.message.bytes(), waited);
        for group in &self.groups {
            group.deal(&parcel, kept, &mut visit, |outbox, _| outbox.wake());
        }
    }
}

impl Group {
    /// A member that publishers should wait for: none keeps up.
    fn to_wait_for(&self, qos: Qos) -> Option<&Arc<Outbox>> {
        let mut members = self.members.iter();
        if self.members.iter().any(|member| member.burden(qos).is_some()) {
            return None;
        }
        members.find(|member| member.outbox.should_wait()).map(|member| &member.outbox)
    }

    /// To one of the members: into its queue, which is the business of `visit`, or into its outbox. One that is gone in
    /// this very moment is not the one.
    fn deal(
        &self,
        parcel: &Parcel<'_>,
        kept: &Keepsake<'_>,
        mut visit: impl FnMut(&Arc<Outbox>, &Terms, Qos, Option<&Arc<Share>>) -> bool,
        mut took: impl FnMut(&Arc<Outbox>, Put),
    ) {
        for _ in 0..self.members.len() {
            let Some(member) = self.share.choose(&self.members, parcel.qos()) else { return };
            let qos = member.terms.qos.min(parcel.qos());
            if member.is_lasting(qos) {
                if visit(&member.outbox, &member.terms, qos, Some(&self.share)) {
                    return;
                }
                continue;
            }
            let (share, message) = (Arc::clone(&self.share), Arc::clone(kept.message));
            let dealt = (qos != Qos::AtMostOnce).then_some(Dealt { share, message, since: kept.since });
            if let Some(put) = member.outbox.deal(parcel, &member.terms, dealt) {
                return took(&member.outbox, put);
            }
        }
    }
}

/// A message for persistent sessions.
#[derive(Debug, Clone, Copy)]
pub struct Keepsake<'k> {
    pub message: &'k Arc<Message>,
    /// When the broker got it.
    pub since: SystemTime,
    /// It was retained, and goes to a new subscription.
    pub retained: bool,
}

impl Keepsake<'_> {
    /// As one session gets it; its place is yet to be given.
    fn entry(&self, terms: &Terms, qos: Qos) -> Entry {
        let retain = self.retained || (terms.retain_as_published && self.message.publish().retain);
        let (ids, message) = (terms.ids.clone().into(), Arc::clone(self.message));
        Entry { seq: 0, qos, retain, ids, since: self.since, message, received: false }
    }
}

fn count_dropped(outbox: &Outbox, place: &Place) {
    match place {
        Place::Taken { instead_of, .. } => {
            count_many(Count::Dropped(Cause::QueueFull), instead_of.len() as u64);
        }
        Place::Full => count(Count::Dropped(Cause::QueueFull)),
        Place::Overrun => {
            count(Count::Dropped(Cause::QueueFull));
            outbox.overrun();
        }
    }
}

impl Receiver {
    fn terms(&self, sender: u64) -> Option<&Terms> {
        if self.outbox.id == sender { self.own.as_ref() } else { Some(&self.terms) }
    }

    pub(super) fn member(outbox: &Arc<Outbox>, subscription: &Subscription) -> Self {
        let mut terms = Terms::default();
        terms.add(subscription.options, subscription.id);
        Self { outbox: Arc::clone(outbox), own: Some(terms.clone()), terms }
    }

    /// How many messages of this QoS wait for it to take one, if publishers need not wait for it.
    pub(super) fn burden(&self, qos: Qos) -> Option<usize> {
        self.outbox.burden(qos.min(self.terms.qos))
    }

    /// Whether a message of this QoS goes through the queue of a persistent session.
    pub(super) fn is_lasting(&self, qos: Qos) -> bool {
        self.outbox.session.is_some() && self.terms.qos.min(qos) != Qos::AtMostOnce
    }
}

/// Overlapping filters of one client make one delivery: highest QoS, all identifiers (MQTT-3.3.4-2, 3.3.4-3). Each
/// shared subscription makes one of its own.
fn find(hub: &Hub, topic: &str) -> Receivers {
    let mut at: HashMap<u64, usize> = HashMap::new();
    let mut clients: Vec<Receiver> = Vec::new();
    let mut groups: Vec<(Arc<Share>, Vec<Receiver>)> = Vec::new();
    let mut group_at: HashMap<*const Share, usize> = HashMap::new();
    hub.subscriptions.read().visit(topic, &mut |key, subscription| {
        if let Some(share) = &key.share {
            let index = *group_at.entry(Arc::as_ptr(share)).or_insert(groups.len());
            if index == groups.len() {
                groups.push((Arc::clone(share), Vec::new()));
            }
            groups[index].1.push(Receiver::member(&key.outbox, subscription));
            return;
        }
        let index = *at.entry(key.outbox.id).or_insert(clients.len());
        if index == clients.len() {
            clients.push(Receiver { outbox: Arc::clone(&key.outbox), terms: Terms::default(), own: None });
        }
        let receiver = &mut clients[index];
        receiver.terms.add(subscription.options, subscription.id);
        if !subscription.options.no_local {
            receiver.own.get_or_insert_default().add(subscription.options, subscription.id);
        }
    });
    let (lasting, clients): (Vec<_>, _) =
        clients.into_iter().partition(|receiver| receiver.is_lasting(Qos::ExactlyOnce));
    let lasting = (!lasting.is_empty()).then(|| lasting.into());
    let groups = groups.into_iter().map(|(share, members)| {
        let lasts = members.iter().any(|member| member.is_lasting(Qos::ExactlyOnce));
        Group { share, members: members.into(), lasts }
    });
    let groups = groups.collect();
    let nodes = hub.bus.as_ref().map(|bus| bus.interested(topic)).filter(|nodes| !nodes.is_empty());
    let nodes = nodes.map(Into::into);
    let addressees = hub.bus.as_ref().map(|bus| bus.addressees(topic)).filter(|all| !all.is_empty());
    Receivers { clients, lasting, groups, nodes, addressees: addressees.map(Into::into) }
}

impl Addressee {
    pub fn new(session: SessionId) -> Self {
        Self { session, terms: Terms::default(), own: None }
    }

    /// One more of its filters matches.
    pub fn add(&mut self, options: SubscribeOptions, id: Option<SubscriptionId>) {
        self.terms.add(options, id);
        if !options.no_local {
            self.own.get_or_insert_default().add(options, id);
        }
    }

    /// Whether it may get messages above QoS 0: others are for its connection alone.
    pub fn is_lasting(&self) -> bool {
        self.terms.qos != Qos::AtMostOnce
    }

    /// How a message from this session is for it; `None`: not at all.
    pub fn terms(&self, sender: Option<SessionId>) -> Option<&Terms> {
        if sender == Some(self.session) { self.own.as_ref() } else { Some(&self.terms) }
    }
}

impl Terms {
    fn add(&mut self, options: SubscribeOptions, id: Option<SubscriptionId>) {
        self.qos = self.qos.max(options.qos);
        self.retain_as_published |= options.retain_as_published;
        self.ids.extend(id);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};
    use std::time::{Duration, Instant};

    use nsd_wire::{AckKind, PacketId, Publish, ReasonCode};

    use super::super::persistent::Persistent;
    use super::*;

    fn at_least_once() -> Arc<Message> {
        let publish = Publish {
            qos: Qos::AtLeastOnce,
            packet_id: Some(PacketId::MIN),
            ..Publish::new("t", &[b'x'; 1000])
        };
        Arc::new(Message::new(&publish).unwrap())
    }

    fn attached(persistent: Option<Persistent>) -> Arc<Outbox> {
        let outbox = Arc::new(Outbox::new(1, "c".into(), persistent));
        let version = Version::V5;
        let capacity =
            super::super::Capacity { version, window: 10, packet_bytes: usize::MAX, topic_aliases: 0 };
        outbox.attach_first(capacity, None);
        outbox
    }

    #[test]
    fn what_a_member_keeps_for_others_is_counted_until_it_is_acknowledged() {
        let (outbox, message) = (attached(None), at_least_once());
        let terms = Terms { qos: Qos::AtLeastOnce, ..Terms::default() };
        let deal = || {
            let (share, message) = (Arc::default(), Arc::clone(&message));
            let dealt = Dealt { share, message: Arc::clone(&message), since: SystemTime::UNIX_EPOCH };
            outbox.deal(&Parcel::live(&message.publish(), None), &terms, Some(dealt)).unwrap();
        };
        // Beyond its window, too.
        (0..15).for_each(|_| deal());
        let context = Context::from_waker(Waker::noop());
        outbox.take(1, &context, true, false);
        let with_backlog = outbox.giveable();
        assert!((20_000..30_000).contains(&with_backlog), "15 messages, and 5 packets: {with_backlog}");
        for id in 1..=10 {
            outbox.settle(AckKind::PubAck, PacketId::new(id).unwrap(), ReasonCode::Success);
        }
        outbox.take(1, &context, true, false);
        assert!((5000..10_000).contains(&outbox.giveable()), "5 messages: {}", outbox.giveable());
        assert_eq!(outbox.close().len(), 5);
    }

    #[test]
    fn patience_begins_anew_whenever_a_client_takes_something() {
        let limits = Limits { queue_messages: 20, ..Limits::default() };
        let outbox = attached(Some(Persistent { session: 1, ..Persistent::default() }));
        let lasting = Lasting::one(&outbox, Terms { qos: Qos::AtLeastOnce, ..Terms::default() });
        let message = at_least_once();
        let kept = Keepsake { message: &message, since: SystemTime::UNIX_EPOCH, retained: false };
        (0..40).for_each(|_| lasting.enqueue(&kept, &limits));
        let context = Context::from_waker(Waker::noop());
        outbox.take(1, &context, true, false);
        let start = Instant::now();
        let until = outbox.wait_for_room(&context, start).expect("it is full");
        let later = start + Duration::from_secs(1);
        assert_eq!(outbox.wait_for_room(&context, later), Some(until), "it has taken nothing");
        outbox.settle(AckKind::PubAck, PacketId::MIN, ReasonCode::Success);
        let anew = outbox.wait_for_room(&context, later).expect("it is still full");
        assert!(anew > until + Duration::from_millis(900), "{:?}", anew - until);
    }

    #[test]
    fn a_queue_that_has_got_shorter_by_itself_is_waited_for_no_longer() {
        let limits = Limits { queue_messages: 40, ..Limits::default() };
        let terms = Terms { qos: Qos::AtLeastOnce, ..Terms::default() };
        let message = at_least_once();
        // What had a place could not be stored.
        let outbox = attached(Some(Persistent { session: 1, ..Persistent::default() }));
        (0..30).for_each(|_| drop(outbox.place(&message, &limits)));
        assert!(outbox.should_wait());
        (0..30).for_each(|_| outbox.give_back(&message));
        assert!(!outbox.should_wait());
        // What waited behind the window has expired.
        let outbox = attached(Some(Persistent { session: 1, ..Persistent::default() }));
        let mut publish = message.publish();
        publish.properties.message_expiry = Some(1);
        let expired = Arc::new(Message::new(&publish).unwrap());
        let lasting = Lasting::one(&outbox, terms);
        for (message, count) in [(&message, 10), (&expired, 20)] {
            let kept = Keepsake { message, since: SystemTime::UNIX_EPOCH, retained: false };
            (0..count).for_each(|_| lasting.enqueue(&kept, &limits));
        }
        let context = Context::from_waker(Waker::noop());
        outbox.take(1, &context, true, false);
        assert!(outbox.should_wait());
        outbox.settle(AckKind::PubAck, PacketId::MIN, ReasonCode::Success);
        assert_eq!((outbox.load().in_flight, outbox.load().queued), (9, 0));
        assert!(!outbox.should_wait());
    }

    #[test]
    fn what_comes_from_other_nodes_while_the_client_is_away_is_not_sent() {
        let outbox = attached(Some(Persistent { session: 1, ..Persistent::default() }));
        let (message, terms) = (at_least_once(), Terms { qos: Qos::AtLeastOnce, ..Terms::default() });
        let kept = Keepsake { message: &message, since: SystemTime::UNIX_EPOCH, retained: false };
        let arrive = || {
            let seq = outbox.next_place().unwrap();
            outbox.arrive(Entry { seq, ..kept.entry(&terms, Qos::AtLeastOnce) }, &Limits::default());
            (outbox.load().in_flight, outbox.load().queued)
        };
        assert_eq!(arrive(), (1, 0));
        outbox.detach(1, |_| ()).unwrap();
        assert_eq!(arrive(), (0, 2));
    }

    #[test]
    fn places_in_a_queue_are_filled_in_their_order_whoever_fills_them() {
        const EACH: usize = 20_000;
        let limits = Limits { queue_messages: usize::MAX, queue_bytes: usize::MAX, ..Limits::default() };
        let outbox =
            Arc::new(Outbox::new(1, "c".into(), Some(Persistent { session: 1, ..Persistent::default() })));
        let message = at_least_once();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let terms = Terms { qos: Qos::AtLeastOnce, ..Terms::default() };
                    let lasting = Lasting::one(&outbox, terms);
                    let kept = Keepsake { message: &message, since: SystemTime::UNIX_EPOCH, retained: false };
                    (0..EACH).for_each(|_| lasting.enqueue(&kept, &limits));
                });
            }
        });
        let (count, sorted) = outbox
            .with_persistent(|persistent| {
                let places = || persistent.queue.entries().map(|entry| entry.seq);
                (places().count(), places().is_sorted_by(|before, after| before < after))
            })
            .unwrap();
        assert_eq!((count, sorted), (4 * EACH, true));
    }
}
