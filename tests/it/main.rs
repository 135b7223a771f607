//! The real `nsd` in a hermetic home: whole outputs, exit codes, files and refs, as a user would find them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod bad_input;
mod help;
mod history;
mod process;
mod quickstart;
mod settings;
mod support;
mod systems;
mod together;
mod trust;
