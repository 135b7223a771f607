//! A headless Chromium, told what to do over its DevTools protocol; everything it complains about is kept.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::{Message, WebSocket};

/// A browser is many processes, and none of them is in a hurry on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Browser {
    process: Child,
    _profile: TempDir,
    socket: WebSocket<TcpStream>,
    last: u64,
    /// What was said on the console as a warning or worse, what was not caught, what could not be loaded.
    pub(crate) complaints: Vec<String>,
}

impl Browser {
    pub(crate) fn start() -> Self {
        let profile = TempDir::new().unwrap();
        let mut command = Command::new("chromium");
        command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
        command.args(["--no-first-run", "--disable-extensions", "--disable-background-networking"]);
        command.args(["--disable-component-update", "--hide-scrollbars", "--force-color-profile=srgb"]);
        command
            .args(["--remote-debugging-port=0", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("chromium is installed");
        // It says where it listens, and must be read on: a full pipe would stop it.
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let said = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("DevTools listening on ws://").map(str::to_owned));
        std::thread::spawn(move || lines.for_each(drop));
        let said = said.expect("chromium listens");
        let address = said.split('/').next().unwrap();
        let page = page(address);
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (socket, _) = tungstenite::client(page, stream).unwrap();
        let mut browser = Self { process, _profile: profile, socket, last: 0, complaints: Vec::new() };
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.tell(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// One command and its result.
    pub(crate) fn tell(&mut self, method: &str, params: Value) -> Value {
        self.ask(method, params).unwrap_or_else(|error| refused(method, &error))
    }

    fn ask(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        self.last += 1;
        let command = json!({ "id": self.last, "method": method, "params": params });
        self.socket.send(Message::text(command.to_string())).unwrap();
        loop {
            let message = self.socket.read().unwrap_or_else(|error| unanswered(method, &error));
            let Message::Text(text) = message else { continue };
            let mut message: Value = serde_json::from_str(&text).unwrap();
            if message["id"] == self.last {
                let error = message["error"].take();
                return if error.is_null() { Ok(message["result"].take()) } else { Err(error) };
            }
            self.note(&message);
        }
    }

    fn note(&mut self, event: &Value) {
        let params = &event["params"];
        let complaint = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => params["exceptionDetails"].to_string(),
            Some("Runtime.consoleAPICalled") if params["type"] != "log" => params["args"].to_string(),
            Some("Log.entryAdded") if params["entry"]["level"] != "verbose" => params["entry"].to_string(),
            _ => return,
        };
        self.complaints.push(complaint);
    }

    /// The value of an expression in the page; a promise is waited for.
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut told = self.tell("Runtime.evaluate", params);
        assert!(told["exceptionDetails"].is_null(), "{expression}: {told}");
        told["result"]["value"].take()
    }

    /// Waits until an expression is true. Between two pages there may be none to ask.
    pub(crate) fn until(&mut self, expression: &str) {
        let begun = Instant::now();
        let params = json!({ "expression": format!("Boolean({expression})"), "returnByValue": true });
        let is_true = |told: Result<Value, Value>| told.is_ok_and(|told| told["result"]["value"] == true);
        while !is_true(self.ask("Runtime.evaluate", params.clone())) {
            assert!(begun.elapsed() < PATIENCE, "never true: {expression}; {:?}", self.complaints);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn go(&mut self, url: &str) {
        self.tell("Page.navigate", json!({ "url": url }));
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'");
    }

    /// A window of this many CSS pixels, at two dots each where it is a phone's.
    pub(crate) fn resize(&mut self, width: u32, height: u32) {
        let phone = width < 600;
        let dots = if phone { 2 } else { 1 };
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": dots, "mobile": phone });
        self.tell("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// `light` or `dark`.
    pub(crate) fn prefer(&mut self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.tell("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Typed into what has the focus, as from a keyboard.
    pub(crate) fn type_text(&mut self, text: &str) {
        self.tell("Input.insertText", json!({ "text": text }));
    }

    pub(crate) fn key(&mut self, key: &str) {
        let text = if key == "Enter" { "\r" } else { "" };
        let code = if key == "Enter" { 13 } else { 9 };
        for kind in ["keyDown", "keyUp"] {
            let event =
                json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text });
            self.tell("Input.dispatchKeyEvent", event);
        }
    }

    /// The whole page, as a PNG file.
    pub(crate) fn screenshot(&mut self, file: &Path) {
        let params = json!({ "format": "png", "captureBeyondViewport": true });
        let shot = self.tell("Page.captureScreenshot", params);
        let png = base64::engine::general_purpose::STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, png).unwrap();
    }
}

/// Where its one tab is told what to do.
fn page(address: &str) -> String {
    use std::io::{Read, Write};
    let begun = Instant::now();
    loop {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET /json/list HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        let list = answer.split_once("\r\n\r\n").map_or("[]", |(_, body)| body);
        let tabs: Vec<Value> = serde_json::from_str(list).unwrap_or_default();
        let tab = tabs.iter().find(|tab| tab["type"] == "page");
        if let Some(url) = tab.and_then(|tab| tab["webSocketDebuggerUrl"].as_str()) {
            return url.to_owned();
        }
        assert!(begun.elapsed() < PATIENCE, "chromium opens no tab: {answer}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[expect(clippy::panic, reason = "a test whose command is refused has failed")]
fn refused(method: &str, error: &Value) -> ! {
    panic!("{method}: {error}")
}

#[expect(clippy::panic, reason = "a test that gets no answer has failed")]
fn unanswered(method: &str, error: &tungstenite::Error) -> ! {
    panic!("{method} was not answered: {error}")
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
