//! Certificates, and clients that speak TLS: rustls for the sessions, OpenSSL where another library's word counts.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::{BINARY, Balancer, Broker, Client, free_address, listen, servers, until};

pub(crate) const NAME: &str = "mqtt.example";

/// An authority, and what it writes.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
    pub(crate) key: String,
}

/// A certificate and its key, as PEM.
pub(crate) struct Card {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Card {
    /// `cat x.crt x.key > x.pem`
    pub(crate) fn combined(&self) -> String {
        format!("{}{}", self.certificate, self.key)
    }
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { key: key.serialize_pem(), issuer: Issuer::new(params, key), pem }
    }

    /// For a server of this name.
    pub(crate) fn server(&self, name: &str) -> Card {
        self.write(name, 1, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(), |_| {})
    }

    pub(crate) fn rsa_server(&self, name: &str) -> Card {
        self.write(name, 1, KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap(), |_| {})
    }

    /// For a client of this common name.
    pub(crate) fn client(&self, name: &str, serial: u64) -> Card {
        self.write(name, serial, KeyPair::generate().unwrap(), |params| {
            params.distinguished_name.push(DnType::CommonName, name);
        })
    }

    pub(crate) fn write(
        &self,
        name: &str,
        serial: u64,
        key: KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Card {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Card { certificate, key: key.serialize_pem() }
    }

    /// Its list of revoked certificates.
    pub(crate) fn list(&self, revoked: &[u64]) -> String {
        let entry = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2094, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// What a client of ours trusts and shows.
    pub(crate) fn client_config(&self, card: Option<&Card>) -> Arc<ClientConfig> {
        use rustls_pki_types::CertificateDer;
        use rustls_pki_types::pem::PemObject;
        let certificate = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.pem)).unwrap();
        let builder = ClientConfig::builder().with_root_certificates(roots);
        Arc::new(match card {
            None => builder.with_no_client_auth(),
            Some(card) => {
                let key = PrivateKeyDer::from_pem_slice(card.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![certificate(&card.certificate)], key).unwrap()
            }
        })
    }
}

/// An MQTT client over TLS.
pub(crate) async fn connect(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
) -> io::Result<Client<TlsStream<TcpStream>>> {
    let name = ServerName::try_from(NAME).unwrap();
    let socket = TcpStream::connect(address).await?;
    Client::over(TlsConnector::from(Arc::clone(config)).connect(name, socket).await?).await
}

/// A directory in which files of a settings file stand, before the balancer starts.
pub(crate) struct Place {
    pub(crate) directory: TempDir,
    pub(crate) authority: Authority,
    pub(crate) plain: SocketAddr,
    pub(crate) tls: SocketAddr,
}

impl Place {
    /// With `own.pem`, a certificate for [`NAME`].
    pub(crate) fn new() -> Self {
        let authority = Authority::new("our authority");
        let place = Self {
            directory: TempDir::new().unwrap(),
            plain: free_address(),
            tls: free_address(),
            authority,
        };
        place.write("own.pem", &place.authority.server(NAME).combined());
        place.write("ca.pem", &place.authority.pem);
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        write_over(self.directory.path(), name, text.as_bytes());
    }

    /// A `listen` section; `tls` are further lines of its `tls` table, `DIR` in them this directory.
    pub(crate) fn settings(&self, options: &str, tls: &str, brokers: &[&Broker]) -> String {
        let directory = self.directory.path().display().to_string();
        let certificates = if tls.contains("certificates") { "" } else { "certificates = [\"DIR/own.pem\"]" };
        let tls = format!("[listen.tls]\nbind = [\"{}\"]\n{certificates}\n{tls}\n", self.tls)
            .replace("DIR", &directory);
        listen(self.plain, &format!("{options}\n{tls}"), &servers(&["b1", "b2", "b3"], brokers))
    }

    pub(crate) async fn start(self, options: &str, tls: &str, brokers: &[&Broker]) -> Secure {
        let settings = self.settings(options, tls, brokers);
        let Self { directory, authority, plain, tls } = self;
        let balancer = Balancer::start_in(directory, plain, &settings, Command::new(BINARY)).await;
        Secure { balancer, authority, tls }
    }
}

/// The files that the documentation names in `/etc/nsd`.
pub(crate) fn write_documented(directory: &Path) {
    let authority = Authority::new("documented");
    std::fs::create_dir(directory.join("certs")).unwrap();
    write_over(&directory.join("certs"), "lelylan.pem", authority.server(NAME).combined().as_bytes());
    write_over(directory, "ca.pem", authority.pem.as_bytes());
    write_over(directory, "clients-ca.pem", authority.pem.as_bytes());
    write_over(directory, "clients-crl.pem", authority.list(&[]).as_bytes());
    let tickets = directory.join("tickets.keys");
    std::fs::write(&tickets, "A".repeat(64)).unwrap();
    std::fs::set_permissions(&tickets, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// A running balancer with a TLS port.
pub(crate) struct Secure {
    pub(crate) balancer: Balancer,
    pub(crate) authority: Authority,
    pub(crate) tls: SocketAddr,
}

impl Secure {
    pub(crate) async fn connect(&self) -> io::Result<Client<TlsStream<TcpStream>>> {
        connect(self.tls, &self.authority.client_config(None)).await
    }

    /// The same once more, as after a crash.
    pub(crate) async fn restart(&mut self) {
        let directory = std::mem::replace(&mut self.balancer.directory, TempDir::new().unwrap());
        let text = std::fs::read_to_string(directory.path().join("balancer.toml")).unwrap();
        let from = text.find("[[listen]]").unwrap();
        let address = self.balancer.address;
        // A process that is only asked to stop would give its port back a moment later.
        self.balancer.kill();
        self.balancer = Balancer::start_in(directory, address, &text[from..], Command::new(BINARY)).await;
    }

    pub(crate) async fn connect_with(&self, card: &Card) -> io::Result<Client<TlsStream<TcpStream>>> {
        connect(self.tls, &self.authority.client_config(Some(card))).await
    }

    /// As a careful program does: a rename over what is there.
    pub(crate) fn write(&self, name: &str, content: &[u8]) {
        write_over(self.balancer.directory.path(), name, content);
    }
}

fn write_over(directory: &Path, name: &str, content: &[u8]) {
    let aside = directory.join(format!("{name}.aside"));
    std::fs::write(&aside, content).unwrap();
    std::fs::rename(aside, directory.join(name)).unwrap();
}

/// A handshake with `openssl s_client` whose session is kept in a file, as soon as its ticket has come.
pub(crate) async fn keep_session(address: SocketAddr, file: &Path, arguments: &[&str]) {
    let mut command = Command::new("timeout");
    command
        .args(["20", "openssl", "s_client", "-connect"])
        .arg(address.to_string())
        .args(["-servername", NAME]);
    command.arg("-sess_out").arg(file).args(arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let complete = async || std::fs::read_to_string(file).is_ok_and(|text| text.contains("END SSL SESSION"));
    until("openssl has a session", complete).await;
    // The end of its input ends it.
    drop(child.stdin.take());
    child.wait().unwrap();
}

/// What `openssl s_client` says of one handshake, its words on stderr included.
pub(crate) fn s_client(address: SocketAddr, arguments: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command.args(["20", "openssl", "s_client", "-connect"]).arg(address.to_string());
    command.args(["-servername", NAME]).args(arguments).stdin(Stdio::null());
    let output = command.output().expect("openssl is installed");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
