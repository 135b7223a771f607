//! Sessions that are resumed: by the same process, by another one with the same keys, and by nobody else.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::tls::{Place, Secure, keep_session, s_client};
use crate::support::{BINARY, Broker, UNCHECKED, until};

const VERSIONS: [(&str, &str); 2] = [("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")];
const KEYS: &str = "ticket_keys = \"DIR/tickets.keys\"";

/// One line of the file.
fn key(of: char) -> String {
    // Base64 of 48 bytes.
    of.to_string().repeat(64)
}

fn write_keys(directory: &Path, text: &str) {
    let aside = directory.join("tickets.aside");
    std::fs::write(&aside, text).unwrap();
    std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(aside, directory.join("tickets.keys")).unwrap();
}

/// Whether the session in the file is taken up again.
fn resumes(secure: &Secure, version: (&str, &str), file: &Path) -> bool {
    let said = s_client(secure.tls, &[version.0, "-sess_in", file.to_str().unwrap()]);
    let resumed = said.contains(&format!("Reused, {}", version.1));
    assert!(resumed || said.contains(&format!("New, {}", version.1)), "{said}");
    resumed
}

async fn sessions(secure: &Secure) -> [std::path::PathBuf; 2] {
    let files = VERSIONS.map(|(option, _)| secure.balancer.path(&format!("session{option}")));
    for ((option, _), file) in VERSIONS.iter().zip(&files) {
        keep_session(secure.tls, file, &[option]).await;
    }
    files
}

#[tokio::test]
async fn a_restart_and_a_twin_resume_sessions_under_shared_keys() {
    let place = Place::new();
    let b1 = Broker::start("b1").await;
    write_keys(place.directory.path(), &format!("# first\n{}\n", key('A')));
    let twin = Place::new();
    write_keys(twin.directory.path(), &format!("{}\n{}\n", key('B'), key('A')));
    let mut secure = place.start(UNCHECKED, KEYS, &[&b1]).await;
    let twin = twin.start(UNCHECKED, KEYS, &[&b1]).await;
    let files = sessions(&secure).await;
    for (version, file) in VERSIONS.into_iter().zip(&files) {
        assert!(resumes(&secure, version, file), "the same process, {version:?}");
        assert!(resumes(&twin, version, file), "a twin, {version:?}");
    }
    secure.restart().await;
    for (version, file) in VERSIONS.into_iter().zip(&files) {
        assert!(resumes(&secure, version, file), "after a restart, {version:?}");
    }
}

#[tokio::test]
async fn keys_are_rotated_live_and_a_bad_file_keeps_the_old() {
    let place = Place::new();
    let b1 = Broker::start("b1").await;
    write_keys(place.directory.path(), &key('A'));
    let secure = place.start(UNCHECKED, KEYS, &[&b1]).await;
    let directory = secure.balancer.directory.path();
    let files = sessions(&secure).await;
    let all = async |wanted: bool| {
        VERSIONS.into_iter().zip(&files).all(|(version, file)| resumes(&secure, version, file) == wanted)
    };
    write_keys(directory, "half a key");
    secure.balancer.wait_for_log("line 1 is no key").await;
    assert!(all(true).await, "a bad file changes nothing");
    write_keys(directory, &key('A'));
    std::fs::set_permissions(directory.join("tickets.keys"), std::fs::Permissions::from_mode(0o644)).unwrap();
    secure.balancer.wait_for_log("others may read it (mode 644)").await;
    assert!(all(true).await);

    write_keys(directory, &format!("{}\n{}\n", key('B'), key('A')));
    let rotated = async || secure.balancer.log().matches("certificates changed").count() >= 1;
    until("the keys are rotated", rotated).await;
    assert!(all(true).await, "the key of before still opens");
    write_keys(directory, &key('B'));
    until("the key is gone", async || all(false).await).await;
    assert!(!secure.balancer.log().contains(&key('A')), "a key is nothing for a log");
}

#[tokio::test]
async fn without_shared_keys_a_reload_keeps_sessions_and_a_restart_ends_them() {
    let place = Place::new();
    let b1 = Broker::start("b1").await;
    let mut secure = place.start(UNCHECKED, "", &[&b1]).await;
    let files = sessions(&secure).await;
    secure.balancer.ask(nsd_edge::admin::Method::POST, "/reload", None).await;
    for (version, file) in VERSIONS.into_iter().zip(&files) {
        assert!(resumes(&secure, version, file), "{version:?}");
    }
    secure.restart().await;
    for (version, file) in VERSIONS.into_iter().zip(&files) {
        assert!(!resumes(&secure, version, file), "{version:?}");
    }
}

#[test]
fn a_key_file_is_checked_before_the_start() {
    let place = Place::new();
    let check = |tls: &str| {
        let path = place.path("checked.toml");
        std::fs::write(&path, place.settings(UNCHECKED, tls, &[])).unwrap();
        let output = Command::new(BINARY).arg("--check").arg("--config").arg(path).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert!(check(KEYS).1.contains("tickets.keys: cannot read"));
    write_keys(place.directory.path(), &key('A'));
    assert_eq!(check(KEYS), (Some(0), String::new()));
    std::fs::set_permissions(place.path("tickets.keys"), std::fs::Permissions::from_mode(0o604)).unwrap();
    let (code, text) = check(KEYS);
    assert!(code == Some(65) && text.contains("mode 604"), "{text}");
    let (code, text) = check(&format!("{KEYS}\nclient_ca = [\"DIR/ca.pem\"]"));
    assert!(code == Some(65) && text.contains("ticket_keys: cannot be together"), "{text}");
}
