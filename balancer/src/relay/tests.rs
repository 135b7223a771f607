use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::task::JoinHandle;

use super::*;

const IDLE: Duration = Duration::from_millis(200);

/// A relay between two pipes that each hold `room` bytes; the outer ends, and what the relay said at its end.
fn relayed(room: usize) -> (DuplexStream, DuplexStream, JoinHandle<(End, Moved)>) {
    relayed_with(room, None)
}

fn relayed_with(
    room: usize,
    silence: Option<Duration>,
) -> (DuplexStream, DuplexStream, JoinHandle<(End, Moved)>) {
    let patience = Patience { client: silence, half_closed: IDLE };
    let (client, mut inner_client) = duplex(room);
    let (server, mut inner_server) = duplex(room);
    let task = tokio::spawn(async move {
        let mut moved = Moved::default();
        let end = relay(&mut inner_client, &mut inner_server, &mut moved, patience).await;
        (end, moved)
    });
    (client, server, task)
}

#[tokio::test]
async fn bytes_go_both_ways_through_the_smallest_pipes() {
    for room in [1, 7, 4096] {
        let (mut client, mut server, task) = relayed(room);
        let sent: Vec<u8> = (0..20_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let up = async {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            let mut back = Vec::new();
            client.read_to_end(&mut back).await.unwrap();
            back
        };
        let echo = async {
            let mut all = Vec::new();
            server.read_to_end(&mut all).await.unwrap();
            server.write_all(&all).await.unwrap();
            server.shutdown().await.unwrap();
        };
        let (back, ()) = tokio::join!(up, echo);
        assert_eq!(back, sent, "the server still answers after the client has ended");
        let (end, moved) = task.await.unwrap();
        assert_eq!((end, moved), (End::Client, Moved { up: 20_000, down: 20_000 }));
    }
}

#[tokio::test]
async fn a_slow_reader_stops_its_sender() {
    let (mut client, server, task) = relayed(1024);
    let chunk = vec![7; 1024];
    let mut taken = 0;
    while let Ok(result) = tokio::time::timeout(Duration::from_millis(50), client.write(&chunk)).await {
        taken += result.unwrap();
        assert!(taken < 512 * 1024, "nobody reads, and still more is taken");
    }
    drop(server);
    drop(client);
    task.await.unwrap();
}

#[tokio::test]
async fn an_idle_direction_keeps_no_buffer() {
    let (mut near, mut reader) = duplex(64);
    let (mut writer, mut far) = duplex(16);
    let mut direction = Direction::default();
    let mut moved = 0;
    near.write_all(&[1; 40]).await.unwrap();
    let mut step = async || {
        poll_fn(|context| {
            Poll::Ready(direction.poll(context, &mut reader, &mut writer, &mut moved).is_pending())
        })
        .await
            && direction.tail.capacity() == 0
    };
    assert!(!step().await, "16 of 40 bytes fit, the rest is kept");
    let mut out = [0; 40];
    far.read_exact(&mut out[..16]).await.unwrap();
    step().await;
    far.read_exact(&mut out[..16]).await.unwrap();
    step().await;
    far.read_exact(&mut out[..8]).await.unwrap();
    assert!(step().await, "all was taken: nothing is kept");
}

#[tokio::test]
async fn a_side_that_neither_sends_nor_ends_is_given_up() {
    let (client, mut server, task) = relayed(1024);
    let begun = Instant::now();
    server.shutdown().await.unwrap();
    let (end, _) = task.await.unwrap();
    assert_eq!(end, End::HalfClosed);
    assert!(begun.elapsed() >= IDLE);
    drop(client);
}

/// A client that has ended, and may not be asked again: TLS streams answer "ended" each time and for ever.
#[derive(Default)]
struct Ended {
    asked: bool,
}

impl AsyncRead for Ended {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        assert!(!self.asked, "read again after its end");
        self.asked = true;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Ended {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_side_that_has_ended_is_not_read_again() {
    let (mut server, mut inner_server) = duplex(64);
    let task = tokio::spawn(async move {
        let mut moved = Moved::default();
        let patience = Patience { client: None, half_closed: IDLE };
        relay(&mut Ended::default(), &mut inner_server, &mut moved, patience).await
    });
    let mut all = Vec::new();
    server.read_to_end(&mut all).await.unwrap();
    server.write_all(b"an answer").await.unwrap();
    drop(server);
    assert_eq!(task.await.unwrap(), End::Client);
}

#[tokio::test]
async fn a_silent_client_is_given_up_and_what_its_server_says_does_not_count() {
    let (_client, mut server, task) = relayed_with(4096, Some(IDLE));
    let begun = Instant::now();
    while !task.is_finished() {
        let _ = server.write_all(b".").await;
        sleep(IDLE / 10).await;
    }
    assert!(begun.elapsed() >= IDLE);
    assert_eq!(task.await.unwrap().0, End::Silent);
}

#[tokio::test]
async fn a_client_that_speaks_now_and_then_or_is_not_read_is_not_silent() {
    let (mut client, mut server, task) = relayed_with(4096, Some(IDLE));
    for _ in 0..6 {
        sleep(IDLE / 2).await;
        client.write_all(b".").await.unwrap();
    }
    // The server reads nothing: the client waits with the rest.
    let sender = tokio::spawn(async move {
        client.write_all(&[0; 100_000]).await.unwrap();
        client
    });
    sleep(3 * IDLE).await;
    assert!(!task.is_finished());
    let mut all = vec![0; 100_006];
    server.read_exact(&mut all).await.unwrap();
    let _client = sender.await.unwrap();
    assert_eq!(task.await.unwrap().0, End::Silent, "now it is");
}
