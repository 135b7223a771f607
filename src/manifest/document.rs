//! A TOML text as a tree with places, and where each key of it stands.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::Problem;

/// Line and column of every key and list item, by path such as `process.mqtt.ports[0]`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places(BTreeMap<String, (usize, usize)>);

/// Parses; syntax errors come all at once.
pub(super) fn parse(text: &str) -> Result<(DeTable<'_>, Places), Vec<Problem>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let lines = Lines::new(text);
    if !errors.is_empty() {
        let mut problems: Vec<Problem> = errors.iter().map(|error| syntax(error, &lines)).collect();
        problems.sort();
        problems.dedup();
        return Err(problems);
    }
    let table = table.into_inner();
    let mut places = Places::default();
    collect(&table, "", &lines, &mut places);
    Ok((table, places))
}

fn syntax(error: &toml::de::Error, lines: &Lines<'_>) -> Problem {
    let (line, column) = lines.position(error.span().map_or(0, |span| span.start));
    let what = error.message().lines().collect::<Vec<_>>().join(", ");
    Problem { line, column, at: String::new(), what: format!("this is not TOML: {what}"), hint: None }
}

impl Places {
    /// The place of `at`, or of the nearest thing around it.
    pub(crate) fn of(&self, at: &str) -> (usize, usize) {
        let mut at = at;
        loop {
            if let Some(&place) = self.0.get(at) {
                return place;
            }
            match at.rfind(['.', '[']) {
                Some(end) => at = &at[..end],
                None => return (1, 1),
            }
        }
    }

    /// Whether the file itself has this key.
    pub(crate) fn has(&self, at: &str) -> bool {
        self.0.contains_key(at)
    }

    pub(crate) fn problem(&self, at: &str, what: impl Into<String>, hint: Option<String>) -> Problem {
        let (line, column) = self.of(at);
        Problem { line, column, at: at.to_owned(), what: what.into(), hint }
    }
}

/// `base.key`, the key quoted if it is not a bare one.
pub(super) fn join(base: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let key = if bare { key.to_owned() } else { format!("{key:?}") };
    if base.is_empty() { key } else { format!("{base}.{key}") }
}

fn collect(table: &DeTable<'_>, base: &str, lines: &Lines<'_>, places: &mut Places) {
    for (key, value) in table {
        let at = join(base, key.get_ref());
        places.0.insert(at.clone(), lines.position(key.span().start));
        collect_value(value.get_ref(), &at, lines, places);
    }
}

fn collect_value(value: &DeValue<'_>, at: &str, lines: &Lines<'_>, places: &mut Places) {
    match value {
        DeValue::Table(table) => collect(table, at, lines, places),
        DeValue::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let at = format!("{at}[{index}]");
                let Range { start, .. } = item.span();
                places.0.insert(at.clone(), lines.position(start));
                collect_value(item.get_ref(), &at, lines, places);
            }
        }
        _ => {}
    }
}

/// Byte offset → line and column.
struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn new(text: &'t str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|&start| start <= offset).max(1);
        let before = self.text.get(self.starts[line - 1]..offset).unwrap_or("");
        (line, before.chars().count() + 1)
    }
}
