//! Health: is the instance up? Asked from its own machine, until it answers, ends, or the deadline passes.

use std::time::{Duration, Instant};

use nsd_wire::{Connect, PacketType, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::engine::{LogLine, LogOptions, Status, Stream};
use super::{Engine, Host};
use crate::failure::Failure;
use crate::plan::{ContainerName, RunState};
use crate::system::{Probe, Protocol};

/// Without a health check, a container that runs this long counts as up.
const STEADY: Duration = Duration::from_secs(1);
/// First pause between two tries; doubled up to the interval, so that what is up at once is seen at once.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// So many starts again while we wait are a crash loop.
const CRASHES: u64 = 3;
/// A relay (SSH, docker-proxy) accepts before it knows whether anybody listens, and then closes: so long after a round
/// trip to the engine, an open connection is one that was accepted.
const SETTLE: Duration = Duration::from_millis(100);
/// Before v5 a CONNACK has this length, always.
const CONNACK_BYTES: usize = 4;
const DISCONNECT: [u8; 2] = [(PacketType::Disconnect as u8) << 4, 0];
/// Lines of its log that a failure shows.
const LOG_LINES: usize = 10;

/// Waits until the container is up by the health it was made with.
pub(crate) async fn await_healthy(host: &Host, container: &ContainerName) -> Result<(), Failure> {
    let started = Instant::now();
    let first = host.engine.status(container).await?;
    let Some(health) = first.health.clone() else { return await_steady(host, container, &first).await };
    let mut pause = FIRST_PAUSE;
    let mut status = first.clone();
    loop {
        if let Some(why) = crashed(&first, &status) {
            return Err(unhealthy(host, container, why).await);
        }
        let answer = timeout(health.timeout, probe(host, container, &health.probe, &status)).await;
        let why = match answer {
            Ok(Ok(())) => {
                // A stranger on the port (on the machine's own network) would answer in its place.
                let now = host.engine.status(container).await?;
                if now.state.runs() && now.restarts == status.restarts {
                    return Ok(());
                }
                "it answered and then ended".to_owned()
            }
            Ok(Err(why)) => why,
            Err(_) => format!("no answer within {:?}", health.timeout),
        };
        if started.elapsed() + pause > health.deadline {
            let why = format!("not healthy after {:?}: {}: {why}", health.deadline, in_words(&health.probe));
            return Err(unhealthy(host, container, why).await);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(health.interval);
        status = host.engine.status(container).await?;
    }
}

async fn await_steady(host: &Host, container: &ContainerName, first: &Status) -> Result<(), Failure> {
    let started = Instant::now();
    let mut status = first.clone();
    loop {
        if let Some(why) = crashed(first, &status) {
            return Err(unhealthy(host, container, why).await);
        }
        if status.restarts > first.restarts {
            return Err(unhealthy(host, container, "it ended and was started again".into()).await);
        }
        if started.elapsed() >= STEADY && status.state.runs() {
            return Ok(());
        }
        tokio::time::sleep(STEADY / 4).await;
        status = host.engine.status(container).await?;
    }
}

/// Why there is nothing to wait for any more.
fn crashed(first: &Status, now: &Status) -> Option<String> {
    let memory = if now.out_of_memory { ", out of memory" } else { "" };
    match now.state {
        RunState::Exited { code } => Some(format!("it ended with exit code {code}{memory}")),
        RunState::Created => Some("it does not run".into()),
        _ if now.restarts >= first.restarts + CRASHES => {
            Some(format!("it ends again and again ({} times so far{memory})", now.restarts - first.restarts))
        }
        _ => None,
    }
}

async fn unhealthy(host: &Host, container: &ContainerName, why: String) -> Failure {
    let mut failure = Failure::error(format!("it did not come up: {why}"));
    let last = last_lines(&host.engine, container).await;
    if last.is_empty() {
        failure.causes.push("it has written nothing to its log".into());
    } else {
        failure.causes.push(format!("its last words:\n{}", last.join("\n")));
    }
    failure
}

async fn last_lines(engine: &Engine, container: &ContainerName) -> Vec<String> {
    let options = LogOptions { tail: Some(LOG_LINES), ..LogOptions::default() };
    let (sender, mut receiver) = mpsc::channel::<LogLine>(LOG_LINES);
    let collect = async {
        let mut lines = Vec::new();
        while let Some(line) = receiver.recv().await {
            lines.push(format!("  {}", line.text));
        }
        lines
    };
    // What cannot be read of the log must not hide why it was wanted.
    let both = async { tokio::join!(engine.logs(container, &options, sender), collect).1 };
    timeout(Duration::from_secs(5), both).await.unwrap_or_default()
}

/// One try.
async fn probe(host: &Host, container: &ContainerName, probe: &Probe, status: &Status) -> Result<(), String> {
    let (Probe::Tcp { port } | Probe::Mqtt { port }) = *probe;
    let address = bound_address(status, port);
    let stream = host.forward_to(&address, port).await.map_err(|failure| failure.causes.join(": "))?;
    match probe {
        Probe::Tcp { .. } => stays_open(host, container, stream).await,
        Probe::Mqtt { .. } => answers_connect(stream).await,
    }
}

/// A port published on one address answers only there.
fn bound_address(status: &Status, port: u16) -> String {
    let published =
        status.ports.iter().find(|published| published.host == port && published.protocol == Protocol::Tcp);
    let address = published.and_then(|published| published.ip.as_deref());
    address.filter(|ip| !matches!(*ip, "" | "0.0.0.0" | "::")).unwrap_or("127.0.0.1").to_owned()
}

async fn stays_open(host: &Host, container: &ContainerName, mut stream: Stream) -> Result<(), String> {
    if matches!(host.engine, Engine::Processes(_)) {
        return Ok(());
    }
    // The answer to this comes back over the same way as a refusal would, behind it.
    host.engine.status(container).await.map_err(|failure| failure.message)?;
    match timeout(SETTLE, stream.read_u8()).await {
        Err(_) | Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err("the connection is refused".into()),
    }
}

/// Any CONNACK will do: the broker is alive and speaks.
async fn answers_connect(mut stream: Stream) -> Result<(), String> {
    let words = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            "the connection is refused or closed without an answer".to_owned()
        }
        _ => error.to_string(),
    };
    let client_id = format!("nsd-probe-{:08x}", fresh_number());
    let connect = Connect::new(Version::V311, &client_id);
    let mut packet = Vec::new();
    connect.encode(Version::V311, &mut packet).map_err(|error| error.to_string())?;
    stream.write_all(&packet).await.map_err(words)?;
    let mut answer = [0; CONNACK_BYTES];
    stream.read_exact(&mut answer).await.map_err(words)?;
    // A polite goodbye, so that the broker does not count a lost client.
    let _ = stream.write_all(&DISCONNECT).await;
    match nsd_wire::frame(&answer, CONNACK_BYTES) {
        Ok(Some(frame)) if frame.kind == PacketType::ConnAck => Ok(()),
        _ => Err(format!("the answer to CONNECT is no CONNACK but starts with {:#04x}", answer[0])),
    }
}

fn fresh_number() -> u32 {
    let (number, _) = uuid::Uuid::new_v4().as_u64_pair();
    (number >> 32) as u32
}

fn in_words(probe: &Probe) -> String {
    match probe {
        Probe::Tcp { port } => format!("TCP connection to port {port}"),
        Probe::Mqtt { port } => format!("MQTT CONNECT to port {port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the probe makes of a server that answers a CONNECT with `answer` and hangs up.
    async fn answered(answer: &'static [u8]) -> Result<(), String> {
        let (ours, mut theirs) = tokio::io::duplex(256);
        let server = async {
            let mut first = [0; 64];
            let read = theirs.read(&mut first).await.unwrap();
            let frame = nsd_wire::frame(&first[..read], 256).unwrap().unwrap();
            assert_eq!((frame.kind, frame.header + frame.body), (PacketType::Connect, read));
            theirs.write_all(answer).await.unwrap();
            drop(theirs);
        };
        tokio::join!(answers_connect(Box::pin(ours)), server).0
    }

    #[tokio::test]
    async fn any_connack_is_a_sign_of_life() {
        assert_eq!(answered(&[0x20, 2, 0, 0]).await, Ok(()));
        assert_eq!(answered(&[0x20, 2, 0, 5]).await, Ok(()), "refused, yet alive");
        assert!(answered(b"").await.unwrap_err().contains("closed without an answer"));
        assert!(answered(b"HTTP").await.unwrap_err().contains("no CONNACK"));
    }

    #[test]
    fn a_port_bound_to_one_address_is_asked_there() {
        let port = |ip: Option<&str>| crate::system::Port {
            ip: ip.map(str::to_owned),
            host: 1883,
            container: 1883,
            protocol: Protocol::Tcp,
        };
        let address = |ip: Option<&str>| {
            let state = RunState::Created;
            let status =
                Status { state, restarts: 0, health: None, ports: vec![port(ip)], out_of_memory: false };
            bound_address(&status, 1883)
        };
        assert_eq!(address(None), "127.0.0.1");
        assert_eq!(address(Some("0.0.0.0")), "127.0.0.1");
        assert_eq!(address(Some("10.0.0.2")), "10.0.0.2");
    }
}
