//! Servers that are spoken to over TLS.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use nsd_edge::proxy_header::{self, ProxyHeader};
use nsd_edge::tls::{ClientCertificates, HANDSHAKE_TIMEOUT, TlsServer, TlsSettings};
use parking_lot::Mutex;
use rcgen::{CertificateParams, CertifiedIssuer, DnType, KeyPair};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

use crate::support::{BINARY, Balancer, Broker, Client, free_address, listen, until};

/// An authority, and files of it.
struct Authority {
    directory: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { directory, issuer }
    }

    fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A combined PEM file for a name, or an address.
    fn issue(&self, name: &str) -> PathBuf {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = self.directory.path().join(format!("{name}.pem"));
        std::fs::write(&path, format!("{}{}", certificate.pem(), key.serialize_pem())).unwrap();
        path
    }
}

/// TLS before a broker, as a server has it.
struct Front {
    address: SocketAddr,
    /// The PROXY headers that came, where they are expected.
    headers: Arc<Mutex<Vec<ProxyHeader>>>,
    /// Whom the clients' certificates named.
    identities: Arc<Mutex<Vec<Option<String>>>>,
}

async fn front(broker: &Broker, certificate: &Path, clients: Option<PathBuf>, behind_proxy: bool) -> Front {
    let clients = clients.map(|authority| ClientCertificates {
        authorities: vec![authority],
        revoked: Vec::new(),
        required: true,
    });
    let tls = Arc::new(
        TlsServer::with(TlsSettings { clients, ..TlsSettings::of(&[certificate.to_owned()]) }).unwrap(),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, behind) = (listener.local_addr().unwrap(), broker.address);
    let (headers, identities) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<Mutex<Vec<_>>>::default());
    let front = Front { address, headers: Arc::clone(&headers), identities: Arc::clone(&identities) };
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let (tls, headers, identities) =
                (Arc::clone(&tls), Arc::clone(&headers), Arc::clone(&identities));
            tokio::spawn(async move {
                if behind_proxy {
                    let header = proxy_header::read(&mut socket).await.ok()?;
                    headers.lock().push(header);
                }
                let mut stream = tls.handshake(socket, HANDSHAKE_TIMEOUT).await.ok()?;
                identities.lock().push(nsd_edge::tls::identity(&stream).map(String::from));
                let mut broker = TcpStream::connect(behind).await.ok()?;
                tokio::io::copy_bidirectional(&mut stream, &mut broker).await.ok()
            });
        }
    });
    front
}

const QUICK: &str = "interval = \"200ms\", timeout = \"20s\", rise = 1, fall = 1";

async fn balancer(front: &Front, tls: &str, options: &str) -> Balancer {
    let address = free_address();
    let options = format!("server_tls = {{ {tls} }}\n{options}");
    let settings = listen(address, &options, &[("b1", front.address)]);
    Balancer::start_in(TempDir::new().unwrap(), address, &settings, Command::new(BINARY)).await
}

async fn verdict(balancer: &Balancer, verdict: &str) -> String {
    let is = async || balancer.server("b1").await["check"]["verdict"] == verdict;
    until(&format!("b1 is {verdict}"), is).await;
    balancer.server("b1").await["check"]["detail"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn sessions_and_checks_go_over_tls_to_servers_that_are_whom_they_should_be() {
    let (b1, authority) = (Broker::start("b1").await, Authority::new());
    let front = front(&b1, &authority.issue("127.0.0.1"), None, false).await;
    let ca = format!("ca = [\"{}\"]", authority.ca().display());
    for kind in ["mqtt", "tls"] {
        let options = format!("mode = \"mqtt\"\ncheck = {{ kind = \"{kind}\", {QUICK} }}");
        let balancer = balancer(&front, &ca, &options).await;
        balancer.wait_for_state("b1", "healthy").await;
        let mut client = Client::connect(balancer.address).await.unwrap();
        client.echo(&vec![7; 300_000]).await.unwrap();
        client.echo(b"and a small one").await.unwrap();
    }
    // Raw bytes, both ways, and the end of them.
    let options = format!("mode = \"tcp\"\ncheck = {{ kind = \"tcp\", {QUICK} }}");
    let balancer = balancer(&front, &ca, &options).await;
    let mut client = Client::connect(balancer.address).await.unwrap();
    client.echo(b"raw").await.unwrap();
    let before = b1.sessions();
    drop(client);
    until("the server sees the end", async || b1.sessions() < before).await;
}

#[tokio::test]
async fn a_server_that_is_somebody_else_gets_no_client() {
    let (b1, authority, other) = (Broker::start("b1").await, Authority::new(), Authority::new());
    let front = front(&b1, &authority.issue("mqtt.internal"), None, false).await;
    let (ca, strangers) = (authority.ca(), other.ca());
    let (ca, strangers) = (ca.display(), strangers.display());
    let named = "server_name = \"mqtt.internal\"";
    for (tls, well) in [
        (format!("ca = [\"{ca}\"], {named}"), true),
        // The address is not in the certificate.
        (format!("ca = [\"{ca}\"]"), false),
        (format!("ca = [\"{ca}\"], server_name = \"else.internal\""), false),
        (format!("ca = [\"{strangers}\"], {named}"), false),
    ] {
        let options = format!("check = {{ kind = \"tls\", {QUICK} }}\nmode = \"mqtt\"");
        let checked = balancer(&front, &tls, &options).await;
        let detail = verdict(&checked, if well { "ok" } else { "garbled" }).await;
        assert!(well || detail.contains("certificate"), "{detail}");
        let total = b1.total();
        let options = "check = { kind = \"none\", fall = 1 }\nmode = \"mqtt\"";
        let unchecked = balancer(&front, &tls, options).await;
        assert_eq!(Client::connect(unchecked.address).await.is_ok(), well, "{tls}");
        assert_eq!(b1.total() > total, well, "{tls}: not a byte of the client reaches it");
        assert_eq!(unchecked.server("b1").await["state"], "healthy", "it was reached: not blamed");
    }
}

#[tokio::test]
async fn the_proxy_header_stands_before_the_handshake_and_a_certificate_is_shown() {
    let (b1, authority) = (Broker::start("b1").await, Authority::new());
    let front = front(&b1, &authority.issue("127.0.0.1"), Some(authority.ca()), true).await;
    let tls = format!(
        "ca = [\"{}\"], certificate = \"{}\"",
        authority.ca().display(),
        authority.issue("balancer-1").display()
    );
    let options = format!("send_proxy = \"v2\"\ncheck = {{ kind = \"mqtt\", {QUICK} }}");
    let balancer = balancer(&front, &tls, &options).await;
    balancer.wait_for_state("b1", "healthy").await;
    let client = Client::connect(balancer.address).await.unwrap();
    let ours = client.stream.local_addr().unwrap();
    let told =
        |header: &ProxyHeader| matches!(header, ProxyHeader::Proxied { source, .. } if *source == ours);
    assert!(front.headers.lock().iter().any(told), "{:?}", front.headers.lock());
    assert!(front.identities.lock().iter().all(|name| name.as_deref() == Some("balancer-1")));
}

#[tokio::test]
async fn its_files_are_followed_and_a_bad_one_changes_nothing() {
    let (b1, authority, other) = (Broker::start("b1").await, Authority::new(), Authority::new());
    let front = front(&b1, &authority.issue("127.0.0.1"), None, false).await;
    let directory = TempDir::new().unwrap();
    let ca = directory.path().join("trusted.pem");
    std::fs::copy(other.ca(), &ca).unwrap();
    let password = directory.path().join("password");
    let write_password = |mode| {
        std::fs::write(&password, "s3cret").unwrap();
        std::fs::set_permissions(&password, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    write_password(0o600);
    let login = format!("user_name = \"u\", password_file = \"{}\"", password.display());
    let options = format!("check = {{ kind = \"mqtt\", {QUICK}, {login} }}");
    let balancer = balancer(&front, &format!("ca = [\"{}\"]", ca.display()), &options).await;
    verdict(&balancer, "garbled").await;
    std::fs::copy(authority.ca(), &ca).unwrap();
    balancer.wait_for_state("b1", "healthy").await;
    let mut client = Client::connect(balancer.address).await.unwrap();
    std::fs::write(&ca, "-----BEGIN CERTIFICATE-----\nhalf").unwrap();
    balancer.wait_for_log("credentials for servers not changed").await;
    Client::connect(balancer.address).await.expect("the old ones are in use");
    client.echo(b"and so is this session").await.unwrap();

    // One that is good beside a bad one: neither is taken.
    let refusals = |of: &str| {
        balancer.log().lines().filter(|line| line.contains("not changed") && line.contains(of)).count()
    };
    write_password(0o644);
    std::fs::copy(authority.ca(), &ca).unwrap();
    until("the password is refused", async || refusals("chmod") > 0).await;
    let before = refusals("chmod");
    std::fs::copy(other.ca(), &ca).unwrap();
    until("all of it is refused", async || refusals("chmod") > before).await;
    for _ in 0..5 {
        Client::connect(balancer.address).await.expect("whom it trusts has not changed");
    }
}

#[test]
fn a_file_that_is_not_there_is_told_beforehand() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("balancer.toml");
    std::fs::write(&path, listen(free_address(), "server_tls = { ca = [\"/nowhere/ca.pem\"] }", &[]))
        .unwrap();
    let output = Command::new(BINARY).args(["--check", "--config"]).arg(&path).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(65) && text.contains("/nowhere/ca.pem: cannot read"), "{text}");
}
