//! Commands that our pages show. Tests of the programs take this file in, and type them.

use std::fs;
use std::path::Path;

use clap::error::ErrorKind;

/// A command of a page.
struct Shown {
    page: String,
    words: Vec<String>,
    /// On a line of its own, to be typed as it is; otherwise in a sentence, which may name a part of it.
    whole: bool,
}

/// Types every command of the pages.
pub(crate) fn can_be_typed<C: clap::Parser>(program: &str) {
    let all = commands(program);
    assert!(all.len() > 20, "only {} commands were found", all.len());
    for command in all {
        let typed = std::iter::once(program).chain(command.words.iter().map(String::as_str));
        let Err(error) = C::try_parse_from(typed) else { continue };
        // In a sentence, a command may be named without all that it needs.
        let named = [
            ErrorKind::MissingRequiredArgument,
            ErrorKind::MissingSubcommand,
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
        ];
        assert!(!command.whole && named.contains(&error.kind()), "{command}: {error}");
    }
}

/// All that begin with the program's name, in the README and in `docs`; what the past was like stands in the changelog.
fn commands(program: &str) -> Vec<Shown> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages: Vec<_> =
        fs::read_dir(root.join("docs")).unwrap().map(|page| page.unwrap().path()).collect();
    pages.retain(|page| page.extension().is_some_and(|kind| kind == "md") && !page.ends_with("CHANGELOG.md"));
    pages.push(root.join("README.md"));
    let of_page = |page: &std::path::PathBuf| {
        let name = page.file_name().unwrap().to_string_lossy().into_owned();
        let found = of_text(&fs::read_to_string(page).unwrap(), program);
        found.into_iter().map(move |(words, whole)| Shown { page: name.clone(), words, whole })
    };
    pages.iter().flat_map(of_page).collect()
}

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: `{}`", self.page, self.words.join(" "))
    }
}

fn of_text(text: &str, program: &str) -> Vec<(Vec<String>, bool)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced || line.starts_with("    ") {
            let line = line.trim_start().trim_start_matches("$ ").trim_start_matches("sudo ");
            found.extend(words(line, program).map(|words| (words, true)));
        } else {
            let quoted = line.split('`').skip(1).step_by(2);
            found.extend(quoted.filter_map(|code| words(code, program)).map(|words| (words, false)));
        }
    }
    found
}

/// Up to a comment, or to what the shell takes.
fn words(code: &str, program: &str) -> Option<Vec<String>> {
    let mut words =
        code.split_whitespace().take_while(|word| !["#", ">", "|", "&", "&&", ";"].contains(word));
    let words: Vec<String> = (words.next()? == program)
        .then(|| words.map(|word| word.trim_matches(['\'', '"']).to_owned()).collect())?;
    // A name alone, or something that is left open.
    (!words.is_empty() && !words.iter().any(|word| word.contains('…'))).then_some(words)
}

#[test]
fn commands_are_found_where_people_see_them() {
    let page = "the `prog` and `prog a --b`, not prog c\n```\nprog d 'e' # f\nother prog\n$ prog g > h\n```\n    sudo prog i\nprog j\n`prog …`";
    let found: Vec<_> =
        of_text(page, "prog").into_iter().map(|(words, whole)| (words.join(" "), whole)).collect();
    let expected = [("a --b", false), ("d e", true), ("g", true), ("i", true)];
    assert_eq!(found, expected.map(|(words, whole)| (words.to_owned(), whole)));
}
