//! PROXY headers: from whom they are taken, and what is believed.

use nsd_edge::proxy_header::{ClientTls, Extras, ProxyHeader, write_v2};
use nsd_wire::{Connect, Packet, Publish, Qos, Version};

use super::saw;
use crate::support::{Broker, Client, Gone, SOON, eventually};

#[test]
fn the_proxy_header_tells_the_clients_address() {
    let broker = Broker::listening("proxy_protocol = true");
    let mut bytes = b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 1883\r\n".to_vec();
    Packet::Connect(Connect::new(Version::V5, "v1")).encode(Version::V5, &mut bytes).unwrap();
    let mut one = Client::open(broker.address, Version::V5);
    one.send_raw(&bytes);
    one.expect(|packet| matches!(packet, Packet::ConnAck(_)).then_some(()));
    one.ping();
    assert!(broker.log().contains("203.0.113.7:40000"), "{}", broker.log());

    let mut two = Client::open(broker.address, Version::V311);
    let header =
        ProxyHeader::proxied("[2001:db8::5]:41000".parse().unwrap(), "[2001:db8::1]:1883".parse().unwrap());
    let mut bytes = Vec::new();
    write_v2(&header, &mut bytes);
    // In pieces, as a network may cut it.
    for byte in bytes {
        two.send_raw(&[byte]);
    }
    two.login(&Connect::new(Version::V311, "v2"));
    assert!(broker.log().contains("[2001:db8::5]:41000"), "{}", broker.log());

    let mut none = Client::open(broker.address, Version::V5);
    none.send(&Packet::Connect(Connect::new(Version::V5, "none")));
    assert_eq!(none.next(SOON * 2, |_| ()), Err(Gone::Closed), "without a header nobody comes in");
    one.publish_as(Publish { qos: Qos::ExactlyOnce, ..Publish::new("t", b"x") });
}

/// A client that a proxy says it has verified.
pub(crate) fn verified(source: &str, name: &str, verified: bool) -> Vec<u8> {
    let tls = ClientTls {
        over_tls: true,
        certificate_now: true,
        verified,
        version: Some("TLSv1.3".to_owned()),
        common_name: Some(name.to_owned()),
        ..ClientTls::default()
    };
    let extras = Box::new(Extras { tls: Some(tls), ..Extras::default() });
    let destination = "192.0.2.1:8883".parse().unwrap();
    let header = ProxyHeader::Proxied { source: source.parse().unwrap(), destination, extras };
    let mut bytes = Vec::new();
    write_v2(&header, &mut bytes);
    bytes
}

fn enter(broker: &Broker, header: &[u8], id: &str) -> Client {
    let mut client = Client::open(broker.address, Version::V5);
    client.send_raw(header);
    client.login(&Connect::new(Version::V5, id));
    client
}

#[test]
fn a_known_proxy_vouches_for_whom_it_has_verified() {
    let broker = Broker::listening("proxy_protocol = true\nproxy_from = [\"127.0.0.0/8\"]");
    enter(&broker, &verified("203.0.113.7:1111", "pump-7", true), "one").ping();
    assert!(saw(&broker, "203.0.113.7:1111", Some("pump-7")), "{}", broker.log());
    enter(&broker, &verified("203.0.113.7:2222", "pump-7", false), "two").ping();
    assert!(saw(&broker, "203.0.113.7:2222", None), "not verified is nobody");
}

#[test]
fn a_name_from_anybody_who_reaches_the_port_is_nobody() {
    let broker = Broker::listening("proxy_protocol = true");
    enter(&broker, &verified("203.0.113.7:1111", "admin", true), "forger").ping();
    assert!(saw(&broker, "203.0.113.7:1111", None), "{}", broker.log());
}

#[test]
fn a_header_from_elsewhere_is_not_even_read() {
    let broker = Broker::listening("proxy_protocol = true\nproxy_from = [\"192.0.2.0/24\"]");
    let mut client = Client::open(broker.address, Version::V5);
    client.try_send_raw(&verified("203.0.113.7:1111", "admin", true));
    assert!(client.is_closed(SOON));
    assert!(!broker.log().contains("203.0.113.7") && broker.log().contains("proxy_from"));
    let (_, status) = broker.ask("stats");
    // The one that looked whether the broker listens was turned away as well.
    assert!(status["listeners"][0]["turned_away"].as_u64().unwrap() >= 2, "{status}");
}

#[test]
fn a_header_that_was_damaged_on_its_way_is_refused() {
    let broker = Broker::listening("proxy_protocol = true\nproxy_from = [\"127.0.0.1\"]");
    let mut bytes = verified("203.0.113.7:1111", "pump-7", true);
    let name = bytes.windows(6).position(|window| window == b"pump-7").unwrap();
    bytes[name] = b'j';
    let mut client = Client::open(broker.address, Version::V5);
    client.try_send_raw(&bytes);
    assert!(client.is_closed(SOON));
    eventually("it says why", SOON, || broker.log().contains("the checksum is wrong"));
}

#[test]
fn rules_about_sources_are_about_the_clients_behind_a_proxy() {
    let broker =
        Broker::listening("proxy_protocol = true\ndeny = [\"203.0.113.0/24\"]\nconnections_per_address = 1");
    let header = |source: &str| format!("PROXY TCP4 {source} 192.0.2.1 40000 1883\r\n").into_bytes();
    let mut first = enter(&broker, &header("198.51.100.1"), "first");
    enter(&broker, &header("198.51.100.2"), "other").ping();
    for source in ["203.0.113.9", "198.51.100.1"] {
        let mut refused = Client::open(broker.address, Version::V5);
        refused.try_send_raw(&header(source));
        assert!(refused.is_closed(SOON), "{source}");
    }
    first.ping();
}
