//! `server` lines, and `default-server` before them.

use super::words::time;

#[derive(Debug, Clone, Default)]
pub(super) struct Server {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) weight: Option<u64>,
    pub(super) max_sessions: Option<u64>,
    pub(super) backup: bool,
    pub(super) shared: Shared,
}

/// What holds here for all servers of a backend.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shared {
    pub(super) check: bool,
    pub(super) interval: Option<String>,
    pub(super) fast_interval: Option<String>,
    pub(super) slow_start: Option<String>,
    pub(super) rise: Option<u64>,
    pub(super) fall: Option<u64>,
    pub(super) check_port: Option<u64>,
    pub(super) send_proxy: Option<&'static str>,
    pub(super) tls: bool,
    pub(super) authorities: Option<String>,
    pub(super) certificate: Option<String>,
    pub(super) server_name: Option<String>,
    pub(super) keep_sessions: bool,
}

/// What became of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Counts,
    /// Has no counterpart.
    Left,
    /// Nor is it known whether a value follows.
    Unknown,
}

impl Server {
    pub(super) fn parse(words: &[String], defaults: &[String]) -> (Option<Self>, Vec<String>) {
        let mut left = Vec::new();
        let [name, address, options @ ..] = words else {
            return (None, vec!["names no address".to_owned()]);
        };
        let mut server = Self { name: name.clone(), address: address.clone(), ..Self::default() };
        let all: Vec<&str> = defaults.iter().chain(options).map(String::as_str).collect();
        let mut options = all.into_iter();
        let mut after_unknown = false;
        while let Some(option) = options.next() {
            if option == "disabled" {
                left.push("`disabled`: it is left out".to_owned());
                return (None, left);
            }
            let taken = server.take(option, &mut options);
            // What follows an option that is not known may be its value, and is not shown.
            if taken == Taken::Left || (taken == Taken::Unknown && !after_unknown) {
                left.push(format!("without counterpart: `{option}`"));
            }
            after_unknown = taken == Taken::Unknown;
        }
        (Some(server), left)
    }

    fn take<'w>(&mut self, option: &str, more: &mut impl Iterator<Item = &'w str>) -> Taken {
        let mut value = || more.next().unwrap_or_default().to_owned();
        let mut number = || value().parse().ok();
        let shared = &mut self.shared;
        match option {
            "weight" => self.weight = number(),
            // 0 is HAProxy's word for no limit.
            "maxconn" => self.max_sessions = number().filter(|most| *most > 0),
            "backup" => self.backup = true,
            "check" => shared.check = true,
            "no-check" => shared.check = false,
            "rise" => shared.rise = number(),
            "fall" => shared.fall = number(),
            "port" => shared.check_port = number(),
            "inter" => shared.interval = time(&value()),
            "fastinter" => shared.fast_interval = time(&value()),
            "slowstart" => shared.slow_start = time(&value()),
            "send-proxy" => shared.send_proxy = Some("v1"),
            "send-proxy-v2" | "send-proxy-v2-ssl" | "send-proxy-v2-ssl-cn" => shared.send_proxy = Some("v2"),
            "ssl" => shared.tls = true,
            "ca-file" => shared.authorities = Some(value()),
            "crt" => shared.certificate = Some(value()),
            "verifyhost" => shared.server_name = Some(value()),
            "sni" => {
                let value = value();
                let name = value.strip_prefix("str(").and_then(|rest| rest.strip_suffix(')'));
                shared.server_name = name.map(str::to_owned);
                return if name.is_some() { Taken::Counts } else { Taken::Left };
            }
            "on-marked-down" => shared.keep_sessions = value() != "shutdown-sessions",
            // Certificates are verified here always; whose, `text` asks for.
            "verify" if value() == "required" => {}
            "verify" => return Taken::Left,
            // As it is here anyway.
            "check-ssl" | "check-send-proxy" | "no-sslv3" | "no-tlsv10" | "no-tlsv11" | "no-backup"
            | "enabled" => {}
            "id" | "downinter" | "minconn" | "init-addr" | "resolvers" => drop(value()),
            "cookie" | "observe" | "error-limit" | "on-error" | "addr" | "track" | "source" | "tcp-ut"
            | "maxqueue" | "ciphers" | "ciphersuites" | "alpn" | "proto" | "redir" | "namespace"
            | "pool-max-conn" | "max-reuse" | "crl-file" | "socks4" | "ssl-min-ver" | "ssl-max-ver"
            | "check-sni" | "check-alpn" | "proxy-v2-options" | "resolve-prefer" | "resolve-net"
            | "resolve-opts" | "agent-check" | "agent-port" | "agent-addr" | "agent-inter" | "agent-send"
            | "on-marked-up" | "shard" | "ws" => {
                if !matches!(option, "agent-check") {
                    drop(value());
                }
                return Taken::Left;
            }
            _ => return Taken::Unknown,
        }
        Taken::Counts
    }
}
