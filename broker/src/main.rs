//! `nsd-broker`: parse, do what was asked for, turn a failure into a line and an exit code. Only here is printed.

mod cli;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use nsd_broker::settings::SettingsError;

const USAGE: u8 = 64;
const BAD_FILE: u8 = 65;

fn main() -> ExitCode {
    let arguments = match cli::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    match cli::run(arguments) {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("{error:#}"));
            if error.is::<SettingsError>() { BAD_FILE.into() } else { ExitCode::FAILURE }
        }
    }
}

/// Answers go to stdout, here only. Who reads may have left, as `head` does: no failure of ours.
fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("stdout"),
        _ => Ok(()),
    }
}

#[expect(clippy::print_stderr, reason = "what went wrong goes to stderr, here only")]
fn complain(text: &str) {
    eprintln!("nsd-broker: {text}");
}
