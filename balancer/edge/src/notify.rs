//! What a service manager that asked for it (systemd, `Type=notify`) is told: that the service is ready, and which process
//! it is.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says that this process is the service, and takes work from now on. Without a manager that asked for it, nothing is done.
pub fn ready() -> io::Result<()> {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    tell(&socket, &format!("READY=1\nMAINPID={}\n", std::process::id()))
}

fn tell(socket: &OsStr, words: &str) -> io::Result<()> {
    // `@`: a name that is no file's.
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(words.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 64];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_manager_is_told_at_a_path_or_at_a_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        tell(path.as_os_str(), "READY=1\n").unwrap();
        assert_eq!(heard(&manager), "READY=1\n");
        let name = format!("nsd-edge-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        tell(OsStr::new(&format!("@{name}")), "READY=1\n").unwrap();
        assert_eq!(heard(&manager), "READY=1\n");
        assert!(tell(OsStr::new("/nowhere/notify"), "READY=1\n").is_err());
    }
}
