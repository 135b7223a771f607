//! Who gets in, and what they may do then: one file a source of identity.

mod acl;
mod certificates;
mod devices;
mod document;
mod own_devices;
mod passwords;
mod scram;
mod service;
mod tokens;

use std::path::PathBuf;

use nsd_wire::{Connect, ReasonCode, Version};

use crate::support::{Broker, Client, SOON, eventually};

fn as_user<'c>(version: Version, name: &'c str, password: &'c str) -> Connect<'c> {
    Connect { user_name: Some(name), password: Some(password.as_bytes()), ..Connect::new(version, name) }
}

/// What a v5 client of this name is told, accepted or not.
fn told(broker: &Broker, connect: &Connect<'_>) -> ReasonCode {
    let mut client = Client::open(broker.address, connect.version);
    client.send(&nsd_wire::Packet::Connect(*connect));
    client.expect(|packet| match packet {
        nsd_wire::Packet::ConnAck(ack) => Some(ack.reason),
        _ => None,
    })
}

/// A directory of files that settings name.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name).display().to_string()
    }

    /// Replaced as careful programs do, which is another event for who watches.
    fn replace(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path("fresh"), content).unwrap();
        std::fs::rename(self.path("fresh"), self.path(name)).unwrap();
    }
}

fn eventually_logged(broker: &Broker, what: &str) {
    eventually(what, SOON, || broker.log().contains(what));
}
