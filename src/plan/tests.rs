use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;
use crate::secret::Secret;
use crate::system::{
    Bundled, Container, File, Image, Instance, Machine, Network, Port, Protocol, Reach, Restart, Text,
};

/// One instance as a test writes it.
#[derive(Debug, Clone)]
struct Wish {
    name: String,
    image: String,
    needs: Vec<&'static str>,
    live: Option<String>,
    secret: bool,
    port: Option<u16>,
    max_parallel: u16,
}

fn wish(name: &str, image: &str) -> Wish {
    let (name, image) = (name.to_owned(), image.to_owned());
    Wish { name, image, needs: Vec::new(), live: None, secret: false, port: None, max_parallel: 1 }
}

fn container(wish: &Wish) -> Container {
    let file = |content: &str, to: &str, live| File {
        to: to.to_owned(),
        content: Text::new(content),
        mode: 0o600,
        live,
    };
    let live = wish.live.as_ref().map(|content| file(content, "/live", true));
    let secret = wish.secret.then(|| file("${secret.s}", "/secret", false));
    let port = |host| Port { ip: None, host, container: 80, protocol: Protocol::Tcp };
    Container {
        image: Image::Registry { reference: wish.image.clone() },
        ports: wish.port.map(port).into_iter().collect(),
        env: BTreeMap::new(),
        volumes: Vec::new(),
        files: live.into_iter().chain(secret).collect(),
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

fn instance_name(text: &str) -> InstanceName {
    InstanceName::try_from(text.to_owned()).unwrap()
}

fn system(machines: &[&str], wishes: &[Wish]) -> System {
    let instances = wishes.iter().map(|wish| Instance {
        name: instance_name(&wish.name),
        container: container(wish),
        health: None,
        needs: wish.needs.iter().map(|name| name.parse().unwrap()).collect(),
        stop_grace: Duration::from_secs(10),
        max_parallel: wish.max_parallel,
    });
    let reach = Reach::Ssh { host: "h".to_owned(), port: None, user: None, identity: None };
    let machine =
        |name: &&str| (name.parse().unwrap(), Machine { reach: reach.clone(), address: "h".to_owned() });
    System {
        name: "sys".parse().unwrap(),
        namespace: String::new(),
        id: uuid::Uuid::nil(),
        topology: "t".parse().unwrap(),
        machines: machines.iter().map(machine).collect(),
        instances: instances.collect(),
        builds: BTreeMap::new(),
        store: None,
    }
}

fn secrets(value: &str) -> Secrets {
    Secrets(BTreeMap::from([("s".parse().unwrap(), Secret::new(value))]))
}

fn nothing_on(machines: &[&str]) -> Observed {
    let answered = |name: &&str| (name.parse().unwrap(), MachineState::Answered(Surveyed::default()));
    Observed { machines: machines.iter().map(answered).collect() }
}

/// The machines as a deploy of the plan would leave them; each step must be possible.
fn performed(mut observed: Observed, plan: &Plan, wanted: &System, secrets: &Secrets) -> Observed {
    for step in plan.stages.iter().flat_map(|stage| &stage.lanes).flat_map(|lane| &lane.steps) {
        let Some(MachineState::Answered(machine)) = observed.machines.get_mut(&step.machine) else {
            panic!("{} is not there", step.machine)
        };
        perform(machine, &step.action, wanted, secrets);
    }
    observed
}

fn perform(machine: &mut Surveyed, action: &Action, wanted: &System, secrets: &Secrets) {
    let at = |machine: &Surveyed, name: &ContainerName| {
        let found = machine.instances.iter().position(|running| running.container == *name);
        found.unwrap_or_else(|| panic!("{name} is not there"))
    };
    match action {
        Action::Pull { reference } | Action::Ship { reference, .. } => {
            assert!(machine.images.insert(reference.clone()), "{reference} is there already");
        }
        Action::Create { container, instance, spec } => {
            assert!(
                machine.instances.iter().all(|running| running.container != *container),
                "{container} exists"
            );
            let made_from = &wanted.instances.iter().find(|one| one.name == *instance).unwrap().container;
            assert!(
                machine.images.contains(&made_from.image.reference().unwrap()),
                "{instance} has no image"
            );
            machine.instances.push(Running {
                container: container.clone(),
                instance: instance.clone(),
                revision: "r".to_owned(),
                spec: spec.clone(),
                made_from: Some(made_from.without_live_contents()),
                state: RunState::Created,
                state_dir: String::new(),
                live_files: live_files(made_from, secrets),
            });
        }
        Action::Start { container, .. } => {
            let at = at(machine, container);
            let instance = machine.instances[at].instance.clone();
            let beside = machine.instances.iter().enumerate().filter(|(n, _)| *n != at);
            let up = beside.filter(|(_, other)| other.instance == instance && other.state.is_up()).count();
            assert_eq!(up, 0, "{instance} would run twice");
            assert_ne!(machine.instances[at].state, RunState::Paused);
            machine.instances[at].state = RunState::Running { since: String::new() };
        }
        Action::AwaitHealthy { container, .. } => {
            let at = at(machine, container);
            assert!(machine.instances[at].state.runs());
        }
        Action::Stop { container, .. } => {
            let at = at(machine, container);
            assert!(machine.instances[at].state.is_up(), "{container} is stopped twice");
            machine.instances[at].state = RunState::Exited { code: 0 };
        }
        Action::Remove { container, .. } => {
            let at = at(machine, container);
            assert!(!machine.instances.remove(at).state.is_up(), "{container} is removed while it runs");
        }
        Action::PutFiles { container, instance, files } => {
            let at = at(machine, container);
            let wanted = &wanted.instances.iter().find(|one| one.name == *instance).unwrap().container;
            let contents = live_files(wanted, secrets);
            for file in files {
                machine.instances[at].live_files.insert(file.clone(), contents[file].clone());
            }
        }
    }
}

fn live_files(container: &Container, secrets: &Secrets) -> BTreeMap<String, String> {
    let live = container.files.iter().filter(|file| file.live).map(|file| {
        let bound = file.content.bind("", |name| secrets.get(name)).unwrap();
        (file.to.clone(), hex::encode(Sha256::digest(bound.reveal())))
    });
    live.collect()
}

/// The machines once `system` runs on them.
fn deployed(system: &System, secrets: &Secrets) -> Observed {
    let names: Vec<&str> = system.machines.keys().map(MachineName::as_str).collect();
    let empty = nothing_on(&names);
    let plan = plan(system, "r", &empty, secrets).unwrap();
    performed(empty, &plan, system, secrets)
}

fn surveyed<'o>(observed: &'o mut Observed, machine: &str) -> &'o mut Surveyed {
    match observed.machines.get_mut(&machine.parse().unwrap()).unwrap() {
        MachineState::Answered(told) => told,
        MachineState::Unreachable { .. } => panic!("{machine} did not answer"),
    }
}

fn shown(wanted: &System, observed: &Observed, secrets: &Secrets) -> String {
    text_long(&plan(wanted, "r2", observed, secrets).unwrap())
}

/// Redis, two brokers, a balancer whose live file lists the brokers.
fn cluster(image: &str, list: &str) -> System {
    let broker = |name| Wish { needs: vec!["redis"], ..wish(name, image) };
    let balancer =
        Wish { needs: vec!["mqtt"], live: Some(list.to_owned()), ..wish("c.balancer.1", "balancer:1") };
    let redis = Wish { secret: true, ..wish("a.redis.1", "redis:7") };
    system(&["a", "b", "c"], &[redis, broker("a.mqtt.1"), broker("b.mqtt.1"), balancer])
}

#[test]
fn a_first_deploy_creates_in_needs_order() {
    let system = cluster("mqtt:1", "a b");
    insta::assert_snapshot!(shown(&system, &nothing_on(&["a", "b", "c"]), &secrets("x")));
}

#[test]
fn the_same_again_is_nothing() {
    let system = cluster("mqtt:1", "a b");
    let observed = deployed(&system, &secrets("x"));
    let plan = plan(&system, "r2", &observed, &secrets("x")).unwrap();
    assert_eq!(plan.stages, []);
    assert_eq!(text(&plan), "nothing to do: 4 of 4 run as wanted\n");
}

#[test]
fn a_new_image_replaces_one_after_another() {
    let observed = deployed(&cluster("mqtt:1", "a b"), &secrets("x"));
    insta::assert_snapshot!(shown(&cluster("mqtt:2", "a b"), &observed, &secrets("x")));
}

#[test]
fn a_changed_secret_replaces_and_says_so() {
    let system = cluster("mqtt:1", "a b");
    let observed = deployed(&system, &secrets("old-hunter2"));
    let shown = shown(&system, &observed, &secrets("new-hunter2"));
    assert!(!shown.contains("hunter2"));
    insta::assert_snapshot!(shown);
}

#[test]
fn a_broker_that_goes_leaves_the_list_first() {
    let observed = deployed(&cluster("mqtt:1", "a b"), &secrets("x"));
    let mut wanted = cluster("mqtt:1", "a");
    wanted.instances.retain(|instance| instance.name.to_string() != "b.mqtt.1");
    insta::assert_snapshot!(shown(&wanted, &observed, &secrets("x")));
}

#[test]
fn a_stopped_container_is_started_and_a_paused_one_ended_first() {
    let system = cluster("mqtt:1", "a b");
    let mut observed = deployed(&system, &secrets("x"));
    surveyed(&mut observed, "b").instances[0].state = RunState::Exited { code: 137 };
    let paused = surveyed(&mut observed, "c");
    paused.instances[0].state = RunState::Paused;
    paused.instances[0].live_files.clear();
    insta::assert_snapshot!(shown(&system, &observed, &secrets("x")));
}

#[test]
fn an_interrupted_replacement_is_finished() {
    let before = cluster("mqtt:1", "a b");
    let wanted = cluster("mqtt:2", "a b");
    let mut observed = deployed(&before, &secrets("x"));
    // The new container was made and not started; the old one runs.
    let new = deployed(&wanted, &secrets("x"));
    let MachineState::Answered(told) = &new.machines[&"b".parse().unwrap()] else {
        panic!("b did not answer")
    };
    let made = Running { state: RunState::Created, ..told.instances[0].clone() };
    surveyed(&mut observed, "b").instances.push(made);
    surveyed(&mut observed, "b").images.insert("mqtt:2".to_owned());
    insta::assert_snapshot!(shown(&wanted, &observed, &secrets("x")));
}

#[test]
fn what_is_left_over_beside_the_wanted_one_is_removed_last() {
    let wanted = cluster("mqtt:2", "a b");
    let mut observed = deployed(&wanted, &secrets("x"));
    let old = deployed(&cluster("mqtt:1", "a b"), &secrets("x"));
    let MachineState::Answered(told) = &old.machines[&"b".parse().unwrap()] else {
        panic!("b did not answer")
    };
    surveyed(&mut observed, "b").instances.push(told.instances[0].clone());
    insta::assert_snapshot!(shown(&wanted, &observed, &secrets("x")));
}

#[test]
fn a_port_is_freed_before_another_process_takes_it() {
    let before = system(&["a"], &[Wish { port: Some(1883), ..wish("a.haproxy.1", "haproxy:3") }]);
    let observed = deployed(&before, &secrets("x"));
    let wanted = system(&["a"], &[Wish { port: Some(1883), ..wish("a.balancer.1", "balancer:1") }]);
    insta::assert_snapshot!(shown(&wanted, &observed, &secrets("x")));
}

#[test]
fn as_many_are_replaced_at_once_as_allowed() {
    let fleet = |image: &str| {
        let names = ["a.w.1", "a.w.2", "a.w.3", "b.w.1", "b.w.2"];
        let wishes = names.map(|name| Wish { max_parallel: 2, ..wish(name, image) });
        system(&["a", "b"], &wishes)
    };
    let observed = deployed(&fleet("w:1"), &secrets("x"));
    let plan = plan(&fleet("w:2"), "r", &observed, &secrets("x")).unwrap();
    let roll = plan.stages.iter().find(|stage| stage.title == "roll w").unwrap();
    let starts =
        |lane: &Lane| lane.steps.iter().filter(|step| matches!(step.action, Action::Start { .. })).count();
    assert_eq!(roll.lanes.iter().map(starts).collect::<Vec<_>>(), [3, 2]);
}

#[test]
fn a_machine_that_does_not_answer_is_never_taken_for_empty() {
    let system = cluster("mqtt:1", "a b");
    let mut observed = nothing_on(&["a"]);
    observed.machines.insert("b".parse().unwrap(), MachineState::Unreachable { why: "refused".to_owned() });
    let error = plan(&system, "r", &observed, &secrets("x")).unwrap_err();
    assert_eq!(error.to_string(), "cannot ask b, c");
    // A machine that the system has no more may be gone for good.
    let mut observed = deployed(&system, &secrets("x"));
    observed
        .machines
        .insert("gone".parse().unwrap(), MachineState::Unreachable { why: "refused".to_owned() });
    assert_eq!(plan(&system, "r", &observed, &secrets("x")).unwrap().stages, []);
}

#[test]
fn without_its_secrets_there_is_no_plan() {
    let system = cluster("mqtt:1", "a b");
    let error = plan(&system, "r", &nothing_on(&["a", "b", "c"]), &Secrets::default()).unwrap_err();
    assert_eq!(error.to_string(), "secrets without a value: s");
}

#[test]
fn containers_of_a_machine_that_was_renamed_go() {
    let before = system(&["old"], &[wish("old.w.1", "w:1")]);
    let mut observed = deployed(&before, &secrets("x"));
    let told = observed.machines.remove(&"old".parse().unwrap()).unwrap();
    observed.machines.insert("new".parse().unwrap(), told);
    let wanted = system(&["new"], &[wish("new.w.1", "w:1")]);
    insta::assert_snapshot!(shown(&wanted, &observed, &secrets("x")));
}

#[test]
fn stopping_goes_backwards() {
    let system = cluster("mqtt:1", "a b");
    let observed = deployed(&system, &secrets("x"));
    let plan = stop(&system, "r", &observed).unwrap();
    insta::assert_snapshot!(text(&plan));
    let after = performed(observed, &plan, &system, &secrets("x"));
    let left: usize = after
        .machines
        .values()
        .map(|state| match state {
            MachineState::Answered(told) => told.instances.len(),
            MachineState::Unreachable { .. } => panic!("nobody said so"),
        })
        .sum();
    assert_eq!(left, 0);
    assert_eq!(stop(&system, "r", &after).unwrap().stages, []);
}

#[test]
fn a_bundled_image_is_shipped_to_docker_and_not_to_plain_processes() {
    let mut wanted = system(&["a"], &[wish("a.mqtt.1", "x")]);
    wanted.instances[0].container.image = Image::Bundled { program: Bundled::Broker, digest: "d".to_owned() };
    let titles = |wanted: &System| {
        let plan = plan(wanted, "r", &nothing_on(&["a"]), &secrets("x")).unwrap();
        plan.stages.into_iter().map(|stage| stage.title).collect::<Vec<_>>()
    };
    assert_eq!(titles(&wanted), ["ship images", "start mqtt"]);
    wanted.machines.values_mut().for_each(|machine| machine.reach = Reach::Process);
    assert_eq!(titles(&wanted), ["start mqtt"]);
}

#[test]
fn a_spec_covers_everything_but_live_contents() {
    let base = Wish { live: Some("a".to_owned()), secret: true, ..wish("a.w.1", "w:1") };
    let of = |wish: &Wish, secret: &str| spec(&container(wish), &secrets(secret));
    assert_eq!(of(&base, "x"), of(&Wish { live: Some("b".to_owned()), ..base.clone() }, "x"));
    assert_ne!(of(&base, "x"), of(&base, "y"));
    assert_ne!(of(&base, "x"), of(&Wish { image: "w:2".to_owned(), ..base.clone() }, "x"));
    assert_ne!(of(&base, "x"), of(&Wish { port: Some(1), ..base.clone() }, "x"));
    assert_ne!(of(&base, "x"), of(&Wish { live: None, ..base }, "x"));
}

const MACHINES: [&str; 3] = ["a", "b", "c"];

fn wishes() -> impl Strategy<Value = Vec<Wish>> {
    let one = (0usize..3, 0usize..3, 1u16..3, 0usize..3, prop::option::of("[xy]"), any::<bool>(), 1u16..3);
    prop::collection::vec(one, 0..10).prop_map(|all| {
        let mut wishes: BTreeMap<(usize, String), Wish> = BTreeMap::new();
        for (machine, process, number, image, live, secret, max_parallel) in all {
            let name = format!("{}.p{process}.{number}", MACHINES[machine]);
            let made = Wish { live, secret, max_parallel, ..wish(&name, &format!("i:{image}")) };
            wishes.insert((process, name), made);
        }
        wishes.into_values().collect()
    })
}

/// What earlier deploys, people and crashes may have left: two systems on top of each other, states stirred.
fn stirred(first: &System, second: &System, states: &[u8], secrets: &Secrets) -> Observed {
    let mut observed = deployed(first, secrets);
    let mut states = states.iter().copied().cycle();
    for (name, state) in deployed(second, secrets).machines {
        let MachineState::Answered(more) = state else { continue };
        let told = surveyed(&mut observed, name.as_str());
        told.images.extend(more.images);
        for running in more.instances {
            if told.instances.iter().all(|other| other.container != running.container) {
                told.instances.push(running);
            }
        }
    }
    for name in MACHINES {
        let told = surveyed(&mut observed, name);
        for running in &mut told.instances {
            let state = states.next().unwrap_or_default();
            running.state = match state % 7 {
                0 => RunState::Exited { code: 1 },
                1 => RunState::Created,
                2 => RunState::Paused,
                3 => RunState::Restarting,
                _ => RunState::Running { since: String::new() },
            };
            if state % 5 == 0 {
                running.live_files.clear();
            }
            if state % 11 == 0 {
                running.made_from = None;
            }
        }
        told.instances.retain(|_| states.next().unwrap_or_default() % 6 != 0);
    }
    observed
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever stands on the machines: the plan can be performed step by step, nothing is removed before everything
    /// that can fail is done, and after it there is nothing more to do.
    #[test]
    fn a_performed_plan_leaves_nothing_to_do(
        first in wishes(), second in wishes(), wanted in wishes(),
        states in prop::collection::vec(any::<u8>(), 8..40),
    ) {
        let [first, second, wanted] = [first, second, wanted].map(|wishes| system(&MACHINES, &wishes));
        let secrets = secrets("hunter2");
        let observed = stirred(&first, &second, &states, &secrets);
        let made = plan(&wanted, "r", &observed, &secrets).unwrap();
        let steps: Vec<&Step> = made.stages.iter().flat_map(|stage| &stage.lanes).flat_map(|lane| &lane.steps).collect();
        let first_final = made.stages.iter().position(|stage| stage.title == "settle").unwrap_or(made.stages.len());
        for (n, stage) in made.stages.iter().enumerate() {
            let last = stage.lanes.iter().flat_map(|lane| &lane.steps).any(|step| matches!(step.undo(), Undo::Impossible(_)));
            prop_assert_eq!(last, n >= first_final);
        }
        prop_assert_eq!(made.stages.is_empty(), steps.is_empty());
        prop_assert!(!text_long(&made).contains("hunter2"));
        prop_assert!(!serde_json::to_string(&made).unwrap().contains("hunter2"));
        let after = performed(observed, &made, &wanted, &secrets);
        let again = plan(&wanted, "r", &after, &secrets).unwrap();
        prop_assert_eq!(&again.stages, &[]);
        prop_assert!(again.changes.iter().all(|change| change.kind == ChangeKind::Keep));
        let running: BTreeSet<String> = after.machines.values().flat_map(|state| match state {
            MachineState::Answered(told) => told.instances.iter().map(|one| one.instance.to_string()).collect::<Vec<_>>(),
            MachineState::Unreachable { .. } => Vec::new(),
        }).collect();
        let names: BTreeSet<String> = wanted.instances.iter().map(|instance| instance.name.to_string()).collect();
        prop_assert_eq!(running, names);
    }
}
