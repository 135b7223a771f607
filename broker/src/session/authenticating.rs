//! Enhanced authentication (section 4.12 of v5) with SCRAM-SHA-256: before a client is let in, and again while it is
//! connected. The door brings the challenge; everything else is decided here.

use std::time::Instant;

use nsd_wire::{Auth, Packet, ReasonCode, Version};

use super::connected::{Connected, Done};
use super::effect::{Effect, Effects, Opening, Reply};
use super::{Accepting, Phase, Session};
use crate::access::scram::{Exchange, METHOD};
use crate::limits::Limits;

/// A client that has to prove itself before it is let in.
#[derive(Debug)]
pub(super) struct Proving {
    pub(super) opening: Box<Opening>,
    pub(super) accepting: Box<Accepting>,
    /// The CONNECT's: who takes its time with proofs holds a socket, too.
    pub(super) deadline: Instant,
}

/// A connected client that proves itself again. Meanwhile it is who it was.
#[derive(Debug, Default)]
pub(super) enum Again {
    #[default]
    No,
    AwaitingChallenge {
        deadline: Instant,
    },
    AwaitingProof {
        deadline: Instant,
        exchange: Box<Exchange>,
    },
}

impl Again {
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::No => None,
            Self::AwaitingChallenge { deadline } | Self::AwaitingProof { deadline, .. } => Some(*deadline),
        }
    }
}

impl Session {
    /// The answer to `Effect::Challenge`.
    pub fn on_challenge(&mut self, outcome: Result<Exchange, ReasonCode>) -> Effects<'static> {
        match std::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::AwaitingChallenge(proving) => match outcome {
                Ok(exchange) => {
                    let effects = challenge(&exchange);
                    self.phase = Phase::AwaitingProof(proving, Box::new(exchange));
                    effects
                }
                Err(reason) => refused(reason),
            },
            Phase::Connected(mut client) => {
                let answered = client.on_challenge(outcome);
                self.phase = Phase::Connected(client);
                answered.unwrap_or_else(|reason| self.leave(true, None, Some(reason)))
            }
            other => {
                self.phase = other;
                Effects::none()
            }
        }
    }

    /// What comes while the proof is awaited.
    pub(super) fn on_proof(&mut self, packet: &Packet<'_>) -> Effects<'static> {
        let Phase::AwaitingProof(proving, exchange) = std::mem::replace(&mut self.phase, Phase::Closed)
        else {
            return Effects::none();
        };
        let auth = match packet {
            Packet::Auth(auth) if auth.reason == ReasonCode::ContinueAuthentication => auth,
            Packet::Disconnect(_) => return Effects::one(Effect::Close),
            // Nothing else before the CONNACK [MQTT-3.1.2-30].
            _ => return refused(ReasonCode::ProtocolError),
        };
        let Some(message) = message_of(auth) else { return refused(ReasonCode::ProtocolError) };
        let Ok(proof) = exchange.finish(message) else { return refused(ReasonCode::NotAuthorized) };
        let Proving { mut opening, mut accepting, .. } = *proving;
        opening.proven = Some(exchange.user().into());
        accepting.authentication = Some(proof.into());
        self.phase = Phase::AwaitingAdmission(accepting);
        Effects::one(Effect::Admit(opening))
    }
}

impl Connected {
    /// AUTH of a connected client: it must have proven itself the same way before [MQTT-4.12.1-1].
    pub(super) fn on_auth(
        &mut self,
        auth: &Auth<'_>,
        limits: &Limits,
        now: Instant,
    ) -> Result<Effects<'static>, Done> {
        let wrong = Err(Done::Wrong(ReasonCode::ProtocolError));
        let Some(message) = message_of(auth).filter(|_| self.proven) else { return wrong };
        match (auth.reason, std::mem::take(&mut self.seldom.again)) {
            (ReasonCode::ReAuthenticate, Again::No) => {
                self.seldom.again = Again::AwaitingChallenge { deadline: now + limits.connect_deadline };
                Ok(Effects::one(Effect::Challenge(message.into())))
            }
            (ReasonCode::ContinueAuthentication, Again::AwaitingProof { exchange, .. }) => {
                match exchange.finish(message) {
                    // Nobody becomes somebody else by it.
                    Ok(proof) if Some(exchange.user()) == self.grant.device() => {
                        let reply = Reply::Auth { reason: ReasonCode::Success, data: proof.into() };
                        Ok(Effects::one(Effect::Send(reply)))
                    }
                    _ => Err(Done::Wrong(ReasonCode::NotAuthorized)),
                }
            }
            _ => wrong,
        }
    }

    fn on_challenge(
        &mut self,
        outcome: Result<Exchange, ReasonCode>,
    ) -> Result<Effects<'static>, ReasonCode> {
        let Again::AwaitingChallenge { deadline } = std::mem::take(&mut self.seldom.again) else {
            return Ok(Effects::none());
        };
        match outcome {
            Ok(exchange) => {
                let effects = challenge(&exchange);
                self.seldom.again = Again::AwaitingProof { deadline, exchange: Box::new(exchange) };
                Ok(effects)
            }
            // A DISCONNECT has no word for "unavailable".
            Err(ReasonCode::ServerUnavailable) => Err(ReasonCode::ServerBusy),
            Err(_) => Err(ReasonCode::NotAuthorized),
        }
    }
}

fn challenge(exchange: &Exchange) -> Effects<'static> {
    let data = exchange.message().into();
    Effects::one(Effect::Send(Reply::Auth { reason: ReasonCode::ContinueAuthentication, data }))
}

/// The data, if it is of the one method that there is: it may not change within a connection [MQTT-4.12.0-5].
fn message_of<'p>(auth: &Auth<'p>) -> Option<&'p [u8]> {
    let given = auth.properties.authentication.filter(|given| given.method == METHOD)?;
    Some(given.data.unwrap_or_default())
}

fn refused(reason: ReasonCode) -> Effects<'static> {
    Effects::one(Effect::Send(Reply::Refused { version: Version::V5, reason })).and(Effect::Close)
}

#[cfg(test)]
pub(super) mod tests {
    use std::num::NonZeroU32;
    use std::sync::LazyLock;
    use std::time::Duration;

    use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
    use nsd_wire::{Authentication, Connect, Disconnect, Publish, Version};

    use super::super::tests::{admitted, connect, names, new, open};
    use super::*;
    use crate::access::scram::{ClientFirst, Record};
    use crate::access::{Grant, Policy, TopicRule};

    /// The exchange of RFC 7677, section 3.
    const FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const PROOF: &[u8] = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                           p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const DEADLINE: Duration = Duration::from_secs(10);

    pub(crate) fn authentication(data: &[u8]) -> Authentication<'_> {
        Authentication { method: METHOD, data: Some(data) }
    }

    pub(crate) fn exchange(user: &str) -> Exchange {
        static RECORD: LazyLock<Record> = LazyLock::new(|| {
            let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
            Record::derive(b"pencil", &salt, NonZeroU32::new(4096).unwrap())
        });
        let first = format!("n,,n={user},r=rOprNGfwEbeRWgbNEkqO");
        ClientFirst::parse(first.as_bytes())
            .unwrap()
            .challenge(RECORD.clone(), "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    }

    fn proving() -> Packet<'static> {
        let mut connect = connect(Version::V5);
        connect.properties.authentication = Some(authentication(FIRST));
        Packet::Connect(connect)
    }

    fn auth(reason: ReasonCode, data: &[u8]) -> Packet<'_> {
        let mut auth = Auth { reason, ..Auth::default() };
        auth.properties.authentication = Some(authentication(data));
        Packet::Auth(auth)
    }

    fn proof() -> Packet<'static> {
        auth(ReasonCode::ContinueAuthentication, PROOF)
    }

    fn grant(user: &str) -> Grant {
        Policy { allow_anonymous: false, devices: true, topic_rule: TopicRule::Open }.grant(Some(user))
    }

    /// A session that waits for its client's proof.
    fn challenged(now: Instant) -> Session {
        let mut session = new(now);
        assert_eq!(names(session.on_packet(&proving(), now)), ["challenge"]);
        assert!(!session.may_read());
        let effects = names(session.on_challenge(Ok(exchange("user"))));
        assert!(
            effects[0].starts_with("Auth { reason: ContinueAuthentication, data: \"r=rOpr"),
            "{effects:?}"
        );
        assert!(session.may_read());
        session
    }

    fn proven(now: Instant) -> Session {
        let mut session = challenged(now);
        let opening = match session.on_packet(&proof(), now).into_iter().next() {
            Some(Effect::Admit(opening)) => opening,
            other => panic!("{other:?}"),
        };
        assert_eq!(opening.proven.as_deref(), Some("user"));
        match session.on_admitted(Ok(admitted(grant("user"))), now).into_iter().next() {
            Some(Effect::Send(Reply::Accepted { authentication: Some(proof), .. })) => {
                assert_eq!(&*proof, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
            }
            other => panic!("{other:?}"),
        }
        session
    }

    #[test]
    fn who_proves_itself_is_let_in_and_hears_our_proof() {
        proven(Instant::now());
    }

    #[test]
    fn another_method_is_refused() {
        let mut connect = connect(Version::V5);
        connect.properties.authentication = Some(Authentication { method: "SCRAM-SHA-1", data: None });
        let now = Instant::now();
        assert_eq!(names(new(now).on_packet(&Packet::Connect(connect), now)), ["refused 8c", "close"]);
    }

    #[test]
    fn what_may_come_while_the_proof_is_awaited() {
        let now = Instant::now();
        let mut other = Auth { reason: ReasonCode::ContinueAuthentication, ..Auth::default() };
        other.properties.authentication = Some(Authentication { method: "X", data: Some(PROOF) });
        for (packet, expected) in [
            (proof(), vec!["admit"]),
            (auth(ReasonCode::ContinueAuthentication, b"c=biws"), vec!["refused 87", "close"]),
            (auth(ReasonCode::ReAuthenticate, PROOF), vec!["refused 82", "close"]),
            (auth(ReasonCode::Success, PROOF), vec!["refused 82", "close"]),
            (Packet::Auth(Auth::default()), vec!["refused 82", "close"]),
            (Packet::Auth(other), vec!["refused 82", "close"]),
            (Packet::PingReq, vec!["refused 82", "close"]),
            (Packet::Publish(Publish::new("a", b"x")), vec!["refused 82", "close"]),
            (Packet::Connect(Connect::new(Version::V5, "c")), vec!["refused 82", "close"]),
            (Packet::Disconnect(Disconnect::new(ReasonCode::Success)), vec!["close"]),
        ] {
            let mut session = challenged(now);
            assert_eq!(names(session.on_packet(&packet, now)), expected, "{packet:?}");
        }
        let mut session = challenged(now);
        assert!(names(session.on_tick(now + DEADLINE / 2)).is_empty());
        assert_eq!(names(session.on_tick(now + DEADLINE)), ["close"]);
        let mut session = new(now);
        session.on_packet(&proving(), now);
        assert_eq!(names(session.on_challenge(Err(ReasonCode::NotAuthorized))), ["refused 87", "close"]);
    }

    #[test]
    fn a_connected_client_proves_itself_again() {
        let now = Instant::now();
        let mut session = proven(now);
        for _ in 0..2 {
            assert_eq!(
                names(session.on_packet(&auth(ReasonCode::ReAuthenticate, FIRST), now)),
                ["challenge"]
            );
            assert_eq!(names(session.on_challenge(Ok(exchange("user")))).len(), 1);
            // Meanwhile it is who it was.
            assert_eq!(
                names(session.on_packet(&Packet::Publish(Publish::new("a", b"x")), now)),
                ["route a -"]
            );
            let effects = names(session.on_packet(&proof(), now));
            assert!(effects[0].starts_with("Auth { reason: Success, data: \"v=6rri"), "{effects:?}");
        }
    }

    #[test]
    fn who_fails_to_prove_itself_again_is_out() {
        let now = Instant::now();
        let out =
            |reason: &str| [&format!("disconnect {reason}"), "leave with will", "close"].map(str::to_owned);
        let again = || auth(ReasonCode::ReAuthenticate, FIRST);
        let asked = || {
            let mut session = proven(now);
            session.on_packet(&again(), now);
            session
        };
        assert_eq!(names(asked().on_packet(&again(), now)), out("82"));
        assert_eq!(names(asked().on_packet(&proof(), now)), out("82"), "there was no challenge yet");
        assert_eq!(names(asked().on_challenge(Err(ReasonCode::ServerUnavailable))), out("89"));
        assert_eq!(names(asked().on_challenge(Err(ReasonCode::NotAuthorized))), out("87"));
        assert_eq!(names(asked().on_tick(now + DEADLINE)), out("87"));
        let challenged = |user| {
            let mut session = asked();
            session.on_challenge(Ok(exchange(user)));
            session
        };
        let wrong = auth(ReasonCode::ContinueAuthentication, b"c=biws,r=x,p=x");
        assert_eq!(names(challenged("user").on_packet(&wrong, now)), out("87"));
        assert_eq!(names(challenged("other").on_packet(&proof(), now)), out("87"));
        assert_eq!(names(challenged("user").on_tick(now + DEADLINE)), out("87"));
        assert_eq!(names(proven(now).on_packet(&proof(), now)), out("82"), "nobody asked");
    }

    #[test]
    fn who_came_in_otherwise_may_not_authenticate_again() {
        let now = Instant::now();
        let mut session = new(now);
        session.on_packet(&Packet::Connect(connect(Version::V5)), now);
        session.on_admitted(Ok(admitted(open())), now);
        let effects = names(session.on_packet(&auth(ReasonCode::ReAuthenticate, FIRST), now));
        assert_eq!(effects, ["disconnect 82", "leave with will", "close"]);
    }

    #[test]
    fn a_connection_ends_with_its_right_to_be_here() {
        let now = Instant::now();
        let ends = now + Duration::from_secs(30);
        for (version, expected) in [
            (Version::V5, vec!["disconnect 87", "leave with will", "close"]),
            (Version::V311, vec!["leave with will", "close"]),
        ] {
            let mut session = new(now);
            session.on_packet(&Packet::Connect(Connect { keep_alive: 0, ..connect(version) }), now);
            session.on_admitted(Ok(admitted(open().until(Some(ends)))), now);
            assert_eq!(session.deadline(), Some(ends));
            session.on_packet(&Packet::PingReq, now + Duration::from_secs(29));
            session.excuse(now + Duration::from_secs(29));
            assert_eq!(names(session.on_tick(ends)), expected);
        }
    }
}
