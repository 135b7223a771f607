//! Flow: receive maximum and maximum packet size, both ways; long and short packets, in pieces and in crowds.

use crate::answer::Answer;
use crate::broker::Settings;
use crate::client::{Client, Heard, PATIENCE, subscriber, unique};
use crate::packet::{
    self, BOTH, Connect, PINGREQ, PUBACK, PUBCOMP, PUBREC, PUBREL, Property, Publish, V5, V311, Value, id,
    long, packet, short, text,
};
use crate::qos::NOT_OURS;
use crate::suite::{both, both_alone, both_but_mosquitto, each};

/// [MQTT5-3.3.4-9] [MQTT5-3.3.4-10] [MQTT5-4.9.0-1] [MQTT5-4.9.0-2] [MQTT5-4.9.0-3]
#[test]
fn v5_3_3_4_9_no_more_messages_are_out_than_a_client_takes() {
    both(|broker| {
        for most in [1, 2, 5] {
            let topic = unique("window");
            let mut listening = Client::with(broker, &[short(id::RECEIVE_MAXIMUM, most)]);
            listening.subscribe(&topic, 2);
            let mut client = Client::new(broker, V5);
            for number in 0..8 {
                client.says(&topic, &number.to_string(), 1 + number % 2);
            }
            let mut open: Vec<_> = (0..most).map(|_| listening.message()).collect();
            // Everything else comes all the same: PINGRESP, SUBACK, PUBACK, QoS 0.
            listening.nothing_comes();
            listening.subscribe(&unique("other"), 0);
            listening.says(&unique("own"), "x", 1);
            client.says(&topic, "at most once", 0);
            assert_eq!(listening.message().text(), "at most once");
            let mut numbers = Vec::new();
            while let Some(message) = (!open.is_empty()).then(|| open.remove(0)) {
                numbers.push(message.text().parse::<u16>().unwrap());
                if message.qos == 1 {
                    listening.send(&packet::ack(PUBACK, message.id));
                } else {
                    listening.send(&packet::ack(PUBREC, message.id));
                    listening.awaits(|answer| *answer == Answer::PubRel { id: message.id, code: 0 });
                    listening.send(&packet::ack(PUBCOMP, message.id));
                }
                if numbers.len() + open.len() < 8 {
                    open.push(listening.message());
                }
            }
            assert_eq!(numbers, (0..8).collect::<Vec<_>>());
        }
    });
}

/// [MQTT5-3.3.4-9] [MQTT5-4.9.0-2]
#[test]
fn v5_3_3_4_9_pubrec_does_not_make_room() {
    both_but_mosquitto("sends the next message after PUBREC", |broker| {
        let topic = unique("room");
        let mut listening = Client::with(broker, &[short(id::RECEIVE_MAXIMUM, 2)]);
        listening.subscribe(&topic, 2);
        let mut client = Client::new(broker, V5);
        for text in ["1", "2", "3", "4"] {
            client.says(&topic, text, 2);
        }
        listening.gets("1");
        let second = listening.message();
        listening.send(&packet::ack(PUBREC, second.id));
        listening.awaits(|answer| *answer == Answer::PubRel { id: second.id, code: 0 });
        assert_eq!(listening.message().text(), "3");
        listening.nothing_comes();
        listening.send(&packet::ack(PUBCOMP, second.id));
        listening.gets("4");
    });
}

/// The server's receive maximum.
fn server_takes(client: &Client) -> u16 {
    match client.properties.iter().find(|property| property.0 == id::RECEIVE_MAXIMUM) {
        Some(Property(_, Value::Short(most))) => *most,
        _ => u16::MAX,
    }
}

/// [MQTT5-3.3.4-7] [MQTT5-4.9.0-1]
#[test]
fn v5_3_3_4_7_who_sends_more_than_the_server_takes_is_sent_away() {
    let settings = Settings {
        ours: "[limits]\nreceive_maximum = 5",
        mosquitto: "max_inflight_messages 5",
        ..Settings::default()
    };
    both_alone(settings, |broker| {
        let mut client = Client::new(broker, V5);
        let most = server_takes(&client);
        assert_eq!(most, 5);
        let topic = unique("flood");
        for id in 1..=most {
            client.send(&Publish::new(&topic, "x").qos(2).id(id).bytes(V5));
            client.awaits(|answer| matches!(answer, Answer::PubRec { id: same, .. } if *same == id));
        }
        // One is finished: there is room for one.
        client.send(&packet::ack(PUBREL, 1));
        client.hears(&Answer::PubComp { id: 1, code: 0 });
        client.send(&Publish::new(&topic, "x").qos(2).id(most + 1).bytes(V5));
        client.awaits(|answer| matches!(answer, Answer::PubRec { id: same, .. } if *same == most + 1));
        client.send(&Publish::new(&topic, "x").qos(2).id(most + 2).bytes(V5));
        broker.but_mosquitto("refuses the message with PUBREC 0x97", || client.is_sent_away(&[0x93]));
    });
}

/// [MQTT5-3.3.4-8] [MQTT5-4.9.0-3]
#[test]
fn v5_3_3_4_8_a_full_window_of_the_server_does_not_stop_other_packets() {
    let settings = Settings {
        ours: "[limits]\nreceive_maximum = 5",
        mosquitto: "max_inflight_messages 5",
        ..Settings::default()
    };
    both_alone(settings, |broker| {
        let mut client = Client::new(broker, V5);
        let topic = unique("full");
        for id in 1..=5 {
            client.send(&Publish::new(&topic, "x").qos(2).id(id).bytes(V5));
            client.awaits(|answer| matches!(answer, Answer::PubRec { id: same, .. } if *same == id));
        }
        client.ping();
        client.subscribe(&topic, 1);
        client.says(&topic, "at most once", 0);
        assert_eq!(client.message().text(), "at most once");
    });
}

/// [MQTT-4.3.3-2]
#[test]
fn v311_4_3_3_2_many_open_messages_of_a_client_that_knows_no_window() {
    both_but_mosquitto("acknowledges all of them and passes on the first twenty", |broker| {
        let topic = unique("open");
        let mut listening = subscriber(broker, V311, &topic, 0);
        let mut client = Client::new(broker, V311);
        for id in 1..=100 {
            client.send(&Publish::new(&topic, id.to_string()).qos(2).id(id).bytes(V311));
        }
        // It need not take all of them before some are finished.
        let mut finished = 0;
        while finished < 100 {
            match client.answer() {
                Answer::PubRec { id, .. } => client.send(&packet::ack(PUBREL, id)),
                Answer::PubComp { id, .. } => {
                    finished += 1;
                    assert_eq!(id, finished);
                }
                other => panic!("{other:?}"),
            }
        }
        for id in 1..=100 {
            listening.gets(&id.to_string());
        }
    });
}

const KEEPS_A_PLACE: &str = "keeps a place in the window for what it did not send";

/// [MQTT5-3.1.2-24] [MQTT5-3.1.2-25]
#[test]
fn v5_3_1_2_25_a_message_too_large_for_a_client_counts_as_delivered() {
    let cases = [0, 1, 2].map(|qos: u8| (qos.to_string(), qos));
    both(|broker| {
        each(broker, &[("1", KEEPS_A_PLACE), ("2", KEEPS_A_PLACE)], cases.clone(), |qos| {
            let topic = unique("large");
            let connect = [long(id::MAXIMUM_PACKET, 100), short(id::RECEIVE_MAXIMUM, 1)];
            let mut listening = Client::with(broker, &connect);
            let mut other = subscriber(broker, V5, &topic, 0);
            listening.subscribe(&topic, qos);
            let mut client = Client::new(broker, V5);
            client.publish(Publish::new(&topic, [b'x'; 200]).qos(qos));
            client.says(&topic, "small", qos);
            listening.gets("small");
            listening.nothing_comes();
            assert_eq!(other.message().payload.len(), 200);
        });
    });
}

/// [MQTT5-3.1.2-24]
#[test]
fn v5_3_1_2_24_the_maximum_holds_to_the_byte() {
    both_but_mosquitto("does not count the fixed header", |broker| {
        for qos in 0..3 {
            let topic = unique("byte");
            let mut listening = Client::with(broker, &[long(id::MAXIMUM_PACKET, 100)]);
            listening.subscribe(&topic, qos);
            let mut client = Client::new(broker, V5);
            let head = 2 + 2 + topic.len() + if qos > 0 { 2 } else { 0 } + 1;
            client.publish(Publish::new(&topic, vec![b'y'; 101 - head]).qos(qos));
            client.publish(Publish::new(&topic, vec![b'z'; 100 - head]).qos(qos));
            assert_eq!(listening.take().payload, vec![b'z'; 100 - head]);
        }
    });
}

/// [MQTT5-3.1.2-24] [MQTT5-3.2.2-19] [MQTT5-3.2.2-20] [MQTT5-3.4.2-2] [MQTT5-3.4.2-3] [MQTT5-3.5.2-2]
/// [MQTT5-3.5.2-3] [MQTT5-3.6.2-2] [MQTT5-3.6.2-3] [MQTT5-3.7.2-2] [MQTT5-3.7.2-3] [MQTT5-3.9.2-1] [MQTT5-3.9.2-2]
/// [MQTT5-3.11.2-1] [MQTT5-3.11.2-2] [MQTT5-3.14.2-3] [MQTT5-3.14.2-4]
#[test]
fn v5_3_1_2_24_no_packet_at_all_is_larger_than_a_client_takes() {
    let cases: Vec<_> = [2, 4, 5, 8, 16, 24, 32, 48, 64].map(|most| (most.to_string(), most)).into();
    both(|broker| {
        each(broker, &[], cases.clone(), |most| {
            let mut client = Client::open(broker, V5);
            client.largest = most;
            client.send(
                &[
                    Connect::new(V5, &unique("c")).with(&[long(id::MAXIMUM_PACKET, most as u32)]).bytes(),
                    packet::subscribe(V5, 1, &[], &[("a", 1), ("b/#", 0)]),
                    packet::unsubscribe(V5, 2, &["none"]),
                    Publish::new("nobody", "x").qos(1).id(3).bytes(V5),
                    Publish::new("nobody", "x").qos(2).id(4).bytes(V5),
                    packet::ack(PUBREL, 4),
                    packet::ack(PUBREL, 99),
                    packet::ack(PUBREC, 99),
                    Publish::new(NOT_OURS, "x").qos(1).id(5).bytes(V5),
                    Publish::new(NOT_OURS, "x").qos(2).id(6).bytes(V5),
                    packet(PINGREQ, &[]),
                    packet(0x00, &[]),
                ]
                .concat(),
            );
            // The client asserts the size of everything that it reads.
            let mut answers = 0;
            while let Heard::Packet(_) = client.hear(PATIENCE.get()) {
                answers += 1;
            }
            // None of them is large by itself: what is left out is a reason string, not the packet.
            assert!(answers >= 11 || most < 32, "{answers} answers");
        });
    });
}

/// [MQTT5-3.1.2-24]
#[test]
fn v5_3_1_2_24_a_suback_that_a_client_does_not_take_is_not_sent() {
    // Two bytes of header, an identifier, the length of no properties.
    const MOST: usize = 100;
    let subscribe = |count: usize| packet::subscribe(V5, 1, &[], &vec![("a", 0); count]);
    let unsubscribe = |count: usize| packet::unsubscribe(V5, 1, &vec!["a"; count]);
    both_but_mosquitto("sends what is larger", |broker| {
        for ask in [&subscribe as &dyn Fn(usize) -> Vec<u8>, &unsubscribe] {
            let mut client = Client::with(broker, &[long(id::MAXIMUM_PACKET, MOST as u32)]);
            client.largest = MOST;
            client.send(&ask(MOST - 5));
            assert!(matches!(client.answer(), Answer::SubAck { .. } | Answer::UnsubAck { .. }));
            client.send(&ask(MOST - 4));
            let answer = client.answer();
            assert!(matches!(answer, Answer::Disconnect { code: 0x95, .. }), "{answer:?}");
            client.is_closed();
        }
    });
}

/// [MQTT5-3.1.2-24] [MQTT5-3.2.2-19] [MQTT5-3.2.2-20]
#[test]
fn v5_3_2_2_19_a_refusing_connack_is_no_larger_either() {
    let cases: Vec<_> = (5..64).map(|most: u8| (most.to_string(), most)).collect();
    both(|broker| {
        each(broker, &[], cases.clone(), |most| {
            let properties = [long(id::MAXIMUM_PACKET, most.into()), text(id::AUTH_METHOD, "no such method")];
            let mut client = Client::open(broker, V5);
            client.largest = most.into();
            client.send(&Connect::new(V5, &unique("c")).with(&properties).bytes());
            let answer = client.answer();
            assert!(matches!(answer, Answer::ConnAck { code: 0x80.., .. }), "{answer:?}");
            client.is_closed();
        });
    });
}

/// [MQTT5-3.2.2-15]
#[test]
fn v5_3_2_2_15_what_is_larger_than_the_server_takes_ends_the_connection() {
    let settings = Settings {
        ours: "[limits]\npacket_bytes = 2000",
        mosquitto: "max_packet_size 2000",
        ..Settings::default()
    };
    both_alone(settings, |broker| {
        let mut client = Client::new(broker, V5);
        assert!(client.properties.contains(&long(id::MAXIMUM_PACKET, 2000)), "{:?}", client.properties);
        let topic = unique("t");
        let head = 3 + 2 + topic.len() + 2 + 1;
        client.publish(Publish::new(&topic, vec![0; 2000 - head]).qos(1));
        broker.but_mosquitto("does not count the fixed header", || {
            let mut client = Client::new(broker, V5);
            client.send(&Publish::new(&topic, vec![0; 2001 - head]).qos(1).id(9).bytes(V5));
            client.is_sent_away(&[0x95]);
        });
        client.send(&Publish::new(&topic, vec![0; 2100]).qos(1).id(9).bytes(V5));
        client.is_sent_away(&[0x95]);
        let mut client = Client::new(broker, V311);
        client.send(&Publish::new(&topic, vec![0; 4000]).bytes(V311));
        client.is_closed();
    });
}

/// [MQTT-7.1.1-1] [MQTT5-4.2.0-1] [MQTT5-1.5.5-1]
#[test]
fn v311_7_1_1_1_payloads_of_every_length_of_length_arrive_whole() {
    let settings =
        Settings { ours: "[limits]\npacket_bytes = 4000000", mosquitto: "", ..Settings::default() };
    both_alone(settings, |broker| {
        for version in BOTH {
            let topic = unique("whole");
            let mut listening = subscriber(broker, version, &topic, 1);
            let mut client = Client::new(broker, version);
            for length in [0, 1, 100, 127, 128, 129, 16_383, 16_384, 16_400, 2_097_151, 2_097_152, 3_000_000]
            {
                let payload: Vec<u8> =
                    (0..length).map(|at: u32| at.to_le_bytes()[(at % 3) as usize]).collect();
                client.publish(Publish::new(&topic, &payload).qos(1));
                assert!(listening.take().payload == payload, "{length} bytes were changed");
            }
        }
    });
}

/// [MQTT-7.1.1-1] [MQTT5-4.2.0-1]
#[test]
fn v311_7_1_1_1_packets_may_come_byte_by_byte_or_many_at_once() {
    both(|broker| {
        for version in BOTH {
            let topic = unique("pieces");
            let connect = Connect::new(version, &unique("c")).bytes();
            let session = [
                packet::subscribe(version, 1, &[], &[(&topic, 0)]),
                Publish::new(&topic, "x").qos(1).id(2).bytes(version),
                packet(PINGREQ, &[]),
            ]
            .concat();
            let bytes = [connect, session].concat();
            for size in [1, 3, 1000] {
                let mut client = Client::open(broker, version);
                bytes.chunks(size).for_each(|piece| client.send(piece));
                assert!(matches!(client.answer(), Answer::ConnAck { code: 0, .. }));
                let rest = [client.answer(), client.answer(), client.answer(), client.answer()];
                let suback = Answer::SubAck { id: 1, codes: vec![0] };
                for answer in [suback, Answer::PingResp, Answer::PubAck { id: 2, code: 0 }] {
                    assert!(rest.contains(&answer), "{rest:?}");
                }
            }
        }
    });
}

/// [MQTT5-3.1.2-25] [MQTT5-3.3.2-3]
#[test]
fn v5_3_1_2_25_also_what_is_retained() {
    both_but_mosquitto(KEEPS_A_PLACE, |broker| {
        let name = unique("largekept");
        let mut client = Client::new(broker, V5);
        client.publish(Publish::new(&format!("{name}/a"), [b'x'; 300]).qos(1).retained());
        client.publish(Publish::new(&format!("{name}/b"), "small").qos(1).retained());
        let mut listening =
            Client::with(broker, &[long(id::MAXIMUM_PACKET, 100), short(id::RECEIVE_MAXIMUM, 1)]);
        listening.subscribe(&format!("{name}/+"), 1);
        listening.gets("small");
        listening.nothing_comes();
    });
}

/// [MQTT-4.5.0-1] [MQTT-7.1.1-1] [MQTT5-4.5.0-1] [MQTT5-4.2.0-1]
#[test]
fn v311_4_5_0_1_what_was_sent_before_disconnect_is_passed_on() {
    both(|broker| {
        for version in BOTH {
            let topic = unique("last");
            let mut listening = subscriber(broker, V311, &topic, 0);
            let mut all = Connect::new(version, &unique("c")).bytes();
            for number in 0..50 {
                all.extend(Publish::new(&topic, number.to_string()).bytes(version));
            }
            all.extend(packet(packet::DISCONNECT, &[]));
            let mut client = Client::open(broker, version);
            client.send(&all);
            assert!(matches!(client.answer(), Answer::ConnAck { code: 0, .. }));
            client.is_closed();
            for number in 0..50 {
                listening.gets(&number.to_string());
            }
        }
    });
}
