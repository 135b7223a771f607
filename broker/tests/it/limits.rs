//! What is limited, and what happens there.

use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use nsd_wire::{Ack, AckKind, Connect, Packet, PacketId, Publish, Qos, Subscribe, SubscribeFilter, Version};

use crate::support::{Broker, Client, SOON, eventually};

fn is_let_in(client: &mut Client, limit: Duration) -> bool {
    client.next(limit, |packet| matches!(packet, Packet::ConnAck(_))) == Ok(true)
}

fn knock(broker: &Broker, id: usize) -> Client {
    let mut client = Client::open(broker.address, Version::V311);
    client.send(&Packet::Connect(Connect::new(Version::V311, &format!("k{id}"))));
    client
}

#[test]
fn with_all_files_in_use_the_clients_there_go_on_and_new_ones_wait() {
    let broker = Broker::with_files(128);
    let mut first = broker.client(Version::V5, "first");
    first.subscribe("t", Qos::AtLeastOnce);
    // 128 files less those that are kept free for other things.
    let mut inside: Vec<Client> = (0..63).map(|id| knock(&broker, id)).collect();
    assert!(inside.iter_mut().all(|client| is_let_in(client, SOON)));
    let mut outside: Vec<Client> = (100..110).map(|id| knock(&broker, id)).collect();
    assert!(!is_let_in(&mut outside[0], Duration::from_millis(300)), "there is no room");
    first.publish("t/2", b"x", Qos::AtLeastOnce);
    inside[0].publish("t", b"goes on", Qos::AtMostOnce);
    assert_eq!(first.message().payload, b"goes on");
    assert!(broker.ask("health").0, "the admin socket still answers");
    drop(inside);
    assert!(outside.iter_mut().all(|client| is_let_in(client, SOON)), "they are served once there is room");
}

#[test]
fn a_kernel_that_gives_no_file_is_waited_out() {
    let broker = Broker::anonymous();
    let mut first = broker.client(Version::V5, "first");
    let limit = |files: &str| {
        let pid = broker.pid().to_string();
        let done = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={files}")]).status();
        assert!(done.unwrap().success());
    };
    let hard = std::fs::read_to_string(format!("/proc/{}/limits", broker.pid())).unwrap();
    let hard = hard.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let hard = hard.split_whitespace().nth(4).unwrap().to_owned();
    limit(&format!("8:{hard}"));
    let mut waiting = knock(&broker, 1);
    eventually("it says so", SOON, || broker.log().contains("cannot accept, pausing"));
    first.ping();
    limit(&format!("{hard}:{hard}"));
    assert!(is_let_in(&mut waiting, SOON));
    first.ping();
}

#[test]
fn a_client_that_asks_without_listening_is_not_read_from() {
    let broker = Broker::anonymous();
    let before = broker.resident_kib();
    let mut pings = Vec::new();
    (0..8192).for_each(|_| Packet::PingReq.encode(Version::V311, &mut pings).unwrap());
    // PUBREC is answered even where nothing was sent.
    let mut received = Vec::new();
    let ack = Ack::new(PacketId::MIN);
    (0..4096).for_each(|_| ack.encode(AckKind::PubRec, Version::V311, &mut received).unwrap());
    for (id, batch) in [("pings", pings), ("received", received)] {
        let mut client = broker.client(Version::V311, id);
        client.socket.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        let (mut sent, mut blocked) = (0, false);
        while sent < 96 * 1024 * 1024 && !blocked {
            match client.socket.write(&batch[sent % batch.len()..]) {
                Ok(written) => sent += written,
                Err(_) => blocked = true,
            }
        }
        let grown = broker.resident_kib().saturating_sub(before);
        assert!(
            blocked && grown < 16 * 1024,
            "{id}: grew by {grown} KiB for {sent} bytes, blocked: {blocked}"
        );
    }
    broker.client(Version::V5, "other").ping();
}

#[test]
fn as_many_exactly_once_as_the_server_allows_can_all_be_finished() {
    let broker = Broker::anonymous();
    for (version, count) in [(Version::V5, 1024), (Version::V311, 3000)] {
        let mut client = broker.client(version, "c");
        for id in 1..=count {
            let publish =
                Publish { qos: Qos::ExactlyOnce, packet_id: PacketId::new(id), ..Publish::new("t", b"x") };
            client.send(&Packet::Publish(publish));
        }
        for id in 1..=count {
            let received = client.expect(|packet| match packet {
                Packet::PubRec(ack) => Some(ack.packet_id),
                _ => None,
            });
            assert_eq!(received.get(), id);
        }
        for id in 1..=count {
            client.send(&Packet::PubRel(Ack::new(PacketId::new(id).unwrap())));
        }
        for _ in 1..=count {
            client.expect(|packet| matches!(packet, Packet::PubComp(_)).then_some(()));
        }
    }
}

#[test]
fn a_publisher_that_is_made_to_wait_is_not_called_silent() {
    let broker = Broker::anonymous();
    let mut slow = broker.client(Version::V311, "slow");
    slow.subscribe("flood", Qos::AtMostOnce);
    let connect = Connect { keep_alive: 3, ..Connect::new(Version::V311, "p") };
    let mut publisher = Client::connect(broker.address, &connect);
    let mut batch = Vec::new();
    (0..64).for_each(|_| Publish::new("flood", &[b'x'; 1000]).encode(Version::V311, &mut batch).unwrap());
    let started = Instant::now();
    for _ in 0..400 {
        publisher.send_raw(&batch);
    }
    publisher.ping();
    assert!(started.elapsed() > Duration::from_millis(4500), "it was made to wait: {:?}", started.elapsed());
}

#[test]
fn asking_again_and_again_for_what_is_retained_costs_no_memory() {
    let broker = Broker::anonymous();
    let mut publisher = broker.client(Version::V311, "p");
    for number in 0..2000 {
        publisher.retain(&format!("kept/{number}"), &[b'x'; 600], Qos::AtLeastOnce);
    }
    let before = broker.resident_kib();
    let mut greedy = broker.client(Version::V311, "greedy");
    let filters = [SubscribeFilter { filter: "#", options: Qos::AtMostOnce.into() }];
    let subscribe = Packet::Subscribe(Subscribe::new(PacketId::MIN, &filters));
    let mut batch = Vec::new();
    (0..3000).for_each(|_| subscribe.encode(Version::V311, &mut batch).unwrap());
    greedy.send_raw(&batch);
    broker.client(Version::V311, "other").ping();
    std::thread::sleep(Duration::from_millis(500));
    let grown = broker.resident_kib().saturating_sub(before);
    assert!(grown < 24 * 1024, "grew by {grown} KiB");
    let (mut topics, mut acks) = (std::collections::HashSet::new(), 0);
    while topics.len() < 2000 || acks < 3000 {
        let topic = greedy.next(SOON, |packet| match packet {
            Packet::Publish(publish) => Some(publish.topic.to_owned()),
            _ => None,
        });
        match topic.expect("all of them, in the end") {
            Some(topic) => drop(topics.insert(topic)),
            None => acks += 1,
        }
    }
}

#[test]
fn what_is_retained_behind_many_expired_ones_still_comes() {
    let broker = Broker::anonymous();
    let mut publisher = broker.client(Version::V5, "p");
    for number in 0..3000 {
        let topic = format!("a/{number}");
        let mut publish = Publish { qos: Qos::AtLeastOnce, retain: true, ..Publish::new(&topic, b"x") };
        publish.properties.message_expiry = Some(1);
        publisher.publish_as(publish);
    }
    publisher.retain("z", b"last", Qos::AtLeastOnce);
    std::thread::sleep(Duration::from_millis(1100));
    let mut subscriber = broker.client(Version::V311, "s");
    subscriber.subscribe("#", Qos::AtMostOnce);
    assert_eq!(subscriber.message().payload, b"last");
}
