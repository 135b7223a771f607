//! Diligence as a weapon: clients that never stop.

use std::io::Write;
use std::time::{Duration, Instant};

use nsd_wire::{Connect, Packet, PacketId, Publish, Qos, Subscribe, SubscribeFilter, Unsubscribe, Version};

use super::{MIB, Siege, swallow, written};
use crate::support::{Client, SOON};

#[test]
fn publishers_that_never_stop() {
    let siege = Siege::begin();
    let mut reader = siege.client("reader");
    reader.subscribe("flood", Qos::AtMostOnce);
    let read = swallow(&reader);
    let until = Instant::now() + Duration::from_secs(3);
    // A slow machine floods for longer.
    const EACH: usize = 2 * 1024 * 1024;
    let batch =
        written(Version::V311, (0..200).map(|_| Packet::Publish(Publish::new("flood", &[b'x'; 100]))));
    let publishers = [0, 1, 2].map(|number| {
        let mut client = siege.broker.client(Version::V311, &format!("busy-{number}"));
        let batch = batch.clone();
        std::thread::spawn(move || {
            let mut sent = 0;
            while Instant::now() < until || sent < EACH {
                client.send_raw(&batch);
                sent += batch.len();
            }
            client.send(&Packet::PingReq);
            assert!(client.next(SOON * 8, |_| ()).is_ok(), "all of it was read");
        })
    });
    publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
    // What is still on its way is the other thread's to read.
    reader.send(&Packet::Disconnect(nsd_wire::Disconnect::default()));
    assert!(read.join().unwrap() > 1024 * 1024);
    siege.end("publishers that never stop: 3 for 3 s", 16 * MIB);
}

/// Writes the same packets again and again, reading nothing, until the broker takes no more: whether it came to that.
fn is_held_back(client: &mut Client, batch: &[u8], most: usize) -> bool {
    client.socket.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut sent = 0;
    while sent < most {
        match client.socket.write(&batch[sent % batch.len()..]) {
            Ok(written) => sent += written,
            Err(_) => return true,
        }
    }
    false
}

#[test]
fn who_asks_without_reading_the_answers_waits() {
    let siege = Siege::begin();
    let filters: Vec<SubscribeFilter<'static>> = ["a/+/#", "b/#", "c", "witness/+"]
        .into_iter()
        .cycle()
        .take(64)
        .map(|filter| SubscribeFilter { filter, options: Qos::AtMostOnce.into() })
        .collect();
    let filters: &'static [SubscribeFilter<'static>] = filters.leak();
    let names: &'static [&'static str] = vec!["no/such/filter"; 64].leak();
    let id = PacketId::MIN;
    for (name, packet) in [
        ("pings", Packet::PingReq),
        ("subscribes", Packet::Subscribe(Subscribe::new(id, filters))),
        ("unsubscribes", Packet::Unsubscribe(Unsubscribe::new(id, names))),
        ("releases", Packet::PubRel(nsd_wire::Ack::new(id))),
    ] {
        let batch =
            written(Version::V5, std::iter::repeat_n(packet, if name == "pings" { 16_384 } else { 200 }));
        let mut client = siege.narrow(Version::V5, name);
        assert!(is_held_back(&mut client, &batch, 96 * 1024 * 1024), "{name} are read for ever");
    }
    siege.end("four kinds of question without reading an answer", 6 * MIB);
}

#[test]
fn subscribing_and_unsubscribing_without_end() {
    let siege = Siege::begin();
    let until = Instant::now() + Duration::from_secs(2);
    let flickering = [0, 1].map(|number| {
        let mut client = siege.client(&format!("flicker-{number}"));
        std::thread::spawn(move || {
            while Instant::now() < until {
                let filter = format!("flicker/{}/+", fastrand::u32(..1000));
                client.subscribe(&filter, Qos::AtLeastOnce);
                let names = [&*filter];
                let packet_id = client.id();
                client.send(&Packet::Unsubscribe(Unsubscribe::new(packet_id, &names)));
                client.expect(|packet| matches!(packet, Packet::UnsubAck(_)).then_some(()));
            }
        })
    });
    flickering.into_iter().for_each(|client| client.join().unwrap());
    siege.end("subscribe and unsubscribe, 2 clients for 2 s", 4 * MIB);
}

#[test]
fn wills_of_clients_that_die_all_at_once() {
    let siege = Siege::begin();
    let mut mourner = siege.client("mourner");
    mourner.subscribe("dead/+", Qos::AtMostOnce);
    let payload = [b'x'; 1000];
    let dying: Vec<Client> = (0..300)
        .map(|number| {
            let (topic, client_id) = (format!("dead/{number}"), format!("d{number}"));
            let will = Some(nsd_wire::Will::new(&topic, &payload));
            Client::connect(
                siege.broker.address,
                &Connect { will, ..Connect::new(Version::V311, &client_id) },
            )
        })
        .collect();
    drop(dying);
    for _ in 0..300 {
        assert!(mourner.message_within(SOON).is_some(), "each will comes");
    }
    siege.end("300 wills at once", 6 * MIB);
}
