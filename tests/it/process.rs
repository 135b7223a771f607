//! Deploys on this machine as plain processes: no Docker, no SSH, nothing installed.

use std::time::Duration;

use crate::history::SYSTEM;
use crate::support::{Home, eventually, same};

/// Stops the system when the test ends, however it ends.
pub(crate) struct Stopped<'h>(pub(crate) &'h Home, pub(crate) &'static str);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.nsd(self.1, "sys stop -y");
    }
}

#[test]
fn a_deploy_a_second_one_a_change_and_a_stop() {
    let home = Home::new();
    home.sample(SYSTEM);
    let _stopped = Stopped(&home, "sample");
    home.ok("sample", "sys compile local");
    assert_eq!(home.nsd("sample", "rev preview --exit-code").code, 2);
    let mut text = home
        .all_shown("sample", &["rev preview", "rev deploy head", "rev deploy head", "status", "sys analyze"]);
    assert_eq!(home.nsd("sample", "rev preview --exit-code").code, 0);
    home.sample(&SYSTEM.replace("3601", "3602"));
    text.push_str(&home.all_shown(
        "sample",
        &["up", "up", "rev list", "rev deploy previous", "sys stop", "sys stop", "status", "timeline list"],
    ));
    same!("deploy", text);
}

#[test]
fn preview_and_deploy_show_the_same_steps() {
    let home = Home::new();
    home.sample(SYSTEM);
    let _stopped = Stopped(&home, "sample");
    home.ok("sample", "sys compile local");
    let preview = home.ok("sample", "rev preview --json").json();
    let deployed = home.ok("sample", "rev deploy head --json").json();
    assert_eq!(preview["stages"], deployed["plan"]["stages"]);
    assert_eq!(preview["changes"], deployed["plan"]["changes"]);
    assert_eq!(deployed["outcome"]["result"]["result"], "completed");
}

#[test]
fn what_does_not_come_up_is_taken_back() {
    let home = Home::new();
    home.sample(SYSTEM);
    let _stopped = Stopped(&home, "sample");
    home.ok("sample", "up");
    let before = home.ok("sample", "status --json").json();
    // `late` now ends at once: its replacement fails, and the one before runs again.
    home.sample(&SYSTEM.replace("[\"sleep\", \"3601\"]", "[\"sh\", \"-c\", \"echo no good >&2; exit 3\"]"));
    let ran = home.nsd("sample", "up");
    assert_eq!(ran.code, 4, "{}", ran.all());
    assert!(ran.stderr.contains("local.late.1"), "{}", ran.stderr);
    assert!(ran.stdout.contains("1 to replace, 1 unchanged\n"), "{}", ran.stdout);
    for word in ["deployed", "created", "replaced"] {
        assert!(!ran.stdout.contains(word), "a failed deploy says `{word}`: {}", ran.stdout);
    }
    let after = home.ok("sample", "status --json").json();
    let states = |value: &serde_json::Value| {
        value["instances"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (one["instance"].clone(), one["state"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(states(&before), states(&after));
    let entries = home.ok("sample", "timeline list --json").json();
    assert_eq!(
        (entries[0]["result"].as_str(), entries[1]["result"].as_str()),
        (Some("rolled-back"), Some("done"))
    );
    // What is deployed is the revision that was deployed wholly.
    let deployed = home.ok("sample", "rev list --json").json();
    assert_eq!(deployed["deployed"], entries[1]["revision"]);
}

#[test]
fn ctrl_c_takes_back_and_records() {
    let home = Home::new();
    // It never listens, so the deploy waits for its health until it is interrupted.
    home.sample(&SYSTEM.replace(
        "needs = [\"clock\"]",
        "needs = [\"clock\"]\nports = [\"25990\"]\nhealth = { tcp = 25990, deadline = \"60s\" }",
    ));
    let _stopped = Stopped(&home, "sample");
    home.ok("sample", "sys compile local");
    let deploy = home.start("sample", "rev deploy head");
    eventually(20, "the second process is started", || {
        let status = home.nsd("sample", "sys analyze --json").json();
        let instances = status["machines"]["local"]["instances"].as_array().cloned().unwrap_or_default();
        instances
            .iter()
            .any(|one| one["instance"] == "local.late.1" && one["status"] == "running")
            .then_some(())
    });
    let pid = rustix::process::Pid::from_raw(i32::try_from(deploy.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ran: crate::support::Ran = deploy.wait_with_output().unwrap().into();
    assert_eq!(ran.code, 130, "{}", ran.all());
    assert!(ran.stderr.contains("interrupted"), "{}", ran.stderr);
    assert!(!ran.stdout.contains("deployed"), "{}", ran.stdout);
    let left = home.ok("sample", "sys analyze --json").json();
    assert_eq!(left["machines"]["local"]["instances"].as_array().unwrap().len(), 0, "{left}");
    assert_eq!(home.ok("sample", "timeline list --json").json()[0]["result"], "interrupted");
}

#[test]
fn a_port_that_a_stranger_has_is_told_and_nothing_stays() {
    let home = Home::new();
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = stranger.local_addr().unwrap().port();
    // The stranger would answer the health check in its place.
    home.sample(&SYSTEM.replace(
        "needs = [\"clock\"]",
        &format!("needs = [\"clock\"]\nports = [\"{port}:{port}\"]\nhealth = {{ tcp = {port} }}"),
    ));
    let _stopped = Stopped(&home, "sample");
    let ran = home.nsd("sample", "up");
    assert_eq!(ran.code, 4, "{}", ran.all());
    assert!(ran.stderr.contains(&format!("port {port} of this machine is taken")), "{}", ran.stderr);
    let left = home.ok("sample", "sys analyze --json").json();
    assert_eq!(left["machines"]["local"]["instances"].as_array().unwrap().len(), 0, "{left}");
}

#[test]
fn a_secret_reaches_its_program_and_nothing_else() {
    let home = Home::new();
    home.sample(
        &SYSTEM
            .replace("[\"sleep\", \"3600\"]", "[\"sh\", \"-c\", \"printf %s $TOKEN | wc -c; sleep 3600\"]"),
    );
    let _stopped = Stopped(&home, "sample");
    let mut told = String::new();
    for line in [
        "sys compile local -v",
        "rev preview -v",
        "up -v",
        "status",
        "sys show --json",
        "rev get head",
        "sys analyze --json",
        "timeline list --json",
    ] {
        told.push_str(&home.nsd("sample", line).all());
    }
    let secret = std::fs::read_to_string(home.path("sample/.nsd/secrets/token")).unwrap();
    assert_eq!(secret.len(), 43);
    let logged = eventually(10, "the program prints the length of its secret", || {
        let ran = home.nsd("sample", "logs clock");
        ran.stdout.contains("| 43").then_some(ran)
    });
    told.push_str(&logged.all());
    assert!(!told.contains(&secret), "a secret was printed");
    // Not in git, not in any argument list of this machine.
    let git = git2::Repository::open(home.path("sample")).unwrap();
    let objects = git.odb().unwrap();
    objects
        .foreach(|id| {
            let object = objects.read(*id).unwrap();
            assert!(
                !object.data().windows(secret.len()).any(|part| part == secret.as_bytes()),
                "a secret is in git"
            );
            true
        })
        .unwrap();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        assert!(
            !arguments.windows(secret.len()).any(|part| part == secret.as_bytes()),
            "a secret is in an argument list"
        );
    }
}

#[test]
fn logs_follow_until_the_reader_leaves() {
    let home = Home::new();
    let talk = "[\"sh\", \"-c\", \"i=0; while sleep 0.1; do i=$((i+1)); echo line $i; done\"]";
    home.sample(&SYSTEM.replace("[\"sleep\", \"3600\"]", talk));
    let _stopped = Stopped(&home, "sample");
    home.ok("sample", "up");
    let mut follow = home.start("sample", "logs clock -f -n 1");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(follow.stdout.take().unwrap()));
    for _ in 0..3 {
        let line = lines.next().unwrap().unwrap();
        assert!(line.starts_with("local.clock.1 | line "), "{line}");
    }
    drop(lines);
    let ended = eventually(10, "nsd ends when nobody reads", || follow.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0));
    for line in home.ok("sample", "logs clock --json -n 3").stdout.lines() {
        assert_eq!(serde_json::from_str::<serde_json::Value>(line).unwrap()["instance"], "local.clock.1");
    }
}

#[test]
fn a_system_without_machines_that_answer_changes_nothing() {
    let home = Home::new();
    let machine = "\n[topology.far.machines]\nfar-1 = { ip = \"127.0.0.1\", port = 25999, user = \"nobody\", contains = [\"clock\"] }\n";
    let system = format!("{SYSTEM}{machine}")
        .replace("program = [\"sleep\", \"3600\"]", "program = [\"sleep\", \"3600\"]\nimage = \"busybox:1\"");
    home.sample(&system);
    home.ok("sample", "sys compile far");
    for line in ["rev deploy head", "status", "sys analyze"] {
        let began = std::time::Instant::now();
        let ran = home.nsd("sample", line);
        assert_eq!(ran.code, 6, "{}", ran.all());
        assert!(ran.stderr.contains("far-1"), "{}", ran.stderr);
        assert!(began.elapsed() < Duration::from_secs(20));
    }
    assert_eq!(home.ok("sample", "timeline list --json").json().as_array().unwrap().len(), 0);
}
