//! One client id, and whoever sits there: what it has begun, what it owes, what it has heard.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use fastrand::Rng;
use nsd_wire::{
    Ack, Connect, Disconnect, Packet, PacketId, Publish, Qos, ReasonCode, Subscribe, SubscribeFilter,
    Unsubscribe, Version,
};

use super::any_qos;
use super::model::{Came, Model, Run, TOPICS, number};
use crate::support::{Client, Gone, SOON};

/// Nothing comes for now.
const QUIET: Duration = Duration::from_millis(5);
const LARGE: usize = 70_000;

pub(super) struct Seat {
    id: String,
    version: Version,
    /// Its session outlives its connections.
    keeps: bool,
    window: Option<NonZeroU16>,
    client: Option<Client>,
    run: Option<Run>,
    last_id: u16,
    /// Of its own messages, in the order of their beginning.
    open: VecDeque<Exchange>,
    owed: Vec<Packet<'static>>,
    /// QoS 2 messages that it has.
    held: HashSet<PacketId>,
    /// Not acknowledged on this connection.
    unacknowledged: HashSet<PacketId>,
}

struct Exchange {
    id: PacketId,
    number: u32,
    topic: usize,
    qos: Qos,
    retain: bool,
    payload: Vec<u8>,
    /// PUBREC came.
    is_received: bool,
}

/// A packet that came.
enum Heard {
    Message(Option<PacketId>, Came),
    Release(PacketId),
    Acknowledged(PacketId),
    Received(PacketId),
    Completed(PacketId),
    Answer(PacketId),
}

impl Seat {
    pub(super) fn new(at: usize, seed: u64, random: &mut Rng) -> Self {
        let version = [Version::V311, Version::V5][random.usize(..2)];
        let window = NonZeroU16::new(random.u16(1..12)).filter(|_| version.is_v5() && random.bool());
        Self {
            id: format!("{seed:x}-{at}"),
            version,
            keeps: random.u8(..4) > 0,
            window,
            client: None,
            run: None,
            last_id: 0,
            open: VecDeque::new(),
            owed: Vec::new(),
            held: HashSet::new(),
            unacknowledged: HashSet::new(),
        }
    }

    pub(super) fn is_there(&self) -> bool {
        self.client.is_some()
    }

    /// In the place of the connection that is there, if one is. `anew`: what was before is forgotten.
    pub(super) fn enter(&mut self, address: SocketAddr, anew: bool, model: &mut Model) {
        // A v3 session that is begun anew ends with its connection.
        let anew = anew && self.version.is_v5();
        let id = self.id.clone();
        let mut connect = Connect::new(self.version, &id);
        connect.clean_start = anew || (!self.keeps && !self.version.is_v5());
        connect.properties.session_expiry = (self.keeps && self.version.is_v5()).then_some(600);
        connect.properties.receive_maximum = self.window;
        let mut client = Client::open(address, self.version).with_releases();
        let present = client.login(&connect);
        if self.client.take().is_some() {
            self.lose(model);
        }
        let expected = self.keeps && self.run.is_some() && !connect.clean_start;
        assert_eq!(present, expected, "whether the session of {id} was there");
        if !present {
            self.forget(model);
            self.run = Some(model.begin());
        }
        self.client = Some(client);
    }

    /// As if the network had failed.
    pub(super) fn vanish(&mut self, model: &mut Model) {
        if self.client.take().is_some() {
            self.lose(model);
        }
    }

    pub(super) fn leave(&mut self, model: &mut Model) {
        self.say(&Packet::Disconnect(Disconnect::new(ReasonCode::Success)));
        assert!(self.client.as_mut().unwrap().is_closed(SOON));
        self.vanish(model);
    }

    /// The connection is over.
    fn lose(&mut self, model: &mut Model) {
        self.open.iter().for_each(|exchange| model.leave_open(exchange.number));
        self.owed.clear();
        self.unacknowledged.clear();
        if !self.keeps {
            self.forget(model);
        }
    }

    fn forget(&mut self, model: &mut Model) {
        self.open.clear();
        self.held.clear();
        self.run.take().into_iter().for_each(|run| model.end(run));
    }

    fn say(&mut self, packet: &Packet<'_>) {
        self.client.as_mut().unwrap().send(packet);
    }

    fn next_id(&mut self) -> PacketId {
        loop {
            self.last_id = self.last_id % 50 + 1;
            let id = PacketId::new(self.last_id).unwrap();
            if self.open.iter().all(|exchange| exchange.id != id) {
                return id;
            }
        }
    }

    /// What is not over is sent again, as it must be on a new connection.
    pub(super) fn go_on(&mut self, model: &mut Model, random: &mut Rng) {
        let open: Vec<u8> =
            self.open.iter().flat_map(|exchange| exchange.written(true, self.version)).collect();
        self.client.as_mut().unwrap().send_raw(&open);
        self.finish(model, random);
    }

    pub(super) fn publish(&mut self, count: usize, model: &mut Model, random: &mut Rng) {
        for _ in 0..count {
            let (topic, qos, retain) = (random.usize(..TOPICS.len()), any_qos(random), random.u8(..4) == 0);
            let is_empty = retain && random.u8(..3) == 0;
            let number = model.send(self.run.unwrap(), topic, qos, retain, is_empty);
            let rest = if random.u8(..40) == 0 { LARGE } else { random.usize(..50) };
            let payload = [&number.to_be_bytes()[..], &vec![b'x'; rest]].concat();
            let payload = if is_empty { Vec::new() } else { payload };
            let id = if qos == Qos::AtMostOnce { PacketId::MIN } else { self.next_id() };
            let exchange = Exchange { id, number, topic, qos, retain, payload, is_received: false };
            let bytes = exchange.written(false, self.version);
            self.client.as_mut().unwrap().send_raw(&bytes);
            if qos == Qos::AtMostOnce {
                model.leave_open(number);
            } else {
                self.open.push_back(exchange);
            }
        }
    }

    /// Until all of its own messages are over.
    pub(super) fn finish(&mut self, model: &mut Model, random: &mut Rng) {
        while !self.open.is_empty() {
            self.hear(SOON, model, random).expect("all is answered");
        }
    }

    pub(super) fn subscribe(&mut self, filter: &'static str, qos: Qos, model: &mut Model, random: &mut Rng) {
        let id = self.next_id();
        // From now on it may come, from its answer on it must.
        model.expect(self.run.unwrap(), filter);
        let filters = [SubscribeFilter { filter, options: qos.into() }];
        self.say(&Packet::Subscribe(Subscribe::new(id, &filters)));
        self.await_answer(id, model, random);
        model.subscribe(self.run.unwrap(), filter, qos);
    }

    pub(super) fn unsubscribe(&mut self, filter: &'static str, model: &mut Model, random: &mut Rng) {
        let id = self.next_id();
        self.say(&Packet::Unsubscribe(Unsubscribe::new(id, &[filter])));
        model.unsubscribe(self.run.unwrap(), filter);
        self.await_answer(id, model, random);
    }

    fn await_answer(&mut self, id: PacketId, model: &mut Model, random: &mut Rng) {
        loop {
            if let Heard::Answer(answered) = self.hear(SOON, model, random).expect("an answer") {
                return assert_eq!(answered, id);
            }
        }
    }

    /// Takes what has come, so many packets at most.
    pub(super) fn look(&mut self, most: usize, model: &mut Model, random: &mut Rng) {
        for _ in 0..most {
            if self.hear(QUIET, model, random).is_err() {
                return;
            }
        }
    }

    pub(super) fn acknowledge(&mut self) {
        for owed in std::mem::take(&mut self.owed) {
            self.pay(&owed);
        }
    }

    fn pay(&mut self, owed: &Packet<'static>) {
        if let Packet::PubAck(ack) | Packet::PubComp(ack) = owed {
            self.unacknowledged.remove(&ack.packet_id);
        }
        self.say(owed);
    }

    /// Takes all that is there for it.
    pub(super) fn take_all(&mut self, last: &mut Client, model: &mut Model, random: &mut Rng) {
        self.acknowledge();
        let topic = format!("end/{}", self.id);
        let id = self.next_id();
        let filters = [SubscribeFilter { filter: &topic, options: Qos::AtLeastOnce.into() }];
        self.say(&Packet::Subscribe(Subscribe::new(id, &filters)));
        self.await_answer(id, model, random);
        last.publish(&topic, b"", Qos::AtLeastOnce);
        loop {
            self.acknowledge();
            match self.hear(SOON, model, random).expect("the last message") {
                Heard::Message(_, came) if came.topic == topic => break,
                _ => {}
            }
        }
        self.acknowledge();
    }

    /// One packet, with what it leads to. What is to be said for it may be said later.
    fn hear(&mut self, limit: Duration, model: &mut Model, random: &mut Rng) -> Result<Heard, Gone> {
        let heard = self.client.as_mut().unwrap().next(limit, heard)?;
        match &heard {
            Heard::Message(id, came) => self.on_message(*id, came, model),
            Heard::Release(id) => {
                self.held.remove(id);
                self.owed.push(Packet::PubComp(Ack::new(*id)));
            }
            Heard::Acknowledged(id) => self.over(*id, model),
            Heard::Completed(id) => self.over(*id, model),
            Heard::Received(id) => {
                if let Some(exchange) = self.open.iter_mut().find(|exchange| exchange.id == *id) {
                    exchange.is_received = true;
                    model.acknowledged(exchange.number);
                    self.say(&Packet::PubRel(Ack::new(*id)));
                }
            }
            Heard::Answer(_) => {}
        }
        if random.u8(..4) > 0 {
            self.acknowledge();
        }
        Ok(heard)
    }

    fn over(&mut self, id: PacketId, model: &mut Model) {
        let Some(at) = self.open.iter().position(|exchange| exchange.id == id) else { return };
        let exchange = self.open.remove(at).unwrap();
        if !exchange.is_received {
            model.acknowledged(exchange.number);
        }
    }

    fn on_message(&mut self, id: Option<PacketId>, came: &Came, model: &mut Model) {
        let Some(id) = id else { return model.came(self.run.unwrap(), came) };
        self.unacknowledged.insert(id);
        let (open, window) =
            (self.unacknowledged.len(), self.window.map_or(usize::MAX, |window| window.get().into()));
        assert!(open <= window, "{open} at a time for {}, which takes {window}", self.id);
        if came.qos == Qos::ExactlyOnce {
            self.owed.push(Packet::PubRec(Ack::new(id)));
            if !self.held.insert(id) {
                return;
            }
        } else {
            self.owed.push(Packet::PubAck(Ack::new(id)));
        }
        model.came(self.run.unwrap(), came);
    }
}

impl Exchange {
    /// What is sent for it, now and again.
    fn written(&self, dup: bool, version: Version) -> Vec<u8> {
        let packet_id = Some(self.id).filter(|_| self.qos != Qos::AtMostOnce);
        let (qos, retain) = (self.qos, self.retain);
        let publish =
            Publish { qos, retain, dup, packet_id, ..Publish::new(TOPICS[self.topic], &self.payload) };
        let release = Packet::PubRel(Ack::new(self.id));
        let mut written = Vec::new();
        let packet = if self.is_received { release } else { Packet::Publish(publish) };
        packet.encode(version, &mut written).unwrap();
        written
    }
}

fn heard(packet: Packet<'_>) -> Heard {
    match packet {
        Packet::Publish(publish) => {
            let came = Came {
                topic: publish.topic.to_owned(),
                number: number(publish.payload),
                qos: publish.qos,
                dup: publish.dup,
                retain: publish.retain,
            };
            Heard::Message(publish.packet_id, came)
        }
        Packet::PubRel(ack) => Heard::Release(ack.packet_id),
        Packet::PubAck(ack) if !ack.reason.is_failure() => Heard::Acknowledged(ack.packet_id),
        Packet::PubRec(ack) if !ack.reason.is_failure() => Heard::Received(ack.packet_id),
        Packet::PubComp(ack) => Heard::Completed(ack.packet_id),
        Packet::SubAck(ack) => Heard::Answer(ack.packet_id),
        Packet::UnsubAck(ack) => Heard::Answer(ack.packet_id),
        other => panic!("not expected: {other:?}"),
    }
}
