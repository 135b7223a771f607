//! PURE. A sample as Prometheus reads it.

use nsd_edge::metrics::{COUNTER, GAUGE, Page, label, seconds};
use nsd_edge::tls::Ocsp;

use super::sample::{BackendSample, CertificateSample, FrontendSample, Sample, ServerSample};
use crate::health::State;
use crate::tally::Times;

/// The whole page.
pub(crate) fn page(sample: &Sample) -> String {
    let mut page = Page::new("nsd_balancer");
    balancer(&mut page, sample);
    clients(&mut page, &sample.frontends);
    sessions(&mut page, &sample.frontends);
    backends(&mut page, &sample.backends);
    servers(&mut page, &sample.backends);
    traffic(&mut page, &sample.backends);
    certificates(&mut page, &sample.certificates);
    page.process(&sample.process);
    page.into_text()
}

fn balancer(page: &mut Page, sample: &Sample) {
    let version = label("version", env!("CARGO_PKG_VERSION"));
    page.family("info", GAUGE, "Which balancer this is; the value is always 1.", [(version, 1)]);
    page.one("uptime_seconds", GAUGE, "Time since the start.", sample.uptime.as_secs());
    let ready = sample.usable && !sample.draining;
    page.one("ready", GAUGE, "1 while every frontend has a server that takes clients.", u8::from(ready));
    page.one("draining", GAUGE, "1 while it stops.", u8::from(sample.draining));
    let (taken, refused) = sample.reloads;
    page.family(
        "reloads_total",
        COUNTER,
        "Settings read again, by outcome.",
        [(label("outcome", "ok"), taken), (label("outcome", "failed"), refused)],
    );
    page.one(
        "last_reload_ok",
        GAUGE,
        "0 while the settings in use are not those of the file, because it is wrong.",
        u8::from(sample.reload_ok),
    );
    page.one("connections", GAUGE, "Client connections now.", sample.connections);
    page.one(
        "connections_limit",
        GAUGE,
        "Client connections that there may be, from the limit of open files.",
        sample.limit,
    );
    page.one(
        "connections_headroom",
        GAUGE,
        "Client connections that there is room for.",
        sample.limit.saturating_sub(sample.connections),
    );
}

/// How connections begin.
fn clients(page: &mut Page, frontends: &[FrontendSample]) {
    let each = |of: fn(&FrontendSample) -> u64| {
        frontends.iter().map(move |frontend| (label("frontend", &frontend.name), of(frontend)))
    };
    page.family("frontend_connections", GAUGE, "Connections now, by frontend.", each(|f| f.counts.open()));
    page.family(
        "frontend_accepted_total",
        COUNTER,
        "Connections that came, by frontend.",
        each(|f| f.counts.accepted),
    );
    let kind = |resumed: bool| if resumed { "resumed" } else { "full" };
    page.family(
        "tls_handshakes_total",
        COUNTER,
        "TLS handshakes that succeeded, by version, and whether a session was resumed.",
        by_frontend(
            frontends,
            |f| &f.counts.handshakes,
            |(version, resumed)| format!("{},{}", label("version", version), label("kind", kind(*resumed))),
        ),
    );
    page.family(
        "tls_handshakes_failed_total",
        COUNTER,
        "TLS handshakes that did not succeed, by cause.",
        by_frontend(frontends, |f| &f.counts.handshakes_failed, |cause| label("cause", cause)),
    );
    page.family(
        "connects_total",
        COUNTER,
        "CONNECTs that the gate let pass, by protocol version.",
        by_frontend(frontends, |f| &f.counts.connects, |version| label("version", version)),
    );
    page.family(
        "connacks_total",
        COUNTER,
        "CONNACKs to clients by their code on the wire; every code but 0x00 is a refusal.",
        by_frontend(frontends, |f| &f.counts.connacks, |code| of_code(*code)),
    );
    page.histograms(
        "keep_alive_seconds",
        "Keep alives of the CONNECTs that passed; 0 is none.",
        frontends.iter().map(|f| (label("frontend", &f.name), &f.counts.keep_alives)),
    );
}

/// What they move, and how they end.
fn sessions(page: &mut Page, frontends: &[FrontendSample]) {
    page.family(
        "frontend_bytes_total",
        COUNTER,
        "Bytes passed on, by frontend and direction: up is to servers.",
        frontends.iter().flat_map(|f| both(label("frontend", &f.name), f.moved.up, f.moved.down)),
    );
    page.family(
        "frontend_messages_total",
        COUNTER,
        "PUBLISH packets passed on, by frontend and direction: up is to servers.",
        frontends
            .iter()
            .flat_map(|f| both(label("frontend", &f.name), f.moved.messages_up, f.moved.messages_down)),
    );
    page.family(
        "ends_total",
        COUNTER,
        "Connections that ended, by the reason that the access log has.",
        by_frontend(frontends, |f| &f.counts.ends, |reason| label("reason", reason)),
    );
    page.histograms(
        "session_age_seconds",
        "Ages of sessions that ended.",
        frontends.iter().map(|f| (label("frontend", &f.name), &f.counts.ages)),
    );
}

fn backends(page: &mut Page, backends: &[BackendSample]) {
    let name = |backend: &BackendSample| label("backend", &backend.name);
    page.family(
        "queued",
        GAUGE,
        "Clients that wait because all servers are full, or have had their clients for now.",
        backends.iter().map(|backend| (name(backend), backend.queued)),
    );
    page.family(
        "imbalance_ratio",
        GAUGE,
        "Sessions of the fullest server that takes clients, by weight, against the mean of them: 1 is even.",
        backends.iter().map(|backend| (name(backend), format!("{:.3}", imbalance(&backend.servers)))),
    );
}

fn servers(page: &mut Page, backends: &[BackendSample]) {
    let all = || of_servers(backends);
    let each = |of: fn(&ServerSample) -> u64| all().map(move |(labels, server)| (labels, of(server)));
    let states = |(labels, server): (String, &ServerSample)| {
        let state = server.state;
        State::ALL.map(|(one, name)| (format!("{labels},{}", label("state", name)), u8::from(one == state)))
    };
    page.family("server_state", GAUGE, "1 for the state that a server is in.", all().flat_map(states));
    page.family("server_weight", GAUGE, "Its share.", each(|server| server.weight.into()));
    page.family("server_sessions", GAUGE, "Sessions now, by server.", each(|server| server.sessions.into()));
    page.family(
        "server_sessions_begun_total",
        COUNTER,
        "Sessions that came to a server.",
        each(|server| server.sessions_total),
    );
    page.family(
        "server_connect_failures_total",
        COUNTER,
        "Attempts to connect that failed.",
        each(|server| server.connect_failures),
    );
    page.family(
        "server_checks_total",
        COUNTER,
        "Health checks by verdict.",
        all().flat_map(|(labels, server)| {
            let counted = server.checks.iter();
            counted.map(move |(verdict, times)| (format!("{labels},{}", label("verdict", verdict)), *times))
        }),
    );
    page.family(
        "server_check_seconds",
        GAUGE,
        "Time that the last check took.",
        all().filter_map(|(labels, server)| Some((labels, seconds(server.check_milliseconds?)))),
    );
}

/// What went through them, and what they said.
fn traffic(page: &mut Page, backends: &[BackendSample]) {
    let all = || of_servers(backends);
    page.family(
        "server_bytes_total",
        COUNTER,
        "Bytes passed on, by server and direction: up is to the server.",
        all().flat_map(|(labels, server)| both(labels, server.moved.up, server.moved.down)),
    );
    page.family(
        "server_messages_total",
        COUNTER,
        "PUBLISH packets passed on, by server and direction: up is to the server.",
        all().flat_map(|(labels, server)| both(labels, server.moved.messages_up, server.moved.messages_down)),
    );
    page.family(
        "server_connacks_total",
        COUNTER,
        "A server's CONNACKs to clients by their code on the wire, also where another server was asked then.",
        all().flat_map(|(labels, server)| {
            let counted = server.connacks.iter();
            counted.map(move |(code, times)| (format!("{labels},{}", of_code(*code)), *times))
        }),
    );
    page.family(
        "server_wills_suppressed_total",
        COUNTER,
        "Sessions with a will that were sent away, and whose server was told DISCONNECT, so that it fires none.",
        all().map(|(labels, server)| (labels, server.wills_suppressed)),
    );
}

/// Each server, with its labels.
fn of_servers(backends: &[BackendSample]) -> impl Iterator<Item = (String, &ServerSample)> {
    let of = |backend: &BackendSample, server: &ServerSample| {
        let (backend, address) = (label("backend", &backend.name), label("address", &server.address));
        format!("{backend},{},{address}", label("server", &server.name))
    };
    backends
        .iter()
        .flat_map(move |backend| backend.servers.iter().map(move |server| (of(backend, server), server)))
}

fn certificates(page: &mut Page, certificates: &[CertificateSample]) {
    let labels = |certificate: &CertificateSample| {
        format!("{},{}", label("file", certificate.file.display()), label("name", &certificate.name))
    };
    page.family(
        "certificate_not_after_seconds",
        GAUGE,
        "When a certificate ends, in seconds since 1970.",
        certificates.iter().filter_map(|certificate| Some((labels(certificate), certificate.ends?))),
    );
    page.family(
        "certificate_stale",
        GAUGE,
        "1 while the files of now cannot be used, and those of before are in use.",
        certificates.iter().map(|certificate| (labels(certificate), u8::from(certificate.stale))),
    );
    page.family(
        "certificate_ocsp_usable",
        GAUGE,
        "0 for an OCSP response that is there and cannot be shown.",
        certificates.iter().filter_map(|certificate| match certificate.ocsp {
            Ocsp::None => None,
            Ocsp::Until(_) => Some((labels(certificate), 1)),
            Ocsp::Unusable(_) => Some((labels(certificate), 0)),
        }),
    );
}

/// Each frontend's counts, with its name and what is counted as labels.
fn by_frontend<'s, K: 's>(
    frontends: &'s [FrontendSample],
    of: fn(&FrontendSample) -> &Times<K>,
    labels: impl Fn(&K) -> String + Copy + 's,
) -> impl Iterator<Item = (String, u64)> + 's {
    frontends.iter().flat_map(move |frontend| {
        let name = label("frontend", &frontend.name);
        of(frontend).iter().map(move |(what, times)| (format!("{name},{}", labels(what)), *times))
    })
}

fn both(labels: String, up: u64, down: u64) -> [(String, u64); 2] {
    let direction = |name| format!("{labels},{}", label("direction", name));
    [(direction("up"), up), (direction("down"), down)]
}

/// As the specification writes it.
fn of_code(code: u8) -> String {
    label("code", format!("0x{code:02x}"))
}

/// Of the servers that clients usually come to. 1 where there is nothing to compare.
fn imbalance(servers: &[ServerSample]) -> f64 {
    let counted = || {
        let takes =
            |server: &&ServerSample| server.state == State::Healthy && server.weight > 0 && !server.backup;
        servers.iter().filter(takes)
    };
    let weights: u64 = counted().map(|server| u64::from(server.weight)).sum();
    let sessions: u64 = counted().map(|server| u64::from(server.sessions)).sum();
    if sessions == 0 {
        return 1.0;
    }
    let fullest = counted().map(|server| f64::from(server.sessions) / f64::from(server.weight));
    #[expect(clippy::cast_precision_loss, reason = "nobody sees the 53rd bit of a ratio")]
    let mean = sessions as f64 / weights as f64;
    fullest.fold(0.0, f64::max) / mean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(state: State, weight: u32, sessions: u32) -> ServerSample {
        ServerSample {
            name: "s".to_owned(),
            address: crate::settings::Address::Fixed(([127, 0, 0, 1], 1883).into()),
            state,
            weight,
            backup: false,
            sessions,
            sessions_total: 0,
            connect_failures: 0,
            moved: crate::relay::Moved::default(),
            connacks: Times::new(),
            wills_suppressed: 0,
            checks: Times::new(),
            check_milliseconds: None,
        }
    }

    #[test]
    fn imbalance_is_the_fullest_against_the_mean_by_weight() {
        let of = |servers: &[ServerSample]| format!("{:.3}", imbalance(servers));
        let healthy = |weight, sessions| server(State::Healthy, weight, sessions);
        assert_eq!(of(&[]), "1.000");
        assert_eq!(of(&[healthy(1, 0), healthy(1, 0)]), "1.000");
        assert_eq!(of(&[healthy(1, 10), healthy(3, 30)]), "1.000");
        assert_eq!(of(&[healthy(1, 20), healthy(1, 0)]), "2.000");
        assert_eq!(of(&[healthy(1, 20), server(State::Unhealthy, 1, 0), healthy(0, 7)]), "1.000");
        let spare = ServerSample { backup: true, ..healthy(1, 0) };
        assert_eq!(of(&[healthy(1, 20), spare]), "1.000");
    }
}
