//! What operators do with a running broker: look, change, send away.

mod admin;
mod convert;
mod docs;
mod drain;
mod logs;
mod metrics;
mod reload;
mod sys;
