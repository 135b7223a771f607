//! `local` with Docker: `nsd` runs on a machine that has an engine, and uses it instead of plain processes.

use std::fs;
use std::time::Duration;

use crate::device::{Credentials, Device};
use crate::lab::Lab;
use crate::site::bundled;

fn system(lab: &Lab) -> String {
    format!(
        r#"
name = "here"
namespace = "test"
id = "5d2f6a0e-7a1c-4a39-9a5b-0f6f3c8d2b77"

[secrets]
redis = {{ generate = 32 }}

[process.redis]
image = "{registry}/redis:7"
ports = ["6379"]
user = "999:999"
files = [{{ template = "redis.conf.tera", to = "/etc/redis/redis.conf" }}]
command = ["redis-server", "/etc/redis/redis.conf"]
health = {{ tcp = 6379 }}

[process.mqtt]
bundled = "broker"
store = "redis"

[process.balancer]
bundled = "balancer"
balances = "mqtt"
network = "host"
listen = ["0.0.0.0:1883"]

[topology.local]
runtime = "docker"
contains = ["redis", "mqtt", "mqtt", "balancer"]
"#,
        registry = lab.registry.address
    )
}

#[test]
fn the_engine_of_this_machine_runs_the_local_topology() {
    let lab = Lab::take(1);
    lab.exec("m1", "mkdir -p /opt/nsd /root/here");
    let binaries = bundled();
    for program in ["nsd", "nsd-broker", "nsd-balancer"] {
        let file = binaries.join(program);
        lab.machine(&["put", "m1", &file.display().to_string(), &format!("/opt/nsd/{program}")]);
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("system.toml");
    fs::write(&file, system(&lab)).expect("system.toml can be written");
    lab.machine(&["put", "m1", &file.display().to_string(), "/root/here/system.toml"]);
    // On the machine m1, whose engine is the local one there.
    let on_machine =
        |words: &str| lab.exec("m1", &format!("cd /root/here && HOME=/root /opt/nsd/nsd {words}"));
    on_machine("login --name Ada --email ada@example.org");
    println!("{}", on_machine("up local -y"));
    let added = on_machine("device add lamp --json");
    let added: serde_json::Value = serde_json::from_str(&added).expect("JSON");
    let who = Credentials {
        user: "lamp".to_owned(),
        password: added["password"].as_str().expect("a password").to_owned(),
    };
    let address = format!("{}:1883", lab.address("m1"));
    let mut device = Device::reconnect(&address, "here-1", &who, Duration::from_secs(10));
    device.subscribe("devices/lamp/set").expect("its own topic may be subscribed to");
    device.publish("devices/lamp/set", "here").expect("and published to");
    assert_eq!(device.receive(Duration::from_secs(5)).expect("it comes back"), "here");
    assert!(on_machine("up local -y").contains("nothing to do"));
    on_machine("sys stop -y");
    assert_eq!(lab.exec("m1", "docker ps -aq"), "");
}
