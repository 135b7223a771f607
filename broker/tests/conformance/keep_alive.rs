//! Keep alive: who is silent goes, who is not stays.

use std::time::{Duration, Instant};

use crate::answer::Answer;
use crate::broker::{Broker, Kind, Settings};
use crate::client::{Client, Heard, subscriber, unique};
use crate::packet::{
    BOTH, Connect, PINGREQ, Property, Publish, V5, V311, Value, Version, Will, id, long, packet,
};
use crate::suite::{SILENT, both, both_alone};

fn alive_for(version: Version, seconds: u16) -> Connect {
    Connect { keep_alive: seconds, ..Connect::new(version, &unique("k")) }
}

/// Side by side, as each of them takes seconds.
fn all_at_once<C: Send>(cases: impl IntoIterator<Item = C>, check: impl Fn(C) + Sync) {
    let check = &check;
    std::thread::scope(|scope| cases.into_iter().for_each(|case| drop(scope.spawn(move || check(case)))));
}

/// A client that is gone at once, and its will so many seconds later: a clock that is as late as the broker is.
fn tells_after(broker: &Broker, topic: &str, seconds: u32) {
    let mut will = Will::new(topic, format!("after {seconds}").as_bytes());
    will.properties = vec![long(id::WILL_DELAY, seconds)];
    Client::connect(broker, &Connect::new(V5, &unique("w")).lasting(600).will(will)).vanish();
}

/// A silent client's will comes after one and a half times these seconds, neither much sooner nor much later.
fn silent_for(broker: &Broker, connect: Connect, seconds: u32) {
    let topic = unique("silent");
    let mut listening = subscriber(broker, V311, &topic, 0);
    let due = seconds * 3 / 2;
    // Mosquitto looks only every five seconds.
    let (sooner, later) = (due - 4, due + if broker.kind == Kind::Ours { 4 } else { 10 });
    // In this order, a test that is slow says less and nothing wrong.
    tells_after(broker, &topic, sooner);
    let mut client = Client::connect(broker, &connect.will(Will::new(&topic, b"gone")));
    tells_after(broker, &topic, later);
    for text in [format!("after {sooner}"), "gone".to_owned(), format!("after {later}")] {
        let until = Instant::now() + Duration::from_secs(60);
        let message = loop {
            assert!(Instant::now() < until, "nobody said {text:?}");
            // Who listens has a keep alive, too.
            listening.send(&packet(PINGREQ, &[]));
            listening.awaits(|answer| *answer == Answer::PingResp);
            if let Heard::Packet(Answer::Publish(message)) = listening.hear(Duration::from_secs(1)) {
                break message;
            }
        };
        assert_eq!(message.text(), text);
    }
    if client.version == V5 {
        broker.but_mosquitto(SILENT, || client.is_sent_away(&[0x8d]));
    } else {
        client.is_closed();
    }
}

/// [MQTT-3.1.2-24] [MQTT5-3.1.2-22] [MQTT5-3.2.2-22] [MQTT-3.1.2-8]
#[test]
fn v311_3_1_2_24_who_is_silent_for_one_and_a_half_times_is_gone_as_if_the_network_had_failed() {
    both(|broker| all_at_once(BOTH, |version| silent_for(broker, alive_for(version, 8), 8)));
}

/// [MQTT-3.12.4-1] [MQTT-3.1.2-23] [MQTT5-3.12.4-1] [MQTT5-3.1.2-20]
#[test]
fn v311_3_12_4_1_a_ping_is_answered_and_any_packet_keeps_alive() {
    let talking = |broker: &Broker, version: Version, pings: bool| {
        let mut client = Client::connect(broker, &alive_for(version, 4));
        for _ in 0..8 {
            std::thread::sleep(Duration::from_secs(1));
            if pings {
                client.ping();
            } else {
                client.send(&Publish::new("alive", "x").bytes(version));
            }
        }
        client.ping();
    };
    let cases = [(V311, true), (V5, true), (V311, false), (V5, false)];
    both(|broker| all_at_once(cases, |(version, pings)| talking(broker, version, pings)));
}

/// [MQTT-3.1.2-24] [MQTT5-3.1.2-22]
#[test]
fn v311_3_1_2_24_what_is_sent_to_a_client_does_not_keep_it_alive() {
    let hearing = |broker: &Broker, version: Version| {
        let topic = unique("heard");
        let mut client = Client::connect(broker, &alive_for(version, 1));
        client.subscribe(&topic, 0);
        let mut other = Client::new(broker, V311);
        let until = Instant::now() + Duration::from_secs(30);
        while client.hear(Duration::from_millis(300)) != Heard::Closed {
            assert!(Instant::now() < until, "a silent client is kept");
            other.says(&topic, "x", 0);
        }
    };
    both(|broker| all_at_once(BOTH, |version| hearing(broker, version)));
}

/// [MQTT-3.1.2-24] [MQTT5-3.1.2-22]
#[test]
fn v311_3_1_2_24_a_packet_that_never_ends_does_not_keep_alive() {
    let dripping = |broker: &Broker, version: Version| {
        let mut client = Client::connect(broker, &alive_for(version, 1));
        client.send(&[0x30, 0x7f]);
        let until = Instant::now() + Duration::from_secs(30);
        while client.hear(Duration::from_millis(300)) != Heard::Closed {
            assert!(Instant::now() < until, "a byte now and then is taken for a packet");
            client.send(&[0]);
        }
    };
    both(|broker| all_at_once(BOTH, |version| dripping(broker, version)));
}

/// [MQTT-3.1.2-24] [MQTT5-3.1.2-22]
#[test]
fn v311_3_1_2_24_without_a_keep_alive_silence_is_allowed() {
    both(|broker| {
        let mut clients = BOTH.map(|version| Client::connect(broker, &alive_for(version, 0)));
        std::thread::sleep(Duration::from_millis(2500));
        clients.iter_mut().for_each(Client::ping);
    });
}

/// [MQTT5-3.2.2-22]
#[test]
fn v5_3_2_2_22_a_server_that_asks_for_another_keep_alive_says_so() {
    let settings =
        Settings { ours: "[limits]\nkeep_alive = 20", mosquitto: "max_keepalive 20", ..Settings::default() };
    both_alone(settings, |broker| {
        let told = |seconds| -> Option<Property> {
            let client = Client::connect(broker, &alive_for(V5, seconds));
            client.properties.iter().find(|property| property.0 == id::SERVER_KEEP_ALIVE).cloned()
        };
        assert_eq!(told(10), None);
        assert_eq!(told(20), None);
        assert_eq!(told(21), Some(Property(id::SERVER_KEEP_ALIVE, Value::Short(20))));
        assert_eq!(told(0), Some(Property(id::SERVER_KEEP_ALIVE, Value::Short(20))));
    });
}

/// [MQTT5-3.1.2-21] [MQTT5-3.2.2-21] [MQTT5-3.1.2-22]
#[test]
fn v5_3_1_2_21_the_keep_alive_that_the_server_asks_for_is_the_one_that_counts() {
    let settings =
        Settings { ours: "[limits]\nkeep_alive = 10", mosquitto: "max_keepalive 10", ..Settings::default() };
    both_alone(settings, |broker| {
        all_at_once([0, 600], |asked| silent_for(broker, alive_for(V5, asked), 10));
    });
}
