//! What one process tells the next of servers, and what that makes of it.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use super::message::{Count, Server, Which};
use crate::backend::Backend;
use crate::member::{self, Member};
use crate::pool::{Entry, Pool};
use crate::running::Running;
use crate::settings::ServerSettings;

/// What there is to be taken over. Dropped, all stays as it was.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    pub(crate) sockets: HashMap<SocketAddr, TcpListener>,
    pub(crate) servers: Vec<Server>,
}

/// All of them, the leaving ones included.
pub(super) fn known(members: &[Entry<Member>]) -> Vec<Server> {
    members.iter().map(|entry| entry.member.told()).collect()
}

/// Counts that differ from those told before.
pub(super) fn changed(members: &[Entry<Member>], told: &mut HashMap<Which, u32>) -> Vec<Count> {
    let counts =
        members.iter().map(|entry| Count { which: entry.member.which(), sessions: entry.member.active() });
    counts.filter(|count| told.insert(count.which.clone(), count.sessions) != Some(count.sessions)).collect()
}

/// Servers that both processes know are what they were; those that only the old one has sessions at are leaving.
pub(crate) fn continue_with(running: &Running, servers: &[Server]) {
    for server in servers {
        let Some(backend) = running.backends.iter().find(|backend| backend.name == server.which.backend)
        else {
            continue;
        };
        match find(backend, &server.which) {
            Some(member) => member.continues(server),
            None if server.sessions > 0 => add_leaving(backend, server),
            None => {}
        }
    }
}

/// Of a backend that is in the settings.
pub(super) fn member(running: &Running, which: &Which) -> Option<Arc<Member>> {
    let backend = running.backends.iter().find(|backend| backend.name == which.backend)?;
    find(backend, which)
}

fn find(backend: &Backend, which: &Which) -> Option<Arc<Member>> {
    let pool = backend.pool.load();
    let same = |entry: &&Entry<Member>| {
        entry.member.name == which.name && entry.member.place.address.to_string() == which.address
    };
    pool.members.iter().chain(&pool.leaving).find(same).map(|entry| Arc::clone(&entry.member))
}

fn add_leaving(backend: &Backend, server: &Server) {
    let Some(entry) = gone(&server.which, Some(backend)) else { return };
    entry.member.continues(server);
    let pool = backend.pool.load();
    let leaving = pool.leaving.iter().cloned().chain([entry]).collect();
    backend.pool.store(Arc::new(Pool { members: pool.members.clone(), leaving }));
}

/// A server that is no longer in the settings. `None`: it has no address that could be one.
pub(super) fn gone(which: &Which, backend: Option<&Backend>) -> Option<Entry<Member>> {
    let settings = ServerSettings {
        name: which.name.clone(),
        address: which.address.parse().ok()?,
        weight: 0,
        max_sessions: u32::MAX,
        backup: false,
    };
    let context = member::Context {
        backend: which.backend.as_str().into(),
        queue: backend.map(|backend| Arc::clone(&backend.queue)).unwrap_or_default(),
    };
    let member = Arc::new(Member::gone(&settings, context));
    Some(Entry { settings, member })
}
