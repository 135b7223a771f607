//! PURE. The CONNECT gate: a client's first packet is read and judged before any server is touched. What passes is
//! kept byte for byte, with whatever came behind it, to be sent to a server, and to another one if the first fails.

pub mod rates;

use std::ops::RangeInclusive;
use std::time::Duration;

use nsd_wire::connack::unsupported_version;
use nsd_wire::{ConnAck, Connect, DecodeError, Frame, Packet, PacketType, ReadError, ReasonCode, Version};

use rates::Rate;

/// The first byte of every CONNECT; its low half is fixed.
const CONNECT: u8 = (PacketType::Connect as u8) << 4;
/// The first byte of every CONNACK.
const CONNACK: u8 = (PacketType::ConnAck as u8) << 4;
/// The first byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// Read at most before the length is known: all of a usual CONNECT, and what its client sends right behind it.
const FIRST_READ: usize = 4096;
/// A longer CONNACK is passed on without a look at its properties.
const LONGEST_CONNACK: usize = 4096;
/// Where the protocol level ends in a CONNECT's body: after the longest name.
const LEVEL_END: usize = 9;

/// Sizes that a limit of the CONNECT may have: a whole first read, and what the wire can tell.
pub const CONNECT_SIZES: RangeInclusive<usize> = FIRST_READ..=16 * 1024 * 1024;

/// What an operator says about CONNECTs. The defaults let every sound one in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateRules {
    /// For the whole CONNECT, counted from when the connection could carry it.
    pub deadline: Duration,
    /// For a server's answer to it; then another server is asked.
    pub answer_timeout: Duration,
    /// The largest CONNECT, its fixed header included.
    pub max_connect: usize,
    /// Versions let in; never empty.
    pub versions: Vec<Version>,
    /// The longest client identifier, in bytes.
    pub max_client_id: usize,
    pub empty_client_id: bool,
    pub require_user_name: bool,
    /// The longest keep alive in seconds; where there is one, a client without keep alive is refused too.
    pub max_keep_alive: Option<u16>,
    pub source_rate: Option<Rate>,
    pub client_rate: Option<Rate>,
    /// After one and a half keep alives, for the server to close a silent client itself.
    pub keep_alive_grace: Duration,
    /// How long a client without keep alive may be silent; `None`: for ever.
    pub silent_after: Option<Duration>,
}

impl Default for GateRules {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(5),
            max_connect: 256 * 1024,
            versions: Version::ALL.to_vec(),
            max_client_id: usize::from(u16::MAX),
            empty_client_id: true,
            require_user_name: false,
            max_keep_alive: None,
            source_rate: None,
            client_rate: None,
            keep_alive_grace: Duration::from_secs(10),
            silent_after: None,
        }
    }
}

/// Why a client was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Its CONNECT was not there in time.
    TooSlow,
    /// It ended before its CONNECT was complete.
    Unfinished,
    /// What it sends is no CONNECT.
    NotMqtt,
    /// It speaks TLS on a plain port.
    TlsOnPlain,
    Malformed,
    TooLarge,
    Version,
    ClientId,
    NoUserName,
    KeepAlive,
    SourceRate,
    ClientRate,
    /// A rule of the frontend refuses it, or none has a backend for it.
    Rule,
}

impl Refusal {
    /// As the access log has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooSlow => "connect-timeout",
            Self::Unfinished => "connect-unfinished",
            Self::NotMqtt => "not-mqtt",
            Self::TlsOnPlain => "tls-on-plain-port",
            Self::Malformed => "connect-malformed",
            Self::TooLarge => "connect-too-large",
            Self::Version => "version-refused",
            Self::ClientId => "client-id-refused",
            Self::NoUserName => "user-name-missing",
            Self::KeepAlive => "keep-alive-refused",
            Self::SourceRate => "source-rate",
            Self::ClientRate => "client-rate",
            Self::Rule => "refused-by-rule",
        }
    }

    fn reason(self) -> ReasonCode {
        match self {
            Self::TooSlow | Self::Unfinished | Self::NotMqtt | Self::TlsOnPlain => {
                ReasonCode::UnspecifiedError
            }
            Self::Malformed => ReasonCode::MalformedPacket,
            Self::TooLarge => ReasonCode::PacketTooLarge,
            Self::Version => ReasonCode::UnsupportedProtocolVersion,
            Self::ClientId => ReasonCode::ClientIdentifierNotValid,
            Self::NoUserName | Self::KeepAlive | Self::Rule => ReasonCode::NotAuthorized,
            Self::SourceRate | Self::ClientRate => ReasonCode::ConnectionRateExceeded,
        }
    }
}

/// A refusal, and the last words to the client: the CONNACK of its version, or nothing where it would not be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub why: Refusal,
    pub answer: Vec<u8>,
}

impl Refused {
    /// Told as far as `version` has words for it. A v3 client that breaks the protocol is closed without a word
    /// [MQTT-4.8.0-1].
    pub fn new(why: Refusal, version: Option<Version>) -> Self {
        let speaks = match why {
            Refusal::TooSlow | Refusal::Unfinished | Refusal::NotMqtt | Refusal::TlsOnPlain => None,
            Refusal::Malformed => version.filter(|version| version.is_v5()),
            _ => version,
        };
        Self { why, answer: speaks.map_or_else(Vec::new, |version| connack(why.reason(), version)) }
    }
}

/// The refusing CONNACK of a version.
pub fn connack(reason: ReasonCode, version: Version) -> Vec<u8> {
    let mut answer = Vec::new();
    // A CONNACK without properties always fits.
    let _ = ConnAck::new(false, reason).encode(version, &mut answer);
    answer
}

/// What is known of a client that may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    pub version: Version,
    /// Seconds; 0: none.
    pub keep_alive: u16,
    /// Its session ends with its connection, and goes on with none of before.
    pub clean: bool,
    /// Its server has a will to fire for it.
    pub will: bool,
}

/// What follows from the bytes so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Not all has arrived; the gate has room for so many more bytes.
    More(usize),
    Passed(Passed),
    Refused(Refused),
}

/// One client at the gate. Its memory grows with what has arrived, and never over the larger of the first read and the
/// CONNECT's limit.
#[derive(Debug, Default)]
pub struct Gate {
    bytes: Vec<u8>,
}

impl Gate {
    /// Room before anything has arrived.
    pub const FIRST_ROOM: usize = FIRST_READ;

    /// Takes what arrived, no more than there is room for, and judges.
    pub fn take(&mut self, arrived: &[u8], rules: &GateRules) -> Verdict {
        self.keep(arrived, rules.max_connect.max(FIRST_READ));
        let Some(&first) = self.bytes.first() else { return Verdict::More(FIRST_READ) };
        if first != CONNECT {
            let why = if first == TLS_HANDSHAKE { Refusal::TlsOnPlain } else { Refusal::NotMqtt };
            return Verdict::Refused(Refused::new(why, None));
        }
        let frame = match nsd_wire::frame(&self.bytes, usize::MAX) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Verdict::More(FIRST_READ - self.bytes.len()),
            Err(_) => return Verdict::Refused(Refused::new(Refusal::Malformed, None)),
        };
        if frame.len() > rules.max_connect {
            return self.too_large(&frame);
        }
        if let Some(refused) = self.refused_early(&frame, rules) {
            return Verdict::Refused(refused);
        }
        match nsd_wire::read(Version::V311, &self.bytes, rules.max_connect) {
            Ok(Some((Packet::Connect(connect), _))) => judge(&connect, rules),
            Ok(Some(_)) => Verdict::Refused(Refused::new(Refusal::NotMqtt, None)),
            Ok(None) => Verdict::More(frame.len() - self.bytes.len()),
            Err(error) => Verdict::Refused(self.malformed(&frame, &error)),
        }
    }

    /// The CONNECT, and all that has arrived behind it, in order.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the client said, once all of it is there.
    pub fn connect(&self) -> Option<Connect<'_>> {
        match nsd_wire::read(Version::V311, &self.bytes, usize::MAX) {
            Ok(Some((Packet::Connect(connect), _))) => Some(connect),
            _ => None,
        }
    }

    /// As soon as the first bytes tell it.
    pub fn version(&self) -> Option<Version> {
        let frame = nsd_wire::frame(&self.bytes, usize::MAX).ok().flatten()?;
        match self.level(&frame) {
            Level::Known(version) => Some(version),
            _ => None,
        }
    }

    /// Grows by doubling, so that bytes one by one cost little, but not over the limit.
    fn keep(&mut self, arrived: &[u8], limit: usize) {
        let needed = self.bytes.len() + arrived.len();
        if needed > self.bytes.capacity() {
            let doubled = (2 * self.bytes.capacity()).min(limit);
            self.bytes.reserve_exact(needed.max(doubled) - self.bytes.len());
        }
        self.bytes.extend_from_slice(arrived);
    }

    /// By its version, which stands in the first bytes: whoever sends anything else than a CONNECT of MQTT need not be
    /// waited for. Looked at also where all is there, so that how the bytes were cut changes nothing.
    fn refused_early(&self, frame: &Frame, rules: &GateRules) -> Option<Refused> {
        match self.level(frame) {
            Level::Unknown => None,
            Level::Known(version) if rules.versions.contains(&version) => None,
            Level::Known(version) => Some(Refused::new(Refusal::Version, Some(version))),
            Level::Unsupported(level) => Some(unsupported(level)),
            Level::NotMqtt => Some(Refused::new(Refusal::NotMqtt, None)),
        }
    }

    /// Refused by the declared length alone, once it is known in which words.
    fn too_large(&self, frame: &Frame) -> Verdict {
        let version = match self.level(frame) {
            Level::Unknown => return Verdict::More(frame.header + LEVEL_END - self.bytes.len()),
            Level::Known(version) => version,
            Level::Unsupported(level) => return Verdict::Refused(unsupported(level)),
            Level::NotMqtt => return Verdict::Refused(Refused::new(Refusal::NotMqtt, None)),
        };
        Verdict::Refused(Refused::new(Refusal::TooLarge, Some(version)))
    }

    fn malformed(&self, frame: &Frame, error: &ReadError) -> Refused {
        match (error, self.level(frame)) {
            (ReadError::Decode(DecodeError::UnsupportedVersion { level }), _) => unsupported(*level),
            (ReadError::Decode(DecodeError::UnknownProtocol), _) | (_, Level::NotMqtt) => {
                Refused::new(Refusal::NotMqtt, None)
            }
            (error, Level::Known(version)) if version.is_v5() => {
                Refused { why: Refusal::Malformed, answer: connack(error.reason(), version) }
            }
            _ => Refused::new(Refusal::Malformed, None),
        }
    }

    fn level(&self, frame: &Frame) -> Level {
        let body = &self.bytes[frame.header..self.bytes.len().min(frame.len())];
        let Some((name_length, rest)) = body.split_first_chunk::<2>() else { return Level::Unknown };
        let name: &[u8] = match u16::from_be_bytes(*name_length) {
            4 => b"MQTT",
            6 => b"MQIsdp",
            _ => return Level::NotMqtt,
        };
        if !rest.iter().zip(name).all(|(arrived, wanted)| arrived == wanted) {
            return Level::NotMqtt;
        }
        let Some(&level) = rest.get(name.len()) else { return Level::Unknown };
        match Version::from_level(level).filter(|version| version.protocol_name().as_bytes() == name) {
            Some(version) => Level::Known(version),
            None => Level::Unsupported(level),
        }
    }
}

/// What the first bytes of a CONNECT say of its version.
enum Level {
    Unknown,
    Known(Version),
    Unsupported(u8),
    NotMqtt,
}

fn unsupported(level: u8) -> Refused {
    Refused { why: Refusal::Version, answer: unsupported_version(level).to_vec() }
}

fn judge(connect: &Connect<'_>, rules: &GateRules) -> Verdict {
    let too_long = |most: u16| connect.keep_alive == 0 || connect.keep_alive > most;
    let id = connect.client_id;
    let why = if !rules.versions.contains(&connect.version) {
        Refusal::Version
    } else if id.len() > rules.max_client_id || (id.is_empty() && !rules.empty_client_id) {
        Refusal::ClientId
    } else if rules.require_user_name && connect.user_name.is_none_or(str::is_empty) {
        Refusal::NoUserName
    } else if rules.max_keep_alive.is_some_and(too_long) {
        Refusal::KeepAlive
    } else {
        let (version, keep_alive) = (connect.version, connect.keep_alive);
        let (clean, will) = (is_clean(connect), connect.will.is_some());
        return Verdict::Passed(Passed { version, keep_alive, clean, will });
    };
    Verdict::Refused(Refused::new(why, Some(connect.version)))
}

/// Before v5, one flag says both; there, the expiry says what becomes of the session [MQTT-3.1.2-23].
fn is_clean(connect: &Connect<'_>) -> bool {
    connect.clean_start && connect.properties.session_expiry.unwrap_or(0) == 0
}

/// What a server's first bytes mean for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    More,
    /// Whatever it says is for the client.
    ForClient,
    /// It cannot take the client now; another server may.
    Unavailable,
}

/// Judges the beginning of a server's answer. A server that asks for more (AUTH), or that says something strange, has
/// spoken: that is between it and the client. A CONNACK is waited for until it is whole, unless it is overly long: its
/// properties matter too.
pub fn answer(bytes: &[u8], version: Version) -> Answer {
    match bytes.first() {
        None => return Answer::More,
        Some(&first) if first != CONNACK => return Answer::ForClient,
        Some(_) => {}
    }
    let Ok(frame) = nsd_wire::frame(bytes, LONGEST_CONNACK) else { return Answer::ForClient };
    let Some(body) = frame.map(|frame| frame.body_of(bytes)) else { return Answer::More };
    let Some(body) = body else { return Answer::More };
    let Some(&code) = body.get(1) else { return Answer::ForClient };
    let unavailable = if version.is_v5() {
        const UNAVAILABLE: [ReasonCode; 3] =
            [ReasonCode::ServerUnavailable, ReasonCode::ServerBusy, ReasonCode::ServerShuttingDown];
        UNAVAILABLE.iter().any(|reason| *reason as u8 == code)
    } else {
        code == nsd_wire::ConnectReturnCode::ServerUnavailable as u8
    };
    if unavailable { Answer::Unavailable } else { Answer::ForClient }
}

/// The code of a CONNACK, as it is on the wire. `None`: not one, or not all of it that matters.
pub fn connack_code(answer: &[u8]) -> Option<u8> {
    let frame = nsd_wire::frame(answer, usize::MAX).ok().flatten()?;
    let code = answer.get(frame.header + 1);
    code.filter(|_| frame.kind == PacketType::ConnAck).copied()
}

/// Whether the server's answer lets the client in. One that cannot be told to, does not.
pub fn is_success(answer: &[u8]) -> bool {
    connack_code(answer) == Some(ReasonCode::Success as u8)
}

/// How long the client may be silent: one and a half keep alives [MQTT-3.1.2-22], and the grace; without keep alive, what
/// the rules say. `None`: for ever, or it cannot be told. A v5 server may have set another keep alive in its answer
/// [MQTT-3.2.2-21].
pub fn longest_silence(passed: Passed, answer: &[u8], rules: &GateRules) -> Option<Duration> {
    let keep_alive = if passed.version.is_v5() {
        match nsd_wire::read(Version::V5, answer, LONGEST_CONNACK) {
            Ok(Some((Packet::ConnAck(connack), _))) => {
                connack.properties.server_keep_alive.unwrap_or(passed.keep_alive)
            }
            _ => return None,
        }
    } else {
        passed.keep_alive
    };
    if keep_alive == 0 {
        return rules.silent_after;
    }
    Some(Duration::from_secs(keep_alive.into()) * 3 / 2 + rules.keep_alive_grace)
}

#[cfg(test)]
mod tests;
