//! One client's protocol machine under a life that nobody leads: packets, answers, times and garbage in any order.
//!
//! Besides that nothing panics: after its end a session asks for nothing; every message that is to be answered is
//! answered once, not before it was stored, and routed once; never is more held than the limits say.

#![no_main]

mod life;
mod model;

use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use nsd_broker::access::scram::{ClientFirst, Record};
use nsd_broker::access::{Policy, TopicRule};
use nsd_broker::limits::Limits;
use nsd_broker::session::{Admitted, Ending, Resumed, Session};
use nsd_wire::packet::Sender;
use nsd_wire::{AckKind, Packet, ReadError, ReasonCode, read};

use life::{Life, Step};
use model::{Cause, Model};

/// Of the exchange in RFC 7677.
static RECORD: LazyLock<Record> =
    LazyLock::new(|| Record::derive(b"pencil", SALT, NonZeroU32::new(4096).expect("it is above 0")));
const SALT: &[u8] = b"\x5b\x6d\x99\x68\x9d\x12\x35\x8e\xec\xa0\x4b\x14\x12\x36\xfa\x81";
const NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";

fuzz_target!(|life: Life| {
    let limits = Limits {
        receive_maximum: u16::from(life.limits.receive_maximum % 8) + 1,
        subscriptions_per_client: usize::from(life.limits.subscriptions % 4) + 1,
        topic_aliases: u16::from(life.limits.aliases % 3),
        topic_levels: 4,
        packet_bytes: 2048,
        subscription_bytes: 64,
        messages_per_second: u32::from(life.limits.rate % 3),
        ..Limits::default()
    };
    let mut now = Instant::now();
    let mut session = Session::new(Arc::new(limits.clone()), now);
    let mut model = Model::new(limits);
    let mut bytes = Vec::new();
    for step in life.steps {
        match step {
            Step::Packet(packet) => {
                bytes.clear();
                // Not everything that is thought of can be written.
                if packet.write(session.version(), &mut bytes).is_ok() {
                    hear(&mut session, &mut model, &bytes, now);
                }
            }
            Step::Bytes(bytes) => hear(&mut session, &mut model, bytes, now),
            Step::Admit { .. } | Step::Refuse if !model.take_opening() => {}
            Step::Admit { device, resumed, shares } => {
                let rule = if device { TopicRule::SecondLevelIsDevice } else { TopicRule::Open };
                let policy = Policy { allow_anonymous: true, devices: device, topic_rule: rule };
                let grant = policy.grant(device.then_some("user"));
                let resumed = resumed.map(|resumed| {
                    let filters: Vec<_> = resumed.filters.iter().map(|filter| filter.text().into()).collect();
                    Resumed { filters, held: resumed.held.iter().map(|number| life::id(*number)).collect() }
                });
                let admitted = Admitted { grant, resumed, shares };
                model.admit(&admitted);
                model.carry_out(session.on_admitted(Ok(admitted), now), &Cause::Admitted);
            }
            Step::Challenge { known } => {
                let Some(first) = model.take_challenge() else { continue };
                let first = ClientFirst::parse(&first).ok().filter(|_| known);
                let outcome = first.map(|first| first.challenge(RECORD.clone(), NONCE));
                let effects = session.on_challenge(outcome.ok_or(ReasonCode::NotAuthorized));
                model.carry_out(effects, &Cause::Challenged);
            }
            Step::Refuse => {
                let effects = session.on_admitted(Err(ReasonCode::NotAuthorized), now);
                model.carry_out(effects, &Cause::Admitted);
            }
            Step::Stored { which, well } => {
                let Some(receipt) = model.take_receipt(which) else { continue };
                // The end of an exchange is answered as soon as it can be stored, never refused.
                let may_fail = matches!(receipt.kind, AckKind::PubAck | AckKind::PubRec);
                let reason = if well || !may_fail { ReasonCode::Success } else { ReasonCode::QuotaExceeded };
                model.carry_out(session.on_stored(receipt, reason), &Cause::Stored(receipt, reason));
            }
            Step::Wait { tenths } => {
                now += Duration::from_millis(100) * tenths.into();
                model.carry_out(session.on_tick(now), &Cause::Time);
            }
            Step::Excuse => session.excuse(now),
            Step::Lost => model.carry_out(session.on_end(Ending::Lost), &Cause::End),
            Step::SentAway => {
                let ending = Ending::SentAway(ReasonCode::SessionTakenOver);
                model.carry_out(session.on_end(ending), &Cause::End);
            }
        }
        model.check(&session);
    }
    model.carry_out(session.on_end(Ending::Lost), &Cause::End);
    model.check_end();
});

/// What a connection does with bytes: only as long as the session may read.
fn hear(session: &mut Session, model: &mut Model, bytes: &[u8], now: Instant) {
    let mut rest = bytes;
    while session.may_read() && session.rests_until(now).is_none() && !model.is_closed() {
        let version = session.version();
        let found = read(version, rest, session.max_packet());
        let checked = found.and_then(|found| match found {
            None => Ok(None),
            Some((packet, length)) => {
                packet.check_sender(Sender::Client, version).map_err(ReadError::Decode)?;
                Ok(Some((packet, length)))
            }
        });
        match checked {
            Ok(None) => return,
            Ok(Some((packet, length))) => {
                rest = &rest[length..];
                let cause = Cause::heard(&packet);
                if let Packet::Connect(connect) = packet {
                    model.hear_version(connect.version);
                }
                session.pay(&packet, length, now);
                model.carry_out(session.on_packet(&packet, now), &cause);
            }
            Err(error) => return model.carry_out(session.on_error(error), &Cause::Garbage),
        }
    }
}
