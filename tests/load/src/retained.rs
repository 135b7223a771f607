//! Many retained messages, and a new subscriber who gets them all.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use nsd_wire::{Packet, PacketId, Qos};

use crate::clock;
use crate::frames::{self, Keeping, Mark, Template};
use crate::limits;
use crate::link::{Link, LinkError};
use crate::mqtt::{self, Identity};
use crate::report::{Delivery, Report, Server};
use crate::run::{self, Desk, Phase, Setup};
use crate::target::Target;

/// Messages of the keeper that are not acknowledged, at most.
const WINDOW: usize = 100;
/// By then the subscriber has got what it gets.
const LIMIT: Duration = Duration::from_secs(120);

/// The two clients of the run.
#[derive(Debug)]
enum Client {
    /// Publishes the messages before the run, and removes them at its end.
    Keeper,
    /// Subscribes when the run starts.
    Newcomer,
}

/// What both know.
#[derive(Debug)]
struct Plan {
    topics: u32,
    size: usize,
    target: Target,
    identity: Identity,
}

/// Publishes `topics` retained messages, then has one client subscribe to all of them.
pub fn retained(
    topics: u32,
    size: usize,
    target: Target,
    identity: Identity,
    pids: &[u32],
) -> Result<Report> {
    limits::allow_files(2)?;
    let setup = Setup {
        threads: 1,
        workers: 1,
        duration: LIMIT,
        copies: 1,
        settle: Duration::ZERO,
        pids: pids.to_vec(),
    };
    let what = format!("{topics} retained messages of {size} bytes at {}", target.describe());
    let plan = Arc::new(Plan { topics, size, target, identity });
    let outcome = run::run(&setup, vec![Client::Keeper, Client::Newcomer], move |client, desk| {
        let plan = Arc::clone(&plan);
        async move {
            match client {
                Client::Keeper => plan.keep(&desk).await,
                Client::Newcomer => plan.come(desk).await,
            }
        }
    })?;
    let (count, expected) = (outcome.delivered as f64, u64::from(topics));
    Ok(Report {
        what,
        unit: "retained message".to_owned(),
        count,
        seconds: outcome.seconds,
        rate: count / outcome.seconds.max(f64::MIN_POSITIVE),
        delivery: Some(Delivery {
            published: outcome.published,
            expected,
            delivered: outcome.delivered,
            lost: expected.saturating_sub(outcome.delivered),
            ..Delivery::default()
        }),
        latency: None,
        server: Server::between(pids, outcome.before, outcome.after, count),
        own_cpu_seconds: outcome.own_cpu_seconds,
        failures: outcome.failures,
    })
}

impl Plan {
    fn topic(&self, number: u32) -> String {
        format!("{}/kept/{number}", self.identity.base())
    }

    async fn keep(&self, desk: &Desk) -> Result<(), LinkError> {
        let version = self.identity.version;
        let opened = mqtt::open(&self.target, &self.identity, "keeper", Keeping::Clean, desk).await?;
        let (mut link, window) = (opened.link, WINDOW.min(opened.receive_maximum.into()));
        let numbers: Vec<u32> = (0..self.topics).collect();
        for share in numbers.chunks(window) {
            for (number, id) in share.iter().zip(1..) {
                let topic = self.topic(*number);
                let template = Template::new(version, &topic, Qos::AtLeastOnce, self.size, 0)?.retained();
                template.push(u64::from(*number), 0, PacketId::new(id), link.out());
            }
            for _ in share {
                acknowledged(&mut link, desk).await?;
            }
        }
        desk.published(self.topics.into());
        let mut phase = desk.ready();
        let _ = phase.wait_for(|phase| *phase == Phase::Ending).await;
        for number in numbers {
            frames::forget(version, &self.topic(number), link.out())?;
        }
        frames::disconnect(version, link.out())?;
        link.finish().await
    }

    async fn come(&self, desk: Rc<Desk>) -> Result<(), LinkError> {
        let version = self.identity.version;
        let _working = desk.working();
        let mut phase = desk.ready();
        mqtt::started(&mut phase).await;
        let mut link =
            mqtt::open(&self.target, &self.identity, "newcomer", Keeping::Clean, &desk).await?.link;
        let filters = [format!("{}/#", self.identity.base())];
        mqtt::subscribe(&mut link, version, &filters, Qos::AtMostOnce, &desk).await?;
        let mut missing = Missing::new(self.topics);
        while missing.count > 0 && *phase.borrow() < Phase::Ending {
            let before = missing.count;
            let read = poll_fn(|cx| {
                link.poll_read(cx, &mut desk.scratch.borrow_mut(), |packet, _| missing.note(&packet))
            });
            read.await?;
            desk.delivered(u64::from(before - missing.count), clock::now());
        }
        frames::disconnect(version, link.out())?;
        link.finish().await
    }
}

async fn acknowledged(link: &mut Link, desk: &Desk) -> Result<(), LinkError> {
    link.ask(&desk.scratch, |packet| match packet {
        Packet::PubAck(ack) if ack.reason.is_failure() => Some(Err(LinkError::NotPublished(ack.reason))),
        Packet::PubAck(_) => Some(Ok(())),
        _ => Some(Err(LinkError::Unexpected("an acknowledgement"))),
    })
    .await
}

/// Pure: what the newcomer has not got yet.
struct Missing {
    seen: Vec<bool>,
    count: u32,
}

impl Missing {
    fn new(count: u32) -> Self {
        Self { seen: vec![false; count as usize], count }
    }

    fn note(&mut self, packet: &Packet<'_>) -> Result<(), LinkError> {
        let Packet::Publish(publish) = packet else { return Err(LinkError::Unexpected("a message")) };
        let mark = Mark::of(publish.payload).ok_or(LinkError::Unexpected("a message of this run"))?;
        if let Some(seen) = self.seen.get_mut(mark.number as usize).filter(|seen| !**seen) {
            *seen = true;
            self.count -= 1;
        }
        Ok(())
    }
}
