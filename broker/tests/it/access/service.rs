//! The HTTP service, well and ill.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nsd_wire::{Connect, Packet, Qos, ReasonCode, Version};
use serde_json::Value;

use super::{Files, as_user, eventually_logged, told};
use crate::support::{Broker, Client, SOON, eventually, port};

const BAD: ReasonCode = ReasonCode::BadUserNameOrPassword;
const AWAY: ReasonCode = ReasonCode::ServerUnavailable;

/// A service that answers each question with what `answer` says, byte by byte; it ends with its process.
pub(super) struct Service {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    answer: Box<dyn Fn(&Value) -> String + Send + Sync>,
    seen: Mutex<VecDeque<Value>>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

impl State {
    fn serve(&self, mut stream: impl Read + Write) {
        while let Some(question) = question(&mut stream) {
            let at_once = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_at_once.fetch_max(at_once, Ordering::SeqCst);
            self.seen.lock().unwrap().push_back(question.clone());
            let text = (self.answer)(&question);
            self.at_once.fetch_sub(1, Ordering::SeqCst);
            if stream.write_all(text.as_bytes()).is_err() {
                return;
            }
        }
    }
}

impl Service {
    pub(super) fn start(answer: impl Fn(&Value) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        Self::over(listener, answer, Some)
    }

    fn over<S: Read + Write + 'static>(
        listener: TcpListener,
        answer: impl Fn(&Value) -> String + Send + Sync + 'static,
        open: fn(TcpStream) -> Option<S>,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            answer: Box::new(answer),
            seen: Mutex::default(),
            at_once: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || open(socket).map(|stream| shared.serve(stream)));
            }
        });
        Self { address, state }
    }

    pub(super) fn last_question(&self) -> Value {
        self.state.seen.lock().unwrap().back().cloned().unwrap()
    }

    fn asked(&self) -> usize {
        self.state.seen.lock().unwrap().len()
    }

    /// It has as much time as can be given, unless more is said.
    pub(super) fn broker(&self, more: &str) -> Broker {
        let deadline = if more.contains("deadline") { "" } else { "deadline = \"4500ms\"" };
        let url = format!("url = \"http://{}/auth?x=y\"", self.address);
        Broker::start(&format!("[access.http]\n{url}\n{deadline}\n{more}"))
    }
}

/// The JSON of one POST.
fn question(stream: &mut impl Read) -> Option<Value> {
    let mut reader = BufReader::with_capacity(1, stream);
    let (mut line, mut length, mut first) = (String::new(), 0, true);
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if std::mem::take(&mut first) {
            assert_eq!(line, "POST /auth?x=y HTTP/1.1\r\n");
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(serde_json::from_slice(&body).unwrap())
}

pub(super) fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn allowed() -> String {
    http("200 OK", r#"{"allow":true}"#)
}

fn answer(broker: &Broker, user: &str, password: &str) -> ReasonCode {
    told(broker, &as_user(Version::V5, user, password))
}

#[test]
fn it_is_told_who_comes_and_its_answer_counts() {
    let service = Service::start(|question| match question["username"].as_str() {
        Some("good") if question["password"] == "right" => allowed(),
        Some("boss") => http("200 OK", r#"{"allow":true,"superuser":true}"#),
        Some("listed") => {
            http("200 OK", r#"{"allow":true,"acl":{"publish":["up/+"],"subscribe":["down/#"]}}"#)
        }
        Some("no") => http("200 OK", r#"{"allow":false}"#),
        None => allowed(),
        _ => http("403 Forbidden", ""),
    });
    let broker = service.broker("");
    let mut good = Client::connect(broker.address, &as_user(Version::V311, "good", "right"));
    let seen = service.state.seen.lock().unwrap().pop_front().unwrap();
    let expected = serde_json::json!({
        "client_id": "good", "username": "good", "password": "right", "address": "127.0.0.1", "certificate": null,
    });
    assert_eq!(seen, expected);
    assert_eq!(good.subscribe("devices/good/#", Qos::AtMostOnce), ReasonCode::Success);
    assert!(good.subscribe("devices/other/#", Qos::AtMostOnce).is_failure());
    for (user, password) in [("good", "wrong"), ("no", "x"), ("unknown", "x")] {
        assert_eq!(answer(&broker, user, password), BAD, "{user}");
    }
    let mut boss = Client::connect(broker.address, &as_user(Version::V5, "boss", "x"));
    assert_eq!(boss.subscribe("#", Qos::AtMostOnce), ReasonCode::Success);
    assert_eq!(boss.publish("$SYS/x", b"x", Qos::AtLeastOnce), ReasonCode::NotAuthorized);
    let mut listed = Client::connect(broker.address, &as_user(Version::V5, "listed", "x"));
    assert_eq!(listed.subscribe("down/+", Qos::AtMostOnce), ReasonCode::Success);
    assert_eq!(listed.subscribe("devices/listed/x", Qos::AtMostOnce), ReasonCode::NotAuthorized);
    assert_eq!(listed.publish("up/x", b"x", Qos::AtLeastOnce), ReasonCode::Success);
    // It may know clients that bring no name.
    Client::connect(broker.address, &Connect::new(Version::V5, "nameless")).ping();
    assert!(!broker.log().contains("right"));
}

#[test]
fn what_is_no_clear_answer_is_no_permission() {
    let huge = format!(r#"{{"allow":true,"x":"{}"}}"#, "x".repeat(100_000));
    let service = Service::start(move |question| match question["username"].as_str().unwrap() {
        "error" => http("500 Oops", r#"{"allow":true}"#),
        "missing" => http("404 Not Found", ""),
        "created" => http("201 Created", r#"{"allow":true}"#),
        "moved" => "HTTP/1.1 302 Found\r\nlocation: /yes\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "array" => http("200 OK", "[true,true]"),
        "word" => http("200 OK", "allow"),
        "string" => http("200 OK", r#"{"allow":"true"}"#),
        "filter" => http("200 OK", r#"{"allow":true,"acl":{"publish":["a/#/b"]}}"#),
        "empty" => http("200 OK", ""),
        "huge" => http("200 OK", &huge),
        "noise" => "\u{0}\u{1}garbage\r\n\r\n".to_owned(),
        "half" => "HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n{\"allow\":tr".to_owned(),
        _ => allowed(),
    });
    let broker = service.broker("deadline = \"500ms\"");
    for user in [
        "error", "missing", "created", "moved", "array", "word", "string", "filter", "empty", "huge",
        "noise", "half",
    ] {
        assert_eq!(answer(&broker, user, "x"), AWAY, "{user}");
        let old = Client::refused(broker.address, &as_user(Version::V311, user, "x"));
        assert_eq!(old, ReasonCode::ServerUnavailable, "{user}");
    }
    eventually("a clear one is", SOON, || answer(&broker, "fine", "x") == ReasonCode::Success);
    eventually_logged(&broker, "answers again");
}

#[test]
fn a_service_that_is_not_there_or_hangs_refuses() {
    let dead = port();
    let broker = Broker::start(&format!("[access.http]\nurl = \"http://127.0.0.1:{dead}/auth?x=y\""));
    assert_eq!(answer(&broker, "u", "p"), AWAY);
    let hanging = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let files = Files::new();
    let passwords = files.write(
        "passwords",
        "local:$sha256$00$2da4b5a8d0a5fa2a5d6b0c0f7b8f6f9f9c2a0d4f8f3e1b7a6c5d4e3f2a1b0c9d\n",
    );
    let address = hanging.local_addr().unwrap();
    let broker = Broker::start(&format!(
        "allow_anonymous = true\n[access]\npassword_file = \"{passwords}\"\n\
         [access.http]\nurl = \"http://{address}/auth?x=y\"\ndeadline = \"300ms\"\ncalls = 2"
    ));
    let mut waiting: Vec<_> = (0..20)
        .map(|number| {
            let mut client = Client::open(broker.address, Version::V5);
            client.send(&Packet::Connect(as_user(Version::V5, &format!("u{number}"), "p")));
            client
        })
        .collect();
    // Who need not ask does not wait behind those who do.
    broker.client(Version::V5, "nobody").ping();
    assert_eq!(answer(&broker, "local", "wrong"), BAD);
    for client in &mut waiting {
        let reason = client.expect(|packet| match packet {
            Packet::ConnAck(ack) => Some(ack.reason),
            _ => None,
        });
        assert_eq!(reason, AWAY);
    }
    assert_eq!(broker.log().matches("does not answer").count(), 1, "one line, however many are refused");
}

#[test]
fn two_hundred_clients_at_once_meet_a_slow_service() {
    const CLIENTS: usize = 200;
    let service = Service::start(|_| {
        std::thread::sleep(Duration::from_millis(20));
        allowed()
    });
    let broker = service.broker("calls = 8");
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let mut client = Client::open(broker.address, Version::V5);
            client.send(&Packet::Connect(as_user(Version::V5, &format!("u{number}"), "p")));
            client
        })
        .collect();
    let reasons = clients.iter_mut().map(|client| {
        let reason = client.next(SOON * 2, |packet| match packet {
            Packet::ConnAck(ack) => ack.reason,
            other => panic!("unexpected {other:?}"),
        });
        reason.unwrap()
    });
    let reasons: Vec<_> = reasons.collect();
    let accepted = reasons.iter().filter(|reason| **reason == ReasonCode::Success).count();
    assert!(reasons.iter().all(|reason| [ReasonCode::Success, AWAY].contains(reason)), "{reasons:?}");
    assert!(accepted >= CLIENTS / 2, "{accepted} of {CLIENTS}");
    let most = service.state.most_at_once.load(Ordering::SeqCst);
    assert!(most <= 8, "{most} calls at once");
    for (client, _) in clients.iter_mut().zip(&reasons).filter(|(_, reason)| **reason == ReasonCode::Success)
    {
        client.ping();
    }
}

#[test]
fn answers_are_remembered_for_a_while_each_for_its_own_credentials() {
    let service = Service::start(|question| match question["password"].as_str() {
        Some("right") => allowed(),
        _ => http("403 Forbidden", ""),
    });
    let broker = service.broker("remember = \"1h\"\nremember_refusals = \"1h\"");
    for _ in 0..3 {
        assert_eq!(answer(&broker, "u", "right"), ReasonCode::Success);
        assert_eq!(answer(&broker, "u", "wrong"), BAD);
    }
    assert_eq!(service.asked(), 2);
    assert_eq!(answer(&broker, "v", "right"), ReasonCode::Success);
    let other_id = Connect { client_id: "other", ..as_user(Version::V5, "u", "right") };
    assert_eq!(told(&broker, &other_id), ReasonCode::Success);
    assert_eq!(service.asked(), 4, "another name, another client id: another question");
    let forgetful = service.broker("remember = \"0s\"\nremember_refusals = \"0s\"");
    for _ in 0..2 {
        assert_eq!(answer(&forgetful, "u", "right"), ReasonCode::Success);
        assert_eq!(answer(&forgetful, "u", "wrong"), BAD);
    }
    assert_eq!(service.asked(), 8);
}

#[test]
fn https_is_asked_only_under_a_trusted_certificate() {
    static CONFIG: Mutex<Option<Arc<rustls::ServerConfig>>> = Mutex::new(None);
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    *CONFIG.lock().unwrap() = Some(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let service = Service::over(
        listener,
        |_| allowed(),
        |socket| {
            let config = CONFIG.lock().unwrap().clone()?;
            Some(rustls::StreamOwned::new(rustls::ServerConnection::new(config).ok()?, socket))
        },
    );
    let files = Files::new();
    let start = |ca: &str| {
        let url = format!("https://localhost:{}/auth?x=y", service.address.port());
        Broker::start(&format!("[access.http]\nurl = \"{url}\"\nca = \"{ca}\""))
    };
    let trusting = start(&files.write("ca.pem", &certified.cert.pem()));
    eventually("the service answers over TLS", SOON, || answer(&trusting, "u", "p") == ReasonCode::Success);
    let suspicious = start(&files.write("other.pem", &other.cert.pem()));
    assert_eq!(answer(&suspicious, "u", "p"), AWAY);
}
