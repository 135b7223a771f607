//! A device: one MQTT 3.1.1 connection, blocking, with deadlines, that tells when it has been cut.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nsd_wire::{
    Connect, Packet, PacketId, Publish, PublishProperties, Qos, ReasonCode, Version, decode, frame,
};

const PATIENCE: Duration = Duration::from_secs(10);
const MAX_PACKET: usize = 1 << 20;

/// What a device logs in with.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
}

pub(crate) struct Device {
    stream: TcpStream,
    /// Bytes of packets that have not been looked at.
    pending: Vec<u8>,
    /// Messages that came while something else was waited for.
    inbox: VecDeque<String>,
}

impl Device {
    /// CONNECT, answered by a CONNACK that accepts.
    pub(crate) fn connect(address: &str, client_id: &str, who: &Credentials) -> io::Result<Self> {
        let target = address.parse().map_err(io::Error::other)?;
        let stream = TcpStream::connect_timeout(&target, Duration::from_secs(3))?;
        stream.set_nodelay(true)?;
        let mut device = Self { stream, pending: Vec::new(), inbox: VecDeque::new() };
        let mut connect = Connect::new(Version::V311, client_id);
        connect.user_name = Some(&who.user);
        connect.password = Some(who.password.as_bytes());
        device.send(|out| connect.encode(Version::V311, out).map_err(io::Error::other))?;
        let code = device.wait(PATIENCE, |packet| match packet {
            Packet::ConnAck(ack) => Some(ack.reason),
            _ => None,
        })?;
        match code == ReasonCode::Success {
            true => Ok(device),
            false => Err(io::Error::new(ErrorKind::PermissionDenied, format!("{code:?}"))),
        }
    }

    /// Tries again until the address takes the device, as a device does that was cut off.
    pub(crate) fn reconnect(address: &str, client_id: &str, who: &Credentials, patience: Duration) -> Self {
        let started = Instant::now();
        loop {
            match Self::connect(address, client_id, who) {
                Ok(device) => return device,
                Err(error) if started.elapsed() > patience => {
                    panic!("{client_id} was not let in again within {patience:?}: {error}")
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    pub(crate) fn subscribe(&mut self, filter: &str) -> io::Result<()> {
        let mut body = vec![0, 1];
        body.extend((filter.len() as u16).to_be_bytes());
        body.extend(filter.as_bytes());
        body.push(1);
        self.send(|out| {
            out.push(0x82);
            out.push(u8::try_from(body.len()).map_err(io::Error::other)?);
            out.extend(&body);
            Ok(())
        })?;
        self.wait(PATIENCE, |packet| matches!(packet, Packet::SubAck(_)).then_some(()))
    }

    /// QoS 1, and waits for the PUBACK.
    pub(crate) fn publish(&mut self, topic: &str, payload: &str) -> io::Result<()> {
        let publish = Publish {
            dup: false,
            qos: Qos::AtLeastOnce,
            retain: false,
            topic,
            packet_id: PacketId::new(7),
            properties: PublishProperties::default(),
            payload: payload.as_bytes(),
        };
        self.send(|out| publish.encode(Version::V311, out).map_err(io::Error::other))?;
        self.wait(PATIENCE, |packet| matches!(packet, Packet::PubAck(_)).then_some(()))
    }

    /// The payload of the next message.
    pub(crate) fn receive(&mut self, patience: Duration) -> io::Result<String> {
        if let Some(payload) = self.inbox.pop_front() {
            return Ok(payload);
        }
        self.wait(patience, |packet| matches!(packet, Packet::Publish(_)).then_some(()))?;
        self.inbox.pop_front().ok_or_else(|| io::Error::other("a PUBLISH that was not kept"))
    }

    /// Still connected: a PINGREQ is answered.
    pub(crate) fn is_alive(&mut self) -> bool {
        let asked = self.send(|out| {
            out.extend([0xC0, 0]);
            Ok(())
        });
        asked
            .and_then(|()| self.wait(PATIENCE, |packet| matches!(packet, Packet::PingResp).then_some(())))
            .is_ok()
    }

    fn acknowledge(&mut self, id: PacketId) -> io::Result<()> {
        self.send(|out| {
            out.extend([0x40, 2]);
            out.extend(id.get().to_be_bytes());
            Ok(())
        })
    }

    fn send(&mut self, encode: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        let mut out = Vec::new();
        encode(&mut out)?;
        self.stream.write_all(&out)
    }

    /// Reads packets until `wanted` takes one. Messages are acknowledged and kept on the way, others are passed over.
    fn wait<T>(&mut self, patience: Duration, wanted: impl Fn(&Packet<'_>) -> Option<T>) -> io::Result<T> {
        let deadline = Instant::now() + patience;
        loop {
            while let Some(head) = frame(&self.pending, MAX_PACKET).map_err(io::Error::other)? {
                let (header, end) = (head.header, head.header + head.body);
                if self.pending.len() < end {
                    break;
                }
                let packet =
                    decode(Version::V311, head, &self.pending[header..end]).map_err(io::Error::other)?;
                let found = wanted(&packet);
                let mut acknowledged = None;
                if let Packet::Publish(publish) = packet {
                    self.inbox.push_back(String::from_utf8_lossy(publish.payload).into_owned());
                    acknowledged = publish.packet_id;
                }
                self.pending.drain(..end);
                if let Some(id) = acknowledged {
                    self.acknowledge(id)?;
                }
                if let Some(found) = found {
                    return Ok(found);
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                read => self.pending.extend(&chunk[..read]),
            }
        }
    }
}
