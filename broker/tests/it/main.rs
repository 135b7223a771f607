//! The broker as its users meet it: real processes, real sockets, a real Redis.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails as the test would")]

mod abuse;
mod access;
mod away;
mod cluster;
mod cut_links;
mod disk;
mod durable;
mod groups;
mod killed;
mod limits;
mod listeners;
mod misuse;
mod one_node;
mod operations;
mod quotas;
mod random;
mod roaming;
mod sessions;
mod start;
mod store;
mod stored;
mod support;
