//! With real processes: redis-server under real supervisors.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::ExitCode;

use super::super::{Host, await_healthy};
use super::*;
use crate::host::Engine;
use crate::system::{Container, File, Health, InstanceName, Machine, Network, Probe, Reach, Restart, Text};

/// This very test binary, run again as the supervisor: it ends up in [`supervisor_needs_an_instance`].
fn supervisor() -> Vec<OsString> {
    let test = "host::process::tests::supervisor_needs_an_instance";
    vec![std::env::current_exe().unwrap().into(), "--exact".into(), test.into(), "--nocapture".into()]
}

#[test]
fn supervisor_needs_an_instance() {
    match std::env::args().next_back().filter(|last| last.starts_with('/') && Path::new(last).is_dir()) {
        Some(dir) => assert_eq!(supervise::main(Path::new(&dir)), ExitCode::SUCCESS),
        None => assert_eq!(supervise::main(Path::new("/nowhere/at/all")), ExitCode::FAILURE),
    }
}

struct Bench {
    folder: tempfile::TempDir,
    host: Host,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let processes = Processes { base: folder.path().join("system"), supervisor: supervisor() };
        let machine = Machine { reach: Reach::Process, address: "127.0.0.1".into() };
        let host =
            Host { name: "here".parse().unwrap(), machine, engine: Engine::Processes(processes), ssh: None };
        Self { folder, host }
    }

    fn processes(&self) -> &Processes {
        match &self.host.engine {
            Engine::Processes(processes) => processes,
            _ => unreachable!("made with processes"),
        }
    }

    async fn create(
        &self,
        name: &ContainerName,
        container: &Container,
        health: Option<Health>,
    ) -> Result<(), Failure> {
        let instance: InstanceName = "here.redis.1".to_owned().try_into().unwrap();
        let state = self.processes().state_of(name);
        let bind = |text: &Text| text.bind(&state, |_| None).unwrap();
        let mut labels = BTreeMap::from([
            (label::INSTANCE.to_owned(), instance.to_string()),
            (label::SPEC.to_owned(), "abc".to_owned()),
            (label::CONTAINER.to_owned(), serde_json::to_string(container).unwrap()),
        ]);
        labels
            .extend(health.map(|health| (label::HEALTH.to_owned(), serde_json::to_string(&health).unwrap())));
        let order = Order {
            name,
            instance: &instance,
            container,
            labels,
            env: Vec::new(),
            command: container.command.as_ref().map(|words| words.iter().map(bind).collect()),
            entrypoint: None,
            files: container
                .files
                .iter()
                .map(|file| PutFile { to: file.to.clone(), content: bind(&file.content), mode: file.mode })
                .collect(),
            stop_grace: Duration::from_secs(5),
        };
        self.processes().create(&order).await
    }

    async fn state(&self, name: &ContainerName) -> RunState {
        self.processes().status(name).await.unwrap().state
    }

    /// Waits until the container's state is as wanted.
    async fn until(&self, name: &ContainerName, what: &str, wanted: impl Fn(&RunState) -> bool) {
        for _ in 0..500 {
            if wanted(&self.state(name).await) {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
        panic!("{name} is not {what} but {:?}", self.state(name).await);
    }

    fn pid(&self, name: &ContainerName) -> i32 {
        self.pid_now(name).unwrap()
    }

    /// Its process, and when that started.
    fn program(&self, name: &ContainerName) -> (i32, u64) {
        let status = read_status(&self.processes().dir(name)).unwrap();
        (status.pid.unwrap(), status.ticks.unwrap())
    }

    fn pid_now(&self, name: &ContainerName) -> Option<i32> {
        read_status(&self.processes().dir(name))?.pid
    }
}

fn container(command: &[&str]) -> Container {
    Container {
        image: Image::None,
        ports: Vec::new(),
        env: BTreeMap::new(),
        volumes: Vec::new(),
        files: Vec::new(),
        command: Some(command.iter().map(|word| Text::new(*word)).collect()),
        entrypoint: None,
        user: None,
        network: Network::Host,
        restart: Restart::Always,
        ulimits: BTreeMap::from([("nofile".to_owned(), crate::system::Ulimit { soft: 512, hard: 1024 })]),
        memory: None,
        millicpus: None,
        cap_add: Vec::new(),
        cap_drop: Vec::new(),
        labels: BTreeMap::new(),
    }
}

fn redis(port: u16) -> (Container, Option<Health>) {
    let mut redis = container(&["redis-server", "${state}/files/etc/redis.conf"]);
    redis.volumes.push(Volume { source: "data".into(), target: "/data".into(), read_only: false });
    redis.files.push(File {
        to: "/etc/redis.conf".into(),
        content: Text::new(format!(
            "port {port}\nbind 127.0.0.1\nsave \"\"\nappendonly yes\ndir ${{state}}/volumes/data\n"
        )),
        mode: 0o600,
        live: true,
    });
    let health = Health {
        probe: Probe::Tcp { port },
        interval: Duration::from_millis(200),
        timeout: Duration::from_secs(1),
        deadline: Duration::from_secs(20),
    };
    (redis, Some(health))
}

/// Redis accepts connections while it still reads its data from the disk, and says so.
fn ask(port: u16, command: &str) -> String {
    let started = Instant::now();
    loop {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(command.as_bytes()).unwrap();
        let mut answer = [0; 64];
        let read = stream.read(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer[..read]).trim().to_owned();
        if !answer.starts_with("-LOADING") || started.elapsed() > Duration::from_secs(10) {
            return answer;
        }
        std::thread::sleep(POLL);
    }
}

fn kill(pid: i32, signal: Signal) {
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

#[tokio::test]
async fn a_process_lives_and_dies_as_a_container_does() {
    let bench = Bench::new();
    let (redis, health) = redis(24011);
    let name = ContainerName("s.here.redis.1.abc".into());
    let processes = bench.processes();
    bench.create(&name, &redis, health.clone()).await.unwrap();
    assert_eq!(bench.state(&name).await, RunState::Created);
    processes.start(&name).await.unwrap();
    await_healthy(&bench.host, &name).await.unwrap();
    assert!(bench.state(&name).await.runs());
    assert_eq!(ask(24011, "set k 1\r\n"), "+OK");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", bench.pid(&name))).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_ascii_whitespace().nth(4), Some("1024"), "{files}");

    // Killed, it is started again, with what it knew.
    let first = bench.pid(&name);
    kill(first, Signal::KILL);
    for _ in 0..500 {
        if bench.pid_now(&name).is_some_and(|pid| pid != first) {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    await_healthy(&bench.host, &name).await.unwrap();
    assert_eq!(processes.status(&name).await.unwrap().restarts, 1);
    assert_eq!(ask(24011, "incr k\r\n"), ":2");

    // Its supervisor killed, it is seen as ended, and ends in truth.
    let old = bench.program(&name);
    signal(&processes.dir(&name), Signal::KILL);
    bench.until(&name, "ended", |state| matches!(state, RunState::Exited { .. })).await;
    processes.start(&name).await.unwrap();
    assert!(!supervise::still_runs(old.0, old.1), "the old program still runs beside the new one");
    await_healthy(&bench.host, &name).await.unwrap();

    // Stopped, it said goodbye; its data waits for the next one.
    processes.stop(&name, Duration::from_secs(10)).await.unwrap();
    assert_eq!(bench.state(&name).await, RunState::Exited { code: 0 });
    assert!(TcpStream::connect(("127.0.0.1", 24011)).is_err());
    processes.remove(&name).await.unwrap();
    assert!(!processes.dir(&name).exists());
    assert!(processes.base.join("data/here.redis.1/data/appendonlydir").exists());
    let next = ContainerName("s.here.redis.1.def".into());
    bench.create(&next, &redis, health).await.unwrap();
    processes.start(&next).await.unwrap();
    await_healthy(&bench.host, &next).await.unwrap();
    assert_eq!(ask(24011, "incr k\r\n"), ":3");
    processes.remove(&next).await.unwrap();
    drop(bench.folder);
}

#[tokio::test]
async fn what_is_removed_leaves_nothing() {
    let bench = Bench::new();
    let name = ContainerName("s.here.sleep.1.abc".into());
    let mut sleep = container(&["sleep", "1000"]);
    sleep.volumes.push(Volume { source: "data".into(), target: "/data".into(), read_only: false });
    bench.create(&name, &sleep, None).await.unwrap();
    let twice = bench.create(&name, &sleep, None).await.unwrap_err();
    assert!(twice.causes[0].contains("exists"), "{twice:?}");
    bench.processes().start(&name).await.unwrap();
    bench.processes().start(&name).await.unwrap();
    await_healthy(&bench.host, &name).await.unwrap();
    let (pid, ticks) = bench.program(&name);
    bench.processes().remove(&name).await.unwrap();
    assert!(!supervise::still_runs(pid, ticks));
    assert_eq!(std::fs::read_dir(bench.folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_deleted_directory_ends_what_runs_in_it() {
    let bench = Bench::new();
    let name = ContainerName("s.here.lost.1.abc".into());
    bench.create(&name, &container(&["sleep", "1000"]), None).await.unwrap();
    bench.processes().start(&name).await.unwrap();
    let (pid, ticks) = bench.program(&name);
    std::fs::remove_dir_all(bench.processes().dir(&name)).unwrap();
    let started = Instant::now();
    while supervise::still_runs(pid, ticks) {
        assert!(started.elapsed() < Duration::from_secs(15), "the program still runs");
        tokio::time::sleep(POLL).await;
    }
}

#[tokio::test]
async fn a_program_that_does_not_come_up_shows_its_last_words() {
    let bench = Bench::new();
    let name = ContainerName("s.here.bad.1.abc".into());
    bench.create(&name, &container(&["sh", "-c", "echo no luck today; exit 3"]), None).await.unwrap();
    bench.processes().start(&name).await.unwrap();
    let failure = await_healthy(&bench.host, &name).await.unwrap_err();
    assert!(failure.causes[0].contains("no luck today"), "{failure:?}");
    bench.processes().remove(&name).await.unwrap();

    let missing = bench.create(&name, &container(&["no-such-program-here"]), None).await.unwrap_err();
    assert!(missing.message.contains("`no-such-program-here` is not installed"), "{missing:?}");
    assert!(!bench.processes().dir(&name).exists());
}

#[tokio::test]
async fn a_program_that_ignores_sigterm_is_killed_after_its_grace() {
    let bench = Bench::new();
    let name = ContainerName("s.here.stubborn.1.abc".into());
    bench
        .create(&name, &container(&["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]), None)
        .await
        .unwrap();
    bench.processes().start(&name).await.unwrap();
    await_healthy(&bench.host, &name).await.unwrap();
    let started = Instant::now();
    bench.processes().stop(&name, Duration::from_millis(600)).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(600));
    assert_eq!(bench.state(&name).await, RunState::Exited { code: 137 });
    bench.processes().remove(&name).await.unwrap();
}

#[tokio::test]
async fn logs_and_commands_are_reached() {
    let bench = Bench::new();
    let name = ContainerName("s.here.talk.1.abc".into());
    let talk = container(&["sh", "-c", "for i in 1 2 3; do echo line $i; done; echo oops >&2; sleep 1000"]);
    bench.create(&name, &talk, None).await.unwrap();
    bench.processes().start(&name).await.unwrap();
    let (sender, mut receiver) = mpsc::channel(8);
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let follow = bench.processes().logs(&name, &options, sender);
    let collect = async {
        let mut lines = Vec::new();
        while lines.len() < 4 {
            let line = receiver.recv().await.unwrap();
            // The test harness, which plays the supervisor, says things too.
            if line.text.starts_with("line ") || line.text == "oops" {
                lines.push(line);
            }
        }
        drop(receiver);
        lines
    };
    let (followed, mut lines) = tokio::join!(follow, collect);
    followed.unwrap();
    lines.sort_by_key(|line| line.stderr);
    assert_eq!(
        lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(),
        ["line 1", "line 2", "line 3", "oops"]
    );
    assert!(lines[3].stderr);

    let (output, mut seen) = tokio::io::duplex(64);
    let io = ExecIo {
        input: Box::new(tokio::io::empty()),
        output: Box::new(output),
        errors: Box::new(tokio::io::sink()),
        terminal: None,
    };
    let command = ["sh".to_owned(), "-c".to_owned(), "echo $HOME; exit 7".to_owned()];
    assert_eq!(bench.processes().exec(&name, &command, io).await.unwrap(), 7);
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut seen, &mut text).await.unwrap();
    assert_eq!(text.trim(), bench.processes().state_of(&name));
    bench.processes().remove(&name).await.unwrap();
}
