//! Connections as a weapon.

use std::io::Write;
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nsd_wire::{Connect, Packet, Qos, ReasonCode, Version};

use super::{MIB, Siege, connect};
use crate::support::{Broker, Client, SOON, eventually};

#[test]
fn slowloris_on_connect_lasts_until_the_deadline() {
    let siege = Siege::with("connect_deadline = \"2s\"");
    let bytes = connect(Version::V311, &"x".repeat(500));
    let mut sockets: Vec<TcpStream> = (0..400).map(|_| siege.socket()).collect();
    for byte in bytes {
        sockets.retain_mut(|socket| socket.write_all(&[byte]).is_ok());
        if sockets.is_empty() {
            break;
        }
        // The pace of the attack: the whole CONNECT would take 25 seconds.
        sleep(Duration::from_millis(50));
    }
    assert!(sockets.is_empty(), "{} are still waited for", sockets.len());
    siege.end("slowloris: 400 sockets, a byte every 50 ms", 6 * MIB);
}

#[test]
fn half_packets_hold_what_was_sent_and_only_for_a_keep_alive() {
    let siege = Siege::begin();
    let mut half = vec![0x30, 0xf0, 0xff, 0x3f, 0x00, 0x01, b'h'];
    half.resize(64 * 1024, b'x');
    let mut clients: Vec<Client> = (0..100)
        .map(|number| {
            let connect = Connect { keep_alive: 4, ..Connect::new(Version::V5, "") };
            let client_id = format!("half-{number}");
            let mut client =
                Client::connect(siege.broker.address, &Connect { client_id: &client_id, ..connect });
            client.send_raw(&half);
            client
        })
        .collect();
    for client in &mut clients {
        assert_eq!(client.disconnected(), ReasonCode::KeepAliveTimeout);
    }
    siege.end("half packets: 100 clients, 64 KiB of 1 MiB each", 16 * MIB);
}

#[test]
fn connect_floods_leave_nothing_behind() {
    let siege = Siege::begin();
    let address = siege.broker.address;
    let mute = std::thread::spawn(move || (0..3000).for_each(|_| drop(TcpStream::connect(address))));
    let polite = std::thread::spawn(move || {
        for number in 0..1500 {
            let mut socket = TcpStream::connect(address).unwrap();
            let _ = socket.write_all(&connect(Version::ALL[number % 3], &format!("f{number}")));
        }
    });
    mute.join().unwrap();
    polite.join().unwrap();
    eventually("only the witnesses are left", SOON * 2, || {
        siege.broker.ask("stats").1["clients"].as_u64() == Some(2)
    });
    siege.end("connect floods: 3000 without and 1500 with a CONNECT, as fast as they go", 12 * MIB);
}

#[test]
fn sessions_that_nobody_comes_back_to() {
    let siege = Siege::with("sessions = 502");
    let mut refused = 0;
    for number in 0..700 {
        let client_id = format!("abandoned-{number}");
        let will = Some(nsd_wire::Will::new("gone", b"x"));
        let mut connect = Connect { will, clean_start: false, ..Connect::new(Version::V5, &client_id) };
        connect.properties.session_expiry = Some(u32::MAX);
        let mut client = Client::open(siege.broker.address, Version::V5);
        client.send(&Packet::Connect(connect));
        let reason = client.next(SOON, |packet| match packet {
            Packet::ConnAck(ack) => Some(ack.reason),
            _ => None,
        });
        match reason.unwrap() {
            Some(ReasonCode::Success) => {
                assert!(!client.subscribe(&format!("{number}/#"), Qos::AtLeastOnce).is_failure());
            }
            other => {
                assert_eq!(other, Some(ReasonCode::QuotaExceeded));
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 200, "the witnesses are two of all sessions");
    siege.end("abandoned sessions: 700 ids, 500 of them kept", 6 * MIB);
}

#[test]
fn who_takes_an_id_from_each_other_harms_nobody_else() {
    let siege = Siege::begin();
    let address = siege.broker.address;
    let until = Instant::now() + Duration::from_secs(3);
    let fighters = [Version::V5, Version::V311, Version::V5].map(|version| {
        std::thread::spawn(move || {
            let mut wins = 0;
            while Instant::now() < until || wins < 4 && Instant::now() < until + SOON * 4 {
                let mut client = Client::open(address, version);
                client.send(&Packet::Connect(Connect::new(version, "wanted")));
                let won = client.next(SOON, |packet| matches!(packet, Packet::ConnAck(_)));
                wins += u32::from(won == Ok(true));
                while client.next(Duration::from_millis(100), |_| ()).is_ok() {}
            }
            wins
        })
    });
    let wins = fighters.map(|fighter| fighter.join().unwrap());
    assert!(wins.iter().all(|wins| *wins > 3), "{wins:?}");
    eventually("the last of them is gone", SOON, || {
        siege.broker.ask("stats").1["clients"].as_u64() == Some(2)
    });
    siege.end("an id war: three clients for 3 s", 4 * MIB);
}

#[test]
fn without_files_those_inside_go_on_and_later_all_is_well() {
    let siege = Siege::of(Broker::with_files(160));
    let sockets: Vec<TcpStream> = (0..600).map(|_| siege.socket()).collect();
    let mut outside = Client::open(siege.broker.address, Version::V5);
    outside.send(&Packet::Connect(Connect::new(Version::V5, "outside")));
    let is_in = |client: &mut Client, limit| {
        client.next(limit, |packet| matches!(packet, Packet::ConnAck(_))) == Ok(true)
    };
    assert!(!is_in(&mut outside, Duration::from_millis(500)), "there is no file for it");
    drop(sockets);
    assert!(is_in(&mut outside, SOON), "there is one now");
    siege.end("files exhausted: 600 sockets for 96 places", 4 * MIB);
}
