use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;
use crate::manifest;
use crate::plan::{self, MachineState, Observed, RunState, Running, Surveyed};
use crate::secret::{Secret, Secrets};
use crate::system::{Image, Network, Reach, SecretName};

fn inputs(manifest: &Manifest, topology: &TopologyName) -> Inputs {
    let pins = manifest.repositories(topology).into_iter();
    Inputs {
        templates: BTreeMap::new(),
        pins: pins
            .map(|(name, _, _)| (name, "0123456789abcdef0123456789abcdef01234567".to_owned()))
            .collect(),
        bundled: [Bundled::Broker, Bundled::Balancer]
            .map(|program| (program, "00112233aabbccdd".to_owned()))
            .into(),
        local_docker: false,
    }
}

fn compiled(text: &str, topology: &str) -> System {
    let manifest = manifest::read(text).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let topology = topology.parse().unwrap();
    compile(&manifest, &topology, &inputs(&manifest, &topology))
        .unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn problems(text: &str, topology: &str) -> Vec<String> {
    let manifest = manifest::read(text).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let topology = topology.parse().unwrap();
    let problems = compile(&manifest, &topology, &inputs(&manifest, &topology)).unwrap_err();
    problems.iter().map(ToString::to_string).collect()
}

fn secrets(system: &System) -> Secrets {
    let named = |name: SecretName| (name.clone(), Secret::new(format!("value-of-{name}")));
    Secrets(system.secrets().into_iter().map(named).collect())
}

/// The machines as they are when the system runs just as wanted.
fn running(system: &System, secrets: &Secrets) -> Observed {
    let mut machines: BTreeMap<_, Surveyed> =
        system.machines.keys().map(|name| (name.clone(), Surveyed::default())).collect();
    for instance in &system.instances {
        let spec = plan::spec(&instance.container, secrets);
        let live = instance.container.files.iter().filter(|file| file.live).map(|file| {
            let bound = file.content.bind("/state", |name| secrets.get(name)).unwrap();
            (file.to.clone(), hex::encode(Sha256::digest(bound.reveal())))
        });
        machines.get_mut(&instance.name.machine).unwrap().instances.push(Running {
            container: plan::ContainerName::new(&system.name, &instance.name, &spec),
            instance: instance.name.clone(),
            revision: "r".to_owned(),
            spec,
            made_from: Some(instance.container.without_live_contents()),
            state: RunState::Running { since: "2026-01-01T00:00:00Z".to_owned() },
            state_dir: "/state".to_owned(),
            live_files: live.collect(),
        });
    }
    Observed {
        machines: machines.into_iter().map(|(name, told)| (name, MachineState::Answered(told))).collect(),
    }
}

fn systems() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("systems");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path().join("system.toml"));
    entries.filter(|path| path.exists()).collect()
}

#[test]
fn every_system_of_ours_compiles_and_is_then_as_wanted() {
    let mut compiled_topologies = 0;
    for path in systems() {
        let text = std::fs::read_to_string(&path).unwrap();
        let manifest =
            manifest::read(&text).unwrap_or_else(|problems| panic!("{}: {problems:#?}", path.display()));
        assert_eq!(manifest.warnings(), [], "{}", path.display());
        for topology in manifest.topologies().keys() {
            let system = compiled(&text, topology.as_str());
            compiled_topologies += 1;
            let secrets = secrets(&system);
            let observed = running(&system, &secrets);
            let plan = plan::plan(&system, "r", &observed, &secrets).unwrap();
            assert_eq!(plan.stages, [], "{} {topology}", path.display());
            let json = serde_json::to_string(&system).unwrap();
            assert_eq!(serde_json::from_str::<System>(&json).unwrap(), system);
            assert!(!json.contains("value-of-"), "a secret's value stands in the revision");
        }
    }
    assert!(compiled_topologies >= 4, "found only {compiled_topologies} topologies under systems/");
}

fn ours(name: &str) -> String {
    std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("systems").join(name).join("system.toml"),
    )
    .unwrap()
}

fn file<'s>(system: &'s System, instance: &str, to: &str) -> &'s str {
    let instance = system.instances.iter().find(|one| one.name.to_string() == instance).unwrap();
    instance.container.files.iter().find(|file| file.to == to).unwrap().content.as_str()
}

#[test]
fn the_articles_system() {
    let system = compiled(&ours("lelylan-mqtt"), "direct");
    let names: Vec<String> = system.instances.iter().map(|instance| instance.name.to_string()).collect();
    assert_eq!(names, ["redis-1.redis.1", "mqtt-1.mqtt.1", "mqtt-2.mqtt.1", "balancer-1.balancer.1"]);
    insta::assert_snapshot!("article-broker", file(&system, "mqtt-1.mqtt.1", "/etc/nsd/broker.toml"));
    insta::assert_snapshot!(
        "article-balancer",
        file(&system, "balancer-1.balancer.1", "/etc/nsd/balancer.toml")
    );
    insta::assert_snapshot!("article-redis", file(&system, "redis-1.redis.1", "/etc/redis/redis.conf"));
    let broker = &system.instances[1];
    assert_eq!(broker.container.user.as_deref(), Some("10001"));
    assert_eq!(broker.container.ports[0].container, 1883);
    assert_eq!(
        broker.health.as_ref().map(|health| health.probe.clone()),
        Some(Probe::Mqtt { port: broker.container.ports[0].host })
    );
    assert_eq!(
        system.store.as_ref().map(|store| store.instance.to_string()).as_deref(),
        Some("redis-1.redis.1")
    );
}

#[test]
fn as_plain_processes_everything_binds_the_loopback() {
    let system = compiled(&ours("quickstart"), "local");
    for instance in &system.instances {
        for port in &instance.container.ports {
            assert_eq!(port.ip.as_deref(), Some("127.0.0.1"), "{}", instance.name);
        }
        for file in &instance.container.files {
            assert!(!file.content.as_str().contains("0.0.0.0"), "{} {}", instance.name, file.to);
        }
    }
    insta::assert_snapshot!(
        "quickstart-broker",
        without_ports(file(&system, "local.mqtt.2", "/etc/nsd/broker.toml"))
    );
    insta::assert_snapshot!(
        "quickstart-balancer",
        without_ports(file(&system, "local.balancer.1", "/etc/nsd/balancer.toml"))
    );
    insta::assert_snapshot!(
        "quickstart-redis",
        without_ports(file(&system, "local.redis.1", "/etc/redis/redis.conf"))
    );
    assert_eq!(system.machines.values().next().unwrap().reach, Reach::Process);
}

/// Chosen ports are checked elsewhere.
fn without_ports(text: &str) -> String {
    let word = |word: &str| match word.trim_matches(|c: char| !c.is_ascii_digit()).rsplit(':').next() {
        Some(port) if port.len() == 5 && port.starts_with('2') => word.replace(port, "PORT"),
        _ => word.to_owned(),
    };
    text.lines()
        .map(|line| line.split(' ').map(word).collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn another_machine_moves_nothing_but_the_list_of_servers() {
    let text = ours("lelylan-mqtt");
    let before = compiled(&text, "direct");
    let after = compiled(&text.replace("# mqtt-3 ", "mqtt-3 "), "direct");
    assert_eq!(after.instances.len(), before.instances.len() + 1);
    let secrets = secrets(&before);
    let mut observed = running(&before, &secrets);
    let new = "mqtt-3".parse().unwrap();
    observed.machines.insert(new, MachineState::Answered(Surveyed::default()));
    let plan = plan::plan(&after, "r2", &observed, &secrets).unwrap();
    insta::assert_snapshot!(plan::text(&plan));
}

const HEAD: &str = "name = \"x\"\nid = \"6b4b4e3f-f22e-4516-bffb-e1a8daafb3ea\"\n";

#[test]
fn strings_are_rendered_and_mistakes_in_them_have_a_line() {
    let text = format!(
        "{HEAD}[secrets]\ndb = {{ env = \"DB\" }}\n[process.a]\nimage = \"a:1\"\n\
         env = {{ DB = \"{{{{ secret.db }}}}\", PEER = \"{{{{ instances.b[0].address }}}}\", V = \"{{{{ vars.v }}}}\" }}\n\
         vars = {{ v = 3 }}\n[process.b]\nimage = \"b:1\"\nports = [\"80:8080\"]\n\
         [topology.t.machines]\nm = {{ ip = \"10.0.0.1\", address = \"192.168.0.1\", contains = [\"a\", \"b\"] }}\n"
    );
    let system = compiled(&text, "t");
    let env = &system.instances[0].container.env;
    assert_eq!(env["DB"].as_str(), "${secret.db}");
    assert_eq!(env["PEER"].as_str(), "192.168.0.1:80");
    assert_eq!(env["V"].as_str(), "3");
    let wrong = text.replace("secret.db }}", "secret.dbx }}").replace("vars.v }}", "vars. }}");
    insta::assert_snapshot!(problems(&wrong, "t").join("\n"));
}

#[test]
fn a_secret_on_a_command_line_is_refused() {
    let text = format!(
        "{HEAD}[secrets]\ndb = {{ env = \"DB\" }}\n[process.a]\nimage = \"a:1\"\ncommand = [\"run\", \"--password={{{{ secret.db }}}}\"]\n\
         [topology.t.machines]\nm = {{ ip = \"10.0.0.1\", contains = [\"a\"] }}\n"
    );
    insta::assert_snapshot!(problems(&text, "t").join("\n"));
}

#[test]
fn a_wrong_template_is_named_with_its_line() {
    let text = format!(
        "{HEAD}[process.a]\nimage = \"a:1\"\nfiles = [{{ template = \"mine.tera\", to = \"/a\" }}, {{ template = \"gone.tera\", to = \"/b\" }}]\n\
         [topology.t.machines]\nm = {{ ip = \"10.0.0.1\", contains = [\"a\", \"a\"] }}\n"
    );
    let manifest = manifest::read(&text).unwrap();
    let topology = "t".parse().unwrap();
    let mut inputs = inputs(&manifest, &topology);
    inputs.templates.insert("mine.tera".to_owned(), "one\ntwo {{ nobody.home }}\n".to_owned());
    let found = compile(&manifest, &topology, &inputs).unwrap_err();
    insta::assert_snapshot!(found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
}

#[test]
fn what_only_docker_or_only_a_process_can_do_is_told() {
    let image = format!(
        "{HEAD}[process.a]\nimage = \"a:1\"\n[topology.t]\ncontains = [\"a\"]\nruntime = \"process\"\n"
    );
    let program = format!(
        "{HEAD}[process.a]\nprogram = [\"a\"]\n[topology.t]\ncontains = [\"a\"]\nruntime = \"docker\"\n"
    );
    let host = format!(
        "{HEAD}[process.a]\nimage = \"a:1\"\nnetwork = \"host\"\nports = [\"1:2\"]\n[process.b]\nimage = \"a:1\"\nnetwork = \"host\"\nports = [\"80\"]\n\
         [topology.t.machines]\nm = {{ ip = \"10.0.0.1\", contains = [\"a\", \"b\", \"b\"] }}\n"
    );
    let all: Vec<String> = [image, program, host].iter().flat_map(|text| problems(text, "t")).collect();
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn keys_of_a_topology_lie_over_those_of_the_process() {
    let text = format!(
        "{HEAD}[process.a]\nimage = \"a:1\"\nenv = {{ A = \"1\", B = \"1\" }}\nports = [\"80:80\"]\n[topology.t.machines]\nm = {{ ip = \"10.0.0.1\", contains = [\"a\"] }}\n\
         [topology.t.process.a]\nrepository = \"/srv/a.git#main\"\nenv = {{ B = \"2\" }}\nports = []\nnetwork = \"host\"\n"
    );
    let container = &compiled(&text, "t").instances[0].container;
    let env: Vec<&str> = container.env.values().map(crate::system::Text::as_str).collect();
    assert_eq!(env, ["1", "2"]);
    assert!(container.ports.is_empty() && container.network == Network::Host);
    assert!(matches!(&container.image, Image::Built { tag, .. } if tag.starts_with("nsd/x-a:")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The same manifest compiles to the same system, and a machine more moves no port of another.
    #[test]
    fn compiling_is_deterministic_and_stable(copies in prop::collection::vec(1usize..6, 1..6), extra in 1usize..6) {
        let text = |copies: &[usize]| {
            let machines = copies.iter().enumerate().map(|(n, copies)| {
                format!("m{n} = {{ ip = \"10.0.0.{n}\", contains = [{}] }}\n", vec!["\"a\""; *copies].join(", "))
            });
            let machines: String = machines.collect();
            format!("{HEAD}[process.a]\nimage = \"a:1\"\nports = [\"1883\", \"9000/udp\"]\n[topology.t.machines]\n{machines}")
        };
        let before = compiled(&text(&copies), "t");
        prop_assert_eq!(&before, &compiled(&text(&copies), "t"));
        let mut more = copies.clone();
        more.push(extra);
        let after = compiled(&text(&more), "t");
        for instance in &before.instances {
            prop_assert!(after.instances.contains(instance));
        }
        let mut seen = std::collections::BTreeSet::new();
        for instance in &after.instances {
            for port in &instance.container.ports {
                prop_assert!(seen.insert((instance.name.machine.clone(), port.host, port.protocol)));
            }
        }
    }
}
