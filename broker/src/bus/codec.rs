//! What nodes write to each other's inboxes. Pure.
//!
//! `B` sender number packets… — messages, each with its length before it; the number tells a repeated batch.
//! `H` number hints… — entries that were put into queues of sessions whose clients are connected here, each with its session,
//! its place and its length before it; the number counts the hints for this node. Place 0: the session ends, it is too full.
//! `K` epoch `:` client id — that client is connected elsewhere now.

/// One inbox message, understood.
#[derive(Debug, PartialEq, Eq)]
pub enum Inbound<'b> {
    Batch { sender: u64, number: u64, messages: Messages<'b> },
    Hints { number: u64, hints: Hints<'b> },
    Kick { epoch: u64, client_id: &'b str },
}

/// The messages of a batch; ends early where the bytes do not make sense.
#[derive(Debug, PartialEq, Eq)]
pub struct Messages<'b>(&'b [u8]);

/// The hints of a message; ends early where the bytes do not make sense.
#[derive(Debug, PartialEq, Eq)]
pub struct Hints<'b>(&'b [u8]);

/// An entry of a session's queue, as it stands there.
#[derive(Debug, PartialEq, Eq)]
pub struct Hint<'b> {
    pub session: u64,
    pub place: u64,
    pub entry: &'b [u8],
}

const HEADER: usize = 1 + 8 + 8;

pub fn begin(sender: u64, number: u64) -> Vec<u8> {
    let mut batch = Vec::with_capacity(1024);
    batch.push(b'B');
    batch.extend_from_slice(&sender.to_be_bytes());
    batch.extend_from_slice(&number.to_be_bytes());
    batch
}

pub fn push(batch: &mut Vec<u8>, message: &[u8]) {
    let length = u32::try_from(message.len()).expect("a packet is shorter than 256 MB");
    batch.extend_from_slice(&length.to_be_bytes());
    batch.extend_from_slice(message);
}

/// Gives a batch of [`begin`] another number.
pub fn set_number(batch: &mut [u8], number: u64) {
    if let Some(place) = batch.get_mut(HEADER - 8..HEADER) {
        place.copy_from_slice(&number.to_be_bytes());
    }
}

/// `None` for what no node of ours writes.
pub fn read(bytes: &[u8]) -> Option<Inbound<'_>> {
    match bytes.first()? {
        b'B' => {
            let (header, rest) = bytes.split_at_checked(HEADER)?;
            let sender = u64::from_be_bytes(header[1..9].try_into().ok()?);
            let number = u64::from_be_bytes(header[9..].try_into().ok()?);
            Some(Inbound::Batch { sender, number, messages: Messages(rest) })
        }
        b'H' => {
            let (number, rest) = bytes[1..].split_first_chunk::<8>()?;
            Some(Inbound::Hints { number: u64::from_be_bytes(*number), hints: Hints(rest) })
        }
        b'K' => {
            let (epoch, client_id) = std::str::from_utf8(&bytes[1..]).ok()?.split_once(':')?;
            Some(Inbound::Kick { epoch: epoch.parse().ok()?, client_id })
        }
        _ => None,
    }
}

impl<'b> Iterator for Messages<'b> {
    type Item = &'b [u8];

    fn next(&mut self) -> Option<&'b [u8]> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        let (message, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        self.0 = rest;
        Some(message)
    }
}

impl<'b> Iterator for Hints<'b> {
    type Item = Hint<'b>;

    fn next(&mut self) -> Option<Hint<'b>> {
        let (session, rest) = self.0.split_first_chunk::<8>()?;
        let (place, rest) = rest.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (entry, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        self.0 = rest;
        Some(Hint { session: u64::from_be_bytes(*session), place: u64::from_be_bytes(*place), entry })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_and_kicks_come_back_as_they_were() {
        let mut batch = begin(7, 9);
        push(&mut batch, b"one");
        push(&mut batch, b"");
        push(&mut batch, b"three");
        set_number(&mut batch, 10);
        let Some(Inbound::Batch { sender: 7, number: 10, messages }) = read(&batch) else {
            panic!("a batch")
        };
        assert_eq!(messages.collect::<Vec<_>>(), [&b"one"[..], b"", b"three"]);
        let hints =
            [b"H", &7_u64.to_be_bytes()[..], &[0; 7], b"\x09", &[0; 7], b"\x03", b"\0\0\0\x02ab", b"cut"]
                .concat();
        let Some(Inbound::Hints { number: 7, hints }) = read(&hints) else { panic!("hints") };
        assert_eq!(hints.collect::<Vec<_>>(), [Hint { session: 9, place: 3, entry: b"ab" }]);
        assert_eq!(read(b"K12:a:b"), Some(Inbound::Kick { epoch: 12, client_id: "a:b" }));
    }

    #[test]
    fn nonsense_is_nothing() {
        for bytes in [&b""[..], b"B", b"B12345678", b"H1234567", b"K", b"Kx:a", b"K1", b"Z", b"K1:\xff"] {
            assert_eq!(read(bytes), None, "{bytes:?}");
        }
        let mut batch = begin(1, 1);
        push(&mut batch, b"whole");
        batch.extend_from_slice(&[0, 0, 0, 9, 1]);
        let Some(Inbound::Batch { messages, .. }) = read(&batch) else { panic!("a batch") };
        assert_eq!(messages.collect::<Vec<_>>(), [b"whole"]);
    }
}
