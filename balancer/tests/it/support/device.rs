//! A client that speaks MQTT, with a will, and hears what it is told.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nsd_wire::{
    Connect, Packet, PacketId, Publish, Qos, ReasonCode, Subscribe, SubscribeFilter, SubscribeOptions,
    Version, Will,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::PATIENCE;
use super::broker::MAX_PACKET;

pub(crate) struct Device {
    pub(crate) id: String,
    pub(crate) stream: TcpStream,
    version: Version,
    bytes: Vec<u8>,
}

/// What a device is told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Message(String),
    Disconnect(ReasonCode),
    /// The connection ended between two packets.
    Ended,
    /// It broke, or within a packet.
    Broken,
    Other,
}

impl Device {
    /// Connects; its will is its identifier, on `will/…`.
    pub(crate) async fn come(address: SocketAddr, id: &str, version: Version) -> io::Result<Self> {
        let topic = format!("will/{id}");
        let connect = Connect { will: Some(Will::new(&topic, id.as_bytes())), ..Connect::new(version, id) };
        Self::come_as(address, &connect).await
    }

    pub(crate) async fn come_as(address: SocketAddr, connect: &Connect<'_>) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        let (id, version) = (connect.client_id.to_owned(), connect.version);
        let mut device = Self { id, stream, version, bytes: Vec::new() };
        let mut bytes = Vec::new();
        connect.encode(version, &mut bytes).map_err(io::Error::other)?;
        device.stream.write_all(&bytes).await?;
        let told = device.hear_packet(|packet| match packet {
            Packet::ConnAck(connack) => Some(connack.reason),
            _ => None,
        });
        match timeout(PATIENCE, told).await.map_err(io::Error::other)?? {
            Some(ReasonCode::Success) => Ok(device),
            refused => Err(io::Error::other(format!("{refused:?}"))),
        }
    }

    /// Comes until it is let in.
    pub(crate) async fn persist(address: SocketAddr, id: &str, version: Version) -> Self {
        let begun = std::time::Instant::now();
        loop {
            match Self::come(address, id, version).await {
                Ok(device) => return device,
                Err(error) => assert!(begun.elapsed() < PATIENCE, "never let in: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn many(address: SocketAddr, name: &str, count: usize, version: Version) -> Vec<Self> {
        let mut devices = Vec::with_capacity(count);
        for number in 0..count {
            devices.push(Self::come(address, &format!("{name}-{number}"), version).await.unwrap());
        }
        devices
    }

    pub(crate) async fn subscribe(&mut self, filter: &str) {
        let options = SubscribeOptions::default();
        let filters = [SubscribeFilter { filter, options }];
        let mut bytes = Vec::new();
        let subscribe = Subscribe::new(packet_id(1), &filters);
        subscribe.encode(self.version, &mut bytes).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
        assert_eq!(self.hear().await, Heard::Other, "SUBACK");
    }

    /// A message of QoS 1, as bytes.
    pub(crate) fn message(&self, topic: &str, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let qos = Qos::AtLeastOnce;
        let packet_id = Some(packet_id(7));
        let publish = Publish { qos, packet_id, ..Publish::new(topic, payload) };
        publish.encode(self.version, &mut bytes).unwrap();
        bytes
    }

    /// The next that it is told, within the patience of tests.
    pub(crate) async fn hear(&mut self) -> Heard {
        timeout(PATIENCE, self.hear_at_last()).await.expect("it is told something in time")
    }

    /// The next that it is told.
    pub(crate) async fn hear_at_last(&mut self) -> Heard {
        let heard = self.hear_packet(|packet| match packet {
            Packet::Publish(publish) => Heard::Message(publish.topic.to_owned()),
            Packet::Disconnect(disconnect) => Heard::Disconnect(disconnect.reason),
            _ => Heard::Other,
        });
        match heard.await {
            Ok(heard) => heard,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && self.bytes.is_empty() => {
                Heard::Ended
            }
            Err(_) => Heard::Broken,
        }
    }

    async fn hear_packet<T>(&mut self, look: impl Fn(&Packet<'_>) -> T) -> io::Result<T> {
        loop {
            let read = nsd_wire::read(self.version, &self.bytes, MAX_PACKET);
            if let Some((packet, length)) = read.map_err(io::Error::other)? {
                let seen = look(&packet);
                self.bytes.drain(..length);
                return Ok(seen);
            }
            if self.stream.read_buf(&mut self.bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn packet_id(number: u16) -> PacketId {
    std::num::NonZeroU16::new(number).unwrap().into()
}
