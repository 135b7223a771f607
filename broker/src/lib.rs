//! The broker. Pure modules decide, the others perform:
//!
//! | module | what it is |
//! | --- | --- |
//! | [`settings`] | text → checked settings, all problems at once |
//! | [`limits`] | every limit, its reason, what happens when it is reached |
//! | [`message`] | pure: a message that outlives its packet |
//! | [`topic`] | pure: subscriptions by filter |
//! | [`session`] | pure: one client's protocol; read [`session::Effect`] first |
//! | [`access`] | pure: who may connect, publish, subscribe |
//! | [`store`] | what outlives a connection, a process, a node: memory, disk, Redis |
//! | [`hub`] | the clients living on this node, and how a message reaches them |
//! | [`queue`] | pure: the messages of one persistent session toward its client |
//! | [`lanes`] | what threads gather for one that stores or sends it |
//! | [`journal`] | what must be in this node's own store before somebody is answered |
//! | [`bus`] | the other nodes: batches to Redis, the inbox, the mirror of what all share |
//! | [`door`] | look-ups and password checks before a client is let in |
//! | [`live_file`] | files whose content is in use, read again when they change |
//! | [`passwd`] | the password file, written: `nsd-broker passwd` |
//! | [`entry`] | everything before the first byte of MQTT: who may come, PROXY header, TLS, WebSocket |
//! | [`node`] | what all connections of one broker share |
//! | [`executor`] | runs the clients of a thread |
//! | [`connection`] | one client: bytes in, session, effects, bytes out |
//! | [`convert`] | pure: other brokers' files → ours |
//! | [`listeners`] | where clients come in, also while that changes |
//! | [`server`] | threads, start and stop |
//! | [`operate`] | the process: signals, settings that change, draining |
//! | [`telemetry`] | what the broker tells about itself: counters, `$SYS`, Prometheus |
//! | [`admin`] | health and status on the admin socket |

pub mod access;
pub mod admin;
pub mod bus;
mod busy;
pub mod connection;
pub mod convert;
pub mod door;
pub mod entry;
pub mod executor;
pub mod hub;
pub mod journal;
pub mod lanes;
pub mod limits;
pub mod listeners;
pub mod live_file;
pub mod message;
pub mod node;
pub mod operate;
pub mod passwd;
pub mod queue;
pub mod server;
pub mod session;
pub mod settings;
pub mod store;
pub mod telemetry;
pub mod topic;
