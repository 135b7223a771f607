//! Pure: from samples to the ratio table, as text, Markdown and JSON.

use std::fmt::Write as _;

use serde::Serialize;

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    pub(crate) work: String,
    /// What is compared, with its unit.
    pub(crate) figure: &'static str,
    pub(crate) ours: Samples,
    pub(crate) peer: Samples,
    /// Highest ratio to the peer that meets the goal.
    pub(crate) goal: Option<f64>,
    /// Lowest value of ours that meets the goal, whatever the peer's is. Without either, it is only measured.
    pub(crate) least: Option<f64>,
}

/// What one contender showed, a value a round.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Samples {
    pub(crate) values: Vec<f64>,
    pub(crate) rates: Vec<f64>,
    pub(crate) lost: u64,
    /// Why there are fewer values than rounds.
    pub(crate) failures: Vec<String>,
}

/// How a line stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Met,
    Missed,
    /// A run that should have given a figure did not.
    Failed,
    /// One side was not asked.
    Unmeasured,
    /// There is no goal.
    Told,
}

impl Line {
    /// Ours to theirs, round by round: what one round disturbs, it disturbs for both.
    #[must_use]
    pub(crate) fn ratios(&self) -> Vec<f64> {
        let pairs = self.ours.values.iter().zip(&self.peer.values);
        pairs.filter(|(_, peer)| **peer > 0.0).map(|(ours, peer)| ours / peer).collect()
    }

    #[must_use]
    pub(crate) fn ratio(&self) -> Option<f64> {
        median(&self.ratios())
    }

    #[must_use]
    pub(crate) fn verdict(&self) -> Verdict {
        if !self.ours.failures.is_empty() || !self.peer.failures.is_empty() {
            return Verdict::Failed;
        }
        if let Some(least) = self.least {
            return match median(&self.ours.values) {
                None => Verdict::Unmeasured,
                Some(value) if value >= least && self.ours.lost == 0 => Verdict::Met,
                Some(_) => Verdict::Missed,
            };
        }
        match (self.ratio(), self.goal) {
            (None, _) => Verdict::Unmeasured,
            (Some(_), None) => Verdict::Told,
            (Some(ratio), Some(goal)) if ratio <= goal && self.ours.lost == 0 => Verdict::Met,
            (Some(_), Some(_)) => Verdict::Missed,
        }
    }
}

/// The middle value; of an even number the mean of the two middle ones.
#[must_use]
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        count if count % 2 == 1 => Some(sorted[half]),
        _ => Some(f64::midpoint(sorted[half - 1], sorted[half])),
    }
}

/// A table of lines against one peer, in Markdown that also reads well as it is.
#[must_use]
pub(crate) fn markdown(title: &str, peer: &str, lines: &[Line]) -> String {
    let mut rows = vec![[
        "work".to_owned(),
        "figure".to_owned(),
        "ours".to_owned(),
        peer.to_owned(),
        "ratio (range)".to_owned(),
        "goal".to_owned(),
        String::new(),
        "lost".to_owned(),
    ]];
    rows.extend(lines.iter().map(cells));
    let widths: Vec<usize> =
        (0..8).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut text = format!("## {title}\n\n");
    if lines.is_empty() {
        return text;
    }
    for (index, row) in rows.iter().enumerate() {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let _ = writeln!(text, "| {} |", padded.collect::<Vec<_>>().join(" | "));
        if index == 0 {
            let rule = widths.iter().map(|width| "-".repeat((*width).max(3)));
            let _ = writeln!(text, "| {} |", rule.collect::<Vec<_>>().join(" | "));
        }
    }
    for line in lines {
        for (who, samples) in [("ours", &line.ours), (peer, &line.peer)] {
            if let Some(first) = samples.failures.first() {
                let _ =
                    writeln!(text, "\n{}: {who} failed {} times: {first}", line.work, samples.failures.len());
            }
        }
    }
    text
}

fn cells(line: &Line) -> [String; 8] {
    let ratios = line.ratios();
    let range = ratios.iter().copied().reduce(f64::min).zip(ratios.iter().copied().reduce(f64::max));
    let ratio = match (line.ratio(), range) {
        (Some(ratio), Some((low, high))) => format!("{ratio:.3} ({low:.3}–{high:.3})"),
        _ => "–".to_owned(),
    };
    let verdict = match line.verdict() {
        Verdict::Met => "met",
        Verdict::Missed => "missed",
        Verdict::Failed => "FAILED",
        Verdict::Unmeasured | Verdict::Told => "–",
    };
    [
        line.work.clone(),
        line.figure.to_owned(),
        shown(&line.ours),
        shown(&line.peer),
        ratio,
        match (line.goal, line.least) {
            (Some(goal), _) => format!("≤ {goal}"),
            (None, Some(least)) => format!("≥ {least}"),
            (None, None) => "–".to_owned(),
        },
        verdict.to_owned(),
        format!("{} / {}", line.ours.lost, line.peer.lost),
    ]
}

/// Median figure and, where there is one, the median rate.
fn shown(samples: &Samples) -> String {
    let Some(value) = median(&samples.values) else { return "–".to_owned() };
    let digits = if value >= 100.0 { 0 } else { 2 };
    match median(&samples.rates) {
        Some(rate) => format!("{value:.digits$} at {}/s", nsd_load::report::short(rate)),
        None => format!("{value:.digits$}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(ours: &[f64], peer: &[f64], goal: impl Into<Option<f64>>) -> Line {
        let goal = goal.into();
        let samples = |values: &[f64]| Samples { values: values.to_vec(), ..Samples::default() };
        Line {
            work: "work".into(),
            figure: "CPU µs",
            ours: samples(ours),
            peer: samples(peer),
            goal,
            least: None,
        }
    }

    #[test]
    fn a_rate_is_ours_alone() {
        let rate = |ours: &[f64]| Line { least: Some(50.0), ..line(ours, &[900.0], None) };
        assert_eq!(rate(&[60.0, 40.0, 50.0]).verdict(), Verdict::Met);
        assert_eq!(rate(&[60.0, 40.0, 45.0]).verdict(), Verdict::Missed);
        assert_eq!(rate(&[]).verdict(), Verdict::Unmeasured);
        assert!(markdown("t", "p", &[rate(&[60.0])]).contains("≥ 50"));
    }

    #[test]
    fn the_median_is_of_the_rounds() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The second round was disturbed, for both.
        let line = line(&[1.0, 4.0, 1.0], &[2.0, 8.0, 2.0], 0.5);
        assert_eq!(line.ratio(), Some(0.5));
        assert_eq!(line.verdict(), Verdict::Met);
    }

    #[test]
    fn a_lost_message_or_a_failed_round_is_not_met() {
        let mut lossy = line(&[1.0], &[2.0], 1.0);
        lossy.ours.lost = 1;
        assert_eq!(lossy.verdict(), Verdict::Missed);
        let mut broken = line(&[1.0], &[2.0], 1.0);
        broken.ours.failures.push("connection refused".into());
        assert_eq!(broken.verdict(), Verdict::Failed);
        assert_eq!(line(&[], &[2.0], 1.0).verdict(), Verdict::Unmeasured);
        assert_eq!(line(&[3.0], &[2.0], 1.0).verdict(), Verdict::Missed);
        assert_eq!(line(&[3.0], &[2.0], None).verdict(), Verdict::Told);
    }

    #[test]
    fn the_table_tells_figures_verdict_and_failures() {
        let mut broken = line(&[], &[2.0], 1.0);
        broken.ours.failures.push("no such file".into());
        let text = markdown("Broker", "Mosquitto", &[line(&[1.0], &[2.0], 1.0), broken]);
        for part in ["## Broker", "0.500 (0.500–0.500)", "met", "FAILED", "ours failed 1 times: no such file"]
        {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
