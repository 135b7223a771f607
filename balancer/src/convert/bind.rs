//! `bind` lines: addresses, and TLS on them.

/// Of one section, all its `bind` lines together: where they differ, the stricter one counts for all.
#[derive(Debug, Clone, Default)]
pub(super) struct Binds {
    pub(super) plain: Vec<String>,
    pub(super) tls: Vec<String>,
    pub(super) accept_proxy: bool,
    pub(super) shared: Tls,
}

/// What holds here for all addresses with TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tls {
    pub(super) certificates: Vec<String>,
    pub(super) authorities: Vec<String>,
    pub(super) revoked: Vec<String>,
    pub(super) certificate_required: bool,
    pub(super) tls13: bool,
}

/// One line.
#[derive(Debug, Default)]
struct Bind {
    is_tls: bool,
    accept_proxy: bool,
    tls: Tls,
    /// Options without counterpart.
    left: Vec<String>,
}

/// A range of ports makes a listener of each; more are a slip.
const PORTS: usize = 64;

impl Binds {
    /// The error tells what was left out, or holds for more than this line.
    pub(super) fn take(&mut self, words: &[String]) -> Result<(), String> {
        let (listed, options) = words.split_first().ok_or("names no address")?;
        let mut addresses = Vec::new();
        for address in listed.split(',') {
            addresses.extend(parse(address)?);
        }
        let bind = Bind::with(options);
        let mut told = self.join(&bind, addresses)?;
        if !bind.left.is_empty() {
            told.push(format!("without counterpart: `{}`", bind.left.join("`, `")));
        }
        if told.is_empty() { Ok(()) } else { Err(told.join("; ")) }
    }

    /// What has to be told. The error: it would loosen what the others say, or they what it says.
    fn join(&mut self, bind: &Bind, addresses: Vec<String>) -> Result<Vec<String>, String> {
        let first = self.plain.is_empty() && self.tls.is_empty();
        if !first && self.accept_proxy != bind.accept_proxy {
            return Err(apart("`accept-proxy` is not said by all `bind` lines"));
        }
        self.accept_proxy = bind.accept_proxy;
        if !bind.is_tls {
            self.plain.extend(addresses);
            return Ok(Vec::new());
        }
        let mut told = Vec::new();
        let (all, one) = (&mut self.shared, &bind.tls);
        if !self.tls.is_empty() {
            let both_ask = !all.authorities.is_empty() && !one.authorities.is_empty();
            if both_ask && all.authorities != one.authorities {
                return Err(apart("its `ca-file` is another one"));
            }
            if all != one {
                told.push(
                    "TLS is the same for all `bind` lines of a section here: the stricter options count, and all certificates"
                        .to_owned(),
                );
            }
        }
        if one.certificate_required && one.authorities.is_empty() {
            return Err("IS NOT LISTENED ON HERE: `verify required` needs a `ca-file`".into());
        }
        for (all, one) in [
            (&mut all.certificates, &one.certificates),
            (&mut all.authorities, &one.authorities),
            (&mut all.revoked, &one.revoked),
        ] {
            one.iter().for_each(|file| push_once(all, file.clone()));
        }
        all.certificate_required |= one.certificate_required;
        all.tls13 |= one.tls13;
        self.tls.extend(addresses);
        Ok(told)
    }

    pub(super) fn ports(&self) -> impl Iterator<Item = &str> {
        self.plain.iter().chain(&self.tls).filter_map(|address| Some(address.rsplit_once(':')?.1))
    }
}

fn apart(why: &str) -> String {
    format!("IS NOT LISTENED ON HERE: {why}; put it into a section of its own")
}

impl Bind {
    fn with(options: &[String]) -> Self {
        let mut bind = Self::default();
        let Self { is_tls, accept_proxy, tls, left } = &mut bind;
        let mut options = options.iter().map(String::as_str);
        // What follows an option that is not known may be its value, and is not shown.
        let mut after_unknown = false;
        while let Some(option) = options.next() {
            let mut value = || options.next().unwrap_or_default().to_owned();
            match option {
                "ssl" => *is_tls = true,
                "crt" => push_once(&mut tls.certificates, value()),
                "ca-file" => push_once(&mut tls.authorities, value()),
                "crl-file" => push_once(&mut tls.revoked, value()),
                "verify" => tls.certificate_required = value() == "required",
                "accept-proxy" => *accept_proxy = true,
                "ssl-min-ver" => tls.tls13 |= value() == "TLSv1.3",
                "no-tlsv12" | "force-tlsv13" => tls.tls13 = true,
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
                other => {
                    if !after_unknown {
                        left.push(other.to_owned());
                    }
                    after_unknown = true;
                    continue;
                }
            }
            after_unknown = false;
        }
        bind
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
