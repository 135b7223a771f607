//! What was begun before a connection broke: sent again, finished, never passed on twice.

use std::time::Duration;

use crate::answer::Answer;
use crate::client::{Client, subscriber, unique};
use crate::packet::{
    self, BOTH, Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, Publish, V5, V311, id, long, short,
};
use crate::session::{back, lasting};
use crate::suite::{both, both_but_mosquitto};

/// [MQTT-4.4.0-1] [MQTT-3.3.1-1] [MQTT-2.3.1-4] [MQTT-4.6.0-1] [MQTT5-4.4.0-1] [MQTT5-3.3.1-1] [MQTT5-4.3.2-3]
/// [MQTT5-4.3.3-3] [MQTT5-2.2.1-4]
#[test]
fn v311_4_4_0_1_unacknowledged_messages_come_again_with_dup_and_their_identifiers_in_order() {
    both(|broker| {
        for version in BOTH {
            let (name, topic) = (unique("s"), unique("again"));
            let mut client = lasting(broker, version, &name);
            client.subscribe(&topic, 2);
            let mut other = Client::new(broker, V5);
            for (text, qos) in [("1", 1), ("2", 2), ("3", 1), ("4", 2)] {
                other.says(&topic, text, qos);
            }
            let first: Vec<_> = (0..4).map(|_| client.message()).collect();
            client.send(&packet::ack(PUBACK, first[0].id));
            client.ping();
            client.vanish();
            for _ in 0..2 {
                let mut client = back(broker, version, &name);
                for before in &first[1..] {
                    let again = client.message();
                    assert!(again.dup, "{again:?}");
                    assert_eq!((again.text(), again.id, again.qos), (before.text(), before.id, before.qos));
                }
                client.nothing_comes();
                client.vanish();
            }
        }
    });
}

/// [MQTT-4.4.0-1] [MQTT-4.3.3-1] [MQTT5-4.4.0-1] [MQTT5-4.3.3-5] [MQTT5-4.3.3-6]
#[test]
fn v5_4_3_3_6_after_pubrec_it_is_pubrel_that_comes_again() {
    both(|broker| {
        for version in BOTH {
            let (name, topic) = (unique("s"), unique("released"));
            let mut client = lasting(broker, version, &name);
            client.subscribe(&topic, 2);
            Client::new(broker, V5).says(&topic, "x", 2);
            let id = client.message().id;
            client.send(&packet::ack(PUBREC, id));
            client.hears(&Answer::PubRel { id, code: 0 });
            client.vanish();
            let mut client = back(broker, version, &name);
            client.hears(&Answer::PubRel { id, code: 0 });
            client.send(&packet::ack(PUBCOMP, id));
            client.nothing_comes();
            client.leave();
            back(broker, version, &name).nothing_comes();
        }
    });
}

/// [MQTT5-4.4.0-2]
#[test]
fn v5_4_4_0_2_what_was_refused_does_not_come_again() {
    both(|broker| {
        let (name, topic) = (unique("s"), unique("refused"));
        let mut client = lasting(broker, V5, &name);
        client.subscribe(&topic, 2);
        let mut other = Client::new(broker, V5);
        for (qos, first) in [(1, PUBACK), (2, PUBREC)] {
            other.says(&topic, "x", qos);
            let id = client.message().id;
            client.send(&packet::ack_because(first, id, 0x83));
        }
        client.nothing_comes();
        client.vanish();
        back(broker, V5, &name).nothing_comes();
    });
}

/// [MQTT-4.3.3-2] [MQTT5-4.3.3-10]
#[test]
fn v311_4_3_3_2_a_message_sent_again_after_reconnecting_is_passed_on_once() {
    both(|broker| {
        for version in BOTH {
            let (name, topic) = (unique("s"), unique("once"));
            let mut listening = subscriber(broker, V311, &topic, 0);
            let mut client = lasting(broker, version, &name);
            let publish = Publish::new(&topic, "x").qos(2).id(9);
            client.send(&publish.bytes(version));
            client.hears(&Answer::PubRec { id: 9, code: 0 });
            client.vanish();
            let mut client = back(broker, version, &name);
            client.send(&publish.again().bytes(version));
            client.hears(&Answer::PubRec { id: 9, code: 0 });
            client.send(&packet::ack(PUBREL, 9));
            client.hears(&Answer::PubComp { id: 9, code: 0 });
            listening.gets("x");
            listening.nothing_comes();
        }
    });
}

/// [MQTT-4.3.3-2] [MQTT5-4.3.3-11]
#[test]
fn v311_4_3_3_2_a_pubrel_after_reconnecting_is_known() {
    both(|broker| {
        for version in BOTH {
            let (name, topic) = (unique("s"), unique("rel"));
            let mut listening = subscriber(broker, V311, &topic, 0);
            let mut client = lasting(broker, version, &name);
            client.send(&Publish::new(&topic, "x").qos(2).id(9).bytes(version));
            client.hears(&Answer::PubRec { id: 9, code: 0 });
            client.vanish();
            let mut client = back(broker, version, &name);
            client.send(&packet::ack(PUBREL, 9));
            client.hears(&Answer::PubComp { id: 9, code: 0 });
            listening.gets("x");
        }
    });
}

/// [MQTT5-4.3.3-7]
#[test]
fn v5_4_3_3_7_what_was_sent_does_not_expire() {
    both_but_mosquitto("lets it expire", |broker| {
        let (name, topic) = (unique("s"), unique("sent"));
        let mut client = lasting(broker, V5, &name);
        client.subscribe(&topic, 2);
        let publish = Publish::new(&topic, "x").with(&[long(id::MESSAGE_EXPIRY, 5)]);
        Client::new(broker, V5).publish(publish.qos(2));
        let id = client.message().id;
        client.vanish();
        std::thread::sleep(Duration::from_millis(6200));
        let again = back(broker, V5, &name).message();
        assert_eq!((again.id, again.dup), (id, true));
    });
}

/// [MQTT-3.1.2-6] [MQTT5-3.1.2-4] [MQTT5-4.3.3-10]
#[test]
fn v311_3_1_2_6_a_clean_start_forgets_what_was_half_received() {
    both(|broker| {
        for version in BOTH {
            let (name, topic) = (unique("s"), unique("half"));
            let mut listening = subscriber(broker, V311, &topic, 0);
            let publish = Publish::new(&topic, "x").qos(2).id(9);
            let mut client = lasting(broker, version, &name);
            client.send(&publish.bytes(version));
            client.hears(&Answer::PubRec { id: 9, code: 0 });
            client.vanish();
            let mut client = Client::connect(broker, &Connect::new(version, &name));
            let publish = Publish { payload: b"y".to_vec(), ..publish };
            client.send(&publish.bytes(version));
            client.hears(&Answer::PubRec { id: 9, code: 0 });
            client.send(&packet::ack(PUBREL, 9));
            client.hears(&Answer::PubComp { id: 9, code: 0 });
            // The first one came when it was published, or never did: both are allowed.
            let message = listening.take();
            if message.text() == "x" {
                listening.gets("y");
            } else {
                assert_eq!(message.text(), "y");
            }
            listening.nothing_comes();
        }
    });
}

/// [MQTT5-3.3.2-7] [MQTT5-3.3.2-11] [MQTT5-4.4.0-1]
#[test]
fn v5_3_3_2_7_what_comes_again_does_not_lean_on_aliases_of_the_connection_before() {
    both(|broker| {
        let (name, topic) = (unique("s"), unique("aliased"));
        let mut connect = Connect::new(V5, &name).lasting(60);
        connect.properties.push(short(id::TOPIC_ALIAS_MAXIMUM, 10));
        let mut client = Client::connect(broker, &connect);
        client.subscribe(&topic, 1);
        let mut other = Client::new(broker, V5);
        (0..3).for_each(|number| other.says(&topic, &number.to_string(), 1));
        (0..3).for_each(|_| drop(client.message()));
        client.vanish();
        // Neither where aliases are allowed again nor where they are not.
        for connect in [connect, Connect::new(V5, &name).lasting(60)] {
            let mut client = Client::connect(broker, &connect);
            let mut known = None;
            for number in 0..3 {
                let message = client.message();
                assert_eq!(message.text(), number.to_string());
                let alias = message.get(id::TOPIC_ALIAS).cloned();
                if message.topic.is_empty() {
                    assert!(known.is_some() && alias == known, "an alias of the connection before");
                } else {
                    assert_eq!(message.topic, topic);
                    known = alias;
                }
            }
            client.vanish();
        }
    });
}
