//! What is printed to who asks, and to who mistypes.

use crate::support::{Home, same};

/// Every command's help in one text: a change of the command line shows here.
#[test]
fn help_of_everything() {
    let home = Home::new();
    let mut text = home.shown("", "--help");
    for line in [
        "login",
        "logout",
        "sys",
        "sys create",
        "sys list",
        "sys link",
        "sys unlink",
        "sys show",
        "sys compile",
        "sys analyze",
        "sys stop",
        "mach",
        "mach list",
        "mach key",
        "mach trust",
        "cont",
        "cont list",
        "cont build",
        "cont buildall",
        "rev",
        "rev list",
        "rev get",
        "rev preview",
        "rev deploy",
        "timeline list",
        "device",
        "device add",
        "device list",
        "device remove",
        "up",
        "status",
        "logs",
        "mqtt",
        "mqtt pub",
        "mqtt sub",
        "completions",
    ] {
        text.push_str(&format!("\n==== nsd {line} -h\n{}", home.shown("", &format!("{line} -h"))));
    }
    same!("help", text);
}

#[test]
fn nothing_at_all_is_a_usage_error_that_shows_help() {
    let home = Home::new();
    for line in ["", "sys", "mqtt"] {
        let ran = home.nsd("", line);
        assert_eq!((ran.code, ran.stdout.as_str()), (64, ""), "{line}");
        assert!(ran.stderr.contains("Usage: nsd"), "{}", ran.stderr);
    }
}

#[test]
fn a_typo_runs_nothing() {
    let home = Home::new();
    let lines = [
        "rev deplyo head",
        "log",
        "sys list --jsno",
        "rev deploy",
        "zzz",
        "sys compile a b",
        "logs --since soon",
        "-qv sys list",
    ];
    same!("typos", home.all_shown("", &lines));
    assert_eq!(home.nsd("", "stauts --json").code, 64);
}

#[test]
fn short_forms_run_the_command() {
    let home = Home::new();
    for line in ["sys lis", "system list", "syst list"] {
        assert_eq!(home.ok("", line).stdout, "no systems yet; start one: `nsd sys create NAME`\n", "{line}");
    }
    assert!(home.ok("", "help sys comp").stdout.contains("nsd sys compile"));
}

#[test]
fn completions_for_every_shell() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = home.ok("", &format!("completions {shell}")).stdout;
        assert!(script.contains("buildall") && !script.contains("supervise DIR"), "{shell}");
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let home = Home::new();
    let nsd = env!("CARGO_BIN_EXE_nsd");
    let script = format!("set -o pipefail; '{nsd}' completions bash | head -c 10 >/dev/null");
    let status =
        std::process::Command::new("bash").args(["-c", &script]).current_dir(home.path("")).status().unwrap();
    assert_eq!(status.code(), Some(0));
}
