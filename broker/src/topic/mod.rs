//! Subscriptions by filter, and who gets a topic. Pure: no client, no socket; the keys are the caller's.
//! Names and filters themselves are checked by `nsd_wire::topic`.

mod by_name;
mod tree;

pub(crate) use by_name::ByName;
pub use tree::{Inserted, Removed, Tree};
