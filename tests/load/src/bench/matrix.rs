//! What both balancers do when something goes wrong, or when servers come and go: each situation is made for both, each
//! as a careful operator would have configured it, and what was seen is told in one table.

mod clients;
mod configuration;
mod operations;
mod servers;
mod stage;

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::contenders::{Contender, Place};
use crate::course::{is_named, load_average, write};
use crate::process::installed;
use crate::{Cli, print, say};
use stage::Stage;

/// One situation and what is wanted in it.
#[derive(Debug, Clone, Copy, Serialize)]
struct Situation {
    /// For `--only`, and for the folder of its configurations.
    key: &'static str,
    what: &'static str,
    goal: &'static str,
    #[serde(skip)]
    in_smoke: bool,
    #[serde(skip)]
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Joins,
    Protects,
    Freezes,
    Returns,
    Refuses,
    Leaves,
    Silent,
    SilentTls,
    LargeWill,
    Prefix,
    Slow,
    SlowTls,
    Storm,
    Duplicate,
    KeepAlive,
    Certificate,
    BrokenFile,
    Reloads,
}

const fn situation(
    kind: Kind,
    key: &'static str,
    in_smoke: bool,
    what: &'static str,
    goal: &'static str,
) -> Situation {
    Situation { key, what, goal, in_smoke, kind }
}

const SITUATIONS: [Situation; 18] = [
    situation(
        Kind::Joins,
        "joins",
        true,
        "500 + 500 sessions, a third server joins, 300 new clients",
        "0 / 0 / 300",
    ),
    situation(
        Kind::Protects,
        "protects",
        true,
        "after a reload a server takes nobody any more: its old sessions",
        "closed",
    ),
    situation(
        Kind::Freezes,
        "freezes",
        false,
        "a frozen server (SIGSTOP) gets no more clients",
        "within two check intervals",
    ),
    situation(Kind::Returns, "returns", false, "a server dies and returns: its share", "comes back"),
    situation(
        Kind::Refuses,
        "refuses",
        true,
        "a server refuses clients (CONNACK 3, 0x88), not checks",
        "they get another",
    ),
    situation(
        Kind::Leaves,
        "leaves",
        false,
        "planned removal of a server, clients with wills",
        "all move, no false will",
    ),
    situation(Kind::Silent, "silent", true, "silent clients, plain", "no server connection, closed"),
    situation(
        Kind::SilentTls,
        "silent-tls",
        false,
        "silent clients, TLS port",
        "no server connection, closed",
    ),
    situation(Kind::LargeWill, "large-will", true, "a will of 64 kB", "let in"),
    situation(Kind::Prefix, "prefix", true, "40 ids that share 32 bytes, sticky by id, 2 servers", "at both"),
    situation(
        Kind::Slow,
        "slow",
        false,
        "CONNECT byte by byte",
        "no server connection, closed, others served",
    ),
    situation(
        Kind::SlowTls,
        "slow-tls",
        false,
        "ClientHello byte by byte, 1,200 clients",
        "closed, others served",
    ),
    situation(
        Kind::Storm,
        "storm",
        false,
        "2,000 TLS clients at once; p99 of 20 established",
        "all in, p99 as HAProxy's or less",
    ),
    situation(
        Kind::Duplicate,
        "duplicate",
        true,
        "the same client id comes again",
        "the old connection is closed",
    ),
    situation(
        Kind::KeepAlive,
        "keep-alive",
        false,
        "quiet client of a long keep alive, dead one of a short",
        "stays, is closed",
    ),
    situation(
        Kind::Certificate,
        "certificate",
        false,
        "the certificate's file changes",
        "served without a reload, sessions stay",
    ),
    situation(
        Kind::BrokenFile,
        "broken-file",
        true,
        "a reload with a broken file, then a good one",
        "nothing changes, told with its line, repaired",
    ),
    situation(
        Kind::Reloads,
        "reloads",
        false,
        "10 reloads, 2,000 idle sessions, connections being made",
        "0 failed, 0 dropped",
    ),
];

/// What one contender did.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Seen {
    text: String,
    good: bool,
    /// Where less is better, and the peer's is the measure.
    #[serde(skip_serializing_if = "Option::is_none")]
    figure: Option<f64>,
}

impl Seen {
    fn new(good: bool, text: impl Into<String>) -> Self {
        Self { text: text.into(), good, figure: None }
    }
}

/// One row of the table.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    situation: Situation,
    haproxy: Seen,
    /// Unless only the peer was asked.
    ours: Option<Seen>,
    met: Option<bool>,
}

#[derive(Debug, Serialize)]
struct Results {
    table: &'static str,
    load_before: String,
    load_after: String,
    rows: Vec<Row>,
}

/// Makes all situations, prints the table and writes it. True when each could be made for both.
pub(crate) async fn watch(cli: &Cli, place: &Place, load: &Path) -> Result<bool> {
    let named = |situation: &&Situation| is_named(cli, situation.key, situation.in_smoke);
    let situations: Vec<&Situation> = SITUATIONS.iter().filter(named).collect();
    if situations.is_empty() {
        return Ok(true);
    }
    installed("haproxy", "haproxy")?;
    let load_before = load_average();
    let (mut rows, mut complete) = (Vec::new(), true);
    for situation in situations {
        let kept = cli.out.join("matrix").join(situation.key);
        std::fs::create_dir_all(&kept).with_context(|| kept.display().to_string())?;
        let stage = |contender| Stage { place, load, contender, kept: &kept, smoke: cli.smoke };
        let mut see = async |contender| {
            let seen = make(&stage(contender), situation.kind).await;
            complete &= seen.is_ok();
            let seen = seen.unwrap_or_else(|error| Seen::new(false, format!("FAILED: {error:#}")));
            say(&format!("{:<62}{:<14}{}", situation.what, contender.name(), seen.text));
            seen
        };
        let haproxy = see(Contender::HaProxy).await;
        let ours = if cli.peers_only { None } else { Some(see(Contender::Balancer).await) };
        rows.push(judged(*situation, haproxy, ours));
    }
    let results = Results { table: "matrix", load_before, load_after: load_average(), rows };
    let text = markdown(&results);
    print(&text);
    write(cli, "matrix", &text, &results)?;
    Ok(complete)
}

async fn make(stage: &Stage<'_>, kind: Kind) -> Result<Seen> {
    match kind {
        Kind::Joins => servers::joins(stage).await,
        Kind::Protects => servers::protects(stage).await,
        Kind::Freezes => servers::freezes(stage).await,
        Kind::Returns => servers::returns(stage).await,
        Kind::Refuses => servers::refuses(stage).await,
        Kind::Leaves => servers::leaves(stage).await,
        Kind::Silent => clients::silent(stage).await,
        Kind::SilentTls => clients::silent_tls(stage).await,
        Kind::LargeWill => clients::large_will(stage).await,
        Kind::Prefix => clients::prefix(stage).await,
        Kind::Slow => clients::slow(stage).await,
        Kind::SlowTls => clients::slow_tls(stage).await,
        Kind::Storm => clients::storm(stage).await,
        Kind::Duplicate => clients::duplicate(stage).await,
        Kind::KeepAlive => clients::keep_alive(stage).await,
        Kind::Certificate => operations::certificate(stage).await,
        Kind::BrokenFile => operations::broken_file(stage).await,
        Kind::Reloads => operations::reloads(stage).await,
    }
}

/// Pure: where both have a figure, ours must not be the larger.
fn judged(situation: Situation, haproxy: Seen, ours: Option<Seen>) -> Row {
    let no_worse = |ours: &Seen| ours.figure.zip(haproxy.figure).is_none_or(|(ours, peer)| ours <= peer);
    let met = ours.as_ref().map(|ours| ours.good && no_worse(ours));
    Row { situation, haproxy, ours, met }
}

fn markdown(results: &Results) -> String {
    let mut text = "## What HAProxy and nsd-balancer do\n\n\
                    | situation | HAProxy | ours | goal | |\n| --- | --- | --- | --- | --- |\n"
        .to_owned();
    for Row { situation, haproxy, ours, met } in &results.rows {
        let ours = ours.as_ref().map_or("–", |ours| ours.text.as_str());
        let verdict = match met {
            Some(true) => "met",
            Some(false) => "missed",
            None => "–",
        };
        let Situation { what, goal, .. } = situation;
        let _ = writeln!(text, "| {what} | {} | {ours} | {goal} | {verdict} |", haproxy.text);
    }
    let Results { load_before, load_after, .. } = results;
    let _ = writeln!(
        text,
        "\nLoad average {load_before} before and {load_after} after. Configurations: matrix/."
    );
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_name_one_situation() {
        let keys: HashSet<_> = SITUATIONS.iter().map(|situation| situation.key).collect();
        assert_eq!(keys.len(), SITUATIONS.len());
    }

    #[test]
    fn a_figure_is_held_against_the_peers() {
        let seen = |figure| Seen { figure: Some(figure), ..Seen::new(true, "text") };
        let met = |ours, peer| judged(SITUATIONS[0], seen(peer), Some(seen(ours))).met;
        assert_eq!((met(1.0, 1.0), met(1.1, 1.0)), (Some(true), Some(false)));
        assert_eq!(judged(SITUATIONS[0], seen(1.0), None).met, None);
        let row = judged(SITUATIONS[0], Seen::new(false, "a"), Some(Seen::new(true, "b")));
        assert_eq!(row.met, Some(true));
        let results =
            Results { table: "matrix", load_before: "1".into(), load_after: "2".into(), rows: vec![row] };
        assert!(markdown(&results).contains("| a | b | 0 / 0 / 300 | met |"), "{}", markdown(&results));
    }
}
