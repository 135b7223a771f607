//! A plan as people see it.

use std::fmt::Write;

use super::{ChangeKind, Plan, Step, Undo};

/// What becomes of each instance, then the very steps that a deploy performs. Unchanged instances are counted only.
pub fn text(plan: &Plan) -> String {
    render(plan, false)
}

/// [`text`] with the unchanged instances too.
pub fn text_long(plan: &Plan) -> String {
    render(plan, true)
}

fn render(plan: &Plan, long: bool) -> String {
    let mut out = String::new();
    let shown = plan.changes.iter().filter(|change| long || change.kind != ChangeKind::Keep);
    let shown: Vec<_> = shown.map(|change| (change.instance.to_string(), &change.kind)).collect();
    let width = shown.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, kind) in shown {
        let (symbol, what) = told(kind);
        // A `String` takes every write.
        let _ = writeln!(out, "  {symbol:<3} {name:<width$}  {what}");
    }
    if !plan.stages.is_empty() {
        steps(plan, &mut out);
    }
    let _ = write!(out, "{}", summary(plan));
    out
}

fn told(kind: &ChangeKind) -> (&'static str, String) {
    match kind {
        ChangeKind::Keep => ("=", "runs as wanted".to_owned()),
        ChangeKind::Create => ("+", "create".to_owned()),
        ChangeKind::Start => ("~", "start: it is there and does not run".to_owned()),
        ChangeKind::Update { files } => ("~", format!("change in place: {}", files.join(", "))),
        ChangeKind::Replace { why } => ("-/+", format!("replace (stop-first): {}", why.join(", "))),
        ChangeKind::Remove { why } => ("-", format!("remove: {why}")),
    }
}

fn steps(plan: &Plan, out: &mut String) {
    if !out.is_empty() {
        out.push('\n');
    }
    let all = || plan.stages.iter().flat_map(|stage| &stage.lanes).flat_map(|lane| &lane.steps);
    let width = all().map(|step| step.machine.as_str().chars().count()).max().unwrap_or(0);
    for (n, stage) in plan.stages.iter().enumerate() {
        let _ = writeln!(out, "{:>3}. {}", n + 1, stage.title);
        for step in stage.lanes.iter().flat_map(|lane| &lane.steps) {
            let _ = writeln!(out, "     {:<width$}  {}{}", step.machine.as_str(), step.action, warning(step));
        }
    }
    out.push('\n');
}

fn warning(step: &Step) -> &'static str {
    match step.undo() {
        Undo::Impossible(_) => " (final)",
        _ => "",
    }
}

/// One line of counts.
fn summary(plan: &Plan) -> String {
    let count = |of: fn(&ChangeKind) -> bool| plan.changes.iter().filter(|change| of(&change.kind)).count();
    let unchanged = count(|kind| *kind == ChangeKind::Keep);
    let counts = [
        (count(|kind| *kind == ChangeKind::Create), "to create"),
        (count(|kind| *kind == ChangeKind::Start), "to start"),
        (count(|kind| matches!(kind, ChangeKind::Update { .. })), "to change in place"),
        (count(|kind| matches!(kind, ChangeKind::Replace { .. })), "to replace"),
        (count(|kind| matches!(kind, ChangeKind::Remove { .. })), "to remove"),
    ];
    let mut parts: Vec<String> =
        counts.into_iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    if parts.is_empty() {
        return match (plan.stages.is_empty(), unchanged) {
            (true, 0) => "nothing to do: nothing is wanted and nothing runs\n".to_owned(),
            (true, n) => format!("nothing to do: {n} of {n} run as wanted\n"),
            (false, n) => format!("{n} unchanged, leftovers to remove\n"),
        };
    }
    if unchanged > 0 {
        parts.push(format!("{unchanged} unchanged"));
    }
    format!("{}\n", parts.join(", "))
}
