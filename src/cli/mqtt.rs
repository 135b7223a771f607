//! `nsd mqtt pub|sub`: a small client, to see a cluster work and to use in scripts.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use nsd_wire::{Qos, Version, topic};
use serde_json::json;

use super::Context;
use crate::failure::{Failure, Kind};
use crate::mqtt::{Client, Message, Settings, Trust};
use crate::secret::Secret;

/// A larger message is refused before anything is sent.
const MAX_MESSAGE: u64 = 8 << 20;

/// Pauses between tries to connect again: doubled from the first to the second.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A small MQTT client: publish, subscribe
#[derive(clap::Subcommand)]
pub(super) enum Command {
    Pub(PubArgs),
    Sub(SubArgs),
}

/// Publish one message
///
///   nsd mqtt pub -u lamp -t devices/lamp/status -m on
///   date | nsd mqtt pub -u lamp -t devices/lamp/time
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct PubArgs {
    #[command(flatten)]
    server: Server,
    /// Topic to publish to
    #[arg(short, long)]
    topic: String,
    /// The message itself; left out, and without --file, it is read from stdin
    #[arg(short, long, conflicts_with = "file")]
    message: Option<String>,
    /// Take the message from this file
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// 0: may be lost, 1: arrives once or more, 2: arrives once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// The server keeps it for those who subscribe later
    #[arg(short, long)]
    retain: bool,
}

/// Subscribe, and print each message on a line; -v prints its topic too
///
/// Connects again when the connection is lost, as devices do.
///
///   nsd mqtt sub -u lamp -t 'devices/lamp/#' -v
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct SubArgs {
    #[command(flatten)]
    server: Server,
    /// Topic filter; several may be given
    #[arg(short, long, required = true)]
    topic: Vec<String>,
    /// 0: may be lost, 1: arrives once or more, 2: arrives once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// End after so many messages
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

#[derive(clap::Args)]
struct Server {
    /// Where the balancer or a broker listens
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Left out: 1883, with TLS 8883
    #[arg(short, long)]
    port: Option<u16>,
    /// User name: the device
    #[arg(short, long)]
    user: Option<String>,
    /// File whose first line is the password; else NSD_MQTT_PASSWORD, else it is asked
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Client id; left out, a new one each time
    #[arg(short, long, value_name = "ID")]
    id: Option<String>,
    /// Speak TLS; certificates that nsd made for the system of this folder are believed
    #[arg(long)]
    tls: bool,
    /// Believe the certificates in this PEM file; implies --tls
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Believe any certificate; implies --tls
    #[arg(long, conflicts_with = "ca")]
    insecure: bool,
    /// MQTT version to speak
    #[arg(long, value_name = "VERSION", default_value = "5", value_parser = ["3.1", "3.1.1", "5"])]
    protocol: String,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Pub(args) => publish(context, args).await,
        Command::Sub(args) => subscribe(context, args).await,
    }
}

async fn publish(context: &Context, args: PubArgs) -> Result<(), Failure> {
    if !topic::valid_name(&args.topic) {
        return Err(Failure::new(Kind::Usage, format!("{:?} is no topic to publish to", args.topic))
            .hint("it must not be empty and has no `+` and `#`"));
    }
    let settings = args.server.settings(context).await?;
    let payload = payload(&args)?;
    let mut client = Client::connect(&settings).await?;
    client.publish(&args.topic, &payload, qos(args.qos), args.retain).await?;
    client.close().await;
    if context.screen.json {
        context.screen.record(
            &json!({ "topic": args.topic, "bytes": payload.len(), "qos": args.qos, "retain": args.retain }),
        );
    }
    Ok(())
}

async fn subscribe(context: &Context, args: SubArgs) -> Result<(), Failure> {
    if let Some(wrong) = args.topic.iter().find(|filter| !topic::valid_filter(filter)) {
        return Err(Failure::new(Kind::Usage, format!("{wrong:?} is no topic filter")).hint(
            "`#` stands alone at the end, `+` for one whole level: `devices/+/status`, `devices/lamp/#`",
        ));
    }
    let settings = args.server.settings(context).await?;
    let mut client = Client::connect(&settings).await?;
    client.subscribe(&args.topic, qos(args.qos)).await?;
    context.interrupt.is_the_end();
    let mut left = args.count;
    while left != Some(0) && !context.screen.reader_left() {
        match client.next().await {
            Ok(message) => {
                print(context, &message);
                left = left.map(|left| left - 1);
            }
            Err(failure) => client = again(context, &settings, &args, &failure).await?,
        }
    }
    client.close().await;
    Ok(())
}

/// As a device would: again and again, with growing pauses. A server that says no is not asked twice.
async fn again(
    context: &Context,
    settings: &Settings,
    args: &SubArgs,
    why: &Failure,
) -> Result<Client, Failure> {
    let cause = why.causes.first().map(|cause| format!(": {cause}")).unwrap_or_default();
    context.warn(format!("{why}{cause}; connecting again"));
    let mut pause = FIRST_PAUSE;
    loop {
        let attempt = async {
            let mut client = Client::connect(settings).await?;
            client.subscribe(&args.topic, qos(args.qos)).await?;
            Ok::<Client, Failure>(client)
        };
        match attempt.await {
            Ok(client) => {
                context.warn(format!("connected to {}:{} again", settings.host, settings.port));
                return Ok(client);
            }
            Err(failure) if crate::mqtt::is_refusal(&failure) => return Err(failure),
            Err(_) => tokio::time::sleep(pause).await,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The message on a line; bytes that are no text are shown as such in JSON and passed on as they are otherwise.
fn print(context: &Context, message: &Message) {
    if context.screen.json {
        let text = std::str::from_utf8(&message.payload).ok();
        let base64 = text.is_none().then(|| BASE64_STANDARD.encode(&message.payload));
        let mut value = json!({ "topic": message.topic, "qos": message.qos as u8, "retain": message.retain });
        value[if text.is_some() { "payload" } else { "payload_base64" }] =
            json!(text.map(str::to_owned).or(base64));
        return context.screen.record(&value);
    }
    let mut line = Vec::new();
    if context.global.verbosity() > 0 {
        line.extend_from_slice(message.topic.as_bytes());
        line.push(b' ');
    }
    line.extend_from_slice(&message.payload);
    line.push(b'\n');
    context.screen.write(&line);
}

fn payload(args: &PubArgs) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = match (&args.message, &args.file) {
        (Some(message), _) => return Ok(message.clone().into_bytes()),
        (None, Some(file)) => {
            std::fs::File::open(file).and_then(|file| file.take(MAX_MESSAGE + 1).read_to_end(&mut bytes))
        }
        (None, None) => std::io::stdin().lock().take(MAX_MESSAGE + 1).read_to_end(&mut bytes),
    };
    let source = args.file.as_ref().map_or_else(|| "stdin".to_owned(), |file| file.display().to_string());
    read.map_err(|error| Failure::error(format!("cannot read the message from {source}")).because(&error))?;
    if bytes.len() as u64 > MAX_MESSAGE {
        return Err(Failure::new(
            Kind::Usage,
            format!("the message in {source} has more than {MAX_MESSAGE} bytes"),
        ));
    }
    // The line end of `echo on |` is the shell's, not the message's; a file is taken as it is.
    if args.file.is_none() && bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    Ok(bytes)
}

impl Server {
    async fn settings(&self, context: &Context) -> Result<Settings, Failure> {
        let tls = self.trust(context);
        Ok(Settings {
            host: self.host.clone(),
            port: self.port.unwrap_or(if tls.is_some() { 8883 } else { 1883 }),
            tls,
            user: self.user.clone(),
            password: self.password(context).await?,
            client_id: self
                .id
                .clone()
                .unwrap_or_else(|| format!("nsd-{}", &uuid::Uuid::new_v4().simple().to_string()[..12])),
            version: match self.protocol.as_str() {
                "3.1" => Version::V31,
                "3.1.1" => Version::V311,
                _ => Version::V5,
            },
        })
    }

    fn trust(&self, context: &Context) -> Option<Trust> {
        if self.insecure {
            return Some(Trust::Anyone);
        }
        if let Some(ca) = &self.ca {
            return Some(Trust::Files(vec![ca.clone()]));
        }
        self.tls.then(|| {
            let own = context
                .project()
                .map(|project| public_certificates(&project.state.join("certs")))
                .unwrap_or_default();
            if own.is_empty() { Trust::WellKnown } else { Trust::Files(own) }
        })
    }

    /// Never from the command line, where every user of the machine could read it.
    async fn password(&self, context: &Context) -> Result<Option<Secret>, Failure> {
        if let Some(file) = &self.password_file {
            let text = std::fs::read_to_string(file).map_err(|error| {
                Failure::new(Kind::Usage, format!("cannot read the password in {}", file.display()))
                    .because(&error)
            })?;
            return Ok(Some(Secret::new(text.lines().next().unwrap_or_default())));
        }
        if let Ok(password) = std::env::var("NSD_MQTT_PASSWORD") {
            return Ok(Some(Secret::new(password)));
        }
        match &self.user {
            Some(user) if std::io::stdin().is_terminal() => {
                context.ask_secret(&format!("password of {user}: ")).await.map(Some)
            }
            _ => Ok(None),
        }
    }
}

fn public_certificates(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "crt")).collect()
}

/// clap has checked the range.
fn qos(level: u8) -> Qos {
    Qos::from_u8(level).unwrap_or_default()
}
