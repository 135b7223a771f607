//! Other brokers' files, taken over by the command that people use.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use nsd_wire::{Connect, Qos, ReasonCode, Version};

use crate::support::{Broker, Client};

fn convert(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nsd-broker")).arg("convert").args(words).output().unwrap()
}

/// The settings that were made are fine.
fn check(file: &Path) {
    let checked = Command::new(env!("CARGO_BIN_EXE_nsd-broker"))
        .arg("--check")
        .arg("--config")
        .arg(file)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(checked.status.code(), Some(0), "{told}\n{}", std::fs::read_to_string(file).unwrap());
}

fn mosquitto(text: &str) -> (tempfile::TempDir, Output) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mosquitto.conf");
    std::fs::write(&file, text).unwrap();
    let output = convert(&["mosquitto", file.to_str().unwrap(), "--out", folder.path().to_str().unwrap()]);
    (folder, output)
}

#[test]
fn a_plain_file_is_taken_over_whole() {
    let (folder, output) =
        mosquitto("listener 1883 127.0.0.1\nallow_anonymous true\nmax_queued_messages 500\nlog_type all\n");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    check(&folder.path().join("broker.toml"));
    let made = folder.path().join("broker.toml");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("{}\n", made.canonicalize().unwrap().display())
    );
    assert_eq!(std::fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn each_line_without_a_counterpart_is_named_and_the_rest_still_loads() {
    let (folder, output) =
        mosquitto("pid_file /run/x\nlistener 1883\nconnection cloud\naddress x\nremote_password hush\n");
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    for line in [
        "mosquitto.conf:1: `pid_file /run/x`",
        "mosquitto.conf:3: ",
        "mosquitto.conf:4: ",
        "mosquitto.conf:5: `remote_password`",
    ] {
        assert!(told.contains(line), "{line}\n{told}");
    }
    let text = std::fs::read_to_string(folder.path().join("broker.toml")).unwrap();
    assert!(
        text.contains("mosquitto.conf:5: `remote_password`")
            && !text.contains("hush")
            && !told.contains("hush")
    );
    check(&folder.path().join("broker.toml"));
}

#[test]
fn included_files_are_read_in_their_order_and_circles_end() {
    let folder = tempfile::tempdir().unwrap();
    let included = folder.path().join("conf.d");
    std::fs::create_dir(&included).unwrap();
    std::fs::write(included.join("b.conf"), "max_keepalive 20\nodd\n").unwrap();
    std::fs::write(included.join("a.conf"), "max_keepalive 10\n").unwrap();
    std::fs::write(included.join("c.txt"), "max_keepalive 30\n").unwrap();
    let file = folder.path().join("m.conf");
    std::fs::write(&file, format!("include_dir {}\ninclude_dir /nowhere\n", included.display())).unwrap();
    let words = ["mosquitto", file.to_str().unwrap(), "--out", folder.path().to_str().unwrap()];
    let output = convert(&words);
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.contains("conf.d/b.conf:2: `odd`") && told.contains("m.conf:2: `include_dir /nowhere`"),
        "{told}"
    );
    assert!(std::fs::read_to_string(folder.path().join("broker.toml")).unwrap().contains("keep_alive = 20"));
    let again = convert(&words);
    assert_eq!(again.status.code(), Some(1), "nothing is overwritten");
    std::fs::write(included.join("a.conf"), format!("include_dir {}\n", included.display())).unwrap();
    std::fs::remove_file(folder.path().join("broker.toml")).unwrap();
    let circle = convert(&words);
    assert_eq!(circle.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&circle.stderr).contains("deep"));
}

/// Debian's file of all options, as it comes and with every option in effect.
#[test]
fn debians_example_is_understood() {
    let Ok(example) = std::fs::read_to_string("/usr/share/doc/mosquitto/examples/mosquitto.conf") else {
        return;
    };
    let (folder, output) = mosquitto(&example);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    check(&folder.path().join("broker.toml"));
    let in_effect = |line: &str| {
        let option = line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
        option.unwrap_or(line).to_owned()
    };
    let all: Vec<String> = example.lines().map(in_effect).collect();
    let (folder, output) = mosquitto(&all.join("\n"));
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!told.contains("not known to this converter"), "{told}");
    check(&folder.path().join("broker.toml"));
}

#[test]
fn a_tls_listener_gets_its_combined_file() {
    let folder = tempfile::tempdir().unwrap();
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("cert.pem"), signed.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), signed.signing_key.serialize_pem()).unwrap();
    let text = format!(
        "listener 8883 127.0.0.1\ncertfile {}\nkeyfile {}\nallow_anonymous true\n",
        path("cert.pem").display(),
        path("key.pem").display()
    );
    std::fs::write(path("m.conf"), text).unwrap();
    let output =
        convert(&["mosquitto", path("m.conf").to_str().unwrap(), "--out", folder.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    check(&path("broker.toml"));
    let combined = std::fs::read_to_string(path("listener-8883.pem")).unwrap();
    assert!(combined.contains("BEGIN CERTIFICATE") && combined.contains("PRIVATE KEY"));
    assert_eq!(std::fs::metadata(path("listener-8883.pem")).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!String::from_utf8_lossy(&output.stdout).contains("PRIVATE"));
}

#[test]
fn moscas_users_become_two_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credentials.json");
    let hash = "A".repeat(170) + "==";
    let json = format!(
        r#"{{"lamp":{{"salt":"c2FsdHNhbHQ=","hash":"{hash}","authorizePublish":"lamps/**","authorizeSubscribe":"a?"}}}}"#
    );
    std::fs::write(&file, json).unwrap();
    let output = convert(&["mosca", file.to_str().unwrap(), "--out", folder.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("user `lamp`: authorizeSubscribe `a?`"));
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert!(read("passwords").starts_with("lamp:$pbkdf2-sha1$10000$c2FsdHNhbHQ=$"));
    assert!(read("acl").ends_with("user lamp\ntopic write lamps/#\n"));
    std::fs::write(&file, "not json").unwrap();
    assert_eq!(convert(&["mosca", file.to_str().unwrap()]).status.code(), Some(1));
    assert_eq!(convert(&["mosca", "/nowhere"]).status.code(), Some(1));
}

/// Made by `mosca adduser`, version 2.8.3: password `secret`.
const SALT: &str = "NjLy6gdQTjG/gZPpfz1/+n5GqxgPGznFPqysWLjeGv94liuP7lIjiWBXkgrVhpu+l755LJHT9sjelfSqyCeufA==";
const HASH: &str = "eqbFxnVTehrVesO+GLCdIh5XO0mgcfKbBIMF+4L8urlvRhFfoqFma/PugzgeKEVoxIPGxk4LpgzPPy2b8o1R+WdM+G8uucAB6mDUL9N+t4fmMwBkEPhu/CC+Atn18DTBYW3Q8qSEubV+jYHERc87wlkHcX9sEm5XhNvH+alebMM=";

#[test]
fn moscas_users_come_in_with_the_passwords_they_have() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credentials.json");
    let json = format!(
        r#"{{"lamp":{{"salt":"{SALT}","hash":"{HASH}","authorizePublish":"lamps/*/state","authorizeSubscribe":"lamps/**"}}}}"#
    );
    std::fs::write(&file, json).unwrap();
    let folder_name = folder.path().to_str().unwrap();
    let output = convert(&["mosca", file.to_str().unwrap(), "--out", folder_name]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let broker = Broker::start(&format!(
        "[access]\npassword_file = \"{folder_name}/passwords\"\nacl_file = \"{folder_name}/acl\""
    ));
    let connect = |password: &'static [u8]| Connect {
        user_name: Some("lamp"),
        password: Some(password),
        ..Connect::new(Version::V5, "c")
    };
    assert_eq!(Client::refused(broker.address, &connect(b"Secret")), ReasonCode::BadUserNameOrPassword);
    let mut lamp = Client::connect(broker.address, &connect(b"secret"));
    assert_eq!(lamp.publish("lamps/7/state", b"on", Qos::AtLeastOnce), ReasonCode::Success);
    assert_eq!(lamp.publish("lamps/7/other", b"on", Qos::AtLeastOnce), ReasonCode::NotAuthorized);
    assert_eq!(lamp.subscribe("lamps/7/#", Qos::AtMostOnce), ReasonCode::Success);
    assert_eq!(lamp.subscribe("doors/#", Qos::AtMostOnce), ReasonCode::NotAuthorized);
}
