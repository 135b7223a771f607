//! Half-open peers: what becomes of clients on a machine that nothing comes from any more, and of those who talk to them.

use std::net::{SocketAddr, SocketAddrV4};
use std::thread;

use nsd_wire::{Ack, Connect, Packet, PacketId, Publish, Qos, ReasonCode, Version, Will};

use crate::support::cable::{Cable, FAR, Machine, NEAR};
use crate::support::{Broker, Client, Redis, SOON, eventually};

const ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(NEAR, 1883));
const ANOTHER: SocketAddr = SocketAddr::V4(SocketAddrV4::new(NEAR, 1884));
/// Far less than any other patience that could end a connection here.
const SOON_GONE: &str = "tcp_user_timeout = \"2s\"";
const ON_DISK: &str = "[store]\nkind = \"disk\"\ndirectory = \"STORE\"\n";

/// On the near machine, for everybody.
fn broker(cable: &Cable, settings: &str, listener: &str) -> Broker {
    Broker::on(&cable.near, ADDRESS, &format!("allow_anonymous = true\n{settings}"), listener)
}

/// Who need not speak, and has a session.
fn kept(version: Version, id: &str) -> Connect<'_> {
    let mut connect = Connect { clean_start: false, keep_alive: 0, ..Connect::new(version, id) };
    connect.properties.session_expiry = version.is_v5().then_some(600);
    connect
}

fn come(machine: &Machine, connect: &Connect<'_>) -> Client {
    machine.does(|| Client::connect(ADDRESS, connect))
}

/// Whose session must be there.
fn come_back(machine: &Machine, connect: &Connect<'_>) -> Client {
    come_back_to(ADDRESS, machine, connect)
}

fn come_back_to(address: SocketAddr, machine: &Machine, connect: &Connect<'_>) -> Client {
    let mut client = machine.does(|| Client::open(address, connect.version));
    assert!(client.login(connect), "its session is there");
    client
}

fn on_the_near_machine(cable: &Cable, id: &str) -> Client {
    come(&cable.near, &Connect { keep_alive: 0, ..Connect::new(Version::V5, id) })
}

/// The next message, which is not acknowledged: its number, its identifier, and whether it is sent again.
fn numbered(packet: Packet<'_>) -> Option<(u32, PacketId, bool)> {
    let Packet::Publish(publish) = packet else { return None };
    let number = u32::from_be_bytes(publish.payload.get(..4)?.try_into().ok()?);
    Some((number, publish.packet_id?, publish.dup))
}

fn payload(number: u32, bytes: usize) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(bytes, b'x');
    payload
}

#[test]
fn a_client_that_is_cut_off_is_gone_after_its_keep_alive_and_finds_its_session_from_elsewhere() {
    for store in ["", ON_DISK] {
        let cable = Cable::lay();
        let _broker = broker(&cable, store, "");
        let will = Will::new("gone", b"cut off");
        let connect = Connect { keep_alive: 2, will: Some(will), ..kept(Version::V5, "c") };
        let mut client = come(&cable.far, &connect);
        client.subscribe("t", Qos::AtLeastOnce);
        let mut watcher = on_the_near_machine(&cable, "watcher");
        watcher.subscribe("gone", Qos::AtLeastOnce);
        cable.cut();
        assert_eq!(watcher.message().payload, b"cut off");
        let mut publisher = on_the_near_machine(&cable, "publisher");
        for number in 0..10 {
            assert_eq!(publisher.publish("t", &payload(number, 4), Qos::AtLeastOnce), ReasonCode::Success);
        }
        let mut back = come_back(&cable.near, &connect);
        for number in 0..10 {
            assert_eq!(back.message().payload, payload(number, 4));
        }
        back.ping();
    }
}

#[test]
fn who_comes_from_elsewhere_takes_over_from_a_dead_peer_at_once() {
    const MESSAGES: u32 = 100;
    let cable = Cable::lay();
    let broker = broker(&cable, "", "");
    let both = [(Version::V311, "c3"), (Version::V5, "c5")].map(|(version, id)| kept(version, id));
    let _dead = both.map(|connect| {
        let mut client = come(&cable.far, &connect);
        client.subscribe("t", Qos::AtLeastOnce);
        client
    });
    cable.cut();
    // More than the kernel takes at once.
    let mut publisher = on_the_near_machine(&cable, "publisher");
    for number in 0..MESSAGES {
        publisher.publish("t", &payload(number, 4000), Qos::AtLeastOnce);
    }
    let mut all = Vec::new();
    for connect in both {
        let mut back = come_back(&cable.near, &connect);
        for number in 0..MESSAGES {
            let (came, id, again) = back.expect(numbered);
            assert_eq!(came, number);
            assert!(again || number > 0, "the first was on its way");
            back.send(&Packet::PubAck(Ack::new(id)));
        }
        back.ping();
        let open = || broker.ask("stats").1["listeners"][0]["open"].as_u64();
        eventually("nothing is left of the dead peer", SOON, || open() == Some(3));
        all.push(back);
    }
}

#[test]
fn a_subscriber_that_is_cut_off_in_the_middle_of_a_stream_misses_nothing_and_holds_nobody_for_long() {
    const BEFORE: u32 = 200;
    const ACKNOWLEDGED: u32 = 50;
    const ALL: u32 = 3000;
    const MIB: u64 = 1024;
    let cable = Cable::lay();
    let limits = format!("{ON_DISK}[limits]\nqueue_messages = 100_000\nqueue_bytes = 67_108_864\n");
    let broker = broker(&cable, &limits, SOON_GONE);
    let connect = kept(Version::V311, "c");
    let mut cut_off = come(&cable.far, &connect);
    cut_off.subscribe("t", Qos::AtLeastOnce);
    let mut other = on_the_near_machine(&cable, "other");
    other.subscribe("t", Qos::AtLeastOnce);
    let other = thread::spawn(move || (0..ALL).map(|_| other.message().payload).collect::<Vec<_>>());
    let mut publisher = on_the_near_machine(&cable, "publisher");
    let mut publish = |numbers: std::ops::Range<u32>| {
        for number in numbers {
            let payload = payload(number, 2000);
            assert_eq!(publisher.publish("t", &payload, Qos::AtLeastOnce), ReasonCode::Success);
        }
    };
    publish(0..BEFORE);
    for number in 0..BEFORE {
        let (came, id, again) = cut_off.expect(numbered);
        assert_eq!((came, again), (number, false));
        if number < ACKNOWLEDGED {
            cut_off.send(&Packet::PubAck(Ack::new(id)));
        }
    }
    cut_off.ping();
    let before = broker.resident_kib();
    cable.cut();
    publish(BEFORE..ALL);
    let received = other.join().unwrap();
    assert!(
        received.into_iter().eq((0..ALL).map(|number| payload(number, 2000))),
        "others get all, in order"
    );
    let grown = broker.peak_kib().saturating_sub(before);
    assert!(grown < 48 * MIB, "{grown} KiB more for 6 MB that wait");
    eventually("the dead peer is noticed", SOON, || broker.log().contains("connection lost"));
    let mut back = come_back(&cable.near, &connect);
    for number in ACKNOWLEDGED..ALL {
        let (came, id, again) = back.expect(numbered);
        assert_eq!(came, number);
        assert!(again || number >= BEFORE, "{number} was there before");
        back.send(&Packet::PubAck(Ack::new(id)));
    }
    back.ping();
}

#[test]
fn a_client_without_keep_alive_that_is_cut_off_is_gone_after_the_time_that_is_set() {
    let cable = Cable::lay();
    let broker = broker(&cable, "", SOON_GONE);
    let mut watcher = on_the_near_machine(&cable, "watcher");
    watcher.subscribe("gone", Qos::AtLeastOnce);
    let will = Will::new("gone", b"cut off");
    let _client = come(&cable.far, &Connect { will: Some(will), ..kept(Version::V311, "c") });
    cable.cut();
    assert_eq!(watcher.message().payload, b"cut off");
    watcher.ping();
    assert!(broker.log().contains("connection lost"), "{}", broker.log());
}

#[test]
fn another_time_holds_for_who_comes_after_it_is_set() {
    let cable = Cable::lay();
    let broker = broker(&cable, "", "");
    let mut watcher = on_the_near_machine(&cable, "watcher");
    watcher.subscribe("gone", Qos::AtLeastOnce);
    let come = |id: &str| {
        let will = Will::new("gone", id.as_bytes());
        come(&cable.far, &Connect { will: Some(will), ..kept(Version::V311, id) })
    };
    let _before = come("before");
    let text = std::fs::read_to_string(broker.settings()).unwrap();
    std::fs::write(broker.settings(), format!("{text}{SOON_GONE}\n")).unwrap();
    assert_eq!(broker.admin(&["reload"]).0, 0);
    let _after = come("after");
    cable.cut();
    assert_eq!(watcher.message().payload, b"after");
    assert_eq!(broker.ask("stats").1["listeners"][0]["open"], 2, "the watcher and who came before");
}

#[test]
fn a_link_that_is_back_in_time_cuts_nobody_and_loses_nothing() {
    const MESSAGES: u32 = 50;
    let cable = Cable::lay();
    let broker = broker(&cable, "", "tcp_user_timeout = \"60s\"");
    let mut subscriber = come(&cable.far, &kept(Version::V5, "subscriber"));
    subscriber.subscribe("t", Qos::AtLeastOnce);
    let mut far = come(&cable.far, &kept(Version::V5, "far"));
    let mut near = on_the_near_machine(&cable, "near");
    let before = cable.near.sent_again();
    cable.cut();
    for number in 0..MESSAGES {
        let (from_near, from_far) = (payload(number, 2000), payload(MESSAGES + number, 20));
        assert_eq!(near.publish("t", &from_near, Qos::AtLeastOnce), ReasonCode::Success);
        let (qos, packet_id) = (Qos::AtLeastOnce, Some(far.id()));
        far.send(&Packet::Publish(Publish { qos, packet_id, ..Publish::new("t", &from_far) }));
    }
    eventually("something is lost", SOON, || cable.near.sent_again() >= before + 3);
    cable.mend();
    let mut came = Vec::new();
    for _ in 0..2 * MESSAGES {
        let (number, id, again) = subscriber.expect(numbered);
        assert!(!again, "{number} comes once");
        subscriber.send(&Packet::PubAck(Ack::new(id)));
        came.push(number);
    }
    came.sort_unstable();
    assert!(came.into_iter().eq(0..2 * MESSAGES));
    for _ in 0..MESSAGES {
        far.expect(|packet| matches!(packet, Packet::PubAck(ack) if !ack.reason.is_failure()).then_some(()));
    }
    [subscriber, far, near].iter_mut().for_each(Client::ping);
    assert!(!broker.log().contains("connection lost"), "{}", broker.log());
}

#[test]
fn who_is_cut_off_from_one_node_goes_on_at_another_at_once() {
    const MESSAGES: u32 = 20;
    let cable = Cable::lay();
    let redis = Redis::on(&cable.near, NEAR);
    let [one, _another] = [ADDRESS, ANOTHER].map(|address| Broker::node_on(&cable.near, address, &redis));
    let connect = kept(Version::V5, "c");
    let mut dead = come(&cable.far, &connect);
    dead.subscribe("t", Qos::AtLeastOnce);
    cable.cut();
    let mut publisher = on_the_near_machine(&cable, "publisher");
    for number in 0..MESSAGES {
        publisher.publish("t", &payload(number, 2000), Qos::AtLeastOnce);
    }
    let mut back = come_back_to(ANOTHER, &cable.near, &connect);
    for number in 0..MESSAGES {
        assert_eq!(back.message().payload, payload(number, 2000));
    }
    back.ping();
    eventually("nothing is left of the dead peer", SOON, || one.ask("stats").1["clients"] == 1);
}

#[test]
fn a_node_that_is_cut_off_loses_what_goes_on_elsewhere() {
    const MESSAGES: u32 = 20;
    let cable = Cable::lay();
    let redis = Redis::on(&cable.near, NEAR);
    let far_away = SocketAddr::V4(SocketAddrV4::new(FAR, 1883));
    let [cut_off, _near] = [(&cable.far, far_away), (&cable.near, ADDRESS)]
        .map(|(machine, address)| Broker::node_on(machine, address, &redis));
    let connect = kept(Version::V5, "c");
    let mut before = cable.far.does(|| Client::connect(far_away, &connect));
    before.subscribe("t", Qos::AtLeastOnce);
    cable.cut();
    let mut publisher = on_the_near_machine(&cable, "publisher");
    let mut publish = |number| {
        assert_eq!(publisher.publish("t", &payload(number, 2000), Qos::AtLeastOnce), ReasonCode::Success);
    };
    (0..MESSAGES).for_each(&mut publish);
    let mut back = come_back(&cable.near, &connect);
    for number in 0..MESSAGES {
        assert_eq!(back.message().payload, payload(number, 2000));
    }
    eventually("it says that it is cut off", SOON * 2, || cut_off.ask("health").1["degraded"] == true);
    cable.mend();
    assert!(before.is_closed(SOON * 4), "it is told that its client is elsewhere");
    eventually("it is well again", SOON * 4, || cut_off.ask("health").1["degraded"] == false);
    publish(MESSAGES);
    assert_eq!(back.message().payload, payload(MESSAGES, 2000), "and nothing else has changed");
    back.ping();
}

#[test]
fn what_was_acknowledged_is_not_lost_where_redis_is_cut_off_and_comes_back() {
    let cable = Cable::lay();
    let redis = Redis::on(&cable.far, FAR);
    let broker = Broker::node_on(&cable.near, ADDRESS, &redis);
    let mut subscriber = come(&cable.near, &kept(Version::V5, "subscriber"));
    subscriber.subscribe("t", Qos::AtLeastOnce);
    let mut publisher = on_the_near_machine(&cable, "publisher");
    cable.cut();
    let waiting = thread::spawn(move || {
        let held = Publish { qos: Qos::AtLeastOnce, ..Publish::new("t", &[0; 4]) };
        let reason = publisher.publish_within(SOON * 2, held);
        (publisher, reason)
    });
    eventually("it says that it is cut off", SOON * 2, || broker.ask("health").1["degraded"] == true);
    let refused = cable.near.does(|| Client::refused(ADDRESS, &Connect::new(Version::V5, "new")));
    assert_eq!(refused, ReasonCode::ServerUnavailable);
    cable.mend();
    // It may have waited for longer than a publisher is made to wait.
    let (mut publisher, reason) = waiting.join().unwrap();
    eventually("it is well again", SOON * 4, || broker.ask("health").1["degraded"] == false);
    for number in 1..50_u32 {
        let payload = payload(number, 4);
        assert_eq!(publisher.publish("t", &payload, Qos::AtLeastOnce), ReasonCode::Success);
    }
    let mut came = Vec::new();
    while came.last() != Some(&49) {
        let (number, id, _) = subscriber.expect(numbered);
        subscriber.send(&Packet::PubAck(Ack::new(id)));
        came.push(number);
    }
    let refused = reason.is_failure() && came[0] == 1;
    assert!(came.into_iter().eq(u32::from(refused)..50), "all that was acknowledged comes, once");
    on_the_near_machine(&cable, "new").ping();
}
