use std::net;
use std::sync::mpsc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::*;

const SOON: Duration = Duration::from_secs(60);

/// A client by what it does in its turns.
struct Act(Box<dyn FnMut(&mut Context<'_>) -> Turn + Send>);

impl Client for Act {
    fn hear(&mut self, _: News) -> bool {
        true
    }

    fn turn(&mut self, context: &mut Context<'_>) -> Turn {
        (self.0)(context)
    }
}

fn running<C: Client>() -> (Spawner<C>, JoinHandle<()>) {
    let executor = Executor::new().unwrap();
    (executor.spawner(), tokio::spawn(executor.run()))
}

fn act(spawner: &Spawner<Act>, act: impl FnMut(&mut Context<'_>) -> Turn + Send + 'static) {
    spawner.spawn(|_| Some(Act(Box::new(act))));
}

/// Sends the number of each of its turns, and a waker.
fn telling(spawner: &Spawner<Act>, end: usize) -> tokio::sync::mpsc::Receiver<(usize, Waker)> {
    let (tell, told) = tokio::sync::mpsc::channel(16);
    let mut turn = 0;
    act(spawner, move |context| {
        turn += 1;
        tell.try_send((turn, context.waker().clone())).unwrap();
        if turn == end { Turn::Over } else { Turn::Rest(None) }
    });
    told
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("in time")
}

#[tokio::test]
async fn who_is_woken_late_disturbs_nobody_who_has_its_place() {
    let (spawner, _running) = running();
    let mut first = telling(&spawner, 2);
    let (_, waker) = soon(first.recv()).await.unwrap();
    waker.wake_by_ref();
    assert_eq!(soon(first.recv()).await.unwrap().0, 2);
    assert!(soon(first.recv()).await.is_none(), "gone");
    let mut second = telling(&spawner, 9);
    let (turn, own) = soon(second.recv()).await.unwrap();
    assert_eq!((turn, spawner.0.slots.lock().tasks.len()), (1, 1), "the same place");
    waker.wake();
    own.wake();
    assert_eq!(soon(second.recv()).await.unwrap().0, 2);
    yield_now().await;
    assert!(second.try_recv().is_err());
}

#[tokio::test]
async fn a_wake_up_from_another_thread_in_the_middle_of_a_turn_is_another_turn() {
    let (spawner, _running) = running();
    let (ask, asked) = mpsc::channel::<(Waker, mpsc::Sender<()>)>();
    let thread = std::thread::spawn(move || {
        for (waker, done) in asked {
            waker.wake();
            done.send(()).unwrap();
        }
    });
    let (tell, told) = tokio::sync::oneshot::channel();
    let (mut tell, mut turns) = (Some(tell), 0);
    act(&spawner, move |context| {
        turns += 1;
        if turns == 1000 {
            let _ = tell.take().unwrap().send(());
            return Turn::Over;
        }
        let (done, woken) = mpsc::channel();
        ask.send((context.waker().clone(), done)).unwrap();
        woken.recv().unwrap();
        Turn::Rest(None)
    });
    soon(told).await.unwrap();
    thread.join().unwrap();
}

#[tokio::test]
async fn a_panic_ends_one_client_with_all_it_holds() {
    let (spawner, _running) = running();
    let (held, gone) = tokio::sync::oneshot::channel::<()>();
    let mut other = telling(&spawner, 9);
    act(&spawner, move |_| {
        let _held = &held;
        panic!("as a bug would");
    });
    assert!(soon(gone).await.is_err());
    let (_, waker) = soon(other.recv()).await.unwrap();
    waker.wake();
    assert_eq!(soon(other.recv()).await.unwrap().0, 2);
    assert_eq!(spawner.0.slots.lock().free, [1]);
}

#[tokio::test]
async fn who_always_has_more_to_do_or_wakes_itself_is_not_all_that_happens() {
    let (spawner, running) = running();
    act(&spawner, |_| Turn::Again);
    act(&spawner, |context| {
        context.waker().wake_by_ref();
        Turn::Rest(None)
    });
    // The runtime's timers, and clients that hear of their sockets.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let (socket, mut peer) = pair();
    let (tell, told) = tokio::sync::oneshot::channel();
    let mut tell = Some(tell);
    spawner.spawn(|place| {
        let mut socket = place.watch(socket).unwrap();
        // Whatever it hears: the flag is the socket's own.
        Some(Act(Box::new(move |_| {
            socket.readable = true;
            match socket.poll_read(&mut [0; 8]) {
                Poll::Pending => Turn::Rest(None),
                Poll::Ready(read) => {
                    let _ = tell.take().unwrap().send(read.unwrap());
                    Turn::Over
                }
            }
        })))
    });
    yield_now().await;
    peer.write_all(b"hi").unwrap();
    assert_eq!(soon(told).await.unwrap(), 2);
    running.abort();
}

#[tokio::test]
async fn a_deadline_is_a_turn() {
    let (spawner, _running) = running();
    let (tell, told) = tokio::sync::oneshot::channel();
    let mut tell = Some(tell);
    let due = Instant::now() + Duration::from_millis(20);
    act(&spawner, move |_| {
        if Instant::now() < due {
            return Turn::Rest(Some(due));
        }
        let _ = tell.take().unwrap().send(());
        Turn::Over
    });
    soon(told).await.unwrap();
}

#[tokio::test]
async fn whoever_is_there_at_the_end_is_dropped_and_may_be_woken() {
    let (spawner, running) = running();
    let (held, gone) = tokio::sync::oneshot::channel::<()>();
    let mut other = telling(&spawner, 9);
    act(&spawner, move |_| {
        let _held = &held;
        Turn::Rest(None)
    });
    let (_, waker) = soon(other.recv()).await.unwrap();
    waker.wake_by_ref();
    drop(other);
    running.abort();
    assert!(soon(gone).await.is_err());
    waker.wake();
    assert_eq!(Arc::strong_count(&spawner.0), 1, "nothing is left of them");
    act(&spawner, |_| unreachable!("nobody runs it"));
}

fn pair() -> (net::TcpStream, net::TcpStream) {
    let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let socket = listener.accept().unwrap().0;
    socket.set_nonblocking(true).unwrap();
    (socket, peer)
}

/// Gives back what it is sent, and tells when its socket is full.
struct Echo {
    socket: Socket,
    unsent: Vec<u8>,
    full: mpsc::Sender<()>,
}

impl Client for Echo {
    fn hear(&mut self, news: News) -> bool {
        self.socket.hear(news)
    }

    fn turn(&mut self, _: &mut Context<'_>) -> Turn {
        let mut buffer = [0; 4096];
        loop {
            while !self.unsent.is_empty() {
                match self.socket.poll_write(&self.unsent) {
                    Poll::Ready(written) => drop(self.unsent.drain(..written.unwrap())),
                    Poll::Pending => {
                        let _ = self.full.send(());
                        return Turn::Rest(None);
                    }
                }
            }
            match self.socket.poll_read(&mut buffer) {
                Poll::Ready(Ok(0)) => return Turn::Over,
                Poll::Ready(read) => self.unsent.extend_from_slice(&buffer[..read.unwrap()]),
                Poll::Pending => return Turn::Rest(None),
            }
        }
    }
}

#[tokio::test]
async fn a_socket_is_heard_of_when_it_can_be_read_written_to_and_at_its_end() {
    let (spawner, _running) = running();
    // The second one in the place of the first.
    for _ in 0..2 {
        let (socket, mut peer) = pair();
        let (full, was_full) = mpsc::channel();
        spawner.spawn(|place| {
            let socket = place.watch(socket).unwrap();
            Some(Echo { socket, unsent: Vec::new(), full })
        });
        let mut writing = peer.try_clone().unwrap();
        let sent: Vec<u8> = (0..16 * 1024 * 1024_u32).map(|number| (number >> 8) as u8).collect();
        let expected = sent.clone();
        let writer = std::thread::spawn(move || {
            writing.write_all(&sent).unwrap();
            writing.shutdown(net::Shutdown::Write).unwrap();
        });
        let reader = tokio::task::spawn_blocking(move || {
            was_full.recv().unwrap();
            let mut came = Vec::new();
            peer.read_to_end(&mut came).unwrap();
            came
        });
        assert!(soon(reader).await.unwrap() == expected);
        writer.join().unwrap();
    }
    assert_eq!(spawner.0.slots.lock().tasks.len(), 1);
}
