//! The hash that decides whether a running container is the wanted one.

use sha2::{Digest, Sha256};

use super::Spec;
use crate::secret::Secrets;
use crate::system::Container;

/// Hash over everything that matters to a container but the contents of live files. Secrets count with their values: each
/// goes in behind the container's own description as salt, so equal secrets of two containers do not look equal.
pub fn spec(container: &Container, secrets: &Secrets) -> Spec {
    let stable = container.without_live_contents();
    // By way of a `Value`, whose maps are sorted: the order of struct fields must not matter.
    let value = serde_json::to_value(&stable).expect("a container has only strings as keys");
    let canonical = value.to_string();
    let mut hash = Sha256::new();
    hash.update(&canonical);
    for name in stable.secrets() {
        hash.update([0]);
        hash.update(name.as_str());
        let value = secrets.get(&name).map_or("", |secret| secret.reveal());
        let salted = Sha256::new().chain_update(&canonical).chain_update([0]).chain_update(value).finalize();
        hash.update(salted);
    }
    Spec(hex::encode(hash.finalize()))
}
