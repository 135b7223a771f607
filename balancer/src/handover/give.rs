//! The side of the running process, which another one takes over from.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nsd_edge::socket_file;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::channel::{Channel, Door};
use super::message::{FromNew, FromOld, LISTED, VERSION};
use super::outbox::Given;
use super::succession::Succession;
use super::sweep::{self, Pending};
use super::{door_beside, servers};
use crate::balancer::Balancer;
use crate::limits;
use crate::pace::Pace;
use crate::relay::Order;

/// Answers who comes to take over, for ever.
pub(crate) async fn answer(door: Door, balancer: Arc<Balancer>) {
    loop {
        match door.accept().await {
            Ok(channel) => {
                tokio::spawn(meet(channel, Arc::clone(&balancer)));
            }
            Err(error) => {
                warn!(%error, "a process that came to take over is not answered");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn meet(channel: Channel, balancer: Arc<Balancer>) {
    let succession = &balancer.shared.succession;
    let Some(mut outbox) = admit(&channel, succession).await else { return };
    info!("another process wants to take over");
    let terms = match offer(&channel, &balancer).await {
        Ok(terms) => terms,
        Err(error) => return info!(%error, "it does not take over, nothing has changed here"),
    };
    balancer.stop_accepting(&terms.listens);
    give_doors(&balancer.admin_socket(), terms.pid);
    succession.succeed();
    info!(sessions = balancer.shared.workers.sessions(), "another process accepts from now on");
    let pending = Pending::default();
    let outcome = tokio::select! {
        outcome = hear(&channel, &pending, &balancer) => outcome,
        outcome = hand_over(&channel, &mut outbox, &pending, &balancer, terms) => outcome,
    };
    match outcome {
        Ok(()) => {
            info!("this process is no longer needed");
            succession.end();
        }
        Err(error) => {
            // First nothing more can be taken, then what was taken by then is known, then the rest goes on here.
            channel.close_hearing();
            while let Ok(Some((FromNew::Have { batch, sessions }, _))) = channel.hear().await {
                pending.taken(batch, sessions);
            }
            let _ = channel.say(&FromOld::Withdrawn { why: error.to_string() }, &[]).await;
            drop((pending, outbox));
            warn!(%error, "the new process is lost, this one goes on");
            succession.return_here();
        }
    }
}

/// From now on the other process is asked.
fn give_doors(admin_socket: &Path, pid: u32) {
    for path in [admin_socket, &door_beside(admin_socket)] {
        if let Err(error) = socket_file::put_for(path, pid) {
            warn!(path = %path.display(), %error, "the new process's socket is not put in its place here");
        }
    }
}

/// Only one at a time, and only who speaks the same.
async fn admit(channel: &Channel, succession: &Succession) -> Option<mpsc::Receiver<Given>> {
    let hello = timeout(limits::ANSWER_OF_A_PROCESS, channel.hear::<FromNew>()).await;
    let why = match hello {
        Ok(Ok(Some((FromNew::Hello { version: VERSION }, _)))) => match succession.open() {
            Some(outbox) => return Some(outbox),
            None => "another process is taking over already".to_owned(),
        },
        Ok(Ok(Some((FromNew::Hello { version }, _)))) => {
            let (pid, name) = (std::process::id(), env!("CARGO_PKG_VERSION"));
            format!(
                "the running process ({pid}, release {name}) speaks version {VERSION} of taking over, not {version}: \
                 stop it (SIGTERM) and start the new one without --take-over"
            )
        }
        Ok(Ok(Some(_))) => "it does not begin with a greeting".to_owned(),
        Ok(Ok(None)) | Err(_) => return None,
        Ok(Err(error)) => error.to_string(),
    };
    info!(why, "a process that came to take over is refused");
    let _ = channel.say(&FromOld::Refused { why }, &[]).await;
    None
}

/// How those who stay are to leave.
struct Terms {
    /// The other process.
    pid: u32,
    listens: Vec<SocketAddr>,
    rate: Pace,
    deadline: Instant,
    told: std::collections::HashMap<super::message::Which, u32>,
}

/// Tells what there is, and waits until the other process could accept. Nothing changes here.
async fn offer(channel: &Channel, balancer: &Balancer) -> io::Result<Terms> {
    let welcome = FromOld::Welcome { pid: std::process::id(), sessions: balancer.shared.workers.sessions() };
    channel.say(&welcome, &[]).await?;
    let listeners = balancer.listeners();
    for some in listeners.chunks(LISTED) {
        let addresses: Vec<SocketAddr> = some.iter().map(|(address, _)| *address).collect();
        let files: Vec<BorrowedFd<'_>> = some.iter().map(|(_, socket)| socket.as_fd()).collect();
        channel.say(&FromOld::Listeners { addresses }, &files).await?;
    }
    drop(listeners);
    let servers = servers::known(&balancer.members());
    for some in servers.chunks(LISTED) {
        channel.say(&FromOld::Servers { servers: some.to_vec() }, &[]).await?;
    }
    channel.say(&FromOld::Complete, &[]).await?;
    let ready = timeout(limits::PREPARATION, channel.hear::<FromNew>());
    let ready = ready.await.map_err(|_elapsed| io::Error::other("it is not ready in time"))??;
    let Some((FromNew::Ready { pid, listens, rate, deadline_ms }, _)) = ready else {
        return Err(io::Error::other("it has ended before it was ready"));
    };
    let rate = rate.parse().map_err(io::Error::other)?;
    let deadline = Duration::from_millis(deadline_ms).min(*limits::DURATIONS.end());
    let told = servers.into_iter().map(|server| (server.which, server.sessions)).collect();
    Ok(Terms { pid, listens, rate, deadline: Instant::now() + deadline, told })
}

/// Until the other process stops, or is lost.
async fn hear(channel: &Channel, pending: &Pending, balancer: &Balancer) -> io::Result<()> {
    while let Some((word, _)) = channel.hear::<FromNew>().await? {
        match word {
            FromNew::Have { batch, sessions } => pending.taken(batch, sessions),
            FromNew::Came { backend, client } => close_older(balancer, backend, &client),
            FromNew::Stopping => return Ok(()),
            FromNew::Hello { .. } | FromNew::Ready { .. } => {}
        }
    }
    Err(io::Error::other("it has ended"))
}

fn close_older(balancer: &Balancer, backend: String, client: &str) {
    let older = balancer.shared.registry.of_client(client);
    if older.is_empty() {
        return;
    }
    tokio::spawn(async move {
        sleep(limits::TAKEOVER).await;
        for live in older.iter().filter(|live| *live.member.backend == *backend) {
            live.handle.tell(Order::Duplicate);
        }
    });
}

/// Until no session is left here, or the deadline has passed.
async fn hand_over(
    channel: &Channel,
    outbox: &mut mpsc::Receiver<Given>,
    pending: &Pending,
    balancer: &Balancer,
    terms: Terms,
) -> io::Result<()> {
    channel.say(&FromOld::Yours, &[]).await?;
    let registry = &balancer.shared.registry;
    tokio::select! {
        lost = sweep::give_away(registry, channel, outbox, pending) => lost.map(|_| ()),
        lost = sweep::count(balancer, channel, terms.told) => lost.map(|_| ()),
        _ = sweep::send_away(registry, terms.rate) => Ok(()),
        () = empty(balancer, terms.deadline) => Ok(()),
    }
}

/// No session is left here, nor in the process before this one; or the deadline has passed.
async fn empty(balancer: &Balancer, deadline: Instant) {
    let sessions = || balancer.shared.workers.sessions();
    while sessions() > 0 || balancer.shared.succession.follows() {
        if Instant::now() >= deadline {
            return warn!(sessions = sessions(), "the deadline for leaving has passed");
        }
        sleep(Duration::from_millis(50)).await;
    }
}
