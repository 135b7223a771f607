//! Retained messages: kept, replaced, removed, and how they come to subscribers.

use crate::broker::Settings;
use crate::client::{Client, retained, subscriber, unique};
use crate::packet::{BOTH, Connect, Property, Publish, V5, V311, Value, Will, id};
use crate::suite::{both, both_alone};

const RETAIN_AS_PUBLISHED: u8 = 0x08;
/// Retain handling, by its number.
const HANDLING: [u8; 3] = [0x00, 0x10, 0x20];

/// [MQTT-3.3.1-5] [MQTT-3.3.1-6] [MQTT-3.3.1-8] [MQTT5-3.3.1-5] [MQTT5-3.3.1-9]
#[test]
fn v311_3_3_1_5_what_is_retained_comes_with_its_qos_to_who_subscribes_later() {
    both(|broker| {
        for version in BOTH {
            for qos in 0..3 {
                let topic = unique("kept");
                Client::new(broker, version).publish(Publish::new(&topic, "x").qos(qos).retained());
                for to in BOTH {
                    let mut listening = subscriber(broker, to, &topic, 2);
                    let message = listening.gets("x");
                    assert_eq!((message.retain, message.qos, message.dup), (true, qos, false));
                    listening.nothing_comes();
                }
            }
        }
    });
}

/// [MQTT-3.3.1-5] [MQTT-3.3.1-7] [MQTT5-3.3.1-5]
#[test]
fn v311_3_3_1_7_the_last_retained_message_takes_the_place_of_the_one_before() {
    both(|broker| {
        let topic = unique("last");
        let mut client = Client::new(broker, V311);
        for (number, qos) in [2, 0, 1, 0].into_iter().enumerate() {
            client.publish(Publish::new(&topic, number.to_string()).qos(qos).retained());
            let message = retained(broker, &topic).unwrap();
            assert_eq!((message.text(), message.qos), (&*number.to_string(), qos));
        }
    });
}

/// [MQTT-3.3.1-6] [MQTT5-3.3.1-9]
#[test]
fn v311_3_3_1_6_a_wildcard_brings_the_last_message_of_each_topic() {
    both(|broker| {
        for version in BOTH {
            let name = unique("each");
            let mut client = Client::new(broker, V311);
            for topic in ["a", "a/b", "a/b/c", "d"] {
                client.publish(Publish::new(&format!("{name}/{topic}"), topic).qos(1).retained());
            }
            let mut listening = subscriber(broker, version, &format!("{name}/a/#"), 1);
            let mut got = [0; 3].map(|_| listening.take().text().to_owned());
            got.sort();
            assert_eq!(got, ["a", "a/b", "a/b/c"]);
            listening.nothing_comes();
        }
    });
}

/// [MQTT-3.3.1-9] [MQTT5-3.3.1-12]
#[test]
fn v311_3_3_1_9_what_comes_to_an_established_subscription_is_not_marked_as_retained() {
    both(|broker| {
        for version in BOTH {
            let topic = unique("live");
            let mut listening = subscriber(broker, version, &topic, 2);
            for qos in 0..3 {
                Client::new(broker, V5).publish(Publish::new(&topic, "x").qos(qos).retained());
                assert!(!listening.gets("x").retain);
            }
        }
    });
}

/// [MQTT5-3.3.1-13]
#[test]
fn v5_3_3_1_13_retain_as_published_leaves_the_mark_as_it_was() {
    both(|broker| {
        let topic = unique("aspublished");
        let mut listening = subscriber(broker, V5, &topic, RETAIN_AS_PUBLISHED | 1);
        let mut client = Client::new(broker, V311);
        client.publish(Publish::new(&topic, "1").qos(1).retained());
        client.publish(Publish::new(&topic, "2").qos(1));
        assert!(listening.gets("1").retain);
        assert!(!listening.gets("2").retain);
    });
}

/// [MQTT-3.3.1-10] [MQTT-3.3.1-11] [MQTT5-3.3.1-6] [MQTT5-3.3.1-7]
#[test]
fn v311_3_3_1_10_an_empty_retained_message_removes_and_is_passed_on() {
    both(|broker| {
        for version in BOTH {
            for qos in 0..3 {
                let topic = unique("gone");
                let mut client = Client::new(broker, version);
                client.publish(Publish::new(&topic, "x").qos(1).retained());
                let mut listening = subscriber(broker, V311, &topic, 2);
                listening.gets("x");
                client.publish(Publish::new(&topic, "").qos(qos).retained());
                let message = listening.gets("");
                assert_eq!((message.qos, message.retain), (qos, false));
                assert_eq!(retained(broker, &topic), None);
                // Where there was nothing, nothing is kept either.
                client.publish(Publish::new(&topic, "").qos(qos).retained());
                listening.gets("");
                assert_eq!(retained(broker, &topic), None);
            }
        }
    });
}

/// [MQTT-3.3.1-12] [MQTT5-3.3.1-8]
#[test]
fn v311_3_3_1_12_a_message_that_is_not_to_be_retained_touches_nothing() {
    both(|broker| {
        for version in BOTH {
            let topic = unique("untouched");
            let mut client = Client::new(broker, version);
            client.publish(Publish::new(&topic, "x").qos(1));
            assert_eq!(retained(broker, &topic), None);
            client.publish(Publish::new(&topic, "kept").qos(1).retained());
            client.publish(Publish::new(&topic, "x").qos(1));
            client.publish(Publish::new(&topic, "").qos(1));
            assert_eq!(retained(broker, &topic).unwrap().text(), "kept");
        }
    });
}

/// [MQTT-3.1.2-7] [MQTT5-3.3.1-5]
#[test]
fn v311_3_1_2_7_retained_messages_outlive_the_session_of_their_publisher() {
    both(|broker| {
        for version in BOTH {
            let topic = unique("outlives");
            let mut client = Client::new(broker, version);
            client.publish(Publish::new(&topic, "x").qos(1).retained());
            client.leave();
            assert_eq!(retained(broker, &topic).unwrap().text(), "x");
        }
    });
}

/// [MQTT5-3.3.1-9] [MQTT5-3.3.1-10] [MQTT5-3.3.1-11]
#[test]
fn v5_3_3_1_10_retain_handling_says_when_retained_messages_come() {
    both(|broker| {
        let topic = unique("handling");
        Client::new(broker, V5).publish(Publish::new(&topic, "x").qos(1).retained());
        for (handling, comes) in [(0, [true, true]), (1, [true, false]), (2, [false, false])] {
            let mut listening = Client::new(broker, V5);
            for comes in comes {
                listening.subscribe(&topic, HANDLING[handling]);
                if comes {
                    assert!(listening.gets("x").retain);
                }
                listening.nothing_comes();
            }
            // After an UNSUBSCRIBE, the subscription is new.
            listening.unsubscribe(&[&topic]);
            listening.subscribe(&topic, HANDLING[handling]);
            if comes[0] {
                listening.gets("x");
            }
            listening.nothing_comes();
        }
    });
}

/// [MQTT5-3.3.1-12] [MQTT5-3.3.1-13] [MQTT-3.3.1-8]
#[test]
fn v5_3_3_1_12_what_comes_because_of_a_subscribe_is_marked_whatever_the_options_say() {
    both(|broker| {
        let topic = unique("marked");
        Client::new(broker, V5).publish(Publish::new(&topic, "x").qos(1).retained());
        for options in [0, RETAIN_AS_PUBLISHED] {
            assert!(subscriber(broker, V5, &topic, options).gets("x").retain);
        }
    });
}

/// [MQTT5-3.2.2-13] [MQTT5-3.2.2-14]
#[test]
fn v5_3_2_2_13_a_server_that_retains_nothing_says_so_and_takes_no_retained_will() {
    let settings = Settings {
        ours: "[limits]\nretained = 0",
        mosquitto: "retain_available false",
        ..Settings::default()
    };
    both_alone(settings, |broker| {
        let topic = unique("none");
        let mut listening = subscriber(broker, V5, &topic, 1);
        let will = Will { retain: true, ..Will::new(&topic, b"x") };
        let mut refused = Client::knock(broker, &Connect::new(V5, &unique("c")).will(will.clone()));
        refused.is_refused_or_closed(&[0x9a]);
        let mut taken =
            Client::connect(broker, &Connect::new(V5, &unique("c")).will(Will::new(&topic, b"x")));
        assert!(taken.properties.contains(&Property(id::RETAIN_AVAILABLE, Value::Byte(0))));
        // What cannot be retained is not passed on either.
        taken.send(&Publish::new(&topic, "y").qos(1).id(1).retained().bytes(V5));
        taken.is_sent_away(&[0x9a]);
        listening.gets("x");
        listening.nothing_comes();
        broker.but_mosquitto("lets a retained will of v3 in", || {
            let mut old = Client::knock(broker, &Connect::new(V311, &unique("c")).will(will));
            assert!(matches!(old.answer(), crate::answer::Answer::ConnAck { code: 5, .. }));
            old.is_closed();
        });
        let mut old = Client::new(broker, V311);
        old.send(&Publish::new(&topic, "y").qos(1).id(1).retained().bytes(V311));
        old.is_closed();
        listening.nothing_comes();
    });
}
