//! Clients that do anything at any time, and what must hold whatever they do: QoS 1 comes at least once, QoS 2 once, each
//! publisher's messages on a topic in their order, no more at a time than was asked for, and what is retained is the last
//! that was acknowledged. One thread does one thing after another, so a seed gives the same story again.
//!
//! A story of one's own: `NSD_SEED=7 cargo test -p nsd-broker --test it random -- --nocapture`; many: `NSD_STORIES=100`.

mod model;
mod seat;

use std::io::Write;
use std::net::SocketAddr;

use fastrand::Rng;
use nsd_wire::{Connect, Packet, PacketId, Qos, Subscribe, SubscribeFilter, Version};

use crate::support::{Broker, Client, Keeping, SOON};
use model::{FILTERS, Model, TOPICS};
use seat::Seat;

const SEED: &str = "NSD_SEED";
const STORIES: &str = "NSD_STORIES";

const STEPS: usize = 150;
/// A broker that may be killed is, after so many steps.
const KILL_AFTER: usize = 50;
/// Of each store when nothing else is said.
const USUAL: u64 = 2;
/// Behind all topics.
const LAST: &str = "t/~";

/// Tells which story it was that went wrong.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let told = format!("this story again: {SEED}={}\n", self.0);
            let _ = std::io::stderr().write_all(told.as_bytes());
        }
    }
}

fn seeds() -> Vec<u64> {
    let given = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    match (given(SEED), given(STORIES)) {
        (Some(seed), _) => vec![seed],
        (None, Some(stories)) => {
            std::iter::repeat_with(|| fastrand::u64(..)).take(stories as usize).collect()
        }
        (None, None) => (1..=USUAL).collect(),
    }
}

#[test]
fn whatever_clients_do_what_was_promised_holds() {
    let [memory, disk] = Keeping::own();
    for seed in seeds() {
        let _told = Told(seed);
        Story::new(seed, &memory).tell(None);
    }
    let mut disk = disk;
    for seed in seeds() {
        let _told = Told(seed);
        let address = disk.address;
        Story { address, ..Story::new(seed, &disk) }.tell(Some(&mut *disk));
    }
}

struct Story {
    address: SocketAddr,
    random: Rng,
    model: Model,
    seats: Vec<Seat>,
}

impl Story {
    fn new(seed: u64, broker: &Broker) -> Self {
        let mut random = Rng::with_seed(seed);
        let seats = (0..5).map(|at| Seat::new(at, seed, &mut random)).collect();
        Self { address: broker.address, random, model: Model::default(), seats }
    }

    /// With a broker that may be killed, if there is one.
    fn tell(mut self, mut killed: Option<&mut Broker>) {
        clear(self.address);
        for step in 0..STEPS {
            let at = self.random.usize(..self.seats.len());
            if let Some(broker) = killed.as_deref_mut().filter(|_| step % KILL_AFTER == KILL_AFTER - 1) {
                broker.kill();
                self.seats.iter_mut().for_each(|seat| seat.vanish(&mut self.model));
                broker.restart();
            }
            self.act(at);
        }
        for at in 0..self.seats.len() {
            self.enter(at, false);
        }
        self.end();
    }

    fn enter(&mut self, at: usize, anew: bool) {
        let seat = &mut self.seats[at];
        if anew || !seat.is_there() {
            seat.enter(self.address, anew, &mut self.model);
        }
        seat.go_on(&mut self.model, &mut self.random);
    }

    fn act(&mut self, at: usize) {
        if !self.seats[at].is_there() {
            let anew = self.random.u8(..5) == 0;
            return self.enter(at, anew);
        }
        let (seat, model, random) = (&mut self.seats[at], &mut self.model, &mut self.random);
        match random.u8(..20) {
            0 => seat.vanish(model),
            1 => seat.leave(model),
            // It takes its own session over.
            2 => {
                seat.enter(self.address, false, model);
                seat.go_on(model, random);
            }
            3..=5 => {
                let (filter, qos) = (random.usize(..FILTERS.len()), any_qos(random));
                seat.subscribe(FILTERS[filter], qos, model, random);
            }
            6 => {
                let filter = FILTERS[random.usize(..FILTERS.len())];
                seat.unsubscribe(filter, model, random);
            }
            7..=13 => {
                let count = random.usize(1..10);
                seat.publish(count, model, random);
                match random.u8(..6) {
                    // Before it hears anything of it.
                    0 => seat.vanish(model),
                    // Before all is over.
                    1 => {
                        seat.look(count, model, random);
                        seat.vanish(model);
                    }
                    // What was said on the connection before may still be under way.
                    2 => self.enter_at_once(at),
                    _ => seat.finish(model, random),
                }
            }
            14..=17 => seat.look(usize::MAX, model, random),
            _ => seat.acknowledge(),
        }
    }

    fn enter_at_once(&mut self, at: usize) {
        self.seats[at].enter(self.address, false, &mut self.model);
        self.seats[at].go_on(&mut self.model, &mut self.random);
    }

    /// Everybody takes all that there is.
    fn end(mut self) {
        let mut last = Client::connect(self.address, &Connect::new(Version::V5, "last"));
        for seat in &mut self.seats {
            seat.take_all(&mut last, &mut self.model, &mut self.random);
        }
        self.model.check_delivered();
        let mut asks = Client::connect(self.address, &Connect::new(Version::V5, "asks"));
        last.retain(LAST, b"last", Qos::AtLeastOnce);
        let filters = [SubscribeFilter { filter: "t/#", options: Qos::AtMostOnce.into() }];
        asks.send(&Packet::Subscribe(Subscribe::new(PacketId::MIN, &filters)));
        let mut kept = vec![None; TOPICS.len()];
        loop {
            let came = asks.next(SOON, |packet| match packet {
                Packet::Publish(publish) => Some((publish.topic.to_owned(), model::number(publish.payload))),
                _ => None,
            });
            match came.expect("what is retained") {
                Some((topic, _)) if topic == LAST => break,
                Some((topic, number)) => kept[model::topic(&topic)] = number,
                None => {}
            }
        }
        self.model.check_retained(&kept);
    }
}

/// Nothing of the story before is retained.
fn clear(address: SocketAddr) {
    let mut client = Client::connect(address, &Connect::new(Version::V5, "clears"));
    for topic in TOPICS.iter().chain(&[LAST]) {
        client.retain(topic, b"", Qos::AtLeastOnce);
    }
}

fn any_qos(random: &mut Rng) -> Qos {
    [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][random.usize(..3)]
}
