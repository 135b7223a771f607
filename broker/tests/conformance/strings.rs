//! Strings: UTF-8 and nothing else, everywhere.

use crate::broker::Broker;
use crate::client::{Client, subscriber, unique};
use crate::packet::{self, BOTH, Connect, Publish, V5, V311, Version, Will, id, packet, string};
use crate::suite::{SILENT, both, each};

/// What is no UTF-8 string of MQTT: cut off, a stray byte, too long a form, surrogates, beyond Unicode, U+0000.
const WRONG: [&[u8]; 8] = [
    b"a\xc3",
    b"\x80a",
    b"\xc0\xaf",
    b"\xe0\x80\x80",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xf4\x90\x80\x80",
    b"a\0b",
];

fn in_connect(broker: &Broker, version: Version, change: impl Fn(&mut Connect, &[u8]) + Sync) {
    let cases = WRONG.map(|wrong| (format!("{version:?} {wrong:02x?}"), wrong));
    each(broker, &[], cases, |wrong| {
        let mut connect = Connect::new(version, &unique("c"));
        change(&mut connect, wrong);
        Client::knock(broker, &connect).is_refused_or_closed(&[0x81, 0x82, 0x85, 0x90]);
    });
}

/// [MQTT-1.5.3-1] [MQTT-1.5.3-2] [MQTT-3.1.3-4] [MQTT5-1.5.4-1] [MQTT5-1.5.4-2] [MQTT5-3.1.3-4]
/// [MQTT5-3.1.3-8]
#[test]
fn v311_1_5_3_1_a_client_id_that_is_no_string_is_refused() {
    both(|broker| {
        for version in BOTH {
            in_connect(broker, version, |connect, wrong| connect.client_id = wrong.to_vec());
        }
    });
}

/// [MQTT-3.1.3-11] [MQTT5-3.1.3-12]
#[test]
fn v311_3_1_3_11_a_user_name_that_is_no_string_is_refused() {
    both(|broker| {
        for version in BOTH {
            in_connect(broker, version, |connect, wrong| connect.user_name = Some(wrong.to_vec()));
        }
    });
}

/// [MQTT-3.1.3-10] [MQTT5-3.1.3-11]
#[test]
fn v311_3_1_3_10_a_will_topic_that_is_no_string_is_refused() {
    both(|broker| {
        for version in BOTH {
            in_connect(broker, version, |connect, wrong| {
                let will = Will::new("", b"x");
                connect.will = Some(Will { topic: wrong.to_vec(), ..will });
            });
        }
    });
}

/// A packet with each of the wrong strings ends the connection.
fn ends(
    broker: &Broker,
    deviations: &[(&str, &str)],
    version: Version,
    with: impl Fn(&[u8]) -> Vec<u8> + Sync,
) {
    let cases = WRONG.map(|wrong| (format!("{version:?} {wrong:02x?}"), wrong));
    each(broker, deviations, cases, |wrong| {
        let mut client = Client::new(broker, version);
        client.send(&with(wrong));
        client.is_sent_away(&[0x81, 0x82, 0x8f, 0x90]);
    });
}

fn none(version: Version) -> &'static [u8] {
    if version == V5 { &[0] } else { &[] }
}

/// [MQTT-3.3.2-1] [MQTT-4.7.3-2] [MQTT5-3.3.2-1] [MQTT5-4.7.3-2]
#[test]
fn v311_3_3_2_1_a_topic_that_is_no_string_ends_the_connection() {
    both(|broker| {
        for version in BOTH {
            ends(broker, &[], version, |wrong| {
                packet(packet::PUBLISH, &[&string(wrong), none(version)].concat())
            });
        }
    });
}

/// [MQTT-3.8.3-1] [MQTT-4.7.3-2] [MQTT5-3.8.3-1] [MQTT5-4.7.3-2]
#[test]
fn v311_3_8_3_1_a_filter_that_is_no_string_ends_the_connection() {
    both(|broker| {
        for version in BOTH {
            ends(broker, &[], version, |wrong| {
                packet(packet::SUBSCRIBE, &[&[0, 1], none(version), &string(wrong), &[0]].concat())
            });
        }
    });
}

/// [MQTT-3.10.3-1] [MQTT5-3.10.3-1]
#[test]
fn v311_3_10_3_1_an_unsubscribe_of_no_string_ends_the_connection() {
    both(|broker| {
        for version in BOTH {
            ends(broker, &[], version, |wrong| {
                packet(packet::UNSUBSCRIBE, &[&[0, 1], none(version), &string(wrong)].concat())
            });
        }
    });
}

fn publish_with(property: &[u8]) -> Vec<u8> {
    let properties = [&packet::varint(property.len()), property].concat();
    packet(packet::PUBLISH, &[string("t"), properties].concat())
}

/// [MQTT5-3.3.2-13] [MQTT5-3.3.2-19] [MQTT5-1.5.7-1]
#[test]
fn v5_3_3_2_13_properties_that_are_no_strings_end_the_connection() {
    both(|broker| {
        for id in [id::RESPONSE_TOPIC, id::CONTENT_TYPE] {
            ends(broker, &[("V5 *", SILENT)], V5, |wrong| publish_with(&[&[id], &*string(wrong)].concat()));
        }
        ends(broker, &[("V5 *", SILENT)], V5, |wrong| {
            publish_with(&[&[id::USER], &*string(wrong), &string("v")].concat())
        });
        ends(broker, &[("V5 *", SILENT)], V5, |wrong| {
            publish_with(&[&[id::USER], &*string("k"), &string(wrong)].concat())
        });
    });
}

/// [MQTT-1.5.3-3] [MQTT-4.7.3-4] [MQTT5-1.5.4-3] [MQTT5-4.7.3-4]
#[test]
fn v311_1_5_3_3_no_character_is_dropped_or_replaced() {
    both(|broker| {
        for version in BOTH {
            let name = unique("kept");
            // A byte order mark, composed and decomposed letters, other cases, the edges of the planes.
            for topic in
                ["\u{feff}x", "x\u{feff}", "\u{c5}", "A\u{30a}", "stra\u{df}e", "\u{10fffd}", "\u{e000}"]
            {
                let topic = format!("{name}/{topic}");
                let mut listening = subscriber(broker, version, &topic, 0);
                let mut near = subscriber(broker, version, &topic.replace(['\u{feff}', '\u{30a}'], ""), 0);
                Client::new(broker, V311).publish(Publish::new(&topic, "x"));
                assert_eq!(listening.message().topic, topic);
                if topic.contains(['\u{feff}', '\u{30a}']) {
                    near.nothing_comes();
                }
            }
        }
    });
}
