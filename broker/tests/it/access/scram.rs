//! Enhanced authentication on the wire, with a client's side of SCRAM of its own.

use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use nsd_wire::{Auth, Authentication, Connect, Packet, Publish, Qos, ReasonCode, Version};
use redis::Commands;

use super::{Files, eventually_logged};
use crate::support::{Broker, Client, Redis, SOON, eventually};

const METHOD: &str = "SCRAM-SHA-256";
const CONTINUE: ReasonCode = ReasonCode::ContinueAuthentication;

/// One side of an exchange: what a client says, and how it checks the server.
struct Prover {
    bare: String,
    password: String,
    server_signature: Vec<u8>,
}

impl Prover {
    fn new(user: &str, password: &str) -> Self {
        let bare = format!("n={user},r=fyko+d2lbbFgONRv9qkxdawL");
        Self { bare, password: password.to_owned(), server_signature: Vec::new() }
    }

    fn first(&self) -> String {
        format!("n,,{}", self.bare)
    }

    fn last(&mut self, server_first: &str) -> String {
        let part = |name: &str| {
            server_first.split(',').find_map(|part| part.strip_prefix(name)).expect("a part").to_owned()
        };
        let (nonce, salt, iterations) = (part("r="), BASE64.decode(part("s=")).unwrap(), part("i="));
        let iterations: NonZeroU32 = iterations.parse().unwrap();
        let mut salted = [0; 32];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, self.password.as_bytes(), &mut salted);
        let mac = |key: &[u8], text: &str| {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
        };
        let client_key = mac(&salted, "Client Key");
        let stored_key = digest::digest(&digest::SHA256, &client_key);
        let unproven = format!("c=biws,r={nonce}");
        let said = format!("{},{server_first},{unproven}", self.bare);
        let signature = mac(stored_key.as_ref(), &said);
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(key, sign)| key ^ sign).collect();
        self.server_signature = mac(&mac(&salted, "Server Key"), &said);
        format!("{unproven},p={}", BASE64.encode(proof))
    }

    fn checks(&self, server_last: &str) {
        assert_eq!(server_last, format!("v={}", BASE64.encode(&self.server_signature)));
    }
}

fn auth(client: &mut Client, reason: ReasonCode, data: &str) {
    let mut auth = Auth { reason, ..Auth::default() };
    auth.properties.authentication = Some(Authentication { method: METHOD, data: Some(data.as_bytes()) });
    client.send(&Packet::Auth(auth));
}

/// The data of the AUTH or CONNACK that comes next, and its reason.
fn answer(client: &mut Client) -> (ReasonCode, String) {
    client.expect(|packet| {
        let (reason, given) = match packet {
            Packet::Auth(auth) => (auth.reason, auth.properties.authentication),
            Packet::ConnAck(ack) => (ack.reason, ack.properties.authentication),
            Packet::Disconnect(disconnect) => (disconnect.reason, None),
            _ => return None,
        };
        assert!(given.is_none_or(|given| given.method == METHOD));
        let data = given.and_then(|given| given.data).unwrap_or_default();
        Some((reason, String::from_utf8(data.to_vec()).unwrap()))
    })
}

fn begin(broker: &Broker, method: &str, data: &str) -> Client {
    let mut client = Client::open(broker.address, Version::V5);
    let mut connect = Connect::new(Version::V5, "c1");
    connect.properties.authentication = Some(Authentication { method, data: Some(data.as_bytes()) });
    client.send(&Packet::Connect(connect));
    client
}

/// Goes through the whole exchange; the client and what its CONNACK said.
fn enter(broker: &Broker, user: &str, password: &str) -> (Client, ReasonCode) {
    let mut prover = Prover::new(user, password);
    let mut client = begin(broker, METHOD, &prover.first());
    let (reason, server_first) = answer(&mut client);
    if reason != CONTINUE {
        return (client, reason);
    }
    let last = prover.last(&server_first);
    auth(&mut client, CONTINUE, &last);
    let (reason, server_last) = answer(&mut client);
    if reason == ReasonCode::Success {
        prover.checks(&server_last);
    }
    (client, reason)
}

fn scram(files: &Files, user: &str, password: &str) {
    let file = files.path("passwords").display().to_string();
    let arguments = [file.as_str(), user, "--scram", "--iterations", "4096"];
    let output = super::passwords::passwd(&arguments, password.as_bytes());
    assert!(output.status.success(), "{output:?}");
}

fn guarded(files: &Files) -> Broker {
    scram(files, "anna", "pencil");
    Broker::start(&format!("[access]\npassword_file = \"{}\"", files.path("passwords").display()))
}

/// [MQTT5-4.12.0-5]
#[test]
fn a_client_proves_its_password_without_sending_it() {
    let files = Files::new();
    let broker = guarded(&files);
    let (mut client, reason) = enter(&broker, "anna", "pencil");
    assert_eq!(reason, ReasonCode::Success);
    assert_eq!(client.subscribe("devices/anna/#", Qos::AtMostOnce), ReasonCode::Success);
    assert_eq!(client.subscribe("devices/bert/#", Qos::AtMostOnce), ReasonCode::NotAuthorized);
    for (user, password) in [("anna", "pencils"), ("anna", ""), ("nobody", "pencil")] {
        let (mut client, reason) = enter(&broker, user, password);
        assert_eq!(reason, ReasonCode::NotAuthorized, "{user} {password}");
        assert!(client.is_closed(SOON));
    }
    eventually_logged(&broker, "authentication refused");
}

#[test]
fn who_is_not_known_is_asked_like_everybody() {
    let files = Files::new();
    let broker = guarded(&files);
    super::passwords::set(&files.path("passwords"), "carl", "argon2");
    let ask = |user: &str| {
        let mut client = begin(&broker, METHOD, &Prover::new(user, "").first());
        let (reason, message) = answer(&mut client);
        assert_eq!(reason, CONTINUE);
        let mut parts = message.split(',').map(str::to_owned);
        (parts.next().unwrap().len(), parts.next().unwrap(), parts.next().unwrap())
    };
    let (known, unknown, other) = (ask("anna"), ask("nobody"), ask("carl"));
    assert_eq!((known.0, &known.2, known.1.len()), (unknown.0, &unknown.2, unknown.1.len()));
    assert_eq!((known.0, &known.2, known.1.len()), (other.0, &other.2, other.1.len()));
    assert_eq!(unknown.1, ask("nobody").1, "a salt does not change");
    assert_ne!(unknown.1, other.1);
}

#[test]
fn devices_of_the_store_prove_themselves_too() {
    let (redis, files) = (Redis::start(), Files::new());
    scram(&files, "d1", "pencil");
    let line = std::fs::read_to_string(files.path("passwords")).unwrap();
    let secret = line.trim().strip_prefix("d1:").unwrap().to_owned();
    let _: () = redis.connection().hset("nsd:device:d1", "secret", secret).unwrap();
    let broker = Broker::start(&format!("[store]\nkind = \"redis\"\nurl = \"{}\"", redis.url()));
    assert_eq!(enter(&broker, "d1", "pencil").1, ReasonCode::Success);
    assert_eq!(enter(&broker, "d1", "x").1, ReasonCode::NotAuthorized);
    let _: () = redis.connection().hset("nsd:device:d1", "disabled", "1").unwrap();
    assert_eq!(enter(&broker, "d1", "pencil").1, ReasonCode::NotAuthorized);
}

#[test]
fn exchanges_that_go_wrong_end_in_the_right_words() {
    let files = Files::new();
    let broker = guarded(&files);
    for (method, data, expected) in [
        ("SCRAM-SHA-1", "n,,n=anna,r=x", ReasonCode::BadAuthenticationMethod),
        ("", "", ReasonCode::BadAuthenticationMethod),
        (METHOD, "", ReasonCode::NotAuthorized),
        (METHOD, "p=tls-exporter,,n=anna,r=x", ReasonCode::NotAuthorized),
        (METHOD, "n,a=bert,n=anna,r=x", ReasonCode::NotAuthorized),
    ] {
        let mut client = begin(&broker, method, data);
        assert_eq!(answer(&mut client).0, expected, "{method} {data}");
        assert!(client.is_closed(SOON));
    }
    for packet in [Packet::PingReq, Packet::Publish(Publish::new("devices/anna/x", b"x"))] {
        let mut client = begin(&broker, METHOD, &Prover::new("anna", "pencil").first());
        assert_eq!(answer(&mut client).0, CONTINUE);
        client.send(&packet);
        assert_eq!(answer(&mut client).0, ReasonCode::ProtocolError);
        assert!(client.is_closed(SOON));
    }
    let open = Broker::anonymous();
    let mut client = begin(&open, METHOD, "n,,n=anna,r=x");
    assert_eq!(answer(&mut client).0, ReasonCode::BadAuthenticationMethod, "nobody has a secret there");
}

#[test]
fn half_an_exchange_has_a_deadline() {
    let files = Files::new();
    scram(&files, "anna", "pencil");
    let broker = Broker::start(&format!(
        "[limits]\nconnect_deadline = \"5s\"\n[access]\npassword_file = \"{}\"",
        files.path("passwords").display()
    ));
    let mut client = begin(&broker, METHOD, &Prover::new("anna", "pencil").first());
    assert_eq!(answer(&mut client).0, CONTINUE);
    assert!(client.is_closed(SOON * 2));
}

/// [MQTT5-4.12.1-2]
#[test]
fn a_connected_client_proves_itself_again_until_it_cannot() {
    let files = Files::new();
    let broker = guarded(&files);
    let (mut client, _) = enter(&broker, "anna", "pencil");
    assert_eq!(client.subscribe("devices/anna/#", Qos::AtMostOnce), ReasonCode::Success);
    let mut again = |password: &str| {
        let mut prover = Prover::new("anna", password);
        auth(&mut client, ReasonCode::ReAuthenticate, &prover.first());
        let (reason, server_first) = answer(&mut client);
        assert_eq!(reason, CONTINUE);
        // Life goes on meanwhile.
        client.send(&Packet::Publish(Publish::new("devices/anna/x", b"x")));
        assert_eq!(client.message().topic, "devices/anna/x");
        let last = prover.last(&server_first);
        auth(&mut client, CONTINUE, &last);
        let (reason, server_last) = answer(&mut client);
        if reason == ReasonCode::Success {
            prover.checks(&server_last);
        }
        reason
    };
    assert_eq!(again("pencil"), ReasonCode::Success);
    scram(&files, "anna", "changed");
    eventually("the new password counts", SOON, || enter_as(&broker, "other", "changed"));
    assert_eq!(again("pencil"), ReasonCode::NotAuthorized);
    assert!(client.is_closed(SOON));
}

/// [MQTT5-4.12.1-1]
#[test]
fn a_connected_client_proves_itself_again_by_the_same_method_only() {
    let files = Files::new();
    let broker = guarded(&files);
    for method in ["SCRAM-SHA-1", "PLAIN", ""] {
        let (mut client, reason) = enter(&broker, "anna", "pencil");
        assert_eq!(reason, ReasonCode::Success);
        let mut other = Auth { reason: ReasonCode::ReAuthenticate, ..Auth::default() };
        let data = Prover::new("anna", "pencil").first();
        other.properties.authentication = Some(Authentication { method, data: Some(data.as_bytes()) });
        client.send(&Packet::Auth(other));
        assert_eq!(answer(&mut client).0, ReasonCode::ProtocolError, "{method:?}");
        assert!(client.is_closed(SOON), "{method:?}");
    }
}

/// Whether this password is right, under another client id than that of the connected one.
fn enter_as(broker: &Broker, id: &str, password: &str) -> bool {
    let connect = Connect { client_id: id, ..super::as_user(Version::V5, "anna", password) };
    super::told(broker, &connect) == ReasonCode::Success
}
