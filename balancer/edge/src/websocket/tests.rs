use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream as ClientSocket};
use std::task::Waker;
use std::time::Duration;

use hyper::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::CloseFrame;
use tungstenite::{Message, WebSocket as Client};

use super::*;

const PROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// Small enough that one byte more still fits into a socket's buffers.
const LONGEST: u64 = 70_100;

fn settings() -> WebSocketSettings {
    let origins = vec!["https://site.example".to_owned()];
    WebSocketSettings { path: "/mqtt".to_owned(), origins, longest_frame: LONGEST }
}

async fn pair() -> (ClientSocket, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = ClientSocket::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    (client, Stream::from(listener.accept().await.unwrap().0))
}

/// Both ends of a WebSocket; the client's is the library's.
async fn connected() -> (Client<ClientSocket>, WebSocket) {
    let (socket, stream) = pair().await;
    let client = tokio::task::spawn_blocking(|| {
        let mut request = "ws://localhost/mqtt".into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", "other, mqtt".parse().unwrap());
        let (client, response) = tungstenite::client(request, socket).unwrap();
        assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "mqtt");
        client
    });
    let upgraded = upgrade(stream, &settings(), &PROTOCOLS).await.unwrap();
    (client.await.unwrap(), upgraded.stream)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test]
async fn bytes_go_both_ways_whatever_the_frames_are() {
    let (mut client, mut server) = connected().await;
    let sent: Vec<u8> = (0..200_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    let expected = sent.clone();
    let client = blocking(move || {
        for part in sent.chunks(70_001) {
            client.send(Message::binary(part.to_vec())).unwrap();
        }
        client
    });
    let mut received = vec![0; expected.len()];
    let read = async {
        server.read_exact(&mut received).await.unwrap();
        server
    };
    let (mut client, mut server) = tokio::join!(client, read);
    assert_eq!(received, expected);
    let back = blocking(move || {
        let mut back = Vec::new();
        while back.len() < 200_000 {
            back.extend_from_slice(&client.read().unwrap().into_data());
        }
        back
    });
    let write = async {
        server.write_all(&expected).await.unwrap();
        server.flush().await.unwrap();
    };
    assert_eq!(tokio::join!(back, write).0, expected);
}

#[tokio::test]
async fn pings_are_answered_between_frames_of_a_client_that_does_not_read() {
    let (client, mut server) = connected().await;
    let mut client = client;
    // Until the socket takes nothing more: the rest of a frame waits here.
    let mut written = 0;
    while let Ok(wrote) =
        tokio::time::timeout(Duration::from_millis(100), server.write(&[7; 50_000])).await.map(Result::unwrap)
    {
        written += wrote;
    }
    assert!(!server.unsent.is_empty());
    client.send(Message::Ping("one".into())).unwrap();
    client.send(Message::Ping("two".into())).unwrap();
    let mut byte = [0];
    let reading = tokio::time::timeout(Duration::from_millis(100), server.read(&mut byte)).await;
    assert!(reading.is_err(), "a ping is no payload");
    assert!(server.answer.ends_with(b"two"), "the newest is what counts");
    let read = blocking(move || {
        let (mut bytes, mut pongs) = (0, Vec::new());
        while bytes < written || pongs.is_empty() {
            match client.read().unwrap() {
                Message::Binary(payload) => bytes += payload.len(),
                Message::Pong(payload) => pongs.push(payload),
                other => panic!("{other}"),
            }
        }
        (bytes, pongs)
    });
    let (read, flushed) = tokio::join!(read, server.flush());
    flushed.unwrap();
    assert_eq!(read, (written, vec!["two".into()]));
}

#[tokio::test]
async fn a_close_is_answered_and_ends_the_stream() {
    let (mut client, mut server) = connected().await;
    client.send(Message::binary("last")).unwrap();
    client.close(Some(CloseFrame { code: CloseCode::Away, reason: "bye".into() })).unwrap();
    let mut all = Vec::new();
    server.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"last");
    assert!(server.write_all(b"late").await.is_err());
    let answer = blocking(move || client.read().unwrap()).await;
    assert!(matches!(answer, Message::Close(Some(frame)) if frame.code == CloseCode::Away));
}

#[tokio::test]
async fn we_say_goodbye_too() {
    let (mut client, server) = connected().await;
    let mut stream = Stream::WebSocket(Box::new(server));
    stream.write_all(b"x").await.unwrap();
    stream.farewell(&mut Context::from_waker(Waker::noop()));
    drop(stream);
    let (first, second) = blocking(move || (client.read().unwrap(), client.read().unwrap())).await;
    assert_eq!(first, Message::binary("x"));
    assert!(matches!(second, Message::Close(Some(frame)) if frame.code == CloseCode::Normal));
}

#[tokio::test]
async fn text_and_frames_too_long_are_told_why() {
    for (message, code) in [
        (Message::text("hello"), CloseCode::Unsupported),
        (Message::binary(vec![0; 70_101]), CloseCode::Size),
    ] {
        let (mut client, mut server) = connected().await;
        let told = blocking(move || {
            let _ = client.send(message);
            client.read()
        });
        let read = async {
            let error = server.read(&mut [0; 100]).await.unwrap_err();
            // The client may still be writing: its answer must not be lost in a reset.
            tokio::time::sleep(Duration::from_millis(50)).await;
            (error, server)
        };
        let (told, (error, _server)) = tokio::join!(told, read);
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(matches!(told, Ok(Message::Close(Some(frame))) if frame.code == code), "{code:?}");
    }
}

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const FINE: &str =
    "Host: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n";

async fn asked(request: String) -> (Result<Upgraded, UpgradeError>, String) {
    let (mut client, stream) = pair().await;
    client.write_all(request.as_bytes()).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let outcome = upgrade(stream, &settings(), &PROTOCOLS).await;
    let mut answer = [0; 1000];
    let read = client.read(&mut answer).unwrap_or(0);
    (outcome, String::from_utf8_lossy(&answer[..read]).into_owned())
}

#[tokio::test]
async fn a_request_that_is_not_ours_gets_one_clear_line() {
    let protocol = "Sec-WebSocket-Protocol: mqtt\r\n";
    let origin = "Origin: https://evil.example\r\n";
    for (request, status) in [
        (format!("GET / HTTP/1.1\r\n{FINE}{KEY}{protocol}\r\n"), 404),
        ("GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 426),
        (format!("POST /mqtt HTTP/1.1\r\n{FINE}{KEY}{protocol}\r\n"), 405),
        (format!("GET /mqtt HTTP/1.1\r\n{}{KEY}{protocol}\r\n", FINE.replace("13", "8")), 426),
        (format!("GET /mqtt HTTP/1.1\r\n{FINE}{protocol}\r\n"), 400),
        (format!("GET /mqtt HTTP/1.1\r\n{FINE}{KEY}\r\n"), 400),
        (format!("GET /mqtt HTTP/1.1\r\n{FINE}{KEY}Sec-WebSocket-Protocol: chat\r\n\r\n"), 400),
        (format!("GET /mqtt HTTP/1.1\r\n{FINE}{KEY}{protocol}{origin}\r\n"), 403),
    ] {
        let (outcome, answer) = asked(request).await;
        let code = StatusCode::from_u16(status).unwrap();
        let refused = matches!(&outcome, Err(UpgradeError::Refused { status, .. }) if *status == code);
        assert!(refused, "{status}: {outcome:?}");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        let body = answer.split("\r\n\r\n").nth(1).unwrap();
        assert_eq!(body.lines().count(), 1, "{answer}");
    }
    for request in ["\x10\x0e\0\x04MQTT\x04\x02\0\0\0\0".to_owned(), String::new(), "GET ".to_owned()] {
        assert!(asked(request).await.0.is_err());
    }
    let endless = format!("GET /mqtt HTTP/1.1\r\n{FINE}X: {}\r\n\r\n", "x".repeat(9000));
    let (outcome, answer) = asked(endless).await;
    assert!(outcome.is_err() && answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn what_comes_with_the_request_is_not_lost() {
    let forwarded = "X-Forwarded-For: forged, 192.0.2.1\r\nX-Forwarded-For: [2001:db8::1]:4000\r\n";
    let request = format!(
        "GET /mqtt?x HTTP/1.1\r\n{FINE}{KEY}{forwarded}Origin: https://site.example\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
    );
    let (outcome, answer) = asked(format!("{request}\u{2}")).await;
    let upgraded = outcome.unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(answer.to_lowercase().contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
    let known: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    assert_eq!(upgraded.forwarded, known);
    assert_eq!(upgraded.stream.early, b"\x02", "a frame's first byte");
}
