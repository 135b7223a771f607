//! A table read key by key: what is read is known, what is left over is a mistake. Problems collect; nothing stops early.

use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One thing that is wrong with a file.
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
pub(super) struct Problems<'t> {
    text: &'t str,
    found: Vec<Problem>,
}

impl<'t> Problems<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, found: Vec::new() }
    }

    pub(super) fn add(&mut self, offset: usize, what: String) {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        self.found.push(Problem { line, what });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(super) fn into_vec(mut self) -> Vec<Problem> {
        self.found.sort();
        self.found
    }
}

/// One table, and which of its keys were asked for.
pub(super) struct Reader<'t> {
    table: &'t DeTable<'t>,
    path: String,
    start: usize,
    known: Vec<&'static str>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(table: &'t DeTable<'t>, path: &str, start: usize) -> Self {
        Self { table, path: path.to_owned(), start, known: Vec::new() }
    }

    /// Where the key's value is, or the table where there is none.
    pub(super) fn at(&self, key: &str) -> usize {
        self.table.get(key).map_or(self.start, |value| value.span().start)
    }

    pub(super) fn string(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Option<String> {
        self.typed(key, "a string", problems, |value| value.as_str().map(str::to_owned))
    }

    pub(super) fn required(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Option<String> {
        if !self.table.contains_key(key) {
            problems.add(self.start, format!("{}: `{key}` is missing", self.path));
        }
        self.string(key, problems)
    }

    pub(super) fn boolean(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Option<bool> {
        self.typed(key, "a boolean", problems, DeValue::as_bool)
    }

    pub(super) fn strings(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Vec<String> {
        let all = |value: &DeValue<'_>| {
            value.as_array()?.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
        };
        self.typed(key, "a list of strings", problems, all).unwrap_or_default()
    }

    pub(super) fn table(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Option<Self> {
        let (path, start) = (self.name(key), self.at(key));
        let table = self.typed(key, "a table", problems, DeValue::as_table)?;
        Some(Reader::new(table, &path, start))
    }

    pub(super) fn tables(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Vec<Self> {
        let path = self.name(key);
        let each = |value: &'t DeValue<'t>| -> Option<Vec<Reader<'t>>> {
            let items = value.as_array()?.iter();
            items
                .map(|item| Some(Reader::new(item.get_ref().as_table()?, &path, item.span().start)))
                .collect()
        };
        self.typed(key, "tables (`[[…]]`)", problems, each).unwrap_or_default()
    }

    /// A required word out of a few.
    pub(super) fn one_of(
        &mut self,
        key: &'static str,
        words: &[&'static str],
        problems: &mut Problems<'_>,
    ) -> Option<&'static str> {
        if !self.table.contains_key(key) {
            problems
                .add(self.start, format!("{}: `{key}` is missing: one of {}", self.path, words.join(", ")));
        }
        self.optional_one_of(key, words, problems)
    }

    pub(super) fn optional_one_of(
        &mut self,
        key: &'static str,
        words: &[&'static str],
        problems: &mut Problems<'_>,
    ) -> Option<&'static str> {
        let given = self.string(key, problems)?;
        let found = words.iter().find(|word| **word == given).copied();
        if found.is_none() {
            let meant =
                closest(&given, words).map_or_else(String::new, |word| format!(": did you mean `{word}`?"));
            let what = format!("{}: `{given}` is none of {}{meant}", self.name(key), words.join(", "));
            problems.add(self.at(key), what);
        }
        found
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self, problems: &mut Problems<'_>) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if self.known.contains(&name) {
                continue;
            }
            let place = if self.path.is_empty() { String::new() } else { format!("{}: ", self.path) };
            let hint = match closest(name, &self.known) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("known here are {}", self.known.join(", ")),
            };
            problems.add(key.span().start, format!("{place}unknown key `{name}`: {hint}"));
        }
    }

    fn typed<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        problems: &mut Problems<'_>,
        read: impl FnOnce(&'t DeValue<'t>) -> Option<T>,
    ) -> Option<T> {
        self.known.push(key);
        let value: &'t Spanned<DeValue<'t>> = self.table.get(key)?;
        let read = read(value.get_ref());
        if read.is_none() {
            let found = value.get_ref().type_str();
            let article = if found.starts_with(['a', 'i', 'o']) { "an" } else { "a" };
            problems.add(
                value.span().start,
                format!("{}: expected {expected}, found {article} {found}", self.name(key)),
            );
        }
        read
    }

    fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

fn closest<'w>(given: &str, words: &[&'w str]) -> Option<&'w str> {
    let scored = words.iter().map(|word| (strsim::damerau_levenshtein(given, word), *word));
    scored.filter(|(distance, word)| *distance <= 2.min(word.len() / 2)).min().map(|(_, word)| word)
}
