//! Frontends of HTTP: the article's web example, what servers are told, and what hostile requests get.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nsd_edge::admin::Method;
use nsd_edge::tls::TlsClient;
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::support::{BINARY, Balancer, PATIENCE, free_address, listen, until};
use crate::tls;

/// A web server that keeps what it is asked, byte for byte, and answers with its name.
struct Web {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
    acceptor: JoinHandle<()>,
    closing: Arc<Notify>,
}

impl Web {
    async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, heard) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let kept = Arc::clone(&heard);
        let closing = Arc::<Notify>::default();
        let closes = Arc::clone(&closing);
        let acceptor = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.unwrap();
                        connections.spawn(answer(stream, name, Arc::clone(&kept)));
                    }
                    () = closes.notified() => break,
                }
            }
            drop(listener);
            while connections.join_next().await.is_some() {}
        });
        Self { address, heard, acceptor, closing }
    }

    /// Takes no more connections, and answers on those that are there.
    fn close(&self) {
        self.closing.notify_one();
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

/// A request's body, as far as its head tells its length.
fn is_whole(request: &[u8]) -> bool {
    let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
    let told = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
    request.len() >= end + 4 + told.unwrap_or(0)
}

/// Reads as long as something comes, so that what is hidden behind a request would be seen.
async fn answer(mut stream: TcpStream, name: &str, heard: Arc<Mutex<Vec<String>>>) -> Option<()> {
    let mut bytes = Vec::new();
    while !is_whole(&bytes) {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let text = || String::from_utf8_lossy(&bytes).into_owned();
    if text().contains("upgrade: websocket") {
        heard.lock().unwrap().push(text());
        let words =
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello";
        stream.write_all(words).await.ok()?;
        let mut buffer = vec![0; 4096];
        loop {
            let read = stream.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
            stream.write_all(&buffer[..read]).await.ok()?;
        }
    }
    let path = text().split(' ').nth(1)?.to_owned();
    match path.as_str() {
        "/hang" => return std::future::pending().await,
        "/garbage" => stream.write_all(b"what?\r\n\r\n").await.ok()?,
        "/switch" => stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").await.ok()?,
        "/close" => return None,
        "/large" => {
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
            stream.write_all(head).await.ok()?;
            loop {
                stream.write_all(&[b'x'; 65536]).await.ok()?;
            }
        }
        _ => {
            let more = tokio::time::timeout(Duration::from_millis(200), stream.read_buf(&mut bytes));
            let _ = more.await;
            heard.lock().unwrap().push(String::from_utf8_lossy(&bytes).into_owned());
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nKeep-Alive: timeout=1\r\nX-Own: 1\r\n\r\n",
                name.len()
            );
            stream.write_all((head + name).as_bytes()).await.ok()?;
        }
    }
    Some(())
}

const TCP: &str = r#"check = { kind = "tcp", interval = "200ms", rise = 1, fall = 2 }"#;

async fn before(webs: &[(&str, &Web)], options: &str) -> Balancer {
    let address = free_address();
    let servers: Vec<_> = webs.iter().map(|(name, web)| (*name, web.address)).collect();
    let options = format!("mode = \"http\"\nbalance = \"roundrobin\"\n{TCP}\n{options}");
    Balancer::start(address, &listen(address, &options, &servers)).await
}

/// Status line and fields of the next answer, and its body.
async fn next_answer(stream: &mut (impl AsyncRead + Unpin)) -> (String, String) {
    let mut bytes = Vec::new();
    let reading = async {
        loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
                let length =
                    head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
                if bytes.len() >= end + 4 + length.unwrap_or(0) {
                    return (head, String::from_utf8_lossy(&bytes[end + 4..]).into_owned());
                }
            }
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return (String::from_utf8_lossy(&bytes).to_ascii_lowercase(), String::new());
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("an answer")
}

async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> (String, String) {
    stream.write_all(request.as_bytes()).await.unwrap();
    next_answer(stream).await
}

async fn get(address: SocketAddr, host: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    ask(&mut stream, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await
}

#[tokio::test]
async fn round_robin_over_one_connection_of_the_client() {
    let (w1, w2) = (Web::start("w1").await, Web::start("w2").await);
    let balancer = before(&[("w1", &w1), ("w2", &w2)], "").await;
    let mut stream = TcpStream::connect(balancer.address).await.unwrap();
    let mut names = Vec::new();
    for _ in 0..4 {
        let (head, name) = ask(&mut stream, "GET /a?b=secret HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(head.starts_with("http/1.1 200") && head.contains("x-own: 1"), "{head}");
        assert!(!head.contains("keep-alive: timeout"), "of one hop: {head}");
        names.push(name);
    }
    names.sort();
    assert_eq!(names, ["w1", "w1", "w2", "w2"]);
    balancer.wait_for_log("method=GET path=\"/a\" status=200 server=\"w1\"").await;
    assert!(!balancer.log().contains("secret"), "queries stay out of the log");
}

/// The article's web example: path and host choose the backend.
#[tokio::test]
async fn path_and_host_choose_the_backend() {
    let (web, api, blog) = (Web::start("web").await, Web::start("api").await, Web::start("blog").await);
    let address = free_address();
    let backend = |name: &str, web: &Web| {
        format!(
            "[[backend]]\nname = \"{name}\"\n{TCP}\n[[backend.server]]\nname = \"{name}\"\naddress = \"{}\"\n",
            web.address
        )
    };
    let settings = backend("web", &web)
        + &backend("api", &api)
        + &backend("blog", &blog)
        + &format!(
            "[[frontend]]\nname = \"door\"\nmode = \"http\"\nbind = [\"{address}\"]\nbackend = \"web\"\n\
         [[frontend.rule]]\npath = [\"/private*\"]\nrefuse = true\n\
         [[frontend.rule]]\npath = [\"/api/*\"]\nhost = [\"example.com\"]\nbackend = \"api\"\n\
         [[frontend.rule]]\nhost = [\"blog.*\"]\nbackend = \"blog\"\n"
        );
    let _balancer = Balancer::start(address, &settings).await;
    for (host, path, expected) in [
        ("example.com", "/", "web"),
        ("Example.com:8080", "/api/x", "api"),
        ("other.com", "/api/x", "web"),
        ("BLOG.example.com", "/api/x", "blog"),
    ] {
        assert_eq!(get(address, host, path).await.1, expected, "{host}{path}");
    }
    let (head, body) = get(address, "example.com", "/private/x").await;
    assert!(head.starts_with("http/1.1 403") && body == "403 Forbidden\n", "{head}");
}

#[tokio::test]
async fn the_server_is_told_of_its_client_and_no_more_than_is_for_it() {
    let w1 = Web::start("w1").await;
    let balancer = before(&[("w1", &w1)], "").await;
    let mut stream = TcpStream::connect(balancer.address).await.unwrap();
    let request = "POST /x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n\
                   Connection: keep-alive, X-Hop, Host\r\nX-Hop: 1\r\nTE: trailers\r\nUpgrade: h2c\r\nContent-Length: 4\r\n\r\nbody";
    assert_eq!(ask(&mut stream, request).await.1, "w1");
    let heard = w1.heard().remove(0).to_ascii_lowercase();
    for part in [
        "x-forwarded-for: 203.0.113.9, 127.0.0.1\r\n",
        "x-forwarded-proto: http\r\n",
        "connection: close\r\n",
    ] {
        assert!(heard.contains(part), "{part}\n{heard}");
    }
    assert!(heard.contains("host: a\r\n"), "{heard}");
    for part in ["x-hop", "te:", "upgrade"] {
        assert!(!heard.contains(part), "{part}\n{heard}");
    }
    assert!(heard.ends_with("\r\n\r\nbody"), "{heard}");
}

#[tokio::test]
async fn failures_are_told_in_one_line() {
    let w1 = Web::start("w1").await;
    let balancer = before(&[("w1", &w1)], "[listen.http]\nanswer_timeout = \"4s\"").await;
    for (path, status) in [
        ("/hang", "504 Gateway Timeout"),
        ("/garbage", "502 Bad Gateway"),
        ("/close", "502 Bad Gateway"),
        ("/switch", "502 Bad Gateway"),
    ] {
        let (head, body) = get(balancer.address, "a", path).await;
        assert!(head.starts_with(&format!("http/1.1 {}", status.to_ascii_lowercase())), "{path}: {head}");
        assert_eq!(body, format!("{status}\n"));
    }
    assert_eq!(get(balancer.address, "a", "/").await.1, "w1", "it goes on");
    drop(w1);
    let unavailable = async || get(balancer.address, "a", "/").await.0.starts_with("http/1.1 503");
    until("without a server it is said so", unavailable).await;
}

#[tokio::test]
async fn heads_that_are_slow_or_large_are_cut() {
    let w1 = Web::start("w1").await;
    let options = "[listen.http]\nrequest_timeout = \"5s\"\nmax_head = 8192";
    let balancer = before(&[("w1", &w1)], options).await;
    let mut loris = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(balancer.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX-").await.unwrap();
        loris.push(stream);
    }
    assert_eq!(get(balancer.address, "a", "/").await.1, "w1", "others are served meanwhile");
    for mut stream in loris {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        let _ = read.expect("a slow head is cut");
    }
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Large: {}\r\n\r\n", "x".repeat(20_000));
    let fields = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(200));
    for request in [large, fields] {
        let mut stream = TcpStream::connect(balancer.address).await.unwrap();
        let _ = stream.write_all(request.as_bytes()).await;
        let (head, _) = next_answer(&mut stream).await;
        assert!(head.is_empty() || head.starts_with("http/1.1 431"), "{head}");
    }
    assert_eq!(w1.heard().len(), 1, "none of them touched the server");
}

/// Whatever is hidden behind a request, the server hears one request with one length, or none at all.
#[tokio::test]
async fn no_second_request_is_smuggled_in() {
    let w1 = Web::start("w1").await;
    let balancer = before(&[("w1", &w1)], "").await;
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    let body = format!("0\r\n\r\n{hidden}");
    for fields in [
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", body.len()),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {}\r\n", body.len()),
        format!("Content-Length: {}\r\nContent-Length: 5\r\n", body.len()),
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n".to_owned(),
        "Transfer-Encoding: xchunked\r\n".to_owned(),
        "Transfer-Encoding : chunked\r\n".to_owned(),
        "Transfer-Encoding: chunked, identity\r\n".to_owned(),
        format!("Content-Length: +{}\r\n", body.len()),
        "Connection: Content-Length\r\nContent-Length: 5\r\n".to_owned(),
        "Content-Length: 5\nTransfer-Encoding: chunked\r\n".to_owned(),
        "Host: b\r\n".to_owned(),
    ] {
        let mut stream = TcpStream::connect(balancer.address).await.unwrap();
        let request = format!("POST /front HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}");
        let _ = stream.write_all(request.as_bytes()).await;
        let _ = next_answer(&mut stream).await;
    }
    assert!(!w1.heard().is_empty(), "what has one meaning is passed on");
    for heard in w1.heard() {
        let heard = heard.to_ascii_lowercase();
        let (head, rest) = heard.split_once("\r\n\r\n").unwrap();
        let lengths = head.matches("content-length:").count() + head.matches("transfer-encoding:").count();
        assert!(lengths <= 1, "{heard}");
        let hidden_here = rest.contains("get /hidden");
        let told =
            head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse::<usize>().ok());
        assert!(
            !hidden_here || told.is_some_and(|told| told >= rest.len()),
            "not a part of the body: {heard}"
        );
    }
    assert_eq!(get(balancer.address, "a", "/").await.1, "w1", "it goes on");
}

#[tokio::test]
async fn a_websocket_goes_through_and_ends_with_its_client() {
    let w1 = Web::start("w1").await;
    let balancer = before(&[("w1", &w1)], "").await;
    let mut stream = TcpStream::connect(balancer.address).await.unwrap();
    let request = "GET /mqtt HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Protocol: mqtt\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"hello") {
        assert!(stream.read_buf(&mut heard).await.unwrap() > 0, "{}", String::from_utf8_lossy(&heard));
    }
    assert!(heard.starts_with(b"HTTP/1.1 101"));
    assert!(w1.heard()[0].to_ascii_lowercase().contains("sec-websocket-protocol: mqtt"));
    let sent = vec![7; 300_000];
    let (mut read, mut write) = stream.split();
    let mut back = vec![0; sent.len()];
    let (wrote, got) = tokio::join!(write.write_all(&sent), read.read_exact(&mut back));
    wrote.unwrap();
    got.unwrap();
    assert!(back == sent);
    assert_eq!(balancer.server("w1").await["sessions"], 1, "it counts as a session");
    drop(stream);
    until("its place is given back", async || balancer.server("w1").await["sessions"] == 0).await;
    balancer.wait_for_log("up=300000 down=300005 end=\"client\"").await;
}

/// Such a client would hold its place, and the server's, for ever.
#[tokio::test]
async fn who_reads_nothing_of_its_answer_is_cut() {
    let w1 = Web::start("w1").await;
    let balancer = before(&[("w1", &w1)], "[listen.http]\nsend_timeout = \"5s\"").await;
    let mut lazy = TcpStream::connect(balancer.address).await.unwrap();
    lazy.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    // Reads again and again, and so may take as long as it wants.
    let mut slow = TcpStream::connect(balancer.address).await.unwrap();
    slow.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let read = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&read);
    let reader = tokio::spawn(async move {
        let mut buffer = vec![0; 4 * 1024 * 1024];
        while slow.read_exact(&mut buffer).await.is_ok() {
            counted.fetch_add(1, SeqCst);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    until("both are there", async || balancer.server("w1").await["sessions"] == 2).await;
    until("one is cut", async || balancer.server("w1").await["sessions"] == 1).await;
    // By now it has taken as long as the other one.
    let before = read.load(SeqCst);
    // More than there may be underway.
    until("who reads goes on", async || read.load(SeqCst) > before + 5).await;
    assert_eq!(balancer.server("w1").await["sessions"], 1);
    reader.abort();
    drop(lazy);
}

async fn websocket(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "GET /mqtt HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"hello") {
        assert!(stream.read_buf(&mut heard).await.unwrap() > 0, "{}", String::from_utf8_lossy(&heard));
    }
    stream
}

#[tokio::test]
async fn websockets_are_sessions_that_are_counted_and_drained() {
    let (w1, w2) = (Web::start("w1").await, Web::start("w2").await);
    let balancer = before(&[("w1", &w1), ("w2", &w2)], "").await;
    let mut sockets = vec![websocket(balancer.address).await, websocket(balancer.address).await];
    for socket in &mut sockets {
        socket.write_all(b"0123456789").await.unwrap();
        socket.read_exact(&mut [0; 10]).await.unwrap();
    }
    let summary = balancer.ask(Method::GET, "/sessions", None).await.1;
    assert_eq!((&summary["sessions"], &summary["bytes_up"]), (&2.into(), &20.into()), "{summary}");
    assert_eq!(summary["by_server"]["mqtt/w1"], 1, "{summary}");
    let asked = serde_json::json!({ "server": "w1", "rate": "100/s" });
    balancer.ask(Method::POST, "/drain", Some(asked)).await;
    until("the server is empty", async || balancer.server("w1").await["sessions"] == 0).await;
    // Five bytes of a greeting are the server's, the ten others come back.
    balancer.wait_for_log("up=10 down=15 end=\"drained\"").await;
    assert_eq!(balancer.server("w2").await["sessions"], 1, "the other one goes on");
}

/// Each of their clients comes back at once.
#[tokio::test]
async fn websockets_of_a_dead_server_are_closed_at_a_pace() {
    let w1 = Web::start("w1").await;
    let balancer = before(&[("w1", &w1)], "close_rate = \"30/min\"").await;
    let mut sockets = Vec::new();
    for _ in 0..6 {
        sockets.push(websocket(balancer.address).await);
    }
    w1.close();
    balancer.wait_for_state("w1", "unhealthy").await;
    let left = async || balancer.server("w1").await["sessions"].as_u64().unwrap();
    until("not all at the same instant", async || (1..6).contains(&left().await)).await;
    until("in the end all are", async || left().await == 0).await;
}

#[tokio::test]
async fn over_tls_the_server_is_told_so() {
    let w1 = Web::start("w1").await;
    let directory = TempDir::new().unwrap();
    let pem = directory.path().join("web.pem");
    std::fs::write(&pem, tls::combined_pem("web.example")).unwrap();
    let (plain, secure) = (free_address(), free_address());
    let options = format!(
        "mode = \"http\"\n{TCP}\ntls = {{ bind = [\"{secure}\"], certificates = [\"{}\"] }}",
        pem.display()
    );
    let settings = listen(plain, &options, &[("w1", w1.address)]);
    let balancer = Balancer::start_in(directory, plain, &settings, Command::new(BINARY)).await;
    let client = TlsClient::trusting(&pem).unwrap();
    let name = ServerName::try_from("web.example").unwrap();
    let mut stream = client.handshake(name, TcpStream::connect(secure).await.unwrap()).await.unwrap();
    assert_eq!(ask(&mut stream, "GET / HTTP/1.1\r\nHost: web.example\r\n\r\n").await.1, "w1");
    assert!(w1.heard()[0].to_ascii_lowercase().contains("x-forwarded-proto: https"), "{:?}", w1.heard());
    balancer.wait_for_log("sni=\"web.example\" resumed=false method=GET").await;
}
