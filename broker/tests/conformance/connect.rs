//! CONNECT and CONNACK: what is let in, what is refused, and with which words.

use std::io::Read;
use std::net::TcpStream;

use crate::answer::Answer;
use crate::broker::Broker;
use crate::client::{Client, SOON, subscriber, unique};
use crate::packet::{
    self, BOTH, Connect, PINGREQ, Publish, V5, V311, Value, Version, Will, byte, data, id, long, packet,
    properties, short, string, text, user, var,
};
use crate::suite::{SILENT, both, each};

/// A CONNECT whose payload is what its flags say.
fn with_flags(version: Version, flags: u8) -> Connect {
    let mut connect = Connect::new(version, &unique("flags"));
    connect.clean = flags & 2 != 0;
    let mut will = Will::new(&unique("will"), b"w");
    will.qos = flags >> 3 & 3;
    will.retain = flags & 0x20 != 0;
    connect.will = (flags & 4 != 0).then_some(will);
    connect.user_name = (flags & 0x80 != 0).then(|| b"user".to_vec());
    connect.password = (flags & 0x40 != 0).then(|| b"password".to_vec());
    connect.spoil_flags = connect.flags() ^ flags;
    connect
}

fn are_good(version: Version, flags: u8) -> bool {
    let (will, qos, retain) = (flags & 4 != 0, flags >> 3 & 3, flags & 0x20 != 0);
    let will_fits = if will { qos < 3 } else { qos == 0 && !retain };
    let password_fits = version == V5 || flags & 0x40 == 0 || flags & 0x80 != 0;
    flags & 1 == 0 && will_fits && password_fits
}

fn every_combination_of_flags(broker: &Broker, version: Version) {
    for flags in 0..=u8::MAX {
        let mut client = Client::knock(broker, &with_flags(version, flags));
        if are_good(version, flags) {
            let answer = client.answer();
            let good = matches!(answer, Answer::ConnAck { code: 0, session_present: false, .. });
            assert!(good, "{version:?} {flags:#010b}: {answer:?}");
            client.leave();
        } else {
            client.is_refused_or_closed(&[0x81, 0x82]);
        }
    }
}

/// [MQTT-3.1.2-3] [MQTT-3.1.2-9] [MQTT-3.1.2-11] [MQTT-3.1.2-13] [MQTT-3.1.2-14] [MQTT-3.1.2-15] [MQTT-3.1.2-22]
/// [MQTT-3.1.4-1] [MQTT-3.1.4-4]
#[test]
fn v311_3_1_2_3_every_combination_of_flags_is_let_in_or_closed_without_a_word() {
    both(|broker| every_combination_of_flags(broker, V311));
}

/// [MQTT5-3.1.2-3] [MQTT5-3.1.2-9] [MQTT5-3.1.2-11] [MQTT5-3.1.2-12] [MQTT5-3.1.2-13] [MQTT5-3.1.4-1]
/// [MQTT5-3.1.4-5] [MQTT5-3.2.2-1]
#[test]
fn v5_3_1_2_3_every_combination_of_flags_is_let_in_or_refused() {
    both(|broker| every_combination_of_flags(broker, V5));
}

/// [MQTT-3.1.2-9] [MQTT-3.1.2-18] [MQTT-3.1.2-19] [MQTT-3.1.2-20] [MQTT-3.1.2-21] [MQTT-3.1.3-3] [MQTT-3.2.2-6]
/// [MQTT5-3.1.2-9] [MQTT5-3.1.2-16] [MQTT5-3.1.2-17] [MQTT5-3.1.2-18] [MQTT5-3.1.2-19] [MQTT5-3.1.3-3]
#[test]
fn v311_3_1_2_19_flags_and_payload_must_agree() {
    both(|broker| {
        for version in BOTH {
            let none: &[u8] = if version == V5 { &[0] } else { &[] };
            let of = |flags: u8, payload: &[&[u8]]| {
                let level = if version == V5 { 5 } else { 4 };
                let head = [&string("MQTT")[..], &[level, flags, 0, 60], none].concat();
                packet(packet::CONNECT, &[head, payload.concat()].concat())
            };
            let (name, field) = (string(unique("agree")), string("field"));
            let wrong = [
                ("no client id", of(0x02, &[])),
                ("a user name that is not there", of(0x82, &[&name])),
                ("a password that is not there", of(0xc2, &[&name, &field])),
                ("a user name without its flag", of(0x02, &[&name, &field])),
                ("a password without its flag", of(0x82, &[&name, &field, &field])),
                ("a will that is not there", of(0x06, &[&name])),
                ("half a will", of(0x06, &[&name, none, &field])),
                ("a client id that is cut off", of(0x02, &[&name[..3]])),
            ];
            for (what, bytes) in wrong {
                let mut client = Client::open(broker, version);
                client.send(&bytes);
                println!("{version:?}: {what}");
                client.is_refused_or_closed(&[0x81, 0x82]);
            }
        }
    });
}

/// [MQTT-3.1.0-1] [MQTT-3.2.0-1] [MQTT5-3.1.0-1] [MQTT5-3.14.0-1] [MQTT5-3.2.0-1]
#[test]
fn v311_3_1_0_1_what_begins_with_another_packet_is_closed_without_a_word() {
    both(|broker| {
        for version in BOTH {
            for first in [
                Publish::new("t", "x").bytes(version),
                packet::subscribe(version, 1, &[], &[("t", 0)]),
                packet::unsubscribe(version, 1, &["t"]),
                packet(PINGREQ, &[]),
                packet(packet::DISCONNECT, &[]),
                packet::ack(packet::PUBREL, 1),
                packet::auth(0x18, &[text(id::AUTH_METHOD, "x")]),
            ] {
                let mut client = Client::open(broker, version);
                client.send(&first);
                client.is_closed();
            }
        }
    });
}

/// [MQTT-3.1.0-2] [MQTT5-3.1.0-2] [MQTT5-3.2.0-2]
#[test]
fn v311_3_1_0_2_a_second_connect_ends_the_connection() {
    both(|broker| {
        let cases = BOTH.map(|version| (format!("{version:?}"), version));
        each(broker, &[("V5", SILENT)], cases, |version| {
            let connect = Connect::new(version, &unique("twice"));
            let mut client = Client::connect(broker, &connect);
            client.send(&connect.bytes());
            client.is_sent_away(&[0x82]);
        });
    });
}

/// All bytes until the end of the connection.
fn answer_to(broker: &Broker, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(broker.address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    std::io::Write::write_all(&mut stream, bytes).unwrap();
    let mut answer = Vec::new();
    let mut scratch = [0; 64];
    loop {
        match stream.read(&mut scratch) {
            Ok(0) => return answer,
            Ok(read) => answer.extend_from_slice(&scratch[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return answer,
            Err(error) => panic!("neither an answer nor the end: {error}"),
        }
    }
}

const REFUSED_V3: &[u8] = &[0x20, 2, 0, 1];
const REFUSED_V5: &[u8] = &[0x20, 3, 0, 0x84, 0];

/// [MQTT-3.1.2-1] [MQTT5-3.1.2-1]
#[test]
fn v311_3_1_2_1_another_protocol_name_is_not_mqtt() {
    both(|broker| {
        for version in BOTH {
            for name in ["", "M", "mqtt", "MQTT ", "MQTTX", "MQIsdq", "HTTP", "MQTT\u{feff}"] {
                let mut connect = Connect::new(version, &unique("name"));
                connect.name = name.as_bytes().to_vec();
                let answer = answer_to(broker, &connect.bytes());
                let silent_or_refused = [&[], REFUSED_V3, REFUSED_V5].contains(&&*answer);
                assert!(silent_or_refused, "{version:?} {name:?}: {answer:02x?}");
            }
            // The name of 3.1 with the level of another version.
            let mut connect = Connect::new(version, &unique("name"));
            connect.name = b"MQIsdp".to_vec();
            let answer = answer_to(broker, &connect.bytes());
            assert!([&[], REFUSED_V3, REFUSED_V5].contains(&&*answer), "{version:?}: {answer:02x?}");
        }
    });
}

/// [MQTT-3.1.2-2] [MQTT-3.2.2-5] [MQTT5-3.1.2-2] [MQTT5-3.2.2-7]
#[test]
fn v311_3_1_2_2_an_unknown_level_is_refused_by_its_code() {
    both(|broker| {
        for level in [0, 1, 2, 6, 7, 0x7f] {
            let mut connect = Connect::new(V311, &unique("level"));
            connect.level = level;
            let answer = answer_to(broker, &connect.bytes());
            // What is newer than 5 may be answered in the form of either.
            let newer = level > 5 && answer == REFUSED_V5;
            assert!(answer == REFUSED_V3 || newer, "level {level}: {answer:02x?}");
        }
    });
}

/// [MQTT-3.1.3-5] [MQTT5-3.1.3-5] [MQTT-3.1.4-4] [MQTT5-3.1.4-5]
#[test]
fn v311_3_1_3_5_client_ids_of_up_to_23_letters_and_digits_are_let_in() {
    both(|broker| {
        let all = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        for version in BOTH {
            for id in [&all[..1], &all[..23], &all[23..46], &all[39..62], &all[61..]] {
                Client::connect(broker, &Connect::new(version, id)).leave();
            }
        }
    });
}

/// [MQTT-3.1.3-6]
#[test]
fn v311_3_1_3_6_clients_without_an_id_do_not_push_each_other_out() {
    both(|broker| {
        let mut clients = [0; 3].map(|_| Client::connect(broker, &Connect::new(V311, "")));
        clients.iter_mut().for_each(Client::ping);
        clients.into_iter().for_each(Client::leave);
    });
}

/// [MQTT-3.2.2-4] [MQTT5-3.2.2-6] [MQTT5-3.2.2-7] [MQTT5-3.2.2-8]
#[test]
fn v311_3_2_2_4_a_refusal_does_not_tell_of_the_session_that_is_there() {
    both(|broker| {
        for version in BOTH {
            let name = unique("there");
            Client::connect(broker, &Connect::new(version, &name).lasting(60)).leave();
            let mut refused = Connect::new(version, &name).lasting(60);
            if version == V5 {
                refused.properties.push(text(id::AUTH_METHOD, "no such method"));
            } else {
                refused.level = 2;
            }
            let mut client = Client::knock(broker, &refused);
            let answer = client.answer();
            let told = matches!(answer, Answer::ConnAck { session_present: false, code: 1.., .. });
            assert!(told, "{version:?}: {answer:?}");
            client.is_closed();
            let client = Client::connect(broker, &Connect::new(version, &name).lasting(60));
            assert!(client.session_present, "the session was there");
        }
    });
}

/// [MQTT-3.1.3-7] [MQTT-3.1.3-8] [MQTT-3.1.3-9] [MQTT-3.2.2-5]
#[test]
fn v311_3_1_3_8_an_empty_client_id_with_a_session_is_refused() {
    both(|broker| {
        let mut client = Client::knock(broker, &Connect::new(V311, "").lasting(0));
        client.hears(&Answer::ConnAck { session_present: false, code: 2, properties: Vec::new() });
        client.is_closed();
    });
}

fn assigned_id(client: &Client) -> String {
    let found = client.properties.iter().find(|property| property.0 == id::ASSIGNED_CLIENT_ID);
    match found.map(|property| &property.1) {
        Some(Value::Text(id)) => id.clone(),
        other => panic!("no assigned client id: {other:?}"),
    }
}

/// [MQTT5-3.1.3-6] [MQTT5-3.1.3-7] [MQTT5-3.2.2-16]
#[test]
fn v5_3_1_3_7_an_assigned_client_id_is_told_and_counts() {
    both(|broker| {
        let mut first = Client::connect(broker, &Connect::new(V5, ""));
        let second = Client::connect(broker, &Connect::new(V5, "").lasting(0));
        let (one, other) = (assigned_id(&first), assigned_id(&second));
        assert!(!one.is_empty() && one != other, "{one:?} and {other:?}");
        // Who comes with that id is the same client.
        let again = Client::connect(broker, &Connect::new(V5, &one));
        broker.but_mosquitto(SILENT, || first.is_sent_away(&[0x8e]));
        again.leave();
        second.leave();
    });
}

/// [MQTT-3.1.4-2] [MQTT5-3.1.4-3]
#[test]
fn v311_3_1_4_2_the_newer_connection_of_a_client_id_stays() {
    both(|broker| {
        let cases = BOTH.iter().flat_map(|older| BOTH.map(|newer| (*older, newer)));
        let cases = cases.map(|(older, newer)| (format!("{older:?} by {newer:?}"), (older, newer)));
        each(broker, &[("V5 by *", SILENT)], cases, |(older, newer)| {
            let name = unique("taken");
            let mut first = Client::connect(broker, &Connect::new(older, &name));
            let mut second = Client::connect(broker, &Connect::new(newer, &name));
            first.is_sent_away(&[0x8e]);
            second.ping();
        });
    });
}

/// [MQTT-3.1.4-5] [MQTT5-3.1.4-6]
#[test]
fn v311_3_1_4_5_what_follows_a_refused_connect_is_not_processed() {
    both(|broker| {
        let topic = unique("refused");
        let mut listening = subscriber(broker, V311, &topic, 0);
        let nameless = Connect::new(V311, "").lasting(0);
        let method = Connect::new(V5, &unique("c")).with(&[text(id::AUTH_METHOD, "no such method")]);
        for connect in [nameless, method] {
            let publish = Publish::new(&topic, "x").retained().bytes(connect.version);
            let mut client = Client::open(broker, connect.version);
            client.send(&[connect.bytes(), publish].concat());
            let answer = client.answer();
            assert!(matches!(answer, Answer::ConnAck { code: 1.., .. }), "{answer:?}");
            client.is_closed();
        }
        listening.nothing_comes();
    });
}

/// [MQTT-3.2.0-1] [MQTT5-3.2.0-1]
#[test]
fn v311_3_2_0_1_connack_comes_first_also_to_who_does_not_wait_for_it() {
    both(|broker| {
        for version in BOTH {
            let topic = unique("hasty");
            let mut client = Client::open(broker, version);
            client.send(
                &[
                    Connect::new(version, &unique("c")).bytes(),
                    packet::subscribe(version, 7, &[], &[(&topic, 0)]),
                    Publish::new(&topic, "x").bytes(version),
                    packet(PINGREQ, &[]),
                ]
                .concat(),
            );
            let answer = client.answer();
            assert!(matches!(answer, Answer::ConnAck { code: 0, .. }), "{answer:?}");
            // The rest in any order: a broker may have to ask others before it answers a SUBSCRIBE.
            let rest = [client.answer(), client.answer(), client.answer()];
            for answer in [Answer::SubAck { id: 7, codes: vec![0] }, Answer::PingResp] {
                assert!(rest.contains(&answer), "{rest:?}");
            }
            assert!(rest.iter().any(|answer| matches!(answer, Answer::Publish(_))), "{rest:?}");
        }
    });
}

/// [MQTT-3.2.2-1] [MQTT5-3.2.2-2] [MQTT5-3.2.2-1]
#[test]
fn v311_3_2_2_1_a_clean_session_is_never_present() {
    both(|broker| {
        for version in BOTH {
            let name = unique("clean");
            for _ in 0..2 {
                Client::connect(broker, &Connect::new(version, &name).lasting(60)).leave();
                let client = Client::connect(broker, &Connect::new(version, &name));
                assert!(!client.session_present);
                client.leave();
            }
        }
    });
}

/// [MQTT5-3.1.2-28]
#[test]
fn v5_3_1_2_28_no_response_information_for_who_asked_for_none() {
    both(|broker| {
        for asked in [&[][..], &[byte(id::REQUEST_RESPONSE, 0)]] {
            let client = Client::with(broker, asked);
            let told = client.properties.iter().any(|property| property.0 == id::RESPONSE_INFORMATION);
            assert!(!told);
        }
    });
}

/// [MQTT5-3.1.4-1] [MQTT5-4.13.1-1] [MQTT5-2.2.2-1]
#[test]
fn v5_3_1_4_1_a_connect_with_wrong_properties_is_refused() {
    let once = [
        long(id::SESSION_EXPIRY, 1),
        short(id::RECEIVE_MAXIMUM, 9),
        long(id::MAXIMUM_PACKET, 100),
        short(id::TOPIC_ALIAS_MAXIMUM, 1),
        byte(id::REQUEST_RESPONSE, 0),
        byte(id::REQUEST_PROBLEM, 1),
    ];
    let twice = once.iter().map(|property| vec![property.clone(), property.clone()]);
    let wrong = [
        vec![short(id::RECEIVE_MAXIMUM, 0)],
        vec![long(id::MAXIMUM_PACKET, 0)],
        vec![byte(id::REQUEST_RESPONSE, 2)],
        vec![byte(id::REQUEST_PROBLEM, 2)],
        vec![data(id::AUTH_DATA, b"without a method")],
        vec![byte(0x7f, 0)],
        vec![byte(0x00, 0)],
        // Of other packets.
        vec![byte(id::PAYLOAD_FORMAT, 0)],
        vec![short(id::SERVER_KEEP_ALIVE, 1)],
        vec![long(id::WILL_DELAY, 1)],
        vec![text(id::REASON_STRING, "x")],
        vec![var(id::SUBSCRIPTION_ID, 1)],
    ];
    let cases: Vec<_> =
        twice.chain(wrong).map(|properties| (format!("{properties:?}"), properties)).collect();
    let deviations = [("[Property(22,*", "takes authentication data without a method")];
    both(|broker| {
        each(broker, &deviations, cases.clone(), |properties| {
            let connect = Connect::new(V5, &unique("c")).with(&properties);
            Client::knock(broker, &connect).is_refused_or_closed(&[0x81, 0x82]);
        });
    });
}

/// [MQTT5-3.1.4-1] [MQTT5-3.1.2-9]
#[test]
fn v5_3_1_4_1_a_will_with_wrong_properties_is_refused() {
    let wrong = [
        vec![long(id::WILL_DELAY, 1), long(id::WILL_DELAY, 1)],
        vec![byte(id::PAYLOAD_FORMAT, 2)],
        vec![long(id::SESSION_EXPIRY, 1)],
        vec![short(id::TOPIC_ALIAS, 1)],
        vec![text(id::RESPONSE_TOPIC, "a/+")],
    ];
    let cases = wrong.map(|properties| (format!("{properties:?}"), properties));
    let deviations = [
        ("[Property(1, Byte(2))]", "does not look at the payload format of a will"),
        ("[Property(8, *", "does not look at the response topic of a will"),
    ];
    both(|broker| {
        each(broker, &deviations, cases.clone(), |properties| {
            let mut will = Will::new("will", b"x");
            will.properties = properties;
            let connect = Connect::new(V5, &unique("c")).will(will);
            Client::knock(broker, &connect).is_refused_or_closed(&[0x81, 0x82, 0x90]);
        });
    });
}

/// [MQTT5-3.1.4-1] [MQTT5-1.5.5-1]
#[test]
fn v5_3_1_4_1_a_connect_whose_property_length_lies_is_refused() {
    both(|broker| {
        let name = string(unique("c"));
        for length in [&[5][..], &[0x80, 0], &[0x80, 0x80, 0x80, 0x80, 1], &[0xff, 0xff, 0xff, 0x7f]] {
            let body = [&string("MQTT")[..], &[5, 2, 0, 60], length, &[0x11, 0, 0], &name].concat();
            let mut client = Client::open(broker, V5);
            client.send(&packet(packet::CONNECT, &body));
            client.is_refused_or_closed(&[0x81, 0x82]);
        }
        let good = [&string("MQTT")[..], &[5, 2, 0, 60], &properties(&[user("k", "v")]), &name].concat();
        let mut client = Client::open(broker, V5);
        client.send(&packet(packet::CONNECT, &good));
        assert!(matches!(client.answer(), Answer::ConnAck { code: 0, .. }));
    });
}
