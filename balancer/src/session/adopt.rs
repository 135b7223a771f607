//! A session that another process has begun: nothing is asked of its client or its server, and neither notices.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use nsd_wire::Version;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use super::{Client, Seated, Talk};
use crate::frontend::Frontend;
use crate::handover::message::Session;
use crate::limits;
use crate::member::{Member, Seat};
use crate::registry::{Live, Registry};
use crate::relay::{End, Moved, Order};
use crate::settings::Duplicates;
use crate::shared::Shared;
use crate::upstream::Upstream;

/// It counts already, and is read from [`Self::begin`] on.
pub(crate) struct Adopted {
    worker: Handle,
    client: Client,
    seat: Seat,
    session: Session,
    /// The client's and the server's.
    sockets: [TcpStream; 2],
}

impl Adopted {
    /// `None`: there is no room for it.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        frontend: Arc<Frontend>,
        member: &Arc<Member>,
        session: Session,
        sockets: [TcpStream; 2],
    ) -> Option<Self> {
        let permit = Arc::clone(&shared.sessions).try_acquire_owned().ok()?;
        let seat = member.seat_from_elsewhere();
        let (worker, place) = shared.workers.least_loaded();
        let age = Duration::from_millis(session.age_ms);
        let now = Instant::now();
        let client = Client {
            peer: session.peer,
            since: now.checked_sub(age).unwrap_or(now),
            pass: frontend.entry.as_ref().and_then(|entry| entry.adopt(session.peer.ip())),
            frontend,
            shared: Arc::clone(shared),
            _permit: permit,
            _place: place,
        };
        Some(Self { worker: worker.handle.clone(), client, seat, session, sockets })
    }

    pub(crate) fn begin(self) {
        self.client.frontend.tally.count(|counts| counts.adopted += 1);
        self.worker.clone().spawn(async move {
            let Self { client, seat, session, sockets: [ours, server], .. } = self;
            let register = |socket| tokio::net::TcpStream::from_std(socket);
            match register(ours).and_then(|ours| Ok((ours, register(server)?))) {
                Ok((ours, server)) => {
                    tokio::spawn(talk(ours, server, client, seat, session));
                }
                Err(error) => client.ended_by(&error, End::OurLimit),
            }
        });
    }
}

fn talk(
    ours: tokio::net::TcpStream,
    server: tokio::net::TcpStream,
    client: Client,
    seat: Seat,
    session: Session,
) -> Talk<tokio::net::TcpStream> {
    let version = session.level.and_then(Version::from_level);
    let registry = Arc::clone(&client.shared.registry);
    let names = |_| registry.kept_names(&session.client_id, &session.user_name);
    let silence = Duration::from_millis(session.silence_ms.into());
    let moved = Moved {
        up: session.up,
        down: session.down,
        messages_up: session.framing_up.publishes().into(),
        messages_down: session.framing_down.publishes().into(),
    };
    client.frontend.tally.traffic.except(moved);
    seat.member().traffic.except(moved);
    let seated = Seated {
        server: Upstream::Plain(server),
        seat,
        moved,
        up: session.framing_up,
        down: session.framing_down,
        version,
        clean: session.clean,
        will: session.will,
        names: version.map_or_else(Registry::nobody, names),
        silence: (!silence.is_zero()).then_some(silence),
        accepted: true,
        duplicates: Duplicates::Keep,
    };
    let talk = Talk::begin(ours, seated, client);
    let live = talk.live();
    live.handle.heard(registry.now().wrapping_sub(session.silent_ms));
    close_if_older(live, &registry);
    talk
}

/// Its client may have come again to this process before the session did.
fn close_if_older(live: &Arc<Live>, registry: &Registry) {
    let came_later = |other: &Arc<Live>| {
        other.since > live.since && other.member.backend == live.member.backend && !Arc::ptr_eq(other, live)
    };
    let id = live.names.id();
    let wanted = live.frontend.backends.iter().find(|backend| *backend.name == *live.member.backend);
    let closes = wanted.is_some_and(|backend| backend.policy.load().duplicates == Duplicates::Close);
    if id.is_empty() || !closes || !registry.of_client(id).iter().any(came_later) {
        return;
    }
    let live = Arc::clone(live);
    tokio::spawn(async move {
        sleep(limits::TAKEOVER).await;
        live.handle.tell(Order::Duplicate);
    });
}
