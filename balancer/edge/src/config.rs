//! A TOML file read key by key: what is asked for is known, what is left over is a mistake. Problems collect, each with
//! its line and a guess at what was meant; nothing stops at the first.

use std::cell::RefCell;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

/// One thing that is wrong with a file, or to be told about it. What the line holds is not repeated where it may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub line: usize,
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.what)
    }
}

/// Problems found so far, with the text to count lines in.
#[derive(Debug)]
pub struct Problems<'t> {
    text: &'t str,
    found: RefCell<Vec<Problem>>,
}

/// Reads `text` with `read`; its value only counts where no problem was found, and is then there.
pub fn parse<T>(
    text: &str,
    read: impl for<'t> FnOnce(&mut Table<'t, '_>) -> Option<T>,
) -> Result<T, Vec<Problem>> {
    let problems = Problems { text, found: RefCell::default() };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        problems.add(error.span().map_or(0, |span| span.start), error.message());
    }
    let mut value = None;
    // Keys of a text that is not TOML were never read rightly: reporting them would only distract.
    if problems.is_empty() {
        let mut root = Table::new(table.get_ref(), String::new(), table.span().start, &problems);
        value = read(&mut root);
        root.finish();
        if value.is_none() && problems.is_empty() {
            problems.add(0, "the file gives no settings");
        }
    }
    let mut found = problems.found.into_inner();
    found.sort();
    found.dedup();
    match value {
        Some(value) if found.is_empty() => Ok(value),
        _ => Err(found),
    }
}

impl Problems<'_> {
    /// `offset` is a position in the text.
    pub fn add(&self, offset: usize, what: impl Into<String>) {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        self.found.borrow_mut().push(Problem { line, what: what.into() });
    }

    pub fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }
}

/// A list of words as a sentence has it.
fn listed<T>(choices: &[(&'static str, T)]) -> String {
    choices.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ")
}

/// One table, and which of its keys were asked for.
#[derive(Debug)]
pub struct Table<'t, 'p> {
    table: &'t DeTable<'t>,
    path: String,
    start: usize,
    known: Vec<&'static str>,
    problems: &'p Problems<'p>,
}

impl<'t, 'p> Table<'t, 'p> {
    fn new(table: &'t DeTable<'t>, path: String, start: usize, problems: &'p Problems<'p>) -> Self {
        Self { table, path, start, known: Vec::new(), problems }
    }

    /// Whether nothing was wrong so far, in the whole file.
    pub fn is_fine(&self) -> bool {
        self.problems.is_empty()
    }

    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Whether the key holds a table: for what may be switched on by `true` or told in detail.
    pub fn holds_table(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|value| value.get_ref().as_table().is_some())
    }

    /// Whether the key holds a list without entries, which in most places is a slip.
    pub fn is_empty_list(&self, key: &str) -> bool {
        self.table
            .get(key)
            .is_some_and(|value| value.get_ref().as_array().is_some_and(|list| list.is_empty()))
    }

    /// Where the key's value is, or the table where there is none.
    pub fn at(&self, key: &str) -> usize {
        self.table.get(key).map_or(self.start, |value| value.span().start)
    }

    /// Reports something about a key's value.
    pub fn problem(&self, key: &str, what: impl fmt::Display) {
        self.problem_at(self.at(key), key, what);
    }

    /// Reports something about a key of this table, at a position that was remembered.
    pub fn problem_at(&self, offset: usize, key: &str, what: impl fmt::Display) {
        self.problems.add(offset, format!("{}: {what}", self.name(key)));
    }

    pub fn string(&mut self, key: &'static str) -> Option<String> {
        self.typed(key, "a string", |value| value.as_str().map(str::to_owned))
    }

    pub fn required(&mut self, key: &'static str) -> Option<String> {
        self.require(key);
        self.string(key)
    }

    pub fn boolean(&mut self, key: &'static str) -> Option<bool> {
        self.typed(key, "a boolean", DeValue::as_bool)
    }

    /// A whole number between the two, both included.
    pub fn number(&mut self, key: &'static str, least: u64, most: u64) -> Option<u64> {
        let integer = self.typed(key, "a whole number", |value| value.as_integer())?;
        self.within(key, integer, least, most)
    }

    /// Each of a list of whole numbers, as [`Table::number`].
    pub fn numbers(&mut self, key: &'static str, least: u64, most: u64) -> Vec<u64> {
        let all = |value: &'t DeValue<'t>| -> Option<Vec<_>> {
            value.as_array()?.iter().map(|item| item.get_ref().as_integer()).collect()
        };
        let all = self.typed(key, "a list of whole numbers", all).unwrap_or_default();
        all.into_iter().filter_map(|integer| self.within(key, integer, least, most)).collect()
    }

    fn within(&self, key: &str, integer: &DeInteger<'_>, least: u64, most: u64) -> Option<u64> {
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.and_then(|number| u64::try_from(number).ok());
        let fits = number.filter(|number| (least..=most).contains(number));
        if fits.is_none() {
            self.problem(key, format!("must be between {least} and {most}"));
        }
        fits
    }

    /// A length of time as people write it (`500ms`, `2s`, `1h 30m`), between the two, both included.
    pub fn duration(&mut self, key: &'static str, range: &RangeInclusive<Duration>) -> Option<Duration> {
        let text = self.string(key)?;
        let value = humantime::parse_duration(&text).ok().filter(|value| range.contains(value));
        if value.is_none() {
            let (least, most) =
                (humantime::format_duration(*range.start()), humantime::format_duration(*range.end()));
            self.problem(
                key,
                format!("`{text}` is no time between {least} and {most}; write it like `2s` or `500ms`"),
            );
        }
        value
    }

    pub fn strings(&mut self, key: &'static str) -> Vec<String> {
        let all = |value: &DeValue<'_>| {
            value.as_array()?.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
        };
        self.typed(key, "a list of strings", all).unwrap_or_default()
    }

    /// A string that means something else; `example` shows how it is written.
    pub fn parsed<T: FromStr>(&mut self, key: &'static str, example: &str) -> Option<T> {
        let text = self.string(key)?;
        let value = text.parse().ok();
        if value.is_none() {
            self.problem(key, format!("`{text}` is not understood; write it like `{example}`"));
        }
        value
    }

    /// Each string of a list, as [`Table::parsed`].
    pub fn all_parsed<T: FromStr>(&mut self, key: &'static str, example: &str) -> Vec<T> {
        let mut values = Vec::new();
        for text in self.strings(key) {
            match text.parse() {
                Ok(value) => values.push(value),
                Err(_) => self.problem(key, format!("`{text}` is not understood; write it like `{example}`")),
            }
        }
        values
    }

    pub fn table(&mut self, key: &'static str) -> Option<Self> {
        let (path, start) = (self.name(key), self.at(key));
        let table = self.typed(key, "a table", DeValue::as_table)?;
        Some(Table::new(table, path, start, self.problems))
    }

    pub fn tables(&mut self, key: &'static str) -> Vec<Self> {
        let (path, problems) = (self.name(key), self.problems);
        let each = |value: &'t DeValue<'t>| -> Option<Vec<Self>> {
            let table = |item: &'t Spanned<DeValue<'t>>| {
                Some(Table::new(item.get_ref().as_table()?, path.clone(), item.span().start, problems))
            };
            value.as_array()?.iter().map(table).collect()
        };
        self.typed(key, "tables (`[[…]]`)", each).unwrap_or_default()
    }

    /// One out of a few words, each with what it stands for.
    pub fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&'static str, T)]) -> Option<T> {
        let given = self.string(key)?;
        let found = choices.iter().find(|(word, _)| *word == given);
        if found.is_none() {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            let meant =
                closest(&given, &words).map_or_else(String::new, |word| format!(": did you mean `{word}`?"));
            self.problem(key, format!("`{given}` is none of {}{meant}", listed(choices)));
        }
        found.map(|(_, value)| *value)
    }

    /// [`Table::choice`] that must be there.
    pub fn required_choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        if !self.has(key) {
            self.problem(key, format!("is missing: one of {}", listed(choices)));
        }
        self.choice(key, choices)
    }

    pub fn require(&self, key: &'static str) {
        if !self.has(key) {
            self.problems.add(self.start, format!("{}: is missing", self.name(key)));
        }
    }

    /// Reports a key that cannot stand here, if it does, and why.
    pub fn refuse(&mut self, key: &'static str, why: impl fmt::Display) {
        if self.has(key) {
            self.known.push(key);
            self.problem(key, why);
        }
    }

    /// Reports the keys that nobody asked for.
    pub fn finish(&self) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if self.known.contains(&name) {
                continue;
            }
            let hint = match closest(name, &self.known) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("known here are {}", self.known.join(", ")),
            };
            self.problems.add(key.span().start, format!("{}: unknown key: {hint}", self.name(name)));
        }
    }

    fn typed<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        read: impl FnOnce(&'t DeValue<'t>) -> Option<T>,
    ) -> Option<T> {
        self.known.push(key);
        let value: &'t Spanned<DeValue<'t>> = self.table.get(key)?;
        let read = read(value.get_ref());
        if read.is_none() {
            self.problem(key, format!("expected {expected}, found: {}", value.get_ref().type_str()));
        }
        read
    }

    fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

/// Text as a TOML string, for who writes such files: JSON's escapes are among TOML's.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// As it can stand in a line, whatever is quoted in it.
pub fn without_controls(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// The word that was probably meant.
pub fn closest<'w>(given: &str, words: &[&'w str]) -> Option<&'w str> {
    let scored = words.iter().map(|word| (strsim::damerau_levenshtein(given, word), *word));
    scored.filter(|(distance, word)| *distance <= 2.min(word.len() / 2)).min().map(|(_, word)| word)
}
