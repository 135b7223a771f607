//! The keys of `[listen.tls]`: several certificates, client certificates, versions, bounds of handshakes.

use std::process::Command;

use nsd_edge::proxy_header::ProxyHeader;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::tls::{Authority, NAME, Place, connect, s_client};
use crate::support::{BINARY, Broker, CHECK, Client, PATIENCE, UNCHECKED, until};

/// Names that the balancer has told servers.
fn identities(broker: &Broker) -> Vec<String> {
    let told = |header: ProxyHeader| match header {
        ProxyHeader::Proxied { extras, .. } => extras.identity().map(str::to_owned),
        ProxyHeader::Local => None,
    };
    broker.headers().into_iter().filter_map(told).collect()
}

#[tokio::test]
async fn the_name_and_the_clients_ciphers_choose_among_certificates() {
    let place = Place::new();
    std::fs::create_dir(place.path("more")).unwrap();
    place.write("more/a-rsa.pem", &place.authority.rsa_server(NAME).combined());
    place.write("more/other.pem", &place.authority.server("*.other.example").combined());
    let b1 = Broker::start("b1").await;
    let files = r#"certificates = ["DIR/own.pem", "DIR/more"]"#;
    let secure = place.start(UNCHECKED, files, &[&b1]).await;
    secure.connect().await.unwrap();
    assert!(s_client(secure.tls, &["-sigalgs", "ECDSA+SHA256"]).contains("id-ecPublicKey"));
    assert!(s_client(secure.tls, &["-sigalgs", "RSA-PSS+SHA256"]).contains("rsaEncryption"));
    assert!(
        s_client(secure.tls, &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"])
            .contains("rsaEncryption")
    );
    let other =
        s_client(secure.tls, &["-servername", "x.other.example", "-verify_hostname", "x.other.example"]);
    assert!(other.contains("Verification") && !other.contains("hostname mismatch"), "{other}");
    let (_, status) = secure.balancer.ask(nsd_edge::admin::Method::GET, "/status", None).await;
    assert!(status["certificates"][0]["names"].to_string().contains("*.other.example"), "{status}");
}

#[tokio::test]
async fn a_client_certificate_is_required_told_to_the_server_and_can_be_revoked_live() {
    let place = Place::new();
    let b1 = Broker::start("b1").await;
    b1.expect_proxy();
    place.write("crl.pem", &place.authority.list(&[]));
    let clients = "client_ca = [\"DIR/ca.pem\"]\nclient_crl = [\"DIR/crl.pem\"]";
    let secure = place.start(&format!("{CHECK}\nsend_proxy = \"v2\""), clients, &[&b1]).await;
    let (pump, valve) = (secure.authority.client("pump-7", 7), secure.authority.client("valve", 8));
    let mut kept = secure.connect_with(&pump).await.unwrap();
    assert_eq!(identities(&b1), ["pump-7"]);
    assert!(secure.connect().await.is_err(), "without a certificate nobody comes in");
    let stranger = Authority::new("another").client("pump-7", 7);
    assert!(secure.connect_with(&stranger).await.is_err());
    secure.balancer.wait_for_log("end=\"handshake\"").await;

    secure.write("crl.pem", secure.authority.list(&[7]).as_bytes());
    until("the revoked are refused", async || secure.connect_with(&pump).await.is_err()).await;
    secure.connect_with(&valve).await.unwrap();
    assert!(identities(&b1).contains(&"valve".to_owned()));
    kept.echo(b"who is in stays").await.unwrap();
}

/// Serial number, alternative names and all: the whole of it, also where the session is resumed, if the server is to have it.
#[tokio::test]
async fn a_client_certificate_is_told_whole_where_the_settings_say_so() {
    let place = Place::new();
    let b1 = Broker::start("b1").await;
    b1.expect_proxy();
    let secure = place
        .start(&format!("{CHECK}\nsend_proxy = \"v2-certificate\""), "client_ca = [\"DIR/ca.pem\"]", &[&b1])
        .await;
    let pump = secure.authority.client("pump-7", 7);
    let config = secure.authority.client_config(Some(&pump));
    let certificates = || -> Vec<Option<Vec<u8>>> {
        let told = |header: ProxyHeader| match header {
            ProxyHeader::Proxied { extras, .. } => Some(extras.tls.unwrap().certificate),
            ProxyHeader::Local => None,
        };
        b1.headers().into_iter().filter_map(told).collect()
    };
    let der = CertificateDer::from_pem_slice(pump.certificate.as_bytes()).unwrap().to_vec();
    for _ in 0..2 {
        connect(secure.tls, &config).await.unwrap().echo(b"there and back").await.unwrap();
    }
    assert_eq!(certificates(), [Some(der.clone()), Some(der.clone())]);
    assert_eq!(identities(&b1), ["pump-7", "pump-7"]);
    let text = std::fs::read_to_string(secure.balancer.path("balancer.toml")).unwrap();
    let from = text.find("[[listen]]").unwrap();
    secure.balancer.rewrite(&text[from..].replace("v2-certificate", "v2"));
    secure.balancer.wait_for_log("reloaded: ~mqtt policy").await;
    connect(secure.tls, &config).await.unwrap();
    assert_eq!(certificates(), [Some(der.clone()), Some(der), None]);
    assert_eq!(identities(&b1), ["pump-7"; 3]);
}

#[tokio::test]
async fn optional_means_none_or_a_good_one() {
    let place = Place::new();
    let b1 = Broker::start("b1").await;
    b1.expect_proxy();
    let clients = "client_ca = [\"DIR/ca.pem\"]\nclient_certificate = \"optional\"";
    let secure = place.start(&format!("{CHECK}\nsend_proxy = \"v2\""), clients, &[&b1]).await;
    secure.connect().await.unwrap();
    assert!(identities(&b1).is_empty());
    let stranger = Authority::new("another").client("pump-7", 7);
    assert!(secure.connect_with(&stranger).await.is_err());
    secure.connect_with(&secure.authority.client("pump-7", 7)).await.unwrap();
    assert_eq!(identities(&b1), ["pump-7"]);
}

/// A reload with other TLS settings is for new clients; the old ones, and the address, stay.
#[tokio::test]
async fn versions_and_key_exchanges_are_the_operators_and_change_live() {
    // `openssl` keeps this thread busy, and with it the broker.
    let place = Place::new();
    let b1 = Broker::start("b1").await;
    let strict = place.settings(UNCHECKED, "min_version = \"1.3\"\npost_quantum = false", &[&b1]);
    let ours = place.path("ca.pem");
    let secure = place.start(UNCHECKED, "", &[&b1]).await;
    let old = s_client(secure.tls, &["-tls1_2", "-CAfile", ours.to_str().unwrap()]);
    assert!(old.contains("Protocol  : TLSv1.2") && old.contains("Verify return code: 0"), "{old}");
    assert!(s_client(secure.tls, &["-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"]).contains("alert"));
    let mut kept = secure.connect().await.unwrap();

    secure.balancer.rewrite(&strict);
    secure.balancer.wait_for_log("reloaded: ~mqtt tls").await;
    until("TLS 1.2 is refused", async || {
        s_client(secure.tls, &["-tls1_2"]).contains("alert protocol version")
    })
    .await;
    assert!(s_client(secure.tls, &[]).contains("TLSv1.3"));
    kept.echo(b"goes on").await.unwrap();
}

#[tokio::test]
async fn silent_handshakes_end_at_the_deadline_and_leave_others_unharmed() {
    const SILENT: usize = 1000;
    let place = Place::new();
    let b1 = Broker::start("b1").await;
    // One turn: who has sent a byte and goes on with nothing must not hold it.
    let bounds = "handshake_deadline = \"8s\"\nhandshakes = 1";
    let secure = place.start(UNCHECKED, bounds, &[&b1]).await;
    let mut kept = secure.connect().await.unwrap();
    let mut silent = Vec::new();
    for number in 0..SILENT {
        let mut socket = TcpStream::connect(secure.tls).await.unwrap();
        if number % 2 == 0 {
            socket.write_all(&[0x16, 3, 1]).await.unwrap();
        }
        silent.push(socket);
    }
    kept.echo(&vec![1; 100_000]).await.unwrap();
    secure.connect().await.expect("a handshake among silent ones");
    Client::connect(secure.balancer.address).await.expect("the plain port");
    for socket in &mut silent {
        let ended = tokio::time::timeout(PATIENCE, socket.read(&mut [0; 64])).await;
        assert!(!matches!(ended.expect("closed at the deadline"), Ok(1..)));
    }
    let told = async || secure.balancer.log().matches("end=\"handshake-timeout\"").count() == SILENT;
    until("each is told of", told).await;
    kept.echo(b"still here").await.unwrap();
    assert_eq!(b1.total(), 3);
}

/// What costs time to compute is done one after the other, and each comes to its turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_at_once_wait_for_their_turn_and_all_come_through() {
    let place = Place::new();
    let b1 = Broker::start("b1").await;
    let bounds = "handshake_deadline = \"30s\"\nhandshakes = 1";
    let secure = place.start(UNCHECKED, bounds, &[&b1]).await;
    let mut kept = secure.connect().await.unwrap();
    let config = secure.authority.client_config(None);
    let coming: Vec<_> = (0..100)
        .map(|_| {
            let (address, config) = (secure.tls, config.clone());
            tokio::spawn(async move { connect(address, &config).await.map(drop) })
        })
        .collect();
    kept.echo(b"established").await.unwrap();
    for coming in coming {
        coming.await.unwrap().expect("it comes to its turn");
    }
    kept.echo(b"established").await.unwrap();
    assert_eq!(b1.total(), 101);
}

#[tokio::test]
async fn five_hundred_sessions_stay_while_certificates_change() {
    const SESSIONS: usize = 500;
    let place = Place::new();
    let b1 = Broker::start("b1").await;
    let secure = place.start(UNCHECKED, "", &[&b1]).await;
    let mut clients = Vec::new();
    for _ in 0..SESSIONS {
        clients.push(secure.connect().await.unwrap());
    }
    for round in 0..3_u8 {
        let changes = |log: String| log.matches("certificates changed").count();
        let before = changes(secure.balancer.log());
        secure.write("own.pem", secure.authority.server(NAME).combined().as_bytes());
        until("the change is seen", async || changes(secure.balancer.log()) > before).await;
        for client in &mut clients {
            client.echo(&[round; 500]).await.unwrap();
        }
    }
    secure.write("own.pem", b"-----BEGIN CERTIFICATE-----\nhalf");
    secure.balancer.wait_for_log("certificates not changed").await;
    secure.connect().await.expect("the certificate of before is in use");
    for client in &mut clients {
        client.echo(b"last").await.unwrap();
    }
    assert_eq!((b1.sessions(), b1.total()), (SESSIONS, SESSIONS + 1));
}

#[test]
fn checking_a_file_names_each_bad_file_and_each_bad_key() {
    let place = Place::new();
    let check = |tls: &str| {
        let path = place.path("checked.toml");
        std::fs::write(&path, place.settings(CHECK, tls, &[])).unwrap();
        let output = Command::new(BINARY).arg("--check").arg("--config").arg(path).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(check("client_ca = [\"DIR/ca.pem\"]"), (Some(0), String::new()));
    std::fs::create_dir(place.path("many")).unwrap();
    place.write("many/no-key.pem", &place.authority.pem);
    place.write("many/no-pem.pem", "something else");
    let (code, text) = check(
        "certificates = [\"DIR/own.pem\", \"DIR/many\", \"DIR/absent.pem\"]\nclient_ca = [\"DIR/absent-ca.pem\"]",
    );
    assert_eq!(code, Some(65));
    for (file, problem) in [
        ("many/no-key.pem", "holds no private key"),
        ("many/no-pem.pem", "holds no certificate"),
        ("absent.pem", "cannot read"),
        ("absent-ca.pem", "cannot read"),
    ] {
        let found = text.lines().any(|line| line.contains(file) && line.contains(problem));
        assert!(found, "{file}: {problem}\n{text}");
    }
    let wrong =
        "handshakes = 0\nhandshake_deadline = \"1ms\"\nmin_version = \"1.1\"\nclient_crl = [\"x\"]\nfoo = 1";
    let (code, text) = check(wrong);
    assert_eq!((code, text.lines().count()), (Some(65), 5), "{text}");
    for part in
        ["handshakes: must be between", "handshake_deadline", "1.1", "needs `client_ca`", "unknown key"]
    {
        assert!(text.contains(part), "{part}\n{text}");
    }
}
