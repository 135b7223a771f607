//! Topics and filters: what matches, what is none, `$`.

use crate::answer::Answer;
use crate::broker::{Broker, Settings};
use crate::client::{Client, Heard, PATIENCE, subscriber, unique};
use crate::packet::{self, BOTH, Publish, V5, V311, Version, packet, string};
use crate::suite::{both, both_alone, each};

/// [MQTT-3.3.2-3] [MQTT-4.7.1-2] [MQTT-4.7.1-3] [MQTT-4.7.3-4] [MQTT5-3.3.2-3] [MQTT5-4.7.1-1] [MQTT5-4.7.1-2]
/// [MQTT5-4.7.3-4]
#[test]
fn v311_3_3_2_3_filters_match_level_by_level() {
    let rows: [(&str, &[&str], &[&str]); 14] = [
        ("a", &["a"], &["b", "a/", "/a", "A", "a "]),
        ("a/b", &["a/b"], &["a", "a/b/c", "a/B"]),
        ("a/+", &["a/b", "a/", "a/$x"], &["a", "a/b/c", "b/c"]),
        ("a/+/c", &["a/b/c", "a//c"], &["a/c", "a/b/c/d"]),
        ("a/#", &["a", "a/", "a/b", "a/b/c"], &["ab", "b/a", "/a"]),
        ("a/+/#", &["a/b", "a/", "a/b/c/d"], &["a"]),
        ("+", &["a", "b"], &["/", "a/b"]),
        ("+/+", &["/", "a/b", "/a", "a/"], &["a", "a/b/c"]),
        ("/+", &["/", "/a"], &["a", "a/b"]),
        ("+/a", &["/a", "b/a"], &["a", "a/b"]),
        ("/", &["/"], &["a", "//"]),
        ("//", &["//"], &["/", "///"]),
        ("a b/#", &["a b/c"], &["ab/c"]),
        ("\u{e9}/+", &["\u{e9}/x"], &["e\u{301}/x"]),
    ];
    both(|broker| {
        for version in BOTH {
            let cases = rows.map(|(filter, matching, other)| {
                (format!("{version:?} {filter}"), (filter, matching, other))
            });
            each(broker, &[], cases, |(filter, matching, other)| {
                let name = unique("match");
                let mut listening = Client::new(broker, version);
                listening.subscribe(&format!("{name}/{filter}"), 0);
                let mut client = Client::new(broker, V311);
                for topic in other.iter().chain(matching) {
                    client.send(&Publish::new(&format!("{name}/{topic}"), "x").bytes(V311));
                }
                client.ping();
                for topic in matching {
                    assert_eq!(listening.message().topic, format!("{name}/{topic}"));
                }
                listening.nothing_comes();
            });
        }
    });
}

/// What no filter may be.
const NO_FILTER: [&str; 12] =
    ["", "#/a", "a/#/b", "a#", "a/b#", "##", "a/##", "a+", "+a", "a/+b/c", "a/b+", "++"];

/// The filter is refused in the SUBACK or ends the connection.
fn is_no_filter(broker: &Broker, version: Version, filter: &str) {
    let mut client = Client::new(broker, version);
    client.send(&packet::subscribe(version, 1, &[], &[(filter, 0)]));
    match client.hear(PATIENCE.get()) {
        Heard::Packet(Answer::SubAck { codes, .. }) => {
            let failed = if version == V5 { 0x8f } else { 0x80 };
            assert_eq!(codes, [failed]);
        }
        Heard::Packet(Answer::Disconnect { code, .. }) => {
            assert!([0x81, 0x82, 0x8f].contains(&code), "{code:#04x}");
            client.is_closed();
        }
        heard => assert!(version != V5 && heard == Heard::Closed, "{heard:?}"),
    }
}

/// [MQTT-4.7.1-2] [MQTT-4.7.1-3] [MQTT-4.7.3-1] [MQTT5-4.7.1-1] [MQTT5-4.7.1-2] [MQTT5-4.7.3-1]
#[test]
fn v311_4_7_1_2_wildcards_in_wrong_places_are_refused() {
    both(|broker| {
        let cases = BOTH.iter().flat_map(|version| NO_FILTER.map(|filter| (*version, filter)));
        let cases = cases.map(|(version, filter)| (format!("{version:?} {filter:?}"), (version, filter)));
        each(broker, &[], cases, |(version, filter)| is_no_filter(broker, version, filter));
    });
}

/// [MQTT-3.3.2-2] [MQTT-4.7.1-1] [MQTT-4.7.3-1] [MQTT5-3.3.2-2] [MQTT5-4.7.0-1] [MQTT5-4.7.3-1]
#[test]
fn v311_3_3_2_2_a_topic_with_wildcards_or_without_a_character_ends_the_connection() {
    both(|broker| {
        let topics = ["#", "+", "a/#", "a/+/b", "a+", ""];
        let cases = BOTH.iter().flat_map(|version| topics.map(|topic| (*version, topic)));
        let cases = cases.map(|(version, topic)| (format!("{version:?} {topic:?}"), (version, topic)));
        each(broker, &[], cases, |(version, topic)| {
            let mut client = Client::new(broker, version);
            client.send(&Publish::new(topic, "x").qos(1).id(1).bytes(version));
            client.is_sent_away(&[0x81, 0x82, 0x90]);
        });
    });
}

/// [MQTT-4.7.3-3] [MQTT5-4.7.3-3]
#[test]
fn v311_4_7_3_3_the_longest_topic_that_can_be_written_is_passed_on() {
    both(|broker| {
        for version in BOTH {
            let topic = format!("{}{}", unique("long"), "x".repeat(65_535));
            let topic = &topic[..65_535];
            let mut listening = Client::new(broker, version);
            listening.subscribe(topic, 1);
            Client::new(broker, V311).says(topic, "x", 1);
            assert_eq!(listening.take().topic, topic);
        }
    });
}

/// Publishes to a topic that begins with `$`; a broker may keep these to itself and end the connection. Tells whether it
/// took the message.
fn publish_to_dollar(broker: &Broker, publish: &Publish) -> bool {
    let mut client = Client::new(broker, V311);
    client.send(&publish.clone().qos(1).id(1).bytes(V311));
    matches!(client.hear(PATIENCE.get()), Heard::Packet(Answer::PubAck { .. }))
}

/// [MQTT-4.7.2-1] [MQTT5-4.7.2-1]
#[test]
fn v311_4_7_2_1_wildcards_do_not_match_what_begins_with_a_dollar() {
    both_alone(Settings::default(), |broker| {
        for version in BOTH {
            let mut wild = ["#", "+/x", "+/#"].map(|filter| subscriber(broker, version, filter, 0));
            let mut named = subscriber(broker, version, "$own/#", 0);
            let taken = publish_to_dollar(broker, &Publish::new("$own/x", "1"));
            Client::new(broker, version).says("plain/x", "2", 0);
            if taken {
                assert_eq!(named.message().topic, "$own/x");
            }
            for wild in &mut wild {
                assert_eq!(wild.message().topic, "plain/x");
                wild.nothing_comes();
            }
        }
    });
}

/// [MQTT-4.7.2-1] [MQTT5-4.7.2-1]
#[test]
fn v311_4_7_2_1_neither_do_they_bring_what_is_retained_there() {
    both_alone(Settings::default(), |broker| {
        publish_to_dollar(broker, &Publish::new("$kept/x", "x").retained());
        Client::new(broker, V311).publish(Publish::new("kept/x", "x").qos(1).retained());
        for filter in ["#", "+/x", "+/#"] {
            let mut listening = subscriber(broker, V5, filter, 0);
            assert_eq!(listening.message().topic, "kept/x");
            listening.nothing_comes();
        }
    });
}

/// [MQTT-4.7.3-2] [MQTT5-4.7.3-2] [MQTT5-1.5.4-2]
#[test]
fn v311_4_7_3_2_no_topic_has_a_null() {
    both(|broker| {
        for version in BOTH {
            let none: &[u8] = if version == V5 { &[0] } else { &[] };
            let mut client = Client::new(broker, version);
            client.send(&packet(packet::PUBLISH, &[&*string("a\0"), none, b"x"].concat()));
            client.is_sent_away(&[0x81, 0x82, 0x90]);
        }
    });
}
