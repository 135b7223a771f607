//! From what was typed to what is done.

use anyhow::{Context, Result};
use nsd_wire::{Qos, Version};

use crate::cli::{Command, Messages, MqttArgs, Protocol, ServerArgs};
use crate::connections::{self, Kind};
use crate::mqtt::Identity;
use crate::pattern::{self, Load, More, Pattern, Sides};
use crate::relay;
use crate::report::Report;
use crate::retained;
use crate::serve;
use crate::target::{Target, Tls};
use crate::tls::{self, Trust};

/// In flight a publisher where nothing else is asked for.
const WINDOW_QOS_1: u16 = 100;
const WINDOW_QOS_2: u16 = 20;

/// What a run found, and whether a loss makes it a failure.
#[derive(Debug)]
pub struct Verdict {
    pub report: Report,
    pub strict: bool,
}

impl Verdict {
    /// Nothing failed, and nothing was lost where that was asked for.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let lost = self.report.delivery.is_some_and(|delivery| delivery.lost > 0);
        self.report.failures.count == 0 && !(self.strict && lost)
    }
}

impl From<Report> for Verdict {
    fn from(report: Report) -> Self {
        Self { report, strict: false }
    }
}

/// Does what was asked; `None` where there is nothing to report.
pub fn perform(command: Command) -> Result<Option<Verdict>> {
    let verdict = match command {
        Command::FanIn { publishers, messages } => {
            publish(Pattern::Everyone { publishers: publishers.get(), subscribers: 1 }, 1, &messages)?
        }
        Command::FanOut { subscribers, filters, messages } => {
            publish(Pattern::Everyone { publishers: 1, subscribers: subscribers.get() }, filters, &messages)?
        }
        Command::Pairs { pairs, messages } => publish(Pattern::Pairs(pairs.get()), 1, &messages)?,
        Command::Connect { at_once, duration, server, mqtt } => connections::churn(
            at_once.get(),
            duration,
            target(&server)?,
            identity(&mqtt)?,
            server.threads.into(),
            &server.pid,
        )?
        .into(),
        Command::Idle { counts, raw, settle, server, mqtt } => {
            let kind = if raw { Kind::Raw } else { Kind::Mqtt(identity(&mqtt)?) };
            connections::idle(counts, kind, settle, target(&server)?, server.threads.into(), &server.pid)?
                .into()
        }
        Command::Retained { topics, size, server, mqtt } => {
            let (target, identity) = (target(&server)?, identity(&mqtt)?);
            retained::retained(topics.get(), size as usize, target, identity, &server.pid)?.into()
        }
        Command::Relay { connections, size, window, rate, duration, server } => {
            let plan = relay::Messages {
                connections: connections.get(),
                size: size as usize,
                window: window as usize,
                rate,
                duration,
            };
            relay::messages(plan, target(&server)?, server.threads.into(), &server.pid)?.into()
        }
        Command::Bulk { connections, gigabytes, way, server } => {
            let (threads, target) = (server.threads.into(), target(&server)?);
            relay::bulk(connections.get(), gigabytes, way, target, threads, &server.pid)?.into()
        }
        Command::Serve { role, listen, lifetime } => {
            serve::serve(role, &listen, lifetime)?;
            return Ok(None);
        }
    };
    Ok(Some(verdict))
}

fn publish(pattern: Pattern, filters: u32, messages: &Messages) -> Result<Verdict> {
    let (qos, window) = match messages.qos {
        0 => (Qos::AtMostOnce, 0),
        1 => (Qos::AtLeastOnce, messages.window.unwrap_or(WINDOW_QOS_1)),
        _ => (Qos::ExactlyOnce, messages.window.unwrap_or(WINDOW_QOS_2)),
    };
    let load = Load {
        pattern,
        qos,
        size: messages.size as usize,
        window,
        rate: messages.rate,
        duration: messages.duration,
        messages: messages.messages,
        more: More {
            topics: messages.topics,
            filters,
            bystanders: messages.bystanders,
            bystander_filters: messages.bystander_filters,
            away: messages.away,
            kept: messages.kept,
        },
    };
    let server = &messages.server;
    let elsewhere = messages.subscribers_at.as_ref().map(|host| target_at(host, server)).transpose()?;
    let report = pattern::measure(
        &load,
        Sides { publishers: target(server)?, subscribers: elsewhere },
        identity(&messages.mqtt)?,
        server.threads.into(),
        &server.pid,
    )?;
    Ok(Verdict { report, strict: messages.strict })
}

fn target(server: &ServerArgs) -> Result<Target> {
    target_at(&server.target, server)
}

fn target_at(host: &str, server: &ServerArgs) -> Result<Target> {
    let tls = if server.tls { Some(tls_client(server)?) } else { None };
    Ok(Target::new(host, server.sources, server.allow_remote, tls)?)
}

fn tls_client(server: &ServerArgs) -> Result<Tls> {
    let trust = match (&server.ca, server.insecure) {
        (Some(path), _) => Trust::Authority(path),
        (None, true) => Trust::Anybody,
        (None, false) => anyhow::bail!("--tls needs --ca FILE, or --insecure to trust any certificate"),
    };
    Ok(tls::client(&server.server_name, trust, server.x25519)?)
}

fn identity(mqtt: &MqttArgs) -> Result<Identity> {
    let password = match (&mqtt.user, &mqtt.password_file) {
        (None, _) => None,
        (Some(_), Some(path)) => {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            Some(text.trim_end_matches(['\r', '\n']).to_owned())
        }
        (Some(_), None) => std::env::var("NSD_LOAD_PASSWORD").ok(),
    };
    Ok(Identity {
        version: match mqtt.protocol {
            Protocol::V311 => Version::V311,
            Protocol::V5 => Version::V5,
        },
        user: mqtt.user.clone(),
        password,
        run: format!("{:06x}", fastrand::u32(..) & 0x00ff_ffff),
    })
}
