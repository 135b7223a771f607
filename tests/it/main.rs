//! The real `nsd` in a hermetic home: whole outputs, exit codes, files and refs, as a user would find them.

mod bad_input;
mod help;
mod history;
mod process;
mod quickstart;
mod support;
mod systems;
mod together;
