//! Nanoseconds for one PUBLISH, ours beside mqttbytes: `cargo bench -p nsd-wire`. The best of many rounds, the two
//! sides in turn, so that a busy machine disturbs both alike.
#![expect(clippy::print_stdout, reason = "the numbers are what it is run for")]
#![expect(clippy::unwrap_used, reason = "a bench that cannot write its packets has nothing to measure")]

use std::{hint::black_box, time::Instant};

use bytes::{Bytes, BytesMut};
use mqttbytes::{QoS, v4, v5};
use nsd_wire::*;

const TOPIC: &str = "building/7/floor/3/device/a1b2c3d4/temperature";
const PER_ROUND: u32 = 20_000;
const ROUNDS: u32 = 60;

fn main() {
    println!("{:44} {:>9} {:>10} {:>6}", "PUBLISH of 46 bytes of topic", "ours, ns", "theirs, ns", "ratio");
    for size in [64, 1024] {
        decode(Version::V311, size);
        decode(Version::V5, size);
        encode(Version::V311, size);
        encode(Version::V5, size);
        deliver(Version::V311, size);
        deliver(Version::V5, size);
    }
}

/// With an expiry and a user property in v5.
fn message(version: Version, payload: &[u8]) -> Publish<'_> {
    let mut publish = Publish::new(TOPIC, payload);
    publish.qos = Qos::AtLeastOnce;
    publish.packet_id = PacketId::new(77);
    if version.is_v5() {
        publish.properties.message_expiry = Some(3600);
        publish.properties.user = UserProperties::from_pairs(&[("unit", "celsius")]);
    }
    publish
}

fn decode(version: Version, size: usize) {
    let payload = vec![b'x'; size];
    let mut bytes = Vec::new();
    message(version, &payload).encode(version, &mut bytes).unwrap();
    let shared = Bytes::from(bytes.clone());
    let ours = || {
        let (packet, _) = read(version, black_box(&bytes), usize::MAX).unwrap().unwrap();
        black_box(&packet);
    };
    let theirs = || {
        // The header is read as its `read` does; taking the packet out of a stream is left out of both.
        let header = mqttbytes::check(black_box(&shared).iter(), usize::MAX).unwrap();
        if version.is_v5() {
            black_box(v5::Publish::read(header, shared.clone()).unwrap());
        } else {
            black_box(v4::Publish::read(header, shared.clone()).unwrap());
        }
    };
    report("decode", version, size, ours, theirs);
}

fn encode(version: Version, size: usize) {
    let payload = vec![b'x'; size];
    let publish = message(version, &payload);
    let mut out = Vec::with_capacity(2 * size + 256);
    let ours = || {
        out.clear();
        black_box(&publish).encode(version, &mut out).unwrap();
        black_box(&out);
    };
    report("encode", version, size, ours, their_encode(version, payload.clone()));
}

fn deliver(version: Version, size: usize) {
    let payload = vec![b'x'; size];
    let template = Template::new(&message(version, &payload)).unwrap();
    let delivery = Delivery { qos: Qos::AtLeastOnce, packet_id: PacketId::new(77), ..Delivery::default() };
    let mut out = Vec::with_capacity(2 * size + 256);
    let ours = || {
        out.clear();
        black_box(&template).write(version, black_box(&delivery), &mut out).unwrap();
        black_box(&out);
    };
    report(
        "encode one more receiver (theirs: again)",
        version,
        size,
        ours,
        their_encode(version, payload.clone()),
    );
}

fn their_encode(version: Version, payload: Vec<u8>) -> impl FnMut() {
    let mut v4 = v4::Publish::new(TOPIC, QoS::AtLeastOnce, payload.clone());
    v4.pkid = 77;
    let mut out = BytesMut::with_capacity(2 * payload.len() + 256);
    let mut v5 = v5::Publish::new(TOPIC, QoS::AtLeastOnce, payload);
    v5.pkid = 77;
    v5.properties = Some(v5::PublishProperties {
        payload_format_indicator: None,
        message_expiry_interval: Some(3600),
        topic_alias: None,
        response_topic: None,
        correlation_data: None,
        user_properties: vec![("unit".to_owned(), "celsius".to_owned())],
        subscription_identifiers: Vec::new(),
        content_type: None,
    });
    move || {
        out.clear();
        if version.is_v5() {
            black_box(&v5).write(&mut out).unwrap();
        } else {
            black_box(&v4).write(&mut out).unwrap();
        }
        black_box(&out);
    }
}

fn report(what: &str, version: Version, size: usize, mut ours: impl FnMut(), mut theirs: impl FnMut()) {
    let (mut best_ours, mut best_theirs) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        best_ours = best_ours.min(round(&mut ours));
        best_theirs = best_theirs.min(round(&mut theirs));
    }
    let name = format!("{version:?} {size} B {what}");
    println!("{name:44} {best_ours:>9.1} {best_theirs:>10.1} {:>6.2}", best_theirs / best_ours);
}

fn round(run: &mut impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..PER_ROUND {
        run();
    }
    start.elapsed().as_nanos() as f64 / f64::from(PER_ROUND)
}
