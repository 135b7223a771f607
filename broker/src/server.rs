//! The server: one worker thread per core with its clients pinned to it, one end for all. Each worker has a listening
//! socket of its own at every address, so that a client that comes and goes wakes one thread only.

use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nsd_edge::drain::{Drain, Watch};
use nsd_edge::listen::{BindError, Listener, SharedPace, bind_shared};
use nsd_edge::tls::TlsError;
use nsd_wire::ReasonCode;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tracing::{info, warn};

use crate::bus::{self, Bus, Flusher};
use crate::connection::{self, Alarms};
use crate::entry::{Entry, Pass};
use crate::journal::{Journal, Writer};
use crate::limits;
use crate::node::Node;
use crate::settings::{Settings, StoreSettings};
use crate::store::{self, DiskStore, Link, MemoryStore, OpenError, RedisStore, StartError, Store};

/// New sockets waiting for one worker; beyond that they wait in the kernel.
const HANDOVER: usize = 1024;
/// Files that are not connections: Redis, the admin socket, logs, listeners.
const SPARE_FILES: u64 = 64;

#[derive(Debug, Error)]
pub enum ServeError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Store(#[from] StartError),
    #[error(transparent)]
    Disk(#[from] OpenError),
    #[error("cannot start a thread or runtime: {0}")]
    Runtime(#[from] std::io::Error),
    #[error("{0}")]
    Cluster(String),
}

/// A broker that runs.
pub struct Server {
    pub node: Arc<Node>,
    /// Where it listens, in the order of the settings.
    pub addresses: Vec<std::net::SocketAddr>,
    drain: Drain,
    workers: Vec<Worker>,
    cluster: Option<Cluster>,
    writer: Option<JoinHandle<()>>,
    acceptors: Vec<tokio::task::JoinHandle<()>>,
}

/// The thread that speaks with Redis for all.
struct Cluster {
    thread: Option<JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

struct Worker {
    hand: Hand,
    runtime: Handle,
    thread: Option<JoinHandle<()>>,
}

/// How a worker is given a client, and how many it has.
#[derive(Clone)]
struct Hand {
    sockets: mpsc::Sender<Arrival>,
    clients: Arc<AtomicUsize>,
}

/// A connection on its way to its worker.
struct Arrival {
    socket: TcpStream,
    peer: std::net::SocketAddr,
    permit: OwnedSemaphorePermit,
    entry: Arc<Entry>,
    /// Dropped once it is a client.
    turn: Option<OwnedSemaphorePermit>,
    pass: Pass,
}

/// Starts everything; when this returns, clients are let in. Handlers stand before the first listener opens.
pub async fn start(settings: &Settings) -> Result<Server, ServeError> {
    let open_files = nsd_edge::listen::raise_open_files();
    let spare = SPARE_FILES.min(open_files / 2);
    let files = usize::try_from(open_files - spare).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // Half of all connections, shared by the listeners, may be on their way to become clients; each worker accepts.
    let beginning = (files / 2 / settings.listen.len().max(1)).max(threads);
    let entries = settings.listen.iter().map(|listen| Entry::new(listen, beginning));
    let entries = entries.map(|entry| entry.map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
    let (mut cluster, mut writer) = (None, None);
    let node = match &settings.store {
        StoreSettings::Memory => {
            let store = Store::Memory(MemoryStore::default());
            Arc::new(Node::new(settings, store, None, None))
        }
        StoreSettings::Disk(directory) => {
            let (node, thread) = open_disk(settings, directory.clone(), threads).await?;
            writer = Some(thread);
            node
        }
        StoreSettings::Redis(redis) => {
            let link = Arc::new(Link::new(redis)?);
            let bus = Arc::new(Bus::new(threads + 2));
            let store = Store::Redis(RedisStore::new(Arc::clone(&link), bus.node));
            let node = Arc::new(Node::new(settings, store, Some(Arc::clone(&bus)), None));
            cluster = Some(join_cluster(Arc::clone(&node), bus, link).await?);
            node
        }
    };
    let drain = Drain::new();
    let workers = (0..threads).map(|index| Worker::start(index, &node, drain.watch()));
    let workers = workers.collect::<Result<Vec<_>, _>>()?;
    let permits = Arc::new(Semaphore::new(files));
    let bound = settings.listen.iter().map(|listen| bind_shared(listen.address, threads));
    let bound = bound.collect::<Result<Vec<_>, _>>()?;
    let mut server =
        Server { node, addresses: Vec::new(), drain, workers, cluster, writer, acceptors: Vec::new() };
    server.node.door.follow_files(&server.drain);
    server.node.set_ready(true);
    tokio::spawn(Arc::clone(&server.node).look_after_the_absent());
    tokio::spawn(Arc::clone(&server.node).look_after_the_memory());
    let _ = server.node.entries.set(entries.clone());
    for ((sockets, entry), listen) in bound.into_iter().zip(entries).zip(&settings.listen) {
        let pace = listen.connect_rate.map(SharedPace::new);
        server.listen(sockets, &entry, &permits, pace.as_ref())?;
    }
    Ok(server)
}

impl Server {
    /// One of the sockets for each worker.
    fn listen(
        &mut self,
        sockets: Vec<std::net::TcpListener>,
        entry: &Arc<Entry>,
        permits: &Arc<Semaphore>,
        pace: Option<&SharedPace>,
    ) -> Result<(), std::io::Error> {
        if let Some(address) = sockets.first().map(std::net::TcpListener::local_addr).transpose()? {
            info!(%address, tls = entry.tls.is_some(), "listening");
            self.addresses.push(address);
            let _ = entry.address.set(address);
        }
        if let Some(tls) = &entry.tls {
            tokio::spawn(Arc::clone(tls).follow(self.drain.watch()));
        }
        let hands: Arc<[Hand]> = self.workers.iter().map(|worker| worker.hand.clone()).collect();
        for (index, (socket, worker)) in sockets.into_iter().zip(&self.workers).enumerate() {
            let mut listener = {
                let _of_the_worker = worker.runtime.enter();
                Listener::new(socket, Arc::clone(permits))?
            };
            if let Some(pace) = pace {
                listener = listener.paced(pace.clone());
            }
            let accepting = accept(listener, Arc::clone(entry), index, Arc::clone(&hands));
            self.acceptors.push(worker.runtime.spawn(accepting));
        }
        Ok(())
    }

    /// Accepts no more and tells every client.
    pub fn begin_drain(&self) {
        self.node.set_ready(false);
        self.acceptors.iter().for_each(tokio::task::JoinHandle::abort);
        self.node.hub.send_away(ReasonCode::ServerShuttingDown);
        self.drain.begin();
    }

    /// Stops accepting, tells every client, writes what is waiting, leaves the cluster.
    pub async fn stop(mut self) {
        self.begin_drain();
        let drained = self.drain.finish(limits::DRAIN_DEADLINE).await;
        if drained.aborted > 0 {
            warn!(clients = drained.aborted, "cut off: they did not go in time");
        }
        let threads: Vec<_> = self.workers.drain(..).filter_map(|worker| worker.thread).collect();
        let (cluster, writer, node) = (self.cluster.take(), self.writer.take(), Arc::clone(&self.node));
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().for_each(|thread| drop(thread.join()));
            if let (Some(journal), Some(writer)) = (&node.hub.journal, writer) {
                journal.finish();
                drop(writer.join());
            }
            if let Some(mut cluster) = cluster {
                cluster.stop.send_replace(true);
                cluster.thread.take().map(JoinHandle::join);
            }
        });
        let _ = joined.await;
        info!("stopped");
    }
}

/// The worker of this index accepts.
async fn accept(listener: Listener, entry: Arc<Entry>, index: usize, workers: Arc<[Hand]>) {
    loop {
        let accepted = listener.accept().await;
        let Ok(pass) = entry.let_in(accepted.peer) else { continue };
        // Not before: workers without clients would each keep a turn from the one that has some.
        let turn = entry.turn().await;
        let worker = &workers[place(index, &workers)];
        worker.clients.fetch_add(1, Ordering::Relaxed);
        let (socket, peer, permit) = (accepted.socket, accepted.peer, accepted.permit);
        let arrival = Arrival { socket, peer, permit, entry: Arc::clone(&entry), turn, pass };
        if worker.sockets.send(arrival).await.is_err() {
            return;
        }
    }
}

/// Where a client goes that `index` has accepted. The kernel deals them out evenly in the long run only: of a few, one
/// worker may get all. So it passes on what would make it have more than twice as many as another.
fn place(index: usize, workers: &[Hand]) -> usize {
    let clients = |worker: &Hand| worker.clients.load(Ordering::Relaxed);
    let least = workers.iter().map(clients).enumerate().min_by_key(|(_, clients)| *clients);
    match least {
        Some((least, count)) if clients(&workers[index]) > 2 * count => least,
        _ => index,
    }
}

impl Worker {
    fn start(index: usize, node: &Arc<Node>, drain: Watch) -> Result<Self, std::io::Error> {
        let (sockets, arrivals) = mpsc::channel(HANDOVER);
        let clients = Arc::new(AtomicUsize::new(0));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (node, count) = (Arc::clone(node), Arc::clone(&clients));
        let work = move || runtime.block_on(serve_arrivals(arrivals, node, count, drain));
        let thread = std::thread::Builder::new().name(format!("clients-{index}")).spawn(work)?;
        Ok(Self { hand: Hand { sockets, clients }, runtime: handle, thread: Some(thread) })
    }
}

/// The worker's life: every arrival becomes a task of this thread; the drain's deadline ends the thread and with it
/// whoever is still there.
async fn serve_arrivals(
    mut arrivals: mpsc::Receiver<Arrival>,
    node: Arc<Node>,
    clients: Arc<AtomicUsize>,
    mut drain: Watch,
) {
    let alarms = Arc::new(Alarms::default());
    let ringing = Arc::clone(&alarms);
    tokio::spawn(async move { ringing.ring().await });
    loop {
        let arrival = tokio::select! {
            arrival = arrivals.recv() => arrival,
            () = drain.draining() => break,
        };
        let Some(Arrival { socket, peer, permit, entry, turn, mut pass }) = arrival else { break };
        let (node, count, watch) = (Arc::clone(&node), Counted(Arc::clone(&clients)), drain.clone());
        let alarms = Arc::clone(&alarms);
        // Apart and boxed: what a task holds for a beginning it would hold for as long as the client stays.
        let opening = Box::pin(async move {
            let opened = entry.open(socket, peer, &mut pass).await;
            drop(turn);
            opened.map(|(stream, peer)| (stream, peer, pass))
        });
        tokio::spawn(async move {
            if let Some((stream, peer, _pass)) = opening.await {
                connection::serve(stream, peer, node, alarms).await;
            }
            drop((permit, count, watch));
        });
    }
    // Never begun: closed by being dropped.
    arrivals.close();
    while arrivals.recv().await.is_some() {
        clients.fetch_sub(1, Ordering::AcqRel);
    }
    // Connections hold watches of their own; this one must not keep the drain waiting.
    let aborted = drain.clone();
    drop(drain);
    wait_for_end(aborted, &clients).await;
}

async fn wait_for_end(mut drain: Watch, clients: &AtomicUsize) {
    while clients.load(Ordering::Acquire) > 0 {
        let pause = tokio::time::sleep(Duration::from_millis(5));
        tokio::select! {
            () = drain.aborted() => return,
            () = pause => {}
        }
    }
}

/// One client of a worker; counted until dropped, also by a panic.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Opens the store, gives the node what it holds, and starts the thread that writes to it.
async fn open_disk(
    settings: &Settings,
    directory: PathBuf,
    threads: usize,
) -> Result<(Arc<Node>, JoinHandle<()>), ServeError> {
    let place = directory.display().to_string();
    let opening = tokio::task::spawn_blocking(move || DiskStore::open(&directory, store::disk::CACHE));
    let (disk, stored) = opening.await.map_err(std::io::Error::other)??;
    info!(
        directory = place,
        sessions = stored.sessions.len(),
        retained = stored.retained.len(),
        "the store is open"
    );
    let journal = Arc::new(Journal::new(threads + 2));
    let store = Store::Memory(MemoryStore::default());
    let node = Arc::new(Node::new(settings, store, None, Some(Arc::clone(&journal))));
    let wills = node.restore(stored);
    let writer = Writer::new(journal, Arc::clone(&node.hub), Box::new(disk), Arc::clone(&node.limits));
    let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || writer.run())?;
    wills.iter().for_each(|(client_id, will)| node.publish_orphan(client_id, will));
    Ok((node, thread))
}

/// Connects, checks, listens to the inbox, registers: after this the node is part of the cluster.
async fn join_cluster(node: Arc<Node>, bus: Arc<Bus>, link: Arc<Link>) -> Result<Cluster, ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (stop, stopped) = watch::channel(false);
    let (started, outcome) = tokio::sync::oneshot::channel();
    let work = move || {
        runtime.block_on(async move {
            match enter_cluster(&node, &bus, &link).await {
                Ok(flusher) => {
                    let _ = started.send(Ok(()));
                    let mut asked = stopped.clone();
                    let late = async {
                        let _ = asked.wait_for(|stop| *stop).await;
                        tokio::time::sleep(limits::LEAVE_DEADLINE).await;
                    };
                    tokio::select! {
                        () = flusher.run(stopped) => {}
                        () = late => warn!("redis did not answer in time: others learn of this stop by our lease"),
                    }
                }
                Err(error) => drop(started.send(Err(error))),
            }
        });
    };
    let thread = std::thread::Builder::new().name("cluster".to_owned()).spawn(work)?;
    let outcome = outcome.await;
    outcome.unwrap_or_else(|_| Err(ServeError::Cluster("the cluster's thread ended".to_owned())))?;
    Ok(Cluster { thread: Some(thread), stop })
}

async fn enter_cluster(node: &Arc<Node>, bus: &Arc<Bus>, link: &Arc<Link>) -> Result<Flusher, ServeError> {
    let unreachable = |source| StartError::Unreachable { place: link.place().to_owned(), source };
    let mut connection = link.connect().await.map_err(unreachable)?;
    link.check(&mut connection).await?;
    let (ready, heard) = tokio::sync::oneshot::channel();
    tokio::spawn(bus::listen(Arc::clone(node), Arc::clone(link), bus.node, ready));
    if heard.await.is_err() {
        return Err(ServeError::Cluster("the inbox cannot be listened to".to_owned()));
    }
    let mut flusher = Flusher::new(Arc::clone(node), Arc::clone(bus), Arc::clone(link));
    flusher.start(connection).await.map_err(unreachable)?;
    info!(redis = link.place(), node = store::keys::node_name(bus.node), "joined the cluster");
    Ok(flusher)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_clients_are_spread_and_many_stay_where_they_came() {
        let placed = |counts: &[usize]| {
            let hand = |count: &usize| Hand {
                sockets: mpsc::channel(1).0,
                clients: Arc::new(AtomicUsize::new(*count)),
            };
            place(0, &counts.iter().map(hand).collect::<Vec<_>>())
        };
        assert_eq!(placed(&[0, 0]), 0);
        assert_eq!(placed(&[1, 0, 0]), 1);
        assert_eq!(placed(&[2, 3, 1]), 0);
        assert_eq!(placed(&[3, 3, 1]), 2);
        assert_eq!(placed(&[20, 12]), 0);
        assert_eq!(placed(&[7]), 0);
    }
}
