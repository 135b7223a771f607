use super::*;
use crate::rules::Then;
use crate::settings::{self, Balance, CheckKind, OnDown, ProxyVersion, Settings};

fn converted(text: &str) -> (Settings, Vec<String>) {
    let made = haproxy(text).unwrap();
    let settings =
        settings::parse(&made.toml).unwrap_or_else(|problems| panic!("{problems:?}\n{}", made.toml));
    (settings, made.notes.iter().map(ToString::to_string).collect())
}

/// As the article has it.
const LISTEN: &str = "
listen mqtt
  bind *:1883
  bind *:8883 ssl crt /certs/lelylan.pem
  mode tcp
  option tcplog
  balance leastconn
  server mosca_1 178.62.122.204:1883 check
  server mosca_2 178.62.104.172:1883 check
";

#[test]
fn the_articles_section_is_carried_over_whole() {
    let (settings, notes) = converted(LISTEN);
    assert_eq!(notes, [""; 0]);
    let [frontend] = &settings.frontends[..] else { panic!("one frontend") };
    assert_eq!(frontend.bind, ["0.0.0.0:1883".parse().unwrap()]);
    let tls = frontend.tls.as_ref().unwrap();
    assert_eq!(tls.bind, ["0.0.0.0:8883".parse().unwrap()]);
    assert_eq!(tls.tls.certificates, [std::path::PathBuf::from("/certs/lelylan.pem")]);
    assert!(frontend.gate.is_some());
    let [backend] = &settings.backends[..] else { panic!("one backend") };
    assert_eq!(
        (backend.policy.balance, backend.policy.check.kind()),
        (Balance::LeastConnections, CheckKind::Mqtt)
    );
    assert_eq!((backend.policy.check.rise, backend.policy.check.fall), (2, 3));
    let servers: Vec<_> = backend.servers.iter().map(|server| server.name.as_str()).collect();
    assert_eq!(servers, ["mosca_1", "mosca_2"]);
}

#[test]
fn a_frontend_and_its_backends_with_rules() {
    let text = "
defaults
  mode tcp
  timeout connect 3s
  timeout client 3h
frontend door
  bind *:1883,:1884
  bind 10.0.0.1:8883 ssl crt eu.pem crt us.pem ca-file ca.pem verify required ssl-min-ver TLSv1.3
  acl bad src 203.0.113.0/24 198.51.100.7
  acl europe ssl_fc_sni -i eu.example
  acl europe ssl_fc_sni_end .eu.example
  acl factory req.payload(0,0),mqtt_field_value(connect,client_identifier) -m beg factory-
  acl v5 req.payload(0,0),mqtt_field_value(connect,protocol_version) 5
  tcp-request inspect-delay 4s
  tcp-request content reject unless { req.payload(0,0),mqtt_is_valid }
  tcp-request connection reject if bad
  tcp-request connection reject unless { src 10.0.0.0/8 }
  tcp-request content reject if factory !{ ssl_fc }
  use_backend eu if europe { dst_port 8883 } or factory v5
  default_backend brokers
global
  crt-base /etc/crt
  ca-base /etc/ca
  nbthread 2
backend brokers
  balance roundrobin
  default-server check inter 500ms fastinter 100 slowstart 30s rise 1 fall 4
  server a 10.0.0.3:1883 weight 5 maxconn 100 backup send-proxy-v2 on-marked-down shutdown-sessions
  server b 10.0.0.4:1883 send-proxy-v2
backend eu
  stick-table type string len 32 size 100k expire 30m
  stick on req.payload(0,0),mqtt_field_value(connect,client_identifier)
  server c 10.0.0.5:1883 on-marked-up shutdown-backup-sessions on-marked-down x
";
    let (settings, notes) = converted(text);
    assert_eq!(notes, ["33: `server c 10.0.0.5:1883 …`: without counterpart: `on-marked-up`"]);
    assert_eq!(settings.threads, Some(2));
    let door = &settings.frontends[0];
    let tls = door.tls.as_ref().unwrap();
    let files: Vec<_> = tls.tls.certificates.iter().map(|file| file.to_str().unwrap()).collect();
    assert_eq!(files, ["/etc/crt/eu.pem", "/etc/crt/us.pem"]);
    let clients = tls.tls.clients.as_ref().unwrap();
    assert!(clients.required && clients.authorities == [std::path::PathBuf::from("/etc/ca/ca.pem")]);
    assert_eq!(door.bind.len(), 2);
    assert_eq!(door.entry.gate.deny.len(), 2);
    assert_eq!(door.entry.gate.allow, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(door.gate.as_ref().unwrap().deadline.as_secs(), 4);
    let thens: Vec<_> = door.rules.in_order.iter().map(|rule| rule.then.clone()).collect();
    let to = |name: &str| Then::Backend(name.to_owned());
    assert_eq!(thens, [Then::Refuse, to("eu"), to("eu"), to("eu")]);
    assert_eq!(door.rules.otherwise, to("brokers"));
    let refused = &door.rules.in_order[0].when;
    assert_eq!((refused.over_tls, refused.client_ids.len()), (Some(false), 1));
    assert_eq!(door.rules.in_order[1].when.ports, [8883]);
    let [brokers, eu] = &settings.backends[..] else { panic!("two backends") };
    assert_eq!((brokers.policy.balance, eu.policy.balance), (Balance::RoundRobin, Balance::ClientId));
    assert_eq!(brokers.policy.send_proxy, Some(ProxyVersion::V2));
    assert_eq!((brokers.policy.check.interval.as_millis(), brokers.policy.check.fall), (500, 4));
    assert_eq!(brokers.policy.connect_timeout.as_secs(), 3);
    assert_eq!(brokers.policy.arrivals.slow_start.as_secs(), 30);
    let server = &brokers.servers[0];
    assert_eq!((server.weight, server.max_sessions, server.backup), (5, 100, true));
    assert!(brokers.policy.arrivals.queue > 0);
    assert_eq!((eu.policy.check.kind(), eu.policy.on_down), (CheckKind::None, OnDown::Keep));
}

/// As the article shows it for the web.
#[test]
fn a_frontend_of_http_with_a_rule_about_paths() {
    let text = "
defaults
  mode http
  timeout http-request 5s
frontend www
  bind *:80
  option forwardfor
  acl blog path_beg /blog
  acl api hdr_beg(host) -i api.
  http-request deny if { path_beg /private }
  use_backend blog if blog !{ ssl_fc }
  use_backend api if api
  default_backend web
backend web
  balance roundrobin
  server web01 10.0.0.11:80 check
  server web02 10.0.0.12:80 check
backend blog
  option httpchk GET /health
  http-check expect status 200
  server blog01 10.0.0.13:80 check
backend api
  server api01 10.0.0.14:80
";
    let (settings, notes) = converted(text);
    assert_eq!(notes, [""; 0]);
    let www = &settings.frontends[0];
    assert_eq!(www.http.as_ref().unwrap().request_timeout.as_secs(), 5);
    let [private, blog, api] = &www.rules.in_order[..] else { panic!("three rules") };
    assert_eq!((&private.then, private.when.paths[0].to_string()), (&Then::Refuse, "/private*".to_owned()));
    assert_eq!((blog.when.over_tls, blog.when.paths[0].to_string()), (Some(false), "/blog*".to_owned()));
    assert_eq!(api.when.hosts[0].to_string(), "api.*");
    let kinds: Vec<_> = settings.backends.iter().map(|backend| backend.policy.check.kind()).collect();
    assert_eq!(kinds, [CheckKind::Tcp, CheckKind::Http, CheckKind::None]);
}

#[test]
fn limits_by_source() {
    let text = "
listen mqtt
  bind :1883
  mode tcp
  stick-table type ip size 1m expire 10s store conn_cur,conn_rate(3s)
  tcp-request connection track-sc0 src
  tcp-request connection reject if { src_conn_cur ge 10 }
  tcp-request connection reject if { sc0_conn_rate gt 20 }
  server a 10.0.0.3:1883
";
    let (settings, notes) = converted(text);
    assert_eq!(notes, [""; 0]);
    let entry = &settings.frontends[0].entry;
    assert_eq!(entry.gate.connections_per_address, Some(9));
    assert_eq!(entry.rate_per_address.unwrap().per_minute, 400);
}

/// What cannot be said here in the same way is told, and makes nothing wider in silence.
#[test]
fn what_has_no_counterpart_is_told_by_its_line() {
    let text = "
global
  chroot /var/lib/haproxy
  lua-load x.lua
listen stats
  bind :80
  mode http
  stats enable
  stats auth admin:hush
listen mqtt
  bind /run/x.sock
  bind *:1883
  mode tcp
  maxconn 500
  acl odd src_is_local
  acl odd src 10.0.0.0/8
  acl star req.payload(0,0),mqtt_field_value(connect,client_identifier) a*b
  tcp-request connection reject if odd
  use_backend other if star
  use_backend %[src] if TRUE
  use_backend other if { req.ssl_sni a }
  server a 10.0.0.3:1883 cookie a
  frobnicate
peers mine
  peer a 10.0.0.1:1
backend other
  mode tcp
";
    let (settings, notes) = converted(text);
    let lines: Vec<_> =
        notes.iter().map(|note| note.split(':').next().unwrap().parse::<usize>().unwrap()).collect();
    assert_eq!(lines, [3, 4, 8, 11, 14, 15, 17, 18, 19, 20, 21, 22, 23, 24], "{notes:#?}");
    assert!(notes.iter().any(|note| note.contains("IS NOT REFUSED HERE")), "{notes:#?}");
    assert!(!notes.iter().any(|note| note.contains("hush")), "{notes:#?}");
    assert_eq!(settings.frontends.len(), 1, "statistics are no frontend");
    assert!(settings.frontends[0].rules.in_order.is_empty());
    assert!(settings.frontends[0].entry.gate.deny.is_empty());
}

/// Whatever another `bind` of the section says, none becomes wider, and the line that differs is told.
#[test]
fn binds_that_differ_loosen_nothing() {
    let notes_of = |first: &str, second: &str| {
        let text = format!(
            "listen m\n mode tcp\n bind :8883 {first}\n bind :8884 {second}\n server a 10.0.0.3:1883\n"
        );
        let (settings, notes) = converted(&text);
        let lines: Vec<_> = notes.iter().map(|note| note.split(':').next().unwrap().to_owned()).collect();
        (settings, lines, notes.concat())
    };
    let strict = "ssl crt a.pem ca-file ca.pem verify required ssl-min-ver TLSv1.3";
    for other in
        ["ssl crt a.pem ca-file ca.pem verify none", "ssl crt a.pem", "ssl crt a.pem verify optional"]
    {
        for (first, second) in [(strict, other), (other, strict)] {
            let (settings, lines, notes) = notes_of(first, second);
            let tls = settings.frontends[0].tls.as_ref().unwrap();
            assert!(tls.tls.clients.as_ref().unwrap().required, "{first} {second}");
            assert_ne!(tls.tls.least, nsd_edge::tls::LeastVersion::default(), "{first} {second}");
            assert_eq!((tls.bind.len(), lines), (2, vec!["4".to_owned()]), "{notes}");
        }
    }
    // Neither of the two is the stricter one: the second is not listened on.
    for (first, second) in [
        ("accept-proxy", ""),
        ("", "accept-proxy"),
        ("", "ssl crt a.pem accept-proxy"),
        ("ssl crt a.pem ca-file a.pem verify required", "ssl crt a.pem ca-file b.pem verify required"),
        ("", "ssl crt a.pem verify required"),
    ] {
        let (settings, lines, notes) = notes_of(first, second);
        let frontend = &settings.frontends[0];
        let tls = frontend.tls.as_ref().map_or(0, |tls| tls.bind.len());
        assert_eq!(frontend.bind.len() + tls, 1, "{first} {second}");
        assert!(lines.contains(&"4".to_owned()) && notes.contains("IS NOT LISTENED ON HERE"), "{notes}");
        assert_eq!(!frontend.entry.proxy_from.is_empty(), first == "accept-proxy");
    }
    let (_, lines, _) = notes_of(strict, strict);
    assert_eq!(lines, [""; 0], "the same twice");
    let (_, lines, _) = notes_of("", strict);
    assert_eq!(lines, [""; 0], "plain clients have no certificate in either");
}

/// Notes go to the terminal, and stand in the settings that are made.
#[test]
fn no_secret_is_shown_in_a_note() {
    let text = "
global
  user haproxy password HUSH
  setenv TOKEN HUSH
  presetenv TOKEN HUSH
  lua-load x.lua HUSH
  ssl-default-bind-options HUSH
listen web
  mode http
  bind *:80 frob HUSH
  stats auth admin:HUSH
  acl known req.hdr(authorization) -m str HUSH
  acl known req.hdr(x-token),strcmp(HUSH) eq 0
  acl known http_auth(HUSH)
  acl known hdr(host) -m HUSH
  acl key url_param(key) HUSH
  http-request set-header Authorization \"Bearer HUSH\"
  http-request set-var(txn.HUSH) str(HUSH)
  http-request deny if { req.hdr(x-token) -m str HUSH }
  http-request auth realm HUSH unless { http_auth(HUSH) }
  http-request return status 200 string HUSH
  http-response add-header X-Key HUSH
  http-check send hdr Authorization HUSH
  http-check expect string HUSH
  tcp-check connect
  tcp-check send \"AUTH HUSH\"
  tcp-check send-binary HUSH
  tcp-request connection reject if { src -f HUSH }
  tcp-request content set-var(sess.x) str(HUSH)
  option mysql-check user HUSH
  cookie NAME HUSH
  rspadd HUSH
  reqadd \"X-Key: HUSH\"
  frobnicate HUSH
  use_backend %[str(HUSH)] if known
  redirect prefix http://a:HUSH@b
  server a 10.0.0.3:80 cookie HUSH agent-send HUSH set-proxy-v2-tlv-fmt(1) HUSH sni HUSH
  server b 10.0.0.4:80 frobnicate HUSH check inter 2s frobnicate HUSH
";
    let (settings, notes) = converted(text);
    assert!(!notes.iter().any(|note| note.contains("HUSH")), "{notes:#?}");
    assert!(!haproxy(text).unwrap().toml.contains("HUSH"));
    assert!(notes.len() > 30, "each was told: {notes:#?}");
    assert!(notes.iter().any(|note| note.contains("`http-request set-header …`")), "{notes:#?}");
    assert!(notes.iter().any(|note| note.contains("`acl known …`")), "{notes:#?}");
    assert_eq!(settings.backends[0].servers.len(), 2);
}

#[test]
fn a_rate_that_cannot_be_said_is_told() {
    for (most, expected, noted) in [("18446744073709551615", 1_000_000, true), ("10", 60_000, false)] {
        let text = format!(
            "listen a\n bind :1883\n stick-table type ip size 1m store conn_rate(10)\n \
             tcp-request connection reject if {{ src_conn_rate gt {most} }}\n server a 10.0.0.3:1883\n"
        );
        let (settings, notes) = converted(&text);
        assert_eq!(settings.frontends[0].entry.rate_per_address.unwrap().per_minute, expected);
        assert_eq!(notes.iter().any(|note| note.starts_with("4:")), noted, "{notes:?}");
    }
}

#[test]
fn other_files_are_refused() {
    for (text, line) in [
        ("", 1),
        ("global\n  daemon\n", 1),
        ("[[listen]]\nname = 'x'\n", 1),
        ("listen x\n bind 'a\n", 2),
        ("\u{7f}ELF\0", 1),
    ] {
        assert_eq!(haproxy(text).unwrap_err().line, line, "{text:?}");
    }
}

/// The lines of all tests in any order: never a panic, and what is made can be read, or is told to be wrong.
#[test]
fn shuffled_lines_never_panic() {
    let lines: Vec<&str> = LISTEN
        .lines()
        .chain([
            "frontend f",
            "backend b",
            "defaults",
            "acl a src 1.2.3.4",
            "acl a path_beg /x",
            "use_backend b if !a or { }",
        ])
        .chain([
            "use_backend b unless a",
            "tcp-request connection reject if !a",
            "default_backend b",
            "mode http",
            "bind",
        ])
        .chain([
            "server",
            "server x",
            "server s 1.2.3.4",
            "stick on",
            "balance",
            "acl",
            "timeout connect",
            "bind :1-99999",
        ])
        .chain([
            "http-check send meth",
            "tcp-request",
            "use_backend",
            "acl a hdr(host) -i -m",
            "default-server check inter",
        ])
        .collect();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % u64::try_from(below).unwrap()).unwrap()
    };
    for _ in 0..3000 {
        let text: Vec<&str> = (0..random(30)).map(|_| lines[random(lines.len())]).collect();
        let Ok(made) = haproxy(&text.join("\n")) else { continue };
        assert!(settings::parse(&made.toml).is_ok() || !made.notes.is_empty(), "{text:?}\n{}", made.toml);
    }
}

/// Found by fuzzing.
#[test]
fn a_control_character_does_not_break_out_of_a_comment() {
    let made =
        haproxy("listen mqtt\n  bind *:1883 'odd\u{7f}\u{1b}[2J'\n  server a 10.0.0.1:1883\n").unwrap();
    assert!(!made.notes.is_empty() && made.notes.iter().all(|note| !note.what.contains(char::is_control)));
    assert!(made.toml.chars().all(|c| c == '\n' || !c.is_control()), "{:?}", made.toml);
}
