//! Events as JSON lines on stderr, for programs.

use super::{Event, Listener, diagnose};

pub struct Json;

impl Listener for Json {
    fn on(&self, event: &Event) {
        if let Ok(line) = serde_json::to_string(event) {
            diagnose(&line);
        }
    }
}
