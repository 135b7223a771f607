//! Packets that are none: v5 clients are told, all others are closed without a word.

use crate::broker::Broker;
use crate::client::{Client, subscriber, unique};
use crate::packet::{
    self, BOTH, PUBACK, PUBCOMP, PUBREC, PUBREL, Property, Publish, V5, V311, Version, byte, id, long,
    packet, short, string, text, user, var,
};
use crate::suite::{SILENT, both, each};

const MALFORMED: &[u8] = &[0x81];
const EITHER: &[u8] = &[0x81, 0x82];

/// What Mosquitto does otherwise.
const UNCHECKED_FLAGS: &str = "does not look at the flags of this type";
const TAKES_IT: &str = "takes it";

/// A name, and what is sent in which version.
type Case = (String, (Version, Vec<u8>));

fn case(version: Version, name: &str, bytes: Vec<u8>) -> Case {
    (format!("{version:?} {name}"), (version, bytes))
}

/// Each of these ends a connection of its own, in v5 for one of these reasons. Beside it: what Mosquitto does otherwise.
fn end(broker: &Broker, cases: Vec<Case>, reasons: &[u8], deviations: &[(&str, &str)]) {
    each(broker, deviations, cases, |(version, bytes)| {
        let mut client = Client::new(broker, version);
        client.send(&bytes);
        client.is_sent_away(reasons);
    });
}

fn in_both(cases: impl Fn(Version, &'static [u8]) -> Vec<Case>) -> Vec<Case> {
    [cases(V311, &[]), cases(V5, &[0])].concat()
}

fn flags_of(version: Version, none: &[u8]) -> Vec<(&'static str, u8, u8, Vec<u8>)> {
    let id = vec![0, 1];
    let filter = [&[0, 1], none, &string("t")].concat();
    let all = vec![
        ("PUBACK", PUBACK, 0, id.clone()),
        ("PUBREC", PUBREC, 0, id.clone()),
        ("PUBREL", PUBREL & 0xf0, 2, id.clone()),
        ("PUBCOMP", PUBCOMP, 0, id),
        ("SUBSCRIBE", packet::SUBSCRIBE & 0xf0, 2, [&filter[..], &[0]].concat()),
        ("UNSUBSCRIBE", packet::UNSUBSCRIBE & 0xf0, 2, filter),
        ("PINGREQ", packet::PINGREQ, 0, Vec::new()),
        ("DISCONNECT", packet::DISCONNECT, 0, Vec::new()),
    ];
    let auth = [&[0x19], &*packet::properties(&[text(id::AUTH_METHOD, "x")])].concat();
    if version == V5 { [all, vec![("AUTH", packet::AUTH, 0, auth)]].concat() } else { all }
}

/// [MQTT-2.2.2-1] [MQTT-2.2.2-2] [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1] [MQTT-3.14.1-1] [MQTT-4.8.0-1]
/// [MQTT5-2.1.3-1] [MQTT5-3.6.1-1] [MQTT5-3.8.1-1] [MQTT5-3.10.1-1] [MQTT5-3.14.1-1] [MQTT5-3.15.1-1]
/// [MQTT5-4.13.1-1]
#[test]
fn v311_2_2_2_2_wrong_flags_end_the_connection() {
    let cases = in_both(|version, none| {
        let all = flags_of(version, none).into_iter().flat_map(|(what, kind, right, body)| {
            let wrong = (0..16).filter(move |flags| *flags != right);
            wrong.map(move |flags| (format!("{what} {flags:04b}"), packet(kind | flags, &body)))
        });
        all.map(|(name, bytes)| case(version, &name, bytes)).collect()
    });
    both(|broker| {
        end(
            broker,
            cases.clone(),
            MALFORMED,
            &[
                ("V311 PINGREQ *", UNCHECKED_FLAGS),
                ("V311 PUBACK *", UNCHECKED_FLAGS),
                ("V311 PUBREC *", UNCHECKED_FLAGS),
                ("V311 PUBCOMP *", UNCHECKED_FLAGS),
                ("V5 PINGREQ *", UNCHECKED_FLAGS),
                ("V5 PUBACK *", UNCHECKED_FLAGS),
                ("V5 PUBREC *", UNCHECKED_FLAGS),
                ("V5 PUBCOMP *", UNCHECKED_FLAGS),
                ("V5 PUBREL *", SILENT),
                ("V5 DISCONNECT *", SILENT),
                ("V5 AUTH *", SILENT),
            ],
        );
    });
}

/// [MQTT-3.3.1-4] [MQTT5-3.3.1-4]
#[test]
fn v311_3_3_1_4_qos_3_ends_the_connection() {
    let publish = |version| Publish::new("t", "x").qos(3).id(1).bytes(version);
    let cases = in_both(|version, _| vec![case(version, "QoS 3", publish(version))]);
    both(|broker| end(broker, cases.clone(), MALFORMED, &[]));
}

/// [MQTT-4.8.0-1] [MQTT5-4.13.1-1]
#[test]
fn v311_4_8_0_1_types_that_a_client_does_not_send_end_the_connection() {
    let mut cases = in_both(|version, none| {
        vec![
            case(version, "type 0", packet(0x00, &[])),
            case(version, "CONNACK", packet(0x20, &[&[0, 0], none].concat())),
            case(version, "SUBACK", packet(0x90, &[&[0, 1], none, &[0]].concat())),
            case(version, "UNSUBACK", packet(0xb0, &[0, 1, 0, 0])),
            case(version, "PINGRESP", packet(0xd0, &[])),
        ]
    });
    cases.push(case(V311, "type 15", packet(0xf0, &[])));
    both(|broker| {
        end(
            broker,
            cases.clone(),
            EITHER,
            &[
                ("V311 SUBACK", TAKES_IT),
                ("V311 UNSUBACK", TAKES_IT),
                ("V311 PINGRESP", TAKES_IT),
                ("V5 SUBACK", TAKES_IT),
                ("V5 UNSUBACK", TAKES_IT),
                ("V5 PINGRESP", TAKES_IT),
                ("V5 CONNACK", SILENT),
            ],
        );
    });
}

/// [MQTT-4.8.0-1] [MQTT5-1.5.5-1] [MQTT5-4.13.1-1]
#[test]
fn v311_4_8_0_1_a_remaining_length_of_five_bytes_ends_the_connection() {
    let five = vec![0xc0, 0x80, 0x80, 0x80, 0x80, 0x01];
    let cases = in_both(|version, _| vec![case(version, "five bytes", five.clone())]);
    both(|broker| end(broker, cases.clone(), MALFORMED, &[("V5 five bytes", SILENT)]));
}

/// [MQTT5-1.5.5-1]
#[test]
fn v5_1_5_5_1_lengths_of_more_bytes_than_needed_end_the_connection() {
    let long_id = [&[0, 1, 3, id::SUBSCRIPTION_ID, 0x81, 0x00], &*string("t"), &[0]].concat();
    let cases = vec![
        case(V5, "remaining length", vec![0xc0, 0x80, 0x00]),
        case(V5, "property length", packet(packet::PUBLISH, &[&*string("t"), &[0x80, 0x00]].concat())),
        case(
            V5,
            "five bytes",
            packet(packet::PUBLISH, &[&*string("t"), &[0x80, 0x80, 0x80, 0x80, 1]].concat()),
        ),
        case(V5, "subscription identifier", packet(packet::SUBSCRIBE, &long_id)),
    ];
    both(|broker| end(broker, cases.clone(), MALFORMED, &[("V5 remaining length", TAKES_IT)]));
}

/// [MQTT-2.3.1-1] [MQTT-4.8.0-1] [MQTT5-2.2.1-3] [MQTT5-4.13.1-1]
#[test]
fn v311_2_3_1_1_packet_identifier_0_ends_the_connection() {
    let cases = in_both(|version, _| {
        let packets = [
            case(version, "PUBLISH 1", Publish::new("t", "x").qos(1).bytes(version)),
            case(version, "PUBLISH 2", Publish::new("t", "x").qos(2).bytes(version)),
            case(version, "SUBSCRIBE", packet::subscribe(version, 0, &[], &[("t", 0)])),
            case(version, "UNSUBSCRIBE", packet::unsubscribe(version, 0, &["t"])),
        ];
        let acks = [("PUBACK", PUBACK), ("PUBREC", PUBREC), ("PUBREL", PUBREL), ("PUBCOMP", PUBCOMP)];
        let acks = acks.map(|(name, first)| case(version, name, packet::ack(first, 0)));
        packets.into_iter().chain(acks).collect()
    });
    both(|broker| {
        end(
            broker,
            cases.clone(),
            EITHER,
            &[("V5 PUBACK", SILENT), ("V5 PUBREC", SILENT), ("V5 PUBREL", SILENT), ("V5 PUBCOMP", SILENT)],
        );
    });
}

/// [MQTT-3.8.3-3] [MQTT-3.10.3-2] [MQTT5-3.8.3-2] [MQTT5-3.10.3-2]
#[test]
fn v311_3_8_3_3_no_filter_at_all_ends_the_connection() {
    let cases = in_both(|version, _| {
        vec![
            case(version, "SUBSCRIBE", packet::subscribe(version, 1, &[], &[])),
            case(version, "UNSUBSCRIBE", packet::unsubscribe(version, 1, &[])),
        ]
    });
    both(|broker| end(broker, cases.clone(), EITHER, &[]));
}

/// [MQTT-3.8.3-4] [MQTT5-3.8.3-5]
#[test]
fn v311_3_8_3_4_reserved_bits_of_the_options_end_the_connection() {
    let wrong = |version, options: u8| match version {
        V5 => options & 0xc0 != 0 || options & 3 == 3 || options & 0x30 == 0x30,
        _ => options > 2,
    };
    let cases = in_both(|version, _| {
        let wrong = (0..=u8::MAX).filter(|options| wrong(version, *options));
        let subscribe = |options| packet::subscribe(version, 1, &[], &[("t", options)]);
        wrong.map(|options| case(version, &format!("{options:08b}"), subscribe(options))).collect()
    });
    both(|broker| end(broker, cases.clone(), EITHER, &[]));
}

/// [MQTT-4.8.0-1] [MQTT5-4.13.1-1]
#[test]
fn v311_4_8_0_1_packets_that_are_cut_off_end_the_connection() {
    let cases = in_both(|version, none| {
        let behind_id = |rest: &[u8]| [&[0, 1], none, rest].concat();
        vec![
            case(version, "PUBLISH without anything", packet(0x30, &[])),
            case(version, "PUBLISH with half a topic", packet(0x30, &[0, 9, b't'])),
            case(version, "PUBLISH without its identifier", packet(0x32, &string("t"))),
            case(version, "PUBACK without identifier", packet(PUBACK, &[])),
            case(version, "PUBREC with half an identifier", packet(PUBREC, &[1])),
            case(version, "PUBREL without identifier", packet(PUBREL, &[])),
            case(version, "PUBCOMP with half an identifier", packet(PUBCOMP, &[1])),
            case(version, "SUBSCRIBE without identifier", packet(packet::SUBSCRIBE, &[])),
            case(version, "SUBSCRIBE without options", packet(packet::SUBSCRIBE, &behind_id(&string("t")))),
            case(
                version,
                "SUBSCRIBE with half a filter",
                packet(packet::SUBSCRIBE, &behind_id(&[0, 9, b't'])),
            ),
            case(version, "UNSUBSCRIBE with half a filter", packet(packet::UNSUBSCRIBE, &behind_id(&[0, 9]))),
        ]
    });
    both(|broker| {
        end(
            broker,
            cases.clone(),
            EITHER,
            &[
                ("V5 PUBACK*", SILENT),
                ("V5 PUBREC*", SILENT),
                ("V5 PUBREL*", SILENT),
                ("V5 PUBCOMP*", SILENT),
            ],
        );
    });
}

/// [MQTT-4.8.0-1] [MQTT5-4.13.1-1]
#[test]
fn v311_4_8_0_1_packets_with_something_behind_them_end_the_connection() {
    let cases = vec![
        case(V311, "PUBACK", packet(PUBACK, &[0, 1, 0])),
        case(V311, "PUBREL", packet(PUBREL, &[0, 1, 0])),
        case(V311, "PINGREQ", packet(packet::PINGREQ, &[0])),
        case(V311, "DISCONNECT", packet(packet::DISCONNECT, &[0])),
        case(V5, "PUBACK", packet(PUBACK, &[0, 1, 0, 0, 0])),
        case(V5, "PINGREQ", packet(packet::PINGREQ, &[0])),
        case(V5, "DISCONNECT", packet(packet::DISCONNECT, &[0, 0, 0])),
    ];
    both(|broker| {
        end(
            broker,
            cases.clone(),
            EITHER,
            &[
                ("V311 PUBACK", TAKES_IT),
                ("V311 PUBREL", TAKES_IT),
                ("V311 PINGREQ", TAKES_IT),
                ("V5 PUBACK", TAKES_IT),
                ("V5 PINGREQ", TAKES_IT),
                ("V5 DISCONNECT", SILENT),
            ],
        );
    });
}

/// [MQTT5-4.13.1-1] [MQTT5-2.2.2-1]
#[test]
fn v5_4_13_1_1_properties_that_publish_does_not_have_end_the_connection() {
    let publish = |name: &str, properties: &[Property]| {
        case(V5, name, Publish::new("t", "x").with(properties).bytes(V5))
    };
    let twice = |name: &str, property: Property| publish(name, &[property.clone(), property]);
    let cases = vec![
        publish("session expiry", &[long(id::SESSION_EXPIRY, 1)]),
        publish("reason string", &[text(id::REASON_STRING, "x")]),
        publish("number 0x7f", &[byte(0x7f, 1)]),
        publish("payload format 2", &[byte(id::PAYLOAD_FORMAT, 2)]),
        twice("two payload formats", byte(id::PAYLOAD_FORMAT, 1)),
        twice("two expiries", long(id::MESSAGE_EXPIRY, 1)),
        twice("two content types", text(id::CONTENT_TYPE, "x")),
        twice("two response topics", text(id::RESPONSE_TOPIC, "x")),
        twice("two aliases", short(id::TOPIC_ALIAS, 1)),
        case(V5, "beyond the end", packet(packet::PUBLISH, &[&*string("t"), &[9, id::USER]].concat())),
        case(V5, "no length of none", packet(packet::PUBLISH, &string("t"))),
    ];
    both(|broker| {
        end(broker, cases.clone(), EITHER, &[("V5 payload format 2", SILENT), ("V5 two *", SILENT)]);
    });
}

/// [MQTT5-3.3.4-6]
#[test]
fn v5_3_3_4_6_a_subscription_identifier_from_a_publisher_ends_the_connection() {
    let publish = Publish::new("t", "x").with(&[var(id::SUBSCRIPTION_ID, 1)]).bytes(V5);
    both(|broker| {
        end(broker, vec![case(V5, "PUBLISH", publish.clone())], EITHER, &[("V5 PUBLISH", TAKES_IT)]);
    });
}

/// [MQTT5-4.13.1-1]
#[test]
fn v5_4_13_1_1_wrong_properties_of_other_packets_end_the_connection() {
    let subscribe = |properties: &[Property]| packet::subscribe(V5, 1, properties, &[("t", 0)]);
    let ack = |first, properties: &[Property]| {
        packet(first, &[&[0, 1, 0], &*packet::properties(properties)].concat())
    };
    let unsubscribe = [&[0, 1, 2, id::SUBSCRIPTION_ID, 1], &*string("t")].concat();
    let reasons = [text(id::REASON_STRING, "a"), text(id::REASON_STRING, "b")];
    let cases = vec![
        case(V5, "identifier 0", subscribe(&[var(id::SUBSCRIPTION_ID, 0)])),
        case(V5, "two identifiers", subscribe(&[var(id::SUBSCRIPTION_ID, 1), var(id::SUBSCRIPTION_ID, 2)])),
        case(V5, "an expiry in SUBSCRIBE", subscribe(&[long(id::MESSAGE_EXPIRY, 1)])),
        case(V5, "an identifier in UNSUBSCRIBE", packet(packet::UNSUBSCRIBE, &unsubscribe)),
        case(V5, "an expiry in PUBACK", ack(PUBACK, &[long(id::MESSAGE_EXPIRY, 1)])),
        case(V5, "two reasons in PUBREL", ack(PUBREL, &reasons)),
        case(V5, "two reasons in DISCONNECT", packet::disconnect(0, &reasons)),
    ];
    both(|broker| {
        end(broker, cases.clone(), EITHER, &[("V5 two *", SILENT), ("V5 an expiry in PUBACK", SILENT)]);
    });
}

/// [MQTT5-3.4.2-1] [MQTT5-3.5.2-1] [MQTT5-3.6.2-1] [MQTT5-3.7.2-1] [MQTT5-3.14.2-1] [MQTT5-3.15.2-1]
#[test]
fn v5_3_4_2_1_reason_codes_that_their_packet_does_not_have_end_the_connection() {
    let cases = vec![
        case(V5, "PUBACK", packet::ack_because(PUBACK, 1, 0x92)),
        case(V5, "PUBREC", packet::ack_because(PUBREC, 1, 0x01)),
        case(V5, "PUBREL", packet::ack_because(PUBREL, 1, 0x10)),
        case(V5, "PUBCOMP", packet::ack_because(PUBCOMP, 1, 0x80)),
        case(V5, "DISCONNECT", packet::disconnect(0x01, &[])),
        case(V5, "AUTH", packet::auth(0x01, &[text(id::AUTH_METHOD, "x")])),
    ];
    both(|broker| {
        end(
            broker,
            cases.clone(),
            EITHER,
            &[("V5 PUB*", TAKES_IT), ("V5 DISCONNECT", SILENT), ("V5 AUTH", SILENT)],
        );
    });
}

/// [MQTT-4.8.0-1] [MQTT5-4.13.1-1] [MQTT5-4.13.2-1] [MQTT5-3.14.4-2]
#[test]
fn v311_4_8_0_1_nothing_is_processed_behind_what_ended_the_connection() {
    both(|broker| {
        let topic = unique("behind");
        let mut listening = subscriber(broker, V5, &topic, 0);
        for version in BOTH {
            let mut client = Client::new(broker, version);
            client.send(&[packet(0x00, &[]), Publish::new(&topic, "x").bytes(version)].concat());
            client.is_sent_away(EITHER);
        }
        listening.nothing_comes();
    });
}

/// [MQTT5-3.3.2-17]
#[test]
fn v5_3_3_2_17_what_only_looks_odd_does_not_end_the_connection() {
    both(|broker| {
        let mut client = Client::new(broker, V5);
        let topic = unique("odd");
        client.subscribe(&topic, 0);
        let many: Vec<_> = (0..50).map(|_| user("", "")).collect();
        client.send(&Publish::new(&topic, "").with(&many).bytes(V5));
        assert_eq!(client.message().properties, many);
        // Acknowledgements of what was never sent, in all their forms.
        for first in [PUBACK, PUBCOMP] {
            client.send(&packet::ack(first, 999));
            client.send(&packet::ack_because(first, 999, if first == PUBACK { 0x10 } else { 0x92 }));
            client.send(&packet(first, &[3, 0xe7, 0, 0]));
        }
        client.ping();
    });
}
