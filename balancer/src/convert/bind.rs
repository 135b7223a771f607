//! `bind` lines: addresses, and TLS on them.

/// Of one section, all its `bind` lines together.
#[derive(Debug, Clone, Default)]
pub(super) struct Binds {
    pub(super) plain: Vec<String>,
    pub(super) tls: Vec<String>,
    pub(super) certificates: Vec<String>,
    pub(super) authorities: Vec<String>,
    pub(super) revoked: Vec<String>,
    pub(super) certificate_required: bool,
    pub(super) tls13: bool,
    pub(super) accept_proxy: bool,
}

/// A range of ports makes a listener of each; more are a slip.
const PORTS: usize = 64;

impl Binds {
    /// The error tells what was left out.
    pub(super) fn take(&mut self, words: &[String]) -> Result<(), String> {
        let (listed, options) = words.split_first().ok_or("names no address")?;
        let mut addresses = Vec::new();
        for address in listed.split(',') {
            addresses.extend(parse(address)?);
        }
        let mut left = Vec::new();
        let mut is_tls = false;
        let mut options = options.iter().map(String::as_str);
        while let Some(option) = options.next() {
            let mut value = || options.next().unwrap_or_default().to_owned();
            match option {
                "ssl" => is_tls = true,
                "crt" => push_once(&mut self.certificates, value()),
                "ca-file" => push_once(&mut self.authorities, value()),
                "crl-file" => push_once(&mut self.revoked, value()),
                "verify" => self.certificate_required = value() == "required",
                "accept-proxy" => self.accept_proxy = true,
                "ssl-min-ver" => self.tls13 |= value() == "TLSv1.3",
                "no-tlsv12" | "force-tlsv13" => self.tls13 = true,
                // As it is here anyway.
                "no-sslv3" | "no-tlsv10" | "no-tlsv11" | "no-tls-tickets" | "defer-accept" | "tfo"
                | "v4v6" | "transparent" => {}
                "name" | "id" | "backlog" | "level" | "mode" | "thread" | "process" | "shards" => {
                    drop(value());
                }
                "crt-list"
                | "ciphers"
                | "ciphersuites"
                | "alpn"
                | "npn"
                | "curves"
                | "ecdhe"
                | "maxconn"
                | "interface"
                | "mss"
                | "nice"
                | "tcp-ut"
                | "namespace"
                | "ssl-max-ver"
                | "tls-ticket-keys"
                | "proto"
                | "user"
                | "group"
                | "uid"
                | "gid"
                | "accept-netscaler-cip"
                | "ca-verify-file" => {
                    left.push(format!("{option} {}", value()));
                }
                other => left.push(other.to_owned()),
            }
        }
        if is_tls { &mut self.tls } else { &mut self.plain }.extend(addresses);
        if left.is_empty() { Ok(()) } else { Err(format!("without counterpart: `{}`", left.join("`, `"))) }
    }

    pub(super) fn ports(&self) -> impl Iterator<Item = &str> {
        self.plain.iter().chain(&self.tls).filter_map(|address| Some(address.rsplit_once(':')?.1))
    }
}

fn push_once(all: &mut Vec<String>, value: String) {
    if !all.contains(&value) {
        all.push(value);
    }
}

/// `*:1883`, `:1883`, `10.0.0.1:1883-1885`, `[::]:1883`, `:::1883`.
fn parse(address: &str) -> Result<Vec<String>, String> {
    let plain = address.strip_prefix("ipv4@").or_else(|| address.strip_prefix("ipv6@")).unwrap_or(address);
    if plain.contains('@') || plain.starts_with('/') {
        return Err("only addresses of IPv4 and IPv6 can be listened on".into());
    }
    let (host, ports) = plain.rsplit_once(':').ok_or("names no port")?;
    let host = match host.trim_start_matches('[').trim_end_matches(']') {
        "" | "*" => "0.0.0.0",
        host => host,
    };
    let ip: std::net::IpAddr = host.parse().map_err(|_| format!("`{host}` is no address to listen on"))?;
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let port = |text: &str| text.parse::<u16>().map_err(|_| format!("`{text}` is no port"));
    let ports: Vec<u16> = (port(first)?..=port(last)?).collect();
    if ports.is_empty() || ports.len() > PORTS {
        return Err(format!("{} ports; name each that is wanted", ports.len()));
    }
    Ok(ports.into_iter().map(|port| std::net::SocketAddr::new(ip, port).to_string()).collect())
}
