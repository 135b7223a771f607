//! Tokens as passwords, good and forged.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use nsd_wire::{Connect, Packet, Qos, ReasonCode, Version};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};

use super::{Files, as_user, eventually_logged, told};
use crate::support::{Broker, Client, SOON, eventually};

const SECRET: &str = "a secret of more than 32 bytes, as it must be";
const BAD: ReasonCode = ReasonCode::BadUserNameOrPassword;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn signed(secret: &str, claims: &Value) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

fn token_of(user: &str) -> String {
    signed(SECRET, &json!({ "sub": user, "exp": now() + 600 }))
}

fn with_secret(files: &Files, more: &str) -> Broker {
    let secret = files.write("secret", &format!("{SECRET}\n"));
    Broker::start(&format!("[access.jwt]\nsecret_file = \"{secret}\"\n{more}"))
}

#[test]
fn a_good_token_is_its_user_whatever_name_stands_beside_it() {
    let files = Files::new();
    let broker = with_secret(&files, "");
    let token = token_of("d1");
    for version in Version::ALL {
        let mut client = Client::connect(broker.address, &as_user(version, "admin", &token));
        assert_eq!(client.subscribe("devices/d1/#", Qos::AtMostOnce), ReasonCode::Success);
        assert!(client.subscribe("devices/admin/#", Qos::AtMostOnce).is_failure());
    }
    let nameless = Connect { user_name: None, ..as_user(Version::V5, "c", &token) };
    Client::connect(broker.address, &nameless).ping();
    assert_eq!(told(&broker, &as_user(Version::V5, "d1", "no token")), BAD);
    assert_eq!(told(&broker, &Connect::new(Version::V5, "d1")), ReasonCode::NotAuthorized);
}

#[test]
fn forged_and_stale_tokens_are_refused() {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let files = Files::new();
    let broker = with_secret(&files, "issuer = \"us\"\naudience = [\"mqtt\"]\nleeway = \"5s\"");
    let claims = |more: Value| {
        let mut claims = json!({ "sub": "d1", "exp": now() + 600, "iss": "us", "aud": "mqtt" });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        claims
    };
    let good = signed(SECRET, &claims(json!({})));
    assert_eq!(told(&broker, &as_user(Version::V5, "c", &good)), ReasonCode::Success);
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let (said, signature) = good.rsplit_once('.').unwrap();
    let payload = said.split_once('.').unwrap().1;
    for forged in [
        format!("{}.{payload}.", part(&json!({ "alg": "none" }))),
        format!("{}.{payload}.{signature}", part(&json!({ "alg": "none" }))),
        format!(
            "{}.{}.{signature}",
            part(&json!({ "alg": "HS256" })),
            part(&claims(json!({ "sub": "admin" })))
        ),
        format!("{said}."),
        signed("another secret of more than 32 bytes, as it is", &claims(json!({}))),
        signed(SECRET, &claims(json!({ "exp": now() - 6 }))),
        signed(SECRET, &claims(json!({ "exp": "tomorrow" }))),
        signed(SECRET, &claims(json!({ "nbf": now() + 600 }))),
        signed(SECRET, &claims(json!({ "iss": "them" }))),
        signed(SECRET, &claims(json!({ "aud": ["web"] }))),
        signed(SECRET, &claims(json!({ "sub": 1 }))),
        signed(SECRET, &json!({ "sub": "d1", "iss": "us", "aud": "mqtt" })),
        signed(SECRET, &json!({ "sub": "d1", "exp": now() + 600 })),
    ] {
        assert_eq!(told(&broker, &as_user(Version::V5, "c", &forged)), BAD, "{forged}");
        assert!(!broker.log().contains(&forged), "a token is never logged");
    }
}

#[test]
fn a_public_key_checks_and_a_new_one_is_taken_live() {
    let pairs = [(); 2].map(|()| KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap());
    let files = Files::new();
    let key = files.write("key.pem", &pairs[0].public_key_pem());
    let broker = Broker::start(&format!("[access.jwt]\nkeys = [\"{key}\"]\nuser_claim = \"device\""));
    let claims = json!({ "device": "d1", "exp": now() + 600 });
    let [old, new] = pairs.each_ref().map(|pair| {
        let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
        encode(&Header::new(Algorithm::ES256), &claims, &key).unwrap()
    });
    let answer = |token: &str| told(&broker, &as_user(Version::V5, "c", token));
    assert_eq!((answer(&old), answer(&new)), (ReasonCode::Success, BAD));
    // Everybody has the public key: it is no secret to sign with.
    assert_eq!(answer(&signed(&pairs[0].public_key_pem(), &claims)), BAD);
    files.replace("key.pem", pairs[1].serialize_pem());
    eventually_logged(&broker, "holds a private key");
    assert_eq!(answer(&old), ReasonCode::Success);
    files.replace("key.pem", pairs[1].public_key_pem());
    eventually("the new key counts", SOON, || answer(&new) == ReasonCode::Success);
    assert_eq!(answer(&old), BAD);
}

#[test]
fn a_token_may_stand_in_the_user_name_and_say_what_its_bearer_may() {
    let files = Files::new();
    let broker =
        with_secret(&files, "field = \"user\"\npublish_claim = \"may_say\"\nsubscribe_claim = \"may_hear\"");
    let claims = json!({ "sub": "d1", "exp": now() + 600, "may_say": ["up/+"], "may_hear": ["down/#"] });
    let token = signed(SECRET, &claims);
    let connect = Connect { user_name: Some(&token), ..Connect::new(Version::V5, "c") };
    let mut client = Client::connect(broker.address, &connect);
    assert_eq!(client.subscribe("down/+", Qos::AtMostOnce), ReasonCode::Success);
    assert_eq!(client.subscribe("devices/d1/#", Qos::AtMostOnce), ReasonCode::NotAuthorized);
    assert_eq!(client.subscribe("#", Qos::AtMostOnce), ReasonCode::NotAuthorized);
    assert_eq!(client.publish("up/x", b"x", Qos::AtLeastOnce), ReasonCode::Success);
    assert_eq!(client.publish("up/x/y", b"x", Qos::AtLeastOnce), ReasonCode::NotAuthorized);
    let silent = token_of("d1");
    let connect = Connect { user_name: Some(&silent), ..Connect::new(Version::V5, "c") };
    let mut client = Client::connect(broker.address, &connect);
    assert_eq!(client.subscribe("down/x", Qos::AtMostOnce), ReasonCode::NotAuthorized);
}

#[test]
fn a_connection_ends_with_its_token() {
    let files = Files::new();
    let broker = with_secret(&files, "leeway = \"0s\"");
    let [mut modern, mut old] = [Version::V5, Version::V311].map(|version| {
        let token = signed(SECRET, &json!({ "sub": "d1", "exp": now() + 6 }));
        let id = format!("{version:?}");
        Client::connect(broker.address, &Connect { client_id: &id, ..as_user(version, "d1", &token) })
    });
    modern.ping();
    let told = modern.next(SOON * 2, |packet| match packet {
        Packet::Disconnect(disconnect) => Some(disconnect.reason),
        _ => None,
    });
    assert_eq!(told, Ok(Some(ReasonCode::NotAuthorized)));
    assert!(modern.is_closed(SOON) && old.is_closed(SOON));
}
