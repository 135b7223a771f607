//! What the standards say, over the wire: raw bytes to a broker process and back, clause by clause. Neither the packets
//! nor their reading come from `nsd-wire`. Each test names its statements; `table` makes `docs/conformance.md` of them.
//!
//! Most of a test is waiting: `RUST_TEST_THREADS=8` makes the whole four times as fast. `NSD_CONFORMANCE=ours` leaves
//! Mosquitto out (or the other way round), `NSD_CONFORMANCE_STORE=disk` keeps our state on disk, and a URL
//! of a Redis there (where subscriptions are not shared: the tests of `shared` fail).

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails as the test would")]

mod answer;
mod broker;
mod client;
mod packet;
#[path = "../../../tests/ports.rs"]
mod ports;
mod suite;
mod table;

mod aliases;
mod auth;
mod connect;
mod explanations;
mod flow;
mod keep_alive;
mod malformed;
mod properties;
mod qos;
mod resumption;
mod retained;
mod session;
mod shared;
mod strings;
mod subscribe;
mod topics;
mod v31;
mod websocket;
mod wills;
