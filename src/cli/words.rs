//! Short forms: unique prefixes of three letters or more stand for nouns and verbs. A word that fits nothing, or more than
//! one thing, runs nothing.

use std::ffi::OsString;

use clap::Command;

use crate::failure::{Failure, Kind};

/// Shorter words are never taken for a prefix.
const MIN_PREFIX: usize = 3;

/// How alike two words must be (Jaro–Winkler) to be offered as what was meant.
const ALIKE: f64 = 0.8;

/// Replaces short forms by the names that clap knows, down to the command; what follows it stays untouched.
/// `args` holds no program name. `nsd help sys compile` becomes `nsd sys compile --help`.
pub(super) fn expand(root: &Command, args: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
    let mut expanded = Vec::with_capacity(args.len() + 1);
    let mut here = root;
    let mut path = vec![root.get_name().to_owned()];
    let mut wants_help = false;
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let Some(word) = arg.to_str().filter(|_| here.has_subcommands()) else {
            expanded.push(arg);
            continue;
        };
        if word == "--" {
            expanded.push(arg);
            break;
        }
        if word.starts_with('-') && word.len() > 1 {
            let takes_next = option_takes_next(root, here, word);
            expanded.push(arg);
            if takes_next {
                expanded.extend(args.next());
            }
            continue;
        }
        if word == "help" && path.len() == 1 && !wants_help {
            wants_help = true;
            continue;
        }
        here = find(here, word, &path)?;
        path.push(here.get_name().to_owned());
        expanded.push(here.get_name().into());
    }
    expanded.extend(args);
    if wants_help {
        expanded.push("--help".into());
    }
    Ok(expanded)
}

/// The subcommand that the word names: exactly, or as the prefix of one and no other.
fn find<'c>(here: &'c Command, word: &str, path: &[String]) -> Result<&'c Command, Failure> {
    if let Some(exact) = here.get_subcommands().find(|command| names(command).any(|name| name == word)) {
        return Ok(exact);
    }
    let known = || here.get_subcommands().filter(|command| !command.is_hide_set());
    let fitting: Vec<&Command> = match word.len() {
        MIN_PREFIX.. => known().filter(|command| names(command).any(|name| name.starts_with(word))).collect(),
        _ => Vec::new(),
    };
    match fitting[..] {
        [one] => return Ok(one),
        [] => {}
        _ => {
            let list = fitting
                .iter()
                .map(|command| format!("`{}`", command.get_name()))
                .collect::<Vec<_>>()
                .join(", ");
            return Err(usage(format!("`{word}` is ambiguous: it may stand for {list}"), path));
        }
    }
    let kind = if path.len() == 1 { "command" } else { "verb" };
    let failure = usage(format!("`{word}` is not a {kind} of `{}`", path.join(" ")), path);
    let likely = known()
        .flat_map(|command| names(command).map(move |name| (strsim::jaro_winkler(word, name), command)))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|one, other| one.0.total_cmp(&other.0));
    Err(match likely {
        Some((_, command)) => Failure {
            hints: std::iter::once(format!("did you mean `{} {}`?", path.join(" "), command.get_name()))
                .chain(failure.hints)
                .collect(),
            ..failure
        },
        None => failure,
    })
}

fn names(command: &Command) -> impl Iterator<Item = &str> {
    std::iter::once(command.get_name()).chain(command.get_all_aliases())
}

fn usage(message: String, path: &[String]) -> Failure {
    Failure::new(Kind::Usage, message).hint(format!("`{} --help` lists what there is", path.join(" ")))
}

/// Whether the next argument is the value of this option: `-C DIR`, `--system FILE`, but not `--system=FILE`, `-CDIR`.
fn option_takes_next(root: &Command, here: &Command, word: &str) -> bool {
    let known = || root.get_arguments().chain(here.get_arguments());
    if let Some(long) = word.strip_prefix("--") {
        return known().any(|arg| arg.get_long() == Some(long) && arg.get_action().takes_values());
    }
    let mut letters = word.chars().skip(1);
    while let Some(letter) = letters.next() {
        if known().any(|arg| arg.get_short() == Some(letter) && arg.get_action().takes_values()) {
            return letters.next().is_none();
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn expanded(line: &str) -> Result<String, Failure> {
        let args = line.split(' ').map(OsString::from).collect();
        let words = expand(&super::super::Cli::command(), args)?;
        Ok(words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn short_forms_stand_for_commands() {
        for (short, full) in [
            ("sys comp direct", "sys compile direct"),
            ("system compile direct", "sys compile direct"),
            ("syst crea x", "sys create x"),
            ("cont buildall", "cont buildall"),
            ("cont build mqtt", "cont build mqtt"),
            ("rev dep head", "rev deploy head"),
            ("revi prev prev", "rev preview prev"),
            ("mach tru", "mach trust"),
            ("time list", "timeline list"),
            ("dev add lamp", "device add lamp"),
            ("stat", "status"),
            ("-C sys sys lis", "-C sys sys list"),
            ("--topology dir --json rev dep", "--topology dir --json rev deploy"),
            ("-Csys sys lis", "-Csys sys list"),
            ("-yC x sys lis", "-yC x sys list"),
            ("help sys comp", "sys compile --help"),
            ("sys create -- sys", "sys create -- sys"),
        ] {
            assert_eq!(expanded(short).unwrap(), full, "{short}");
        }
    }

    #[test]
    fn a_typo_runs_nothing() {
        for (wrong, told) in [
            ("rev deplyo head", "did you mean `nsd rev deploy`?"),
            ("sys lsit", "did you mean `nsd sys list`?"),
            ("stauts", "did you mean `nsd status`?"),
            ("sy list", "did you mean `nsd sys`?"),
            ("log", "ambiguous: it may stand for `login`, `logout`, `logs`"),
            ("cont li", "did you mean `nsd cont list`?"),
            ("supervis x", "not a command"),
            ("sys compilex", "did you mean `nsd sys compile`?"),
            ("zzz", "`nsd --help` lists"),
        ] {
            let failure = expanded(wrong).unwrap_err();
            let text = format!("{} {}", failure.message, failure.hints.join(" "));
            assert_eq!(failure.kind, Kind::Usage);
            assert!(text.contains(told), "{wrong}: {text}");
        }
    }

    #[test]
    fn no_unique_prefix_of_three_letters_means_two_things() {
        fn walk(command: &Command) {
            for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
                assert!(find(command, sub.get_name(), &["nsd".into()]).is_ok());
                walk(sub);
            }
        }
        walk(&super::super::Cli::command());
    }
}
