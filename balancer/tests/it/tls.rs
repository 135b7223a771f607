//! TLS with the article's combined PEM, and its change while clients are there.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use nsd_edge::tls::TlsClient;
use nsd_wire::{Connect, Version, Will};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::tls::{Place, s_client};
use crate::support::{self, BINARY, Balancer, Broker, CHECK, Client, free_address, listen, servers, until};

type TlsStream = tokio_rustls::client::TlsStream<TcpStream>;

/// `cat x.crt x.key > x.pem`
pub(crate) fn combined_pem(name: &str) -> String {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
    format!("{}{}", certificate.pem(), key.serialize_pem())
}

pub(crate) async fn connect(address: SocketAddr, trusted: &Path) -> std::io::Result<Client<TlsStream>> {
    let client = TlsClient::trusting(trusted).unwrap();
    let name = ServerName::try_from("mqtt.example").unwrap();
    Client::over(client.handshake(name, TcpStream::connect(address).await?).await?).await
}

async fn balancer(broker: &Broker) -> (Balancer, SocketAddr) {
    balancer_with(broker, CHECK).await
}

/// Its address for TLS besides; its certificate is `certs/lelylan.pem`.
pub(crate) async fn balancer_with(broker: &Broker, options: &str) -> (Balancer, SocketAddr) {
    let directory = TempDir::new().unwrap();
    let certs = directory.path().join("certs");
    std::fs::create_dir(&certs).unwrap();
    std::fs::write(certs.join("lelylan.pem"), combined_pem("mqtt.example")).unwrap();
    let (plain, tls) = (free_address(), free_address());
    let options =
        format!("tls = {{ bind = [\"{tls}\"], certificates = [\"{}\"] }}\n{options}", certs.display());
    let settings = listen(plain, &options, &servers(&["b1"], &[broker]));
    (Balancer::start_in(directory, plain, &settings, Command::new(BINARY)).await, tls)
}

#[tokio::test]
async fn a_certificate_is_changed_while_clients_stay() {
    let b1 = Broker::start("b1").await;
    let (balancer, tls) = balancer(&b1).await;
    let live = balancer.path("certs/lelylan.pem");
    let first = balancer.path("first.crt");
    std::fs::copy(&live, &first).unwrap();
    let mut old = connect(tls, &first).await.unwrap();
    old.echo(&vec![5; 200_000]).await.unwrap();

    std::fs::write(&live, "-----BEGIN CERTIFICATE-----\nhalf").unwrap();
    balancer.wait_for_log("certificates not changed").await;
    connect(tls, &first).await.expect("the old certificate is in use");

    let fresh = balancer.path("fresh.pem");
    std::fs::write(&fresh, combined_pem("mqtt.example")).unwrap();
    std::fs::rename(&fresh, &live).unwrap();
    until("the new certificate is shown", async || connect(tls, &live).await.is_ok()).await;
    assert!(connect(tls, &first).await.is_err(), "the old certificate is still shown");
    old.echo(b"an old session goes on").await.unwrap();
}

#[tokio::test]
async fn plain_and_tls_clients_share_the_servers() {
    let b1 = Broker::start("b1").await;
    let (balancer, tls) = balancer(&b1).await;
    let mut secure = connect(tls, &balancer.path("certs/lelylan.pem")).await.unwrap();
    let mut plain = Client::connect(balancer.address).await.unwrap();
    assert_eq!(b1.sessions(), 2);
    secure.echo(b"one").await.unwrap();
    plain.echo(b"two").await.unwrap();
}

#[tokio::test]
async fn the_access_log_tells_what_was_agreed_on() {
    let b1 = Broker::start("b1").await;
    let secure = Place::new().start(CHECK, "", &[&b1]).await;
    let config = secure.authority.client_config(None);
    for _ in 0..2 {
        support::tls::connect(secure.tls, &config).await.unwrap().echo(b"there and back").await.unwrap();
    }
    Client::connect(secure.balancer.address).await.unwrap();
    s_client(secure.tls, &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384", "-groups", "P-256"]);
    until("all are logged", async || secure.balancer.log().matches("end=").count() == 4).await;
    let log = secure.balancer.log();
    let line = |end: &str| log.lines().filter(|line| line.contains(end)).collect::<Vec<_>>();
    let sessions = line("version=\"3.1.1\"");
    let (plain, secure): (Vec<&str>, Vec<&str>) =
        sessions.into_iter().partition(|line| !line.contains("tls="));
    assert!(plain.len() == 1 && !plain[0].contains("cipher=") && !plain[0].contains("resumed="), "{log}");
    let agreed = |line: &str, resumed: bool| {
        let told = format!("sni=\"mqtt.example\" resumed={resumed} ");
        line.contains("tls=\"1.3\" cipher=\"TLS_AES_")
            && line.contains(" group=\"X25519")
            && line.contains(&told)
    };
    assert!(secure.len() == 2, "{log}");
    assert!(
        secure.iter().any(|line| agreed(line, false)) && secure.iter().any(|line| agreed(line, true)),
        "{log}"
    );
    // Who ends before its CONNECT has shaken hands, too.
    let unfinished = line("end=\"connect-unfinished\"");
    let told = "tls=\"1.2\" cipher=\"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384\" group=\"secp256r1\" sni=\"mqtt.example\"";
    assert!(unfinished.len() == 1 && unfinished[0].contains(told), "{log}");
}

#[tokio::test]
async fn who_does_not_speak_tls_reaches_no_server() {
    let b1 = Broker::start("b1").await;
    let (balancer, tls) = balancer(&b1).await;
    assert!(Client::connect(tls).await.is_err());
    balancer.wait_for_log("end=\"handshake\"").await;
    let _silent = TcpStream::connect(tls).await.unwrap();
    Client::connect(balancer.address).await.unwrap();
    assert_eq!(b1.total(), 1, "a silent client costs no server anything");
}

#[tokio::test]
async fn a_large_connect_and_what_follows_it_come_through_tls() {
    let b1 = Broker::start("b1").await;
    let (balancer, tls) = balancer(&b1).await;
    let client = TlsClient::trusting(&balancer.path("certs/lelylan.pem")).unwrap();
    let name = ServerName::try_from("mqtt.example").unwrap();
    let mut stream = client.handshake(name, TcpStream::connect(tls).await.unwrap()).await.unwrap();
    let payload = vec![7; 65_535];
    let connect = Connect { will: Some(Will::new("w", &payload)), ..Connect::new(Version::V311, "device") };
    let mut bytes = Vec::new();
    connect.encode(Version::V311, &mut bytes).unwrap();
    let behind: Vec<u8> = (0..20_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    bytes.extend_from_slice(&behind);
    stream.write_all(&bytes).await.unwrap();
    // CONNACK, the PUBLISH with the broker's name, and the echo.
    let mut back = vec![0; 10 + behind.len()];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(back[..4], [0x20, 2, 0, 0]);
    assert!(back[10..] == behind);
}
