//! The command line: what may be asked of the tool, and the limits of each wish.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use crate::pattern::MOST_FILTERS;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Load for MQTT brokers and TCP balancers: raw frames, many connections, CPU of the server per message.
///
/// Messages carry their publisher, number and time, so every run tells what was lost, came twice or late, and how long it
/// took. Give the server's process with --pid and the run tells what each message cost it. Every run ends by itself.
#[derive(Debug, Parser)]
#[command(name = "nsd-load", version, after_long_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Print the result as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

const EXAMPLES: &str = "\
Examples:
  5 publishers, 1 subscriber, as fast as it goes, and what a message costs the broker:
    nsd-load fan-in --pid $(pidof mosquitto)
  The same acknowledged, 100 in flight a publisher:
    nsd-load fan-in --qos 1 --pid $(pidof mosquitto)
  50 pairs at 20,000 messages a second in all, latency from the time each was due:
    nsd-load pairs --rate 20000 --pid $(pidof mosquitto)
  Memory of an idle subscribed client, from the slope between two counts:
    nsd-load idle --counts 2000,8000 --pid $(pidof mosquitto)
  A proxy on 8883 before an echo server, small messages through TLS:
    nsd-load serve echo --listen 127.0.0.1:9001 &
    nsd-load relay --target 127.0.0.1:8883 --tls --insecure --pid $(pidof haproxy)

Exit codes: 0 done · 1 failed, connections were lost, or --strict and messages were · 64 usage";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Many publishers, one subscriber that gets everything
    FanIn {
        #[arg(long, default_value = "5")]
        publishers: NonZeroU32,
        #[command(flatten)]
        messages: Messages,
    },
    /// One publisher, many subscribers that each get everything
    FanOut {
        #[arg(long, default_value = "50")]
        subscribers: NonZeroU32,
        /// Filters of each subscriber; all match every message
        #[arg(long, default_value = "1", conflicts_with = "topics", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_FILTERS)))]
        filters: u32,
        #[command(flatten)]
        messages: Messages,
    },
    /// As many publishers as subscribers, each pair on a topic of its own
    Pairs {
        #[arg(long, default_value = "50")]
        pairs: NonZeroU32,
        #[command(flatten)]
        messages: Messages,
    },
    /// Connect, be accepted, disconnect, over and over
    Connect {
        /// Connections being made at the same time
        #[arg(long, default_value = "32")]
        at_once: NonZeroU32,
        #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
        duration: Duration,
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        mqtt: MqttArgs,
    },
    /// Open idle clients and tell the server's memory for each, from the slope between two counts
    Idle {
        /// Two numbers of clients, the smaller first
        #[arg(long, default_value = "1000,4000", value_parser = counts)]
        counts: Counts,
        /// Plain connections that exchange 64 bytes with an echo server once, rather than subscribed MQTT clients
        #[arg(long)]
        raw: bool,
        /// Quiet time before each reading of memory
        #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
        settle: Duration,
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        mqtt: MqttArgs,
    },
    /// Publish retained messages, then subscribe: what it takes until all have come
    Retained {
        #[arg(long, default_value = "100000")]
        topics: NonZeroU32,
        /// Bytes of payload
        #[arg(long, default_value = "64", value_parser = clap::value_parser!(u32).range(20..=65_536))]
        size: u32,
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        mqtt: MqttArgs,
    },
    /// Small messages through a proxy to an echo server and back, each written by itself
    Relay {
        #[arg(long, default_value = "50")]
        connections: NonZeroU32,
        /// Bytes of a message
        #[arg(long, default_value = "64", value_parser = clap::value_parser!(u32).range(1..=65_536))]
        size: u32,
        /// Messages in flight a connection; 1 is request and response
        #[arg(long, default_value = "64", value_parser = clap::value_parser!(u32).range(1..=4096))]
        window: u32,
        /// Messages a second over all connections; left out: as fast as the window allows
        #[arg(long, value_parser = rate)]
        rate: Option<f64>,
        #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
        duration: Duration,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Many bytes one way through a proxy
    Bulk {
        #[arg(long, default_value = "4")]
        connections: NonZeroU32,
        /// Gigabytes (10^9) in all
        #[arg(long, default_value = "4", value_parser = rate)]
        gigabytes: f64,
        /// Up to a `serve sink`, or down from a `serve source`
        #[arg(long, value_enum, default_value = "up")]
        way: Way,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Be the server behind a proxy
    Serve {
        #[arg(value_enum)]
        role: Role,
        /// Addresses to listen on; may be given several times
        #[arg(long, required = true)]
        listen: Vec<std::net::SocketAddr>,
        /// Ends by itself after this time
        #[arg(long = "for", default_value = "10m", value_parser = humantime::parse_duration)]
        lifetime: Duration,
    },
}

/// What is published, how much and for how long.
#[derive(Debug, Args)]
pub struct Messages {
    /// Quality of service, of publishing and of subscribing
    #[arg(long, default_value = "0", value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Bytes of payload; the first 20 hold publisher, number and time
    #[arg(long, default_value = "64", value_parser = clap::value_parser!(u32).range(20..=65_536))]
    pub size: u32,
    /// Unacknowledged messages a publisher [default: 100 for QoS 1, 20 for QoS 2]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub window: Option<u16>,
    /// Messages a second over all publishers, each due at a time fixed beforehand; left out: as fast as the server takes them
    #[arg(long, value_parser = rate)]
    pub rate: Option<f64>,
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// End after so many messages, if that comes before the duration
    #[arg(long)]
    pub messages: Option<u64>,
    /// Topics of a publisher, each in turn; above 1, subscribers hear them by a wildcard
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub topics: u32,
    /// Subscriptions of other clients, which match nothing
    #[arg(long, default_value = "0", value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub bystanders: u32,
    /// How many of them one of these clients has
    #[arg(long, default_value = "100", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub bystander_filters: u32,
    /// Subscribers leave before anything is published, and come back to get it from their sessions
    #[arg(long)]
    pub away: bool,
    /// Subscribers stay, and their sessions would outlive their connections
    #[arg(long, conflicts_with = "away")]
    pub kept: bool,
    /// host:port of where subscribers connect, if elsewhere: another node of the same cluster
    #[arg(long, value_name = "HOST:PORT")]
    pub subscribers_at: Option<String>,
    /// Fail (exit 1) when a message is lost
    #[arg(long)]
    pub strict: bool,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub mqtt: MqttArgs,
}

/// Which server, and how to reach and watch it.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// host:port of the server
    #[arg(long, default_value = "127.0.0.1:1883", value_name = "HOST:PORT")]
    pub target: String,
    /// Load a server that is neither on loopback nor in a private network
    #[arg(long)]
    pub allow_remote: bool,
    /// A process of the server, to tell its CPU time and memory; may be given several times
    #[arg(long)]
    pub pid: Vec<u32>,
    /// Threads of the tool; clients are spread over them
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub threads: u8,
    /// Loopback addresses to connect from (127.0.0.1 and up); each has about 28,000 ports
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u8).range(1..=250))]
    pub sources: u8,
    /// Speak TLS; every handshake is a full one
    #[arg(long)]
    pub tls: bool,
    /// PEM file of the authority to trust
    #[arg(long, requires = "tls", conflicts_with = "insecure", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Trust any certificate
    #[arg(long, requires = "tls")]
    pub insecure: bool,
    /// Name to ask for and to find in the certificate
    #[arg(long, default_value = "localhost", requires = "tls", value_name = "NAME")]
    pub server_name: String,
    /// Offer X25519 alone rather than also its post-quantum hybrid, which older peers lack
    #[arg(long, requires = "tls")]
    pub x25519: bool,
}

/// How clients present themselves.
#[derive(Debug, Args)]
pub struct MqttArgs {
    /// Protocol version
    #[arg(long, value_enum, default_value = "3.1.1")]
    pub protocol: Protocol,
    /// User name; topics then begin with load/USER, as brokers that check the second level want it
    #[arg(long)]
    pub user: Option<String>,
    /// File with the password, or the environment variable NSD_LOAD_PASSWORD
    #[arg(long, requires = "user", value_name = "FILE")]
    pub password_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    #[value(name = "3.1.1")]
    V311,
    #[value(name = "5")]
    V5,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Way {
    Up,
    Down,
}

/// What the tool does as the server behind a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Sends everything back
    Echo,
    /// Swallows everything; closes when the client has finished
    Sink,
    /// Sends without end
    Source,
    /// Answers every MQTT CONNECT with CONNACK, and nothing else
    Connack,
    /// Answers every MQTT CONNECT with CONNACK, and sends back what follows
    Session,
    /// Tells MQTT clients that it is unavailable, and a balancer's checks that all is well
    Busy,
}

/// Two counts of clients, the second larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub few: u32,
    pub many: u32,
}

fn counts(text: &str) -> Result<Counts, String> {
    let (few, many) = text.split_once(',').ok_or("two numbers, as in 1000,4000")?;
    let number = |text: &str| text.trim().parse::<u32>().map_err(|error| format!("{text:?}: {error}"));
    let (few, many) = (number(few)?, number(many)?);
    if few >= many {
        return Err("the first number must be the smaller one".into());
    }
    Ok(Counts { few, many })
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 1e9 => Ok(value),
        _ => Err("a number above 0".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn counts_rise() {
        assert_eq!(counts("10, 20"), Ok(Counts { few: 10, many: 20 }));
        assert!(counts("20,10").is_err() && counts("5").is_err() && counts("a,b").is_err());
    }

    #[test]
    fn rates_are_above_zero() {
        assert_eq!(rate("20000"), Ok(20_000.0));
        assert!(["0", "-1", "NaN", "inf", "x"].into_iter().all(|text| rate(text).is_err()));
    }
}
