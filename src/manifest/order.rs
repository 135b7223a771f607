//! The graph of `needs`: an order in which everything comes after what it needs, and its circles.

use std::collections::{BTreeMap, BTreeSet};

use crate::system::ProcessName;

/// Names so that each comes after its needs, otherwise by name. What stands in or behind a circle comes last.
pub(crate) fn by_needs<'n>(
    graph: impl Iterator<Item = (&'n ProcessName, &'n [ProcessName])>,
) -> Vec<ProcessName> {
    let mut waiting: BTreeMap<&ProcessName, &[ProcessName]> = graph.collect();
    let mut ordered = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let free = |needs: &[ProcessName]| !needs.iter().any(|need| waiting.contains_key(need));
        let next =
            waiting.iter().find(|(_, needs)| free(needs)).or(waiting.iter().next()).map(|(&name, _)| name);
        let Some(name) = next else { break };
        waiting.remove(name);
        ordered.push(name.clone());
    }
    ordered
}

/// Each circle once, starting at its first name.
pub(super) fn circles<'n>(
    graph: impl Iterator<Item = (&'n ProcessName, &'n [ProcessName])>,
) -> Vec<Vec<ProcessName>> {
    let graph: BTreeMap<&ProcessName, &[ProcessName]> = graph.collect();
    let mut found: BTreeSet<Vec<ProcessName>> = BTreeSet::new();
    let mut done = BTreeSet::new();
    for start in graph.keys() {
        let mut way = Vec::new();
        follow(start, &graph, &mut way, &mut done, &mut found);
    }
    found.into_iter().collect()
}

fn follow<'n>(
    name: &'n ProcessName,
    graph: &BTreeMap<&'n ProcessName, &'n [ProcessName]>,
    way: &mut Vec<&'n ProcessName>,
    done: &mut BTreeSet<&'n ProcessName>,
    found: &mut BTreeSet<Vec<ProcessName>>,
) {
    if let Some(at) = way.iter().position(|&earlier| earlier == name) {
        let mut circle: Vec<ProcessName> = way[at..].iter().map(|&name| name.clone()).collect();
        let first = circle.iter().enumerate().min_by_key(|(_, name)| (*name).clone()).map_or(0, |(n, _)| n);
        circle.rotate_left(first);
        found.insert(circle);
        return;
    }
    if !done.insert(name) {
        return;
    }
    way.push(name);
    for need in graph.get(name).copied().unwrap_or_default() {
        follow(need, graph, way, done, found);
    }
    way.pop();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ProcessName {
        text.parse().unwrap()
    }

    fn graph(text: &str) -> Vec<(ProcessName, Vec<ProcessName>)> {
        let line = |line: &str| {
            let (from, to) = line.split_once(':').unwrap();
            (name(from), to.split_whitespace().map(name).collect())
        };
        text.split(',').map(line).collect()
    }

    fn ordered(text: &str) -> String {
        let graph = graph(text);
        let order = by_needs(graph.iter().map(|(name, needs)| (name, needs.as_slice())));
        order.iter().map(ProcessName::as_str).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn needs_come_first() {
        let table = [
            ("a:,b:,c:", "a b c"),
            ("balancer:mqtt,mqtt:redis,redis:", "redis mqtt balancer"),
            ("a:c,b:,c:b", "b c a"),
            ("a:missing", "a"),
            ("a:b,b:a,c:", "c a b"),
        ];
        for (text, expected) in table {
            assert_eq!(ordered(text), expected, "{text}");
        }
    }

    #[test]
    fn circles_are_found_once() {
        let table = [("a:b,b:c,c:a", vec!["a b c"]), ("a:a,b:c,c:b", vec!["a", "b c"]), ("a:b,b:", vec![])];
        for (text, expected) in table {
            let graph = graph(text);
            let circles = circles(graph.iter().map(|(name, needs)| (name, needs.as_slice())));
            let told: Vec<String> = circles
                .iter()
                .map(|circle| circle.iter().map(ProcessName::as_str).collect::<Vec<_>>().join(" "))
                .collect();
            assert_eq!(told, expected, "{text}");
        }
    }
}
