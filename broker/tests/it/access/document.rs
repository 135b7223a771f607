//! Every example of `docs/broker-access.md` is what it says.

use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header, encode};
use nsd_wire::{Connect, Qos, ReasonCode, Version};
use serde_json::{Value, json};

use super::service::{self, Service};
use super::{Files, as_user, told};
use crate::support::{Broker, Client};

/// One fenced block: what stands behind the fence, and its text.
struct Block {
    kind: String,
    text: String,
}

/// The files that the document shows are written; what names them names these.
fn blocks(files: &Files) -> Vec<Block> {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/broker-access.md");
    let document = std::fs::read_to_string(document).unwrap();
    let here = format!("{}/", files.directory.path().display());
    let fenced = document.split("\n```").skip(1).step_by(2);
    let blocks: Vec<_> = fenced
        .map(|block| {
            let (kind, text) = block.split_once('\n').unwrap();
            Block { kind: kind.to_owned(), text: text.replace("/etc/nsd/", &here) }
        })
        .collect();
    for block in &blocks {
        let name = block.text.lines().next().and_then(|line| line.strip_prefix(&format!("# {here}")));
        if let Some(name) = name {
            // A secret and a key are all of their files: the line with the name is for readers of the document.
            let comment = block.text.split_once('\n').unwrap();
            let text = if name.starts_with("token") { comment.1 } else { &block.text };
            files.write(name, text);
        }
    }
    blocks
}

fn settings(blocks: &[Block]) -> Vec<&str> {
    blocks.iter().filter(|block| block.kind == "toml").map(|block| &*block.text).collect()
}

/// The settings that hold this text, with a listener of the test's own.
fn broker(blocks: &[Block], with: &str) -> Broker {
    let found: Vec<_> = settings(blocks).into_iter().filter(|text| text.contains(with)).collect();
    let [text] = found[..] else { panic!("one example with {with}") };
    Broker::start(&text.replace("[[listen]]\naddress = \"0.0.0.0:1883\"\n", ""))
}

#[test]
fn all_settings_are_fine() {
    let files = Files::new();
    let blocks = blocks(&files);
    assert!(settings(&blocks).len() >= 7);
    for text in settings(&blocks) {
        let path = files.write("broker.toml", text);
        let output =
            Command::new(env!("CARGO_BIN_EXE_nsd-broker")).args(["--config", &path, "--check"]).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_password_file_and_the_acl_file() {
    let files = Files::new();
    let broker = broker(&blocks(&files), "acl_file");
    let password = |user: &str| match user {
        "meter-17" => "generated-key-of-meter-17".to_owned(),
        _ => format!("{user}-secret"),
    };
    for user in ["anna", "bert", "carl", "meter-17"] {
        assert_eq!(
            told(&broker, &as_user(Version::V5, user, &password(user))),
            ReasonCode::Success,
            "{user}"
        );
        let wrong = told(&broker, &as_user(Version::V5, user, "x"));
        assert_eq!(wrong, ReasonCode::BadUserNameOrPassword, "{user}");
    }
    let (fine, refused) = (ReasonCode::Success, ReasonCode::NotAuthorized);
    for (user, filter, expected) in [
        ("anna", "home/kitchen", fine),
        ("anna", "home/#", refused),
        ("anna", "$SYS/#", fine),
        ("anna", "news/today", refused),
        ("bert", "#", refused),
        ("bert", "home/kitchen", fine),
        ("carl", "devices/carl/#", fine),
        ("carl", "devices/anna/#", refused),
    ] {
        let mut client = Client::connect(broker.address, &as_user(Version::V5, user, &password(user)));
        assert_eq!(client.subscribe(filter, Qos::AtMostOnce), expected, "{user} {filter}");
    }
    let mut carl = Client::connect(broker.address, &as_user(Version::V5, "carl", "carl-secret"));
    assert_eq!(carl.publish("status/carl", b"x", Qos::AtLeastOnce), fine);
    assert_eq!(carl.publish("status/anna", b"x", Qos::AtLeastOnce), refused);
    let mut nobody = broker.client(Version::V5, "nobody");
    assert_eq!(nobody.subscribe("news/#", Qos::AtMostOnce), fine);
}

#[test]
fn tokens() {
    let files = Files::new();
    let broker = broker(&blocks(&files), "secret_file");
    let secret = std::fs::read_to_string(files.path("token-secret")).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({ "sub": "d1", "exp": now + 60, "iss": "https://login.example", "aud": "mqtt" });
    let key = EncodingKey::from_secret(secret.trim_end().as_bytes());
    let token = encode(&Header::default(), &claims, &key).unwrap();
    let mut client = Client::connect(broker.address, &as_user(Version::V5, "c", &token));
    assert_eq!(client.subscribe("devices/d1/#", Qos::AtMostOnce), ReasonCode::Success);
}

#[test]
fn questions_and_answers_of_the_service() {
    let files = Files::new();
    let blocks = blocks(&files);
    let of = |kind: &str| -> Vec<&str> {
        blocks.iter().filter(|block| block.kind == kind).map(|block| block.text.trim()).collect()
    };
    let (questions, answers) = (of("json question"), of("json answer"));
    assert_eq!((questions.len(), answers.len()), (1, 3));
    for answer in answers {
        let text = service::http("200 OK", answer);
        let service = Service::start(move |_| text.clone());
        let broker = service.broker("");
        let connect = Connect { client_id: "c1", ..as_user(Version::V5, "anna", "secret") };
        let mut client = Client::connect(broker.address, &connect);
        assert_eq!(client.subscribe("devices/anna/#", Qos::AtMostOnce), ReasonCode::Success, "{answer}");
        let mut expected: Value = serde_json::from_str(questions[0]).unwrap();
        expected["address"] = json!("127.0.0.1");
        assert_eq!(service.last_question(), expected);
    }
}
