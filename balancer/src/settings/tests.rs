use nsd_wire::Version;

use super::*;
use crate::bucket::ConnectRate;
use crate::gate::GateRules;
use crate::gate::rates::Rate;
use crate::rules::{Conditions, Pattern, Rule, Rules, Then};

const FULL: &str = r#"
threads = 2
stop_grace = "8s"
[admin]
socket = "/tmp/balancer.sock"
[log]
access = false
format = "json"
[[listen]]
name = "mqtt"
bind = ["0.0.0.0:1883", "[::]:1883"]
tls = { bind = ["0.0.0.0:8883"], certificates = ["/certs"] }
balance = "roundrobin"
on_down = "keep"
send_proxy = "v2"
queue = 100
queue_timeout = "6s"
check = { kind = "mqtt", interval = "500ms", timeout = "100ms", rise = 3, fall = 4 }
connect_timeout = "1s"
tcp_user_timeout = "45s"
[listen.gate]
deadline = "3s"
answer_timeout = "2s"
max_connect = 70000
versions = ["3.1.1", "5"]
max_client_id = 64
empty_client_id = false
require_user_name = true
max_keep_alive = "20m"
keep_alive_grace = "4s"
silent_after = "2days"
source_rate = { per_minute = 600, burst = 50 }
client_rate = { per_minute = 10 }
[[listen.server]]
name = "mqtt-1.mqtt.1"
address = "10.0.0.3:20010"
weight = 5
max_sessions = 5000
backup = true
[[frontend]]
name = "web"
bind = ["0.0.0.0:80"]
backend = "pages"
[[backend]]
name = "pages"
[[backend.server]]
name = "a"
address = "[fd00::1]:80"
"#;

fn problems(text: &str) -> Vec<String> {
    parse(text).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn both_forms_are_read_and_what_is_left_out_has_defaults() {
    let settings = parse(FULL).unwrap();
    assert_eq!(settings.threads, Some(2));
    assert_eq!(settings.log_format, Format::Json);
    assert!(!settings.access_log);
    let [listen, pages] = &settings.backends[..] else { panic!("two backends") };
    let check = &listen.policy.check;
    assert_eq!((check.kind(), check.rise, check.fall), (CheckKind::Mqtt, 3, 4));
    assert_eq!((listen.policy.balance, listen.policy.on_down), (Balance::RoundRobin, OnDown::Keep));
    assert_eq!((listen.policy.send_proxy, pages.policy.send_proxy), (Some(ProxyVersion::V2), None));
    assert_eq!(
        (listen.policy.arrivals.queue, listen.policy.arrivals.queue_timeout),
        (100, Duration::from_secs(6))
    );
    assert_eq!(pages.policy.arrivals.queue, 0);
    let server = &listen.servers[0];
    assert_eq!((server.weight, server.max_sessions, server.backup), (5, 5000, true));
    assert_eq!(pages.policy.check, Check::default());
    assert_eq!(pages.policy.balance, Balance::LeastConnections);
    let server = &pages.servers[0];
    assert_eq!((server.weight, server.max_sessions, server.backup), (1, u32::MAX, false));
    let [mqtt, web] = &settings.frontends[..] else { panic!("two frontends") };
    for (frontend, backend, seconds) in [(mqtt, listen, 45), (web, pages, 120)] {
        let of_both = [frontend.user_timeout, backend.policy.user_timeout];
        assert_eq!(of_both, [Duration::from_secs(seconds); 2], "clients and servers");
    }
    assert_eq!((&mqtt.rules, &web.rules), (&Rules::all_to("mqtt"), &Rules::all_to("pages")));
    assert_eq!(mqtt.tls.as_ref().unwrap().tls.certificates, [PathBuf::from("/certs")]);
}

#[test]
fn the_gate_is_read_and_follows_the_check_unless_told() {
    let settings = parse(FULL).unwrap();
    let expected = GateRules {
        deadline: Duration::from_secs(3),
        answer_timeout: Duration::from_secs(2),
        max_connect: 70_000,
        versions: vec![Version::V311, Version::V5],
        max_client_id: 64,
        empty_client_id: false,
        require_user_name: true,
        max_keep_alive: Some(1200),
        source_rate: Some(Rate { per_minute: 600, burst: 50 }),
        client_rate: Some(Rate { per_minute: 10, burst: 10 }),
        keep_alive_grace: Duration::from_secs(4),
        silent_after: Some(Duration::from_secs(2 * 24 * 3600)),
    };
    assert_eq!(settings.frontends[0].gate, Some(expected));
    assert_eq!(settings.frontends[1].gate, None, "a backend that is not checked for MQTT");
    let section = |keys: &str| format!("[[listen]]\nname = \"m\"\nbind = [\"0.0.0.0:1883\"]\n{keys}\n");
    let gate = |keys: &str| parse(&section(keys)).unwrap().frontends[0].gate.clone();
    assert_eq!(gate("check = { kind = \"mqtt\" }"), Some(GateRules::default()));
    assert_eq!(gate("check = { kind = \"mqtt\" }\nmode = \"tcp\""), None);
    assert_eq!(gate("mode = \"mqtt\"\ngate = { max_client_id = 23 }").unwrap().max_client_id, 23);
    assert_eq!(gate(""), None);
    let apart = "[[backend]]\nname = \"b\"\ncheck = { kind = \"mqtt\" }\n\
                 [[frontend]]\nname = \"f\"\nbind = [\"0.0.0.0:1883\"]\nbackend = \"b\"\n";
    assert!(parse(apart).unwrap().frontends[0].gate.is_some());
}

#[test]
fn affinity_is_for_those_who_are_spread_by_identifier() {
    let section = |keys: &str| {
        let server = "[[listen.server]]\nname = \"a\"\naddress = \"10.0.0.3:1883\"\n";
        format!("[[listen]]\nname = \"m\"\nbind = [\"0.0.0.0:1883\"]\nmode = \"mqtt\"\n{keys}\n{server}")
    };
    let policy = |keys: &str| parse(&section(keys)).unwrap().backends[0].policy.clone();
    let by_id = policy("balance = \"client_id\"");
    assert!(by_id.is_affine(false) && by_id.is_affine(true));
    let persistent = policy("balance = \"client_id\"\naffinity = \"persistent\"");
    assert!(persistent.is_affine(false) && !persistent.is_affine(true));
    assert!(!policy("balance = \"source\"").is_affine(false));
    let told = problems(&section("balance = \"random\"\naffinity = \"persistent\""));
    assert_eq!(told, ["6: listen.affinity: only `balance = \"client_id\"` has any"]);
}

#[test]
fn all_problems_of_a_gate_come_at_once() {
    let text = r#"
[[listen]]
name = "mqtt"
bind = ["0.0.0.0:1883"]
mode = "mqtt"
[listen.gate]
deadlin = "5s"
max_connect = 100
versions = ["4"]
max_keep_alive = "1day"
source_rate = { burst = 5 }
client_rate = { per_minute = 0 }
[[listen]]
name = "other"
bind = ["0.0.0.0:80"]
gate = { deadline = "1s" }
"#;
    let expected = [
        "7: listen.gate.deadlin: unknown key: did you mean `deadline`?",
        "8: listen.gate.max_connect: must be between 4096 and 16777216",
        "9: listen.gate.versions: `4` is none of 3.1, 3.1.1, 5",
        "9: listen.gate.versions: without a version no client can come",
        "10: listen.gate.max_keep_alive: `1day` is no time between 1s and 18h 12m 15s; write it like `2s` or `500ms`",
        "11: listen.gate.source_rate.per_minute: is missing",
        "12: listen.gate.client_rate.per_minute: must be between 1 and 1000000",
        "16: listen.gate: only MQTT has a CONNECT to judge; add `mode = \"mqtt\"`",
    ];
    assert_eq!(problems(text), expected);
}

const RULED: &str = r#"
[[backend]]
name = "brokers"
check = { kind = "mqtt" }
[[frontend]]
name = "mqtt"
bind = ["0.0.0.0:1883"]
tls = { bind = ["0.0.0.0:8883"], certificates = ["/certs"] }
backend = "brokers"
[[frontend.rule]]
source = ["192.0.2.0/24", "::1"]
refuse = true
[[frontend.rule]]
port = [8883]
tls = true
sni = ["*.EU.example.com"]
certificate = ["gateway-*"]
client_id = ["factory-*", "lamp"]
user_name = ["lelylan"]
version = ["5"]
backend = "mqtt2"
[[frontend.rule]]
backend = "brokers"
[[listen]]
name = "mqtt2"
bind = ["0.0.0.0:1884"]
"#;

#[test]
fn rules_are_read_in_order_and_may_name_backends_further_down() {
    let settings = parse(RULED).unwrap();
    let patterns = |texts: &[&str]| texts.iter().copied().map(Pattern::new).collect();
    let refused = Conditions {
        sources: ["192.0.2.0/24", "::1"].map(|text| text.parse().unwrap()).to_vec(),
        ..Conditions::default()
    };
    let second = Conditions {
        ports: vec![8883],
        over_tls: Some(true),
        server_names: patterns(&["*.eu.example.com"]),
        certified: patterns(&["gateway-*"]),
        client_ids: patterns(&["factory-*", "lamp"]),
        user_names: patterns(&["lelylan"]),
        versions: vec![Version::V5],
        ..Conditions::default()
    };
    let to = |backend: &str| Then::Backend(backend.to_owned());
    let expected = Rules {
        in_order: vec![
            Rule { when: refused, then: Then::Refuse },
            Rule { when: second, then: to("mqtt2") },
            Rule { when: Conditions::default(), then: to("brokers") },
        ],
        otherwise: to("brokers"),
    };
    let mqtt = settings.frontends.iter().find(|frontend| frontend.name == "mqtt").unwrap();
    assert_eq!(mqtt.rules, expected);
    assert!(mqtt.gate.is_some(), "as the default backend is checked");
    let without =
        RULED.replace("backend = \"brokers\"\n[[frontend.rule]]\nsource", "[[frontend.rule]]\nsource");
    assert_eq!(parse(&without).unwrap().frontends[1].rules.otherwise, Then::Refuse);
}

#[test]
fn rules_that_can_never_hold_are_told() {
    let text = r#"
[[backend]]
name = "brokers"
[[frontend]]
name = "mqtt"
bind = ["0.0.0.0:1883"]
[[frontend.rule]]
port = [8883, 70000]
sni = ["a"]
certificate = ["b"]
client_id = ["c"]
user_name = []
version = ["4"]
source = ["10.0.0.0/40"]
backend = "broker"
[[frontend.rule]]
backend = "brokers"
[[frontend.rule]]
tls = false
[[frontend.rule]]
cleint_id = ["a"]
refuse = true
backend = "brokers"
[[frontend.rule]]
port = [1883]
refuse = true
[[frontend]]
name = "empty"
bind = ["0.0.0.0:1884"]
"#;
    let expected = [
        "8: frontend.rule.port: 8883 is not bound by this section",
        "8: frontend.rule.port: must be between 1 and 65535",
        "9: frontend.rule.sni: is told in a TLS handshake, and this section has no `tls`",
        "10: frontend.rule.certificate: is told in a TLS handshake, and this section has no `tls`",
        "11: frontend.rule.client_id: stands in a CONNECT, which is only read with `mode = \"mqtt\"`",
        "12: frontend.rule.user_name: an empty list fits nobody; leave it out, or name one",
        "12: frontend.rule.user_name: stands in a CONNECT, which is only read with `mode = \"mqtt\"`",
        "13: frontend.rule.version: `4` is none of 3.1, 3.1.1, 5",
        "13: frontend.rule.version: stands in a CONNECT, which is only read with `mode = \"mqtt\"`",
        "14: frontend.rule.source: `10.0.0.0/40` is not understood; write it like `10.0.0.0/8`",
        "15: frontend.rule.backend: there is no backend `broker`: did you mean `brokers`?",
        "18: frontend.rule.backend: is missing, or `refuse = true`: what becomes of these clients?",
        "21: frontend.rule.cleint_id: unknown key: did you mean `client_id`?",
        "22: frontend.rule.refuse: a client that is refused goes to no backend: take one of the two away",
        "26: frontend.rule.refuse: no client comes so far: an earlier rule of this section takes all of them",
        "27: frontend.backend: is missing",
    ];
    assert_eq!(problems(text), expected);
}

#[test]
fn http_is_asked_for_and_knows_requests() {
    let section = |keys: &str| format!("[[listen]]\nname = \"m\"\nbind = [\"0.0.0.0:80\"]\n{keys}\n");
    let frontend = |keys: &str| parse(&section(keys)).unwrap().frontends.remove(0);
    assert_eq!(frontend("mode = \"http\"").http, Some(HttpSettings::default()));
    assert_eq!(frontend("check = { kind = \"http\" }").http, None, "not by the check alone");
    let full = frontend(
        "mode = \"http\"\nhttp = { request_timeout = \"3s\", answer_timeout = \"4s\", send_timeout = \"5s\", max_head = 9000 }\n\
         [[listen.rule]]\nhost = [\"*.Example.com\"]\npath = [\"/Api/*\"]\nrefuse = true",
    );
    let [request_timeout, answer_timeout, send_timeout] = [3, 4, 5].map(Duration::from_secs);
    let http = HttpSettings { request_timeout, answer_timeout, send_timeout, max_head: 9000 };
    assert_eq!(full.http, Some(http));
    let when = &full.rules.in_order[0].when;
    assert_eq!((&when.hosts[0], &when.paths[0]), (&Pattern::new("*.example.com"), &Pattern::new("/Api/*")));
    for (keys, problem) in [
        ("http = {}", "4: listen.http: only HTTP has requests; add `mode = \"http\"`"),
        ("mode = \"http\"\ngate = {}", "5: listen.gate: only MQTT has a CONNECT to judge"),
        (
            "mode = \"http\"\nhttp = { max_head = 1 }",
            "5: listen.http.max_head: must be between 8192 and 262144",
        ),
        (
            "rule = [{ path = [\"/\"], refuse = true }]",
            "4: listen.rule.path: stands in a request, which is only read with `mode = \"http\"`",
        ),
        (
            "mode = \"http\"\nrule = [{ client_id = [\"/\"], refuse = true }]",
            "5: listen.rule.client_id: stands in a CONNECT, which is only read with `mode = \"mqtt\"`",
        ),
    ] {
        assert!(problems(&section(keys))[0].starts_with(problem), "{:?}", problems(&section(keys)));
    }
}

#[test]
fn who_may_come_is_read_with_the_keys_of_the_broker() {
    let section = |keys: &str| format!("[[listen]]\nname = \"m\"\nbind = [\"0.0.0.0:1883\"]\n{keys}\n");
    let entry = |keys: &str| parse(&section(keys)).unwrap().frontends[0].entry.clone();
    assert_eq!(entry(""), EntrySettings::default());
    let full = entry(
        "allow = [\"10.0.0.0/8\"]\ndeny = [\"10.9.0.1\"]\nconnections = 9\nconnections_per_address = 8\n\
         pending_per_address = 7\nconnect_rate_per_address = { per_minute = 6, burst = 5 }\n\
         proxy_protocol = true\nproxy_from = [\"::1\"]",
    );
    let networks = |text: &str| vec![text.parse().unwrap()];
    assert_eq!((full.gate.allow, full.gate.deny), (networks("10.0.0.0/8"), networks("10.9.0.1")));
    assert_eq!((full.gate.connections, full.gate.connections_per_address), (Some(9), Some(8)));
    assert_eq!(full.pending_per_address, Some(7));
    assert_eq!(full.rate_per_address, Some(Rate { per_minute: 6, burst: 5 }));
    assert_eq!(full.proxy_from, networks("::1"));
    for (keys, problem) in [
        ("proxy_protocol = true", "1: listen.proxy_from: name whose PROXY headers are taken"),
        ("proxy_from = [\"::1\"]", "4: listen.proxy_from: says whose word counts, but"),
        ("allow = []", "4: listen.allow: an empty list says nothing"),
        ("deny = [\"10.0.0.0/40\"]", "4: listen.deny: `10.0.0.0/40` is not understood"),
    ] {
        assert!(problems(&section(keys))[0].starts_with(problem), "{:?}", problems(&section(keys)));
    }
}

#[test]
fn all_problems_come_at_once_with_their_lines() {
    let text = r#"
trheads = 2
[[listen]]
name = "mqtt"
bind = ["0.0.0.0:1883", "1883", "0.0.0.0:0"]
balance = "leastcon"
check = { kind = "mqqt", interval = "2 parsecs", rise = 0 }
[[listen.server]]
name = "a"
adress = "10.0.0.3:1883"
[[listen.server]]
name = "b"
address = "mqtt 2:1883"
weight = -1
[[listen.server]]
name = "two words"
address = "0.0.0.0:1883"
[[frontend]]
name = "mqtt"
bind = ["0.0.0.0:1883"]
backend = "mqt"
"#;
    let expected = [
        "2: trheads: unknown key: did you mean `threads`?",
        "5: listen.bind: `0.0.0.0:0`: port 0 would be another one at each start",
        "5: listen.bind: `1883` is not understood; write it like `0.0.0.0:1883`",
        "6: listen.balance: `leastcon` is none of leastconn, roundrobin, random, source, client_id: did you mean `leastconn`?",
        "7: listen.check.interval: `2 parsecs` is no time between 1ms and 1day; write it like `2s` or `500ms`",
        "7: listen.check.kind: `mqqt` is none of none, tcp, tls, http, mqtt: did you mean `mqtt`?",
        "7: listen.check.rise: must be between 1 and 100",
        "8: listen.server.address: is missing",
        "10: listen.server.adress: unknown key: did you mean `address`?",
        "13: listen.server.address: `mqtt 2:1883` is not understood; write it like `10.0.0.3:1883` or `mqtt-1.internal:1883`",
        "14: listen.server.weight: must be between 0 and 256",
        "16: listen.server.name: `two words`: a name has 1 to 128 letters, digits, and any of `._-$:`",
        "17: listen.server.address: `0.0.0.0:1883` is no place to connect to",
        "19: frontend.name: `mqtt` is the name of another listen or frontend section",
        "20: frontend.bind: `0.0.0.0:1883` is bound twice",
        "21: frontend.backend: there is no backend `mqt`: did you mean `mqtt`?",
    ];
    assert_eq!(problems(text), expected);
}

#[test]
fn an_empty_file_and_broken_toml_say_what_to_do() {
    assert!(problems("")[0].contains("add `[[listen]]`"));
    let broken = problems("[[listen]]\nname = \"mqtt\nbind = []\n");
    assert!(broken[0].starts_with("2: "), "{broken:?}");
    assert!(problems("[[listen]]\nname = \"a\"\n")[0].contains("listen.bind: is missing"));
    assert!(problems("listen = 5")[0].contains("expected tables (`[[…]]`), found: integer"));
}

/// The full file changed at random: never a panic, and every refusal names a line of the text.
#[test]
fn mutated_files_are_refused_with_a_line() {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % u64::try_from(below).unwrap()).unwrap()
    };
    for _ in 0..4000 {
        let mut text: Vec<char> = FULL.chars().collect();
        for _ in 0..=random(4) {
            if text.is_empty() {
                break;
            }
            let at = random(text.len());
            match random(4) {
                0 => text[at] = char::from(u8::try_from(32 + random(95)).unwrap()),
                1 => text.truncate(at.max(1)),
                2 => drop(text.remove(at)),
                _ => text.insert(at, ['[', '"', '=', '\n', 'ü', '#'][random(6)]),
            }
        }
        let text: String = text.into_iter().collect();
        if let Err(problems) = parse(&text) {
            let lines = text.split('\n').count();
            assert!(!problems.is_empty());
            assert!(
                problems.iter().all(|problem| (1..=lines).contains(&problem.line)),
                "{problems:?}\n{text}"
            );
        }
    }
}

#[test]
fn checks_are_read_whole_and_all_their_problems_told() {
    let text = r#"
[[listen]]
name = "mqtt"
bind = ["0.0.0.0:1883"]
server_tls = { ca = ["/ca.pem"], certificate = "/me.pem", server_name = "broker.internal" }
check = { kind = "mqtt", version = "5", client_id = "probe-%s", user_name = "probe", password_file = "/secret", loop_back = "nsd/%c", fast_interval = "100ms", slow_after = "200ms", port = 8884 }
"#;
    let backend = &parse(text).unwrap().backends[0];
    let Check { ask, fast_interval, port, tls, send_proxy, .. } = &backend.policy.check;
    let mqtt = MqttAsk {
        version: Version::V5,
        client_id: "probe-%s".to_owned(),
        user_name: Some("probe".to_owned()),
        password_file: Some("/secret".into()),
        loop_back: Some("nsd/%c".to_owned()),
    };
    assert_eq!(*ask, Ask::Mqtt(mqtt));
    assert_eq!((*fast_interval, *port), (Some(Duration::from_millis(100)), Some(8884)));
    assert!(!tls && !send_proxy, "another port is not that of clients");
    let tls = backend.policy.server_tls.as_ref().unwrap();
    assert_eq!(tls.client.paths(), ["/ca.pem", "/me.pem"].map(PathBuf::from));

    let text = r#"
[[backend]]
name = "a"
check = { kind = "tls", path = "/", port = 0 }
[[backend]]
name = "b"
check = { kind = "http", path = "health", expect = ["2xx", "399-200"], tls = true }
[[backend]]
name = "c"
server_tls = { ca = [], server_name = "no name" }
check = { kind = "mqtt", client_id = "", password_file = "/secret", loop_back = "nsd/#" }
[[listen]]
name = "l"
bind = ["0.0.0.0:1883"]
"#;
    let expected = [
        "4: backend.check.kind: `tls` needs `server_tls` beside it: whom to trust",
        "4: backend.check.path: unknown key: known here are rise, fall, timeout, address, port, kind, interval, fast_interval, slow_after, tls, send_proxy",
        "4: backend.check.port: must be between 1 and 65535",
        "7: backend.check.expect: `2xx` is not understood; write it like `200-399`",
        "7: backend.check.expect: `399-200` is not understood; write it like `200-399`",
        "7: backend.check.path: `health` is not understood; write it like `/health`",
        "7: backend.check.tls: needs `server_tls` beside `check`: whom to trust",
        "10: backend.server_tls.ca: must name at least one PEM file: the authorities that servers' certificates are from",
        "10: backend.server_tls.server_name: `no name` is neither a DNS name nor an address",
        "11: backend.check.client_id: a check needs a client identifier of 1 to 128 bytes",
        "11: backend.check.loop_back: is no topic to publish to: not empty, and without wildcards",
        "11: backend.check.password_file: needs a `user_name` beside it",
    ];
    assert_eq!(problems(text), expected);
}

#[test]
fn a_rate_has_a_burst_and_a_queue_that_fit_it() {
    let arrivals = |keys: &str| {
        let server = |name| format!("[[listen.server]]\nname = \"{name}\"\naddress = \"10.0.0.3:1883\"\n");
        let text = format!(
            "[[listen]]\nname = \"l\"\nbind = [\"0.0.0.0:1883\"]\n{keys}\n{}{}",
            server("a"),
            server("b")
        );
        parse(&text).map(|settings| settings.backends[0].policy.arrivals.clone())
    };
    let told = arrivals("connects_per_second = 200\nqueue_timeout = \"10s\"\nslow_start = \"30s\"").unwrap();
    assert_eq!(told.connect_rate, Some(ConnectRate { per_second: 200, burst: 20 }));
    assert_eq!(
        (told.queue, told.slow_start),
        (4000, Duration::from_secs(30)),
        "what two servers take in 10 s"
    );
    assert_eq!(arrivals("connects_per_second = 200\nqueue = 0").unwrap().queue, 0);
    let none = arrivals("").unwrap();
    assert_eq!((none.queue, none.connect_rate, none.slow_start), (0, None, Duration::ZERO));
    let problem = arrivals("connects_burst = 5").unwrap_err();
    assert_eq!(problem[0].to_string(), "4: listen.connects_burst: needs `connects_per_second` beside it");
}

#[test]
fn how_sessions_leave_who_was_taken_over_from() {
    let with = |table: &str| {
        parse(&format!("[take_over]\n{table}\n[[listen]]\nname = \"a\"\nbind = [\"127.0.0.1:1\"]\n"))
    };
    let default = with("").unwrap().take_over;
    assert_eq!((default.rate.to_string(), default.deadline), ("100/s".to_owned(), Duration::from_secs(600)));
    let told = with("rate = \"30/min\"\ndeadline = \"1h\"").unwrap().take_over;
    assert_eq!((told.rate.to_string(), told.deadline), ("30/min".to_owned(), Duration::from_secs(3600)));
    let problems = with("rate = 5\ndeadline = \"2d\"\nspeed = 1").unwrap_err();
    assert_eq!(problems.iter().map(|problem| problem.line).collect::<Vec<_>>(), [2, 3, 4], "{problems:?}");
}
