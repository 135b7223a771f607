//! A cursor over the body of one packet. Every read is checked, and a read past the end is a malformed packet: the
//! body is complete, so nothing is ever waited for.

use crate::{
    bytes::has_any,
    error::DecodeError::{self, Malformed},
    qos::PacketId,
};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

const ENDS_EARLY: DecodeError = Malformed("it ends too early");

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Everything that is left.
    pub(crate) const fn take_rest(&mut self) -> &'a [u8] {
        let rest = self.rest;
        self.rest = &[];
        rest
    }

    #[inline]
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(ENDS_EARLY)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        let (&byte, rest) = self.rest.split_first().ok_or(ENDS_EARLY)?;
        self.rest = rest;
        Ok(byte)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(ENDS_EARLY)?;
        self.rest = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(ENDS_EARLY)?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    #[inline]
    /// A variable byte integer of at most four bytes, in its shortest form [MQTT-1.5.5-1].
    pub(crate) fn varint(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0;
        for at in 0..4 {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                let minimal = byte != 0 || at == 0;
                return if minimal {
                    Ok(value)
                } else {
                    Err(Malformed("a length has more bytes than it needs"))
                };
            }
        }
        Err(Malformed("a length has more than four bytes"))
    }

    /// Binary data: two bytes of length, then the bytes.
    #[inline]
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    /// A UTF-8 string without U+0000 [MQTT-1.5.4-1, MQTT-1.5.4-2].
    pub(crate) fn string(&mut self) -> Result<&'a str, DecodeError> {
        let bytes = self.binary()?;
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed("a string is not UTF-8"))?;
        if has_any(bytes, [0]) { Err(Malformed("a string has U+0000")) } else { Ok(text) }
    }

    #[inline]
    pub(crate) fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        PacketId::new(self.u16()?).ok_or(DecodeError::Protocol("packet identifier 0"))
    }

    /// The end of the packet: nothing may follow.
    pub(crate) const fn end(&self) -> Result<(), DecodeError> {
        if self.is_empty() { Ok(()) } else { Err(Malformed("bytes follow its end")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_that_are_none() {
        for (bytes, what) in [
            (&[0, 2, b'a'][..], "it ends too early"),
            (&[0], "it ends too early"),
            (&[0, 1, 0], "a string has U+0000"),
            (&[0, 3, 0xed, 0xa0, 0x80], "a string is not UTF-8"), // U+D800, a surrogate
            (&[0, 2, 0xc0, 0x80], "a string is not UTF-8"),       // U+0000 written long
        ] {
            assert_eq!(Reader::new(bytes).string(), Err(Malformed(what)), "{bytes:02x?}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_kept() {
        assert_eq!(Reader::new(&[0, 4, 0xef, 0xbb, 0xbf, b'a']).string(), Ok("\u{feff}a")); // [MQTT-1.5.4-3]
    }

    #[test]
    fn varints() {
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0x7f]).varint(), Ok(268_435_455));
        assert!(Reader::new(&[0x80, 0x00]).varint().is_err());
        assert!(Reader::new(&[0x80, 0x80, 0x80, 0x80, 0x01]).varint().is_err());
        assert!(Reader::new(&[0x80]).varint().is_err());
    }
}
