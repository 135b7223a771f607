//! Sending all clients away.

use std::sync::Arc;

use nsd_edge::admin::{Reply, Request, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::busy;
use crate::operate::{Desk, Order, drain};

/// Where nobody says anything: a thousand clients in ten seconds.
const RATE: &str = "100/s";
/// A name and a port; a longer one is no place.
const LONGEST_REDIRECT: usize = 300;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Wish {
    rate: Option<String>,
    redirect: Option<String>,
    moved: bool,
    stop: bool,
}

/// Answers once it has begun: no longer ready, the listeners closed.
pub(super) async fn start(desk: Arc<Desk>, request: Request) -> Reply {
    let wish: Wish = if request.body.is_empty() {
        Wish::default()
    } else {
        match request.json() {
            Ok(wish) => wish,
            Err(reply) => return reply,
        }
    };
    let order = match checked(wish) {
        Ok(order) => order,
        Err(what) => return Reply::problem(StatusCode::BAD_REQUEST, what),
    };
    let (clients, rate) = (desk.node.hub.connected(), order.rate);
    let (done, begun) = oneshot::channel();
    if !desk.order(Order::Drain { order, done }) || begun.await.is_err() {
        return busy();
    }
    #[expect(clippy::cast_precision_loss, reason = "a guess for people")]
    let seconds = (clients as f64 / rate).ceil();
    Reply::json(StatusCode::OK, &json!({ "draining": true, "clients": clients, "seconds": seconds }))
}

fn checked(wish: Wish) -> Result<drain::Order, String> {
    let Wish { rate, redirect, moved, stop } = wish;
    let rate = drain::rate(rate.as_deref().unwrap_or(RATE))?;
    if moved && redirect.is_none() {
        return Err("moved: needs `redirect`: moved where?".to_owned());
    }
    if redirect.as_deref().is_some_and(|place| !is_place(place)) {
        return Err("redirect: must be `HOST:PORT`, or several with a blank between them".to_owned());
    }
    Ok(drain::Order { rate, redirect, moved, stop })
}

/// What a Server Reference may be (v5, section 4.11): one or more `HOST[:PORT]`, a blank between them.
fn is_place(text: &str) -> bool {
    let fine = |place: &str| {
        let (host, port) = place.rsplit_once(':').unwrap_or((place, "1883"));
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    text.len() <= LONGEST_REDIRECT
        && !text.contains(char::is_control)
        && !text.is_empty()
        && text.split(' ').all(fine)
}

pub(super) async fn cancel(desk: Arc<Desk>) -> Reply {
    let (done, outcome) = oneshot::channel();
    if !desk.order(Order::CancelDrain { done }) {
        return busy();
    }
    match outcome.await {
        Ok(Ok(true)) => Reply::json(StatusCode::OK, &json!({ "draining": false })),
        Ok(Ok(false)) => Reply::problem(StatusCode::CONFLICT, "nothing is being drained"),
        Ok(Err(what)) => Reply::problem(StatusCode::INTERNAL_SERVER_ERROR, what),
        Err(_ended) => busy(),
    }
}

pub(super) fn progress(desk: &Desk) -> Reply {
    let progress = desk.draining();
    let mut body = progress.as_ref().map_or_else(|| json!({}), progress_json);
    body["draining"] = progress.is_some().into();
    body["clients"] = desk.node.hub.connected().into();
    Reply::json(StatusCode::OK, &body)
}

pub(super) fn progress_json(progress: &drain::Progress) -> Value {
    let drain::Progress { order, told, finished } = progress;
    json!({ "rate_per_second": order.rate, "redirect": order.redirect, "told": told, "finished": finished, "stop": order.stop })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        for fine in ["other:1883", "other", "[::1]:1883", "10.0.0.1:8883", "a:1 b:2"] {
            assert!(is_place(fine), "{fine}");
        }
        for odd in ["", ":1883", "a:0", "a:x", "a  b", "a\n:1", &"x".repeat(301)] {
            assert!(!is_place(odd), "{odd:?}");
        }
    }
}
