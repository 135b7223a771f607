//! Events on a terminal: one live line for each thing under way, with its seconds; what is done scrolls up above.

use std::collections::HashMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use parking_lot::Mutex;

use super::lines::line;
use super::{Event, Listener, Palette};

/// More lines than this do not fit a screen; what is under way beyond it has no line of its own.
const MAX_LINES: usize = 20;

pub struct Bars {
    screen: MultiProgress,
    live: Mutex<Live>,
    palette: Palette,
    verbosity: i8,
}

/// Live lines by who and what they are about: two steps may be under way on one machine.
type Live = HashMap<(String, String), ProgressBar>;

impl Bars {
    pub fn new(palette: Palette, verbosity: i8) -> Self {
        Self { screen: MultiProgress::new(), live: Mutex::default(), palette, verbosity }
    }

    /// The line for this, made if it is new and there is room.
    fn line(&self, who: &str, what: &str) -> Option<ProgressBar> {
        let mut live = self.live.lock();
        let key = (who.to_owned(), what.to_owned());
        if !live.contains_key(&key) && live.len() < MAX_LINES {
            let bar = self.screen.add(ProgressBar::new_spinner().with_style(spinner()));
            bar.set_prefix(who.to_owned());
            bar.set_message(what.to_owned());
            bar.enable_steady_tick(Duration::from_millis(100));
            live.insert(key.clone(), bar);
        }
        live.get(&key).cloned()
    }

    /// Takes away the line for this; if it has none of its own, all lines of `who`, whose work it was.
    fn finish(&self, who: &str, what: &str) {
        let mut live = self.live.lock();
        let exact = live.remove(&(who.to_owned(), what.to_owned()));
        let others = live.extract_if(|key, _| exact.is_none() && key.0 == who).map(|(_, bar)| bar);
        for bar in exact.clone().into_iter().chain(others) {
            bar.finish_and_clear();
            self.screen.remove(&bar);
        }
    }

    fn advance(&self, who: &str, what: &str, done: u64, total: u64) {
        let Some(bar) = self.line(who, what) else { return };
        if total > 0 && bar.length() != Some(total) {
            bar.set_length(total);
            bar.set_style(bytes());
        }
        bar.set_position(done);
    }

    /// The last line that a build printed stands beside it; all of them are told with `-v`.
    fn output(&self, who: &str, output: &str) {
        let known = self.live.lock().iter().find(|(key, _)| key.0 == who).map(|(_, bar)| bar.clone());
        if let Some(bar) = known.or_else(|| self.line(who, "")) {
            bar.set_style(spinner());
            bar.set_message(output.trim_end().to_owned());
        }
    }
}

impl Listener for Bars {
    fn on(&self, event: &Event) {
        match event {
            Event::Started { who, what } => drop(self.line(who, what)),
            Event::Progress { who, what, done, total } => return self.advance(who, what, *done, *total),
            Event::Output { who, line } if self.verbosity == 0 => return self.output(who, line),
            Event::Done { who, what, .. } | Event::Failed { who, what, .. } => self.finish(who, what),
            _ => {}
        }
        if matches!(event, Event::Started { .. }) {
            return;
        }
        if let Some(line) = line(event, self.palette, self.verbosity) {
            let _ = self.screen.println(line);
        }
    }

    fn end(&self) {
        for (_, bar) in self.live.lock().drain() {
            bar.finish_and_clear();
        }
        let _ = self.screen.clear();
    }
}

fn spinner() -> ProgressStyle {
    styled("{spinner} {prefix}: {wide_msg} {elapsed:>4}")
}

fn bytes() -> ProgressStyle {
    styled("{spinner} {prefix}: {msg} [{wide_bar}] {bytes}/{total_bytes} {elapsed:>4}").progress_chars("=> ")
}

fn styled(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates above are constant and parse")
}
