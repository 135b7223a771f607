//! Servers that join, fail, freeze, refuse, return and leave.

use std::time::Duration;

use anyhow::{Context, Result};
use nsd_load::cli::Role;
use nsd_wire::{Connect, Packet, Version, Will};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::Seen;
use super::configuration::{Balance, CHECK_EVERY, Options};
use super::stage::{ANSWER, SETTLE, Stage, closed, is_closed, signal, stop, until};
use crate::contenders::LOAD_PROCESSOR;
use crate::process::{Program, Running, installed};

/// A frozen server is watched for so long.
const WATCH: Duration = Duration::from_secs(8);
/// Planned moves of a few clients are over by then.
const MOVED: Duration = Duration::from_secs(10);

pub(super) async fn joins(stage: &Stage<'_>) -> Result<Seen> {
    let servers = stage.servers(&[Role::Session; 3]).await?;
    let (old, new) = (stage.size(1000, 200), stage.size(300, 60));
    let balancer = stage.balancer(&Options::default()).await?;
    let mut sessions = stage.clients(old).await?;
    let before = stage.at_servers()?;
    stage.configure(&Options { servers: 3, ..Options::default() })?;
    stage.reload(&balancer).await?;
    sessions.extend(stage.clients(new).await?);
    let after = stage.at_servers()?;
    let gained: Vec<usize> =
        before.iter().zip(after).map(|(before, after)| after.saturating_sub(*before)).collect();
    stop(balancer, servers).await;
    let text = gained.iter().map(usize::to_string).collect::<Vec<_>>().join(" / ");
    // Checks come and go at the same ports: a few connections more or less are theirs.
    Ok(Seen::new(gained.last().is_some_and(|third| third + 5 >= new), text))
}

/// Its port refuses, what it has goes on: as a broker does that shuts down, or whose machine lost its address.
pub(super) async fn protects(stage: &Stage<'_>) -> Result<Seen> {
    let servers = stage.servers(&[Role::Session; 3]).await?;
    let balancer = stage.balancer(&Options::default()).await?;
    let sessions = stage.clients(100).await?;
    let there = stage.at_servers()?[0].min(50);
    stage.configure(&Options { servers: 3, ..Options::default() })?;
    stage.reload(&balancer).await?;
    signal(servers[0].pid, Signal::HUP)?;
    let gone = until(CHECK_EVERY * 6, || closed(&sessions) >= there).await;
    let (ended, left) = (closed(&sessions), sessions.len());
    stop(balancer, servers).await;
    let when = gone.map_or_else(String::new, |gone| format!(" after {:.1} s", gone.as_secs_f64()));
    Ok(Seen::new(
        ended == there,
        format!("{ended} of {there} closed{when}, {} others stay", left - ended.max(there)),
    ))
}

pub(super) async fn freezes(stage: &Stage<'_>) -> Result<Seen> {
    let usual = Options { balance: Balance::RoundRobin, ..Options::default() };
    let (noticed, text) = frozen(stage, &usual).await?;
    if !stage.is_haproxy() {
        return Ok(Seen::new(noticed, text));
    }
    let (by_hand, text_by_hand) = frozen(stage, &Options { check_by_hand: true, ..usual }).await?;
    Ok(Seen::new(noticed || by_hand, format!("`check`: {text}; CONNECT in bytes by hand: {text_by_hand}")))
}

/// Whether in time, and when the last client was sent there. They come at their times, however long those before them
/// wait: else the last that fails would stand for all that would have come until it gave up.
async fn frozen(stage: &Stage<'_>, options: &Options) -> Result<(bool, String)> {
    let servers = stage.servers(&[Role::Session; 2]).await?;
    let balancer = stage.balancer(options).await?;
    let _sessions = stage.clients(10).await?;
    signal(servers[0].pid, Signal::STOP)?;
    let start = Instant::now();
    let mut clients = JoinSet::new();
    while start.elapsed() < WATCH {
        let (begun, coming) = (start.elapsed(), stage.coming(Connect::new(Version::V311, "")));
        clients.spawn(async move { (begun, coming.await.is_ok()) });
        sleep(Duration::from_millis(20)).await;
    }
    let clients = clients.join_all().await;
    signal(servers[0].pid, Signal::CONT)?;
    stop(balancer, servers).await;
    Ok(noticed(&clients))
}

/// Pure: of clients, each with when it came and whether it was let in.
fn noticed(clients: &[(Duration, bool)]) -> (bool, String) {
    let Some(last) = clients.iter().filter(|(_, let_in)| !let_in).map(|(begun, _)| *begun).max() else {
        return (true, format!("at once: {} clients, none refused", clients.len()));
    };
    if last + ANSWER * 2 > WATCH {
        return (false, "never".into());
    }
    let intervals = last.as_secs_f64() / CHECK_EVERY.as_secs_f64();
    (last <= CHECK_EVERY * 2, format!("after {intervals:.1} intervals"))
}

pub(super) async fn returns(stage: &Stage<'_>) -> Result<Seen> {
    let mut servers = stage.servers(&[Role::Session; 2]).await?;
    let rebalance = "rebalance = { rate = \"100/s\", after = \"1s\" }";
    let balancer = stage.balancer(&Options { ours: rebalance, ..Options::default() }).await?;
    let mut sessions = stage.clients(200).await?;
    servers.remove(0).stop().await;
    // Noticed by then.
    sleep(SETTLE).await;
    come_back(stage, &mut sessions).await;
    let [_, while_away, _] = stage.at_servers()?;
    servers.insert(0, stage.server(0, Role::Session).await?);
    let begun = Instant::now();
    while begun.elapsed() < MOVED {
        come_back(stage, &mut sessions).await;
        sleep(CHECK_EVERY / 10).await;
    }
    let [first, second, _] = stage.at_servers()?;
    sessions.extend(stage.clients(50).await?);
    let [first_then, second_then, _] = stage.at_servers()?;
    stop(balancer, servers).await;
    let how = if stage.is_haproxy() { "by itself" } else { "with `rebalance`" };
    let text = format!(
        "0 / {while_away} while it is away; {how} {first} / {second}; 50 new clients later {first_then} / {second_then}"
    );
    Ok(Seen::new(first >= 80, text))
}

/// Whoever was closed comes again, as devices do; who is not let in tries later.
async fn come_back(stage: &Stage<'_>, sessions: &mut [TcpStream]) {
    for session in sessions {
        if is_closed(session)
            && let Ok(again) = stage.client().await
        {
            *session = again;
        }
    }
}

pub(super) async fn refuses(stage: &Stage<'_>) -> Result<Seen> {
    let servers = stage.servers(&[Role::Busy, Role::Session]).await?;
    // A check that sees the CONNACK would not help: the server takes checks.
    let options = Options { balance: Balance::RoundRobin, check_by_hand: true, ..Options::default() };
    let balancer = stage.balancer(&options).await?;
    let (mut let_in, mut asked) = (0, 0);
    for version in [Version::V311, Version::V5] {
        for _ in 0..10 {
            asked += 1;
            let_in += usize::from(stage.enter(&Connect::new(version, "")).await.is_ok());
        }
    }
    stop(balancer, servers).await;
    Ok(Seen::new(let_in == asked, format!("{let_in} of {asked} let in")))
}

/// Real brokers, which send wills. The first is taken out as each balancer's manual has it, then stopped.
pub(super) async fn leaves(stage: &Stage<'_>) -> Result<Seen> {
    let servers = vec![mosquitto(stage, 0).await?, mosquitto(stage, 1).await?];
    let balancer = stage.balancer(&Options::default()).await?;
    let mut watcher = Watcher::start(stage).await?;
    let mut sessions = Vec::new();
    for number in 0..40 {
        let (id, topic) = (format!("device-{number}"), format!("will/{number}"));
        let will = Some(Will::new(&topic, b"gone"));
        sessions.push(stage.enter(&Connect { will, ..Connect::new(Version::V311, &id) }).await?);
    }
    let there = stage.at_servers()?[0].saturating_sub(1);
    if stage.is_haproxy() {
        stage.tell("set server mqtt/b0 state maint; shutdown sessions server mqtt/b0").await?;
    } else if stage.tell("drain b0 --rate 20/s").await?.is_none() {
        stage.tell("drain b0").await?;
    }
    until(MOVED, || closed(&sessions) >= there.min(20)).await;
    sleep(CHECK_EVERY).await;
    let (ended, wills) = (closed(&sessions), watcher.wills().await?);
    stop(balancer, servers).await;
    let text = format!("{ended} of {} closed to move, {wills} false wills", there.min(20));
    Ok(Seen::new(ended >= there.min(20) && wills == 0, text))
}

async fn mosquitto(stage: &Stage<'_>, number: usize) -> Result<Running> {
    let address = stage.server_addresses()[number];
    let file = stage.place.folder.join(format!("mosquitto-{number}.conf"));
    let text = format!("listener {} 127.0.0.1\nallow_anonymous true\npersistence false\n", address.port());
    std::fs::write(&file, text)?;
    let program =
        Program::new(installed("mosquitto", "mosquitto")?, ["-c".to_owned(), file.display().to_string()]);
    let log = stage.place.folder.join(format!("mosquitto-{number}.log"));
    Running::start(&program.on(Some(LOAD_PROCESSOR)), &[address], &log).await
}

/// Hears all wills at the first server, without a balancer between.
struct Watcher(TcpStream);

impl Watcher {
    async fn start(stage: &Stage<'_>) -> Result<Self> {
        let mut stream = TcpStream::connect(stage.server_addresses()[0]).await?;
        let mut bytes = super::stage::encoded(&Connect::new(Version::V311, "watcher"))?;
        bytes.extend_from_slice(b"\x82\x0b\0\x01\0\x06will/#\0");
        stream.write_all(&bytes).await?;
        let mut answer = [0; 9];
        timeout(ANSWER, stream.read_exact(&mut answer)).await.context("no SUBACK")??;
        Ok(Self(stream))
    }

    /// Those heard until it is quiet for a second.
    async fn wills(&mut self) -> Result<usize> {
        let mut heard = Vec::new();
        while let Ok(read) = timeout(ANSWER, self.0.read_buf(&mut heard)).await {
            if read? == 0 {
                break;
            }
        }
        let (mut rest, mut count) = (&heard[..], 0);
        while let Some((packet, length)) = nsd_wire::read(Version::V311, rest, nsd_load::frames::MAX_PACKET)?
        {
            count += usize::from(matches!(packet, Packet::Publish(_)));
            rest = &rest[length..];
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_that_was_sent_there_says_when_a_server_was_out() {
        let coming = |refused: fn(u64) -> bool| -> Vec<(Duration, bool)> {
            let times = (0..WATCH.as_secs() * 50).map(|number| number * 20);
            // Each second one meets the frozen server.
            times.map(|at| (Duration::from_millis(at), at % 40 == 0 || !refused(at))).collect()
        };
        assert_eq!(noticed(&coming(|at| at < 1900)), (true, "after 1.9 intervals".to_owned()));
        assert_eq!(noticed(&coming(|at| at < 2900)), (false, "after 2.9 intervals".to_owned()));
        assert_eq!(noticed(&coming(|_| true)), (false, "never".to_owned()));
        assert!(noticed(&coming(|_| false)).0);
    }
}
