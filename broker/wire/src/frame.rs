//! Framing: where a packet begins and ends in a stream, and nothing of what is in it.
//!
//! Only the fixed header is read here, so a server can refuse a packet that is too large before it has arrived, and
//! can tell "not all here yet" from "broken": after framing, missing bytes are always an error of the packet.

use thiserror::Error;

use crate::reason::ReasonCode;

/// The largest remaining length that four bytes can hold.
pub const MAX_REMAINING_LENGTH: usize = 268_435_455;

/// The longest fixed header.
pub const MAX_HEADER: usize = 5;

/// The kind of a control packet.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

impl PacketType {
    /// All kinds, by number.
    pub const ALL: [Self; 15] = [
        Self::Connect,
        Self::ConnAck,
        Self::Publish,
        Self::PubAck,
        Self::PubRec,
        Self::PubRel,
        Self::PubComp,
        Self::Subscribe,
        Self::SubAck,
        Self::Unsubscribe,
        Self::UnsubAck,
        Self::PingReq,
        Self::PingResp,
        Self::Disconnect,
        Self::Auth,
    ];

    /// The kind of a number; 0 is reserved.
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            1..=15 => Some(Self::ALL[value as usize - 1]),
            _ => None,
        }
    }

    /// The low half of the first byte that the specification fixes for every kind but PUBLISH.
    pub const fn fixed_flags(self) -> u8 {
        match self {
            Self::PubRel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            _ => 0,
        }
    }

    /// The first byte of a packet of this kind.
    pub(crate) const fn first_byte(self) -> u8 {
        (self as u8) << 4 | self.fixed_flags()
    }
}

/// A fixed header: what kind of packet, and how many bytes it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    pub kind: PacketType,
    /// The low four bits of the first byte.
    pub flags: u8,
    /// Bytes of the fixed header: 2 to 5.
    pub header: usize,
    /// Bytes after the fixed header: the remaining length.
    pub body: usize,
}

impl Frame {
    /// Bytes of the whole packet.
    #[expect(clippy::len_without_is_empty, reason = "a packet has two bytes at least")]
    pub const fn len(&self) -> usize {
        self.header + self.body
    }

    /// The packet's body in the bytes that [`frame`] was given; `None` while it has not all arrived.
    pub fn body_of<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        bytes.get(self.header..self.len())
    }
}

/// Why the bytes of a stream are no packet. The stream cannot be read on after any of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    #[error("packet type 0 is reserved")]
    ReservedType,
    #[error("the remaining length has more than four bytes")]
    LengthTooLong,
    #[error("the remaining length has more bytes than it needs")]
    LengthNotMinimal,
    #[error("a packet of {size} bytes is over the limit of {limit}")]
    TooLarge { size: usize, limit: usize },
}

impl FrameError {
    /// What a v5 peer is told.
    pub const fn reason(&self) -> ReasonCode {
        match self {
            Self::TooLarge { .. } => ReasonCode::PacketTooLarge,
            _ => ReasonCode::MalformedPacket,
        }
    }
}

/// Reads the fixed header at the start of `bytes`. `Ok(None)`: it has not all arrived.
///
/// `max_packet` counts the whole packet, as the Maximum Packet Size of v5 does. The body need not have arrived.
#[inline]
pub fn frame(bytes: &[u8], max_packet: usize) -> Result<Option<Frame>, FrameError> {
    let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
    let kind = PacketType::from_u8(first >> 4).ok_or(FrameError::ReservedType)?;
    let Some((body, length_bytes)) = remaining_length(rest)? else { return Ok(None) };
    let frame = Frame { kind, flags: first & 0x0f, header: 1 + length_bytes, body };
    if frame.len() > max_packet {
        return Err(FrameError::TooLarge { size: frame.len(), limit: max_packet });
    }
    Ok(Some(frame))
}

#[inline]
fn remaining_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, FrameError> {
    let mut value = 0;
    for (at, &byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            // A last byte of 0 carries nothing: the same number fits in one byte less [MQTT-1.5.5-1].
            let minimal = byte != 0 || at == 0;
            return if minimal { Ok(Some((value, at + 1))) } else { Err(FrameError::LengthNotMinimal) };
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(FrameError::LengthTooLong) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_LIMIT: usize = usize::MAX;

    #[test]
    fn lengths_at_every_border() {
        for (body, header) in
            [(0, 2), (127, 2), (128, 3), (16_383, 3), (16_384, 4), (2_097_151, 4), (2_097_152, 5)]
                .into_iter()
                .chain([(MAX_REMAINING_LENGTH, 5)])
        {
            let mut bytes = vec![0xc0];
            let mut rest = body;
            while rest > 0x7f {
                bytes.push((rest & 0x7f) as u8 | 0x80);
                rest >>= 7;
            }
            bytes.push(rest as u8);
            let wanted = Frame { kind: PacketType::PingReq, flags: 0, header, body };
            assert_eq!(frame(&bytes, NO_LIMIT), Ok(Some(wanted)));
            for cut in 0..bytes.len() {
                assert_eq!(frame(&bytes[..cut], NO_LIMIT), Ok(None), "{body} cut at {cut}");
            }
        }
    }

    #[test]
    fn broken_headers() {
        for (bytes, error) in [
            (&[0x00][..], FrameError::ReservedType),
            (&[0x0f, 0x00], FrameError::ReservedType),
            (&[0xc0, 0x80, 0x00], FrameError::LengthNotMinimal),
            (&[0xc0, 0xff, 0x80, 0x00], FrameError::LengthNotMinimal),
            (&[0x30, 0x80, 0x80, 0x80, 0x00], FrameError::LengthNotMinimal),
            (&[0x30, 0xff, 0xff, 0xff, 0xff], FrameError::LengthTooLong),
            (&[0x30, 0x80, 0x80, 0x80, 0x80, 0x01], FrameError::LengthTooLong),
        ] {
            assert_eq!(frame(bytes, NO_LIMIT), Err(error), "{bytes:02x?}");
            assert_eq!(error.reason(), ReasonCode::MalformedPacket);
        }
    }

    #[test]
    fn the_limit_counts_the_whole_packet_and_needs_no_body() {
        assert!(frame(&[0x30, 10], 12).is_ok());
        let error = FrameError::TooLarge { size: 12, limit: 11 };
        assert_eq!(frame(&[0x30, 10], 11), Err(error));
        assert_eq!(error.reason(), ReasonCode::PacketTooLarge);
    }

    #[test]
    fn every_kind_has_its_number() {
        for kind in PacketType::ALL {
            assert_eq!(PacketType::from_u8(kind as u8), Some(kind));
        }
        assert_eq!(PacketType::from_u8(0), None);
        assert_eq!(PacketType::from_u8(16), None);
    }
}
