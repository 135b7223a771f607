//! `nsd-broker admin …`: questions and orders for a running broker.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use nsd_broker::settings;
use nsd_edge::admin::{CallError, Method, call};
use serde_json::{Value, json};

use super::show;
use crate::{complain, print};

/// No broker answers at the socket.
const UNREACHABLE: u8 = 69;

#[derive(Args)]
pub(crate) struct Arguments {
    /// The broker's admin socket
    #[arg(long, value_name = "PATH", default_value = settings::ADMIN_SOCKET, global = true)]
    socket: PathBuf,
    /// The whole answer as JSON, for scripts
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    question: Question,
}

#[derive(Subcommand)]
pub(super) enum Question {
    /// Whether clients may come, and what is not as it should be; exit code 1 unless ready
    Health,
    /// Counters
    Stats,
    /// Who has a session here, a page at a time
    Sessions {
        /// Only client ids that begin so
        #[arg(long, default_value = "")]
        prefix: String,
        /// Only those in this state
        #[arg(long, value_enum)]
        state: Option<State>,
        #[command(flatten)]
        page: Page,
    },
    /// Everything about one client
    Who { client: String },
    /// Send a client away (0x98); it may come back
    Kick {
        client: String,
        /// End its session, too: subscriptions and waiting messages are gone
        #[arg(long)]
        session: bool,
    },
    /// Close the listeners and send all clients away, at a rate
    Drain(Drain),
    /// Stop gracefully: everybody is told at once
    Stop,
    /// Retained messages: topic, size, age
    Retained {
        /// Only topics that match
        #[arg(default_value = "#")]
        filter: String,
        /// Take them away, instead of listing them
        #[arg(long, conflicts_with_all = ["limit", "after"])]
        delete: bool,
        #[command(flatten)]
        page: Page,
    },
    /// Devices of the broker's own store, by name (with Redis: `nsd device`)
    Devices {
        #[command(flatten)]
        page: Page,
    },
    /// Add or remove a device of the broker's own store
    #[command(subcommand)]
    Device(Device),
    /// Certificates of the listeners, and when they end
    Certificates,
    /// Read the settings file now; exit code 1 if it is not in effect
    Reload,
    /// Log at another level until the next start
    Log {
        /// `info`, `debug`, or `warn,nsd_broker=debug`
        level: String,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum State {
    Connected,
    Offline,
}

#[derive(Subcommand)]
pub(super) enum Device {
    /// Make a device and print its secret, which nobody can read again
    Add {
        id: String,
        /// One that is there gets a new secret
        #[arg(long)]
        replace: bool,
    },
    /// It cannot connect any more; who is connected stays until it leaves or is kicked
    Remove { id: String },
}

#[derive(Args)]
pub(super) struct Page {
    /// Entries of one page
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// Go on behind this entry
    #[arg(long, value_name = "ENTRY")]
    after: Option<String>,
}

#[derive(Args)]
pub(super) struct Drain {
    /// Clients a second or a minute, `50/s` or `600/min`
    #[arg(long, default_value = "100/s")]
    rate: String,
    /// Where v5 clients are told to go (0x9C)
    #[arg(long, value_name = "HOST:PORT")]
    redirect: Option<String>,
    /// They are told so for good (0x9D)
    #[arg(long, requires = "redirect")]
    moved: bool,
    /// End the process once everybody is gone
    #[arg(long)]
    stop: bool,
    /// Let clients in again; those who are gone stay gone
    #[arg(long, conflicts_with_all = ["rate", "redirect", "moved", "stop", "status"])]
    cancel: bool,
    /// How far it is
    #[arg(long, conflicts_with_all = ["rate", "redirect", "moved", "stop"])]
    status: bool,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { socket, json, question } = arguments;
    let (method, path, body) = request(&question);
    let (status, answer) = match call(&socket, method, &path, body.as_ref()).await {
        Ok(answered) => answered,
        Err(error @ (CallError::Unreachable { .. } | CallError::TimedOut)) => {
            complain(&error.to_string());
            return Ok(UNREACHABLE.into());
        }
        Err(error) => return Err(error.into()),
    };
    match (&answer["error"], json) {
        (_, true) => print(&format!("{answer:#}"))?,
        (Value::String(error), false) => complain(&show::line(error)),
        (_, false) => print(show::answer(&question, &answer).trim_end())?,
    }
    Ok(if status.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn request(question: &Question) -> (Method, String, Option<Value>) {
    let plain = |method, path: &str| (method, path.to_owned(), None);
    match question {
        Question::Health => plain(Method::GET, "/health"),
        Question::Stats => plain(Method::GET, "/status"),
        Question::Sessions { prefix, state, page } => {
            let state = state.map(|state| match state {
                State::Connected => "connected",
                State::Offline => "offline",
            });
            let query = [("prefix", Some(prefix.as_str())), ("state", state)];
            (Method::GET, page.with("/sessions", &query), None)
        }
        Question::Who { client } => (Method::GET, path("/session", &[("client", Some(client))]), None),
        Question::Kick { client, session } => {
            let query = [("client", Some(client.as_str())), ("session", session.then_some("true"))];
            (Method::DELETE, path("/session", &query), None)
        }
        Question::Drain(drain) if drain.cancel => plain(Method::DELETE, "/drain"),
        Question::Drain(drain) if drain.status => plain(Method::GET, "/drain"),
        Question::Drain(Drain { rate, redirect, moved, stop, .. }) => {
            let body = json!({ "rate": rate, "redirect": redirect, "moved": moved, "stop": stop });
            (Method::POST, "/drain".to_owned(), Some(body))
        }
        Question::Stop => plain(Method::POST, "/stop"),
        Question::Retained { filter, delete: true, .. } => {
            (Method::DELETE, path("/retained", &[("filter", Some(filter))]), None)
        }
        Question::Retained { filter, page, .. } => {
            (Method::GET, page.with("/retained", &[("filter", Some(filter))]), None)
        }
        Question::Devices { page } => (Method::GET, page.with("/devices", &[]), None),
        Question::Device(Device::Add { id, replace }) => {
            let query = [("id", Some(id.as_str())), ("replace", replace.then_some("true"))];
            (Method::POST, path("/device", &query), None)
        }
        Question::Device(Device::Remove { id }) => {
            (Method::DELETE, path("/device", &[("id", Some(id))]), None)
        }
        Question::Certificates => plain(Method::GET, "/certificates"),
        Question::Reload => plain(Method::POST, "/reload"),
        Question::Log { level } => (Method::PUT, "/log".to_owned(), Some(json!({ "level": level }))),
    }
}

impl Page {
    fn with(&self, to: &str, query: &[(&str, Option<&str>)]) -> String {
        let limit = self.limit.to_string();
        let page = [("limit", Some(limit.as_str())), ("after", self.after.as_deref())];
        path(to, &[query, &page].concat())
    }
}

fn path(to: &str, query: &[(&str, Option<&str>)]) -> String {
    let given = query.iter().filter_map(|(name, value)| value.map(|value| (*name, value)));
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(given).finish();
    format!("{to}?{query}")
}
