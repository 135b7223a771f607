//! A small MQTT client for `nsd mqtt pub|sub`: one connection, one thing at a time. The bytes are `nsd-wire`'s.

mod tls;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nsd_wire::{
    Ack, AckKind, Connect, Disconnect, Packet, PacketId, Publish, Qos, ReasonCode, Subscribe,
    SubscribeFilter, SubscribeOptions, Version,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::failure::{Failure, Kind};
use crate::secret::Secret;

/// For a TCP connection, a TLS handshake, or any one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Seconds without a word after which the server may think us gone.
const KEEP_ALIVE: u16 = 30;

/// A larger packet ends the connection.
const MAX_PACKET: usize = 16 << 20;

/// QoS 2 messages received and not yet released; more of them end the connection.
const MAX_UNRELEASED: usize = 1024;

/// Where to, and as whom.
#[derive(Clone)]
pub struct Settings {
    pub host: String,
    pub port: u16,
    pub tls: Option<Trust>,
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub client_id: String,
    pub version: Version,
}

/// Which servers are believed.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Certificates of well-known authorities.
    WellKnown,
    /// Certificates in these PEM files, and no others.
    Files(Vec<PathBuf>),
    /// Any: for trying things out.
    Anyone,
}

/// A message from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: Qos,
    pub retain: bool,
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection that was let in.
pub struct Client {
    stream: Box<dyn Duplex>,
    /// Received and not yet parsed.
    received: Vec<u8>,
    version: Version,
    next_id: PacketId,
    /// QoS 2: told to the user, not yet released by the server.
    unreleased: BTreeSet<PacketId>,
    next_ping: Instant,
    awaits_pong: bool,
    peer: String,
}

/// What matters of a packet; all of it owned.
enum Heard {
    Message(Message),
    Acknowledged { kind: AckKind, id: PacketId, reason: ReasonCode },
    Subscribed(Vec<ReasonCode>),
    LetIn(ReasonCode),
    Nothing,
}

impl Client {
    /// Connects and waits for the server's yes.
    pub async fn connect(settings: &Settings) -> Result<Self, Failure> {
        let peer = format!("{}:{}", settings.host, settings.port);
        let stream = open(settings, &peer).await?;
        let mut client = Self {
            stream,
            received: Vec::new(),
            version: settings.version,
            next_id: PacketId::MIN,
            unreleased: BTreeSet::new(),
            next_ping: Instant::now() + Duration::from_secs(u64::from(KEEP_ALIVE) / 2),
            awaits_pong: false,
            peer,
        };
        let mut connect = Connect::new(settings.version, &settings.client_id);
        connect.keep_alive = KEEP_ALIVE;
        connect.user_name = settings.user.as_deref();
        connect.password = settings.password.as_ref().map(|password| password.reveal().as_bytes());
        client.send(&Packet::Connect(connect)).await?;
        match client
            .answer("CONNACK", |heard| if let Heard::LetIn(reason) = heard { Some(*reason) } else { None })
            .await?
        {
            ReasonCode::Success => Ok(client),
            reason => Err(refused(&client.peer, reason)),
        }
    }

    /// Returns when the server has taken the message as its QoS promises.
    pub async fn publish(
        &mut self,
        topic: &str,
        payload: &[u8],
        qos: Qos,
        retain: bool,
    ) -> Result<(), Failure> {
        let id = self.new_id();
        let mut publish = Publish::new(topic, payload);
        (publish.qos, publish.retain) = (qos, retain);
        publish.packet_id = (qos != Qos::AtMostOnce).then_some(id);
        self.send(&Packet::Publish(publish)).await?;
        match qos {
            Qos::AtMostOnce => Ok(()),
            Qos::AtLeastOnce => self.acknowledged(AckKind::PubAck, id, topic).await,
            Qos::ExactlyOnce => {
                self.acknowledged(AckKind::PubRec, id, topic).await?;
                self.send(&Packet::PubRel(Ack::new(id))).await?;
                self.acknowledged(AckKind::PubComp, id, topic).await
            }
        }
    }

    pub async fn subscribe(&mut self, filters: &[String], qos: Qos) -> Result<(), Failure> {
        let id = self.new_id();
        let options = SubscribeOptions { qos, ..SubscribeOptions::default() };
        let wanted: Vec<SubscribeFilter<'_>> =
            filters.iter().map(|filter| SubscribeFilter { filter, options }).collect();
        self.send(&Packet::Subscribe(Subscribe::new(id, &wanted))).await?;
        let codes =
            self.answer("SUBACK", |heard| {
                if let Heard::Subscribed(codes) = heard { Some(codes.clone()) } else { None }
            })
            .await?;
        match codes.iter().zip(filters).find(|(code, _)| code.is_failure()) {
            None => Ok(()),
            Some((code, filter)) => Err(Failure::error(format!(
                "{} refuses the subscription to `{filter}`: {}",
                self.peer,
                code.text()
            ))
            .hint("a device may use the topics whose second level is its name: `devices/NAME/#`")),
        }
    }

    /// The next message, however long it takes; keeps the connection alive meanwhile.
    pub async fn next(&mut self) -> Result<Message, Failure> {
        loop {
            if let Heard::Message(message) = self.hear().await? {
                return Ok(message);
            }
        }
    }

    /// Says goodbye; what comes of it no longer matters.
    pub async fn close(mut self) {
        if self.send(&Packet::Disconnect(Disconnect::new(ReasonCode::NORMAL_DISCONNECTION))).await.is_ok() {
            let _ = self.stream.shutdown().await;
        }
    }

    async fn acknowledged(
        &mut self,
        wanted: AckKind,
        wanted_id: PacketId,
        topic: &str,
    ) -> Result<(), Failure> {
        let found = |heard: &Heard| match heard {
            Heard::Acknowledged { kind, id, reason } if *kind == wanted && *id == wanted_id => Some(*reason),
            _ => None,
        };
        let reason = self.answer("acknowledgement", found).await?;
        if reason.is_failure() {
            return Err(Failure::error(format!(
                "{} refuses the message to `{topic}`: {}",
                self.peer,
                reason.text()
            ))
            .hint("a device may use the topics whose second level is its name: `devices/NAME/…`"));
        }
        Ok(())
    }

    /// Listens until `found` is satisfied, but not for ever.
    async fn answer<T>(&mut self, what: &str, found: impl Fn(&Heard) -> Option<T>) -> Result<T, Failure> {
        let peer = self.peer.clone();
        let listen = async {
            loop {
                if let Some(answer) = found(&self.hear().await?) {
                    return Ok(answer);
                }
            }
        };
        let patience = timeout(PATIENCE, listen).await;
        patience.unwrap_or_else(|_| {
            Err(Failure::new(
                Kind::Unreachable,
                format!("{peer} gave no {what} within {} s", PATIENCE.as_secs()),
            ))
        })
    }

    /// One packet, answered as MQTT wants it.
    async fn hear(&mut self) -> Result<Heard, Failure> {
        loop {
            let broken = |error: &dyn std::error::Error| {
                Failure::error(format!("{} does not speak MQTT properly", self.peer)).because(error)
            };
            let found = match nsd_wire::read(self.version, &self.received, MAX_PACKET)
                .map_err(|error| broken(&error))?
            {
                Some((packet, length)) => Some((heard(&packet, &self.peer)?, length)),
                None => None,
            };
            match found {
                Some(((heard, reply), length)) => {
                    self.received.drain(..length);
                    self.awaits_pong = false;
                    return self.reply(heard, reply).await;
                }
                None => self.receive().await?,
            }
        }
    }

    async fn reply(&mut self, heard: Heard, reply: Reply) -> Result<Heard, Failure> {
        match reply {
            Reply::None => Ok(heard),
            Reply::PubAck(id) => self.send(&Packet::PubAck(Ack::new(id))).await.map(|()| heard),
            Reply::PubRec(id) => {
                self.send(&Packet::PubRec(Ack::new(id))).await?;
                if self.unreleased.len() >= MAX_UNRELEASED {
                    return Err(Failure::error(format!("{} never releases its QoS 2 messages", self.peer)));
                }
                // Sent again by the server, it was told already.
                Ok(if self.unreleased.insert(id) { heard } else { Heard::Nothing })
            }
            Reply::PubComp(id) => {
                self.unreleased.remove(&id);
                self.send(&Packet::PubComp(Ack::new(id))).await.map(|()| heard)
            }
        }
    }

    /// More bytes, or a ping when it is time for one.
    async fn receive(&mut self) -> Result<(), Failure> {
        let read = tokio::time::timeout_at(self.next_ping, self.stream.read_buf(&mut self.received)).await;
        match read {
            Ok(Ok(0)) => Err(lost(&self.peer).cause("it closed the connection")),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(lost(&self.peer).because(&error)),
            Err(_) if self.awaits_pong => {
                Err(lost(&self.peer).cause(format!("it has been silent for {KEEP_ALIVE} s")))
            }
            Err(_) => {
                self.awaits_pong = true;
                self.send(&Packet::PingReq).await
            }
        }
    }

    async fn send(&mut self, packet: &Packet<'_>) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        packet
            .encode(self.version, &mut bytes)
            .map_err(|error| Failure::new(Kind::Usage, "this cannot be said in MQTT").because(&error))?;
        self.next_ping = Instant::now() + Duration::from_secs(u64::from(KEEP_ALIVE) / 2);
        let sent = timeout(PATIENCE, async {
            self.stream.write_all(&bytes).await?;
            self.stream.flush().await
        });
        let sent = sent.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        sent.map_err(|error| lost(&self.peer).because(&error))
    }

    fn new_id(&mut self) -> PacketId {
        let id = self.next_id;
        self.next_id = id.next();
        id
    }
}

/// What a packet must be answered with.
enum Reply {
    None,
    PubAck(PacketId),
    PubRec(PacketId),
    PubComp(PacketId),
}

fn heard(packet: &Packet<'_>, peer: &str) -> Result<(Heard, Reply), Failure> {
    let ack = |kind: AckKind, ack: &Ack<'_>| {
        (Heard::Acknowledged { kind, id: ack.packet_id, reason: ack.reason }, Reply::None)
    };
    Ok(match packet {
        Packet::ConnAck(connack) => (Heard::LetIn(connack.reason), Reply::None),
        Packet::Publish(publish) => (message(publish), reply_to(publish)),
        Packet::PubAck(one) => ack(AckKind::PubAck, one),
        Packet::PubRec(one) => ack(AckKind::PubRec, one),
        Packet::PubComp(one) => ack(AckKind::PubComp, one),
        Packet::PubRel(one) => (Heard::Nothing, Reply::PubComp(one.packet_id)),
        Packet::SubAck(suback) => (Heard::Subscribed(suback.codes.iter().collect()), Reply::None),
        Packet::Disconnect(goodbye) => {
            return Err(lost(peer).cause(format!("it says: {}", goodbye.reason.text())));
        }
        _ => (Heard::Nothing, Reply::None),
    })
}

fn message(publish: &Publish<'_>) -> Heard {
    let (topic, payload) = (publish.topic.to_owned(), publish.payload.to_owned());
    Heard::Message(Message { topic, payload, qos: publish.qos, retain: publish.retain })
}

fn reply_to(publish: &Publish<'_>) -> Reply {
    match (publish.qos, publish.packet_id) {
        (Qos::AtLeastOnce, Some(id)) => Reply::PubAck(id),
        (Qos::ExactlyOnce, Some(id)) => Reply::PubRec(id),
        _ => Reply::None,
    }
}

async fn open(settings: &Settings, peer: &str) -> Result<Box<dyn Duplex>, Failure> {
    let cannot = |error: &dyn std::error::Error| {
        Failure::new(Kind::Unreachable, format!("cannot connect to {peer}")).because(error)
    };
    let connect = timeout(PATIENCE, TcpStream::connect((settings.host.as_str(), settings.port))).await;
    let stream = connect
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|error| cannot(&error).hint("does it run there? See `nsd status`"))?;
    stream.set_nodelay(true).map_err(|error| cannot(&error))?;
    let Some(trust) = &settings.tls else { return Ok(Box::new(stream)) };
    let handshake = timeout(PATIENCE, tls::connect(stream, &settings.host, trust)).await;
    let stream = handshake.unwrap_or_else(|_| Err(cannot(&io::Error::from(io::ErrorKind::TimedOut))))?;
    Ok(Box::new(stream))
}

fn lost(peer: &str) -> Failure {
    Failure::new(Kind::Unreachable, format!("lost the connection to {peer}"))
}

/// The server was reached and said no to this client; asking again changes nothing.
pub fn is_refusal(failure: &Failure) -> bool {
    failure.kind != Kind::Unreachable
}

fn refused(peer: &str, reason: ReasonCode) -> Failure {
    let failure = Failure::error(format!("{peer} does not let us in: {}", reason.text()));
    match reason {
        // No word about this client: it passes, as when a balancer's servers are all being started again.
        ReasonCode::ServerUnavailable
        | ReasonCode::ServerBusy
        | ReasonCode::ServerShuttingDown
        | ReasonCode::QuotaExceeded
        | ReasonCode::ConnectionRateExceeded => Failure { kind: Kind::Unreachable, ..failure },
        ReasonCode::NotAuthorized | ReasonCode::BadUserNameOrPassword => {
            failure.hint("user (`-u`) and password (NSD_MQTT_PASSWORD) are those of `nsd device add NAME`")
        }
        _ => failure,
    }
}
