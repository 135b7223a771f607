//! `$SYS` as dashboards read it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nsd_wire::{Packet, Publish, Qos, ReasonCode, SubscribeOptions, Unsubscribe, Version};

use crate::support::{Broker, Client, SOON, eventually};

fn broker(sys: &str) -> Broker {
    Broker::start(&format!("node = \"n1\"\nallow_anonymous = true\n[sys]\n{sys}"))
}

/// Everything that is said within the time.
fn heard(client: &mut Client, limit: Duration) -> Vec<(String, String)> {
    let until = Instant::now() + limit;
    let mut heard = Vec::new();
    while let Ok(Some(message)) =
        client.next(until.saturating_duration_since(Instant::now()), |packet| match packet {
            Packet::Publish(publish) => {
                Some((publish.topic.to_owned(), String::from_utf8(publish.payload.to_vec()).unwrap()))
            }
            _ => None,
        })
    {
        heard.push(message);
    }
    heard
}

/// Waits until all of these were said.
fn expect(client: &mut Client, last: &mut HashMap<String, String>, wanted: &[(&str, &str)]) {
    let until = Instant::now() + SOON;
    while !wanted.iter().all(|(topic, value)| last.get(*topic).is_some_and(|said| said == value)) {
        assert!(Instant::now() < until, "heard only {last:?}");
        last.extend(heard(client, Duration::from_millis(100)));
    }
}

#[test]
fn both_families_are_there_for_who_subscribes_and_follow_what_happens() {
    let broker = broker("interval = \"1s\"");
    let mut dashboard = broker.client(Version::V311, "dashboard");
    dashboard.subscribe("$SYS/#", Qos::AtMostOnce);
    let mut other = broker.client(Version::V311, "other");
    other.subscribe("a", Qos::AtMostOnce);
    for filter in ["$share/one/a", "$share/two/a", "$share/one/a"] {
        other.subscribe(filter, Qos::AtMostOnce);
    }
    other.publish_as(Publish { qos: Qos::AtLeastOnce, ..Publish::new("b", b"123") });
    other.retain("c", b"x", Qos::AtLeastOnce);
    let mut last = HashMap::new();
    expect(
        &mut dashboard,
        &mut last,
        &[
            ("$SYS/broker/clients/connected", "2"),
            ("$SYS/broker/clients/maximum", "2"),
            ("$SYS/broker/subscriptions/count", "2"),
            ("$SYS/broker/shared_subscriptions/count", "2"),
            ("$SYS/broker/publish/messages/received", "2"),
            ("$SYS/broker/publish/bytes/received", "4"),
            ("$SYS/broker/retained messages/count", "1"),
            ("$SYS/n1/clients/connected", "2"),
            ("$SYS/n1/publish/received", "2"),
        ],
    );
    drop(other);
    expect(
        &mut dashboard,
        &mut last,
        &[
            ("$SYS/broker/clients/connected", "1"),
            ("$SYS/broker/subscriptions/count", "1"),
            ("$SYS/broker/shared_subscriptions/count", "0"),
            ("$SYS/n1/clients/maximum", "2"),
        ],
    );
}

#[test]
fn what_has_not_changed_is_not_said_again_but_is_there_for_newcomers() {
    let broker = broker("interval = \"1s\"");
    let mut dashboard = broker.client(Version::V311, "dashboard");
    dashboard.subscribe("$SYS/broker/version", Qos::AtMostOnce);
    assert!(dashboard.message().payload.starts_with(b"nsd-broker "));
    assert_eq!(heard(&mut dashboard, Duration::from_millis(2500)), []);
    // A subscription to everything is not one to the broker's topics (MQTT-4.7.2-1).
    let mut all = broker.client(Version::V311, "all");
    all.subscribe("#", Qos::AtMostOnce);
    all.subscribe("+/broker/uptime", Qos::AtMostOnce);
    assert_eq!(heard(&mut all, Duration::from_millis(1500)), []);
}

#[test]
fn an_interval_of_nothing_means_no_topics_and_nobody_writes_them() {
    let broker = broker("interval = \"0s\"");
    let mut client = broker.client(Version::V5, "c");
    client.subscribe("$SYS/#", Qos::AtMostOnce);
    assert_eq!(heard(&mut client, Duration::from_millis(300)), []);
    let publish = Publish { qos: Qos::AtLeastOnce, ..Publish::new("$SYS/broker/clients/connected", b"99") };
    assert_eq!(client.publish_as(publish), ReasonCode::NotAuthorized);
    assert_eq!(heard(&mut client, Duration::from_millis(200)), []);
    assert_eq!(broker.ask("stats").1["messages"]["dropped_by_cause"]["not_authorized"], 1);
}

#[test]
fn events_are_off_unless_asked_for() {
    for (events, expected) in [(true, true), (false, false)] {
        let broker = broker(&format!("interval = \"0s\"\nevents = {events}"));
        let mut watcher = broker.client(Version::V311, "watcher");
        watcher.subscribe("$SYS/n1/+/+", Qos::AtMostOnce);
        let mut client = broker.client(Version::V5, "lamp");
        client.subscribe_with("a/#", SubscribeOptions::from(Qos::AtMostOnce), None);
        let unsubscribe = Unsubscribe::new(nsd_wire::PacketId::MIN, &["a/#"]);
        client.send(&Packet::Unsubscribe(unsubscribe));
        client.expect(|packet| matches!(packet, Packet::UnsubAck(_)).then_some(()));
        drop(client);
        eventually("it is gone", SOON, || broker.ask("stats").1["clients"] == 1);
        let is_end =
            |(topic, said): &(String, String)| topic == "$SYS/n1/disconnect/clients" && said == "lamp";
        let mut said = heard(&mut watcher, Duration::from_millis(200));
        let until = Instant::now() + SOON;
        while expected && !said.iter().any(is_end) && Instant::now() < until {
            said.extend(heard(&mut watcher, Duration::from_millis(100)));
        }
        let about_lamp: Vec<_> = said
            .iter()
            .filter(|(_, said)| said.contains("lamp"))
            .map(|(topic, said)| (topic.as_str(), said.as_str()))
            .collect();
        let all = [
            ("$SYS/n1/new/clients", "lamp"),
            ("$SYS/n1/new/subscribes", r#"{"clientId":"lamp","topic":"a/#"}"#),
            ("$SYS/n1/new/unsubscribes", r#"{"clientId":"lamp","topic":"a/#"}"#),
            ("$SYS/n1/disconnect/clients", "lamp"),
        ];
        assert_eq!(about_lamp, if expected { all.to_vec() } else { Vec::new() });
    }
}
