//! Silence as a weapon: receivers that ask for everything and take nothing.

use std::io::Write;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nsd_wire::{Ack, Connect, Packet, PacketId, Publish, Qos, ReasonCode, Version};

use super::{MIB, Siege, swallow};
use crate::support::{Broker, Client, SOON, eventually};

/// Publishes until the broker has lost something for a receiver, or a lot has been sent: how many were sent.
fn flood(siege: &Siege, topic: &str, qos: Qos, most: usize) -> usize {
    let mut publisher = siege.broker.client(Version::V311, &format!("flood-{topic}"));
    let read = swallow(&publisher);
    let payload = [b'x'; 1000];
    let mut sent = 0;
    while sent < most {
        let mut batch = Vec::new();
        for _ in 0..50 {
            let id = PacketId::new((sent % 60_000 + 1) as u16).unwrap();
            let packet_id = (qos != Qos::AtMostOnce).then_some(id);
            let publish = Publish { qos, packet_id, ..Publish::new(topic, &payload) };
            publish.encode(Version::V311, &mut batch).unwrap();
            if qos == Qos::ExactlyOnce {
                Packet::PubRel(Ack::new(id)).encode(Version::V311, &mut batch).unwrap();
            }
            sent += 1;
        }
        publisher.socket.write_all(&batch).unwrap();
    }
    publisher.send(&Packet::Disconnect(nsd_wire::Disconnect::new(ReasonCode::Success)));
    read.join().unwrap();
    sent
}

/// Three receivers that read nothing; their outboxes go to the ceiling, and no further.
fn never_reads(qos: Qos) {
    let siege = Siege::begin();
    let deaf: Vec<Client> = Version::ALL
        .into_iter()
        .map(|version| {
            let mut client = siege.narrow(version, &format!("deaf-{version:?}"));
            client.subscribe("flood", qos);
            client
        })
        .collect();
    let sent = flood(&siege, "flood", qos, 30_000);
    let lost = siege.broker.ask("stats").1["messages"]["dropped"].as_u64().unwrap();
    assert!(lost > 0, "of {sent} messages some are lost, and counted");
    drop(deaf);
    siege.end(&format!("never reads, QoS {}: 3 receivers, 30 MB for each", qos as u8), 32 * MIB);
}

#[test]
fn a_receiver_that_never_reads_at_most_once() {
    never_reads(Qos::AtMostOnce);
}

#[test]
fn a_receiver_that_never_reads_at_least_once() {
    never_reads(Qos::AtLeastOnce);
}

#[test]
fn a_receiver_that_never_reads_exactly_once() {
    never_reads(Qos::ExactlyOnce);
}

#[test]
fn a_window_of_one_that_is_never_acknowledged() {
    let siege = Siege::begin();
    let mut stubborn: Vec<Client> = (0..8)
        .map(|number| {
            let client_id = format!("stubborn-{number}");
            let mut connect = Connect::new(Version::V5, &client_id);
            connect.properties.receive_maximum = NonZeroU16::new(1);
            let mut client = Client::connect(siege.broker.address, &connect);
            client.subscribe("one", Qos::AtLeastOnce);
            client
        })
        .collect();
    flood(&siege, "one", Qos::AtLeastOnce, 10_000);
    for client in &mut stubborn {
        let first = client.next(SOON, |packet| matches!(packet, Packet::Publish(_)));
        assert_eq!(first, Ok(true));
        client.ping();
    }
    siege.end("a window of 1, never acknowledged: 8 receivers, 10 MB for each", 56 * MIB);
}

#[test]
fn a_receiver_of_everything_that_reads_nothing() {
    let siege = Siege::begin();
    let mut deaf = siege.narrow(Version::V5, "deaf");
    deaf.subscribe("flood/#", Qos::AtMostOnce);
    deaf.subscribe("#", Qos::AtMostOnce);
    flood(&siege, "flood/1", Qos::AtMostOnce, 20_000);
    eventually("what it did not take is counted", SOON, || {
        siege.broker.ask("stats").1["messages"]["dropped"].as_u64() > Some(0)
    });
    siege.end("a deaf `#`: the witnesses' messages go to it, too", 8 * MIB);
}

/// Publishes until told to stop, one message after the other: how many were answered so far.
fn say(siege: &Siege, id: &str, topic: &str, bytes: usize, stop: &Arc<AtomicBool>) -> Arc<AtomicU32> {
    let (mut client, topic) = (siege.client(id), topic.to_owned());
    let (said, stop) = (Arc::new(AtomicU32::new(0)), Arc::clone(stop));
    let counted = Arc::clone(&said);
    let payload = vec![b'x'; bytes];
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let publish = Publish { qos: Qos::AtLeastOnce, ..Publish::new(&topic, &payload) };
            assert_eq!(client.publish_within(Duration::from_secs(20), publish), ReasonCode::Success);
            counted.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    said
}

#[test]
fn a_reader_in_bursts_does_not_hold_those_who_write_to_it() {
    const PAUSE: Duration = Duration::from_millis(1500);
    let siege = Siege::begin();
    let mut reader = siege.narrow(Version::V311, "bursts");
    reader.subscribe("#", Qos::AtMostOnce);
    let stop = Arc::new(AtomicBool::new(false));
    let mut publisher = siege.client("flood");
    let flooding = std::thread::spawn({
        let stop = Arc::clone(&stop);
        let mut batch = Vec::new();
        (0..50).for_each(|_| Publish::new("flood", &[b'x'; 1000]).encode(Version::V5, &mut batch).unwrap());
        move || {
            while !stop.load(Ordering::Relaxed) && publisher.socket.write_all(&batch).is_ok() {}
        }
    });
    let mut burst = || {
        std::thread::sleep(PAUSE);
        let until = Instant::now() + Duration::from_millis(150);
        while Instant::now() < until && reader.next(Duration::from_millis(20), |_| ()).is_ok() {}
    };
    burst();
    // One that says a little, and one that says much.
    let (little, much) = (say(&siege, "little", "a", 1, &stop), say(&siege, "much", "b", 30_000, &stop));
    let answered = || [&little, &much].map(|said| said.load(Ordering::Relaxed));
    // Patience with this reader is over after a few; who was held would have one answer a burst.
    let mut says = |bursts: usize, more: [u32; 2], what: &str| {
        let before = answered();
        let is_there =
            || answered().into_iter().zip(before).zip(more).all(|((now, before), more)| now > before + more);
        let needed = (1..=2 * bursts).find(|number| {
            burst();
            *number >= bursts && is_there()
        });
        assert!(needed.is_some(), "{what}: from {before:?} to {:?}", answered());
    };
    says(6, [50, 0], "who says little is not held");
    says(4, [50, 20], "and never is, others are held for moments");
    assert!(siege.broker.ask("stats").1["messages"]["dropped"].as_u64() > Some(0), "what is lost is counted");
    stop.store(true, Ordering::Relaxed);
    flooding.join().unwrap();
    siege.end("a `#` that reads for a moment every 1.5 s, and a flood", 12 * MIB);
}

/// Nothing can be sent to it any more: what is still there for it keeps nobody busy.
#[test]
fn who_breaks_off_before_it_has_read_all_is_let_go_of() {
    let broker = Broker::anonymous();
    for version in Version::ALL {
        let deaf: Vec<Client> = (0..20)
            .map(|number| {
                let mut client = Client::narrow(broker.address, version);
                client.login(&Connect::new(version, &format!("deaf-{number}")));
                client.subscribe("flood", Qos::AtMostOnce);
                client
            })
            .collect();
        let mut publisher = broker.client(Version::V311, "flood");
        for _ in 0..200 {
            publisher.send(&Packet::Publish(Publish::new("flood", &[b'x'; 10_000])));
        }
        publisher.publish("flood", b"the last", Qos::AtLeastOnce);
        drop(deaf);
    }
    let open = || broker.ask("stats").1["listeners"][0]["open"].as_u64().unwrap();
    eventually("no connection is left", SOON, || open() == 0);
}
