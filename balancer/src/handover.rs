//! One process takes over from another: its listening sockets, what it knows of its servers, and its sessions that are
//! plain on both sides. Sessions over TLS stay with the old process, which tells them to leave at a rate and then ends.
//!
//! A session is read by one process at a time. The old one stops reading it and sends its sockets; the new one says that it
//! has them, and reads from then on; the old one hears that and closes its copies. Whatever breaks before the new one has
//! said so, the session goes on in the old one.

pub(crate) mod channel;
pub(crate) mod give;
pub mod message;
pub(crate) mod outbox;
pub(crate) mod servers;
pub(crate) mod succession;
mod sweep;
pub(crate) mod take;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub use take::TakeOverError;

/// Beside the admin socket, and as open as that.
pub(crate) fn door_beside(admin_socket: &Path) -> PathBuf {
    let mut path = OsString::from(admin_socket);
    path.push(".take-over");
    path.into()
}
