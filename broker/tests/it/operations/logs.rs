//! Logs as a collector reads them: every line is whole and the broker's own, whatever clients call themselves.

use nsd_wire::{Connect, Packet, Publish, Qos, ReasonCode, Subscribe, SubscribeFilter, Version};
use serde_json::Value;

use crate::support::{Broker, Client, SOON, eventually};

/// Names that would be lines of their own if they were written as they are.
const HOSTILE: [&str; 3] = [
    "a\n{\"timestamp\":\"x\",\"level\":\"ERROR\",\"message\":\"forged\"}\n",
    "b\r\n2026-01-01T00:00:00Z ERROR forged\r\n",
    "c\"},\"message\":\"forged\u{1b}[2J\u{2028}\u{85}",
];

/// Everything of a client that is logged: that it came, what it did wrong, that it left, that it was refused.
fn visit(broker: &Broker, name: &str) {
    let mut client = Client::connect(broker.address, &Connect::new(Version::V5, name));
    let packet_id = client.id();
    let filters = [SubscribeFilter { filter: name, options: Qos::AtMostOnce.into() }];
    client.send(&Packet::Subscribe(Subscribe::new(packet_id, &filters)));
    client.expect(|packet| matches!(packet, Packet::SubAck(_)).then_some(()));
    client.publish_as(Publish { qos: Qos::AtLeastOnce, ..Publish::new(&format!("$SYS/{name}"), b"x") });
    client.send(&Packet::PubRel(nsd_wire::Ack::new(packet_id)));
    client.disconnect();
    let user =
        Connect { user_name: Some(name), password: Some(b"wrong"), ..Connect::new(Version::V311, name) };
    assert_eq!(Client::refused(broker.address, &user), ReasonCode::BadUserNameOrPassword);
}

fn started(format: &str) -> Broker {
    let files = tempfile::tempdir().unwrap();
    let passwords = files.path().join("passwords");
    std::fs::write(&passwords, "").unwrap();
    Broker::start(&format!(
        "allow_anonymous = true\n[log]\nformat = \"{format}\"\n[access]\npassword_file = \"{}\"",
        passwords.display()
    ))
}

#[test]
fn every_line_of_json_is_whole_and_no_client_writes_one() {
    let broker = started("json");
    HOSTILE.iter().for_each(|name| visit(&broker, name));
    // A name that has nothing to hide, last.
    visit(&broker, "lamp");
    let lines = || -> Vec<Value> {
        let log = broker.log();
        let whole = &log[..log.rfind('\n').map_or(0, |end| end + 1)];
        whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect()
    };
    let of = |name: &str, message: &str| {
        lines().iter().any(|line| line["client"] == name && line["message"] == message)
    };
    for name in HOSTILE.into_iter().chain(["lamp"]) {
        for message in ["connected", "left", "refused"] {
            eventually("it is logged", SOON, || of(name, message));
        }
    }
    for line in lines() {
        assert!(humantime::parse_rfc3339(line["timestamp"].as_str().unwrap()).is_ok(), "{line}");
        assert!(["ERROR", "WARN", "INFO", "DEBUG"].contains(&line["level"].as_str().unwrap()), "{line}");
        assert!(line["target"].is_string(), "{line}");
        assert_ne!(line["message"], "forged", "{line}");
    }
}

#[test]
fn no_client_writes_a_line_of_text_either() {
    let broker = started("text");
    HOSTILE.iter().for_each(|name| visit(&broker, name));
    visit(&broker, "lamp");
    eventually("it is logged", SOON, || {
        broker.log().contains("refused peer") && broker.log().contains("lamp")
    });
    let log = broker.log();
    assert!(log.contains("forged"), "the names are there");
    // The last line may still be written.
    for line in log[..log.rfind('\n').unwrap()].lines() {
        let time = line.split(' ').next().unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "{line:?}");
        assert!(!line.contains(|one: char| one.is_control()), "{line:?}");
        assert!(!line.split_whitespace().nth(2).unwrap().starts_with("forged"), "{line:?}");
    }
}
