//! Health checks: one task a server looks at it, judges, and tells its machine. The MQTT check asks what a client asks,
//! so that a broker which only still accepts connections is seen as frozen.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use nsd_edge::proxy_header::ProxyHeader;
use nsd_wire::{ConnAck, Connect, Disconnect, Packet, PacketType, ReasonCode, Version};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

use crate::backend::State;
use crate::member::Member;
use crate::origin;
use crate::settings::{CheckKind, Policy, ProxyVersion};

/// The first byte of the answer: what begins otherwise need not be waited for.
const CONNACK: u8 = (PacketType::ConnAck as u8) << 4;
/// A CONNACK with properties; a longer one is none.
const MAX_ANSWER: usize = 4096;
/// Between a failed check and the next while the server still counts as healthy: two failures in a row should be known
/// within two intervals.
const RECHECK: Duration = Duration::from_millis(20);
/// A server that answers later than this part of the timeout is slow: alive, and worth showing.
const SLOW_PART: u32 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Ok,
    /// Answered, but only just in time.
    Slow,
    /// Nothing takes connections there.
    Dead,
    /// Takes connections and then says nothing.
    Frozen,
    /// Says that it is unavailable, or ends the connection.
    Refusing,
    /// Speaks, but not MQTT.
    Garbled,
}

impl Verdict {
    pub(crate) fn is_alive(self) -> bool {
        matches!(self, Self::Ok | Self::Slow)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Slow => "slow",
            Self::Dead => "dead",
            Self::Frozen => "frozen",
            Self::Refusing => "refusing",
            Self::Garbled => "garbled",
        }
    }
}

/// Checks the server until it is gone.
pub(crate) async fn watch(member: Arc<Member>, policy: Arc<ArcSwap<Policy>>) {
    loop {
        let now = policy.load_full();
        let failed = match (member.state(), now.check.kind) {
            (State::Gone, _) => return,
            // Trusted until connections fail.
            (State::Healthy | State::Draining, CheckKind::None) => {
                member.nudge.notified().await;
                continue;
            }
            _ => {
                let begun = Instant::now();
                let verdict = check(&member, &now).await;
                member.checked(verdict, begun.elapsed(), &now);
                !verdict.is_alive()
            }
        };
        let pause = match (failed, member.state()) {
            (true, State::Healthy) => RECHECK,
            // On its way back: each check that passes brings it nearer.
            (false, State::Unhealthy) => now.check.interval / 4,
            _ => jittered(now.check.interval),
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = member.nudge.notified() => sleep(RECHECK).await,
        }
    }
}

/// A little early, never late: many checks should not beat in time, and the interval is a promise.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(1.0 - 0.1 * fastrand::f64())
}

async fn check(member: &Member, policy: &Policy) -> Verdict {
    let check = &policy.check;
    let begun = Instant::now();
    let deadline = begun + check.timeout;
    let Ok(Ok(mut socket)) = timeout_at(deadline, TcpStream::connect(member.address)).await else {
        return Verdict::Dead;
    };
    if check.kind == CheckKind::Mqtt {
        match timeout_at(deadline, ask(&mut socket, policy.send_proxy)).await {
            Ok(Ok(reason)) if is_unavailable(reason) => return Verdict::Refusing,
            Ok(Ok(_)) => {}
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => return Verdict::Garbled,
            Ok(Err(_)) => return Verdict::Refusing,
            Err(_elapsed) => return Verdict::Frozen,
        }
    }
    if begun.elapsed() > check.timeout / SLOW_PART { Verdict::Slow } else { Verdict::Ok }
}

/// A broker that does not know us ("not authorised") is well; one that says it is unavailable is not.
fn is_unavailable(reason: ReasonCode) -> bool {
    matches!(reason, ReasonCode::ServerUnavailable | ReasonCode::ServerBusy | ReasonCode::ServerShuttingDown)
}

/// CONNECT → CONNACK → DISCONNECT, as a client of our own that leaves nothing behind.
async fn ask(socket: &mut TcpStream, proxy: Option<ProxyVersion>) -> io::Result<ReasonCode> {
    if let Some(version) = proxy {
        origin::tell(socket, version, &ProxyHeader::Local).await?;
    }
    let mut bytes = Vec::with_capacity(64);
    let id = format!("nsd-check-{:08x}", fastrand::u32(..));
    let connect = Connect { clean_start: true, keep_alive: 30, ..Connect::new(Version::V311, &id) };
    connect.encode(Version::V311, &mut bytes).map_err(io::Error::other)?;
    socket.write_all(&bytes).await?;
    bytes.clear();
    let reason = loop {
        if let Some(reason) = answer(&bytes)? {
            break reason;
        }
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    if reason == ReasonCode::Success {
        bytes.clear();
        Disconnect::new(ReasonCode::Success).encode(Version::V311, &mut bytes).map_err(io::Error::other)?;
        // Best effort: the answer is known, and the broker may be gone again.
        let _ = socket.write_all(&bytes).await;
    }
    Ok(reason)
}

fn answer(bytes: &[u8]) -> io::Result<Option<ReasonCode>> {
    let garbled = |what: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
    if bytes.first().is_some_and(|first| *first != CONNACK) {
        return Err(garbled(&"not a CONNACK"));
    }
    match nsd_wire::read(Version::V311, bytes, MAX_ANSWER).map_err(|error| garbled(&error))? {
        Some((Packet::ConnAck(ConnAck { reason, .. }), _)) => Ok(Some(reason)),
        Some(_) => Err(garbled(&"not a CONNACK")),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connack_is_read_whole_and_anything_else_refused() {
        assert_eq!(answer(&[0x20, 2, 0]).unwrap(), None);
        assert_eq!(answer(&[0x20, 2, 0, 0]).unwrap(), Some(ReasonCode::Success));
        assert!(is_unavailable(answer(&[0x20, 2, 0, 3]).unwrap().unwrap()));
        assert!(!is_unavailable(answer(&[0x20, 2, 0, 5]).unwrap().unwrap()));
        for garbled in [b"HTTP/1.1 400".as_slice(), &[0xd0, 0]] {
            assert_eq!(answer(garbled).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn jitter_is_early_and_never_late() {
        let interval = Duration::from_secs(2);
        for _ in 0..1000 {
            let pause = jittered(interval);
            assert!(pause <= interval && pause >= interval.mul_f64(0.9));
        }
    }
}
