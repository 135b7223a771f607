//! `nsd-broker`: parse, start logs, serve until told to stop, turn a failure into a line and an exit code.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Parser, Subcommand};
use nsd_broker::access::scram::{LEAST_ITERATIONS, MOST_ITERATIONS, USUAL_ITERATIONS};
use nsd_broker::limits::Limits;
use nsd_broker::settings::{self, Access, Listen, RedisSettings, Settings, SettingsError, StoreSettings};
use nsd_broker::{admin, entry, passwd, server};
use nsd_edge::admin::{AdminSocket, Method, StatusCode, call};
use nsd_edge::drain::Drain;
use nsd_edge::logs;
use nsd_edge::signal::{Signal, Signals};
use tokio::sync::Notify;

const BAD_FILE: u8 = 65;
const USAGE: u8 = 64;

/// MQTT broker for 3.1, 3.1.1 and 5.0; many equal nodes share state through Redis.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// Settings file; the other flags are for a quick start without one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["listen", "store", "allow_anonymous"])]
    config: Option<PathBuf>,
    /// Address to listen on; may be repeated [default: 127.0.0.1:1883, this machine only]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<SocketAddr>,
    /// `memory`, a folder, or `redis://HOST:PORT[/DB]` (a password belongs in a settings file) [default: a folder for
    /// the broker's state: /var/lib/nsd-broker, or ~/.local/state/nsd-broker of a user that is not root]
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
    /// Let clients in without a name and a password
    #[arg(long)]
    allow_anonymous: bool,
    /// Where the admin socket is made; without a settings file there is none unless named here
    #[arg(long, value_name = "PATH")]
    admin_socket: Option<PathBuf>,
    /// Check the settings and exit: 0 if they are fine, 65 if not
    #[arg(long, requires = "config")]
    check: bool,
    /// Log as JSON lines
    #[arg(long)]
    log_json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Ask a running broker
    Admin {
        #[arg(long, value_name = "PATH", default_value = settings::ADMIN_SOCKET)]
        socket: PathBuf,
        #[command(subcommand)]
        question: Question,
    },
    /// Set a user's password in a password file: asked for at the terminal, or read from stdin
    Passwd {
        /// The password file; made if it is not there
        file: PathBuf,
        user: String,
        /// Remove the user
        #[arg(long)]
        delete: bool,
        /// For clients that prove their password with SCRAM-SHA-256 instead of sending it
        #[arg(long, conflicts_with = "delete")]
        scram: bool,
        /// What a guess costs, and each connection of a client
        #[arg(long, value_name = "N", requires = "scram", default_value_t = USUAL_ITERATIONS.get(),
              value_parser = clap::value_parser!(u32).range(i64::from(LEAST_ITERATIONS)..=i64::from(MOST_ITERATIONS)))]
        iterations: u32,
    },
}

#[derive(Subcommand, Clone, Copy)]
enum Question {
    /// Live, ready, degraded; exit code 1 unless ready
    Health,
    /// Counters
    Stats,
    /// Stop gracefully
    Drain,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("{error:#}"));
            if error.is::<SettingsError>() { BAD_FILE.into() } else { ExitCode::FAILURE }
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    match arguments.command {
        None => {}
        Some(Command::Admin { socket, question }) => return runtime.block_on(ask(socket, question)),
        Some(Command::Passwd { file, user, delete, scram, iterations }) => {
            let task = match NonZeroU32::new(iterations).filter(|_| scram) {
                _ if delete => passwd::Task::Delete,
                Some(iterations) => passwd::Task::SetScram { iterations },
                None => passwd::Task::Set,
            };
            passwd::run(&file, &user, task)?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    let mut settings = match &arguments.config {
        Some(path) => settings::load(path)?,
        None => match quick(&arguments) {
            Ok(settings) => settings,
            Err(what) => {
                complain(&format!("--store: {what}"));
                return Ok(USAGE.into());
            }
        },
    };
    if arguments.check {
        let problems = entry::problems(&settings.listen);
        problems.iter().for_each(|problem| complain(&problem.to_string()));
        return Ok(if problems.is_empty() { ExitCode::SUCCESS } else { BAD_FILE.into() });
    }
    if arguments.admin_socket.is_some() {
        settings.admin_socket = arguments.admin_socket;
    }
    let format = if arguments.log_json { logs::Format::Json } else { logs::Format::Text };
    logs::start(format, "info");
    runtime.block_on(serve(settings))?;
    Ok(ExitCode::SUCCESS)
}

fn quick(arguments: &Arguments) -> Result<Settings, String> {
    let store = match arguments.store.as_deref() {
        None => StoreSettings::Disk(
            settings::default_directory().ok_or("no home to keep state in: name a folder, or `memory`")?,
        ),
        Some("memory") => StoreSettings::Memory,
        Some(folder) if folder.contains('/') && !folder.contains("://") => StoreSettings::Disk(folder.into()),
        Some(url) if url.starts_with("redis://") => {
            let redis = RedisSettings::parse(url, None, "nsd:")?;
            if redis.info.redis_settings().password().is_some() {
                // Everybody on this machine can read a process's arguments.
                return Err("a password belongs in a settings file (`password_file` of `[store]`), not here"
                    .to_owned());
            }
            StoreSettings::Redis(redis)
        }
        Some(_) => {
            return Err("none of `memory`, a folder (with a `/` in it), `redis://HOST:PORT[/DB]`".to_owned());
        }
    };
    let mut addresses = arguments.listen.clone();
    if addresses.is_empty() {
        addresses.push((Ipv4Addr::LOCALHOST, 1883).into());
    }
    let listen = addresses.into_iter().map(Listen::plain).collect();
    let access = Access::new(arguments.allow_anonymous);
    let limits = Limits::default();
    Ok(Settings { node: settings::random_name(), listen, store, access, limits, admin_socket: None })
}

/// Signals are caught before anything else: as PID 1 they would have no effect, and a stop during the start is a stop.
async fn serve(settings: Settings) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let socket = settings.admin_socket.as_deref().map(AdminSocket::bind).transpose()?;
    let server = tokio::select! {
        server = server::start(&settings) => server?,
        () = stop_asked(&mut signals) => return Ok(()),
    };
    let stop = Arc::new(Notify::new());
    let admin_end = Drain::new();
    if let Some(socket) = socket {
        let router = Arc::new(admin::router(&server.node, &stop));
        tokio::spawn(socket.serve(router, admin_end.watch()));
    }
    tokio::select! {
        () = stop_asked(&mut signals) => {}
        () = stop.notified() => {}
    }
    tracing::info!("stopping");
    tokio::select! {
        () = server.stop() => {}
        // Asked twice: now.
        () = stop_asked(&mut signals) => {}
    }
    admin_end.finish(std::time::Duration::from_secs(1)).await;
    Ok(())
}

async fn stop_asked(signals: &mut Signals) {
    while signals.next().await != Signal::Stop {
        tracing::info!("certificates are reloaded when they change; other settings need a restart");
    }
}

async fn ask(socket: PathBuf, question: Question) -> anyhow::Result<ExitCode> {
    let (method, path) = match question {
        Question::Health => (Method::GET, "/health"),
        Question::Stats => (Method::GET, "/status"),
        Question::Drain => (Method::POST, "/drain"),
    };
    let (status, body) = call(&socket, method, path, None).await?;
    print(&format!("{body:#}"));
    Ok(if status == StatusCode::OK { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[expect(clippy::print_stdout, reason = "answers of `admin` go to stdout, here only")]
fn print(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "why the broker does not run goes to stderr, here only")]
fn complain(text: &str) {
    eprintln!("nsd-broker: {text}");
}
