//! Clients that are silent, slow, many, large, twice, or alike.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use nsd_load::cli::Role;
use nsd_wire::{Connect, Version, Will};
use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::Seen;
use super::configuration::{Balance, Options};
use super::stage::{ANSWER, Stage, closed, echo, encoded, enter_by, is_closed, stop, until};
use crate::contenders::LOAD_PROCESSOR;

/// Whoever is to be closed is closed by then.
const WATCH: Duration = Duration::from_secs(15);
/// Between two bytes of a slow client.
const DRIP: Duration = Duration::from_millis(300);
/// The reading that HAProxy's filter would do is on in all of these.
const FILTERED: fn() -> Options = || Options { filter: true, ..Options::default() };

pub(super) async fn silent(stage: &Stage<'_>) -> Result<Seen> {
    silent_at(stage, stage.plain()).await
}

pub(super) async fn silent_tls(stage: &Stage<'_>) -> Result<Seen> {
    silent_at(stage, stage.tls()).await
}

async fn silent_at(stage: &Stage<'_>, address: SocketAddr) -> Result<Seen> {
    let servers = stage.servers(&[Role::Session; 2]).await?;
    let balancer = stage.balancer(&FILTERED()).await?;
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(TcpStream::connect(address).await?);
    }
    sleep(ANSWER).await;
    let held = held(stage)?;
    let gone = until(WATCH, || closed(&clients) == clients.len()).await;
    stop(balancer, servers).await;
    Ok(Seen::new(held == 0 && gone.is_some(), format!("{held} server connections, {}", when_closed(gone))))
}

/// Server connections of clients; one or two may be checks.
fn held(stage: &Stage<'_>) -> Result<usize> {
    let held: usize = stage.at_servers()?.iter().sum();
    Ok(if held <= 2 { 0 } else { held })
}

fn when_closed(gone: Option<Duration>) -> String {
    gone.map_or_else(
        || format!("open after {} s", WATCH.as_secs()),
        |gone| format!("closed after {:.0} s", gone.as_secs_f64()),
    )
}

pub(super) async fn large_will(stage: &Stage<'_>) -> Result<Seen> {
    let usual = is_large_will_let_in(stage, &FILTERED()).await?;
    let word = |let_in| if let_in { "let in" } else { "closed" };
    if !stage.is_haproxy() || stage.smoke {
        return Ok(Seen::new(usual, word(usual)));
    }
    let larger = Options { buffer: Some(98_304), ..FILTERED() };
    let larger = is_large_will_let_in(stage, &larger).await?;
    let text = format!("{}; with buffers of 96 KiB for everybody {}", word(usual), word(larger));
    Ok(Seen::new(usual, text))
}

async fn is_large_will_let_in(stage: &Stage<'_>, options: &Options) -> Result<bool> {
    let servers = stage.servers(&[Role::Session; 2]).await?;
    let balancer = stage.balancer(options).await?;
    let payload = vec![7; 65_000];
    let will = Some(Will::new("will", &payload));
    let let_in = stage.enter(&Connect { will, ..Connect::new(Version::V311, "large") }).await.is_ok();
    stop(balancer, servers).await;
    Ok(let_in)
}

pub(super) async fn prefix(stage: &Stage<'_>) -> Result<Seen> {
    let options = Options { balance: Balance::ClientId, ..Options::default() };
    let (good, text) = spread(stage, &options).await?;
    if !stage.is_haproxy() || stage.smoke {
        return Ok(Seen::new(good, text));
    }
    let (_, published) = spread(stage, &Options { key: 32, ..options }).await?;
    Ok(Seen::new(good, format!("{text}; as published, with 32 bytes: {published}")))
}

/// Whether forty of them come to both servers, and how many to each.
async fn spread(stage: &Stage<'_>, options: &Options) -> Result<(bool, String)> {
    let servers = stage.servers(&[Role::Session; 2]).await?;
    let balancer = stage.balancer(options).await?;
    let mut sessions = Vec::new();
    for number in 0..40 {
        let id = format!("factory-line-7/gateway-0001/device-{number:04}");
        sessions.push(stage.enter(&Connect::new(Version::V311, &id)).await?);
    }
    let [first, second, _] = stage.at_servers()?;
    stop(balancer, servers).await;
    // Each id is drawn for a server: three quarters at one would be no chance any more.
    Ok((first.min(second) >= 10, format!("{first} / {second}")))
}

pub(super) async fn slow(stage: &Stage<'_>) -> Result<Seen> {
    let id = "x".repeat(100);
    let bytes = encoded(&Connect::new(Version::V311, &id))?;
    let servers = stage.servers(&[Role::Session; 2]).await?;
    let balancer = stage.balancer(&FILTERED()).await?;
    let dripping = drip(stage.plain(), &bytes, 200).await?;
    sleep(ANSWER).await;
    let held = held(stage)?;
    let served = stage.client().await.is_ok();
    let gone = all_gone(dripping).await;
    stop(balancer, servers).await;
    let others = if served { "others served" } else { "others not served" };
    let good = held == 0 && gone.is_some() && served;
    Ok(Seen::new(good, format!("{held} server connections, {}, {others}", when_closed(gone))))
}

pub(super) async fn slow_tls(stage: &Stage<'_>) -> Result<Seen> {
    // The beginning of a ClientHello of 512 bytes; what follows is never looked at.
    let mut bytes = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    bytes.resize(517, 0x55);
    let servers = stage.servers(&[Role::Session; 2]).await?;
    let balancer = stage.balancer(&FILTERED()).await?;
    let dripping = drip(stage.tls(), &bytes, 1200).await?;
    sleep(ANSWER).await;
    let served = stage.tls_client().await.is_ok();
    let gone = all_gone(dripping).await;
    stop(balancer, servers).await;
    let others = if served { "others served" } else { "others not served" };
    Ok(Seen::new(gone.is_some() && served, format!("{}, {others}", when_closed(gone))))
}

/// So many clients that send a byte now and then; each ends when it is closed.
async fn drip(address: SocketAddr, bytes: &[u8], count: usize) -> Result<JoinSet<()>> {
    let mut dripping = JoinSet::new();
    let bytes: Arc<[u8]> = bytes.into();
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).await?;
        let bytes = Arc::clone(&bytes);
        dripping.spawn(async move {
            for byte in &*bytes {
                if is_closed(&stream) || stream.write_all(&[*byte]).await.is_err() {
                    return;
                }
                sleep(DRIP).await;
            }
        });
    }
    Ok(dripping)
}

async fn all_gone(mut dripping: JoinSet<()>) -> Option<Duration> {
    let begun = Instant::now();
    let ended = async { while dripping.join_next().await.is_some() {} };
    tokio::time::timeout(WATCH, ended).await.ok().map(|()| begun.elapsed() + ANSWER)
}

const QUIET: u8 = 0;
const STORM: u8 = 1;
const OVER: u8 = 2;

pub(super) async fn storm(stage: &Stage<'_>) -> Result<Seen> {
    let servers = stage.servers(&[Role::Session; 2]).await?;
    let balancer = stage.balancer(&Options::default()).await?;
    let mut established = Vec::new();
    for session in stage.clients(20).await? {
        established.push(session.into_std()?);
    }
    let phase = Arc::new(AtomicU8::new(QUIET));
    let measured = Arc::clone(&phase);
    let measuring = std::thread::spawn(move || {
        // What it measures must not be how long it waits itself, beside the storm's own making.
        let _ = setpriority_process(None, -10);
        on_the_loads_processor()?;
        measure(established, &measured)
    });
    sleep(Duration::from_secs(3)).await;
    let by_tls = stage.by_tls()?;
    phase.store(STORM, SeqCst);
    let begun = Instant::now();
    let storming = std::thread::spawn(move || {
        on_the_loads_processor()?;
        Ok::<_, anyhow::Error>(Builder::new_current_thread().enable_all().build()?.block_on(async {
            let mut coming = JoinSet::new();
            for _ in 0..2000 {
                let by_tls = Arc::clone(&by_tls);
                coming.spawn(async move { enter_by(&by_tls, WATCH).await });
            }
            let came = coming.join_all().await;
            phase.store(OVER, SeqCst);
            (came.iter().flatten().count(), begun.elapsed())
        }))
    });
    let stormed = tokio::task::spawn_blocking(move || storming.join()).await?;
    let (let_in, took) = stormed.map_err(|_| anyhow::anyhow!("the storm's thread ended"))??;
    let [quiet, stormy] = measuring.join().map_err(|_| anyhow::anyhow!("the measuring thread ended"))??;
    stop(balancer, servers).await;
    let text = format!("{let_in} in after {:.1} s; p99 {quiet:.1} → {stormy:.1} ms", took.as_secs_f64());
    Ok(Seen { figure: Some(stormy), ..Seen::new(let_in == 2000, text) })
}

/// This thread: balancers are measured on the other one.
fn on_the_loads_processor() -> Result<()> {
    let mut processors = CpuSet::new();
    processors.set(usize::from(LOAD_PROCESSOR));
    Ok(sched_setaffinity(None, &processors)?)
}

/// 64 bytes through each session and back, a hundred times a second; p99 in milliseconds of both phases, counted from
/// when each was due.
fn measure(sessions: Vec<std::net::TcpStream>, phase: &Arc<AtomicU8>) -> Result<[f64; 2]> {
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut talking = JoinSet::new();
        for session in sessions {
            talking.spawn(talk(TcpStream::from_std(session)?, Arc::clone(phase)));
        }
        let mut both = [Histogram::<u64>::new(3)?, Histogram::new(3)?];
        while let Some(heard) = talking.join_next().await {
            for (all, one) in both.iter_mut().zip(heard??) {
                all.add(one)?;
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        Ok(both.map(|all| all.value_at_quantile(0.99) as f64 / 1000.0))
    })
}

async fn talk(mut session: TcpStream, phase: Arc<AtomicU8>) -> Result<[Histogram<u64>; 2]> {
    let mut both = [Histogram::<u64>::new(3)?, Histogram::new(3)?];
    let mut due = interval(Duration::from_millis(10));
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        let due = due.tick().await;
        let now = phase.load(SeqCst);
        let Some(histogram) = both.get_mut(usize::from(now)) else { return Ok(both) };
        session.write_all(&[0xc0; 64]).await?;
        session.read_exact(&mut [0; 64]).await.context("an established session was cut")?;
        histogram.record(u64::try_from(due.elapsed().as_micros())?)?;
    }
}

pub(super) async fn duplicate(stage: &Stage<'_>) -> Result<Seen> {
    let servers = stage.servers(&[Role::Session; 2]).await?;
    let balancer = stage.balancer(&FILTERED()).await?;
    let first = stage.enter(&Connect::new(Version::V311, "twin")).await?;
    let mut second = stage.enter(&Connect::new(Version::V311, "twin")).await?;
    let gone = until(ANSWER * 3, || is_closed(&first)).await;
    let lives = echo(&mut second).await.is_ok();
    stop(balancer, servers).await;
    let text = match gone {
        Some(gone) => format!("the old one is closed after {} ms", gone.as_millis()),
        None => "both stay, at two servers".into(),
    };
    Ok(Seen::new(gone.is_some() && lives, text))
}

/// Six seconds stand for the hours of real clients.
pub(super) async fn keep_alive(stage: &Stage<'_>) -> Result<Seen> {
    let servers = stage.servers(&[Role::Session; 2]).await?;
    let gate = "gate = { keep_alive_grace = \"1s\" }";
    let options = Options { idle: Duration::from_secs(6), ours: gate, ..FILTERED() };
    let balancer = stage.balancer(&options).await?;
    let quiet = stage.enter(&Connect { keep_alive: 60, ..Connect::new(Version::V311, "quiet") }).await?;
    let dead = stage.enter(&Connect { keep_alive: 2, ..Connect::new(Version::V311, "dead") }).await?;
    let dead_for = until(Duration::from_secs(10), || is_closed(&dead)).await;
    let quiet_for = until(Duration::from_secs(4), || is_closed(&quiet)).await;
    stop(balancer, servers).await;
    let text = format!(
        "quiet (60 s) {}, dead (2 s) {}",
        if quiet_for.is_none() { "stays" } else { "is cut" },
        dead_for.map_or_else(|| "stays".into(), |after| format!("closed after {:.0} s", after.as_secs_f64()))
    );
    let of_all = if stage.is_haproxy() { ", with a timeout of 6 s for all" } else { "" };
    Ok(Seen::new(quiet_for.is_none() && dead_for.is_some(), text + of_all))
}
