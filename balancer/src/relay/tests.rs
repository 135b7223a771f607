use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size, set_socket_send_buffer_size};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, Interest, ReadBuf, duplex};
use tokio::task::JoinHandle;

use super::*;

const IDLE: Duration = HALF_CLOSED_IDLE;

impl Side for DuplexStream {}
impl Side for Ended {}

/// A relay between two pipes that each hold `room` bytes; the outer ends, and what the relay said at its end.
fn relayed(room: usize) -> (DuplexStream, DuplexStream, JoinHandle<(End, Moved)>) {
    let (client, server, _, task) = relayed_as(room, None, None);
    (client, server, task)
}

fn relayed_as(
    room: usize,
    version: Option<Version>,
    silence: Option<Duration>,
) -> (DuplexStream, DuplexStream, Arc<Handle>, JoinHandle<(End, Moved)>) {
    let (client, inner_client) = duplex(room);
    let (server, inner_server) = duplex(room);
    let framing = if version.is_some() { Framing::default() } else { Framing::lost() };
    let handle = Arc::new(Handle::new(Moved::default(), silence, 0));
    let told = Arc::clone(&handle);
    let task = tokio::spawn(async move {
        let mut relay = Relay::new(inner_client, inner_server, version, framing, framing);
        let end = run(&mut relay, &told).await;
        (end, told.moved())
    });
    (client, server, handle, task)
}

async fn run<C, S>(relay: &mut Relay<C, S>, handle: &Handle) -> End
where
    C: Side,
    S: Side,
{
    poll_fn(|context| {
        handle.attend(context.waker());
        relay.poll(context, handle)
    })
    .await
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
        assert_eq!((end, moved), (End::Client, Moved { up: 20_000, down: 20_000, ..Moved::default() }));
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
    let mut direction = Direction::new(Framing::lost());
    let other = Direction::new(Framing::lost());
    let moved = handle::Way::default();
    near.write_all(&[1; 40]).await.unwrap();
    let mut step = async || {
        poll_fn(|context| {
            Poll::Ready(direction.poll(context, &mut reader, &mut writer, &moved, &other).is_pending())
        })
        .await
            && !direction.is_held_up()
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

#[tokio::test]
async fn who_was_refused_has_a_moment_once_its_server_has_closed_whatever_it_sends() {
    let (mut client, inner_client) = duplex(1024);
    let (mut server, inner_server) = duplex(1024);
    let task = tokio::spawn(async move {
        let framing = Framing::default();
        let mut relay = Relay::new(inner_client, inner_server, Some(Version::V311), framing, framing);
        relay.expects_end();
        run(&mut relay, &Handle::default()).await
    });
    let begun = Instant::now();
    server.shutdown().await.unwrap();
    while !task.is_finished() {
        assert!(begun.elapsed() < 20 * limits::FAREWELL, "it holds its session by sending");
        let _ = client.write_all(PUBLISH).await;
        let _ = tokio::time::timeout(Duration::from_millis(20), server.read(&mut [0; 64])).await;
    }
    assert!(begun.elapsed() >= limits::FAREWELL, "it could not read why");
    assert_eq!(task.await.unwrap(), End::Server);
}

/// Behind a refusing CONNACK nothing is said in anybody's name.
#[tokio::test]
async fn who_was_refused_leaves_without_a_word() {
    let (mut client, inner_client) = duplex(1024);
    let (mut server, inner_server) = duplex(1024);
    let framing = Framing::default();
    let mut relay = Relay::new(inner_client, inner_server, Some(Version::V5), framing, framing);
    relay.expects_end();
    let handle = Handle::default();
    assert!(handle.tell(Order::Rebalance));
    assert_eq!(run(&mut relay, &handle).await, End::Told(Order::Rebalance));
    assert!(!relay.has_spoken() && relay.left_cleanly().is_none());
    drop(relay);
    let mut said = Vec::new();
    client.read_to_end(&mut said).await.unwrap();
    server.read_to_end(&mut said).await.unwrap();
    assert!(said.is_empty(), "{said:?}");
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
    let (mut server, inner_server) = duplex(64);
    let task = tokio::spawn(async move {
        let framing = Framing::lost();
        let mut relay = Relay::new(Ended::default(), inner_server, None, framing, framing);
        run(&mut relay, &Handle::default()).await
    });
    let mut all = Vec::new();
    server.read_to_end(&mut all).await.unwrap();
    server.write_all(b"an answer").await.unwrap();
    drop(server);
    assert_eq!(task.await.unwrap(), End::Client);
}

const LONGEST: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_silent_client_is_given_up_and_what_its_server_says_does_not_count() {
    let (mut client, mut server, handle, task) = relayed_as(4096, None, Some(LONGEST));
    let mut byte = [0];
    for now in [40, 80] {
        handle.look(now);
        server.write_all(b".").await.unwrap();
        client.read_exact(&mut byte).await.unwrap();
    }
    handle.look(120);
    assert_eq!(task.await.unwrap().0, End::Silent);
}

#[tokio::test]
async fn a_client_that_speaks_now_and_then_or_is_not_read_is_not_silent() {
    let (mut client, mut server, handle, task) = relayed_as(4096, None, Some(LONGEST));
    let mut byte = [0];
    let mut now = u32::MAX - 200;
    for _ in 0..6 {
        client.write_all(b".").await.unwrap();
        server.read_exact(&mut byte).await.unwrap();
        now = now.wrapping_add(80);
        handle.look(now);
    }
    // The server reads nothing: the client waits with the rest.
    let sender = tokio::spawn(async move {
        client.write_all(&[0; 100_000]).await.unwrap();
        client
    });
    for _ in 0..6 {
        now = now.wrapping_add(80);
        handle.look(now);
        sleep(Duration::from_millis(5)).await;
    }
    assert!(!task.is_finished());
    let mut all = vec![0; 100_000];
    server.read_exact(&mut all).await.unwrap();
    let _client = sender.await.unwrap();
    for _ in 0..3 {
        now = now.wrapping_add(80);
        handle.look(now);
    }
    assert_eq!(task.await.unwrap().0, End::Silent, "now it is");
}

const PUBLISH: &[u8] = b"\x30\x06\0\x01tabc";

/// A session of MQTT between pipes with much room.
fn session(version: Version) -> (DuplexStream, DuplexStream, Arc<Handle>, JoinHandle<(End, Moved)>) {
    relayed_as(1 << 16, Some(version), None)
}

async fn all(stream: &mut DuplexStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    all
}

#[tokio::test]
async fn who_leaves_between_packets_says_goodbye_to_both_and_gets_the_last_answers() {
    for (version, goodbye) in [(Version::V311, b"".as_slice()), (Version::V5, b"\xe0\x01\x98")] {
        let (mut client, mut server, handle, task) = session(version);
        client.write_all(PUBLISH).await.unwrap();
        let mut heard = [0; PUBLISH.len() + 2];
        server.read_exact(&mut heard[..PUBLISH.len()]).await.unwrap();
        assert!(handle.tell(Order::Drain) && !handle.tell(Order::Stop), "only the first word counts");
        server.read_exact(&mut heard[PUBLISH.len()..]).await.unwrap();
        assert_eq!(&heard[PUBLISH.len()..], b"\xe0\0");
        server.write_all(b"\x40\x02\0\x01").await.unwrap();
        drop(server);
        assert_eq!(all(&mut client).await, [b"\x40\x02\0\x01", goodbye].concat());
        drop(client);
        assert_eq!(task.await.unwrap().0, End::Told(Order::Drain));
    }
}

#[tokio::test]
async fn who_has_said_goodbye_is_not_spoken_for() {
    let (mut client, mut server, handle, task) = session(Version::V311);
    client.write_all(b"\xe0\0").await.unwrap();
    let mut heard = [0; 2];
    server.read_exact(&mut heard).await.unwrap();
    handle.tell(Order::Drain);
    // Its server takes its time, and then hears nothing else.
    sleep(limits::LAST_ANSWERS / 2).await;
    server.shutdown().await.unwrap();
    assert_eq!(all(&mut client).await, b"");
    drop(client);
    assert_eq!((heard.as_slice(), all(&mut server).await.as_slice()), (&b"\xe0\0"[..], &b""[..]));
    assert_eq!(task.await.unwrap().0, End::Told(Order::Drain));
}

#[tokio::test]
async fn who_leaves_within_a_packet_finishes_it_and_what_follows_is_not_read() {
    let (mut client, mut server, handle, task) = session(Version::V5);
    client.write_all(&PUBLISH[..4]).await.unwrap();
    let mut heard = [0; PUBLISH.len()];
    server.read_exact(&mut heard[..4]).await.unwrap();
    handle.tell(Order::Duplicate);
    tokio::task::yield_now().await;
    client.write_all(&PUBLISH[4..]).await.unwrap();
    client.write_all(PUBLISH).await.unwrap();
    let mut rest = [0; PUBLISH.len() - 4 + 2];
    server.read_exact(&mut rest).await.unwrap();
    assert_eq!(rest[..], [&PUBLISH[4..], b"\xe0\0"].concat());
    server.shutdown().await.unwrap();
    assert_eq!(all(&mut client).await, b"\xe0\x01\x8e");
    drop(client);
    assert_eq!(all(&mut server).await, b"", "what the client sent behind its packet is nobody's");
    assert_eq!(task.await.unwrap().0, End::Told(Order::Duplicate));
}

#[tokio::test]
async fn the_end_of_a_servers_packet_is_waited_for_where_it_does_not_close() {
    let (mut client, mut server, handle, task) = session(Version::V5);
    server.write_all(&PUBLISH[..5]).await.unwrap();
    let mut heard = [0; 5];
    client.read_exact(&mut heard).await.unwrap();
    handle.tell(Order::Stop);
    let mut told = [0; 2];
    server.read_exact(&mut told).await.unwrap();
    assert_eq!(told, *b"\xe0\0");
    // From then on it has its time to answer; that is over when the relay has had its turn.
    sleep(limits::LAST_ANSWERS + Duration::from_millis(100)).await;
    tokio::task::yield_now().await;
    server.write_all(&[&PUBLISH[5..], PUBLISH].concat()).await.unwrap();
    assert_eq!(all(&mut client).await, [&PUBLISH[5..], b"\xe0\x01\x8b"].concat());
    drop(client);
    assert_eq!(task.await.unwrap().0, End::Told(Order::Stop));
}

#[tokio::test]
async fn who_does_not_finish_its_packet_is_cut_and_its_server_is_told_nothing() {
    let (mut client, mut server, handle, task) = session(Version::V311);
    client.write_all(&PUBLISH[..4]).await.unwrap();
    server.read_exact(&mut [0; 4]).await.unwrap();
    let begun = Instant::now();
    handle.tell(Order::Drain);
    assert_eq!(all(&mut server).await, b"");
    assert!(begun.elapsed() >= limits::LEAVE);
    assert_eq!(task.await.unwrap().0, End::Told(Order::Drain));
}

#[tokio::test]
async fn a_dead_server_is_told_nothing() {
    let (mut client, mut server, handle, task) = session(Version::V5);
    client.write_all(PUBLISH).await.unwrap();
    handle.tell(Order::ServerDown);
    assert_eq!(task.await.unwrap().0, End::Told(Order::ServerDown));
    assert!(!all(&mut server).await.ends_with(b"\xe0\0"));
    assert_eq!(all(&mut client).await, b"");
}

#[tokio::test]
async fn an_end_that_was_said_is_told_from_one_that_was_not() {
    for (last, end) in [(b"\xe0\0".as_slice(), End::ClientGoodbye), (PUBLISH, End::Client)] {
        let (mut client, server, _, task) = session(Version::V311);
        client.write_all(last).await.unwrap();
        client.shutdown().await.unwrap();
        let server = tokio::spawn(async move {
            let mut server = server;
            all(&mut server).await
        });
        server.await.unwrap();
        assert_eq!(task.await.unwrap().0, end);
    }
}

/// Two ends of a connection over loopback, for which the kernel keeps little.
async fn connection() -> (TcpStream, TcpStream) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (near, far) = (near.unwrap(), far.unwrap().0);
    for socket in [&near, &far] {
        set_socket_recv_buffer_size(socket, 256 * 1024).unwrap();
        set_socket_send_buffer_size(socket, 256 * 1024).unwrap();
    }
    (near, far)
}

/// A relay between two real connections, whose outer ends it gives.
async fn relayed_by_sockets(
    version: Option<Version>,
) -> (TcpStream, TcpStream, Arc<Handle>, JoinHandle<(End, Moved)>) {
    let ((client, inner_client), (server, inner_server)) = (connection().await, connection().await);
    let framing = if version.is_some() { Framing::default() } else { Framing::lost() };
    let handle = Arc::new(Handle::new(Moved::default(), None, 0));
    let told = Arc::clone(&handle);
    let task = tokio::spawn(async move {
        let mut relay = Relay::new(inner_client, inner_server, version, framing, framing);
        let end = run(&mut relay, &told).await;
        (end, told.moved())
    });
    (client, server, handle, task)
}

/// A PUBLISH of QoS 0 with so many bytes of payload, which tell their places.
fn large_publish(payload: u32) -> Vec<u8> {
    let payload: Vec<u8> = (0..payload).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let mut packet = Vec::new();
    nsd_wire::Publish::new("t", &payload).encode(Version::V311, &mut packet).unwrap();
    packet
}

#[tokio::test]
async fn bulk_goes_through_the_kernel_and_arrives_whole() {
    for version in [None, Some(Version::V311)] {
        let (mut client, server, _, task) = relayed_by_sockets(version).await;
        let mut sent = Vec::new();
        for size in [4_000_000, 10, 300_000, 0, 5_000_000] {
            sent.extend(large_publish(size));
        }
        let piped = pipe::filled();
        let (mut reader, mut writer) = server.into_split();
        let echo = tokio::spawn(async move { tokio::io::copy(&mut reader, &mut writer).await.unwrap() });
        let (mut back, mut out) = client.split();
        let mut received = Vec::new();
        let write = async {
            out.write_all(&sent).await.unwrap();
            out.shutdown().await.unwrap();
        };
        tokio::join!(write, async { back.read_to_end(&mut received).await.unwrap() });
        assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
        echo.await.unwrap();
        let all = sent.len() as u64;
        let messages = if version.is_some() { 5 } else { 0 };
        let (end, moved) = task.await.unwrap();
        let expected = Moved { up: all, down: all, messages_up: messages, messages_down: messages };
        assert_eq!((end, moved), (End::Client, expected));
        assert!(pipe::filled() > piped, "nothing went through a pipe");
    }
}

#[tokio::test]
async fn bulk_to_who_does_not_read_stops_and_a_session_is_left_after_its_packet() {
    let (mut client, mut server, handle, task) = relayed_by_sockets(Some(Version::V311)).await;
    // More than the kernel keeps for four sockets.
    let packet = large_publish(10_000_000);
    let mut sent = 0;
    while let Ok(more) = tokio::time::timeout(Duration::from_millis(200), client.write(&packet[sent..])).await
    {
        sent += more.unwrap();
        assert!(sent < packet.len(), "all of it was taken, by nobody");
    }
    handle.tell(Order::Drain);
    let rest = packet[sent..].to_vec();
    let write = tokio::spawn(async move {
        client.write_all(&rest).await.unwrap();
        client
    });
    let mut received = Vec::new();
    server.read_to_end(&mut received).await.unwrap();
    assert!(received[..packet.len()] == packet, "the packet is whole");
    assert_eq!(received[packet.len()..], [0xe0, 0], "and DISCONNECT follows it");
    drop((write.await.unwrap(), server));
    assert_eq!(task.await.unwrap().0, End::Told(Order::Drain));
}

#[tokio::test]
async fn a_reset_right_behind_the_last_bytes_is_no_clean_end() {
    for (breaks, expected) in [("client", End::ClientBroke), ("server", End::ServerBroke)] {
        let ((client, inner_client), (server, inner_server)) = (connection().await, connection().await);
        let (mut near, mut far, from) = match breaks {
            "client" => (client, server, &inner_client),
            _ => (server, client, &inner_server),
        };
        near.write_all(PUBLISH).await.unwrap();
        set_socket_linger(&near, Some(Duration::ZERO)).unwrap();
        drop(near);
        // Both are there before the relay reads.
        while !from.ready(Interest::READABLE).await.unwrap().is_read_closed() {
            sleep(Duration::from_millis(1)).await;
        }
        let framing = Framing::default();
        let mut relay = Relay::new(inner_client, inner_server, Some(Version::V311), framing, framing);
        assert_eq!(run(&mut relay, &Handle::default()).await, expected);
        drop(relay);
        let mut heard = Vec::new();
        far.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, PUBLISH, "its last words are passed on");
    }
}
