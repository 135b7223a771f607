//! Devices of the store, and the article's rule.

use nsd_wire::{Connect, Packet, Publish, Qos, ReasonCode, Version, Will};
use redis::Commands;
use sha2::Digest;

use super::as_user as as_device;
use crate::support::{Broker, Client, Redis, SOON};

fn guarded(redis: &Redis) -> Broker {
    Broker::start(&format!("[store]\nkind = \"redis\"\nurl = \"{}\"", redis.url()))
}

fn add_device(redis: &Redis, id: &str, secret: &str) {
    let digest = hex::encode(sha2::Sha256::new().chain_update([1, 2, 3]).chain_update(secret).finalize());
    let stored = format!("$sha256$010203${digest}");
    let _: () = redis.connection().hset(format!("nsd:device:{id}"), "secret", stored).unwrap();
}

#[test]
fn only_known_devices_with_their_secret() {
    let redis = Redis::start();
    let broker = guarded(&redis);
    add_device(&redis, "d1", "right");
    add_device(&redis, "d2", "right");
    let _: () = redis.connection().hset("nsd:device:d2", "disabled", "1").unwrap();
    for version in Version::ALL {
        Client::connect(broker.address, &as_device(version, "d1", "right")).ping();
        for (connect, expected) in [
            (as_device(version, "d1", "wrong"), ReasonCode::BadUserNameOrPassword),
            (as_device(version, "d2", "right"), ReasonCode::BadUserNameOrPassword),
            (as_device(version, "d3", "right"), ReasonCode::BadUserNameOrPassword),
            (as_device(version, "no such/name", "right"), ReasonCode::BadUserNameOrPassword),
            (Connect::new(version, "anonymous"), ReasonCode::NotAuthorized),
        ] {
            assert_eq!(Client::refused(broker.address, &connect), expected, "{version:?} {connect:?}");
        }
    }
}

#[test]
fn argon2_secrets_and_their_change() {
    use argon2::PasswordHasher;
    let redis = Redis::start();
    let broker = guarded(&redis);
    let hash = |secret: &str| {
        let argon2 = argon2::Argon2::default();
        argon2.hash_password(secret.as_bytes()).unwrap().to_string()
    };
    let _: () = redis.connection().hset("nsd:device:d1", "secret", hash("first")).unwrap();
    for _ in 0..2 {
        Client::connect(broker.address, &as_device(Version::V5, "d1", "first")).ping();
    }
    let wrong = as_device(Version::V5, "d1", "second");
    assert_eq!(Client::refused(broker.address, &wrong), ReasonCode::BadUserNameOrPassword);
    let _: () = redis.connection().hset("nsd:device:d1", "secret", hash("second")).unwrap();
    Client::connect(broker.address, &wrong).ping();
    let old = as_device(Version::V5, "d1", "first");
    assert_eq!(Client::refused(broker.address, &old), ReasonCode::BadUserNameOrPassword);
}

#[test]
fn the_second_level_is_the_device() {
    let redis = Redis::start();
    let broker = guarded(&redis);
    add_device(&redis, "d1", "s");
    for version in Version::ALL {
        let mut client = Client::connect(broker.address, &as_device(version, "d1", "s"));
        let refused = if version.is_v5() { ReasonCode::NotAuthorized } else { ReasonCode::UnspecifiedError };
        assert_eq!(client.subscribe("devices/d2/#", Qos::AtLeastOnce), refused);
        assert_eq!(client.subscribe("#", Qos::AtLeastOnce), refused);
        assert_eq!(client.subscribe("devices/d1/#", Qos::AtMostOnce), ReasonCode::Success);
        client.send(&Packet::Publish(Publish::new("devices/d1/x", b"x")));
        assert_eq!(client.message().topic, "devices/d1/x");
        if version.is_v5() {
            assert_eq!(client.publish("devices/d2/x", b"x", Qos::AtLeastOnce), ReasonCode::NotAuthorized);
        } else {
            client.send(&Packet::Publish(Publish::new("devices/d2/x", b"x")));
            assert!(client.is_closed(SOON));
        }
        let will = Some(Will::new("devices/d2/x", b"x"));
        let connect = Connect { will, ..as_device(version, "d1", "s") };
        assert_eq!(Client::refused(broker.address, &connect), ReasonCode::NotAuthorized);
    }
}
