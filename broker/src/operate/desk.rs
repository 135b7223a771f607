//! Where orders are taken, and what there is to tell about those carried out.

use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::diff::{Change, Takes};
use super::drain;
use crate::node::Node;

/// What the admin socket works with.
#[derive(Debug)]
pub struct Desk {
    pub node: Arc<Node>,
    orders: mpsc::Sender<Order>,
    pub(super) drain: Mutex<Option<drain::Running>>,
    reloaded: Mutex<Option<Reloaded>>,
}

/// Something that only the owner of the server can do.
#[derive(Debug)]
pub enum Order {
    Stop,
    Reload { done: oneshot::Sender<Option<Reloaded>> },
    Drain { order: drain::Order, done: oneshot::Sender<()> },
    CancelDrain { done: oneshot::Sender<Result<bool, String>> },
}

/// How the last reading of the settings ended.
#[derive(Debug, Clone)]
pub struct Reloaded {
    pub at: SystemTime,
    /// Why nothing was changed, one line each.
    pub problems: Vec<String>,
    pub applied: Vec<Change>,
    /// All that differs from what the broker was started with and cannot change while it runs.
    pub needs_restart: Vec<Change>,
}

impl Desk {
    pub(super) fn new(node: Arc<Node>, orders: mpsc::Sender<Order>) -> Self {
        Self { node, orders, drain: Mutex::default(), reloaded: Mutex::default() }
    }

    /// `false`: too many orders wait, or the broker is about to end.
    pub fn order(&self, order: Order) -> bool {
        self.orders.try_send(order).is_ok()
    }

    pub fn last_reload(&self) -> Option<Reloaded> {
        self.reloaded.lock().clone()
    }

    pub(super) fn reloaded(&self, outcome: Reloaded) {
        *self.reloaded.lock() = Some(outcome);
    }

    pub fn draining(&self) -> Option<drain::Progress> {
        self.drain.lock().as_ref().map(drain::Running::progress)
    }

    /// Everything that is not as it should be, in words.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = self.node.complaints();
        if let Some(reloaded) = &*self.reloaded.lock() {
            complaints.extend(
                reloaded
                    .problems
                    .iter()
                    .map(|problem| format!("the settings file is not in effect: {problem}")),
            );
        }
        complaints
    }
}

impl Reloaded {
    pub(super) fn failed(problems: Vec<String>) -> Self {
        Self { at: SystemTime::now(), problems, applied: Vec::new(), needs_restart: Vec::new() }
    }

    pub(super) fn done(applied: Vec<Change>, mut needs_restart: Vec<Change>) -> Self {
        needs_restart.retain(|change| change.takes == Takes::Restart);
        Self { at: SystemTime::now(), problems: Vec::new(), applied, needs_restart }
    }
}
