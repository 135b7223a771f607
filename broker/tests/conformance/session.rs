//! Sessions that outlive their connection: what is kept, and for how long.

use std::time::Duration;

use crate::answer::Answer;
use crate::broker::Broker;
use crate::client::{Client, subscriber, unique};
use crate::packet::{self, BOTH, Connect, PUBACK, PUBREL, Publish, V5, V311, Version, id, long, short};
use crate::suite::{both, both_but_mosquitto};

/// A client with a session that lasts a minute.
pub(crate) fn lasting(broker: &Broker, version: Version, name: &str) -> Client {
    Client::connect(broker, &Connect::new(version, name).lasting(60))
}

/// The same once more, to a session that is there.
pub(crate) fn back(broker: &Broker, version: Version, name: &str) -> Client {
    let client = lasting(broker, version, name);
    assert!(client.session_present, "the session is gone");
    client
}

/// [MQTT-3.1.2-4] [MQTT-3.1.3-2] [MQTT-3.1.4-3] [MQTT-3.2.2-2] [MQTT-3.2.2-3] [MQTT-4.1.0-1] [MQTT5-3.1.2-5]
/// [MQTT5-3.1.2-6] [MQTT5-3.1.2-23] [MQTT5-3.1.3-2] [MQTT5-3.1.4-4] [MQTT5-3.2.2-3]
#[test]
fn v311_3_1_2_4_a_session_is_new_at_first_and_present_later() {
    both(|broker| {
        for version in BOTH {
            let (name, topic) = (unique("s"), unique("resumed"));
            let mut client = lasting(broker, version, &name);
            assert!(!client.session_present);
            client.subscribe(&topic, 1);
            client.leave();
            let mut client = back(broker, version, &name);
            Client::new(broker, V311).says(&topic, "x", 1);
            client.gets("x");
            // The PUBACK has arrived.
            client.ping();
            client.vanish();
            back(broker, version, &name).leave();
            assert!(!lasting(broker, version, &unique("other")).session_present);
        }
    });
}

/// [MQTT-3.1.2-5] [MQTT-4.5.0-1] [MQTT5-4.5.0-1] [MQTT5-3.1.2-23]
#[test]
fn v311_3_1_2_5_messages_wait_for_who_is_away() {
    both(|broker| {
        for version in BOTH {
            for vanished in [false, true] {
                let (name, topic) = (unique("s"), unique("waiting"));
                let mut client = lasting(broker, version, &name);
                client.subscribe(&topic, 2);
                if vanished {
                    client.vanish();
                } else {
                    client.leave();
                }
                let mut other = Client::new(broker, V311);
                let sent: Vec<_> = (0..20).map(|number| (1 + number % 2, number.to_string())).collect();
                for (qos, text) in &sent {
                    other.says(&topic, text, *qos);
                }
                let mut client = back(broker, version, &name);
                for (qos, text) in &sent {
                    let message = client.gets(text);
                    assert_eq!((message.qos, message.retain), (*qos, false));
                }
                client.nothing_comes();
            }
        }
    });
}

/// [MQTT-3.1.2-6] [MQTT-3.2.2-1] [MQTT5-3.1.2-4] [MQTT5-3.2.2-2]
#[test]
fn v311_3_1_2_6_a_clean_start_forgets_what_was() {
    both(|broker| {
        for version in BOTH {
            let (name, topic) = (unique("s"), unique("forgotten"));
            let mut client = lasting(broker, version, &name);
            client.subscribe(&topic, 1);
            client.leave();
            Client::new(broker, V311).says(&topic, "x", 1);
            let mut client = Client::connect(broker, &Connect::new(version, &name));
            assert!(!client.session_present);
            client.nothing_comes();
            Client::new(broker, V311).says(&topic, "y", 1);
            client.nothing_comes();
            client.leave();
            assert!(!lasting(broker, version, &name).session_present, "a clean session is not kept");
        }
    });
}

/// [MQTT-3.1.2-6] [MQTT5-3.1.2-4]
#[test]
fn v311_3_1_2_6_a_clean_session_leaves_nothing() {
    both(|broker| {
        for version in BOTH {
            let (name, topic) = (unique("s"), unique("nothing"));
            let mut client = Client::connect(broker, &Connect::new(version, &name));
            client.subscribe(&topic, 1);
            client.leave();
            Client::new(broker, V311).says(&topic, "x", 1);
            let mut client = lasting(broker, version, &name);
            assert!(!client.session_present);
            client.nothing_comes();
        }
    });
}

/// [MQTT5-3.1.2-23] [MQTT5-3.1.2-4]
#[test]
fn v5_3_1_2_23_a_session_that_began_clean_is_kept_if_it_may_last() {
    both(|broker| {
        let (name, topic) = (unique("s"), unique("cleankept"));
        let connect = Connect { clean: true, ..Connect::new(V5, &name).lasting(60) };
        let mut client = Client::connect(broker, &connect);
        client.subscribe(&topic, 1);
        client.leave();
        Client::new(broker, V311).says(&topic, "x", 1);
        back(broker, V5, &name).gets("x");
    });
}

/// [MQTT5-4.1.0-2]
#[test]
fn v5_4_1_0_2_without_an_expiry_the_session_ends_with_its_connection() {
    both(|broker| {
        let name = unique("s");
        let connect = Connect { clean: false, ..Connect::new(V5, &name) };
        for _ in 0..2 {
            let client = Client::connect(broker, &connect);
            assert!(!client.session_present);
            client.leave();
        }
    });
}

/// [MQTT5-4.1.0-2] [MQTT5-3.1.2-23]
#[test]
fn v5_4_1_0_2_a_session_ends_when_its_time_is_over() {
    both(|broker| {
        let (short, long, topic) = (unique("s"), unique("s"), unique("over"));
        let mut listening = subscriber(broker, V311, &topic, 0);
        // At the end of the session, and of the other one not before its delay.
        let mut will = packet::Will::new(&topic, b"over");
        will.properties = vec![packet::long(id::WILL_DELAY, 600)];
        for (name, seconds) in [(&short, 1), (&long, 60)] {
            let connect = Connect::new(V5, name).lasting(seconds).will(will.clone());
            Client::connect(broker, &connect).vanish();
        }
        listening.gets("over");
        assert!(!lasting(broker, V5, &short).session_present);
        assert!(lasting(broker, V5, &long).session_present);
    });
}

/// [MQTT5-4.1.0-1] [MQTT-4.1.0-2]
#[test]
fn v5_4_1_0_1_its_time_does_not_run_while_it_is_connected() {
    both(|broker| {
        let topic = unique("lives");
        let mut client = Client::connect(broker, &Connect::new(V5, &unique("s")).lasting(1));
        client.subscribe(&topic, 1);
        std::thread::sleep(Duration::from_millis(2600));
        Client::new(broker, V5).says(&topic, "x", 1);
        client.gets("x");
    });
}

/// [MQTT5-4.1.0-2] [MQTT5-3.14.2-1]
#[test]
fn v5_4_1_0_2_disconnect_may_change_the_time() {
    both(|broker| {
        let (ended, kept) = (unique("s"), unique("s"));
        let mut client = lasting(broker, V5, &ended);
        client.send(&packet::disconnect(0, &[long(id::SESSION_EXPIRY, 0)]));
        client.is_closed();
        let mut client = Client::connect(broker, &Connect::new(V5, &kept).lasting(1));
        client.send(&packet::disconnect(0, &[long(id::SESSION_EXPIRY, 60)]));
        client.is_closed();
        assert!(!lasting(broker, V5, &ended).session_present);
        std::thread::sleep(Duration::from_millis(2600));
        assert!(lasting(broker, V5, &kept).session_present);
    });
}

/// [MQTT5-4.13.1-1] [MQTT5-3.14.2-2]
#[test]
fn v5_4_13_1_1_disconnect_cannot_make_a_session_of_none() {
    both(|broker| {
        let name = unique("s");
        let mut client = Client::connect(broker, &Connect::new(V5, &name));
        client.send(&packet::disconnect(0, &[long(id::SESSION_EXPIRY, 60)]));
        client.is_sent_away(&[0x82]);
        assert!(!lasting(broker, V5, &name).session_present);
    });
}

/// [MQTT-3.1.4-2] [MQTT-3.2.2-2] [MQTT5-3.1.4-3] [MQTT5-3.2.2-3]
#[test]
fn v311_3_1_4_2_who_takes_over_gets_the_session() {
    both(|broker| {
        for version in BOTH {
            let (name, topic) = (unique("s"), unique("over"));
            let mut first = lasting(broker, version, &name);
            first.subscribe(&topic, 1);
            Client::new(broker, V311).says(&topic, "x", 1);
            let message = first.message();
            let mut second = back(broker, version, &name);
            let again = second.message();
            assert_eq!((again.text(), again.id, again.dup), ("x", message.id, true));
        }
    });
}

/// [MQTT5-3.1.2-23] [MQTT-3.1.2-4]
#[test]
fn v5_3_1_2_23_a_session_is_the_same_in_another_version() {
    both(|broker| {
        for (from, to) in [(V311, V5), (V5, V311)] {
            let (name, topic) = (unique("s"), unique("cross"));
            let mut client = lasting(broker, from, &name);
            client.subscribe(&topic, 1);
            client.leave();
            Client::new(broker, V311).says(&topic, "x", 1);
            back(broker, to, &name).gets("x");
        }
    });
}

/// [MQTT-3.1.2-5] [MQTT-3.10.4-2] [MQTT5-3.10.4-2]
#[test]
fn v311_3_10_4_2_a_session_does_not_remember_what_was_unsubscribed() {
    both(|broker| {
        for version in BOTH {
            let (name, one, two) = (unique("s"), unique("kept"), unique("left"));
            let mut client = lasting(broker, version, &name);
            client.subscribe_all(&[(&one, 1), (&two, 1)]);
            client.unsubscribe(&[&two]);
            client.leave();
            let mut other = Client::new(broker, V311);
            other.says(&two, "no", 1);
            other.says(&one, "yes", 1);
            let mut client = back(broker, version, &name);
            client.gets("yes");
            client.nothing_comes();
        }
    });
}

/// [MQTT5-3.8.4-3] [MQTT5-3.3.4-3] [MQTT5-4.1.0-1]
#[test]
fn v5_3_3_4_3_a_session_keeps_the_options_and_identifiers_of_its_subscriptions() {
    both(|broker| {
        let (name, topic) = (unique("s"), unique("options"));
        let mut client = lasting(broker, V5, &name);
        client.subscribe_under(42, &topic, 0x08 | 0x04 | 1);
        client.leave();
        let mut other = Client::new(broker, V5);
        other.publish(Publish::new(&topic, "away").qos(1).retained());
        let mut client = back(broker, V5, &name);
        other.publish(Publish::new(&topic, "here").qos(1).retained());
        for text in ["away", "here"] {
            let message = client.gets(text);
            assert_eq!((message.retain, message.subscription_ids()), (true, vec![42]));
        }
        client.says(&topic, "own", 1);
        client.nothing_comes();
        other.publish(Publish::new(&topic, "").qos(1).retained());
    });
}

/// [MQTT5-3.3.4-9] [MQTT5-4.9.0-2]
#[test]
fn v5_3_3_4_9_what_waited_comes_by_the_new_receive_maximum() {
    both(|broker| {
        let (name, topic) = (unique("s"), unique("quota"));
        let mut client = lasting(broker, V5, &name);
        client.subscribe(&topic, 1);
        client.leave();
        let mut other = Client::new(broker, V5);
        (0..4).for_each(|number| other.says(&topic, &number.to_string(), 1));
        let mut connect = Connect::new(V5, &name).lasting(60);
        connect.properties.push(short(id::RECEIVE_MAXIMUM, 2));
        let mut client = Client::connect(broker, &connect);
        let (first, second) = (client.message(), client.message());
        client.nothing_comes();
        client.send(&[packet::ack(PUBACK, first.id), packet::ack(PUBACK, second.id)].concat());
        client.gets("2");
        client.gets("3");
    });
}

/// [MQTT5-4.3.3-13]
#[test]
fn v5_4_3_3_13_an_exchange_is_finished_though_the_message_has_expired() {
    both(|broker| {
        let topic = unique("expired");
        let mut client = Client::new(broker, V5);
        let publish = Publish::new(&topic, "x").with(&[long(id::MESSAGE_EXPIRY, 1)]);
        client.send(&publish.qos(2).id(3).bytes(V5));
        let answer = client.answer();
        assert!(matches!(answer, Answer::PubRec { id: 3, code: 0 | 0x10 }), "{answer:?}");
        std::thread::sleep(Duration::from_millis(1600));
        client.send(&packet::ack(PUBREL, 3));
        client.hears(&Answer::PubComp { id: 3, code: 0 });
    });
}

/// [MQTT-3.3.1-6] [MQTT-3.3.1-8] [MQTT5-3.3.1-9]
#[test]
fn v311_3_3_1_6_a_session_that_goes_on_is_no_new_subscription() {
    both(|broker| {
        for version in BOTH {
            let (name, topic) = (unique("s"), unique("notagain"));
            Client::new(broker, V311).publish(Publish::new(&topic, "x").qos(1).retained());
            let mut client = lasting(broker, version, &name);
            client.subscribe(&topic, 1);
            assert!(client.gets("x").retain);
            client.ping();
            client.leave();
            back(broker, version, &name).nothing_comes();
        }
    });
}

/// [MQTT-3.1.2-5] [MQTT-3.1.2-8] [MQTT5-3.1.2-8] [MQTT5-4.5.0-1]
#[test]
fn v311_3_1_2_5_wills_wait_for_who_is_away() {
    both(|broker| {
        for version in BOTH {
            let (name, topic) = (unique("s"), unique("will"));
            let mut client = lasting(broker, version, &name);
            client.subscribe(&topic, 1);
            client.leave();
            let mut live = subscriber(broker, V311, &topic, 0);
            let will = packet::Will { qos: 1, ..packet::Will::new(&topic, b"gone") };
            Client::connect(broker, &Connect::new(version, &unique("w")).will(will)).vanish();
            live.gets("gone");
            back(broker, version, &name).gets("gone");
        }
    });
}

/// [MQTT5-3.1.2-24] [MQTT5-3.1.2-25]
#[test]
fn v5_3_1_2_25_what_waited_and_is_too_large_now_is_passed_over() {
    both_but_mosquitto("keeps a place in the window for what it did not send", |broker| {
        let (name, topic) = (unique("s"), unique("toolarge"));
        let mut client = lasting(broker, V5, &name);
        client.subscribe(&topic, 1);
        client.leave();
        let mut other = Client::new(broker, V5);
        other.publish(Publish::new(&topic, [b'x'; 500]).qos(1));
        other.says(&topic, "small", 1);
        let mut connect = Connect::new(V5, &name).lasting(60);
        connect.properties.extend([long(id::MAXIMUM_PACKET, 200), short(id::RECEIVE_MAXIMUM, 1)]);
        let mut client = Client::connect(broker, &connect);
        client.gets("small");
        client.nothing_comes();
    });
}
