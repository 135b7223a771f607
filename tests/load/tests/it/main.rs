//! The load tool against servers whose faults are known: what it counts must be what was done to it.
#![expect(clippy::unwrap_used, reason = "what a test does not expect fails it")]

#[path = "../../../ports.rs"]
mod ports;
mod scripted;

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use nsd_load::cli::{Counts, Role};
use nsd_load::connections::{self, Kind};
use nsd_load::mqtt::Identity;
use nsd_load::pattern::{self, Load, More, Pattern, Sides};
use nsd_load::relay;
use nsd_load::report::{Delivery, Report, Since};
use nsd_load::serve;
use nsd_load::target::Target;
use nsd_load::tls::{self, Trust};
use nsd_wire::{Qos, Version};
use scripted::{Broker, Faults};

fn target(address: SocketAddr) -> Target {
    Target::new(&address.to_string(), 1, false, None).unwrap()
}

fn identity(version: Version) -> Identity {
    Identity { version, user: None, password: None, run: "it".into() }
}

fn load(pattern: Pattern, qos: Qos, messages: u64) -> Load {
    Load {
        pattern,
        qos,
        size: 64,
        window: 10,
        rate: None,
        duration: Duration::from_secs(20),
        messages: Some(messages),
        more: More::default(),
    }
}

fn measured(broker: &Broker, load: &Load, version: Version) -> Report {
    pattern::measure(load, target(broker.address), identity(version), 2, &[std::process::id()]).unwrap()
}

#[test]
fn lost_and_repeated_messages_are_counted() {
    let broker = Broker::start(Faults { drop_every: Some(10), repeat_every: Some(7) });
    let pattern = Pattern::Everyone { publishers: 2, subscribers: 1 };
    let report = measured(&broker, &load(pattern, Qos::AtMostOnce, 1001), Version::V311);
    // Of 1..=1001: 100 are multiples of 10; 143 of 7, of which 14 are multiples of 70 and so were dropped.
    let wanted = Delivery {
        published: 1001,
        expected: 1001,
        delivered: 901,
        lost: 100,
        duplicates: 129,
        ..Delivery::default()
    };
    assert_eq!(report.delivery, Some(wanted), "{report}");
    assert_eq!(report.failures.count, 0);
    assert!(report.server.is_some_and(|server| server.rss_kib_after > 0));
}

#[test]
fn every_quality_of_service_in_both_versions_is_complete() {
    for version in [Version::V311, Version::V5] {
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let broker = Broker::start(Faults::default());
            let report = measured(&broker, &load(Pattern::Pairs(3), qos, 300), version);
            let wanted = Delivery { published: 300, expected: 300, delivered: 300, ..Delivery::default() };
            assert_eq!(report.delivery, Some(wanted), "{version:?} {qos:?}\n{report}");
        }
    }
}

#[test]
fn fan_out_expects_a_copy_for_each_subscriber() {
    let broker = Broker::start(Faults::default());
    let pattern = Pattern::Everyone { publishers: 1, subscribers: 7 };
    let report = measured(&broker, &load(pattern, Qos::AtLeastOnce, 50), Version::V311);
    let wanted = Delivery { published: 50, expected: 350, delivered: 350, ..Delivery::default() };
    assert_eq!(report.delivery, Some(wanted), "{report}");
}

#[test]
fn subscribers_may_be_elsewhere_and_keep_their_sessions() {
    let (here, elsewhere) = (Broker::start(Faults::default()), Broker::start(Faults::default()));
    let sides =
        |far: &Broker| Sides { publishers: target(here.address), subscribers: Some(target(far.address)) };
    let mut load = load(Pattern::Pairs(2), Qos::AtLeastOnce, 20);
    load.more.kept = true;
    for (far, delivered) in [(&here, 20), (&elsewhere, 0)] {
        let report = pattern::measure(&load, sides(far), identity(Version::V5), 1, &[]).unwrap();
        let delivery = report.delivery.unwrap();
        assert_eq!((delivery.published, delivery.delivered), (20, delivered), "{report}");
    }
}

#[test]
fn paced_messages_go_out_at_the_rate() {
    let broker = Broker::start(Faults::default());
    let mut load = load(Pattern::Pairs(4), Qos::AtMostOnce, 500);
    load.rate = Some(1000.0);
    let report = measured(&broker, &load, Version::V311);
    assert_eq!(report.delivery.unwrap().delivered, 500, "{report}");
    // The last one is due 499 ms after the first, and a busy machine is late.
    assert!(report.seconds >= 0.499, "{report}");
    assert_eq!(report.latency.unwrap().since, Since::Due);
}

#[test]
fn a_broker_that_is_not_there_is_one_error() {
    let free = ([127, 0, 0, 1], ports::port()).into();
    let load = load(Pattern::Pairs(2), Qos::AtMostOnce, 10);
    let error = pattern::measure(&load, target(free), identity(Version::V311), 1, &[]).unwrap_err();
    assert!(error.to_string().contains("of 4 clients could not connect"), "{error}");
}

/// Plays a role on a free port until the test is over.
fn server(role: Role) -> SocketAddr {
    let address = SocketAddr::from(([127, 0, 0, 1], ports::port()));
    std::thread::spawn(move || serve::serve(role, &[address], Duration::from_secs(30)).unwrap());
    while std::net::TcpStream::connect(address).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    address
}

#[test]
fn messages_come_back_from_an_echo() {
    for (window, rate, since) in
        [(16, None, Since::Queued), (1, None, Since::Asked), (1, Some(500.0), Since::Due)]
    {
        let duration = Duration::from_millis(300);
        let plan = relay::Messages { connections: 3, size: 64, window, rate, duration };
        let report = relay::messages(plan, target(server(Role::Echo)), 1, &[]).unwrap();
        let delivery = report.delivery.unwrap();
        assert!(delivery.published > 0 && delivery.lost == 0, "{report}");
        assert_eq!(report.latency.unwrap().since, since);
    }
}

#[test]
fn bulk_moves_what_was_asked_both_ways() {
    for (role, way) in [(Role::Sink, nsd_load::cli::Way::Up), (Role::Source, nsd_load::cli::Way::Down)] {
        let report = relay::bulk(2, 0.02, way, target(server(role)), 1, &[]).unwrap();
        assert!((report.count - 0.02).abs() < 1e-6, "{report}");
        assert_eq!(report.failures.count, 0, "{report}");
    }
}

#[test]
fn connections_are_made_and_counted() {
    let duration = Duration::from_millis(300);
    let target = target(server(Role::Connack));
    let report = connections::churn(4, duration, target, identity(Version::V5), 1, &[]).unwrap();
    assert!(report.count > 0.0 && report.failures.count == 0, "{report}");
}

#[test]
fn idle_connections_are_opened_in_two_steps() {
    let counts = Counts { few: 10, many: 40 };
    let pids = [std::process::id()];
    let target = target(server(Role::Echo));
    let report = connections::idle(counts, Kind::Raw, Duration::ZERO, target, 1, &pids).unwrap();
    assert!((report.count - 30.0).abs() < f64::EPSILON, "{report}");
    assert!(report.server.unwrap().rss_kib_each.is_some());
}

/// An echo behind TLS on a free port, and the PEM file of its self-signed certificate.
fn tls_echo() -> (SocketAddr, tempfile::NamedTempFile) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), made.cert.pem()).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let (mut read, mut write) = tokio::io::split(acceptor.accept(stream).await.unwrap());
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
    });
    (told.recv().unwrap(), file)
}

#[test]
fn tls_is_spoken_to_whom_is_trusted_and_to_nobody_else() {
    let (address, certificate) = tls_echo();
    let (_, other) = tls_echo();
    let run = |name: &str, trust: Trust<'_>| {
        let tls = tls::client(name, trust, true).unwrap();
        let target = Target::new(&address.to_string(), 1, false, Some(tls)).unwrap();
        let duration = Duration::from_millis(200);
        let plan = relay::Messages { connections: 2, size: 64, window: 4, rate: None, duration };
        relay::messages(plan, target, 1, &[])
    };
    for trust in [Trust::Anybody, Trust::Authority(certificate.path())] {
        let report = run("localhost", trust).unwrap();
        assert!(report.count > 0.0 && report.delivery.unwrap().lost == 0, "{report}");
        assert!(report.what.contains("TLS"));
    }
    assert!(run("localhost", Trust::Authority(other.path())).is_err(), "another authority");
    assert!(run("example.org", Trust::Authority(certificate.path())).is_err(), "another name");
}

#[test]
fn exit_codes_and_messages_of_the_program() {
    let run = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_nsd-load")).args(words).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = run(&["fan-in", "--target", "203.0.113.9:1883"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("--allow-remote"), "{text}");
    assert_eq!(run(&["fan-in", "--qos", "3"]).0, Some(64));
    assert_eq!(run(&["--help"]).0, Some(0));
    let (code, text) = run(&["pairs", "--tls", "--target", "127.0.0.1:1"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("--insecure"), "{text}");
}

#[test]
fn strict_runs_fail_when_something_is_lost() {
    let broker = Broker::start(Faults { drop_every: Some(5), repeat_every: None });
    let run = |strict: &[&str]| {
        let target = broker.address.to_string();
        let words = ["fan-in", "--messages", "100", "--json", "--target", &target];
        let output = Command::new(env!("CARGO_BIN_EXE_nsd-load")).args(words).args(strict).output().unwrap();
        let report: Report = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), report.delivery.unwrap().lost)
    };
    assert_eq!(run(&[]), (Some(0), 20));
    assert_eq!(run(&["--strict"]), (Some(1), 20));
}
