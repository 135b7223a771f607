//! Devices of the broker's own store: made through the admin socket, kept on the disk.

use nsd_wire::{Qos, ReasonCode, Version};

use super::{as_user, told};
use crate::support::{Broker, Client};

const SETTINGS: &str = "[store]\nkind = \"disk\"\ndirectory = \"STORE\"\n[access]\ndevices = true\n";

fn secret(answer: &serde_json::Value) -> String {
    answer["secret"].as_str().unwrap().to_owned()
}

#[test]
fn a_device_is_made_once_and_outlives_a_crash() {
    let mut broker = Broker::start(SETTINGS);
    let (done, made) = broker.order(&["device", "add", "lamp"]);
    assert!(done);
    let lamp = secret(&made);
    assert_eq!(lamp.len(), 64);
    let (again, refused) = broker.order(&["device", "add", "lamp"]);
    assert!(!again && refused["error"].as_str().unwrap().contains("there already"), "{refused}");
    assert!(!broker.order(&["device", "add", "no/such name"]).0);
    broker.kill();
    broker.restart();
    let mut client = Client::connect(broker.address, &as_user(Version::V5, "lamp", &lamp));
    assert_eq!(client.subscribe("devices/lamp/#", Qos::AtLeastOnce), ReasonCode::GrantedQos1);
    assert_eq!(told(&broker, &as_user(Version::V5, "lamp", "wrong")), ReasonCode::BadUserNameOrPassword);
    let (_, list) = broker.order(&["devices"]);
    assert_eq!(list["devices"], serde_json::json!([{ "id": "lamp", "disabled": false }]));
    assert!(!list.to_string().contains(&lamp) && !broker.log().contains(&lamp));
}

#[test]
fn a_new_secret_and_a_removal_hold_at_once() {
    let broker = Broker::start(SETTINGS);
    let old = secret(&broker.order(&["device", "add", "lamp"]).1);
    let new = secret(&broker.order(&["device", "add", "lamp", "--replace"]).1);
    assert_eq!(told(&broker, &as_user(Version::V5, "lamp", &old)), ReasonCode::BadUserNameOrPassword);
    assert_eq!(told(&broker, &as_user(Version::V5, "lamp", &new)), ReasonCode::Success);
    assert!(broker.order(&["device", "remove", "lamp"]).0);
    assert!(!broker.order(&["device", "remove", "lamp"]).0);
    assert_eq!(told(&broker, &as_user(Version::V5, "lamp", &new)), ReasonCode::BadUserNameOrPassword);
}
