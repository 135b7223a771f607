//! Authentication beyond user name and password, as far as a broker shows that knows no method; DISCONNECT.

use crate::answer::Answer;
use crate::client::{Client, subscriber, unique};
use crate::packet::{self, BOTH, Connect, Publish, V5, V311, data, id, packet, text};
use crate::suite::{SILENT, both, each};

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

/// [MQTT5-4.12.0-6] [MQTT5-4.12.0-5]
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

/// [MQTT5-4.12.0-7] [MQTT5-4.12.1-2] [MQTT5-4.12.1-1]
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
