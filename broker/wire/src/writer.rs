//! Writing packets. The same code runs twice: once into a [`Length`] that only counts (and finds every error), once
//! into the buffer. So lengths are always right, and a packet that cannot be written leaves the buffer untouched.

use crate::{
    error::EncodeError::{self, TooLong},
    frame::{MAX_HEADER, MAX_REMAINING_LENGTH},
    version::Version,
};

/// Where bytes go.
pub(crate) trait Sink: Sized {
    fn bytes(&mut self, bytes: &[u8]);

    fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    #[inline]
    fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    #[inline]
    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    #[inline]
    fn varint(&mut self, value: usize) -> Result<(), EncodeError> {
        let (bytes, length) = varint(value)?;
        self.bytes(&bytes[..length]);
        Ok(())
    }

    #[inline]
    fn binary(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.u16(u16::try_from(bytes.len()).map_err(|_| TooLong)?);
        self.bytes(bytes);
        Ok(())
    }

    #[inline]
    fn string(&mut self, text: &str) -> Result<(), EncodeError> {
        self.binary(text.as_bytes())
    }

    /// Properties behind their length.
    fn section(&mut self, section: &impl Section) -> Result<(), EncodeError> {
        self.varint(length_of(section)?)?;
        section.write(self)
    }
}

impl Sink for Vec<u8> {
    #[inline]
    fn bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    #[inline]
    fn u8(&mut self, value: u8) {
        self.push(value);
    }
}

/// A sink that counts.
#[derive(Debug, Default)]
pub(crate) struct Length(pub(crate) usize);

impl Sink for Length {
    #[inline]
    fn bytes(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }

    /// What is measured for its length need not be measured again.
    fn section(&mut self, section: &impl Section) -> Result<(), EncodeError> {
        let length = length_of(section)?;
        self.0 += varint(length)?.1 + length;
        Ok(())
    }
}

/// Something that is written behind its own length.
pub(crate) trait Section {
    fn write<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError>;
}

/// What comes after a fixed header.
pub(crate) trait Body {
    fn write_body<S: Sink>(&self, version: Version, sink: &mut S) -> Result<(), EncodeError>;
}

pub(crate) fn length_of(section: &impl Section) -> Result<usize, EncodeError> {
    let mut length = Length::default();
    section.write(&mut length)?;
    Ok(length.0)
}

/// Appends one packet to `out`.
pub(crate) fn packet(
    first: u8,
    body: &impl Body,
    version: Version,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let mut length = Length::default();
    body.write_body(version, &mut length)?;
    if length.0 > MAX_REMAINING_LENGTH {
        return Err(TooLong);
    }
    out.reserve(MAX_HEADER + length.0);
    out.u8(first);
    out.varint(length.0)?;
    body.write_body(version, out)
}

/// A variable byte integer and how many of the bytes it has.
#[inline]
pub(crate) fn varint(value: usize) -> Result<([u8; 4], usize), EncodeError> {
    if value > MAX_REMAINING_LENGTH {
        return Err(TooLong);
    }
    let mut bytes = [0; 4];
    let mut length = 0;
    let mut rest = value;
    loop {
        bytes[length] = (rest & 0x7f) as u8;
        rest >>= 7;
        if rest == 0 {
            return Ok((bytes, length + 1));
        }
        bytes[length] |= 0x80;
        length += 1;
    }
}
