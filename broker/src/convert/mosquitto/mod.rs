//! The common part of `mosquitto.conf` → our settings. Every line either takes effect in the settings, or says what is
//! the case here anyway, or stands as a comment in the settings with its number and the reason.

mod listener;
mod options;
mod text;

use super::Note;
use listener::Listener;

/// One line that says something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// `FILE:NUMBER`.
    pub at: String,
    pub key: String,
    pub value: String,
}

/// The settings, and what has to be done besides.
#[derive(Debug, Default)]
pub struct Configuration {
    pub toml: String,
    pub notes: Vec<Note>,
    /// Combined PEM files that the settings name: our one file holds what Mosquitto has in two.
    pub certificates: Vec<Combined>,
}

/// To be written beside the settings: both files, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Combined {
    pub name: String,
    pub chain: String,
    pub key: String,
}

/// The lines of one file. `include_dir` is a line like others; who reads files puts in what it stands for.
pub fn lines(file: &str, text: &str) -> Vec<Line> {
    let meant = |(number, line): (usize, &str)| {
        // Mosquitto knows comments at the beginning of a line only.
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let (key, value) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        Some(Line {
            at: format!("{file}:{}", number + 1),
            key: key.to_owned(),
            value: value.trim().to_owned(),
        })
    };
    text.lines().enumerate().filter_map(meant).collect()
}

/// `beside`: the folder that the settings, and the certificates with them, will be in.
pub fn mosquitto(lines: &[Line], beside: &str) -> Configuration {
    let mut draft = Draft::default();
    let mut part = Part::General;
    for line in lines {
        draft.read(line, &mut part);
    }
    draft.finish(beside)
}

/// Which part of the file a line belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    General,
    /// A listener, by its place in the draft.
    Listener(usize),
    Bridge,
}

/// What has been understood so far.
#[derive(Debug, Default)]
struct Draft {
    /// The one that needs no `listener` line; only there if something is said about it.
    default: Option<Listener>,
    listeners: Vec<Listener>,
    persistence: bool,
    persistence_location: Option<String>,
    allow_anonymous: Vec<bool>,
    password_file: Option<String>,
    acl_file: Option<String>,
    per_listener: bool,
    /// Keys of `[limits]`, `[sys]` and `[log]`, ready to be written.
    limits: Vec<(&'static str, String)>,
    sys_interval: Option<String>,
    log_level: Option<&'static str>,
    notes: Vec<Note>,
}

impl Draft {
    fn read(&mut self, line: &Line, part: &mut Part) {
        match line.key.as_str() {
            "connection" => {
                *part = Part::Bridge;
                self.note(line, "bridges are not known here");
            }
            "listener" => {
                match Listener::parse(&line.value) {
                    Ok(listener) => {
                        self.listeners.push(listener);
                        *part = Part::Listener(self.listeners.len() - 1);
                    }
                    Err(what) => {
                        // What follows belongs to a listener that will not be.
                        *part = Part::Bridge;
                        self.note(line, what);
                    }
                }
            }
            _ if line.value.is_empty() => self.note(line, "says nothing"),
            _ if *part == Part::Bridge && !options::is_general(&line.key) => {
                self.note(line, "belongs to a bridge or to a listener that has no counterpart");
            }
            _ => {
                let known = self.of_listener(line, *part).or_else(|| self.of_all(line));
                match known {
                    Some(Ok(())) => {}
                    Some(Err(what)) => self.note(line, &what),
                    None => self.note(line, options::why_not(&line.key)),
                }
            }
        }
    }

    /// An option of the listener that the line stands under. `None`: it is no option of listeners.
    fn of_listener(&mut self, line: &Line, part: Part) -> Option<Result<(), String>> {
        if !listener::OPTIONS.contains(&line.key.as_str()) {
            return None;
        }
        let listener = match part {
            // These two are about the default listener, wherever they stand.
            Part::Listener(index) if !matches!(line.key.as_str(), "port" | "bind_address") => {
                self.listeners.get_mut(index)?
            }
            _ => self.default.get_or_insert_with(Listener::default),
        };
        Some(listener.set(&line.key, &line.value))
    }

    fn note(&mut self, line: &Line, what: &str) {
        // Words of some lines are secrets, and those of plugins may be.
        let shown = if options::may_be_secret(&line.key) || line.value.is_empty() {
            line.key.clone()
        } else {
            format!("{} {}", line.key, line.value)
        };
        self.notes.push(Note { at: line.at.clone(), what: format!("`{shown}`: {what}") });
    }
}

#[cfg(test)]
mod tests;
