//! Carries out what a session asks for: the one place where effects become deeds.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime};

use nsd_wire::{
    Ack, AckKind, Auth, Authentication, ConnAck, Connect, Disconnect, EncodeError, PacketId, PacketType,
    Publish, Qos, ReasonCode, ReasonProperties, RetainHandling, SubAck, UnsubAck, Version, connack,
};
use tracing::field::{DisplayValue, display};
use tracing::{debug, info};

use super::Peer;
use super::explanation;
use super::leeway::Leeway;
use super::tally::Tally;
use super::work::{Asked, Wanted, Work};
use crate::access::Grant;
use crate::access::scram::{self, Exchange};
use crate::bus::Origin;
use crate::busy::Busy;
use crate::hub::{self, Card, Keepsake, Lasting, Outbox, Parcel, Parting, Settlement, Terms, Writer};
use crate::journal::ToStore;
use crate::lanes::Caller;
use crate::limits;
use crate::message::Message;
use crate::node::Node;
use crate::session::{Admitted, Effect, Effects, Opening, Receipt, Reply, Subscribing, Unsubscribing};
use crate::store::change::Seq;
use crate::telemetry::{Cause, Count, Event, count};

/// Retained topics looked at in one go before live messages get their turn.
const RETAINED_SLICE: usize = 256;

/// Client ids of our balancer's and orchestrator's health checks: they come every few seconds without credentials, and
/// an answer, not a welcome, is what they want. They are counted like every refusal, but would drown the log.
const CHECKS: [&str; 2] = ["nsd-check-", "nsd-probe-"];

pub(super) struct Hands {
    /// Until the client is known.
    beginning: Option<Box<Beginning>>,
    node: Arc<Node>,
    version: Version,
    /// The largest packet that the client takes.
    packet_bytes: u32,
    /// It wants to be told in words why an answer is no [MQTT5-3.1.2-29].
    wants_words: bool,
    pub(super) outbox: Option<Arc<Outbox>>,
    pub(super) attachment: u64,
    /// It was asked for its proof: a refusal of it is told by nobody else.
    proving: bool,
    pub(super) closing: bool,
    /// Another connection has taken over, as was seen before this one was told.
    pub(super) superseded: bool,
    /// The lane toward other nodes is full; whether what we put in must not be lost.
    bus_full: Option<bool>,
    /// The lane toward the store is full.
    journal_full: bool,
    /// Something waits for the other nodes, or for the store, since the last batch.
    unflushed: bool,
    tokens: u32,
    pub(super) work: Busy<Work>,
    pub(super) tally: Tally,
}

struct Beginning {
    peer: Peer,
    /// For the outbox, once there is one.
    writer: Option<Writer>,
}

impl Hands {
    pub(super) fn new(node: Arc<Node>, peer: Peer, writer: Option<Writer>) -> Self {
        Self {
            beginning: Some(Box::new(Beginning { peer, writer })),
            node,
            version: Version::V311,
            packet_bytes: 0,
            wants_words: false,
            outbox: None,
            attachment: 0,
            proving: false,
            closing: false,
            superseded: false,
            bus_full: None,
            journal_full: false,
            unflushed: false,
            tokens: 0,
            work: Busy::default(),
            tally: Tally::default(),
        }
    }

    /// Where the client is, for the log.
    pub(super) fn address(&self) -> Option<DisplayValue<SocketAddr>> {
        let beginning = self.beginning.as_ref().map(|beginning| beginning.peer.address);
        beginning.or_else(|| self.tally.address()).map(display)
    }

    /// It is no client yet.
    pub(super) fn is_unknown(&self) -> bool {
        self.outbox.is_none()
    }

    pub(super) fn node_ends(&self) -> bool {
        self.node.ends()
    }

    /// How the client is to be answered, also if it is refused.
    pub(super) fn hear_connect(&mut self, connect: &Connect<'_>) {
        let told = &connect.properties;
        self.version = connect.version;
        self.packet_bytes = told.maximum_packet_size.map_or(u32::MAX, NonZeroU32::get);
        self.wants_words = self.version.is_v5() && told.request_problem_information.unwrap_or(true);
    }

    /// Everything between a CONNECT and its CONNACK that takes time.
    pub(super) async fn admit(&mut self, opening: &Opening) -> Result<Admitted, ReasonCode> {
        let client = &*opening.client_id;
        // A client is admitted once.
        let Some(beginning) = &self.beginning else { return Err(ReasonCode::ProtocolError) };
        let peer = &beginning.peer;
        let deciding = async {
            let grant = self.node.door.load_full().admit(opening, peer).await?;
            let claimed = self.node.claim(opening, &grant).await?;
            let epoch = claimed.epoch;
            let entered = self.node.enter(opening, &grant, claimed).await?;
            Ok((grant, epoch, entered))
        };
        let decided = tokio::time::timeout(limits::ADMISSION_DEADLINE, deciding).await;
        let (grant, epoch, entered) =
            decided.unwrap_or(Err(ReasonCode::ServerUnavailable)).inspect_err(|reason| {
                let (peer, reason) = (peer.address, reason.text());
                if CHECKS.iter().any(|prefix| client.starts_with(prefix)) {
                    debug!(%peer, client, reason, "refused");
                } else {
                    info!(%peer, client, reason, "refused");
                }
            })?;
        let outbox = entered.outbox;
        self.attachment = entered.attachment;
        if self.node.was_taken_over(client, epoch) {
            outbox.notify(hub::Event::Leave(ReasonCode::SessionTakenOver));
        }
        // The stop has told everybody who was there; this client came in meanwhile.
        if !self.node.is_open() {
            outbox.notify(hub::Event::Leave(ReasonCode::ServerShuttingDown));
        }
        let resumed = entered.resumed.is_some();
        debug!(peer = self.address(), client, device = grant.device(), version = ?opening.version, resumed, "connected");
        let known = entered.resumed.as_ref().map_or(0, |resumed| resumed.filters.len());
        self.introduce(&outbox, opening, &grant, known);
        self.outbox = Some(outbox);
        Ok(Admitted { grant, resumed: entered.resumed, shares: self.node.hub.bus.is_none() })
    }

    /// How a client can prove itself, or why it cannot. One that is connected is not read from meanwhile.
    pub(super) async fn challenge(&self, first: &[u8]) -> Result<Exchange, ReasonCode> {
        let door = self.node.door.load_full();
        let asked = tokio::time::timeout(limits::ADMISSION_DEADLINE, door.challenge(first)).await;
        asked.unwrap_or(Err(ReasonCode::ServerUnavailable))
    }

    fn introduce(&mut self, outbox: &Outbox, opening: &Opening, grant: &Grant, filters: usize) {
        let user = grant.device().or(opening.user_name.as_deref());
        let Some(beginning) = self.beginning.take() else { return };
        let (address, version) = (beginning.peer.address, opening.version);
        let card = Arc::new(Card::new(address, user, version, opening.keep_alive, Instant::now()));
        card.subscribed(filters);
        outbox.introduce(self.attachment, Arc::clone(&card), beginning.writer);
        self.tally.know(card);
        self.tell(Event::Connected { client: &outbox.client_id });
    }

    fn tell(&self, event: Event<'_>) {
        self.node.sys.tell(&self.node, event);
    }

    /// `wire`: the packet that these effects come from, as it was sent.
    pub(super) fn carry_out(&mut self, effects: Effects<'_>, wire: Option<(&[u8], Version)>) {
        effects.each(|effect| self.carry_out_one(effect, wire));
    }

    fn carry_out_one(&mut self, effect: Effect<'_>, wire: Option<(&[u8], Version)>) {
        match effect {
            Effect::Route { publish, topic, receipt } => {
                if publish.topic.is_empty() {
                    // The topic of an alias.
                    self.route(&Publish { topic, ..*publish }, receipt, wire);
                } else {
                    self.route(publish, receipt, wire);
                }
            }
            Effect::Send(reply) => self.reply(&reply),
            Effect::Settle { kind, id, reason } => self.settle(kind, id, reason),
            Effect::Release(receipt) => self.release(receipt),
            Effect::Subscribe(subscribing) => self.subscribe(subscribing),
            Effect::Unsubscribe(unsubscribing) => self.unsubscribe(unsubscribing),
            Effect::Admit(opening) => {
                self.proving = false;
                self.work.opening = Some(opening);
            }
            Effect::Challenge(first) => {
                self.work.first = Some(first);
                self.proving = true;
            }
            Effect::Leave { keep_will, expiry, filters } => {
                self.leave(&Parting { filters: &filters, expiry, keep_will });
            }
            Effect::Close => self.closing = true,
        }
    }

    fn route(&mut self, publish: &Publish<'_>, receipt: Option<Receipt>, wire: Option<(&[u8], Version)>) {
        let Some(outbox) = &self.outbox else { return };
        Tally::publish(publish);
        let Some(id) = held(outbox, receipt) else { return self.pass_on(publish, receipt, wire) };
        let outbox = Arc::clone(outbox);
        if outbox.hold(self.attachment, id) {
            self.pass_on(publish, receipt, wire);
            outbox.has_taken();
        } else {
            // Another connection has taken over: its client sends it again there, and nothing here may come before it.
            self.superseded = true;
        }
    }

    fn pass_on(&mut self, publish: &Publish<'_>, receipt: Option<Receipt>, wire: Option<(&[u8], Version)>) {
        let Some(outbox) = &self.outbox else { return };
        let hub = &self.node.hub;
        let retained = self.retain(publish);
        let mut full = self.work.held().map(|work| std::mem::take(&mut work.full)).unwrap_or_default();
        let routed = hub::route(hub, publish, wire, outbox.id, &mut full);
        if !full.is_empty() {
            let (bytes, now) = (publish.topic.len() + publish.payload.len(), Instant::now());
            let work = &mut *self.work;
            if work.leeway.get_or_insert_with(|| Leeway::new(now)).covers(bytes, now) {
                full.retain(|outbox| outbox.is_brimming());
            }
            work.full = full;
        }
        if let Some(bus) = &hub.bus {
            let origin = self.origin(outbox, receipt.as_ref());
            let receipt = receipt.map(|receipt| (self.caller(outbox), receipt));
            let durable = receipt.is_some() || publish.retain;
            if !bus.send(publish, &routed, origin, receipt) {
                self.bus_full = Some(durable || self.bus_full == Some(true));
            }
            self.unflushed = true;
            return;
        }
        self.keep(publish, retained, routed.lasting, receipt);
    }

    /// Before anybody has it live: who subscribes at this moment gets nothing older after it. `None`: that is not decided
    /// yet; else whether there was room.
    fn retain(&self, publish: &Publish<'_>) -> Option<(Arc<Message>, bool)> {
        let hub = &self.node.hub;
        if !publish.retain || hub.bus.is_some() || hub.is_pressed() {
            return None;
        }
        let message = Message::new(publish).map(Arc::new)?;
        let has_room = hub.retain(Arc::clone(&message), SystemTime::now());
        Some((message, has_room))
    }

    /// Of a message for the store that all nodes share.
    fn origin(&self, outbox: &Arc<Outbox>, receipt: Option<&Receipt>) -> Origin {
        let Some(receipt) = receipt else { return Origin::default() };
        if outbox.session.is_none() {
            return Origin::default();
        }
        let hold = held(outbox, Some(*receipt));
        Origin { sender: Some(Arc::clone(outbox)), hold, owed: None }
    }

    /// What must outlive this moment: in queues of sessions, and retained.
    fn keep(
        &mut self,
        publish: &Publish<'_>,
        retained: Option<(Arc<Message>, bool)>,
        lasting: Lasting,
        receipt: Option<Receipt>,
    ) {
        let Some(outbox) = &self.outbox else { return };
        let held = held(outbox, receipt);
        let refuse = |work: &mut Busy<Work>, reason| {
            outbox.with_persistent(|persistent| held.is_some_and(|id| persistent.held.remove(&id)));
            answer(work, receipt, reason);
        };
        if lasting.is_empty() && !publish.retain && held.is_none() {
            return answer(&mut self.work, receipt, ReasonCode::Success);
        }
        let (message, has_room) = retained.unzip();
        let Some(message) = message.or_else(|| Message::new(publish).map(Arc::new)) else {
            return refuse(&mut self.work, ReasonCode::ImplementationSpecificError);
        };
        let hub = &self.node.hub;
        let now = SystemTime::now();
        if !lasting.is_empty() && has_room.is_none() && hub.is_pressed() {
            return refuse(&mut self.work, ReasonCode::QuotaExceeded);
        }
        if publish.retain && !has_room.unwrap_or_else(|| hub.retain(Arc::clone(&message), now)) {
            count(Count::Dropped(Cause::RetainedFull));
            return refuse(&mut self.work, ReasonCode::QuotaExceeded);
        }
        let hold = held.map(|id| (Arc::clone(outbox), id));
        let Some(journal) = &hub.journal else {
            let kept = Keepsake { message: &message, since: now, retained: false };
            lasting.enqueue(&kept, &self.node.limits.load());
            return answer(&mut self.work, receipt, ReasonCode::Success);
        };
        let mut receipt = receipt.map(|receipt| (self.caller(outbox), receipt));
        let mut room = true;
        if publish.retain {
            let last = lasting.is_empty() && hold.is_none();
            room &= journal.retained(publish.topic, if last { receipt.take() } else { None });
        }
        if !lasting.is_empty() || hold.is_some() {
            let (retained, answered) = (false, receipt.is_some());
            room &= journal.send(ToStore { message, since: now, lasting, retained, hold, answered }, receipt);
        }
        self.journal_full |= !room;
        self.unflushed = true;
    }

    fn caller(&self, outbox: &Arc<Outbox>) -> Caller {
        Caller { outbox: Arc::clone(outbox), attachment: self.attachment }
    }

    fn settle(&mut self, kind: AckKind, id: PacketId, reason: ReasonCode) {
        let Some(outbox) = &self.outbox else { return };
        let journal = self.node.hub.journal.as_ref();
        match (outbox.settle(kind, id, reason), journal) {
            (Settlement::Nothing, _) | (Settlement::Done(_), None) => {}
            (Settlement::Release(reason), _) => self.reply(&Reply::Ack { kind: AckKind::PubRel, id, reason }),
            (Settlement::ReleaseStored(_), None) => {
                self.reply(&Reply::Ack { kind: AckKind::PubRel, id, reason: ReasonCode::Success });
            }
            (Settlement::ReleaseStored(seq), Some(journal)) => {
                journal.received(self.caller(outbox), seq, Receipt { id, kind: AckKind::PubRel });
                self.unflushed = true;
            }
            (Settlement::Done(seq), Some(journal)) => {
                journal.done(outbox, seq);
                self.unflushed = true;
            }
        }
    }

    /// Messages of the session that turned out to need nothing more.
    pub(super) fn done(&mut self, done: &[Seq]) {
        if let (Some(journal), Some(outbox)) = (&self.node.hub.journal, &self.outbox)
            && !done.is_empty()
        {
            done.iter().for_each(|seq| journal.done(outbox, *seq));
            self.unflushed = true;
        }
    }

    /// Our own part of a client's QoS 2 message is over.
    fn release(&mut self, receipt: Receipt) {
        let Some(outbox) = &self.outbox else { return };
        let held = outbox.session.is_some()
            && outbox.with_persistent(|persistent| persistent.held.remove(&receipt.id)) == Some(true);
        match &self.node.hub.journal {
            Some(journal) if held => {
                journal.released(self.caller(outbox), receipt);
                self.unflushed = true;
            }
            _ => self.work.stored.push_back((receipt, ReasonCode::Success)),
        }
    }

    pub(super) fn next_stored(&mut self) -> Option<(Receipt, ReasonCode)> {
        self.work.held()?.stored.pop_front()
    }

    /// After each read: receivers are woken once, the flusher too.
    pub(super) fn publish_batch(&mut self) {
        hub::wake_receivers();
        if !std::mem::take(&mut self.unflushed) {
            return;
        }
        if let Some(bus) = &self.node.hub.bus {
            bus.flush();
        }
        if let Some(journal) = &self.node.hub.journal {
            journal.flush();
        }
    }

    pub(super) fn poll_lanes(&mut self, context: &Context<'_>) -> Poll<()> {
        if let (Some(journal), true) = (&self.node.hub.journal, self.journal_full) {
            std::task::ready!(journal.poll_room(context));
            self.journal_full = false;
        }
        if let (Some(bus), Some(durable)) = (&self.node.hub.bus, self.bus_full) {
            std::task::ready!(bus.poll_room(durable, context));
            self.bus_full = None;
        }
        Poll::Ready(())
    }

    /// All clients together have only so many subscriptions, and so have all sessions of a store that nodes share, wherever
    /// their clients are: new ones beyond that are refused.
    fn ration(&mut self, subscribing: &mut Subscribing) {
        let (most, hub) = (self.node.limits.load().subscriptions, &self.node.hub);
        let lasts = self.outbox.as_ref().is_some_and(|outbox| outbox.session.is_some());
        let shared = hub.bus.as_ref().filter(|_| lasts).map_or(0, |bus| bus.durable_subscriptions());
        let mut room = most.saturating_sub(hub.subscribed().max(shared));
        if room >= subscribing.wishes.len() {
            return;
        }
        let mut refused = HashSet::new();
        for wish in subscribing.wishes.iter_mut().filter(|wish| !wish.code.is_failure()) {
            if (wish.new && room == 0) || refused.contains(&wish.filter) {
                (wish.code, wish.new) = (ReasonCode::QuotaExceeded, false);
                refused.insert(wish.filter.clone());
            } else if wish.new {
                room -= 1;
            }
        }
        self.work.unsubscribed.extend(refused);
    }

    fn subscribe(&mut self, mut subscribing: Subscribing) {
        self.ration(&mut subscribing);
        let Some(outbox) = &self.outbox else { return };
        let granted = subscribing.wishes.iter().filter(|wish| !wish.code.is_failure());
        outbox.with_persistent(|persistent| {
            for wish in granted.clone() {
                persistent.filters.insert(wish.filter.clone(), (wish.options, wish.id));
            }
        });
        let wishes = granted.clone().map(|wish| (&*wish.filter, wish.options, wish.id));
        // The SUBACK comes first.
        outbox.hold_back();
        self.node.hub.subscribe(outbox, wishes);
        let (bus, journal) = (&self.node.hub.bus, &self.node.hub.journal);
        let journal = journal.as_ref().filter(|_| outbox.session.is_some());
        self.tokens = self.tokens.wrapping_add(1);
        if let Some(journal) = journal {
            granted.for_each(|wish| {
                journal.filter_changed(outbox, &wish.filter, Some((wish.options, wish.id)));
            });
        }
        match (bus, journal) {
            (Some(bus), _) => bus.when_known(self.caller(outbox), self.tokens),
            (None, Some(journal)) => journal.when_stored(self.caller(outbox), self.tokens),
            (None, None) => return self.subscribed(&subscribing, ReasonCode::Success),
        }
        self.unflushed = true;
        self.work.becoming_known.push_back((self.tokens, Asked::Subscribe(subscribing)));
    }

    pub(super) fn has_many_subscribes(&self) -> bool {
        self.work.becoming_known.len() >= limits::SUBSCRIBES_WAITING
    }

    /// The other nodes know, or could not be told.
    pub(super) fn on_known(&mut self, token: u32, reason: ReasonCode) {
        while self.work.becoming_known.front().is_some_and(|(waiting, _)| *waiting <= token) {
            let Some((_, asked)) = self.work.becoming_known.pop_front() else { return };
            match asked {
                Asked::Subscribe(subscribing) => {
                    if reason.is_failure() {
                        self.take_back(&subscribing);
                    }
                    self.subscribed(&subscribing, reason);
                }
                Asked::Unsubscribe(unsubscribing) => self.unsubscribed(&unsubscribing, reason),
            }
        }
    }

    /// What is refused after all is not kept either, unless it was asked for once more since.
    fn take_back(&mut self, subscribing: &Subscribing) {
        let Some(outbox) = &self.outbox else { return };
        let new = subscribing.wishes.iter().filter(|wish| wish.new && !wish.code.is_failure());
        let mut new: HashSet<&str> = new.map(|wish| &*wish.filter).collect();
        for (_, asked) in self.work.held().into_iter().flat_map(|work| &mut work.becoming_known) {
            let Asked::Subscribe(later) = asked else { continue };
            for wish in later.wishes.iter_mut().filter(|wish| !wish.code.is_failure()) {
                wish.new |= new.remove(&*wish.filter);
            }
        }
        outbox.with_persistent(|persistent| {
            for filter in &new {
                persistent.filters.remove(*filter);
            }
        });
        // The store that all nodes share may have taken it after all.
        let shared = self.node.hub.journal.as_ref().filter(|_| self.node.hub.bus.is_some());
        if let Some(journal) = shared.filter(|_| outbox.session.is_some()) {
            new.iter().for_each(|filter| journal.filter_changed(outbox, filter, None));
        }
        self.node.hub.unsubscribe(outbox, new.iter().copied());
        self.work.unsubscribed.extend(new.into_iter().map(Box::from));
    }

    fn subscribed(&mut self, subscribing: &Subscribing, reason: ReasonCode) {
        let code = |code: ReasonCode| if reason.is_failure() && !code.is_failure() { reason } else { code };
        let codes: Vec<_> = subscribing.wishes.iter().map(|wish| code(wish.code)).collect();
        let granted = || subscribing.wishes.iter().filter(|wish| !code(wish.code).is_failure());
        self.tally.subscribed(granted().count(), granted().filter(|wish| wish.new).count());
        if let Some(outbox) = &self.outbox {
            granted().for_each(|wish| {
                self.tell(Event::Subscribed { client: &outbox.client_id, filter: &wish.filter });
            });
        }
        let words = self.words_for_all(PacketType::SubAck, &codes);
        let ack = SubAck::new(subscribing.packet_id, &codes);
        self.acknowledge(words.as_deref(), |properties, version, out| {
            SubAck { properties, ..ack }.encode(version, out)
        });
        let (mut known, mut wanted) = (HashSet::new(), Vec::new());
        // Backwards: of a filter that is named twice, the last counts.
        for wish in subscribing.wishes.iter().rev().filter(|wish| !code(wish.code).is_failure()) {
            let wants = match wish.options.retain_handling {
                RetainHandling::Send => true,
                RetainHandling::SendIfNew => wish.new,
                RetainHandling::DoNotSend => false,
            };
            if wants && known.insert(&*wish.filter) {
                let ids = wish.id.into_iter().collect();
                let terms = Terms { qos: wish.options.qos, retain_as_published: true, ids };
                wanted.push(Wanted { filter: wish.filter.clone(), terms, after: None });
            }
        }
        // Who subscribes again before all has come begins anew.
        self.work.retained.retain(|waiting| !known.contains(&*waiting.filter));
        self.work.retained.extend(wanted.into_iter().rev());
    }

    /// Sends retained messages in slices, as fast as the client takes them. Tells whether there was something to do.
    pub(super) fn continue_retained(&mut self) -> bool {
        if self.work.retained.is_empty() || self.journal_full {
            return false;
        }
        let Some(outbox) = self.outbox.as_ref().filter(|outbox| outbox.has_room()).cloned() else {
            return false;
        };
        let Some(mut wanted) = self.work.retained.pop_front() else { return false };
        let (now, node) = (SystemTime::now(), Arc::clone(&self.node));
        // Until all are on their way: what is retained meanwhile comes live after them.
        let retained = node.hub.retained.read();
        let (found, last) = retained.slice(&wanted.filter, wanted.after.as_deref(), RETAINED_SLICE);
        let (mut sent, mut bytes) = (0, 0);
        for kept in &found {
            // A slice of large messages is more than there is room for: what has none waits.
            if sent > 0 && (bytes > limits::RETAINED_SLICE_BYTES || !outbox.has_room()) {
                break;
            }
            sent += 1;
            let Some(waited) = kept.waited(now) else { continue };
            bytes += kept.message.bytes().len();
            let publish = kept.message.publish();
            if outbox.session.is_some() && publish.qos.min(wanted.terms.qos) != Qos::AtMostOnce {
                self.queue_retained(kept, &wanted.terms);
            } else {
                outbox.deliver(&Parcel::retained(&publish, waited), &wanted.terms);
            }
        }
        drop(retained);
        let stopped = found.get(sent).and(found.get(sent.wrapping_sub(1)));
        wanted.after = stopped.map(|kept| kept.message.publish().topic.into()).or(last);
        if wanted.after.is_some() {
            self.work.retained.push_front(wanted);
        } else if self.work.retained.is_empty() {
            // An idle client does not keep the room.
            self.work.retained = VecDeque::new();
        }
        true
    }

    /// To a persistent session, through its queue: sent and not acknowledged is part of its state.
    fn queue_retained(&mut self, kept: &hub::Kept, terms: &Terms) {
        let Some(outbox) = &self.outbox else { return };
        let (lasting, message) = (Lasting::one(outbox, terms.clone()), Arc::clone(&kept.message));
        match &self.node.hub.journal {
            Some(journal) => {
                let since = kept.since;
                let (retained, hold, answered) = (true, None, false);
                let to_store = ToStore { message, since, lasting, retained, hold, answered };
                self.journal_full |= !journal.send(to_store, None);
                self.unflushed = true;
            }
            None => {
                let kept = Keepsake { message: &message, since: kept.since, retained: true };
                lasting.enqueue(&kept, &self.node.limits.load());
            }
        }
    }

    fn unsubscribe(&mut self, unsubscribing: Unsubscribing) {
        let Some(outbox) = &self.outbox else { return };
        self.node.hub.unsubscribe(outbox, unsubscribing.filters.iter().map(|filter| &**filter));
        if !self.work.retained.is_empty() {
            let gone: HashSet<_> = unsubscribing.filters.iter().collect();
            self.work.retained.retain(|waiting| !gone.contains(&waiting.filter));
        }
        outbox.with_persistent(|persistent| {
            for filter in &unsubscribing.filters {
                persistent.filters.remove(filter);
            }
        });
        self.unflushed = true;
        self.tally.unsubscribed(unsubscribing.filters.len());
        for filter in &unsubscribing.filters {
            self.tell(Event::Unsubscribed { client: &outbox.client_id, filter });
        }
        let (bus, journal) = (&self.node.hub.bus, &self.node.hub.journal);
        let is_stored = outbox.session.is_some() && !unsubscribing.filters.is_empty();
        let Some(journal) = journal.as_ref().filter(|_| is_stored) else {
            return self.unsubscribed(&unsubscribing, ReasonCode::Success);
        };
        unsubscribing.filters.iter().for_each(|filter| journal.filter_changed(outbox, filter, None));
        self.tokens = self.tokens.wrapping_add(1);
        match bus {
            Some(bus) => bus.when_known(self.caller(outbox), self.tokens),
            None => journal.when_stored(self.caller(outbox), self.tokens),
        }
        self.work.becoming_known.push_back((self.tokens, Asked::Unsubscribe(unsubscribing)));
    }

    fn unsubscribed(&mut self, unsubscribing: &Unsubscribing, reason: ReasonCode) {
        let Unsubscribing { packet_id, codes, .. } = unsubscribing;
        // An UNSUBACK of v3 cannot say that it is not stored.
        if reason.is_failure() && self.version != Version::V5 {
            let outbox = self.outbox.iter();
            return outbox.for_each(|outbox| outbox.notify_one(self.attachment, hub::Event::Leave(reason)));
        }
        let code = |code: &ReasonCode| if reason.is_failure() { ReasonCode::UnspecifiedError } else { *code };
        let codes: Vec<_> = codes.iter().map(code).collect();
        let words = self.words_for_all(PacketType::UnsubAck, &codes);
        let ack = UnsubAck::new(*packet_id, &codes);
        self.acknowledge(words.as_deref(), |properties, version, out| {
            UnsubAck { properties, ..ack }.encode(version, out)
        });
    }

    fn leave(&mut self, parting: &Parting<'_>) {
        let Some(outbox) = &self.outbox else { return };
        let hub = &self.node.hub;
        if hub.bus.is_some() {
            if let (Some(journal), Some(ending)) =
                (&hub.journal, hub.see_off(outbox, self.attachment, parting))
            {
                debug!(client = &*outbox.client_id, "left");
                journal.part(outbox, ending);
                self.unflushed = true;
            }
            return;
        }
        let will = hub.part(outbox, self.attachment, parting);
        debug!(client = &*outbox.client_id, will = will.is_some(), "left");
        self.node.publish_will(outbox, will);
        self.unflushed = true;
    }

    /// The end of the connection's part in the hub.
    pub(super) fn depart(mut self) {
        self.publish_batch();
        let Some(outbox) = self.outbox.take() else { return };
        self.node.hub.leave(&outbox);
        self.tell(Event::Disconnected { client: &outbox.client_id });
    }

    fn words_for_all(&self, kind: PacketType, reasons: &[ReasonCode]) -> Option<String> {
        self.wants_words.then(|| explanation::words_for_all(kind, reasons)).flatten()
    }

    /// An answer that only says how something went, and, if it went wrong, why.
    fn acknowledge(
        &mut self,
        words: Option<&str>,
        encode: impl Fn(ReasonProperties<'_>, Version, &mut Vec<u8>) -> Result<(), EncodeError>,
    ) {
        let (version, most) = (self.version, self.packet_bytes);
        encoded(explanation::write(&mut self.work.replies, most, &[words, None], |reason_string, out| {
            encode(ReasonProperties { reason_string, ..ReasonProperties::default() }, version, out)
        }));
    }

    /// Where to go is worth more than why.
    fn say_goodbye(&mut self, reason: ReasonCode) {
        let redirect = self.node.redirect(reason);
        let place = redirect.as_ref().map(|place| place.as_str());
        let words = explanation::words(PacketType::Disconnect, reason);
        let forms = [(place, words), (place, None), (None, None)];
        let (version, most) = (self.version, self.packet_bytes);
        encoded(explanation::write(&mut self.work.last_word, most, &forms, |(place, words), out| {
            let mut disconnect = Disconnect::new(reason);
            disconnect.properties.server_reference = place;
            disconnect.properties.reason_string = words;
            disconnect.encode(version, out)
        }));
    }

    fn reply(&mut self, reply: &Reply) {
        if self.work.replies.capacity() == 0 {
            self.work.replies = hub::take_buffer();
        }
        self.tally.replied(reply, self.version);
        if self.proving
            && let Reply::Refused { reason, .. } = reply
        {
            info!(peer = self.address(), reason = reason.text(), "authentication refused");
        }
        let (version, out) = (self.version, &mut self.work.replies);
        match reply {
            Reply::Ack { kind, id, reason } => {
                let words = explanation::words(kind.packet_type(), *reason).filter(|_| self.wants_words);
                let ack = Ack::with_reason(*id, *reason);
                self.acknowledge(words, |properties, version, out| {
                    Ack { properties, ..ack }.encode(*kind, version, out)
                });
            }
            Reply::PingResp => encoded(nsd_wire::Packet::PingResp.encode(version, out)),
            Reply::Disconnect(reason) => self.say_goodbye(*reason),
            Reply::Refused { version, reason } => {
                let words = explanation::words(PacketType::ConnAck, *reason).filter(|_| version.is_v5());
                encoded(explanation::write(out, self.packet_bytes, &[words, None], |words, out| {
                    let mut ack = ConnAck::new(false, *reason);
                    ack.properties.reason_string = words;
                    ack.encode(*version, out)
                }));
            }
            Reply::UnsupportedVersion { level } => {
                out.extend_from_slice(connack::unsupported_version(*level));
            }
            Reply::Auth { reason, data } => {
                let mut auth = Auth { reason: *reason, ..Auth::default() };
                auth.properties.authentication = Some(by_scram(data));
                encoded(auth.encode(version, out));
            }
            Reply::Accepted {
                assigned_id,
                session_present,
                expiry,
                keep_alive,
                shares,
                limits,
                authentication,
            } => {
                let mut ack = ConnAck::new(*session_present, ReasonCode::Success);
                if version.is_v5() {
                    let properties = &mut ack.properties;
                    properties.assigned_client_id = assigned_id.as_deref();
                    properties.authentication = authentication.as_deref().map(by_scram);
                    properties.session_expiry = *expiry;
                    properties.server_keep_alive = *keep_alive;
                    properties.receive_maximum = NonZeroU16::new(limits.receive_maximum);
                    properties.maximum_packet_size =
                        u32::try_from(limits.packet_bytes).ok().and_then(NonZeroU32::new);
                    properties.topic_alias_maximum = Some(limits.topic_aliases);
                    properties.retain_available = (!limits.retains()).then_some(false);
                    properties.shared_subscription_available = (!shares).then_some(false);
                    properties.maximum_qos = Some(Qos::ExactlyOnce);
                }
                encoded(ack.encode(version, out));
            }
        }
    }
}

/// The identifier of a message that a persistent session must not take for another one.
fn held(outbox: &Outbox, receipt: Option<Receipt>) -> Option<PacketId> {
    receipt
        .filter(|receipt| receipt.kind == AckKind::PubRec && outbox.session.is_some())
        .map(|receipt| receipt.id)
}

fn answer(work: &mut Busy<Work>, receipt: Option<Receipt>, reason: ReasonCode) {
    if let Some(receipt) = receipt {
        work.stored.push_back((receipt, reason));
    }
}

/// Also where a panic ended it before it could depart: its client is as gone as if the network had failed. After a stop
/// nobody asks.
impl Drop for Hands {
    fn drop(&mut self) {
        let Some(outbox) = self.outbox.clone() else { return };
        outbox.hang_up(self.attachment);
        outbox.has_taken();
        if !self.node.is_open() {
            return;
        }
        if outbox.session.is_none() || outbox.is_attached() {
            let mut filters = Vec::new();
            if outbox.session.is_none() {
                let all = self.node.hub.filters_of(&outbox).into_iter();
                filters.extend(all.map(|(filter, _)| filter.into_boxed_str()));
            }
            self.leave(&Parting { filters: &filters, expiry: None, keep_will: true });
            self.publish_batch();
        }
        self.node.hub.leave(&outbox);
        self.tell(Event::Disconnected { client: &outbox.client_id });
    }
}

fn by_scram(data: &str) -> Authentication<'_> {
    Authentication { method: scram::METHOD, data: Some(data.as_bytes()) }
}

/// Our own packets are within every limit of the format; a failure would be ours, so it is told, not hidden.
fn encoded(result: Result<(), EncodeError>) {
    if let Err(error) = result {
        tracing::error!(%error, "a packet of ours cannot be written");
    }
}
