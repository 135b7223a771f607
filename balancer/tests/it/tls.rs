//! TLS with the article's combined PEM, and its change while clients are there.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use nsd_edge::tls::TlsClient;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::support::{BINARY, Balancer, Broker, CHECK, Client, free_address, listen, servers, until};

type TlsStream = tokio_rustls::client::TlsStream<TcpStream>;

/// `cat x.crt x.key > x.pem`
fn combined_pem(name: &str) -> String {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
    format!("{}{}", certificate.pem(), key.serialize_pem())
}

async fn connect(address: SocketAddr, trusted: &Path) -> std::io::Result<Client<TlsStream>> {
    let client = TlsClient::trusting(trusted).unwrap();
    let name = ServerName::try_from("mqtt.example").unwrap();
    Client::over(client.handshake(name, TcpStream::connect(address).await?).await?).await
}

async fn balancer(broker: &Broker) -> (Balancer, SocketAddr) {
    let directory = TempDir::new().unwrap();
    let certs = directory.path().join("certs");
    std::fs::create_dir(&certs).unwrap();
    std::fs::write(certs.join("lelylan.pem"), combined_pem("mqtt.example")).unwrap();
    let (plain, tls) = (free_address(), free_address());
    let options =
        format!("tls = {{ bind = [\"{tls}\"], certificates = [\"{}\"] }}\n{CHECK}", certs.display());
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
async fn who_does_not_speak_tls_reaches_no_server() {
    let b1 = Broker::start("b1").await;
    let (balancer, tls) = balancer(&b1).await;
    assert!(Client::connect(tls).await.is_err());
    balancer.wait_for_log("end=\"handshake\"").await;
    let _silent = TcpStream::connect(tls).await.unwrap();
    Client::connect(balancer.address).await.unwrap();
    assert_eq!(b1.total(), 1, "a silent client costs no server anything");
}
