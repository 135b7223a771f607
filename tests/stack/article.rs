//! The article, from an empty folder to a cluster that scales: issue sections A, B and C.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::device::{Credentials, Device};
use crate::lab::Lab;
use crate::site::Site;

/// The article's system with the lab's addresses and one more process, which is built from git over SSH.
pub(crate) fn article_system(lab: &Lab) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/systems/lelylan-mqtt/system.toml");
    let mut text = fs::read_to_string(path).expect("the article's system is there");
    let replacements = [
        ("nofile = 100000", "nofile = 10000".to_owned()),
        ("nofile = 200000", "nofile = 20000".to_owned()),
        ("178.62.31.9", lab.address("m1").to_owned()),
        ("178.62.108.47", lab.address("m2").to_owned()),
        ("178.62.122.204", lab.address("m3").to_owned()),
        ("178.62.104.172", lab.address("m4").to_owned()),
        ("\"redis:7\"", format!("\"{}/redis:7\"", lab.registry.address)),
        ("contains = [\"redis\"]", "contains = [\"redis\", \"worker\"]".to_owned()),
    ];
    for (from, to) in replacements {
        assert!(text.contains(from), "systems/lelylan-mqtt/system.toml does not contain {from}");
        text = text.replace(from, &to);
    }
    let worker = format!(
        "\n[process.worker]\nrepository = \"{}/worker.git#main\"\nports = [\"8080:8080\"]\nhealth = {{ tcp = 8080 }}\n",
        lab.git.url
    );
    text + &worker
}

#[test]
fn one_edit_and_three_commands_put_a_cluster_on_machines() {
    let lab = Lab::take(6);
    let site = Site::without_key();
    put_certificate(&lab);
    site.write(&article_system(&lab));

    trusts_only_what_was_shown(&site);
    brings_its_own_key(&lab, &site);
    deploys_the_article(&lab, &site);
    let who = add_device(&site, "thermometer");
    clients_meet_across_brokers(&lab, &who);
    changing_nothing_says_so(&site);
    clients_survive_a_broker(&lab, &site, &who);
    clients_survive_a_cut_machine(&lab, &site, &who);
    scaling_out_is_one_line(&lab, &site, &who);
    stops_and_leaves_nothing(&lab, &site);
}

/// The article's combined PEM, put on the balancer's machine by hand as there.
fn put_certificate(lab: &Lab) {
    lab.exec(
        "m2",
        "mkdir -p /certs && cd /certs && openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=mqtt.lelylan.test \
         -addext subjectAltName=DNS:mqtt.lelylan.test -keyout x.key -out x.crt 2>/dev/null && cat x.crt x.key > lelylan.pem \
         && rm x.crt x.key && chmod 644 lelylan.pem",
    );
}

fn trusts_only_what_was_shown(site: &Site) {
    let unknown = site.nsd(&["sys", "comp", "direct"]);
    assert!(unknown.code != 0 && unknown.stderr.contains("nsd mach trust"), "{}", unknown.stderr);
    let shown = site.ok(&["mach", "trust", "-y"]);
    assert!(
        (shown.stdout + &shown.stderr).contains("SHA256:"),
        "fingerprints are shown before they are recorded"
    );
    let known = fs::read_to_string(site.folder.join("known_hosts")).expect("known_hosts is written");
    assert_eq!(
        known.lines().filter(|line| line.contains("ssh-ed25519")).count(),
        5,
        "four machines and the git host"
    );
}

/// The article's `ssh-keygen` and `authorized_keys`, without its slips.
fn brings_its_own_key(lab: &Lab, site: &Site) {
    // The git host lets the lab's key in; a real one would be told of the system's key by hand.
    site.ok(&["mach", "key"]);
    let public = fs::read_to_string(site.folder.join("lelylan-key.pub")).expect("the public half is written");
    lab.exec("git", &format!("echo '{}' >> /home/git/.ssh/authorized_keys", public.trim()));
    site.ok(&["sys", "comp", "direct"]);
    site.fails(&["rev", "preview", "head"], 6, &["nsd mach key"]);
    site.ok_with_key(&lab.identity, &["mach", "key", "--install"]);
}

fn deploys_the_article(lab: &Lab, site: &Site) {
    assert!(site.ok(&["sys", "list"]).stdout.contains("lelylan-mqtt"));
    site.ok(&["sys", "comp", "direct"]);
    let build = site.ok(&["cont", "buildall"]);
    assert!((build.stdout + &build.stderr).contains("worker"), "the worker is built from its repository");
    let preview = site.json(&["rev", "preview", "head", "--json"]);
    let deploy = site.ok(&["rev", "dep", "head", "-y"]);
    println!("first deploy took {:.2?}", deploy.took);
    for container in containers(lab, 4) {
        assert!(container.contains("Up"), "{container} does not run");
    }
    assert_eq!(steps(&preview).len(), performed(site), "preview shows the very steps that deploy performed");
    // Redis came from the registry, the worker from git, the servers from nsd itself.
    assert!(lab.exec("m1", "docker images").contains("redis"));
    assert!(lab.exec("m3", "docker images").contains("nsd/broker"));
    assert!(lab.exec("m2", "docker images").contains("nsd/balancer"));
    assert_eq!(
        lab.exec("m1", "busybox wget -q -O - http://127.0.0.1:8080/ | head -c 1").len(),
        1,
        "the worker answers"
    );
}

fn steps(plan: &Value) -> Vec<&Value> {
    let plan = plan.get("plan").unwrap_or(plan);
    let stages = plan["stages"].as_array().expect("a plan has stages");
    let lanes = stages.iter().flat_map(|stage| stage["lanes"].as_array().expect("a stage has lanes"));
    lanes.flat_map(|lane| lane["steps"].as_array().expect("a lane has steps")).collect()
}

/// Steps that the last deploy performed, by the timeline.
fn performed(site: &Site) -> usize {
    let timeline = site.json(&["timeline", "list", "--json"]);
    let entries = timeline.as_array().expect("a timeline is a list");
    let deploy =
        entries.iter().find(|entry| entry["action"] == "deploy").expect("the deploy is in the timeline");
    let machines = deploy["machines"].as_array().expect("an entry tells its machines");
    machines.iter().map(|machine| machine["steps"].as_u64().unwrap_or(0) as usize).sum()
}

fn containers(lab: &Lab, machines: usize) -> Vec<String> {
    let names = (1..=machines).map(|number| format!("m{number}"));
    names
        .flat_map(|name| {
            let out =
                lab.exec(&name, "docker ps -a --filter label=nsd.system --format '{{.Names}} {{.Status}}'");
            out.lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

fn add_device(site: &Site, name: &str) -> Credentials {
    let added = site.json(&["device", "add", name, "--json"]);
    let text = |key: &str| added[key].as_str().unwrap_or_else(|| panic!("no {key} in {added}")).to_owned();
    Credentials { user: text("device"), password: text("password") }
}

fn balancer(lab: &Lab) -> String {
    format!("{}:1883", lab.address("m2"))
}

/// The number of clients that the brokers of `machines` have, by the connections that Docker's proxy or NAT lets through.
fn clients_on(lab: &Lab, machine: &str) -> usize {
    let listed = lab.exec("m2", &format!("ss -Htn state established dst {}", lab.address(machine)));
    listed.lines().count()
}

fn clients_meet_across_brokers(lab: &Lab, who: &Credentials) {
    // Real clients on a machine of their own, over plain TCP and over TLS with the article's certificate.
    let topic = format!("devices/{}/set", who.user);
    let common = format!("-h {} -u {} -P {} -t {topic} -q 1", lab.address("m2"), who.user, who.password);
    let received = lab.exec(
        "m6",
        &format!(
            "openssl s_client -connect {}:8883 </dev/null 2>/dev/null | openssl x509 > /tmp/lelylan.crt; \
             timeout 30 mosquitto_sub {common} -p 1883 -C 1 -i sub-1 > /tmp/one & \
             timeout 30 mosquitto_sub {common} -p 8883 --cafile /tmp/lelylan.crt --insecure -C 1 -i sub-2 > /tmp/two & \
             for try in $(seq 50); do [ -s /tmp/one ] && [ -s /tmp/two ] && break; \
             mosquitto_pub {common} -p 1883 -i pub-1 -m hello; sleep 0.5; done; wait; cat /tmp/one /tmp/two",
            lab.address("m2")
        ),
    );
    assert_eq!(received.lines().collect::<Vec<_>>(), ["hello", "hello"], "plain and TLS clients hear it");

    // Four subscribers spread over both brokers by least connections; each hears what any one publishes.
    nobody_is_left(lab, &["m3", "m4"]);
    let mut devices: Vec<Device> = (0..4)
        .map(|number| {
            Device::connect(&balancer(lab), &format!("d{number}"), who).expect("a device is let in")
        })
        .collect();
    for device in &mut devices {
        device.subscribe(&topic).expect("its own topic may be subscribed to");
    }
    let spread = (clients_on(lab, "m3"), clients_on(lab, "m4"));
    assert!(spread.0 >= 2 && spread.1 >= 2, "clients are spread over both brokers, not {spread:?}");
    devices[0].publish(&topic, "across").expect("its own topic may be published to");
    for device in &mut devices {
        assert_eq!(device.receive(Duration::from_secs(20)).expect("everyone hears it"), "across");
    }
}

fn changing_nothing_says_so(site: &Site) {
    let compiled = site.ok(&["sys", "comp", "direct"]);
    assert!(compiled.stdout.contains("nothing changed") || compiled.stderr.contains("nothing changed"));
    site.ok(&["cont", "buildall"]);
    let deployed = site.ok(&["rev", "dep", "head"]);
    assert!((deployed.stdout + &deployed.stderr).contains("nothing to do"));
    println!("a deploy that changes nothing took {:.2?}", deployed.took);
    site.ok(&["rev", "preview", "head", "--exit-code"]);
}

/// `kill -9` of one broker: its clients come back through the balancer to the other one and go on; it is used again later.
fn clients_survive_a_broker(lab: &Lab, site: &Site, who: &Credentials) {
    let topic = format!("devices/{}/set", who.user);
    nobody_is_left(lab, &["m3", "m4"]);
    let mut hearing = subscribed(lab, who, "survivor-1", &topic);
    let mut second = subscribed(lab, who, "survivor-2", &topic);
    lab.exec("m3", "docker kill -s KILL $(docker ps -q --filter label=nsd.process=mqtt)");
    let killed = Instant::now();
    let mut cut = 0;
    for (name, device) in [("survivor-1", &mut hearing), ("survivor-2", &mut second)] {
        if !device.is_alive() {
            cut += 1;
            *device = Device::reconnect(&balancer(lab), name, who, Duration::from_secs(20));
            device.subscribe(&topic).expect("a returned device may subscribe");
        }
    }
    assert!(cut > 0, "least connections put a client on each broker, so one must have been cut");
    println!("all clients were back {:.2?} after kill -9 of a broker", killed.elapsed());
    hearing.publish(&topic, "after the kill").expect("publishing goes on");
    assert_eq!(second.receive(Duration::from_secs(20)).expect("and is heard"), "after the kill");
    // `docker kill` counts as asked for, so the engine does not restart it: the next deploy does.
    let plan = site.nsd(&["rev", "preview", "head", "--exit-code"]);
    if plan.code != 0 {
        site.ok(&["rev", "dep", "head", "-y"]);
    }
    used_again(lab, who, "m3");
}

/// The link of a broker's machine is taken down.
fn clients_survive_a_cut_machine(lab: &Lab, site: &Site, who: &Credentials) {
    let topic = format!("devices/{}/set", who.user);
    lab.machine(&["link-down", "m4"]);
    let cut = Instant::now();
    // Wait until the balancer has noticed: every new client must then be let in at once.
    let mut device = Device::reconnect(&balancer(lab), "cut-1", who, Duration::from_secs(30));
    device.subscribe(&topic).expect("the other broker serves");
    device.publish(&topic, "cut").expect("and takes messages");
    assert_eq!(device.receive(Duration::from_secs(20)).expect("and delivers them"), "cut");
    println!("served again {:.2?} after the link went down", cut.elapsed());
    let refused = site.fails(&["rev", "dep", "head", "-y"], 6, &["mqtt-2"]);
    assert!(refused.stderr.contains("nothing"), "it says that nothing was changed");
    lab.machine(&["link-up", "m4"]);
    used_again(lab, who, "m4");
}

fn scaling_out_is_one_line(lab: &Lab, site: &Site, who: &Credentials) {
    let topic = format!("devices/{}/set", who.user);
    let mut staying: Vec<Device> =
        (0..20).map(|number| subscribed(lab, who, &format!("staying-{number}"), &topic)).collect();
    let line =
        format!("\nmqtt-3 = {{ ip = \"{}\", contains = [\"mqtt\"] }}\n[process.worker]", lab.address("m5"));
    site.edit("\n[process.worker]", &line);
    let saved = Instant::now();
    site.ok(&["mach", "trust", "-y"]);
    site.ok_with_key(&lab.identity, &["mach", "key", "--install"]);
    site.ok(&["sys", "comp", "direct"]);
    site.ok(&["cont", "buildall"]);
    let deployed = site.ok(&["rev", "dep", "head", "-y"]);
    used_again(lab, who, "m5");
    println!("from the saved line to clients on the new broker: {:.2?}", saved.elapsed());
    assert!(!(deployed.stdout + &deployed.stderr).contains("replace"), "nothing that ran was replaced");
    for (number, device) in staying.iter_mut().enumerate() {
        assert!(device.is_alive(), "client {number} was cut");
    }
    // New clients land on the new broker until it has its share.
    nobody_is_left(lab, &["m5"]);
    let landed: Vec<Device> =
        (0..6).map(|number| subscribed(lab, who, &format!("new-{number}"), &topic)).collect();
    comes_to_be(
        || clients_on(lab, "m5") == landed.len(),
        "least connections: the new broker gets all new clients",
    );
    staying[0].publish(&topic, "everywhere").expect("publishing goes on");
    for mut device in landed {
        assert_eq!(
            device.receive(Duration::from_secs(20)).expect("the new broker's clients hear it"),
            "everywhere"
        );
    }
}

fn stops_and_leaves_nothing(lab: &Lab, site: &Site) {
    site.ok(&["sys", "stop", "-y"]);
    assert_eq!(containers(lab, 5), Vec::<String>::new(), "no container of the system is left");
}

fn subscribed(lab: &Lab, who: &Credentials, name: &str, topic: &str) -> Device {
    let mut device = Device::reconnect(&balancer(lab), name, who, Duration::from_secs(10));
    device.subscribe(topic).expect("its own topic may be subscribed to");
    device
}

/// Those who have left are not counted any more. A health check is there for a moment only.
fn nobody_is_left(lab: &Lab, machines: &[&str]) {
    for machine in machines {
        comes_to_be(|| clients_on(lab, machine) == 0, &format!("{machine} has no clients"));
    }
}

fn comes_to_be(holds: impl Fn() -> bool, what: &str) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(30), "not within 30 s: {what}");
        sleep(Duration::from_millis(100));
    }
}

/// New clients reach the broker of this machine again.
fn used_again(lab: &Lab, who: &Credentials, machine: &str) {
    let started = Instant::now();
    let mut kept = Vec::new();
    while clients_on(lab, machine) < 2 {
        assert!(started.elapsed() < Duration::from_secs(30), "{machine} gets no clients");
        kept.extend(Device::connect(&balancer(lab), &format!("again-{}", kept.len()), who));
        sleep(Duration::from_millis(200));
    }
    println!("{machine} is used again after {:.2?}", started.elapsed());
}
