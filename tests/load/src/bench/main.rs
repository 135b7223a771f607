//! Our servers beside their peers, in turns: builds nothing, starts everything afresh, prints the ratio table.

mod contenders;
mod course;
mod matrix;
mod process;
mod rows;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, ValueEnum};

const USAGE: u8 = 64;
const INTERRUPTED: u8 = 130;

/// nsd-broker beside Mosquitto, two nodes of it beside one, nsd-balancer beside HAProxy: the same work in turns, CPU and
/// memory compared as ratios.
///
/// Absolute figures drift with the machine; ratios of one interleaved run hold. `matrix` tells what both balancers do when
/// something goes wrong. Results also go to FOLDER/TABLE.md and FOLDER/TABLE.json.
#[derive(Debug, Parser)]
#[command(name = "nsd-bench", version)]
pub(crate) struct Cli {
    #[arg(value_enum, default_value = "all")]
    pub(crate) tables: Tables,
    /// One short round of a few rows
    #[arg(long)]
    pub(crate) smoke: bool,
    #[arg(long, default_value = "3", value_parser = clap::value_parser!(u8).range(1..=20))]
    pub(crate) rounds: u8,
    /// How long a timed run publishes
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub(crate) duration: Duration,
    /// Only these rows, by key; may be given several times
    #[arg(long, value_name = "ROW")]
    pub(crate) only: Vec<String>,
    /// Measure the peers alone, to see what the machine gives
    #[arg(long)]
    pub(crate) peers_only: bool,
    /// Keep brokers on one processor and their load on the other; balancers always are
    #[arg(long)]
    pub(crate) pin_brokers: bool,
    /// The first of 50 ports to use
    #[arg(long, default_value = "23200", value_parser = clap::value_parser!(u16).range(1024..=65_000))]
    pub(crate) port: u16,
    /// Where results go
    #[arg(long, default_value = "target/bench", value_name = "FOLDER")]
    pub(crate) out: PathBuf,
    /// Where nsd-load, nsd-broker and nsd-balancer stand [default: beside this program]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) programs: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tables {
    All,
    Broker,
    Balancer,
    /// Two nodes around a Redis beside one node
    Cluster,
    /// What both balancers do in each of many situations
    Matrix,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match run(&cli) {
        Ok(Some(true)) => ExitCode::SUCCESS,
        Ok(Some(false)) => ExitCode::FAILURE,
        Ok(None) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            say(&format!("nsd-bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "progress goes to the operator")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}

#[expect(clippy::print_stdout, reason = "the table is the result")]
pub(crate) fn print(text: &str) {
    println!("{text}");
}

/// True when every row has its figures; `None` when interrupted. Whatever ends it, dropping stops all servers.
fn run(cli: &Cli) -> Result<Option<bool>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            complete = course::bench(cli) => complete.map(Some),
            interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| None).map_err(Into::into),
            _ = terminate.recv() => Ok(None),
        }
    })
}
