//! Reason strings: why something is refused is told in words, to who wants them and where they fit.

use crate::answer::Answer;
use crate::broker::Broker;
use crate::client::{Client, unique};
use crate::packet::{self, Connect, Property, Publish, V5, byte, id, long, text};
use crate::suite::both_but_mosquitto;

const MUTE: &str = "refuses without words";

/// A client with these properties asks for something, and has heard last that it is refused.
type Refusal = fn(&Broker, &[Property]) -> Client;

/// The words come where the packet with them is just as large as the client takes, and not where it is a byte larger.
fn is_told_where_it_fits(refusal: Refusal) {
    both_but_mosquitto(MUTE, |broker| {
        let told = refusal(broker, &[]);
        let words = told.reason.expect("words");
        assert!(words.len() > 20, "{words}");
        for (most, expected) in [(told.last_length, Some(&words)), (told.last_length - 1, None)] {
            let most = long(id::MAXIMUM_PACKET, u32::try_from(most).unwrap());
            assert_eq!(refusal(broker, &[most]).reason.as_ref(), expected);
        }
    });
}

fn published(broker: &Broker, properties: &[Property], qos: u8, answer: &Answer) -> Client {
    let mut client = Client::with(broker, properties);
    client.send(&Publish::new("$SYS/mine", "x").qos(qos).id(7).bytes(V5));
    client.hears(answer);
    client
}

fn puback(broker: &Broker, properties: &[Property]) -> Client {
    published(broker, properties, 1, &Answer::PubAck { id: 7, code: 0x87 })
}

fn pubrec(broker: &Broker, properties: &[Property]) -> Client {
    published(broker, properties, 2, &Answer::PubRec { id: 7, code: 0x87 })
}

fn pubrel(broker: &Broker, properties: &[Property]) -> Client {
    let mut client = Client::with(broker, properties);
    client.send(&packet::ack(packet::PUBREC, 99));
    client.hears(&Answer::PubRel { id: 99, code: 0x92 });
    client
}

fn pubcomp(broker: &Broker, properties: &[Property]) -> Client {
    let mut client = Client::with(broker, properties);
    client.send(&packet::ack(packet::PUBREL, 99));
    client.hears(&Answer::PubComp { id: 99, code: 0x92 });
    client
}

fn suback(broker: &Broker, properties: &[Property]) -> Client {
    let mut client = Client::with(broker, properties);
    let deep = "x/".repeat(300);
    assert_eq!(client.subscribe_all(&[(&unique("fine"), 0), (&deep, 0), (&deep, 1)]), [0, 0x8f, 0x8f]);
    client
}

fn unsuback(broker: &Broker, properties: &[Property]) -> Client {
    let mut client = Client::with(broker, properties);
    assert_eq!(client.unsubscribe(&[&unique("none")]), [0x11]);
    client
}

fn connack(broker: &Broker, properties: &[Property]) -> Client {
    let properties = [properties, &[text(id::AUTH_METHOD, "no such method")]].concat();
    let mut client = Client::knock(broker, &Connect::new(V5, &unique("c")).with(&properties));
    let answer = client.answer();
    assert!(matches!(answer, Answer::ConnAck { code: 0x8c, .. }), "{answer:?}");
    client
}

fn disconnect(broker: &Broker, properties: &[Property]) -> Client {
    let mut client = Client::with(broker, properties);
    client.send(&Connect::new(V5, &unique("c")).bytes());
    let answer = client.answer();
    assert!(matches!(answer, Answer::Disconnect { code: 0x82, .. }), "{answer:?}");
    client
}

/// [MQTT5-3.1.2-29]
#[test]
fn v5_3_1_2_29_who_wants_no_problem_information_is_refused_without_words() {
    let acknowledgements: [(&str, Refusal); 6] = [
        ("PUBACK", puback),
        ("PUBREC", pubrec),
        ("PUBREL", pubrel),
        ("PUBCOMP", pubcomp),
        ("SUBACK", suback),
        ("UNSUBACK", unsuback),
    ];
    both_but_mosquitto(MUTE, |broker| {
        for (name, refusal) in acknowledgements {
            let wants = |words| refusal(broker, &[byte(id::REQUEST_PROBLEM, words)]);
            assert!(wants(1).reason.is_some(), "{name}");
            assert_eq!(wants(0).explanations, 0, "{name}");
        }
        // These two may say why in any case.
        for refusal in [connack as Refusal, disconnect] {
            refusal(broker, &[byte(id::REQUEST_PROBLEM, 0)]);
        }
    });
}

/// [MQTT5-3.2.2-19]
#[test]
fn v5_3_2_2_19_connack_says_why_it_refuses_where_that_fits() {
    is_told_where_it_fits(connack);
}

/// [MQTT5-3.4.2-2]
#[test]
fn v5_3_4_2_2_puback_says_why_it_refuses_where_that_fits() {
    is_told_where_it_fits(puback);
}

/// [MQTT5-3.5.2-2]
#[test]
fn v5_3_5_2_2_pubrec_says_why_it_refuses_where_that_fits() {
    is_told_where_it_fits(pubrec);
}

/// [MQTT5-3.6.2-2]
#[test]
fn v5_3_6_2_2_pubrel_says_what_is_wrong_where_that_fits() {
    is_told_where_it_fits(pubrel);
}

/// [MQTT5-3.7.2-2]
#[test]
fn v5_3_7_2_2_pubcomp_says_what_is_wrong_where_that_fits() {
    is_told_where_it_fits(pubcomp);
}

/// [MQTT5-3.9.2-1]
#[test]
fn v5_3_9_2_1_suback_says_why_it_refuses_where_that_fits() {
    is_told_where_it_fits(suback);
}

/// [MQTT5-3.11.2-1]
#[test]
fn v5_3_11_2_1_unsuback_says_what_was_not_there_where_that_fits() {
    is_told_where_it_fits(unsuback);
}

/// [MQTT5-3.14.2-3]
#[test]
fn v5_3_14_2_3_disconnect_says_why_where_that_fits() {
    is_told_where_it_fits(disconnect);
}
