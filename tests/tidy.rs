//! The machine guards the taste: layers, the door to people, names in documents, leftovers.

use std::fs;
use std::path::{Path, PathBuf};

/// Pure places may not name what performs effects, nor ask for the time.
const PURE: &[&str] = &[
    "src/system",
    "src/manifest",
    "src/compile",
    "src/plan",
    "src/render.rs",
    "src/report/event.rs",
    "broker/src/topic",
    "broker/src/session",
    "broker/src/access",
    "broker/src/queue",
    "broker/src/store/change.rs",
    "broker/src/convert",
    "broker/src/operate/diff.rs",
    "broker/src/telemetry/prometheus.rs",
    "broker/src/telemetry/rates.rs",
    "broker/src/telemetry/sys.rs",
    "broker/wire/src",
    "balancer/edge/src/metrics.rs",
    "balancer/src/health.rs",
    "balancer/src/bucket.rs",
    "balancer/src/framing.rs",
    "balancer/src/convert",
    "balancer/src/dashboard/history.rs",
    "balancer/src/dashboard/logins.rs",
    "balancer/src/dashboard/refusals.rs",
    "balancer/src/gate.rs",
    "balancer/src/gate",
    "balancer/src/handover/message.rs",
    "balancer/src/moves.rs",
    "balancer/src/pace.rs",
    "balancer/src/pool.rs",
    "balancer/src/tally/counts.rs",
    "balancer/src/verdict.rs",
    "balancer/src/telemetry/prometheus.rs",
    "balancer/src/pick.rs",
    "balancer/src/session/http/headers.rs",
    "balancer/src/rules.rs",
    "balancer/src/rules",
    "balancer/src/probe/mqtt.rs",
];

const EFFECTS: &[&str] = &[
    "tokio::",
    "openssh::",
    "bollard::",
    "git2::",
    "redis::",
    "rustls::",
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::process",
    "std::env",
    "Instant::now",
    "SystemTime::now",
    "Timestamp::now",
];

/// A library that only some files may name, so that it can be changed in one place.
const OWNED: &[(&str, &[&str])] = &[
    ("bollard::", &["src/host", "src/builder"]),
    ("openssh::", &["src/host"]),
    ("git2::", &["src/builder", "src/history", "src/login.rs", "tests/it"]),
    ("indicatif::", &["src/report"]),
    ("tera::", &["src/render.rs", "src/compile"]),
    (
        "clap::",
        &[
            "src/cli",
            "src/main.rs",
            "broker/src/main.rs",
            "broker/src/cli",
            "balancer/src/main.rs",
            "tests/load",
            "tests/shown.rs",
        ],
    ),
    ("hickory_resolver::", &["balancer/src/names.rs"]),
    ("redb::", &["broker/src/store/disk", "broker/tests/it/disk"]),
    ("mqttbytes::", &["broker/wire/tests", "broker/wire/benches"]),
];

/// Licences that go with Apache-2.0.
const FREE: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "Unicode-3.0",
    "Unlicense",
    "OpenSSL",
    "MPL-2.0",
];

const LONGEST_FILE: usize = 800;

#[test]
fn pure_places_perform_nothing() {
    let mut wrong = Vec::new();
    for place in PURE {
        let path = root().join(place);
        assert!(path.exists(), "{place} is listed as pure but does not exist");
        for file in rust_files(&path) {
            let text = production_code(&file);
            wrong.extend(
                EFFECTS
                    .iter()
                    .filter(|name| text.contains(**name))
                    .map(|name| format!("{} names {name}", shown(&file))),
            );
        }
    }
    assert!(wrong.is_empty(), "pure places perform effects:\n{}", wrong.join("\n"));
}

#[test]
fn libraries_stay_behind_their_owners() {
    let mut wrong = Vec::new();
    for file in all_rust_files() {
        let text = fs::read_to_string(&file).expect("a listed file can be read");
        for (library, owners) in OWNED {
            let owned = owners.iter().any(|owner| shown(&file).starts_with(owner));
            if text.contains(library) && !owned && !shown(&file).ends_with("tidy.rs") {
                wrong.push(format!(
                    "{} names {library}, which belongs to {}",
                    shown(&file),
                    owners.join(", ")
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "a library is named outside its owner:\n{}", wrong.join("\n"));
}

#[test]
fn files_have_one_subject_and_no_leftovers() {
    let mut wrong = Vec::new();
    for file in all_rust_files().into_iter().filter(|file| !shown(file).ends_with("tidy.rs")) {
        let text = fs::read_to_string(&file).expect("a listed file can be read");
        let lines = production_code(&file).lines().count();
        if lines > LONGEST_FILE {
            wrong.push(format!(
                "{} has {lines} lines without its tests; {LONGEST_FILE} is the most",
                shown(&file)
            ));
        }
        for leftover in ["TODO", "FIXME", "XXX", "#[ignore", "unimplemented!(", "todo!("] {
            if text.contains(leftover) {
                wrong.push(format!("{} contains {leftover}", shown(&file)));
            }
        }
        let drawer = ["util.rs", "utils.rs", "helpers.rs", "common.rs", "misc.rs"];
        if file.file_name().is_some_and(|name| drawer.iter().any(|drawer| name == *drawer)) {
            wrong.push(format!("{} is a drawer: name it after its subject", shown(&file)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every path in backticks that looks like one of ours exists: names in documents rot otherwise.
#[test]
fn paths_in_documents_exist() {
    let tops = ["src/", "broker/", "balancer/", "systems/", "templates/", "tests/", "docs/"];
    let mut wrong = Vec::new();
    let documents =
        ["README.md", "docs/ARCHITECTURE.md", "docs/CHANGELOG.md", "docs/guide.md", "tests/lab/README.md"];
    for document in documents.map(|name| root().join(name)) {
        let text =
            fs::read_to_string(&document).unwrap_or_else(|error| panic!("{}: {error}", document.display()));
        for word in text.split('`').skip(1).step_by(2) {
            let path = word.split([' ', ':', '{', '*', '<', '…']).next().unwrap_or_default();
            if tops.iter().any(|top| path.starts_with(top)) && !root().join(path).exists() {
                wrong.push(format!("{} names `{word}`, which does not exist", shown(&document)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Links between our pages, to files and to headings in them.
#[test]
fn links_between_pages_lead_somewhere() {
    let mut pages = vec![root().join("README.md"), root().join("tests/lab/README.md")];
    let docs = fs::read_dir(root().join("docs")).expect("there are documents");
    pages.extend(docs.filter_map(Result::ok).map(|entry| entry.path()));
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    let (mut wrong, mut count) = (Vec::new(), 0);
    for page in &pages {
        let text = fs::read_to_string(page).expect("a listed page can be read");
        for link in links(&text).into_iter().filter(|link| !link.contains(':')) {
            count += 1;
            let (file, heading) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { page.clone() } else { page.with_file_name(file) };
            let text = match fs::metadata(&target) {
                Ok(found) if found.is_file() => fs::read_to_string(&target).unwrap_or_default(),
                Ok(_) => String::new(),
                Err(_) => {
                    wrong.push(format!("{}: `{link}`: there is no such file", shown(page)));
                    continue;
                }
            };
            if !heading.is_empty() && !anchors(&text).iter().any(|anchor| anchor == heading) {
                wrong.push(format!("{}: `{link}`: there is no such heading", shown(page)));
            }
        }
    }
    assert!(count > 50, "only {count} links were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn links_and_headings_are_found() {
    let page = "# A `b`: c_d, E!\n[x](y.md#z) and `[no](code)`\n```\n# no\n[no](fence)\n```\n## Same\n## Same\n![p](q.png)\n";
    assert_eq!(links(page), ["y.md#z", "q.png"]);
    assert_eq!(anchors(page), ["a-b-c_d-e", "same", "same-1"]);
}

/// The lines of a page that are no code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

fn links(text: &str) -> Vec<String> {
    let line = |line: &str| -> Vec<String> {
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("``");
        let targets = prose.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()));
        targets.collect()
    };
    prose(text).flat_map(line).collect()
}

/// What a heading is linked by, as GitHub makes it.
fn anchors(text: &str) -> Vec<String> {
    let mut made: Vec<String> = Vec::new();
    for line in prose(text).filter(|line| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let anchor = kept.collect::<String>().replace(' ', "-");
        let same = |other: &&String| other.strip_prefix(&*anchor).is_some_and(is_number_of_its_kind);
        let before = made.iter().filter(same).count();
        made.push(if before == 0 { anchor } else { format!("{anchor}-{before}") });
    }
    made
}

/// Nothing, or the `-1` of a heading that was there before.
fn is_number_of_its_kind(rest: &str) -> bool {
    rest.is_empty() || rest.strip_prefix('-').is_some_and(|number| number.parse::<u32>().is_ok())
}

/// What cargo-deny would check and needs no network: licences that fit ours, and nothing from outside the registry.
#[test]
fn dependencies_are_free_and_from_the_registry() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let told = std::process::Command::new(cargo)
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--offline",
            "--filter-platform",
            "host-tuple",
        ])
        .current_dir(root())
        .output()
        .expect("cargo can be run");
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&told.stdout).expect("cargo prints JSON");
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().expect("a list of packages") {
        let name = package["name"].as_str().unwrap_or_default();
        let license = package["license"].as_str().unwrap_or("no licence");
        // Stricter than needed, and simpler: every licence that is named must fit, also where there is a choice.
        let names = license.replace(['(', ')'], " ").replace('/', " OR ").replace(" AND ", " OR ");
        let free = names.split(" OR ").all(|one| FREE.contains(&one.trim()));
        if !free {
            wrong.push(format!("{name}: {license}"));
        }
        if let Some(source) = package["source"].as_str()
            && !source.starts_with("registry+https://github.com/rust-lang/crates.io-index")
        {
            wrong.push(format!("{name} comes from {source}"));
        }
    }
    assert!(wrong.is_empty(), "dependencies that do not fit:\n{}", wrong.join("\n"));
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn all_rust_files() -> Vec<PathBuf> {
    ["src", "broker", "balancer", "tests"].iter().flat_map(|top| rust_files(&root().join(top))).collect()
}

fn rust_files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    files.sort();
    files
        .into_iter()
        .flat_map(|entry| if entry.is_dir() { rust_files(&entry) } else { vec![entry] })
        .filter(|file| file.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// The file without its tests, which stand last, and without comments.
fn production_code(file: &Path) -> String {
    if file.file_name().is_some_and(|name| name == "tests.rs") {
        return String::new();
    }
    let text = fs::read_to_string(file).expect("a listed file can be read");
    let tests = ["#[cfg(test)]\nmod ", "#[cfg(test)]\npub(super) mod "];
    let code = tests.iter().fold(&*text, |code, start| code.split(start).next().unwrap_or_default());
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}
