//! Other brokers' files → ours. Pure: text in, text out, and a note for each thing that could not be taken over. Nothing
//! is dropped in silence, and nothing becomes wider than it was.

mod glob;
mod mosca;
mod mosquitto;

use std::fmt;

pub use mosca::{Credentials, mosca};
pub use mosquitto::{Configuration, Line, lines, mosquitto};

/// Something that has no counterpart here, or not quite the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// File and line, or whatever names the place.
    pub at: String,
    pub what: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.what)
    }
}
