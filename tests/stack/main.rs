//! The whole stack on real machines: real sshd, real Docker, real Redis, real MQTT, the real `nsd`.
//!
//! The machines are the lab's (`tests/lab`); one test at a time owns them.

#![expect(
    clippy::print_stdout,
    clippy::panic,
    reason = "a test shows the commands it ran, and fails where it stands"
)]

mod article;
mod bad_input;
mod device;
mod docker_here;
mod lab;
mod site;
