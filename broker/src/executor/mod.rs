//! Runs the clients of one thread, as one task of the thread's tokio runtime. With a task and a registration of its
//! socket in tokio each, an idle client would take 0.7 KiB more: here it is one allocation, which is its own waker, and a
//! place in two lists.
//!
//! A client gets a turn when something has happened to its [`Socket`] or when its waker was used, from whatever thread.
//! Sockets are watched by a poll of our own, which the runtime watches: timers, locks and streams of tokio work in a
//! client as they do in a task. The runtime gets its turn after so many of ours, and always before a client that has
//! more to do goes on, so that a busy client is not all that the thread sees.

mod deadlines;

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Registry, Token};
use parking_lot::Mutex;
use tokio::io::Interest as Readable;
use tokio::io::unix::AsyncFd;
use tokio::task::yield_now;
use tokio::time::{Sleep, sleep_until};
use tracing::error;

use deadlines::Deadlines;

/// Turns before the runtime gets its own.
const TURNS: usize = 64;
/// Events that are taken from the kernel at once.
const EVENTS: usize = 1024;
/// A list that was long in a storm is not kept.
const QUEUE: usize = 1024;

/// What is run.
pub trait Client: Send + 'static {
    /// Something has happened to its socket. Tells whether it wants a turn for it.
    fn hear(&mut self, news: News) -> bool;

    fn turn(&mut self, context: &mut Context<'_>) -> Turn;
}

/// How a turn ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing to do until it is woken, hears of its socket, or that time comes.
    Rest(Option<Instant>),
    /// There is more to do, after the others of this thread had their turn.
    Again,
    Over,
}

/// The thread's clients. Whoever runs it ends all of them when it is dropped.
pub struct Executor<C: Client> {
    shared: Arc<Shared<C>>,
    poll: AsyncFd<mio::Poll>,
    events: Events,
    /// What is being gone through.
    queue: VecDeque<Arc<Task<C>>>,
    /// Who has more to do, once the runtime has had its turn.
    again: Vec<Arc<Task<C>>>,
    deadlines: Deadlines,
    timer: Pin<Box<Sleep>>,
}

/// Where clients are brought to. Of the executor's own thread: a socket that another thread registers may have been
/// heard of before its client is there.
pub struct Spawner<C: Client>(Arc<Shared<C>>);

/// Where a client will be, for its socket.
pub struct Place {
    registry: Arc<Registry>,
    token: Token,
}

struct Shared<C: Client> {
    ready: Mutex<Ready<C>>,
    slots: Mutex<Slots<C>>,
    registry: Arc<Registry>,
}

struct Ready<C: Client> {
    queue: VecDeque<Arc<Task<C>>>,
    /// Of the executor, while it waits.
    waker: Option<Waker>,
    /// Nobody takes anything out any more.
    closed: bool,
}

struct Slots<C: Client> {
    tasks: Vec<Option<Arc<Task<C>>>>,
    free: Vec<u32>,
}

/// A client, and what wakes it. Who holds a waker of a client that is over holds an empty one.
struct Task<C: Client> {
    /// Only the executor's thread looks in here.
    client: Mutex<Option<C>>,
    queued: AtomicBool,
    slot: u32,
    shared: Arc<Shared<C>>,
}

impl<C: Client> Executor<C> {
    /// In a runtime: the one that is to run it.
    pub fn new() -> io::Result<Self> {
        let (poll, now) = (mio::Poll::new()?, Instant::now());
        let registry = Arc::new(poll.registry().try_clone()?);
        #[expect(
            deprecated,
            reason = "its successor is unsafe; a mio::Poll never changes its descriptor, the one danger"
        )]
        let poll = AsyncFd::with_interest(poll, Readable::READABLE)?;
        let ready = Ready { queue: VecDeque::new(), waker: None, closed: false };
        let slots = Slots { tasks: Vec::new(), free: Vec::new() };
        let shared = Shared { ready: Mutex::new(ready), slots: Mutex::new(slots), registry };
        Ok(Self {
            shared: Arc::new(shared),
            poll,
            events: Events::with_capacity(EVENTS),
            queue: VecDeque::new(),
            again: Vec::new(),
            deadlines: Deadlines::new(now),
            timer: Box::pin(sleep_until(now.into())),
        })
    }

    pub fn spawner(&self) -> Spawner<C> {
        Spawner(Arc::clone(&self.shared))
    }

    /// For as long as it is polled.
    pub async fn run(mut self) {
        loop {
            if let Err(error) = std::future::poll_fn(|context| self.poll_ready(context)).await {
                error!(%error, "the clients of a thread are cut off: its sockets cannot be watched");
                return;
            }
            if self.run_some() {
                // Not by waking itself: the runtime looks at its sockets only once in many turns.
                yield_now().await;
            }
        }
    }

    /// Looks at the sockets and the deadlines, and waits until somebody is ready. An error: the runtime ends.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let news = self.poll.poll_read_ready_mut(context)?.map(|mut news| {
                // Before it is looked: what comes later is told again.
                news.clear_ready();
                look(news.get_inner_mut(), &mut self.events, &self.shared)
            });
            let mut is_news = self.poll_deadlines(context).is_ready();
            if let Poll::Ready(looked) = news {
                looked?;
                is_news = true;
            }
            let mut ready = self.shared.ready.lock();
            ready.queue.extend(self.again.drain(..));
            if !self.queue.is_empty() || !ready.queue.is_empty() {
                ready.waker = None;
                return Poll::Ready(Ok(()));
            }
            if !is_news {
                ready.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
        }
    }

    fn poll_deadlines(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(next) = self.deadlines.next() else { return Poll::Pending };
        if self.timer.deadline() != next.into() {
            self.timer.as_mut().reset(next.into());
        }
        ready!(self.timer.as_mut().poll(context));
        let slots = self.shared.slots.lock();
        self.deadlines.ring(Instant::now(), |slot| {
            slots.tasks[slot as usize].iter().for_each(Wake::wake_by_ref);
        });
        Poll::Ready(())
    }

    /// Tells whether there is more to do.
    fn run_some(&mut self) -> bool {
        for _ in 0..TURNS {
            let Some(task) = self.next() else { break };
            task.queued.swap(false, Ordering::AcqRel);
            match task.turn() {
                Turn::Rest(until) => until.into_iter().for_each(|at| self.deadlines.set(task.slot, at)),
                Turn::Again => {
                    if !task.queued.swap(true, Ordering::AcqRel) {
                        self.again.push(task);
                    }
                }
                Turn::Over => {
                    self.deadlines.unset(task.slot);
                    self.shared.slots.lock().remove(task.slot);
                }
            }
        }
        !self.again.is_empty() || !self.queue.is_empty() || !self.shared.ready.lock().queue.is_empty()
    }

    fn next(&mut self) -> Option<Arc<Task<C>>> {
        if self.queue.is_empty() {
            self.queue.shrink_to(QUEUE);
            std::mem::swap(&mut self.queue, &mut self.shared.ready.lock().queue);
        }
        self.queue.pop_front()
    }
}

/// At all that there is.
fn look<C: Client>(poll: &mut mio::Poll, events: &mut Events, shared: &Shared<C>) -> io::Result<()> {
    loop {
        match poll.poll(events, Some(Duration::ZERO)) {
            Ok(()) if shared.hear(events) < EVENTS => return Ok(()),
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
}

impl<C: Client> Drop for Executor<C> {
    fn drop(&mut self) {
        // Clients and what they leave behind may wake others: nobody is there for it any more.
        let mut ready = self.shared.ready.lock();
        ready.closed = true;
        let queue = std::mem::take(&mut ready.queue);
        drop(ready);
        drop(queue);
        let tasks = std::mem::take(&mut self.shared.slots.lock().tasks);
        tasks.into_iter().flatten().for_each(|task| task.end());
    }
}

impl<C: Client> Spawner<C> {
    /// Begins a client, which is told its place; or not, if there is none.
    pub fn spawn(&self, begin: impl FnOnce(Place) -> Option<C>) {
        if self.0.ready.lock().closed {
            return;
        }
        let slot = self.0.slots.lock().reserve();
        let place = Place { registry: Arc::clone(&self.0.registry), token: Token(slot as usize) };
        let Some(client) = begin(place) else { return self.0.slots.lock().remove(slot) };
        let (client, shared) = (Mutex::new(Some(client)), Arc::clone(&self.0));
        let task = Arc::new(Task { client, queued: AtomicBool::new(false), slot, shared });
        self.0.slots.lock().tasks[slot as usize] = Some(Arc::clone(&task));
        task.wake();
    }

    /// Gives everybody a turn.
    pub fn wake_all(&self) {
        self.0.slots.lock().tasks.iter().flatten().for_each(Wake::wake_by_ref);
    }
}

impl Place {
    /// From now on the client hears of this socket, which does not block.
    pub fn watch(&self, socket: std::net::TcpStream) -> io::Result<Socket> {
        let mut stream = TcpStream::from_std(socket);
        self.registry.register(&mut stream, self.token, Interest::READABLE | Interest::WRITABLE)?;
        // Not read from before there is something; written to at once.
        Ok(Socket { stream: Arc::new(stream), readable: false, ended: false, writable: true })
    }
}

impl<C: Client> Shared<C> {
    /// Tells how many events there were. Whoever was in a slot before may be meant: who is there now finds nothing, and
    /// that is all.
    fn hear(&self, events: &Events) -> usize {
        let slots = self.slots.lock();
        let mut count = 0;
        for event in events {
            count += 1;
            let Some(Some(task)) = slots.tasks.get(event.token().0) else { continue };
            let wants = task.client.lock().as_mut().is_some_and(|client| client.hear(event.into()));
            if wants {
                task.wake_by_ref();
            }
        }
        count
    }
}

impl<C: Client> Slots<C> {
    fn reserve(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.tasks.push(None);
            u32::try_from(self.tasks.len() - 1).expect("a thread has fewer than four billion clients")
        })
    }

    fn remove(&mut self, slot: u32) {
        self.tasks[slot as usize] = None;
        self.free.push(slot);
    }
}

impl<C: Client> Task<C> {
    /// One client's panic, which the panic hook has told of, ends that client only.
    fn turn(self: &Arc<Self>) -> Turn {
        let mut place = self.client.lock();
        let Some(client) = &mut *place else { return Turn::Rest(None) };
        let waker = Waker::from(Arc::clone(self));
        let turn = catch_unwind(AssertUnwindSafe(|| client.turn(&mut Context::from_waker(&waker))));
        let turn = turn.unwrap_or(Turn::Over);
        let over = place.take_if(|_| turn == Turn::Over);
        drop(place);
        let _ = catch_unwind(AssertUnwindSafe(|| drop(over)));
        turn
    }

    fn end(&self) {
        let client = self.client.lock().take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(client)));
    }
}

impl<C: Client> Wake for Task<C> {
    fn wake(self: Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let mut ready = shared.ready.lock();
        if ready.closed {
            return;
        }
        ready.queue.push_back(self);
        let waker = ready.waker.take();
        // Not under the lock: to wake another thread takes a system call, and the first thing it does is to lock.
        drop(ready);
        waker.into_iter().for_each(Waker::wake);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        Arc::clone(self).wake();
    }
}

/// What has happened to a socket.
#[derive(Debug, Clone, Copy, Default)]
pub struct News {
    readable: bool,
    /// Whatever is read from now on, the end is behind it.
    ended: bool,
    writable: bool,
}

impl News {
    pub fn add(&mut self, more: Self) {
        self.readable |= more.readable;
        self.ended |= more.ended;
        self.writable |= more.writable;
    }
}

impl From<&Event> for News {
    fn from(event: &Event) -> Self {
        let ended = event.is_read_closed() || event.is_error();
        let writable = event.is_writable() || event.is_write_closed() || event.is_error();
        Self { readable: event.is_readable() || ended, ended, writable }
    }
}

/// A plain socket of a client. What it cannot do now its client hears of, when it can: no waker is needed.
#[derive(Debug)]
pub struct Socket {
    stream: Arc<TcpStream>,
    readable: bool,
    ended: bool,
    writable: bool,
}

impl Socket {
    /// To write to it from elsewhere.
    pub fn share(&self) -> Arc<TcpStream> {
        Arc::clone(&self.stream)
    }

    /// Tells whether a turn is wanted for it.
    pub fn hear(&mut self, news: News) -> bool {
        let was_full = !self.writable;
        self.readable |= news.readable;
        self.ended |= news.ended;
        self.writable |= news.writable;
        news.readable || (was_full && news.writable)
    }

    pub fn poll_read(&mut self, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        while self.readable {
            match (&*self.stream).read(buffer) {
                Ok(read) => {
                    // The kernel tells of what comes after this: nothing was left.
                    self.readable = read == buffer.len() || self.ended;
                    return Poll::Ready(Ok(read));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Pending
    }

    pub fn poll_write(&mut self, bytes: &[u8]) -> Poll<io::Result<usize>> {
        while self.writable {
            match (&*self.stream).write(bytes) {
                Ok(written) => {
                    self.writable = written == bytes.len();
                    return Poll::Ready(Ok(written));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
