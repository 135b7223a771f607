use super::*;

fn convert(text: &str) -> Configuration {
    mosquitto(&lines("m.conf", text), "/etc/nsd")
}

fn notes(text: &str) -> Vec<String> {
    convert(text).notes.iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_said_is_this_machine_only() {
    let made = convert("# nothing\n\n");
    assert!(made.notes.is_empty());
    assert!(made.toml.contains("allow_anonymous = true\n"), "{}", made.toml);
    assert!(made.toml.contains("address = \"127.0.0.1:1883\""), "{}", made.toml);
}

#[test]
fn a_listener_closes_the_door_to_anonymous_clients() {
    let made = convert("listener 1883\n");
    assert!(
        made.toml.contains("allow_anonymous = false\n") && made.toml.contains("address = \"[::]:1883\""),
        "{}",
        made.toml
    );
    let made = convert("port 1884\nbind_address 10.0.0.1\nallow_anonymous true\n");
    assert!(
        made.toml.contains("allow_anonymous = true\n") && made.toml.contains("\"10.0.0.1:1884\""),
        "{}",
        made.toml
    );
}

#[test]
fn anonymous_at_one_listener_is_not_anonymous_at_all() {
    let text = "per_listener_settings true\nlistener 1883 localhost\nallow_anonymous true\nlistener 8883\npassword_file /p\n";
    let made = convert(text);
    assert!(made.toml.contains("allow_anonymous = false\n"), "{}", made.toml);
    assert_eq!(made.notes.len(), 1);
    assert_eq!(made.notes[0].at, "m.conf:1");
}

#[test]
fn limits_and_logs() {
    let made = convert(
        "max_inflight_messages 0\nmax_queued_messages 500\nmax_packet_size 2048\nmax_keepalive 60\nretain_available false\n\
         persistent_client_expiration 2w\nsys_interval 0\nlog_type error\nlog_type warning\npersistence true\n\
         persistence_location /var/lib/mosquitto/\nset_tcp_nodelay true\n",
    );
    assert_eq!(made.notes, []);
    for line in [
        "send_window = 65535",
        "queue_messages = 500",
        "packet_bytes = 2048",
        "keep_alive = 60",
        "retained = 0",
        "session_expiry = \"336h\"",
        "interval = \"0s\"",
        "level = \"warn\"",
        "kind = \"disk\"",
        "directory = \"/var/lib/mosquitto/nsd\"",
    ] {
        assert!(made.toml.contains(line), "{line}\n{}", made.toml);
    }
}

#[test]
fn what_a_listener_limits_stays_its_own() {
    let made = convert("listener 1883\nlistener 1884\nmax_connections 7\nmax_topic_alias 3\n");
    assert_eq!(made.notes, []);
    let settings =
        crate::settings::parse(&made.toml.replace("kind = \"disk\"", "kind = \"memory\"")).unwrap();
    let aliases: Vec<_> = settings.listen.iter().map(|listen| listen.limits.topic_aliases).collect();
    assert_eq!(aliases, [crate::limits::Limits::default().topic_aliases, 3]);
    assert_eq!(settings.listen[1].gate.connections, Some(7));
    assert_eq!(notes("listener 1883\nmax_topic_alias 70000\n").len(), 1);
    assert_eq!(notes("listener 1883\nmax_connections 10220001930080019330\n").len(), 1);
    assert!(!convert("listener 1883\nmax_connections -1\n").toml.contains("connections"));
}

#[test]
fn tls_with_client_certificates() {
    let made = convert(
        "listener 8883 0.0.0.0\ncertfile /c/cert.pem\nkeyfile /c/key.pem\ncafile /c/ca.pem\nrequire_certificate true\nuse_identity_as_username true\n",
    );
    assert_eq!(
        made.certificates,
        [Combined {
            name: "/etc/nsd/listener-8883.pem".into(),
            chain: "/c/cert.pem".into(),
            key: "/c/key.pem".into()
        }]
    );
    assert!(made.toml.contains("certificates = [\"/etc/nsd/listener-8883.pem\"]"), "{}", made.toml);
    assert!(
        made.toml.contains("client_ca = [\"/c/ca.pem\"]\nclient_certificate = \"required\""),
        "{}",
        made.toml
    );
}

#[test]
fn what_has_no_counterpart_is_named_by_its_line_and_stands_in_the_file() {
    let text = "pid_file /run/m.pid\nfrobnicate 7\nlog_dest syslog\nlistener 0 /run/m.sock\nsocket_domain ipv4\n\
                listener 1883 example.org\nconnection cloud\naddress x:1883\nremote_password hush\ntopic # both\nuser mosquitto\nauth_opt_pass hush\n";
    let made = convert(text);
    let told: Vec<_> = made.notes.iter().map(|note| note.at.as_str()).collect();
    let expected: Vec<_> = (1..=12).map(|number| format!("m.conf:{number}")).collect();
    assert_eq!(told, expected);
    assert!(made.notes.iter().all(|note| made.toml.contains(&format!("#   {note}"))));
    assert!(!made.toml.contains("hush"), "{}", made.toml);
}

#[test]
fn values_that_cannot_be_are_told() {
    let told = notes(
        "listener x\nlistener 1883\nport 0\nmax_keepalive 70000\npersistence maybe\npersistent_client_expiration é\nlog_type loud\nmax_packet_size 20\n",
    );
    assert_eq!(told.len(), 7, "{told:?}");
    assert!(told[0].starts_with("m.conf:1: `listener x`: names no port"), "{told:?}");
}

#[test]
fn a_value_cannot_break_out_of_its_line() {
    let made = convert(
        "listener 1883\npassword_file /p\"\\x\u{7f}é\nacl_file /a\u{1b}[1m\nodd\u{1b} \u{1b}]0;x\u{7}\n\
         listener 8883\ncertfile /c\u{1b}\nkeyfile /k\u{7}\n",
    );
    assert!(made.toml.contains(r#"password_file = "/p\"\\x\u007fé""#), "{}", made.toml);
    assert!(!made.toml.contains('\u{1b}') && !made.toml.contains('\u{7}'), "{}", made.toml);
    toml::from_str::<toml::Table>(&made.toml).unwrap();
}
