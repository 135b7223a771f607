//! Each `tests/invalid-systems/NAME.toml` has beside it `NAME.txt`: all its problems, as people see them. Problems that only
//! compiling can find are found too. `NSD_BLESS=1` rewrites what differs; read the difference before you commit it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::*;
use crate::compile;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Compares with a file of the repository, or rewrites it when asked to.
fn same_as_file(path: &Path, text: &str) {
    if std::env::var_os("NSD_BLESS").is_some() {
        std::fs::write(path, text).unwrap();
        return;
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        kept == text,
        "{} is not what the code says; NSD_BLESS=1 rewrites it. The code says:\n{text}",
        path.display()
    );
}

fn told(text: &str) -> Vec<String> {
    let manifest = match read(text) {
        Err(problems) => {
            assert!(problems.is_sorted(), "{problems:?}");
            return problems.iter().map(ToString::to_string).collect();
        }
        Ok(manifest) => manifest,
    };
    let mut told: Vec<String> =
        manifest.warnings().iter().map(|warning| format!("warning {warning}")).collect();
    for topology in manifest.topologies().keys() {
        let bundled = [Bundled::Broker, Bundled::Balancer].map(|program| (program, "0".repeat(16)));
        let pins = manifest.repositories(topology).into_iter().map(|(name, _, _)| (name, "0".repeat(40)));
        let inputs = compile::Inputs {
            templates: BTreeMap::new(),
            pins: pins.collect(),
            bundled: bundled.into(),
            local_docker: false,
        };
        let problems = compile::compile(&manifest, topology, &inputs).err().unwrap_or_default();
        told.extend(problems.iter().map(ToString::to_string));
    }
    told
}

#[test]
fn invalid_systems_are_told_all_at_once() {
    let folder = root().join("tests/invalid-systems");
    let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    assert!(files.len() >= 10, "only {} samples in {}", files.len(), folder.display());
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let told = told(&text);
        assert!(!told.is_empty(), "{} has no problem", path.display());
        same_as_file(&path.with_extension("txt"), &format!("{}\n", told.join("\n")));
    }
}

#[test]
fn the_schema_is_published() {
    let text = serde_json::to_string_pretty(&schema()).unwrap();
    same_as_file(&root().join("docs/system.schema.json"), &format!("{text}\n"));
}

#[test]
fn the_reference_page_is_published() {
    same_as_file(&root().join("docs/system.md"), &reference());
}

#[test]
fn a_new_system_is_valid() {
    let files = crate::render::new_system("lelylan-mqtt", "lelylan", "6b4b4e3f-f22e-4516-bffb-e1a8daafb3ea");
    let (_, text) = files.iter().find(|(name, _)| *name == "system.toml").unwrap();
    assert!(!text.contains('%'), "a placeholder was left");
    let manifest = read(text).unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert_eq!((manifest.name.as_str(), manifest.namespace.as_str()), ("lelylan-mqtt", "lelylan"));
    assert_eq!(told(text), Vec::<String>::new());
    // With the machines that stand there as a comment too.
    let lines = text.lines().map(|line| match line.strip_prefix("# ") {
        Some(rest) if rest.contains("ip =") || rest.starts_with("[topology") => rest,
        _ => line,
    });
    let with_machines = lines.collect::<Vec<_>>().join("\n");
    assert_ne!(&with_machines, text);
    assert_eq!(told(&with_machines), Vec::<String>::new());
}

/// Whatever stands in a file, reading it ends in a manifest or in problems with places inside it.
#[test]
fn no_text_makes_reading_panic() {
    let text = std::fs::read_to_string(root().join("systems/lelylan-mqtt/system.toml")).unwrap();
    for (at, _) in text.char_indices().step_by(7) {
        for piece in ["\"", "[", "= ", "\u{fffd}", "}"] {
            let broken = format!("{}{piece}{}", &text[..at], &text[at..]);
            let lines = broken.lines().count();
            for problem in read(&broken).err().unwrap_or_default() {
                assert!((1..=lines + 1).contains(&problem.line), "{problem}");
            }
        }
    }
}
