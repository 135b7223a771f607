//! The wire format seen from outside: what is written is read back, what is wrong is refused with the right reason, and
//! another crate agrees wherever it is right itself.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod arbitrary;
mod differential;
mod malformed;
mod round_trip;
mod sender;
mod template;
