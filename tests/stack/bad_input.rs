//! What a hostile operator, or an unlucky one, does to a deploy: one clear error, the documented exit code, nothing
//! half-recorded.

use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use crate::lab::Lab;
use crate::site::{Said, Site};

/// Redis on m1 and the sample worker from git on m2.
fn small_system(lab: &Lab, branch: &str) -> String {
    format!(
        r#"
name = "small"
namespace = "test"
id = "0b8b7a52-6d4f-4c6e-8f43-1d1c6a0f4d11"

[ssh]
user = "root"
identity = "lab-key"

[secrets]
redis = {{ generate = 32 }}

[process.redis]
image = "{registry}/redis:7"
ports = ["6379:6379"]
files = [{{ template = "redis.conf.tera", to = "/etc/redis/redis.conf" }}]
command = ["redis-server", "/etc/redis/redis.conf"]
user = "999:999"
volumes = ["redis-data:/data"]
health = {{ tcp = 6379 }}

[process.worker]
repository = "{git}/worker.git#{branch}"
needs = ["redis"]
ports = ["8080:8080"]
health = {{ tcp = 8080 }}

[topology.direct.machines]
one = {{ ip = "{one}", contains = ["redis"] }}
two = {{ ip = "{two}", contains = ["worker"] }}
"#,
        registry = lab.registry.address,
        git = lab.git.url,
        one = lab.address("m1"),
        two = lab.address("m2"),
    )
}

fn small_site(lab: &Lab) -> Site {
    let site = Site::new(lab);
    site.write(&small_system(lab, "main"));
    site.ok(&["mach", "trust", "-y"]);
    site
}

fn deployed_site(lab: &Lab) -> Site {
    let site = small_site(lab);
    site.ok(&["up", "direct", "-y"]);
    site
}

fn names(lab: &Lab, machine: &str) -> String {
    lab.exec(machine, "docker ps -a --format '{{.Names}} {{.Status}}' | sort")
}

fn last_deploy(site: &Site) -> String {
    let timeline = site.json(&["timeline", "list", "--json"]);
    let entries = timeline.as_array().expect("a timeline is a list").clone();
    entries.iter().find(|entry| entry["action"] == "deploy").map(ToString::to_string).unwrap_or_default()
}

#[test]
fn a_machine_that_cannot_be_asked_stops_a_deploy_before_it_starts() {
    let lab = Lab::take(2);
    let site = small_site(&lab);
    site.ok(&["sys", "comp", "direct"]);
    site.ok(&["cont", "buildall"]);

    lab.machine(&["link-down", "m2"]);
    site.fails(&["rev", "dep", "head", "-y"], 6, &["two"]);
    lab.machine(&["link-up", "m2"]);

    lab.machine(&["no-docker", "m2"]);
    site.fails(&["rev", "dep", "head", "-y"], 6, &["two", "Docker"]);
    lab.machine(&["kill", "m2"]);
    lab.machine(&["boot", "m2"]);

    lab.machine(&["new-host-key", "m2"]);
    site.fails(&["rev", "dep", "head", "-y"], 6, &["two", "host key", "nsd mach trust"]);
    assert_eq!(names(&lab, "m1"), "", "the machine that could be reached was not touched");

    site.ok(&["mach", "trust", "-y"]);
    site.ok(&["rev", "dep", "head", "-y"]);
    site.ok(&["sys", "stop", "-y"]);
}

#[test]
fn sources_that_are_not_there_or_do_not_build() {
    let lab = Lab::take(2);
    let site = small_site(&lab);

    site.write(&small_system(&lab, "no-such-branch"));
    site.fails(&["sys", "comp", "direct"], 1, &["no-such-branch", "worker"]);
    site.write(&small_system(&lab, "main").replace("worker.git", "nothing.git"));
    site.fails(&["sys", "comp", "direct"], 1, &["nothing.git"]);
    let listed = site.json(&["rev", "list", "--topology", "direct", "--json"]);
    assert!(listed["revisions"].as_array().is_some_and(Vec::is_empty), "nothing is half-recorded: {listed}");

    site.write(&small_system(&lab, "broken"));
    site.ok(&["sys", "comp", "direct"]);
    site.fails(&["cont", "buildall"], 1, &["worker", "this build fails on purpose"]);
    let refused = site.nsd(&["rev", "dep", "head", "-y"]);
    assert!(refused.code != 0 && refused.stderr.contains("nsd cont build"), "{}", refused.stderr);
    assert_eq!(names(&lab, "m1"), "");
}

#[test]
fn a_failing_change_is_taken_back_everywhere() {
    let lab = Lab::take(2);
    let site = deployed_site(&lab);
    let before = (names_only(&lab, "m1"), names_only(&lab, "m2"));

    // The worker never answers on this port; Redis, which comes first, has been replaced by then.
    site.edit("health = { tcp = 8080 }", "health = { tcp = 8081, deadline = \"3s\" }");
    site.edit("ports = [\"8080:8080\"]", "ports = [\"8080:8080\", \"8081:8081\"]");
    site.edit(
        "volumes = [\"redis-data:/data\"]",
        "volumes = [\"redis-data:/data\"]\nlabels = { change = \"yes\" }",
    );
    site.ok(&["sys", "comp", "direct"]);
    let failed = site.fails(&["rev", "dep", "head", "-y"], 4, &["two"]);
    assert!(failed.stderr.contains("as it was before"), "{}", failed.stderr);
    assert_eq!((names_only(&lab, "m1"), names_only(&lab, "m2")), before, "all-old again");
    for machine in ["m1", "m2"] {
        assert!(!names(&lab, machine).contains("Exited"), "and running: {}", names(&lab, machine));
    }
    assert!(last_deploy(&site).contains("rolled-back"), "{}", last_deploy(&site));
    site.ok(&["sys", "stop", "-y"]);
}

fn names_only(lab: &Lab, machine: &str) -> String {
    lab.exec(machine, "docker ps -a --format '{{.Names}}' | sort")
}

#[test]
fn a_full_disk_fails_cleanly_and_later_succeeds() {
    let lab = Lab::take(2);
    let site = small_site(&lab);
    site.ok(&["sys", "comp", "direct"]);
    site.ok(&["cont", "buildall"]);
    lab.exec("m1", "docker image prune -af >/dev/null");
    lab.machine(&["full-disk", "m1", "on"]);
    let full = site.nsd(&["rev", "dep", "head", "-y"]);
    lab.machine(&["full-disk", "m1", "off"]);
    assert!([1, 4].contains(&full.code), "a full disk ends with 1 or 4, not {}:\n{}", full.code, full.stderr);
    assert!(full.stderr.contains("no space left") && full.stderr.contains("one"), "{}", full.stderr);
    assert_eq!((names(&lab, "m1"), names(&lab, "m2")), (String::new(), String::new()));
    site.ok(&["rev", "dep", "head", "-y"]);
    site.ok(&["sys", "stop", "-y"]);
}

#[test]
fn an_interrupted_deploy_is_taken_back_and_a_killed_one_frees_its_lock() {
    let lab = Lab::take(2);
    let site = deployed_site(&lab);
    let before = (names_only(&lab, "m1"), names_only(&lab, "m2"));
    // A health check that waits long gives time to interrupt.
    site.edit("health = { tcp = 8080 }", "health = { tcp = 8081, deadline = \"60s\" }");
    site.edit("ports = [\"8080:8080\"]", "ports = [\"8080:8080\", \"8081:8081\"]");
    site.ok(&["sys", "comp", "direct"]);

    let running = site.start(&["rev", "dep", "head", "-y"]);
    wait_for_new_container(&lab, &before.1);
    // A second one at the same time is told who holds the lock.
    site.fails(&["rev", "dep", "head", "-y"], 5, &["Ada Tester"]);
    signal(running.id(), "INT");
    let output = running.wait_with_output().expect("nsd ends after Ctrl-C");
    let said = Said {
        code: output.status.code().unwrap_or(-1),
        stdout: String::new(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: Duration::ZERO,
    };
    assert_eq!(said.code, 130, "{}", said.stderr);
    assert_eq!((names_only(&lab, "m1"), names_only(&lab, "m2")), before, "all-old again:\n{}", said.stderr);
    assert!(last_deploy(&site).contains("interrupted"), "{}", last_deploy(&site));

    let mut killed = site.start(&["rev", "dep", "head", "-y"]);
    wait_for_new_container(&lab, &before.1);
    killed.kill().expect("nsd can be killed");
    killed.wait().expect("and has ended");
    // What it left half done is repaired by the next deploy of what was there before, which gets the lock at once.
    site.ok(&["rev", "dep", "deployed", "-y"]);
    assert_eq!((names_only(&lab, "m1"), names_only(&lab, "m2")), before);
    assert!(!names(&lab, "m2").contains("Exited"), "{}", names(&lab, "m2"));
    site.ok(&["sys", "stop", "-y"]);
}

fn wait_for_new_container(lab: &Lab, before: &str) {
    for _ in 0..400 {
        let now = lab.exec("m2", "docker ps --format '{{.Names}}' | sort");
        if !now.is_empty() && now != before {
            return;
        }
        sleep(Duration::from_millis(100));
    }
    panic!("the new container did not start within 40 s");
}

fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "the signal can be sent");
}
