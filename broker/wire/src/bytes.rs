//! Looking for a few bytes in many, eight at a time: every topic of every message is looked through.

/// Whether any of `wanted` is in `bytes`.
#[inline]
pub(crate) fn has_any<const N: usize>(bytes: &[u8], wanted: [u8; N]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut found = 0;
    for word in words {
        let word = u64::from_ne_bytes(*word);
        for byte in wanted {
            found |= zero_bytes(word ^ repeat(byte));
        }
    }
    found != 0 || rest.iter().any(|byte| wanted.contains(byte))
}

const fn repeat(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Not 0 exactly if one of the eight bytes is 0: subtracting 1 borrows into the top bit of such a byte, and of no
/// other before it that had its top bit clear.
const fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(repeat(0x01)) & !word & repeat(0x80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_at_every_place() {
        for length in 1..40 {
            for at in 0..length {
                for byte in 0..=255 {
                    let mut bytes = vec![b'x'; length];
                    bytes[at] = byte;
                    assert_eq!(
                        has_any(&bytes, *b"+#\0"),
                        b"+#\0".contains(&byte),
                        "{byte} at {at} of {length}"
                    );
                }
            }
        }
        assert!(!has_any(b"", *b"a"));
        assert!(!has_any(&[0x80, 0xff, 0x81, 0x01, 0x80, 0xff, 0x01, 0x80], [0]));
    }
}
