//! Sessions by the client ids that they know themselves.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use foldhash::HashSet;

use super::Outbox;

#[derive(Debug, Default)]
pub(super) struct Clients(HashSet<ById>);

#[derive(Debug)]
struct ById(Arc<Outbox>);

impl Clients {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn get(&self, client_id: &str) -> Option<&Arc<Outbox>> {
        self.0.get(client_id).map(|ById(outbox)| outbox)
    }

    /// In the place of the one with the same client id.
    pub(super) fn put(&mut self, outbox: Arc<Outbox>) {
        self.0.replace(ById(outbox));
    }

    pub(super) fn remove(&mut self, client_id: &str) {
        self.0.remove(client_id);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Outbox>> {
        self.0.iter().map(|ById(outbox)| outbox)
    }
}

impl Borrow<str> for ById {
    fn borrow(&self) -> &str {
        &self.0.client_id
    }
}

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.client_id.hash(state);
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.client_id == other.0.client_id
    }
}

impl Eq for ById {}
