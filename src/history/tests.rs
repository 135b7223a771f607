use tempfile::TempDir;

use super::*;

fn system(address: &str) -> System {
    serde_json::from_value(serde_json::json!({
        "name": "sample", "namespace": "sample", "id": uuid::Uuid::nil(), "topology": "local",
        "machines": { "here": { "reach": { "by": "process" }, "address": address } },
        "instances": [], "builds": {},
    }))
    .unwrap()
}

fn person() -> Person {
    Person { name: "Ada".into(), email: "ada@example.org".into() }
}

fn repo(dir: &TempDir) -> Repo {
    let state = dir.path().join(".nsd");
    std::fs::create_dir_all(&state).unwrap();
    Repo::open(dir.path(), &state, &"sample".parse().unwrap()).unwrap()
}

/// A folder that no git repository surrounds.
fn folder() -> TempDir {
    TempDir::new().unwrap()
}

fn entry(action: &str, result: Outcome, revision: &str) -> Entry {
    Entry {
        time: "2026-01-01T00:00:00Z".into(),
        who: "Ada".into(),
        action: action.into(),
        topology: "local".parse().unwrap(),
        revision: Some(revision.into()),
        result,
        summary: String::new(),
        took: 1.0,
        machines: Vec::new(),
    }
}

#[test]
fn the_same_system_is_the_same_revision() {
    let dir = folder();
    let repo = repo(&dir);
    let first = repo.record(&system("a"), &Lock::default(), &person()).unwrap();
    let again = repo.record(&system("a"), &Lock::default(), &person()).unwrap();
    assert!(first.new && !again.new);
    assert_eq!(first.revision.id, again.revision.id);
    let other = repo.record(&system("b"), &Lock::default(), &person()).unwrap();
    assert!(other.new);
    assert_eq!(other.before.unwrap(), system("a"));
    assert_eq!(repo.load(&other.revision.id).unwrap(), system("b"));
    assert_eq!(repo.list(&"local".parse().unwrap()).unwrap().len(), 2);
    assert_eq!(repo.topologies().unwrap(), ["local".parse().unwrap()]);
}

#[test]
fn revisions_are_found_by_name_and_prefix() {
    let dir = folder();
    let repo = repo(&dir);
    let local = "local".parse().unwrap();
    assert!(repo.resolve(&local, "head").is_err());
    let first = repo.record(&system("a"), &Lock::default(), &person()).unwrap().revision;
    let second = repo.record(&system("b"), &Lock::default(), &person()).unwrap().revision;
    let id = |wanted: &str| repo.resolve(&local, wanted).map(|one| one.id);
    assert_eq!(id("head").unwrap(), second.id);
    assert_eq!(id("previous").unwrap(), first.id);
    assert_eq!(id(&first.id[..12]).unwrap(), first.id);
    assert_eq!(id("nonsense").unwrap_err().kind, Kind::Usage);
    assert_eq!(id(&first.id[..2]).unwrap_err().kind, Kind::Usage);
    assert!(id("deployed").is_err());
    repo.timeline_append(&entry("deploy", Outcome::Done, &first.id), &person()).unwrap();
    repo.timeline_append(&entry("deploy", Outcome::RolledBack, &second.id), &person()).unwrap();
    assert_eq!(id("deployed").unwrap(), first.id);
    repo.timeline_append(&entry("stop", Outcome::Done, &first.id), &person()).unwrap();
    assert!(id("deployed").is_err());
    assert_eq!(repo.timeline_list(2).unwrap().len(), 2);
    assert_eq!(repo.timeline_list(9).unwrap()[0].action, "stop");
}

#[test]
fn many_writers_lose_nothing() {
    let dir = folder();
    drop(repo(&dir));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    repo(&dir).timeline_append(&entry("deploy", Outcome::Done, "x"), &person()).unwrap();
                }
            });
        }
    });
    assert_eq!(repo(&dir).timeline_list(1000).unwrap().len(), 40);
}

#[test]
fn the_surrounding_repository_is_used_and_not_disturbed() {
    let dir = folder();
    let git = Repository::init(dir.path()).unwrap();
    std::fs::write(dir.path().join("staged"), "x").unwrap();
    let mut index = git.index().unwrap();
    index.add_path(Path::new("staged")).unwrap();
    index.write().unwrap();
    let before = std::fs::read(dir.path().join(".git/index")).unwrap();
    let recorded = repo(&dir).record(&system("a"), &Lock::default(), &person()).unwrap();
    assert!(git.find_commit(Oid::from_str(&recorded.revision.id).unwrap()).is_ok());
    assert_eq!(std::fs::read(dir.path().join(".git/index")).unwrap(), before);
    assert_eq!(git.branches(None).unwrap().count(), 0);
    assert!(!dir.path().join(".nsd/history.git").exists());
}

#[test]
fn a_topology_cannot_take_the_timelines_place() {
    let dir = folder();
    let mut taken = system("a");
    taken.topology = TIMELINE.parse().unwrap();
    let failure = repo(&dir).record(&taken, &Lock::default(), &person()).err().unwrap();
    assert_eq!(failure.kind, Kind::System);
}

#[test]
fn a_difference_names_what_changed() {
    let instance = |name: &str, command: &str, commit: &str| {
        serde_json::json!({
            "name": name, "stop_grace": 1.0, "max_parallel": 1,
            "container": { "image": { "from": "none" }, "command": [command], "network": "host", "restart": "no",
                           "labels": { "commit": commit } },
        })
    };
    let with = |address: &str, instances: Vec<serde_json::Value>| {
        let mut value = serde_json::to_value(system(address)).unwrap();
        value["instances"] = serde_json::Value::Array(instances);
        serde_json::from_value::<System>(value).unwrap()
    };
    let before = with("a", vec![instance("here.web.1", "x", "1"), instance("here.old.1", "x", "1")]);
    let after = with("b", vec![instance("here.web.1", "y", "2"), instance("here.web.2", "x", "1")]);
    assert_eq!(difference(None, &before), ["+ here.web.1", "+ here.old.1"]);
    assert_eq!(
        difference(Some(&before), &after),
        ["~ machine here (b)", "~ here.web.1: command, labels", "+ here.web.2", "- here.old.1"]
    );
}
