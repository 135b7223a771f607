//! The course of a benchmark: for every round and row each contender in turn, started afresh, loaded, read, stopped.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nsd_load::report::Report;
use serde::Serialize;

use crate::contenders::{self, BACKENDS, Contender, LOAD_PROCESSOR, Place};
use crate::matrix;
use crate::process::{Program, Running};
use crate::rows::{self, Door, Figure, Row};
use crate::table::{self, Line, Samples, Verdict};
use crate::{Cli, Tables, print, say};

/// One run of the load tool takes no longer than this.
const RUN_LIMIT: Duration = Duration::from_secs(300);

/// One comparison: whom, with whom, at what.
struct Table {
    name: &'static str,
    ours: Contender,
    peer: Contender,
    rows: &'static [Row],
}

const TABLES: [Table; 3] = [
    Table { name: "broker", ours: Contender::Broker, peer: Contender::Mosquitto, rows: rows::BROKER },
    Table { name: "cluster", ours: Contender::Cluster, peer: Contender::Broker, rows: rows::CLUSTER },
    Table { name: "balancer", ours: Contender::Balancer, peer: Contender::HaProxy, rows: rows::BALANCER },
];

/// What is written for programs.
#[derive(Serialize)]
struct Results<'a> {
    table: &'a str,
    ours: &'a str,
    peer: &'a str,
    rounds: u8,
    processors: usize,
    load_before: String,
    load_after: String,
    lines: Vec<Judged<'a>>,
}

#[derive(Serialize)]
struct Judged<'a> {
    #[serde(flatten)]
    line: &'a Line,
    ratio: Option<f64>,
    verdict: Verdict,
}

/// True when every row has its figures.
pub(crate) async fn bench(cli: &Cli) -> Result<bool> {
    let folder = tempfile::tempdir()?;
    let beside = std::env::current_exe()?.parent().context("a program in no folder")?.to_owned();
    let place = Place {
        folder: folder.path().to_owned(),
        programs: cli.programs.clone().unwrap_or(beside),
        first_port: cli.port,
        pin_brokers: cli.pin_brokers,
    };
    let load = place.own("nsd-load")?;
    contenders::make_certificate(&place.certificate())?;
    std::fs::create_dir_all(&cli.out).with_context(|| cli.out.display().to_string())?;
    let mut complete = true;
    for table in &TABLES {
        let wanted = match cli.tables {
            Tables::All => true,
            Tables::Broker => table.peer == Contender::Mosquitto,
            Tables::Balancer => table.peer == Contender::HaProxy,
            Tables::Cluster => table.ours == Contender::Cluster,
            Tables::Matrix => false,
        };
        if wanted {
            complete &= compare(cli, &place, &load, table).await?;
        }
    }
    if matches!(cli.tables, Tables::All | Tables::Matrix) {
        complete &= matrix::watch(cli, &place, &load).await?;
    }
    Ok(complete)
}

/// Fills one table, prints and writes it.
async fn compare(cli: &Cli, place: &Place, load: &Path, table: &Table) -> Result<bool> {
    let rows: Vec<&Row> = table.rows.iter().filter(|row| is_named(cli, row.key, row.smoke)).collect();
    if rows.is_empty() {
        return Ok(true);
    }
    // A missing peer is told before anything is measured.
    table.peer.programs(place, Door::Broker)?;
    let mut contenders = vec![table.peer];
    if !cli.peers_only {
        table.ours.programs(place, Door::Broker)?;
        contenders.push(table.ours);
    }
    let behind = if table.peer == Contender::HaProxy { backends(place, load).await? } else { Vec::new() };
    let rounds = if cli.smoke { 1 } else { cli.rounds };
    let load_before = load_average();
    let mut lines: Vec<Vec<Line>> = rows.iter().map(|row| lines_of(row)).collect();
    for round in 1..=rounds {
        for (row, lines) in rows.iter().zip(&mut lines) {
            for &contender in &contenders {
                let result = measure(cli, place, load, row, contender).await;
                say(&progress(round, rounds, row, contender, &result));
                note_all(lines, row, contender == table.peer, &result);
            }
        }
    }
    for backend in behind {
        backend.stop().await;
    }
    let lines: Vec<Line> = lines.into_iter().flatten().collect();
    publish(cli, table, rounds, load_before, &lines)
}

/// Asked for by its key, or part of the run that was asked for.
pub(crate) fn is_named(cli: &Cli, key: &str, in_smoke: bool) -> bool {
    if cli.only.is_empty() { !cli.smoke || in_smoke } else { cli.only.iter().any(|only| only == key) }
}

fn lines_of(row: &Row) -> Vec<Line> {
    let line = |(figure, goal): &(Figure, Option<f64>)| Line {
        work: row.work.to_owned(),
        figure: figure.name(),
        ours: Samples::default(),
        peer: Samples::default(),
        goal: goal.filter(|_| *figure != Figure::Rate),
        least: goal.filter(|_| *figure == Figure::Rate),
    };
    row.figures.iter().map(line).collect()
}

async fn backends(place: &Place, load: &Path) -> Result<Vec<Running>> {
    let mut running = Vec::new();
    for (role, offset) in BACKENDS {
        let address = place.address(offset);
        let args = ["serve", role, "--listen", &address.to_string(), "--for", "6h"].map(String::from);
        let program = Program::new(load, args).on(Some(LOAD_PROCESSOR));
        running.push(Running::start(&program, &[address], &place.folder.join(format!("{role}.log"))).await?);
    }
    Ok(running)
}

/// One run against a server started for it.
async fn measure(cli: &Cli, place: &Place, load: &Path, row: &Row, contender: Contender) -> Result<Report> {
    let servers = contender.start(place, row.door).await?;
    let mut args: Vec<String> = row.load.iter().map(|word| (*word).to_owned()).collect();
    let target = contender.address(place, row.door).to_string();
    args.extend(["--json".into(), "--target".into(), target]);
    if let Some(far_side) = contender.far_side(place) {
        args.extend(["--subscribers-at".into(), far_side.to_string()]);
    }
    servers.iter().for_each(|server| args.extend(["--pid".into(), server.pid.to_string()]));
    if row.timed {
        let duration = if cli.smoke { Duration::from_secs(1) } else { cli.duration };
        args.extend(["--duration".into(), format!("{}ms", duration.as_millis())]);
    }
    let pinned = cli.pin_brokers || row.door.is_behind_a_proxy();
    let program = Program::new(load, args).on(pinned.then_some(LOAD_PROCESSOR));
    let output = program.command().stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    let output = tokio::time::timeout(RUN_LIMIT, output).await;
    let output = output.with_context(|| format!("no end after {} s", RUN_LIMIT.as_secs()))??;
    // Nodes before what they share.
    for server in servers.into_iter().rev() {
        server.stop().await;
    }
    if output.stdout.is_empty() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{}",
            said.lines().last().unwrap_or("the load tool said nothing").trim_start_matches("nsd-load: ")
        );
    }
    let report: Report = serde_json::from_slice(&output.stdout).context("the load tool's report")?;
    if report.failures.count > 0 {
        let first = report.failures.first.as_deref().unwrap_or("unknown");
        bail!("{} connections failed; the first: {first}", report.failures.count);
    }
    Ok(report)
}

/// Adds a run to the samples of whoever made it.
fn note_all(lines: &mut [Line], row: &Row, is_peer: bool, result: &Result<Report>) {
    for (line, (figure, _)) in lines.iter_mut().zip(row.figures) {
        note(if is_peer { &mut line.peer } else { &mut line.ours }, *figure, result);
    }
}

/// Adds a run's figure to the samples, or why there is none.
fn note(samples: &mut Samples, figure: Figure, result: &Result<Report>) {
    let report = match result {
        Ok(report) => report,
        Err(error) => return samples.failures.push(format!("{error:#}")),
    };
    let server = report.server.as_ref();
    let value = match figure {
        Figure::Cpu => server.map(|server| server.cpu_us_each),
        Figure::CpuMillis => server.map(|server| server.cpu_us_each / 1000.0),
        Figure::Memory => server.and_then(|server| server.rss_kib_each),
        Figure::Time => Some(report.seconds * 1000.0),
        Figure::P99 => report.latency.map(|latency| latency.p99),
        Figure::Rate => Some(report.rate),
    };
    match value {
        Some(value) => samples.values.push(value),
        None => samples.failures.push("the load tool told no such figure".to_owned()),
    }
    if figure == Figure::Cpu {
        samples.rates.push(report.rate);
    }
    samples.lost += report.delivery.map_or(0, |delivery| delivery.lost);
}

fn progress(round: u8, rounds: u8, row: &Row, contender: Contender, result: &Result<Report>) -> String {
    let outcome = match result {
        Ok(report) => {
            let rate = nsd_load::report::short(report.rate);
            let each = report.server.as_ref().map_or(0.0, |server| server.cpu_us_each);
            format!("{rate} {}s/s, {each:.2} µs each", report.unit)
        }
        Err(error) => format!("failed: {error:#}"),
    };
    format!("{round}/{rounds}  {:<48}{:<22}{outcome}", row.work, contender.name())
}

fn publish(cli: &Cli, table: &Table, rounds: u8, load_before: String, lines: &[Line]) -> Result<bool> {
    let load_after = load_average();
    let title = format!("{} beside {}", table.ours.name(), table.peer.name());
    let mut text = table::markdown(&title, table.peer.name(), lines);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    text += &format!(
        "\n{rounds} rounds in turns, {processors} processors, load average {load_before} before and {load_after} after.\n"
    );
    print(&text);
    let judged: Vec<_> =
        lines.iter().map(|line| Judged { line, ratio: line.ratio(), verdict: line.verdict() }).collect();
    let complete = judged.iter().all(|judged| judged.verdict != Verdict::Failed);
    let results = Results {
        table: table.name,
        ours: table.ours.name(),
        peer: table.peer.name(),
        rounds,
        processors,
        load_before,
        load_after,
        lines: judged,
    };
    write(cli, table.name, &text, &results)?;
    Ok(complete)
}

/// Puts a table beside the others, for people and for programs.
pub(crate) fn write(cli: &Cli, name: &str, text: &str, results: &impl Serialize) -> Result<()> {
    let write = |extension: &str, text: &str| {
        let file = cli.out.join(format!("{name}.{extension}"));
        std::fs::write(&file, text).with_context(|| file.display().to_string())
    };
    write("md", text)?;
    write("json", &serde_json::to_string_pretty(results)?)
}

/// The machine's load average over one minute, as the kernel writes it.
pub(crate) fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}
