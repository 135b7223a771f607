//! `backend` and `[[frontend.rule]]`: which clients of a frontend go to which backend.

use nsd_edge::config::{Table, closest};
use nsd_edge::listen::Network;

use super::{CheckKind, Seen, gate};
use crate::rules::{Conditions, Pattern, Rule, Rules, Then};

/// Keys that only a CONNECT answers.
const OF_CONNECT: [&str; 3] = ["client_id", "user_name", "version"];
/// Keys that only a TLS handshake answers.
const OF_TLS: [&str; 2] = ["sni", "certificate"];
/// Keys that only a request answers.
const OF_REQUEST: [&str; 2] = ["host", "path"];

/// What a frontend can know of its clients.
pub(super) struct Knows {
    pub(super) ports: Vec<u16>,
    pub(super) tls: bool,
    pub(super) connect: bool,
    pub(super) request: bool,
}

/// Rules as they were written, not checked against what their frontend knows yet.
pub(super) struct Written<'t, 'p> {
    rules: Vec<(Rule, Table<'t, 'p>)>,
    otherwise: Option<String>,
}

/// `own`: the backend of a `listen` section, which it need not name.
pub(super) fn read<'t, 'p>(table: &mut Table<'t, 'p>, own: Option<&str>, seen: &Seen) -> Written<'t, 'p> {
    let otherwise = own.map_or_else(|| read_backend(table, seen), |own| Some(own.to_owned()));
    if own.is_none() && !table.has("rule") {
        table.require("backend");
    }
    let mut rules = Vec::new();
    for mut table in table.tables("rule") {
        let rule = read_rule(&mut table, seen);
        table.finish();
        rules.extend(rule.map(|rule| (rule, table)));
    }
    Written { rules, otherwise }
}

fn read_backend(table: &mut Table<'_, '_>, seen: &Seen) -> Option<String> {
    let name = table.string("backend")?;
    if !seen.backends.contains_key(&name) {
        let known: Vec<&str> = seen.backends.keys().map(String::as_str).collect();
        let meant =
            closest(&name, &known).map_or_else(String::new, |word| format!(": did you mean `{word}`?"));
        table.problem("backend", format!("there is no backend `{name}`{meant}"));
    }
    Some(name)
}

fn read_rule(table: &mut Table<'_, '_>, seen: &Seen) -> Option<Rule> {
    let when = Conditions {
        ports: table
            .numbers("port", 1, 65535)
            .into_iter()
            .filter_map(|port| u16::try_from(port).ok())
            .collect(),
        sources: table.all_parsed::<Network>("source", "10.0.0.0/8"),
        over_tls: table.boolean("tls"),
        server_names: patterns(table, "sni", |name| name.to_ascii_lowercase()),
        certified: patterns(table, "certificate", |name| name),
        client_ids: patterns(table, "client_id", |id| id),
        user_names: patterns(table, "user_name", |name| name),
        versions: gate::read_versions(table, "version").unwrap_or_default(),
        hosts: patterns(table, "host", |name| name.to_ascii_lowercase()),
        paths: patterns(table, "path", |path| path),
    };
    for key in ["port", "source"].into_iter().chain(OF_TLS).chain(OF_CONNECT).chain(OF_REQUEST) {
        if table.is_empty_list(key) {
            table.problem(key, "an empty list fits nobody; leave it out, or name one");
        }
    }
    let backend = read_backend(table, seen);
    let refuse = table.boolean("refuse").unwrap_or(false);
    let then = match (backend, refuse) {
        (Some(backend), false) => Then::Backend(backend),
        (None, true) => Then::Refuse,
        (Some(_), true) => {
            table.problem("refuse", "a client that is refused goes to no backend: take one of the two away");
            return None;
        }
        (None, false) => {
            table.problem("backend", "is missing, or `refuse = true`: what becomes of these clients?");
            return None;
        }
    };
    Some(Rule { when, then })
}

fn patterns(table: &mut Table<'_, '_>, key: &'static str, spelt: fn(String) -> String) -> Vec<Pattern> {
    table.strings(key).into_iter().map(|text| Pattern::new(spelt(text))).collect()
}

impl Written<'_, '_> {
    /// The check of the backend for clients whom no rule singles out; without one, that of any which is checked for MQTT.
    pub(super) fn check(&self, seen: &Seen) -> Option<CheckKind> {
        let check = |name: &String| seen.backends.get(name).copied();
        if let Some(name) = &self.otherwise {
            return check(name);
        }
        let backends = self.rules.iter().filter_map(|(rule, _)| match &rule.then {
            Then::Backend(name) => check(name),
            Then::Refuse => None,
        });
        backends.max_by_key(|kind| *kind == CheckKind::Mqtt)
    }

    /// Tells what can never hold, and which rules no client can reach.
    pub(super) fn checked(self, knows: &Knows) -> Rules {
        for (at, (rule, table)) in self.rules.iter().enumerate() {
            rule.can_hold(table, knows);
            let covers =
                |(earlier, _): &(Rule, _)| earlier.when == Conditions::default() || earlier.when == rule.when;
            if self.rules[..at].iter().any(covers) {
                let key = if table.has("backend") { "backend" } else { "refuse" };
                table.problem(
                    key,
                    "no client comes so far: an earlier rule of this section takes all of them",
                );
            }
        }
        let in_order = self.rules.into_iter().map(|(rule, _)| rule).collect();
        Rules { in_order, otherwise: self.otherwise.map_or(Then::Refuse, Then::Backend) }
    }
}

impl Rule {
    fn can_hold(&self, table: &Table<'_, '_>, knows: &Knows) {
        for port in &self.when.ports {
            if !knows.ports.contains(port) {
                table.problem("port", format!("{port} is not bound by this section"));
            }
        }
        for key in OF_TLS.into_iter().filter(|key| !knows.tls && table.has(key)) {
            table.problem(key, "is told in a TLS handshake, and this section has no `tls`");
        }
        for key in OF_CONNECT.into_iter().filter(|key| !knows.connect && table.has(key)) {
            table.problem(key, "stands in a CONNECT, which is only read with `mode = \"mqtt\"`");
        }
        for key in OF_REQUEST.into_iter().filter(|key| !knows.request && table.has(key)) {
            table.problem(key, "stands in a request, which is only read with `mode = \"http\"`");
        }
    }
}
