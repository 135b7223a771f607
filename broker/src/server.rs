//! The server: one worker thread per core with its clients pinned to it, one end for all.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nsd_edge::drain::{Drain, Watch};
use nsd_edge::stream::Stream;
use nsd_wire::ReasonCode;
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc, watch};
use tracing::{info, warn};

use crate::bus::{self, Bus, Flusher};
use crate::connection::{Client, Connection, Line, Peer};
use crate::door::Door;
use crate::entry::Pass;
use crate::executor::{Executor, Spawner};
use crate::journal::{Journal, Writer};
use crate::limits;
use crate::listeners::{Arrival, Hand, ListenError, Listeners};
use crate::node::Node;
use crate::settings::{Access, Listen, Settings, StoreSettings};
use crate::store::{self, DiskStore, Link, MemoryStore, OpenError, RedisStore, StartError, Store};
use crate::telemetry;

/// New sockets waiting for one worker; beyond that they wait in the kernel.
const HANDOVER: usize = 1024;
/// Files that are not connections: Redis, the admin socket, logs, listeners.
const SPARE_FILES: u64 = 64;

#[derive(Debug, Error)]
pub enum ServeError {
    #[error(transparent)]
    Listen(#[from] ListenError),
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
    drain: Drain,
    workers: Vec<Worker>,
    cluster: Option<Cluster>,
    writer: Option<JoinHandle<()>>,
    listeners: Listeners,
    /// Ends the following of files that the door goes by.
    access_files: Drain,
}

/// The thread that speaks with Redis for all.
struct Cluster {
    thread: Option<JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

struct Worker {
    hand: Hand,
    thread: Option<JoinHandle<()>>,
}

/// Starts everything; when this returns, clients are let in. Handlers stand before the first listener opens.
pub async fn start(settings: &Settings) -> Result<Server, ServeError> {
    let open_files = nsd_edge::listen::raise_open_files();
    let spare = SPARE_FILES.min(open_files / 2);
    let files = usize::try_from(open_files - spare).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
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
            let journal = Arc::new(Journal::shared(threads + 2, Arc::clone(&bus.work)));
            let node = Arc::new(Node::new(settings, store, Some(Arc::clone(&bus)), Some(journal)));
            cluster = Some(join_cluster(Arc::clone(&node), bus, link).await?);
            node
        }
    };
    let drain = Drain::new();
    let workers = (0..threads).map(|index| Worker::start(index, &node, drain.watch()));
    let workers = workers.collect::<Result<Vec<_>, _>>()?;
    let hands = workers.iter().map(|worker| worker.hand.clone()).collect();
    let listeners = Listeners::new(files, hands);
    let access_files = Drain::new();
    let mut server = Server { node, drain, workers, cluster, writer, listeners, access_files };
    server.follow_access();
    tokio::spawn(Arc::clone(&server.node).look_after_the_absent());
    tokio::spawn(Arc::clone(&server.node).look_after_the_memory());
    tokio::spawn(Arc::clone(&server.node).look_after_the_expired());
    // Ready before the first client can come: who comes to one that is not is sent away.
    server.node.set_ready(true);
    server.change_listeners(&settings.listen).await?;
    Ok(server)
}

impl Server {
    /// Listens where these say from now on; on an error, where it listened before.
    pub async fn change_listeners(&mut self, wanted: &[Listen]) -> Result<(), ListenError> {
        let outcome = self.listeners.change(wanted).await;
        *self.node.listeners.write() = self.listeners.connections();
        outcome
    }

    /// Nobody comes in any more, until [`Self::open_listeners`].
    pub async fn close_listeners(&mut self) {
        self.listeners.close().await;
    }

    pub async fn open_listeners(&mut self) -> Result<(), ListenError> {
        let outcome = self.listeners.reopen().await;
        *self.node.listeners.write() = self.listeners.connections();
        outcome
    }

    /// Where it listens, in the order of the settings.
    pub fn addresses(&self) -> Vec<std::net::SocketAddr> {
        self.listeners.addresses()
    }

    /// Who comes from now on is let in by these rules; their files are followed, those of the rules before no longer.
    pub fn change_access(&mut self, access: &Access) {
        let door = Door::new(access.clone(), Arc::clone(&self.node.store));
        self.node.door.store(Arc::new(door));
        self.follow_access();
    }

    fn follow_access(&mut self) {
        self.access_files.begin();
        self.access_files = Drain::new();
        self.node.door.load().follow_files(&self.access_files);
    }

    /// Accepts no more and tells every client.
    pub async fn begin_drain(&mut self) {
        self.node.begin_end();
        self.close_listeners().await;
        self.node.hub.send_away(ReasonCode::ServerShuttingDown);
        self.drain.begin();
    }

    /// Stops accepting, tells every client, writes what is waiting, leaves the cluster.
    pub async fn stop(mut self) {
        self.begin_drain().await;
        self.drain.finish(limits::DRAIN_DEADLINE).await;
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

impl Worker {
    fn start(index: usize, node: &Arc<Node>, drain: Watch) -> Result<Self, std::io::Error> {
        let (sockets, arrivals) = mpsc::channel(HANDOVER);
        let clients = Arc::new(AtomicUsize::new(0));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (node, count) = (Arc::clone(node), Arc::clone(&clients));
        let executor = {
            let _of_the_runtime = runtime.enter();
            Executor::new()?
        };
        let work = move || runtime.block_on(serve_arrivals(arrivals, node, count, executor, drain));
        let thread = std::thread::Builder::new().name(format!("clients-{index}")).spawn(work)?;
        Ok(Self { hand: Hand { sockets, clients, runtime: handle }, thread: Some(thread) })
    }
}

/// The worker's life: its executor runs every arrival; the drain's deadline ends the thread and with it whoever is still
/// there.
async fn serve_arrivals(
    mut arrivals: mpsc::Receiver<Arrival>,
    node: Arc<Node>,
    clients: Arc<AtomicUsize>,
    executor: Executor<Client<Held>>,
    mut drain: Watch,
) {
    let spawner = executor.spawner();
    tokio::spawn(executor.run());
    loop {
        let arrival = tokio::select! {
            arrival = arrivals.recv() => arrival,
            () = drain.draining() => break,
        };
        let Some(arrival) = arrival else { break };
        begin(&spawner, arrival, Arc::clone(&node), Counted(Arc::clone(&clients)), &drain);
    }
    // Who is no client yet hears of it from nobody else.
    spawner.wake_all();
    // Never begun: closed by being dropped.
    arrivals.close();
    while arrivals.recv().await.is_some() {
        clients.fetch_sub(1, Ordering::AcqRel);
    }
    wait_for_end(drain, &clients).await;
}

/// What a client holds until it is gone: its places among the connections of its worker, of its listener and of its
/// source.
type Held = (Counted, telemetry::Counted, Pass);

fn begin(
    spawner: &Spawner<Client<Held>>,
    arrival: Arrival,
    node: Arc<Node>,
    counted: Counted,
    drain: &Watch,
) {
    let Arrival { socket, peer, entry, turn, mut pass, counted: of_listener } = arrival;
    spawner.spawn(|place| {
        if !entry.takes_time() {
            let line = Line::Plain(place.watch(socket).ok()?);
            let peer = Peer { address: peer, certified: None };
            let connection = Connection::new(line, peer, node, entry.limits.load_full());
            return Some(Client::new(connection, (counted, of_listener, pass)));
        }
        let mut drain = drain.clone();
        Some(Client::arriving(async move {
            let (stream, peer) = tokio::select! {
                opened = entry.open(socket, peer, &mut pass) => opened?,
                () = drain.draining() => return None,
            };
            drop(turn);
            let line = match stream {
                Stream::Plain(socket) => Line::Plain(place.watch(socket.into_std().ok()?).ok()?),
                other => Line::Other(Box::new(other)),
            };
            let connection = Connection::new(line, peer, node, entry.limits.load_full());
            Some((connection, (counted, of_listener, pass)))
        }))
    });
}

async fn wait_for_end(mut drain: Watch, clients: &AtomicUsize) {
    loop {
        let left = clients.load(Ordering::Acquire);
        if left == 0 {
            return;
        }
        let pause = tokio::time::sleep(Duration::from_millis(5));
        tokio::select! {
            () = drain.aborted() => {
                warn!(clients = left, "cut off: they did not go in time");
                return;
            }
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
    let writer = Writer::new(journal, &node, Box::new(disk));
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
