//! Properties of messages: passed on as they are; expiry; requests and responses.

use std::time::Duration;

use crate::answer::Answer;
use crate::client::{Client, Heard, QUIET, retained, subscriber, unique};
use crate::packet::{self, Connect, Property, Publish, V5, V311, Value, byte, data, id, long, text, user};
use crate::qos::NOT_OURS;
use crate::suite::{both, both_but_mosquitto, each};

/// [MQTT5-3.3.2-4] [MQTT5-3.3.2-15] [MQTT5-3.3.2-16] [MQTT5-3.3.2-17] [MQTT5-3.3.2-18] [MQTT5-3.3.2-20]
#[test]
fn v5_3_3_2_17_properties_are_passed_on_as_they_are() {
    both(|broker| {
        let topic = unique("props");
        let mut listening = subscriber(broker, V5, &topic, 2);
        let mut client = Client::new(broker, V5);
        let all = [
            byte(id::PAYLOAD_FORMAT, 1),
            text(id::CONTENT_TYPE, "text/\u{e9}"),
            text(id::RESPONSE_TOPIC, "an/answer/$x"),
            data(id::CORRELATION_DATA, &[0, 1, 0xff, 0]),
            user("b", "1"),
            user("a", "2"),
            user("b", "1"),
            user("", ""),
        ];
        for qos in 0..3 {
            for retain in [false, true] {
                client.publish(Publish { retain, ..Publish::new(&topic, "x").qos(qos).with(&all) });
                let message = listening.take();
                for id in
                    [id::PAYLOAD_FORMAT, id::CONTENT_TYPE, id::RESPONSE_TOPIC, id::CORRELATION_DATA, id::USER]
                {
                    let sent: Vec<_> = all.iter().filter(|property| property.0 == id).collect();
                    let came: Vec<_> =
                        message.properties.iter().filter(|property| property.0 == id).collect();
                    assert_eq!(came, sent);
                }
                assert_eq!(message.properties.len(), all.len(), "nothing else comes: {message:?}");
            }
        }
        let kept = subscriber(broker, V5, &topic, 0).message();
        assert_eq!(kept.properties.len(), all.len(), "{kept:?}");
    });
}

/// [MQTT5-3.3.2-4]
#[test]
fn v5_3_3_2_4_payload_format_0_is_said_or_left_out() {
    both(|broker| {
        let topic = unique("format");
        let mut listening = subscriber(broker, V5, &topic, 0);
        let bytes = Publish::new(&topic, [0xff, 0xfe]).with(&[byte(id::PAYLOAD_FORMAT, 0)]);
        Client::new(broker, V5).publish(bytes);
        let message = listening.message();
        assert_eq!(message.payload, [0xff, 0xfe]);
        assert_ne!(message.get(id::PAYLOAD_FORMAT), Some(&Value::Byte(1)));
    });
}

/// [MQTT5-3.3.2-17] [MQTT-3.3.2-3]
#[test]
fn v5_3_3_2_17_an_older_subscriber_gets_the_message_without_properties() {
    both(|broker| {
        let topic = unique("older");
        let mut listening = subscriber(broker, V311, &topic, 1);
        let publish = Publish::new(&topic, "x").qos(1).with(&[user("k", "v"), text(id::CONTENT_TYPE, "t")]);
        Client::new(broker, V5).publish(publish);
        assert_eq!(listening.take().payload, b"x");
    });
}

/// [MQTT5-3.3.2-14] [MQTT5-3.3.2-13]
#[test]
fn v5_3_3_2_14_a_response_topic_with_wildcards_is_refused() {
    let deviations = [("*", "does not look at it")];
    both(|broker| {
        let topics = ["#", "+", "a/+/b", "a/#", ""];
        each(broker, &deviations, topics.map(|topic| (format!("{topic:?}"), topic)), |answer| {
            let mut client = Client::new(broker, V5);
            let topic = unique("wild");
            let publish = Publish::new(&topic, "x").qos(1).id(1).with(&[text(id::RESPONSE_TOPIC, answer)]);
            client.send(&publish.bytes(V5));
            client.is_sent_away(&[0x81, 0x82, 0x90]);
        });
    });
}

/// [MQTT5-3.3.2-15] [MQTT5-3.3.2-16]
#[test]
fn v5_3_3_2_15_a_request_finds_its_way_back() {
    both(|broker| {
        let (ask, reply) = (unique("ask"), unique("reply"));
        let mut server = subscriber(broker, V5, &ask, 1);
        let mut client = subscriber(broker, V5, &reply, 1);
        let properties = [text(id::RESPONSE_TOPIC, &reply), data(id::CORRELATION_DATA, b"42")];
        client.publish(Publish::new(&ask, "?").qos(1).with(&properties));
        let request = server.take();
        let Some(Value::Text(topic)) = request.get(id::RESPONSE_TOPIC) else { panic!("{request:?}") };
        let correlation = Property(id::CORRELATION_DATA, request.get(id::CORRELATION_DATA).unwrap().clone());
        server.publish(Publish::new(topic, "!").qos(1).with(&[correlation]));
        let answer = client.gets("!");
        assert_eq!(answer.get(id::CORRELATION_DATA), Some(&Value::Data(b"42".to_vec())));
    });
}

fn expiring(topic: &str, seconds: u32) -> Publish {
    Publish::new(topic, "x").qos(1).with(&[long(id::MESSAGE_EXPIRY, seconds)])
}

/// [MQTT5-3.3.2-6]
#[test]
fn v5_3_3_2_6_the_expiry_that_is_passed_on_is_less_by_what_it_waited() {
    both(|broker| {
        let (topic, name) = (unique("left"), unique("e"));
        let mut live = subscriber(broker, V5, &topic, 1);
        let away = Connect::new(V5, &name).lasting(60);
        let mut client = Client::connect(broker, &away);
        client.subscribe(&topic, 1);
        client.leave();
        Client::new(broker, V5).publish(expiring(&topic, 100).retained());
        let left = |message: crate::answer::Message| match message.get(id::MESSAGE_EXPIRY) {
            Some(Value::Long(seconds)) => *seconds,
            other => panic!("no expiry: {other:?}"),
        };
        assert!((90..=100).contains(&left(live.take())));
        std::thread::sleep(Duration::from_millis(2100));
        let kept = left(subscriber(broker, V5, &topic, 1).take());
        assert!((90..=98).contains(&kept), "{kept}");
        let waited = left(Client::connect(broker, &away).take());
        assert!((90..=98).contains(&waited), "{waited}");
    });
}

/// [MQTT5-3.3.2-5]
#[test]
fn v5_3_3_2_5_what_has_expired_is_not_delivered_to_who_comes_back() {
    both(|broker| {
        let (topic, name) = (unique("expired"), unique("e"));
        let away = Connect::new(V5, &name).lasting(60);
        let mut client = Client::connect(broker, &away);
        client.subscribe(&topic, 1);
        client.leave();
        let mut other = Client::new(broker, V5);
        other.publish(expiring(&topic, 1));
        other.says(&topic, "lasts", 1);
        std::thread::sleep(Duration::from_millis(2200));
        let mut client = Client::connect(broker, &away);
        client.gets("lasts");
        client.nothing_comes();
    });
}

/// [MQTT5-3.3.2-5]
#[test]
fn v5_3_3_2_5_what_is_retained_expires_too() {
    both(|broker| {
        let topic = unique("keptshort");
        Client::new(broker, V5).publish(expiring(&topic, 6).retained());
        assert!(retained(broker, &topic).is_some());
        std::thread::sleep(Duration::from_millis(7300));
        assert_eq!(retained(broker, &topic), None);
    });
}

/// [MQTT5-3.3.2-5] [MQTT5-3.3.4-9]
#[test]
fn v5_3_3_2_5_what_waits_for_a_full_window_expires() {
    both_but_mosquitto("sends nothing more once a waiting message has expired", |broker| {
        let topic = unique("window");
        let mut listening = Client::with(broker, &[packet::short(id::RECEIVE_MAXIMUM, 1)]);
        listening.subscribe(&topic, 1);
        let mut other = Client::new(broker, V5);
        other.says(&topic, "first", 1);
        other.publish(expiring(&topic, 1));
        other.says(&topic, "last", 1);
        let first = listening.message();
        std::thread::sleep(Duration::from_millis(2200));
        listening.send(&packet::ack(packet::PUBACK, first.id));
        listening.gets("last");
        listening.nothing_comes();
    });
}

/// [MQTT5-3.3.2-6] [MQTT5-3.3.4-9]
#[test]
fn v5_3_3_2_6_what_waits_for_a_full_window_has_less_left() {
    both(|broker| {
        let topic = unique("less");
        let mut listening = Client::with(broker, &[packet::short(id::RECEIVE_MAXIMUM, 1)]);
        listening.subscribe(&topic, 1);
        let mut other = Client::new(broker, V5);
        other.says(&topic, "first", 1);
        other.publish(expiring(&topic, 100).qos(2));
        let first = listening.message();
        std::thread::sleep(Duration::from_millis(2100));
        listening.send(&packet::ack(packet::PUBACK, first.id));
        let left = listening.take().get(id::MESSAGE_EXPIRY).cloned();
        assert!(matches!(left, Some(Value::Long(90..=98))), "{left:?}");
    });
}

/// [MQTT5-3.1.2-29]
#[test]
fn v5_3_1_2_29_without_problem_information_answers_have_neither_reasons_nor_user_properties() {
    both(|broker| {
        let mut client = Client::with(broker, &[byte(id::REQUEST_PROBLEM, 0)]);
        let topic = unique("problem");
        // What might bring an explanation: a filter that cannot be, one that is not there, a topic that is not the
        // client's, an acknowledgement of nothing, nobody to hear it.
        client.unsubscribe(&[&topic]);
        assert_eq!(client.publish(Publish::new(NOT_OURS, "x").qos(1)), 0x87);
        assert_eq!(client.publish(Publish::new(NOT_OURS, "x").qos(2)), 0x87);
        client.publish(Publish::new(&topic, "x").qos(1));
        client.publish(Publish::new(&topic, "x").qos(2));
        client.send(&packet::ack(packet::PUBREL, 99));
        let answer = client.answer();
        assert!(matches!(answer, Answer::PubComp { id: 99, .. }), "{answer:?}");
        client.send(&packet::subscribe(V5, 77, &[], &[("a/#/b", 0)]));
        while let Heard::Packet(_) = client.hear(QUIET) {}
        assert_eq!(client.explanations, 0, "reason strings or user properties came");
    });
}
