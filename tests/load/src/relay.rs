//! Bytes through a proxy: small messages there and back, or many bytes one way.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::watch;

use crate::cli::Way;
use crate::clock;
use crate::limits;
use crate::link::LinkError;
use crate::mqtt::started;
use crate::pace::{Pacer, Schedule};
use crate::report::{Delivery, Latency, Report, Server, Since};
use crate::run::{self, Desk, Phase, Setup, Working};
use crate::target::{Stream, Target};

/// Bytes of one write or read of a bulk transfer.
const PIECE: usize = 256 * 1024;
/// Messages due and not back, a connection; beyond that new ones wait, and their waiting counts.
const MOST_DUE: usize = 100_000;
/// A bulk transfer that takes longer has hung.
const BULK_LIMIT: Duration = Duration::from_secs(600);

/// Small messages to an echo server and back.
#[derive(Debug, Clone, Copy)]
pub struct Messages {
    pub connections: u32,
    pub size: usize,
    /// In flight a connection.
    pub window: usize,
    pub rate: Option<f64>,
    pub duration: Duration,
}

impl Messages {
    fn since(&self) -> Since {
        match (self.rate, self.window) {
            (Some(_), _) => Since::Due,
            (None, 1) => Since::Asked,
            (None, _) => Since::Queued,
        }
    }
}

/// Sends messages through `target`, each with a write of its own, and counts those that come back.
pub fn messages(plan: Messages, target: Target, threads: usize, pids: &[u32]) -> Result<Report> {
    let timers = if plan.rate.is_some() { plan.connections } else { 0 };
    limits::allow_files((plan.connections + timers) as usize)?;
    let setup = Setup {
        threads,
        workers: plan.connections as usize,
        duration: plan.duration,
        copies: 1,
        settle: Duration::ZERO,
        pids: pids.to_vec(),
    };
    let pace = plan.rate.map_or(format!("{} in flight each", plan.window), |rate| format!("{rate}/s in all"));
    let what = format!(
        "{} connections, {}-byte messages there and back, {pace}, at {}",
        plan.connections,
        plan.size,
        target.describe()
    );
    let target = Arc::new(target);
    let outcome = run::run(&setup, (0..plan.connections).collect(), move |number, desk| {
        let target = Arc::clone(&target);
        async move { there_and_back(number, plan, &target, desk).await }
    })?;
    let (sent, echoed) = (outcome.published, outcome.delivered);
    Ok(Report {
        what,
        unit: "message".to_owned(),
        count: echoed as f64,
        seconds: outcome.seconds,
        rate: echoed as f64 / outcome.seconds.max(f64::MIN_POSITIVE),
        delivery: Some(Delivery {
            published: sent,
            expected: sent,
            delivered: echoed,
            lost: sent.saturating_sub(echoed),
            ..Delivery::default()
        }),
        latency: Latency::of(&outcome.histogram, plan.since()),
        server: Server::between(pids, outcome.before, outcome.after, echoed as f64),
        own_cpu_seconds: outcome.own_cpu_seconds,
        failures: outcome.failures,
    })
}

async fn there_and_back(
    number: u32,
    plan: Messages,
    target: &Target,
    desk: Rc<Desk>,
) -> Result<(), LinkError> {
    let permit = desk.connecting.acquire().await;
    let stream = target.connect().await?;
    drop(permit);
    let mut working = Some(desk.working());
    let mut phase = desk.ready();
    let Some(start) = started(&mut phase).await else { return Ok(()) };
    let pacer = match plan.rate {
        Some(rate) => {
            Some(Pacer::new(Schedule::new(start, rate, number as usize, plan.connections as usize))?)
        }
        None => None,
    };
    let mut talk = Talk {
        stream,
        message: vec![b'x'; plan.size],
        window: if plan.rate.is_some() { MOST_DUE } else { plan.window },
        pacer,
        sent: 0,
        begun: None,
        written: 0,
        returned: 0,
        in_flight: VecDeque::new(),
        open: true,
    };
    talk.run(&mut phase, &mut working, &desk).await
}

/// One connection's conversation with the echo server.
struct Talk {
    stream: Stream,
    message: Vec<u8>,
    window: usize,
    pacer: Option<Pacer>,
    sent: u64,
    /// Stamp of the message being written, and how much of it is.
    begun: Option<u64>,
    written: usize,
    /// Bytes that came back of the oldest message in flight.
    returned: usize,
    /// Stamps of the messages in flight.
    in_flight: VecDeque<u64>,
    /// New messages may be begun.
    open: bool,
}

impl Talk {
    async fn run(
        &mut self,
        phase: &mut watch::Receiver<Phase>,
        working: &mut Option<Working>,
        desk: &Desk,
    ) -> Result<(), LinkError> {
        loop {
            let now = *phase.borrow_and_update();
            if now == Phase::Ending {
                return Ok(());
            }
            self.open = now < Phase::Stopping;
            if !self.open && self.in_flight.is_empty() && self.begun.is_none() {
                *working = None;
            }
            tokio::select! {
                _ = phase.changed() => {}
                turn = poll_fn(|cx| self.poll_turn(cx, desk)) => turn?,
            }
            tokio::task::yield_now().await;
        }
    }

    /// Writes what the window and the schedule allow, reads once.
    fn poll_turn(&mut self, cx: &mut Context<'_>, desk: &Desk) -> Poll<Result<(), LinkError>> {
        let wrote = self.write(cx, desk)?;
        let read = self.poll_read(cx, desk)?;
        if wrote || read.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// True if anything was written.
    fn write(&mut self, cx: &mut Context<'_>, desk: &Desk) -> io::Result<bool> {
        let mut wrote = false;
        while let Some(stamp) = self.begin(cx)? {
            match Pin::new(&mut self.stream).poll_write(cx, &self.message[self.written..])? {
                Poll::Ready(count) => self.written += count,
                Poll::Pending => break,
            }
            wrote = true;
            if self.written == self.message.len() {
                (self.begun, self.written) = (None, 0);
                self.in_flight.push_back(stamp);
                self.sent += 1;
                desk.published(1);
            }
        }
        // TLS may hold back what the socket did not take; the next turn goes on.
        let _ = Pin::new(&mut self.stream).poll_flush(cx)?;
        Ok(wrote)
    }

    /// The stamp of the message to write: the one begun, or the next one if it may be begun now.
    fn begin(&mut self, cx: &mut Context<'_>) -> io::Result<Option<u64>> {
        if self.begun.is_none() && self.open && self.in_flight.len() < self.window {
            self.begun = match &mut self.pacer {
                None => Some(clock::now()),
                Some(pacer) => match pacer.poll_due(cx, self.sent) {
                    Poll::Ready(due) => Some(due?),
                    Poll::Pending => None,
                },
            };
        }
        Ok(self.begun)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, desk: &Desk) -> Poll<Result<(), LinkError>> {
        let mut scratch = desk.scratch.borrow_mut();
        let mut buffer = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        let count = buffer.filled().len();
        if count == 0 {
            return Poll::Ready(Err(LinkError::Closed));
        }
        self.returned += count;
        let now = clock::now();
        let mut messages = 0;
        while self.returned >= self.message.len() {
            let Some(stamp) = self.in_flight.pop_front() else {
                return Poll::Ready(Err(LinkError::Unexpected("what was sent")));
            };
            self.returned -= self.message.len();
            desk.latency(now.saturating_sub(stamp));
            messages += 1;
        }
        desk.delivered(messages, now);
        Poll::Ready(Ok(()))
    }
}

/// Moves `gigabytes` one way over `connections`.
pub fn bulk(
    connections: u32,
    gigabytes: f64,
    way: Way,
    target: Target,
    threads: usize,
    pids: &[u32],
) -> Result<Report> {
    limits::allow_files(connections as usize)?;
    let setup = Setup {
        threads,
        workers: connections as usize,
        duration: BULK_LIMIT,
        copies: 0,
        settle: Duration::ZERO,
        pids: pids.to_vec(),
    };
    let direction = if way == Way::Up { "up" } else { "down" };
    let what = format!("{gigabytes} GB {direction}, {connections} connections, at {}", target.describe());
    let share = (gigabytes * 1e9 / f64::from(connections)) as u64;
    let target = Arc::new(target);
    let outcome = run::run(&setup, vec![(); connections as usize], move |(), desk| {
        let target = Arc::clone(&target);
        async move { transfer(share, way, &target, desk).await }
    })?;
    let moved = outcome.delivered as f64 / 1e9;
    Ok(Report {
        what,
        unit: "GB".to_owned(),
        count: moved,
        seconds: outcome.seconds,
        rate: moved / outcome.seconds.max(f64::MIN_POSITIVE),
        delivery: None,
        latency: None,
        server: Server::between(pids, outcome.before, outcome.after, moved),
        own_cpu_seconds: outcome.own_cpu_seconds,
        failures: outcome.failures,
    })
}

async fn transfer(share: u64, way: Way, target: &Target, desk: Rc<Desk>) -> Result<(), LinkError> {
    let mut stream = target.connect().await?;
    let _working = desk.working();
    let mut phase = desk.ready();
    started(&mut phase).await;
    let mut piece = vec![b'x'; PIECE];
    let mut left = share;
    while left > 0 {
        let most = left.min(PIECE as u64) as usize;
        let count = match way {
            Way::Up => stream.write(&piece[..most]).await?,
            Way::Down => stream.read(&mut piece[..most]).await?,
        };
        if count == 0 {
            return Err(LinkError::Closed);
        }
        left -= count as u64;
        desk.delivered(count as u64, clock::now());
    }
    if way == Way::Up {
        // The sink closes when it has got everything.
        stream.shutdown().await?;
        while stream.read(&mut piece).await? > 0 {}
        desk.delivered(0, clock::now());
    }
    Ok(())
}
