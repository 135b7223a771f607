//! Runs about connections rather than messages: how fast they are made, and what an idle one holds.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use nsd_wire::Qos;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cli::Counts;
use crate::clock;
use crate::frames::{self, Keeping};
use crate::limits;
use crate::link::{Link, LinkError};
use crate::mqtt::{self, Identity};
use crate::report::{Latency, Report, Server, Since};
use crate::run::{self, Desk, Phase, Setup};
use crate::target::{Stream, Target};

/// What an idle plain connection exchanges once, so that both ends have used it.
const GREETING: [u8; 64] = [b'x'; 64];
/// The slower half of an idle run is to be connected by then.
const OPEN_LIMIT: Duration = Duration::from_secs(120);

/// Connects, is accepted and disconnects, `at_once` clients at a time.
pub fn churn(
    at_once: u32,
    duration: Duration,
    target: Target,
    identity: Identity,
    threads: usize,
    pids: &[u32],
) -> Result<Report> {
    limits::allow_files(at_once as usize * 2)?;
    let setup = Setup {
        threads,
        workers: at_once as usize,
        duration,
        copies: 0,
        settle: Duration::ZERO,
        pids: pids.to_vec(),
    };
    let what = format!("connect and disconnect, {at_once} at once, at {}", target.describe());
    let shared = Arc::new((target, identity));
    let outcome = run::run(&setup, (0..at_once).collect(), move |client, desk| {
        let shared = Arc::clone(&shared);
        async move { come_and_go(client, &shared.0, &shared.1, desk).await }
    })?;
    let count = outcome.delivered as f64;
    Ok(Report {
        what,
        unit: "connection".to_owned(),
        count,
        seconds: outcome.seconds,
        rate: count / outcome.seconds.max(f64::MIN_POSITIVE),
        delivery: None,
        latency: Latency::of(&outcome.histogram, Since::Asked),
        server: Server::between(pids, outcome.before, outcome.after, count),
        own_cpu_seconds: outcome.own_cpu_seconds,
        failures: outcome.failures,
    })
}

async fn come_and_go(
    client: u32,
    target: &Target,
    identity: &Identity,
    desk: Rc<Desk>,
) -> Result<(), LinkError> {
    let _working = desk.working();
    let mut phase = desk.ready();
    mqtt::started(&mut phase).await;
    for number in 0u64.. {
        if *phase.borrow() > Phase::Running(u64::MAX) {
            break;
        }
        let begun = clock::now();
        let mut link =
            mqtt::open(target, identity, &format!("{client}-{number}"), Keeping::Clean, &desk).await?.link;
        let now = clock::now();
        desk.latency(now - begun);
        frames::disconnect(identity.version, link.out())?;
        link.finish().await?;
        desk.delivered(1, now);
    }
    Ok(())
}

/// An idle client to be opened.
#[derive(Debug)]
struct Idle {
    number: u32,
    /// Opened only after the first reading of memory.
    late: bool,
}

/// How idle clients present themselves.
#[derive(Debug)]
pub enum Kind {
    /// Accepted and subscribed.
    Mqtt(Identity),
    /// Plain connections to an echo server.
    Raw,
}

/// Opens the smaller number of clients, reads the server's memory, opens the others, reads again.
pub fn idle(
    counts: Counts,
    kind: Kind,
    settle: Duration,
    target: Target,
    threads: usize,
    pids: &[u32],
) -> Result<Report> {
    if pids.is_empty() {
        bail!("idle clients are about the server's memory: name its process with --pid");
    }
    limits::allow_files(counts.many as usize)?;
    let late = counts.many - counts.few;
    let setup = Setup {
        threads,
        workers: late as usize,
        duration: OPEN_LIMIT,
        copies: 0,
        settle,
        pids: pids.to_vec(),
    };
    let noun = if matches!(kind, Kind::Raw) { "idle connection" } else { "idle client" };
    let what = format!("{} and {} {noun}s at {}", counts.few, counts.many, target.describe());
    let clients = (0..counts.many).map(|number| Idle { number, late: number >= counts.few }).collect();
    let shared = Arc::new((target, kind));
    let outcome = run::run(&setup, clients, move |client, desk| {
        let shared = Arc::clone(&shared);
        async move { stay(client, &shared.0, &shared.1, desk).await }
    })?;
    if outcome.delivered < u64::from(late) {
        let first = outcome.failures.first.unwrap_or_else(|| "no reason known".to_owned());
        bail!("only {} of {late} further clients could be opened; the first: {first}", outcome.delivered);
    }
    let mut server = Server::between(pids, outcome.before, outcome.after, f64::from(late));
    if let Some(server) = &mut server {
        let growth = server.rss_kib_after as f64 - server.rss_kib_before as f64;
        server.rss_kib_each = Some(growth / f64::from(late));
    }
    Ok(Report {
        what,
        unit: noun.to_owned(),
        count: f64::from(late),
        seconds: outcome.seconds,
        rate: f64::from(late) / outcome.seconds.max(f64::MIN_POSITIVE),
        delivery: None,
        latency: None,
        server,
        own_cpu_seconds: outcome.own_cpu_seconds,
        failures: outcome.failures,
    })
}

async fn stay(client: Idle, target: &Target, kind: &Kind, desk: Rc<Desk>) -> Result<(), LinkError> {
    let (mut open, mut phase);
    if client.late {
        let working = desk.working();
        phase = desk.ready();
        mqtt::started(&mut phase).await;
        open = settle_in(client.number, target, kind, &desk).await?;
        desk.delivered(1, clock::now());
        drop(working);
    } else {
        open = settle_in(client.number, target, kind, &desk).await?;
        phase = desk.ready();
    }
    tokio::select! {
        _ = phase.wait_for(|phase| *phase == Phase::Ending) => Ok(()),
        cut = open.until_cut(&desk) => cut,
    }
}

/// An open connection of either kind.
enum Open {
    Mqtt(Link),
    Raw(Stream),
}

impl Open {
    /// Returns when the server ends the connection, which it should not.
    async fn until_cut(&mut self, desk: &Desk) -> Result<(), LinkError> {
        match self {
            Self::Mqtt(link) => loop {
                poll_fn(|cx| link.poll_read(cx, &mut desk.scratch.borrow_mut(), |_, _| Ok(()))).await?;
            },
            Self::Raw(stream) => {
                stream.read_u8().await?;
                Err(LinkError::Unexpected("silence"))
            }
        }
    }
}

async fn settle_in(number: u32, target: &Target, kind: &Kind, desk: &Desk) -> Result<Open, LinkError> {
    let _permit = desk.connecting.acquire().await;
    match kind {
        Kind::Mqtt(identity) => {
            let mut link =
                mqtt::open(target, identity, &format!("i{number}"), Keeping::Clean, desk).await?.link;
            let filters = [format!("{}/idle/{number}", identity.base())];
            mqtt::subscribe(&mut link, identity.version, &filters, Qos::AtMostOnce, desk).await?;
            Ok(Open::Mqtt(link))
        }
        Kind::Raw => {
            let mut stream = target.connect().await?;
            stream.write_all(&GREETING).await?;
            let mut answer = [0; GREETING.len()];
            stream.read_exact(&mut answer).await?;
            Ok(Open::Raw(stream))
        }
    }
}
