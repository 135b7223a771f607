//! `defaults`, `listen`, `frontend` and `backend` sections: their lines, one by one.

use super::acl::{self, Acls, Holds, When};
use super::bind::Binds;
use super::server::Server;
use super::words::{Line, time};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Defaults,
    Frontend,
    Backend,
    Listen,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Section {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) http: bool,
    /// Something is asked of MQTT's CONNECT.
    pub(super) mqtt: bool,
    pub(super) stats: bool,
    /// It was told that there are none here.
    error_pages: bool,
    pub(super) binds: Binds,
    pub(super) servers: Vec<Server>,
    default_server: Vec<String>,
    acls: Acls,
    /// Before all other rules, as HAProxy refuses first.
    pub(super) refusals: Vec<Use>,
    pub(super) uses: Vec<Use>,
    pub(super) default_backend: Option<String>,
    pub(super) allow: Vec<String>,
    pub(super) deny: Vec<String>,
    pub(super) connections: Option<u64>,
    pub(super) balance: Option<&'static str>,
    pub(super) http_check: Option<HttpCheck>,
    pub(super) connect_timeout: Option<String>,
    pub(super) check_timeout: Option<String>,
    pub(super) queue_timeout: Option<String>,
    pub(super) handshake_deadline: Option<String>,
    pub(super) connect_deadline: Option<String>,
    pub(super) request_timeout: Option<String>,
    /// Of a stick table: so long a time its rates are about.
    per_address: Option<u64>,
    pub(super) connections_per_address: Option<u64>,
    pub(super) rate_per_address: Option<u64>,
}

/// One rule, or several where any of some cases will do.
#[derive(Debug, Clone)]
pub(super) struct Use {
    pub(super) line: usize,
    pub(super) when: When,
    /// `None`: refused.
    pub(super) backend: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct HttpCheck {
    pub(super) method: Option<String>,
    pub(super) path: Option<String>,
    pub(super) host: Option<String>,
    pub(super) expect: Option<String>,
}

/// As many connections of a source a minute can be said in our settings.
const MOST_PER_MINUTE: u64 = 1_000_000;

type Taken = Result<(), String>;

impl Section {
    pub(super) fn named(kind: Kind, name: &str, line: usize) -> Self {
        Self { kind, name: name.to_owned(), line, ..Self::default() }
    }

    /// The error says what has no counterpart, or not quite the same.
    pub(super) fn take(&mut self, line: &Line) -> Taken {
        let rest = line.rest();
        let first = rest.first().map(String::as_str).unwrap_or_default();
        match line.key() {
            "mode" => return self.mode(first),
            "bind" => return self.bind(rest),
            "server" => return self.server(rest),
            "default-server" => self.default_server.extend_from_slice(rest),
            "balance" => return self.balance(rest),
            "acl" => return self.acl(rest),
            "use_backend" => return self.use_backend(line.number, rest),
            "default_backend" => self.default_backend = rest.first().cloned(),
            "maxconn" => {
                self.connections = first.parse().ok();
                return Err("here the one too many is closed, there it waits".into());
            }
            "timeout" => return self.timeout(rest),
            "option" => return self.option(rest),
            "http-check" => return self.http_check(rest),
            "tcp-request" => return self.tcp_request(line.number, rest),
            "http-request" => return self.http_request(line.number, rest),
            "stick-table" => return self.stick_table(rest),
            "stick" => return self.stick(rest),
            "stats" if self.stats => {}
            "stats" => {
                self.stats = true;
                return Err(
                    "statistics: `nsd-balancer admin status`, and a status web page with `[dashboard]` (docs/balancer-dashboard.md)".into(),
                );
            }
            "tcp-check" if self.mqtt || first == "connect" => {}
            "tcp-check" => {
                return Err("the check of MQTT brokers asks by a CONNECT, others by a connection".into());
            }
            // As it is here anyway.
            "log" | "log-tag" | "log-format" | "no" | "retries" | "description" | "id" | "enabled"
            | "fullconn" | "hash-type" | "unique-id-format" | "unique-id-header" => {}
            "errorfile" | "errorloc" | "errorloc302" | "errorloc303" | "errorfiles" | "http-error"
                if self.error_pages => {}
            "errorfile" | "errorloc" | "errorloc302" | "errorloc303" | "errorfiles" | "http-error" => {
                self.error_pages = true;
                return Err("errors are told in one plain line here".into());
            }
            _ => return Err("has no counterpart".into()),
        }
        Ok(())
    }

    fn mode(&mut self, mode: &str) -> Taken {
        match mode {
            "tcp" => self.http = false,
            "http" => self.http = true,
            _ => return Err("only `tcp` and `http` have counterparts".into()),
        }
        Ok(())
    }

    pub(super) fn bind(&mut self, words: &[String]) -> Taken {
        self.binds.take(words)
    }

    fn server(&mut self, words: &[String]) -> Taken {
        let (server, mut left) = Server::parse(words, &self.default_server);
        if let Some(server) = server {
            let differs = self.servers.first().is_some_and(|first| first.shared != server.shared);
            self.servers.push(server);
            if differs {
                left.push(
                    "checks, TLS and PROXY are the same for all servers here: the first one's count".into(),
                );
            }
        }
        if left.is_empty() { Ok(()) } else { Err(left.join(", ")) }
    }

    fn balance(&mut self, words: &[String]) -> Taken {
        let first = words.first().map(String::as_str).unwrap_or_default();
        self.balance = Some(match first {
            "roundrobin" | "static-rr" => "roundrobin",
            "leastconn" => "leastconn",
            "source" => "source",
            "hash" if words.get(1).is_some_and(|what| what.contains("client_identifier")) => {
                self.mqtt = true;
                "client_id"
            }
            "hash" if words.get(1).is_some_and(|what| what == "src") => "source",
            random if random.starts_with("random") => "random",
            _ => return Err("is no kind of balancing here; `leastconn` is taken".into()),
        });
        Ok(())
    }

    fn acl(&mut self, words: &[String]) -> Taken {
        self.mqtt |= words.iter().any(|word| word.contains("mqtt_"));
        acl::define(&mut self.acls, words)
    }

    fn use_backend(&mut self, line: usize, words: &[String]) -> Taken {
        let (backend, condition) = words.split_first().ok_or("names no backend")?;
        if backend.contains('%') {
            return Err("a name that is made of the request has no counterpart".into());
        }
        match acl::condition(condition, &self.acls)? {
            Holds::In(ways) => {
                let uses = ways.into_iter().map(|when| Use { line, when, backend: Some(backend.clone()) });
                self.uses.extend(uses);
                Ok(())
            }
            Holds::NotIn(_) => {
                Err("the opposite of a condition has no counterpart; turn the two rules around".into())
            }
        }
    }

    /// Whom a refusal is about. What is refused there must not be let in here without a word.
    fn refuse(&mut self, line: usize, condition: &[String]) -> Taken {
        match acl::condition(condition, &self.acls)? {
            Holds::In(ways) => {
                for when in ways {
                    match when.0.get("source") {
                        Some(sources) if when.is_source() => self.deny.extend(sources.iter().cloned()),
                        _ => self.refusals.push(Use { line, when, backend: None }),
                    }
                }
                Ok(())
            }
            Holds::NotIn(ways) if ways.iter().all(When::is_source) && self.allow.is_empty() => {
                self.allow =
                    ways.into_iter().flat_map(|mut when| when.0.remove("source")).flatten().collect();
                Ok(())
            }
            Holds::NotIn(_) => {
                Err("IS NOT REFUSED HERE: the opposite of a condition has no counterpart".into())
            }
        }
    }

    fn tcp_request(&mut self, line: usize, words: &[String]) -> Taken {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            ["inspect-delay", delay] => self.connect_deadline = time(delay),
            ["connection" | "content", "track-sc0", "src", ..] => {}
            ["content", "accept", ..] | ["content", "reject", "unless", "{", _, "}"]
                if words
                    .iter()
                    .any(|word| word.contains("mqtt_is_valid") || word.contains("req_ssl_hello_type")) =>
            {
                self.mqtt |= words.iter().any(|word| word.contains("mqtt_is_valid"));
            }
            ["content", "reject", "if", "!" | "!{", ..]
                if words.iter().any(|word| word.contains("mqtt_is_valid")) =>
            {
                self.mqtt = true;
            }
            ["connection" | "content", "reject", "if", "{", count, "gt" | "ge", most, "}"]
                if is_count(count) =>
            {
                let most: u64 = most.parse().map_err(|_| "no number")?;
                return self.limit(count, if words[5] == "ge" { most.saturating_sub(1) } else { most });
            }
            ["connection" | "content" | "session", "reject", ..] => {
                let condition: Vec<String> = words[2..].iter().map(|word| (*word).to_owned()).collect();
                return self.refuse(line, &condition).map_err(|what| format!("IS NOT REFUSED HERE: {what}"));
            }
            _ => return Err("has no counterpart".into()),
        }
        Ok(())
    }

    /// `src_conn_cur gt N`, `sc0_conn_rate gt N`.
    fn limit(&mut self, count: &str, most: u64) -> Taken {
        if count.contains("conn_cur") {
            self.connections_per_address = Some(most.max(1));
            return Ok(());
        }
        let period = self.per_address.ok_or("no stick table of this section says in what time")?;
        let per_minute = most.saturating_mul(60_000) / period;
        self.rate_per_address = Some(per_minute.clamp(1, MOST_PER_MINUTE));
        if per_minute > MOST_PER_MINUTE {
            return Err(format!("more than {MOST_PER_MINUTE} a minute cannot be said: that is taken"));
        }
        Ok(())
    }

    fn http_request(&mut self, line: usize, words: &[String]) -> Taken {
        let at = words.iter().position(|word| word == "if" || word == "unless").unwrap_or(words.len());
        match words.first().map(String::as_str) {
            Some("deny" | "reject" | "tarpit") => {
                self.refuse(line, &words[at..]).map_err(|what| format!("IS NOT REFUSED HERE: {what}"))
            }
            // It is told always.
            Some("set-header" | "add-header")
                if words.get(1).is_some_and(|name| name.eq_ignore_ascii_case("X-Forwarded-Proto")) =>
            {
                Ok(())
            }
            _ => Err("has no counterpart".into()),
        }
    }

    fn timeout(&mut self, words: &[String]) -> Taken {
        let [kind, value, ..] = words else { return Err("says nothing".into()) };
        let value = time(value);
        let slot = match kind.as_str() {
            "connect" => &mut self.connect_timeout,
            "check" => &mut self.check_timeout,
            "queue" => &mut self.queue_timeout,
            "client-hs" => &mut self.handshake_deadline,
            "http-request" => &mut self.request_timeout,
            // Who is idle is told by its keep alive, or by TCP.
            "client" | "server" | "tunnel" | "client-fin" | "server-fin" | "http-keep-alive" | "tarpit" => {
                return Ok(());
            }
            _ => return Err("has no counterpart".into()),
        };
        if value.is_none() {
            return Err("is no time between 1 ms and a day".into());
        }
        *slot = value;
        Ok(())
    }

    fn option(&mut self, words: &[String]) -> Taken {
        match words.first().map(String::as_str).unwrap_or_default() {
            "httpchk" => {
                let rest = &words[1..];
                let (method, path) = match rest {
                    [] => (None, None),
                    [path] => (None, Some(path.clone())),
                    [method, path, ..] => (Some(method.clone()), Some(path.clone())),
                };
                let host = rest
                    .iter()
                    .find_map(|word| word.split_once("Host:"))
                    .map(|(_, host)| host.trim().to_owned());
                self.http_check = Some(HttpCheck { method, path, host, expect: None });
            }
            "tcp-check"
            | "tcplog"
            | "httplog"
            | "dontlognull"
            | "dontlog-normal"
            | "log-health-checks"
            | "clitcpka"
            | "srvtcpka"
            | "tcpka"
            | "redispatch"
            | "forwardfor"
            | "http-server-close"
            | "http-keep-alive"
            | "httpclose"
            | "forceclose"
            | "tcp-smart-accept"
            | "tcp-smart-connect"
            | "splice-auto"
            | "splice-request"
            | "splice-response"
            | "nolinger"
            | "logasap"
            | "log-separate-errors"
            | "abortonclose"
            | "contstats"
            | "http-ignore-probes"
            | "prefer-last-server"
            | "http-no-delay"
            | "socket-stats"
            | "allbackups"
            | "h1-case-adjust-bogus-client"
            | "idle-close-on-response" => {}
            _ => return Err("has no counterpart".into()),
        }
        Ok(())
    }

    fn http_check(&mut self, words: &[String]) -> Taken {
        let check = self.http_check.get_or_insert_default();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            ["expect", "status", status] => check.expect = Some(status.to_owned()),
            ["send", ref pairs @ ..] => {
                for pair in pairs.windows(2) {
                    match pair {
                        ["meth", method] => check.method = Some((*method).to_owned()),
                        ["uri", path] => check.path = Some((*path).to_owned()),
                        ["Host" | "host", host] => check.host = Some((*host).to_owned()),
                        _ => {}
                    }
                }
            }
            ["connect"] => {}
            _ => return Err("has no counterpart".into()),
        }
        Ok(())
    }

    fn stick_table(&mut self, words: &[String]) -> Taken {
        let stored = words.iter().find_map(|word| word.split_once("conn_rate("));
        let period = stored.and_then(|(_, rest)| rest.split_once(')')).and_then(|(period, _)| time(period));
        self.per_address = period.and_then(|period| match period.strip_suffix("ms") {
            Some(millis) => millis.parse().ok(),
            None => period.trim_end_matches('s').parse::<u64>().ok().map(|seconds| seconds * 1000),
        });
        // What is kept in it is asked for by other lines; where clients are to go needs no table here.
        Ok(())
    }

    fn stick(&mut self, words: &[String]) -> Taken {
        let on =
            words.iter().map(String::as_str).find(|word| !matches!(*word, "on" | "match" | "store-request"));
        self.balance = Some(match on {
            Some("src") => "source",
            Some(what) if what.contains("client_identifier") => {
                self.mqtt = true;
                "client_id"
            }
            _ => return Err("clients can be kept by source and by client identifier only".into()),
        });
        Ok(())
    }
}

fn is_count(word: &str) -> bool {
    ["conn_cur", "conn_rate"].iter().any(|count| word.contains(count))
        && (word.starts_with("src_") || word.starts_with("sc"))
}
