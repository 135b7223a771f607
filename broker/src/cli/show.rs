//! Answers of the admin socket for people: lines and tables. What clients chose themselves (ids, topics, names) may hold
//! anything, so nothing of it reaches the terminal as a control character.

use std::fmt::Write;
use std::time::Duration;

use serde_json::Value;

use super::admin::{Device, Question};

pub(super) fn answer(question: &Question, answer: &Value) -> String {
    match question {
        Question::Health => health(answer),
        Question::Stats => facts(answer, ""),
        Question::Sessions { .. } => sessions(answer),
        Question::Who { .. } => who(answer),
        Question::Kick { client, .. } => kicked(client, answer),
        Question::Drain(_) => drain(answer),
        Question::Stop => "stopping".to_owned(),
        Question::Retained { delete: true, .. } => format!("{} deleted", text(&answer["deleted"])),
        Question::Retained { .. } => retained(answer),
        Question::Devices { .. } => devices(answer),
        Question::Device(Device::Add { .. }) => text(&answer["secret"]),
        Question::Device(Device::Remove { id }) => format!("{} removed", line(id)),
        Question::Certificates => certificates(answer),
        Question::Reload => reloaded(answer),
        Question::Log { .. } => format!("logging at `{}`", text(&answer["level"])),
    }
}

/// One line, whatever is in it.
pub(super) fn line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn health(answer: &Value) -> String {
    let state = match (answer["ready"] == true, answer["degraded"] == true) {
        (true, false) => "ready",
        (true, true) => "ready, but degraded",
        (false, _) => "not ready",
    };
    let mut out = format!("{state}: node {}, {} clients\n", text(&answer["node"]), text(&answer["clients"]));
    for reason in list(&answer["reasons"]) {
        let _ = writeln!(out, "  {}", text(reason));
    }
    for change in list(&answer["needs_restart"]) {
        let _ = writeln!(out, "  needs a restart: {}", text(change));
    }
    out
}

/// Every number with its name, groups one after another.
fn facts(value: &Value, indent: &str) -> String {
    let Some(map) = value.as_object() else { return String::new() };
    let width =
        map.iter().filter(|(_, value)| !is_group(value)).map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for (name, value) in map.iter().filter(|(_, value)| !is_group(value) && !value.is_null()) {
        let _ = writeln!(out, "{indent}{:width$}  {}", words(name), text(value));
    }
    for (name, value) in map.iter().filter(|(_, value)| is_group(value)) {
        let inner = format!("{indent}  ");
        let group = match value {
            Value::Array(items) => items.iter().map(|item| fact_line(item, &inner)).collect(),
            _ => facts(value, &inner),
        };
        if !group.is_empty() {
            let _ = write!(out, "{indent}{}:\n{group}", words(name));
        }
    }
    out
}

fn is_group(value: &Value) -> bool {
    value.is_object() || value.as_array().is_some_and(|items| items.iter().any(Value::is_object))
}

fn fact_line(value: &Value, indent: &str) -> String {
    let pairs = value.as_object().into_iter().flatten();
    let pairs: Vec<String> = pairs.map(|(name, value)| format!("{} {}", words(name), text(value))).collect();
    format!("{indent}{}\n", pairs.join(", "))
}

fn sessions(answer: &Value) -> String {
    let rows = list(&answer["sessions"]).iter().map(|session| {
        let state = if session["connected"] == true { "connected" } else { "offline" };
        vec![
            text(&session["client"]),
            state.to_owned(),
            text(&session["user"]),
            text(&session["address"]),
            text(&session["version"]),
            age(&session["connected_seconds"]),
            text(&session["subscriptions"]),
            text(&session["in_flight"]),
            text(&session["queued"]),
        ]
    });
    let head = ["CLIENT", "STATE", "USER", "ADDRESS", "MQTT", "SINCE", "FILTERS", "IN FLIGHT", "QUEUED"];
    let shown = list(&answer["sessions"]).len();
    let mut out = table(&head, rows);
    let _ = write!(
        out,
        "{shown} of {} shown; {} sessions, {} connected, {} offline",
        text(&answer["matching"]),
        text(&answer["total"]),
        text(&answer["connected"]),
        text(&answer["offline"])
    );
    more(out, &answer["next"])
}

fn more(mut out: String, next: &Value) -> String {
    if let Some(next) = next.as_str() {
        let _ = write!(out, "\nthere are more: --after '{}'", line(next));
    }
    out
}

fn who(answer: &Value) -> String {
    let (state, since) = match answer["connected"] == true {
        true => ("connected", "connected for"),
        false => ("offline", "last came before"),
    };
    let mut out = format!("{}: {state}\n", text(&answer["client"]));
    let facts = [
        ("user", text(&answer["user"])),
        ("address", text(&answer["address"])),
        ("MQTT", text(&answer["version"])),
        ("keep alive", format!("{} s", text(&answer["keep_alive_seconds"]))),
        (since, age(&answer["connected_seconds"])),
        ("silent for", age(&answer["silent_seconds"])),
        ("received", format!("{} bytes", text(&answer["bytes_received"]))),
        ("sent", format!("{} bytes", text(&answer["bytes_sent"]))),
        ("in flight", text(&answer["in_flight"])),
        ("queued", format!("{} ({} bytes)", text(&answer["queued"]), text(&answer["queued_bytes"]))),
        ("filters", text(&answer["subscriptions"])),
    ];
    for (name, value) in facts {
        let _ = writeln!(out, "  {name:13}  {value}");
    }
    for filter in list(&answer["filters"]) {
        let _ = writeln!(out, "    QoS {}  {}", text(&filter["qos"]), text(&filter["filter"]));
    }
    out
}

fn kicked(client: &str, answer: &Value) -> String {
    let client = line(client);
    match (answer["kicked"] == true, answer["session_ended"] == true) {
        (true, true) => format!("{client}: sent away, its session is over"),
        (true, false) => format!("{client}: sent away"),
        (false, true) => format!("{client}: was not connected, its session is over"),
        (false, false) => format!("{client}: is not connected"),
    }
}

fn drain(answer: &Value) -> String {
    let clients = text(&answer["clients"]);
    if answer["draining"] != true {
        return "not draining, clients may come".to_owned();
    }
    match (&answer["seconds"], &answer["told"]) {
        (Value::Number(_), _) => format!("draining {clients} clients, for about {}", age(&answer["seconds"])),
        (_, told) => {
            let state = if answer["finished"] == true { "drained" } else { "draining" };
            format!("{state}: {} told to go, {clients} still here", text(told))
        }
    }
}

fn retained(answer: &Value) -> String {
    let rows = list(&answer["retained"]).iter().map(|kept| {
        vec![
            text(&kept["topic"]),
            text(&kept["bytes"]),
            text(&kept["qos"]),
            age(&kept["age_seconds"]),
            age(&kept["expiry_seconds"]),
        ]
    });
    let out = table(&["TOPIC", "BYTES", "QOS", "AGE", "EXPIRES AFTER"], rows);
    more(format!("{out}{} shown", list(&answer["retained"]).len()), &answer["next"])
}

fn devices(answer: &Value) -> String {
    let state = |device: &Value| if device["disabled"] == true { "  disabled" } else { "" };
    let mut out = String::new();
    for device in list(&answer["devices"]) {
        let _ = writeln!(out, "{}{}", text(&device["id"]), state(device));
    }
    if out.is_empty() {
        return "no devices: `nsd-broker admin device add NAME` makes one".to_owned();
    }
    more(out, &answer["next"])
}

fn certificates(answer: &Value) -> String {
    let rows = list(&answer["certificates"]).iter().map(|each| {
        let names = list(&each["names"]).iter().map(text).collect::<Vec<_>>().join(" ");
        vec![
            text(&each["listener"]),
            names,
            text(&each["expires"]),
            text(&each["days_left"]),
            text(&each["problem"]),
        ]
    });
    let out = table(&["LISTENER", "NAMES", "EXPIRES", "DAYS LEFT", "PROBLEM"], rows);
    if list(&answer["certificates"]).is_empty() { "no listener has certificates".to_owned() } else { out }
}

fn reloaded(answer: &Value) -> String {
    let mut out = String::new();
    for problem in list(&answer["problems"]) {
        let _ = writeln!(out, "not in effect: {}", text(problem));
    }
    for change in list(&answer["applied"]) {
        let _ = writeln!(out, "changed: {}", text(change));
    }
    for change in list(&answer["needs_restart"]) {
        let _ = writeln!(out, "needs a restart: {}", text(change));
    }
    if out.is_empty() { "the settings are the same".to_owned() } else { out }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn words(name: &str) -> String {
    name.replace('_', " ")
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => line(text),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(" / "),
        other => other.to_string(),
    }
}

/// Seconds, as people say them: the two largest units.
fn age(value: &Value) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole seconds, never negative"
    )]
    let Some(seconds) = value.as_f64().map(|seconds| seconds as u64) else { return "-".to_owned() };
    let said = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    said.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let rows: Vec<Vec<String>> =
        std::iter::once(head.iter().map(|cell| (*cell).to_owned()).collect()).chain(rows).collect();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..head.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let _ = writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    out
}
