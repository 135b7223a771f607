//! Client certificates, over the wire.

use std::path::PathBuf;
use std::sync::Arc;

use nsd_wire::{Connect, Version};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;

use super::{certify, saw};
use crate::support::{Broker, Client, SOON, eventually};

/// An authority for clients.
struct Authority(Issuer<'static, KeyPair>);

impl Authority {
    fn new(file: &PathBuf) -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        std::fs::write(file, params.self_signed(&key).unwrap().pem()).unwrap();
        Self(Issuer::new(params, key))
    }

    fn client(&self, server: &[u8], name: &str) -> rustls::ClientConfig {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        builder(server).with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
    }
}

fn builder(server: &[u8]) -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(server.to_vec().into()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots)
}

/// Connects; the error is what the broker did instead of letting it in.
fn connect(broker: &Broker, config: rustls::ClientConfig, id: &str) -> Result<Client, ()> {
    let (socket, stream) = super::websocket::secured(broker.address, config).map_err(drop)?;
    let mut client = Client::over(socket, Box::new(stream), Version::V5);
    client.try_send_raw(&encoded(id));
    let let_in = client.next(SOON, |packet| matches!(packet, nsd_wire::Packet::ConnAck(_)));
    if let_in == Ok(true) { Ok(client) } else { Err(()) }
}

fn encoded(id: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let connect = nsd_wire::Packet::Connect(Connect::new(Version::V5, id));
    connect.encode(Version::V5, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_required_certificate_opens_the_door_and_names_its_owner() {
    let directory = tempfile::tempdir().unwrap();
    let (own, ca) = (directory.path().join("x.pem"), directory.path().join("ca.pem"));
    let server = certify(&own);
    let (ours, other) = (Authority::new(&ca), Authority::new(&directory.path().join("other.pem")));
    let broker = Broker::listening(&format!(
        "tls = {{ certificates = [\"{}\"], client_ca = [\"{}\"] }}",
        own.display(),
        ca.display()
    ));
    let mut pump = connect(&broker, ours.client(&server, "pump-7"), "pump").unwrap();
    assert!(saw(&broker, "127.0.0.1", Some("pump-7")), "{}", broker.log());
    assert!(connect(&broker, other.client(&server, "pump-7"), "forged").is_err());
    assert!(connect(&broker, builder(&server).with_no_client_auth(), "without").is_err());

    // Another authority, live: who is inside stays, who comes needs a new certificate.
    let new = Authority::new(&ca);
    eventually("the new authority's clients are taken", SOON * 2, || {
        connect(&broker, new.client(&server, "pump-8"), "new").is_ok()
    });
    assert!(connect(&broker, ours.client(&server, "pump-7"), "old").is_err());
    pump.ping();
}

#[test]
fn an_optional_certificate_may_be_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let (own, ca) = (directory.path().join("x.pem"), directory.path().join("ca.pem"));
    let server = certify(&own);
    let (ours, other) = (Authority::new(&ca), Authority::new(&directory.path().join("other.pem")));
    let broker = Broker::listening(&format!(
        "tls = {{ certificates = [\"{}\"], client_ca = [\"{}\"], client_certificate = \"optional\" }}",
        own.display(),
        ca.display()
    ));
    connect(&broker, builder(&server).with_no_client_auth(), "without").unwrap().ping();
    assert!(saw(&broker, "127.0.0.1", None) && !broker.log().contains("certified="));
    assert!(connect(&broker, other.client(&server, "pump-7"), "forged").is_err());
    connect(&broker, ours.client(&server, "pump-7"), "pump").unwrap().ping();
    assert!(saw(&broker, "127.0.0.1", Some("pump-7")));
}
