use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use std::path::Path;

use rustls_pki_types::ServerName;

use super::*;
use crate::drain::Drain;

struct Pem {
    certificate: String,
    key: String,
}

impl Pem {
    fn combined(&self) -> String {
        format!("{}{}", self.certificate, self.key)
    }
}

fn pem(names: &[&str]) -> Pem {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    Pem { certificate: certificate.pem(), key: key.serialize_pem() }
}

fn write(directory: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// One exchange through a handshake; the certificate the server showed.
async fn shown(server: &TlsServer, trusted: &Path, name: &str) -> io::Result<Vec<u8>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let socket = TcpStream::connect(listener.local_addr()?).await?;
    let (accepted, _) = listener.accept().await?;
    let client = TlsClient::trusting(trusted).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let serve = async {
        let mut stream = server.handshake(accepted, HANDSHAKE_TIMEOUT).await.map_err(io::Error::other)?;
        stream.write_all(b"hello").await?;
        stream.shutdown().await
    };
    let ask = async {
        let mut stream = client.handshake(name, socket).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        assert_eq!(text, "hello");
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        Ok::<_, io::Error>(chain[0].to_vec())
    };
    let (_served, certificate) = tokio::join!(serve, ask);
    certificate
}

#[tokio::test]
async fn a_combined_file_works_in_any_order() {
    let directory = TempDir::new().unwrap();
    let one = pem(&["mqtt.example"]);
    for text in [one.combined(), format!("{}{}", one.key, one.certificate)] {
        let path = write(&directory, "one.pem", &text);
        let server = TlsServer::load(std::slice::from_ref(&path)).unwrap();
        assert_eq!(server.names(), ["mqtt.example"]);
        shown(&server, &path, "mqtt.example").await.unwrap();
    }
}

#[tokio::test]
async fn the_name_asked_for_chooses_among_a_directory() {
    let directory = TempDir::new().unwrap();
    let a = write(&directory, "a.pem", &pem(&["a.example"]).combined());
    let b = write(&directory, "b.pem", &pem(&["b.example", "*.wild.example"]).combined());
    write(&directory, "notes.txt", "not a certificate");
    let server = TlsServer::load(&[directory.path().to_owned()]).unwrap();
    assert_eq!(server.names(), ["*.wild.example", "a.example", "b.example"]);
    let of_a = shown(&server, &a, "a.example").await.unwrap();
    let of_b = shown(&server, &b, "b.example").await.unwrap();
    assert_ne!(of_a, of_b);
    assert_eq!(shown(&server, &b, "x.wild.example").await.unwrap(), of_b);
    // Who asks for an unknown name is shown the first; whether it is good enough is the client's to judge.
    assert!(shown(&server, &a, "unknown.example").await.is_err());
}

#[tokio::test]
async fn a_pair_of_key_types_serves_ecdsa_first() {
    let directory = TempDir::new().unwrap();
    let rsa = rsa_pem("pair.example");
    write(&directory, "a-rsa.pem", &rsa);
    let ecdsa = write(&directory, "b-ecdsa.pem", &pem(&["pair.example"]).combined());
    let server = TlsServer::load(&[directory.path().to_owned()]).unwrap();
    shown(&server, &ecdsa, "pair.example").await.unwrap();
    let set = Arc::clone(&server.current.load().certificates);
    assert_eq!(set.default.len(), 2, "both are twins of the first file");
    assert!(set.default[1].is_rsa());
}

fn rsa_pem(name: &str) -> String {
    let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
    format!("{}{}", certificate.pem(), key.serialize_pem())
}

#[tokio::test]
async fn a_change_is_followed_and_a_bad_file_keeps_the_old() {
    let directory = TempDir::new().unwrap();
    let path = write(&directory, "live.pem", &pem(&["live.example"]).combined());
    let server = Arc::new(TlsServer::load(std::slice::from_ref(&path)).unwrap());
    let first = shown(&server, &path, "live.example").await.unwrap();
    let drain = Drain::new();
    let follower = tokio::spawn(Arc::clone(&server).follow(drain.watch()));
    tokio::time::sleep(Duration::from_millis(50)).await;

    let old = write(&directory, "old.txt", &std::fs::read_to_string(&path).unwrap());
    write(&directory, "live.pem", "-----BEGIN CERTIFICATE-----\nhalf a file");
    until(|| server.problem().is_some()).await;
    let refused = server.problem().unwrap();
    assert!(refused.contains("live.pem"), "{refused}");
    assert_eq!(shown(&server, &old, "live.example").await.unwrap(), first);

    let fresh = write(&directory, "fresh.txt", &pem(&["live.example"]).combined());
    std::fs::rename(&fresh, &path).unwrap();
    until(|| server.problem().is_none()).await;
    assert_ne!(shown(&server, &path, "live.example").await.unwrap(), first);
    drain.begin();
    follower.await.unwrap();
}

async fn until(done: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(20), "not within 20 s");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn each_bad_file_is_named_with_its_problem() {
    let directory = TempDir::new().unwrap();
    let (one, other) = (pem(&["one.example"]), pem(&["other.example"]));
    let cases = [
        ("empty.pem", String::new(), "holds no certificate"),
        ("key.pem", one.key.clone(), "holds no certificate"),
        ("certificate.pem", one.certificate.clone(), "holds no private key"),
        ("foreign.pem", format!("{}{}", one.certificate, other.key), "belongs to none"),
        ("two.pem", format!("{}{}", one.combined(), other.combined()), "holds 2 private keys"),
        ("cut.pem", one.combined().replace("-----END PRIVATE KEY-----", ""), "not a PEM file"),
        (
            "garbage.pem",
            format!("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n{}", one.key),
            "cannot be parsed",
        ),
    ];
    for (name, text, problem) in cases {
        let path = write(&directory, name, &text);
        let error = TlsServer::load(&[path]).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(problem), "{name}: {error}");
    }
    let error = TlsServer::load(&[directory.path().join("absent.pem")]).unwrap_err().to_string();
    assert!(error.contains("absent.pem: cannot read"), "{error}");
    let error = TlsServer::load(&[TempDir::new().unwrap().path().to_owned()]).unwrap_err().to_string();
    assert!(error.contains("cannot read") || error.contains("no .pem file"), "{error}");
    assert!(TlsServer::load(&[]).is_err());
}

#[tokio::test]
async fn a_silent_client_is_given_up_at_the_deadline() {
    let directory = TempDir::new().unwrap();
    let path = write(&directory, "one.pem", &pem(&["one.example"]).combined());
    let server = TlsServer::load(&[path]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let outcome = server.handshake(accepted, Duration::from_millis(50)).await;
    assert!(matches!(outcome, Err(HandshakeError::TimedOut)));
}

/// Who has sent its hello and gets no turn waits; with a turn the same connection goes on.
#[tokio::test]
async fn nothing_is_computed_without_a_turn() {
    let directory = TempDir::new().unwrap();
    let path = write(&directory, "one.pem", &pem(&["one.example"]).combined());
    let server = TlsServer::load(std::slice::from_ref(&path)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let client = TlsClient::trusting(&path).unwrap();
    let ask =
        tokio::spawn(
            async move { client.handshake(ServerName::try_from("one.example").unwrap(), socket).await },
        );
    let turns = Semaphore::new(0);
    let serve = server.handshake_in_turn(accepted, HANDSHAKE_TIMEOUT, &turns);
    tokio::pin!(serve);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut serve).await.is_err());
    assert!(!ask.is_finished(), "the client was answered");
    turns.add_permits(1);
    serve.await.unwrap();
    ask.await.unwrap().unwrap();
    assert_eq!(turns.available_permits(), 1, "and the turn is given back");
}

/// Both ends of a connection; the client's is the library's.
async fn connected(
    server: &TlsServer,
    trusted: &Path,
) -> (TlsStream, tokio_rustls::client::TlsStream<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let client = TlsClient::trusting(trusted).unwrap();
    let name = ServerName::try_from("one.example").unwrap();
    let (server, client) =
        tokio::join!(server.handshake(accepted, HANDSHAKE_TIMEOUT), client.handshake(name, socket));
    (server.unwrap(), client.unwrap())
}

#[tokio::test]
async fn all_bytes_arrive_whatever_the_sizes_of_reads_and_records_are() {
    let directory = TempDir::new().unwrap();
    let path = write(&directory, "one.pem", &pem(&["one.example"]).combined());
    let server = TlsServer::load(std::slice::from_ref(&path)).unwrap();
    let (mut stream, mut client) = connected(&server, &path).await;
    assert_eq!(stream.server_name(), Some("one.example"));
    let sent: Vec<u8> = (0..500_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    let send = async {
        for part in sent.chunks(40_000) {
            client.write_all(part).await.unwrap();
        }
        client.flush().await.unwrap();
        client
    };
    let take = async {
        let mut all = Vec::new();
        let mut small = [0; 777];
        while all.len() < sent.len() {
            let read = stream.read(&mut small).await.unwrap();
            assert!(read > 0);
            all.extend_from_slice(&small[..read]);
        }
        (all, stream)
    };
    let (mut client, (all, mut stream)) = tokio::join!(send, take);
    assert_eq!(all, sent);
    assert_eq!(stream.kept(), 0, "idle, it keeps no buffer");

    let back = async {
        let slices = [io::IoSlice::new(b"two "), io::IoSlice::new(b""), io::IoSlice::new(b"slices")];
        assert_eq!(stream.write_vectored(&slices).await.unwrap(), 10);
        stream.write_all(&sent).await.unwrap();
        stream.shutdown().await.unwrap();
        assert!(stream.write_all(b"late").await.is_err());
        stream
    };
    let take = async {
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        client.shutdown().await.unwrap();
        all
    };
    let (mut stream, all) = tokio::join!(back, take);
    assert!(all.starts_with(b"two slices") && all[10..] == sent);
    assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0, "the client said goodbye");
}

#[tokio::test]
async fn a_stream_that_is_cut_or_forged_is_an_error_not_an_end() {
    let directory = TempDir::new().unwrap();
    let path = write(&directory, "one.pem", &pem(&["one.example"]).combined());
    let server = TlsServer::load(std::slice::from_ref(&path)).unwrap();
    let (mut stream, mut client) = connected(&server, &path).await;
    client.write_all(b"last").await.unwrap();
    client.flush().await.unwrap();
    let (mut socket, _) = client.into_inner();
    socket.shutdown().await.unwrap();
    let mut all = Vec::new();
    let error = stream.read_to_end(&mut all).await.unwrap_err();
    assert_eq!((all.as_slice(), error.kind()), (&b"last"[..], io::ErrorKind::UnexpectedEof));

    let (mut stream, client) = connected(&server, &path).await;
    let (mut socket, _) = client.into_inner();
    socket.write_all(b"\x17\x03\x03\x00\x20 thirty-two bytes nobody encrypted").await.unwrap();
    let error = stream.read(&mut [0; 10]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    // The client's end hears why: one encrypted alert, after the ticket.
    drop(stream);
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer[0], 0x17);
}

/// Passes the client's bytes on in pieces, one of them changed, and everything back.
async fn meddle(client: TcpStream, server: TcpStream, seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below).unwrap()
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let (mut passed, change) = (0, random(6000));
    let mut buffer = [0; 400];
    while let Ok(length @ 1..) = from_client.read(&mut buffer[..random(400).max(1)]).await {
        if (passed..passed + length).contains(&change) {
            buffer[change - passed] ^= 1 << random(8);
        }
        passed += length;
        if to_server.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    drop(to_server);
    let _ = back.await;
}

/// Whatever happens to the bytes on their way, it is an error here or nothing; never a panic, never wrong bytes.
#[tokio::test]
async fn bytes_changed_on_their_way_are_refused_never_worse() {
    let directory = TempDir::new().unwrap();
    let path = write(&directory, "one.pem", &pem(&["one.example"]).combined());
    let server = TlsServer::load(std::slice::from_ref(&path)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut whole = 0;
    for seed in 0..200 {
        let client = TcpStream::connect(address).await.unwrap();
        let (near, _) = listener.accept().await.unwrap();
        let far = TcpStream::connect(address).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let between = tokio::spawn(meddle(near, far, seed));
        let name = ServerName::try_from("one.example").unwrap();
        let trusting = TlsClient::trusting(&path).unwrap();
        let ask = async {
            let mut stream = trusting.handshake(name, client).await?;
            stream.write_all(&[7; 1500]).await?;
            stream.shutdown().await
        };
        let serve = async {
            let Ok(mut stream) = server.handshake(accepted, HANDSHAKE_TIMEOUT).await else { return };
            let mut all = Vec::new();
            let read = stream.read_to_end(&mut all).await;
            assert!(all.iter().all(|byte| *byte == 7));
            let _ = stream.write_all(b"answer").await;
            whole += usize::from(read.is_ok() && all.len() == 1500);
        };
        let (_asked, ()) = tokio::join!(ask, serve);
        between.await.unwrap();
    }
    assert!((1..200).contains(&whole), "{whole} of 200 came through");
}
