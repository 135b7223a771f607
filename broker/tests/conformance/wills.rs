//! Wills: when they come, when not, and how.

use std::time::{Duration, Instant};

use crate::broker::Broker;
use crate::client::{Client, retained, subscriber, unique};
use crate::packet::{
    self, BOTH, Connect, Publish, V5, V311, Value, Version, Will, byte, data, id, long, packet, text, user,
};
use crate::suite::{both, both_but_mosquitto, each};

/// A client whose will is "gone" on this topic.
fn willing(broker: &Broker, version: Version, topic: &str) -> Client {
    Client::connect(broker, &Connect::new(version, &unique("w")).will(Will::new(topic, b"gone")))
}

/// [MQTT-3.1.2-8] [MQTT5-3.1.2-7] [MQTT5-3.1.2-8]
#[test]
fn v311_3_1_2_8_a_will_comes_when_the_connection_breaks() {
    both(|broker| {
        for version in BOTH {
            let topic = unique("will");
            let mut listening = subscriber(broker, V311, &topic, 0);
            let client = willing(broker, version, &topic);
            listening.nothing_comes();
            client.vanish();
            listening.gets("gone");
            listening.nothing_comes();
        }
    });
}

/// [MQTT-3.1.2-8] [MQTT5-3.1.2-8] [MQTT5-4.13.1-1]
#[test]
fn v311_3_1_2_8_a_will_comes_when_a_wrong_packet_ended_the_connection() {
    both(|broker| {
        for version in BOTH {
            let topic = unique("will");
            let mut listening = subscriber(broker, V311, &topic, 0);
            let mut client = willing(broker, version, &topic);
            client.send(&packet(0x00, &[]));
            listening.gets("gone");
        }
    });
}

/// [MQTT-3.1.2-8] [MQTT5-3.1.2-8]
#[test]
fn v311_3_1_2_8_a_will_comes_when_another_took_the_client_id() {
    both(|broker| {
        for version in BOTH {
            let (topic, name) = (unique("will"), unique("w"));
            let mut listening = subscriber(broker, V311, &topic, 0);
            let connect = Connect::new(version, &name);
            let _first = Client::connect(broker, &connect.clone().will(Will::new(&topic, b"gone")));
            let _second = Client::connect(broker, &connect);
            listening.gets("gone");
        }
    });
}

/// [MQTT-3.1.2-10] [MQTT-3.14.4-3] [MQTT5-3.1.2-10] [MQTT5-3.14.4-3]
#[test]
fn v311_3_14_4_3_disconnect_discards_the_will() {
    both(|broker| {
        for version in BOTH {
            let topic = unique("will");
            let mut listening = subscriber(broker, V311, &topic, 0);
            willing(broker, version, &topic).leave();
            listening.nothing_comes();
        }
    });
}

/// [MQTT5-3.1.2-8] [MQTT5-3.14.2-1]
#[test]
fn v5_3_1_2_8_a_disconnect_that_is_not_normal_leaves_the_will() {
    let cases = [0x04, 0x80, 0x81, 0x83, 0x97].map(|reason| (format!("{reason:#04x}"), reason));
    both(|broker| {
        each(
            broker,
            &[("0x8*", "discards the will"), ("0x97", "discards the will")],
            cases.clone(),
            |reason| {
                let topic = unique("will");
                let mut listening = subscriber(broker, V311, &topic, 0);
                let mut client = willing(broker, V5, &topic);
                client.send(&packet::disconnect(reason, &[]));
                listening.gets("gone");
            },
        );
    });
}

/// [MQTT-3.1.2-12] [MQTT-3.1.2-10] [MQTT5-3.1.2-10]
#[test]
fn v311_3_1_2_12_who_has_no_will_leaves_none() {
    both(|broker| {
        for version in BOTH {
            let (topic, name) = (unique("will"), unique("w"));
            let mut listening = subscriber(broker, V311, &topic, 0);
            let connect = Connect::new(version, &name).lasting(60);
            Client::connect(broker, &connect.clone().will(Will::new(&topic, b"gone"))).vanish();
            listening.gets("gone");
            // The next connection of the same session has none.
            Client::connect(broker, &connect).vanish();
            listening.nothing_comes();
        }
    });
}

/// [MQTT-3.1.2-9] [MQTT-3.1.2-16] [MQTT-3.1.2-17] [MQTT5-3.1.2-9] [MQTT5-3.1.2-14] [MQTT5-3.1.2-15]
#[test]
fn v311_3_1_2_17_a_will_has_its_qos_and_is_retained_as_it_says() {
    both(|broker| {
        for version in BOTH {
            for qos in 0..3 {
                for retain in [false, true] {
                    let topic = unique("will");
                    let mut listening = subscriber(broker, V311, &topic, 2);
                    let will = Will { qos, retain, ..Will::new(&topic, b"gone") };
                    Client::connect(broker, &Connect::new(version, &unique("w")).will(will)).vanish();
                    let message = listening.gets("gone");
                    assert_eq!((message.qos, message.retain), (qos, false));
                    let kept = retained(broker, &topic).map(|kept| (kept.text().to_owned(), kept.qos));
                    assert_eq!(kept, retain.then(|| ("gone".to_owned(), qos)));
                }
            }
        }
    });
}

/// [MQTT-3.1.2-8] [MQTT5-3.1.2-8] [MQTT-3.1.2-17]
#[test]
fn v311_3_1_2_8_an_empty_will_is_one_too() {
    both(|broker| {
        for version in BOTH {
            let topic = unique("will");
            Client::new(broker, V311).publish(Publish::new(&topic, "kept").qos(1).retained());
            let mut listening = subscriber(broker, V311, &topic, 0);
            listening.gets("kept");
            let will = Will { retain: true, ..Will::new(&topic, b"") };
            Client::connect(broker, &Connect::new(version, &unique("w")).will(will)).vanish();
            listening.gets("");
            assert_eq!(retained(broker, &topic), None);
        }
    });
}

/// [MQTT-3.1.3-1] [MQTT5-3.1.3-1]
#[test]
fn v311_3_1_3_1_the_fields_of_connect_are_read_in_their_order() {
    both(|broker| {
        for version in BOTH {
            let (topic, name) = (unique("will"), unique("w"));
            let mut listening = subscriber(broker, version, &topic, 0);
            let mut will = Will::new(&topic, b"gone");
            will.properties = vec![text(id::CONTENT_TYPE, "of the will")];
            let mut connect = Connect::new(version, &name).lasting(60).will(will);
            connect.user_name = Some(b"user".to_vec());
            connect.password = Some(b"password".to_vec());
            Client::connect(broker, &connect).vanish();
            let message = listening.gets("gone");
            let content = (version == V5).then(|| Value::Text("of the will".to_owned()));
            assert_eq!((&message.topic, message.get(id::CONTENT_TYPE)), (&topic, content.as_ref()));
            assert!(Client::connect(broker, &Connect::new(version, &name).lasting(60)).session_present);
        }
    });
}

/// [MQTT5-3.1.3-10] [MQTT5-3.1.2-7]
#[test]
fn v5_3_1_3_10_a_will_keeps_its_properties_and_their_order() {
    both(|broker| {
        let topic = unique("will");
        let mut listening = subscriber(broker, V5, &topic, 0);
        let pairs = [user("b", "1"), user("a", "2"), user("b", "3"), user("", "")];
        let mut will = Will::new(&topic, b"gone");
        will.properties = vec![
            byte(id::PAYLOAD_FORMAT, 1),
            text(id::CONTENT_TYPE, "text/plain"),
            text(id::RESPONSE_TOPIC, "answer"),
            data(id::CORRELATION_DATA, &[0, 255]),
        ];
        will.properties.extend(pairs.clone());
        Client::connect(broker, &Connect::new(V5, &unique("w")).will(will)).vanish();
        let message = listening.message();
        assert_eq!(message.get(id::PAYLOAD_FORMAT), Some(&Value::Byte(1)));
        assert_eq!(message.get(id::CONTENT_TYPE), Some(&Value::Text("text/plain".to_owned())));
        assert_eq!(message.get(id::RESPONSE_TOPIC), Some(&Value::Text("answer".to_owned())));
        assert_eq!(message.get(id::CORRELATION_DATA), Some(&Value::Data(vec![0, 255])));
        assert_eq!(message.get(id::WILL_DELAY), None);
        let users: Vec<_> = message.properties.iter().filter(|property| property.0 == id::USER).collect();
        assert_eq!(users, pairs.iter().collect::<Vec<_>>());
    });
}

/// A client with a session of so many seconds whose will waits for so many.
fn delaying(name: &str, topic: &str, session: u32, delay: u32) -> Connect {
    let mut will = Will::new(topic, b"gone");
    will.properties = vec![long(id::WILL_DELAY, delay)];
    Connect::new(V5, name).lasting(session).will(will)
}

/// [MQTT5-3.1.2-8]
#[test]
fn v5_3_1_2_8_a_will_waits_for_its_delay() {
    both(|broker| {
        let topic = unique("will");
        let mut listening = subscriber(broker, V311, &topic, 0);
        let client = Client::connect(broker, &delaying(&unique("w"), &topic, 60, 6));
        let gone = Instant::now();
        client.vanish();
        listening.nothing_comes();
        listening.gets("gone");
        let waited = gone.elapsed();
        assert!(waited > Duration::from_millis(4900), "{waited:?} is no delay of six seconds");
    });
}

/// [MQTT5-3.1.2-8]
#[test]
fn v5_3_1_2_8_a_will_does_not_wait_longer_than_its_session() {
    let cases = [0, 1].map(|session| (session.to_string(), session));
    both(|broker| {
        let deviations = [("0", "waits for the delay though there is no session that could go on")];
        each(broker, &deviations, cases.clone(), |session| {
            let topic = unique("will");
            let mut listening = subscriber(broker, V311, &topic, 0);
            Client::connect(broker, &delaying(&unique("w"), &topic, session, 600)).vanish();
            // Long enough for who must find out first that the session is over.
            std::thread::sleep(Duration::from_millis(2500));
            listening.gets("gone");
        });
    });
}

/// [MQTT5-3.1.3-9] [MQTT5-3.1.2-8]
#[test]
fn v5_3_1_3_9_who_comes_back_before_the_delay_is_over_stops_the_will() {
    both(|broker| {
        let (topic, name) = (unique("will"), unique("w"));
        let mut listening = subscriber(broker, V311, &topic, 0);
        let connect = delaying(&name, &topic, 60, 6);
        Client::connect(broker, &connect).vanish();
        let without = Connect { will: None, ..connect };
        let client = Client::connect(broker, &without);
        assert!(client.session_present);
        std::thread::sleep(Duration::from_millis(7200));
        listening.nothing_comes();
    });
}

/// [MQTT5-3.1.2-8] [MQTT5-3.1.2-4]
#[test]
fn v5_3_1_2_8_a_clean_start_ends_the_session_and_so_the_delay() {
    both_but_mosquitto("forgets the will", |broker| {
        let (topic, name) = (unique("will"), unique("w"));
        let mut listening = subscriber(broker, V311, &topic, 0);
        Client::connect(broker, &delaying(&name, &topic, 60, 600)).vanish();
        Client::connect(broker, &Connect::new(V5, &name)).leave();
        listening.gets("gone");
    });
}

/// [MQTT5-3.1.2-10] [MQTT5-3.14.4-3]
#[test]
fn v5_3_14_4_3_disconnect_discards_also_a_will_with_a_delay() {
    both(|broker| {
        let topic = unique("will");
        let mut listening = subscriber(broker, V311, &topic, 0);
        Client::connect(broker, &delaying(&unique("w"), &topic, 60, 1)).leave();
        std::thread::sleep(Duration::from_millis(2200));
        listening.nothing_comes();
    });
}

/// [MQTT5-3.3.2-5] [MQTT5-3.3.2-6]
#[test]
fn v5_3_3_2_6_the_expiry_of_a_will_begins_when_it_is_published() {
    both(|broker| {
        let topic = unique("will");
        let mut listening = subscriber(broker, V5, &topic, 0);
        let mut will = Will::new(&topic, b"gone");
        // Counted from the CONNECT on, it would be over before it begins.
        will.properties = vec![long(id::WILL_DELAY, 6), long(id::MESSAGE_EXPIRY, 5)];
        Client::connect(broker, &Connect::new(V5, &unique("w")).lasting(60).will(will)).vanish();
        // Less by what it has waited for the network.
        let left = listening.gets("gone").get(id::MESSAGE_EXPIRY).cloned();
        assert!(matches!(left, Some(Value::Long(1..=5))), "{left:?}");
    });
}

/// [MQTT-3.1.2-8] [MQTT-3.1.2-9] [MQTT5-3.1.2-8] [MQTT5-3.1.2-9]
#[test]
fn v311_3_1_2_9_the_longest_will_that_can_be_written() {
    both(|broker| {
        for version in BOTH {
            let topic = unique("will");
            let mut listening = subscriber(broker, V311, &topic, 1);
            let will = Will { qos: 1, ..Will::new(&topic, &[b'w'; 65_535]) };
            Client::connect(broker, &Connect::new(version, &unique("w")).will(will)).vanish();
            assert!(listening.take().payload == [b'w'; 65_535]);
        }
    });
}
