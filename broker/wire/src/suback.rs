//! SUBACK and UNSUBACK: one code for each filter that was asked about.

use std::fmt;

use crate::{
    ack::{self, ReasonProperties},
    error::{
        DecodeError::{self, Malformed, Protocol},
        EncodeError,
    },
    frame::PacketType,
    property,
    qos::PacketId,
    reader::Reader,
    reason::ReasonCode,
    version::Version,
    writer::{self, Body, Sink, varint},
};

/// The answer to a SUBSCRIBE. Before v5 every failure is 0x80.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubAck<'a> {
    pub packet_id: PacketId,
    pub properties: ReasonProperties<'a>,
    pub codes: ReasonCodes<'a>,
}

/// The answer to an UNSUBSCRIBE. Before v5 it has no codes: they are not written, and none are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsubAck<'a> {
    pub packet_id: PacketId,
    pub properties: ReasonProperties<'a>,
    pub codes: ReasonCodes<'a>,
}

/// Bytes of a v5 SUBACK or UNSUBACK with so many codes and no properties.
pub fn bare_length(codes: usize) -> Result<usize, EncodeError> {
    let body = 2 + 1 + codes;
    Ok(1 + varint(body)?.1 + body)
}

/// Codes in the order of the filters.
#[derive(Clone, Copy)]
pub struct ReasonCodes<'a>(Codes<'a>);

#[derive(Clone, Copy)]
enum Codes<'a> {
    /// Validated bytes of a packet.
    Wire(&'a [u8]),
    List(&'a [ReasonCode]),
}

impl<'a> SubAck<'a> {
    /// A SUBACK without properties.
    pub fn new(packet_id: PacketId, codes: &'a [ReasonCode]) -> Self {
        Self { packet_id, properties: ReasonProperties::default(), codes: ReasonCodes::from_list(codes) }
    }

    pub(crate) fn decode(version: Version, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let properties =
            if version.is_v5() { property::read(&mut reader)? } else { ReasonProperties::default() };
        let codes = read_codes(version, PacketType::SubAck, &mut reader)?;
        Ok(Self { packet_id, properties, codes })
    }

    /// Appends the packet to `out`.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.codes.is_empty() {
            return Err(EncodeError::Empty);
        }
        writer::packet(PacketType::SubAck.first_byte(), self, version, out)
    }
}

impl<'a> UnsubAck<'a> {
    /// An UNSUBACK without properties.
    pub fn new(packet_id: PacketId, codes: &'a [ReasonCode]) -> Self {
        Self { packet_id, properties: ReasonProperties::default(), codes: ReasonCodes::from_list(codes) }
    }

    pub(crate) fn decode(version: Version, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        if !version.is_v5() {
            reader.end()?;
            return Ok(Self::new(packet_id, &[]));
        }
        let properties = property::read(&mut reader)?;
        let codes = read_codes(version, PacketType::UnsubAck, &mut reader)?;
        Ok(Self { packet_id, properties, codes })
    }

    /// Appends the packet to `out`.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.codes.is_empty() && version.is_v5() {
            return Err(EncodeError::Empty);
        }
        writer::packet(PacketType::UnsubAck.first_byte(), self, version, out)
    }
}

fn read_codes<'a>(
    version: Version,
    kind: PacketType,
    reader: &mut Reader<'a>,
) -> Result<ReasonCodes<'a>, DecodeError> {
    let codes = reader.take_rest();
    if codes.is_empty() {
        return Err(Protocol("no code"));
    }
    for &code in codes {
        if version.is_v5() {
            ack::reason_of(code, kind)?;
        } else if !matches!(code, 0..=2 | 0x80) {
            return Err(Malformed("a reserved return code"));
        }
    }
    Ok(ReasonCodes(Codes::Wire(codes)))
}

impl Body for SubAck<'_> {
    fn write_body<S: Sink>(&self, version: Version, sink: &mut S) -> Result<(), EncodeError> {
        sink.u16(self.packet_id.get());
        if version.is_v5() {
            sink.section(&self.properties)?;
        }
        for code in self.codes {
            let code =
                if version.is_v5() || !code.is_failure() { code } else { ReasonCode::UnspecifiedError };
            sink.u8(code as u8);
        }
        Ok(())
    }
}

impl Body for UnsubAck<'_> {
    fn write_body<S: Sink>(&self, version: Version, sink: &mut S) -> Result<(), EncodeError> {
        sink.u16(self.packet_id.get());
        if version.is_v5() {
            sink.section(&self.properties)?;
            self.codes.iter().for_each(|code| sink.u8(code as u8));
        }
        Ok(())
    }
}

impl<'a> ReasonCodes<'a> {
    /// To be written from a list.
    pub const fn from_list(codes: &'a [ReasonCode]) -> Self {
        Self(Codes::List(codes))
    }

    pub const fn len(&self) -> usize {
        match self.0 {
            Codes::Wire(bytes) => bytes.len(),
            Codes::List(codes) => codes.len(),
        }
    }

    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One after another.
    pub const fn iter(&self) -> ReasonCodeIter<'a> {
        ReasonCodeIter(self.0)
    }
}

/// See [`ReasonCodes::iter`].
pub struct ReasonCodeIter<'a>(Codes<'a>);

impl Iterator for ReasonCodeIter<'_> {
    type Item = ReasonCode;

    fn next(&mut self) -> Option<ReasonCode> {
        match &mut self.0 {
            Codes::Wire(bytes) => bytes.split_off_first().and_then(|&code| ReasonCode::from_u8(code)),
            Codes::List(codes) => codes.split_off_first().copied(),
        }
    }
}

impl<'a> IntoIterator for ReasonCodes<'a> {
    type Item = ReasonCode;
    type IntoIter = ReasonCodeIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl PartialEq for ReasonCodes<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for ReasonCodes<'_> {}

impl fmt::Debug for ReasonCodes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
