//! What a server sends, read by the letter of the standard: a reserved bit, a reason code that its packet does not
//! have or a property where it must not be fails the test, whatever that is about.

use crate::packet::{Property, V5, Value, Version, id};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    ConnAck { session_present: bool, code: u8, properties: Vec<Property> },
    Publish(Message),
    PubAck { id: u16, code: u8 },
    PubRec { id: u16, code: u8 },
    PubRel { id: u16, code: u8 },
    PubComp { id: u16, code: u8 },
    SubAck { id: u16, codes: Vec<u8> },
    UnsubAck { id: u16, codes: Vec<u8> },
    PingResp,
    Disconnect { code: u8, properties: Vec<Property> },
    Auth { code: u8, properties: Vec<Property> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    /// 0 at QoS 0.
    pub(crate) id: u16,
    pub(crate) properties: Vec<Property>,
}

impl Message {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }

    /// The values of one property, in their order.
    pub(crate) fn all(&self, id: u8) -> Vec<&Value> {
        self.properties.iter().filter(|property| property.0 == id).map(|property| &property.1).collect()
    }

    pub(crate) fn get(&self, id: u8) -> Option<&Value> {
        self.all(id).first().copied()
    }

    /// Sorted: their order has no meaning.
    pub(crate) fn subscription_ids(&self) -> Vec<u32> {
        let ids = self.all(id::SUBSCRIPTION_ID).into_iter();
        let mut ids: Vec<_> =
            ids.map(|id| if let Value::Var(id) = id { *id } else { unreachable!("read as one") }).collect();
        ids.sort_unstable();
        ids
    }
}

pub(crate) struct Read {
    pub(crate) answer: Answer,
    pub(crate) length: usize,
    /// An acknowledgement or AUTH with a reason string or a user property.
    pub(crate) explained: bool,
    /// The reason string of any packet.
    pub(crate) reason: Option<String>,
}

/// The first packet in `bytes`, if it is all there.
pub(crate) fn read(version: Version, bytes: &[u8]) -> Option<Read> {
    let mut length = 0;
    let mut header = 1;
    loop {
        let byte = *bytes.get(header)?;
        length |= usize::from(byte & 0x7f) << (7 * (header - 1));
        header += 1;
        if byte & 0x80 == 0 {
            assert!(byte != 0 || header == 2, "the remaining length has more bytes than it needs");
            break;
        }
        assert!(header < 5, "the remaining length has more than four bytes");
    }
    let body = bytes.get(header..header + length)?;
    let mut fields = Fields { version, left: body, explained: false, reason: None };
    let answer = fields.answer(bytes[0]);
    assert!(fields.left.is_empty(), "bytes behind the end of {answer:?}: {:?}", fields.left);
    let Fields { explained, reason, .. } = fields;
    Some(Read { answer, length: header + length, explained, reason })
}

/// Reason codes by packet: tables 3-1, 3-4 … 3-10 and sections 3.9.3, 3.11.3 of 5.0; 3.2.2.3 and 3.9.3 of 3.1.1.
mod codes {
    pub(super) const CONNACK: &[u8] = &[
        0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97, 0x99,
        0x9a, 0x9b, 0x9c, 0x9d, 0x9f,
    ];
    pub(super) const CONNACK_V3: &[u8] = &[0, 1, 2, 3, 4, 5];
    pub(super) const PUBLISHED: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
    pub(super) const RELEASED: &[u8] = &[0x00, 0x92];
    pub(super) const SUBACK: &[u8] = &[0, 1, 2, 0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2];
    pub(super) const SUBACK_V3: &[u8] = &[0, 1, 2, 0x80];
    pub(super) const UNSUBACK: &[u8] = &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8f, 0x91];
    /// Those that a server may send.
    pub(super) const DISCONNECT: &[u8] = &[
        0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8c, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94, 0x95, 0x96,
        0x97, 0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2,
    ];
}

/// Properties by packet: table 2-4 of 5.0, as far as servers send them.
mod allowed {
    use crate::packet::id;

    pub(super) const CONNACK: &[u8] = &[
        id::SESSION_EXPIRY,
        id::ASSIGNED_CLIENT_ID,
        id::SERVER_KEEP_ALIVE,
        id::AUTH_METHOD,
        id::AUTH_DATA,
        id::RESPONSE_INFORMATION,
        id::SERVER_REFERENCE,
        id::REASON_STRING,
        id::RECEIVE_MAXIMUM,
        id::TOPIC_ALIAS_MAXIMUM,
        id::MAXIMUM_QOS,
        id::RETAIN_AVAILABLE,
        id::USER,
        id::MAXIMUM_PACKET,
        id::WILDCARDS_AVAILABLE,
        id::SUBSCRIPTION_IDS_AVAILABLE,
        id::SHARED_AVAILABLE,
    ];
    pub(super) const PUBLISH: &[u8] = &[
        id::PAYLOAD_FORMAT,
        id::MESSAGE_EXPIRY,
        id::CONTENT_TYPE,
        id::RESPONSE_TOPIC,
        id::CORRELATION_DATA,
        id::SUBSCRIPTION_ID,
        id::TOPIC_ALIAS,
        id::USER,
    ];
    pub(super) const ACK: &[u8] = &[id::REASON_STRING, id::USER];
    pub(super) const AUTH: &[u8] = &[id::AUTH_METHOD, id::AUTH_DATA, id::REASON_STRING, id::USER];
    /// No session expiry interval from a server [MQTT5-3.14.2-2].
    pub(super) const DISCONNECT: &[u8] = &[id::REASON_STRING, id::USER, id::SERVER_REFERENCE];
}

struct Fields<'b> {
    version: Version,
    left: &'b [u8],
    explained: bool,
    reason: Option<String>,
}

impl Fields<'_> {
    fn answer(&mut self, first: u8) -> Answer {
        let flags = first & 0x0f;
        if first >> 4 != 3 {
            assert_eq!(flags, if first >> 4 == 6 { 2 } else { 0 }, "reserved flags of {first:#04x}");
        }
        let v5 = self.version == V5;
        match first >> 4 {
            2 => {
                let flags = self.byte();
                assert!(flags <= 1, "reserved acknowledge flags: {flags:#04x}");
                let code = self.code(if v5 { codes::CONNACK } else { codes::CONNACK_V3 });
                let properties = self.properties(allowed::CONNACK);
                let session_present = flags == 1;
                assert!(!session_present || code == 0, "a session is present in a refusal");
                Answer::ConnAck { session_present, code, properties }
            }
            3 => Answer::Publish(self.publish(flags)),
            4 => self.ack(codes::PUBLISHED, |id, code| Answer::PubAck { id, code }),
            5 => self.ack(codes::PUBLISHED, |id, code| Answer::PubRec { id, code }),
            6 => self.ack(codes::RELEASED, |id, code| Answer::PubRel { id, code }),
            7 => self.ack(codes::RELEASED, |id, code| Answer::PubComp { id, code }),
            9 => {
                let (id, codes) = self.codes(if v5 { codes::SUBACK } else { codes::SUBACK_V3 });
                Answer::SubAck { id, codes }
            }
            11 if v5 => {
                let (id, codes) = self.codes(codes::UNSUBACK);
                Answer::UnsubAck { id, codes }
            }
            11 => Answer::UnsubAck { id: self.short(), codes: Vec::new() },
            13 => Answer::PingResp,
            14 if v5 && self.left.is_empty() => Answer::Disconnect { code: 0, properties: Vec::new() },
            14 if v5 => {
                let code = self.code(codes::DISCONNECT);
                let none = self.left.is_empty();
                let properties = if none { Vec::new() } else { self.properties(allowed::DISCONNECT) };
                Answer::Disconnect { code, properties }
            }
            15 if v5 => {
                let code = self.code(&[0x00, 0x18]);
                let properties = self.properties(allowed::AUTH);
                self.explained |= properties.iter().any(|property| allowed::ACK.contains(&property.0));
                Answer::Auth { code, properties }
            }
            kind => panic!("no packet of a server to a client of {:?}: type {kind}", self.version),
        }
    }

    fn publish(&mut self, flags: u8) -> Message {
        let (dup, qos, retain) = (flags & 8 != 0, flags >> 1 & 3, flags & 1 != 0);
        assert!(qos < 3, "QoS 3");
        assert!(!dup || qos > 0, "DUP at QoS 0");
        let topic = self.text();
        assert!(!topic.contains(['+', '#', '\0']), "no topic: {topic:?}");
        let id = if qos > 0 { self.short() } else { 0 };
        assert!(qos == 0 || id != 0, "packet identifier 0");
        let properties = self.properties(allowed::PUBLISH);
        assert!(
            !topic.is_empty() || properties.iter().any(|property| property.0 == id::TOPIC_ALIAS),
            "neither topic nor alias"
        );
        let payload = std::mem::take(&mut self.left).to_vec();
        Message { topic, payload, qos, retain, dup, id, properties }
    }

    fn ack(&mut self, codes: &[u8], answer: impl Fn(u16, u8) -> Answer) -> Answer {
        let id = self.short();
        assert_ne!(id, 0, "packet identifier 0");
        let v5 = self.version == V5;
        let code = if v5 && !self.left.is_empty() { self.code(codes) } else { 0 };
        if v5 && !self.left.is_empty() {
            self.explained |= !self.properties(allowed::ACK).is_empty();
        }
        answer(id, code)
    }

    fn codes(&mut self, codes: &[u8]) -> (u16, Vec<u8>) {
        let id = self.short();
        self.explained |= !self.properties(allowed::ACK).is_empty();
        let mut all = Vec::new();
        while !self.left.is_empty() {
            all.push(self.code(codes));
        }
        (id, all)
    }

    fn code(&mut self, codes: &[u8]) -> u8 {
        let code = self.byte();
        assert!(codes.contains(&code), "this packet has no reason code {code:#04x}");
        code
    }

    fn properties(&mut self, allowed: &[u8]) -> Vec<Property> {
        if self.version != V5 {
            return Vec::new();
        }
        let length = self.varint() as usize;
        let (inside, behind) = self.left.split_at(length);
        let mut fields = Fields { version: self.version, left: inside, explained: false, reason: None };
        self.left = behind;
        let mut properties: Vec<Property> = Vec::new();
        while !fields.left.is_empty() {
            let property = fields.property();
            let id = property.0;
            assert!(allowed.contains(&id), "property {id:#04x} where it must not be");
            let many = id == id::USER || id == id::SUBSCRIPTION_ID;
            let first = properties.iter().all(|before| before.0 != id);
            assert!(many || first, "property {id:#04x} twice");
            if let Property(id::REASON_STRING, Value::Text(reason)) = &property {
                self.reason = Some(reason.clone());
            }
            properties.push(property);
        }
        properties
    }

    fn property(&mut self) -> Property {
        let id = self.byte();
        let value = match id {
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28..=0x2a => {
                let value = self.byte();
                assert!(value <= 1, "property {id:#04x} with the value {value}");
                Value::Byte(value)
            }
            0x13 | 0x21..=0x23 => Value::Short(self.short()),
            0x02 | 0x11 | 0x18 | 0x27 => Value::Long(u32::from(self.short()) << 16 | u32::from(self.short())),
            0x0b => Value::Var(self.varint()),
            0x03 | 0x08 | 0x12 | 0x15 | 0x1a | 0x1c | 0x1f => Value::Text(self.text()),
            0x09 | 0x16 => Value::Data(self.bytes().to_vec()),
            0x26 => Value::Pair(self.text(), self.text()),
            _ => panic!("no property has the number {id:#04x}"),
        };
        let zero = matches!(value, Value::Short(0) | Value::Long(0) | Value::Var(0));
        let never_zero = [0x0b, 0x21, 0x23, 0x27].contains(&id);
        assert!(!(zero && never_zero), "property {id:#04x} must not be 0");
        Property(id, value)
    }

    fn byte(&mut self) -> u8 {
        let (first, rest) = self.left.split_first().expect("the packet ends too early");
        self.left = rest;
        *first
    }

    fn short(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn varint(&mut self) -> u32 {
        let mut value = 0;
        for place in 0..4 {
            let byte = self.byte();
            value |= u32::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                assert!(byte != 0 || place == 0, "a variable byte integer has more bytes than it needs");
                return value;
            }
        }
        panic!("a variable byte integer has more than four bytes")
    }

    fn bytes(&mut self) -> &[u8] {
        let length = self.short().into();
        assert!(self.left.len() >= length, "the packet ends too early");
        let (bytes, rest) = self.left.split_at(length);
        self.left = rest;
        bytes
    }

    fn text(&mut self) -> String {
        let text = String::from_utf8(self.bytes().to_vec()).expect("strings are UTF-8");
        assert!(!text.contains('\0'), "a string with U+0000");
        text
    }
}
