//! Certificates that somebody whom we trust has verified: alone, and beside other proofs.

use nsd_wire::{Connect, Packet, Qos, ReasonCode, Version};

use super::acl::password_file;
use super::{Files, as_user};
use crate::listeners::proxies::verified;
use crate::support::{Broker, Client, SOON};

const BAD: ReasonCode = ReasonCode::BadUserNameOrPassword;

fn broker(access: &str) -> Broker {
    Broker::with(&format!("[access]\n{access}"), "proxy_protocol = true\nproxy_from = [\"127.0.0.1\"]")
}

/// Comes with a certificate of this name, or with one that was not verified; the client and what it is told.
fn come(broker: &Broker, certified: Option<&str>, connect: &Connect<'_>) -> (Client, ReasonCode) {
    let mut client = Client::open(broker.address, Version::V5);
    client.send_raw(&verified("203.0.113.7:1111", certified.unwrap_or("forged"), certified.is_some()));
    client.send(&Packet::Connect(*connect));
    let reason = client.expect(|packet| match packet {
        Packet::ConnAck(ack) => Some(ack.reason),
        _ => None,
    });
    assert!(reason == ReasonCode::Success || client.is_closed(SOON));
    (client, reason)
}

#[test]
fn a_certificate_alone_suffices() {
    let broker = broker("certificate = \"user\"");
    let nameless = Connect::new(Version::V5, "c");
    let (mut client, reason) = come(&broker, Some("pump-7"), &nameless);
    assert_eq!(reason, ReasonCode::Success);
    assert_eq!(client.subscribe("devices/pump-7/#", Qos::AtMostOnce), ReasonCode::Success);
    assert_eq!(client.subscribe("devices/pump-8/#", Qos::AtMostOnce), ReasonCode::NotAuthorized);
    let named = |name| as_user(Version::V5, name, "whatever");
    assert_eq!(come(&broker, Some("pump-7"), &named("pump-7")).1, ReasonCode::Success);
    assert_eq!(come(&broker, Some("pump-7"), &named("pump-8")).1, BAD);
    assert_eq!(come(&broker, None, &nameless).1, ReasonCode::NotAuthorized);
    assert_eq!(come(&broker, None, &named("pump-7")).1, ReasonCode::NotAuthorized);
    // A certificate can name anything: it stays a name, and no filter.
    let (mut client, reason) = come(&broker, Some("+"), &nameless);
    assert_eq!(reason, ReasonCode::Success);
    assert_eq!(client.subscribe("devices/+/x", Qos::AtMostOnce), ReasonCode::NotAuthorized);
}

#[test]
fn a_certificate_may_have_to_agree() {
    let files = Files::new();
    let passwords = password_file(&files, &["anna", "bert"]);
    let broker = broker(&format!("certificate = \"also\"\npassword_file = \"{passwords}\""));
    let anna = as_user(Version::V5, "anna", "anna");
    assert_eq!(come(&broker, Some("anna"), &anna).1, ReasonCode::Success);
    assert_eq!(come(&broker, Some("bert"), &anna).1, BAD, "somebody else's certificate");
    assert_eq!(come(&broker, Some("anna"), &as_user(Version::V5, "anna", "bert")).1, BAD);
    assert_eq!(come(&broker, None, &anna).1, ReasonCode::NotAuthorized);
    let nameless = Connect::new(Version::V5, "c");
    assert_eq!(come(&broker, Some("anna"), &nameless).1, ReasonCode::NotAuthorized, "not alone");
}
