//! The dashboard as one sees it without a browser.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nsd_edge::admin::{Method, StatusCode};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::visitor::{Visitor, passwd, with_anna};
use crate::support::{
    BINARY, Balancer, Broker, CHECK, Client, PATIENCE, free_address, listen, servers, tls, until,
};

struct Stage {
    balancer: Balancer,
    settings: String,
    dashboard: SocketAddr,
    b1: Broker,
    _b2: Broker,
}

fn dashboard(address: SocketAddr, directory: &Path, more: &str) -> String {
    let file = directory.join("users");
    format!("[dashboard]\nbind = \"{address}\"\npassword_file = \"{}\"\n{more}\n", file.display())
}

/// Two servers and a dashboard, with these further settings of it.
async fn stage(more: &str) -> Stage {
    let (b1, b2) = (Broker::start("b1").await, Broker::start("b2").await);
    let directory = TempDir::new().unwrap();
    with_anna(&directory.path().join("users"));
    let (address, page) = (free_address(), free_address());
    let settings = listen(address, CHECK, &servers(&["b1", "b2"], &[&b1, &b2]));
    let settings = format!("{settings}{}", dashboard(page, directory.path(), more));
    let balancer = Balancer::start_in(directory, address, &settings, Command::new(BINARY)).await;
    balancer.wait_for_state("b1", "healthy").await;
    Stage { balancer, settings, dashboard: page, b1, _b2: b2 }
}

#[tokio::test]
async fn before_the_login_there_is_the_form_and_nothing_else() {
    let stage = stage("").await;
    let visitor = Visitor::new(stage.dashboard);
    let start = visitor.get("/").await;
    assert_eq!((start.status, start.header("location")), (303, Some("/login")));
    let form = visitor.get("/login").await;
    assert_eq!(form.status, 200);
    assert!(form.body.contains("type=\"password\"") && !form.body.contains("b1"), "{form:?}");
    assert_eq!(form.header("cache-control"), Some("no-store"));
    assert_eq!(form.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(form.header("x-frame-options"), Some("deny"));
    let policy = form.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
    for path in ["/page.js", "/api/status", "/api/history", "/metrics", "/status", "/nothing"] {
        let answer = visitor.get(path).await;
        assert_eq!(answer.status, 401, "{path}");
        assert!(!answer.body.contains("b1") && answer.body.len() < 100, "{answer:?}");
    }
    for path in ["/api/drain", "/api/ready", "/api/reload", "/logout"] {
        assert_eq!(visitor.post(path, r#"{"server":"b1"}"#).await.status, 401, "{path}");
    }
    assert_eq!(stage.balancer.server("b1").await["state"], "healthy");
}

#[tokio::test]
async fn who_is_logged_in_sees_what_the_admin_socket_tells() {
    let stage = stage("").await;
    let mut clients = Client::many(stage.balancer.address, 3).await;
    let visitor = Visitor::logged_in(stage.dashboard).await;
    assert!(visitor.get("/").await.body.contains("id=\"backends\""));
    assert_eq!(visitor.get("/page.js").await.header("content-type"), Some("text/javascript; charset=utf-8"));
    let shown = visitor.get("/api/status").await.json();
    let (_, told) = stage.balancer.ask(Method::GET, "/status", None).await;
    assert_eq!(shown["sessions"], 3);
    let frontend = &shown["frontends"][0];
    assert_eq!((&frontend["connections"], &frontend["connections_total"]), (&3.into(), &3.into()));
    assert_eq!(shown["version"], env!("CARGO_PKG_VERSION"));
    for key in ["frontends", "problem", "certificates", "ready", "degraded"] {
        assert_eq!(shown[key], told[key], "{key}");
    }
    let seen = async || {
        let history = visitor.get("/api/history").await.json();
        let samples = history["samples"].as_array().unwrap().clone();
        let last = samples.last()?.clone();
        (last["sessions"] == 3 && samples.len() > 1).then_some(last["at"].as_u64()?)
    };
    until("the samples show the sessions", async || seen().await.is_some()).await;
    let at = seen().await.unwrap();
    let later = visitor.get(&format!("/api/history?after={}", at - 1)).await.json();
    let later: Vec<_> = later["samples"].as_array().unwrap().iter().map(|one| one["at"].as_u64()).collect();
    assert!(
        later.contains(&Some(at)) && later.iter().all(|one| *one >= Some(at)),
        "only what is new: {later:?}"
    );
    clients[0].echo(&[0; 200_000]).await.unwrap();
    let moved = async || {
        let history = visitor.get("/api/history").await.json();
        let samples = history["samples"].as_array().unwrap();
        // One sample has much of it, rated by a second that may have been a long one.
        ["bytes_in", "bytes_out"].iter().all(|way| samples.iter().any(|s| s[way].as_u64().unwrap() > 2000))
    };
    until("the samples show the traffic", moved).await;
    assert_eq!(visitor.get("/nothing").await.status, 404);
    drop(clients);
}

#[tokio::test]
async fn the_buttons_drain_a_server_and_bring_it_back() {
    let stage = stage("").await;
    let visitor = Visitor::logged_in(stage.dashboard).await;
    let answer = visitor.post("/api/drain", r#"{"server":"b1"}"#).await;
    assert_eq!((answer.status, &answer.json()["servers"][0]["state"]), (200, &"draining".into()));
    let clients = Client::many(stage.balancer.address, 4).await;
    assert!(clients.iter().all(|client| client.broker == "b2"), "new sessions go elsewhere");
    assert_eq!(visitor.post("/api/ready", r#"{"server":"b1"}"#).await.status, 200);
    stage.balancer.wait_for_state("b1", "healthy").await;
    assert_eq!(Client::connect(stage.balancer.address).await.unwrap().broker, "b1");
    let on_b2 = clients.len();
    assert_eq!(visitor.post("/api/drain", r#"{"server":"b2","rate":"100/s"}"#).await.status, 200);
    let told = async || {
        let moves = visitor.get("/api/status").await.json()["moves"].clone();
        moves[0]["server"] == "b2" && moves[0]["closed"] == on_b2
    };
    until("its sessions are told to leave", told).await;
    assert_eq!(visitor.post("/api/drain", r#"{"server":"b9"}"#).await.status, 404);
    assert_eq!(visitor.post("/api/drain", "{").await.status, 400);
    let log = stage.balancer.log();
    assert!(log.contains("dashboard: drain") && log.contains("anna"), "who did it is told: {log}");
}

/// What another page in the same browser could send: it has the cookie, and cannot lie about its origin.
#[tokio::test]
async fn what_does_not_come_from_our_page_changes_nothing() {
    let stage = stage("").await;
    let visitor = Visitor::logged_in(stage.dashboard).await;
    let port = stage.dashboard.port();
    for origin in [
        String::new(),
        "origin: null\r\n".to_owned(),
        "origin: https://evil.example\r\n".to_owned(),
        format!("origin: http://127.0.0.1:{}\r\n", port ^ 1),
        format!("origin: http://127.0.0.1:{port}.evil.example\r\n"),
        format!("origin: http://{}\r\norigin: http://evil.example\r\n", stage.dashboard),
    ] {
        for path in ["/api/drain", "/api/ready", "/logout"] {
            let answer = visitor.ask("POST", path, &origin, r#"{"server":"b1"}"#).await;
            assert_eq!(answer.status, 403, "{path} from {origin:?}");
        }
        let form = "user=anna&password=open+sesame";
        assert_eq!(Visitor::new(stage.dashboard).ask("POST", "/login", &origin, form).await.status, 403);
    }
    assert_eq!(visitor.ask("GET", "/api/drain?server=b1", "", "").await.status, 404);
    assert_eq!(stage.balancer.server("b1").await["state"], "healthy");
    assert_eq!(visitor.get("/api/status").await.status, 200, "still logged in");
}

#[tokio::test]
async fn wrong_passwords_are_refused_and_soon_not_even_looked_at() {
    let stage = stage("").await;
    let mut visitor = Visitor::new(stage.dashboard);
    for (user, password) in [("anna", "open sesam"), ("bert", "open sesame"), ("", ""), ("anna", "")] {
        let answer = visitor.log_in(user, password).await;
        assert_eq!((answer.status, answer.header("set-cookie")), (401, None), "{user}");
        assert!(answer.body.contains("The name or the password is wrong."));
    }
    for _ in 0..2 {
        assert_eq!(visitor.log_in("anna", "wrong").await.status, 401);
    }
    // Six tries from one source, and one more every ten seconds: who comes just then is looked at.
    let begun = Instant::now();
    let right = loop {
        assert!(begun.elapsed() < PATIENCE, "each try is looked at");
        if visitor.log_in("anna", "wrong").await.status == 429 {
            let right = visitor.log_in("anna", "open sesame").await;
            if right.status == 429 {
                break right;
            }
        }
    };
    assert_eq!(right.header("retry-after"), Some("60"), "not even the right one");
    let log = stage.balancer.log();
    assert!(log.contains("login refused") && log.contains("too many logins"), "{log}");
    assert_eq!(log.matches("login refused").count(), 1, "one line for all of them: {log}");
    for secret in ["sesam", "bert", "argon2id"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[tokio::test]
async fn a_login_ends_unused_with_its_lifetime_by_logout_and_with_its_password() {
    let stage = stage("idle_timeout = \"4s\"\nlogin_lifetime = \"15s\"").await;
    let since = Instant::now();
    let used = Visitor::logged_in(stage.dashboard).await;
    let unused = Visitor::logged_in(stage.dashboard).await;
    let left_alone = Instant::now();
    assert_eq!(used.get("/api/status").await.status, 200);
    let out = Visitor::logged_in(stage.dashboard).await;
    let answer = out.post("/logout", "").await;
    assert_eq!((answer.status, answer.header("location")), (303, Some("/login")));
    assert!(answer.header("set-cookie").unwrap().contains("max-age=0"));
    assert_eq!(out.get("/api/status").await.status, 401, "the cookie alone is worth nothing");
    while left_alone.elapsed() < Duration::from_secs(5) {
        assert_eq!(used.get("/api/status").await.status, 200);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(unused.get("/api/status").await.status, 401);
    until("its lifetime is over", async || used.get("/api/status").await.status == 401).await;
    assert!(since.elapsed() > Duration::from_secs(14));

    let file = stage.balancer.path("users");
    assert!(passwd(&file, &["bert"], "tea time").status.success());
    stage.balancer.wait_for_log("users changed").await;
    let mut bert = Visitor::new(stage.dashboard);
    assert_eq!(bert.log_in("bert", "tea time").await.status, 303);
    assert!(passwd(&file, &["bert"], "coffee").status.success());
    until("another password ends the login", async || bert.get("/api/status").await.status == 401).await;
}

#[tokio::test]
async fn the_cookie_is_the_browsers_alone() {
    let stage = stage("").await;
    let mut visitor = Visitor::new(stage.dashboard);
    let answer = visitor.log_in("anna", "open sesame").await;
    let cookie = answer.header("set-cookie").unwrap();
    let (value, rest) = cookie.split_once("; ").unwrap();
    assert_eq!(rest, "path=/; httponly; samesite=strict; max-age=43200");
    let token = value.strip_prefix("nsd-balancer=").unwrap();
    assert_eq!(token.len(), 64, "256 bits");
    for wrong in ["", &token[..62], &format!("{token}00"), &"0".repeat(64), "é"] {
        visitor.cookie = Some(format!("nsd-balancer={wrong}"));
        assert_eq!(visitor.get("/api/status").await.status, 401, "{wrong}");
    }
    visitor.cookie = Some(format!("other=1; nsd-balancer={token}; third=x"));
    assert_eq!(visitor.get("/api/status").await.status, 200);
}

#[tokio::test]
async fn what_is_too_large_or_too_slow_is_cut_off() {
    let stage = stage("").await;
    let visitor = Visitor::new(stage.dashboard);
    let large = "x".repeat(5000);
    assert_eq!(visitor.post("/login", &format!("user=anna&password={large}")).await.status, 413);
    let many = format!("GET /login HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    assert!([0, 431].contains(&visitor.send(&many).await.status));
    assert_eq!(visitor.send("\x16\x03\x01 no HTTP at all\r\n\r\n").await.status, 400);
    for begun in ["", "GET / HT", "POST /login HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nuser="] {
        let mut stream = TcpStream::connect(stage.dashboard).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "after {begun:?} it waits for ever");
    }
}

/// They hold what the dashboard has, for a few seconds; devices do not notice.
#[tokio::test]
async fn two_hundred_idle_visitors_concern_no_client() {
    let stage = stage("").await;
    let mut client = Client::connect(stage.balancer.address).await.unwrap();
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(TcpStream::connect(stage.dashboard).await.unwrap());
    }
    for _ in 0..50 {
        client.echo(b"not concerned").await.unwrap();
        Client::connect(stage.balancer.address).await.expect("let in");
    }
    assert_eq!(stage.balancer.ask(Method::GET, "/health", None).await.0, StatusCode::OK);
    let answered = async || Visitor::new(stage.dashboard).get("/login").await.status == 200;
    until("the dashboard gets rid of them", answered).await;
    drop(idle);
}

#[tokio::test]
async fn it_comes_goes_and_moves_with_a_reload() {
    let stage = stage("").await;
    let visitor = Visitor::logged_in(stage.dashboard).await;
    let mut client = Client::connect(stage.balancer.address).await.unwrap();
    let without = listen(stage.balancer.address, CHECK, &[("b1", stage.b1.address)]);

    // Other times, at the same address: the login stays.
    stage.balancer.rewrite(&format!("{}idle_timeout = \"1h\"\n", stage.settings));
    stage.balancer.wait_for_log("~dashboard").await;
    assert_eq!(visitor.get("/api/status").await.status, 200);

    // A password file that is wrong refuses the whole change.
    let file = stage.balancer.path("other");
    std::fs::write(&file, "anna:plain\n").unwrap();
    let wrong =
        stage.settings.replace(&*stage.balancer.path("users").to_string_lossy(), &file.to_string_lossy());
    stage.balancer.rewrite(&wrong);
    stage.balancer.wait_for_log("others than its owner may use it").await;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let (code, answer) = stage.balancer.ask(Method::POST, "/reload", None).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(answer["problems"][0].as_str().unwrap().contains("other:1: is no argon2id record"), "{answer}");
    let shown = visitor.get("/api/status").await.json();
    assert!(shown["problem"].as_str().unwrap().contains("argon2id"), "the page tells it: {shown}");

    let other = free_address();
    let moved = format!("{without}{}", dashboard(other, stage.balancer.directory.path(), ""));
    stage.balancer.rewrite(&moved);
    stage.balancer.wait_for_log(&format!("+dashboard {other}")).await;
    let moved = Visitor { address: other, cookie: visitor.cookie.clone() };
    assert_eq!(moved.get("/api/status").await.status, 200, "the login moves along");
    assert!(TcpStream::connect(stage.dashboard).await.is_err());

    stage.balancer.rewrite(&without);
    stage.balancer.wait_for_log("-dashboard").await;
    assert!(TcpStream::connect(other).await.is_err(), "off without its section");
    client.echo(b"still here").await.unwrap();
}

#[tokio::test]
async fn over_tls_the_cookie_never_leaves_tls() {
    let authority = tls::Authority::new("our authority");
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("own.pem");
    std::fs::write(&file, authority.server(tls::NAME).combined()).unwrap();
    let stage = stage(&format!("[dashboard.tls]\ncertificates = [\"{}\"]", file.display())).await;
    let form = "user=anna&password=open+sesame";
    let request = format!(
        "POST /login HTTP/1.1\r\nhost: localhost\r\norigin: https://localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{form}",
        form.len()
    );
    let socket = TcpStream::connect(stage.dashboard).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(authority.client_config(None));
    let mut stream = connector.connect(tls::NAME.try_into().unwrap(), socket).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 303"), "{answer}");
    assert!(answer.contains("set-cookie: __Host-nsd-balancer=") && answer.contains("; Secure"), "{answer}");
    assert_ne!(Visitor::new(stage.dashboard).get("/login").await.status, 200, "nothing in the clear");
}

#[test]
fn unsafe_settings_are_refused() {
    let directory = TempDir::new().unwrap();
    with_anna(&directory.path().join("users"));
    let run = |dashboard: &str| {
        let path = directory.path().join("balancer.toml");
        let settings = listen(free_address(), CHECK, &[("b1", free_address())]);
        std::fs::write(&path, format!("{settings}{dashboard}")).unwrap();
        let output = Command::new(BINARY).arg("--check").arg("--config").arg(path).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let at =
        |bind: &str, more: &str| dashboard(free_address(), directory.path(), more).replace("127.0.0.1", bind);
    assert_eq!(run(&at("127.0.0.1", "")), (Some(0), String::new()));
    assert_eq!(run(&at("0.0.0.0", "allow_plain = true")), (Some(0), String::new()));
    for bind in ["0.0.0.0", "[::]", "192.0.2.1"] {
        let (code, text) = run(&at(bind, ""));
        assert!(
            code == Some(65) && text.contains("passwords would cross the network in the clear"),
            "{text}"
        );
    }
    let (code, text) = run("[dashboard]\nbinds = \"127.0.0.1:1\"\n");
    assert_eq!(code, Some(65));
    for part in ["dashboard.bind: is missing", "dashboard.password_file: is missing", "did you mean `bind`?"]
    {
        assert!(text.contains(part), "{text}");
    }
    std::fs::set_permissions(directory.path().join("users"), std::fs::Permissions::from_mode(0o640)).unwrap();
    let (code, text) = run(&at("127.0.0.1", ""));
    assert!(code == Some(65) && text.contains("(mode 640): `chmod 600` it"), "{text}");
}

#[test]
fn the_passwd_command_writes_a_file_for_its_owner_alone() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("users");
    with_anna(&file);
    assert!(passwd(&file, &["bert"], "tea time\n").status.success());
    let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!((mode, text.lines().count()), (0o600, 2));
    assert!(text.lines().all(|line| line.contains(":$argon2id$")) && !text.contains("sesame"), "{text}");
    assert!(passwd(&file, &["bert", "--delete"], "").status.success());
    assert!(!std::fs::read_to_string(&file).unwrap().contains("bert"));
    for (arguments, password, told) in [
        (&["bert", "--delete"][..], "", "there is no user `bert`"),
        (&["carl"][..], "", "the password is empty"),
        (&["a:b"][..], "x", "a colon"),
    ] {
        let output = passwd(&file, arguments, password);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains(told), "{output:?}");
    }
}

#[test]
fn the_commands_and_settings_of_its_document_work() {
    let directory = TempDir::new().unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/balancer-dashboard.md");
    let document = std::fs::read_to_string(path).unwrap();
    let document = document.replace("/etc/nsd/", &format!("{}/", directory.path().display()));
    tls::write_documented(directory.path());
    let commands = document.lines().filter_map(|line| line.strip_prefix("    nsd-balancer passwd "));
    let commands: Vec<Vec<&str>> = commands.map(|command| command.split_whitespace().collect()).collect();
    assert_eq!(commands.len(), 2);
    // Whom the second command removes has to be there.
    assert!(passwd(Path::new(commands[1][0]), &["bert"], "tea time").status.success());
    for command in commands {
        let output = passwd(Path::new(command[0]), &command[1..], "open sesame");
        assert!(output.status.success(), "{command:?}: {output:?}");
    }
    let examples: Vec<&str> =
        document.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(examples.len(), 2);
    for example in examples {
        let path = directory.path().join("balancer.toml");
        std::fs::write(&path, example).unwrap();
        let output = Command::new(BINARY).arg("--check").arg("--config").arg(path).output().unwrap();
        assert!(output.status.success(), "{}\n{example}", String::from_utf8_lossy(&output.stderr));
    }
}
