//! PUBLISH and its answers, from and to a client: identifiers, DUP, what is passed on once and what again.

use crate::answer::Answer;
use crate::client::{Client, Heard, PATIENCE, subscriber, unique};
use crate::packet::{self, BOTH, PUBACK, PUBCOMP, PUBREC, PUBREL, Publish, V5, V311};
use crate::suite::{both, both_but_mosquitto};

/// [MQTT-3.3.4-1] [MQTT-2.3.1-6] [MQTT-4.3.2-2] [MQTT-4.3.3-2] [MQTT5-3.3.4-1] [MQTT5-2.2.1-5] [MQTT5-4.3.2-4]
/// [MQTT5-4.3.3-8] [MQTT5-4.3.3-11] [MQTT5-3.4.2-1] [MQTT5-3.5.2-1] [MQTT5-3.7.2-1] [MQTT5-2.2.1-2] [MQTT-2.3.1-5]
#[test]
fn v311_3_3_4_1_publish_is_answered_as_its_qos_asks() {
    both(|broker| {
        for version in BOTH {
            let topic = unique("answered");
            let mut listening = subscriber(broker, version, &topic, 0);
            let mut client = Client::new(broker, version);
            client.send(&Publish::new(&topic, "x").bytes(version));
            client.ping();
            // An identifier would be taken for a part of what it says, here or by the server.
            listening.gets("x");
            for id in [1, 0x1234, 0xffff] {
                client.send(&Publish::new(&topic, "x").qos(1).id(id).bytes(version));
                let answer = client.answer();
                assert!(
                    matches!(answer, Answer::PubAck { id: same, code: 0 | 0x10 } if same == id),
                    "{answer:?}"
                );
                client.send(&Publish::new(&topic, "x").qos(2).id(id).bytes(version));
                let answer = client.answer();
                assert!(
                    matches!(answer, Answer::PubRec { id: same, code: 0 | 0x10 } if same == id),
                    "{answer:?}"
                );
                client.send(&packet::ack(PUBREL, id));
                client.hears(&Answer::PubComp { id, code: 0 });
            }
        }
    });
}

/// [MQTT-4.3.2-2] [MQTT5-4.3.2-5]
#[test]
fn v311_4_3_2_2_after_puback_the_identifier_is_a_new_message_whatever_dup_says() {
    both(|broker| {
        for version in BOTH {
            let topic = unique("again");
            let mut listening = subscriber(broker, V311, &topic, 0);
            let mut client = Client::new(broker, version);
            for _ in 0..2 {
                client.send(&Publish::new(&topic, "x").qos(1).id(5).again().bytes(version));
                client.hears(&Answer::PubAck { id: 5, code: 0 });
                listening.gets("x");
            }
        }
    });
}

/// [MQTT-4.3.3-2] [MQTT5-4.3.3-10] [MQTT5-4.3.3-12]
#[test]
fn v311_4_3_3_2_until_pubrel_the_same_identifier_is_the_same_message() {
    both(|broker| {
        for version in BOTH {
            let topic = unique("once");
            let mut listening = subscriber(broker, V311, &topic, 0);
            let mut client = Client::new(broker, version);
            for _ in 0..2 {
                for dup in [false, true] {
                    let publish = Publish { dup, ..Publish::new(&topic, "x").qos(2).id(5) };
                    client.send(&publish.bytes(version));
                    client.hears(&Answer::PubRec { id: 5, code: 0 });
                }
                client.send(&packet::ack(PUBREL, 5));
                client.hears(&Answer::PubComp { id: 5, code: 0 });
                listening.gets("x");
                listening.nothing_comes();
            }
        }
    });
}

/// [MQTT-4.3.3-2] [MQTT5-4.3.3-10]
#[test]
fn v5_4_3_3_10_however_often_it_comes() {
    both_but_mosquitto("ends the connection when the same message comes for the third time", |broker| {
        let topic = unique("often");
        let mut client = Client::new(broker, V5);
        for _ in 0..5 {
            client.send(&Publish::new(&topic, "x").qos(2).id(5).again().bytes(V5));
            client.hears(&Answer::PubRec { id: 5, code: 0 });
        }
    });
}

/// [MQTT-4.3.3-2] [MQTT5-4.3.3-11] [MQTT5-3.7.2-1]
#[test]
fn v311_4_3_3_2_a_pubrel_of_nothing_is_answered() {
    both(|broker| {
        for version in BOTH {
            let mut client = Client::new(broker, version);
            client.send(&packet::ack(PUBREL, 77));
            let answer = client.answer();
            assert!(matches!(answer, Answer::PubComp { id: 77, code: 0 | 0x92 }), "{answer:?}");
            client.ping();
        }
    });
}

/// [MQTT5-3.6.2-1]
#[test]
fn v5_3_6_2_1_a_pubrec_of_nothing_gets_pubrel_not_found() {
    both_but_mosquitto("releases what it never sent", |broker| {
        let mut client = Client::new(broker, V5);
        client.send(&packet::ack(PUBREC, 77));
        client.hears(&Answer::PubRel { id: 77, code: 0x92 });
        client.ping();
    });
}

/// [MQTT-2.3.1-1] [MQTT-4.3.1-1] [MQTT-4.3.2-1] [MQTT-4.3.3-1] [MQTT-3.3.1-2] [MQTT-3.3.1-3] [MQTT5-2.2.1-4]
/// [MQTT5-4.3.1-1] [MQTT5-4.3.2-1] [MQTT5-4.3.2-2] [MQTT5-4.3.3-1] [MQTT5-4.3.3-2] [MQTT5-3.3.1-2] [MQTT5-3.3.1-3]
#[test]
fn v311_3_3_1_3_dup_is_not_passed_on_and_identifiers_in_use_are_not_given_again() {
    both(|broker| {
        for version in BOTH {
            let topic = unique("dup");
            let mut listening = subscriber(broker, version, &topic, 2);
            let mut client = Client::new(broker, V311);
            for qos in [1, 2, 1, 2] {
                client.publish(Publish::new(&topic, "x").qos(qos).again());
            }
            let mut ids = Vec::new();
            for qos in [1, 2, 1, 2] {
                let message = listening.message();
                assert!(
                    !message.dup && message.qos == qos && !ids.contains(&message.id),
                    "{message:?} {ids:?}"
                );
                ids.push(message.id);
            }
            client.publish(Publish::new(&topic, "at most once"));
            listening.gets("at most once");
        }
    });
}

/// [MQTT-4.3.3-1] [MQTT-2.3.1-6] [MQTT5-4.3.3-4] [MQTT5-2.2.1-5]
#[test]
fn v311_4_3_3_1_pubrec_is_followed_by_pubrel_as_often_as_it_comes() {
    both(|broker| {
        for version in BOTH {
            let topic = unique("released");
            let mut listening = subscriber(broker, version, &topic, 2);
            Client::new(broker, V311).says(&topic, "x", 2);
            let id = listening.message().id;
            for _ in 0..2 {
                listening.send(&packet::ack(PUBREC, id));
                listening.hears(&Answer::PubRel { id, code: 0 });
            }
            listening.send(&packet::ack(PUBCOMP, id));
            listening.nothing_comes();
        }
    });
}

/// [MQTT5-4.3.3-4] [MQTT5-4.4.0-2] [MQTT5-3.3.4-9]
#[test]
fn v5_4_3_3_4_a_refusing_pubrec_ends_the_exchange() {
    both(|broker| {
        let topic = unique("norelease");
        // A window of one shows that the message is over.
        let mut listening = Client::with(broker, &[packet::short(packet::id::RECEIVE_MAXIMUM, 1)]);
        listening.subscribe(&topic, 2);
        let mut client = Client::new(broker, V311);
        client.says(&topic, "first", 2);
        client.says(&topic, "second", 2);
        let first = listening.message();
        assert_eq!(first.text(), "first");
        listening.send(&packet::ack_because(PUBREC, first.id, 0x83));
        listening.gets("second");
    });
}

/// [MQTT5-4.4.0-2] [MQTT5-3.3.4-9]
#[test]
fn v5_4_4_0_2_a_refusing_puback_acknowledges() {
    both(|broker| {
        let topic = unique("refused");
        let mut listening = Client::with(broker, &[packet::short(packet::id::RECEIVE_MAXIMUM, 1)]);
        listening.subscribe(&topic, 1);
        let mut client = Client::new(broker, V311);
        client.says(&topic, "first", 1);
        client.says(&topic, "second", 1);
        let first = listening.message();
        listening.send(&packet::ack_because(PUBACK, first.id, 0x80));
        listening.gets("second");
    });
}

/// [MQTT-4.4.0-1] [MQTT5-4.4.0-1]
#[test]
fn v5_4_4_0_1_nothing_is_sent_again_while_the_connection_lasts() {
    both(|broker| {
        for version in BOTH {
            let topic = unique("patient");
            let mut listening = subscriber(broker, version, &topic, 2);
            let mut client = Client::new(broker, V311);
            client.says(&topic, "one", 1);
            client.says(&topic, "two", 2);
            let (one, two) = (listening.message(), listening.message());
            listening.send(&packet::ack(PUBREC, two.id));
            listening.hears(&Answer::PubRel { id: two.id, code: 0 });
            listening.nothing_comes();
            listening.send(&packet::ack(PUBACK, one.id));
            listening.send(&packet::ack(PUBCOMP, two.id));
            listening.nothing_comes();
        }
    });
}

/// Sends them all at once, as many as any server takes, and brings them to their end.
fn publish_at_once(client: &mut Client, publishes: &[Publish]) {
    client.send(&publishes.iter().flat_map(|publish| publish.bytes(V5)).collect::<Vec<_>>());
    let mut open = publishes.iter().filter(|publish| publish.qos > 0).count();
    while open > 0 {
        match client.answer() {
            Answer::PubRec { id, .. } => client.send(&packet::ack(PUBREL, id)),
            Answer::PubAck { .. } | Answer::PubComp { .. } => open -= 1,
            other => panic!("{other:?}"),
        }
    }
}

/// [MQTT-4.6.0-5] [MQTT-4.6.0-6] [MQTT5-4.6.0-5] [MQTT5-4.6.0-6] [MQTT-7.1.1-1] [MQTT5-4.2.0-1]
#[test]
fn v311_4_6_0_6_messages_of_one_client_keep_their_order() {
    both(|broker| {
        for qos in 0..3 {
            let topic = unique("order");
            let mut listening = subscriber(broker, V311, &topic, qos);
            let mut client = Client::new(broker, V5);
            let numbered = |number: u16| Publish::new(&topic, number.to_string()).qos(qos).id(number + 1);
            let all: Vec<_> = (0..60).map(numbered).collect();
            all.chunks(10).for_each(|some| publish_at_once(&mut client, some));
            for number in 0..60 {
                listening.gets(&number.to_string());
            }
        }
    });
}

/// [MQTT-4.5.0-1] [MQTT5-4.5.0-1] [MQTT-7.0.0-2]
#[test]
fn v311_4_5_0_1_every_version_reaches_every_other_at_every_qos() {
    both(|broker| {
        for from in packet::ALL {
            for to in packet::ALL {
                let topic = unique("versions");
                let mut listening = subscriber(broker, to, &topic, 2);
                let mut client = Client::new(broker, from);
                for qos in 0..3 {
                    client.says(&topic, "x", qos);
                    let message = listening.gets("x");
                    assert_eq!((&*message.topic, message.qos, message.retain), (&*topic, qos, false));
                }
            }
        }
    });
}

/// Topics of the server that no client may write to, in both brokers.
pub(crate) const NOT_OURS: &str = "$SYS/refused";

/// [MQTT-3.3.5-2] [MQTT5-3.3.4-1] [MQTT5-3.4.2-1] [MQTT5-3.5.2-1]
#[test]
fn v311_3_3_5_2_who_may_not_publish_is_answered_as_usual_or_closed() {
    both(|broker| {
        for qos in [1, 2] {
            let mut client = Client::new(broker, V311);
            client.send(&Publish::new(NOT_OURS, "x").qos(qos).id(1).bytes(V311));
            let usual =
                if qos == 1 { Answer::PubAck { id: 1, code: 0 } } else { Answer::PubRec { id: 1, code: 0 } };
            let heard = client.hear(PATIENCE.get());
            assert!([Heard::Closed, Heard::Packet(usual)].contains(&heard), "{heard:?}");
            let mut client = Client::new(broker, V5);
            client.send(&Publish::new(NOT_OURS, "x").qos(qos).id(1).bytes(V5));
            let answer = client.answer();
            let refused =
                matches!(answer, Answer::PubAck { code: 0x87, .. } | Answer::PubRec { code: 0x87, .. });
            assert!(refused, "{answer:?}");
        }
    });
}

/// [MQTT5-4.3.3-9]
#[test]
fn v5_4_3_3_9_after_a_refusing_pubrec_the_identifier_is_free() {
    both(|broker| {
        let topic = unique("free");
        let mut listening = subscriber(broker, V311, &topic, 0);
        let mut client = Client::new(broker, V5);
        client.send(&Publish::new(NOT_OURS, "x").qos(2).id(7).bytes(V5));
        client.hears(&Answer::PubRec { id: 7, code: 0x87 });
        client.send(&Publish::new(&topic, "y").qos(2).id(7).bytes(V5));
        client.hears(&Answer::PubRec { id: 7, code: 0 });
        client.send(&packet::ack(PUBREL, 7));
        client.hears(&Answer::PubComp { id: 7, code: 0 });
        listening.gets("y");
    });
}

/// [MQTT-2.3.1-4] [MQTT5-2.2.1-4] [MQTT5-2.2.1-5]
#[test]
fn v311_2_3_1_4_both_directions_have_identifiers_of_their_own() {
    both(|broker| {
        for version in BOTH {
            let topic = unique("same");
            let mut client = subscriber(broker, version, &topic, 2);
            Client::new(broker, V311).says(&topic, "in", 2);
            let id = client.message().id;
            // The same identifier, now for a message of the client.
            let other = unique("other");
            client.send(&Publish::new(&other, "out").qos(2).id(id).bytes(version));
            let answer = client.answer();
            assert!(
                matches!(answer, Answer::PubRec { id: same, code: 0 | 0x10 } if same == id),
                "{answer:?}"
            );
            client.send(&packet::ack(PUBREC, id));
            client.hears(&Answer::PubRel { id, code: 0 });
            client.send(&packet::ack(PUBREL, id));
            client.hears(&Answer::PubComp { id, code: 0 });
            client.send(&packet::ack(PUBCOMP, id));
            client.nothing_comes();
        }
    });
}

/// [MQTT-3.3.1-2] [MQTT5-3.3.1-2]
#[test]
fn v311_3_3_1_2_dup_at_qos_0_is_refused_or_not_passed_on() {
    both(|broker| {
        for version in BOTH {
            let topic = unique("dupzero");
            let mut listening = subscriber(broker, V311, &topic, 0);
            let mut client = Client::new(broker, version);
            client.send(&Publish::new(&topic, "x").again().bytes(version));
            client.send(&packet::packet(packet::PINGREQ, &[]));
            match client.hear(PATIENCE.get()) {
                Heard::Packet(Answer::PingResp) => assert!(!listening.gets("x").dup),
                Heard::Packet(Answer::Disconnect { code, .. }) => assert!([0x81, 0x82].contains(&code)),
                heard => assert_eq!(heard, Heard::Closed),
            }
        }
    });
}
