//! Who visits the dashboard, without a browser: one request a connection, cookies kept.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{BINARY, PATIENCE};

pub(crate) struct Visitor {
    pub(crate) address: SocketAddr,
    /// `name=value`, as the browser sends it back.
    pub(crate) cookie: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Header lines, in lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect(&self.body)
    }
}

impl Visitor {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, cookie: None }
    }

    pub(crate) async fn logged_in(address: SocketAddr) -> Self {
        let mut visitor = Self::new(address);
        let answer = visitor.log_in("anna", "open sesame").await;
        assert_eq!((answer.status, answer.header("location")), (303, Some("/")), "{answer:?}");
        visitor
    }

    pub(crate) async fn log_in(&mut self, user: &str, password: &str) -> Answer {
        let body = format!("user={user}&password={}", password.replace(' ', "+"));
        let answer = self.post("/login", &body).await;
        if let Some(cookie) = answer.header("set-cookie") {
            self.cookie = cookie.split(';').next().map(str::to_owned);
        }
        answer
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", "").await
    }

    /// As the page does it.
    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        self.ask("POST", path, &format!("origin: http://{}\r\n", self.address), body).await
    }

    /// With further header lines.
    pub(crate) async fn ask(&self, method: &str, path: &str, lines: &str, body: &str) -> Answer {
        let cookie = self.cookie.as_ref().map_or_else(String::new, |cookie| format!("cookie: {cookie}\r\n"));
        let (host, length) = (self.address, body.len());
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{cookie}{lines}");
        self.send(&format!("{head}content-length: {length}\r\n\r\n{body}")).await
    }

    pub(crate) async fn send(&self, request: &str) -> Answer {
        let exchange = async {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            // A server that refuses may close before it has read everything.
            let _ = stream.write_all(request.as_bytes()).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8(answer).unwrap()
        };
        let answer = tokio::time::timeout(PATIENCE, exchange).await.expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }
}

/// `nsd-balancer passwd`, with the password where it belongs: at stdin.
pub(crate) fn passwd(file: &Path, arguments: &[&str], password: &str) -> Output {
    use std::io::Write;
    let mut command = Command::new(BINARY);
    command.arg("passwd").arg(file).args(arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(password.as_bytes());
    child.wait_with_output().unwrap()
}

/// A password file with a user `anna` whose password is `open sesame`.
pub(crate) fn with_anna(file: &Path) {
    let output = passwd(file, &["anna"], "open sesame\n");
    assert!(output.status.success(), "{output:?}");
}
