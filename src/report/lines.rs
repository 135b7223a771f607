//! Events as plain timestamped lines on stderr: for CI, pipes and logs. No control characters, one line an event.

use std::time::Instant;

use super::{Event, Listener, Palette, diagnose, seconds};

pub struct Lines {
    began: Instant,
    palette: Palette,
    verbosity: i8,
}

impl Lines {
    /// `verbosity`: below 0 only warnings and failures, above 0 also starts and progress.
    pub fn new(palette: Palette, verbosity: i8) -> Self {
        Self { began: Instant::now(), palette, verbosity }
    }
}

impl Listener for Lines {
    fn on(&self, event: &Event) {
        if let Some(line) = line(event, self.palette, self.verbosity) {
            let at = self.began.elapsed().as_secs_f64();
            diagnose(&format!("{} {line}", self.palette.dim(&format!("{at:7.2}"))));
        }
    }
}

/// One event in one line; `None` when nobody asked for so much.
pub(super) fn line(event: &Event, palette: Palette, verbosity: i8) -> Option<String> {
    let told = match event {
        Event::Warning { who, what } => {
            return Some(format!("{} {}", palette.yellow("warning:"), named(who, what)));
        }
        Event::Failed { who, what, why } => {
            return Some(format!("{} {}: {why}", palette.red("failed:"), named(who, what)));
        }
        _ if verbosity < 0 => return None,
        Event::Phase { title } => palette.bold(title),
        Event::Done { who, what, took } => {
            format!("{}  {}", named(&palette.cyan(who), what), palette.dim(&seconds(*took)))
        }
        Event::Note { who, what } => named(&palette.cyan(who), what),
        Event::Output { who, line } => format!("{} {line}", palette.dim(&format!("{who} |"))),
        _ if verbosity == 0 => return None,
        Event::Started { who, what } => format!("{} …", named(&palette.cyan(who), what)),
        Event::Progress { who, what, done, total } => {
            format!("{} {done}/{total}", named(&palette.cyan(who), what))
        }
    };
    Some(told)
}

fn named(who: &str, what: &str) -> String {
    if who.is_empty() { what.to_owned() } else { format!("{who}: {what}") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn quiet_tells_only_trouble() {
        let done =
            Event::Done { who: "web-1".into(), what: "start x".into(), took: Duration::from_millis(1500) };
        let failed = Event::Failed { who: "web-1".into(), what: "start x".into(), why: "no".into() };
        assert_eq!(line(&done, Palette::PLAIN, -1), None);
        assert_eq!(line(&done, Palette::PLAIN, 0).unwrap(), "web-1: start x  1.5 s");
        assert_eq!(line(&failed, Palette::PLAIN, -1).unwrap(), "failed: web-1: start x: no");
    }

    #[test]
    fn starts_are_told_only_when_asked() {
        let started = Event::Started { who: "web-1".into(), what: "start x".into() };
        assert_eq!(line(&started, Palette::PLAIN, 0), None);
        assert_eq!(line(&started, Palette::PLAIN, 1).unwrap(), "web-1: start x …");
    }
}
