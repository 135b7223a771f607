//! Failures at every call: a run ends all-new or all-old, never between.

use std::collections::BTreeMap;

use futures_util::future::join_all;

use super::*;
use crate::host::scripted::{Made, Scripted};
use crate::host::{Engine, Host, Hosts};
use crate::plan::{ContainerName, Spec, Stage};
use crate::report::Listener;
use crate::system::{Container, File, Image, Instance, InstanceName, Machine, Network, Reach, Restart, Text};

struct Silent;

impl Listener for Silent {
    fn on(&self, _: &Event) {}
}

type World = BTreeMap<MachineName, BTreeMap<String, Made>>;

/// Two machines on which an old instance runs, and one whose balancer has a live file.
struct Bench {
    hosts: Hosts,
    engines: BTreeMap<MachineName, Arc<Scripted>>,
    system: Arc<System>,
}

const LIVE: &str = "/etc/balancer.toml";

impl Bench {
    fn new() -> Self {
        let mut engines = BTreeMap::new();
        let mut machines = BTreeMap::new();
        let mut instances = Vec::new();
        let mut hosts = Vec::new();
        for (machine, process) in [("m1", "mqtt"), ("m2", "mqtt"), ("m3", "balancer")] {
            let name: MachineName = machine.parse().unwrap();
            let instance = instance(&name, process);
            let engine = Arc::new(Scripted::default());
            let files = BTreeMap::from([(LIVE.to_owned(), "old".to_owned())]);
            engine.put(&container(&instance.name, "old").0, Made { runs: true, files });
            let there = Machine { reach: Reach::Docker, address: machine.to_owned() };
            machines.insert(name.clone(), there.clone());
            instances.push(instance);
            let host = Host {
                name: name.clone(),
                machine: there,
                engine: Engine::Scripted(Arc::clone(&engine)),
                ssh: None,
            };
            hosts.push(host);
            engines.insert(name, engine);
        }
        let system = System {
            name: "s".parse().unwrap(),
            namespace: "n".into(),
            id: uuid::Uuid::nil(),
            topology: "t".parse().unwrap(),
            machines,
            instances,
            builds: BTreeMap::new(),
            store: None,
        };
        Self { hosts: Hosts::of(hosts), engines, system: Arc::new(system) }
    }

    /// Replaces both brokers, the first alone, stop-first; then tells the balancer; then clears the old away.
    fn plan(&self) -> Plan {
        let [one, two, balancer] = [0, 1, 2].map(|at| self.system.instances[at].name.clone());
        let stage = |lanes: Vec<Vec<Step>>| Stage {
            title: String::new(),
            lanes: lanes.into_iter().map(|steps| Lane { steps }).collect(),
        };
        let put = Action::PutFiles {
            container: container(&balancer, "old"),
            instance: balancer.clone(),
            files: vec![LIVE.into()],
        };
        let gone = |instance: &InstanceName| {
            step(
                instance,
                Action::Remove { container: container(instance, "old"), instance: instance.clone() },
            )
        };
        Plan {
            system: self.system.name.clone(),
            topology: self.system.topology.clone(),
            revision: "r2".into(),
            changes: Vec::new(),
            stages: vec![
                stage(vec![replace(&one)]),
                stage(vec![replace(&two), vec![step(&balancer, put)]]),
                stage(vec![vec![gone(&one)], vec![gone(&two)]]),
            ],
        }
    }

    async fn run(&self, cancel: CancellationToken) -> Outcome {
        let runner = Runner {
            hosts: &self.hosts,
            system: Arc::clone(&self.system),
            secrets: Arc::new(Secrets(BTreeMap::new())),
            reporter: Reporter::new(Silent),
            revision: "r2".into(),
        };
        runner.run(&self.plan(), cancel).await
    }

    fn world(&self) -> World {
        self.engines.iter().map(|(name, engine)| (name.clone(), engine.containers())).collect()
    }
}

fn instance(machine: &MachineName, process: &str) -> Instance {
    Instance {
        name: InstanceName { machine: machine.clone(), process: process.parse().unwrap(), number: 1 },
        container: Container {
            image: Image::Registry { reference: "x:1".into() },
            ports: Vec::new(),
            env: BTreeMap::new(),
            volumes: Vec::new(),
            files: vec![File { to: LIVE.into(), content: Text::new("new"), mode: 0o644, live: true }],
            command: None,
            entrypoint: None,
            user: None,
            network: Network::Bridge,
            restart: Restart::Always,
            ulimits: BTreeMap::new(),
            memory: None,
            millicpus: None,
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            labels: BTreeMap::new(),
        },
        health: None,
        needs: Vec::new(),
        stop_grace: Duration::from_secs(1),
        max_parallel: 1,
    }
}

fn container(instance: &InstanceName, spec: &str) -> ContainerName {
    ContainerName(format!("s.{instance}.{spec}"))
}

fn step(instance: &InstanceName, action: Action) -> Step {
    Step { machine: instance.machine.clone(), action }
}

fn replace(instance: &InstanceName) -> Vec<Step> {
    let (old, new, name) = (container(instance, "old"), container(instance, "new"), instance.clone());
    let actions = [
        Action::Pull { reference: "x:1".into() },
        Action::Stop { container: old, instance: name.clone(), grace: Duration::ZERO },
        Action::Create { container: new.clone(), instance: name.clone(), spec: Spec("new".into()) },
        Action::Start { container: new.clone(), instance: name.clone() },
        Action::AwaitHealthy { container: new, instance: name },
    ];
    actions.into_iter().map(|action| step(instance, action)).collect()
}

#[tokio::test]
async fn a_run_without_failures_is_all_new() {
    let bench = Bench::new();
    let outcome = bench.run(CancellationToken::new()).await;
    assert!(matches!(outcome.result, Ended::Completed), "{outcome:?}");
    assert_eq!(outcome.steps, 13);
    assert!(outcome.failure("deploy").is_none());
    for (machine, containers) in bench.world() {
        let [(name, made)] = containers.iter().collect::<Vec<_>>()[..] else {
            panic!("{machine}: {containers:?}")
        };
        assert!(made.runs && made.files[LIVE] == "new", "{name}: {made:?}");
        assert_eq!(name.ends_with("new"), machine.as_str() != "m3");
    }
}

#[tokio::test]
async fn a_failure_at_any_call_of_any_machine_leaves_all_old_or_all_new() {
    /// More calls than any machine gets in this plan.
    const CALLS: usize = 25;
    let before = Bench::new().world();
    let cases =
        ["m1", "m2", "m3"].into_iter().flat_map(|machine| (0..CALLS).map(move |call| (machine, call)));
    let runs = cases.map(|(machine, call)| async move {
        let bench = Bench::new();
        let engine = &bench.engines[&machine.parse::<MachineName>().unwrap()];
        engine.fail_at(Some(call));
        let outcome = bench.run(CancellationToken::new()).await;
        (format!("{machine} call {call}"), engine.has_failed(), outcome, bench.world())
    });
    let (mut back, mut forward) = (0, 0);
    for (case, failed, outcome, after) in join_all(runs).await {
        match &outcome.result {
            Ended::Completed => assert!(!failed, "{case}: the failure went unnoticed"),
            Ended::RolledBack { left, .. } => {
                back += 1;
                assert!(left.is_empty(), "{case}: {left:?}");
                assert_eq!(after, before, "{case}");
                assert_eq!(outcome.failure("deploy").unwrap().kind, Kind::RolledBack);
            }
            Ended::Partly { .. } => {
                forward += 1;
                for (machine, containers) in &after {
                    let new = containers.iter().filter(|(_, made)| made.runs && made.files[LIVE] == "new");
                    assert_eq!(new.count(), 1, "{case}: {machine}");
                }
                assert_eq!(outcome.failure("deploy").unwrap().kind, Kind::Partly);
            }
            Ended::Interrupted { .. } => panic!("{case}: nobody interrupted"),
        }
    }
    // Every engine call before the removals: pull, stop, create, start and the health's on m1 and m2, two on m3.
    assert!(back >= 12, "only {back} failures were taken back");
    assert_eq!(forward, 2, "each removal can fail once");
}

#[tokio::test]
async fn an_interrupted_run_is_taken_back() {
    let bench = Bench::new();
    let before = bench.world();
    let cancel = CancellationToken::new();
    let interrupt = async {
        // In the middle of the first instance's wait for health.
        tokio::time::sleep(Duration::from_millis(300)).await;
        cancel.cancel();
    };
    let (outcome, ()) = tokio::join!(bench.run(cancel.clone()), interrupt);
    let Ended::Interrupted { left } = &outcome.result else { panic!("{outcome:?}") };
    assert!(left.is_empty() && outcome.steps == 4, "{outcome:?}");
    assert_eq!(bench.world(), before);
    assert_eq!(outcome.failure("deploy").unwrap().kind, Kind::Interrupted);
}

#[tokio::test]
async fn what_cannot_be_taken_back_is_named() {
    let bench = Bench::new();
    let engine = &bench.engines[&"m1".parse::<MachineName>().unwrap()];
    // The old one cannot be started again: its start is the call after those of a failed start of the new one.
    engine.fail_at(Some(3));
    engine.fail_also_at(5);
    let outcome = bench.run(CancellationToken::new()).await;
    let Ended::RolledBack { left, .. } = &outcome.result else { panic!("{outcome:?}") };
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0].starts_with("m1: "), "{left:?}");
    assert_eq!(outcome.failure("deploy").unwrap().kind, Kind::Partly);
}

#[tokio::test]
async fn a_secret_without_a_value_stops_the_run_before_anything_is_made() {
    let mut bench = Bench::new();
    let before = bench.world();
    let mut system = (*bench.system).clone();
    system.instances[0].container.env.insert("PASSWORD".into(), Text::new("${secret.redis}"));
    bench.system = Arc::new(system);
    let outcome = bench.run(CancellationToken::new()).await;
    let failure = outcome.failure("deploy").unwrap();
    assert!(failure.causes[0].contains("the secret `redis` has no value here"), "{failure:?}");
    assert_eq!(bench.world(), before);
}
