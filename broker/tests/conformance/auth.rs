//! Authentication beyond user name and password, as far as a broker shows that knows no method; DISCONNECT.

use crate::answer::Answer;
use crate::broker::{Broker, Settings};
use crate::client::{Client, Heard, PATIENCE, subscriber, unique};
use crate::packet::{self, BOTH, Connect, Property, Publish, V5, V311, byte, data, id, long, packet, text};
use crate::suite::{SILENT, both, both_alone, each};

/// [MQTT5-4.12.0-1] [MQTT5-4.12.0-4] [MQTT5-3.1.4-2] [MQTT5-3.2.2-7] [MQTT5-3.2.2-6] [MQTT5-4.13.2-1]
#[test]
fn v5_4_12_0_1_a_method_that_is_not_known_is_refused() {
    both(|broker| {
        for properties in [
            vec![text(id::AUTH_METHOD, "no such method")],
            vec![text(id::AUTH_METHOD, "no such method"), data(id::AUTH_DATA, b"x")],
            vec![text(id::AUTH_METHOD, "")],
        ] {
            let mut client = Client::knock(broker, &Connect::new(V5, &unique("c")).with(&properties));
            match client.answer() {
                Answer::ConnAck { code, .. } => assert!([0x8c, 0x87].contains(&code), "{code:#04x}"),
                other => panic!("{other:?}"),
            }
            client.is_closed();
        }
    });
}

/// [MQTT5-4.12.0-6]
#[test]
fn v5_4_12_0_6_without_a_method_nothing_is_said_of_methods() {
    both(|broker| {
        let mut connect = Connect::new(V5, &unique("c"));
        connect.user_name = Some(b"someone".to_vec());
        for connect in [Connect::new(V5, &unique("c")), connect] {
            let client = Client::connect(broker, &connect);
            let told = client
                .properties
                .iter()
                .any(|property| [id::AUTH_METHOD, id::AUTH_DATA].contains(&property.0));
            assert!(!told, "{:?}", client.properties);
        }
    });
}

/// Where devices prove themselves; Mosquitto has no method of its own.
fn with_scram(test: impl Fn(&Broker) + Sync) {
    let settings = Settings { ours: "[access]\ndevices = true", ..Settings::default() };
    both_alone(settings, |broker| {
        broker.but_mosquitto("has no method of its own", || test(broker));
    });
}

/// The first message of an exchange that our broker knows, for a name that nobody has.
fn scram() -> Vec<Property> {
    vec![text(id::AUTH_METHOD, "SCRAM-SHA-256"), data(id::AUTH_DATA, b"n,,n=nobody,r=fyko+d2lbbFgONRvL9qkqd")]
}

/// The properties of what asks for more.
fn challenged(client: &mut Client) -> Vec<Property> {
    match client.answer() {
        Answer::Auth { code: 0x18, properties } => properties,
        other => panic!("not challenged: {other:?}"),
    }
}

/// [MQTT5-4.12.0-2] [MQTT5-4.12.0-4] [MQTT5-4.12.0-5] [MQTT5-3.15.2-1]
#[test]
fn v5_4_12_0_2_a_method_that_is_known_leads_to_auth_and_to_an_end() {
    with_scram(|broker| {
        let connect = Connect::new(V5, &unique("c")).with(&scram());
        let mut client = Client::knock(broker, &connect);
        assert!(challenged(&mut client).contains(&text(id::AUTH_METHOD, "SCRAM-SHA-256")));
        // A proof of nothing.
        let proof = [text(id::AUTH_METHOD, "SCRAM-SHA-256"), data(id::AUTH_DATA, b"c=biws,r=x,p=AAAA")];
        client.send(&packet::auth(0x18, &proof));
        match client.answer() {
            Answer::ConnAck { code: 0x80.., session_present: false, .. } => client.is_closed(),
            other => panic!("{other:?}"),
        }
    });
}

/// [MQTT5-3.15.2-2] [MQTT5-3.15.2-3] [MQTT5-3.1.2-24] [MQTT5-3.1.2-29]
#[test]
fn v5_3_15_2_2_auth_is_no_larger_than_a_client_takes() {
    with_scram(|broker| {
        let knock = |more: &[Property], most: usize| {
            let mut client = Client::open(broker, V5);
            client.largest = most;
            client.send(&Connect::new(V5, &unique("c")).with(&[&scram(), more].concat()).bytes());
            client
        };
        let mut client = knock(&[byte(id::REQUEST_PROBLEM, 0)], usize::MAX);
        challenged(&mut client);
        assert_eq!(client.explanations, 0, "reason strings or user properties came");
        let mut challenges = 0;
        for most in (8..=400).step_by(8) {
            let mut client = knock(&[long(id::MAXIMUM_PACKET, most)], most as usize);
            // The client asserts the size of what it reads.
            match client.hear(PATIENCE.get()) {
                Heard::Packet(Answer::Auth { code: 0x18, .. }) => challenges += 1,
                Heard::Packet(Answer::ConnAck { code: 0x80.., .. }) | Heard::Closed => {}
                other => panic!("neither challenged nor refused: {other:?}"),
            }
        }
        assert!(challenges > 10, "what has room for AUTH is challenged");
    });
}

/// [MQTT5-3.1.2-30] [MQTT5-3.2.0-1] [MQTT5-4.12.0-3] [MQTT5-3.14.0-1]
#[test]
fn v5_3_1_2_30_before_it_is_let_in_a_client_says_nothing_but_auth_and_disconnect() {
    let cases = [
        ("PUBLISH", Publish::new("t", "x").bytes(V5)),
        ("PINGREQ", packet(packet::PINGREQ, &[])),
        ("another method", packet::auth(0x18, &[text(id::AUTH_METHOD, "PLAIN")])),
        ("again", packet::auth(0x19, &scram())),
        ("done", packet::auth(0x00, &scram())),
        ("DISCONNECT", packet(packet::DISCONNECT, &[])),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes));
    with_scram(|broker| {
        each(broker, &[], cases.clone(), |bytes| {
            let mut client = Client::knock(broker, &Connect::new(V5, &unique("c")).with(&scram()));
            challenged(&mut client);
            client.send(&bytes);
            client.is_refused_or_closed(&[0x81, 0x82, 0x87, 0x8c]);
        });
    });
}

/// [MQTT5-4.12.0-7]
#[test]
fn v5_4_12_0_7_auth_without_a_method_in_connect_ends_the_connection() {
    let cases = [
        ("again", packet::auth(0x19, &[text(id::AUTH_METHOD, "no such method")])),
        ("on", packet::auth(0x18, &[text(id::AUTH_METHOD, "no such method")])),
        ("done", packet(packet::AUTH, &[])),
        ("without a method", packet::auth(0x19, &[])),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes));
    both(|broker| {
        each(broker, &[("*", SILENT)], cases.clone(), |bytes| {
            let mut client = Client::new(broker, V5);
            client.send(&bytes);
            client.is_sent_away(&[0x81, 0x82, 0x8c]);
        });
    });
}

/// [MQTT-3.14.4-1] [MQTT-3.14.4-2] [MQTT5-3.14.4-1] [MQTT5-3.14.4-2]
#[test]
fn v311_3_14_4_2_what_follows_disconnect_is_not_processed() {
    both(|broker| {
        for version in BOTH {
            let topic = unique("behind");
            let mut listening = subscriber(broker, V311, &topic, 0);
            let mut client = Client::new(broker, version);
            let publish = Publish::new(&topic, "x").bytes(version);
            client.send(&[packet(packet::DISCONNECT, &[]), publish].concat());
            client.is_closed();
            listening.nothing_comes();
        }
    });
}

/// [MQTT5-3.14.2-1] [MQTT5-3.14.4-1]
#[test]
fn v5_3_14_2_1_disconnect_in_all_its_lengths_is_understood() {
    both(|broker| {
        for bytes in [
            packet(packet::DISCONNECT, &[]),
            packet(packet::DISCONNECT, &[0]),
            packet::disconnect(0, &[]),
            packet::disconnect(0x04, &[text(id::REASON_STRING, "tired"), packet::user("k", "v")]),
        ] {
            let mut client = Client::new(broker, V5);
            client.send(&bytes);
            client.is_closed();
        }
    });
}
