//! Settings that are read again while the broker runs.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nsd_wire::{ConnAck, Connect, Packet, Publish, Qos, ReasonCode, Version};

use crate::support::{Broker, Client, SOON, eventually, port};

/// Changes the settings at once, as an editor does.
fn change(broker: &Broker, change: impl FnOnce(String) -> String) {
    let file = broker.settings();
    let fresh = file.with_extension("fresh");
    std::fs::write(&fresh, change(std::fs::read_to_string(&file).unwrap())).unwrap();
    std::fs::rename(&fresh, &file).unwrap();
}

fn edit(broker: &Broker, from: &str, to: &str) {
    change(broker, |text| {
        assert!(text.contains(from), "{text}");
        text.replacen(from, to, 1)
    });
}

fn add(broker: &Broker, more: &str) {
    change(broker, |text| text + more);
}

/// What a reload that is asked for tells. Who watches the file may have been quicker: then the log has it.
#[track_caller]
fn reload_tells(broker: &Broker, change: &str) {
    let (code, out, _) = broker.admin(&["reload"]);
    let was_done_before = out == "the settings are the same\n" && broker.log().contains(change);
    assert!(code == 0 && (out == format!("changed: {change}\n") || was_done_before), "{code} {out}");
}

/// What a new v5 client is told about the largest packet.
fn largest_packet(broker: &Broker) -> u32 {
    largest_packet_at(broker.address)
}

fn largest_packet_at(address: SocketAddr) -> u32 {
    let mut client = Client::open(address, Version::V5);
    client.send(&Packet::Connect(Connect::new(Version::V5, "probe")));
    client.expect(|packet| match packet {
        Packet::ConnAck(ConnAck { properties, .. }) => {
            properties.maximum_packet_size.map(std::num::NonZeroU32::get)
        }
        _ => None,
    })
}

#[test]
fn limits_change_for_new_clients_and_old_ones_stay() {
    let broker = Broker::start("allow_anonymous = true\n[limits]\npacket_bytes = 5000");
    let mut old = broker.client(Version::V5, "old");
    assert_eq!(largest_packet(&broker), 5000);
    edit(&broker, "packet_bytes = 5000", "packet_bytes = 2000");
    reload_tells(&broker, "limits.packet_bytes: 5000 → 2000");
    assert_eq!(largest_packet(&broker), 2000);
    // The connection and the limit it was promised are still there.
    assert_eq!(
        old.publish_as(Publish { qos: Qos::AtLeastOnce, ..Publish::new("t", &[b'x'; 4000]) }),
        ReasonCode::Success
    );
    let log = broker.log();
    assert!(
        log.contains("changed, for clients that connect from now on")
            && log.contains("limits.packet_bytes: 5000 → 2000"),
        "{log}"
    );
}

#[test]
fn a_changed_file_is_noticed_and_so_is_a_hangup() {
    let broker = Broker::start("allow_anonymous = true\n[limits]\npacket_bytes = 5000");
    edit(&broker, "packet_bytes = 5000", "packet_bytes = 3000");
    eventually("it is noticed", SOON, || largest_packet(&broker) == 3000);
    // A process that is told knows at once what it would have noticed a little later.
    broker.signal("-HUP");
    eventually("it is heard", SOON, || broker.log().contains("why=\"SIGHUP\""));
    broker.client(Version::V5, "c").ping();
}

#[test]
fn a_bad_file_changes_nothing_and_is_told_with_its_lines() {
    let broker = Broker::start("allow_anonymous = true\n[limits]\npacket_bytes = 5000");
    let mut client = broker.client(Version::V5, "c");
    edit(&broker, "packet_bytes = 5000", "packet_bytes = 2000\nkeep_alive = 70000\n[lmits]");
    let (code, out, _) = broker.admin(&["reload"]);
    assert_eq!(code, 1);
    let file = broker.settings().display().to_string();
    assert_eq!(
        out,
        format!(
            "not in effect: {file}:4: limits.keep_alive: must be between 0 and 65535\n\
             not in effect: {file}:5: lmits: unknown key: did you mean `limits`?\n"
        )
    );
    assert_eq!(largest_packet(&broker), 5000, "nothing of it");
    client.ping();
    let (ready, health) = broker.ask("health");
    assert!(ready && health["degraded"] == true, "{health}");
    assert!(health["reasons"][0].as_str().unwrap().contains(":4: limits.keep_alive"), "{health}");
    std::fs::remove_file(broker.settings()).unwrap();
    assert_eq!(broker.admin(&["reload"]).0, 1);
    std::fs::write(broker.settings(), "").unwrap();
    assert_eq!(broker.admin(&["reload"]).0, 1);
    assert_eq!(largest_packet(&broker), 5000);
    client.ping();
}

#[test]
fn what_is_mended_is_forgotten() {
    let broker = Broker::start("allow_anonymous = true\n[limits]\npacket_bytes = 5000");
    edit(&broker, "5000", "0");
    assert_eq!(broker.admin(&["reload"]).0, 1);
    edit(&broker, "= 0", "= 4000");
    assert_eq!(broker.admin(&["reload"]).0, 0);
    assert_eq!(broker.ask("health").1["degraded"], false);
    assert_eq!(largest_packet(&broker), 4000);
}

#[test]
fn access_changes_for_who_comes_next() {
    let broker = Broker::start("allow_anonymous = true");
    let mut inside = broker.client(Version::V5, "inside");
    edit(&broker, "allow_anonymous = true", "allow_anonymous = false");
    assert_eq!(broker.admin(&["reload"]).0, 0);
    assert_eq!(Client::refused(broker.address, &Connect::new(Version::V5, "c")), ReasonCode::NotAuthorized);
    inside.ping();
    edit(&broker, "allow_anonymous = false", "allow_anonymous = true");
    assert_eq!(broker.admin(&["reload"]).0, 0);
    broker.client(Version::V5, "c").ping();
}

#[test]
fn listeners_come_and_go_and_their_clients_stay() {
    let broker = Broker::start("allow_anonymous = true");
    let mut inside = broker.client(Version::V5, "inside");
    let second: SocketAddr = ([127, 0, 0, 1], port()).into();
    add(&broker, &format!("[[listen]]\naddress = \"{second}\"\n"));
    reload_tells(&broker, &format!("listen[{second}].address: (default) → \"{second}\""));
    let mut through = Client::connect(second, &Connect::new(Version::V5, "through"));
    // The first one asks for something else now: those who come next must send it.
    edit(
        &broker,
        &format!("address = \"{}\"\n", broker.address),
        &format!("address = \"{}\"\nproxy_protocol = true\n", broker.address),
    );
    assert_eq!(broker.admin(&["reload"]).0, 0);
    let mut plain = Client::open(broker.address, Version::V5);
    plain.send(&Packet::Connect(Connect::new(Version::V5, "plain")));
    assert!(plain.is_closed(SOON), "no PROXY header");
    edit(&broker, &format!("[[listen]]\naddress = \"{second}\"\n"), "");
    assert_eq!(broker.admin(&["reload"]).0, 0);
    assert!(TcpStream::connect(second).is_err());
    inside.ping();
    through.ping();
}

#[test]
fn limits_of_one_listener_change_for_its_new_clients_only() {
    let second: SocketAddr = ([127, 0, 0, 1], port()).into();
    let broker = Broker::with(
        "allow_anonymous = true\n[limits]\npacket_bytes = 2000",
        &format!("[listen.limits]\npacket_bytes = 5000\n[[listen]]\naddress = \"{second}\""),
    );
    let both = || (largest_packet(&broker), largest_packet_at(second));
    let mut old = broker.client(Version::V5, "old");
    assert_eq!(both(), (5000, 2000));
    edit(&broker, "packet_bytes = 5000", "packet_bytes = 3000");
    let changed = format!("listen[{}].limits.packet_bytes: 5000 → 3000", broker.address);
    reload_tells(&broker, &changed);
    assert_eq!(both(), (3000, 2000));
    // Of all: not where a listener has its own.
    edit(&broker, "packet_bytes = 2000", "packet_bytes = 2500");
    assert_eq!(broker.admin(&["reload"]).0, 0);
    assert_eq!(both(), (3000, 2500));
    let large = Publish { qos: Qos::AtLeastOnce, ..Publish::new("t", &[b'x'; 4000]) };
    assert_eq!(old.publish_as(large), ReasonCode::Success, "as it was promised");
    edit(&broker, "[listen.limits]\npacket_bytes = 3000\n", "");
    assert_eq!(broker.admin(&["reload"]).0, 0);
    assert_eq!(both(), (2500, 2500));
    let log = broker.log();
    let line = log.lines().find(|line| line.contains(&changed)).expect("it is told");
    assert!(line.contains("changed, for clients that connect from now on"), "{line}");
    assert!(!log.contains("listener changed"), "who is counted there stays counted");
}

#[test]
fn who_is_in_counts_after_a_listener_has_changed_too() {
    let broker = Broker::listening("connections = 2");
    eventually("who looked whether the broker listens is gone", SOON, || {
        let listener = &broker.ask("stats").1["listeners"][0];
        listener["accepted"] == 1 && listener["open"] == 0
    });
    let _inside = ["first", "second"].map(|id| broker.client(Version::V5, id));
    let turned_away = || broker.ask("stats").1["listeners"][0]["turned_away"].as_u64().unwrap();
    for (from, to) in [("connections = 2", "connections = 2\nhandshake_deadline = \"7s\""), ("7s", "8s")] {
        let before = turned_away();
        edit(&broker, from, to);
        assert_eq!(broker.admin(&["reload"]).0, 0);
        assert!(Client::open(broker.address, Version::V5).is_closed(SOON));
        assert_eq!(turned_away(), before + 1);
    }
    edit(&broker, "connections = 2", "connections = 3");
    assert_eq!(broker.admin(&["reload"]).0, 0);
    broker.client(Version::V5, "third").ping();
}

#[test]
fn changed_settings_do_not_end_a_drain() {
    let broker = Broker::start("allow_anonymous = true\n[limits]\npacket_bytes = 5000");
    let second: SocketAddr = ([127, 0, 0, 1], port()).into();
    let _inside = broker.client(Version::V5, "inside");
    assert_eq!(broker.admin(&["drain", "--rate", "1/min"]).0, 0);
    edit(&broker, "packet_bytes = 5000", "packet_bytes = 2000");
    add(&broker, &format!("[[listen]]\naddress = \"{second}\"\n"));
    assert_eq!(broker.admin(&["reload"]).0, 0);
    assert!([broker.address, second].map(TcpStream::connect).iter().all(Result::is_err));
    assert_eq!(broker.admin(&["drain", "--cancel"]).0, 0);
    assert_eq!((largest_packet(&broker), largest_packet_at(second)), (2000, 2000));
}

#[test]
fn an_address_that_cannot_be_had_changes_nothing() {
    let broker = Broker::start("allow_anonymous = true\n[limits]\npacket_bytes = 5000");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let fine = port();
    edit(&broker, "packet_bytes = 5000", "packet_bytes = 2000");
    add(
        &broker,
        &format!(
            "[[listen]]\naddress = \"127.0.0.1:{fine}\"\n[[listen]]\naddress = \"{}\"\n",
            taken.local_addr().unwrap()
        ),
    );
    let (code, out, _) = broker.admin(&["reload"]);
    assert_eq!(code, 1);
    assert!(out.contains("another program listens there already"), "{out}");
    assert!(TcpStream::connect(("127.0.0.1", fine)).is_err(), "not half of it");
    assert_eq!(largest_packet(&broker), 5000);
}

#[test]
fn what_needs_a_restart_is_told_until_it_is_taken_back() {
    let broker = Broker::start("node = \"one\"\nallow_anonymous = true");
    edit(&broker, "node = \"one\"", "node = \"two\"");
    let (code, out, _) = broker.admin(&["reload"]);
    assert_eq!((code, out.as_str()), (0, "needs a restart: node: *** → ***\n"));
    assert_eq!(broker.ask("health").1["needs_restart"].as_array().unwrap().len(), 1);
    assert!(broker.admin(&["health"]).1.contains("needs a restart: node"));
    edit(&broker, "node = \"two\"", "node = \"one\"");
    assert_eq!(broker.admin(&["reload"]).0, 0);
    assert_eq!(broker.ask("health").1["needs_restart"], serde_json::json!([]));
}

#[test]
fn the_metrics_port_and_the_topics_follow() {
    let (first, second) = (port(), port());
    let broker = Broker::start(&format!(
        "allow_anonymous = true\n[sys]\ninterval = \"0s\"\n[metrics]\nlisten = \"127.0.0.1:{first}\""
    ));
    assert!(TcpStream::connect(("127.0.0.1", first)).is_ok());
    let mut dashboard = broker.client(Version::V311, "dashboard");
    dashboard.subscribe("$SYS/broker/version", Qos::AtMostOnce);
    edit(&broker, &first.to_string(), &second.to_string());
    edit(&broker, "\"0s\"", "\"1s\"");
    assert_eq!(broker.admin(&["reload"]).0, 0);
    assert!(TcpStream::connect(("127.0.0.1", second)).is_ok());
    eventually("the old one is closed", SOON, || TcpStream::connect(("127.0.0.1", first)).is_err());
    assert!(dashboard.message_within(SOON).is_some());
    edit(&broker, "\"1s\"", "\"0s\"");
    assert_eq!(broker.admin(&["reload"]).0, 0);
    eventually("nothing is kept", SOON, || {
        let mut late = broker.client(Version::V311, "late");
        late.subscribe("$SYS/#", Qos::AtMostOnce);
        late.message_within(Duration::from_millis(200)).is_none()
    });
}

#[test]
fn without_a_file_there_is_nothing_to_reload() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let mut process = std::process::Command::new(env!("CARGO_BIN_EXE_nsd-broker"))
        .args([
            "--listen",
            &format!("127.0.0.1:{}", port()),
            "--store",
            "memory",
            "--admin-socket",
            &socket.display().to_string(),
        ])
        .spawn()
        .unwrap();
    eventually("it is up", SOON * 4, || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    let ask = |question: &str| {
        let asked = std::process::Command::new(env!("CARGO_BIN_EXE_nsd-broker"))
            .args(["admin", "--socket", &socket.display().to_string(), question])
            .output()
            .unwrap();
        (asked.status.code(), String::from_utf8_lossy(&asked.stderr).into_owned())
    };
    let (code, told) = ask("reload");
    assert_eq!(
        (code, told.as_str()),
        (Some(1), "nsd-broker: the broker was started without a settings file\n")
    );
    assert_eq!(ask("stop").0, Some(0));
    assert!(process.wait().unwrap().success());
}
