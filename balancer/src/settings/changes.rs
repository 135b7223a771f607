//! What other settings change, as an operator is told it. Servers, addresses that come or go, and the dashboard are told
//! where they are exchanged. Pure.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::{FrontendSettings, Settings, TlsBind};

/// `~mqtt gate` and the like.
pub(crate) fn changes(current: &Settings, wanted: &Settings) -> Vec<String> {
    let frontends = wanted.frontends.iter().flat_map(|wanted| {
        let before = current.frontends.iter().find(|before| before.name == wanted.name);
        before.map(|before| of_frontend(before, wanted)).unwrap_or_default()
    });
    let whole = [
        ("metrics", current.metrics == wanted.metrics),
        ("log.access", current.access_log == wanted.access_log),
        ("log.user_names", current.log_user_names == wanted.log_user_names),
        ("stop_grace", current.stop_grace == wanted.stop_grace),
        ("take_over", current.take_over == wanted.take_over),
    ];
    let at_start = [
        ("admin.socket", current.admin_socket == wanted.admin_socket),
        ("threads", current.threads == wanted.threads),
        ("log.format", current.log_format == wanted.log_format),
    ];
    frontends
        .chain(moved_binds(current, wanted))
        .chain(differing(whole).map(|what| format!("~{what}")))
        .chain(differing(at_start).map(|what| format!("{what} is taken at the next start")))
        .collect()
}

/// Where one that was there treats its clients in another way.
fn of_frontend(before: &FrontendSettings, wanted: &FrontendSettings) -> Vec<String> {
    let same_tls = match (&before.tls, &wanted.tls) {
        (Some(before), Some(wanted)) => TlsBind { bind: before.bind.clone(), ..wanted.clone() } == *before,
        // Its addresses come or go, which is told.
        _ => true,
    };
    let same = [
        ("entry", before.entry == wanted.entry),
        ("gate", before.gate == wanted.gate),
        ("http", before.http == wanted.http),
        ("rules", before.rules == wanted.rules),
        ("tcp_user_timeout", before.user_timeout == wanted.user_timeout),
        ("tls", same_tls),
    ];
    differing(same).map(|what| format!("~{} {what}", wanted.name)).collect()
}

/// Addresses that stay, but are another frontend's now, or become plain or TLS.
fn moved_binds(current: &Settings, wanted: &Settings) -> Vec<String> {
    let before: HashMap<SocketAddr, (&str, bool)> = binds(current).collect();
    let moved = binds(wanted).filter(|(address, owner)| before.get(address).is_some_and(|was| was != owner));
    moved.map(|(address, _)| format!("~bind {address}")).collect()
}

fn binds(settings: &Settings) -> impl Iterator<Item = (SocketAddr, (&str, bool))> {
    settings.frontends.iter().flat_map(|frontend| {
        let secure = frontend.tls.iter().flat_map(|tls| &tls.bind).map(|address| (*address, true));
        let all = frontend.bind.iter().map(|address| (*address, false)).chain(secure);
        all.map(|(address, tls)| (address, (&*frontend.name, tls)))
    })
}

fn differing<const N: usize>(same: [(&'static str, bool); N]) -> impl Iterator<Item = &'static str> {
    same.into_iter().filter(|(_, same)| !same).map(|(what, _)| what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;

    const BACKEND: &str =
        "[[backend]]\nname = \"b\"\n[[backend.server]]\nname = \"s\"\naddress = \"127.0.0.1:1\"\n";

    fn told(before: &str, after: &str) -> String {
        let read = |text: &str| settings::parse(&format!("{text}\n{BACKEND}")).expect("settings");
        changes(&read(before), &read(after)).join(", ")
    }

    /// A frontend at an address, with more.
    fn frontend(name: &str, more: &str) -> String {
        format!("[[frontend]]\nname = \"{name}\"\nbackend = \"b\"\n{more}\n")
    }

    #[test]
    fn each_setting_that_changes_is_told_and_nothing_else() {
        let plain = "bind = [\"127.0.0.1:1883\"]";
        let tls = |more: &str| {
            frontend(
                "f",
                &format!("tls = {{ bind = [\"127.0.0.1:1883\"], certificates = [\"c.pem\"]{more} }}"),
            )
        };
        let base = frontend("f", plain);
        for (before, after, expected) in [
            (base.clone(), base.clone(), ""),
            (
                frontend("f", &format!("{plain}\nmode = \"mqtt\"")),
                frontend("f", &format!("{plain}\nmode = \"mqtt\"\ngate = {{ deadline = \"9s\" }}")),
                "~f gate",
            ),
            (base.clone(), frontend("f", &format!("{plain}\ndeny = [\"10.0.0.0/8\"]")), "~f entry"),
            (
                base.clone(),
                frontend("f", &format!("{plain}\ntcp_user_timeout = \"30s\"")),
                "~f tcp_user_timeout",
            ),
            (base.clone(), frontend("g", plain), "~bind 127.0.0.1:1883"),
            (base.clone(), tls(""), "~bind 127.0.0.1:1883"),
            (tls(""), tls(", min_version = \"1.3\""), "~f tls"),
            (tls(""), tls(", handshakes = 9"), "~f tls"),
            (base.clone(), format!("{base}[metrics]\nbind = \"127.0.0.1:9\""), "~metrics"),
            (
                base.clone(),
                format!("{base}[log]\naccess = false\nuser_names = true"),
                "~log.access, ~log.user_names",
            ),
            (base.clone(), format!("stop_grace = \"9s\"\n{base}"), "~stop_grace"),
            (base.clone(), format!("{base}[take_over]\nrate = \"9/s\""), "~take_over"),
            (base.clone(), format!("threads = 3\n{base}"), "threads is taken at the next start"),
        ] {
            assert_eq!(told(&before, &after), expected, "{after}");
        }
    }
}
