//! PURE. How both balancers are configured in a situation: alike, and each as a careful operator would do it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// Both check each second, with half a second's patience, and believe the second failure.
pub(super) const CHECK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Balance {
    LeastConn,
    RoundRobin,
    /// The same server for the same client identifier.
    ClientId,
}

/// What a situation asks of a configuration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    /// How many of the servers are in it.
    pub(super) servers: usize,
    pub(super) balance: Balance,
    /// HAProxy: bytes that are no CONNECT are refused (ours does so anyway).
    pub(super) filter: bool,
    /// HAProxy: `check` alone, or a CONNECT written byte by byte by the operator (ours has one).
    pub(super) check_by_hand: bool,
    /// HAProxy: after so much silence a connection is closed (ours follows each client's keep alive).
    pub(super) idle: Duration,
    /// HAProxy: larger buffers than usual, for everybody.
    pub(super) buffer: Option<u32>,
    /// HAProxy: bytes of an identifier that its table keeps.
    pub(super) key: u16,
    /// Ours: more for the section.
    pub(super) ours: &'static str,
    /// For both: a line that is a mistake.
    pub(super) broken: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            servers: 2,
            balance: Balance::LeastConn,
            filter: false,
            check_by_hand: false,
            idle: Duration::from_mins(30),
            buffer: None,
            key: 128,
            ours: "",
            broken: false,
        }
    }
}

/// Where a balancer is and what it has.
#[derive(Debug)]
pub(super) struct Site<'a> {
    pub(super) plain: SocketAddr,
    pub(super) tls: SocketAddr,
    pub(super) certificate: &'a Path,
    pub(super) socket: &'a Path,
    pub(super) servers: &'a [SocketAddr],
}

/// CONNECT of the identifier `check`, and the CONNACK that is wanted.
const CHECK_BY_HAND: &str = "  option tcp-check\n  tcp-check connect\n  \
     tcp-check send-binary 101100044d5154540402003c0005636865636b\n  tcp-check expect binary 20020000\n";

pub(super) fn haproxy(site: &Site<'_>, options: &Options) -> String {
    let mut text = format!(
        "global\n  nbthread 1\n  maxconn 9000\n  stats socket {} mode 600 level admin expose-fd listeners\n",
        site.socket.display()
    );
    if let Some(bytes) = options.buffer {
        let _ = writeln!(text, "  tune.bufsize {bytes}");
    }
    // `timeout client` bounds handshakes and the reading of a CONNECT; `timeout tunnel` is for what follows.
    let _ = write!(
        text,
        "defaults\n  mode tcp\n  option clitcpka\n  option srvtcpka\n  option redispatch\n  timeout connect 3s\n  \
         timeout client 10s\n  timeout server 10s\n  timeout tunnel {}s\n  timeout check 500ms\nlisten mqtt\n  \
         bind {}\n  bind {} ssl crt {}\n",
        options.idle.as_secs(),
        site.plain,
        site.tls,
        site.certificate.display()
    );
    text += match options.balance {
        Balance::RoundRobin => "  balance roundrobin\n",
        Balance::LeastConn | Balance::ClientId => "  balance leastconn\n",
    };
    if options.filter || options.balance == Balance::ClientId {
        text += "  tcp-request inspect-delay 5s\n  \
                 tcp-request content reject unless { req.payload(0,0),mqtt_is_valid }\n";
    }
    if options.balance == Balance::ClientId {
        let _ = write!(
            text,
            "  stick-table type string len {} size 100k expire 30m\n  \
             stick on req.payload(0,0),mqtt_field_value(connect,client_identifier)\n",
            options.key
        );
    }
    if options.check_by_hand {
        text += CHECK_BY_HAND;
    }
    for (number, server) in site.servers.iter().take(options.servers).enumerate() {
        let _ = writeln!(
            text,
            "  server b{number} {server} check inter 1s rise 2 fall 2 on-marked-down shutdown-sessions"
        );
    }
    if options.broken {
        text += "  balanse leastconn\n";
    }
    text
}

pub(super) fn nsd_balancer(site: &Site<'_>, options: &Options) -> String {
    let balance = match options.balance {
        Balance::LeastConn => "leastconn",
        Balance::RoundRobin => "roundrobin",
        Balance::ClientId => "client_id",
    };
    let mut text = format!(
        "threads = 1\n[admin]\nsocket = \"{}\"\n[log]\naccess = false\n\n[[listen]]\nname = \"mqtt\"\nbind = [\"{}\"]\n\
         tls = {{ bind = [\"{}\"], certificates = [\"{}\"] }}\nbalance = \"{balance}\"\nconnect_timeout = \"3s\"\n\
         check = {{ kind = \"mqtt\", interval = \"1s\", timeout = \"500ms\", rise = 2, fall = 2 }}\n{}\n",
        site.socket.display(),
        site.plain,
        site.tls,
        site.certificate.display(),
        options.ours
    );
    if options.broken {
        text += "balanse = \"leastconn\"\n";
    }
    for (number, server) in site.servers.iter().take(options.servers).enumerate() {
        let _ = write!(text, "\n[[listen.server]]\nname = \"b{number}\"\naddress = \"{server}\"\n");
    }
    text
}
