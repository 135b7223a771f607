//! The load's MQTT clients: how they get in, and what publishers and subscribers do.

use std::future::poll_fn;
use std::num::NonZeroU16;
use std::rc::Rc;
use std::task::{Context, Poll};

use nsd_wire::{Ack, AckKind, Packet, PacketId, Qos, Version};
use tokio::sync::watch;

use crate::clock;
use crate::frames::{self, Keeping, Mark, Template};
use crate::link::{Link, LinkError};
use crate::pace::{Pacer, Schedule};
use crate::run::{Desk, Phase, Working};
use crate::sequence::Trackers;
use crate::target::Target;

/// A publisher queues so much before it writes: one system call for many packets.
const BATCH: usize = 32 * 1024;

/// How clients present themselves.
#[derive(Debug, Clone)]
pub struct Identity {
    pub version: Version,
    pub user: Option<String>,
    pub password: Option<String>,
    /// Begins every client id of the run.
    pub run: String,
}

impl Identity {
    /// What the topics of the run begin with; the second level is the user, as brokers that check it want.
    #[must_use]
    pub fn base(&self) -> String {
        format!("load/{}/{}", self.user.as_deref().unwrap_or("any"), self.run)
    }
}

/// A connection that the server has accepted.
#[derive(Debug)]
pub struct Accepted {
    pub link: Link,
    /// Unacknowledged messages that the server lets a publisher have.
    pub receive_maximum: u16,
}

/// Connects and is accepted.
pub async fn open(
    target: &Target,
    identity: &Identity,
    name: &str,
    keeping: Keeping,
    desk: &Desk,
) -> Result<Accepted, LinkError> {
    let mut link = Link::new(target.connect().await?, identity.version);
    frames::connect(identity, &format!("{}-{name}", identity.run), keeping, link.out())?;
    let receive_maximum = link
        .ask(&desk.scratch, |packet| match packet {
            Packet::ConnAck(answer) if answer.reason.is_failure() => {
                Some(Err(LinkError::NotAccepted(answer.reason)))
            }
            Packet::ConnAck(answer) => {
                Some(Ok(answer.properties.receive_maximum.map_or(u16::MAX, NonZeroU16::get)))
            }
            _ => Some(Err(LinkError::Unexpected("CONNACK"))),
        })
        .await?;
    Ok(Accepted { link, receive_maximum })
}

/// Subscribes to `filters` and waits for the answer.
pub async fn subscribe(
    link: &mut Link,
    version: Version,
    filters: &[String],
    qos: Qos,
    desk: &Desk,
) -> Result<(), LinkError> {
    frames::subscribe(version, filters, qos, link.out())?;
    link.ask(&desk.scratch, |packet| match packet {
        Packet::SubAck(answer) => Some(match answer.codes.iter().find(|code| code.is_failure()) {
            Some(code) => Err(LinkError::NotSubscribed(code)),
            None => Ok(()),
        }),
        _ => None,
    })
    .await
}

/// One subscriber of a run.
#[derive(Debug)]
pub struct Subscriber {
    pub name: String,
    pub filters: Vec<String>,
    pub qos: Qos,
    /// Publishers it hears: the first one's number and how many.
    pub hears: (u32, u32),
    /// Take the time of every message, rather than of every 16th.
    pub every_latency: bool,
    /// Gone while messages are published; its session gets them.
    pub away: bool,
    /// Its session would outlive its connection.
    pub kept: bool,
}

impl Subscriber {
    /// Gets ready, receives until the run ends, leaves.
    pub async fn play(self, target: &Target, identity: &Identity, desk: Rc<Desk>) -> Result<(), LinkError> {
        let keeping = if self.away || self.kept { Keeping::Kept } else { Keeping::Clean };
        let permit = desk.connecting.acquire().await;
        let mut link = open(target, identity, &self.name, keeping, &desk).await?.link;
        subscribe(&mut link, identity.version, &self.filters, self.qos, &desk).await?;
        if self.away {
            frames::disconnect(identity.version, link.out())?;
            link.finish().await?;
            drop(permit);
            let mut phase = desk.ready();
            // An end without a start is left to the run.
            let _ = phase.wait_for(|phase| *phase >= Phase::Stopping).await;
            let _permit = desk.connecting.acquire().await;
            let link = open(target, identity, &self.name, keeping, &desk).await?.link;
            self.listen(link, phase, identity, &desk).await?;
            return self.forget(target, identity, &desk).await;
        }
        drop(permit);
        let phase = desk.ready();
        self.listen(link, phase, identity, &desk).await?;
        if self.kept { self.forget(target, identity, &desk).await } else { Ok(()) }
    }

    /// The session has served: it is not left behind at the server.
    async fn forget(&self, target: &Target, identity: &Identity, desk: &Desk) -> Result<(), LinkError> {
        let mut link = open(target, identity, &self.name, Keeping::Clean, desk).await?.link;
        frames::disconnect(identity.version, link.out())?;
        link.finish().await
    }

    /// Receives until the run ends, leaves.
    async fn listen(
        &self,
        mut link: Link,
        mut phase: watch::Receiver<Phase>,
        identity: &Identity,
        desk: &Desk,
    ) -> Result<(), LinkError> {
        let mut trackers = Trackers::new(self.hears.0, self.hears.1);
        let result = loop {
            tokio::select! {
                _ = phase.wait_for(|phase| *phase == Phase::Ending) => break Ok(()),
                turn = poll_fn(|cx| self.poll_turn(cx, &mut link, &mut trackers, identity.version, desk)) => {
                    if let Err(error) = turn { break Err(error); }
                }
            }
        };
        desk.arrivals(trackers.tally());
        result?;
        frames::disconnect(identity.version, link.out())?;
        link.finish().await
    }

    /// One read with its acknowledgements; pending when there is nothing to read and nothing can be written.
    fn poll_turn(
        &self,
        cx: &mut Context<'_>,
        link: &mut Link,
        trackers: &mut Trackers,
        version: Version,
        desk: &Desk,
    ) -> Poll<Result<(), LinkError>> {
        let (mut unique, mut now) = (0, 0);
        let read = link.poll_read(cx, &mut desk.scratch.borrow_mut(), |packet, out| {
            let publish = match packet {
                Packet::Publish(publish) => publish,
                Packet::PubRel(Ack { packet_id, .. }) => {
                    return Ok(frames::ack(AckKind::PubComp, version, packet_id, out)?);
                }
                _ => return Err(LinkError::Unexpected("a message")),
            };
            let mark = Mark::of(publish.payload).ok_or(LinkError::Unexpected("a message of this run"))?;
            if now == 0 {
                now = clock::now();
            }
            unique += u64::from(trackers.arrived(mark.publisher, mark.number));
            if self.every_latency || mark.number % 16 == 0 {
                desk.latency(now.saturating_sub(mark.stamp));
            }
            let kind = if publish.qos == Qos::AtLeastOnce { AckKind::PubAck } else { AckKind::PubRec };
            publish.packet_id.map_or(Ok(()), |id| Ok(frames::ack(kind, version, id, out)?))
        });
        if unique > 0 {
            desk.delivered(unique, now);
        }
        let wrote = if link.queued() > 0 { link.poll_write(cx)? } else { Poll::Pending };
        match read {
            Poll::Pending if wrote.is_pending() => Poll::Pending,
            Poll::Pending => Poll::Ready(Ok(())),
            ready => ready,
        }
    }
}

/// One publisher of a run.
#[derive(Debug)]
pub struct Publisher {
    pub number: u32,
    /// Each in turn.
    pub topics: Vec<String>,
    pub qos: Qos,
    pub size: usize,
    /// Most unacknowledged messages.
    pub window: u16,
    /// Most messages in all.
    pub share: u64,
    /// Messages a second over all publishers, and how many those are.
    pub rate: Option<(f64, usize)>,
}

impl Publisher {
    /// Gets ready, publishes between start and stop, waits for what is in flight, leaves at the end.
    pub async fn play(self, target: &Target, identity: &Identity, desk: Rc<Desk>) -> Result<(), LinkError> {
        let permit = desk.connecting.acquire().await;
        let Accepted { link, receive_maximum } =
            open(target, identity, &format!("p{}", self.number), Keeping::Clean, &desk).await?;
        drop(permit);
        let working = desk.working();
        let mut phase = desk.ready();
        let Some(start) = started(&mut phase).await else { return Ok(()) };
        let pacer = match self.rate {
            Some((rate, of)) => Some(Pacer::new(Schedule::new(start, rate, self.number as usize, of))?),
            None => None,
        };
        let window = InFlight::new(identity.version, self.qos, self.window.min(receive_maximum));
        let template =
            |topic: &String| Template::new(identity.version, topic, self.qos, self.size, self.number);
        let templates = self.topics.iter().map(template).collect::<Result<Vec<_>, _>>()?;
        let mut publishing =
            Publishing { link, templates, window, pacer, next: 0, share: self.share, working: Some(working) };
        publishing.run(&mut phase, &desk).await?;
        frames::disconnect(identity.version, publishing.link.out())?;
        publishing.link.finish().await
    }
}

/// Waits for the start and tells its time; `None` when the run ends without one.
pub async fn started(phase: &mut watch::Receiver<Phase>) -> Option<u64> {
    let begun = phase.wait_for(|phase| *phase != Phase::Connecting).await.ok()?;
    match *begun {
        Phase::Running(start) => Some(start),
        _ => None,
    }
}

/// A publisher at work.
struct Publishing {
    link: Link,
    templates: Vec<Template>,
    window: InFlight,
    pacer: Option<Pacer>,
    /// Number of the next message.
    next: u64,
    share: u64,
    working: Option<Working>,
}

impl Publishing {
    async fn run(&mut self, phase: &mut watch::Receiver<Phase>, desk: &Desk) -> Result<(), LinkError> {
        loop {
            let now = *phase.borrow_and_update();
            if now == Phase::Ending {
                return Ok(());
            }
            if now == Phase::Stopping {
                self.share = self.next;
            }
            if self.next == self.share && self.window.is_empty() && self.link.queued() == 0 {
                self.working = None;
            }
            tokio::select! {
                _ = phase.changed() => {}
                turn = poll_fn(|cx| self.poll_turn(cx, desk)) => turn?,
            }
            if self.next < self.share && self.pacer.is_none() && self.window.has_room() {
                // The tasks of a thread share it fairly, however fast the server takes what this one writes.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Reads acknowledgements, queues what may be published now, writes; pending when none of it is possible.
    fn poll_turn(&mut self, cx: &mut Context<'_>, desk: &Desk) -> Poll<Result<(), LinkError>> {
        let window = &mut self.window;
        let read = self.link.poll_read(cx, &mut desk.scratch.borrow_mut(), |packet, out| match packet {
            Packet::PubAck(ack) => window.acknowledged(AckKind::PubAck, &ack, out),
            Packet::PubRec(ack) => window.acknowledged(AckKind::PubRec, &ack, out),
            Packet::PubComp(ack) => window.acknowledged(AckKind::PubComp, &ack, out),
            _ => Err(LinkError::Unexpected("an acknowledgement")),
        });
        if let Poll::Ready(Err(error)) = read {
            return Poll::Ready(Err(error));
        }
        self.fill(cx, desk)?;
        let wrote = if self.link.queued() > 0 { self.link.poll_write(cx)? } else { Poll::Pending };
        if read.is_ready() || wrote.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Queues messages up to a batch, the window, the share and what is due.
    fn fill(&mut self, cx: &mut Context<'_>, desk: &Desk) -> Result<(), LinkError> {
        let first = self.next;
        let now = clock::now();
        while self.next < self.share && self.link.queued() < BATCH && self.window.has_room() {
            let stamp = match &mut self.pacer {
                None => now,
                Some(pacer) => match pacer.poll_due(cx, self.next) {
                    Poll::Ready(due) => due?,
                    Poll::Pending => break,
                },
            };
            let id = self.window.take();
            let template = &self.templates[(self.next % self.templates.len() as u64) as usize];
            template.push(self.next, stamp, id, self.link.out());
            self.next += 1;
        }
        if self.next > first {
            desk.published(self.next - first);
        }
        Ok(())
    }
}

/// Pure: packet ids of unacknowledged messages, `1..=window`.
#[derive(Debug)]
struct InFlight {
    version: Version,
    qos: Qos,
    window: usize,
    free: Vec<PacketId>,
    /// By id: what is awaited for it.
    awaited: Vec<Option<AckKind>>,
}

impl InFlight {
    fn new(version: Version, qos: Qos, window: u16) -> Self {
        let window = if qos == Qos::AtMostOnce { 0 } else { window };
        Self {
            version,
            qos,
            window: usize::from(window),
            free: (1..=window).rev().filter_map(PacketId::new).collect(),
            awaited: vec![None; usize::from(window) + 1],
        }
    }

    fn has_room(&self) -> bool {
        self.qos == Qos::AtMostOnce || !self.free.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.free.len() == self.window
    }

    /// The id of the next message; none for QoS 0.
    fn take(&mut self) -> Option<PacketId> {
        let id = self.free.pop()?;
        let awaited = if self.qos == Qos::AtLeastOnce { AckKind::PubAck } else { AckKind::PubRec };
        self.awaited[usize::from(id.get())] = Some(awaited);
        Some(id)
    }

    /// Notes an acknowledgement and queues the answer that it wants.
    fn acknowledged(&mut self, kind: AckKind, ack: &Ack<'_>, out: &mut Vec<u8>) -> Result<(), LinkError> {
        let id = ack.packet_id;
        let awaited = self.awaited.get_mut(usize::from(id.get())).filter(|awaited| **awaited == Some(kind));
        let Some(awaited) = awaited else { return Err(LinkError::Unexpected("an awaited acknowledgement")) };
        if ack.reason.is_failure() {
            return Err(LinkError::NotPublished(ack.reason));
        }
        if kind == AckKind::PubRec {
            *awaited = Some(AckKind::PubComp);
            frames::ack(AckKind::PubRel, self.version, id, out)?;
        } else {
            *awaited = None;
            self.free.push(id);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nsd_wire::ReasonCode;

    fn window(qos: Qos, size: u16) -> (InFlight, Vec<u8>) {
        (InFlight::new(Version::V311, qos, size), Vec::new())
    }

    #[test]
    fn qos_1_has_its_window_and_takes_each_acknowledgement_once() {
        let (mut window, mut out) = window(Qos::AtLeastOnce, 2);
        let (first, second) = (Ack::new(window.take().unwrap()), Ack::new(window.take().unwrap()));
        assert!(first != second && !window.has_room());
        window.acknowledged(AckKind::PubAck, &first, &mut out).unwrap();
        assert!(window.has_room() && !window.is_empty() && out.is_empty());
        assert!(window.acknowledged(AckKind::PubAck, &first, &mut out).is_err());
        assert!(window.acknowledged(AckKind::PubAck, &Ack::new(PacketId::MAX), &mut out).is_err());
        window.acknowledged(AckKind::PubAck, &second, &mut out).unwrap();
        assert!(window.is_empty());
    }

    #[test]
    fn qos_2_is_released_before_it_is_complete() {
        let (mut window, mut out) = window(Qos::ExactlyOnce, 1);
        let ack = Ack::new(window.take().unwrap());
        assert!(window.acknowledged(AckKind::PubComp, &ack, &mut out).is_err());
        window.acknowledged(AckKind::PubRec, &ack, &mut out).unwrap();
        let released = nsd_wire::read(Version::V311, &out, frames::MAX_PACKET).unwrap();
        assert_eq!(released.map(|(packet, _)| packet), Some(Packet::PubRel(ack)));
        assert!(!window.has_room());
        window.acknowledged(AckKind::PubComp, &ack, &mut out).unwrap();
        assert!(window.is_empty());
    }

    #[test]
    fn a_refused_message_is_an_error() {
        let (mut window, mut out) = window(Qos::AtLeastOnce, 1);
        let refused = Ack::with_reason(window.take().unwrap(), ReasonCode::NotAuthorized);
        let error = window.acknowledged(AckKind::PubAck, &refused, &mut out).unwrap_err();
        assert!(matches!(error, LinkError::NotPublished(ReasonCode::NotAuthorized)));
    }

    #[test]
    fn qos_0_is_never_in_flight() {
        let (mut window, _) = window(Qos::AtMostOnce, 100);
        assert_eq!(window.take(), None);
        assert!(window.has_room() && window.is_empty());
    }
}
