//! Two `nsd` at the same moment.

use crate::history::SYSTEM;
use crate::support::Home;

#[test]
fn compilers_agree_on_one_revision() {
    let home = Home::new();
    home.sample(SYSTEM);
    let running: Vec<_> = (0..6).map(|_| home.start("sample", "sys compile local --json")).collect();
    let runs: Vec<crate::support::Ran> =
        running.into_iter().map(|child| child.wait_with_output().unwrap().into()).collect();
    let mut ids = std::collections::BTreeSet::new();
    let mut new = 0;
    for ran in &runs {
        assert_eq!(ran.code, 0, "{}", ran.all());
        ids.insert(ran.json()["revision"]["id"].as_str().unwrap().to_owned());
        new += usize::from(ran.json()["new"].as_bool().unwrap());
    }
    assert_eq!((ids.len(), new), (1, 1));
    assert_eq!(home.ok("sample", "rev list --json").json()["revisions"].as_array().unwrap().len(), 1);
}

#[test]
fn one_deploys_and_the_other_is_told_or_finds_it_done() {
    let home = Home::new();
    home.sample(SYSTEM);
    home.ok("sample", "sys compile local");
    let running: Vec<_> = (0..3).map(|_| home.start("sample", "rev deploy head")).collect();
    let runs: Vec<crate::support::Ran> =
        running.into_iter().map(|child| child.wait_with_output().unwrap().into()).collect();
    let stopped = home.nsd("sample", "sys stop -y");
    let done = runs.iter().filter(|ran| ran.code == 0).count();
    for ran in &runs {
        // 5: locked by the other; 7: the other was done between our question and our lock.
        assert!([0, 5, 7].contains(&ran.code), "{}", ran.all());
    }
    assert!(done >= 1);
    assert_eq!(stopped.code, 0, "{}", stopped.all());
    let entries = home.ok("sample", "timeline list --json").json();
    let deploys = entries.as_array().unwrap().iter().filter(|entry| {
        entry["action"] == "deploy"
            && entry["machines"].as_array().is_some_and(|machines| !machines.is_empty())
    });
    assert_eq!(deploys.count(), 1, "{entries}");
}
