//! What happens to clients while the store is at work on something of theirs.

use std::pin::pin;
use std::sync::mpsc;
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Duration;

use nsd_wire::{Publish, Qos};

use super::*;
use crate::access::{Grant, Policy, TopicRule};
use crate::hub::{self, Entered};
use crate::node::Node;
use crate::session::Opening;
use crate::store::change::Change;
use crate::store::{CommitError, Keep, MemoryStore, Store};

const SOON: Duration = Duration::from_secs(30);

/// A store that does nothing until it is told how it went.
struct Told {
    batches: mpsc::Sender<Vec<Change>>,
    verdicts: mpsc::Receiver<Result<(), CommitError>>,
}

impl Keep for Told {
    fn commit(&mut self, changes: &[Change]) -> Result<(), CommitError> {
        // At the end of a test nobody asks.
        let _ = self.batches.send(changes.to_vec());
        self.verdicts.recv().unwrap_or(Ok(()))
    }

    fn close(self: Box<Self>) -> Result<(), CommitError> {
        Ok(())
    }
}

struct Stand {
    node: Arc<Node>,
    journal: Arc<Journal>,
    batches: mpsc::Receiver<Vec<Change>>,
    verdicts: Option<mpsc::Sender<Result<(), CommitError>>>,
    writer: Option<JoinHandle<()>>,
}

impl Stand {
    fn new() -> Self {
        let text = "[store]\nkind = \"memory\"\n[[listen]]\naddress = \"127.0.0.1:1\"\n";
        let settings = crate::settings::parse(text).unwrap();
        let journal = Arc::new(Journal::new(2));
        let store = Store::Memory(MemoryStore::default());
        let node = Arc::new(Node::new(&settings, store, None, Some(Arc::clone(&journal))));
        let ((tell, batches), (verdicts, told)) = (mpsc::channel(), mpsc::channel());
        let writer =
            Writer::new(Arc::clone(&journal), &node, Box::new(Told { batches: tell, verdicts: told }));
        let writer = Some(std::thread::spawn(move || writer.run()));
        Self { node, journal, batches, verdicts: Some(verdicts), writer }
    }

    fn verdict(&self, verdict: Result<(), CommitError>) {
        self.verdicts.as_ref().unwrap().send(verdict).unwrap();
    }

    /// The next batch is stored.
    fn store(&self) -> Vec<Change> {
        let batch = self.batches.recv_timeout(SOON).expect("a batch");
        self.verdict(Ok(()));
        batch
    }

    /// A client that asks for its session to be kept, while all is stored.
    async fn enter(&self, id: &str) -> Entered {
        let opening = Opening::of(id, 600);
        let claimed = self.node.claim(&opening, &grant()).await.unwrap();
        self.verdict(Ok(()));
        let entered = self.node.enter(&opening, &grant(), claimed).await.unwrap();
        self.batches.recv_timeout(SOON).unwrap();
        entered
    }

    /// A message at QoS 1 for all who want it, on its way to the store.
    fn publish(&self, topic: &str) {
        let publish =
            Publish { qos: Qos::AtLeastOnce, packet_id: Some(PacketId::MIN), ..Publish::new(topic, b"x") };
        let lasting = hub::route(&self.node.hub, &publish, None, 0, &mut Vec::new()).lasting;
        let message = Arc::new(Message::new(&publish).unwrap());
        let (since, retained, hold, answered) = (SystemTime::now(), false, None, false);
        self.journal.send(ToStore { message, since, lasting, retained, hold, answered }, None);
        self.journal.flush();
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.verdicts = None;
        self.journal.finish();
        let ended = self.writer.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

fn grant() -> Grant {
    Policy { allow_anonymous: true, devices: false, topic_rule: TopicRule::Open }.grant(None)
}

fn queued(outbox: &Outbox) -> usize {
    outbox.with_persistent(|persistent| persistent.queue.len()).unwrap_or_default()
}

/// As when its admission takes too long: nobody will ever be there for it.
#[tokio::test]
async fn who_does_not_wait_for_the_store_any_more_is_not_connected() {
    let stand = Stand::new();
    let hub = &stand.node.hub;
    let there = || (hub.connected(), hub.sessions(), hub.clients().len());
    let give_up = async |id: &str| {
        let opening = Opening::of(id, 600);
        let claimed = stand.node.claim(&opening, &grant()).await.unwrap();
        let grant = grant();
        let mut entering = pin!(stand.node.enter(&opening, &grant, claimed));
        assert!(entering.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        stand.batches.recv_timeout(SOON).unwrap();
    };
    give_up("new").await;
    assert_eq!(there(), (0, 0, 0), "a session that was never begun");
    stand.verdict(Ok(()));
    stand.store();
    let entered = stand.enter("known").await;
    assert_eq!(there(), (1, 1, 1));
    // It comes again, while its connection is still there.
    give_up("known").await;
    assert_eq!(there(), (0, 1, 0), "its session waits for it");
    assert!(!entered.outbox.is_attached());
}

/// [MQTT5-4.8.2]
#[tokio::test]
async fn what_a_member_was_to_have_whose_session_ends_meanwhile_is_another_ones() {
    let stand = Stand::new();
    let hub = &stand.node.hub;
    let mut members = Vec::new();
    for id in ["a", "b"] {
        let outbox = stand.enter(id).await.outbox;
        hub.subscribe(&outbox, [("$share/g/t", Qos::AtLeastOnce.into(), None)]);
        members.push(outbox);
    }
    stand.publish("t");
    let batch = stand.batches.recv_timeout(SOON).unwrap();
    let [Change::Enqueue { session, .. }] = batch[..] else { panic!("{batch:?}") };
    let (first, second) = members.iter().partition::<Vec<_>, _>(|member| member.session == Some(session));
    hub.end_session(&first[0].client_id);
    stand.verdict(Ok(()));
    // Its end, and the message again.
    let is_enqueued = |change: &Change| matches!(change, Change::Enqueue { .. });
    while !stand.store().iter().any(is_enqueued) {}
    drop(stand);
    assert_eq!(queued(second[0]), 1);
}

/// Else the message that its client sends again would be taken for one that is there.
#[tokio::test]
async fn an_identifier_whose_message_was_refused_meanwhile_is_not_held() {
    let stand = Stand::new();
    let outbox = stand.enter("c").await.outbox;
    let publish =
        Publish { qos: Qos::ExactlyOnce, packet_id: Some(PacketId::MIN), ..Publish::new("t", b"x") };
    outbox.with_persistent(|persistent| persistent.held.insert(PacketId::MIN));
    let (message, hold) =
        (Arc::new(Message::new(&publish).unwrap()), Some((Arc::clone(&outbox), PacketId::MIN)));
    let (since, lasting, retained, answered) = (SystemTime::now(), Lasting::default(), false, true);
    stand.journal.send(ToStore { message, since, lasting, retained, hold, answered }, None);
    stand.journal.flush();
    stand.batches.recv_timeout(SOON).unwrap();
    let (opening, grant) = (Opening::of("c", 600), grant());
    let claimed = stand.node.claim(&opening, &grant).await.unwrap();
    let mut entering = pin!(stand.node.enter(&opening, &grant, claimed));
    assert!(entering.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    stand.verdict(Err(CommitError::Full { file: "store".into() }));
    stand.verdict(Ok(()));
    let resumed = entering.await.unwrap().resumed.unwrap();
    assert_eq!(resumed.held, []);
}

#[test]
fn of_what_is_about_the_same_only_the_last_stays() {
    let [one, other] = [1, 2].map(|id| Arc::new(Outbox::new(id, "c".into(), None)));
    let wanted = Some((Qos::AtLeastOnce.into(), None));
    let filter =
        |outbox: &Arc<Outbox>, filter: &str, wanted| Work::Filter(Arc::clone(outbox), filter.into(), wanted);
    let mut work = vec![
        filter(&one, "a", wanted),
        filter(&one, "b", wanted),
        Work::Done(Arc::clone(&one), 1),
        filter(&other, "a", wanted),
        filter(&one, "a", None),
        Work::Done(Arc::clone(&one), 2),
        filter(&one, "b", None),
        filter(&one, "b", wanted),
    ];
    Work::keep_last(&mut work);
    let left: Vec<_> = work
        .iter()
        .map(|work| match work {
            Work::Filter(outbox, filter, wanted) => (outbox.id, &**filter, wanted.is_some()),
            _ => (0, "", true),
        })
        .collect();
    let done = (0, "", true);
    assert_eq!(left, [done, (2, "a", true), (1, "a", false), done, (1, "b", true)]);
}
