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
    /// Live lines by who they are about.
    live: Mutex<HashMap<String, ProgressBar>>,
    palette: Palette,
    verbosity: i8,
}

impl Bars {
    pub fn new(palette: Palette, verbosity: i8) -> Self {
        Self { screen: MultiProgress::new(), live: Mutex::default(), palette, verbosity }
    }

    fn begin(&self, who: &str, what: &str) {
        let mut live = self.live.lock();
        if let Some(bar) = live.get(who) {
            bar.set_message(what.to_owned());
            bar.reset_elapsed();
        } else if live.len() < MAX_LINES {
            let bar = self.screen.add(ProgressBar::new_spinner().with_style(spinner()));
            bar.set_prefix(who.to_owned());
            bar.set_message(what.to_owned());
            bar.enable_steady_tick(Duration::from_millis(100));
            live.insert(who.to_owned(), bar);
        }
    }

    fn finish(&self, who: &str) {
        if let Some(bar) = self.live.lock().remove(who) {
            bar.finish_and_clear();
            self.screen.remove(&bar);
        }
    }

    fn advance(&self, who: &str, what: &str, done: u64, total: u64) {
        self.begin_if_new(who, what);
        let live = self.live.lock();
        let Some(bar) = live.get(who) else { return };
        if total > 0 && bar.length() != Some(total) {
            bar.set_length(total);
            bar.set_style(bytes());
        }
        bar.set_message(what.to_owned());
        bar.set_position(done);
    }

    fn begin_if_new(&self, who: &str, what: &str) {
        if !self.live.lock().contains_key(who) {
            self.begin(who, what);
        }
    }

    /// The last line that a build printed stands beside its bar; all of them are told with `-v`.
    fn output(&self, who: &str, output: &str) {
        self.begin_if_new(who, "");
        if let Some(bar) = self.live.lock().get(who) {
            bar.set_message(output.trim_end().to_owned());
        }
    }
}

impl Listener for Bars {
    fn on(&self, event: &Event) {
        match event {
            Event::Started { who, what } => self.begin(who, what),
            Event::Progress { who, what, done, total } => return self.advance(who, what, *done, *total),
            Event::Output { who, line } if self.verbosity == 0 => return self.output(who, line),
            Event::Done { who, .. } | Event::Failed { who, .. } => self.finish(who),
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
