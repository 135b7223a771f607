//! Everything that a person can write wrongly: one clear error that names its place, the documented exit code, and nothing
//! half-recorded.

use crate::history::SYSTEM;
use crate::support::{Home, same};

/// Each with what it shows; none records anything.
#[test]
fn a_wrong_system_file_is_told_all_at_once() {
    let home = Home::new();
    let cases = [
        (
            "unknown keys",
            SYSTEM.replace(
                "program = [\"sleep\", \"3600\"]",
                "programm = [\"sleep\", \"3600\"]\nstop_gracee = \"1s\"",
            ),
        ),
        ("wrong types", SYSTEM.replace("needs = [\"clock\"]", "needs = 7\nports = { a = 1 }")),
        (
            "undefined processes",
            SYSTEM.replace("contains = [\"clock\", \"late\"]", "contains = [\"clok\", \"late\"]"),
        ),
        (
            "a cycle",
            SYSTEM.replace("stop_grace = \"1s\"\n\n[process.late]", "needs = [\"late\"]\n\n[process.late]"),
        ),
        ("no toml", SYSTEM.replace("[secrets]", "[secrets")),
        ("a name twice", format!("{SYSTEM}\n[process.clock]\nprogram = [\"true\"]\n")),
        (
            "impossible ports",
            SYSTEM.replace(
                "needs = [\"clock\"]",
                "needs = [\"clock\"]\nports = [\"70000:80\", \"0\", \"x:y\"]",
            ),
        ),
        ("a secret nobody declares", SYSTEM.replace("secret.token", "secret.tokn")),
        (
            "a template that is nowhere",
            SYSTEM.replace("needs = [\"clock\"]", "files = [{ template = \"nowhere.tera\", to = \"/a\" }]"),
        ),
        ("a bad id", SYSTEM.replace("7a0f4a3c-5b0e-4a55-9c53-0d9c4a6f1e11", "7a0f")),
    ];
    let mut text = String::new();
    for (what, system) in cases {
        home.sample(&system);
        let ran = home.nsd("sample", "sys compile local");
        assert_eq!(ran.code, 65, "{what}: {}", ran.all());
        text.push_str(&format!("# {what}\n{}\n", home.normal(&ran.all())));
    }
    same!("wrong_system_files", text);
    let git = git2::Repository::open(home.path("sample")).unwrap();
    assert_eq!(git.references_glob("refs/nsd/*").unwrap().count(), 0);
    assert!(!home.path("sample/.nsd").exists());
}

#[test]
fn commands_that_cannot_be_meant() {
    let home = Home::new();
    let nowhere = home.all_shown(
        "",
        &["sys compile", "status", "--system nothere.toml status", "-C nothere sys show", "device add 'a b'"],
    );
    home.sample(SYSTEM);
    let here = home.all_shown(
        "sample",
        &[
            "sys compile",
            "sys compile locl",
            "rev deploy head --topology local",
            "rev list --topology local",
            "mach trust",
            "mach key --install",
            "device list --redis nonsense",
        ],
    );
    home.ok("sample", "sys compile local");
    let compiled = home.all_shown(
        "sample",
        &["cont build clock", "cont buildall", "rev deploy deployed", "device list", "logs nosuch"],
    );
    same!("cannot_be_meant", format!("{nowhere}{here}{compiled}"));
}

#[test]
fn a_secret_that_has_no_value_is_named() {
    let home = Home::new();
    let mut text = String::new();
    for source in [
        "{ file = \"nothere\" }",
        "{ env = \"SURELY_NOT_SET\" }",
        "{ command = [\"false\"] }",
        "{ command = [\"no-such-program\"] }",
    ] {
        home.sample(&SYSTEM.replace("{ generate = 32 }", source));
        home.ok("sample", "sys compile local");
        let ran = home.nsd("sample", "rev preview head");
        assert_eq!(ran.code, 65, "{}", ran.all());
        text.push_str(&format!("# {source}\n{}\n", home.normal(&ran.all())));
    }
    same!("secrets_without_value", text);
}

#[test]
fn a_repository_that_is_nowhere_is_told_when_compiling() {
    let home = Home::new();
    let with = |url: &str| {
        SYSTEM.replace(
            "program = [\"sleep\", \"3600\"]",
            &format!("program = [\"sleep\", \"3600\"]\nrepository = \"{url}\""),
        )
    };
    git2::Repository::init_bare(home.path("empty.git")).unwrap();
    for url in [
        home.path("nothere.git").display().to_string(),
        format!("{}#nobranch", home.path("empty.git").display()),
    ] {
        home.sample(&with(&url).replace("program = [\"sleep\", \"3600\"]\n", ""));
        let ran = home.nsd("sample", "sys compile local");
        assert_ne!(ran.code, 0, "{}", ran.all());
        assert!(ran.stderr.contains("error:") && ran.stderr.contains("clock"), "{}", ran.all());
        assert!(!home.path("sample/.nsd").exists());
    }
}

#[test]
fn files_that_cannot_be_written_are_named() {
    let home = Home::new();
    home.sample(SYSTEM);
    // A folder where a file belongs fails for root too.
    std::fs::create_dir_all(home.path("sample/.nsd/current")).unwrap();
    let ran = home.nsd("sample", "sys compile local");
    assert_eq!(ran.code, 1, "{}", ran.all());
    assert!(ran.stderr.contains(".nsd/current"), "{}", ran.stderr);
}

#[test]
fn what_is_probably_a_slip_is_a_warning() {
    let home = Home::new();
    home.sample(
        &SYSTEM.replace(
            "needs = [\"clock\"]",
            "needs = [\"clock\"]\nimage = \"redis:7\"\nports = [\"6379:6379\"]",
        ),
    );
    let ran = home.ok("sample", "sys compile local");
    assert!(ran.stderr.contains("warning: system.toml:"), "{}", ran.all());
    assert!(ran.stderr.contains("open to everyone") && ran.stderr.contains("no volume"), "{}", ran.all());
}
