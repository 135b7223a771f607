//! What one revision changes against another, in a line each. Pure.

use std::collections::BTreeMap;

use crate::system::{Container, Instance, InstanceName, System};

/// `+` new, `-` gone, `~` changed with the fields that differ. Secrets are references in both, so nothing leaks here.
pub fn difference(before: Option<&System>, after: &System) -> Vec<String> {
    let Some(before) = before else {
        return after.instances.iter().map(|instance| format!("+ {}", instance.name)).collect();
    };
    let mut lines = machines(before, after);
    let (old, new) = (by_name(before), by_name(after));
    for (name, instance) in &new {
        match old.get(name) {
            None => lines.push(format!("+ {name}")),
            Some(earlier) if earlier != instance => {
                lines.push(format!("~ {name}: {}", fields(earlier, instance).join(", ")));
            }
            Some(_) => {}
        }
    }
    lines.extend(old.keys().filter(|name| !new.contains_key(*name)).map(|name| format!("- {name}")));
    for (process, build) in &after.builds {
        if let Some(earlier) = before.builds.get(process).filter(|earlier| earlier.commit != build.commit) {
            lines.push(format!(
                "~ {process}: commit {} → {}",
                super::short(&earlier.commit),
                super::short(&build.commit)
            ));
        }
    }
    if lines.is_empty() {
        lines.push("~ the system's own settings".to_owned());
    }
    lines
}

fn machines(before: &System, after: &System) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, machine) in &after.machines {
        match before.machines.get(name) {
            None => lines.push(format!("+ machine {name} ({})", machine.address)),
            Some(earlier) if earlier != machine => {
                lines.push(format!("~ machine {name} ({})", machine.address));
            }
            Some(_) => {}
        }
    }
    lines.extend(
        before
            .machines
            .keys()
            .filter(|name| !after.machines.contains_key(*name))
            .map(|name| format!("- machine {name}")),
    );
    lines
}

fn by_name(system: &System) -> BTreeMap<&InstanceName, &Instance> {
    system.instances.iter().map(|instance| (&instance.name, instance)).collect()
}

/// Names of the fields that differ; compared as the revision stores them, so that no field can be forgotten here.
fn fields(before: &Instance, after: &Instance) -> Vec<String> {
    let mut names = Vec::new();
    differing(&container(&before.container), &container(&after.container), &mut names);
    let around = |instance: &Instance| serde_json::to_value(instance).unwrap_or_default();
    let (mut old, mut new) = (around(before), around(after));
    for value in [&mut old, &mut new] {
        if let Some(object) = value.as_object_mut() {
            object.remove("container");
        }
    }
    differing(&old, &new, &mut names);
    names
}

fn container(container: &Container) -> serde_json::Value {
    serde_json::to_value(container).unwrap_or_default()
}

fn differing(before: &serde_json::Value, after: &serde_json::Value, names: &mut Vec<String>) {
    let (Some(before), Some(after)) = (before.as_object(), after.as_object()) else { return };
    for name in before.keys().chain(after.keys().filter(|name| !before.contains_key(*name))) {
        if before.get(name) != after.get(name) {
            names.push(name.clone());
        }
    }
}
