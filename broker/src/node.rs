//! One broker as a whole: what every connection of it shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use foldhash::{HashMap, HashMapExt};
use nsd_wire::ReasonCode;
use parking_lot::{Mutex, RwLock};
use tracing::warn;

use crate::access::DeviceRecord;
use crate::access::Grant;
use crate::bus::{Bus, Origin};
use crate::door::Door;
use crate::hub::{self, Capacity, Entered, Hub, Keepsake, Newcomer, Outbox, Parting};
use crate::journal::{Journal, ToStore};
use crate::limits::{self, Limits};
use crate::message::{Message, Will};
use crate::session::Opening;
use crate::settings::Settings;
use crate::store::change::Stored;
use crate::store::{Claim, Claimed, Store, StoreError};
use crate::telemetry::{Connections, Sys};

/// How long a kick is remembered at least, unless there are too many: longer than an admission takes.
const KICK_MEMORY: Duration = Duration::from_secs(15);
/// How many young ones are remembered; at the limit they become the old ones, and those before them are forgotten.
const KICKS: usize = 50_000;

#[derive(Debug)]
pub struct Node {
    pub name: String,
    pub hub: Arc<Hub>,
    pub store: Arc<Store>,
    /// Another one after the settings have changed.
    pub door: ArcSwap<Door>,
    /// Of all queues, and of what all clients share; what one client may do, its listener says.
    pub limits: Arc<ArcSwap<Limits>>,
    pub started: Instant,
    pub sys: Sys,
    /// The listeners that are open now, and who came in through them.
    pub listeners: RwLock<Vec<Arc<Connections>>>,
    /// Where clients are sent that are sent away.
    redirect: ArcSwapOption<String>,
    /// Client ids that were claimed elsewhere lately, with the epoch of the claim: a kick may overtake the answer to
    /// the claim it revokes.
    kicks: Mutex<Kicks>,
    /// The inbox is subscribed.
    hears: AtomicBool,
    /// Clients may come: everything they need stands.
    ready: AtomicBool,
    /// The process is about to end.
    ends: AtomicBool,
}

/// A claim that may leave a will to this node, also where its answer is lost or comes too late for who waits for it.
struct Owing<'b>(Option<&'b Bus>);

impl Drop for Owing<'_> {
    fn drop(&mut self) {
        if let Some(bus) = self.0 {
            bus.collect();
        }
    }
}

/// A client that waits for the store. If it is refused after all, or nobody waits with it any more, it was never connected;
/// a session that was there before goes on without it.
struct Entering<'n> {
    node: &'n Node,
    outbox: Arc<Outbox>,
    attachment: u64,
    /// Another session expiry than it asked for.
    expiry: Option<u32>,
    is_in: bool,
}

impl<'n> Entering<'n> {
    fn new(node: &'n Node, entered: &Entered) -> Self {
        let (outbox, attachment) = (Arc::clone(&entered.outbox), entered.attachment);
        let expiry = entered.resumed.is_none().then_some(0);
        Self { node, outbox, attachment, expiry, is_in: false }
    }
}

impl Drop for Entering<'_> {
    fn drop(&mut self) {
        if self.is_in {
            return;
        }
        let parting = Parting { filters: &[], expiry: self.expiry, keep_will: false };
        self.node.hub.part(&self.outbox, self.attachment, &parting);
        self.node.hub.leave(&self.outbox);
        self.node.publish_will(&self.outbox, None);
    }
}

/// Two generations, so that forgetting costs nothing.
#[derive(Debug)]
struct Kicks {
    young: HashMap<Box<str>, u64>,
    old: HashMap<Box<str>, u64>,
    since: Instant,
}

impl Kicks {
    fn remember(&mut self, client_id: &str, epoch: u64, now: Instant) {
        if self.young.len() >= KICKS || now.duration_since(self.since) >= KICK_MEMORY {
            self.old = std::mem::take(&mut self.young);
            self.since = now;
        }
        self.young.insert(client_id.into(), epoch);
    }

    fn newest(&self, client_id: &str) -> Option<u64> {
        self.young.get(client_id).or_else(|| self.old.get(client_id)).copied()
    }
}

impl Node {
    pub fn new(
        settings: &Settings,
        store: Store,
        bus: Option<Arc<Bus>>,
        journal: Option<Arc<Journal>>,
    ) -> Self {
        let store = Arc::new(store);
        let limits = Arc::new(ArcSwap::new(Arc::clone(&settings.limits)));
        Self {
            name: settings.node.clone(),
            hub: Arc::new(Hub::new(bus, journal, Arc::clone(&limits))),
            limits,
            door: ArcSwap::from_pointee(Door::new(settings.access.clone(), Arc::clone(&store))),
            redirect: ArcSwapOption::empty(),
            store,
            started: Instant::now(),
            sys: Sys::new(settings.telemetry.sys_interval, settings.telemetry.sys_events),
            listeners: RwLock::default(),
            kicks: Mutex::new(Kicks { young: HashMap::new(), old: HashMap::new(), since: Instant::now() }),
            hears: AtomicBool::new(true),
            ready: AtomicBool::new(false),
            ends: AtomicBool::new(false),
        }
    }

    pub fn hear(&self, hears: bool) {
        self.hears.store(hears, Ordering::Release);
    }

    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// From now on nobody becomes a client.
    pub fn begin_end(&self) {
        self.set_ready(false);
        self.ends.store(true, Ordering::Release);
    }

    pub fn ends(&self) -> bool {
        self.ends.load(Ordering::Acquire)
    }

    /// Clients should come here: nothing ends soon, and what must be kept is.
    pub fn is_ready(&self) -> bool {
        self.is_open() && self.broken().is_none()
    }

    /// Clients are let in.
    pub fn is_open(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    fn broken(&self) -> Option<&str> {
        self.hub.journal.as_ref().and_then(|journal| journal.broken())
    }

    /// Something is missing, but clients are served: taking all nodes out at once would serve nobody.
    pub fn is_degraded(&self) -> bool {
        !self.complaints().is_empty()
    }

    /// What is missing, in words.
    pub fn complaints(&self) -> Vec<String> {
        let stores = self.hub.journal.as_ref().is_none_or(|journal| journal.is_working());
        if let Some(what) = self.broken() {
            return vec![format!("the store is broken until the broker is started again: {what}")];
        }
        let all = [
            (stores, "the store cannot be written: what must be kept is refused"),
            (self.store.is_there(), "the store does not answer"),
            (self.hears.load(Ordering::Acquire), "other nodes are not heard"),
        ];
        all.into_iter().filter(|(fine, _)| !fine).map(|(_, what)| what.to_owned()).collect()
    }

    pub fn set_redirect(&self, place: Option<&str>) {
        self.redirect.store(place.map(|place| Arc::new(place.to_owned())));
    }

    /// The server that a client should use instead, if it is told to.
    pub fn redirect(&self, reason: ReasonCode) -> Option<Arc<String>> {
        let redirects = matches!(reason, ReasonCode::UseAnotherServer | ReasonCode::ServerMoved);
        self.redirect.load_full().filter(|_| redirects)
    }

    /// Another node owns this client id from this epoch on.
    pub fn taken_over(&self, client_id: &str, epoch: u64, now: Instant) {
        self.kicks.lock().remember(client_id, epoch, now);
        self.hub.taken_over(client_id, epoch);
    }

    pub fn was_taken_over(&self, client_id: &str, epoch: u64) -> bool {
        self.kicks.lock().newest(client_id).is_some_and(|claimed| claimed > epoch)
    }

    /// The store takes what it is given, or does not. Tells whether it did before.
    pub fn stores(&self, works: bool) -> bool {
        self.hub.journal.as_ref().is_none_or(|journal| journal.set_working(works))
    }

    /// Makes this node the owner of a client id that was granted. A session that its client must not hear any more is ended.
    pub async fn claim(&self, opening: &Opening, grant: &Grant) -> Result<Claimed, ReasonCode> {
        self.has_room_for(opening)?;
        // What the connection before has said is void once it is taken over: that is stored first.
        let (hub, id) = (&self.hub, &*opening.client_id);
        let is_here = hub.is_leaving(id) || (hub.bus.is_some() && hub.knows(id));
        if let Some(journal) = hub.journal.as_ref().filter(|_| is_here) {
            if !self.store.is_there() {
                return Err(ReasonCode::ServerUnavailable);
            }
            journal.stored().await;
        }
        let claim = Claim {
            client_id: &opening.client_id,
            will: opening.will.as_ref(),
            expiry: opening.expiry,
            clean_start: opening.clean_start,
            instead_of: None,
        };
        let away = |error: StoreError| {
            warn!(client = &*opening.client_id, %error, "cannot claim a client id");
            ReasonCode::ServerUnavailable
        };
        let mut owing = Owing(self.hub.bus.as_deref());
        let mut claimed = self.store.claim(&claim).await.map_err(away)?;
        let mut owes = claimed.owes;
        let is_fit = claimed.stored.as_ref().is_none_or(|stored| hub::is_fit(stored, grant));
        if !is_fit {
            let anew = Claim { clean_start: true, instead_of: Some(claimed.epoch), ..claim };
            claimed = self.store.claim(&anew).await.map_err(away)?;
            owes |= claimed.owes;
        }
        if !owes {
            owing.0 = None;
        }
        Ok(claimed)
    }

    fn has_room_for(&self, opening: &Opening) -> Result<(), ReasonCode> {
        // Who comes back to a session takes what waits there, and is welcome.
        if self.hub.knows(&opening.client_id) {
            return Ok(());
        }
        let keeps = opening.expiry > 0;
        if self.hub.is_pressed() || (keeps && self.hub.sessions() >= self.limits.load().sessions) {
            return Err(ReasonCode::QuotaExceeded);
        }
        Ok(())
    }

    /// The client is let in; what it must be able to rely on is stored.
    pub async fn enter(
        &self,
        opening: &Opening,
        grant: &Grant,
        claimed: Claimed,
    ) -> Result<Entered, ReasonCode> {
        let capacity = Capacity {
            version: opening.version,
            window: opening.receive_maximum,
            packet_bytes: opening.maximum_packet_size,
            topic_aliases: opening.topic_aliases,
        };
        let newcomer = Newcomer {
            client_id: &opening.client_id,
            capacity,
            clean_start: opening.clean_start,
            expiry: opening.expiry,
            epoch: claimed.epoch,
            will: opening.will.clone(),
            grant,
        };
        if let Some(bus) = &self.hub.bus {
            let entered = self.hub.welcome(newcomer, claimed.session, claimed.stored);
            let entered = entered.ok_or(ReasonCode::ServerBusy)?;
            // What came to its queue between the reading and now was told to nobody.
            bus.look_at(&entered.outbox);
            return Ok(entered);
        }
        let mut entered = self.hub.enter(newcomer).ok_or(ReasonCode::ServerBusy)?;
        if let Some(will) = entered.will.take() {
            self.publish(&will.message);
        }
        let mut entering = Entering::new(self, &entered);
        // What the connection before was passing on goes before what this one says.
        while entered.outbox.is_taking() {
            tokio::time::sleep(limits::TAKING).await;
        }
        let Some(journal) = &self.hub.journal else {
            entering.is_in = true;
            return Ok(entered);
        };
        // A will is stored before the client may count on it, and what was before is forgotten: its will, its session.
        if opening.will.is_some() || entered.resumed.is_some() || entered.ended {
            journal.will_changed(&opening.client_id);
        } else if entered.outbox.session.is_none() {
            entering.is_in = true;
            return Ok(entered);
        }
        match journal.stored().await {
            ReasonCode::Success => {}
            // On a full disk: it takes what waits, which makes room. What it says anew, its will above all, is owed.
            ReasonCode::QuotaExceeded if entered.resumed.is_some() => {}
            // Only of a full disk it is said what it is: that may pass here. A broken store does not.
            ReasonCode::QuotaExceeded => return Err(ReasonCode::QuotaExceeded),
            _ => return Err(ReasonCode::ServerUnavailable),
        }
        entering.is_in = true;
        if let Some(resumed) = &mut entered.resumed {
            // Of a message that was on its way to the store it is known only now whether it is there.
            let held = entered.outbox.with_persistent(|persistent| persistent.held.iter().copied().collect());
            resumed.held = held.unwrap_or_default();
        }
        Ok(entered)
    }

    /// A will that is due, if there is one; in any case it is not to be kept any longer.
    pub fn publish_will(&self, outbox: &Arc<Outbox>, will: Option<Will>) {
        if let Some(will) = &will {
            self.publish(&will.message);
        }
        if let Some(journal) = &self.hub.journal {
            journal.will_changed(&outbox.client_id);
            journal.flush();
        }
    }

    /// What the store holds is there again. Wills come back that no session will be there for: they are due.
    pub fn restore(&self, stored: Stored) -> Vec<(Box<str>, Will)> {
        let now = SystemTime::now();
        self.hub.next_session.store(stored.next_session, Ordering::Relaxed);
        for (id, secret, disabled) in stored.devices {
            self.store.restore_device(&id, DeviceRecord { secret: secret.into(), disabled });
        }
        let mut retained = self.hub.retained.write();
        for (message, since) in stored.retained {
            retained.set(message, since);
        }
        drop(retained);
        let mut wills: HashMap<_, _> = stored.wills.into_iter().collect();
        for session in stored.sessions {
            let will = wills.remove(&session.client_id);
            self.hub.restore(session, will, now);
        }
        if let Some(journal) = &self.hub.journal {
            journal.flush();
        }
        wills.into_iter().collect()
    }

    /// Adds, changes or removes a device of this node's own store; `Err`: it could not be stored, and nothing has changed.
    pub async fn set_device(&self, id: &str, record: Option<DeviceRecord>) -> Result<(), ReasonCode> {
        let Store::Memory(store) = &*self.store else { return Err(ReasonCode::ImplementationSpecificError) };
        let put = |record: Option<DeviceRecord>| match record {
            Some(record) => store.add_device(id, record),
            None => store.remove_device(id),
        };
        let before = store.device(id);
        put(record);
        let Some(journal) = &self.hub.journal else { return Ok(()) };
        journal.device_changed(id);
        match journal.stored().await {
            ReasonCode::Success => Ok(()),
            reason => {
                put(before);
                Err(reason)
            }
        }
    }

    /// The will of a client that was connected when the process before this one ended, and left no session.
    pub fn publish_orphan(&self, client_id: &str, will: &Will) {
        self.publish(&will.message);
        if let Some(journal) = &self.hub.journal {
            journal.will_changed(client_id);
            journal.flush();
        }
    }

    /// Ends sessions and publishes wills whose time has come, for ever.
    pub async fn look_after_the_absent(self: Arc<Self>) {
        loop {
            if let Some((outbox, will)) = self.hub.next_due().await {
                self.publish_will(&outbox, Some(will));
            }
        }
    }

    /// Keeps what clients hold within its limit, for ever.
    pub async fn look_after_the_memory(self: Arc<Self>) {
        loop {
            tokio::time::sleep(limits::MEMORY_PACE).await;
            self.hub.relieve(self.limits.load().memory);
        }
    }

    /// Removes retained messages that have expired, for ever. In a cluster they are the store's.
    pub async fn look_after_the_expired(self: Arc<Self>) {
        let mut after = None;
        while self.hub.bus.is_none() {
            tokio::time::sleep(limits::EXPIRED_PACE).await;
            after = self.hub.clear_expired(after.as_deref());
        }
    }

    /// Publishes a will that the shared store has given this node to publish, under this name.
    pub fn publish_owed(&self, message: &Message, name: Box<str>) {
        self.publish_from(message, Origin { owed: Some(name), ..Origin::default() });
    }

    /// Publishes on behalf of nobody who is connected: a will. There is no publisher to slow down.
    pub fn publish(&self, message: &Message) {
        self.publish_from(message, Origin::default());
    }

    fn publish_from(&self, message: &Message, origin: Origin) {
        let publish = message.publish();
        let (message, now) = (Arc::new(message.clone()), SystemTime::now());
        // Whoever has seen it finds nothing older retained.
        let retained = self.hub.bus.is_none() && publish.retain && self.hub.retain(Arc::clone(&message), now);
        let routed = hub::route(&self.hub, &publish, None, 0, &mut Vec::new());
        hub::wake_receivers();
        if let Some(bus) = &self.hub.bus {
            bus.send(&publish, &routed, origin, None);
            return bus.flush();
        }
        let Some(journal) = &self.hub.journal else {
            let kept = Keepsake { message: &message, since: now, retained: false };
            return routed.lasting.enqueue(&kept, &self.limits.load());
        };
        if retained {
            journal.owe_retained(publish.topic);
        }
        if !routed.lasting.is_empty() {
            let lasting = routed.lasting;
            let (retained, hold, answered) = (false, None, false);
            journal.send(ToStore { message, since: now, lasting, retained, hold, answered }, None);
        }
        journal.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kicks_are_remembered_for_a_while_and_bounded() {
        let now = Instant::now();
        let mut kicks = Kicks { young: HashMap::new(), old: HashMap::new(), since: now };
        kicks.remember("first", 1, now);
        kicks.remember("first", 2, now);
        assert_eq!(kicks.newest("first"), Some(2));
        kicks.remember("later", 3, now + KICK_MEMORY);
        assert_eq!((kicks.newest("first"), kicks.newest("later")), (Some(2), Some(3)));
        for number in 0..3 * KICKS {
            kicks.remember(&number.to_string(), 4, now + KICK_MEMORY);
        }
        assert!(kicks.young.len() <= KICKS && kicks.old.len() <= KICKS);
        assert_eq!((kicks.newest("first"), kicks.newest(&(3 * KICKS - 1).to_string())), (None, Some(4)));
    }
}
