//! Compiling writes revisions; the same input writes none.

use crate::support::{Home, same};

/// Each home puts one of its own in its place.
pub(crate) const ID: &str = "7a0f4a3c-5b0e-4a55-9c53-0d9c4a6f1e11";

/// A system of plain processes that needs nothing installed.
pub(crate) const SYSTEM: &str = r#"
name = "sample"
namespace = "tests"
id = "7a0f4a3c-5b0e-4a55-9c53-0d9c4a6f1e11"

[secrets]
token = { generate = 32 }

[process.clock]
program = ["sleep", "3600"]
env = { TOKEN = "{{ secret.token }}" }
stop_grace = "1s"

[process.late]
program = ["sleep", "3601"]
needs = ["clock"]
stop_grace = "1s"

[topology.local]
runtime = "process"
contains = ["clock", "late"]

[topology.pair]
runtime = "process"
contains = ["clock", "clock", "late"]
"#;

#[test]
fn compiling_records_a_revision_once() {
    let home = Home::new();
    home.sample(SYSTEM);
    let first = home.all_shown("sample", &["sys comp local", "sys comp local", "rev list"]);
    home.sample(&SYSTEM.replace("3600", "3599"));
    let second = home.all_shown(
        "sample",
        &["sys comp", "rev list", "sys show", "cont list", "mach list", "timeline list"],
    );
    same!("compile", format!("{first}{second}"));
}

#[test]
fn revisions_are_named_by_words_and_prefixes() {
    let home = Home::new();
    home.sample(SYSTEM);
    let id = |line: &str| {
        home.ok("sample", &format!("{line} --json")).json()["revision"]["id"].as_str().unwrap().to_owned()
    };
    let first = id("sys compile local");
    home.sample(&SYSTEM.replace("3600", "3599"));
    let second = id("sys compile local");
    assert_eq!(id("rev get head"), second);
    assert_eq!(id("rev get previous"), first);
    assert_eq!(id(&format!("rev get {}", &first[..9])), first);
    for (wrong, code) in [("deployed", 1), ("abc", 64), ("HEAD~1", 64), ("00000000", 1)] {
        assert_eq!(home.nsd("sample", &format!("rev get {wrong}")).code, code, "{wrong}");
    }
    // Topologies have histories of their own.
    assert_eq!(home.nsd("sample", "rev get head --topology pair").code, 1);
    home.ok("sample", "sys compile pair");
    assert_ne!(id("rev get head"), second);
    assert_eq!(id("rev get head --topology local"), second);
}

#[test]
fn git_shows_nothing_of_it() {
    let home = Home::new();
    home.sample(SYSTEM);
    let git = git2::Repository::open(home.path("sample")).unwrap();
    home.ok("sample", "sys compile local");
    assert_eq!(git.branches(None).unwrap().count(), 0);
    let statuses = git.statuses(Some(git2::StatusOptions::new().include_untracked(true))).unwrap();
    let paths: Vec<String> = statuses.iter().map(|one| one.path().unwrap().to_owned()).collect();
    assert_eq!(paths, ["system.toml"]);
    let head = git.find_reference("refs/nsd/sample/local").unwrap().peel_to_commit().unwrap();
    let tree = head.tree().unwrap();
    let files: Vec<&str> = tree.iter().map(|entry| entry.name().unwrap().to_owned().leak() as &str).collect();
    assert_eq!(files, ["lock.json", "system.json"]);
    assert_eq!((head.author().name().unwrap(), head.author().email().unwrap()), ("Ada", "ada@example.org"));
}

#[test]
fn a_system_outside_of_git_has_a_history_too() {
    let home = Home::new();
    home.write("sample/system.toml", SYSTEM);
    home.ok("sample", "sys compile local");
    home.ok("sample", "rev get head");
    assert!(home.path("sample/.nsd/history.git").is_dir());
}

#[test]
fn a_build_that_fails_is_in_the_timeline() {
    let home = Home::new();
    commit_to(&git2::Repository::init_bare(home.path("clock.git")).unwrap());
    // Paths count from the folder of system.toml.
    let local = "[topology.local]\nruntime = \"docker\"";
    home.sample(
        &SYSTEM
            .replace("program = [\"sleep\", \"3600\"]", "repository = \"../clock.git\"")
            .replace("program = [\"sleep\", \"3601\"]", "image = \"busybox:1\"")
            .replace("[topology.local]\nruntime = \"process\"", local),
    );
    home.ok("sample", "sys compile local");
    let ran = home.nsd("sample", "cont buildall");
    assert_eq!(ran.code, 6, "no engine builds here: {}", ran.all());
    let entries = home.ok("sample", "timeline list --json").json();
    assert_eq!(
        (entries[0]["action"].as_str(), entries[0]["result"].as_str()),
        (Some("build"), Some("failed"))
    );
    assert!(entries[0]["summary"].as_str().unwrap().contains("Docker"), "{entries}");
    assert_eq!(home.nsd("sample", "rev get deployed").code, 1, "a build deploys nothing");
}

/// One commit with a Dockerfile, on HEAD.
fn commit_to(git: &git2::Repository) {
    let blob = git.blob(b"FROM scratch\n").unwrap();
    let mut tree = git.treebuilder(None).unwrap();
    tree.insert("Dockerfile", blob, 0o100_644).unwrap();
    let tree = git.find_tree(tree.write().unwrap()).unwrap();
    let who = git2::Signature::now("Ada", "ada@example.org").unwrap();
    git.commit(Some("HEAD"), &who, &who, "first", &tree, &[]).unwrap();
}
