//! `docs/conformance.md`: every statement beside the tests that show it. Made from the lists in `statements` and from
//! the doc comments of the tests, so that a gap shows and nothing can be claimed that no test says.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

const HEAD: &str = "# Conformance

Every normative statement of MQTT 3.1.1 and 5.0 in our own words, who must obey it, and the tests that show it over the wire: those of `broker/tests/conformance`,
and `it::…` of `broker/tests/it` for what asks for more than a client and a broker.
MQTT 3.1 has no numbered statements and is listed by its sections. Statements of 5.0 have the prefix `MQTT5-`, as both documents number alike.

The former run against Mosquitto, too, which checks the tests; where it deviates, the test says so. A statement that binds only clients is covered where
the broker must notice that it is broken. This file is generated: `NSD_WRITE=1 cargo test -p nsd-broker --test conformance table`.
";

const DOCUMENTS: [(&str, &str); 3] = [
    ("MQTT 3.1.1", include_str!("statements/v311.txt")),
    ("MQTT 5.0", include_str!("statements/v5.txt")),
    ("MQTT 3.1", include_str!("statements/v31.txt")),
];

struct Statement {
    id: String,
    who: String,
    asks: String,
    /// Why no test can see it.
    unseen: Option<String>,
}

struct Test {
    /// With its module.
    name: String,
    ids: Vec<String>,
}

#[test]
fn the_table_says_what_the_tests_do() {
    let tests = tests();
    let known: HashSet<String> =
        DOCUMENTS.iter().flat_map(|(_, text)| statements(text)).map(|statement| statement.id).collect();
    let mut wrong = Vec::new();
    for test in &tests {
        let unknown = test.ids.iter().filter(|id| !known.contains(*id));
        wrong.extend(unknown.map(|id| format!("{} names {id}, which no document has", test.name)));
        if let Some(main) = main_clause(&test.name)
            && !test.ids.contains(&main)
        {
            wrong.push(format!("{} does not list {main}, which its name says", test.name));
        }
    }
    let mut by_id: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for test in &tests {
        for id in &test.ids {
            by_id.entry(id).or_default().push(&test.name);
        }
    }
    let mut text = HEAD.to_owned();
    for (name, list) in DOCUMENTS {
        let statements = statements(list);
        let seen = statements.iter().filter(|statement| by_id.contains_key(&*statement.id));
        let claimed = seen.filter(|statement| statement.unseen.is_some());
        wrong.extend(claimed.map(|claimed| format!("{} is said to be unseen, but is tested", claimed.id)));
        document(&mut text, name, &statements, &by_id);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let file = root().join("../docs/conformance.md");
    if std::env::var_os("NSD_WRITE").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let there = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        there == text,
        "docs/conformance.md is stale; write it anew with\n  \
         NSD_WRITE=1 cargo test -p nsd-broker --test conformance table"
    );
}

fn document(text: &mut String, name: &str, statements: &[Statement], tests: &BTreeMap<&str, Vec<&str>>) {
    let mut rows = String::new();
    let (mut covered, mut gaps, mut client, mut unseen) = (0, 0, 0, 0);
    for Statement { id, who, asks, unseen: why } in statements {
        let shown = match (tests.get(&**id), why) {
            (Some(tests), _) => {
                covered += 1;
                tests.iter().map(|test| format!("`{test}`")).collect::<Vec<_>>().join(", ")
            }
            (None, Some(why)) => {
                unseen += 1;
                why.clone()
            }
            (None, None) if who == "client" => {
                client += 1;
                "client".to_owned()
            }
            (None, None) => {
                gaps += 1;
                "**gap**".to_owned()
            }
        };
        writeln!(rows, "| {id} | {who} | {asks} | {shown} |").unwrap();
    }
    let all = statements.len();
    writeln!(
        text,
        "\n## {name}\n\n{all} statements: {covered} covered, {gaps} gaps, {client} that bind only clients, {unseen} not \
         observable.\n\n| statement | who | asks for | shown by |\n| --- | --- | --- | --- |\n{}",
        rows.trim_end()
    )
    .unwrap();
}

fn statements(list: &str) -> Vec<Statement> {
    let lines = list.lines().filter(|line| !line.starts_with('#'));
    let read = lines.map(|line| {
        let fields: Vec<_> = line.split(" | ").map(|field| field.trim_end_matches('|').trim()).collect();
        let [id, who, asks, unseen @ ..] = &fields[..] else { panic!("no statement: {line}") };
        assert!(["server", "client", "both"].contains(who), "who must obey? {line}");
        let unseen = unseen.first().filter(|why| !why.is_empty()).map(|why| (*why).to_owned());
        Statement { id: (*id).to_owned(), who: (*who).to_owned(), asks: (*asks).to_owned(), unseen }
    });
    let all: Vec<_> = read.collect();
    let ids: HashSet<_> = all.iter().map(|statement| &statement.id).collect();
    assert_eq!(ids.len(), all.len(), "a statement is listed twice");
    all
}

/// The tests over the wire, from their source; those beside this suite only where they name a statement.
fn tests() -> Vec<Test> {
    let folder = root().join("tests");
    let (here, beside) = (folder.join("conformance"), folder.join("it"));
    let mut tests: Vec<Test> =
        sources(&here).iter().flat_map(|file| tests_in(file, &module(&here, file))).collect();
    let others = sources(&beside)
        .into_iter()
        .flat_map(|file| tests_in(&file, &format!("it::{}", module(&beside, &file))));
    tests.extend(others.filter(|test| !test.ids.is_empty()));
    tests
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let of_rust =
        files.into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs"));
    let mut all: Vec<_> = of_rust.chain(folders.iter().flat_map(|folder| sources(folder))).collect();
    all.sort();
    all
}

/// `access/scram.rs` → `access::scram`, `abuse/mod.rs` → `abuse`.
fn module(folder: &Path, file: &Path) -> String {
    let path = file.strip_prefix(folder).unwrap().with_extension("");
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).filter(|part| part != "mod").collect();
    parts.join("::")
}

fn tests_in(file: &Path, module: &str) -> Vec<Test> {
    let mut tests = Vec::new();
    let (mut ids, mut is_test) = (Vec::new(), false);
    for line in std::fs::read_to_string(file).unwrap().lines() {
        if let Some(comment) = line.strip_prefix("/// ") {
            ids.extend(ids_in(comment));
        } else if line == "#[test]" {
            is_test = true;
        } else if let Some(function) = line.strip_prefix("fn ")
            && is_test
        {
            let name = function.split('(').next().unwrap();
            tests.push(Test { name: format!("{module}::{name}"), ids: std::mem::take(&mut ids) });
            is_test = false;
        } else if !line.starts_with("#[") {
            ids.clear();
        }
    }
    tests
}

fn ids_in(comment: &str) -> Vec<String> {
    let bracketed = comment.split('[').skip(1).filter_map(|rest| rest.split_once(']'));
    bracketed.map(|(id, _)| id).filter(|id| id.starts_with("MQTT")).map(str::to_owned).collect()
}

/// `v5_3_1_2_22_silence_…` is about MQTT5-3.1.2-22.
fn main_clause(test: &str) -> Option<String> {
    let name = test.rsplit("::").next()?;
    let (version, rest) = name.split_once('_')?;
    let prefix = match version {
        "v311" => "MQTT",
        "v5" => "MQTT5",
        _ => return None,
    };
    let numbers: Vec<_> = rest.split('_').take(4).filter(|part| part.parse::<u8>().is_ok()).collect();
    let [a, b, c, d] = numbers[..] else { panic!("{test} does not say which statement it is about") };
    Some(format!("{prefix}-{a}.{b}.{c}-{d}"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
