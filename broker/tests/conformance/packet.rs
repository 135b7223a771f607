//! Packets as bytes, right and wrong. Written from the standard alone: nothing here comes from `nsd-wire`.

/// The three protocols that the broker speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V31,
    V311,
    V5,
}

pub(crate) use Version::{V5, V31, V311};

pub(crate) const ALL: [Version; 3] = [V31, V311, V5];
/// The two that have numbered statements.
pub(crate) const BOTH: [Version; 2] = [V311, V5];

pub(crate) const CONNECT: u8 = 0x10;
pub(crate) const PUBLISH: u8 = 0x30;
pub(crate) const PUBACK: u8 = 0x40;
pub(crate) const PUBREC: u8 = 0x50;
pub(crate) const PUBREL: u8 = 0x62;
pub(crate) const PUBCOMP: u8 = 0x70;
pub(crate) const SUBSCRIBE: u8 = 0x82;
pub(crate) const UNSUBSCRIBE: u8 = 0xa2;
pub(crate) const PINGREQ: u8 = 0xc0;
pub(crate) const DISCONNECT: u8 = 0xe0;
pub(crate) const AUTH: u8 = 0xf0;

/// Property identifiers of 5.0, section 2.2.2.2.
pub(crate) mod id {
    pub(crate) const PAYLOAD_FORMAT: u8 = 0x01;
    pub(crate) const MESSAGE_EXPIRY: u8 = 0x02;
    pub(crate) const CONTENT_TYPE: u8 = 0x03;
    pub(crate) const RESPONSE_TOPIC: u8 = 0x08;
    pub(crate) const CORRELATION_DATA: u8 = 0x09;
    pub(crate) const SUBSCRIPTION_ID: u8 = 0x0b;
    pub(crate) const SESSION_EXPIRY: u8 = 0x11;
    pub(crate) const ASSIGNED_CLIENT_ID: u8 = 0x12;
    pub(crate) const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub(crate) const AUTH_METHOD: u8 = 0x15;
    pub(crate) const AUTH_DATA: u8 = 0x16;
    pub(crate) const REQUEST_PROBLEM: u8 = 0x17;
    pub(crate) const WILL_DELAY: u8 = 0x18;
    pub(crate) const REQUEST_RESPONSE: u8 = 0x19;
    pub(crate) const RESPONSE_INFORMATION: u8 = 0x1a;
    pub(crate) const SERVER_REFERENCE: u8 = 0x1c;
    pub(crate) const REASON_STRING: u8 = 0x1f;
    pub(crate) const RECEIVE_MAXIMUM: u8 = 0x21;
    pub(crate) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub(crate) const TOPIC_ALIAS: u8 = 0x23;
    pub(crate) const MAXIMUM_QOS: u8 = 0x24;
    pub(crate) const RETAIN_AVAILABLE: u8 = 0x25;
    pub(crate) const USER: u8 = 0x26;
    pub(crate) const MAXIMUM_PACKET: u8 = 0x27;
    pub(crate) const WILDCARDS_AVAILABLE: u8 = 0x28;
    pub(crate) const SUBSCRIPTION_IDS_AVAILABLE: u8 = 0x29;
    pub(crate) const SHARED_AVAILABLE: u8 = 0x2a;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Byte(u8),
    Short(u16),
    Long(u32),
    /// A variable byte integer.
    Var(u32),
    Text(String),
    Data(Vec<u8>),
    Pair(String, String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Property(pub(crate) u8, pub(crate) Value);

pub(crate) fn byte(id: u8, value: u8) -> Property {
    Property(id, Value::Byte(value))
}

pub(crate) fn short(id: u8, value: u16) -> Property {
    Property(id, Value::Short(value))
}

pub(crate) fn long(id: u8, value: u32) -> Property {
    Property(id, Value::Long(value))
}

pub(crate) fn var(id: u8, value: u32) -> Property {
    Property(id, Value::Var(value))
}

pub(crate) fn text(id: u8, value: &str) -> Property {
    Property(id, Value::Text(value.to_owned()))
}

pub(crate) fn data(id: u8, value: &[u8]) -> Property {
    Property(id, Value::Data(value.to_vec()))
}

pub(crate) fn user(key: &str, value: &str) -> Property {
    Property(id::USER, Value::Pair(key.to_owned(), value.to_owned()))
}

/// A whole packet: its first byte, the length of its body, its body.
pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first], &*varint(body.len()), body].concat()
}

pub(crate) fn varint(value: usize) -> Vec<u8> {
    let mut left = value;
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(left % 128).unwrap();
        left /= 128;
        bytes.push(if left > 0 { low | 0x80 } else { low });
        if left == 0 {
            return bytes;
        }
    }
}

/// Bytes behind their length.
pub(crate) fn string(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// Properties behind their length.
pub(crate) fn properties(properties: &[Property]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Property(id, value) in properties {
        bytes.push(*id);
        match value {
            Value::Byte(value) => bytes.push(*value),
            Value::Short(value) => bytes.extend(value.to_be_bytes()),
            Value::Long(value) => bytes.extend(value.to_be_bytes()),
            Value::Var(value) => bytes.extend(varint(*value as usize)),
            Value::Text(value) => bytes.extend(string(value)),
            Value::Data(value) => bytes.extend(string(value)),
            Value::Pair(key, value) => bytes.extend([string(key), string(value)].concat()),
        }
    }
    [varint(bytes.len()), bytes].concat()
}

fn properties_in(version: Version, list: &[Property]) -> Vec<u8> {
    if version == V5 { properties(list) } else { Vec::new() }
}

/// CONNECT, field by field. Everything may be changed before it is sent, also to what must not be.
#[derive(Debug, Clone)]
pub(crate) struct Connect {
    pub(crate) version: Version,
    pub(crate) name: Vec<u8>,
    pub(crate) level: u8,
    /// Bit 1: clean session, clean start.
    pub(crate) clean: bool,
    /// XORed into the flags that follow from the fields.
    pub(crate) spoil_flags: u8,
    pub(crate) keep_alive: u16,
    pub(crate) properties: Vec<Property>,
    pub(crate) client_id: Vec<u8>,
    pub(crate) will: Option<Will>,
    pub(crate) user_name: Option<Vec<u8>>,
    pub(crate) password: Option<Vec<u8>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Will {
    pub(crate) topic: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) properties: Vec<Property>,
}

impl Will {
    pub(crate) fn new(topic: &str, payload: &[u8]) -> Self {
        let (topic, payload) = (topic.as_bytes().to_vec(), payload.to_vec());
        Self { topic, payload, qos: 0, retain: false, properties: Vec::new() }
    }
}

impl Connect {
    /// A clean one that any server takes.
    pub(crate) fn new(version: Version, client_id: &str) -> Self {
        let (name, level) = match version {
            V31 => (&b"MQIsdp"[..], 3),
            V311 => (&b"MQTT"[..], 4),
            V5 => (&b"MQTT"[..], 5),
        };
        Self {
            version,
            name: name.to_vec(),
            level,
            clean: true,
            spoil_flags: 0,
            keep_alive: 600,
            properties: Vec::new(),
            client_id: client_id.as_bytes().to_vec(),
            will: None,
            user_name: None,
            password: None,
        }
    }

    pub(crate) fn with(self, properties: &[Property]) -> Self {
        Self { properties: properties.to_vec(), ..self }
    }

    pub(crate) fn will(self, will: Will) -> Self {
        Self { will: Some(will), ..self }
    }

    /// With a session that outlives its connection by so many seconds; v3 has no number for it.
    pub(crate) fn lasting(mut self, seconds: u32) -> Self {
        if self.version == V5 {
            self.properties.push(long(id::SESSION_EXPIRY, seconds));
        }
        Self { clean: false, ..self }
    }

    pub(crate) fn flags(&self) -> u8 {
        let will = self.will.as_ref().map_or(0, |will| 0x04 | will.qos << 3 | u8::from(will.retain) << 5);
        let user = u8::from(self.user_name.is_some()) << 7 | u8::from(self.password.is_some()) << 6;
        (u8::from(self.clean) << 1 | will | user) ^ self.spoil_flags
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut body = string(&self.name);
        body.extend([self.level, self.flags()]);
        body.extend(self.keep_alive.to_be_bytes());
        body.extend(properties_in(self.version, &self.properties));
        body.extend(string(&self.client_id));
        if let Some(will) = &self.will {
            body.extend(properties_in(self.version, &will.properties));
            body.extend(string(&will.topic));
            body.extend(string(&will.payload));
        }
        body.extend([&self.user_name, &self.password].into_iter().flatten().flat_map(string));
        packet(CONNECT, &body)
    }
}

/// PUBLISH, field by field.
#[derive(Debug, Clone)]
pub(crate) struct Publish {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    pub(crate) packet_id: u16,
    pub(crate) properties: Vec<Property>,
}

impl Publish {
    pub(crate) fn new(topic: &str, payload: impl AsRef<[u8]>) -> Self {
        Self {
            topic: topic.to_owned(),
            payload: payload.as_ref().to_vec(),
            qos: 0,
            retain: false,
            dup: false,
            packet_id: 0,
            properties: Vec::new(),
        }
    }

    pub(crate) fn qos(self, qos: u8) -> Self {
        Self { qos, ..self }
    }

    /// Above QoS 0, under this identifier.
    pub(crate) fn id(self, packet_id: u16) -> Self {
        Self { packet_id, ..self }
    }

    pub(crate) fn retained(self) -> Self {
        Self { retain: true, ..self }
    }

    pub(crate) fn again(self) -> Self {
        Self { dup: true, ..self }
    }

    pub(crate) fn with(self, properties: &[Property]) -> Self {
        Self { properties: properties.to_vec(), ..self }
    }

    pub(crate) fn bytes(&self, version: Version) -> Vec<u8> {
        let mut body = string(&self.topic);
        if self.qos > 0 {
            body.extend(self.packet_id.to_be_bytes());
        }
        body.extend(properties_in(version, &self.properties));
        body.extend(&self.payload);
        packet(PUBLISH | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain), &body)
    }
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP in the form that all versions have.
pub(crate) fn ack(first: u8, packet_id: u16) -> Vec<u8> {
    packet(first, &packet_id.to_be_bytes())
}

/// The same with a reason, for v5.
pub(crate) fn ack_because(first: u8, packet_id: u16, reason: u8) -> Vec<u8> {
    packet(first, &[&packet_id.to_be_bytes()[..], &[reason]].concat())
}

pub(crate) fn subscribe(
    version: Version,
    packet_id: u16,
    list: &[Property],
    filters: &[(&str, u8)],
) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    body.extend(properties_in(version, list));
    for (filter, options) in filters {
        body.extend(string(filter));
        body.push(*options);
    }
    packet(SUBSCRIBE, &body)
}

pub(crate) fn unsubscribe(version: Version, packet_id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    body.extend(properties_in(version, &[]));
    body.extend(filters.iter().flat_map(string));
    packet(UNSUBSCRIBE, &body)
}

/// DISCONNECT of v5; the one of v3 is `packet(DISCONNECT, &[])`.
pub(crate) fn disconnect(reason: u8, list: &[Property]) -> Vec<u8> {
    packet(DISCONNECT, &[&[reason], &*properties(list)].concat())
}

pub(crate) fn auth(reason: u8, list: &[Property]) -> Vec<u8> {
    packet(AUTH, &[&[reason], &*properties(list)].concat())
}
