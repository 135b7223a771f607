//! Health checks: one task a server looks at it, judges, and tells its machine. The MQTT check asks what a client asks,
//! so that a broker which only still accepts connections is seen as frozen.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use nsd_edge::listen;
use nsd_edge::proxy_header::ProxyHeader;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tracing::warn;

use crate::backend::Backend;
use crate::health::State;
use crate::member::Member;
use crate::origin;
use crate::settings::{Ask, Check, MqttAsk, Policy};
use crate::upstream::Upstream;
use crate::verdict::{CheckResult, Failed, Verdict};

mod http;
mod mqtt;

/// Between a failed check and the next while the server still counts as healthy: two failures in a row should be known
/// within two intervals.
const RECHECK: Duration = Duration::from_millis(20);
/// Room for one reading of a server's answer: a CONNACK, or a few messages.
const READ: usize = 4096;

/// Checks the server until it is gone.
pub(crate) async fn watch(member: Arc<Member>, backend: Arc<Backend>) {
    loop {
        let policy = backend.policy.load_full();
        let check = &policy.check;
        let begun = Instant::now();
        let pause = match (member.state(), &check.ask) {
            (State::Gone, _) => return,
            // Trusted until connections fail.
            (State::Healthy | State::Draining, Ask::None) => {
                member.nudge.notified().await;
                continue;
            }
            _ => match look(&member, &backend, &policy).await {
                Some(result) => {
                    let alive = result.verdict.is_alive();
                    let changed = member.checked(result, &policy);
                    pause(check, alive, changed, member.state())
                }
                None => check.interval,
            },
        };
        let soon = begun + check.fast_interval.unwrap_or(check.interval / 4).min(check.interval);
        tokio::select! {
            () = sleep(pause) => {}
            // Bounded, since clients may have brought it about.
            () = member.nudge.notified() => sleep_until(soon).await,
        }
    }
}

/// Until the next check. `changed`: another verdict than before.
fn pause(check: &Check, alive: bool, changed: bool, state: State) -> Duration {
    let fast = match (alive, state) {
        (false, State::Healthy) => Some(RECHECK),
        // On its way back: each check that passes brings it nearer.
        (true, State::Unhealthy) => Some(check.interval / 4),
        _ if changed => Some(check.interval / 4),
        _ => None,
    };
    match fast {
        Some(fast) => check.fast_interval.unwrap_or(fast).min(check.interval),
        None => jittered(check.interval),
    }
}

/// A little early, never late: many checks should not beat in time, and two failures are to be known within two intervals.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.97 - 0.07 * fastrand::f64())
}

/// One check. `None`: this process lacks something, and the server is not to blame.
async fn look(member: &Member, backend: &Backend, policy: &Policy) -> Option<CheckResult> {
    let check = &policy.check;
    let begun = Instant::now();
    let deadline = begun + check.timeout;
    let at = match member.place.found_at(deadline).await {
        Ok(clients) => place(check, clients),
        Err(detail) => {
            let detail = Some(detail.to_string());
            return Some(CheckResult { verdict: Verdict::Unresolved, milliseconds: 0, detail });
        }
    };
    let outcome = match timeout_at(deadline, TcpStream::connect(at)).await {
        Ok(Ok(socket)) => timeout_at(deadline, ask(socket, member, backend, policy))
            .await
            .unwrap_or_else(|_| Err(Failed::new(Verdict::Frozen, "no answer in time".to_owned()))),
        Ok(Err(error)) if listen::is_our_limit(&error) => {
            warn!(server = member.name, %error, "cannot check");
            return None;
        }
        Ok(Err(error)) => Err(Failed::new(Verdict::Dead, error.to_string())),
        Err(_elapsed) => Err(Failed::new(Verdict::Dead, "no connection in time".to_owned())),
    };
    let took = begun.elapsed();
    let (verdict, detail) = match outcome {
        Ok(()) if took > check.slow_after => (Verdict::Slow, None),
        Ok(()) => (Verdict::Ok, None),
        Err(Failed { verdict, detail }) => (verdict, Some(detail)),
    };
    let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    Some(CheckResult { verdict, milliseconds, detail })
}

/// Where a server is checked.
fn place(check: &Check, clients: SocketAddr) -> SocketAddr {
    SocketAddr::new(check.address.unwrap_or(clients.ip()), check.port.unwrap_or(clients.port()))
}

async fn ask(
    mut socket: TcpStream,
    member: &Member,
    backend: &Backend,
    policy: &Policy,
) -> Result<(), Failed> {
    let check = &policy.check;
    if let Some(version) = policy.send_proxy.filter(|_| check.send_proxy) {
        let told = origin::tell(&mut socket, version, ProxyHeader::Local).await;
        told.map_err(|error| Failed::broken(&error))?;
    }
    let credentials = backend.credentials.load_full();
    let stream = match &policy.server_tls {
        Some(tls) if check.tls && check.ask != Ask::Tcp => {
            let shaken = Box::pin(credentials.shake_hands(socket, tls, &member.place.address)).await;
            Upstream::Tls(Box::new(shaken.map_err(|error| Failed::broken(&error))?))
        }
        _ => Upstream::Plain(socket),
    };
    match &check.ask {
        Ask::None | Ask::Tcp | Ask::Tls => Ok(()),
        Ask::Http(ask) => http::ask(stream, ask, &member.place.address.to_string()).await,
        Ask::Mqtt(ask) => {
            let password = credentials.password();
            talk(stream, ask, &member.name, password.as_deref().map(|text| text.as_bytes())).await
        }
    }
}

async fn talk(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    ask: &MqttAsk,
    server: &str,
    password: Option<&[u8]>,
) -> Result<(), Failed> {
    let mut talk = mqtt::Talk::new(ask, server, fastrand::u64(..));
    let mut next = mqtt::Next::Say(talk.connect(password)?);
    let broken = |error: io::Error| Failed::broken(&error);
    let mut heard = BytesMut::new();
    loop {
        match next {
            mqtt::Next::Say(bytes) => {
                stream.write_all(&bytes).await.map_err(broken)?;
                stream.flush().await.map_err(broken)?;
                // There may be more of what was heard already.
                next = talk.take(&mut heard)?;
                continue;
            }
            mqtt::Next::Listen => {}
            mqtt::Next::Done(goodbye) => {
                // Best effort: the answer is known, and the broker may be gone again.
                let _ = stream.write_all(&goodbye).await;
                let _ = stream.shutdown().await;
                return Ok(());
            }
        }
        heard.reserve(READ);
        if stream.read_buf(&mut heard).await.map_err(broken)? == 0 {
            return Err(Failed::new(Verdict::Refusing, "it ended the connection".to_owned()));
        }
        next = talk.take(&mut heard)?;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{DuplexStream, ReadBuf};

    use super::*;

    #[test]
    fn jitter_is_early_and_never_late() {
        let interval = Duration::from_secs(2);
        for _ in 0..1000 {
            let pause = jittered(interval);
            assert!(pause <= interval && pause >= interval.mul_f64(0.9));
        }
    }

    /// Whatever is said on the topic of a loop-back comes, too.
    #[tokio::test]
    async fn what_others_say_is_read_in_large_pieces() {
        const OTHERS: usize = 60 * 1024;
        let ask = MqttAsk { loop_back: Some("t".to_owned()), ..MqttAsk::default() };
        let (mut server, ours) = tokio::io::duplex(2 * OTHERS);
        let mut said = vec![0x20, 2, 0, 0, 0x90, 3, 0, 1, 0];
        nsd_wire::Publish::new("t", &[0; OTHERS]).encode(ask.version, &mut said).unwrap();
        server.write_all(&said).await.unwrap();
        server.shutdown().await.unwrap();
        let mut counted = Counted { stream: ours, reads: 0 };
        let failed = talk(&mut counted, &ask, "b1", None).await.unwrap_err();
        assert_eq!(failed.verdict, Verdict::Refusing, "its end came before our message");
        assert!(counted.reads <= 2 + OTHERS / READ, "{} reads", counted.reads);
    }

    struct Counted {
        stream: DuplexStream,
        reads: usize,
    }

    impl AsyncRead for Counted {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.reads += 1;
            Pin::new(&mut self.stream).poll_read(context, into)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            from: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.stream).poll_write(context, from)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(context)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(context)
        }
    }

    #[test]
    fn what_changes_is_looked_at_sooner() {
        let check = Check { interval: Duration::from_secs(4), ..Check::default() };
        let second = Duration::from_secs(1);
        assert_eq!(pause(&check, false, true, State::Healthy), RECHECK);
        assert_eq!(pause(&check, true, true, State::Unhealthy), second);
        assert_eq!(pause(&check, false, true, State::Unhealthy), second);
        assert!(pause(&check, false, false, State::Unhealthy) > 3 * second);
        assert!(pause(&check, true, false, State::Healthy) > 3 * second);
        let told = Check { fast_interval: Some(second / 2), ..check };
        assert_eq!(pause(&told, false, true, State::Healthy), second / 2);
        assert_eq!(pause(&told, true, true, State::Healthy), second / 2);
    }
}
