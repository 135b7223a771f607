//! How a [`Failure`] looks: what, where, why, and what to do; one hint a line.

use std::fmt::Write;

use super::Palette;
use crate::failure::{Failure, Fault};

/// For people. Faults come first, each with its place in the file, so that the summary stands last.
pub fn failure_text(failure: &Failure, palette: Palette) -> String {
    let mut text = String::new();
    for fault in &failure.faults {
        push_fault(&mut text, fault, palette);
    }
    let _ = write!(text, "{} {}", palette.red("error:"), failure.message);
    for (number, cause) in failure.causes.iter().enumerate() {
        let mut lines = cause.lines();
        let _ = write!(text, "\n  {}. {}", number + 1, lines.next().unwrap_or_default());
        for line in lines {
            let _ = write!(text, "\n     {line}");
        }
    }
    for hint in &failure.hints {
        let _ = write!(text, "\n{} {hint}", palette.cyan("hint:"));
    }
    text
}

/// For programs: one JSON line.
pub fn failure_json(failure: &Failure) -> String {
    let mut value = serde_json::json!({ "event": "failure", "exit": failure.kind.exit_code() });
    if let (Some(object), Ok(serde_json::Value::Object(fields))) =
        (value.as_object_mut(), serde_json::to_value(failure))
    {
        object.extend(fields);
    }
    value.to_string()
}

/// The place, the line with a caret below the column, and the hint.
fn push_fault(text: &mut String, fault: &Fault, palette: Palette) {
    let place = match fault.line {
        0 => fault.file.clone(),
        line => format!("{}:{line}:{}", fault.file, fault.column),
    };
    let at = if fault.at.is_empty() { String::new() } else { format!("{}: ", fault.at) };
    let _ = writeln!(text, "{}: {at}{}", palette.bold(&place), fault.what);
    if fault.line > 0 && !fault.source.trim().is_empty() {
        let number = fault.line.to_string();
        let gutter = " ".repeat(number.len());
        // Tabs stay tabs below, so that the caret stands under its column whatever a tab's width is.
        let before: String = fault
            .source
            .chars()
            .take(fault.column.saturating_sub(1))
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let _ = writeln!(text, " {} {}", palette.dim(&format!("{number} |")), fault.source);
        let _ = writeln!(text, " {} {before}{}", palette.dim(&format!("{gutter} |")), palette.red("^"));
    }
    if let Some(hint) = &fault.hint {
        let _ = writeln!(text, "  {} {hint}", palette.cyan("hint:"));
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Kind;

    #[test]
    fn a_fault_points_at_its_column() {
        let mut failure = Failure::new(Kind::System, "1 problem in system.toml");
        failure.faults.push(Fault {
            file: "system.toml".into(),
            line: 12,
            column: 1,
            source: "imagee = \"redis:7\"".into(),
            at: "process.redis".into(),
            what: "unknown key `imagee`".into(),
            hint: Some("did you mean `image`?".into()),
        });
        assert_eq!(
            failure_text(&failure, Palette::PLAIN),
            "system.toml:12:1: process.redis: unknown key `imagee`\n \
             12 | imagee = \"redis:7\"\n    | ^\n  hint: did you mean `image`?\n\nerror: 1 problem in system.toml"
        );
    }

    #[test]
    fn causes_are_numbered_and_hints_stand_last() {
        let failure = Failure::error("machine web-1 did not answer")
            .cause("connect: refused")
            .hint("try `nsd mach list`");
        assert_eq!(
            failure_text(&failure, Palette::PLAIN),
            "error: machine web-1 did not answer\n  1. connect: refused\nhint: try `nsd mach list`"
        );
        let json: serde_json::Value = serde_json::from_str(&failure_json(&failure)).unwrap();
        assert_eq!((json["kind"].as_str(), json["exit"].as_u64()), (Some("error"), Some(1)));
    }
}
