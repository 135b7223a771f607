//! Values of single keys: ports, volumes, durations, sizes, image references, repository URLs. Each function gives the value
//! or one sentence that says what is wrong.

use std::net::IpAddr;
use std::time::Duration;

use super::WantedPort;
use crate::system::{Network, Protocol, Volume};

/// `C`, `H:C`, `IP:H:C`, `IP::C`, each with `/tcp` or `/udp`.
pub(super) fn port(text: &str) -> Result<WantedPort, String> {
    let (addresses, protocol) = match text.rsplit_once('/') {
        None => (text, Protocol::Tcp),
        Some((rest, "tcp")) => (rest, Protocol::Tcp),
        Some((rest, "udp")) => (rest, Protocol::Udp),
        Some((_, other)) => return Err(format!("`{other}` is not a protocol: `tcp` or `udp`")),
    };
    let (rest, container) = match addresses.rsplit_once(':') {
        None => (None, addresses),
        Some((rest, container)) => (Some(rest), container),
    };
    let container = port_number(container)?;
    let (ip, host) = match rest {
        None => (None, None),
        Some(rest) => match rest.rsplit_once(':') {
            None => (None, Some(port_number(rest)?)),
            Some((ip, "")) => (Some(ip), None),
            Some((ip, host)) => (Some(ip), Some(port_number(host)?)),
        },
    };
    let ip = ip.map(|ip| ip.trim_start_matches('[').trim_end_matches(']'));
    if let Some(ip) = ip
        && ip.parse::<IpAddr>().is_err()
    {
        return Err(format!("`{ip}` is not an IP address"));
    }
    Ok(WantedPort { ip: ip.map(str::to_owned), host, container, protocol })
}

pub(super) fn port_number(text: &str) -> Result<u16, String> {
    if text.contains('-') {
        return Err(format!("`{text}` is a range; write one port an entry"));
    }
    match text.parse::<u32>() {
        Ok(number @ 1..=65535) => Ok(number as u16),
        Ok(number) => Err(format!("{number} is not a port: 1 to 65535")),
        Err(_) => Err(format!("`{text}` is not a port number")),
    }
}

/// `ADDRESS:PORT` to listen on.
pub(super) fn listen(text: &str) -> Result<(IpAddr, u16), String> {
    let (address, port) =
        text.rsplit_once(':').ok_or(format!("`{text}` is not `ADDRESS:PORT`, such as `0.0.0.0:1883`"))?;
    let port = port_number(port)?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    match address {
        "*" => Err(format!("`*` is not an address; write `0.0.0.0:{port}`")),
        _ => address
            .parse()
            .map(|address| (address, port))
            .map_err(|_| format!("`{address}` is not an IP address")),
    }
}

/// `SOURCE:TARGET[:ro|:rw]`.
pub(super) fn volume(text: &str) -> Result<Volume, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, read_only) = match *parts.as_slice() {
        [source, target] | [source, target, "rw"] => (source, target, false),
        [source, target, "ro"] => (source, target, true),
        [_, _, other] => return Err(format!("`{other}` is not a mode of a volume: `ro` or `rw`")),
        _ => return Err(format!("`{text}` is not `SOURCE:TARGET`, such as `redis-data:/data`")),
    };
    if !target.starts_with('/') {
        return Err(format!("`{target}` must be an absolute path in the container"));
    }
    let named = source.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && source.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !named && !source.starts_with('/') {
        return Err(format!("`{source}` must be an absolute path or a volume's name"));
    }
    // `/certs/` and `/certs` are one folder: only a true difference may replace a container.
    let clean =
        |path: &str| if path.len() > 1 { path.trim_end_matches('/').to_owned() } else { path.to_owned() };
    Ok(Volume { source: clean(source), target: clean(target), read_only })
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration > Duration::from_secs(24 * 3600) => {
            Err(format!("{text} is longer than a day"))
        }
        Ok(duration) if duration.is_zero() => Err("it must be more than nothing".to_owned()),
        Ok(duration) => Ok(duration),
        Err(_) => Err(format!("`{text}` is not a duration such as `500ms`, `30s`, `1m30s`")),
    }
}

/// Bytes of `512MiB`, `2GB`, `64m` (Docker's: powers of two) or a plain number.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size such as `512MiB`, `2GB`");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit: u64 = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    let bytes = number.checked_mul(unit).filter(|&bytes| i64::try_from(bytes).is_ok()).ok_or_else(wrong)?;
    // Docker's own least.
    if bytes < 6 << 20 {
        Err(format!("{text} is less than the least that Docker takes, 6MiB"))
    } else {
        Ok(bytes)
    }
}

/// An image reference; without tag and digest it means `:latest`.
pub(super) fn image(text: &str) -> Result<String, String> {
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (text, None),
    };
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (name, None),
    };
    if path.is_empty() {
        return Err("an image reference must not be empty".to_owned());
    }
    let mut components = path.split('/').peekable();
    let first = components.peek().copied().unwrap_or_default();
    let registry = path.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    if registry {
        components.next();
    }
    if let Some(wrong) = components.find(|component| !image_component(component)) {
        return Err(format!(
            "`{wrong}` is not part of an image's name: lower-case letters, digits, and `.`, `_`, `-` between"
        ));
    }
    let tag_fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if let Some(tag) = tag
        && (tag.is_empty() || tag.len() > 128 || !tag.chars().all(tag_fits) || tag.starts_with(['.', '-']))
    {
        return Err(format!("`{tag}` is not an image's tag"));
    }
    if let Some(digest) = digest {
        let hex = digest.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() != 64 || !hex.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(format!("`{digest}` is not a digest: `sha256:` and 64 hex digits"));
        }
    }
    Ok(if tag.is_none() && digest.is_none() { format!("{text}:latest") } else { text.to_owned() })
}

fn image_component(component: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    component.chars().all(inner) && edge(component.chars().next()) && edge(component.chars().last())
}

/// `URL` or `URL#REFERENCE`.
pub(super) fn repository(text: &str) -> Result<(String, Option<String>), String> {
    let (url, reference) = match text.split_once('#') {
        Some((_, "")) => return Err("the name of a branch is missing after `#`".to_owned()),
        Some((url, reference)) => (url, Some(git_reference(reference)?)),
        None => (text, None),
    };
    if url.chars().any(char::is_whitespace) || url.is_empty() {
        return Err(format!("`{url}` is not the address of a repository"));
    }
    if let Some((scheme, rest)) = url.split_once("://") {
        let host = rest.split('/').next().unwrap_or_default();
        if !["ssh", "https", "http", "git", "file"].contains(&scheme) {
            return Err(format!(
                "`{scheme}` is not a way to reach a repository: `ssh`, `https`, `http`, `git`, `file`"
            ));
        }
        if host.split_once('@').is_some_and(|(user, _)| user.contains(':')) {
            return Err(
                "a password must not stand in an address: it would end up in every revision".to_owned()
            );
        }
        let path = rest.split_once('/').map_or("", |(_, path)| path);
        if path.is_empty() || (scheme != "file" && host.is_empty()) {
            return Err(format!("`{url}` is not the address of a repository: host or path is missing"));
        }
        return Ok((url.to_owned(), reference));
    }
    let local = url.starts_with('/') || url.starts_with("./") || url.starts_with("../");
    let scp = url.split_once(':').is_some_and(|(host, path)| {
        !path.is_empty() && !host.is_empty() && !host.contains('/') && !host.starts_with('-')
    });
    if local || scp {
        Ok((url.to_owned(), reference))
    } else {
        Err(format!(
            "`{url}` is not the address of a repository, such as `git@github.com:lelylan/mqtt.git#master`"
        ))
    }
}

/// A branch, tag or commit, by git's rules for names.
pub(super) fn git_reference(text: &str) -> Result<String, String> {
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || "~^:?*[\\".contains(c);
    let wrong = text.is_empty()
        || text.chars().any(forbidden)
        || text.starts_with(['-', '/', '.'])
        || text.ends_with(['/', '.'])
        || text.contains("..")
        || text.contains("//")
        || text.contains("@{");
    if wrong { Err(format!("`{text}` is not a name that git takes")) } else { Ok(text.to_owned()) }
}

/// A folder or file inside a repository.
pub(super) fn inside(text: &str) -> Result<String, String> {
    let clean = text.trim_start_matches("./").trim_end_matches('/');
    if clean.starts_with('/') || clean.split('/').any(|part| part == "..") {
        return Err(format!("`{text}` leads out of the repository"));
    }
    Ok(if clean == "." { String::new() } else { clean.to_owned() })
}

/// Octal permission bits.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text.trim_start_matches("0o"), 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err(format!("`{text}` is not a mode such as `0600`")),
    }
}

/// `host` of a machine: an address or a name.
pub(super) fn host(text: &str) -> Result<String, String> {
    if text.contains('@') {
        return Err(format!("`{text}` holds a user; write `user = …` for it"));
    }
    if text.contains("://") || text.contains('/') {
        return Err(format!("`{text}` is not an address or host name"));
    }
    if text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    let numeric = text.chars().all(|c| c.is_ascii_digit() || c == '.');
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if numeric || text.is_empty() || text.len() > 253 || text.starts_with('-') || !text.chars().all(fits) {
        return Err(format!("`{text}` is not an address or host name"));
    }
    Ok(text.to_owned())
}

pub(super) fn network(text: &str) -> Result<Network, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match text {
        "bridge" => Ok(Network::Bridge),
        "host" => Ok(Network::Host),
        _ if !text.is_empty() && text.chars().all(fits) => Ok(Network::Named(text.to_owned())),
        _ => Err(format!("`{text}` is not a network: `bridge`, `host` or a network's name")),
    }
}

pub(super) fn variable(text: &str) -> Result<(), String> {
    if text.is_empty() || text.contains(['=', '\0']) || text.chars().any(char::is_whitespace) {
        return Err(format!("{text:?} is not the name of an environment variable"));
    }
    Ok(())
}

/// Thousandths of a processor.
pub(super) fn millicpus(cpus: f64) -> Result<u64, String> {
    if (0.01..=1024.0).contains(&cpus) {
        Ok((cpus * 1000.0).round() as u64)
    } else {
        Err(format!("{cpus} is not a number of processors"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        let table = [
            ("1883", "- - 1883 Tcp"),
            ("80:8080", "- 80 8080 Tcp"),
            ("127.0.0.1:80:8080/udp", "127.0.0.1 80 8080 Udp"),
            ("127.0.0.1::8080", "127.0.0.1 - 8080 Tcp"),
            ("[::1]:80:8080", "::1 80 8080 Tcp"),
            ("0", "0 is not a port: 1 to 65535"),
            ("70000:1", "70000 is not a port: 1 to 65535"),
            ("99999999999:1", "`99999999999` is not a port number"),
            ("a:1", "`a` is not a port number"),
            ("1:2:3", "`1` is not an IP address"),
            ("", "`` is not a port number"),
            ("80/sctp", "`sctp` is not a protocol: `tcp` or `udp`"),
            ("8000-8005:8000-8005", "`8000-8005` is a range; write one port an entry"),
        ];
        for (text, expected) in table {
            let got = match port(text) {
                Ok(port) => {
                    let host = port.host.map_or("-".to_owned(), |host| host.to_string());
                    format!(
                        "{} {host} {} {:?}",
                        port.ip.unwrap_or("-".to_owned()),
                        port.container,
                        port.protocol
                    )
                }
                Err(why) => why,
            };
            assert_eq!(got, expected, "{text}");
        }
    }

    #[test]
    fn sizes_and_durations() {
        assert_eq!(size("512MiB"), Ok(512 << 20));
        assert_eq!(size("2GB"), Ok(2_000_000_000));
        assert_eq!(size("64m"), Ok(64 << 20));
        for wrong in ["", "MiB", "12 parsecs", "1b", "99999999999999999999g", "-1m", "18446744073709551615"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        for wrong in ["", "30", "0s", "soon", "2days"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn images() {
        assert_eq!(image("redis"), Ok("redis:latest".to_owned()));
        let digest = format!("redis@sha256:{}", "a".repeat(64));
        for right in
            ["redis:7", "lelylan/mqtt:1.0", "localhost:5000/redis:7", "ghcr.io/a/b_c.d-e:v1", &digest]
        {
            assert_eq!(image(right), Ok(right.to_owned()));
        }
        for wrong in ["", "Redis", "redis:", "redis:a b", "redis@sha256:12", "a//b", ":7", "-x", "redis 7"] {
            assert!(image(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn repositories() {
        let table = [
            ("git@github.com:lelylan/mqtt.git", Some(None)),
            ("git@github.com:lelylan/mqtt.git#feature/x", Some(Some("feature/x"))),
            ("https://github.com/lelylan/mqtt.git#v1", Some(Some("v1"))),
            ("ssh://git@10.0.0.1:2222/srv/mqtt.git", Some(None)),
            ("/srv/mqtt.git", Some(None)),
            ("lelylan/mqtt", None),
            ("https://user:pass@host/x.git", None),
            ("ftp://host/x.git", None),
            ("https://host", None),
            ("git@host:x.git#", None),
            ("git@host:x.git#a..b", None),
            ("-oProxyCommand=x:y", None),
            ("", None),
        ];
        for (text, expected) in table {
            let got = repository(text).ok().map(|(_, reference)| reference);
            assert_eq!(got, expected.map(|reference| reference.map(str::to_owned)), "{text}");
        }
    }

    #[test]
    fn volumes() {
        let of = |text| volume(text).map(|volume| (volume.source, volume.target, volume.read_only));
        assert_eq!(of("/certs:/certs/"), Ok(("/certs".to_owned(), "/certs".to_owned(), false)));
        assert_eq!(of("redis-data:/data:ro"), Ok(("redis-data".to_owned(), "/data".to_owned(), true)));
        for wrong in ["/certs", "./certs:/certs", "a:b", "/a:/b:rx", "a b:/c", ":/x"] {
            assert!(volume(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn hosts() {
        for right in ["178.62.31.9", "::1", "mqtt-1.example.org"] {
            assert!(host(right).is_ok(), "{right}");
        }
        for wrong in ["", "178.62.31", "root@x", "a b", "ssh://x", "-x", "300.1.1.1"] {
            assert!(host(wrong).is_err(), "{wrong}");
        }
    }
}
