//! The quickstart, as its README tells it, on ports of its own: Redis, two brokers and the balancer as plain processes.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::process::Stopped;
use crate::support::{Home, eventually};

const PLAIN: u16 = 25_883;
const TLS: u16 = 25_884;

/// `systems/quickstart` with other ports and an id of its own.
fn quickstart() -> Home {
    let home = Home::with_servers();
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/systems/quickstart/system.toml"))
            .unwrap();
    let text = text
        .replace("127.0.0.1:1883", &format!("127.0.0.1:{PLAIN}"))
        .replace("127.0.0.1:8883", &format!("127.0.0.1:{TLS}"))
        .replace("3f0f2c52-5c1d-4b7e-9a3c-0d0b3b6a7e21", &uuid::Uuid::new_v4().to_string());
    home.sample(&text);
    home
}

#[test]
fn a_cluster_on_this_machine() {
    let mut home = quickstart();
    home.ok("sample", "up");
    let device = home.ok("sample", "device add lamp --json").json();
    home.set("NSD_MQTT_PASSWORD", device["password"].as_str().unwrap());
    let home = &home;
    let _stopped = Stopped(home, "sample");

    everything_runs(home);
    messages_go_through(home);
    strangers_stay_out(home);
    a_dead_broker_is_survived(home);

    let again = home.ok("sample", "up");
    assert!(
        again.stdout.contains("nothing changed") && again.stdout.contains("nothing to do"),
        "{}",
        again.all()
    );
    devices_come_and_go(home);
    nothing_is_left_after_a_stop(home);
}

fn everything_runs(home: &Home) {
    let status = home.ok("sample", "status --json").json();
    let instances = status["instances"].as_array().unwrap();
    assert_eq!(instances.len(), 4, "{status}");
    assert!(instances.iter().all(|one| one["state"] == "running"), "{status}");
}

/// Subscribes once and publishes in several ways; both go to whichever broker the balancer chooses.
fn messages_go_through(home: &Home) {
    let base = format!("--port {PLAIN} -u lamp");
    for (at, publisher) in
        [base.clone(), format!("{base} --protocol 3.1.1"), format!("--tls --port {TLS} -u lamp")]
            .iter()
            .enumerate()
    {
        let mut subscriber = Subscriber::start(home, &format!("mqtt sub {base} -t 'devices/lamp/#' -v -c 1"));
        subscriber.hears(&format!("devices/lamp/status on {at}"), || {
            home.ok("sample", &format!("mqtt pub {publisher} -t devices/lamp/status -m 'on {at}'"));
        });
        assert_eq!(subscriber.end(), 0);
    }
    // Retained messages reach who comes later.
    home.ok("sample", &format!("mqtt pub {base} -t devices/lamp/kept -m still -r"));
    let late = home.ok("sample", &format!("mqtt sub {base} -t devices/lamp/kept -c 1 --json"));
    let message: serde_json::Value = serde_json::from_str(late.stdout.trim()).unwrap();
    assert_eq!((message["payload"].as_str(), message["retain"].as_bool()), (Some("still"), Some(true)));
}

fn strangers_stay_out(home: &Home) {
    let wrong = home.nsd("sample", &format!("mqtt pub --port {PLAIN} -u other -t devices/other/x -m x"));
    assert_eq!(wrong.code, 1, "{}", wrong.all());
    let foreign = home.nsd("sample", &format!("mqtt sub --port {PLAIN} -u lamp -t devices/other/x -c 1"));
    assert_eq!(foreign.code, 1, "{}", foreign.all());
    let untrusted = home.nsd("", &format!("mqtt pub --tls --port {TLS} -u lamp -t devices/lamp/x -m x"));
    assert_ne!(untrusted.code, 0, "{}", untrusted.all());
    home.ok("", &format!("mqtt pub --insecure --port {TLS} -u lamp -t devices/lamp/x -m x"));
}

/// `kill -9` of each broker in turn: the subscriber connects again and goes on, and the broker comes back by itself.
fn a_dead_broker_is_survived(home: &Home) {
    let base = format!("--port {PLAIN} -u lamp");
    let mut subscriber = Subscriber::start(home, &format!("mqtt sub {base} -t devices/lamp/alive"));
    let publish = |words: &str| {
        drop(home.nsd("sample", &format!("mqtt pub {base} -t devices/lamp/alive -m '{words}'")));
    };
    subscriber.hears("before", || publish("before"));
    for number in [1, 2] {
        let pid = broker_pid(home, number);
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let after = format!("after {number}");
        subscriber.hears(&after, || publish(&after));
        eventually(30, "the broker is started again", || (broker_pid_of(home, number)? != pid).then_some(()));
    }
    eventually(30, "all of it runs", || {
        let status = home.ok("sample", "status --json").json();
        status["instances"].as_array().unwrap().iter().all(|one| one["state"] == "running").then_some(())
    });
}

fn devices_come_and_go(home: &Home) {
    let twice = home.nsd("sample", "device add lamp");
    assert_eq!(twice.code, 1, "{}", twice.all());
    home.ok("sample", "device add second");
    let names = |home: &Home| {
        let list = home.ok("sample", "device list --json").json();
        list.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(home), ["lamp", "second"]);
    home.ok("sample", "device remove second");
    assert_eq!(home.nsd("sample", "device remove second").code, 1);
    assert_eq!(names(home), ["lamp"]);
}

fn nothing_is_left_after_a_stop(home: &Home) {
    let marker = home.path("").display().to_string();
    assert!(!processes_of(&marker).is_empty());
    home.ok("sample", "sys stop -y");
    eventually(10, "no process of the system is left", || processes_of(&marker).is_empty().then_some(()));
    for port in [PLAIN, TLS] {
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "port {port} is still taken");
    }
}

/// Processes whose working folder or arguments name this home.
fn processes_of(home: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    entries
        .filter_map(|path| {
            let arguments =
                String::from_utf8_lossy(&std::fs::read(path.join("cmdline")).ok()?).replace('\0', " ");
            let folder = std::fs::read_link(path.join("cwd")).ok()?.display().to_string();
            (arguments.contains(home) || folder.starts_with(home)).then_some(arguments)
        })
        .collect()
}

fn broker_pid(home: &Home, number: u16) -> rustix::process::Pid {
    broker_pid_of(home, number).unwrap_or_else(|| panic!("broker {number} runs"))
}

/// The broker itself, not its supervisor: by its program, and by its settings file below this home.
fn broker_pid_of(home: &Home, number: u16) -> Option<rustix::process::Pid> {
    let wanted = format!(".mqtt.{number}.");
    let marker = home.path("").display().to_string();
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let arguments = std::fs::read(entry.path().join("cmdline")).ok()?;
        let arguments = String::from_utf8_lossy(&arguments).into_owned();
        let (program, rest) = arguments.split_once('\0')?;
        let ours = program.ends_with("nsd-broker") && rest.contains(&marker) && rest.contains(&wanted);
        ours.then(|| rustix::process::Pid::from_raw(pid)).flatten()
    })
}

struct Subscriber {
    child: std::process::Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Subscriber {
    fn start(home: &Home, line: &str) -> Self {
        let mut child =
            home.command("sample", line).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = std::sync::mpsc::sync_channel(1000);
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { child, lines }
    }

    /// A subscription tells nobody that it stands, and until then a message passes it by: it is published until it comes.
    fn hears(&mut self, wanted: &str, publish: impl Fn()) {
        eventually(30, wanted, || {
            publish();
            self.lines.try_iter().any(|line| line == wanted).then_some(())
        });
    }

    fn end(&mut self) -> i32 {
        eventually(10, "the subscriber ends", || self.child.try_wait().unwrap()).code().unwrap_or(-1)
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
