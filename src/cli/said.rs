//! Every command that we tell people to type is one that the command line takes: in hints, comments and help texts, in the
//! systems and templates, in the guide. It is parsed as typed, so a wrong word and a missing argument both show.

use std::path::{Path, PathBuf};

use clap::CommandFactory;

use super::{Cli, Parsed, parse};

/// What is read, besides every file of `src/`.
const READ: [&str; 3] = ["README.md", "docs/guide.md", "docs/system.md"];
const READ_WHOLE: [&str; 3] = ["src", "systems", "templates"];

#[test]
fn every_command_that_is_told_can_be_typed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> = READ.iter().map(|file| root.join(file)).collect();
    READ_WHOLE.iter().for_each(|folder| collect(&root.join(folder), &mut files));
    let mut wrong = Vec::new();
    let mut count = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        // Tests tell commands that must not be taken.
        let code = file.extension().is_some_and(|extension| extension == "rs");
        let told = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for command in commands(told, code) {
            count += 1;
            if let Err(why) = typed(&command) {
                wrong.push(format!("{}: `{command}`: {why}", file.strip_prefix(root).unwrap().display()));
            }
        }
    }
    assert!(count > 100, "only {count} commands were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn commands_are_found_where_people_see_them() {
    let text = "see `nsd rev list`, or `nsd mqtt pub|sub`\n///   nsd logs -f     # all\n//! `nsd logs`\n#     nsd up\nnsd is\n    \
                nsd login   # x\n`nsd/broker` `nsd: x` `nsd-broker`";
    assert_eq!(
        commands(text, false),
        ["nsd rev list", "nsd mqtt pub", "nsd logs -f", "nsd logs", "nsd up", "nsd login"]
    );
    assert_eq!(commands(text, true), ["nsd rev list", "nsd mqtt pub", "nsd logs -f", "nsd logs"]);
    assert!(typed("nsd mach key x").is_err(), "names need --install");
    assert!(typed("nsd cert push").is_err());
    assert!(typed("nsd sys create a b").is_err());
    assert!(typed("nsd sys create").is_ok(), "a name");
    assert!(typed("nsd mach key --install {name}").is_ok());
    assert!(typed("nsd -C DIR …").is_ok());
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.extension().and_then(|extension| extension.to_str()) {
            _ if path.is_dir() => collect(&path, files),
            Some("rs" | "toml" | "tera" | "md")
                if !path.ends_with("tests.rs") && !path.ends_with("said.rs") =>
            {
                files.push(path);
            }
            _ => {}
        }
    }
}

/// In backticks, or alone on an indented line of a document; in code, of a comment.
fn commands(text: &str, code: bool) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines() {
        let bare = if code { line.trim_start() } else { line };
        let bare = bare.trim_start_matches(['/', '#', '!']);
        let people = !code || line.trim_start().starts_with("//");
        let indented = bare.strip_prefix("  ").filter(|rest| people && rest.trim_start().starts_with("nsd "));
        if let Some(rest) = indented {
            found.push(rest.split(" #").next().unwrap_or_default().trim().to_owned());
            continue;
        }
        let quoted = line.split('`').skip(1).step_by(2);
        found.extend(quoted.filter(|code| code.starts_with("nsd ")).map(str::to_owned));
    }
    // `a|b` is two commands, told in one; the first is as good as the other.
    found.iter().map(|command| command.split('|').next().unwrap_or_default().trim().to_owned()).collect()
}

/// Placeholders stand for any word, `…` for any command; the name of a command alone is a name, not something to type.
fn typed(command: &str) -> Result<(), String> {
    let typed = command.replace("\\\"", "\"");
    let typed = typed.split(" > ").next().unwrap_or_default();
    let words = shlex::split(typed).ok_or("its quotes do not match")?;
    let open = words.iter().any(|word| word == "…");
    let silent = |word: &String| !["help", "--help", "…"].contains(&word.as_str());
    let mut words: Vec<String> = words.into_iter().skip(1).filter(silent).collect();
    if is_name(&words) {
        return Ok(());
    }
    words.extend(open.then(|| "status".to_owned()));
    match parse(words.into_iter().map(Into::into).collect()) {
        Ok(Parsed::Run(_)) => Ok(()),
        Ok(Parsed::Told | Parsed::Lost(_)) => Err("it does nothing".to_owned()),
        Err(failure) => Err(failure.message),
    }
}

fn is_name(words: &[String]) -> bool {
    let root = Cli::command();
    let mut here = Some(&root);
    for word in words {
        here = here.and_then(|command| command.find_subcommand(word));
    }
    here.is_some()
}
