//! PURE. The common part of `haproxy.cfg` → our settings. Every line either takes effect in the settings, or says what
//! is the case here anyway, or is told with its number and the reason.

mod acl;
mod bind;
mod section;
mod server;
mod text;
mod words;

use std::collections::BTreeMap;

use nsd_edge::config::Problem;
use section::{Kind, Section};
use words::Line;

/// The settings, and what has no counterpart in them, or not quite the same.
#[derive(Debug, Default)]
pub struct Converted {
    pub toml: String,
    /// In the order of lines.
    pub notes: Vec<Problem>,
}

/// The error is about the file as a whole: it is none of HAProxy's.
pub fn haproxy(text: &str) -> Result<Converted, Problem> {
    let mut draft = Draft::default();
    for line in words::lines(text) {
        draft.read(&line?)?;
    }
    draft.leave();
    if draft.sections.is_empty() {
        let what = "no haproxy.cfg: it has no `listen`, `frontend` or `backend` section".to_owned();
        return Err(Problem { line: 1, what });
    }
    Ok(text::write(draft))
}

/// What has been understood so far.
#[derive(Debug, Default)]
struct Draft {
    global: Global,
    /// By name; `""`: the last one, for who names none.
    defaults: BTreeMap<String, Section>,
    sections: Vec<Section>,
    /// The section that lines belong to now.
    current: Current,
    notes: Vec<Problem>,
}

#[derive(Debug, Default)]
struct Global {
    threads: Option<u64>,
    certificates: Option<String>,
    authorities: Option<String>,
}

#[derive(Debug, Default)]
enum Current {
    /// Before the first section.
    #[default]
    Nowhere,
    Global,
    Defaults(String, Box<Section>),
    Proxy(Box<Section>),
    /// A section that is told about once, as a whole.
    Unknown,
}

impl Draft {
    fn read(&mut self, line: &Line) -> Result<(), Problem> {
        let rest = line.rest();
        match line.key() {
            "global" => self.enter(Current::Global),
            "defaults" => {
                let name = rest.first().cloned().unwrap_or_default();
                let section = Section::named(Kind::Defaults, &name, line.number);
                self.enter(Current::Defaults(name, Box::new(section)));
            }
            "listen" => self.begin(Kind::Listen, line),
            "frontend" => self.begin(Kind::Frontend, line),
            "backend" => self.begin(Kind::Backend, line),
            key @ ("userlist" | "peers" | "resolvers" | "mailers" | "cache" | "program" | "ring"
            | "http-errors" | "fcgi-app" | "log-forward" | "crt-store" | "traces") => {
                self.note(line.number, format!("`{key}`: such a section has no counterpart"));
                self.enter(Current::Unknown);
            }
            _ => return self.take(line),
        }
        Ok(())
    }

    fn begin(&mut self, kind: Kind, line: &Line) {
        self.leave();
        let rest = line.rest();
        let name = rest.first().cloned().unwrap_or_default();
        let from = rest.iter().position(|word| word == "from").and_then(|at| rest.get(at + 1));
        let defaults = self.defaults.get(from.map_or("", String::as_str));
        let mut section = defaults.cloned().unwrap_or_default();
        (section.kind, section.name, section.line) = (kind, name, line.number);
        // The form of old: an address beside the name.
        if let Some(address) = rest.get(1).filter(|address| address.contains(':'))
            && let Err(what) = section.bind(std::slice::from_ref(address))
        {
            self.note(line.number, what);
        }
        self.current = Current::Proxy(Box::new(section));
    }

    fn enter(&mut self, next: Current) {
        self.leave();
        self.current = next;
    }

    /// Keeps what the current section has become.
    fn leave(&mut self) {
        match std::mem::take(&mut self.current) {
            Current::Defaults(name, section) => {
                self.defaults.insert(name, (*section).clone());
                self.defaults.insert(String::new(), *section);
            }
            Current::Proxy(section) => self.sections.push(*section),
            Current::Nowhere | Current::Global | Current::Unknown => {}
        }
    }

    fn take(&mut self, line: &Line) -> Result<(), Problem> {
        let taken = match &mut self.current {
            Current::Nowhere => {
                let what =
                    format!("no haproxy.cfg: `{}` stands before any section", line.key().escape_debug());
                return Err(Problem { line: line.number, what });
            }
            Current::Global => self.global.take(line),
            Current::Defaults(_, section) | Current::Proxy(section) => section.take(line),
            Current::Unknown => Ok(()),
        };
        if let Err(what) = taken {
            self.note(line.number, format!("`{}`: {what}", line.shown()));
        }
        Ok(())
    }

    fn note(&mut self, line: usize, what: String) {
        self.notes.push(Problem { line, what });
    }
}

impl Global {
    fn take(&mut self, line: &Line) -> Result<(), String> {
        let word = || line.rest().first().cloned();
        match line.key() {
            "nbthread" => self.threads = word().and_then(|count| count.parse().ok()),
            "crt-base" => self.certificates = word(),
            "ca-base" => self.authorities = word(),
            // As it is here anyway: limits follow from the open files, the log goes to stderr, the admin socket is there.
            "daemon" | "nbproc" | "master-worker" | "log" | "log-tag" | "log-send-hostname" | "ulimit-n"
            | "maxconn" | "maxpipes" | "pidfile" | "quiet" | "nosplice" | "noepoll" | "spread-checks"
            | "expose-fd" => {}
            "stats" if line.rest().first().is_some_and(|word| word == "socket" || word == "timeout") => {}
            key if key.starts_with("tune.") => {}
            "chroot" | "user" | "group" | "uid" | "gid" => {
                return Err(
                    "the balancer runs as it is started: let the service manager choose the user".into()
                );
            }
            key if key.starts_with("ssl-") => {
                return Err(
                    "TLS 1.2 and 1.3 with ciphers that rustls has; see `tls` in docs/balancer.md".into()
                );
            }
            _ => return Err("has no counterpart".into()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
