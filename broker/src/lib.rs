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

pub mod access;
pub mod limits;
pub mod message;
pub mod session;
pub mod settings;
pub mod topic;
