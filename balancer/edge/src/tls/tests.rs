use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use std::path::Path;

use rustls_pki_types::ServerName;

use super::certificates::is_rsa;
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
    assert!(is_rsa(&set.default[1]));
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
    for _ in 0..600 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 6 s");
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
