//! The listeners of a running server: opened together or not at all, changed while others go on, closed and opened again.
//! Connections that came in through one outlive it. Each worker has a listening socket of its own at every address, so
//! that a client that comes and goes wakes one thread only.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nsd_edge::drain::Drain;
use nsd_edge::listen::{BindError, Listener, SharedPace, bind_shared};
use nsd_edge::tls::TlsError;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tracing::info;

use crate::entry::{Entry, Pass};
use crate::settings::Listen;
use crate::telemetry::{Connections, Count, Counted, count};

#[derive(Debug, Error)]
pub enum ListenError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot listen: {0}")]
    Runtime(#[from] std::io::Error),
}

/// A connection on its way to its worker.
pub(crate) struct Arrival {
    pub(crate) socket: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) entry: Arc<Entry>,
    /// Dropped once it is a client.
    pub(crate) turn: Option<OwnedSemaphorePermit>,
    pub(crate) pass: Pass,
    pub(crate) counted: Counted,
}

/// How a worker is given a client, and how many it has.
#[derive(Clone)]
pub(crate) struct Hand {
    pub(crate) sockets: mpsc::Sender<Arrival>,
    pub(crate) clients: Arc<AtomicUsize>,
    pub(crate) runtime: Handle,
}

pub(crate) struct Listeners {
    permits: Arc<Semaphore>,
    /// Connections that may be on their way to become clients, over all listeners.
    beginning: usize,
    hands: Arc<[Hand]>,
    /// What the settings say, also while all are closed.
    wanted: Vec<Listen>,
    closed: bool,
    open: Vec<Open>,
}

struct Open {
    listen: Listen,
    connections: Arc<Connections>,
    acceptors: Vec<JoinHandle<()>>,
    /// Follows the files of its certificates.
    follower: Follower,
}

/// Ends with whoever holds it.
struct Follower(Option<Drain>);

/// Bound and ready, but not accepting yet: nothing of it can fail any more.
struct Prepared {
    listen: Listen,
    address: SocketAddr,
    /// One for each worker.
    listeners: Vec<Listener>,
    entry: Arc<Entry>,
}

impl Listeners {
    /// `files`: how many connections there may be at once; half of them may be on their way to become clients.
    pub(crate) fn new(files: usize, hands: Arc<[Hand]>) -> Self {
        let permits = Arc::new(Semaphore::new(files));
        Self { permits, beginning: files / 2, hands, wanted: Vec::new(), closed: false, open: Vec::new() }
    }

    /// Where clients may come now, in the order of the settings.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.open.iter().map(|open| open.connections.address).collect()
    }

    pub(crate) fn connections(&self) -> Vec<Arc<Connections>> {
        self.open.iter().map(|open| Arc::clone(&open.connections)).collect()
    }

    /// What differs from the listeners of now is closed, opened or changed; on an error all stays as it is. While all are
    /// closed, they stay so.
    pub(crate) async fn change(&mut self, wanted: &[Listen]) -> Result<(), ListenError> {
        if self.closed {
            self.wanted = wanted.to_vec();
            return Ok(());
        }
        let share = self.beginning / wanted.len().max(1);
        let mut altered = Vec::new();
        let mut added = Vec::new();
        for listen in wanted {
            match self.open.iter().position(|open| open.listen.address == listen.address) {
                Some(at) if self.open[at].listen == *listen => {}
                Some(at) => {
                    let entry = match self.open[at].listen.is_but_for_limits(listen) {
                        true => None,
                        false => Some(Entry::new(listen, share)?),
                    };
                    altered.push((at, listen.clone(), entry));
                }
                None => added.push(self.prepare(listen, share)?),
            }
        }
        for (at, listen, entry) in altered {
            self.open[at].alter(listen, entry);
        }
        let is_wanted = |open: &mut Open| wanted.iter().any(|listen| listen.address == open.listen.address);
        let gone: Vec<Open> = self.open.extract_if(.., |open| !is_wanted(open)).collect();
        end(gone).await;
        for prepared in added {
            let open = self.start(prepared);
            self.open.push(open);
        }
        let place = |open: &Open| wanted.iter().position(|listen| listen.address == open.listen.address);
        self.open.sort_by_key(place);
        self.wanted = wanted.to_vec();
        Ok(())
    }

    /// Nobody comes in any more; who is in stays.
    pub(crate) async fn close(&mut self) {
        self.closed = true;
        end(std::mem::take(&mut self.open)).await;
    }

    /// All that the settings name, again.
    pub(crate) async fn reopen(&mut self) -> Result<(), ListenError> {
        self.closed = false;
        let wanted = std::mem::take(&mut self.wanted);
        let outcome = self.change(&wanted).await;
        self.wanted = wanted;
        outcome
    }

    fn prepare(&self, listen: &Listen, share: usize) -> Result<Prepared, ListenError> {
        let entry = Arc::new(Entry::new(listen, share)?);
        let sockets: Vec<TcpListener> = bind_shared(listen.address, self.hands.len())?;
        let pace = listen.connect_rate.map(SharedPace::new);
        let of_worker = |(socket, hand): (TcpListener, &Hand)| {
            let _of_the_worker = hand.runtime.enter();
            let listener = Listener::new(socket, Arc::clone(&self.permits))?;
            Ok(match &pace {
                Some(pace) => listener.paced(pace.clone()),
                None => listener,
            })
        };
        let listeners = sockets.into_iter().zip(&*self.hands).map(of_worker);
        let listeners = listeners.collect::<Result<Vec<_>, std::io::Error>>()?;
        let address = listeners.first().map_or(listen.address, Listener::address);
        Ok(Prepared { listen: listen.clone(), address, listeners, entry })
    }

    fn start(&self, prepared: Prepared) -> Open {
        let Prepared { listen, address, listeners, entry } = prepared;
        info!(%address, tls = entry.tls.is_some(), "listening");
        let _ = entry.address.set(address);
        let follower = Follower::of(&entry);
        let connections = Arc::new(Connections::new(address, entry, Arc::clone(&self.permits)));
        let accepting =
            listeners.into_iter().zip(&*self.hands).enumerate().map(|(index, (listener, hand))| {
                let accepting = accept(listener, Arc::clone(&connections), index, Arc::clone(&self.hands));
                hand.runtime.spawn(accepting)
            });
        let acceptors = accepting.collect();
        Open { listen, connections, acceptors, follower }
    }
}

/// When this returns, the addresses are free again: the sockets belong to other threads, and go when those say so.
async fn end(listeners: Vec<Open>) {
    for mut open in listeners {
        open.acceptors.iter().for_each(JoinHandle::abort);
        for acceptor in open.acceptors.drain(..) {
            let _ = acceptor.await;
        }
    }
}

impl Open {
    /// `entry`: another one, unless only the limits of its clients are others.
    fn alter(&mut self, listen: Listen, entry: Option<Entry>) {
        match entry {
            None => self.connections.entry.load().limits.store(Arc::clone(&listen.limits)),
            Some(mut entry) => {
                entry.succeed(&self.connections.entry.load(), &listen.gate);
                info!(address = %self.connections.address, tls = entry.tls.is_some(), "listener changed");
                let _ = entry.address.set(self.connections.address);
                self.follower = Follower::of(&entry);
                self.connections.entry.store(Arc::new(entry));
            }
        }
        self.listen = listen;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.acceptors.iter().for_each(JoinHandle::abort);
    }
}

impl Follower {
    fn of(entry: &Entry) -> Self {
        let drain = entry.tls.as_ref().map(|tls| {
            let drain = Drain::new();
            tokio::spawn(Arc::clone(tls).follow(drain.watch()));
            drain
        });
        Self(drain)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if let Some(drain) = &self.0 {
            drain.begin();
        }
    }
}

/// The worker of this index accepts.
async fn accept(listener: Listener, connections: Arc<Connections>, index: usize, hands: Arc<[Hand]>) {
    loop {
        let accepted = listener.accept().await;
        // Only now: the settings may have changed while nobody came.
        let entry = connections.entry.load_full();
        count(Count::Accepted);
        let Ok(pass) = entry.let_in(accepted.peer) else { continue };
        accepted.watch(entry.user_timeout);
        // Not before: workers without clients would each keep a turn from the one that has some.
        let turn = entry.turn().await;
        let hand = &hands[place(index, &hands)];
        hand.clients.fetch_add(1, Ordering::Relaxed);
        let (socket, peer) = (accepted.socket, accepted.peer);
        let counted = connections.enter(accepted.permit);
        let arrival = Arrival { socket, peer, entry, turn, pass, counted };
        if hand.sockets.send(arrival).await.is_err() {
            return;
        }
    }
}

/// Where a client goes that `index` has accepted. The kernel deals them out evenly in the long run only: of a few, one
/// worker may get all. So it passes on what would make it have more than twice as many as another.
fn place(index: usize, hands: &[Hand]) -> usize {
    let clients = |hand: &Hand| hand.clients.load(Ordering::Relaxed);
    let least = hands.iter().map(clients).enumerate().min_by_key(|(_, clients)| *clients);
    match least {
        Some((least, count)) if clients(&hands[index]) > 2 * count => least,
        _ => index,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_clients_are_spread_and_many_stay_where_they_came() {
        let placed = |counts: &[usize]| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let hand = |count: &usize| Hand {
                sockets: mpsc::channel(1).0,
                clients: Arc::new(AtomicUsize::new(*count)),
                runtime: runtime.handle().clone(),
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
