//! A broker on the disk, under load, killed at random moments and started again: whatever its clients were told holds.
//!
//! More rounds, and what became of them: `NSD_KILLS=100 cargo test -p nsd-broker --test it killed -- --nocapture`.

mod exchanges;
mod state;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nsd_wire::{Ack, Connect, Packet, Publish, Qos, ReasonCode, Version};

use crate::support::{Broker, Client, Gone, SOON};
use exchanges::{Publisher, Receiver, Sender, Subscriber};
use state::{Filters, Retainer, Sessions};

const ROUNDS: usize = 12;
const ROUNDS_BY_HAND: &str = "NSD_KILLS";

/// What one client does, and what it was told.
trait Role: Send {
    /// Until the broker is dead.
    fn act(&mut self, address: SocketAddr);
    /// At the broker that was started again, what was told holds.
    fn check(&mut self, _: SocketAddr) {}
}

#[test]
fn whatever_was_acknowledged_holds_however_often_the_broker_is_killed() {
    let rounds = std::env::var(ROUNDS_BY_HAND).map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    // Room for all that a quick publisher sends while its subscriber is away.
    let mut broker = Broker::start(
        "allow_anonymous = true\n[store]\nkind = \"disk\"\ndirectory = \"STORE\"\n\
         [limits]\nqueue_messages = 1000000\nqueue_bytes = 1000000000\n",
    );
    let address = broker.address;
    let (mut subscriber, mut receiver) = (Subscriber::begin(address), Receiver::begin(address));
    let (mut publisher, mut sender) = (Publisher::default(), Sender::default());
    let (mut retainer, mut filters, mut sessions) =
        (Retainer::begin(address), Filters::begin(address), Sessions::default());
    let mut random = fastrand::Rng::with_seed(11);
    let mut starts = Vec::new();
    for round in 0..rounds {
        let mut roles: Vec<&mut dyn Role> =
            vec![&mut publisher, &mut sender, &mut retainer, &mut filters, &mut sessions];
        // In every other round those who receive are away, and it is their queues that must hold.
        if round % 2 == 0 {
            roles.extend([&mut subscriber as &mut dyn Role, &mut receiver]);
        }
        std::thread::scope(|scope| {
            for role in &mut roles {
                scope.spawn(|| role.act(address));
            }
            std::thread::sleep(Duration::from_millis(random.u64(20..400)));
            broker.kill();
        });
        let killed = Instant::now();
        broker.restart();
        starts.push(killed.elapsed());
        roles.into_iter().for_each(|role| role.check(address));
    }
    sender.finish(address);
    let doubled = subscriber.finish(address, publisher.acknowledged());
    receiver.finish(address, sender.sent());
    starts.sort_unstable();
    println!(
        "{rounds} kills; started again within {:?}, half of the times {:?}",
        starts.last(),
        starts[rounds / 2]
    );
    println!("QoS 1: {} acknowledged, 0 lost, {doubled} came again", publisher.acknowledged().len());
    println!("QoS 2: {} sent, 0 lost, 0 doubled", sender.sent());
    println!("retained: {} acknowledged", retainer.acknowledged);
    println!("subscriptions: {} acknowledged", filters.acknowledged);
    println!("sessions: {} acknowledged", sessions.acknowledged);
}

fn keeping(id: &str) -> Connect<'_> {
    let mut connect = Connect::new(Version::V5, id);
    connect.clean_start = false;
    connect.properties.session_expiry = Some(600);
    connect
}

/// Connects, and tells whether the session was there. `None`: the broker is dead.
fn enter(address: SocketAddr, connect: &Connect<'_>) -> Option<(Client, bool)> {
    let mut client = Client::try_open(address, connect.version)?.with_releases();
    let connect = Packet::Connect(*connect);
    let (reason, present) = ask(&mut client, &connect, |packet| match packet {
        Packet::ConnAck(ack) => Some((ack.reason, ack.session_present)),
        _ => None,
    })?;
    assert_eq!(reason, ReasonCode::Success);
    Some((client, present))
}

/// The session that was acknowledged, with a broker that runs or has just been killed.
fn resume(address: SocketAddr, id: &str) -> Option<Client> {
    let (client, present) = enter(address, &keeping(id))?;
    assert!(present, "the session of {id} is lost");
    Some(client)
}

/// Sends a packet, and waits for its answer; messages that come meanwhile are acknowledged. `None`: the broker is dead.
fn ask<T>(client: &mut Client, packet: &Packet<'_>, answer: impl Fn(Packet<'_>) -> Option<T>) -> Option<T> {
    if !client.try_send(packet) {
        return None;
    }
    loop {
        let came = client.next(SOON * 2, |packet| match packet {
            Packet::Publish(publish) => Err(publish.packet_id),
            other => Ok(answer(other)),
        });
        match came {
            Ok(Ok(Some(found))) => return Some(found),
            Ok(Ok(None)) | Ok(Err(None)) => {}
            Ok(Err(Some(id))) => {
                client.try_send(&Packet::PubAck(Ack::new(id)));
            }
            Err(Gone::Closed) => return None,
            Err(Gone::Silent) => panic!("no answer to {packet:?}"),
        }
    }
}

/// Publishes at QoS 1; whether that was acknowledged.
fn publish(client: &mut Client, publish: Publish<'_>) -> bool {
    let id = client.id();
    let publish = Publish { qos: Qos::AtLeastOnce, packet_id: Some(id), ..publish };
    let reason = ask(client, &Packet::Publish(publish), |packet| match packet {
        Packet::PubAck(ack) if ack.packet_id == id => Some(ack.reason),
        _ => None,
    });
    assert!(reason.is_none_or(|reason| !reason.is_failure()), "{reason:?}");
    reason.is_some()
}

fn number(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload.try_into().unwrap())
}
