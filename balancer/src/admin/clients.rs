//! What the admin socket tells of clients: where one is, and how many there are of which kind.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use nsd_edge::admin::{Reply, Request, StatusCode};
use serde::Serialize;
use serde_json::json;

use crate::balancer::Balancer;
use crate::registry::Live;
use crate::session::number;

/// One session of a client.
#[derive(Serialize)]
struct Session<'a> {
    client: &'a str,
    frontend: &'a str,
    backend: &'a str,
    server: &'a str,
    /// As the settings have it: a name may have moved since the session began.
    address: String,
    source: SocketAddr,
    version: Option<&'static str>,
    tls: bool,
    /// Only where the access log has it.
    user: Option<&'a str>,
    seconds: u64,
    bytes_up: u64,
    bytes_down: u64,
}

impl<'a> From<&'a Live> for Session<'a> {
    fn from(live: &'a Live) -> Self {
        let Live { handle, names, version, tls, peer, since, frontend, member, .. } = live;
        let moved = handle.moved();
        Self {
            client: names.id(),
            frontend: &frontend.name,
            backend: &member.backend,
            server: &member.name,
            address: member.place.address.to_string(),
            source: *peer,
            version: version.map(number),
            tls: *tls,
            user: Some(names.user()).filter(|user| !user.is_empty()),
            seconds: since.elapsed().as_secs(),
            bytes_up: moved.up,
            bytes_down: moved.down,
        }
    }
}

/// `/who?client=…`: the client's sessions, newest first.
pub(super) fn who(balancer: &Balancer, request: &Request) -> Reply {
    let Some(client) = request.query("client") else {
        return Reply::problem(StatusCode::BAD_REQUEST, "whom? add `?client=…`");
    };
    let mut found = balancer.shared.registry.of_client(&client);
    if found.is_empty() {
        return Reply::problem(StatusCode::NOT_FOUND, format!("`{client}` has no session here"));
    }
    found.sort_by_key(|live| std::cmp::Reverse(live.since));
    let sessions: Vec<Session<'_>> = found.iter().map(|live| Session::from(&**live)).collect();
    Reply::json(StatusCode::OK, &json!({ "sessions": sessions }))
}

/// Counted by what is known of them.
#[derive(Default, Serialize)]
struct Summary {
    sessions: usize,
    tls: usize,
    by_version: BTreeMap<&'static str, usize>,
    by_frontend: BTreeMap<String, usize>,
    /// `backend/server`.
    by_server: BTreeMap<String, usize>,
    /// Of the sessions that are there now.
    bytes_up: u64,
    bytes_down: u64,
}

pub(super) fn sessions(balancer: &Balancer) -> Reply {
    let mut summary = Summary::default();
    balancer.shared.registry.each(|live| summary.add(live));
    Reply::json(StatusCode::OK, &summary)
}

impl Summary {
    fn add(&mut self, live: &Live) {
        let moved = live.handle.moved();
        self.sessions += 1;
        self.tls += usize::from(live.tls);
        *self.by_version.entry(live.version.map_or("-", number)).or_default() += 1;
        count(&mut self.by_frontend, &live.frontend.name);
        count(&mut self.by_server, &format!("{}/{}", live.member.backend, live.member.name));
        self.bytes_up += moved.up;
        self.bytes_down += moved.down;
    }
}

fn count(counts: &mut BTreeMap<String, usize>, name: &str) {
    match counts.get_mut(name) {
        Some(count) => *count += 1,
        None => drop(counts.insert(name.to_owned(), 1)),
    }
}
