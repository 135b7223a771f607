//! Everything there is to tell, at one moment. Taken by the edge; what is made of it is pure.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::count::Totals;
use nsd_edge::process::Process;

use crate::node::Node;
use crate::store::keys;

#[derive(Debug, Clone)]
pub struct Sample {
    pub node: String,
    pub started: SystemTime,
    pub uptime: Duration,
    pub ready: bool,
    pub degraded: bool,
    pub totals: Totals,
    pub process: Process,
    pub clients: Clients,
    pub subscriptions: u64,
    /// Of these, those to shared subscriptions.
    pub shared_subscriptions: u64,
    /// Without the broker's own `$SYS` topics.
    pub retained: u64,
    pub listeners: Vec<ListenerSample>,
    pub cluster: Option<Cluster>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Clients {
    pub connected: u64,
    pub peak: u64,
    /// Sessions whose client is away.
    pub offline: u64,
    /// QoS 1 and 2 messages sent and not yet acknowledged.
    pub in_flight: u64,
    /// Messages that wait for their client, and their bytes.
    pub queued: u64,
    pub queued_bytes: u64,
}

#[derive(Debug, Clone)]
pub struct ListenerSample {
    pub address: SocketAddr,
    pub open: u64,
    pub accepted: u64,
    /// Closed before they became clients, since its settings changed last.
    pub turned_away: u64,
    /// Why the certificates in use are not those in its files.
    pub certificates_problem: Option<String>,
}

/// This node among the others.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub node: String,
    pub connected: bool,
    pub batches: u64,
    pub commands: u64,
    pub sent: u64,
    pub received: u64,
    pub dropped: u64,
}

/// Looks at everything. Costs a look at each client, so it is for every few seconds, not for every message.
pub fn take(node: &Node) -> Sample {
    let cluster = node.hub.bus.as_ref().map(|bus| {
        let counters = &bus.counters;
        Cluster {
            node: keys::node_name(bus.node),
            connected: bus.is_connected(),
            batches: counters.batches.load(Ordering::Relaxed),
            commands: counters.commands.load(Ordering::Relaxed),
            sent: counters.sent.load(Ordering::Relaxed),
            received: counters.received.load(Ordering::Relaxed),
            dropped: counters.dropped.load(Ordering::Relaxed),
        }
    });
    let listeners = node.listeners.read();
    let listeners = listeners.iter().map(|listener| ListenerSample {
        address: listener.address,
        open: listener.open(),
        accepted: listener.accepted(),
        turned_away: listener.entry.load().turned_away.load(Ordering::Relaxed),
        certificates_problem: listener.entry.load().tls.as_ref().and_then(|tls| tls.problem()),
    });
    Sample {
        node: node.name.clone(),
        started: SystemTime::now() - node.started.elapsed(),
        uptime: node.started.elapsed(),
        ready: node.is_ready(),
        degraded: node.is_degraded(),
        totals: Totals::now(),
        process: Process::now(),
        clients: clients(node),
        subscriptions: node.hub.subscribed() as u64,
        shared_subscriptions: node.hub.subscribed_shared() as u64,
        retained: node.hub.retained.read().len() as u64,
        listeners: listeners.collect(),
        cluster,
    }
}

fn clients(node: &Node) -> Clients {
    let connected = node.hub.connected() as u64;
    let peak = super::PEAK.load(Ordering::Relaxed).max(connected);
    let offline = node.hub.away() as u64;
    node.hub.all_sessions().iter().fold(
        Clients { connected, peak, offline, ..Clients::default() },
        |sum, outbox| {
            let load = outbox.load();
            Clients {
                in_flight: sum.in_flight + load.in_flight as u64,
                queued: sum.queued + load.queued as u64,
                queued_bytes: sum.queued_bytes + load.queued_bytes as u64,
                ..sum
            }
        },
    )
}
