//! PURE. Which backend a client goes to: rules in order, and the first whose conditions all hold decides.

mod pattern;

use std::net::IpAddr;

use nsd_edge::listen::{Network, any_contains};
use nsd_wire::{Connect, Version};

pub use pattern::Pattern;

/// What is known of a client when its backend is chosen.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Of this balancer, where the client came in.
    pub port: u16,
    pub source: IpAddr,
    pub over_tls: bool,
    /// The name it asked for in its TLS handshake.
    pub server_name: Option<&'a str>,
    /// Whom its certificate names, where one was verified.
    pub certified: Option<&'a str>,
    /// `None` where bytes are passed on unseen.
    pub connect: Option<&'a Connect<'a>>,
    /// `None` where clients do not speak HTTP.
    pub request: Option<Asked<'a>>,
}

/// What one request is about.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Without a port, in lower case.
    pub host: Option<&'a str>,
    /// Without its query, otherwise as it came.
    pub path: &'a str,
}

/// What must hold of a client. Within one list any entry will do; an empty list asks nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    pub ports: Vec<u16>,
    pub sources: Vec<Network>,
    pub over_tls: Option<bool>,
    /// In lower case, as names are compared.
    pub server_names: Vec<Pattern>,
    pub certified: Vec<Pattern>,
    pub client_ids: Vec<Pattern>,
    pub user_names: Vec<Pattern>,
    pub versions: Vec<Version>,
    /// In lower case.
    pub hosts: Vec<Pattern>,
    pub paths: Vec<Pattern>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub when: Conditions,
    pub then: Then,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Then {
    /// The client goes to the backend of this name.
    Backend(String),
    Refuse,
}

/// The rules of one frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    pub in_order: Vec<Rule>,
    /// Where none fits.
    pub otherwise: Then,
}

impl Conditions {
    pub fn hold(&self, facts: &Facts<'_>) -> bool {
        let server_name = || facts.server_name.map(str::to_ascii_lowercase);
        let said = facts.connect;
        (self.ports.is_empty() || self.ports.contains(&facts.port))
            && (self.sources.is_empty() || any_contains(&self.sources, facts.source))
            && self.over_tls.is_none_or(|wanted| wanted == facts.over_tls)
            && (self.server_names.is_empty() || any_fits(&self.server_names, server_name().as_deref()))
            && (self.certified.is_empty() || any_fits(&self.certified, facts.certified))
            && (self.client_ids.is_empty() || any_fits(&self.client_ids, said.map(|said| said.client_id)))
            && (self.user_names.is_empty()
                || any_fits(&self.user_names, said.and_then(|said| said.user_name)))
            && (self.hosts.is_empty() || any_fits(&self.hosts, facts.request.and_then(|asked| asked.host)))
            && (self.paths.is_empty() || any_fits(&self.paths, facts.request.map(|asked| asked.path)))
            && (self.versions.is_empty() || said.is_some_and(|said| self.versions.contains(&said.version)))
    }

    /// Whether only a CONNECT can tell that they hold.
    pub fn need_connect(&self) -> bool {
        !(self.client_ids.is_empty() && self.user_names.is_empty() && self.versions.is_empty())
    }
}

/// What is not there fits nothing.
fn any_fits(patterns: &[Pattern], text: Option<&str>) -> bool {
    text.is_some_and(|text| patterns.iter().any(|pattern| pattern.fits(text)))
}

impl Rules {
    /// Every client goes to one backend.
    pub fn all_to(backend: impl Into<String>) -> Self {
        Self { in_order: Vec::new(), otherwise: Then::Backend(backend.into()) }
    }

    pub fn choose(&self, facts: &Facts<'_>) -> &Then {
        let fits = |rule: &&Rule| rule.when.hold(facts);
        self.in_order.iter().find(fits).map_or(&self.otherwise, |rule| &rule.then)
    }

    /// The backends that clients may come to, the one of those whom no rule fits last.
    pub fn backends(&self) -> impl Iterator<Item = &str> {
        let all = self.in_order.iter().map(|rule| &rule.then).chain([&self.otherwise]);
        all.filter_map(|then| match then {
            Then::Backend(name) => Some(name.as_str()),
            Then::Refuse => None,
        })
    }
}

#[cfg(test)]
mod tests;
