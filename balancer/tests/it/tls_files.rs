//! What stands beside certificates: OCSP responses, and the day on which they end.

use std::path::Path;
use std::process::Command;

use nsd_edge::admin::Method;
use rcgen::{KeyPair, date_time_ymd};

use crate::support::tls::{NAME, Place, s_client};
use crate::support::{Broker, UNCHECKED, until};

/// As an operator's job makes it: OpenSSL answers for the authority. `state`: `V` good, `R` revoked.
fn respond(place: &Path, state: char, seconds: &str) -> Vec<u8> {
    let revoked = if state == 'R' { "240101000000Z" } else { "" };
    let index = format!("{state}\t490101000000Z\t{revoked}\t01\tunknown\t/CN={NAME}\n");
    std::fs::write(place.join("index.txt"), index).unwrap();
    let mut command = Command::new("openssl");
    command.current_dir(place).args(["ocsp", "-index", "index.txt", "-CA", "ca.pem", "-rsigner", "ca.pem"]);
    command.args(["-rkey", "ca.key", "-issuer", "ca.pem", "-cert", "own.pem", "-nmin", seconds]);
    let output = command.args(["-respout", "response", "-noverify"]).output().expect("openssl is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(place.join("response")).unwrap()
}

#[tokio::test]
async fn an_ocsp_response_beside_the_certificate_is_stapled_and_changes_live() {
    let place = Place::new();
    place.write("ca.key", &place.authority.key);
    let b1 = Broker::start("b1").await;
    let good = respond(place.directory.path(), 'V', "60");
    let secure = place.start(UNCHECKED, "", &[&b1]).await;
    let shown = || {
        let ca = secure.balancer.path("ca.pem");
        s_client(secure.tls, &["-status", "-CAfile", ca.to_str().unwrap()])
    };
    assert!(shown().contains("OCSP response: no response sent"));

    secure.write("own.pem.ocsp", &good);
    until("the response is stapled", async || shown().contains("OCSP Response Status: successful")).await;
    let text = shown();
    assert!(text.contains("Cert Status: good") && text.contains("Verify return code: 0"), "{text}");
    let old = s_client(secure.tls, &["-status", "-tls1_2"]);
    assert!(old.contains("OCSP Response Status: successful"), "{old}");
    let (_, status) = secure.balancer.ask(Method::GET, "/status", None).await;
    assert!(status["certificates"][0]["certificates"][0]["ocsp"]["until"].is_i64(), "{status}");

    // What clients would not believe is not shown, and the handshakes go on.
    let revoked = respond(secure.balancer.directory.path(), 'R', "60");
    for (content, why) in [
        (&b"not a response"[..], "not an OCSP response"),
        (&good[..good.len() - 3], "not an OCSP response"),
        // "tryLater"
        (&[0x30, 3, 0x0a, 1, 3], "gave no answer"),
        (&revoked, "is revoked"),
    ] {
        secure.write("own.pem.ocsp", content);
        secure.balancer.wait_for_log(why).await;
        until("nothing is stapled", async || shown().contains("no response sent")).await;
        secure.connect().await.unwrap();
    }
    secure.write("own.pem.ocsp", &good);
    until("the response is stapled again", async || shown().contains("successful")).await;
    // Of another certificate with another number.
    let other = secure.authority.write(NAME, 2, KeyPair::generate().unwrap(), |_| {});
    secure.write("own.pem", other.combined().as_bytes());
    secure.balancer.wait_for_log("about another certificate").await;
    until("nothing is stapled to it", async || shown().contains("no response sent")).await;
}

#[tokio::test]
async fn a_certificate_that_ends_soon_is_warned_about_and_told() {
    let place = Place::new();
    let b1 = Broker::start("b1").await;
    let ended = place.authority.write("ended.example", 3, KeyPair::generate().unwrap(), |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    place.write("ended.pem", &ended.combined());
    let soon = place.authority.write("soon.example", 4, KeyPair::generate().unwrap(), |params| {
        let now = std::time::SystemTime::now() + std::time::Duration::from_secs(10 * 24 * 3600 + 60);
        params.not_after = now.into();
    });
    place.write("soon.pem", &soon.combined());
    let secure = place
        .start(UNCHECKED, r#"certificates = ["DIR/own.pem", "DIR/ended.pem", "DIR/soon.pem"]"#, &[&b1])
        .await;
    secure.balancer.wait_for_log("the certificate has expired").await;
    secure.balancer.wait_for_log("the certificate expires soon").await;
    let log = secure.balancer.log();
    let warned = |name: &str| log.lines().any(|line| line.contains("WARN") && line.contains(name));
    assert!(warned("ended.example") && warned("soon.example") && !warned(NAME), "{log}");
    assert!(log.contains("days=10"), "{log}");
    let (_, status) = secure.balancer.ask(Method::GET, "/status", None).await;
    let all = status["certificates"][0]["certificates"].as_array().unwrap().clone();
    let ends = |name: &str| all.iter().find(|one| one["names"][0] == name).unwrap()["not_after"].as_i64();
    assert_eq!(ends("ended.example"), Some(1_609_459_200));
    assert!(ends(NAME) > ends("soon.example"));
}
