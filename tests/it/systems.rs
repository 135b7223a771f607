//! Who works here, and on which systems.

use crate::support::{Home, same};

#[test]
fn a_person_logs_in_and_out() {
    let home = Home::new();
    let lines = [
        "login",
        "login --name Grace --email grace@example.org",
        "login --name x<y",
        "logout",
        "logout",
        "login --json",
    ];
    same!("login", home.all_shown("", &lines));
}

#[test]
fn without_git_and_terminal_a_login_says_what_it_needs() {
    let home = Home::new();
    std::fs::remove_file(home.path(".gitconfig")).unwrap();
    let ran = home.nsd("", "login");
    assert_eq!(ran.code, 64);
    assert!(ran.stderr.contains("--name"), "{}", ran.stderr);
}

#[test]
fn a_new_system_is_a_folder_in_git_that_compiles() {
    let home = Home::with_servers();
    same!(
        "create",
        home.all_shown("", &["sys create shop", "sys create shop", "sys create 'a b'", "sys list"])
    );
    assert!(home.path("shop/.git").is_dir());
    let listed = home.ok("", "sys list --json").json();
    assert_eq!(listed[0]["name"], "shop");
    let compiled = home.ok("shop", "sys compile local --json").json();
    assert_eq!(compiled["new"], true);
    // Nothing of ours waits to be committed but what `create` itself wrote.
    let git = git2::Repository::open(home.path("shop")).unwrap();
    let statuses = git.statuses(Some(git2::StatusOptions::new().include_untracked(true))).unwrap();
    let untracked: Vec<String> = statuses.iter().map(|one| one.path().unwrap().to_owned()).collect();
    assert!(!untracked.iter().any(|path| path.starts_with(".nsd")), "{untracked:?}");
}

#[test]
fn systems_are_linked_and_unlinked() {
    let home = Home::new();
    home.sample(crate::history::SYSTEM);
    same!(
        "link",
        home.all_shown(
            "",
            &[
                "sys link sample",
                "sys list",
                "sys unlink sample",
                "sys unlink sample",
                "sys list",
                "sys link"
            ]
        )
    );
}

#[test]
fn every_listing_is_json_when_asked() {
    let home = Home::new();
    home.sample(crate::history::SYSTEM);
    home.ok("sample", "sys compile local");
    for line in [
        "sys list",
        "sys show",
        "mach list",
        "cont list",
        "cont buildall",
        "rev list",
        "rev get head",
        "timeline list",
        "sys compile local",
        "login",
        "logout",
    ] {
        let ran = home.ok("sample", &format!("{line} --json"));
        ran.json();
        for event in ran.stderr.lines() {
            serde_json::from_str::<serde_json::Value>(event)
                .unwrap_or_else(|error| panic!("{line}: {error}: {event}"));
        }
    }
    let ran = home.nsd("sample", "rev get nonsense --json");
    assert_eq!((ran.code, ran.stdout.as_str()), (64, ""));
    let failure: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!((failure["event"].as_str(), failure["exit"].as_u64()), (Some("failure"), Some(64)));
}
