//! Parses, runs, prints, exits; nothing else.

use std::process::ExitCode;

use clap::Parser;
use nsd_load::cli::Cli;
use nsd_load::perform;
use nsd_load::report::Report;

const USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match perform::perform(cli.command) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(verdict)) => {
            tell(&verdict.report, cli.json);
            if verdict.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the door to people")]
fn tell(report: &Report, json: bool) {
    match serde_json::to_string(report) {
        Ok(text) if json => println!("{text}"),
        _ => print!("{report}"),
    }
}

#[expect(clippy::print_stderr, reason = "the door to people")]
fn complain(error: &anyhow::Error) {
    eprintln!("nsd-load: {error:#}");
}
