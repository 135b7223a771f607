//! What `docs/broker-operations.md` shows is so: each command that it shows runs, each metric and topic that it names is
//! there.

use crate::support::{Broker, port};

fn document() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/broker-operations.md")).unwrap()
}

/// Lines of code blocks that begin like this, without it.
fn shown<'d>(document: &'d str, begin: &str) -> Vec<&'d str> {
    document.lines().filter_map(|line| line.trim_start().strip_prefix(begin)).collect()
}

#[test]
fn every_admin_command_that_is_shown_runs() {
    let broker = Broker::anonymous();
    let _lamp = broker.client(nsd_wire::Version::V5, "lamp-1");
    let document = document();
    let commands = shown(&document, "$ nsd-broker admin ");
    assert!(commands.len() >= 12, "{commands:?}");
    for command in commands {
        let words: Vec<&str> = command
            .split('#')
            .next()
            .unwrap()
            .split_whitespace()
            .map(|word| word.trim_matches('\''))
            .collect();
        // What ends the broker comes last, whatever the order in the document.
        if words.contains(&"stop") || words.contains(&"--stop") {
            continue;
        }
        let (code, out, complaint) = broker.admin(&words);
        let after_drain = words.contains(&"health") || words.contains(&"who") || words.contains(&"kick");
        assert!(code == 0 || after_drain, "{command}: {out}{complaint}");
        assert_ne!(code, 64, "{command}: {complaint}");
    }
    assert_eq!(broker.admin(&["drain", "--rate", "50/s", "--stop"]).0, 0);
}

#[test]
fn the_settings_that_are_shown_load() {
    let document = document();
    let blocks = document.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let mut blocks = blocks.peekable();
    assert!(blocks.peek().is_some());
    for block in blocks {
        let listen = if block.contains("[[listen]]") {
            String::new()
        } else {
            format!("[[listen]]\naddress = \"127.0.0.1:{}\"\n", port())
        };
        let file = directory.path().join("broker.toml");
        std::fs::write(&file, format!("{block}{listen}")).unwrap();
        let checked = std::process::Command::new(env!("CARGO_BIN_EXE_nsd-broker"))
            .arg("--check")
            .arg("--config")
            .arg(&file)
            .output()
            .unwrap();
        assert!(checked.status.success(), "{block}\n{}", String::from_utf8_lossy(&checked.stderr));
    }
}

#[test]
fn every_metric_is_in_the_table_and_the_table_names_no_other() {
    let broker = Broker::anonymous();
    let mut socket = std::os::unix::net::UnixStream::connect(&broker.socket).unwrap();
    std::io::Write::write_all(&mut socket, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut page = String::new();
    std::io::Read::read_to_string(&mut socket, &mut page).unwrap();
    let mut real: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let document = document();
    let mut told: Vec<&str> =
        document.lines().filter_map(|line| line.strip_prefix("| `nsd_broker_")?.split('`').next()).collect();
    // Those of a cluster are only there in one.
    told.retain(|name| !name.starts_with("cluster_"));
    real.sort_unstable();
    told.sort_unstable();
    let told: Vec<String> = told.into_iter().map(|name| format!("nsd_broker_{name}")).collect();
    assert_eq!(real, told);
}
