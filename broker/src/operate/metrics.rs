//! The page that Prometheus reads, for the metrics port and the admin socket.

use std::sync::Arc;

use nsd_edge::admin::Reply;
use nsd_edge::metrics::CONTENT_TYPE;

use crate::node::Node;
use crate::telemetry::{self, prometheus};

pub(crate) fn page(node: &Node) -> Reply {
    Reply::text(CONTENT_TYPE, text(node))
}

/// For [`nsd_edge::metrics::MetricsPort`].
pub(super) fn pages(node: &Arc<Node>) -> impl Fn() -> String + Send + Sync + 'static {
    let node = Arc::clone(node);
    move || text(&node)
}

fn text(node: &Node) -> String {
    prometheus::page(&telemetry::take(node))
}
