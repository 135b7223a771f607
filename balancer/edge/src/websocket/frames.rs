//! Frames of RFC 6455 → the payload in them, in place and without gathering any: a frame of any length costs the fourteen
//! bytes of its header. Pure; headers are `tungstenite`'s to read and write.

use std::io::Cursor;

use thiserror::Error;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// What a control frame may carry.
const CONTROL_MAX: u64 = 125;

/// Why a connection ends; the client is told the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Violation {
    #[error("a text frame, where only binary ones are spoken")]
    Text,
    #[error("a frame longer than {0} bytes")]
    TooLong(u64),
    #[error("malformed WebSocket frame: {0}")]
    Malformed(&'static str),
}

impl Violation {
    pub(super) fn code(self) -> CloseCode {
        match self {
            Self::Text => CloseCode::Unsupported,
            Self::TooLong(_) => CloseCode::Size,
            Self::Malformed(_) => CloseCode::Protocol,
        }
    }
}

/// What a frame asks for that is no payload.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Wants its bytes back.
    Ping(Vec<u8>),
    /// Ends the stream; nothing after it counts.
    Close(Option<CloseCode>),
}

#[derive(Debug)]
pub(super) struct Decoder {
    longest: u64,
    /// The beginning of the next frame's header.
    head: [u8; 14],
    have: usize,
    frame: Option<Frame>,
    /// A message's first frame has come, and its last one has not.
    in_message: bool,
    /// What has come of a control frame's payload.
    control: Vec<u8>,
    closed: bool,
}

/// The frame whose payload is being read.
#[derive(Debug)]
struct Frame {
    kind: OpCode,
    left: u64,
    /// Turned so that its first byte is the next one's.
    mask: [u8; 4],
}

impl Decoder {
    pub(super) fn new(longest: u64) -> Self {
        Self {
            longest,
            head: [0; 14],
            have: 0,
            frame: None,
            in_message: false,
            control: Vec::new(),
            closed: false,
        }
    }

    /// Moves the payload in `bytes` to their front and tells its length.
    pub(super) fn decode(
        &mut self,
        bytes: &mut [u8],
        mut ask: impl FnMut(Asked),
    ) -> Result<usize, Violation> {
        let (mut read, mut kept) = (0, 0);
        while !self.closed {
            let Some(frame) = &mut self.frame else {
                if read == bytes.len() {
                    break;
                }
                read += self.take_header(&bytes[read..])?;
                continue;
            };
            let here = usize::try_from(frame.left).unwrap_or(usize::MAX).min(bytes.len() - read);
            let payload = &mut bytes[read..read + here];
            frame.unmask(payload);
            frame.left -= here as u64;
            let (kind, is_whole) = (frame.kind, frame.left == 0);
            match kind {
                OpCode::Data(_) => {
                    bytes.copy_within(read..read + here, kept);
                    kept += here;
                }
                OpCode::Control(_) => self.control.extend_from_slice(payload),
            }
            read += here;
            if !is_whole {
                break;
            }
            self.frame = None;
            if let OpCode::Control(control) = kind
                && let Some(asked) = self.controlled(control)?
            {
                ask(asked);
            }
        }
        Ok(kept)
    }

    /// Takes as much of the next header as there is.
    fn take_header(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        let mut taken = 0;
        while self.have < length(&self.head[..self.have]) {
            let Some(byte) = bytes.get(taken) else { return Ok(taken) };
            self.head[self.have] = *byte;
            self.have += 1;
            taken += 1;
        }
        let mut head = Cursor::new(&self.head[..std::mem::take(&mut self.have)]);
        let parsed = FrameHeader::parse(&mut head).map_err(|_| Violation::Malformed("unknown opcode"))?;
        let (header, left) = parsed.ok_or(Violation::Malformed("a header that is none"))?;
        self.check(&header, left)?;
        let mask = header.mask.ok_or(Violation::Malformed("not masked, as a client's must be"))?;
        self.frame = Some(Frame { kind: header.opcode, left, mask });
        Ok(taken)
    }

    fn check(&mut self, header: &FrameHeader, length: u64) -> Result<(), Violation> {
        let malformed = |what| Err(Violation::Malformed(what));
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return malformed("reserved bits are set, but no extension was agreed on");
        }
        match header.opcode {
            OpCode::Control(_) if !header.is_final => return malformed("a control frame in fragments"),
            OpCode::Control(_) if length > CONTROL_MAX => return malformed("a control frame too long"),
            OpCode::Control(_) => return Ok(()),
            OpCode::Data(Data::Text) => return Err(Violation::Text),
            OpCode::Data(Data::Continue) if !self.in_message => return malformed("continues nothing"),
            OpCode::Data(Data::Binary) if self.in_message => return malformed("a message within another"),
            OpCode::Data(_) => self.in_message = !header.is_final,
        }
        if length > self.longest { Err(Violation::TooLong(self.longest)) } else { Ok(()) }
    }

    fn controlled(&mut self, control: Control) -> Result<Option<Asked>, Violation> {
        let payload = std::mem::take(&mut self.control);
        if control == Control::Ping {
            return Ok(Some(Asked::Ping(payload)));
        }
        if control != Control::Close {
            return Ok(None);
        }
        self.closed = true;
        let Some((code, reason)) = payload.split_first_chunk() else {
            let empty = payload.is_empty();
            return if empty {
                Ok(Some(Asked::Close(None)))
            } else {
                Err(Violation::Malformed("half a code"))
            };
        };
        let code = CloseCode::from(u16::from_be_bytes(*code));
        if !code.is_allowed() || std::str::from_utf8(reason).is_err() {
            return Err(Violation::Malformed("a close that no endpoint may send"));
        }
        Ok(Some(Asked::Close(Some(code))))
    }
}

impl Frame {
    fn unmask(&mut self, payload: &mut [u8]) {
        for four in payload.chunks_mut(4) {
            four.iter_mut().zip(self.mask).for_each(|(byte, mask)| *byte ^= mask);
        }
        self.mask.rotate_left(payload.len() % 4);
    }
}

/// How long a header is that begins so, as far as one can tell yet.
fn length(head: &[u8]) -> usize {
    let Some(second) = head.get(1) else { return 2 };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + extended + mask
}

/// The header of a whole binary message that we send: on the stack, since there is one for each write.
#[derive(Debug)]
pub(super) struct BinaryHeader {
    bytes: [u8; 14],
    length: usize,
}

impl BinaryHeader {
    pub(super) fn of(length: usize) -> Self {
        let mut bytes = [0; 14];
        let header = FrameHeader { opcode: OpCode::Data(Data::Binary), ..FrameHeader::default() };
        // The longest header fits.
        let _ = header.format(length as u64, &mut &mut bytes[..]);
        Self { bytes, length: header.len(length as u64) }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

pub(super) fn pong(payload: &[u8]) -> Vec<u8> {
    control(Control::Pong, payload)
}

pub(super) fn close(code: Option<CloseCode>) -> Vec<u8> {
    let code = code.map(|code| u16::from(code).to_be_bytes());
    control(Control::Close, code.as_ref().map_or(&[], |code| code))
}

fn control(control: Control, payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader { opcode: OpCode::Control(control), ..FrameHeader::default() };
    let mut frame = Vec::with_capacity(2 + payload.len());
    // Writing into memory does not fail.
    let _ = header.format(payload.len() as u64, &mut frame);
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame as a client writes it.
    fn framed(opcode: OpCode, is_final: bool, payload: &[u8]) -> Vec<u8> {
        let mask = [7, 0, 255, 93];
        let header = FrameHeader { opcode, is_final, mask: Some(mask), ..FrameHeader::default() };
        let mut frame = Vec::new();
        header.format(payload.len() as u64, &mut frame).unwrap();
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    const BINARY: OpCode = OpCode::Data(Data::Binary);
    const CONTINUE: OpCode = OpCode::Data(Data::Continue);

    fn control_frame(control: Control, payload: &[u8]) -> Vec<u8> {
        framed(OpCode::Control(control), true, payload)
    }

    fn outcome(bytes: &[u8]) -> Result<(Vec<u8>, Vec<Asked>), Violation> {
        let (mut bytes, mut asked) = (bytes.to_vec(), Vec::new());
        let kept = Decoder::new(1000).decode(&mut bytes, |what| asked.push(what))?;
        Ok((bytes[..kept].to_vec(), asked))
    }

    #[test]
    fn what_the_specification_forbids_is_refused_with_its_code() {
        let long = framed(BINARY, true, &[0; 1001]);
        let text = framed(OpCode::Data(Data::Text), true, b"x");
        let mut unmasked = framed(BINARY, true, b"");
        unmasked[1] &= 0x7f;
        let mut reserved = framed(BINARY, true, b"");
        reserved[0] |= 0x40;
        let within = [framed(BINARY, false, b"a"), framed(BINARY, true, b"b")].concat();
        for (bytes, code) in [
            (text, CloseCode::Unsupported),
            (long, CloseCode::Size),
            (unmasked, CloseCode::Protocol),
            (reserved, CloseCode::Protocol),
            (within, CloseCode::Protocol),
            (framed(CONTINUE, true, b"a"), CloseCode::Protocol),
            (vec![0x83, 0x80, 0, 0, 0, 0], CloseCode::Protocol),
            (framed(OpCode::Control(Control::Ping), false, b""), CloseCode::Protocol),
            (control_frame(Control::Ping, &[0; 126]), CloseCode::Protocol),
            (control_frame(Control::Close, &[3]), CloseCode::Protocol),
            (control_frame(Control::Close, &1005_u16.to_be_bytes()), CloseCode::Protocol),
            (control_frame(Control::Close, b"\x03\xe8\xff"), CloseCode::Protocol),
            // A length that no memory has.
            ([&[0x82, 0xff][..], &[0x7f; 8], &[0; 4]].concat(), CloseCode::Size),
        ] {
            assert_eq!(outcome(&bytes).map_err(Violation::code), Err(code), "{bytes:02x?}");
        }
    }

    #[test]
    fn fragments_may_be_interrupted_by_pings_and_nothing_counts_after_a_close() {
        let all = [
            framed(BINARY, false, b"ab"),
            control_frame(Control::Ping, b"?"),
            framed(CONTINUE, false, b""),
            control_frame(Control::Pong, b"unasked"),
            framed(CONTINUE, true, b"cd"),
            control_frame(Control::Close, b"\x03\xe8bye"),
            framed(BINARY, true, b"late"),
        ];
        let asked = vec![Asked::Ping(b"?".to_vec()), Asked::Close(Some(CloseCode::Normal))];
        assert_eq!(outcome(&all.concat()), Ok((b"abcd".to_vec(), asked)));
    }

    proptest! {
        #[test]
        fn payload_comes_out_as_it_went_in_wherever_it_is_cut(
            messages in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..300), any::<bool>()), 0..8),
            cuts in prop::collection::vec(1..40_usize, 1..20),
        ) {
            let mut wire = Vec::new();
            for (payload, ping) in &messages {
                if *ping {
                    wire.extend(control_frame(Control::Ping, &payload[..payload.len().min(125)]));
                }
                wire.extend(framed(BINARY, true, payload));
            }
            let (mut decoder, mut out, mut pings) = (Decoder::new(1000), Vec::new(), 0);
            let (mut rest, mut cuts) = (&mut wire[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let cut = rest.len().min(*cuts.next().unwrap());
                let (front, back) = rest.split_at_mut(cut);
                let kept = decoder.decode(front, |_| pings += 1).unwrap();
                out.extend_from_slice(&front[..kept]);
                rest = back;
            }
            prop_assert_eq!(out, messages.iter().flat_map(|(payload, _)| payload.clone()).collect::<Vec<_>>());
            prop_assert_eq!(pings, messages.iter().filter(|(_, ping)| *ping).count());
        }

        #[test]
        fn random_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut decoder = Decoder::new(1 << 20);
            for chunk in bytes.chunks_mut(17) {
                let length = chunk.len();
                match decoder.decode(chunk, drop) {
                    Ok(kept) => prop_assert!(kept <= length),
                    Err(_) => break,
                }
            }
        }
    }
}
