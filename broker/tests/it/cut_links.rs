//! Half-open peers: what becomes of clients on a machine that nothing comes from any more, and of those who talk to them.

use std::net::{SocketAddr, SocketAddrV4};
use std::thread;

use nsd_wire::{Ack, Connect, Packet, PacketId, Publish, Qos, ReasonCode, Version, Will};

use crate::support::cable::{Cable, Machine, NEAR};
use crate::support::{Broker, Client, SOON, eventually};

const ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(NEAR, 1883));
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
    let mut client = machine.does(|| Client::open(ADDRESS, connect.version));
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
