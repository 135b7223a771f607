use std::io;
use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::{ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion, RootCertStore};
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::*;
use crate::tls::{HANDSHAKE_TIMEOUT, LeastVersion, PostQuantum, TlsServer, TlsSettings};

/// An authority, and what it writes.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    revoked: Vec<u64>,
}

/// A client's certificate with its key.
struct Card {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem, revoked: Vec::new() }
    }

    fn card(&self, serial: u64, change: impl FnOnce(&mut CertificateParams)) -> Card {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from(serial));
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Card { chain: vec![certificate.der().clone()], key }
    }

    fn named(&self, serial: u64, name: &str) -> Card {
        self.card(serial, |params| params.distinguished_name.push(DnType::CommonName, name))
    }

    fn list(&self) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
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
            revoked_certs: self.revoked.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// A server in a directory of its own.
struct Place {
    directory: TempDir,
    trusted: CertificateDer<'static>,
}

impl Place {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let directory = TempDir::new().unwrap();
        let place = Self { directory, trusted: own.der().clone() };
        place.write("own.pem", &format!("{}{}", own.pem(), key.serialize_pem()));
        place
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn settings(&self, authority: &Authority, revoked: bool, required: bool) -> TlsSettings {
        let authorities = vec![self.write("ca.pem", &authority.pem)];
        let revoked = if revoked { vec![self.write("crl.pem", &authority.list())] } else { Vec::new() };
        let clients = ClientCertificates { authorities, revoked, required };
        TlsSettings { clients: Some(clients), ..TlsSettings::of(&[self.directory.path().join("own.pem")]) }
    }

    fn client(&self, card: Option<Card>) -> ClientConfig {
        self.client_of(card, rustls::ALL_VERSIONS)
    }

    fn client_of(
        &self,
        card: Option<Card>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.trusted.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let builder = builder.with_root_certificates(roots);
        match card {
            None => builder.with_no_client_auth(),
            Some(Card { chain, key }) => {
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        }
    }
}

/// What both sides know after one exchange.
#[derive(Debug)]
struct Met {
    certified: Option<Box<str>>,
    kind: HandshakeKind,
    version: ProtocolVersion,
    group: NamedGroup,
}

async fn meet(server: &TlsServer, client: &Arc<ClientConfig>) -> io::Result<Met> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let socket = TcpStream::connect(listener.local_addr()?).await?;
    let (accepted, _) = listener.accept().await?;
    let serve = async {
        let mut stream = server.handshake(accepted, HANDSHAKE_TIMEOUT).await.map_err(io::Error::other)?;
        stream.write_all(b"hello").await?;
        stream.flush().await?;
        // Until the client has read, and so has its ticket.
        let _ = stream.read(&mut [0]).await;
        Ok::<_, io::Error>(crate::tls::identity(&stream))
    };
    let ask = async {
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(Arc::clone(client)).connect(name, socket).await?;
        stream.read_exact(&mut [0; 5]).await?;
        let connection = stream.get_ref().1;
        let group = connection.negotiated_key_exchange_group().map(rustls::crypto::SupportedKxGroup::name);
        Ok::<_, io::Error>((connection.handshake_kind(), connection.protocol_version(), group))
    };
    let (certified, asked) = tokio::join!(serve, ask);
    let (kind, version, group) = asked?;
    Ok(Met { certified: certified?, kind: kind.unwrap(), version: version.unwrap(), group: group.unwrap() })
}

async fn once(server: &TlsServer, client: ClientConfig) -> io::Result<Met> {
    meet(server, &Arc::new(client)).await
}

#[tokio::test]
async fn required_means_a_certificate_of_a_known_authority() {
    let (place, ours, other) = (Place::new(), Authority::new("ours"), Authority::new("other"));
    let server = TlsServer::with(place.settings(&ours, false, true)).unwrap();
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
        let met = once(&server, place.client_of(Some(ours.named(1, "pump-7")), versions)).await.unwrap();
        assert_eq!(met.certified.as_deref(), Some("pump-7"));
        assert!(once(&server, place.client_of(Some(other.named(1, "pump-7")), versions)).await.is_err());
        assert!(once(&server, place.client_of(None, versions)).await.is_err());
    }
    let expired = ours.card(3, |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    assert!(once(&server, place.client(Some(expired))).await.is_err());
}

#[tokio::test]
async fn optional_means_none_or_a_good_one() {
    let (place, ours, other) = (Place::new(), Authority::new("ours"), Authority::new("other"));
    let server = TlsServer::with(place.settings(&ours, false, false)).unwrap();
    assert_eq!(once(&server, place.client(None)).await.unwrap().certified, None);
    let met = once(&server, place.client(Some(ours.named(1, "pump-7")))).await.unwrap();
    assert_eq!(met.certified.as_deref(), Some("pump-7"));
    assert!(once(&server, place.client(Some(other.named(1, "pump-7")))).await.is_err());
}

#[tokio::test]
async fn who_is_revoked_is_out_at_once_also_with_a_session_to_resume() {
    let (place, mut ours) = (Place::new(), Authority::new("ours"));
    let server = TlsServer::with(place.settings(&ours, true, true)).unwrap();
    let (stolen, good) = (ours.named(7, "stolen"), ours.named(8, "good"));
    let (stolen, good) = (Arc::new(place.client(Some(stolen))), Arc::new(place.client(Some(good))));
    assert_eq!(meet(&server, &stolen).await.unwrap().kind, HandshakeKind::Full);
    let again = meet(&server, &stolen).await.unwrap();
    assert_eq!((again.kind, again.certified.as_deref()), (HandshakeKind::Resumed, Some("stolen")));

    ours.revoked.push(7);
    place.write("crl.pem", &ours.list());
    server.reload().unwrap();
    assert!(meet(&server, &stolen).await.is_err());
    assert!(meet(&server, &good).await.is_ok());

    place.write("crl.pem", "-----BEGIN X509 CRL-----\nhalf");
    assert!(server.reload().unwrap_err().to_string().contains("crl.pem"));
    assert!(meet(&server, &stolen).await.is_err(), "a broken list changes nothing");
}

#[tokio::test]
async fn authorities_change_live() {
    let (place, old, new) = (Place::new(), Authority::new("old"), Authority::new("new"));
    let server = TlsServer::with(place.settings(&old, false, true)).unwrap();
    let client = Arc::new(place.client(Some(old.named(1, "a"))));
    assert!(meet(&server, &client).await.is_ok());
    place.write("ca.pem", &new.pem);
    server.reload().unwrap();
    assert!(meet(&server, &client).await.is_err());
    assert!(once(&server, place.client(Some(new.named(1, "b")))).await.is_ok());
}

#[tokio::test]
async fn without_client_certificates_sessions_outlive_a_change() {
    let place = Place::new();
    let server = TlsServer::load(&[place.directory.path().join("own.pem")]).unwrap();
    let client = Arc::new(place.client(None));
    assert_eq!(meet(&server, &client).await.unwrap().kind, HandshakeKind::Full);
    server.reload().unwrap();
    assert_eq!(meet(&server, &client).await.unwrap().kind, HandshakeKind::Resumed);
}

#[tokio::test]
async fn the_oldest_version_and_the_key_exchange_are_the_operators() {
    let place = Place::new();
    let plain = TlsSettings::of(&[place.directory.path().join("own.pem")]);
    let old = || place.client_of(None, &[&rustls::version::TLS12]);
    let server = TlsServer::with(plain.clone()).unwrap();
    let met = once(&server, place.client(None)).await.unwrap();
    assert_eq!((met.version, met.group), (ProtocolVersion::TLSv1_3, NamedGroup::X25519MLKEM768));
    assert_eq!(once(&server, old()).await.unwrap().version, ProtocolVersion::TLSv1_2);

    let strict = TlsSettings { least: LeastVersion::Tls13, post_quantum: PostQuantum::Off, ..plain };
    let server = TlsServer::with(strict).unwrap();
    let met = once(&server, place.client(None)).await.unwrap();
    assert_eq!((met.version, met.group), (ProtocolVersion::TLSv1_3, NamedGroup::X25519));
    assert!(once(&server, old()).await.is_err());
}

fn alternatives(params: &mut CertificateParams) {
    params.subject_alt_names = vec![
        SanType::Rfc822Name("a@example.com".try_into().unwrap()),
        SanType::URI("spiffe://example.com/pump".try_into().unwrap()),
        SanType::DnsName("pump.example.com".try_into().unwrap()),
    ];
}

#[test]
fn a_certificate_names_its_owner_by_the_first_usable_name() {
    let ours = Authority::new("ours");
    let name = |change: fn(&mut CertificateParams)| {
        identity(&ours.card(1, change).chain[0], UnixTime::now()).unwrap()
    };
    let all = name(|params| {
        params.distinguished_name.push(DnType::CommonName, "pump é");
        alternatives(params);
    });
    assert_eq!(all.as_deref(), Some("pump é"));
    assert_eq!(name(alternatives).as_deref(), Some("pump.example.com"));
    let uri = name(|params| {
        alternatives(params);
        params.subject_alt_names.pop();
    });
    assert_eq!(uri.as_deref(), Some("spiffe://example.com/pump"));
    let mail = name(|params| {
        alternatives(params);
        params.subject_alt_names.truncate(1);
    });
    assert_eq!(mail.as_deref(), Some("a@example.com"));
    assert_eq!(name(|_| {}), None);
    let forged = name(|params| params.distinguished_name.push(DnType::CommonName, "admin\nuser"));
    assert_eq!(forged, None, "nothing that could break a line of a log");
    let later = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1 << 40));
    assert_eq!(identity(&ours.named(1, "a").chain[0], later), Err(Expired));
}

#[test]
fn files_about_clients_are_named_with_their_problems() {
    let (place, ours) = (Place::new(), Authority::new("ours"));
    let settings = place.settings(&ours, true, true);
    let error = |name: &str, text: &str| {
        let good = std::fs::read_to_string(place.directory.path().join(name)).unwrap();
        place.write(name, text);
        let error = TlsServer::with(settings.clone()).unwrap_err().to_string();
        place.write(name, &good);
        error
    };
    assert!(error("ca.pem", "").contains("ca.pem: holds no certificate of an authority"));
    assert!(error("crl.pem", &ours.pem).contains("crl.pem: holds no list of revoked certificates"));
    let broken = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    assert!(error("crl.pem", broken).contains("crl.pem: client certificates cannot be checked"));
    TlsServer::with(settings).unwrap();
}
