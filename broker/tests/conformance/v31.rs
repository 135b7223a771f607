//! MQTT 3.1: what is different, and that the rest is there.

use crate::answer::Answer;
use crate::client::{Client, Heard, retained, subscriber, unique};
use crate::packet::{self, Connect, PUBACK, PUBREC, PUBREL, Publish, V31, V311, Will, packet};
use crate::suite::{both, each};

/// [MQTT31-3.1] [MQTT31-3.2]
#[test]
fn a_client_id_of_1_to_23_characters_is_let_in() {
    both(|broker| {
        for name in ["a", "01234567890123456789012", "with space & more"] {
            let client = Client::connect(broker, &Connect::new(V31, name));
            assert!(!client.session_present, "3.1 has no such flag");
            client.leave();
        }
    });
}

/// [MQTT31-3.1] [MQTT31-3.2]
#[test]
fn an_empty_client_id_is_refused() {
    both(|broker| {
        for clean in [true, false] {
            let mut client = Client::knock(broker, &Connect { clean, ..Connect::new(V31, "") });
            match client.hear(crate::client::PATIENCE.get()) {
                Heard::Packet(answer) => {
                    let refused = Answer::ConnAck { session_present: false, code: 2, properties: Vec::new() };
                    assert_eq!(answer, refused);
                    client.is_closed();
                }
                heard => assert_eq!(heard, Heard::Closed),
            }
        }
    });
}

/// [MQTT31-3.2]
#[test]
fn the_name_of_3_1_with_another_level_is_refused() {
    both(|broker| {
        for level in [0, 2] {
            let mut client = Client::knock(broker, &Connect { level, ..Connect::new(V31, &unique("c")) });
            match client.hear(crate::client::PATIENCE.get()) {
                Heard::Packet(Answer::ConnAck { code: 1, .. }) => client.is_closed(),
                heard => assert_eq!(heard, Heard::Closed),
            }
        }
    });
}

/// [MQTT31-3.3] [MQTT31-3.4] [MQTT31-3.5] [MQTT31-2.4] [MQTT31-4.1]
#[test]
fn publish_is_answered_as_its_qos_asks() {
    both(|broker| {
        let topic = unique("old");
        let mut listening = subscriber(broker, V31, &topic, 2);
        let mut client = Client::new(broker, V31);
        client.send(&Publish::new(&topic, "0").bytes(V31));
        client.send(&Publish::new(&topic, "1").qos(1).id(7).bytes(V31));
        client.hears(&Answer::PubAck { id: 7, code: 0 });
        client.send(&Publish::new(&topic, "2").qos(2).id(8).bytes(V31));
        client.hears(&Answer::PubRec { id: 8, code: 0 });
        client.send(&packet::ack(PUBREL, 8));
        client.hears(&Answer::PubComp { id: 8, code: 0 });
        for qos in 0..3 {
            assert_eq!(listening.gets(&qos.to_string()).qos, qos);
        }
    });
}

/// [MQTT31-3.8] [MQTT31-3.10] [MQTT31-A] [MQTT31-3.12]
#[test]
fn subscriptions_are_granted_in_order_and_removed() {
    both(|broker| {
        let name = unique("old");
        let mut client = Client::new(broker, V31);
        let (plus, hash) = (format!("{name}/+"), format!("{name}/x/#"));
        assert_eq!(client.subscribe_all(&[(&plus, 2), (&hash, 0)]), [2, 0]);
        client.says(&format!("{name}/a"), "x", 1);
        assert_eq!(client.gets("x").qos, 1);
        client.says(&format!("{name}/x/y/z"), "y", 1);
        assert_eq!(client.gets("y").qos, 0);
        client.unsubscribe(&[&plus]);
        client.says(&format!("{name}/a"), "x", 1);
        client.nothing_comes();
    });
}

/// [MQTT31-3.3] [MQTT31-3.8]
#[test]
fn what_is_retained_comes_with_its_mark() {
    both(|broker| {
        let topic = unique("old");
        let mut client = Client::new(broker, V31);
        client.publish(Publish::new(&topic, "x").qos(1).retained());
        assert!(subscriber(broker, V31, &topic, 0).gets("x").retain);
        client.publish(Publish::new(&topic, "").qos(1).retained());
        assert_eq!(retained(broker, &topic), None);
    });
}

/// [MQTT31-3.1] [MQTT31-3.14]
#[test]
fn a_will_comes_unless_disconnect_did() {
    both(|broker| {
        let topic = unique("old");
        let mut listening = subscriber(broker, V31, &topic, 0);
        let connect = || Connect::new(V31, &unique("w")).will(Will::new(&topic, b"gone"));
        Client::connect(broker, &connect()).leave();
        listening.nothing_comes();
        Client::connect(broker, &connect()).vanish();
        listening.gets("gone");
    });
}

/// [MQTT31-4.2] [MQTT31-3.1]
#[test]
fn what_was_not_acknowledged_comes_again() {
    both(|broker| {
        let (topic, name) = (unique("old"), unique("s"));
        let connect = Connect::new(V31, &name).lasting(60);
        let mut client = Client::connect(broker, &connect);
        client.subscribe(&topic, 2);
        let mut other = Client::new(broker, V311);
        other.says(&topic, "1", 1);
        other.says(&topic, "2", 2);
        let (one, two) = (client.message(), client.message());
        client.vanish();
        let mut client = Client::connect(broker, &connect);
        let again = [client.message(), client.message()];
        assert_eq!([again[0].id, again[1].id], [one.id, two.id]);
        assert!(again.iter().all(|message| message.dup));
        client.send(&packet::ack(PUBACK, one.id));
        client.send(&packet::ack(PUBREC, two.id));
        client.awaits(|answer| *answer == Answer::PubRel { id: two.id, code: 0 });
    });
}

/// [MQTT31-2.1] [MQTT31-2.4] [MQTT31-2.5] [MQTT31-3.3] [MQTT31-A]
#[test]
fn wrong_packets_are_closed_without_a_word() {
    let cases = [
        ("type 0", packet(0x00, &[])),
        ("type 15", packet(0xf0, &[])),
        ("a length of five bytes", vec![0xc0, 0x80, 0x80, 0x80, 0x80, 0x01]),
        ("QoS 3", Publish::new("t", "x").qos(3).id(1).bytes(V31)),
        ("identifier 0", Publish::new("t", "x").qos(1).bytes(V31)),
        ("a topic with a wildcard", Publish::new("t/#", "x").bytes(V31)),
        ("no filter", packet::subscribe(V31, 1, &[], &[])),
        ("half a packet", packet(PUBACK, &[0])),
        ("a topic that is no UTF-8", packet(packet::PUBLISH, &packet::string(b"a\xc3"))),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes));
    both(|broker| {
        each(broker, &[("no filter", "answers with a SUBACK without codes")], cases.clone(), |bytes| {
            let mut client = Client::new(broker, V31);
            client.send(&bytes);
            client.is_closed();
        });
    });
}
