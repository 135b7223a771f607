//! PURE. The MQTT check as a conversation: CONNECT, its answer, perhaps a message that has to come back, DISCONNECT. A
//! client of our own, which leaves nothing behind.

use bytes::{Buf, BytesMut};
use nsd_wire::{
    ConnAck, Connect, Disconnect, Packet, PacketId, PacketType, Publish, ReasonCode, ReasonCodes, Subscribe,
    SubscribeFilter, SubscribeOptions,
};

use crate::settings::MqttAsk;
use crate::verdict::{Failed, Verdict};

/// The first byte of the answer: what begins otherwise need not be waited for.
const CONNACK: u8 = (PacketType::ConnAck as u8) << 4;
/// A CONNACK with properties; a longer one is none.
const MAX_ANSWER: usize = 4096;
/// What may come on the topic of a loop-back, others' messages included.
const MAX_MESSAGE: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Talk<'a> {
    ask: &'a MqttAsk,
    id: String,
    /// The topic whose message has to come back, and that message: no other check's is the same.
    loop_back: Option<(String, String)>,
    waits: Waits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    ConnAck,
    SubAck,
    Message,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Listen,
    Say(Vec<u8>),
    /// The server is well. Say goodbye with these bytes, if there are any.
    Done(Vec<u8>),
}

impl<'a> Talk<'a> {
    /// `random` makes what should differ between checks do so.
    pub(super) fn new(ask: &'a MqttAsk, server: &str, random: u64) -> Self {
        let digits = format!("{:08x}", random & 0xffff_ffff);
        let id = ask.client_id.replace("%r", &digits).replace("%s", server);
        let message = format!("{random:016x}");
        let loop_back = ask.loop_back.as_ref().map(|topic| (topic.replace("%c", &id), message));
        Self { ask, id, loop_back, waits: Waits::ConnAck }
    }

    pub(super) fn connect(&self, password: Option<&[u8]>) -> Result<Vec<u8>, Failed> {
        let version = self.ask.version;
        let connect = Connect {
            clean_start: true,
            keep_alive: 30,
            user_name: self.ask.user_name.as_deref(),
            password,
            ..Connect::new(version, &self.id)
        };
        encoded(|out| connect.encode(version, out))
    }

    /// Takes what it can of what the server has said; the rest is wanted again.
    pub(super) fn take(&mut self, heard: &mut BytesMut) -> Result<Next, Failed> {
        if self.waits == Waits::ConnAck && heard.first().is_some_and(|first| *first != CONNACK) {
            return Err(garbled("its answer to the CONNECT is no CONNACK"));
        }
        loop {
            let most = if self.waits == Waits::ConnAck { MAX_ANSWER } else { MAX_MESSAGE };
            let read = nsd_wire::read(self.ask.version, heard, most);
            let Some((packet, length)) = read.map_err(|error| garbled(&error.to_string()))? else {
                return Ok(Next::Listen);
            };
            let next = self.packet(&packet)?;
            heard.advance(length);
            if next != Next::Listen {
                return Ok(next);
            }
        }
    }

    fn packet(&mut self, packet: &Packet<'_>) -> Result<Next, Failed> {
        match (self.waits, packet) {
            (Waits::ConnAck, Packet::ConnAck(ConnAck { reason, .. })) => self.answered(*reason),
            (Waits::SubAck, Packet::SubAck(answer)) => self.subscribed(answer.codes),
            (Waits::Message, Packet::Publish(message)) if self.is_ours(message) => {
                Ok(Next::Done(self.goodbye()?))
            }
            (_, Packet::Disconnect(disconnect)) => Err(refusing(disconnect.reason)),
            (Waits::ConnAck, _) => Err(garbled("its answer to the CONNECT is no CONNACK")),
            // Others' messages, and those kept for the topic.
            _ => Ok(Next::Listen),
        }
    }

    /// A broker that does not know us is well; one that says it is unavailable is not.
    fn answered(&mut self, reason: ReasonCode) -> Result<Next, Failed> {
        let unavailable =
            [ReasonCode::ServerUnavailable, ReasonCode::ServerBusy, ReasonCode::ServerShuttingDown];
        match (reason, &self.loop_back) {
            (ReasonCode::Success, None) => Ok(Next::Done(self.goodbye()?)),
            (ReasonCode::Success, Some((topic, _))) => {
                let filter = SubscribeFilter { filter: topic, options: SubscribeOptions::default() };
                let filters = [filter];
                let subscribe = Subscribe::new(PacketId::MIN, &filters);
                let bytes = encoded(|out| subscribe.encode(self.ask.version, out))?;
                self.waits = Waits::SubAck;
                Ok(Next::Say(bytes))
            }
            // Whoever asks for a loop-back wants to see it.
            (_, None) if !unavailable.contains(&reason) => Ok(Next::Done(Vec::new())),
            _ => Err(refusing(reason)),
        }
    }

    fn subscribed(&mut self, codes: ReasonCodes<'_>) -> Result<Next, Failed> {
        if let Some(refused) = codes.iter().find(|code| code.is_failure()) {
            return Err(Failed::new(
                Verdict::Refusing,
                format!("it refused to subscribe: {}", refused.text()),
            ));
        }
        self.waits = Waits::Message;
        let (topic, message) = self.loop_back.as_ref().ok_or_else(|| garbled("a SUBACK without a reason"))?;
        let publish = Publish::new(topic, message.as_bytes());
        Ok(Next::Say(encoded(|out| publish.encode(self.ask.version, out))?))
    }

    fn is_ours(&self, message: &Publish<'_>) -> bool {
        self.loop_back.as_ref().is_some_and(|(_, sent)| sent.as_bytes() == message.payload)
    }

    fn goodbye(&self) -> Result<Vec<u8>, Failed> {
        encoded(|out| Disconnect::new(ReasonCode::Success).encode(self.ask.version, out))
    }
}

fn encoded(
    encode: impl FnOnce(&mut Vec<u8>) -> Result<(), nsd_wire::EncodeError>,
) -> Result<Vec<u8>, Failed> {
    let mut bytes = Vec::with_capacity(64);
    // What the settings allow can be said.
    encode(&mut bytes).map_err(|error| Failed::new(Verdict::Garbled, format!("cannot be asked: {error}")))?;
    Ok(bytes)
}

fn garbled(detail: &str) -> Failed {
    Failed::new(Verdict::Garbled, detail.to_owned())
}

fn refusing(reason: ReasonCode) -> Failed {
    Failed::new(Verdict::Refusing, format!("it says: {}", reason.text()))
}

#[cfg(test)]
mod tests {
    use nsd_wire::{SubAck, Version};
    use proptest::prelude::*;

    use super::*;

    fn verdict(ask: &MqttAsk, bytes: &[u8]) -> Result<Next, Verdict> {
        Talk::new(ask, "b1", 7).take(&mut bytes.into()).map_err(|failed| failed.verdict)
    }

    #[test]
    fn a_connack_is_read_whole_and_anything_else_refused() {
        let ask = MqttAsk::default();
        assert_eq!(verdict(&ask, &[0x20, 2, 0]), Ok(Next::Listen));
        assert_eq!(verdict(&ask, &[0x20, 2, 0, 0]), Ok(Next::Done(vec![0xe0, 0])));
        assert_eq!(
            verdict(&ask, &[0x20, 2, 0, 5]),
            Ok(Next::Done(vec![])),
            "it is well, and does not know us"
        );
        assert_eq!(verdict(&ask, &[0x20, 2, 0, 3]), Err(Verdict::Refusing));
        for garbled in [b"HTTP/1.1 400".as_slice(), &[0xd0, 0]] {
            assert_eq!(verdict(&ask, garbled), Err(Verdict::Garbled));
        }
    }

    #[test]
    fn the_client_id_and_the_topic_are_filled_in() {
        let ask = MqttAsk {
            client_id: "probe-%s-%r".to_owned(),
            loop_back: Some("devices/%c/check".to_owned()),
            user_name: Some("probe".to_owned()),
            ..MqttAsk::default()
        };
        let talk = Talk::new(&ask, "b1", 0x1_0000_00ff);
        let bytes = talk.connect(Some(b"secret")).unwrap();
        let Ok(Some((Packet::Connect(connect), _))) = nsd_wire::read(Version::V311, &bytes, 1000) else {
            panic!("no CONNECT: {bytes:?}");
        };
        assert_eq!((connect.client_id, connect.user_name), ("probe-b1-000000ff", Some("probe")));
        assert_eq!(connect.password, Some(&b"secret"[..]));
        assert_eq!(talk.loop_back.unwrap().0, "devices/probe-b1-000000ff/check");
    }

    /// Byte by byte, with a stranger's message before ours.
    #[test]
    fn a_loop_back_waits_for_its_own_message() {
        for version in [Version::V31, Version::V311, Version::V5] {
            let ask = MqttAsk { loop_back: Some("nsd/check".to_owned()), version, ..MqttAsk::default() };
            let mut talk = Talk::new(&ask, "b1", 7);
            let mut said = Vec::new();
            let mut answers = Vec::new();
            ConnAck::new(false, ReasonCode::Success).encode(version, &mut answers).unwrap();
            SubAck::new(PacketId::MIN, &[ReasonCode::Success]).encode(version, &mut answers).unwrap();
            for payload in [&b"another's"[..], b"0000000000000007"] {
                Publish::new("nsd/check", payload).encode(version, &mut answers).unwrap();
            }
            let mut heard = BytesMut::new();
            for (at, byte) in answers.iter().enumerate() {
                heard.extend_from_slice(&[*byte]);
                match talk.take(&mut heard).unwrap() {
                    Next::Listen => {}
                    Next::Say(bytes) => said.push(bytes[0] >> 4),
                    Next::Done(bytes) => {
                        assert_eq!(at, answers.len() - 1, "not before the message is there");
                        said.push(bytes[0] >> 4);
                    }
                }
            }
            assert_eq!(said, [8, 3, 14], "SUBSCRIBE, PUBLISH, DISCONNECT");
        }
    }

    #[test]
    fn who_may_not_subscribe_fails_only_the_loop_back() {
        let ask = MqttAsk { loop_back: Some("nsd/check".to_owned()), ..MqttAsk::default() };
        assert_eq!(verdict(&ask, &[0x20, 2, 0, 5]), Err(Verdict::Refusing));
        let mut talk = Talk::new(&ask, "b1", 7);
        let mut heard = BytesMut::from(&[0x20, 2, 0, 0, 0x90, 3, 0, 1, 0x80][..]);
        assert!(matches!(talk.take(&mut heard), Ok(Next::Say(_))));
        assert_eq!(talk.take(&mut heard).unwrap_err().verdict, Verdict::Refusing);
    }

    proptest! {
        /// However an answer is cut, the verdict is the same, and what is kept of it is bounded.
        #[test]
        fn any_bytes_are_judged_however_they_come(
            mut bytes in prop::collection::vec(any::<u8>(), 1..300), connack: bool, looped: bool, at in 0..300_usize,
        ) {
            if connack {
                bytes.splice(..0, [0x20, 2, 0, 0]);
            }
            let loop_back = looped.then(|| "nsd/check".to_owned());
            let ask = MqttAsk { loop_back, ..MqttAsk::default() };
            let verdict = |parts: &[&[u8]]| {
                let (mut talk, mut heard) = (Talk::new(&ask, "b1", 7), BytesMut::new());
                for part in parts.iter().filter(|part| !part.is_empty()) {
                    heard.extend_from_slice(part);
                    let mut next = talk.take(&mut heard);
                    while matches!(next, Ok(Next::Say(_))) {
                        next = talk.take(&mut heard);
                    }
                    match next {
                        Ok(Next::Done(_)) => return Ok(true),
                        Ok(_) => assert!(heard.len() <= bytes.len()),
                        Err(failed) => return Err(failed.verdict),
                    }
                }
                Ok(false)
            };
            let (front, back) = bytes.split_at(at.min(bytes.len()));
            prop_assert_eq!(verdict(&[&bytes]), verdict(&[front, back]));
        }
    }
}
