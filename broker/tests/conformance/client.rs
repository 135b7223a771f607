//! A client that says what a test tells it to and asserts what it hears.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::answer::{self, Answer, Message, Read};
use crate::broker::Broker;
use crate::packet::{self, Connect, Property, Publish, V5, V311, Version};

/// How long to wait for what should come at once.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// The same, where it is known that it will not come.
pub(crate) const IN_VAIN: Duration = Duration::from_millis(400);
/// How long to listen for what must not come, after the server has answered a ping.
pub(crate) const QUIET: Duration = Duration::from_millis(120);

thread_local! {
    pub(crate) static PATIENCE: Cell<Duration> = const { Cell::new(SOON) };
}

/// A name that no other test has: of a client, of a topic level.
pub(crate) fn unique(kind: &str) -> String {
    static LAST: AtomicU32 = AtomicU32::new(0);
    format!("{kind}{}", LAST.fetch_add(1, Ordering::Relaxed))
}

pub(crate) struct Client {
    stream: TcpStream,
    pub(crate) version: Version,
    unread: Vec<u8>,
    /// Heard while another packet was awaited.
    passed_over: VecDeque<Answer>,
    last_id: u16,
    /// The maximum packet size that was asked for: nothing larger may come.
    pub(crate) largest: usize,
    /// How often an answer had a reason string or a user property.
    pub(crate) explanations: usize,
    /// The reason string of the packet that was heard last, and how long that packet was.
    pub(crate) reason: Option<String>,
    pub(crate) last_length: usize,
    /// Of the CONNACK.
    pub(crate) session_present: bool,
    pub(crate) properties: Vec<Property>,
}

/// What the other side did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Packet(Answer),
    Closed,
    Nothing,
}

/// Opening and closing.
impl Client {
    /// A connection without a word.
    pub(crate) fn open(broker: &Broker, version: Version) -> Self {
        let stream = TcpStream::connect(broker.address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            version,
            unread: Vec::new(),
            passed_over: VecDeque::new(),
            last_id: 0,
            largest: usize::MAX,
            explanations: 0,
            reason: None,
            last_length: 0,
            session_present: false,
            properties: Vec::new(),
        }
    }

    /// Sends CONNECT and nothing else.
    pub(crate) fn knock(broker: &Broker, connect: &Connect) -> Self {
        let mut client = Self::open(broker, connect.version);
        client.send(&connect.bytes());
        client
    }

    /// Connects, and is let in.
    pub(crate) fn connect(broker: &Broker, connect: &Connect) -> Self {
        let mut client = Self::knock(broker, connect);
        match client.answer() {
            Answer::ConnAck { code: 0, session_present, properties } => {
                client.session_present = session_present;
                client.properties = properties;
            }
            other => panic!("not let in: {other:?}"),
        }
        client
    }

    /// A clean client with a name of its own.
    pub(crate) fn new(broker: &Broker, version: Version) -> Self {
        Self::connect(broker, &Connect::new(version, &unique("c")))
    }

    /// A clean client of v5 with these properties.
    pub(crate) fn with(broker: &Broker, properties: &[Property]) -> Self {
        Self::connect(broker, &Connect::new(V5, &unique("c")).with(properties))
    }

    /// Leaves with the usual DISCONNECT, and waits for the end.
    pub(crate) fn leave(mut self) {
        self.send(&packet::packet(packet::DISCONNECT, &[]));
        self.is_closed();
    }

    /// As a cut cable or a crash would: no DISCONNECT.
    pub(crate) fn vanish(self) {
        drop(self);
    }

    /// A packet identifier that this client has not used yet.
    pub(crate) fn id(&mut self) -> u16 {
        self.last_id += 1;
        self.last_id
    }
}

/// Sending and hearing.
impl Client {
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        // A server that has closed already is found out about by reading.
        let _ = self.stream.write_all(bytes);
    }

    pub(crate) fn hear(&mut self, limit: Duration) -> Heard {
        self.passed_over.pop_front().map_or_else(|| self.hear_anew(limit), Heard::Packet)
    }

    fn hear_anew(&mut self, limit: Duration) -> Heard {
        let until = Instant::now() + limit;
        loop {
            if let Some(Read { answer, length, explained, reason }) = answer::read(self.version, &self.unread)
            {
                assert!(length <= self.largest, "{length} bytes: {answer:?}");
                self.explanations += usize::from(explained);
                (self.reason, self.last_length) = (reason, length);
                self.unread.drain(..length);
                return Heard::Packet(answer);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Heard::Nothing;
            }
            self.stream.set_read_timeout(Some(left)).unwrap();
            let mut scratch = [0; 16 * 1024];
            match self.stream.read(&mut scratch) {
                Ok(0) => return self.closed(),
                Ok(read) => self.unread.extend_from_slice(&scratch[..read]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return self.closed(),
            }
        }
    }

    fn closed(&self) -> Heard {
        assert!(self.unread.is_empty(), "half a packet before the end: {:?}", self.unread);
        Heard::Closed
    }

    /// The next packet.
    pub(crate) fn answer(&mut self) -> Answer {
        match self.hear(PATIENCE.get()) {
            Heard::Packet(answer) => answer,
            other => panic!("no packet, but {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn hears(&mut self, expected: &Answer) {
        let answer = self.answer();
        assert_eq!(answer, *expected);
    }

    /// Waits for the packet that is meant; messages that come before it are kept for later.
    #[track_caller]
    pub(crate) fn awaits(&mut self, meant: impl Fn(&Answer) -> bool) -> Answer {
        loop {
            match self.hear_anew(PATIENCE.get()) {
                Heard::Packet(answer) if meant(&answer) => return answer,
                Heard::Packet(other @ Answer::Publish(_)) => self.passed_over.push_back(other),
                other => panic!("not what was awaited: {other:?}"),
            }
        }
    }

    /// The connection ends without a word.
    #[track_caller]
    pub(crate) fn is_closed(&mut self) {
        assert_eq!(self.hear(PATIENCE.get()), Heard::Closed);
    }

    /// The connection ends: in v5 with DISCONNECT of one of these reasons, before that without a word.
    #[track_caller]
    pub(crate) fn is_sent_away(&mut self, reasons: &[u8]) {
        if self.version == V5 {
            match self.answer() {
                Answer::Disconnect { code, .. } => {
                    assert!(reasons.contains(&code), "sent away with {code:#04x}, not one of {reasons:02x?}");
                }
                other => panic!("not sent away, but {other:?}"),
            }
        }
        self.is_closed();
    }

    /// The CONNECT is refused: in v5 silently or with one of these reasons, before that silently.
    #[track_caller]
    pub(crate) fn is_refused_or_closed(&mut self, reasons: &[u8]) {
        match self.hear(PATIENCE.get()) {
            Heard::Closed => return,
            Heard::Packet(Answer::ConnAck { code, .. }) if self.version == V5 => {
                assert!(reasons.contains(&code), "refused with {code:#04x}, not one of {reasons:02x?}");
            }
            other => panic!("not refused, but {other:?}"),
        }
        self.is_closed();
    }

    /// The server lives, and has nothing to say.
    #[track_caller]
    pub(crate) fn nothing_comes(&mut self) {
        self.ping();
        assert_eq!(self.hear(QUIET), Heard::Nothing);
    }

    #[track_caller]
    pub(crate) fn ping(&mut self) {
        self.send(&packet::packet(packet::PINGREQ, &[]));
        self.hears(&Answer::PingResp);
    }
}

/// Subscribing and publishing.
impl Client {
    /// Subscribes to one filter with these options (QoS in v3), which must be granted.
    #[track_caller]
    pub(crate) fn subscribe(&mut self, filter: &str, options: u8) {
        assert_eq!(self.subscribe_all(&[(filter, options)]), [options & 3]);
    }

    #[track_caller]
    pub(crate) fn subscribe_all(&mut self, filters: &[(&str, u8)]) -> Vec<u8> {
        self.subscribe_as(&[], filters)
    }

    /// With a subscription identifier.
    #[track_caller]
    pub(crate) fn subscribe_under(&mut self, id: u32, filter: &str, options: u8) {
        let properties = [packet::var(packet::id::SUBSCRIPTION_ID, id)];
        assert_eq!(self.subscribe_as(&properties, &[(filter, options)]), [options & 3]);
    }

    #[track_caller]
    pub(crate) fn subscribe_as(&mut self, properties: &[Property], filters: &[(&str, u8)]) -> Vec<u8> {
        let packet_id = self.id();
        self.send(&packet::subscribe(self.version, packet_id, properties, filters));
        match self.answer() {
            Answer::SubAck { id, codes } if id == packet_id => codes,
            other => panic!("not the SUBACK: {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn unsubscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        let packet_id = self.id();
        self.send(&packet::unsubscribe(self.version, packet_id, filters));
        match self.answer() {
            Answer::UnsubAck { id, codes } if id == packet_id => codes,
            other => panic!("not the UNSUBACK: {other:?}"),
        }
    }

    /// Publishes and completes the exchange; the first reason code.
    #[track_caller]
    pub(crate) fn publish(&mut self, publish: Publish) -> u8 {
        if publish.qos == 0 {
            self.send(&[publish.bytes(self.version), packet::packet(packet::PINGREQ, &[])].concat());
            self.awaits(|answer| *answer == Answer::PingResp);
            return 0;
        }
        let packet_id = self.id();
        let publish = publish.id(packet_id);
        self.send(&publish.bytes(self.version));
        match (publish.qos, self.awaits(|answer| !matches!(answer, Answer::Publish(_)))) {
            (1, Answer::PubAck { id, code }) if id == packet_id => code,
            (2, Answer::PubRec { id, code }) if id == packet_id => {
                if code < 0x80 {
                    self.send(&packet::ack(packet::PUBREL, packet_id));
                    self.awaits(|answer| *answer == Answer::PubComp { id: packet_id, code: 0 });
                }
                code
            }
            (_, other) => panic!("not the answer to PUBLISH: {other:?}"),
        }
    }

    /// Publishes text at a QoS; it must be taken.
    #[track_caller]
    pub(crate) fn says(&mut self, topic: &str, text: &str, qos: u8) {
        let code = self.publish(Publish::new(topic, text).qos(qos));
        assert!(code < 0x80, "refused with {code:#04x}");
    }

    /// The next packet, which must be a PUBLISH; it is not acknowledged.
    #[track_caller]
    pub(crate) fn message(&mut self) -> Message {
        match self.answer() {
            Answer::Publish(message) => message,
            other => panic!("not a message: {other:?}"),
        }
    }

    /// The next message, acknowledged to the end.
    #[track_caller]
    pub(crate) fn take(&mut self) -> Message {
        let message = self.message();
        match message.qos {
            0 => {}
            1 => self.send(&packet::ack(packet::PUBACK, message.id)),
            _ => {
                self.send(&packet::ack(packet::PUBREC, message.id));
                self.awaits(|answer| *answer == Answer::PubRel { id: message.id, code: 0 });
                self.send(&packet::ack(packet::PUBCOMP, message.id));
            }
        }
        message
    }

    /// The next message has this text.
    #[track_caller]
    pub(crate) fn gets(&mut self, text: &str) -> Message {
        let message = self.take();
        assert_eq!(message.text(), text);
        message
    }
}

/// A subscriber of one filter.
pub(crate) fn subscriber(broker: &Broker, version: Version, filter: &str, options: u8) -> Client {
    let mut client = Client::new(broker, version);
    client.subscribe(filter, options);
    client
}

/// What a later subscriber of `topic` gets as retained.
#[track_caller]
pub(crate) fn retained(broker: &Broker, topic: &str) -> Option<Message> {
    let mut client = subscriber(broker, V311, topic, 2);
    client.ping_behind_messages()
}

impl Client {
    /// The message that comes before the answer to a ping or soon after, if one does.
    #[track_caller]
    fn ping_behind_messages(&mut self) -> Option<Message> {
        self.send(&packet::packet(packet::PINGREQ, &[]));
        let mut message = None;
        let mut ponged = false;
        loop {
            match self.hear(if ponged { QUIET } else { PATIENCE.get() }) {
                Heard::Packet(Answer::PingResp) => ponged = true,
                Heard::Packet(Answer::Publish(got)) if message.is_none() => message = Some(got),
                Heard::Nothing if ponged => return message,
                other => panic!("neither a message nor the end of them: {other:?}"),
            }
        }
    }
}
