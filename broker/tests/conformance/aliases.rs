//! Topic aliases, from and to clients.

use crate::answer::Message;
use crate::broker::{Broker, Settings};
use crate::client::{Client, subscriber, unique};
use crate::packet::{Property, Publish, V5, V311, Value, byte, id, short};
use crate::suite::{both, both_alone, each};

/// Under this alias; without a topic, if that is empty.
fn aliased(topic: &str, alias: u16) -> Vec<u8> {
    Publish::new(topic, "x").with(&[short(id::TOPIC_ALIAS, alias)]).bytes(V5)
}

/// How many the server takes.
fn maximum(client: &Client) -> u16 {
    match client.properties.iter().find(|property| property.0 == id::TOPIC_ALIAS_MAXIMUM) {
        Some(Property(_, Value::Short(most))) => *most,
        _ => 0,
    }
}

/// [MQTT5-3.3.2-12]
#[test]
fn v5_3_3_2_12_every_alias_up_to_the_maximum_is_taken() {
    both(|broker| {
        let name = unique("alias");
        let mut listening = subscriber(broker, V311, &format!("{name}/+"), 0);
        let mut client = Client::new(broker, V5);
        let most = maximum(&client);
        assert!(most > 0, "no topic aliases");
        let aliases = [1, most / 2 + 1, most];
        for alias in aliases {
            client.send(&aliased(&format!("{name}/{alias}"), alias));
            assert_eq!(listening.message().topic, format!("{name}/{alias}"));
        }
        for alias in aliases.into_iter().rev() {
            client.send(&aliased("", alias));
            assert_eq!(listening.message().topic, format!("{name}/{alias}"));
        }
        // It may get another meaning, as often as one likes.
        client.send(&[aliased(&format!("{name}/new"), 1), aliased("", 1)].concat());
        for _ in 0..2 {
            assert_eq!(listening.message().topic, format!("{name}/new"));
        }
    });
}

/// [MQTT5-3.3.2-8] [MQTT5-3.3.2-9] [MQTT5-3.2.2-17]
#[test]
fn v5_3_3_2_9_aliases_beyond_the_maximum_end_the_connection() {
    both(|broker| {
        let cases = [("0", 0), ("one more", 1), ("the most there are", u16::MAX)];
        let cases = cases.map(|(name, alias)| (name.to_owned(), alias));
        each(broker, &[], cases, |alias| {
            let mut client = Client::new(broker, V5);
            let alias = if alias == 1 { maximum(&client) + 1 } else { alias };
            client.send(&aliased(&unique("t"), alias));
            // 0 may be called a protocol error or malformed as well.
            client.is_sent_away(if alias == 0 { &[0x94, 0x82, 0x81] } else { &[0x94] });
        });
    });
}

/// [MQTT5-3.2.2-18] [MQTT5-3.3.2-9]
#[test]
fn v5_3_2_2_18_where_the_server_takes_none_an_alias_ends_the_connection() {
    let settings = Settings {
        ours: "[limits]\ntopic_aliases = 0",
        mosquitto: "max_topic_alias 0",
        ..Settings::default()
    };
    both_alone(settings, |broker| {
        let mut client = Client::new(broker, V5);
        assert_eq!(maximum(&client), 0);
        client.send(&aliased(&unique("t"), 1));
        client.is_sent_away(&[0x94]);
    });
}

/// [MQTT5-3.3.2-9] [MQTT5-4.13.1-1]
#[test]
fn v5_4_13_1_1_an_alias_that_was_never_set_ends_the_connection() {
    both(|broker| {
        let mut client = Client::new(broker, V5);
        client.send(&aliased("", 1));
        client.is_sent_away(&[0x82]);
    });
}

/// [MQTT5-3.3.2-7]
#[test]
fn v5_3_3_2_7_aliases_end_with_their_connection() {
    both(|broker| {
        let name = unique("a");
        let connect = crate::packet::Connect::new(V5, &name).lasting(60);
        let mut client = Client::connect(broker, &connect);
        client.send(&aliased(&unique("t"), 1));
        client.ping();
        client.leave();
        let mut client = Client::connect(broker, &connect);
        client.send(&aliased("", 1));
        client.is_sent_away(&[0x82]);
    });
}

/// Messages of two topics, to a client that takes so many aliases.
fn to_a_client_that_takes(broker: &Broker, most: &[Property]) -> Vec<(String, Message)> {
    let name = unique("out");
    let mut listening = Client::with(broker, most);
    listening.subscribe(&format!("{name}/+"), 1);
    let mut client = Client::new(broker, V5);
    let mut got = Vec::new();
    for round in 0..3 {
        for topic in 0..5 {
            let topic = format!("{name}/{topic}");
            client.publish(Publish::new(&topic, "x").qos(round % 2).with(&[short(id::TOPIC_ALIAS, 1)]));
            got.push((topic, listening.take()));
        }
    }
    got
}

/// [MQTT5-3.1.2-26] [MQTT5-3.1.2-27] [MQTT5-3.3.2-11] [MQTT5-3.3.2-8]
#[test]
fn v5_3_1_2_26_no_more_aliases_are_sent_than_a_client_takes() {
    both(|broker| {
        for most in [0, 1, 2, 100] {
            let mut known = vec![None; 101];
            for (topic, message) in to_a_client_that_takes(broker, &[short(id::TOPIC_ALIAS_MAXIMUM, most)]) {
                let alias = match message.get(id::TOPIC_ALIAS) {
                    None => 0,
                    Some(Value::Short(alias)) => *alias,
                    other => panic!("{other:?}"),
                };
                assert!(alias <= most, "alias {alias}");
                if message.topic.is_empty() {
                    assert_eq!(known[usize::from(alias)], Some(topic), "an alias stands for its last topic");
                } else {
                    assert_eq!(message.topic, topic);
                    known[usize::from(alias)] = Some(topic);
                }
            }
        }
    });
}

/// [MQTT5-3.1.2-27]
#[test]
fn v5_3_1_2_27_who_said_nothing_of_aliases_gets_none() {
    both(|broker| {
        for most in [&[][..], &[byte(id::REQUEST_PROBLEM, 1)]] {
            for (topic, message) in to_a_client_that_takes(broker, most) {
                assert_eq!((message.topic.as_str(), message.get(id::TOPIC_ALIAS)), (topic.as_str(), None));
            }
        }
    });
}
