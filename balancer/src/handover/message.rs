//! PURE. What the two processes say to each other: one JSON text a message. Files that go with a message belong to what it
//! lists, in that order.

use std::net::SocketAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::framing::Framing;
use crate::health::State;

/// Changes whenever an older process would misunderstand.
pub const VERSION: u32 = 1;
/// A longer message is nobody's: [`SESSIONS`] with the longest names fit.
pub const LONGEST: usize = 128 * 1024;
/// Sessions in a message; with two files each, far below the 253 that the kernel passes at once.
pub const SESSIONS: usize = 32;
/// Servers, counts, or listening sockets with a file each, in a message.
pub const LISTED: usize = 64;

/// What the new process says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromNew {
    /// The first of all; every version understands it.
    Hello { version: u32 },
    /// It could accept now, at these of the listeners, and has made its own sockets beside the old one's under its number
    /// (see [`nsd_edge::socket_file`]), for the old one to put in their place. How fast sessions that stay are to leave (a pace, as settings write
    /// it), and when it must be over.
    Ready { pid: u32, listens: Vec<SocketAddr>, rate: String, deadline_ms: u64 },
    /// It has the first so many sessions of that batch, and reads them from now on.
    Have { batch: u64, sessions: usize },
    /// The client has come to it: older sessions of the client at this backend are not wanted.
    Came { backend: String, client: String },
    /// It stops, as it was told to.
    Stopping,
}

/// What the old process says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromOld {
    /// The answer to `Hello`: who it is, and how many sessions it has.
    Welcome {
        pid: u32,
        sessions: usize,
    },
    /// Or why not.
    Refused {
        why: String,
    },
    /// Where it listens, with a file each.
    Listeners {
        addresses: Vec<SocketAddr>,
    },
    Servers {
        servers: Vec<Server>,
    },
    /// All listeners and servers were told.
    Complete,
    /// The answer to `Ready`: it accepts no more.
    Yours,
    /// With two files each: the client's and the server's.
    Sessions {
        batch: u64,
        sessions: Vec<Session>,
    },
    /// Sessions that it still has; of servers that are not named it has as many as before.
    Counts {
        counts: Vec<Count>,
    },
    /// It goes on as if nothing had been asked.
    Withdrawn {
        why: String,
    },
}

/// Which server: as the settings say it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Which {
    pub backend: String,
    pub name: String,
    pub address: String,
}

/// What is known of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    pub which: Which,
    pub state: State,
    /// Checks in a row that speak against the state.
    pub streak: u32,
    /// Where its name was found last.
    pub resolved: Option<SocketAddr>,
    pub sessions: u32,
    pub sessions_total: u64,
    pub connect_failures: u64,
    pub suspicions: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    pub which: Which,
    pub sessions: u32,
}

/// What is known of a session. Nothing of what it sends is held anywhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub server: Which,
    pub frontend: String,
    /// The client; not its socket's address behind a proxy.
    pub peer: SocketAddr,
    /// The protocol level; `None`: not MQTT.
    pub level: Option<u8>,
    /// A process that does not tell may have left clients alone that could be moved, no more.
    #[serde(default)]
    pub clean: bool,
    #[serde(default)]
    pub will: bool,
    pub client_id: String,
    pub user_name: String,
    pub age_ms: u64,
    /// For how long its client may be silent (0: for ever), and is.
    pub silence_ms: u32,
    pub silent_ms: u32,
    /// Bytes that went there, and where in a packet they ended.
    pub up: u64,
    pub down: u64,
    pub framing_up: Framing,
    pub framing_down: Framing,
}

impl Session {
    fn is_sound(&self) -> bool {
        self.framing_up.is_sound() && self.framing_down.is_sound()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Garbled {
    #[error("{0} bytes are too many for a message")]
    TooLong(usize),
    #[error("not a message: {0}")]
    Json(#[from] serde_json::Error),
    #[error("a session is nowhere in its packets")]
    Framing,
}

/// What may be said, and what must hold of it.
pub trait Message: Serialize + DeserializeOwned {
    fn is_sound(&self) -> bool;
}

impl Message for FromNew {
    fn is_sound(&self) -> bool {
        true
    }
}

impl Message for FromOld {
    fn is_sound(&self) -> bool {
        match self {
            Self::Sessions { sessions, .. } => sessions.iter().all(Session::is_sound),
            _ => true,
        }
    }
}

pub fn encode(message: &impl Message) -> Result<Vec<u8>, Garbled> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > LONGEST { Err(Garbled::TooLong(bytes.len())) } else { Ok(bytes) }
}

pub fn decode<M: Message>(bytes: &[u8]) -> Result<M, Garbled> {
    let message: M = serde_json::from_slice(bytes)?;
    if message.is_sound() { Ok(message) } else { Err(Garbled::Framing) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn session(name: &str) -> Session {
        let which = |name: &str| Which { backend: name.into(), name: name.into(), address: name.repeat(2) };
        Session {
            server: which(name),
            frontend: name.to_owned(),
            peer: "[2001:db8::1]:65535".parse().unwrap(),
            level: Some(5),
            clean: true,
            will: true,
            client_id: name.to_owned(),
            user_name: name.to_owned(),
            age_ms: u64::MAX,
            silence_ms: u32::MAX,
            silent_ms: u32::MAX,
            up: u64::MAX,
            down: u64::MAX,
            framing_up: Framing::default(),
            framing_down: Framing::lost(),
        }
    }

    #[test]
    fn the_largest_batch_fits() {
        // The longest names that settings allow, and of what clients say each character written as six.
        let said = "\u{1}".repeat(128);
        let longest = Session { client_id: said.clone(), user_name: said, ..session(&"n".repeat(128)) };
        let sessions = vec![longest; SESSIONS];
        let message = FromOld::Sessions { batch: u64::MAX, sessions };
        let bytes = encode(&message).unwrap();
        assert!(bytes.len() > LONGEST / 2, "the limit is far too large: {}", bytes.len());
        assert_eq!(decode::<FromOld>(&bytes).unwrap(), message);
    }

    #[test]
    fn a_greeting_of_another_version_is_understood() {
        let hello: FromNew = decode(br#"{"hello":{"version":99,"colour":"blue"}}"#).unwrap();
        assert_eq!(hello, FromNew::Hello { version: 99 });
    }

    #[test]
    fn a_session_that_is_nowhere_is_refused() {
        let message = FromOld::Sessions { batch: 1, sessions: vec![session("a")] };
        let text = String::from_utf8(encode(&message).unwrap()).unwrap();
        let wrong = text.replacen("\"Boundary\"", "{\"Length\":200}", 1);
        assert_ne!(text, wrong);
        assert!(matches!(decode::<FromOld>(wrong.as_bytes()), Err(Garbled::Framing)));
    }

    proptest! {
        #[test]
        fn a_session_arrives_as_it_was(
            names in any::<[String; 3]>(), level in prop::option::of(any::<u8>()), passed: Vec<u8>, bytes: u64,
        ) {
            let mut framing_up = Framing::default();
            framing_up.follow(&passed);
            let [client_id, user_name, frontend] = names;
            let session = Session { client_id, user_name, frontend, level, up: bytes, framing_up, ..session("x") };
            let message = FromOld::Sessions { batch: bytes, sessions: vec![session] };
            prop_assert_eq!(decode::<FromOld>(&encode(&message).unwrap()).unwrap(), message);
        }

        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes: Vec<u8>) {
            let _ = (decode::<FromOld>(&bytes).is_ok(), decode::<FromNew>(&bytes).is_ok());
        }
    }
}
