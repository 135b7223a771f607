//! The first reading: is everything a known key with a value of the right type? Checked against the JSON schema of
//! [`super::raw`], so the published schema, the reference page and this check cannot differ. What does not fit is told and
//! left out of the result, so that the second reading can go on with the rest.

use serde_json::{Map, Value};
use toml::de::{DeArray, DeTable, DeValue};

use super::document::{Places, join};
use super::{Problem, schema};

/// The tree as JSON without what does not fit, and the problems.
pub(super) fn check(table: &DeTable<'_>, places: &Places) -> (Value, Vec<Problem>) {
    let root = schema();
    let mut checker = Checker { root: &root, places, problems: Vec::new() };
    let value = checker.table(&root, table, "");
    (Value::Object(value), checker.problems)
}

struct Checker<'s> {
    root: &'s Value,
    places: &'s Places,
    problems: Vec<Problem>,
}

impl<'s> Checker<'s> {
    fn problem(&mut self, at: &str, what: String, hint: Option<String>) {
        self.problems.push(self.places.problem(at, what, hint));
    }

    /// The alternatives of a schema, references followed.
    fn alternatives(&self, schema: &'s Value) -> Vec<&'s Value> {
        if let Some(reference) = schema["$ref"].as_str() {
            let target = self.root.pointer(reference.trim_start_matches('#'));
            return target.map(|target| self.alternatives(target)).unwrap_or_default();
        }
        match schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array()) {
            Some(any) => any.iter().flat_map(|schema| self.alternatives(schema)).collect(),
            None => vec![schema],
        }
    }

    /// `None`: it does not fit, and a problem says so.
    fn value(&mut self, schema: &'s Value, value: &DeValue<'_>, at: &str) -> Option<Value> {
        let alternatives = self.alternatives(schema);
        let fitting: Vec<&'s Value> =
            alternatives.iter().copied().filter(|schema| fits(schema, value)).collect();
        let Some(&first) = fitting.first() else {
            let expected = expected(&alternatives);
            self.problem(
                at,
                format!("expected {expected}, found {}", found(value)),
                hint_for(value, &expected),
            );
            return None;
        };
        match value {
            DeValue::Table(table) => Some(Value::Object(self.table(first, table, at))),
            DeValue::Array(items) => Some(self.array(first, items, at)),
            DeValue::String(text) => self.string(&fitting, text, at),
            DeValue::Integer(integer) => self.integer(first, integer, at),
            DeValue::Float(float) => self.float(float.as_str(), at),
            DeValue::Boolean(value) => Some(Value::Bool(*value)),
            DeValue::Datetime(_) => None,
        }
    }

    fn table(&mut self, schema: &'s Value, table: &DeTable<'_>, at: &str) -> Map<String, Value> {
        let mut result = Map::new();
        let properties = schema["properties"].as_object();
        let others = schema.get("additionalProperties").filter(|others| others.is_object());
        for (key, value) in table {
            let (key, at) = (key.get_ref().as_ref(), join(at, key.get_ref()));
            let property = properties.and_then(|properties| properties.get(key)).or(others);
            let Some(property) = property else {
                let known =
                    properties.into_iter().flat_map(|properties| properties.keys().map(String::as_str));
                self.problem(&at, format!("unknown key `{key}`"), did_you_mean(key, known));
                continue;
            };
            if let Some(value) = self.value(property, value.get_ref(), &at) {
                result.insert(key.to_owned(), value);
            }
        }
        for missing in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !table.contains_key(missing) {
                self.problem(&join(at, missing), format!("the key `{missing}` is missing"), None);
            }
            if let Some(property) = properties.and_then(|properties| properties.get(missing)) {
                result.entry(missing).or_insert_with(|| self.stand_in(property));
            }
        }
        result
    }

    /// For a required value that is missing or wrong, so that the second reading can go on.
    fn stand_in(&self, schema: &'s Value) -> Value {
        match self.alternatives(schema).first().map(|schema| kind(schema)) {
            Some("integer" | "number") => Value::from(0),
            _ => Value::from(""),
        }
    }

    fn array(&mut self, schema: &'s Value, items: &DeArray<'_>, at: &str) -> Value {
        let item_schema = &schema["items"];
        let items = items.iter().enumerate();
        items.filter_map(|(n, item)| self.value(item_schema, item.get_ref(), &format!("{at}[{n}]"))).collect()
    }

    fn string(&mut self, fitting: &[&Value], text: &str, at: &str) -> Option<Value> {
        let known: Vec<&str> = fitting.iter().flat_map(|schema| words(schema)).collect();
        if !known.is_empty() && !known.contains(&text) {
            let hint = did_you_mean(text, known.iter().copied());
            self.problem(at, format!("`{text}` is not one of {}", list(&known)), hint);
            return None;
        }
        Some(Value::from(text))
    }

    fn integer(&mut self, schema: &Value, integer: &toml::de::DeInteger<'_>, at: &str) -> Option<Value> {
        let (least, most) = (schema["minimum"].as_i64(), schema["maximum"].as_i64());
        let Ok(value) = i64::from_str_radix(integer.as_str(), integer.radix()) else {
            self.problem(at, format!("{integer} is too large a number"), None);
            return None;
        };
        if least.is_some_and(|least| value < least) || most.is_some_and(|most| value > most) {
            let range = match (least, most) {
                (Some(least), Some(most)) => format!("from {least} to {most}"),
                (Some(least), None) => format!("at least {least}"),
                _ => format!("at most {}", most.unwrap_or_default()),
            };
            self.problem(at, format!("{value} is out of range: it must be {range}"), None);
            return None;
        }
        Some(Value::from(value))
    }

    fn float(&mut self, text: &str, at: &str) -> Option<Value> {
        let number = text.parse().ok().and_then(serde_json::Number::from_f64);
        if number.is_none() {
            self.problem(at, format!("{text} is not a usable number"), None);
        }
        number.map(Value::Number)
    }
}

fn kind(schema: &Value) -> &str {
    schema["type"].as_str().unwrap_or(if schema["const"].is_string() { "string" } else { "" })
}

fn words(schema: &Value) -> Vec<&str> {
    let one = schema["const"].as_str();
    one.into_iter().chain(schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str)).collect()
}

fn fits(schema: &Value, value: &DeValue<'_>) -> bool {
    match value {
        DeValue::String(_) => kind(schema) == "string",
        DeValue::Integer(_) => matches!(kind(schema), "integer" | "number"),
        DeValue::Float(_) => kind(schema) == "number",
        DeValue::Boolean(_) => kind(schema) == "boolean",
        DeValue::Array(_) => kind(schema) == "array",
        DeValue::Table(_) => kind(schema) == "object",
        DeValue::Datetime(_) => false,
    }
}

fn expected(alternatives: &[&Value]) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    for schema in alternatives {
        let name = match kind(schema) {
            "string" => "a string",
            "integer" => "a whole number",
            "number" => "a number",
            "boolean" => "`true` or `false`",
            "array" => "a list",
            _ => "a table",
        };
        if !kinds.contains(&name) {
            kinds.push(name);
        }
    }
    if kinds.contains(&"a number") {
        kinds.retain(|kind| *kind != "a whole number");
    }
    kinds.join(" or ")
}

fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string {text:?}"),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(value) => format!("`{value}`"),
        DeValue::Datetime(date) => format!("the date {date}"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

fn hint_for(value: &DeValue<'_>, expected: &str) -> Option<String> {
    match (value, expected) {
        (DeValue::String(text), "a list") => Some(format!("write [{text:?}]")),
        (DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_), "a string") => {
            Some("put it in quotes".to_owned())
        }
        _ => None,
    }
}

fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// Words of compose and nscale files, and ours.
const ELSEWHERE: [(&str, &str); 14] = [
    ("build", "repository"),
    ("cap_add", "capabilities"),
    ("cap_drop", "capabilities"),
    ("cmd", "command"),
    ("cpu", "cpus"),
    ("depends_on", "needs"),
    ("environment", "env"),
    ("healthcheck", "health"),
    ("host", "ip"),
    ("identityFile", "identity"),
    ("ipAddress", "ip"),
    ("repositoryUrl", "repository"),
    ("services", "process"),
    ("stop_grace_period", "stop_grace"),
];

/// The known word that was probably meant.
pub(super) fn did_you_mean<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<String> {
    let known: Vec<&str> = known.collect();
    let elsewhere = ELSEWHERE.iter().find(|(theirs, _)| *theirs == word).map(|&(_, ours)| ours);
    if let Some(ours) = elsewhere.filter(|ours| known.contains(ours)) {
        return Some(format!("did you mean `{ours}`?"));
    }
    let distance = |known: &str| strsim::damerau_levenshtein(&word.to_lowercase(), &known.to_lowercase());
    // A third of the letters may be wrong; in short words one.
    let near = |known: &str| distance(known) <= (word.chars().count().max(known.chars().count()) / 3).max(1);
    let best = known.into_iter().filter(|known| near(known)).min_by_key(|known| distance(known))?;
    Some(format!("did you mean `{best}`?"))
}
