//! Subscriptions by filter, and who gets a topic. Pure: no client, no socket; the keys are the caller's.
//! Names and filters themselves are checked by `nsd_wire::topic`.

mod children;
mod tree;

pub use tree::{Inserted, Removed, Tree};
