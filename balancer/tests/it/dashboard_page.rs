//! The dashboard as people see it: a real browser logs in, reads and presses. Screenshots go to `target/screenshots`.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::support::browser::Browser;
use crate::support::visitor::with_anna;
use crate::support::{BINARY, Balancer, Broker, CHECK, Client, free_address, listen, servers, tls};

const WIDTHS: [(u32, u32); 2] = [(1280, 900), (390, 844)];

fn shot(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/screenshots").join(format!("{name}.png"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_logs_in_sees_the_servers_and_drains_one() {
    let names = ["mqtt-1", "mqtt-2", "mqtt-3"];
    let (b1, b2, mut b3) =
        (Broker::start("mqtt-1").await, Broker::start("mqtt-2").await, Broker::start("mqtt-3").await);
    let directory = TempDir::new().unwrap();
    with_anna(&directory.path().join("users"));
    let authority = tls::Authority::new("our authority");
    // A name that would be markup if it were not shown as text.
    let pem = directory.path().join("<img src=x onerror=alert(1)>.pem");
    let soon = |params: &mut rcgen::CertificateParams| {
        params.not_after =
            std::time::SystemTime::now().checked_add(Duration::from_secs(9 * 86_400 + 3600)).unwrap().into();
    };
    let card = authority.write(tls::NAME, 1, rcgen::KeyPair::generate().unwrap(), soon);
    std::fs::write(&pem, card.combined()).unwrap();
    let (address, page) = (free_address(), free_address());
    let secure =
        format!("tls = {{ bind = [\"{}\"], certificates = [\"{}\"] }}", free_address(), pem.display());
    let settings = listen(address, &format!("{CHECK}\n{secure}"), &servers(&names, &[&b1, &b2, &b3]));
    let users = directory.path().join("users");
    let settings =
        format!("{settings}[dashboard]\nbind = \"{page}\"\npassword_file = \"{}\"\n", users.display());
    let balancer = Balancer::start_in(directory, address, &settings, Command::new(BINARY)).await;
    for name in names {
        balancer.wait_for_state(name, "healthy").await;
    }
    b3.stop().await;
    balancer.wait_for_state("mqtt-3", "unhealthy").await;
    let clients = Client::many(address, 40).await;

    let mut browser = tokio::task::spawn_blocking(Browser::start).await.unwrap();
    log_in(&mut browser, &format!("http://{page}/"));
    browser.until("document.querySelectorAll('.backend tbody tr').length === 3");
    browser.until("document.querySelector('#about').textContent.includes('40 sessions')");
    assert_eq!(state(&mut browser, "mqtt-3"), "down");
    browser.until("document.querySelector('#health').textContent === 'degraded'");
    browser.until("document.querySelector('#certificates').textContent.includes('9 days left')");
    assert_eq!(browser.eval("document.querySelectorAll('img').length"), 0);
    browser.until("document.querySelector('#certificates').textContent.includes('<img src=x')");
    browser.until("document.querySelectorAll('figure .curve')[0].getAttribute('d').length > 20");

    browser.until("document.querySelector('#frontends').textContent.includes('mqtt40')");

    drain_by_keyboard(&mut browser, "mqtt-1");
    assert_eq!(balancer.server("mqtt-1").await["state"], "draining");
    browser.until("document.querySelector('#result').textContent.includes('mqtt-1 is draining now.')");
    assert_eq!(b1.sessions(), 20, "they stay");
    browser.eval(&format!("{}.querySelector('button').click()", row("mqtt-2")));
    browser.until("document.querySelector('dialog').open && !document.querySelector('#ask-sessions').hidden");
    browser.screenshot(&shot("ask-leave-1280"));
    browser.eval("document.querySelector('dialog button[value=no]').click()");

    let leave = json!({ "server": "mqtt-1", "rate": "100/s" });
    balancer.ask(nsd_edge::admin::Method::POST, "/drain", Some(leave)).await;
    browser.until("document.querySelector('#moves').textContent.includes('20 of 20 told to leave')");

    // A bad file is told in words.
    balancer.rewrite(&settings.replace("interval", "intervall"));
    balancer.wait_for_log("did you mean `interval`?").await;
    browser.until("document.querySelector('#problem pre').textContent.includes('did you mean `interval`?')");
    pictures(&mut browser, "dashboard");
    no_overflow(&mut browser);
    assert_eq!(browser.complaints, Vec::<String>::new());
    drop(clients);
}

/// Everything as a stranger could write it stays text, and a balancer that is gone is told plainly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balancer_that_is_gone_is_told_plainly_and_comes_back() {
    let b1 = Broker::start("b1").await;
    let directory = TempDir::new().unwrap();
    with_anna(&directory.path().join("users"));
    let (address, page) = (free_address(), free_address());
    let users = directory.path().join("users");
    let settings = listen(address, CHECK, &servers(&["b1"], &[&b1]));
    let settings =
        format!("{settings}[dashboard]\nbind = \"{page}\"\npassword_file = \"{}\"\n", users.display());
    let balancer = Balancer::start_in(directory, address, &settings, Command::new(BINARY)).await;
    let mut browser = tokio::task::spawn_blocking(Browser::start).await.unwrap();
    log_in(&mut browser, &format!("http://{page}/"));
    browser.until("document.querySelectorAll('.backend tbody tr').length === 1");

    balancer.signal(rustix::process::Signal::STOP);
    browser.until("!document.querySelector('#lost').hidden");
    browser.until("document.querySelector('#health').textContent === 'no answer'");
    assert_eq!(browser.eval("document.querySelector('#live').inert"), true, "old buttons cannot be pressed");
    for (width, height) in WIDTHS {
        browser.resize(width, height);
        browser.screenshot(&shot(&format!("lost-{width}")));
    }
    balancer.signal(rustix::process::Signal::CONT);
    browser.until("document.querySelector('#lost').hidden");

    browser.eval("document.querySelector('form[action=\"/logout\"] button').click()");
    browser.until("location.pathname === '/login'");
    browser.go(&format!("http://{page}/"));
    assert_eq!(browser.eval("location.pathname"), "/login", "logged out");
}

fn log_in(browser: &mut Browser, url: &str) {
    browser.resize(1280, 900);
    browser.go(url);
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        for (width, height) in WIDTHS {
            browser.resize(width, height);
            browser.screenshot(&shot(&format!("login-{width}-{scheme}")));
        }
    }
    browser.until("document.activeElement.id === 'user'");
    browser.type_text("anna");
    browser.key("Tab");
    browser.type_text("open sesame");
    browser.key("Enter");
    browser.until("location.pathname === '/' && document.querySelector('#backends') !== null");
}

fn row(server: &str) -> String {
    format!(
        "[...document.querySelectorAll('.backend tbody tr')].find((row) => row.textContent.includes('{server}'))"
    )
}

fn state(browser: &mut Browser, server: &str) -> String {
    browser.eval(&format!("{}.querySelector('.state').textContent", row(server))).as_str().unwrap().to_owned()
}

fn drain_by_keyboard(browser: &mut Browser, server: &str) {
    browser.eval(&format!("{}.querySelector('button').focus()", row(server)));
    browser.key("Enter");
    browser.until("document.querySelector('dialog').open");
    browser.screenshot(&shot("ask-1280"));
    // The button that changes nothing has the focus.
    browser.key("Enter");
    browser.until("!document.querySelector('dialog').open");
    assert_eq!(state(browser, server), "healthy");
    browser.key("Enter");
    browser.until("document.querySelector('dialog').open");
    browser.key("Tab");
    browser.key("Enter");
    browser.until(&format!("{}.querySelector('.state').textContent === 'draining'", row(server)));
}

fn pictures(browser: &mut Browser, name: &str) {
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        for (width, height) in WIDTHS {
            browser.resize(width, height);
            browser.screenshot(&shot(&format!("{name}-{width}-{scheme}")));
        }
    }
}

fn no_overflow(browser: &mut Browser) {
    for width in [1280, 768, 390, 360, 320] {
        browser.resize(width, 740);
        let wide = browser.eval("document.documentElement.scrollWidth");
        assert_eq!(wide, json!(width), "scrolls sideways");
    }
}
