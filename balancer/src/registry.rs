//! All sessions that run, to be found by their client or by their server and told to end. Spread over shards by client, so
//! that two connections of one client always meet, and threads seldom do.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;

use hashbrown::HashTable;
use nsd_wire::Version;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::frontend::Frontend;
use crate::limits;
use crate::member::Member;
use crate::relay::Handle;
use crate::settings::Duplicates;

const SHARDS: usize = 16;

/// One session, as others see it.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) handle: Handle,
    pub(crate) names: Names,
    /// `None`: not MQTT.
    pub(crate) version: Option<Version>,
    /// See [`crate::gate::Passed`].
    pub(crate) clean: bool,
    pub(crate) will: bool,
    /// By its server. Who was refused is here for as long as it takes to read why, and nobody waits for it elsewhere.
    pub(crate) let_in: bool,
    pub(crate) tls: bool,
    /// In the clear on both sides: another process can go on with it.
    pub(crate) movable: bool,
    pub(crate) peer: SocketAddr,
    pub(crate) since: Instant,
    pub(crate) frontend: Arc<Frontend>,
    pub(crate) member: Arc<Member>,
}

/// Who a client says that it is.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// See [`Registry::key`].
    pub(crate) key: u64,
    /// Its identifier and then its user name, as far as they are kept.
    both: Box<str>,
    id_length: u8,
}

pub(crate) struct Registry {
    shards: [Mutex<HashTable<Arc<Live>>>; SHARDS],
    /// Another one in each process: nobody can make up an identifier that meets another's.
    keys: RandomState,
    since: Instant,
}

impl Default for Registry {
    fn default() -> Self {
        Self { shards: Default::default(), keys: RandomState::new(), since: Instant::now() }
    }
}

impl Registry {
    /// The number that a client identifier is found by.
    pub(crate) fn key(&self, id: &str) -> u64 {
        self.keys.hash_one(id)
    }

    /// Whoever has no identifier meets nobody: with one key for all of them, they would fill one place of one table.
    pub(crate) fn names(&self, id: &str, user: &str) -> Names {
        let key = if id.is_empty() { fastrand::u64(..) } else { self.key(id) };
        let (id, user) = (beginning(id), beginning(user));
        let both = [id, user].concat().into_boxed_str();
        Names { key, both, id_length: u8::try_from(id.len()).unwrap_or(u8::MAX) }
    }

    /// Of a client that another process let in, of whose names no more is known than is kept. One whose identifier may be
    /// longer is not found by it.
    pub(crate) fn kept_names(&self, id: &str, user: &str) -> Names {
        let names = self.names(id, user);
        if names.id_is_whole() { names } else { names.unproven() }
    }

    /// Of who has no identifier, or is not asked for one: meets nobody.
    pub(crate) fn nobody() -> Names {
        Names { key: fastrand::u64(..), ..Names::default() }
    }

    /// Adds a session, and tells which others its client has at the same backend where they are to be closed.
    pub(crate) fn insert(&self, live: &Arc<Live>, duplicates: Duplicates) -> Vec<Arc<Live>> {
        let mut shard = self.shard(live.names.key).lock();
        let same = |other: &&Arc<Live>| live.is_of_the_client_of(other);
        let older = match duplicates {
            Duplicates::Close if !live.names.id().is_empty() => {
                shard.iter_hash(live.names.key).filter(same).cloned().collect()
            }
            _ => Vec::new(),
        };
        shard.insert_unique(live.names.key, Arc::clone(live), |live| live.names.key);
        older
    }

    pub(crate) fn remove(&self, live: &Arc<Live>) {
        let same = |other: &Arc<Live>| Arc::ptr_eq(live, other);
        if let Ok(found) = self.shard(live.names.key).lock().find_entry(live.names.key, same) {
            found.remove();
        }
    }

    /// A client's sessions, at any backend.
    pub(crate) fn of_client(&self, id: &str) -> Vec<Arc<Live>> {
        let key = self.key(id);
        let theirs = |live: &&Arc<Live>| live.version.is_some() && live.names.key == key;
        self.shard(key).lock().iter_hash(key).filter(theirs).cloned().collect()
    }

    pub(crate) fn of_server(&self, member: &Member) -> Vec<Arc<Live>> {
        let mut found = Vec::new();
        self.each(|live| {
            if std::ptr::eq(&raw const *live.member, member) {
                found.push(Arc::clone(live));
            }
        });
        found
    }

    /// Looks at all, a shard at a time.
    pub(crate) fn each(&self, mut look: impl FnMut(&Arc<Live>)) {
        self.shards.iter().for_each(|shard| shard.lock().iter().for_each(&mut look));
    }

    /// Milliseconds of a clock of its own; begins anew after seven weeks.
    pub(crate) fn now(&self) -> u32 {
        let elapsed = self.since.elapsed().as_millis() % (u128::from(u32::MAX) + 1);
        u32::try_from(elapsed).unwrap_or_default()
    }

    /// Looks for silent clients, for ever. Only a few comparisons a session, and no timer for any.
    pub(crate) async fn look_after(self: Arc<Self>) {
        for shard in self.shards.iter().cycle() {
            let now = self.now();
            shard.lock().iter().for_each(|live| live.handle.look(now));
            sleep(limits::LOOK_AFTER).await;
        }
    }

    fn shard(&self, key: u64) -> &Mutex<HashTable<Arc<Live>>> {
        // Other bits than the tables use.
        &self.shards[(key >> 40) as usize % SHARDS]
    }
}

/// As much as is kept.
fn beginning(name: &str) -> &str {
    &name[..name.floor_char_boundary(limits::NAME)]
}

/// Not what is in it: that leads back here.
impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl Live {
    /// Identifiers meet in their keys only if they are the same, and so does what is kept of them.
    fn is_of_the_client_of(&self, other: &Self) -> bool {
        self.names.key == other.names.key
            && self.names.id() == other.names.id()
            && self.member.backend == other.member.backend
            && other.version.is_some()
    }
}

impl Names {
    pub(crate) fn id(&self) -> &str {
        &self.both[..usize::from(self.id_length)]
    }

    /// Nothing was cut from it: a longer one would fill more of what is kept, to within a character.
    pub(crate) fn id_is_whole(&self) -> bool {
        self.id().len() + char::MAX.len_utf8() <= limits::NAME
    }

    pub(crate) fn user(&self) -> &str {
        &self.both[usize::from(self.id_length)..]
    }

    /// Of who was not let in, or is not known well enough: whoever it says that it is, it meets nobody.
    pub(crate) fn unproven(self) -> Self {
        Self { key: fastrand::u64(..), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_without_an_identifier_do_not_meet() {
        let registry = Registry::default();
        assert_eq!(registry.names("a", "").key, registry.names("a", "other").key);
        assert_ne!(registry.names("", "user").key, registry.names("", "user").key);
        assert_ne!(registry.kept_names("", "").key, registry.kept_names("", "").key);
        assert_ne!(registry.names("a", "").unproven().key, registry.names("a", "").key);
    }
}
