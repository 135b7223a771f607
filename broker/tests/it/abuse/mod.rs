//! Clients that mean harm. Each test asserts two things: the broker's memory stays within what its limits allow, and a
//! pair of well-behaved clients goes on all the while. The figures are printed, for `docs/broker-limits.md`.

mod connects;
mod floods;
mod packets;
mod receivers;
mod subscriptions;
mod witness;

use std::io::Read;
use std::net::TcpStream;
use std::thread::JoinHandle;

use nsd_wire::{Connect, Packet, Version};

use crate::support::{Broker, Client};
use witness::Witness;

const MIB: u64 = 1024;

/// A broker under attack, and those who just want to be served by it.
struct Siege {
    broker: Broker,
    witness: Witness,
    before_kib: u64,
}

impl Siege {
    fn begin() -> Self {
        Self::with("")
    }

    fn with(limits: &str) -> Self {
        Self::of(Broker::start(&format!("allow_anonymous = true\n[limits]\n{limits}")))
    }

    /// What serving anybody costs has been paid when this returns.
    fn of(broker: Broker) -> Self {
        let witness = Witness::start(broker.address);
        let before_kib = broker.resident_kib();
        Self { broker, witness, before_kib }
    }

    fn client(&self, id: &str) -> Client {
        self.broker.client(Version::V5, id)
    }

    /// A client whose kernel takes little for it: what it does not read soon stays with the broker.
    fn narrow(&self, version: Version, id: &str) -> Client {
        let mut client = Client::narrow(self.broker.address, version);
        client.login(&Connect::new(version, id));
        client
    }

    /// A connection that says nothing yet, with one file of ours.
    fn socket(&self) -> TcpStream {
        TcpStream::connect(self.broker.address).unwrap()
    }

    /// How much more than before the broker has held at its worst.
    fn grown_kib(&self) -> u64 {
        self.broker.peak_kib().saturating_sub(self.before_kib)
    }

    /// The abuse is over: prints its row of the table in `docs/broker-limits.md`, all memory in MiB.
    #[expect(clippy::print_stdout, reason = "the figures of docs/broker-limits.md, shown with --nocapture")]
    fn end(self, what: &str, most_kib: u64) {
        let slowest = self.witness.end().as_millis();
        assert!(self.broker.ask("health").0, "{what}: it is not well after it");
        let (before, after, peak) = (self.before_kib, self.broker.resident_kib(), self.broker.peak_kib());
        let (grown, bound) = (peak.saturating_sub(before), most_kib / MIB);
        let [before, peak, after, grew] = [before, peak, after, grown].map(|kib| kib as f64 / MIB as f64);
        println!("| {what} | {before:.1} | {peak:.1} | {after:.1} | {grew:.1} | {bound} | {slowest} |");
        assert!(grown < most_kib, "{what}: the broker grew by {grown} KiB, {most_kib} is the most");
    }
}

/// The bytes of some packets, one after the other.
fn written(version: Version, packets: impl IntoIterator<Item = Packet<'static>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    packets.into_iter().for_each(|packet| packet.encode(version, &mut bytes).unwrap());
    bytes
}

fn connect(version: Version, id: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    Packet::Connect(Connect::new(version, id)).encode(version, &mut bytes).unwrap();
    bytes
}

/// Reads whatever comes until the other side is gone: how many bytes it was.
fn swallow(client: &Client) -> JoinHandle<u64> {
    let mut socket = client.socket.try_clone().unwrap();
    socket.set_read_timeout(None).unwrap();
    std::thread::spawn(move || {
        let (mut buffer, mut bytes) = (vec![0; 64 * 1024], 0);
        while let Ok(read @ 1..) = socket.read(&mut buffer) {
            bytes += read as u64;
        }
        bytes
    })
}
