//! The one door to people. Work tells a [`Reporter`] what happens; the listener behind it decides how it looks. Results go
//! to stdout through [`Screen`]; progress and diagnostics go to stderr.

mod bars;
mod event;
mod json;
mod lines;
mod screen;
mod table;
mod trouble;

use std::io::Write;
use std::sync::Arc;

pub use bars::Bars;
pub use event::Event;
pub use json::Json;
pub use lines::Lines;
pub use screen::{Palette, Screen};
pub use table::Table;
pub use trouble::{failure_json, failure_text};

/// Shows events. Called from any task; must not block for long.
pub trait Listener: Send + Sync {
    fn on(&self, event: &Event);

    /// Nothing more will come: what stands half-drawn is taken away.
    fn end(&self) {}
}

/// Shows nothing: for questions whose answer is the result itself.
pub struct Silent;

impl Listener for Silent {
    fn on(&self, _event: &Event) {}
}

/// A cheap handle to the listener of this run.
#[derive(Clone)]
pub struct Reporter(Arc<dyn Listener>);

impl Reporter {
    pub fn new(listener: impl Listener + 'static) -> Self {
        Self(Arc::new(listener))
    }

    pub fn send(&self, event: Event) {
        self.0.on(&event);
    }

    pub fn end(&self) {
        self.0.end();
    }
}

/// Everything for a person who looks later: one line on stderr. A stderr that nobody reads is no reason to fail.
pub(crate) fn diagnose(line: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "{line}");
}

/// `0.4 s`, `12.3 s`, `2 m 05 s`.
pub fn seconds(took: std::time::Duration) -> String {
    let seconds = took.as_secs_f64();
    if seconds < 100.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{} m {:02} s", took.as_secs() / 60, took.as_secs() % 60)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::seconds;

    #[test]
    fn durations_read_well() {
        assert_eq!(seconds(Duration::from_millis(420)), "0.4 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 m 05 s");
    }
}
