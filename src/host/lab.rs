//! With real machines: real sshd, real Docker, a git host and a registry, made by tests/lab.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::apply::{Ended, Runner, lock};
use crate::builder;
use crate::bundled;
use crate::observe::observe;
use crate::plan::{Action, Lane, MachineState, Plan, RunState, Spec, Stage, Step, Surveyed};
use crate::report::Listener;
use crate::secret::{Secret, Secrets};
use crate::system::{
    Build, Bundled, Container, File, Health, Image, Instance, InstanceName, Network, Port, Probe,
    ProcessName, Protocol, Restart, Text, Volume,
};

struct Lab {
    json: serde_json::Value,
    /// As the folder of a system: the lab's key and known hosts stand in it.
    folder: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let path = std::env::var("NSD_LAB_JSON").expect("NSD_LAB_JSON names a lab made by tests/lab/up.sh");
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let identity = folder.path().join("key");
        std::fs::copy(json["identity"].as_str().unwrap(), &identity).unwrap();
        std::fs::copy(json["known_hosts"].as_str().unwrap(), folder.path().join("known_hosts")).unwrap();
        Self { json, folder }
    }

    fn dir(&self) -> &Path {
        self.folder.path()
    }

    fn text(&self, pointer: &str) -> String {
        self.json.pointer(pointer).unwrap().as_str().unwrap().to_owned()
    }

    fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.text("/registry/address"))
    }

    fn machine(&self, at: usize) -> Machine {
        let address = self.text(&format!("/machines/{at}/address"));
        let reach = Reach::Ssh {
            host: address.clone(),
            port: None,
            user: Some("root".into()),
            identity: Some("key".into()),
        };
        Machine { reach, address }
    }

    /// A system of its own for each test, on the first `count` machines.
    fn system(&self, name: &str, count: usize) -> System {
        let machines = (0..count).map(|at| (self.machine_name(at), self.machine(at))).collect();
        System {
            name: name.parse().unwrap(),
            namespace: "test".into(),
            id: uuid::Uuid::new_v4(),
            topology: "direct".parse().unwrap(),
            machines,
            instances: Vec::new(),
            builds: BTreeMap::new(),
            store: None,
        }
    }

    fn machine_name(&self, at: usize) -> MachineName {
        self.text(&format!("/machines/{at}/name")).parse().unwrap()
    }

    async fn connect(&self, system: &System) -> Hosts {
        Hosts::connect(self.dir(), &system.machines, system, &reporter().0).await
    }

    /// Tries one machine and returns why it is not reached.
    async fn refusal(&self, reach: Reach) -> Failure {
        let machine = Machine { reach, address: "unused".into() };
        let machines = BTreeMap::from([("x".parse().unwrap(), machine)]);
        let hosts = Hosts::connect(self.dir(), &machines, &self.system("refused", 1), &reporter().0).await;
        hosts.get(&"x".parse().unwrap()).err().expect("this machine must not be reached")
    }

    fn ssh(&self) -> Reach {
        self.machine(0).reach
    }
}

#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Listener for Arc<Heard> {
    fn on(&self, event: &Event) {
        self.0.lock().push(format!("{event:?}"));
    }
}

fn reporter() -> (Reporter, Arc<Heard>) {
    let heard = Arc::new(Heard::default());
    (Reporter::new(Arc::clone(&heard)), heard)
}

fn container(image: Image) -> Container {
    Container {
        image,
        ports: Vec::new(),
        env: BTreeMap::new(),
        volumes: Vec::new(),
        files: Vec::new(),
        command: None,
        entrypoint: None,
        user: None,
        network: Network::Bridge,
        restart: Restart::UnlessStopped,
        ulimits: BTreeMap::new(),
        memory: None,
        millicpus: None,
        cap_add: Vec::new(),
        cap_drop: Vec::new(),
        labels: BTreeMap::new(),
    }
}

fn instance(machine: &MachineName, process: &str, container: Container, health: Option<Probe>) -> Instance {
    Instance {
        name: InstanceName { machine: machine.clone(), process: process.parse().unwrap(), number: 1 },
        container,
        health: health.map(|probe| Health {
            probe,
            interval: Duration::from_millis(200),
            timeout: Duration::from_secs(2),
            deadline: Duration::from_secs(15),
        }),
        needs: Vec::new(),
        stop_grace: Duration::from_secs(2),
        max_parallel: 1,
    }
}

fn name_of(system: &System, instance: &InstanceName, spec: &str) -> ContainerName {
    ContainerName::new(&system.name, instance, &Spec(spec.into()))
}

/// Each instance: created, started, awaited; one after another.
fn create_all(system: &System, spec: &str) -> Plan {
    let mut steps = Vec::new();
    for instance in &system.instances {
        let container = name_of(system, &instance.name, spec);
        let name = instance.name.clone();
        let mut step = |action| steps.push(Step { machine: instance.name.machine.clone(), action });
        if let Image::Registry { reference } = &instance.container.image {
            step(Action::Pull { reference: reference.clone() });
        }
        step(Action::Create {
            container: container.clone(),
            instance: name.clone(),
            spec: Spec(spec.into()),
        });
        step(Action::Start { container: container.clone(), instance: name.clone() });
        step(Action::AwaitHealthy { container, instance: name });
    }
    plan(system, steps)
}

fn remove_all(system: &System, spec: &str) -> Plan {
    let mut steps = Vec::new();
    for instance in &system.instances {
        let container = name_of(system, &instance.name, spec);
        let (machine, name) = (instance.name.machine.clone(), instance.name.clone());
        let stop = Action::Stop {
            container: container.clone(),
            instance: name.clone(),
            grace: Duration::from_secs(1),
        };
        steps.push(Step { machine: machine.clone(), action: stop });
        steps.push(Step { machine, action: Action::Remove { container, instance: name } });
    }
    plan(system, steps)
}

fn plan(system: &System, steps: Vec<Step>) -> Plan {
    let stages = vec![Stage { title: "test".into(), lanes: vec![Lane { steps }] }];
    let (system, topology) = (system.name.clone(), system.topology.clone());
    Plan { system, topology, revision: "r1".into(), changes: Vec::new(), stages }
}

async fn run(hosts: &Hosts, system: &System, plan: &Plan) -> crate::apply::Outcome {
    let secrets = Secrets(BTreeMap::from([("redis".parse().unwrap(), Secret::new("s3cret"))]));
    let runner = Runner {
        hosts,
        system: Arc::new(system.clone()),
        secrets: Arc::new(secrets),
        reporter: reporter().0,
        revision: "r1".into(),
    };
    runner.run(plan, CancellationToken::new()).await
}

async fn surveyed(hosts: &Hosts, system: &System, machine: &MachineName) -> Surveyed {
    match observe(hosts, system).await.machines.remove(machine) {
        Some(MachineState::Answered(surveyed)) => surveyed,
        other => panic!("{machine} did not answer: {other:?}"),
    }
}

#[tokio::test]
async fn a_container_is_made_from_all_its_fields_changed_and_removed() {
    let lab = Lab::new();
    let mut system = lab.system("fields", 1);
    let machine = lab.machine_name(0);
    let mut redis = container(Image::Registry { reference: lab.image("redis:7") });
    redis.ports.push(Port { ip: None, host: 24101, container: 6379, protocol: Protocol::Tcp });
    redis.user = Some("redis".into());
    redis.volumes.push(Volume { source: "n2-data".into(), target: "/data".into(), read_only: false });
    redis.files.push(File {
        to: "/etc/redis/redis.conf".into(),
        content: Text::new("protected-mode no\nrequirepass ${secret.redis}\n"),
        mode: 0o600,
        live: false,
    });
    redis.files.push(File {
        to: "/etc/live/list".into(),
        content: Text::new("one\n"),
        mode: 0o644,
        live: true,
    });
    redis.command = Some(vec!["redis-server".into(), "/etc/redis/redis.conf".into()]);
    redis.env.insert("A".into(), "b c".into());
    redis.memory = Some(128 << 20);
    redis.ulimits.insert("memlock".into(), crate::system::Ulimit { soft: 65_536, hard: 131_072 });
    redis.ulimits.insert("nofile".into(), crate::system::Ulimit { soft: 1000, hard: 2000 });
    system.instances.push(instance(&machine, "redis", redis, Some(Probe::Tcp { port: 24101 })));
    let hosts = lab.connect(&system).await;

    let outcome = run(&hosts, &system, &create_all(&system, "aaaa")).await;
    assert!(matches!(outcome.result, Ended::Completed), "{outcome:?}");
    let there = surveyed(&hosts, &system, &machine).await;
    assert!(there.engine.starts_with("Docker 2"), "{}", there.engine);
    assert!(there.images.contains(&lab.image("redis:7")));
    let running = &there.instances[0];
    assert!(running.state.runs());
    assert_eq!((running.revision.as_str(), running.spec.0.as_str()), ("r1", "aaaa"));
    let made_from = running.made_from.as_ref().unwrap();
    assert_eq!(made_from.env, system.instances[0].container.env);
    assert_eq!(running.live_files["/etc/live/list"], sha256(b"one\n"));

    // The secret is in the file, the file is the user's and nobody else's.
    let host = hosts.get(&machine).unwrap();
    // Of open files the hard limit only: a runc made with Go 1.19 may raise the soft one for what it executes.
    let script = "stat -c '%u %a' /etc/redis/redis.conf; grep -c s3cret /etc/redis/redis.conf; echo $A; \
        echo $(ulimit -l) $(ulimit -Hl) $(ulimit -Hn); exit 4";
    let (code, said) = exec(host, &running.container, script).await;
    assert_eq!((code, said.as_str()), (4, "999 600\n1\nb c\n64 128 2000\n"));

    // A live file changes in place; the container is the same.
    system.instances[0].container.files[1].content = Text::new("one\ntwo\n");
    let put = Action::PutFiles {
        container: running.container.clone(),
        instance: running.instance.clone(),
        files: vec!["/etc/live/list".into()],
    };
    let outcome =
        run(&hosts, &system, &plan(&system, vec![Step { machine: machine.clone(), action: put }])).await;
    assert!(matches!(outcome.result, Ended::Completed), "{outcome:?}");
    let changed = surveyed(&hosts, &system, &machine).await;
    assert_eq!(changed.instances[0].live_files["/etc/live/list"], sha256(b"one\ntwo\n"));
    assert_eq!(changed.instances[0].container, running.container);

    let (sender, mut lines) = mpsc::channel(64);
    let options = LogOptions { tail: Some(50), ..LogOptions::default() };
    host.logs(&running.container, &options, sender).await.unwrap();
    let mut text = String::new();
    while let Some(line) = lines.recv().await {
        assert!(line.at.starts_with("20"), "{line:?}");
        text.push_str(&line.text);
    }
    assert!(text.contains("Ready to accept connections"), "{text}");

    let outcome = run(&hosts, &system, &remove_all(&system, "aaaa")).await;
    assert!(matches!(outcome.result, Ended::Completed), "{outcome:?}");
    assert!(surveyed(&hosts, &system, &machine).await.instances.is_empty());
}

async fn exec(host: &Host, container: &ContainerName, script: &str) -> (i64, String) {
    let (output, mut seen) = tokio::io::duplex(4096);
    let io = ExecIo {
        input: Box::new(tokio::io::empty()),
        output: Box::new(output),
        errors: Box::new(tokio::io::sink()),
        terminal: None,
    };
    let code = host.exec(container, &["sh".into(), "-c".into(), script.into()], io).await.unwrap();
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut seen, &mut text).await.unwrap();
    (code, text)
}

#[tokio::test]
async fn a_failed_run_is_taken_back_on_every_machine() {
    let lab = Lab::new();
    let mut system = lab.system("back", 2);
    let busybox = || container(Image::Registry { reference: lab.image("busybox:1") });
    let mut good = busybox();
    good.command = Some(["httpd", "-f", "-p", "80"].map(Text::from).to_vec());
    good.ports.push(Port { ip: None, host: 24102, container: 80, protocol: Protocol::Tcp });
    let mut bad = busybox();
    bad.command = Some(["sh", "-c", "echo cannot find my config; exit 9"].map(Text::from).to_vec());
    bad.restart = Restart::No;
    let (m1, m2) = (lab.machine_name(0), lab.machine_name(1));
    system.instances.push(instance(&m1, "good", good, Some(Probe::Tcp { port: 24102 })));
    system.instances.push(instance(&m2, "bad", bad, None));
    let hosts = lab.connect(&system).await;
    let outcome = run(&hosts, &system, &create_all(&system, "bbbb")).await;
    let Ended::RolledBack { failed, left } = &outcome.result else { panic!("{outcome:?}") };
    assert!(left.is_empty(), "{left:?}");
    assert!(failed.why.contains("ended with exit code 9"), "{failed:?}");
    assert!(failed.causes[0].contains("cannot find my config"), "{failed:?}");
    assert_eq!(outcome.failure("deploy").unwrap().kind.exit_code(), 4);
    for machine in [&m1, &m2] {
        assert!(surveyed(&hosts, &system, machine).await.instances.is_empty());
    }
}

#[tokio::test]
async fn nothing_listening_is_seen_through_ssh() {
    let lab = Lab::new();
    let mut system = lab.system("deaf", 1);
    let machine = lab.machine_name(0);
    let mut deaf = container(Image::Registry { reference: lab.image("busybox:1") });
    deaf.command = Some(["sleep", "100"].map(Text::from).to_vec());
    deaf.ports.push(Port { ip: None, host: 24103, container: 80, protocol: Protocol::Tcp });
    let mut wants = instance(&machine, "deaf", deaf, Some(Probe::Tcp { port: 24103 }));
    wants.health.as_mut().unwrap().deadline = Duration::from_secs(2);
    system.instances.push(wants);
    let hosts = lab.connect(&system).await;
    let outcome = run(&hosts, &system, &create_all(&system, "cccc")).await;
    let Ended::RolledBack { failed, .. } = &outcome.result else { panic!("{outcome:?}") };
    assert!(failed.why.contains("TCP connection to port 24103: the connection is refused"), "{failed:?}");
}

#[tokio::test]
async fn a_bundled_image_loads_and_runs() {
    let lab = Lab::new();
    let system = lab.system("bundled", 1);
    let hosts = lab.connect(&system).await;
    let host = hosts.get(&lab.machine_name(0)).unwrap();
    // Any static program will do; it need not be a broker to be put into an image.
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let image = bundled::assemble(Bundled::Broker, "amd64", &busybox).unwrap();
    let reference = image.reference.clone();
    images::ship_assembled(host, image, &reporter().0).await.unwrap();
    let Engine::Docker(docker) = &host.engine else { unreachable!() };
    let inspected = docker.client.inspect_image(&reference).await.unwrap();
    let config = inspected.config.unwrap();
    assert_eq!(config.user.as_deref(), Some("10001:10001"));
    assert_eq!(config.entrypoint.unwrap(), ["/nsd-broker"]);
    docker
        .client
        .remove_image(&reference, None::<bollard::query_parameters::RemoveImageOptions>, None)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_repository_is_pinned_built_and_shipped_thin() {
    let lab = Lab::new();
    let url = format!("{}/worker.git", lab.text("/git/url"));
    let key = Some(Path::new("key"));
    let commit = builder::pin(lab.dir(), &url, Some("main"), key).await.unwrap();
    assert_eq!(commit.len(), 40);
    assert_eq!(builder::pin(lab.dir(), &url, None, key).await.unwrap(), commit);

    let mut system = lab.system("built", 2);
    let (m1, m2) = (lab.machine_name(0), lab.machine_name(1));
    let worker: ProcessName = "worker".parse().unwrap();
    let build = |commit: &str, tag: &str| Build {
        repository: url.clone(),
        reference: Some("main".into()),
        commit: commit.into(),
        folder: String::new(),
        dockerfile: "Dockerfile".into(),
        args: BTreeMap::new(),
        build_script: None,
        on: Some(m1.clone()),
        tag: format!("nsd/built-worker:{tag}-{}", system.id.simple()),
    };
    let wanted = build(&commit, "good");
    system.builds.insert(worker.clone(), wanted.clone());
    let hosts = lab.connect(&system).await;
    let cache = lab.dir().join("sources");
    let (reporter, heard) = reporter();
    let built = builder::build(&system, &worker, &hosts, &cache, &reporter).await.unwrap();
    assert!(!built.reused);
    assert!(heard.0.lock().iter().any(|event| event.contains("Step 1/")), "{:?}", heard.0.lock());
    assert!(builder::build(&system, &worker, &hosts, &cache, &reporter).await.unwrap().reused);

    // The other machine has the base, so only the top is sent.
    let base = lab.image("busybox:1");
    let host = hosts.get(&m2).unwrap();
    host.engine.pull(&base, "m2", &reporter).await.unwrap();
    let image = Image::Built { process: worker.clone(), tag: wanted.tag.clone() };
    heard.0.lock().clear();
    ship(&hosts, host, &system, &image, &wanted.tag, &reporter).await.unwrap();
    assert!(!heard.0.lock().iter().any(|event| event.contains("Note")), "{:?}", heard.0.lock());
    let mut runs = container(image);
    runs.ports.push(Port { ip: None, host: 24104, container: 8080, protocol: Protocol::Tcp });
    system.instances.push(instance(&m2, "worker", runs, Some(Probe::Tcp { port: 24104 })));
    let outcome = run(&hosts, &system, &create_all(&system, "dddd")).await;
    assert!(matches!(outcome.result, Ended::Completed), "{outcome:?}");
    run(&hosts, &system, &remove_all(&system, "dddd")).await;

    // A script runs first, in the sources; what it makes goes into the image.
    let mut scripted = build(&commit, "scripted");
    scripted.build_script = Some("echo from the script; echo made > www/made".into());
    system.builds.insert(worker.clone(), scripted);
    builder::build(&system, &worker, &hosts, &cache, &reporter).await.unwrap();
    assert!(heard.0.lock().iter().any(|event| event.contains("from the script")));

    // A Dockerfile that fails says why.
    let broken = builder::pin(lab.dir(), &url, Some("broken"), key).await.unwrap();
    system.builds.insert(worker.clone(), build(&broken, "broken"));
    let failure = builder::build(&system, &worker, &hosts, &cache, &reporter).await.unwrap_err();
    assert!(failure.message.starts_with("worker: the build on m1 failed"), "{failure:?}");
    assert!(failure.causes[0].contains("Step "), "{failure:?}");
}

#[tokio::test]
async fn git_refusals_name_what_is_wrong() {
    let lab = Lab::new();
    let base = lab.text("/git/url");
    let url = format!("{base}/worker.git");
    let key = Some(Path::new("key"));
    let branch = builder::pin(lab.dir(), &url, Some("mian"), key).await.unwrap_err();
    assert!(branch.message.ends_with("has no branch or tag `mian`"), "{branch:?}");
    assert!(branch.hints[0].contains("main"), "{branch:?}");
    let missing = builder::pin(lab.dir(), &format!("{base}/nothing.git"), None, key).await.unwrap_err();
    assert!(missing.message.contains("there is no such repository"), "{missing:?}");
    let keyless = builder::pin(lab.dir(), &url, None, None).await.unwrap_err();
    assert!(keyless.message.contains("no access"), "{keyless:?}");
    std::fs::write(lab.dir().join("known_hosts"), "").unwrap();
    let unknown = builder::pin(lab.dir(), &url, None, key).await.unwrap_err();
    assert!(unknown.message.contains("is not known here: SHA256:"), "{unknown:?}");
    let host = lab.text("/git/address");
    let other = lab.text("/machines/0/host_key");
    std::fs::write(lab.dir().join("known_hosts"), format!("{host} {other}\n")).unwrap();
    let changed = builder::pin(lab.dir(), &url, None, key).await.unwrap_err();
    assert!(changed.message.contains("CHANGED: it shows SHA256:"), "{changed:?}");
}

#[tokio::test]
async fn ssh_refusals_name_the_stage_and_the_fix() {
    let lab = Lab::new();
    let Reach::Ssh { host, .. } = lab.ssh() else { unreachable!() };
    let reach = |host: &str, port: Option<u16>, identity: &str| Reach::Ssh {
        host: host.into(),
        port,
        user: Some("root".into()),
        identity: Some(PathBuf::from(identity)),
    };
    let name = lab.refusal(reach("no-such-host.invalid", None, "key")).await;
    assert!(name.message.starts_with("x (dns): "), "{name:?}");
    let port = lab.refusal(reach(&host, Some(1), "key")).await;
    assert!(port.message.starts_with("x (tcp): "), "{port:?}");
    let absent = lab.refusal(reach(&host, None, "absent")).await;
    assert!(
        absent.message.starts_with("x (auth): ") && absent.hints[0].contains("nsd mach key --install x"),
        "{absent:?}"
    );
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(lab.dir().join("other"))
        .status();
    assert!(made.unwrap().success());
    let refused = lab.refusal(reach(&host, None, "other")).await;
    assert!(
        refused.message.starts_with("x (auth): ") && refused.hints[0].contains("nsd mach key --install x"),
        "{refused:?}"
    );

    // With the key installed the door opens; twice is once.
    let public = std::fs::read_to_string(lab.dir().join("other.pub")).unwrap();
    let (machine_name, machine) = (lab.machine_name(0), lab.machine(0));
    assert!(install_key(lab.dir(), &machine_name, &machine, &public).await.unwrap());
    assert!(!install_key(lab.dir(), &machine_name, &machine, &public).await.unwrap());
    let with_other = Machine { reach: reach(&host, None, "other"), address: host.clone() };
    let machines = BTreeMap::from([(machine_name.clone(), with_other)]);
    let hosts = Hosts::connect(lab.dir(), &machines, &lab.system("opened", 1), &reporter().0).await;
    let link = Arc::clone(hosts.get(&machine_name).unwrap().ssh.as_ref().unwrap());
    link.script(
        "grep -vF -e \"$(cat)\" ~/.ssh/authorized_keys > ~/.ssh/a; mv ~/.ssh/a ~/.ssh/authorized_keys",
        public.trim(),
    )
    .await
    .unwrap();

    let known_hosts = lab.dir().join("known_hosts");
    let other_key = lab.text("/machines/1/host_key");
    std::fs::write(&known_hosts, format!("{host} {other_key}\n")).unwrap();
    let changed = lab.refusal(lab.ssh()).await;
    assert!(changed.message.contains("has CHANGED: it shows SHA256:"), "{changed:?}");
    assert!(changed.message.contains("known is SHA256:"), "{changed:?}");
    std::fs::write(&known_hosts, "").unwrap();
    let unknown = lab.refusal(lab.ssh()).await;
    assert!(
        unknown.message.starts_with("x (hostkey): ") && unknown.hints[0].contains("nsd mach trust x"),
        "{unknown:?}"
    );

    // Shown, accepted, known.
    let keys = trust(lab.dir(), &machine_name, &machine.reach).await.unwrap();
    assert!(keys.iter().any(|key| format!("{} {}", key.kind, key.key) == lab.text("/machines/0/host_key")));
    remember(lab.dir(), &keys).unwrap();
    assert_eq!(known(lab.dir(), &machine_name, &machine.reach).unwrap().len(), keys.len());
    let hosts = lab.connect(&lab.system("trusted", 1)).await;
    hosts.get(&machine_name).unwrap();
}

#[tokio::test]
async fn one_deploy_at_a_time_and_an_audit_line_at_the_end() {
    let lab = Lab::new();
    let system = lab.system("locked", 2);
    let (first, second) = (lab.connect(&system).await, lab.connect(&system).await);
    let held = lock(&first, &system, "Ada on laptop").await.unwrap();
    let refused = lock(&second, &system, "Bob").await.err().unwrap();
    assert_eq!(refused.kind.exit_code(), 5);
    assert!(refused.message.contains("is locked by Ada on laptop, since 20"), "{refused:?}");
    held.finish("deployed r1").await.unwrap();
    let held = lock(&second, &system, "Bob").await.unwrap();
    for host in second.reached() {
        let log = host.ssh.as_ref().unwrap().script("tail -n 1 /var/log/nsd.log", "").await.unwrap();
        assert!(log.trim().ends_with("deployed r1"), "{log}");
    }
    drop(held);
    let again = async {
        loop {
            match lock(&first, &system, "Ada").await {
                Ok(held) => return held,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), again).await.expect("a dropped lock is free");
}

#[tokio::test]
async fn a_port_that_is_taken_says_so() {
    let lab = Lab::new();
    let mut system = lab.system("taken", 1);
    let machine = lab.machine_name(0);
    for process in ["one", "two"] {
        let mut http = container(Image::Registry { reference: lab.image("busybox:1") });
        http.command = Some(["httpd", "-f", "-p", "80"].map(Text::from).to_vec());
        http.ports.push(Port { ip: None, host: 24105, container: 80, protocol: Protocol::Tcp });
        system.instances.push(instance(&machine, process, http, None));
    }
    let hosts = lab.connect(&system).await;
    let outcome = run(&hosts, &system, &create_all(&system, "eeee")).await;
    let Ended::RolledBack { failed, left } = &outcome.result else { panic!("{outcome:?}") };
    assert!(failed.hints[0].contains("another program or container has this port"), "{failed:?}");
    assert!(left.is_empty(), "{left:?}");
    assert!(
        !surveyed(&hosts, &system, &machine)
            .await
            .instances
            .iter()
            .any(|left| left.state != RunState::Created)
    );
    let pull = Action::Pull { reference: lab.image("nothing:9") };
    let outcome = run(&hosts, &system, &plan(&system, vec![Step { machine, action: pull }])).await;
    let why = outcome.failure("deploy").unwrap().causes.join("\n");
    assert!(
        why.contains(&format!(
            "cannot pull {} from {}",
            lab.image("nothing:9"),
            lab.text("/registry/address")
        )),
        "{why}"
    );
}
