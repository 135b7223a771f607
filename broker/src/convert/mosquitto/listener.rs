//! One listener of a `mosquitto.conf`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What may be said about a listener, also about the default one at the top of the file.
pub(super) const OPTIONS: [&str; 17] = [
    "port",
    "bind_address",
    "protocol",
    "socket_domain",
    "certfile",
    "keyfile",
    "cafile",
    "capath",
    "crlfile",
    "require_certificate",
    "use_identity_as_username",
    "use_subject_as_username",
    "use_username_as_clientid",
    "tls_version",
    "max_connections",
    "accept_protocol_versions",
    "max_topic_alias",
];

#[derive(Debug, Default)]
pub(super) struct Listener {
    port: Option<u16>,
    host: Option<IpAddr>,
    v4_only: bool,
    pub(super) websocket: bool,
    pub(super) certfile: Option<String>,
    pub(super) keyfile: Option<String>,
    pub(super) cafile: Option<String>,
    pub(super) crlfile: Option<String>,
    pub(super) require_certificate: bool,
    pub(super) identity_as_username: bool,
    pub(super) tls13: bool,
    pub(super) max_connections: Option<i64>,
    pub(super) topic_aliases: Option<u16>,
}

impl Listener {
    /// `PORT [ADDRESS]`; port 0 is a unix socket.
    pub(super) fn parse(value: &str) -> Result<Self, &'static str> {
        let mut words = value.split_whitespace();
        let port: u16 = words.next().and_then(|port| port.parse().ok()).ok_or("names no port")?;
        if port == 0 {
            return Err("unix sockets are not listened on here");
        }
        let host = words.next().map(host).transpose()?;
        Ok(Self { port: Some(port), host, ..Self::default() })
    }

    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "port" => {
                let port = number(value).and_then(|port| u16::try_from(port).ok());
                self.port = Some(port.filter(|port| *port > 0).ok_or("is no port")?);
            }
            "bind_address" => self.host = Some(host(value)?),
            "protocol" => match value {
                "mqtt" => self.websocket = false,
                "websockets" => self.websocket = true,
                _ => return Err("this protocol is not known here".to_owned()),
            },
            "socket_domain" => match value {
                "ipv4" => self.v4_only = true,
                "ipv6" => self.host = Some(Ipv6Addr::UNSPECIFIED.into()),
                _ => return Err("is neither ipv4 nor ipv6".to_owned()),
            },
            "certfile" => self.certfile = Some(value.to_owned()),
            "keyfile" => self.keyfile = Some(value.to_owned()),
            "cafile" => self.cafile = Some(value.to_owned()),
            "crlfile" => self.crlfile = Some(value.to_owned()),
            "require_certificate" => self.require_certificate = truth(value)?,
            "use_identity_as_username" => self.identity_as_username = truth(value)?,
            "tls_version" => match value {
                "tlsv1.3" => self.tls13 = true,
                "tlsv1.2" => self.tls13 = false,
                _ => return Err("only TLS 1.2 and 1.3 are spoken here".to_owned()),
            },
            "max_connections" => {
                self.max_connections = match value.parse::<i64>() {
                    Ok(..=0) => None,
                    Ok(most @ 1..=10_000_000) => Some(most),
                    _ => return Err("is no number up to 10000000".to_owned()),
                }
            }
            "max_topic_alias" => {
                let most = number(value).and_then(|most| u16::try_from(most).ok());
                self.topic_aliases = Some(most.ok_or("is no number up to 65535")?);
            }
            _ => return self.must_be_as_here(key, value),
        }
        Ok(())
    }

    /// Options that have one meaning here: fine where the file means the same.
    fn must_be_as_here(&self, key: &str, value: &str) -> Result<(), String> {
        match (key, value) {
            ("use_subject_as_username" | "use_username_as_clientid", "false")
            | ("accept_protocol_versions", "3, 4, 5") => Ok(()),
            ("use_subject_as_username", _) => Err("a certificate's common name is the user here".to_owned()),
            ("use_username_as_clientid", _) => Err("a client id is the client's own here".to_owned()),
            ("accept_protocol_versions", _) => Err("all versions are accepted here".to_owned()),
            ("capath", _) => Err("name the authorities' files in `client_ca` of `[listen.tls]`".to_owned()),
            _ => Err("has no counterpart".to_owned()),
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        let host = match self.host {
            Some(host) => host,
            None if self.v4_only => Ipv4Addr::UNSPECIFIED.into(),
            // IPv4 clients come in there, too.
            None => Ipv6Addr::UNSPECIFIED.into(),
        };
        (host, self.port.unwrap_or(1883)).into()
    }

    /// Whether it has both halves of a certificate.
    pub(super) fn is_tls(&self) -> bool {
        self.certfile.is_some() || self.keyfile.is_some()
    }
}

fn host(text: &str) -> Result<IpAddr, &'static str> {
    match text {
        "localhost" => Ok(Ipv4Addr::LOCALHOST.into()),
        _ => {
            text.parse().map_err(|_| "is no address of this machine in numbers; names are not looked up here")
        }
    }
}

pub(super) fn number(value: &str) -> Option<u64> {
    value.parse().ok()
}

pub(super) fn truth(value: &str) -> Result<bool, String> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("is neither true nor false".to_owned()),
    }
}
