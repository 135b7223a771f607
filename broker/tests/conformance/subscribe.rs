//! SUBSCRIBE and UNSUBSCRIBE: what is granted, what is replaced, who gets what how often.

use crate::answer::Answer;
use crate::client::{Client, retained, subscriber, unique};
use crate::packet::{self, BOTH, Publish, V5, V311};
use crate::suite::{both, each};

/// Options of v5.
const NO_LOCAL: u8 = 0x04;

/// [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-3.8.4-4] [MQTT-3.8.4-5] [MQTT-3.9.3-1] [MQTT-3.9.3-2] [MQTT-2.3.1-7]
/// [MQTT5-3.8.4-1] [MQTT5-3.8.4-2] [MQTT5-3.8.4-5] [MQTT5-3.8.4-6] [MQTT5-3.8.4-7] [MQTT5-3.9.3-1] [MQTT5-3.9.3-2]
/// [MQTT5-2.2.1-6]
#[test]
fn v311_3_8_4_5_suback_has_the_identifier_and_a_code_for_each_filter_in_order() {
    both(|broker| {
        for version in BOTH {
            let names: Vec<_> = (0..5).map(|_| unique("many")).collect();
            let filters: Vec<_> = names.iter().map(String::as_str).zip([2, 0, 1, 1, 0]).collect();
            let mut client = Client::new(broker, version);
            for packet_id in [0xffff, 0x1234, 1] {
                client.send(&packet::subscribe(version, packet_id, &[], &filters));
                client.hears(&Answer::SubAck { id: packet_id, codes: vec![2, 0, 1, 1, 0] });
            }
            for (name, qos) in filters {
                Client::new(broker, V311).says(name, "x", 2);
                assert_eq!(client.take().qos, qos);
            }
        }
    });
}

/// [MQTT-3.8.4-6] [MQTT5-3.8.4-8]
#[test]
fn v311_3_8_4_6_messages_come_at_the_lower_of_both_qos() {
    both(|broker| {
        for version in BOTH {
            for granted in 0..3 {
                let topic = unique("lower");
                let mut listening = subscriber(broker, version, &topic, granted);
                for sent in 0..3 {
                    Client::new(broker, V5).says(&topic, "x", sent);
                    assert_eq!(listening.take().qos, sent.min(granted));
                }
            }
        }
    });
}

/// [MQTT-3.8.4-3] [MQTT5-3.8.4-3] [MQTT5-3.8.4-4]
#[test]
fn v311_3_8_4_3_the_same_filter_again_replaces_the_subscription() {
    both(|broker| {
        for version in BOTH {
            let topic = unique("replaced");
            let mut client = Client::new(broker, V311);
            client.publish(Publish::new(&topic, "kept").qos(1).retained());
            let mut listening = Client::new(broker, version);
            for qos in [0, 1, 2, 0] {
                listening.subscribe(&topic, qos);
                assert!(listening.gets("kept").retain, "what is retained comes with each subscribe");
                client.says(&topic, "live", 2);
                let message = listening.gets("live");
                assert_eq!((message.qos, message.retain), (qos, false));
                listening.nothing_comes();
            }
        }
    });
}

/// [MQTT-3.8.4-3] [MQTT5-3.8.4-4]
#[test]
fn v5_3_8_4_4_nothing_is_lost_while_a_subscription_is_replaced() {
    both(|broker| {
        for version in BOTH {
            let topic = unique("flow");
            let mut listening = subscriber(broker, version, &topic, 0);
            let mut client = Client::new(broker, V311);
            for number in 0..20 {
                client.send(&Publish::new(&topic, number.to_string()).bytes(V311));
                let packet_id = listening.id();
                listening.send(&packet::subscribe(version, packet_id, &[], &[(&topic, 0)]));
            }
            let mut numbers = Vec::new();
            let mut acks = 0;
            while numbers.len() < 20 || acks < 20 {
                match listening.answer() {
                    Answer::Publish(message) => numbers.push(message.text().to_owned()),
                    Answer::SubAck { .. } => acks += 1,
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(numbers, (0..20).map(|number| number.to_string()).collect::<Vec<_>>());
        }
    });
}

/// [MQTT-3.8.4-4] [MQTT5-3.8.4-5]
#[test]
fn v311_3_8_4_4_a_filter_named_twice_in_one_packet_counts_as_last_named() {
    both(|broker| {
        for version in BOTH {
            let topic = unique("twice");
            let mut listening = Client::new(broker, version);
            assert_eq!(listening.subscribe_all(&[(&topic, 2), (&topic, 0)]), [2, 0]);
            Client::new(broker, V311).says(&topic, "x", 2);
            assert_eq!(listening.take().qos, 0);
            listening.nothing_comes();
        }
    });
}

/// [MQTT-3.3.5-1] [MQTT5-3.3.4-2]
#[test]
fn v311_3_3_5_1_of_overlapping_subscriptions_the_highest_qos_counts() {
    let deviations = [("V311", "one copy, at the QoS of whichever subscription was found first")];
    both(|broker| {
        each(broker, &deviations, BOTH.map(|version| (format!("{version:?}"), version)), |version| {
            let name = unique("overlap");
            let topic = format!("{name}/a/b");
            let filters = [(&*format!("{name}/#"), 1), (&format!("{name}/+/b"), 2), (&topic, 0)];
            let mut listening = Client::new(broker, version);
            listening.subscribe_all(&filters);
            Client::new(broker, V5).says(&topic, "x", 2);
            // One copy, or one for each subscription; the highest QoS is among them.
            let first = listening.take();
            if first.qos < 2 {
                let others = [listening.take().qos, listening.take().qos];
                assert!(others.contains(&2), "{others:?}");
            }
        });
    });
}

/// [MQTT5-3.3.4-2] [MQTT5-3.3.4-3] [MQTT5-3.3.4-4]
#[test]
fn v5_3_3_4_4_one_copy_has_the_identifiers_of_all_that_match() {
    both(|broker| {
        let name = unique("ids");
        let topic = format!("{name}/a");
        let mut listening = Client::new(broker, V5);
        listening.subscribe_under(1, &format!("{name}/#"), 0);
        listening.subscribe_under(268_435_455, &format!("{name}/+"), 2);
        listening.subscribe_under(1, &format!("+/a/{name}"), 2);
        listening.subscribe(&topic, 1);
        Client::new(broker, V5).says(&topic, "x", 2);
        let mut copies = vec![listening.take()];
        if broker.kind == crate::broker::Kind::Mosquitto {
            // It sends a copy for each subscription, each with its own identifier.
            copies.extend([listening.take(), listening.take()]);
        }
        let mut ids: Vec<_> = copies.iter().flat_map(super::answer::Message::subscription_ids).collect();
        ids.sort_unstable();
        assert_eq!(ids, [1, 268_435_455]);
        assert_eq!(copies.iter().map(|copy| copy.qos).max(), Some(2));
        listening.nothing_comes();
    });
}

/// [MQTT5-3.3.4-3] [MQTT5-3.8.4-3]
#[test]
fn v5_3_3_4_3_an_identifier_lives_as_long_as_its_subscription() {
    both(|broker| {
        let topic = unique("id");
        let mut listening = Client::new(broker, V5);
        let mut client = Client::new(broker, V5);
        let mut next = |listening: &mut Client| {
            client.says(&topic, "x", 1);
            listening.take().subscription_ids()
        };
        listening.subscribe_under(7, &topic, 1);
        assert_eq!(next(&mut listening), [7]);
        listening.subscribe_under(8, &topic, 1);
        assert_eq!(next(&mut listening), [8]);
        listening.subscribe(&topic, 1);
        assert_eq!(next(&mut listening), [0; 0]);
        listening.subscribe_under(9, &topic, 1);
        listening.unsubscribe(&[&topic]);
        listening.subscribe(&topic, 1);
        assert_eq!(next(&mut listening), [0; 0]);
    });
}

/// [MQTT5-3.3.4-3] [MQTT5-3.3.1-9]
#[test]
fn v5_3_3_4_3_retained_messages_have_the_identifier_too() {
    both(|broker| {
        let topic = unique("keptid");
        Client::new(broker, V5).publish(Publish::new(&topic, "x").qos(1).retained());
        let mut listening = Client::new(broker, V5);
        listening.subscribe_under(77, &topic, 1);
        assert_eq!(listening.take().subscription_ids(), [77]);
    });
}

/// [MQTT5-3.8.3-3]
#[test]
fn v5_3_8_3_3_no_local_keeps_a_clients_own_messages_from_it() {
    both(|broker| {
        let topic = unique("own");
        let mut client = Client::new(broker, V5);
        let mut other = Client::new(broker, V5);
        client.subscribe(&topic, NO_LOCAL | 1);
        other.subscribe(&topic, NO_LOCAL);
        client.says(&topic, "x", 1);
        client.nothing_comes();
        other.gets("x");
        other.says(&topic, "y", 1);
        client.gets("y");
        broker.but_mosquitto("a new SUBSCRIBE does not take no local back", || {
            client.subscribe(&topic, 0);
            client.send(&Publish::new(&topic, "z").bytes(V5));
            client.gets("z");
        });
    });
}

/// [MQTT5-3.8.3-3]
#[test]
fn v5_3_8_3_3_an_overlapping_subscription_without_no_local_still_counts() {
    both(|broker| {
        let name = unique("local");
        let mut client = Client::new(broker, V5);
        client.subscribe(&format!("{name}/#"), NO_LOCAL);
        client.subscribe(&format!("{name}/+"), 0);
        client.send(&Publish::new(&format!("{name}/a"), "x").bytes(V5));
        client.gets("x");
        client.nothing_comes();
    });
}

/// [MQTT-3.10.4-1] [MQTT-3.10.4-2] [MQTT-3.10.4-4] [MQTT-2.3.1-7] [MQTT5-3.10.4-1] [MQTT5-3.10.4-2] [MQTT5-3.10.4-4]
/// [MQTT5-2.2.1-6]
#[test]
fn v311_3_10_4_1_unsubscribe_takes_the_filter_that_is_the_same_byte_by_byte() {
    both(|broker| {
        for version in BOTH {
            let name = unique("un");
            let topic = format!("{name}/a");
            let filter = format!("{name}/+");
            let mut listening = subscriber(broker, version, &filter, 0);
            let mut client = Client::new(broker, V311);
            for near in [&topic, &format!("{name}/#"), &name, &format!("{name}/+/"), &filter.to_uppercase()] {
                listening.unsubscribe(&[near]);
                client.says(&topic, "x", 0);
                listening.gets("x");
            }
            let packet_id = 0x7fff;
            listening.send(&packet::unsubscribe(version, packet_id, &[&filter]));
            let codes = if version == V5 { vec![0] } else { Vec::new() };
            listening.hears(&Answer::UnsubAck { id: packet_id, codes });
            client.says(&topic, "y", 0);
            listening.nothing_comes();
        }
    });
}

/// [MQTT-3.10.4-5] [MQTT-3.10.4-6] [MQTT5-3.10.4-5] [MQTT5-3.10.4-6] [MQTT5-3.11.3-1] [MQTT5-3.11.3-2]
#[test]
fn v311_3_10_4_5_unsuback_comes_in_any_case_and_once() {
    both(|broker| {
        for version in BOTH {
            let (one, two, none) = (unique("un"), unique("un"), unique("un"));
            let mut listening = Client::new(broker, version);
            assert_eq!(listening.unsubscribe(&[&none]), [0x11; 1][..usize::from(version == V5)]);
            listening.subscribe_all(&[(&one, 0), (&two, 0)]);
            let codes = listening.unsubscribe(&[&one, &none, &two, &one]);
            assert_eq!(codes, if version == V5 { vec![0, 0x11, 0, 0x11] } else { Vec::new() });
            listening.nothing_comes();
            Client::new(broker, V311).says(&two, "x", 0);
            listening.nothing_comes();
        }
    });
}

/// [MQTT-3.10.4-3] [MQTT5-3.10.4-3]
#[test]
fn v311_3_10_4_3_what_was_begun_before_an_unsubscribe_is_finished() {
    both(|broker| {
        for version in BOTH {
            let topic = unique("begun");
            let mut listening = subscriber(broker, version, &topic, 2);
            Client::new(broker, V311).says(&topic, "x", 2);
            let message = listening.message();
            listening.unsubscribe(&[&topic]);
            listening.send(&packet::ack(packet::PUBREC, message.id));
            listening.hears(&Answer::PubRel { id: message.id, code: 0 });
            listening.send(&packet::ack(packet::PUBCOMP, message.id));
            listening.nothing_comes();
        }
    });
}

/// [MQTT-4.5.0-1] [MQTT5-4.5.0-1]
#[test]
fn v311_4_5_0_1_who_subscribes_under_another_id_has_a_subscription_of_its_own() {
    both(|broker| {
        for version in BOTH {
            let topic = unique("each");
            let mut all: Vec<_> = (0..5).map(|_| subscriber(broker, version, &topic, 1)).collect();
            Client::new(broker, V5).says(&topic, "x", 1);
            for listening in &mut all {
                listening.gets("x");
                listening.nothing_comes();
            }
            assert_eq!(retained(broker, &topic), None);
        }
    });
}

/// [MQTT-3.8.4-4] [MQTT-3.8.4-5] [MQTT-3.10.4-6] [MQTT5-3.8.4-5] [MQTT5-3.8.4-6] [MQTT5-3.10.4-6]
#[test]
fn v311_3_8_4_4_a_thousand_filters_in_one_packet() {
    both(|broker| {
        for version in BOTH {
            let name = unique("thousand");
            let filters: Vec<_> = (0..1000).map(|number| format!("{name}/{number}/+")).collect();
            let mut client = Client::new(broker, version);
            let wishes: Vec<_> = filters.iter().map(|filter| (filter.as_str(), 1)).collect();
            assert_eq!(client.subscribe_all(&wishes), [1; 1000]);
            let mut other = Client::new(broker, V311);
            other.says(&format!("{name}/999/x"), "x", 1);
            client.gets("x");
            let filters: Vec<_> = filters.iter().map(String::as_str).collect();
            assert!(client.unsubscribe(&filters).iter().all(|code| *code == 0));
            other.says(&format!("{name}/0/x"), "x", 1);
            client.nothing_comes();
        }
    });
}
