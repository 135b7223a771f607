//! Which fields of a container differ from the one that runs: the reasons of a replacement. Values that may be long or
//! delicate (files, environment, command lines) are named, not shown.

use std::collections::{BTreeMap, BTreeSet};

use crate::system::{Container, File, SecretName};

/// In words, one a field. Never empty: if nothing visible differs, it was a secret.
pub(super) fn reasons(was: &Container, wanted: &Container) -> Vec<String> {
    let (was, wanted) = (was.without_live_contents(), wanted.without_live_contents());
    let mut reasons = Vec::new();
    if was.image != wanted.image {
        let name = |container: &Container| container.image.reference().unwrap_or_else(|| "none".to_owned());
        reasons.push(format!("image {} → {}", name(&was), name(&wanted)));
    }
    reasons.extend(keys("env", &was.env, &wanted.env));
    reasons.extend(keys("labels", &was.labels, &wanted.labels));
    reasons.extend(keys("ulimits", &was.ulimits, &wanted.ulimits));
    let by_path = |files: &[File]| -> BTreeMap<String, File> {
        files.iter().map(|file| (file.to.clone(), file.clone())).collect()
    };
    reasons.extend(keys("file", &by_path(&was.files), &by_path(&wanted.files)));
    let plain = [
        ("ports", was.ports != wanted.ports),
        ("volumes", was.volumes != wanted.volumes),
        ("command", was.command != wanted.command),
        ("entrypoint", was.entrypoint != wanted.entrypoint),
        ("user", was.user != wanted.user),
        ("network", was.network != wanted.network),
        ("restart", was.restart != wanted.restart),
        ("memory", was.memory != wanted.memory),
        ("cpus", was.millicpus != wanted.millicpus),
        ("capabilities", (was.cap_add, was.cap_drop) != (wanted.cap_add.clone(), wanted.cap_drop.clone())),
    ];
    reasons.extend(plain.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field.to_owned()));
    if reasons.is_empty() {
        let names: Vec<String> = wanted.secrets().iter().map(SecretName::to_string).collect();
        reasons.push(match names.as_slice() {
            [] => "its label does not fit what it was made from".to_owned(),
            [one] => format!("the value of secret {one}"),
            several => format!("the value of one of the secrets {}", several.join(", ")),
        });
    }
    reasons
}

/// `env DEBUG` for each key whose value differs.
fn keys<V: PartialEq>(field: &str, was: &BTreeMap<String, V>, wanted: &BTreeMap<String, V>) -> Vec<String> {
    let all: BTreeSet<&String> = was.keys().chain(wanted.keys()).collect();
    all.into_iter()
        .filter(|key| was.get(*key) != wanted.get(*key))
        .map(|key| format!("{field} {key}"))
        .collect()
}
