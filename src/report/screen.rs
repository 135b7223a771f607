//! Stdout: the results of a command, as text for people or JSON for programs. A reader that left early is no error.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

/// Colours that may be switched off; every meaning they carry also stands in words or signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Palette {
    on: bool,
}

impl Palette {
    pub const PLAIN: Self = Self { on: false };

    pub const fn new(on: bool) -> Self {
        Self { on }
    }

    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub fn red(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    pub fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub fn cyan(self, text: &str) -> String {
        self.paint("36", text)
    }

    /// One of six colours by number, to tell sources of lines apart.
    pub fn nth(self, number: usize, text: &str) -> String {
        self.paint(["36", "33", "32", "35", "34", "31"][number % 6], text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.on && !text.is_empty() { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// The results' way out; clones share what they know about the reader.
#[derive(Clone)]
pub struct Screen {
    pub json: bool,
    pub palette: Palette,
    left: Arc<AtomicBool>,
}

impl Screen {
    /// `color` unless stdout is no terminal.
    pub fn new(json: bool, color: bool) -> Self {
        let palette = Palette::new(color && !json && std::io::stdout().is_terminal());
        Self { json, palette, left: Arc::default() }
    }

    /// A result: `text` for people, or `value` as one JSON document.
    pub fn show<T: Serialize>(&self, value: &T, text: impl FnOnce() -> String) {
        if self.json {
            self.document(value);
        } else {
            self.say(&text());
        }
    }

    /// One JSON value on a line of its own.
    pub fn record<T: Serialize>(&self, value: &T) {
        if let Ok(text) = serde_json::to_string(value) {
            self.say(&text);
        }
    }

    /// Text for people, a line end added. An empty text prints nothing.
    pub fn say(&self, text: &str) {
        if !text.is_empty() {
            self.write(format!("{}\n", text.trim_end_matches('\n')).as_bytes());
        }
    }

    pub fn write(&self, bytes: &[u8]) {
        let mut stdout = std::io::stdout().lock();
        if stdout.write_all(bytes).and_then(|()| stdout.flush()).is_err() {
            self.left.store(true, Ordering::Relaxed);
        }
    }

    /// The reader closed the pipe (`| head`): an endless command may end, with success.
    pub fn reader_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    fn document<T: Serialize>(&self, value: &T) {
        if let Ok(text) = serde_json::to_string_pretty(value) {
            self.say(&text);
        }
    }
}
