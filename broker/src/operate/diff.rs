//! What differs between two settings files, key by key, and what becomes of it. Pure.

use std::collections::BTreeMap;

use toml::{Table, Value};

/// One key whose value is another now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// As it stands in the file: `limits.packet_bytes`, `listen[0.0.0.0:1883].tls.certificates`.
    pub key: String,
    /// `None`: it was not there; `Some`: shown as it stood, unless it may be a secret.
    pub was: Option<String>,
    pub is: Option<String>,
    pub takes: Takes,
}

/// When a change takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Takes {
    Now,
    /// For clients that connect from now on.
    NewClients,
    Restart,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "(default)".to_owned());
        write!(f, "{}: {} → {}", self.key, shown(&self.was), shown(&self.is))
    }
}

/// All changes from one file to the other, sorted by key. Neither is checked here: what is no TOML has no keys.
pub fn changes(was: &str, is: &str) -> Vec<Change> {
    let (was, is) = (flat(was), flat(is));
    let keys: std::collections::BTreeSet<_> = was.keys().chain(is.keys()).collect();
    let differing = keys.into_iter().filter(|key| was.get(*key) != is.get(*key));
    differing
        .map(|key| {
            let shown = |file: &BTreeMap<String, String>| file.get(key).map(|value| show(key, value));
            Change { key: key.clone(), was: shown(&was), is: shown(&is), takes: takes(key) }
        })
        .collect()
}

fn takes(key: &str) -> Takes {
    match key.split(['.', '[']).next().unwrap_or_default() {
        // The pace belongs to the sockets, and they are bound.
        "listen" if key.ends_with(".connect_rate") => Takes::Restart,
        "listen" if key.contains("].limits.") || key.ends_with(".tcp_user_timeout") => Takes::NewClients,
        "listen" | "sys" | "metrics" => Takes::Now,
        "log" if key != "log.format" => Takes::Now,
        "limits" | "access" | "allow_anonymous" => Takes::NewClients,
        _ => Takes::Restart,
    }
}

/// Values of plain settings are shown; where a password or a key may be among them, only that something changed.
fn show(key: &str, value: &str) -> String {
    let plain = [
        "limits.",
        "sys.",
        "metrics.",
        "log.",
        "listen[",
        "allow_anonymous",
        "access.topic_rule",
        "access.devices",
        "store.kind",
    ];
    let secret = ["password", "secret", "token", "header"].iter().any(|word| key.contains(word));
    if plain.iter().any(|begin| key.starts_with(begin)) && !secret {
        value.to_owned()
    } else {
        "***".to_owned()
    }
}

fn flat(text: &str) -> BTreeMap<String, String> {
    let mut keys = BTreeMap::new();
    if let Ok(table) = text.parse::<Table>() {
        flatten("", &Value::Table(table), &mut keys);
    }
    keys
}

fn flatten(path: &str, value: &Value, keys: &mut BTreeMap<String, String>) {
    match value {
        Value::Table(table) => {
            for (name, value) in table {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(&path, value, keys);
            }
        }
        Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_table) => {
            for (index, item) in items.iter().enumerate() {
                // Listeners are told apart by their address: one more in front does not change the others.
                let named = item.get("address").and_then(Value::as_str);
                let name = named.map_or_else(|| index.to_string(), str::to_owned);
                flatten(&format!("{path}[{name}]"), item, keys);
            }
        }
        _ => drop(keys.insert(path.to_owned(), value.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(was: &str, is: &str) -> Vec<(String, Takes)> {
        changes(was, is).iter().map(|change| (change.to_string(), change.takes)).collect()
    }

    #[test]
    fn each_key_and_when_it_takes_effect() {
        let was = "node = \"a\"\n[limits]\npacket_bytes = 1000\nkeep_alive = 7\n[log]\nlevel = \"info\"\n";
        let is = "node = \"b\"\n[limits]\npacket_bytes = 2_000\nkeep_alive = 7\n[log]\nlevel = \"warn\"\nformat = \"json\"\n";
        assert_eq!(
            told(was, is),
            [
                ("limits.packet_bytes: 1000 → 2000".to_owned(), Takes::NewClients),
                ("log.format: (default) → \"json\"".to_owned(), Takes::Restart),
                ("log.level: \"info\" → \"warn\"".to_owned(), Takes::Now),
                ("node: *** → ***".to_owned(), Takes::Restart),
            ]
        );
        assert_eq!(told(was, was), []);
        assert_eq!(
            told(
                was,
                "# another comment\nnode='a'\nlimits={keep_alive=7,packet_bytes=1000}\nlog.level='info'\n"
            ),
            []
        );
    }

    #[test]
    fn listeners_are_told_apart_by_their_address() {
        let one = "[[listen]]\naddress = \"0.0.0.0:1883\"\n";
        let two =
            format!("[[listen]]\naddress = \"0.0.0.0:8883\"\n[listen.tls]\ncertificates = [\"/a\"]\n{one}");
        let keys: Vec<_> = changes(one, &two).into_iter().map(|change| change.key).collect();
        assert_eq!(keys, ["listen[0.0.0.0:8883].address", "listen[0.0.0.0:8883].tls.certificates"]);
    }

    #[test]
    fn secrets_are_not_told() {
        let was = "[store]\nkind=\"redis\"\nurl = \"redis://:hush@h\"\npassword = \"hush\"\n[access.http]\nheaders = { token = \"hush\" }\n[limits]\npassword_x = \"hush\"";
        let is = was.replace("hush", "hush2");
        let told = told(was, &is);
        assert_eq!(told.len(), 4);
        assert!(told.iter().all(|(change, _)| !change.contains("hush")), "{told:?}");
    }
}
