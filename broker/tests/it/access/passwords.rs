//! The password file and `nsd-broker passwd`.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nsd_wire::{Qos, ReasonCode, Version};
use sha2::Digest;

use super::{Files, as_user, eventually_logged, told};
use crate::support::{Broker, Client, Redis, SOON, eventually};

fn sha256(password: &str) -> String {
    let digest = sha2::Sha256::new().chain_update([7]).chain_update(password).finalize();
    format!("$sha256$07${}", hex::encode(digest))
}

/// Runs `nsd-broker passwd`, with the password where it belongs: at stdin.
pub(super) fn passwd(arguments: &[&str], password: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_nsd-broker"))
        .arg("passwd")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses does not read.
    let _ = child.stdin.take().unwrap().write_all(password);
    child.wait_with_output().unwrap()
}

pub(super) fn set(file: &Path, user: &str, password: &str) {
    let output = passwd(&[file.to_str().unwrap(), user], format!("{password}\n").as_bytes());
    assert!(output.status.success(), "{output:?}");
}

fn with_file(path: &str) -> Broker {
    Broker::start(&format!("[access]\npassword_file = \"{path}\""))
}

#[test]
fn every_form_of_secret_is_understood() {
    let files = Files::new();
    let (file, path) = (files.path("passwords"), files.write("passwords", ""));
    for (user, options) in [("pbkdf2", &[][..]), ("sha512", &["-H", "sha512"][..])] {
        let done = Command::new("mosquitto_passwd").args(options).args(["-b", &path, user, "hush"]).status();
        assert!(done.expect("mosquitto_passwd is installed").success());
    }
    let made = std::fs::read_to_string(&file).unwrap();
    files.write("passwords", &format!("{made}# made by hand\ngenerated:{}\n", sha256("hush")));
    set(&file, "argon2", "hush");
    let output = passwd(&[&path, "scram", "--scram", "--iterations", "4096"], b"hush");
    assert!(output.status.success(), "{output:?}");
    let broker = with_file(&path);
    for version in Version::ALL {
        for user in ["generated", "pbkdf2", "sha512", "argon2", "scram"] {
            let mut client = Client::connect(broker.address, &as_user(version, user, "hush"));
            assert_eq!(client.subscribe(&format!("d/{user}/#"), Qos::AtMostOnce), ReasonCode::Success);
            let reason = Client::refused(broker.address, &as_user(version, user, "hus"));
            assert_eq!(reason, ReasonCode::BadUserNameOrPassword, "{user}");
        }
    }
    for wrong in ["", "hush\n", "hushh"] {
        let reason = Client::refused(broker.address, &as_user(Version::V5, "generated", wrong));
        assert_eq!(reason, ReasonCode::BadUserNameOrPassword, "{wrong:?}");
    }
    for unknown in ["nobody", "", "generated ", "Generated", "pbkdf2:x", "é", "a/b"] {
        let reason = Client::refused(broker.address, &as_user(Version::V5, unknown, "hush"));
        assert_eq!(reason, ReasonCode::BadUserNameOrPassword, "{unknown:?}");
    }
    assert!(!broker.log().contains("hush"), "a password is never logged");
}

#[test]
fn a_removed_user_is_out_at_the_next_connect() {
    let files = Files::new();
    let file = files.path("passwords");
    set(&file, "anna", "first");
    set(&file, "bert", "b");
    let broker = with_file(file.to_str().unwrap());
    let anna = |password| told(&broker, &as_user(Version::V5, "anna", password));
    assert_eq!(anna("first"), ReasonCode::Success);
    set(&file, "anna", "second");
    eventually("the new password is right", SOON, || anna("second") == ReasonCode::Success);
    assert_eq!(anna("first"), ReasonCode::BadUserNameOrPassword);
    let output = passwd(&[file.to_str().unwrap(), "anna", "--delete"], b"");
    assert!(output.status.success(), "{output:?}");
    eventually("the user is out", SOON, || anna("second") == ReasonCode::BadUserNameOrPassword);
    assert_eq!(told(&broker, &as_user(Version::V5, "bert", "b")), ReasonCode::Success);
}

#[test]
fn a_bad_file_changes_nothing_and_is_told_by_its_line() {
    let files = Files::new();
    let path = files.write("passwords", &format!("anna:{}\n", sha256("a")));
    let broker = with_file(&path);
    let knows = |user, password| told(&broker, &as_user(Version::V5, user, password)) == ReasonCode::Success;
    files.replace("passwords", format!("bert:{}\nanna:plaintext-hush\n", sha256("b")));
    eventually_logged(&broker, "passwords:2: the secret is in no known form");
    assert!(knows("anna", "a") && !knows("bert", "b"));
    std::fs::remove_file(&path).unwrap();
    eventually_logged(&broker, "No such file");
    assert!(knows("anna", "a"));
    files.replace("passwords", b"anna:\xff\xfe\n");
    eventually_logged(&broker, "no UTF-8");
    assert!(knows("anna", "a"));
    files.replace("passwords", format!("bert:{}\n", sha256("b")));
    eventually("the good file counts", SOON, || knows("bert", "b"));
    assert!(!knows("anna", "a"));
    assert!(!broker.log().contains("hush"));
}

#[test]
fn a_bad_file_stops_the_start() {
    let files = Files::new();
    let passwords = files.write("passwords", "anna:hush\n");
    let settings = files.write(
        "broker.toml",
        &format!("[[listen]]\naddress = \"127.0.0.1:1\"\n[access]\npassword_file = \"{passwords}\"\n"),
    );
    for options in [&["--check"][..], &[][..]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nsd-broker"));
        let output = command.args(["--config", &settings]).args(options).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(65), "{said}");
        assert!(
            said.contains("passwords:1: the secret is in no known form") && !said.contains("hush"),
            "{said}"
        );
    }
}

#[test]
fn the_file_decides_before_the_store_does() {
    use redis::Commands;
    let (redis, files) = (Redis::start(), Files::new());
    let path = files.write("passwords", &format!("both:{}\n", sha256("file")));
    for (id, password) in [("both", "store"), ("device", "store")] {
        let _: () = redis.connection().hset(format!("nsd:device:{id}"), "secret", sha256(password)).unwrap();
    }
    let broker = Broker::start(&format!(
        "[store]\nkind = \"redis\"\nurl = \"{}\"\n[access]\ndevices = true\npassword_file = \"{path}\"",
        redis.url()
    ));
    for (user, password, expected) in [
        ("both", "file", ReasonCode::Success),
        ("both", "store", ReasonCode::BadUserNameOrPassword),
        ("device", "store", ReasonCode::Success),
        ("device", "file", ReasonCode::BadUserNameOrPassword),
    ] {
        assert_eq!(told(&broker, &as_user(Version::V5, user, password)), expected, "{user} {password}");
    }
}

#[test]
fn passwd_writes_for_its_owner_only_and_replaces_the_file_as_a_whole() {
    let files = Files::new();
    let (real, link) = (files.path("real"), files.path("link"));
    std::fs::write(&real, format!("# people\nbert:{}\n", sha256("b"))).unwrap();
    std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    set(&link, "anna", "secret");
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(std::fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&real).unwrap();
    assert!(text.starts_with("# people\nbert:$sha256$"), "{text}");
    assert!(text.contains("\nanna:$argon2id$v=19$"), "{text}");
    assert!(!text.contains("secret"));
    let left: Vec<_> =
        std::fs::read_dir(files.directory.path()).unwrap().map(|entry| entry.unwrap()).collect();
    assert_eq!(left.len(), 2, "nothing is left behind: {left:?}");
}

#[test]
fn passwd_refuses_what_it_cannot_do_and_touches_nothing() {
    let files = Files::new();
    let good = files.write("good", &format!("bert:{}\n", sha256("b")));
    let bad = files.write("bad", "bert:hush\n");
    let missing = files.path("missing").display().to_string();
    let nowhere = files.path("no/where").display().to_string();
    let long = vec![b'x'; 65_537];
    for (arguments, password, expected) in [
        (&[good.as_str(), "anna"][..], &b""[..], "the password is empty"),
        (&[&good, "anna"], b"\n", "the password is empty"),
        (&[&good, "anna"], &long, "the password is too long"),
        (&[&good, "an:na"], b"x", "colon"),
        (&[&good, ""], b"x", "empty"),
        (&[&good, "#anna"], b"x", "begins with `#`"),
        (&[&good, "anna", "--delete"], b"", "there is no user `anna`"),
        (&[&missing, "anna", "--delete"], b"", "No such file"),
        (&[&bad, "anna"], b"x", "bad:1: the secret is in no known form"),
        (&[&nowhere, "anna"], b"x", "cannot write"),
        (&[&good, "anna", "--scram", "--iterations", "1000"], b"x", "4096"),
    ] {
        let output = passwd(arguments, password);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(expected), "{arguments:?}: {said}");
        assert!(!said.contains("hush"), "{said}");
    }
    assert_eq!(std::fs::read_to_string(&good).unwrap(), format!("bert:{}\n", sha256("b")));
    assert!(!files.path("missing").exists());
}
