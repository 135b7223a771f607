//! The command line: one file a command, each an `Args` whose doc comments are the help, and a `run` that reads like a
//! table of contents. Words are expanded first ([`words`]), then clap parses, then [`dispatch`] runs.

mod completions;
mod cont;
mod context;
mod device;
mod login;
mod logs;
mod mach;
mod mqtt;
mod rev;
mod status;
mod supervise;
mod sys;
mod timeline;
mod up;
mod words;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Failure, Kind};
use crate::report::{Palette, diagnose, failure_json, failure_text};
use context::{Context, Interrupt};

/// Puts a system of containers on machines, revision by revision.
///
/// A system is one file, system.toml. Compile it for a topology, build what must be
/// built, deploy the newest revision:
///
///   nsd sys compile direct
///   nsd cont buildall
///   nsd rev deploy head
///
/// or all of it at once: `nsd up`. Words may be shortened to unique prefixes of three
/// letters or more: `nsd sys comp direct`.
#[derive(Parser)]
#[command(
    name = "nsd",
    version,
    verbatim_doc_comment,
    disable_help_subcommand = true,
    arg_required_else_help = true,
    after_help = EXIT_CODES
)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done · 1 error · 2 changes (preview --exit-code) · 3 partly done · \
4 failed and rolled back · 5 locked by somebody else · 6 unreachable, nothing changed · 7 plan is stale · \
64 usage · 65 bad system file · 130 interrupted";

#[derive(clap::Args, Clone, Default)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Work on the system in this folder, or above it
    #[arg(short = 'C', long, global = true, value_name = "DIR", hide_short_help = true)]
    pub(crate) directory: Option<PathBuf>,
    /// Work on this system file
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "NSD_SYSTEM",
        hide_env = true,
        hide_short_help = true
    )]
    pub(crate) system: Option<PathBuf>,
    /// Topology to work on; by default the one compiled last
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "NSD_TOPOLOGY",
        hide_env = true,
        hide_short_help = true
    )]
    pub(crate) topology: Option<String>,
    /// Agree to what would be asked
    #[arg(short, long, global = true, hide_short_help = true)]
    pub(crate) yes: bool,
    /// Results as JSON on stdout, events as JSON lines on stderr
    #[arg(long, global = true, hide_short_help = true)]
    pub(crate) json: bool,
    /// No colours (as does NO_COLOR)
    #[arg(long, global = true, hide_short_help = true)]
    pub(crate) no_color: bool,
    /// Tell more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, hide_short_help = true)]
    pub(crate) verbose: u8,
    /// Tell only what is wrong
    #[arg(short, long, global = true, conflicts_with = "verbose", hide_short_help = true)]
    pub(crate) quiet: bool,
}

impl Global {
    pub(crate) fn wants_color(&self) -> bool {
        !self.no_color && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
    }

    pub(crate) fn verbosity(&self) -> i8 {
        if self.quiet { -1 } else { i8::try_from(self.verbose).unwrap_or(i8::MAX) }
    }
}

#[derive(Subcommand)]
enum Command {
    Login(login::LoginArgs),
    Logout(login::LogoutArgs),
    #[command(name = "sys", alias = "system", subcommand)]
    Sys(sys::Command),
    #[command(name = "mach", alias = "machine", subcommand)]
    Mach(mach::Command),
    #[command(name = "cont", alias = "container", subcommand)]
    Cont(cont::Command),
    #[command(name = "rev", alias = "revision", subcommand)]
    Rev(rev::Command),
    #[command(subcommand)]
    Timeline(timeline::Command),
    #[command(subcommand)]
    Device(device::Command),
    Up(up::Args),
    Status(status::Args),
    Logs(logs::Args),
    #[command(subcommand)]
    Mqtt(mqtt::Command),
    Completions(completions::Args),
    #[command(hide = true)]
    Supervise(supervise::Args),
}

/// Runs the command line `args` (without the program's name) and speaks about it; the exit code follows from
/// [`Kind::exit_code`] and from nowhere else.
pub fn main(args: Vec<OsString>) -> ExitCode {
    // Before anything is known about the command line, its own words decide how to speak.
    let asks_json = args.iter().any(|arg| arg == "--json");
    let cli = match parse(args) {
        Ok(Parsed::Run(cli)) => cli,
        Ok(Parsed::Told) => return ExitCode::SUCCESS,
        Ok(Parsed::Lost(help)) => {
            diagnose(help.trim_end());
            return ExitCode::from(Kind::Usage.exit_code());
        }
        Err(failure) => return give_up(&failure, asks_json, Global::default().wants_color()),
    };
    if let Command::Supervise(args) = &cli.command {
        return supervise::run(args);
    }
    let (json, color) = (cli.global.json, cli.global.wants_color());
    match run(*cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => give_up(&failure, json, color),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::error("cannot start the runtime").because(&error))?;
    let interrupt = Interrupt::default();
    let context = Context::new(cli.global, interrupt.clone());
    let result = runtime.block_on(async {
        tokio::select! {
            result = dispatch(&context, cli.command) => result,
            failure = interrupted(&context, &interrupt) => Err(failure),
        }
    });
    // A blocking call that nobody waits for any more (a prompt, a git look-up) must not hold the program.
    runtime.shutdown_background();
    context.reporter.end();
    result
}

async fn dispatch(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Login(args) => login::login(context, args).await,
        Command::Logout(args) => login::logout(context, args),
        Command::Sys(command) => sys::run(context, command).await,
        Command::Mach(command) => mach::run(context, command).await,
        Command::Cont(command) => cont::run(context, command).await,
        Command::Rev(command) => rev::run(context, command).await,
        Command::Timeline(command) => timeline::run(context, command),
        Command::Device(command) => device::run(context, command).await,
        Command::Up(args) => up::run(context, args).await,
        Command::Status(args) => status::run(context, args).await,
        Command::Logs(args) => logs::run(context, args).await,
        Command::Mqtt(command) => mqtt::run(context, command).await,
        Command::Completions(args) => completions::run(context, args),
        Command::Supervise(_) => Ok(()),
    }
}

/// Once: whoever guards itself finishes the step in hand and cleans up; the others end. Twice: stop now.
async fn interrupted(context: &Context, interrupt: &Interrupt) -> Failure {
    let watch =
        |kind| signal(kind).map_err(|error| Failure::error("cannot watch for Ctrl-C").because(&error));
    let (mut interrupts, mut terminations) =
        match (watch(SignalKind::interrupt()), watch(SignalKind::terminate())) {
            (Ok(interrupts), Ok(terminations)) => (interrupts, terminations),
            (Err(failure), _) | (_, Err(failure)) => return failure,
        };
    let mut first: Option<std::time::Instant> = None;
    loop {
        tokio::select! {
            _ = interrupts.recv() => {}
            _ = terminations.recv() => {}
        }
        if first.is_some_and(|first| first.elapsed() < ONE_KEYSTROKE) {
            continue;
        }
        first = Some(std::time::Instant::now());
        if !interrupt.is_guarded() {
            let said = if interrupt.is_endless() { "" } else { "interrupted; no machine was changed" };
            return Failure::new(Kind::Interrupted, said);
        }
        if !interrupt.raise() {
            return Failure::new(Kind::Interrupted, "stopped at once, in the middle of a step")
                .hint("see what stands: `nsd status`")
                .hint("the next `nsd rev deploy` takes it from there");
        }
        context.warn(
            "interrupted: finishing the step in hand, then undoing this run; Ctrl-C again stops at once",
        );
    }
}

/// One Ctrl-C may come as two signals: to us, and to the process group that we are in.
const ONE_KEYSTROKE: std::time::Duration = std::time::Duration::from_millis(200);

enum Parsed {
    Run(Box<Cli>),
    /// Help or the version was asked for and given.
    Told,
    /// A noun without a verb, or nothing at all: the help is the answer, but nothing was done.
    Lost(String),
}

fn parse(args: Vec<OsString>) -> Result<Parsed, Failure> {
    let words = words::expand(&Cli::command(), args)?;
    let error = match Cli::try_parse_from(std::iter::once("nsd".into()).chain(words)) {
        Ok(cli) => return Ok(Parsed::Run(Box::new(cli))),
        Err(error) => error,
    };
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Ok(Parsed::Lost(error.to_string()));
    }
    if error.use_stderr() {
        return Err(usage(&error));
    }
    // A reader that left early is content with what it has.
    let _ = error.print();
    Ok(Parsed::Told)
}

/// clap's words in our shape: what is wrong, then how it is meant.
fn usage(error: &clap::Error) -> Failure {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let (what, rest) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut failure = Failure::new(Kind::Usage, what.trim());
    let lines = rest.lines().map(str::trim);
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with("For more information")) {
        failure = failure.hint(line.strip_prefix("tip: ").unwrap_or(line));
    }
    failure
}

fn give_up(failure: &Failure, json: bool, color: bool) -> ExitCode {
    if failure.message.is_empty() {
        return ExitCode::from(failure.kind.exit_code());
    }
    let palette = Palette::new(color && std::io::IsTerminal::is_terminal(&std::io::stderr()));
    diagnose(&if json { failure_json(failure) } else { failure_text(failure, palette) });
    ExitCode::from(failure.kind.exit_code())
}

#[cfg(test)]
mod said;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
