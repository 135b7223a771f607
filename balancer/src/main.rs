//! `nsd-balancer`: arguments, logs, run; failures become one text and an exit code here, and nowhere else.

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use nsd_balancer::convert;
use nsd_balancer::dashboard;
use nsd_balancer::pace::{self, Pace};
use nsd_balancer::server::{self, StartError};
use nsd_balancer::settings::{self, ADMIN_SOCKET};
use nsd_edge::admin::{Method, StatusCode, call};
use nsd_edge::logs;
use nsd_edge::watch::FileWatch;
use serde_json::{Value, json};

const FAILED: u8 = 1;
/// Something has no counterpart.
const NOT_ALL: u8 = 2;
const USAGE: u8 = 64;
const BAD_FILE: u8 = 65;

/// TCP and TLS balancer that understands MQTT connections.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    serve: Serve,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args)]
struct Serve {
    /// The settings file; read again whenever it changes, and on SIGHUP
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    /// Check the file and the certificates it names, and exit: 0 fine, 65 not
    #[arg(long)]
    check: bool,
    /// Take over from the running process, with its listeners and sessions; without one, start as usual
    #[arg(long)]
    take_over: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Set the password of a user of the dashboard: asked for at the terminal, or read from stdin
    Passwd {
        /// The password file; made if it is not there
        file: PathBuf,
        user: String,
        /// Remove the user
        #[arg(long)]
        delete: bool,
    },
    /// Ask a running balancer
    Admin {
        /// Its admin socket
        #[arg(long, value_name = "PATH", default_value = ADMIN_SOCKET)]
        socket: PathBuf,
        #[command(subcommand)]
        ask: Ask,
    },
    /// A haproxy.cfg → settings for here, on stdout; exit code 2: not all of it could be carried over, stderr tells what
    Convert { file: PathBuf },
}

#[derive(Subcommand)]
enum Ask {
    /// Whether it can take clients
    Health,
    /// Servers with their state, sessions and checks
    Status,
    /// Where a client is: server, source, age, version, TLS, bytes
    Who {
        /// Its client identifier
        client: String,
    },
    /// How many sessions there are, by version, listener and server
    Sessions,
    /// No new sessions for a server; with a rate, those it has are moved to other servers
    Drain(Drain),
    /// Sessions for a drained server again, once it has passed a check
    Ready { server: String },
    /// Move the sessions that servers have above their fair share
    Rebalance(Rebalance),
    /// How drains and rebalances go: moved, not returned, failed
    Moves,
    /// Read the settings file now
    Reload,
}

#[derive(Args)]
struct Drain {
    server: String,
    /// So many sessions leave in a second or a minute: 50/s, 30/min
    #[arg(long, value_name = "RATE")]
    rate: Option<Pace>,
    /// What is left then leaves at once: 90s, 10m
    #[arg(long, value_name = "TIME", requires = "rate", value_parser = deadline)]
    deadline: Option<Duration>,
    /// Close no more sessions; the server stays drained
    #[arg(long, conflicts_with = "rate")]
    stop: bool,
}

#[derive(Args)]
struct Rebalance {
    /// Only this one
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// So many sessions leave in a second or a minute: 50/s, 30/min
    #[arg(long, value_name = "RATE")]
    rate: Option<Pace>,
    /// But no more of the backend's sessions in a minute than so many per cent: 1 to 100
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=100))]
    percent_per_minute: Option<u32>,
    /// Only say what would be moved
    #[arg(long)]
    dry_run: bool,
    /// Move no more
    #[arg(long, conflicts_with_all = ["rate", "percent_per_minute", "dry_run"])]
    stop: bool,
}

fn deadline(text: &str) -> Result<Duration, String> {
    let deadline = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    pace::deadline(deadline).map_err(|error| error.to_string())
}

impl Drain {
    fn body(&self) -> Value {
        let seconds = self.deadline.map(|deadline| deadline.as_secs());
        let rate = self.rate.map(|rate| rate.to_string());
        json!({ "server": self.server, "rate": rate, "deadline_seconds": seconds, "stop": self.stop })
    }
}

impl Rebalance {
    fn body(&self) -> Value {
        let rate = self.rate.map(|rate| rate.to_string());
        json!({
            "backend": self.backend,
            "rate": rate,
            "percent_per_minute": self.percent_per_minute,
            "dry_run": self.dry_run,
            "stop": self.stop,
        })
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked_for_help = !error.use_stderr();
            let _ = error.print();
            return if asked_for_help { ExitCode::SUCCESS } else { ExitCode::from(USAGE) };
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}"), FAILED),
    };
    match (cli.command, cli.serve.config) {
        (Some(Command::Admin { socket, ask }), _) => runtime.block_on(admin(&socket, ask)),
        (Some(Command::Convert { file }), _) => convert(&file),
        (Some(Command::Passwd { file, user, delete }), _) => passwd(&file, &user, delete),
        (None, Some(config)) if cli.serve.check => check(&config),
        (None, Some(config)) => serve(&runtime, &config, cli.serve.take_over),
        (None, None) => fail("--config FILE is missing", USAGE),
    }
}

fn passwd(file: &std::path::Path, user: &str, delete: bool) -> ExitCode {
    match dashboard::passwd(file, user, delete) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string(), FAILED),
    }
}

fn check(config: &std::path::Path) -> ExitCode {
    match server::check(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string(), BAD_FILE),
    }
}

fn serve(runtime: &tokio::runtime::Runtime, config: &std::path::Path, take_over: bool) -> ExitCode {
    // Before it is read, so that no change is missed.
    let changes = FileWatch::new(&[config.to_owned()]);
    let settings = match settings::load(config) {
        Ok(settings) => settings,
        Err(error) => return fail(&error.to_string(), BAD_FILE),
    };
    logs::start(settings.log_format, "info");
    match runtime.block_on(server::run(config, settings, changes, take_over)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ StartError::Settings(_)) => fail(&error.to_string(), BAD_FILE),
        Err(error) => fail(&error.to_string(), FAILED),
    }
}

async fn admin(socket: &std::path::Path, ask: Ask) -> ExitCode {
    let server = |server: String| Some(json!({ "server": server }));
    let (method, path, body) = match ask {
        Ask::Health => (Method::GET, "/health".to_owned(), None),
        Ask::Status => (Method::GET, "/status".to_owned(), None),
        Ask::Who { client } => (Method::GET, query("/who", "client", &client), None),
        Ask::Sessions => (Method::GET, "/sessions".to_owned(), None),
        Ask::Drain(drain) => (Method::POST, "/drain".to_owned(), Some(drain.body())),
        Ask::Rebalance(rebalance) => (Method::POST, "/rebalance".to_owned(), Some(rebalance.body())),
        Ask::Moves => (Method::GET, "/moves".to_owned(), None),
        Ask::Ready { server: name } => (Method::POST, "/ready".to_owned(), server(name)),
        Ask::Reload => (Method::POST, "/reload".to_owned(), None),
    };
    match call(socket, method, &path, body.as_ref()).await {
        Ok((status, answer)) => show(status, &answer),
        Err(error) => fail(&error.to_string(), FAILED),
    }
}

fn query(path: &str, name: &str, value: &str) -> String {
    let pair = form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish();
    format!("{path}?{pair}")
}

#[expect(clippy::print_stderr, reason = "the settings are for a file, the notes for people")]
fn convert(file: &std::path::Path) -> ExitCode {
    let shown = file.display();
    let text = match settings::read(file) {
        Ok(text) => text,
        Err(error) => return fail(&error.to_string(), BAD_FILE),
    };
    match convert::haproxy(&text) {
        Ok(made) => {
            if let Err(error) = print(&made.toml) {
                return fail(&format!("stdout: {error}"), FAILED);
            }
            made.notes.iter().for_each(|note| eprintln!("{shown}:{note}"));
            if made.notes.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(NOT_ALL) }
        }
        Err(note) => fail(&format!("{shown}:{note}"), BAD_FILE),
    }
}

/// Who reads may have left, as `head` does: no failure of ours.
fn print(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

fn show(status: StatusCode, answer: &Value) -> ExitCode {
    if let Err(error) = print(&format!("{answer:#}\n")) {
        return fail(&format!("stdout: {error}"), FAILED);
    }
    if status.is_success() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
}

#[expect(
    clippy::print_stderr,
    reason = "the one place where a failure becomes text; the logs may not have begun"
)]
fn fail(message: &str, code: u8) -> ExitCode {
    eprintln!("nsd-balancer: {message}");
    ExitCode::from(code)
}

#[cfg(test)]
#[path = "../../tests/shown.rs"]
mod shown;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_a_page_shows_can_be_typed() {
        shown::can_be_typed::<Cli>("nsd-balancer");
    }
}
