//! The admin socket's answers: health for balancers and supervisors, everything else for people and their scripts. JSON
//! over HTTP; `docs/broker-operations.md` lists the paths. Nothing here tells a secret: no password, no payload.

mod clients;
mod devices;
mod drain;
mod health;
mod retained;
mod settings;
mod stats;

use std::sync::Arc;

use nsd_edge::admin::{Method, Reply, Request, Router, StatusCode};
use serde_json::json;

use crate::operate::{Desk, Order, metrics_page};

/// Entries of one page of a list, unless asked for otherwise, and at most.
const PAGE: usize = 100;
const LARGEST_PAGE: usize = 10_000;

/// Every path there is.
pub fn router(desk: &Arc<Desk>) -> Router {
    let ask = |answer: fn(&Desk, &Request) -> Reply| {
        let desk = Arc::clone(desk);
        move |request: &Request| answer(&desk, request)
    };
    let (reload, begin, cancel) = (Arc::clone(desk), Arc::clone(desk), Arc::clone(desk));
    let (retained, sessions) = (Arc::clone(&desk.node), Arc::clone(&desk.node));
    let (adding, removing) = (Arc::clone(&desk.node), Arc::clone(&desk.node));
    Router::new()
        .at_once(Method::GET, "/health", ask(|desk, _| health::health(desk)))
        .at_once(Method::GET, "/status", ask(|desk, _| stats::status(desk)))
        .at_once(Method::GET, "/metrics", ask(|desk, _| metrics_page(&desk.node)))
        .at_once(Method::GET, "/sessions", ask(|desk, request| clients::list(&desk.node, request)))
        .at_once(Method::GET, "/session", ask(|desk, request| clients::who(&desk.node, request)))
        .at_once(Method::GET, "/retained", ask(|desk, request| retained::list(&desk.node, request)))
        .at_once(Method::GET, "/devices", ask(|desk, request| devices::list(&desk.node, request)))
        .at_once(Method::GET, "/certificates", ask(|desk, _| settings::certificates(&desk.node)))
        .at_once(Method::PUT, "/log", ask(|_, request| settings::log(request)))
        .at_once(Method::GET, "/drain", ask(|desk, _| drain::progress(desk)))
        .at_once(Method::POST, "/stop", ask(|desk, _| stop(desk)))
        .route(Method::DELETE, "/retained", move |request| retained::delete(Arc::clone(&retained), request))
        .route(Method::POST, "/device", move |request| devices::add(Arc::clone(&adding), request))
        .route(Method::DELETE, "/device", move |request| devices::remove(Arc::clone(&removing), request))
        .route(Method::DELETE, "/session", move |request| clients::kick(Arc::clone(&sessions), request))
        .route(Method::POST, "/reload", move |_request| settings::reload(Arc::clone(&reload)))
        .route(Method::POST, "/drain", move |request| drain::start(Arc::clone(&begin), request))
        .route(Method::DELETE, "/drain", move |_request| drain::cancel(Arc::clone(&cancel)))
}

fn stop(desk: &Desk) -> Reply {
    match desk.order(Order::Stop) {
        true => Reply::json(StatusCode::OK, &json!({ "stopping": true })),
        false => busy(),
    }
}

fn busy() -> Reply {
    Reply::problem(StatusCode::SERVICE_UNAVAILABLE, "too much has been asked for at once; try again")
}

/// What part of a list is asked for: how many, and behind which entry.
fn page(request: &Request) -> Result<(usize, Option<String>), Reply> {
    let limit = match request.query("limit") {
        None => PAGE,
        Some(text) => {
            text.parse().ok().filter(|limit| (1..=LARGEST_PAGE).contains(limit)).ok_or_else(|| {
                Reply::problem(
                    StatusCode::BAD_REQUEST,
                    format!("limit: must be between 1 and {LARGEST_PAGE}"),
                )
            })?
        }
    };
    Ok((limit, request.query("after")))
}

fn wanted(request: &Request, name: &str) -> Result<String, Reply> {
    request.query(name).ok_or_else(|| Reply::problem(StatusCode::BAD_REQUEST, format!("{name}: is missing")))
}
