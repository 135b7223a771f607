//! The draft as the text of our settings.

use std::fmt::Write;

use nsd_edge::config::{Problem, quoted, without_controls};

use super::section::{Kind, Section, Use};
use super::{Converted, Draft};
use crate::settings;

/// The ports of MQTT, plain and over TLS: who listens there, or is connected to there, is taken to speak it.
const PORTS: [&str; 2] = ["1883", "8883"];
/// HAProxy's queue has no end; one that nobody waits in for longer than its timeout need not.
const QUEUE: u32 = 10_000;
/// Where Debian keeps the authorities that everybody trusts.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What clients of a section speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Mqtt,
    Http,
    Bytes,
}

pub(super) fn write(mut draft: Draft) -> Converted {
    let sections = std::mem::take(&mut draft.sections);
    let mut text = "# From a haproxy.cfg. Check it with `nsd-balancer --check --config FILE`.\n".to_owned();
    if let Some(threads) = draft.global.threads {
        let _ = writeln!(text, "threads = {threads}");
    }
    for section in sections.iter().filter(|section| !is_only_statistics(section)) {
        draft.section(&mut text, section, &sections);
    }
    let mut notes = draft.notes;
    if let Err(problems) = settings::parse(&text) {
        // Of the text as it was made: the operator's own file has no such line.
        let first = sections.first().map_or(1, |section| section.line);
        let told = problems
            .iter()
            .map(|problem| Problem { line: first, what: format!("in what was made, {problem}") });
        notes.extend(told);
    }
    // They stand in comments, and go to a terminal.
    notes.iter_mut().for_each(|note| note.what = without_controls(&note.what));
    notes.sort();
    notes.dedup();
    if !notes.is_empty() {
        text.push_str("\n# Without a counterpart, or not quite the same:\n");
        for note in &notes {
            let _ = writeln!(text, "#   line {note}");
        }
    }
    Converted { toml: text, notes }
}

fn is_only_statistics(section: &Section) -> bool {
    section.stats
        && section.servers.is_empty()
        && section.default_backend.is_none()
        && section.uses.is_empty()
}

fn speaks(section: &Section, all: &[Section]) -> Speaks {
    let is_mqtt_port = |port: &str| PORTS.contains(&port);
    let served = |section: &Section| {
        section
            .servers
            .iter()
            .any(|server| server.address.rsplit_once(':').is_some_and(|(_, port)| is_mqtt_port(port)))
    };
    // A backend speaks what comes to it.
    let named = |name: &str| all.iter().find(|other| other.name == name && other.kind != Kind::Frontend);
    let backends =
        section.default_backend.iter().chain(section.uses.iter().filter_map(|rule| rule.backend.as_ref()));
    if section.http {
        Speaks::Http
    } else if section.mqtt
        || section.binds.ports().any(is_mqtt_port)
        || served(section)
        || backends.filter_map(|name| named(name)).any(|backend| backend.mqtt || served(backend))
        || (section.kind == Kind::Backend && comes_from_mqtt(section, all))
    {
        Speaks::Mqtt
    } else {
        Speaks::Bytes
    }
}

fn comes_from_mqtt(backend: &Section, all: &[Section]) -> bool {
    all.iter().any(|section| {
        let mut uses =
            section.uses.iter().filter_map(|rule| rule.backend.as_ref()).chain(&section.default_backend);
        section.binds.ports().any(|port| PORTS.contains(&port)) && uses.any(|name| *name == backend.name)
    })
}

impl Draft {
    fn section(&mut self, text: &mut String, section: &Section, all: &[Section]) {
        let table = match section.kind {
            Kind::Listen => "listen",
            Kind::Frontend => "frontend",
            Kind::Backend | Kind::Defaults => "backend",
        };
        let speaks = speaks(section, all);
        let _ = writeln!(text, "\n[[{table}]]\nname = {}", quoted(&section.name));
        if section.kind != Kind::Backend {
            self.door(text, section, speaks);
        }
        if section.kind != Kind::Frontend {
            self.servers(text, section, speaks);
        }
        if section.kind != Kind::Backend {
            self.tls(text, section, table);
            if let (Speaks::Http, Some(timeout)) = (speaks, &section.request_timeout) {
                let _ = writeln!(text, "\n[{table}.http]\nrequest_timeout = {}", quoted(timeout));
            }
            if let (Speaks::Mqtt, Some(deadline)) = (speaks, &section.connect_deadline) {
                let _ = writeln!(text, "\n[{table}.gate]\ndeadline = {}", quoted(deadline));
            }
            self.rules(text, section, speaks, table);
        }
        for server in &section.servers {
            let _ = writeln!(text, "\n[[{table}.server]]\nname = {}", quoted(&server.name));
            let _ = writeln!(text, "address = {}", quoted(&server.address));
            let numbers = [("weight", server.weight), ("max_sessions", server.max_sessions)];
            for (key, number) in numbers.into_iter().filter_map(|(key, number)| Some((key, number?))) {
                let _ = writeln!(text, "{key} = {number}");
            }
            if server.backup {
                text.push_str("backup = true\n");
            }
        }
    }

    /// What stands in a section that clients come to.
    fn door(&mut self, text: &mut String, section: &Section, speaks: Speaks) {
        if !section.binds.plain.is_empty() {
            let _ = writeln!(text, "bind = {}", list(&section.binds.plain));
        }
        text.push_str(match speaks {
            Speaks::Mqtt => {
                "# By the port. `mode = \"tcp\"` passes bytes on unseen, as HAProxy does.\nmode = \"mqtt\"\n"
            }
            Speaks::Http => "mode = \"http\"\n",
            Speaks::Bytes => "mode = \"tcp\"\n",
        });
        if section.kind == Kind::Frontend {
            match &section.default_backend {
                Some(backend) => {
                    let _ = writeln!(text, "backend = {}", quoted(backend));
                }
                None if section.uses.is_empty() => {
                    self.note(section.line, format!("the frontend `{}` has no backend", section.name));
                }
                None => {}
            }
        }
        if section.binds.accept_proxy {
            text.push_str("proxy_protocol = true\nproxy_from = [\"0.0.0.0/0\", \"::/0\"]\n");
            let what = "`accept-proxy` takes anybody's word, as there; name your proxies in `proxy_from`";
            self.note(section.line, what.to_owned());
        }
        for (key, sources) in [("allow", &section.allow), ("deny", &section.deny)] {
            if !sources.is_empty() {
                let _ = writeln!(text, "{key} = {}", list(sources));
            }
        }
        let numbers = [
            ("connections", section.connections),
            ("connections_per_address", section.connections_per_address),
        ];
        for (key, number) in numbers.into_iter().filter_map(|(key, number)| Some((key, number?))) {
            let _ = writeln!(text, "{key} = {number}");
        }
        if let Some(per_minute) = section.rate_per_address {
            let _ = writeln!(text, "connect_rate_per_address = {{ per_minute = {per_minute} }}");
        }
    }

    fn tls(&mut self, text: &mut String, section: &Section, table: &str) {
        let (bind, binds) = (&section.binds.tls, &section.binds.shared);
        if bind.is_empty() {
            return;
        }
        let in_base = |base: &Option<String>, file: &String| match base {
            Some(base) if !file.starts_with('/') => format!("{}/{file}", base.trim_end_matches('/')),
            _ => file.clone(),
        };
        let certificates: Vec<_> =
            binds.certificates.iter().map(|file| in_base(&self.global.certificates, file)).collect();
        let _ = writeln!(text, "\n[{table}.tls]\nbind = {}", list(bind));
        let _ = writeln!(text, "certificates = {}", list(&certificates));
        if binds.tls13 {
            text.push_str("min_version = \"1.3\"\n");
        }
        if !binds.authorities.is_empty() {
            let authorities: Vec<_> =
                binds.authorities.iter().map(|file| in_base(&self.global.authorities, file)).collect();
            let wanted = if binds.certificate_required { "required" } else { "optional" };
            let _ = writeln!(text, "client_ca = {}\nclient_certificate = \"{wanted}\"", list(&authorities));
            if !binds.revoked.is_empty() {
                let _ = writeln!(text, "client_crl = {}", list(&binds.revoked));
            }
        }
        if let Some(deadline) = &section.handshake_deadline {
            let _ = writeln!(text, "handshake_deadline = {}", quoted(deadline));
        }
    }

    /// How the servers of a section are used.
    fn servers(&mut self, text: &mut String, section: &Section, speaks: Speaks) {
        let balance = section.balance.filter(|balance| *balance != "client_id" || speaks == Speaks::Mqtt);
        // HAProxy's own default.
        let _ = writeln!(text, "balance = \"{}\"", balance.unwrap_or("roundrobin"));
        let shared = section.servers.first().map(|server| server.shared.clone()).unwrap_or_default();
        if let Some(timeout) = &section.connect_timeout {
            let _ = writeln!(text, "connect_timeout = {}", quoted(timeout));
        }
        if shared.keep_sessions {
            text.push_str("on_down = \"keep\"\n");
        }
        if let Some(version) = shared.send_proxy {
            let _ = writeln!(text, "send_proxy = \"{version}\"");
        }
        if let Some(time) = &shared.slow_start {
            let _ = writeln!(text, "slow_start = {}", quoted(time));
        }
        if section.servers.iter().any(|server| server.max_sessions.is_some()) {
            let waits = section.queue_timeout.as_ref().or(section.connect_timeout.as_ref());
            let _ = writeln!(text, "queue = {QUEUE}");
            if let Some(timeout) = waits {
                let _ = writeln!(text, "queue_timeout = {}", quoted(timeout));
            }
        }
        if shared.tls {
            let authorities = shared.authorities.clone().unwrap_or_else(|| {
                self.note(
                    section.line,
                    format!(
                        "servers are verified here; whose certificates they have is a guess: {AUTHORITIES}"
                    ),
                );
                AUTHORITIES.to_owned()
            });
            let mut keys = vec![format!("ca = [{}]", quoted(&authorities))];
            keys.extend(shared.certificate.as_ref().map(|file| format!("certificate = {}", quoted(file))));
            keys.extend(shared.server_name.as_ref().map(|name| format!("server_name = {}", quoted(name))));
            let _ = writeln!(text, "server_tls = {{ {} }}", keys.join(", "));
        }
        self.check(text, section, speaks);
    }

    fn check(&mut self, text: &mut String, section: &Section, speaks: Speaks) {
        let shared = section.servers.first().map(|server| server.shared.clone()).unwrap_or_default();
        if !shared.check {
            text.push_str("check = { kind = \"none\" }\n");
            return;
        }
        let mut keys = Vec::new();
        match &section.http_check {
            Some(http) => {
                keys.push("kind = \"http\"".to_owned());
                match http.method.as_deref() {
                    None | Some("GET") => {}
                    Some("HEAD") => keys.push("method = \"HEAD\"".to_owned()),
                    Some(other) => self.note(section.line, format!("checks by `{other}` are made with GET")),
                }
                let texts = [("path", &http.path), ("host", &http.host)];
                keys.extend(
                    texts
                        .into_iter()
                        .filter_map(|(key, text)| Some(format!("{key} = {}", quoted(text.as_ref()?)))),
                );
                keys.extend(http.expect.as_ref().map(|status| format!("expect = [{}]", quoted(status))));
            }
            None if speaks == Speaks::Mqtt => keys.push("kind = \"mqtt\"".to_owned()),
            None => keys.push("kind = \"tcp\"".to_owned()),
        }
        let times = [
            ("interval", &shared.interval),
            ("fast_interval", &shared.fast_interval),
            ("timeout", &section.check_timeout),
        ];
        keys.extend(
            times.into_iter().filter_map(|(key, time)| Some(format!("{key} = {}", quoted(time.as_ref()?)))),
        );
        // HAProxy's own defaults.
        keys.push(format!("rise = {}", shared.rise.unwrap_or(2)));
        keys.push(format!("fall = {}", shared.fall.unwrap_or(3)));
        keys.extend(shared.check_port.map(|port| format!("port = {port}")));
        let _ = writeln!(text, "check = {{ {} }}", keys.join(", "));
    }

    fn rules(&mut self, text: &mut String, section: &Section, speaks: Speaks, table: &str) {
        for rule in section.refusals.iter().chain(&section.uses) {
            if let Some(what) = cannot_hold(rule, section, speaks) {
                self.note(rule.line, what);
                continue;
            }
            let _ = writeln!(text, "\n[[{table}.rule]]");
            for (key, values) in &rule.when.0 {
                let value = match *key {
                    "tls" => values.concat(),
                    "port" => format!("[{}]", values.join(", ")),
                    _ => list(values),
                };
                let _ = writeln!(text, "{key} = {value}");
            }
            match &rule.backend {
                Some(backend) => {
                    let _ = writeln!(text, "backend = {}", quoted(backend));
                }
                None => text.push_str("refuse = true\n"),
            }
        }
    }
}

/// Why a rule of this section would be a mistake in our settings.
fn cannot_hold(rule: &Use, section: &Section, speaks: Speaks) -> Option<String> {
    let asks = |key: &str| rule.when.0.contains_key(key);
    let left_out = |what: &str| Some(format!("this rule is left out: {what}"));
    if (asks("sni") || asks("certificate")) && section.binds.tls.is_empty() && !section.binds.accept_proxy {
        return left_out("TLS that is only passed on is not looked into here; end it here with `tls`");
    }
    if (asks("client_id") || asks("user_name") || asks("version")) && speaks != Speaks::Mqtt {
        return left_out("only a section of MQTT has a CONNECT");
    }
    if (asks("path") || asks("host")) && speaks != Speaks::Http {
        return left_out("only a section of HTTP has requests");
    }
    let bound = |port: &String| section.binds.ports().any(|bound| bound == port);
    let strange = rule.when.0.get("port").and_then(|ports| ports.iter().find(|port| !bound(port)))?;
    left_out(&format!("the port {strange} is not bound by its section"))
}

fn list(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", "))
}
