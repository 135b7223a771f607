//! TEMPORARY
use crate::link::LinkError;
use crate::mqtt::Identity;

pub const MARK: usize = 20;
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V31,
    V311,
    V5,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    AtMostOnce,
    AtLeastOnce,
    ExactlyOnce,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketType {
    Connect = 1,
    ConnAck,
    Publish,
    PubAck,
    PubRec,
    PubRel,
    PubComp,
    Subscribe,
    SubAck,
    Unsubscribe,
    UnsubAck,
    PingReq,
    PingResp,
    Disconnect,
    Auth,
}
#[derive(Debug, thiserror::Error)]
#[error("bad frame")]
pub struct FrameError;
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    pub kind: u8,
}

/// What arrives, as far as the tool looks.
#[derive(Debug)]
pub enum Incoming<'a> {
    Publish { qos: u8, id: u16, payload: &'a [u8] },
    Ack { kind: PacketType, id: u16 },
    Other { frame: Frame, body: &'a [u8] },
}
pub struct Mark {
    pub publisher: u32,
    pub number: u64,
    pub stamp: u64,
}

pub fn mark(p: &[u8]) -> Result<Mark, LinkError> {
    if p.len() < MARK {
        return Err(LinkError::Short);
    }
    Ok(Mark {
        publisher: u32::from_be_bytes(p[..4].try_into().unwrap()),
        number: u64::from_be_bytes(p[4..12].try_into().unwrap()),
        stamp: u64::from_be_bytes(p[12..20].try_into().unwrap()),
    })
}
fn s(out: &mut Vec<u8>, t: &[u8]) {
    out.extend((t.len() as u16).to_be_bytes());
    out.extend(t);
}
fn len(out: &mut Vec<u8>, mut n: usize) {
    loop {
        let b = (n & 127) as u8;
        n >>= 7;
        if n > 0 {
            out.push(b | 128)
        } else {
            out.push(b);
            break;
        }
    }
}
pub fn connect(i: &Identity, id: &str, out: &mut Vec<u8>) {
    let mut b = Vec::new();
    s(&mut b, b"MQTT");
    b.push(if i.version == Version::V5 { 5 } else { 4 });
    b.push(2 | if i.user.is_some() { 0x80 } else { 0 } | if i.password.is_some() { 0x40 } else { 0 });
    b.extend([0x0e, 0x10]);
    if i.version == Version::V5 {
        b.push(0);
    }
    s(&mut b, id.as_bytes());
    if let Some(u) = &i.user {
        s(&mut b, u.as_bytes());
    }
    if let Some(u) = &i.password {
        s(&mut b, u.as_bytes());
    }
    out.push(0x10);
    len(out, b.len());
    out.extend(b);
}
pub fn accepted(_v: Version, _f: Frame, body: &[u8]) -> Result<u16, LinkError> {
    if body.get(1) == Some(&0) { Ok(u16::MAX) } else { Err(LinkError::Refused(*body.get(1).unwrap_or(&255))) }
}
pub fn subscribe(v: Version, f: &str, q: Qos, out: &mut Vec<u8>) {
    let mut b = vec![0, 1];
    if v == Version::V5 {
        b.push(0);
    }
    s(&mut b, f.as_bytes());
    b.push(q as u8);
    out.push(0x82);
    len(out, b.len());
    out.extend(b);
}
pub fn subscribed(_v: Version, f: Frame, body: &[u8]) -> Option<Result<(), LinkError>> {
    (f.kind == 9).then(|| match body.last() {
        Some(c) if *c < 0x80 => Ok(()),
        c => Err(LinkError::NotSubscribed(*c.unwrap_or(&255))),
    })
}
pub fn disconnect(_v: Version, out: &mut Vec<u8>) {
    out.extend([0xe0, 0]);
}
pub fn ack(k: PacketType, id: u16, out: &mut Vec<u8>) {
    let first = (k as u8) << 4 | if k == PacketType::PubRel { 2 } else { 0 };
    let [h, l] = id.to_be_bytes();
    out.extend_from_slice(&[first, 2, h, l]);
}
#[derive(Debug)]
pub struct Template {
    bytes: Vec<u8>,
    id_at: Option<usize>,
    mark_at: usize,
}
impl Template {
    pub fn publish(v: Version, topic: &str, q: Qos, size: usize, publisher: u32) -> Result<Self, LinkError> {
        let mut b = Vec::new();
        s(&mut b, topic.as_bytes());
        if q != Qos::AtMostOnce {
            b.extend([0, 0]);
        }
        if v == Version::V5 {
            b.push(0);
        }
        b.resize(b.len() + size, b'x');
        let mut bytes = vec![0x30 | (q as u8) << 1];
        len(&mut bytes, b.len());
        let h = bytes.len();
        bytes.extend(b);
        let mark_at = bytes.len() - size;
        bytes[mark_at..mark_at + 4].copy_from_slice(&publisher.to_be_bytes());
        Ok(Self { bytes, id_at: (q != Qos::AtMostOnce).then_some(h + 2 + topic.len()), mark_at })
    }
    pub fn push(&self, number: u64, stamp: u64, id: u16, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(&self.bytes);
        let m = &mut out[at..];
        if let Some(i) = self.id_at {
            m[i..i + 2].copy_from_slice(&id.to_be_bytes());
        }
        m[self.mark_at + 4..self.mark_at + 12].copy_from_slice(&number.to_be_bytes());
        m[self.mark_at + 12..self.mark_at + 20].copy_from_slice(&stamp.to_be_bytes());
    }
}
pub fn next(v: Version, b: &[u8]) -> Result<Option<(Incoming<'_>, usize)>, LinkError> {
    if b.len() < 2 {
        return Ok(None);
    }
    let (mut n, mut shift, mut at) = (0usize, 0, 1);
    loop {
        let Some(&x) = b.get(at) else { return Ok(None) };
        at += 1;
        n |= ((x & 127) as usize) << shift;
        shift += 7;
        if x < 128 {
            break;
        }
    }
    let Some(body) = b.get(at..at + n) else { return Ok(None) };
    let p = match b[0] >> 4 {
        3 => {
            let qos = b[0] >> 1 & 3;
            let t = u16::from_be_bytes([body[0], body[1]]) as usize;
            let mut i = 2 + t;
            let mut id = 0;
            if qos > 0 {
                id = u16::from_be_bytes([body[i], body[i + 1]]);
                i += 2;
            }
            if v == Version::V5 {
                i += 1 + body[i] as usize;
            }
            Incoming::Publish { qos, id, payload: &body[i..] }
        }
        k @ 4..=7 => Incoming::Ack {
            kind: [PacketType::PubAck, PacketType::PubRec, PacketType::PubRel, PacketType::PubComp]
                [k as usize - 4],
            id: u16::from_be_bytes([body[0], body[1]]),
        },
        k => Incoming::Other { frame: Frame { kind: k }, body },
    };
    Ok(Some((p, at + n)))
}

pub const MAX_PACKET: usize = 128 * 1024;
pub fn connack_for(bytes: &[u8]) -> Result<Option<Vec<u8>>, LinkError> {
    match next(Version::V311, bytes)? {
        None => Ok(None),
        Some((Incoming::Other { frame, body }, _)) if frame.kind == 1 => {
            Ok(Some(if body.get(6) == Some(&5) { vec![0x20, 3, 0, 0, 0] } else { vec![0x20, 2, 0, 0] }))
        }
        Some(_) => Err(LinkError::Unexpected("CONNECT")),
    }
}
