//! Shared subscriptions.

use std::time::{Duration, Instant};

use crate::answer::Answer;
use crate::broker::Broker;
use crate::client::{Client, Heard, PATIENCE, subscriber, unique};
use crate::packet::{self, Connect, PUBACK, PUBCOMP, PUBREC, Publish, V5, V311, Will};
use crate::suite::{both, both_but_mosquitto, each};

const NO_LOCAL: u8 = 0x04;

fn shared(topic: &str) -> String {
    format!("$share/{}/{topic}", unique("group"))
}

/// How many of these have been said to each client; none to both.
fn divided(clients: &mut [Client], count: usize) -> Vec<usize> {
    let mut got = Vec::new();
    let mut each = Vec::new();
    for client in clients {
        client.send(&packet::packet(packet::PINGREQ, &[]));
        let before = got.len();
        let mut ponged = false;
        // What is still on its way comes soon after the answer to the ping.
        loop {
            let limit = if ponged { Duration::from_millis(150) } else { PATIENCE.get() };
            match client.hear(limit) {
                Heard::Packet(Answer::Publish(message)) => {
                    if message.qos == 1 {
                        client.send(&packet::ack(PUBACK, message.id));
                    }
                    got.push(message.text().to_owned());
                }
                Heard::Packet(Answer::PingResp) => ponged = true,
                Heard::Nothing if ponged => break,
                other => panic!("{other:?}"),
            }
        }
        each.push(got.len() - before);
    }
    got.sort();
    got.dedup();
    assert_eq!((got.len(), each.iter().sum()), (count, count), "each message once: {each:?}");
    each
}

/// [MQTT5-4.8.2-1] [MQTT5-4.8.2-2] [MQTT5-4.5.0-1]
#[test]
fn v5_4_8_2_1_a_message_goes_to_one_client_of_the_group() {
    both(|broker| {
        for qos in 0..2 {
            let topic = unique("shared");
            let filter = shared(&topic);
            let mut group = [V5, V5, V5].map(|version| subscriber(broker, version, &filter, qos));
            let mut other = subscriber(broker, V5, &shared(&topic), qos);
            let mut alone = subscriber(broker, V311, &topic, qos);
            let mut client = Client::new(broker, V5);
            for number in 0..30 {
                client.says(&topic, &format!("{number:02}"), qos);
            }
            let each = divided(&mut group, 30);
            assert!(each.iter().all(|got| *got > 0), "nobody goes without: {each:?}");
            for number in 0..30 {
                other.gets(&format!("{number:02}"));
                alone.gets(&format!("{number:02}"));
            }
        }
    });
}

/// [MQTT5-4.8.2-1]
#[test]
fn v5_4_8_2_1_groups_know_wildcards_and_each_other_by_name_and_filter() {
    both(|broker| {
        let (name, group) = (unique("wild"), unique("group"));
        let mut plus = subscriber(broker, V5, &format!("$share/{group}/{name}/+"), 0);
        let mut hash = subscriber(broker, V5, &format!("$share/{group}/{name}/#"), 0);
        Client::new(broker, V5).says(&format!("{name}/a"), "x", 0);
        plus.gets("x");
        hash.gets("x");
        plus.unsubscribe(&[&format!("$share/{group}/{name}/+")]);
        Client::new(broker, V5).says(&format!("{name}/a"), "y", 0);
        plus.nothing_comes();
        hash.gets("y");
    });
}

/// [MQTT5-4.8.2-1] [MQTT5-4.8.2-2] [MQTT5-4.7.1-1]
#[test]
fn v5_4_8_2_2_what_is_no_shared_filter_is_refused() {
    let wrong = [
        "$share/",
        "$share/g",
        "$share//t",
        "$share/g/",
        "$share/g+/t",
        "$share/+/t",
        "$share/#/t",
        "$share/g#/t",
        "$share/g/t#",
        "$share/g/#/t",
    ];
    let deviations =
        ["$share/", "$share/g", "$share//t", "$share/g/", "$share/+/t"].map(|filter| (filter, "grants it"));
    both(|broker| {
        each(broker, &deviations, wrong.map(|filter| (filter.to_owned(), filter)), |filter| {
            let mut client = Client::new(broker, V5);
            client.send(&packet::subscribe(V5, 1, &[], &[(filter, 0)]));
            match client.answer() {
                Answer::SubAck { codes, .. } => assert_eq!(codes, [0x8f]),
                Answer::Disconnect { code, .. } => assert!([0x81, 0x82, 0x8f].contains(&code), "{code:#04x}"),
                other => panic!("{other:?}"),
            }
        });
    });
}

/// [MQTT5-3.8.3-4]
#[test]
fn v5_3_8_3_4_no_local_on_a_shared_subscription_ends_the_connection() {
    both_but_mosquitto("takes it", |broker| {
        let mut client = Client::new(broker, V5);
        client.send(&packet::subscribe(V5, 1, &[], &[(&shared("t"), NO_LOCAL)]));
        client.is_sent_away(&[0x82]);
    });
}

/// How many messages have come, which must be of this QoS.
fn there(client: &mut Client, qos: u8) -> usize {
    let mut count = 0;
    while let Heard::Packet(Answer::Publish(message)) = client.hear(Duration::from_millis(20)) {
        assert_eq!(message.qos, qos);
        if qos > 0 {
            client.send(&packet::ack(PUBACK, message.id));
        }
        count += 1;
    }
    count
}

/// [MQTT5-4.8.2-3]
#[test]
fn v5_4_8_2_3_each_client_gets_messages_at_its_own_qos() {
    both(|broker| {
        let topic = unique("own");
        let filter = shared(&topic);
        let mut low = subscriber(broker, V5, &filter, 0);
        let mut high = subscriber(broker, V5, &filter, 1);
        let mut client = Client::new(broker, V5);
        for number in 0..20 {
            client.says(&topic, &number.to_string(), 2);
        }
        let until = Instant::now() + PATIENCE.get();
        let (mut of_low, mut of_high) = (0, 0);
        while of_low + of_high < 20 && Instant::now() < until {
            of_low += there(&mut low, 0);
            of_high += there(&mut high, 1);
        }
        assert!(of_low > 0 && of_high > 0 && of_low + of_high == 20, "{of_low} and {of_high}");
    });
}

/// [MQTT5-3.3.1-9]
#[test]
fn v5_3_3_1_9_a_shared_subscription_brings_nothing_that_is_retained() {
    both_but_mosquitto("sends what is retained", |broker| {
        let topic = unique("kept");
        Client::new(broker, V5).publish(Publish::new(&topic, "x").qos(1).retained());
        subscriber(broker, V5, &shared(&topic), 1).nothing_comes();
    });
}

fn lasting(broker: &Broker, name: &str) -> Client {
    Client::connect(broker, &Connect::new(V5, name).lasting(60))
}

/// [MQTT5-4.8.2-4]
#[test]
fn v5_4_8_2_4_a_qos_2_message_that_was_begun_is_finished_with_that_client() {
    both(|broker| {
        let (topic, name) = (unique("begun"), unique("s"));
        let filter = shared(&topic);
        let mut client = lasting(broker, &name);
        client.subscribe(&filter, 2);
        Client::new(broker, V5).says(&topic, "x", 2);
        let id = client.message().id;
        let mut other = subscriber(broker, V5, &filter, 2);
        client.vanish();
        other.nothing_comes();
        let mut client = lasting(broker, &name);
        let again = client.message();
        assert_eq!((again.text(), again.id, again.dup), ("x", id, true));
        client.send(&packet::ack(PUBREC, id));
        client.hears(&Answer::PubRel { id, code: 0 });
        client.send(&packet::ack(PUBCOMP, id));
        other.nothing_comes();
    });
}

/// [MQTT5-4.8.2-5]
#[test]
fn v5_4_8_2_5_a_qos_2_message_that_was_begun_ends_with_the_session_of_its_client() {
    both(|broker| {
        let topic = unique("ended");
        let filter = shared(&topic);
        let will = unique("over");
        let mut listening = subscriber(broker, V5, &will, 0);
        let connect = Connect::new(V5, &unique("s")).will(Will::new(&will, b"gone"));
        let mut client = Client::connect(broker, &connect);
        client.subscribe(&filter, 2);
        Client::new(broker, V5).says(&topic, "x", 2);
        client.message();
        let mut other = subscriber(broker, V5, &filter, 2);
        client.vanish();
        // Its session is over, and the server knows it.
        listening.gets("gone");
        other.nothing_comes();
    });
}

/// [MQTT5-4.8.2-6]
#[test]
fn v5_4_8_2_6_what_one_client_refuses_no_other_gets() {
    both(|broker| {
        for (qos, first) in [(1, PUBACK), (2, PUBREC)] {
            let topic = unique("refused");
            let filter = shared(&topic);
            let mut client = subscriber(broker, V5, &filter, qos);
            Client::new(broker, V5).says(&topic, "x", qos);
            let id = client.message().id;
            let mut other = subscriber(broker, V5, &filter, qos);
            client.send(&packet::ack_because(first, id, 0x83));
            client.nothing_comes();
            other.nothing_comes();
        }
    });
}

/// [MQTT5-4.8.2-1] [MQTT5-3.10.4-2]
#[test]
fn v5_4_8_2_1_who_leaves_the_group_gets_nothing_more() {
    both(|broker| {
        let topic = unique("left");
        let filter = shared(&topic);
        let mut stays = subscriber(broker, V5, &filter, 1);
        let mut unsubscribes = subscriber(broker, V5, &filter, 1);
        let leaves = subscriber(broker, V5, &filter, 1);
        unsubscribes.unsubscribe(&[&filter]);
        leaves.leave();
        let mut client = Client::new(broker, V5);
        for number in 0..6 {
            client.says(&topic, &number.to_string(), 1);
            stays.gets(&number.to_string());
        }
        unsubscribes.nothing_comes();
    });
}

/// [MQTT5-4.8.2-1] [MQTT5-3.3.4-5]
#[test]
fn v5_4_8_2_1_a_client_may_be_in_a_group_and_subscribe_for_itself() {
    both(|broker| {
        let topic = unique("both");
        let mut client = Client::new(broker, V5);
        client.subscribe_under(1, &topic, 0);
        client.subscribe_under(2, &shared(&topic), 0);
        Client::new(broker, V5).says(&topic, "x", 0);
        // Two copies, each with the identifier of its own subscription.
        let mut ids = [0; 2].map(|_| client.gets("x").subscription_ids());
        ids.sort();
        assert_eq!(ids, [[1], [2]]);
        client.nothing_comes();
    });
}
