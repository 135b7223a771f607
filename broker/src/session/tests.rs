//! Every phase against every kind of packet, the rules that are easy to get wrong, and a storm of random input.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use nsd_wire::{Ack, Disconnect, Qos, Subscribe, SubscribeFilter, SubscribeOptions, Unsubscribe, Will};

use super::*;
use crate::access::{Grant, Policy, TopicRule};

pub(super) fn new(now: Instant) -> Session {
    Session::new(Arc::default(), now)
}

pub(super) fn open() -> Grant {
    Policy { allow_anonymous: true, devices: false, topic_rule: TopicRule::Open }.grant(None)
}

pub(super) fn admitted(grant: Grant) -> Admitted {
    Admitted { grant, resumed: None, shares: true }
}

pub(super) fn id(id: u16) -> nsd_wire::PacketId {
    nsd_wire::PacketId::new(id).unwrap()
}

fn publish(topic: &'static str, qos: Qos) -> Publish<'static> {
    let packet_id = (qos != Qos::AtMostOnce).then(|| id(7));
    Publish { qos, packet_id, ..Publish::new(topic, b"x") }
}

pub(super) fn names(effects: Effects<'_>) -> Vec<String> {
    effects
        .into_iter()
        .map(|effect| match effect {
            Effect::Admit(_) => "admit".to_owned(),
            Effect::Challenge(_) => "challenge".to_owned(),
            Effect::Route { topic, receipt, .. } => {
                format!("route {} {}", topic, receipt.map_or("-".to_owned(), |r| r.id.get().to_string()))
            }
            Effect::Subscribe(s) => {
                format!(
                    "subscribe {}",
                    s.wishes.iter().map(|w| format!("{:02x}", w.code as u8)).collect::<String>()
                )
            }
            Effect::Unsubscribe(u) => format!("unsubscribe {}", u.filters.join(",")),
            Effect::Settle { kind, .. } => format!("settle {kind:?}"),
            Effect::Send(Reply::Ack { kind, reason, .. }) => format!("{kind:?} {:02x}", reason as u8),
            Effect::Send(Reply::Disconnect(reason)) => format!("disconnect {:02x}", reason as u8),
            Effect::Send(Reply::Refused { reason, .. }) => format!("refused {:02x}", reason as u8),
            Effect::Send(Reply::Accepted { .. }) => "accepted".to_owned(),
            Effect::Send(reply) => format!("{reply:?}"),
            Effect::Release(receipt) => format!("release {}", receipt.id.get()),
            Effect::Leave { keep_will: true, .. } => "leave with will".to_owned(),
            Effect::Leave { keep_will: false, expiry: None, .. } => "leave".to_owned(),
            Effect::Leave { expiry: Some(seconds), .. } => format!("leave for {seconds}"),
            Effect::Close => "close".to_owned(),
        })
        .collect()
}

pub(super) fn connect(version: Version) -> Connect<'static> {
    let will = Some(Will::new("will", b"gone"));
    Connect { will, ..Connect::new(version, "c1") }
}

fn connected(version: Version, grant: Grant, now: Instant) -> Session {
    let mut session = new(now);
    assert_eq!(names(session.on_packet(&Packet::Connect(connect(version)), now)), ["admit"]);
    assert!(!session.may_read());
    assert_eq!(names(session.on_admitted(Ok(admitted(grant)), now)), ["accepted"]);
    session
}

#[test]
fn before_a_connect_nothing_else_is_taken() {
    let now = Instant::now();
    for packet in [Packet::PingReq, Packet::Publish(publish("a", Qos::AtMostOnce))] {
        assert_eq!(names(new(now).on_packet(&packet, now)), ["close"]);
    }
    let mut session = new(now);
    assert!(names(session.on_tick(now + Limits::default().connect_deadline / 2)).is_empty());
    assert_eq!(names(session.on_tick(now + Limits::default().connect_deadline)), ["close"]);
}

#[test]
fn a_refusal_is_told_and_closes() {
    let now = Instant::now();
    let mut session = new(now);
    session.on_packet(&Packet::Connect(connect(Version::V5)), now);
    assert_eq!(
        names(session.on_admitted(Err(ReasonCode::BadUserNameOrPassword), now)),
        ["refused 86", "close"]
    );
    assert!(names(session.on_end(Ending::Lost)).is_empty());
}

#[test]
fn who_takes_no_answer_is_not_let_in() {
    let now = Instant::now();
    let (refused, named, unnamed) = (vec!["refused 83", "close"], "c1", "");
    for (name, takes, expected) in [
        (named, 4, vec!["close"]),
        (named, 5, refused.clone()),
        (named, CONNACK - 1, refused.clone()),
        (named, CONNACK, vec!["admit"]),
        (unnamed, CONNACK + ASSIGNED_ID - 1, refused),
        (unnamed, CONNACK + ASSIGNED_ID, vec!["admit"]),
    ] {
        let mut connect = Connect::new(Version::V5, name);
        connect.properties.maximum_packet_size = u32::try_from(takes).ok().and_then(NonZeroU32::new);
        assert_eq!(names(new(now).on_packet(&Packet::Connect(connect), now)), expected, "{name:?} {takes}");
    }
}

#[test]
fn every_packet_of_a_connected_client() {
    let now = Instant::now();
    let filters = [SubscribeFilter { filter: "a/+", options: SubscribeOptions::default() }];
    for (packet, v3, v5) in [
        (Packet::PingReq, vec!["PingResp"], vec!["PingResp"]),
        (Packet::Publish(publish("a", Qos::AtMostOnce)), vec!["route a -"], vec!["route a -"]),
        (Packet::Publish(publish("a", Qos::AtLeastOnce)), vec!["route a 7"], vec!["route a 7"]),
        (Packet::Publish(publish("a", Qos::ExactlyOnce)), vec!["route a 7"], vec!["route a 7"]),
        (
            Packet::Publish(publish("$SYS/a", Qos::AtLeastOnce)),
            vec!["leave with will", "close"],
            vec!["PubAck 87"],
        ),
        (
            Packet::Publish(publish("$SYS/a", Qos::AtMostOnce)),
            vec!["leave with will", "close"],
            vec!["disconnect 87", "leave with will", "close"],
        ),
        (Packet::PubAck(Ack::new(id(1))), vec!["settle PubAck"], vec!["settle PubAck"]),
        (Packet::PubRec(Ack::new(id(1))), vec!["settle PubRec"], vec!["settle PubRec"]),
        (Packet::PubComp(Ack::new(id(1))), vec!["settle PubComp"], vec!["settle PubComp"]),
        (Packet::PubRel(Ack::new(id(1))), vec!["PubComp 92"], vec!["PubComp 92"]),
        (Packet::Subscribe(Subscribe::new(id(1), &filters)), vec!["subscribe 00"], vec!["subscribe 00"]),
        (Packet::Unsubscribe(Unsubscribe::new(id(1), &["a/+"])), vec!["unsubscribe "], vec!["unsubscribe "]),
        (
            Packet::Disconnect(Disconnect::new(ReasonCode::Success)),
            vec!["leave", "close"],
            vec!["leave", "close"],
        ),
        (
            Packet::Disconnect(Disconnect::new(ReasonCode::DisconnectWithWill)),
            vec!["leave with will", "close"],
            vec!["leave with will", "close"],
        ),
        (
            Packet::Disconnect(Disconnect::new(ReasonCode::ImplementationSpecificError)),
            vec!["leave with will", "close"],
            vec!["leave with will", "close"],
        ),
        (
            Packet::Connect(connect(Version::V5)),
            vec!["leave with will", "close"],
            vec!["disconnect 82", "leave with will", "close"],
        ),
        (
            Packet::PingResp,
            vec!["leave with will", "close"],
            vec!["disconnect 82", "leave with will", "close"],
        ),
    ] {
        for (version, expected) in [(Version::V31, &v3), (Version::V311, &v3), (Version::V5, &v5)] {
            let mut session = connected(version, open(), now);
            assert_eq!(&names(session.on_packet(&packet, now)), expected, "{packet:?} in {version:?}");
        }
    }
}

#[test]
fn the_end_of_a_connection_decides_about_the_will() {
    let now = Instant::now();
    let lost = |session: &mut Session| names(session.on_end(Ending::Lost));
    assert_eq!(lost(&mut connected(Version::V311, open(), now)), ["leave with will", "close"]);
    let mut session = connected(Version::V5, open(), now);
    let taken = Ending::SentAway(ReasonCode::SessionTakenOver);
    assert_eq!(names(session.on_end(taken)), ["disconnect 8e", "leave with will", "close"]);
    assert!(lost(&mut session).is_empty());
    let mut session = connected(Version::V5, open(), now);
    assert!(names(session.on_tick(now + Duration::from_secs(89))).is_empty());
    assert_eq!(
        names(session.on_tick(now + Duration::from_secs(90))),
        ["disconnect 8d", "leave with will", "close"]
    );
}

#[test]
fn a_session_that_goes_on_knows_what_the_client_has() {
    let now = Instant::now();
    let mut session = new(now);
    let mut connect = connect(Version::V5);
    connect.properties.session_expiry = Some(60);
    session.on_packet(&Packet::Connect(connect), now);
    let resumed = Resumed { filters: vec!["a".into()], held: vec![id(7)] };
    let admitted = Admitted { resumed: Some(resumed), ..admitted(open()) };
    assert_eq!(names(session.on_admitted(Ok(admitted), now)), ["accepted"]);
    let again = Packet::Publish(publish("a", Qos::ExactlyOnce));
    assert_eq!(names(session.on_packet(&again, now)), ["PubRec 00"], "it was stored before");
    assert_eq!(names(session.on_packet(&Packet::PubRel(Ack::new(id(7))), now)), ["release 7"]);
    let unsubscribe = Packet::Unsubscribe(Unsubscribe::new(id(1), &["a"]));
    assert_eq!(names(session.on_packet(&unsubscribe, now)), ["unsubscribe a"]);
    let mut goodbye = Disconnect::new(ReasonCode::Success);
    goodbye.properties.session_expiry = Some(5);
    assert_eq!(names(session.on_packet(&Packet::Disconnect(goodbye), now)), ["leave for 5", "close"]);
}

#[test]
fn a_session_that_was_to_end_cannot_be_kept_after_all() {
    let now = Instant::now();
    let mut session = connected(Version::V5, open(), now);
    let mut goodbye = Disconnect::new(ReasonCode::Success);
    goodbye.properties.session_expiry = Some(5);
    let effects = names(session.on_packet(&Packet::Disconnect(goodbye), now));
    assert_eq!(effects, ["disconnect 82", "leave with will", "close"]);
}

#[test]
fn a_client_gets_no_more_than_its_limits() {
    let now = Instant::now();
    let limits = Limits {
        session_expiry: Duration::from_secs(60),
        send_window: 5,
        topic_aliases: 3,
        ..Limits::default()
    };
    let mut session = Session::new(Arc::new(limits.clone()), now);
    let mut wish = connect(Version::V5);
    wish.properties.session_expiry = Some(3600);
    wish.properties.receive_maximum = NonZeroU16::new(100);
    wish.properties.topic_alias_maximum = Some(2);
    let Some(Effect::Admit(opening)) = session.on_packet(&Packet::Connect(wish), now).into_iter().next()
    else {
        panic!("it is decided about")
    };
    assert_eq!((opening.expiry, opening.receive_maximum, opening.topic_aliases), (60, 5, 2));
    let answer = session.on_admitted(Ok(admitted(open())), now).into_iter().next();
    let Some(Effect::Send(Reply::Accepted { expiry, limits: told, .. })) = answer else { panic!("accepted") };
    assert_eq!((expiry, &*told), (Some(60), &limits));
    let mut goodbye = Disconnect::new(ReasonCode::Success);
    goodbye.properties.session_expiry = Some(600);
    assert_eq!(names(session.on_packet(&Packet::Disconnect(goodbye), now)), ["leave for 60", "close"]);
}

#[test]
fn a_longer_silence_than_the_limit_is_not_granted_which_only_v5_can_be_told() {
    let now = Instant::now();
    let limits = Arc::new(Limits { keep_alive: 30, ..Limits::default() });
    for (version, asked, told, silence) in [
        (Version::V5, 60, Some(30), 45),
        (Version::V5, 0, Some(30), 45),
        (Version::V5, 20, None, 30),
        (Version::V311, 60, None, 45),
        (Version::V311, 0, None, 45),
        (Version::V31, 20, None, 30),
    ] {
        let mut session = Session::new(Arc::clone(&limits), now);
        let connect = Connect { keep_alive: asked, ..connect(version) };
        session.on_packet(&Packet::Connect(connect), now);
        let mut effects = session.on_admitted(Ok(admitted(open())), now).into_iter();
        let Some(Effect::Send(Reply::Accepted { keep_alive, .. })) = effects.next() else {
            panic!("accepted")
        };
        assert_eq!(keep_alive, told, "{version:?} {asked}");
        assert_eq!(session.deadline(), Some(now + Duration::from_secs(silence)), "{version:?} {asked}");
    }
}

#[test]
fn exactly_once_is_routed_once() {
    let now = Instant::now();
    let mut session = connected(Version::V311, open(), now);
    let message = Packet::Publish(publish("a", Qos::ExactlyOnce));
    let release = Packet::PubRel(Ack::new(id(7)));
    let receipt = Receipt { id: id(7), kind: AckKind::PubRec };
    assert_eq!(names(session.on_packet(&message, now)), ["route a 7"]);
    assert!(names(session.on_packet(&message, now)).is_empty(), "sent again while it is being stored");
    assert_eq!(names(session.on_stored(receipt, ReasonCode::Success)), ["PubRec 00"]);
    assert_eq!(names(session.on_packet(&message, now)), ["PubRec 00"], "only the PUBREC was lost");
    assert_eq!(names(session.on_packet(&release, now)), ["release 7"]);
    let released = Receipt { kind: AckKind::PubComp, ..receipt };
    assert_eq!(names(session.on_stored(released, ReasonCode::Success)), ["PubComp 00"]);
    assert_eq!(names(session.on_packet(&message, now)), ["route a 7"], "the identifier is free again");
}

#[test]
fn exactly_once_is_not_complete_before_it_is_stored() {
    let now = Instant::now();
    for version in [Version::V311, Version::V5] {
        let mut session = connected(version, open(), now);
        let message = Packet::Publish(publish("a", Qos::ExactlyOnce));
        let release = Packet::PubRel(Ack::new(id(7)));
        let receipt = Receipt { id: id(7), kind: AckKind::PubRec };
        assert_eq!(names(session.on_packet(&message, now)), ["route a 7"]);
        assert!(names(session.on_packet(&release, now)).is_empty(), "nothing was received yet");
        assert!(names(session.on_packet(&message, now)).is_empty(), "still the same message");
        assert_eq!(names(session.on_stored(receipt, ReasonCode::Success)), ["PubRec 00"]);
        assert_eq!(names(session.on_packet(&release, now)), ["release 7"]);
    }
}

#[test]
fn what_cannot_be_stored_is_not_acknowledged() {
    let now = Instant::now();
    let receipt = Receipt { id: id(7), kind: AckKind::PubAck };
    for (version, expected) in
        [(Version::V5, vec!["PubAck 80"]), (Version::V311, vec!["leave with will", "close"])]
    {
        let mut session = connected(version, open(), now);
        session.on_packet(&Packet::Publish(publish("a", Qos::AtLeastOnce)), now);
        assert_eq!(names(session.on_stored(receipt, ReasonCode::UnspecifiedError)), expected);
    }
}

#[test]
fn aliases_are_learnt_and_checked() {
    let now = Instant::now();
    let with = |topic, alias| {
        let mut publish = publish(topic, Qos::AtMostOnce);
        publish.properties.topic_alias = NonZeroU16::new(alias);
        Packet::Publish(publish)
    };
    let mut session = connected(Version::V5, open(), now);
    assert_eq!(names(session.on_packet(&with("long/topic", 3), now)), ["route long/topic -"]);
    assert_eq!(names(session.on_packet(&with("", 3), now)), ["route long/topic -"]);
    assert_eq!(names(session.on_packet(&with("", 2), now))[0], "disconnect 82");
    let mut session = connected(Version::V5, open(), now);
    assert_eq!(
        names(session.on_packet(&with("a", Limits::default().topic_aliases + 1), now))[0],
        "disconnect 94"
    );
}

#[test]
fn too_many_at_once_is_an_error_in_v5_and_a_pause_before() {
    let now = Instant::now();
    let mut v3 = connected(Version::V311, open(), now);
    let mut v5 = connected(Version::V5, open(), now);
    let message = Packet::Publish(publish("a", Qos::AtLeastOnce));
    for _ in 0..Limits::default().receive_maximum {
        v3.on_packet(&message, now);
        v5.on_packet(&message, now);
    }
    assert!(!v3.may_read());
    assert_eq!(names(v5.on_packet(&message, now))[0], "disconnect 93");
    v3.on_stored(Receipt { id: id(7), kind: AckKind::PubAck }, ReasonCode::Success);
    assert!(v3.may_read());
}

#[test]
fn only_what_is_not_safe_yet_stops_reading() {
    let now = Instant::now();
    for version in [Version::V311, Version::V5] {
        let mut session = connected(version, open(), now);
        for number in 1..=Limits::default().receive_maximum {
            assert!(session.may_read());
            let publish = Publish { packet_id: Some(id(number)), ..publish("t", Qos::ExactlyOnce) };
            assert!(!session.on_packet(&Packet::Publish(publish), now).is_empty());
        }
        assert!(!session.may_read(), "none of them is safe");
        for number in 1..=Limits::default().receive_maximum {
            let receipt = Receipt { id: id(number), kind: AckKind::PubRec };
            drop(session.on_stored(receipt, ReasonCode::Success));
        }
        assert!(session.may_read(), "their PUBRELs must be heard");
    }
}

#[test]
fn who_is_not_listened_to_is_not_silent() {
    let now = Instant::now();
    let mut session = connected(Version::V5, open(), now);
    let Some(deadline) = session.deadline() else { panic!("a keep alive") };
    session.excuse(deadline);
    assert!(session.on_tick(deadline).is_empty());
    assert!(!session.on_tick(deadline + (deadline - now)).is_empty());
}

#[test]
fn random_input_never_panics_and_never_speaks_after_its_end() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut now = Instant::now();
        let mut session = new(now);
        let mut over = false;
        for _ in 0..200 {
            now += Duration::from_millis(random.u64(..20_000));
            let filters = [SubscribeFilter {
                filter: ["#", "a/b", "$share/g/a", "$SYS/#"][random.usize(..4)],
                options: SubscribeOptions::default(),
            }];
            let qos = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][random.usize(..3)];
            let ack = Ack::new(id(random.u16(1..9)));
            let topic = ["a", "a/b", "$SYS/x", ""][random.usize(..4)];
            let mut message = Publish {
                packet_id: (qos != Qos::AtMostOnce).then_some(ack.packet_id),
                ..publish(topic, qos)
            };
            message.properties.topic_alias =
                NonZeroU16::new(random.u16(..70)).filter(|_| topic.is_empty() || random.bool());
            let version = Version::ALL[random.usize(..3)];
            let reasons =
                [ReasonCode::Success, ReasonCode::ContinueAuthentication, ReasonCode::ReAuthenticate];
            let reason = reasons[random.usize(..3)];
            let kinds = [AckKind::PubAck, AckKind::PubRec, AckKind::PubRel, AckKind::PubComp];
            let receipt = Receipt { id: ack.packet_id, kind: kinds[random.usize(..4)] };
            let by_scram = authenticating::tests::authentication(
                [b"n,,n=u,r=x", &b"c=biws,r=xy,p="[..]][random.usize(..2)],
            );
            let mut auth = nsd_wire::Auth { reason, ..nsd_wire::Auth::default() };
            auth.properties.authentication = Some(by_scram).filter(|_| random.u8(..8) > 0);
            let mut proving = connect(Version::V5);
            proving.properties.authentication = Some(by_scram);
            let effects = match random.u8(..20) {
                0..=2 => names(session.on_packet(&Packet::Connect(connect(version)), now)),
                3 => names(session.on_admitted(Ok(admitted(open())), now)),
                4 => names(session.on_admitted(Err(ReasonCode::ServerBusy), now)),
                5 => names(session.on_stored(receipt, ReasonCode::Success)),
                6 => names(session.on_stored(receipt, ReasonCode::QuotaExceeded)),
                7 => names(session.on_tick(now)),
                8 => names(session.on_error(ReadError::Decode(DecodeError::Malformed("random")))),
                9 if random.u8(..8) == 0 => names(session.on_end(Ending::Lost)),
                10 => {
                    names(session.on_packet(&Packet::Subscribe(Subscribe::new(ack.packet_id, &filters)), now))
                }
                11 => names(
                    session.on_packet(&Packet::Unsubscribe(Unsubscribe::new(ack.packet_id, &["#"])), now),
                ),
                12 => names(session.on_packet(&Packet::PubRel(ack), now)),
                13 => names(session.on_packet(&Packet::PubRec(ack), now)),
                14 => names(session.on_packet(&Packet::Connect(proving), now)),
                15 => names(session.on_packet(&Packet::Auth(auth), now)),
                16 => names(session.on_challenge(Ok(authenticating::tests::exchange("user")))),
                17 => names(session.on_challenge(Err(reason))),
                _ => names(session.on_packet(&Packet::Publish(message), now)),
            };
            let speaks = effects.iter().any(|effect| effect != "close");
            assert!(!over || !speaks, "after its end: {effects:?} (seed {seed})");
            over |= effects.last().is_some_and(|effect| effect == "close");
            let left = effects.iter().filter(|effect| effect.starts_with("leave")).count();
            assert!(left <= 1 && (left == 0 || over), "{effects:?} (seed {seed})");
        }
    }
}

/// Beside `connection`'s sizes.
#[test]
fn an_idle_client_is_small_here_too() {
    assert!(size_of::<Connected>() <= 120);
}
