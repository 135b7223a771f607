//! The command line: what may be typed, and what becomes of it.

mod admin;
mod convert;
mod show;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use nsd_broker::access::scram::{LEAST_ITERATIONS, MOST_ITERATIONS, USUAL_ITERATIONS};
use nsd_broker::operate::{self, SettingsFile};
use nsd_broker::settings::{self, Access, Listen, RedisSettings, Settings, StoreSettings, Telemetry};
use nsd_broker::{entry, passwd};
use nsd_edge::logs;

use crate::{BAD_FILE, USAGE, complain};

/// MQTT broker for 3.1, 3.1.1 and 5.0; many equal nodes share state through Redis.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    /// Settings file, read again when it changes and on SIGHUP; the other flags are for a quick start without one
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
    /// Log as JSON lines, whatever the settings say
    #[arg(long)]
    log_json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Ask a running broker, or tell it something
    Admin(admin::Arguments),
    /// Take over another broker's files; exit code 2: something in them has no counterpart
    Convert(convert::Arguments),
    /// Set a user's password in a password file: asked for at the terminal, or read from stdin
    Passwd(Passwd),
}

#[derive(Args)]
struct Passwd {
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
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    match arguments.command {
        Some(Command::Admin(arguments)) => return runtime.block_on(admin::run(arguments)),
        Some(Command::Convert(arguments)) => return convert::run(&arguments),
        Some(Command::Passwd(Passwd { file, user, delete, scram, iterations })) => {
            let task = match NonZeroU32::new(iterations).filter(|_| scram) {
                _ if delete => passwd::Task::Delete,
                Some(iterations) => passwd::Task::SetScram { iterations },
                None => passwd::Task::Set,
            };
            passwd::run(&file, &user, task)?;
            return Ok(ExitCode::SUCCESS);
        }
        None => {}
    }
    let (mut settings, file) = match arguments.config.clone() {
        Some(path) => SettingsFile::read(path).map(|(settings, file)| (settings, Some(file)))?,
        None => match quick(&arguments) {
            Ok(settings) => (settings, None),
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
    let telemetry = &settings.telemetry;
    let format = if arguments.log_json { logs::Format::Json } else { telemetry.log_format };
    logs::start(format, &telemetry.log_level);
    runtime.block_on(operate::run(settings, file))?;
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
    let (limits, telemetry) = (Arc::default(), Telemetry::default());
    Ok(Settings {
        node: settings::random_name(),
        listen,
        store,
        access,
        limits,
        admin_socket: None,
        telemetry,
    })
}

#[cfg(test)]
#[path = "../../../tests/shown.rs"]
mod shown;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_a_page_shows_can_be_typed() {
        shown::can_be_typed::<Arguments>("nsd-broker");
    }
}
