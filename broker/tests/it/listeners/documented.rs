//! Every example of `docs/broker-listeners.md` is good, as it stands there.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::certify;

/// The examples: what stands between ```toml and ```.
fn examples(text: &str) -> Vec<&str> {
    text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn every_example_is_taken_by_the_check() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = std::fs::read_to_string(root.join("docs/broker-listeners.md")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (certificates, others) = (directory.path().join("certs"), directory.path().join("etc"));
    std::fs::create_dir(&certificates).unwrap();
    std::fs::create_dir(&others).unwrap();
    certify(&certificates.join("broker.pem"));
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    std::fs::write(others.join("clients-ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let list = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2024, 1, 1),
        next_update: rcgen::date_time_ymd(2094, 1, 1),
        crl_number: rcgen::SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&rcgen::Issuer::new(params, key)).unwrap().pem().unwrap();
    std::fs::write(others.join("clients-crl.pem"), list).unwrap();

    let tickets = others.join("tickets.keys");
    std::fs::write(&tickets, "A".repeat(64)).unwrap();
    std::fs::set_permissions(&tickets, std::fs::Permissions::from_mode(0o600)).unwrap();

    let all = examples(&text);
    assert!(all.len() >= 8, "{} examples", all.len());
    for example in &all {
        let file = directory.path().join("broker.toml");
        let here = example.replace("/certs", &certificates.display().to_string());
        let here = here.replace("/etc/nsd", &others.display().to_string());
        std::fs::write(&file, here).unwrap();
        let checked = Command::new(env!("CARGO_BIN_EXE_nsd-broker"))
            .args(["--check", "--config", &file.display().to_string()])
            .output()
            .unwrap();
        assert!(checked.status.success(), "{example}\n{}", String::from_utf8_lossy(&checked.stderr));
    }
    let keys = [
        "address",
        "tls",
        "certificates",
        "client_ca",
        "client_certificate",
        "client_crl",
        "min_version",
        "post_quantum",
        "ticket_keys",
        "websocket",
        "path",
        "origins",
        "frame_bytes",
        "proxy_protocol",
        "proxy_from",
        "handshakes",
        "handshake_deadline",
        "tcp_user_timeout",
        "connections",
        "connections_per_address",
        "connect_rate",
        "allow",
        "deny",
    ];
    for key in keys {
        let shown = all.iter().any(|example| example.contains(&format!("{key} = ")));
        assert!(shown, "`{key}` has no example");
    }
}
