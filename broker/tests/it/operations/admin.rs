//! The admin socket and its commands, as people and scripts use them.

use nsd_wire::{Connect, Packet, Publish, Qos, ReasonCode, Version};

use crate::support::{Broker, Client, SOON, eventually};

#[test]
fn sessions_come_in_pages_and_tell_who_is_there() {
    let broker = Broker::anonymous();
    let _clients: Vec<_> =
        (0..25).map(|number| broker.client(Version::V5, &format!("lamp-{number:02}"))).collect();
    let _other = broker.client(Version::V311, "eye");
    let (mut seen, mut after) = (Vec::new(), None::<String>);
    loop {
        let mut words = vec!["sessions", "--json", "--prefix", "lamp-", "--limit", "10"];
        if let Some(after) = &after {
            words.extend(["--after", after]);
        }
        let (code, out, _) = broker.admin(&words);
        assert_eq!(code, 0);
        let page: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&page["total"], &page["matching"]), (&26.into(), &25.into()));
        let ids = page["sessions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|session| session["client"].as_str().unwrap().to_owned());
        seen.extend(ids);
        after = page["next"].as_str().map(str::to_owned);
        if after.is_none() {
            break;
        }
    }
    let expected: Vec<_> = (0..25).map(|number| format!("lamp-{number:02}")).collect();
    assert_eq!(seen, expected);
    let (_, out, _) = broker.admin(&["sessions", "--state", "offline"]);
    assert!(out.contains("0 of 0 shown; 26 sessions, 26 connected, 0 offline"), "{out}");
    let (code, _, complaint) = broker.admin(&["sessions", "--limit", "0"]);
    assert_eq!((code, complaint.as_str()), (1, "nsd-broker: limit: must be between 1 and 10000\n"));
}

#[test]
fn one_client_is_described_without_its_secrets() {
    let broker = Broker::anonymous();
    let connect = Connect {
        keep_alive: 77,
        user_name: Some("karl"),
        password: Some(b"hush"),
        ..Connect::new(Version::V311, "a/b c&d")
    };
    let mut client = Client::connect(broker.address, &connect);
    client.subscribe("x/#", Qos::AtLeastOnce);
    client.subscribe("y/+", Qos::AtMostOnce);
    // Sent, and not acknowledged.
    client.send(&Packet::Publish(Publish {
        qos: Qos::AtLeastOnce,
        packet_id: nsd_wire::PacketId::new(9),
        ..Publish::new("x/1", b"hushed")
    }));
    eventually("it is in flight", SOON, || {
        broker.admin(&["who", "a/b c&d", "--json"]).1.contains("\"in_flight\": 1")
    });
    let (code, out, _) = broker.admin(&["who", "a/b c&d"]);
    assert_eq!(code, 0);
    for told in ["a/b c&d: connected", "karl", "3.1.1", "77 s", "QoS 1  x/#", "QoS 0  y/+"] {
        assert!(out.contains(told), "{told}\n{out}");
    }
    assert!(!out.contains("hush"), "{out}");
    let (code, _, complaint) = broker.admin(&["who", "nobody"]);
    assert_eq!((code, complaint.as_str()), (1, "nsd-broker: no such client here\n"));
}

#[test]
fn a_kicked_client_hears_why_and_may_come_back() {
    let broker = Broker::anonymous();
    let mut client = broker.client(Version::V5, "lamp");
    let mut other = broker.client(Version::V5, "other");
    assert_eq!(broker.admin(&["kick", "lamp"]).1, "lamp: sent away\n");
    assert_eq!(client.disconnected(), ReasonCode::AdministrativeAction);
    assert!(client.is_closed(SOON));
    other.ping();
    broker.client(Version::V5, "lamp").ping();
    assert_eq!(broker.admin(&["kick", "nobody"]).0, 1);
}

/// A v5 client whose session outlives its connection.
fn lasting(broker: &Broker, id: &str) -> Client {
    let mut connect = Connect { clean_start: false, ..Connect::new(Version::V5, id) };
    connect.properties.session_expiry = Some(3600);
    Client::connect(broker.address, &connect)
}

#[test]
fn a_session_without_its_client_is_shown_with_what_waits_for_it() {
    let broker = Broker::anonymous();
    let mut away = lasting(&broker, "away");
    away.subscribe("t/#", Qos::AtLeastOnce);
    away.disconnect();
    let mut publisher = broker.client(Version::V311, "p");
    eventually("it is away", SOON, || broker.ask("stats").1["sessions_offline"] == 1);
    for _ in 0..3 {
        publisher.publish_as(Publish { qos: Qos::AtLeastOnce, ..Publish::new("t/x", b"12345") });
    }
    let (_, out, _) = broker.admin(&["sessions", "--state", "offline"]);
    assert!(
        out.contains("away") && out.contains("1 of 1 shown; 2 sessions, 1 connected, 1 offline"),
        "{out}"
    );
    let who: serde_json::Value = serde_json::from_str(&broker.admin(&["who", "away", "--json"]).1).unwrap();
    assert_eq!(
        (&who["connected"], &who["queued"], &who["subscriptions"]),
        (&false.into(), &3.into(), &1.into())
    );
    assert_eq!(who["filters"][0]["filter"], "t/#");
    assert_eq!(broker.admin(&["kick", "away"]).1, "away: is not connected\n");
    assert_eq!(
        broker.admin(&["kick", "away", "--session"]).1,
        "away: was not connected, its session is over\n"
    );
    assert_eq!(broker.admin(&["who", "away"]).0, 1);
    assert_eq!(broker.ask("stats").1["queued"], 0);
}

#[test]
fn a_kick_that_ends_the_session_leaves_nothing_of_it() {
    let broker = Broker::anonymous();
    let mut client = lasting(&broker, "lamp");
    client.subscribe("t", Qos::AtLeastOnce);
    assert_eq!(broker.admin(&["kick", "lamp", "--session"]).1, "lamp: sent away, its session is over\n");
    assert_eq!(client.disconnected(), ReasonCode::AdministrativeAction);
    assert_eq!(broker.admin(&["who", "lamp"]).0, 1);
    // And without it, the session waits.
    let mut client = lasting(&broker, "lamp");
    client.subscribe("t", Qos::AtLeastOnce);
    assert_eq!(broker.admin(&["kick", "lamp"]).1, "lamp: sent away\n");
    assert_eq!(client.disconnected(), ReasonCode::AdministrativeAction);
    eventually("it is away", SOON, || broker.admin(&["who", "lamp"]).1.starts_with("lamp: offline"));
}

#[test]
fn what_clients_call_themselves_does_not_reach_the_terminal_as_it_is() {
    let broker = Broker::anonymous();
    let _odd = broker.client(Version::V311, "\u{1b}[2Jx\u{9}\u{9b}31m");
    let out = broker.admin(&["sessions"]).1;
    assert!(out.contains("\\u{1b}[2Jx\\t\\u{9b}31m"), "{out:?}");
    assert!(!out.contains(['\u{1b}', '\u{9b}', '\t']));
}

#[test]
fn retained_messages_are_listed_without_payloads_and_deleted_by_filter() {
    let broker = Broker::anonymous();
    let mut client = broker.client(Version::V5, "c");
    for topic in ["a/1", "a/2", "b/1"] {
        client.retain(topic, b"hush", Qos::AtLeastOnce);
    }
    client.subscribe("a/+", Qos::AtMostOnce);
    client.message();
    client.message();
    let out = broker.admin(&["retained", "a/#"]).1;
    assert!(
        out.contains("a/1") && out.contains("2 shown") && !out.contains("b/1") && !out.contains("hush"),
        "{out}"
    );
    let page: serde_json::Value =
        serde_json::from_str(&broker.admin(&["retained", "--limit", "2", "--json"]).1).unwrap();
    assert_eq!(page["next"], "a/2");
    let rest = broker.admin(&["retained", "--limit", "2", "--after", "a/2"]).1;
    assert!(rest.contains("b/1") && rest.contains("1 shown"), "{rest}");
    assert_eq!(broker.admin(&["retained", "--delete", "a/#"]).1, "2 deleted\n");
    assert!(client.message().payload.is_empty(), "who listens hears of it");
    assert_eq!(broker.ask("stats").1["retained"], 1);
    assert_eq!(broker.admin(&["retained", "a/#/b"]).0, 1);
    assert_eq!(
        broker.admin(&["retained", "--delete", "$SYS/#"]).1,
        "0 deleted\n",
        "the broker's own are its own"
    );
}

#[test]
fn stats_count_what_happens() {
    let broker = Broker::anonymous();
    let mut client = broker.client(Version::V5, "c");
    client.subscribe("t", Qos::AtLeastOnce);
    let mut publisher = broker.client(Version::V31, "p");
    publisher.publish_as(Publish { qos: Qos::AtLeastOnce, ..Publish::new("t", b"12345") });
    client.message();
    let bad = Connect { user_name: None, ..Connect::new(Version::V31, "") };
    assert_eq!(Client::refused(broker.address, &bad), ReasonCode::ClientIdentifierNotValid);
    drop(std::net::TcpStream::connect(broker.address).unwrap());
    client.send(&Packet::Disconnect(nsd_wire::Disconnect::new(ReasonCode::Success)));
    drop(client);
    let lost = broker.client(Version::V311, "lost");
    drop(lost);
    eventually("all of it is counted", SOON, || {
        let stats = broker.ask("stats").1;
        stats["clients"] == 1
            && stats["connects"] == 3
            && stats["refused"] == 1
            && stats["refused_by_reason"]["client identifier not valid"] == 1
            && stats["ends"]["by client"] == 1
            && stats["ends"]["lost"] == 1
            && stats["closed_early"]["no_connect"].as_u64() >= Some(1)
            && stats["messages"]["received_by_qos"] == serde_json::json!([0, 1, 0])
            && stats["messages"]["delivered_by_qos"] == serde_json::json!([0, 1, 0])
            && stats["connects_by_version"]["3.1.1"] == 1
            && stats["listeners"][0]["open"] == 1
    });
    let stats = broker.ask("stats").1;
    assert!(
        stats["bytes"]["received"].as_u64() > Some(50) && stats["bytes"]["sent"].as_u64() > Some(20),
        "{stats}"
    );
}

#[test]
fn no_broker_is_told_apart_from_a_broker_that_says_no() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_nsd-broker"))
        .args(["admin", "--socket", "/nowhere/broker.sock", "health"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(69));
    assert!(output.stdout.is_empty());
    assert!(
        String::from_utf8_lossy(&output.stderr)
            .starts_with("nsd-broker: no server answers at /nowhere/broker.sock")
    );
}

#[test]
fn the_logs_level_changes_while_it_runs() {
    let broker = Broker::anonymous();
    assert_eq!(broker.admin(&["log", "warn"]).0, 0);
    drop(broker.client(Version::V5, "quiet"));
    eventually("it is gone", SOON, || broker.ask("stats").1["clients"] == 0);
    assert_eq!(broker.admin(&["log", "nsd_broker=debug"]).1, "logging at `nsd_broker=debug`\n");
    drop(broker.client(Version::V5, "loud"));
    eventually("it is logged", SOON, || broker.log().contains("client=\"loud\""));
    assert!(!broker.log().contains("quiet"));
    assert_eq!(broker.admin(&["log", "nsd_broker=shout"]).0, 1);
}

#[test]
fn certificates_tell_when_they_end() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.pem");
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(["one.example".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2199, 1, 2);
    let signed = params.self_signed(&key).unwrap();
    std::fs::write(&file, format!("{}{}", signed.pem(), key.serialize_pem())).unwrap();
    let broker = Broker::listening(&format!("tls = {{ certificates = [\"{}\"] }}", file.display()));
    let (code, out, _) = broker.admin(&["certificates"]);
    assert_eq!(code, 0);
    assert!(out.contains("one.example") && out.contains("2199-01-02T00:00:00Z"), "{out}");
    std::fs::write(&file, "no certificate").unwrap();
    eventually("what is wrong is told beside it", SOON, || {
        let out = broker.admin(&["certificates"]).1;
        out.contains("2199-01-02") && !out.lines().nth(1).unwrap().ends_with('-')
    });
    assert_eq!(Broker::anonymous().admin(&["certificates"]).1, "no listener has certificates\n");
}
